//! Why something can't be done with the system key.

use super::passphrase::PassphraseError;
use farside_codec::seal::passphrase::UnsealError;
use farside_codec::seal::shares::ShareError;
use std::path::PathBuf;

/// Why. A key and a passphrase are never part of it.
#[derive(Debug)]
pub enum KeyError {
    /// The key is sealed, and nobody can be asked for the passphrase.
    Sealed(PathBuf),
    /// The key can't be unsealed.
    Unseal(PathBuf, UnsealError),
    /// A passphrase can't be used, or not be read.
    Passphrase(PassphraseError),
    /// A file holds no share that is any use.
    Share(PathBuf, ShareError),
    /// Shares give no key, or a key can't be cut into shares like that.
    Shares(ShareError),
    /// The shares are another site's than this node.
    OtherSite(PathBuf),
    /// The shares give another key than the one that this node has.
    OtherKey(PathBuf),
    /// The key file is sealed, so it is not known what is in it.
    MayBeGood(PathBuf),
    /// The key is sealed already.
    AlreadySealed(PathBuf),
    /// The key is not sealed.
    NotSealed(PathBuf),
    /// A directory for shares holds something already.
    NotEmpty(PathBuf),
    /// A directory for shares is a part of the node's.
    Inside(PathBuf),
    /// No node waits there to be unlocked.
    NobodyWaits(PathBuf),
    /// The node that waits did not answer.
    NoAnswer(PathBuf),
    /// The operating system refused.
    Io(PathBuf, std::io::Error),
}

impl KeyError {
    /// The exit code of cli.md.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Passphrase(error) => error.exit_code(),
            Self::Share(..) => 6,
            Self::Shares(ShareError::Threshold { .. }) => 2,
            Self::NobodyWaits(_) | Self::NoAnswer(_) => 4,
            Self::NotSealed(_) | Self::Io(..) | Self::Unseal(_, UnsealError::Memory { .. }) => 1,
            _ => 3,
        }
    }

    /// What to do about it, where the message does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Sealed(_) => Some("give --passphrase-file FILE, or - for standard input"),
            Self::Share(..) => Some("hold it against the paper or the file that it was copied from"),
            Self::OtherKey(_) => Some("shares of a key that the site no longer has are no use here"),
            Self::MayBeGood(_) => Some("if nobody knows the passphrase any more: --replace-sealed"),
            Self::AlreadySealed(_) => Some("--change gives it another passphrase"),
            Self::Inside(_) => Some("shares that lie beside the key are lost with it, and found with it"),
            Self::NobodyWaits(_) => {
                Some("a node whose key is sealed waits when it starts; one that runs has been unlocked")
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sealed(path) => write!(f, "{} is sealed by a passphrase", path.display()),
            Self::Unseal(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Passphrase(error) => error.fmt(f),
            Self::Share(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Shares(error) => error.fmt(f),
            Self::OtherSite(path) => write!(f, "the shares are another site's than {}", path.display()),
            Self::OtherKey(path) => write!(f, "the shares give another key than {} holds", path.display()),
            Self::MayBeGood(path) => {
                write!(f, "{} is sealed by a passphrase and may be good: it is not replaced", path.display())
            }
            Self::AlreadySealed(path) => write!(f, "{} is sealed by a passphrase already", path.display()),
            Self::NotSealed(path) => write!(f, "{} is not sealed by a passphrase", path.display()),
            Self::NotEmpty(path) => write!(f, "{} is not empty; name a new directory", path.display()),
            Self::Inside(path) => write!(f, "{} is inside the node's directory", path.display()),
            Self::NobodyWaits(path) => write!(f, "no node waits at {} to be unlocked", path.display()),
            Self::NoAnswer(path) => write!(f, "the node at {} does not answer", path.display()),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<PassphraseError> for KeyError {
    fn from(error: PassphraseError) -> Self {
        Self::Passphrase(error)
    }
}

impl From<ShareError> for KeyError {
    fn from(error: ShareError) -> Self {
        Self::Shares(error)
    }
}
