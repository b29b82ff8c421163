//! A device on io_uring: O_DIRECT, fixed buffers where the ring has the pool registered, one flush in flight.
//!
//! Every operation owns its buffer until the kernel is done with it, also when the future that waits for it is dropped.
//! Where O_DIRECT, registration or huge pages are refused the device still works and says so in one [`Notice`]; where
//! io_uring itself is refused, [`check_io_uring`] says so before a runtime is started.
#![allow(unsafe_code)]

mod ring;

use crate::disk::{Disk, DiskError, check_range};
use crate::limits;
use crate::pool::{Buffer, Notice, Slice};
use io_uring::{opcode, types};
use ring::Held;
pub use ring::{Ring, start};
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::oneshot;

/// Why io_uring can't be used here.
#[derive(Debug)]
pub struct IoUringRefused(io::Error);

impl std::fmt::Display for IoUringRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "io_uring is refused here ({}): set kernel.io_uring_disabled=0, raise `ulimit -l`, and allow the io_uring system \
             calls in the container's seccomp profile",
            self.0
        )
    }
}

impl std::error::Error for IoUringRefused {}

/// Tries to set up a ring of the size that a shard uses.
pub fn check_io_uring() -> Result<(), IoUringRefused> {
    io_uring::IoUring::new(limits::RING_ENTRIES).map(drop).map_err(IoUringRefused)
}

#[derive(Default)]
struct Flushes {
    running: bool,
    waiting: Vec<oneshot::Sender<Result<(), DiskError>>>,
}

struct Device {
    path: PathBuf,
    file: Rc<File>,
    bytes: u64,
    ring: Ring,
    flushes: RefCell<Flushes>,
    failed: Cell<bool>,
    notices: Vec<Notice>,
}

/// A file or block device.
#[derive(Clone)]
pub struct UringDisk(Rc<Device>);

/// Why a device can't be opened or made.
#[derive(Debug)]
pub enum OpenError {
    /// It is not there.
    Missing(PathBuf),
    /// It is there already, and `create` does not overwrite.
    Exists(PathBuf),
    /// Neither a regular file nor a block device.
    NotADevice(PathBuf),
    /// The file system has no room for it.
    Full(PathBuf, u64),
    /// Anything else.
    Io(PathBuf, io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "device {} is missing", path.display()),
            Self::Exists(path) => write!(f, "device {} exists already; it was left as it is", path.display()),
            Self::NotADevice(path) => write!(f, "{} is neither a regular file nor a block device", path.display()),
            Self::Full(path, bytes) => write!(f, "no space for {} of {bytes} bytes", path.display()),
            Self::Io(path, error) => write!(f, "device {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// Makes a device file of exactly `bytes`, with its space reserved. Needs no runtime.
pub fn create(path: &Path, bytes: u64) -> Result<(), OpenError> {
    let fail = |error: io::Error| match error.raw_os_error() {
        Some(libc::EEXIST) => OpenError::Exists(path.to_owned()),
        Some(libc::ENOSPC | libc::EFBIG) => OpenError::Full(path.to_owned(), bytes),
        _ => OpenError::Io(path.to_owned(), error),
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    // SAFETY: the descriptor is open for writing as long as `file` lives.
    let reserved = match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as i64) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(bytes),
            error => Err(error),
        },
    };
    let done = reserved.and_then(|()| file.sync_all());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    done.and_then(|()| File::open(directory)?.sync_all()).map_err(|error| {
        // The half-made file holds nothing; a removal that fails as well changes nothing about the answer.
        let _ = std::fs::remove_file(path);
        fail(error)
    })
}

impl UringDisk {
    /// Opens a device on the ring of the runtime that this is called in.
    pub fn open(path: &Path, ring: &Ring) -> Result<Self, OpenError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing(path.to_owned()),
            // What can't be opened for writing at all has no metadata to be told by.
            io::ErrorKind::IsADirectory => OpenError::NotADevice(path.to_owned()),
            _ => OpenError::Io(path.to_owned(), error),
        };
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let mut notices = Vec::new();
        let file = match open(libc::O_DIRECT | libc::O_CLOEXEC) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                notices.push(Notice(format!(
                    "{} does not support O_DIRECT; every byte is copied through the page cache: \
                     put devices on ext4, XFS or a block device",
                    path.display()
                )));
                open(libc::O_CLOEXEC).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        let metadata = file.metadata().map_err(fail)?;
        let kind = metadata.file_type();
        let bytes = match kind.is_block_device() {
            true => io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(fail)?,
            false if kind.is_file() => metadata.len(),
            false => return Err(OpenError::NotADevice(path.to_owned())),
        };
        Ok(Self(Rc::new(Device {
            path: path.to_owned(),
            file: Rc::new(file),
            bytes: bytes - bytes % limits::PAGE_BYTES as u64,
            ring: ring.clone(),
            flushes: RefCell::default(),
            failed: Cell::new(false),
            notices,
        })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What was refused.
    pub fn notices(&self) -> &[Notice] {
        &self.0.notices
    }

    fn check(&self, offset: u64, length: usize) -> Result<(), DiskError> {
        if self.0.failed.get() {
            return Err(DiskError::Failed);
        }
        check_range(offset, length as u64, self.0.bytes)
    }

    fn descriptor(&self) -> types::Fd {
        types::Fd(self.0.file.as_raw_fd())
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let entry = opcode::Fsync::new(self.descriptor()).flags(types::FsyncFlags::DATASYNC).build();
        let (result, _) = self.0.ring.run(entry, Held::File(self.0.file.clone())).await;
        answer("flush", 0, result).map(drop).inspect_err(|_| self.0.failed.set(true))
    }
}

fn answer(operation: &'static str, offset: u64, result: i32) -> Result<usize, DiskError> {
    match result {
        done if done >= 0 => Ok(done as usize),
        error if -error == libc::ENOSPC || -error == libc::EDQUOT => Err(DiskError::Full),
        error => Err(DiskError::Io { operation, offset, errno: -error }),
    }
}

/// How far one read or write has come. The kernel may do less than it is asked; the rest is asked for again.
struct Transfer {
    operation: &'static str,
    offset: u64,
    length: usize,
    done: usize,
    /// Answers in a row that brought it no further.
    idle: u32,
}

impl Transfer {
    fn new(operation: &'static str, offset: u64, length: usize) -> Self {
        Self { operation, offset, length, done: 0, idle: 0 }
    }

    fn is_done(&self) -> bool {
        self.done == self.length
    }

    /// Where the rest begins on the device.
    fn at(&self) -> u64 {
        self.offset + self.done as u64
    }

    /// Takes in what the kernel answered when asked for the rest. An interrupted operation did nothing, and O_DIRECT
    /// goes on at a block only: what is left over of one is asked for again. That ends where nothing moves.
    fn took(&mut self, result: i32) -> Result<(), DiskError> {
        let moved = match result {
            error if error == -libc::EINTR || error == -libc::EAGAIN => 0,
            0 => return Err(DiskError::Io { operation: self.operation, offset: self.at(), errno: libc::EIO }),
            other => answer(self.operation, self.at(), other)? / limits::PAGE_BYTES * limits::PAGE_BYTES,
        };
        self.done += moved;
        self.idle = if moved > 0 { 0 } else { self.idle + 1 };
        match self.idle < limits::MAX_TRANSFER_RETRIES {
            true => Ok(()),
            false => Err(DiskError::Io { operation: self.operation, offset: self.at(), errno: libc::EIO }),
        }
    }
}

impl Disk for UringDisk {
    fn len_bytes(&self) -> u64 {
        self.0.bytes
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> (Result<(), DiskError>, Buffer) {
        if let Err(error) = self.check(offset, buffer.len()) {
            return (Err(error), buffer);
        }
        let mut transfer = Transfer::new("read", offset, buffer.len());
        while !transfer.is_done() {
            let fixed = self.0.ring.index_of(&buffer);
            let rest = &mut buffer[transfer.done..];
            let (pointer, length, at) = (rest.as_mut_ptr(), rest.len() as u32, transfer.at());
            let entry = match fixed {
                Some(index) => opcode::ReadFixed::new(self.descriptor(), pointer, length, index).offset(at).build(),
                None => opcode::Read::new(self.descriptor(), pointer, length).offset(at).build(),
            };
            let (result, held) = self.0.ring.run(entry, Held::Read(self.0.file.clone(), buffer)).await;
            let Held::Read(_, back) = held else { unreachable!("a read gives back what it was given") };
            buffer = back;
            if let Err(error) = transfer.took(result) {
                return (Err(error), buffer);
            }
        }
        (Ok(()), buffer)
    }

    async fn write(&self, offset: u64, data: Slice) -> Result<(), DiskError> {
        self.check(offset, data.len())?;
        let mut transfer = Transfer::new("write", offset, data.len());
        while !transfer.is_done() {
            let rest = &data[transfer.done..];
            let (pointer, length, at) = (rest.as_ptr(), rest.len() as u32, transfer.at());
            let entry = match self.0.ring.index_of(rest) {
                Some(index) => opcode::WriteFixed::new(self.descriptor(), pointer, length, index).offset(at).build(),
                None => opcode::Write::new(self.descriptor(), pointer, length).offset(at).build(),
            };
            let (result, _) = self.0.ring.run(entry, Held::Write(self.0.file.clone(), data.clone())).await;
            match result {
                0 => return Err(DiskError::Full),
                result => transfer.took(result)?,
            }
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), DiskError> {
        if self.0.failed.get() {
            return Err(DiskError::Failed);
        }
        let waiter = {
            let mut flushes = self.0.flushes.borrow_mut();
            match flushes.running {
                true => {
                    let (sender, receiver) = oneshot::channel();
                    flushes.waiting.push(sender);
                    Some(receiver)
                }
                false => {
                    flushes.running = true;
                    None
                }
            }
        };
        if let Some(waiter) = waiter {
            return waiter.await.unwrap_or(Err(DiskError::Failed));
        }
        // A task of its own, so that a caller that goes away does not leave the others waiting.
        let device = self.clone();
        let (sender, receiver) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let _ = sender.send(device.flush().await);
            loop {
                let waiting = std::mem::take(&mut device.0.flushes.borrow_mut().waiting);
                if waiting.is_empty() {
                    device.0.flushes.borrow_mut().running = false;
                    return;
                }
                let result = if device.0.failed.get() { Err(DiskError::Failed) } else { device.flush().await };
                waiting.into_iter().for_each(|waiter| drop(waiter.send(result.clone())));
            }
        });
        receiver.await.unwrap_or(Err(DiskError::Failed))
    }
}
