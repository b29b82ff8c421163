//! Why a node can't be made or run.

use super::config::ConfigError;
use super::directory::DirectoryError;
use super::keys::KeyError;
use crate::framed::FramedFileError;
use crate::store::OpenDevicesError;
use farside_codec::message::Refusal;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Why.
#[derive(Debug)]
pub enum NodeError {
    /// Its directory is no use.
    Directory(DirectoryError),
    /// Its settings are.
    Config(ConfigError),
    /// The system key is, or what is done with it.
    Key(KeyError),
    /// What was asked makes no sense.
    Usage(String),
    /// What it stored is damaged beyond what it can mend.
    Corrupt(String),
    /// The site that it is to be part of does not answer.
    Unreachable(String),
    /// That site refused.
    Refused(Refusal),
    /// A restore into its directory has not ended.
    Unfinished(PathBuf),
    /// A recovery of its site, begun in its directory, has not ended.
    Unrecovered(PathBuf),
    /// Anything else that keeps it from running.
    Failed(String),
}

impl NodeError {
    /// What to do about it, where the message does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Directory(DirectoryError::Io(_, error) | DirectoryError::File(FramedFileError::Io(_, error)))
            | Self::Config(ConfigError::Io(_, error))
                if error.kind() == ErrorKind::PermissionDenied =>
            {
                Some("run it as the user who owns the directory, or change its permissions")
            }
            Self::Directory(DirectoryError::File(
                FramedFileError::Damaged(path, _) | FramedFileError::Missing(path),
            )) if path.file_name().is_some_and(|name| name == "system.key") => {
                Some("restore the file from a copy, or bring the key back from its shares: farside key import")
            }
            Self::Directory(DirectoryError::File(FramedFileError::Damaged(..) | FramedFileError::Missing(_))) => {
                Some("restore the file from a copy")
            }
            Self::Directory(DirectoryError::InUse(_)) => Some("stop that node first: it ends cleanly on SIGTERM"),
            Self::Config(ConfigError::Invalid(..)) => Some("docs/operators.md says what node.toml may hold"),
            Self::Unreachable(_) => Some("is a node of that site running, and may UDP pass between the two?"),
            Self::Key(error) => error.hint(),
            Self::Unfinished(_) => Some("repeat `farside restore` with the same --dir: it goes on where it was"),
            Self::Unrecovered(_) => {
                Some("repeat `farside recover-quorum` with the same --reports and --confirm: it goes on where it was")
            }
            Self::Corrupt(_) => Some("docs/operators.md says what can be restored"),
            _ => None,
        }
    }

    /// The exit code of cli.md.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(ConfigError::Invalid(..)) => 2,
            Self::Corrupt(_) | Self::Directory(DirectoryError::WrongSystemKey(_)) => 6,
            Self::Directory(DirectoryError::File(FramedFileError::Damaged(..))) => 6,
            Self::Directory(DirectoryError::NotANode(_)) => 5,
            Self::Refused(_) | Self::Unfinished(_) | Self::Unrecovered(_) => 3,
            Self::Key(error) => error.exit_code(),
            Self::Unreachable(_) => 4,
            _ => 1,
        }
    }
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unfinished(path) => write!(f, "the restore into {} has not ended", path.display()),
            Self::Unrecovered(path) => write!(f, "the recovery of the site has not ended in {}", path.display()),
            Self::Usage(reason) | Self::Corrupt(reason) | Self::Unreachable(reason) | Self::Failed(reason) => {
                f.write_str(reason)
            }
        }
    }
}

impl std::error::Error for NodeError {}

impl From<OpenDevicesError> for NodeError {
    fn from(error: OpenDevicesError) -> Self {
        match error {
            OpenDevicesError::NoDevice(strangers) => {
                let told = strangers.iter().map(|stranger| format!("{} is {}", stranger.label, stranger.state));
                Self::Corrupt(format!("no device can be used: {}", told.collect::<Vec<_>>().join(", ")))
            }
            OpenDevicesError::Pool(error) => failed(error),
        }
    }
}

impl From<DirectoryError> for NodeError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

impl From<KeyError> for NodeError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<ConfigError> for NodeError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<FramedFileError> for NodeError {
    fn from(error: FramedFileError) -> Self {
        Self::Directory(error.into())
    }
}

/// Anything else, as its text.
pub(super) fn failed(error: impl std::fmt::Display) -> NodeError {
    NodeError::Failed(error.to_string())
}
