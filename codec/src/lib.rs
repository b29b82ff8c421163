//! What bytes mean: ids, frames, records, sealing, checksums, erasure coding. Pure: no I/O, no clock, no async.
//!
//! Where to start: [`frame`] for the header that precedes everything, [`delta`] for what a log is made of,
//! [`message`] for what is said between machines, [`command`] for what Raft groups agree on.

pub mod aside;
pub mod audit;
pub mod authority;
pub mod backup;
pub mod checksum;
pub mod cluster;
pub mod command;
pub mod delta;
pub mod dump;
pub mod erasure;
pub mod federation;
pub mod field;
pub mod frame;
pub mod identity;
pub mod ids;
pub mod kind;
pub mod limits;
pub mod message;
pub mod peer;
pub mod record;
pub mod recovery;
pub mod refusal;
pub mod seal;
pub mod sides;
pub mod stripe;

pub use field::{DecodeError, Field, Reader};
pub use frame::FrameHeader;
