//! `node.toml`: what an operator may change about a node between two starts.

use farside_transport::limits::{MAX_MTU, MIN_MTU};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A node's settings. Unknown keys are refused, so that a misspelt one is not silently ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Shard i listens on this port + i (UDP).
    pub listen: SocketAddr,
    /// Addresses that peers and clients are told, if not `listen` (NAT, several networks): `ip:port` of shard 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// Device files or block devices, in the order of `init`.
    pub devices: Vec<PathBuf>,
    /// Core of each shard; their number is fixed at `init`.
    pub cores: Vec<usize>,
    /// Largest UDP payload that a path may carry; discovery finds the real one below it.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Buffer arena of the whole node, shared out among the shards.
    #[serde(default = "default_pool_bytes")]
    pub pool_bytes: u64,
    /// Seconds between two GC barriers.
    #[serde(default = "default_gc_seconds")]
    pub gc_seconds: u64,
    /// Seconds of silence after which another node of the site counts as dead, and what it held is rebuilt elsewhere.
    #[serde(default = "default_dead_after_seconds")]
    pub dead_after_seconds: u64,
    /// Part of a shard's time that scrubbing takes, in percent; 0: it is done when ordered only.
    #[serde(default = "default_scrub_percent")]
    pub scrub_percent: u8,
    /// Whether peers are asked for chunks that the site has lost.
    #[serde(default = "default_refetch")]
    pub refetch: bool,
    /// How long the certificates that the node issues for itself are good; it renews them after two thirds of that.
    #[serde(default = "default_certificate_seconds")]
    pub certificate_seconds: u64,
}

fn default_refetch() -> bool {
    true
}

fn default_certificate_seconds() -> u64 {
    super::limits::NODE_CERTIFICATE_SECONDS
}

fn default_scrub_percent() -> u8 {
    super::limits::DEFAULT_SCRUB_PERCENT
}

fn default_dead_after_seconds() -> u64 {
    super::limits::DEFAULT_DEAD_AFTER_SECONDS
}

fn default_mtu() -> u16 {
    // Every path carries Ethernet's 1500 minus IPv6 and UDP headers.
    1452
}

fn default_pool_bytes() -> u64 {
    // Thirty stripes of the default chunk at 4+2, and half of what a node may hold resident.
    224 << 20
}

fn default_gc_seconds() -> u64 {
    300
}

/// Why a configuration is no use.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read or written.
    Io(PathBuf, std::io::Error),
    /// The file says something it may not.
    Invalid(PathBuf, String),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Invalid(path, reason) => write!(f, "{}: {}", path.display(), reason.trim_end()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl NodeConfig {
    /// Settings that only `init` decides; everything else as documented above.
    pub fn new(listen: SocketAddr, devices: Vec<PathBuf>, cores: Vec<usize>) -> Self {
        Self {
            listen,
            advertise: None,
            devices,
            cores,
            mtu: default_mtu(),
            pool_bytes: default_pool_bytes(),
            gc_seconds: default_gc_seconds(),
            dead_after_seconds: default_dead_after_seconds(),
            scrub_percent: default_scrub_percent(),
            refetch: default_refetch(),
            certificate_seconds: default_certificate_seconds(),
        }
    }

    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Io(path.to_owned(), error))?;
        Self::parse(&text).map_err(|reason| ConfigError::Invalid(path.to_owned(), reason))
    }

    /// Reads and checks what a file says. The error is what is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| sentence(text, &error))?;
        config.check()?;
        Ok(config)
    }

    /// What [`NodeConfig::parse`] reads.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// Writes `path`.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        let invalid = |error: toml::ser::Error| ConfigError::Invalid(path.to_owned(), error.to_string());
        let text = self.to_text().map_err(invalid)?;
        let write = || {
            let mut file = File::create(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| ConfigError::Io(path.to_owned(), error))
    }

    /// Bytes of each shard's arena.
    pub fn pool_bytes_per_shard(&self) -> usize {
        (self.pool_bytes as usize / self.cores.len()).max(super::limits::MIN_POOL_BYTES)
    }

    /// Where peers and clients are told to find the node.
    pub fn advertised(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    fn check(&self) -> Result<(), String> {
        if self.devices.is_empty() {
            return Err("`devices` is empty: name at least one file or block device".into());
        }
        if let Some(twice) = repeated(&self.devices) {
            return Err(format!("`devices` names {} twice", twice.display()));
        }
        if self.cores.is_empty() || self.cores.len() > super::limits::MAX_SHARDS {
            return Err("`cores` names no core, or more than 64".into());
        }
        if let Some(twice) = repeated(&self.cores) {
            return Err(format!("`cores` names core {twice} twice"));
        }
        for address in [self.listen, self.advertised()] {
            if usize::from(address.port()) + self.cores.len() - 1 > usize::from(u16::MAX) {
                let shards = self.cores.len();
                return Err(format!("{shards} shards need {shards} ports from {address} on, up to 65535"));
            }
        }
        if self.advertise.is_some_and(|address| address.ip().is_unspecified() || address.port() == 0) {
            return Err("`advertise` names no address that anybody could reach".into());
        }
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return Err(format!("`mtu` is outside {MIN_MTU} to {MAX_MTU}"));
        }
        if self.scrub_percent > 100 {
            return Err("`scrub_percent` is above 100".into());
        }
        if self.pool_bytes < super::limits::MIN_POOL_BYTES as u64 {
            return Err(format!("`pool_bytes` is below {}, the least that works", super::limits::MIN_POOL_BYTES));
        }
        if !(2..=86_400).contains(&self.dead_after_seconds) {
            return Err("`dead_after_seconds` is outside 2 seconds to 1 day".into());
        }
        if !(10..=super::limits::CERTIFICATE_LIFE.as_secs()).contains(&self.certificate_seconds) {
            return Err("`certificate_seconds` is outside 10 seconds to 10 years".into());
        }
        if !(1..=86_400 * 7).contains(&self.gc_seconds) {
            return Err("`gc_seconds` is outside 1 second to 7 days".into());
        }
        Ok(())
    }
}

/// An item that stands in a list more than once.
pub(super) fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)).map(|(_, item)| item)
}

/// What TOML's parser says, in one line.
fn sentence(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let reason = error.message().replace('\n', " ");
    line.map_or_else(|| reason.clone(), |line| format!("line {line}: {reason}"))
}
