//! Every limit of a backup's target, in one place.

use std::time::Duration;

/// Bytes of an object that is put: one request writes it whole, so that nothing is ever half there. S3 takes 5 GiB in one
/// request; 64 MiB is four of the largest chunks, and what is sent again after a failure.
pub const MAX_PUT_BYTES: u64 = 64 << 20;
/// Longest name of an object: with the prefix it stays below the 1,024 bytes of an S3 key.
pub const MAX_NAME_BYTES: usize = 512;
/// Longest prefix under which a backup lies.
pub const MAX_PREFIX_BYTES: usize = 256;
/// Longest URL of a target or an endpoint.
pub const MAX_URL_BYTES: usize = 4096;
/// Longest component of a name: that of a file.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Objects in one listing: with packs of 64 MiB they hold 256 TiB, and the listing takes about half a GiB of memory.
pub const MAX_LISTED: usize = 4_000_000;
/// How often one thing is tried: where a quarter of all requests fails, all eight do once in 65,000 times.
pub const ATTEMPTS: u32 = 8;
/// Before the second attempt, on average; twice as long before each further one.
pub const PAUSE: Duration = Duration::from_millis(200);
/// As long as that at most on average, unless the store asks for more. All pauses of one thing come to about 20 seconds.
pub const PAUSE_MOST: Duration = Duration::from_secs(10);
/// As long as a store is believed that asks to be left alone (Retry-After).
pub const RETRY_AFTER_MOST: Duration = Duration::from_secs(60);
/// After this no further attempt begins, however many are left. A store that throttles does so for seconds or minutes.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a connection may take to come about, TLS included.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a store may think about a request, beside the time that the bytes take, and between two pieces of an answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// A line that carries less than this is as good as cut: what a request may take beside `ANSWER_PATIENCE` is its bytes by this.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;
/// Pieces in which a body is handed over, so that a rate is kept within the body too.
pub const PIECE_BYTES: usize = 64 << 10;
/// What is read of an answer that is no object: errors and small documents.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Names that are asked for at once; S3 gives no more.
pub const PAGE_NAMES: usize = 1000;
/// What is read of one page of a listing: its names, with what stores say about each.
pub const MAX_PAGE_BYTES: usize = 8 << 20;
/// How much is shown of what a stranger wrote.
pub const SHOWN_CHARACTERS: usize = 300;
/// Rounds in which a probe lets two puts of one name race.
pub const PROBE_RACES: u32 = 8;
/// Hidden names that are tried for a file that is being written.
pub const HIDDEN_NAMES: usize = 64;

const _: () = assert!(MAX_NAME_BYTES + MAX_PREFIX_BYTES < 1024, "a key of S3");
const _: () = assert!(MAX_COMPONENT_BYTES < MAX_NAME_BYTES);
