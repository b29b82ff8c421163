//! Every limit of the formats, in one place, tied together by `const` assertions.

/// Largest chunk, sealed or plain, without its tags: design.md fixes 16 MiB.
pub const MAX_CHUNK_PLAIN_BYTES: usize = 16 << 20;
/// Chunk size that clients cut objects into unless told otherwise.
pub const DEFAULT_CHUNK_PLAIN_BYTES: usize = 4 << 20;
/// Plaintext bytes under one AEAD tag: small enough for range reads, large enough that a tag costs 0.02 %.
pub const SEGMENT_PLAIN_BYTES: usize = 64 << 10;
/// AES-256-GCM tag.
pub const TAG_BYTES: usize = 16;
/// Largest sealed chunk: ciphertext plus one tag a segment.
pub const MAX_CHUNK_SEALED_BYTES: usize =
    MAX_CHUNK_PLAIN_BYTES + MAX_CHUNK_PLAIN_BYTES / SEGMENT_PLAIN_BYTES * TAG_BYTES;
/// Unit of O_DIRECT, of block checksums and of every on-disk position.
pub const BLOCK_BYTES: usize = 4096;
/// Chunks that one delta may name; larger objects use extent deltas.
pub const MAX_CHUNKS_PER_DELTA: usize = 4096;
/// Objects up to this many plaintext bytes ride in their delta.
pub const MAX_INLINE_PLAIN_BYTES: usize = 16 << 10;
/// An object's name, and a link's target: what Linux calls PATH_MAX.
pub const MAX_NAME_BYTES: usize = 4096;
/// Sealed delta payload: 36 bytes for each of 4,096 chunks, a name, a link target, and room to grow.
pub const MAX_PAYLOAD_BYTES: usize = 192 << 10;
/// One encoded delta: header, chunk list, payload, inline data.
pub const MAX_DELTA_BYTES: usize = 512 << 10;
/// One frame that is not a chunk body.
pub const MAX_FRAME_BYTES: usize = 4 << 20;
/// One byte field inside a record.
pub const MAX_BYTES_FIELD: usize = MAX_FRAME_BYTES;
/// Text inside a record (an error's detail, an endpoint, a URL).
pub const MAX_TEXT: usize = 4096;
/// Items of one list inside a record.
pub const MAX_LIST: usize = 65_536;
/// Deltas proposed or federated in one request.
pub const MAX_DELTAS_PER_REQUEST: usize = 256;
/// Bytes of encoded deltas in one request; one delta always fits.
pub const MAX_DELTAS_BYTES_PER_REQUEST: usize = 1 << 20;
/// Chunk ids in one have question.
pub const MAX_CHUNKS_PER_QUESTION: usize = 4096;
/// A site, tenant or log name.
pub const MAX_LABEL_BYTES: usize = 63;
/// Data plus parity fragments of one stripe: more than one to a device is no use, and their indexes fit a byte.
pub const MAX_FRAGMENTS: usize = 128;
/// How far another clock may be ahead of ours before its time is refused: NTP-kept machines are within milliseconds.
pub const MAX_CLOCK_SKEW_MS: u64 = 60_000;

const _: () = assert!(MAX_DELTA_BYTES > MAX_CHUNKS_PER_DELTA * 36 + MAX_PAYLOAD_BYTES + MAX_INLINE_PLAIN_BYTES + 4096);
const _: () = assert!(MAX_DELTAS_BYTES_PER_REQUEST > MAX_DELTA_BYTES);
const _: () = assert!(MAX_DELTAS_BYTES_PER_REQUEST + MAX_DELTA_BYTES < MAX_FRAME_BYTES);
const _: () = assert!(MAX_CHUNKS_PER_QUESTION <= MAX_LIST);
const _: () = assert!(SEGMENT_PLAIN_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(MAX_PAYLOAD_BYTES > MAX_CHUNKS_PER_DELTA * 36 + 2 * MAX_NAME_BYTES + 4096);
