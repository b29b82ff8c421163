//! Where a demo or a benchmark keeps its sites: a directory that goes when its process goes.

use crate::interrupt::Undo;
use farside_io::process::is_there;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories are called this, then the number of their process.
const PREFIX: &str = "farside-";
/// Held for as long as the process lives: numbers of processes come round, and differ between containers.
const LOCK: &str = "in-use";

/// A directory of our own below the system's temporary one; removed when dropped or interrupted, unless it is to be
/// kept.
pub(crate) struct WorkDirectory {
    pub(crate) path: PathBuf,
    ours: Option<(File, Undo)>,
}

impl WorkDirectory {
    /// The directory to keep, or one of our own below `base`. Removes what processes that are gone left there.
    pub(crate) fn new(keep: Option<&Path>, base: Option<&Path>) -> Result<Self, String> {
        let fail = |path: &Path, error| format!("{}: {error}", path.display());
        if let Some(path) = keep {
            std::fs::create_dir_all(path).map_err(|error| fail(path, error))?;
            return Ok(Self { path: path.to_owned(), ours: None });
        }
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        std::fs::create_dir_all(&base).map_err(|error| fail(&base, error))?;
        remove_stale(&base);
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| fail(&path, error))?;
        let remove = path.clone();
        let undo = Undo::register(move || remove_all(&remove));
        let lock = File::create(path.join(LOCK)).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|error| {
            remove_all(&path);
            fail(&path, error)
        })?;
        Ok(Self { path, ours: Some((lock, undo)) })
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if self.ours.is_some() {
            remove_all(&self.path);
        }
    }
}

/// What can't be removed is left for the next start, or for the operating system's own cleaning.
fn remove_all(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
}

fn remove_stale(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        if is_stale(&entry.path()) {
            remove_all(&entry.path());
        }
    }
}

/// Whether a path is such a directory of this user, and its process is gone.
fn is_stale(path: &Path) -> bool {
    let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse::<u32>().ok());
    let Some(process) = number else { return false };
    let own = |metadata: std::fs::Metadata| {
        let this = std::fs::metadata("/proc/self").map(|this| this.uid());
        metadata.is_dir() && this.is_ok_and(|user| user == metadata.uid())
    };
    let locked = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err());
    path.symlink_metadata().is_ok_and(own) && !locked && (process == std::process::id() || !is_there(process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_left_is_removed() {
        let base = tempfile::tempdir().expect("a directory");
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        child.wait().expect("ended");
        let alive = std::os::unix::process::parent_id();
        let (dead, in_use) = (format!("{PREFIX}{}", child.id()), format!("{PREFIX}{}", u32::MAX / 2));
        let stay = [format!("{PREFIX}{alive}"), format!("{PREFIX}photos"), "other-1".into(), in_use.clone()];
        for name in stay.iter().chain([&dead]) {
            std::fs::create_dir(base.path().join(name)).expect("made");
        }
        let lock = File::create(base.path().join(in_use).join(LOCK)).expect("made");
        lock.lock().expect("locked");
        let work = WorkDirectory::new(None, Some(base.path())).expect("a directory");
        assert!(!base.path().join(dead).exists());
        assert!(stay.iter().all(|name| base.path().join(name).exists()));
        let path = work.path.clone();
        drop(work);
        assert!(!path.exists());
    }
}
