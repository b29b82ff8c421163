//! A directory of keys (`file:DIR`), which stands in for a tenant's KMS on one machine: whoever reads that directory has
//! every key.

use super::{Created, KmsError, Mac, TenantKms, is_key, name_of};
use crate::framed::{self, FileKind, FramedFileError};
use farside_io::entropy::{Entropy, random};
use futures_util::future::LocalBoxFuture;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use zeroize::Zeroizing;

/// A directory of keys.
#[derive(Clone)]
pub struct FileKms {
    directory: PathBuf,
    entropy: Rc<dyn Entropy>,
}

impl std::fmt::Debug for FileKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url())
    }
}

fn of_file(error: FramedFileError) -> KmsError {
    match error {
        FramedFileError::Io(path, error) => KmsError::Io(path, error),
        other => KmsError::Damaged(other),
    }
}

impl FileKms {
    /// Reads `file:DIR`. A relative DIR is taken from the current directory, once and for all.
    pub fn parse(url: &str, entropy: Rc<dyn Entropy>) -> Result<Self, KmsError> {
        match url.strip_prefix("file:") {
            Some(directory) if !directory.is_empty() => {
                let path = std::path::absolute(directory).map_err(|error| KmsError::Io(directory.into(), error))?;
                Ok(Self { directory: path, entropy })
            }
            _ => Err(KmsError::Url { url: url.to_owned(), why: "give a directory of keys, as in file:DIR".into() }),
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, key: &str, version: u32) -> PathBuf {
        self.directory.join(format!("{key}.v{version}.key"))
    }

    fn no_key(&self, key: &str, version: u32) -> KmsError {
        KmsError::NoKey { kms: self.url(), key: name_of(key, version) }
    }

    fn check(&self, key: &str, version: u32) -> Result<(), KmsError> {
        is_key(key, version).then_some(()).ok_or_else(|| self.no_key(key, version))
    }

    /// Makes a version unless it is there. Two who make it at once must not replace each other's: something may have been
    /// sealed under the first one by then.
    fn make(&self, key: &str, version: u32) -> Result<bool, KmsError> {
        let path = self.path(key, version);
        let mark = u64::from_le_bytes(random(self.entropy.as_ref()));
        let draft = self.directory.join(format!(".{key}.v{version}.{mark:016x}"));
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random(self.entropy.as_ref()));
        let written = framed::write(&draft, FileKind::TenantKey, &secret[..]).map_err(of_file);
        let linked = written.and_then(|()| match std::fs::hard_link(&draft, &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(KmsError::Io(path, error)),
        });
        // What can't be removed is litter that nothing refers to.
        let _ = std::fs::remove_file(&draft);
        let made = linked?;
        self.settle()?;
        Ok(made)
    }

    /// Makes durable that what is in the directory is there, and so is the directory: whoever made it may have died before
    /// it got so far.
    fn settle(&self) -> Result<(), KmsError> {
        for directory in [Some(self.directory.as_path()), self.directory.parent()].into_iter().flatten() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| KmsError::Io(directory.to_owned(), error))?;
        }
        Ok(())
    }

    /// The highest version that is there; 0 for none.
    fn newest(&self, key: &str) -> Result<u32, KmsError> {
        let fail = |error| KmsError::Io(self.directory.clone(), error);
        let mut newest = 0;
        for entry in std::fs::read_dir(&self.directory).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(key)?.strip_prefix(".v")?.strip_suffix(".key"));
            newest = newest.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
        Ok(newest)
    }

    /// Makes version 1 of a key, unless it is there, and the directory, but not its parents: a mistyped path should fail.
    pub fn create(&self, key: &str) -> Result<Created, KmsError> {
        self.check(key, 1)?;
        let place = match DirBuilder::new().mode(0o700).create(&self.directory) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(KmsError::Io(self.directory.clone(), error)),
        };
        if self.newest(key)? > 0 {
            self.settle()?;
            return Ok(Created { key: false, place });
        }
        Ok(Created { key: self.make(key, 1)?, place })
    }

    fn next_version(&self, key: &str, above: u32) -> Result<u32, KmsError> {
        self.check(key, 1)?;
        let newest = self.newest(key)?;
        if newest == 0 {
            return Err(self.no_key(key, 1));
        }
        let next = newest.max(above).checked_add(1).ok_or_else(|| self.no_key(key, u32::MAX))?;
        // Whoever was quicker has made a new version, and that is what was asked for.
        self.make(key, next)?;
        Ok(next)
    }

    /// HMAC-SHA256 of `label` under a version of a key.
    pub fn compute(&self, key: &str, version: u32, label: &[u8]) -> Result<Mac, KmsError> {
        self.check(key, version)?;
        let bytes = match framed::read(&self.path(key, version), FileKind::TenantKey) {
            // A directory that is not there, or not mounted, says nothing of what is in it.
            Err(FramedFileError::Missing(_)) if !self.directory.is_dir() => {
                return Err(KmsError::NoPlace(self.directory.clone()));
            }
            Err(FramedFileError::Missing(_)) => return Err(self.no_key(key, version)),
            other => other.map_err(of_file)?,
        };
        let signing = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &bytes);
        let mut mac = Zeroizing::new([0; 32]);
        mac.copy_from_slice(aws_lc_rs::hmac::sign(&signing, label).as_ref());
        Ok(mac)
    }
}

impl TenantKms for FileKms {
    fn url(&self) -> String {
        format!("file:{}", self.directory.display())
    }

    fn create_key<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Created, KmsError>> {
        Box::pin(async move { self.create(key) })
    }

    fn take_back<'a>(&'a self, key: &'a str, created: Created) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            // What can't be removed is litter.
            if created.key && self.check(key, 1).is_ok() {
                let _ = std::fs::remove_file(self.path(key, 1));
            }
            if created.place {
                let _ = std::fs::remove_dir(&self.directory);
            }
        })
    }

    fn rotate<'a>(&'a self, key: &'a str, above: u32) -> LocalBoxFuture<'a, Result<u32, KmsError>> {
        Box::pin(async move { self.next_version(key, above) })
    }

    fn mac<'a>(&'a self, key: &'a str, version: u32, label: &'a [u8]) -> LocalBoxFuture<'a, Result<Mac, KmsError>> {
        Box::pin(async move { self.compute(key, version, label) })
    }
}
