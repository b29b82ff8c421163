//! Passphrases: from a file, from the service manager, or from whoever sits at the terminal. Never an argument, which every
//! process of the machine can read, nor a variable of the environment, which children inherit.

use super::KeyError;
use crate::interrupt::Undo;
use crate::node::directory::NodeDirectory;
use farside_codec::seal::passphrase::SealedKey;
use farside_io::entropy::{SystemEntropy, random};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Shortest passphrase that a key is sealed under: less is guessed in days, whatever a guess costs.
pub(super) const MIN_BYTES: usize = 8;
/// Longest passphrase: longer ones are files that somebody named by mistake.
pub(super) const MAX_BYTES: usize = 1024;
/// The credential's name, below `$CREDENTIALS_DIRECTORY`.
const CREDENTIAL: &str = "farside-passphrase";
/// Standard input, where a file is asked for.
const STANDARD_INPUT: &str = "-";

/// Why a passphrase is no use.
#[derive(Debug)]
pub enum PassphraseError {
    /// There is nothing in it.
    Empty,
    /// It is too short to seal anything under.
    TooShort,
    /// It is too long to be one.
    TooLong,
    /// The second time it was another one.
    NotTheSame,
    /// Nobody can be asked: standard input is no terminal.
    NoTerminal,
    /// The operating system refused to give it.
    Io(PathBuf, io::Error),
}

impl PassphraseError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Io(..) => 1,
            _ => 2,
        }
    }
}

impl std::fmt::Display for PassphraseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("the passphrase is empty"),
            Self::TooShort => write!(f, "the passphrase is shorter than {MIN_BYTES} bytes"),
            Self::TooLong => write!(f, "the passphrase is longer than {MAX_BYTES} bytes"),
            Self::NotTheSame => f.write_str("that was another passphrase than the first time"),
            Self::NoTerminal => f.write_str(
                "nobody can be asked for the passphrase here: give --passphrase-file FILE, or - for standard input",
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// A passphrase, wiped when it is dropped.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes what a file, a line or a socket holds; one line end behind it is none of it.
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseError> {
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        match bytes.len() {
            0 => Err(PassphraseError::Empty),
            length if length > MAX_BYTES => Err(PassphraseError::TooLong),
            _ => Ok(Self(bytes)),
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn read(path: &Path, input: impl Read) -> Result<Self, PassphraseError> {
        // As much room as it can take, so that no copy of it is left behind where the bytes were moved.
        let limit = MAX_BYTES + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * limit));
        let read = input.take(limit as u64).read_to_end(&mut bytes);
        read.map_err(|error| PassphraseError::Io(path.to_owned(), error))?;
        Self::new(bytes)
    }

    fn from_file(path: &Path) -> Result<Self, PassphraseError> {
        match path == Path::new(STANDARD_INPUT) {
            true => Self::read(path, unbuffered_input()?),
            false => Self::read(path, File::open(path).map_err(|error| PassphraseError::Io(path.to_owned(), error))?),
        }
    }

    /// What the service manager gives the process (systemd's `LoadCredential=`), if it does.
    pub fn of_credential() -> Result<Option<Self>, PassphraseError> {
        let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty()) else {
            return Ok(None);
        };
        match Self::from_file(&Path::new(&folder).join(CREDENTIAL)) {
            Err(PassphraseError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Asks whoever sits at the terminal.
    fn of_terminal(question: &str) -> Result<Self, PassphraseError> {
        let fail = |error: io::Error| PassphraseError::Io(STANDARD_INPUT.into(), error);
        if !io::stdin().is_terminal() {
            return Err(PassphraseError::NoTerminal);
        }
        let silence = Silence::begin().map_err(fail)?;
        // Whoever does not see the question sees the cursor wait.
        let _ = io::stderr().write_all(question.as_bytes());
        let mut line = Zeroizing::new(vec![0; MAX_BYTES + 3]);
        // A terminal gives one line at a time.
        let length = unbuffered_input()?.read(&mut line).map_err(fail)?;
        let _ = io::stderr().write_all(b"\n");
        drop(silence);
        line.truncate(length);
        Self::new(line)
    }

    /// Seals `key` under it, with a salt of its own.
    pub(super) fn seal(&self, key: &super::SystemKey, directory: &NodeDirectory) -> Result<SealedKey, KeyError> {
        if self.0.len() < MIN_BYTES {
            return Err(PassphraseError::TooShort.into());
        }
        let sealed = SealedKey::seal(key.bytes(), &self.0, random(&SystemEntropy));
        sealed.map_err(|error| KeyError::Unseal(directory.system_key(), error))
    }

    /// Opens what was sealed under it.
    pub(super) fn open(&self, sealed: &SealedKey, directory: &NodeDirectory) -> Result<super::SystemKey, KeyError> {
        let opened = sealed.open(&self.0);
        opened.map(super::SystemKey).map_err(|error| KeyError::Unseal(directory.system_key(), error))
    }
}

/// Standard input without the buffer of the standard library, which nobody wipes.
fn unbuffered_input() -> Result<File, PassphraseError> {
    let owned = io::stdin().as_fd().try_clone_to_owned();
    owned.map(File::from).map_err(|error| PassphraseError::Io(STANDARD_INPUT.into(), error))
}

/// The terminal does not show what is typed, until this is dropped or the process is interrupted.
struct Silence {
    before: Termios,
    _undo: Undo,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let restore = before.clone();
        let undo = Undo::register(move || {
            // As when it is dropped.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &restore);
        });
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before, _undo: undo })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that has gone away shows nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Where a command takes its passphrase from.
#[derive(Debug, Clone, Default)]
pub struct PassphraseSource {
    /// The file, `-` for standard input; `None`: the service manager's credential, or else whoever sits at the terminal.
    pub file: Option<PathBuf>,
}

impl PassphraseSource {
    /// The passphrase that something is sealed under.
    pub fn get(&self, question: &str) -> Result<Passphrase, KeyError> {
        if let Some(path) = &self.file {
            return Ok(Passphrase::from_file(path)?);
        }
        match Passphrase::of_credential()? {
            Some(passphrase) => Ok(passphrase),
            None => Ok(Passphrase::of_terminal(question)?),
        }
    }

    /// A passphrase that something is to be sealed under: whoever types it does so twice.
    pub fn get_new(&self) -> Result<Passphrase, KeyError> {
        if let Some(path) = &self.file {
            return Ok(Passphrase::from_file(path)?);
        }
        let first = Passphrase::of_terminal("new passphrase: ")?;
        match Passphrase::of_terminal("once more: ")?.0 == first.0 {
            true => Ok(first),
            false => Err(PassphraseError::NotTheSame.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u8>, PassphraseError> {
        Passphrase::read(Path::new("file"), bytes).map(|passphrase| passphrase.bytes().to_vec())
    }

    #[test]
    fn one_line_end_is_none_of_it() {
        for (held, passphrase) in
            [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), ("a\n\n", "a\n"), (" a ", " a ")]
        {
            assert_eq!(read(held.as_bytes()).expect("a passphrase"), passphrase.as_bytes());
        }
        assert!(matches!(read(b"\r\n"), Err(PassphraseError::Empty)));
        assert_eq!(read(&[b'x'; MAX_BYTES]).expect("the longest").len(), MAX_BYTES);
        assert!(matches!(read(&[b'x'; MAX_BYTES + 1]), Err(PassphraseError::TooLong)));
        assert!(matches!(read(&[b'x'; 1 << 20]), Err(PassphraseError::TooLong)));
    }
}
