//! A node's directory: what `init` makes and `node` opens.
//!
//! ```text
//! DIR/node.toml         settings that may change between two starts
//! DIR/site.frame        what this node is; only a recovery of its site changes it
//! DIR/recovered.frame   how the site went on that had lost a quorum, once it has
//! DIR/system.key        the site's system key
//! DIR/authority.key     the site CA's key, sealed under the system key
//! DIR/node.identity     certificate and key of the node
//! DIR/peer.identity     certificate and key with which it calls on peers
//! DIR/admin.context     how the command line finds this site
//! DIR/devices/          device files, where `init` made them
//! DIR/state/            one state file a shard: a cache of what devices hold; and how far scrubbing is
//! DIR/lock              held while a node runs
//! ```

use crate::framed::{self, FileKind, FramedFileError};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label, NodeId, SiteId};
use farside_codec::record;
use farside_io::entropy::{Entropy, random};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

record!(
    /// What a node is, fixed when it is made.
    SiteFile {
        /// Its site.
        site: SiteId,
        /// The site's name.
        name: Label,
        /// How often the site was recovered or restored.
        incarnation: u64,
        /// The node.
        node: NodeId,
        /// Shards, one a core.
        shards: u16,
        /// Log groups of the site.
        groups: u32,
        /// Geometry of new chunks.
        geometry: Geometry,
        /// The site CA's certificate (DER).
        certificate: Bytes,
        /// When it was made.
        created: Hlc,
    }
);

record!(
    /// How far a shard's scrubbing is.
    ScrubRecord {
        /// The pass that is under way takes this part of the shard's time, in percent; 0: there is none.
        percent: u8,
        /// The part of it that is next, of 256.
        next: u16,
        /// When the pass that is under way, or else the last one, began; milliseconds since 1970. 0: there was none.
        begun_ms: u64,
        /// When the last whole pass was over. 0: there was none.
        finished_ms: u64,
        /// How long that one took.
        took_ms: u64,
        /// Fragments that it, or the one under way, found to be good.
        good: u64,
        /// Their bytes.
        bytes: u64,
        /// Fragments that it found to be no good.
        damaged: u64,
        /// Fragments that could not be read, and are still counted on.
        refused: u64,
    }
);

impl ScrubRecord {
    /// Nothing was ever scrubbed.
    pub const NOTHING: Self = Self {
        percent: 0,
        next: 0,
        begun_ms: 0,
        finished_ms: 0,
        took_ms: 0,
        good: 0,
        bytes: 0,
        damaged: 0,
        refused: 0,
    };
}

/// Why a directory can't be made, opened or run.
#[derive(Debug)]
pub enum DirectoryError {
    /// It holds something already.
    NotEmpty(PathBuf),
    /// It is not a node's directory.
    NotANode(PathBuf),
    /// A node runs on it.
    InUse(PathBuf),
    /// One of its files is no use.
    File(FramedFileError),
    /// The site CA's key can't be unsealed with this system key.
    WrongSystemKey(PathBuf),
    /// The operating system refused.
    Io(PathBuf, std::io::Error),
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotEmpty(path) => write!(f, "{} is not empty; name a new directory", path.display()),
            Self::NotANode(path) => write!(f, "{} is not a node's directory; `farside init` makes one", path.display()),
            Self::InUse(path) => write!(f, "a node is already running on {}", path.display()),
            Self::File(error) => error.fmt(f),
            Self::WrongSystemKey(path) => {
                write!(f, "{} was not sealed with this system key; restore the two from the same copy", path.display())
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DirectoryError {}

impl From<FramedFileError> for DirectoryError {
    fn from(error: FramedFileError) -> Self {
        Self::File(error)
    }
}

/// The site's system key. Seals the CA's key here; never leaves the site.
pub struct SystemKey(Zeroizing<[u8; 32]>);

impl SystemKey {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(Zeroizing::new(random(entropy)))
    }

    /// The site's, as another of its nodes gave it.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0[..]).expect("the key has the cipher's length"))
    }

    /// nonce (12) ‖ ciphertext ‖ tag. The nonce is random: a system key seals a handful of small files in its life.
    fn seal(&self, label: &str, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let nonce: [u8; 12] = random(entropy);
        let mut body = plain.to_vec();
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(label), &mut body)
            .expect("a small file is within the cipher's limit");
        [&nonce[..], &body].concat()
    }

    fn open(&self, label: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_first_chunk::<12>()?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(label), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

const AUTHORITY_LABEL: &str = "farside site authority key v1";

/// Paths of a node's directory.
#[derive(Debug, Clone)]
pub struct NodeDirectory(PathBuf);

impl NodeDirectory {
    /// The directory at `root`, made or not.
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.0
    }
    /// Settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("node.toml")
    }
    /// What the node is.
    pub fn site(&self) -> PathBuf {
        self.0.join("site.frame")
    }
    /// The node's own identity.
    pub fn node_identity(&self) -> PathBuf {
        self.0.join("node.identity")
    }
    /// The identity with which it calls on peers.
    pub fn peer_identity(&self) -> PathBuf {
        self.0.join("peer.identity")
    }
    /// How the command line finds this site.
    pub fn admin_context(&self) -> PathBuf {
        self.0.join("admin.context")
    }
    /// Device files made by `init`.
    pub fn device(&self, index: usize) -> PathBuf {
        self.0.join("devices").join(format!("device-{index}"))
    }
    /// A shard's state file.
    pub fn state(&self, shard: u16) -> PathBuf {
        self.0.join("state").join(format!("shard-{shard}.redb"))
    }
    /// How far a shard's scrubbing is.
    pub fn scrub(&self, shard: u16) -> PathBuf {
        self.0.join("state").join(format!("shard-{shard}.scrub"))
    }
    /// Indexes of backups that were read once.
    pub fn indexes(&self) -> PathBuf {
        self.0.join("state").join("indexes")
    }
    /// To which moment a restored site goes back.
    pub fn restored_at(&self) -> PathBuf {
        self.0.join("restored.frame")
    }
    /// A restore that is under way, and until it has ended no node.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("restoring.frame")
    }
    /// How the site went on that had lost a quorum.
    pub fn recovered(&self) -> PathBuf {
        self.0.join("recovered.frame")
    }
    fn system_key(&self) -> PathBuf {
        self.0.join("system.key")
    }
    fn authority_key(&self) -> PathBuf {
        self.0.join("authority.key")
    }

    /// Makes the directory and its folders; it must not exist or be empty.
    pub fn create(&self) -> Result<(), DirectoryError> {
        let fail = |error| DirectoryError::Io(self.0.clone(), error);
        std::fs::create_dir_all(&self.0).map_err(fail)?;
        if std::fs::read_dir(&self.0).map_err(fail)?.next().is_some() {
            return Err(DirectoryError::NotEmpty(self.0.clone()));
        }
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&self.0, only_owner).map_err(fail)?;
        ["devices", "state"].into_iter().try_for_each(|name| std::fs::create_dir(self.0.join(name))).map_err(fail)
    }

    /// Makes the names in the directory durable, and its own name in its parent.
    pub fn sync(&self) -> Result<(), DirectoryError> {
        let parent = self.0.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for path in [self.0.join("devices"), self.0.join("state"), self.0.clone(), parent.to_owned()] {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| DirectoryError::Io(path, error))?;
        }
        Ok(())
    }

    /// Writes the system key and, sealed under it, the CA's.
    pub fn save_keys(
        &self,
        key: &SystemKey,
        authority_key: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<(), DirectoryError> {
        framed::write(&self.system_key(), FileKind::SystemKey, &key.0[..])?;
        let sealed = key.seal(AUTHORITY_LABEL, authority_key, entropy);
        Ok(framed::write(&self.authority_key(), FileKind::AuthorityKey, &sealed)?)
    }

    /// Reads the system key, for another node of the site.
    pub fn system_key_bytes(&self) -> Result<Zeroizing<[u8; 32]>, DirectoryError> {
        let bytes = framed::read(&self.system_key(), FileKind::SystemKey)?;
        let wrong = |_| DirectoryError::WrongSystemKey(self.authority_key());
        Ok(Zeroizing::new(bytes[..].try_into().map_err(wrong)?))
    }

    /// Reads the site CA's key.
    pub fn authority(&self) -> Result<Zeroizing<Vec<u8>>, DirectoryError> {
        let wrong = || DirectoryError::WrongSystemKey(self.authority_key());
        let key = SystemKey(self.system_key_bytes()?);
        let sealed = framed::read(&self.authority_key(), FileKind::AuthorityKey)?;
        key.open(AUTHORITY_LABEL, &sealed).ok_or_else(wrong)
    }

    /// Reads what the node is.
    pub fn load_site(&self) -> Result<SiteFile, DirectoryError> {
        match framed::read_record(&self.site(), FileKind::Site) {
            Err(FramedFileError::Missing(_)) => Err(DirectoryError::NotANode(self.0.clone())),
            other => Ok(other?),
        }
    }

    /// Takes the directory for a running node; the lock goes with the process that holds it.
    pub fn lock(&self) -> Result<File, DirectoryError> {
        let path = self.0.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| DirectoryError::Io(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(self.0.clone())),
            Err(TryLockError::Error(error)) => Err(DirectoryError::Io(path, error)),
        }
    }
}
