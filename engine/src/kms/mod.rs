//! A tenant's key management, as clients reach it. Nodes never do.
//!
//! The KMS computes a MAC; the tenant data key is that MAC and is stored nowhere. This build speaks to a directory of
//! keys (`file:DIR`), which stands in for a tenant's KMS on one machine: whoever reads that directory has every key.

use crate::framed::{self, FileKind, FramedFileError};
use farside_codec::ids::Label;
use farside_io::entropy::{Entropy, random};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why a KMS gave no key.
#[derive(Debug)]
pub enum KmsError {
    /// The URL is none that this build speaks.
    Url(String),
    /// There is no such key, or it was destroyed.
    NoKey(PathBuf),
    /// The key's file is damaged.
    Damaged(FramedFileError),
    /// The operating system refused.
    Io(PathBuf, std::io::Error),
}

impl std::fmt::Display for KmsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url} is no KMS that this build speaks to; it speaks to file:DIR"),
            Self::NoKey(path) => write!(
                f,
                "the KMS has no key {}: without it the tenant's data can't be read, here or anywhere",
                path.display()
            ),
            Self::Damaged(error) => error.fmt(f),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for KmsError {}

impl KmsError {
    fn of_file(error: FramedFileError) -> Self {
        match error {
            FramedFileError::Io(path, error) => Self::Io(path, error),
            other => Self::Damaged(other),
        }
    }
}

/// What came into being with a key.
#[derive(Debug, Default)]
pub struct CreatedKey {
    directory: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl CreatedKey {
    /// Takes it back. Only for a key that nothing can have been sealed with.
    pub fn undo(self) {
        // What can't be removed is litter, and the reason why it is not needed matters more.
        let _ = self.key.map(std::fs::remove_file);
        let _ = self.directory.map(std::fs::remove_dir);
    }
}

/// A directory of keys.
#[derive(Debug, Clone)]
pub struct FileKms(PathBuf);

impl FileKms {
    /// Reads `file:DIR`. A relative DIR is taken from the current directory, once and for all.
    pub fn parse(url: &str) -> Result<Self, KmsError> {
        match url.strip_prefix("file:") {
            Some(directory) if !directory.is_empty() => {
                let path = std::path::absolute(directory).map_err(|error| KmsError::Io(directory.into(), error))?;
                Ok(Self(path))
            }
            _ => Err(KmsError::Url(url.to_owned())),
        }
    }

    /// What [`FileKms::parse`] reads wherever the process runs.
    pub fn url(&self) -> String {
        format!("file:{}", self.0.display())
    }

    fn path(&self, key: &str, version: u32) -> PathBuf {
        self.0.join(format!("{key}.v{version}.key"))
    }

    /// Makes version 1 of a key, unless it is there, and the directory, but not its parents: a mistyped path should
    /// fail. Answers what was made, for whoever finds that it is not needed.
    pub fn create_key(&self, key: &Label, entropy: &dyn Entropy) -> Result<CreatedKey, KmsError> {
        let mut created = CreatedKey::default();
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Ok(()) => created.directory = Some(self.0.clone()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(KmsError::Io(self.0.clone(), error)),
        }
        let path = self.path(key.as_str(), 1);
        if path.exists() {
            return Ok(created);
        }
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random(entropy));
        framed::write(&path, FileKind::TenantKey, &secret[..]).map_err(KmsError::of_file)?;
        created.key = Some(path);
        Ok(created)
    }

    /// HMAC-SHA256 of `label` under a version of a key.
    pub fn mac(&self, key: &str, version: u32, label: &[u8]) -> Result<Zeroizing<[u8; 32]>, KmsError> {
        let path = self.path(key, version);
        if Label::parse(key).is_none() {
            // A log's epochs come from its site: a name that is none must not lead out of the directory.
            return Err(KmsError::NoKey(path));
        }
        let bytes = match framed::read(&path, FileKind::TenantKey) {
            Err(FramedFileError::Missing(path)) => return Err(KmsError::NoKey(path)),
            other => other.map_err(KmsError::of_file)?,
        };
        let signing = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &bytes);
        let mut mac = Zeroizing::new([0; 32]);
        mac.copy_from_slice(aws_lc_rs::hmac::sign(&signing, label).as_ref());
        Ok(mac)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.0
    }
}
