//! `put -r`: walks a tree and puts every entry. Links are put as links, directories for their modes and times, special
//! files are skipped with a line; a file that changes while it is read, or can't be read, is told and makes the whole fail.

use super::{Notice, Tell};
use crate::client::{ClientError, Log, PutReceipt, Upload, UploadBody};
use bytes::Bytes;
use farside_codec::seal::ObjectKind;
use futures_util::stream::{self, StreamExt};
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Objects that are sealed and sent at once.
const OBJECTS_IN_FLIGHT: usize = 16;
/// Objects whose deltas are proposed together.
const OBJECTS_PER_COMMIT: usize = 64;
/// Commits under way at once.
const COMMITS_IN_FLIGHT: usize = 4;
/// How often a file that changes under the reader is read again before it is put as it is.
const READS: usize = 3;

/// What was put.
#[derive(Debug, Default, Clone)]
pub struct Stored {
    /// Entries.
    pub objects: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Bytes that were there already.
    pub deduplicated_bytes: u64,
    /// Entries that could not be put, or not as they were at one moment.
    pub failures: u64,
    /// Entries skipped: sockets, pipes, devices.
    pub skipped: u64,
}

enum Entry {
    Put(PathBuf, Metadata),
    Told(Notice),
}

/// Walks a tree depth first, a directory before what is in it. Holds one listing a level.
struct Walk {
    root: PathBuf,
    levels: Vec<std::vec::IntoIter<PathBuf>>,
}

impl Walk {
    fn new(root: &Path) -> Result<Self, ClientError> {
        let fail = |error| ClientError::File(root.to_owned(), error);
        let first = list(root).map_err(fail)?;
        Ok(Self { root: root.to_owned(), levels: vec![first.into_iter()] })
    }
}

fn list(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

fn told(path: &Path, what: impl ToString, failure: bool) -> Entry {
    Entry::Told(Notice { path: path.to_owned(), what: what.to_string(), failure })
}

impl Iterator for Walk {
    type Item = Vec<Entry>;

    fn next(&mut self) -> Option<Vec<Entry>> {
        loop {
            let Some(path) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            let metadata = match std::fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => return Some(vec![told(&path, error, true)]),
            };
            let kind = metadata.file_type();
            if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
                return Some(vec![told(&path, "skipped: not a file, directory or link", false)]);
            }
            let mut found = Vec::new();
            if kind.is_dir() {
                match list(&path) {
                    Ok(entries) => self.levels.push(entries.into_iter()),
                    Err(error) => found.push(told(&path, error, true)),
                }
            }
            found.push(Entry::Put(path, metadata));
            return Some(found);
        }
    }
}

/// Puts everything under `root`. Every receipt goes to `each`, every trouble to `tell`.
pub async fn store(
    log: &Log,
    root: &Path,
    each: &mut dyn FnMut(&PutReceipt),
    tell: Tell<'_>,
) -> Result<Stored, ClientError> {
    let walk = Walk::new(root)?;
    let base = walk.root.clone();
    let prepared =
        stream::iter(walk.flatten()).map(|entry| prepare(log, &base, entry)).buffer_unordered(OBJECTS_IN_FLIGHT);
    let commits = prepared.ready_chunks(OBJECTS_PER_COMMIT).map(|batch| async move {
        let (mut objects, mut notices) = (Vec::new(), Vec::new());
        for outcome in batch {
            match outcome {
                Ok((object, notice)) => {
                    objects.extend(object);
                    notices.extend(notice);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((log.commit(objects).await, notices))
    });
    let mut commits = std::pin::pin!(commits.buffered(COMMITS_IN_FLIGHT));
    let mut total = Stored::default();
    while let Some(committed) = commits.next().await {
        let (receipts, notices) = committed?;
        for notice in notices {
            if notice.failure {
                total.failures += 1
            } else {
                total.skipped += 1
            }
            tell(notice);
        }
        for receipt in receipts {
            let receipt = receipt?;
            total.objects += 1;
            total.bytes += receipt.size_bytes;
            total.deduplicated_bytes += receipt.deduplicated_bytes;
            each(&receipt);
        }
    }
    Ok(total)
}

type PreparedEntry = (Option<crate::client::Prepared>, Option<Notice>);

/// Seals one entry. Trouble with the entry is a notice; trouble with the site ends the whole.
async fn prepare(log: &Log, root: &Path, entry: Entry) -> Result<PreparedEntry, ClientError> {
    let (path, metadata) = match entry {
        Entry::Told(notice) => return Ok((None, Some(notice))),
        Entry::Put(path, metadata) => (path, metadata),
    };
    let relative = path.strip_prefix(root).unwrap_or(&path);
    let name = Bytes::copy_from_slice(relative.as_os_str().as_bytes());
    let failed = |what: String| Ok((None, Some(Notice { path: path.clone(), what, failure: true })));
    let kind = metadata.file_type();
    if kind.is_file() {
        return match prepare_file(log, &path, name).await {
            Err(ClientError::File(_, error)) => failed(error.to_string()),
            Err(ClientError::Usage(what)) => failed(what),
            other => other,
        };
    }
    let kind = match kind.is_symlink() {
        false => ObjectKind::Directory,
        true => match std::fs::read_link(&path) {
            Ok(target) => ObjectKind::Link(Bytes::copy_from_slice(target.as_os_str().as_bytes())),
            Err(error) => return failed(error.to_string()),
        },
    };
    match log.prepare(upload(name, kind, &metadata, UploadBody::None)).await {
        Ok(prepared) => Ok((Some(prepared), None)),
        Err(ClientError::Usage(what)) => failed(what),
        Err(error) => Err(error),
    }
}

fn upload(name: Bytes, kind: ObjectKind, metadata: &Metadata, body: UploadBody) -> Upload {
    let modified = (metadata.mtime(), metadata.mtime_nsec() as u32);
    Upload { name, kind, mode: metadata.mode() & 0o7777, modified, body, condition: None }
}

/// What changes when somebody writes to a file.
fn fingerprint(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
}

async fn prepare_file(log: &Log, path: &Path, name: Bytes) -> Result<PreparedEntry, ClientError> {
    let fail = |error| ClientError::File(path.to_owned(), error);
    let open = || -> std::io::Result<(File, Metadata)> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    for attempt in 1..=READS {
        let (file, before) = open().map_err(fail)?;
        let reader = file.try_clone().map_err(fail)?;
        let body = UploadBody::Reader(Box::new(reader));
        let prepared = log.prepare(upload(name.clone(), ObjectKind::File, &before, body)).await?;
        let after = file.metadata().map_err(fail)?;
        if fingerprint(&before) == fingerprint(&after) {
            return Ok((Some(prepared), None));
        }
        if attempt == READS {
            let what = "changed while it was read: what was put may never have been there at one moment".to_owned();
            return Ok((Some(prepared), Some(Notice { path: path.to_owned(), what, failure: true })));
        }
    }
    Ok((None, None))
}
