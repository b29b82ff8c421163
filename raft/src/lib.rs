//! openraft made ours: log on the shard's WAL, network over transport, one generic group.
//!
//! [`Group`] replicates a [`StateMachine`] of the caller's. Its log is [`wal::Wal`], shared by all groups of a shard;
//! its snapshots lie in a [`SnapshotStore`]; its messages go through a [`PeerNetwork`]. openraft's own API stays in here.

mod group;
pub mod limits;
mod machine;
pub mod message;
mod network;
pub mod offline;
mod runtime;
mod storage;
mod types;
pub mod wal;

pub use group::{Group, GroupError, GroupSettings, GroupStatus, MembershipError, ProposeError};
pub use machine::{Applied, SnapshotError, SnapshotPieces, SnapshotStore, StateError, StateMachine};
pub use network::{Alone, PeerError, PeerNetwork};
pub use runtime::seed_thread;
