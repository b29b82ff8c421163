//! Every bound of the transport, in one place.

use farside_codec::limits::{MAX_CHUNK_SEALED_BYTES, MAX_FRAME_BYTES};
use std::time::Duration;

/// Smallest UDP payload that every QUIC path carries (RFC 9000, section 14).
pub const MIN_MTU: u16 = 1200;
/// Largest UDP payload ever asked for: one such datagram still fits one UDP send.
pub const MAX_MTU: u16 = 65_000;
/// Bytes of datagrams that go to the kernel in one call: a UDP send carries at most 64 KiB, segmented or not.
pub const BATCH_BYTES: usize = 65_000;
/// Datagrams that the kernel segments out of one call (UDP_MAX_SEGMENTS).
pub const MAX_SEGMENTS: usize = 64;
/// Connections of one listener, both classes together: hundreds of clients and a few peers a shard.
pub const MAX_CONNECTIONS: usize = 1024;
/// Callers whose handshake nobody has taken up yet.
pub const MAX_ARRIVALS: usize = 256;
/// Bytes kept for each of them: a client's first flight, post-quantum key share included, is under 4 KiB.
pub const ARRIVAL_BYTES: u64 = 16 << 10;
/// Bodies that one connection sends at a time. A chunk that has arrived is worth more than two halves, and two keep the
/// send window full; further ones wait in line before their stream is opened, so that none of them seems to stall.
pub const BODIES_AT_A_TIME: usize = 2;
/// Bytes that a connection for bodies carries at least, both ways, in the time after which a stream of it that stands still
/// would be given up: more than keeping alive and looking for a larger MTU take, and half a KiB a second by default.
pub const MOVING_BYTES: u64 = 16 << 10;
/// Bytes that may pass by a stream that stands still: other bodies that have their turn before it, what the window holds
/// of still others, and some of that twice. Once more has passed it is not the line that holds it up.
pub const PASSED_BYTES: u64 = 64 << 20;
/// Bytes that a request takes besides itself where a node passes it on to another one: its caller's name, and more.
pub const FORWARD_BYTES: usize = 4096;
/// Largest request that can be passed on. Whether a larger one were answered would depend on the node that it came to.
pub const MAX_FORWARDED_BYTES: usize = MAX_FRAME_BYTES - FORWARD_BYTES;
/// First wait after a failed attempt to connect.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Longest wait between attempts: a peer that comes back is found within two seconds.
pub const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// Code with which a connection is closed (RFC 9000, section 19.19); what it says beside is for people.
pub const CLOSED: u32 = 1;
/// Code with which one is closed whose caller's identity was revoked meanwhile.
pub const CLOSED_REVOKED: u32 = 2;
/// Code with which one is closed whose caller's certificate has expired meanwhile.
pub const CLOSED_EXPIRED: u32 = 3;
/// Bytes of a certificate's subject.
pub const MAX_SUBJECT_BYTES: usize = 128;

const _: () = assert!(FORWARD_BYTES > 16 * MAX_SUBJECT_BYTES);
const _: () = assert!(PASSED_BYTES > (BODIES_AT_A_TIME * MAX_CHUNK_SEALED_BYTES) as u64 && MOVING_BYTES < PASSED_BYTES);
const _: () = assert!(MIN_MTU < MAX_MTU && (MAX_MTU as usize) <= BATCH_BYTES && BATCH_BYTES < 65_507);
const _: () = assert!(MAX_ARRIVALS as u64 * ARRIVAL_BYTES <= 4 << 20);
