//! Names for things: fixed-width identifiers that are never confused with one another, and labels that people type.

use crate::field::{DecodeError, Field, Reader};
use crate::limits;

macro_rules! id_bytes {
    ($(#[$meta:meta])* $name:ident, $width:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $width]);

        impl $name {
            /// Parses the hexadecimal form that `Display` prints.
            pub fn parse(text: &str) -> Option<Self> {
                let mut out = [0; $width];
                parse_hex(text, &mut out).then_some(Self(out))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl Field for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self(input.array()?))
            }
        }
    };
}

/// Bytes as two digits each, as ids are shown.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn parse_hex(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return false;
    }
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        let (Some(high), Some(low)) = ((pair[0] as char).to_digit(16), (pair[1] as char).to_digit(16)) else {
            return false;
        };
        *byte = (high << 4 | low) as u8;
    }
    true
}

id_bytes!(
    /// A site, drawn at random when it is made.
    SiteId, 16
);
id_bytes!(
    /// A tenant.
    TenantId, 16
);
id_bytes!(
    /// A log. The same at every site that holds a copy of it.
    LogId, 16
);
id_bytes!(
    /// A key epoch of a tenant.
    EpochId, 16
);
id_bytes!(
    /// One client operation; a retry carries the same id, so that it is applied once.
    OperationId, 16
);
id_bytes!(
    /// A device, drawn at random when its superblock is written.
    DeviceId, 16
);
id_bytes!(
    /// BLAKE3 of a sealed chunk.
    ChunkId, 32
);
id_bytes!(
    /// The keyed hash that stands for an object's name.
    BlindName, 32
);
id_bytes!(
    /// BLAKE3 of an encoded delta; the next delta of the log carries it.
    DeltaHash, 32
);

impl DeltaHash {
    /// What the first delta of a log carries as its previous hash.
    pub const ZERO: Self = Self([0; 32]);
}

macro_rules! id_number {
    ($(#[$meta:meta])* $name:ident, $number:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $number);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
        impl Field for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self(Field::decode(input)?))
            }
        }
    };
}

id_number!(
    /// A node of a site, counted from 1.
    NodeId, u64
);
id_number!(
    /// A Raft group of a site: 0 is the control group, log groups count from 1.
    GroupId, u32
);

impl NodeId {
    /// The number under which the node votes in a group. A node that left a group and comes back has forgotten its votes and
    /// its log, so it comes back as somebody else: `stint` counts. In its first one it is its node's number.
    pub fn member(self, stint: u32) -> Self {
        Self(self.0 & u64::from(u32::MAX) | u64::from(stint) << 32)
    }

    /// Which stint a member's number is for.
    pub fn stint(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The node behind a member's number.
    pub fn node(self) -> Self {
        Self(self.0 & u64::from(u32::MAX))
    }
}

impl GroupId {
    /// The site's metadata group.
    pub const CONTROL: Self = Self(0);

    /// The log group that holds `log` at a site with `groups` log groups. Fixed when the site is made.
    pub fn of_log(log: LogId, groups: u32) -> Self {
        assert!(groups > 0, "a site has at least one log group");
        Self(1 + (first_u64(&log.0) % u64::from(groups)) as u32)
    }

    /// The shard that runs this group on a node with `shards` shards.
    pub fn shard(self, shards: u16) -> u16 {
        assert!(shards > 0, "a node has at least one shard");
        (self.0 % u32::from(shards)) as u16
    }
}

impl ChunkId {
    /// The shard that coordinates this chunk on a node with `shards` shards. The id is a hash, so its first bytes are uniform.
    pub fn shard(self, shards: u16) -> u16 {
        assert!(shards > 0, "a node has at least one shard");
        (first_u64(&self.0) % u64::from(shards)) as u16
    }
}

fn first_u64(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(first)
}

/// A site's, tenant's or log's name: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit. Not secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// Checks the rules above.
    pub fn parse(text: &str) -> Option<Self> {
        let rule = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let first = *text.as_bytes().first()?;
        let good = text.len() <= limits::MAX_LABEL_BYTES
            && text.bytes().all(rule)
            && (first.is_ascii_lowercase() || first.is_ascii_digit());
        good.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Field for Label {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.0.len() as u8).encode(out);
        out.extend_from_slice(self.0.as_bytes());
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let length = usize::from(u8::decode(input)?);
        let bytes = input.take(length)?;
        std::str::from_utf8(&bytes).ok().and_then(Self::parse).ok_or(DecodeError::Invalid { what: "label" })
    }
}

/// Hybrid logical clock: milliseconds since 1970 in the high 48 bits, a counter in the low 16 (Kulkarni et al., 2014).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first instant of a millisecond.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms << 16)
    }
    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }
    /// The next instant.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Field for Hlc {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self(u64::decode(input)?))
    }
}
