//! Why a node can't be made or run.

use super::config::ConfigError;
use super::directory::DirectoryError;
use crate::framed::FramedFileError;

/// Why.
#[derive(Debug)]
pub enum NodeError {
    /// Its directory is no use.
    Directory(DirectoryError),
    /// Its settings are.
    Config(ConfigError),
    /// What was asked makes no sense.
    Usage(String),
    /// What it stored is damaged beyond what it can mend.
    Corrupt(String),
    /// Anything else that keeps it from running.
    Failed(String),
}

impl NodeError {
    /// The exit code of cli.md.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(ConfigError::Invalid(..)) => 2,
            Self::Corrupt(_) | Self::Directory(DirectoryError::WrongSystemKey(_)) => 6,
            Self::Directory(DirectoryError::File(FramedFileError::Damaged(..))) => 6,
            Self::Directory(DirectoryError::NotANode(_)) => 5,
            _ => 1,
        }
    }
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Usage(reason) | Self::Corrupt(reason) | Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for NodeError {}

impl From<DirectoryError> for NodeError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
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
