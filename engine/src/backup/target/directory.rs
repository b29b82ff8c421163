//! A directory as a target: an object is a file, written beside its place under a hidden name, flushed, and then given its
//! name by a step that replaces nothing.
//!
//! Only the operator's own directory is followed if it is a link; below it every component is opened by itself and without
//! following links, so that nothing is read or written elsewhere. By hand, since object_store's `LocalFileSystem` flushes
//! nothing and resolves paths by text. What was deleted leaves its empty directories.

use super::limits::{HIDDEN_NAMES, MAX_LISTED};
use super::name::is_name;
use super::{Listed, TargetError};
use crate::interrupt::Undo;
use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Backups are nobody else's business, sealed as they are.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;
const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory. Its functions block.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    target: String,
}

impl Directory {
    pub(super) fn new(root: &Path, target: String) -> Self {
        Self { root: root.to_owned(), target }
    }

    fn root(&self) -> Result<OwnedFd, TargetError> {
        match rustix::fs::open(&self.root, OPEN_DIRECTORY, Mode::empty()) {
            Ok(root) => Ok(root),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(TargetError::NoPlace { target: self.target.clone() }),
            Err(error) => Err(self.failed("", error)),
        }
    }

    fn failed(&self, name: &str, error: impl Into<io::Error>) -> TargetError {
        let error = error.into();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => TargetError::Full { target: self.target.clone() },
            _ => TargetError::Io(self.root.join(name), error),
        }
    }

    fn absent(&self, name: &str, error: Errno) -> TargetError {
        match error {
            Errno::NOENT => TargetError::NotFound { target: self.target.clone(), name: name.to_owned() },
            error => self.failed(name, error),
        }
    }

    /// The directory in which `name` lies, and its last component.
    fn inside<'a>(&self, name: &'a str) -> Result<(OwnedFd, &'a str), TargetError> {
        let (directory, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        let opened = open_below(self.root()?, directory).map_err(|error| self.absent(name, error))?;
        Ok((opened, leaf))
    }

    /// Makes an object of these parts. Durable when it answers, also where it answers that there is one already.
    pub(super) fn put_new(&self, name: &str, parts: &[Bytes]) -> Result<(), TargetError> {
        let (directory, leaf) = self.make_inside(name)?;
        let exists = || TargetError::Exists { target: self.target.clone(), name: name.to_owned() };
        let failed = |error: Errno| self.failed(name, error);
        // Spares writing in vain; what decides is the step that gives the name.
        if rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            rustix::fs::fsync(&directory).map_err(failed)?;
            return Err(exists());
        }
        let mut hidden = Hidden::create(&directory, self.root.join(name).parent().unwrap_or(&self.root))
            .map_err(|error| self.failed(name, error))?;
        hidden.write(parts).map_err(|error| self.failed(name, error))?;
        let named = hidden.become_new(leaf);
        rustix::fs::fsync(&directory).map_err(failed)?;
        match named {
            Err(Errno::EXIST) => Err(exists()),
            named => named.map_err(failed),
        }
    }

    /// As [`Self::inside`], with all directories made. Each of them is flushed, whoever made it: another process may have
    /// done so just now and not have come to that.
    fn make_inside<'a>(&self, name: &'a str) -> Result<(OwnedFd, &'a str), TargetError> {
        let mut components = name.split('/');
        let leaf = components.next_back().unwrap_or_default();
        let mut at = self.root()?;
        for component in components {
            at = make_below(&at, component).map_err(|error| self.failed(name, error))?;
        }
        Ok((at, leaf))
    }

    fn open(&self, name: &str) -> Result<(File, u64), TargetError> {
        let (directory, leaf) = self.inside(name)?;
        // A pipe that somebody left there must not hold anybody up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&directory, leaf, flags, Mode::empty());
        let file = File::from(opened.map_err(|error| self.absent(name, error))?);
        let about = file.metadata().map_err(|error| self.failed(name, error))?;
        match about.is_file() {
            true => Ok((file, about.len())),
            false => Err(self.absent(name, Errno::NOENT)),
        }
    }

    /// All of an object.
    pub(super) fn get(&self, name: &str, limit_bytes: u64) -> Result<Bytes, TargetError> {
        let (file, length) = self.open(name)?;
        let too_large = || TargetError::TooLarge { target: self.target.clone(), name: name.to_owned(), limit_bytes };
        if length > limit_bytes {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| too_large())?);
        file.take(length).read_to_end(&mut bytes).map_err(|error| self.failed(name, error))?;
        match bytes.len() as u64 == length {
            true => Ok(bytes.into()),
            false => Err(self.short(name)),
        }
    }

    /// A part of an object.
    pub(super) fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, TargetError> {
        let (file, there) = self.open(name)?;
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= there);
        let length = usize::try_from(length).ok().filter(|_| is_inside).ok_or_else(|| self.short(name))?;
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.short(name)),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    fn short(&self, name: &str) -> TargetError {
        TargetError::Short { target: self.target.clone(), name: name.to_owned() }
    }

    /// All objects whose names begin so, in order.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Listed>, TargetError> {
        let mut found = Vec::new();
        // Directories to be read, by their paths, which end with a slash; the root's is empty.
        let mut waiting = vec![String::new()];
        while let Some(path) = waiting.pop() {
            let opened = match open_below(self.root()?, path.trim_end_matches('/')) {
                Ok(opened) => opened,
                // Removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(self.failed(&path, error)),
            };
            self.read(&opened, &path, prefix, &mut found, &mut waiting)?;
            if found.len() > MAX_LISTED {
                return Err(TargetError::TooMany { target: self.target.clone(), limit: MAX_LISTED });
            }
        }
        found.sort_unstable_by(|one: &Listed, other| one.name.cmp(&other.name));
        found.dedup_by(|one, other| one.name == other.name);
        Ok(found)
    }

    fn read(
        &self,
        directory: &OwnedFd,
        path: &str,
        prefix: &str,
        found: &mut Vec<Listed>,
        waiting: &mut Vec<String>,
    ) -> Result<(), TargetError> {
        for entry in Dir::read_from(directory).map_err(|error| self.failed(path, error))? {
            let entry = entry.map_err(|error| self.failed(path, error))?;
            let Ok(leaf) = entry.file_name().to_str() else { continue };
            let name = format!("{path}{leaf}");
            // Hidden files and strangers' are none of ours.
            if !is_name(&name) {
                continue;
            }
            let nested = format!("{name}/");
            if !name.starts_with(prefix) && !nested.starts_with(prefix) && !prefix.starts_with(&nested) {
                continue;
            }
            let about = match rustix::fs::statat(directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => about,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(self.failed(&name, error)),
            };
            match FileType::from_raw_mode(about.st_mode) {
                FileType::Directory => waiting.push(nested),
                FileType::RegularFile if name.starts_with(prefix) => {
                    found.push(Listed { name, bytes: u64::try_from(about.st_size).unwrap_or(0) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes an object, if it is there.
    pub(super) fn delete(&self, name: &str) -> Result<(), TargetError> {
        let (directory, leaf) = match self.inside(name) {
            Err(TargetError::NotFound { .. }) => return Ok(()),
            inside => inside?,
        };
        match rustix::fs::unlinkat(&directory, leaf, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&directory).map_err(|error| self.failed(name, error)),
            // A directory is no object.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(error) => Err(self.failed(name, error)),
        }
    }
}

fn open_below(root: OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let mut at = root;
    for component in path.split('/').filter(|component| !component.is_empty()) {
        at = rustix::fs::openat(&at, component, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

fn make_below(parent: &OwnedFd, component: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, component, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::fsync(parent)?;
    rustix::fs::openat(parent, component, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// A file that is being written. It goes with this value, and when the process is interrupted.
struct Hidden<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: File,
    _undo: Undo,
}

impl<'a> Hidden<'a> {
    fn create(directory: &'a OwnedFd, path: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..HIDDEN_NAMES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".farside-{}-{number}.part", std::process::id());
            match rustix::fs::openat(directory, &name, flags, FILE_MODE) {
                // Left by a dead process whose number came round again, or of another machine that writes here.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
                Ok(file) => {
                    let remove = path.join(&name);
                    let undo = Undo::register(move || drop(std::fs::remove_file(remove)));
                    return Ok(Self { directory, name, file: File::from(file), _undo: undo });
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn write(&mut self, parts: &[Bytes]) -> io::Result<()> {
        parts.iter().try_for_each(|part| self.file.write_all(part))?;
        self.file.sync_all()
    }

    /// Gives it its name, unless something has it.
    fn become_new(&self, leaf: &str) -> Result<(), Errno> {
        let (directory, flags) = (self.directory, RenameFlags::NOREPLACE);
        match rustix::fs::renameat_with(directory, &self.name, directory, leaf, flags) {
            // File systems that don't know how, NFS among them, do know links; the hidden name goes with this value.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(directory, &self.name, directory, leaf, AtFlags::empty())
            }
            renamed => renamed,
        }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty());
    }
}
