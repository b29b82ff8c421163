//! What a delta's sealed payload says about its object: the name and everything that only the tenant may know.

use super::chunk::ChunkSecret;
use crate::{choice, record};
use bytes::Bytes;

choice!(
    /// What an object is.
    ObjectKind {
        /// Bytes.
        File = 1,
        /// A symbolic link and its target.
        Link(Bytes) = 2,
        /// A directory: recorded for its mode and time, and because it may be empty.
        Directory = 3,
    }
);

record!(
    /// An object, as its owner sees it.
    ObjectRecord {
        /// Its name: any bytes.
        name: Bytes,
        /// What it is.
        kind: ObjectKind,
        /// Permission bits, as in stat(2).
        mode: u32,
        /// Modification time: seconds since 1970, two's complement.
        modified_seconds: u64,
        /// And nanoseconds.
        modified_nanoseconds: u32,
        /// Length of the contents.
        size_bytes: u64,
        /// BLAKE3 of the contents.
        digest: [u8; 32],
        /// What opens the chunks that this delta names, in its order.
        chunks: Vec<ChunkSecret>,
    }
);
