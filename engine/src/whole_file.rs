//! Files that are written whole or not at all.
//!
//! The bytes go to a hidden file beside the target, which is renamed when it is complete: a crash, a full disk or an
//! interruption leaves what was there. A device or a pipe is no file that could be replaced; it is written to as it is.

use crate::interrupt::Undo;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Hidden names that are tried: those of dead processes whose number came round again may be left.
const NAMES: usize = 64;

/// A file that is being written. Dropped before it is complete, it leaves what was there.
pub(crate) struct WholeFile {
    file: File,
    hidden: Option<Hidden>,
}

/// The hidden file, and what it is to become.
struct Hidden {
    path: PathBuf,
    target: PathBuf,
    _undo: Undo,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl WholeFile {
    /// Begins a file that is to be `target`, with these permission bits. Refuses what can't be one before anything is
    /// written.
    pub(crate) fn create(target: &Path, mode: u32) -> io::Result<Self> {
        if target.as_os_str().as_bytes().ends_with(b"/") {
            return Err(ErrorKind::IsADirectory.into());
        }
        match std::fs::metadata(target) {
            Ok(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
            // Behind a link it is the file that is replaced, not the link. Whoever may not read what is there may not read what comes after it.
            Ok(there) if there.is_file() => {
                Self::beside(&std::fs::canonicalize(target)?, mode & there.permissions().mode())
            }
            Ok(_) => Self::through(target, mode),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Err(_) if target.is_symlink() => Self::through(target, mode),
            Err(_) => Self::beside(target, mode),
        }
    }

    fn beside(target: &Path, mode: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..NAMES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory_of(target).join(format!(".farside-{}-{number}.part", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let remove = path.clone();
                    let undo = Undo::register(move || drop(std::fs::remove_file(remove)));
                    let hidden = Hidden { path, target: target.to_owned(), _undo: undo };
                    return Ok(Self { file, hidden: Some(hidden) });
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn through(target: &Path, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(target)?;
        Ok(Self { file, hidden: None })
    }

    /// Makes it what the target is from now on, also after a power cut.
    pub(crate) fn complete(self) -> io::Result<()> {
        let Some(hidden) = &self.hidden else { return Ok(()) };
        self.file.sync_all()?;
        let directory = directory_of(&hidden.target).to_owned();
        self.put_in_place()?;
        File::open(directory)?.sync_all()
    }

    /// Makes it what the target is from now on; what a power cut leaves is not promised.
    pub(crate) fn put_in_place(self) -> io::Result<()> {
        let Some(hidden) = self.hidden else { return Ok(()) };
        std::fs::rename(&hidden.path, &hidden.target)
    }

    /// Sets its permission bits.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The directory that a path lies in; that of a bare name is the current one.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes `bytes` so.
pub(crate) fn write(target: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::create(target, mode)?;
    file.write_all(bytes)?;
    file.complete()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("listed");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let root = tempfile::tempdir().expect("a directory");
        let target = root.path().join("x");
        std::fs::write(&target, "old").expect("written");
        std::fs::write(root.path().join("x.new"), "another's").expect("written");
        let mut file = WholeFile::create(&target, 0o600).expect("begun");
        file.write_all(b"new").expect("written");
        drop(file);
        assert_eq!(std::fs::read(&target).expect("read"), b"old");
        write(&target, 0o600, b"new").expect("written");
        assert_eq!(std::fs::read(&target).expect("read"), b"new");
        assert_eq!(names(root.path()), ["x", "x.new"]);
        assert_eq!(std::fs::read(root.path().join("x.new")).expect("read"), b"another's");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let root = tempfile::tempdir().expect("a directory");
        let inside = root.path().join("directory");
        std::fs::create_dir(&inside).expect("made");
        for directory in [inside.clone(), root.path().join("nothing/")] {
            let refused = WholeFile::create(&directory, 0o600).map(drop).expect_err("refused");
            assert_eq!(refused.kind(), ErrorKind::IsADirectory);
        }
        let null = std::fs::metadata("/dev/null").expect("metadata");
        assert!(!null.is_file(), "this machine's own /dev/null is no device");
        // A link to a device stays one, and a link to a file leads to the new one.
        let (device, file) = (root.path().join("device"), root.path().join("file"));
        std::os::unix::fs::symlink("/dev/null", &device).expect("linked");
        std::os::unix::fs::symlink(inside.join("real"), &file).expect("linked");
        for _ in 0..2 {
            for link in [&device, &file] {
                write(link, 0o600, b"bytes").expect("written");
                assert!(link.is_symlink());
            }
        }
        assert_eq!(std::fs::read(inside.join("real")).expect("read"), b"bytes");
        assert_eq!((names(root.path()).len(), names(&inside).len()), (3, 1));
    }
}
