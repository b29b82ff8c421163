//! Why a backup was not made, read or restored.

use super::target::TargetError;
use crate::client::ClientError;
use crate::node::NodeError;
use farside_codec::backup::BackupError as FormatError;
use farside_codec::ids::{ChunkId, hex};
use std::fmt;
use std::path::PathBuf;

/// Why.
#[derive(Debug)]
pub enum BackupError {
    /// The target.
    Target(TargetError),
    /// The site that is backed up.
    Site(ClientError),
    /// The node that is restored.
    Node(NodeError),
    /// Backups of another site lie there, or the system key is another one.
    WrongKey,
    /// Nothing lies there that Farside has written.
    NoBackup,
    /// Another restore was begun into this directory, and has not ended.
    OtherRestore(PathBuf),
    /// A backup holds nothing of the part of a site that was asked for.
    NoPart {
        /// `T` or `T/L`.
        part: String,
        /// The backup.
        number: u64,
    },
    /// There is no backup of this number.
    NoSuchBackup(u64),
    /// The newest backup is older than the moment that is asked for.
    NotYet {
        /// Until when there is one, in milliseconds since 1970.
        newest_ms: u64,
    },
    /// The site was restored elsewhere from these backups: this one is not to go on.
    Superseded {
        /// The incarnation that has written there.
        theirs: u64,
        /// This one.
        ours: u64,
    },
    /// Others complete backups faster than this one.
    Outrun,
    /// A prune took away what this backup counts on, again and again.
    Doomed,
    /// An object does not open, however often it is read.
    Damaged {
        /// Its name.
        name: String,
        /// What is wrong with it.
        error: FormatError,
    },
    /// A manifest needs something that no index knows.
    Lost {
        /// What.
        what: &'static str,
        /// Its id.
        id: [u8; 32],
    },
    /// A chunk that a delta names could not be read from the site.
    Chunk {
        /// The chunk.
        chunk: ChunkId,
        /// Why.
        error: ClientError,
    },
    /// A group's state is not what it should be.
    State(String),
}

impl BackupError {
    /// The exit code of cli.md: 1 failed, 2 usage, 3 refused for safety, 4 unreachable, 5 not found, 6 corrupt.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Target(error) => error.exit_code(),
            Self::Site(error) | Self::Chunk { error, .. } => error.exit_code(),
            Self::Node(error) => error.exit_code(),
            Self::WrongKey | Self::Superseded { .. } | Self::OtherRestore(_) => 3,
            Self::NoBackup | Self::NoSuchBackup(_) | Self::NotYet { .. } | Self::NoPart { .. } => 5,
            Self::Damaged { .. } | Self::Lost { .. } | Self::State(_) => 6,
            Self::Outrun | Self::Doomed => 1,
        }
    }

    /// What to do about it, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Target(error) => error.hint().map(Into::into),
            Self::Site(error) => error.hint(),
            Self::Node(error) => error.hint().map(Into::into),
            Self::WrongKey => Some("use the shares of the site whose backups these are, or another target".into()),
            Self::NoBackup => Some("`farside backup now` makes one; is the prefix right?".into()),
            Self::OtherRestore(_) => {
                Some("repeat it with the --at, --tenant and --log that it was begun with, or name another --dir".into())
            }
            Self::NoSuchBackup(_) | Self::NotYet { .. } | Self::NoPart { .. } => {
                Some("`farside backup list` says which there are".into())
            }
            Self::Damaged { .. } | Self::Lost { .. } => {
                Some("`farside backup verify --read-all` says which backups are whole".into())
            }
            Self::Superseded { .. } => Some("stop this site's nodes; docs/backup.md says how it may come back".into()),
            Self::Chunk { .. } => Some("`farside status` says what the site lacks; run the backup again".into()),
            Self::Outrun => Some("run one backup of a site at a time".into()),
            Self::Doomed => Some("prune with a longer --grace than a backup takes".into()),
            Self::State(_) => None,
        }
    }
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(error) => error.fmt(f),
            Self::Site(error) => error.fmt(f),
            Self::Node(error) => error.fmt(f),
            Self::WrongKey => f.write_str("what lies at the target was sealed with another system key"),
            Self::NoBackup => f.write_str("no backup lies at the target"),
            Self::NoSuchBackup(number) => write!(f, "there is no backup {number} at the target"),
            Self::OtherRestore(path) => write!(f, "a restore of something else was begun into {}", path.display()),
            Self::NoPart { part, number } => write!(f, "backup {number} has no log of {part}"),
            Self::NotYet { newest_ms } => {
                let newest = crate::times::show_time(farside_codec::ids::Hlc::from_ms(*newest_ms));
                write!(f, "the newest backup at the target is of {newest}, and that is before the time asked for")
            }
            Self::Superseded { theirs, ours } => write!(
                f,
                "this site was restored elsewhere from these backups (incarnation {theirs}, this one is {ours}): nothing \
                 that it writes counts any more"
            ),
            Self::Outrun => f.write_str("others complete backups at the target all the time"),
            Self::Doomed => f.write_str("prunes that run at the same time take away what this backup counts on"),
            Self::Damaged { name, error } => write!(f, "{name} at the target: {error}"),
            Self::Lost { what, id } => {
                let id = hex(&id[..8]);
                write!(f, "{what} {id}... is in no pack that any index at the target names")
            }
            Self::Chunk { chunk, error } => write!(f, "chunk {chunk} can't be read from the site: {error}"),
            Self::State(reason) => write!(f, "a group's state is not what it should be: {reason}"),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<TargetError> for BackupError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<ClientError> for BackupError {
    fn from(error: ClientError) -> Self {
        Self::Site(error)
    }
}

impl From<NodeError> for BackupError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}
