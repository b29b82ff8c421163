//! Why a client's operation failed, and the exit code that says so to a script.

use crate::framed::FramedFileError;
use crate::kms::KmsError;
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::seal::OpenError;
use farside_transport::Rejection;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why it failed.
#[derive(Debug)]
pub enum ClientError {
    /// What was asked makes no sense.
    Usage(String),
    /// No node of the site answers.
    Unreachable(String),
    /// The site said no.
    Refused(Refusal),
    /// The site takes this client's identity no more: it was revoked, or has expired.
    TurnedAway(SocketAddr, Rejection),
    /// There is no such thing.
    NotFound(String),
    /// The tenant's KMS gave no key.
    Kms(KmsError),
    /// The KMS computes another key than the one pinned for this tenant.
    WrongKms {
        /// The tenant.
        tenant: String,
    },
    /// This client does not know the tenant's KMS.
    NoKms {
        /// The tenant.
        tenant: String,
    },
    /// What the site gave back does not open, or is not what was asked for.
    Corrupt {
        /// What was read.
        what: String,
        /// Why it is refused.
        error: OpenError,
    },
    /// The log is older than this client saw it, and no change of home explains it.
    WentBack {
        /// The log.
        log: String,
        /// The sequence that this client saw.
        seen: u64,
        /// The one that the site shows.
        shown: u64,
    },
    /// A local file is in the way, or can't be read or written.
    File(PathBuf, std::io::Error),
    /// A context or a setting of this client is damaged.
    Setting(FramedFileError),
    /// Something this build does not do.
    Failed(String),
}

impl ClientError {
    /// Whether it says that one object can't be read, and nothing about the others.
    pub fn is_of_one_object(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::NotFound(_) => true,
            Self::Refused(refusal) => matches!(refusal.code, RefusalCode::Corrupt | RefusalCode::NotFound),
            _ => false,
        }
    }

    /// The exit code of cli.md: 1 failed, 2 usage, 3 refused for safety, 4 unreachable, 5 not found, 6 corrupt.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::WrongKms { .. } | Self::WentBack { .. } | Self::TurnedAway(..) => 3,
            Self::Unreachable(_) => 4,
            Self::NotFound(_) | Self::Setting(FramedFileError::Missing(_)) => 5,
            Self::Corrupt { .. } | Self::Setting(FramedFileError::Damaged(..)) => 6,
            Self::Kms(error) => match error {
                KmsError::Url { .. } => 2,
                KmsError::Denied { .. } | KmsError::Revoked { .. } => 3,
                KmsError::Sealed { .. } | KmsError::Unreachable { .. } => 4,
                KmsError::NoKey { .. } | KmsError::NoPlace(_) => 5,
                KmsError::Damaged(_) => 6,
                KmsError::Failed { .. } | KmsError::Io(..) => 1,
            },
            Self::Refused(refusal) => match refusal.code {
                RefusalCode::BadRequest => 2,
                RefusalCode::NotHome | RefusalCode::Unsafe | RefusalCode::ConditionFailed | RefusalCode::Diverged => 3,
                RefusalCode::Busy | RefusalCode::Unavailable | RefusalCode::NotLeader => 4,
                RefusalCode::NotFound | RefusalCode::Pruned => 5,
                RefusalCode::Corrupt => 6,
                _ => 1,
            },
            _ => 1,
        }
    }

    /// What to do about it, where something can be done that the message does not say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage(_) | Self::Failed(_) => return None,
            Self::Unreachable(_) => "is the node running? `farside node --dir DIR` starts it",
            Self::TurnedAway(..) => {
                "an operator of the site issues another one: `farside identity issue`, or on a node's own machine \
                 `farside context export --dir DIR`"
            }
            Self::NotFound(_) => "`farside log list`, `tenant list`, `peer list` and `ls` name what is there",
            Self::Refused(refusal) => return refusal_hint(refusal),
            Self::Kms(error) => return kms_hint(error),
            Self::NoKms { tenant } => {
                return Some(format!("tell this client where it is: `farside tenant kms {tenant} URL`"));
            }
            Self::WrongKms { .. } => "point `farside tenant kms` at the KMS with which the tenant was made",
            Self::Corrupt { .. } => "read it at the peer, or put it again",
            Self::WentBack { .. } => {
                "the site may have been restored from an old copy; compare `farside log show` at its peer"
            }
            Self::File(_, error) => return file_hint(error),
            Self::Setting(error) => return setting_hint(error),
        };
        Some(hint.into())
    }
}

fn refusal_hint(refusal: &Refusal) -> Option<String> {
    let hint = match refusal.code {
        RefusalCode::NotHome => {
            return refusal.home.as_ref().map(|home| format!("write at site {home}, which is home now"));
        }
        RefusalCode::Full => "remove data and wait for GC, or add devices",
        RefusalCode::Quota => {
            "remove data, and wait until the log's history lets old versions go; or raise its quota: `farside log policy`"
        }
        RefusalCode::TooFewDevices => {
            "`farside status` names the devices that don't work; mend them and restart the node"
        }
        RefusalCode::Pruned => {
            "name a later moment; `farside log policy --history` says how long replaced versions are kept from now on"
        }
        RefusalCode::Forbidden => "use the context of an administrator, or of the tenant that owns the log",
        RefusalCode::Busy | RefusalCode::NotLeader => "try again in a moment",
        RefusalCode::Unavailable => "try again in a moment; `farside status` says what the site waits for",
        RefusalCode::Corrupt => "read it at the peer, or put it again",
        RefusalCode::Version => "run the same version of farside on both ends",
        RefusalCode::ClockSkew => "set both clocks, for instance by NTP",
        RefusalCode::Internal => "the node's own log says more",
        RefusalCode::Exists => "choose another name",
        RefusalCode::BadRequest
        | RefusalCode::NotFound
        | RefusalCode::Unsafe
        | RefusalCode::ConditionFailed
        | RefusalCode::StaleReceipt
        | RefusalCode::Diverged => return None,
    };
    Some(hint.into())
}

fn kms_hint(error: &KmsError) -> Option<String> {
    let hint = match error {
        KmsError::Url { .. } => "docs/kms.md says how each kind of KMS is named",
        KmsError::NoPlace(_) => "mount it, or point `farside tenant kms` at the directory that holds the tenant's key",
        KmsError::NoKey { .. } => "point `farside tenant kms` at the KMS that holds the tenant's key",
        KmsError::Revoked { .. } => "whoever runs the KMS can allow the key again, unless that was meant",
        KmsError::Denied { .. } => "renew the credentials that the URL names, or have them allowed to use the key",
        KmsError::Sealed { .. } => "whoever runs the KMS has to unseal it; then try again",
        KmsError::Unreachable { .. } => "check that it runs and can be reached from here; then try again",
        KmsError::Failed { .. } => "the log of the KMS may say more",
        KmsError::Damaged(_) => "restore the key from a copy: nothing else opens the tenant's data",
        KmsError::Io(_, error) if error.kind() == ErrorKind::NotFound => "make its parent directory, or mend the path",
        KmsError::Io(_, error) => return file_hint(error),
    };
    Some(hint.into())
}

fn file_hint(error: &std::io::Error) -> Option<String> {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "run it as the user who owns the file, or change its permissions",
        ErrorKind::StorageFull => "free some space, or name another place",
        ErrorKind::IsADirectory => "name a file",
        _ => return None,
    };
    Some(hint.into())
}

fn setting_hint(error: &FramedFileError) -> Option<String> {
    match error {
        FramedFileError::Io(_, error) => file_hint(error),
        FramedFileError::Missing(_) | FramedFileError::Damaged(..) => {
            Some("make a new one where the node is: `farside context export --dir DIR -o FILE`".into())
        }
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(what) | Self::Unreachable(what) | Self::NotFound(what) | Self::Failed(what) => {
                f.write_str(what)
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::TurnedAway(address, Rejection::Revoked) => {
                write!(f, "the node at {address} refused this identity: it was revoked")
            }
            Self::TurnedAway(address, Rejection::Expired) => write!(
                f,
                "the node at {address} refused this identity: its certificate has expired, or a clock is wrong"
            ),
            Self::TurnedAway(address, rejection) => {
                write!(f, "the node at {address} refused this identity: {rejection}")
            }
            Self::Kms(error) => error.fmt(f),
            Self::WrongKms { tenant } => {
                write!(
                    f,
                    "the KMS of tenant {tenant} computes another key than the one pinned: nothing was sealed with it"
                )
            }
            Self::NoKms { tenant } => write!(f, "this client does not know the KMS of tenant {tenant}"),
            Self::Corrupt { what, error } => write!(f, "{what}: {error}"),
            Self::WentBack { log, seen, shown } => {
                write!(
                    f,
                    "log {log} ends at sequence {shown}, but this client saw {seen}, and its lineage explains no loss"
                )
            }
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Setting(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            RefusalCode::NotFound => Self::NotFound(refusal.detail),
            _ => Self::Refused(refusal),
        }
    }
}

impl From<KmsError> for ClientError {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

impl From<FramedFileError> for ClientError {
    fn from(error: FramedFileError) -> Self {
        Self::Setting(error)
    }
}
