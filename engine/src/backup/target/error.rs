//! What can be wrong with a target, sorted by who is to blame.

use super::probe::Objection;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Why a target did not do what it was asked. What stands after `target` is its URL; what a store or the network said is in
/// `why`, made presentable.
#[derive(Debug)]
pub enum TargetError {
    /// That is no name of an object: the caller's fault, or that of a damaged list of names.
    Name(String),
    /// A variable of the environment, or a limit, can't be used as it is.
    Setting {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The environment holds no credentials.
    NoCredentials {
        /// Which target.
        target: String,
    },
    /// The bucket is in another region than requests were signed for.
    Region {
        /// Which target.
        target: String,
        /// Where it is, if the store says so.
        region: Option<String>,
    },
    /// There is an object of that name already, and it is not the one that was put.
    Exists {
        /// Which target.
        target: String,
        /// The object.
        name: String,
    },
    /// The store does not accept these credentials, or they don't allow this.
    Denied {
        /// Which target.
        target: String,
        /// What the store says.
        why: String,
    },
    /// The store lacks what a backup relies on.
    Unfit {
        /// Which target.
        target: String,
        /// What it lacks.
        objections: Vec<Objection>,
    },
    /// It could not be reached, or did not answer in time, as often as it was tried.
    Unreachable {
        /// Which target.
        target: String,
        /// What happened last.
        why: String,
    },
    /// It asked to be left alone, for longer than anybody waits.
    Throttled {
        /// Which target.
        target: String,
        /// What it said last.
        why: String,
    },
    /// There is no such bucket, or the directory is not there.
    NoPlace {
        /// Which target.
        target: String,
    },
    /// There is no object of that name.
    NotFound {
        /// Which target.
        target: String,
        /// The object.
        name: String,
    },
    /// An object is larger than it can be.
    TooLarge {
        /// Which target.
        target: String,
        /// The object.
        name: String,
        /// What it was allowed to have.
        limit_bytes: u64,
    },
    /// An object ends before the range that was asked for does.
    Short {
        /// Which target.
        target: String,
        /// The object.
        name: String,
    },
    /// The store says that it has received something else than was sent, as often as it was tried.
    Damaged {
        /// Which target.
        target: String,
        /// The object.
        name: String,
    },
    /// An object that was to be put is larger than one request takes.
    Oversize {
        /// The object.
        name: String,
        /// What one may have.
        limit_bytes: u64,
    },
    /// More objects lie there than a listing takes.
    TooMany {
        /// Which target.
        target: String,
        /// How many it takes.
        limit: usize,
    },
    /// There is no room left.
    Full {
        /// Which target.
        target: String,
    },
    /// The operating system refused something in a directory.
    Io(PathBuf, std::io::Error),
    /// The store answered something that can't be used.
    Failed {
        /// Which target.
        target: String,
        /// What was wrong.
        why: String,
    },
}

impl TargetError {
    /// The exit code of cli.md: 1 failed, 2 usage, 3 refused for safety, 4 unreachable, 5 not found, 6 corrupt.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Name(_) | Self::Setting { .. } | Self::Region { .. } => 2,
            Self::NoCredentials { .. } | Self::Exists { .. } | Self::Denied { .. } | Self::Unfit { .. } => 3,
            Self::Unreachable { .. } | Self::Throttled { .. } => 4,
            Self::NoPlace { .. } | Self::NotFound { .. } => 5,
            Self::TooLarge { .. } | Self::Short { .. } | Self::Damaged { .. } => 6,
            Self::Oversize { .. } | Self::TooMany { .. } | Self::Full { .. } | Self::Io(..) | Self::Failed { .. } => 1,
        }
    }

    /// What to do about it, where something can be done that the message does not say.
    pub fn hint(&self) -> Option<&'static str> {
        let hint = match self {
            Self::Name(_) | Self::Setting { .. } | Self::Exists { .. } | Self::Oversize { .. } => return None,
            Self::NoCredentials { .. } => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Region { .. } => "set AWS_REGION to the bucket's region",
            Self::Denied { .. } => "renew the credentials in the environment, or have them allowed to use the bucket",
            Self::Unfit { .. } => "use another store: docs/backup-targets.md says what one has to do",
            Self::Unreachable { .. } => "check that it runs and can be reached from here; then try again",
            Self::Throttled { .. } => "try again later, or at a lower rate",
            Self::NoPlace { .. } => "make the bucket or the directory, mount it, or mend the URL",
            Self::NotFound { .. } => "was it pruned, or removed by somebody else?",
            Self::TooLarge { .. } | Self::Short { .. } => {
                "another object may have taken its place; read another backup"
            }
            Self::Damaged { .. } => "something between here and the store changes what is sent",
            Self::TooMany { .. } => "prune, or begin another target",
            Self::Full { .. } => "free some space there, or prune",
            Self::Io(_, error) if error.kind() == ErrorKind::PermissionDenied => {
                "run it as the user who owns the directory, or change its permissions"
            }
            Self::Io(..) => return None,
            Self::Failed { .. } => "the log of the store may say more",
        };
        Some(hint)
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{name}` is no name of an object in a backup"),
            Self::Setting { name, why } => write!(f, "{name} {why}"),
            Self::NoCredentials { target } => write!(f, "the environment holds no credentials for {target}"),
            Self::Region { target, region: Some(region) } => write!(f, "the bucket of {target} is in {region}"),
            Self::Region { target, region: None } => write!(f, "the bucket of {target} is in another region"),
            Self::Exists { target, name } => write!(f, "{target} has an object {name} already, which stays as it is"),
            Self::Denied { target, why } => write!(f, "{target} denies this: {why}"),
            Self::Unfit { target, objections } => {
                write!(f, "{target} can't hold a backup: ")?;
                for (at, objection) in objections.iter().enumerate() {
                    write!(f, "{}{objection}", if at == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            Self::Unreachable { target, why } => write!(f, "{target} does not answer: {why}"),
            Self::Throttled { target, why } => write!(f, "{target} takes no more requests for now: {why}"),
            Self::NoPlace { target } => write!(f, "there is no {target}"),
            Self::NotFound { target, name } => write!(f, "{target} has no object {name}"),
            Self::TooLarge { target, name, limit_bytes } => {
                write!(f, "{name} in {target} is larger than the {limit_bytes} bytes that it can have")
            }
            Self::Short { target, name } => write!(f, "{name} in {target} ends too early"),
            Self::Damaged { target, name } => write!(f, "{target} has received other bytes for {name} than were sent"),
            Self::Oversize { name, limit_bytes } => {
                write!(f, "{name} has more than {limit_bytes} bytes, which is what one object of a backup may have")
            }
            Self::TooMany { target, limit } => write!(f, "{target} holds more than {limit} objects"),
            Self::Full { target } => write!(f, "{target} is full"),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Failed { target, why } => write!(f, "{target} answers what can't be used: {why}"),
        }
    }
}

impl std::error::Error for TargetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
