//! A node's directory: what `init` makes and `node` opens.
//!
//! ```text
//! DIR/node.toml         settings that may change between two starts
//! DIR/site.frame        what this node is; only a recovery of its site changes it
//! DIR/recovered.frame   how the site went on that had lost a quorum, once it has
//! DIR/system.key        the site's system key, in the clear or sealed under a passphrase
//! DIR/authority.key     the key of the site's first CA, sealed under the system key
//! DIR/authorities.frame the site's CAs, once it has had several, with their keys, sealed alike
//! DIR/mirrors-N.frame   which devices hold all of shard N's write-ahead log
//! DIR/devices.frame     which devices are to go, once one was evicted or added
//! DIR/key.exports       when the system key was exported as shares, and whether they are known to be good
//! DIR/node.identity     certificate and key of the node
//! DIR/peer.identity     certificate and key with which it calls on peers
//! DIR/admin.context     how the command line finds this site
//! DIR/devices/          device files, where `init` made them
//! DIR/audit/            what was done in this directory and is not written into an audit log yet
//! DIR/state/            one state file a shard: a cache of what devices hold; and how far scrubbing is
//! DIR/lock              held while a node runs
//! DIR/unlock.sock       there while a node waits for its passphrase
//! ```

use crate::framed::{self, FileKind, FramedFileError};
use bytes::Bytes;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{DeviceId, Hlc, Label, NodeId, SiteId};
use farside_codec::record;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

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
        /// Geometry of new chunks when the node was made.
        geometry: Geometry,
        /// The site CA's certificate (DER).
        certificate: Bytes,
        /// When it was made.
        created: Hlc,
        /// Known to nobody else. It goes into each batch of the node's write-ahead log, so that nothing which a client has had
        /// written there is ever taken for one.
        secret: [u8; 16],
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

record!(
    /// What is to become of a node's devices.
    DevicesFile {
        /// Devices that are to go, each with its path as it was when that was ordered.
        leaving: Vec<(DeviceId, String)>,
        /// Fragments lie on other devices of the node than they would if they were written now, and are to be moved there.
        unbalanced: bool,
        /// What lies on another node than it should stays there until it is ordered that it moves.
        paused: bool,
    }
);

impl DevicesFile {
    /// Nothing is to become of them.
    pub const NOTHING: Self = Self { leaving: Vec::new(), unbalanced: false, paused: false };
}

record!(
    /// Which devices hold all of a shard's write-ahead log. One that is not among them was away while the log went on.
    MirrorsFile {
        /// The devices.
        devices: Vec<DeviceId>,
    }
);

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
    /// Which devices hold all of a shard's write-ahead log.
    pub fn mirrors(&self, shard: u16) -> PathBuf {
        self.0.join(format!("mirrors-{shard}.frame"))
    }
    /// What is to become of the node's devices.
    pub fn devices(&self) -> PathBuf {
        self.0.join("devices.frame")
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
    /// What was done here and waits until the node has it written into an audit log.
    pub(super) fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }
    /// The site's system key.
    pub(super) fn system_key(&self) -> PathBuf {
        self.0.join("system.key")
    }
    /// The site CA's key, sealed under it.
    pub(super) fn authority_key(&self) -> PathBuf {
        self.0.join("authority.key")
    }

    /// The site's authorities, once it has had several.
    pub(super) fn authorities(&self) -> PathBuf {
        self.0.join("authorities.frame")
    }

    /// What is known of the system key's exports.
    pub(super) fn key_exports(&self) -> PathBuf {
        self.0.join("key.exports")
    }
    /// Where a node that starts is told its passphrase.
    pub(super) fn unlock_socket(&self) -> PathBuf {
        self.0.join("unlock.sock")
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
