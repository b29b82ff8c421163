//! Why the store did not do what it was asked, sorted by who is to blame.

use farside_codec::erasure::Geometry;
use farside_codec::ids::ChunkId;

/// Why a chunk was not stored, read or forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The chunk is empty, larger than any chunk may be, or larger than this node's arena or segments can take.
    Size {
        /// Bytes announced.
        sealed_bytes: usize,
    },
    /// More or fewer bytes came than were announced.
    Length {
        /// Bytes announced.
        announced: usize,
        /// Bytes that came, or that would have come.
        got: usize,
    },
    /// The bytes are not the chunk that they were announced as.
    Mismatch(ChunkId),
    /// No fragment is named, one is named twice, or one that is not in its stripe.
    Fragments {
        /// Fragments of the stripe.
        total: usize,
    },
    /// Chunks can't be cut this way here: of the length that could be stored now, the largest could not.
    Geometry {
        /// The way.
        geometry: Geometry,
        /// The largest sealed chunk that could be stored.
        would_take: usize,
        /// The largest that can be stored now.
        takes: usize,
    },
    /// The chunk is here with another length than it was announced with.
    Contradiction(ChunkId),
    /// The range is empty, or ends past the fragment's end.
    FragmentRange {
        /// Bytes of the fragment.
        fragment_bytes: usize,
    },
    /// The range begins or ends past the chunk's end.
    Range {
        /// Bytes of the chunk.
        sealed_bytes: u32,
    },
    /// No such chunk, or not the fragment of it that was asked for.
    NotFound(ChunkId),
    /// The devices have no space left that a chunk of this priority may take.
    Full,
    /// Too few devices work for the chunk to survive a loss.
    Unavailable {
        /// Fragments that were or could be stored.
        fragments: usize,
        /// Fragments that must be.
        needed: usize,
    },
    /// Fewer fragments are good than the chunk needs.
    Corrupt(ChunkId),
    /// The shard is stopping.
    Stopped,
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Size { sealed_bytes } => {
                write!(f, "a chunk of {sealed_bytes} bytes can't be stored here; cut objects into smaller chunks")
            }
            Self::Length { announced, got } => write!(f, "the chunk was announced with {announced} bytes, {got} came"),
            Self::Mismatch(chunk) => write!(f, "the bytes are not chunk {chunk}"),
            Self::Fragments { total } => {
                write!(f, "fragments are named by number, each once and at least one, below {total}")
            }
            Self::Geometry { geometry, would_take, takes } => write!(
                f,
                "cut {geometry}, chunks of {would_take} bytes at most could be stored here, and of {takes} bytes they can be \
                 now: larger ones need larger devices or more buffers (`pool_bytes` in node.toml)"
            ),
            Self::Contradiction(chunk) => {
                write!(f, "chunk {chunk} is here with another length; one of the two is wrong")
            }
            Self::FragmentRange { fragment_bytes } => {
                write!(f, "the range is empty or ends past the fragment's {fragment_bytes} bytes")
            }
            Self::Range { sealed_bytes } => write!(f, "the range ends past the chunk's {sealed_bytes} bytes"),
            Self::NotFound(chunk) => write!(f, "chunk {chunk} is not here"),
            Self::Full => f.write_str("the devices are full; delete objects and wait for GC, or add devices"),
            Self::Unavailable { fragments, needed } => {
                write!(f, "too few devices work: {fragments} fragments could be stored, {needed} are needed")
            }
            Self::Corrupt(chunk) => {
                write!(f, "chunk {chunk} is damaged beyond its redundancy; put it again or fetch it from the peer")
            }
            Self::Stopped => f.write_str("the shard is stopping"),
        }
    }
}

impl std::error::Error for StoreError {}
