//! `put -r`: walks a tree and puts every entry. Links are put as links, directories for their modes and times, special
//! files are skipped with a line; a file that changes while it is read, or can't be read, is told and makes the whole fail.

use super::{Notice, Tell};
use crate::client::{ClientError, Log, Prepared, PutReceipt, Upload, UploadBody};
use bytes::Bytes;
use farside_codec::seal::ObjectKind;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
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
    levels: Vec<std::vec::IntoIter<PathBuf>>,
}

impl Walk {
    fn new(root: &Path) -> Result<Self, ClientError> {
        let fail = |error| ClientError::File(root.to_owned(), error);
        let first = list(root).map_err(fail)?;
        Ok(Self { levels: vec![first.into_iter()] })
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

/// Puts everything under `root`. Every receipt goes to `each`, every trouble with one entry to `tell`; trouble with the
/// site ends the whole, and what `each` was told of until then is durable.
pub async fn store(
    log: &Log,
    root: &Path,
    each: &mut dyn FnMut(&PutReceipt),
    tell: Tell<'_>,
) -> Result<Stored, ClientError> {
    let mut entries = Walk::new(root)?.flatten();
    let mut pipeline = Pipeline::default();
    let mut total = Stored::default();
    loop {
        while pipeline.wants_entries()
            && let Some(entry) = entries.next()
        {
            pipeline.prepare(prepare(log, root, entry));
        }
        while let Some(batch) = pipeline.next_batch() {
            pipeline.commit(log.commit(batch));
        }
        match pipeline.work.next().await {
            None => return Ok(total),
            Some(Step::Prepared(entry)) => {
                pipeline.preparing -= 1;
                let (object, notice) = entry?;
                pipeline.ready.extend(object);
                notice.into_iter().for_each(|notice| total.tell(notice, tell));
            }
            Some(Step::Committed(receipts)) => {
                pipeline.committing -= 1;
                total.count(receipts, each)?;
            }
        }
    }
}

impl Stored {
    fn tell(&mut self, notice: Notice, tell: Tell<'_>) {
        match notice.failure {
            true => self.failures += 1,
            false => self.skipped += 1,
        }
        tell(notice);
    }

    /// Counts what was placed, also where something else of the same batch was not.
    fn count(
        &mut self,
        receipts: Vec<Result<PutReceipt, ClientError>>,
        each: &mut dyn FnMut(&PutReceipt),
    ) -> Result<(), ClientError> {
        let mut failed = None;
        for receipt in receipts {
            match receipt {
                Ok(receipt) => {
                    self.objects += 1;
                    self.bytes += receipt.size_bytes;
                    self.deduplicated_bytes += receipt.deduplicated_bytes;
                    each(&receipt);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What came of one piece of work.
enum Step {
    Prepared(Result<PreparedEntry, ClientError>),
    Committed(Vec<Result<PutReceipt, ClientError>>),
}

/// Entries on their way: sealed and sent, then ready, then proposed. All of it is polled at once, because any of it may
/// hold what another part waits for: a turn to send, or the attempt to connect.
#[derive(Default)]
struct Pipeline<'a> {
    work: FuturesUnordered<LocalBoxFuture<'a, Step>>,
    preparing: usize,
    committing: usize,
    ready: Vec<Prepared>,
}

impl<'a> Pipeline<'a> {
    fn wants_entries(&self) -> bool {
        self.preparing < OBJECTS_IN_FLIGHT && self.ready.len() < OBJECTS_PER_COMMIT
    }

    fn prepare(&mut self, work: impl Future<Output = Result<PreparedEntry, ClientError>> + 'a) {
        self.preparing += 1;
        self.work.push(Box::pin(async { Step::Prepared(work.await) }));
    }

    /// While commits are under way, what becomes ready gathers for the next one.
    fn next_batch(&mut self) -> Option<Vec<Prepared>> {
        let due = self.committing < COMMITS_IN_FLIGHT && !self.ready.is_empty();
        due.then(|| self.ready.drain(..self.ready.len().min(OBJECTS_PER_COMMIT)).collect())
    }

    fn commit(&mut self, work: impl Future<Output = Vec<Result<PutReceipt, ClientError>>> + 'a) {
        self.committing += 1;
        self.work.push(Box::pin(async { Step::Committed(work.await) }));
    }
}

type PreparedEntry = (Option<Prepared>, Option<Notice>);

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
    Upload { name, kind, mode: metadata.mode() & 0o7777, modified, body, condition: None, operation: None }
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
    let again = || {
        let (file, metadata) = open().map_err(fail)?;
        let body = UploadBody::Reader(Box::new(file.try_clone().map_err(fail)?));
        Ok::<_, ClientError>((file, upload(name.clone(), ObjectKind::File, &metadata, body)))
    };
    let (prepared, is_torn) = prepare_still(log, path, again).await?;
    let what = "changed while it was read: what was put may never have been there at one moment".to_owned();
    Ok((Some(prepared), is_torn.then(|| Notice { path: path.to_owned(), what, failure: true })))
}

/// Prepares a file as it is at one moment: one that somebody writes to meanwhile is opened and read again. Answers whether that
/// went on until the end.
pub(crate) async fn prepare_still<E: From<ClientError>>(
    log: &Log,
    path: &Path,
    mut open: impl FnMut() -> Result<(File, Upload), E>,
) -> Result<(Prepared, bool), E> {
    let look = |file: &File| file.metadata().map_err(|error| ClientError::File(path.to_owned(), error));
    let mut reads = 0;
    loop {
        let (file, upload) = open()?;
        let before = look(&file)?;
        let prepared = log.prepare(upload).await?;
        // What is no file is read once, and is whatever came.
        let is_torn = before.is_file() && fingerprint(&before) != fingerprint(&look(&file)?);
        reads += 1;
        if !is_torn || reads == READS {
            return Ok((prepared, is_torn));
        }
    }
}
