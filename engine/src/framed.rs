//! Small files that must not rot unnoticed: identity, keys, contexts. One frame each, written whole or not at all.
//!
//! A file is a [`FrameHeader`] of kind FILE followed by its payload; the header's correlation says which file it is, so
//! that a key file copied over an identity file is refused as what it is.

use crate::whole_file;
use bytes::Bytes;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::message::kind;
use farside_codec::{DecodeError, Field, FrameHeader};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Largest file of this sort: an identity with its chain is a few KiB.
const MAX_FRAMED_FILE_BYTES: u64 = 1 << 20;
/// Largest one that lists a site's logs and nodes: 4,096 logs of some 300 bytes twice, and 256 nodes with their devices.
const MAX_SITE_FILE_BYTES: u64 = 8 << 20;

/// Which file a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// What a node is: site, shards, geometry, CA certificate.
    Site = 1,
    /// The site's system key, in the clear.
    SystemKey = 2,
    /// The site CA's key, sealed under the system key.
    AuthorityKey = 3,
    /// A certificate chain with its key.
    Identity = 4,
    /// How a client finds a site, and who it is.
    Context = 5,
    /// A tenant's key in a file KMS.
    TenantKey = 6,
    /// How far a shard's scrubbing is.
    Scrub = 7,
    /// The site's system key, sealed under a passphrase.
    SealedKey = 8,
    /// When the system key was exported.
    KeyExports = 9,
    /// What is to become of a node's devices.
    Devices = 10,
    /// Which devices hold all of a shard's write-ahead log.
    Mirrors = 11,
    /// To which moment a restored site goes back.
    RestoredAt = 20,
    /// A restore that is under way.
    Restoring = 21,
    /// What was done in a node's directory, until the node has it written into an audit log.
    AuditNotes = 22,
    /// What a node has, for a site that has lost a quorum.
    Report = 30,
    /// A recovery from the loss of a quorum.
    Recovered = 31,
    /// The authorities of a site that has had several.
    Authorities = 40,
}

impl FileKind {
    /// Bytes that such a file has at most: one that names every log and node of a site is larger than the others.
    fn most_bytes(self) -> u64 {
        match self {
            Self::Report | Self::Recovered => MAX_SITE_FILE_BYTES,
            _ => MAX_FRAMED_FILE_BYTES,
        }
    }
}

/// Why a framed file is no use.
#[derive(Debug)]
pub enum FramedFileError {
    /// It is not there.
    Missing(PathBuf),
    /// The operating system refused.
    Io(PathBuf, std::io::Error),
    /// Its bytes are not what was written, or are another file's.
    Damaged(PathBuf, DecodeError),
}

impl std::fmt::Display for FramedFileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged(path, error @ DecodeError::Version { .. }) => write!(f, "{} was {error}", path.display()),
            Self::Damaged(path, error) => write!(f, "{} is damaged: {error}", path.display()),
        }
    }
}

impl std::error::Error for FramedFileError {}

/// Writes `payload` so that a crash leaves the old file or the new one, readable by its owner only.
pub fn write(path: &Path, file: FileKind, payload: &[u8]) -> Result<(), FramedFileError> {
    let fail = |error| FramedFileError::Io(path.to_owned(), error);
    whole_file::write(path, 0o600, &encode(file, payload)).map_err(fail)
}

fn encode(file: FileKind, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader::of_payload(kind::FILE, 0, file as u64, payload);
    [&header.to_array()[..], payload].concat()
}

/// Writes a record so.
pub fn write_record<R: Field>(path: &Path, file: FileKind, record: &R) -> Result<(), FramedFileError> {
    write(path, file, &record.to_bytes())
}

/// A record as its file holds it.
pub fn record_bytes<R: Field>(file: FileKind, record: &R) -> Vec<u8> {
    encode(file, &record.to_bytes())
}

/// Reads and checks a file.
pub fn read(path: &Path, file: FileKind) -> Result<Bytes, FramedFileError> {
    read_one_of(path, &[file]).map(|(_, payload)| payload)
}

/// Reads and checks a file that may be one of several; answers which it is. Many hold keys, so what was read is wiped once
/// nobody has it any more.
pub fn read_one_of(path: &Path, files: &[FileKind]) -> Result<(FileKind, Bytes), FramedFileError> {
    let fail = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => FramedFileError::Missing(path.to_owned()),
        _ => FramedFileError::Io(path.to_owned(), error),
    };
    let input = File::open(path).map_err(fail)?;
    let most_bytes = files.iter().map(|file| file.most_bytes()).max().unwrap_or(0);
    let length = input.metadata().map_err(fail)?.len().min(most_bytes);
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    input.take(most_bytes).read_to_end(&mut bytes).map_err(fail)?;
    check_one_of(Bytes::from_owner(bytes), files).map_err(|error| FramedFileError::Damaged(path.to_owned(), error))
}

/// Reads a record so.
pub fn read_record<R: Field>(path: &Path, file: FileKind) -> Result<R, FramedFileError> {
    let payload = read(path, file)?;
    R::from_bytes(payload).map_err(|error| FramedFileError::Damaged(path.to_owned(), error))
}

/// What a file's bytes hold, if they are such a file, whole.
pub fn check(bytes: Bytes, file: FileKind) -> Result<Bytes, DecodeError> {
    check_one_of(bytes, &[file]).map(|(_, payload)| payload)
}

fn check_one_of(bytes: Bytes, files: &[FileKind]) -> Result<(FileKind, Bytes), DecodeError> {
    let header = FrameHeader::decode(&bytes)?;
    let payload = bytes.slice(HEADER_BYTES..);
    header.check_payload(&payload)?;
    let is_it = |file: &&FileKind| header.kind() == kind::FILE && header.correlation() == **file as u64;
    match files.iter().find(is_it) {
        Some(file) => Ok((*file, payload)),
        None => Err(DecodeError::Invalid { what: "kind of file" }),
    }
}
