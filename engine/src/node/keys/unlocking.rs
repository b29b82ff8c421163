//! How a node gets at its system key when it starts, and how it is told the passphrase while it waits.
//!
//! It waits on a socket in its own directory, which only its owner can open. Whoever unlocks it sends a length (u16,
//! little-endian) and so many bytes of passphrase; it answers with one byte, an [`Answer`]. One caller after the other is heard, each
//! for [`CALL`] at most, and after a wrong passphrase nobody for [`PAUSE`], so guessing costs a second a guess. It waits for
//! as long as it takes: nothing of the node runs yet, and a signal ends it at once.

use super::{HeldKey, KeyError, KeyFile, Passphrase, PassphraseSource, SystemKey, passphrase};
use crate::node::directory::NodeDirectory;
use crate::node::error::NodeError;
use crate::terminal::note;
use farside_codec::seal::passphrase::{SealedKey, UnsealError};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long one caller is heard: a passphrase of [`passphrase::MAX_BYTES`] over a socket takes no time.
const CALL: Duration = Duration::from_secs(5);
/// How long nobody is heard after a wrong passphrase.
const PAUSE: Duration = Duration::from_secs(1);
/// How long whoever unlocks waits for an answer: for callers before it, and for Argon2 at its dearest.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node that waits answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Unlocked = 0,
    WrongPassphrase = 1,
    NoMemory = 2,
    NoPassphrase = 3,
}

/// The system key of a node that starts. A sealed one takes a passphrase: from the file, the service manager's credential, or
/// whoever unlocks the node. The directory's lock is the caller's to hold.
pub fn obtain(directory: &NodeDirectory, file: Option<&Path>) -> Result<HeldKey, NodeError> {
    let sealed = match KeyFile::read(directory)? {
        KeyFile::Clear(key) => return HeldKey::new(&key, directory, None),
        KeyFile::Sealed(sealed) => sealed,
    };
    if let Some(path) = file {
        let given = PassphraseSource { file: Some(path.to_owned()) }.get("")?;
        return HeldKey::new(&given.open(&sealed, directory)?, directory, Some("passphrase-file"));
    }
    if let Some(given) = Passphrase::of_credential().map_err(KeyError::Passphrase)? {
        return HeldKey::new(&given.open(&sealed, directory)?, directory, Some("credential"));
    }
    HeldKey::new(&wait(directory, &sealed)?, directory, Some("unlock"))
}

/// A socket's path is short, whatever the directory's: it leads through the open directory.
struct Socket {
    directory: File,
    name: PathBuf,
    real: PathBuf,
}

impl Socket {
    fn of(directory: &NodeDirectory) -> Result<Self, KeyError> {
        let root = directory.root();
        let opened = File::open(root).map_err(|error| KeyError::Io(root.to_owned(), error))?;
        let real = directory.unlock_socket();
        Ok(Self { directory: opened, name: real.file_name().map(PathBuf::from).unwrap_or_default(), real })
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(&self.name)
    }

    fn listen(&self) -> io::Result<UnixListener> {
        // What a node left behind that was killed; the lock says that no other one waits.
        match std::fs::remove_file(&self.real) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(self.path())?;
        // The directory lets nobody else in; this says so of the socket as well.
        std::fs::set_permissions(&self.real, Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

/// Waits until somebody sends the right passphrase.
fn wait(directory: &NodeDirectory, sealed: &SealedKey) -> Result<SystemKey, NodeError> {
    let socket = Socket::of(directory)?;
    let listener = socket.listen().map_err(|error| KeyError::Io(socket.real.clone(), error))?;
    let root = directory.root().display();
    note(format_args!("notice: the system key is sealed; this node waits for: farside node unlock --dir {root}"));
    let mut wrong = 0_u64;
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or memory: that passes, or somebody ends the node.
            std::thread::sleep(PAUSE);
            continue;
        };
        // Whoever calls and says nothing has only looked whether somebody waits.
        let Ok(Some(given)) = receive(&stream) else { continue };
        let opened = given.and_then(|given| match given.open(sealed, directory) {
            Ok(key) => Ok(key),
            Err(KeyError::Unseal(_, UnsealError::Memory { .. })) => Err(Answer::NoMemory),
            Err(_) => Err(Answer::WrongPassphrase),
        });
        let answer = opened.as_ref().map_or_else(|answer| *answer, |_| Answer::Unlocked);
        // A caller who has left has no use for it.
        let _ = send(&stream, &[answer as u8]);
        match opened {
            Ok(key) => {
                // What can't be removed is removed by the next start.
                let _ = std::fs::remove_file(&socket.real);
                return Ok(key);
            }
            Err(Answer::WrongPassphrase) => {
                wrong += 1;
                tracing::warn!(wrong, "somebody gave a wrong passphrase to unlock this node");
                std::thread::sleep(PAUSE);
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// What a caller sends; `None` if it says nothing.
fn receive(stream: &UnixStream) -> io::Result<Option<Result<Passphrase, Answer>>> {
    let deadline = Instant::now() + CALL;
    let mut length = [0; 2];
    if !fill(stream, &mut length, deadline)? {
        return Ok(None);
    }
    let length = usize::from(u16::from_le_bytes(length));
    if length > passphrase::MAX_BYTES {
        return Ok(Some(Err(Answer::NoPassphrase)));
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    if !fill(stream, &mut bytes, deadline)? {
        return Ok(None);
    }
    Ok(Some(Passphrase::new(bytes).map_err(|_| Answer::NoPassphrase)))
}

/// Fills `bytes` before the deadline; false if the other side ends before that.
fn fill(mut stream: &UnixStream, mut bytes: &mut [u8], deadline: Instant) -> io::Result<bool> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Ok(false),
            Ok(length) => bytes = &mut bytes[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn send(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_write_timeout(Some(CALL))?;
    stream.write_all(bytes)
}

/// Tells the node that waits at `root` the passphrase.
pub fn unlock(root: &Path, source: &PassphraseSource) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(root);
    directory.load_site()?;
    let KeyFile::Sealed(sealed) = KeyFile::read(&directory)? else {
        return Err(KeyError::NotSealed(directory.system_key()).into());
    };
    let socket = Socket::of(&directory)?;
    let call = || {
        UnixStream::connect(socket.path()).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => KeyError::NobodyWaits(root.to_owned()),
            _ => KeyError::Io(socket.real.clone(), error),
        })
    };
    // Nobody types a passphrase for nobody.
    drop(call()?);
    let given = source.get("passphrase: ")?;
    let stream = call()?;
    let fail = |error: io::Error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => KeyError::NoAnswer(root.to_owned()),
        _ => KeyError::Io(socket.real.clone(), error),
    };
    let length = (given.bytes().len() as u16).to_le_bytes();
    let mut answer = [u8::MAX];
    send(&stream, &length).and_then(|()| send(&stream, given.bytes())).map_err(fail)?;
    let answered = fill(&stream, &mut answer, Instant::now() + PATIENCE).map_err(fail)?;
    let refused = |why| KeyError::Unseal(directory.system_key(), why);
    match answer[0] {
        answer if answered && answer == Answer::Unlocked as u8 => Ok(()),
        answer if answered && answer == Answer::WrongPassphrase as u8 => {
            Err(refused(UnsealError::WrongPassphrase).into())
        }
        answer if answered && answer == Answer::NoMemory as u8 => {
            Err(refused(UnsealError::Memory { kib: sealed.memory_kib }).into())
        }
        _ => Err(KeyError::NoAnswer(root.to_owned()).into()),
    }
}
