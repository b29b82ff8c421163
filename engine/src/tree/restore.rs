//! `get -r`: gives a tree back, identical, and never writes outside its target.
//!
//! The target is empty when this begins. Directories and files come first and links last, so that no path ever leads
//! through a link of the tree; names that would leave the target are refused one by one.

use super::{Notice, Tell};
use crate::client::{ClientError, Log, Object, ObjectInfo};
use crate::whole_file::WholeFile;
use bytes::Bytes;
use farside_codec::message::Moment;
use farside_codec::seal::ObjectKind;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What was given back.
#[derive(Debug, Default, Clone)]
pub struct Restored {
    /// Entries.
    pub objects: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries that could not be given back.
    pub failures: u64,
    /// Of these, how many are damaged.
    pub damaged: u64,
}

#[derive(Default)]
struct Work {
    directories: Vec<(PathBuf, ObjectInfo)>,
    links: Vec<(PathBuf, Bytes, ObjectInfo)>,
    restored: Restored,
    notices: Vec<Notice>,
}

/// The place of a name below `target`; `None` for a name that would leave it.
pub fn place(target: &Path, name: &[u8]) -> Option<PathBuf> {
    let good = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    name.split(|byte| *byte == b'/').all(good).then(|| target.join(OsStr::from_bytes(name)))
}

/// Gives back everything that `log` held at a moment, into `target`, which must be empty or not exist.
pub async fn restore(
    log: &Log,
    at: &Moment,
    target: &Path,
    each: &mut dyn FnMut(&Restored),
    tell: Tell<'_>,
) -> Result<Restored, ClientError> {
    let fail = |error| ClientError::File(target.to_owned(), error);
    std::fs::create_dir_all(target).map_err(fail)?;
    if std::fs::read_dir(target).map_err(fail)?.next().is_some() {
        return Err(ClientError::Usage(format!(
            "{} is not empty: a tree is given back into an empty directory",
            target.display()
        )));
    }
    let work = RefCell::new(Work::default());
    // What came is finished, also where the rest does not come.
    let each = RefCell::new(each);
    let one = async |object| {
        take(&work, target, object).await?;
        (*each.borrow_mut())(&work.borrow().restored);
        Ok(())
    };
    let done = log.for_each(at, one).await;
    let restored = finish(work.into_inner(), tell);
    done.map(|()| restored)
}

/// Gives one object back below `target`, which is made.
pub async fn restore_one(object: Object, target: &Path, tell: Tell<'_>) -> Result<Restored, ClientError> {
    std::fs::create_dir_all(target).map_err(|error| ClientError::File(target.to_owned(), error))?;
    let work = RefCell::new(Work::default());
    take(&work, target, object).await?;
    Ok(finish(work.into_inner(), tell))
}

/// Links and directories, once everything else is there.
fn finish(work: Work, tell: Tell<'_>) -> Restored {
    let Work { directories, links, mut restored, mut notices } = work;
    let mut finish = |path: &Path, done: std::io::Result<()>| match done {
        Ok(()) => restored.objects += 1,
        Err(error) => notices.push(Notice { path: path.to_owned(), what: error.to_string(), failure: true }),
    };
    for (path, link, info) in links {
        let made = std::os::unix::fs::symlink(OsStr::from_bytes(&link), &path).and_then(|()| set_time(&path, &info));
        finish(&path, made);
    }
    // The deepest first: a time or a mode set on a parent must not be undone by what is made below it.
    let mut directories = directories;
    directories.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, info) in directories {
        let done =
            set_time(&path, &info).and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(info.mode)));
        finish(&path, done);
    }
    restored.failures = notices.iter().filter(|notice| notice.failure).count() as u64;
    notices.into_iter().for_each(tell);
    restored
}

fn set_time(path: &Path, info: &ObjectInfo) -> std::io::Result<()> {
    let time = Timespec { tv_sec: info.modified.0, tv_nsec: i64::from(info.modified.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

async fn take(work: &RefCell<Work>, target: &Path, object: Object) -> Result<(), ClientError> {
    let info = object.info.clone();
    let Some(path) = place(target, &info.name) else {
        let path = PathBuf::from(String::from_utf8_lossy(&info.name).into_owned());
        let what = "skipped: the name would be written outside the target".to_owned();
        work.borrow_mut().notices.push(Notice { path, what, failure: true });
        return Ok(());
    };
    let outcome = match &info.kind {
        Some(ObjectKind::Directory) => {
            std::fs::create_dir_all(&path).map(|()| work.borrow_mut().directories.push((path.clone(), info.clone())))
        }
        Some(ObjectKind::Link(link)) => {
            parents(&path).map(|()| work.borrow_mut().links.push((path.clone(), link.clone(), info.clone())))
        }
        _ => match write_file(&path, &object).await {
            Err(ClientError::File(_, error)) => Err(error),
            // The others may be whole.
            Err(error) if error.is_of_one_object() => {
                work.borrow_mut().restored.damaged += u64::from(error.exit_code() == 6);
                Err(std::io::Error::other(error.to_string()))
            }
            Err(error) => return Err(error),
            Ok(()) => {
                let mut work = work.borrow_mut();
                work.restored.objects += 1;
                work.restored.bytes += info.size_bytes;
                Ok(())
            }
        },
    };
    if let Err(error) = outcome {
        work.borrow_mut().notices.push(Notice { path, what: error.to_string(), failure: true });
    }
    Ok(())
}

fn parents(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

async fn write_file(path: &Path, object: &Object) -> Result<(), ClientError> {
    let fail = |error| ClientError::File(path.to_owned(), error);
    parents(path).map_err(fail)?;
    if path.symlink_metadata().is_ok() {
        return Err(fail(std::io::ErrorKind::AlreadyExists.into()));
    }
    // It has its name once it is whole, and its mode before that.
    let mut file = WholeFile::create(path, 0o600).map_err(fail)?;
    object.read(|bytes| file.write_all(bytes)).await?;
    file.set_mode(object.info.mode).map_err(fail)?;
    file.put_in_place().map_err(fail)?;
    set_time(path, &object.info).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::place;
    use std::path::Path;

    #[test]
    fn names_that_leave_the_target_have_no_place() {
        for bad in [&b""[..], b"/etc/passwd", b"..", b"a/../b", b"a//b", b"a/", b"./a", b"a/.", b"a\0b"] {
            assert_eq!(place(Path::new("/target"), bad), None, "{bad:?}");
        }
        for good in [&b"a"[..], b"a/b", b"..a", b"a/...", b"\xff\n"] {
            assert!(place(Path::new("/target"), good).is_some_and(|path| path.starts_with("/target")), "{good:?}");
        }
    }
}
