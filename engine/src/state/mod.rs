//! What groups agree on, kept in order: the log groups' deltas and names, and the control group's tenants, logs, peers.
//!
//! One redb file a shard holds all of its groups. It is a cache of what snapshots and write-ahead log hold.

mod accept;
mod aside;
pub mod audit;
mod authorities;
mod backend;
mod backups;
mod control;
mod database;
mod dump;
mod fence;
mod holds;
mod identities;
mod keys;
pub mod limits;
pub(crate) mod lineage;
mod log_group;
mod nodes;
mod peers;
mod place;
mod preview;
mod prune;
mod queries;
mod recover;
mod rows;
mod seeding;
mod snapshot;

pub use authorities::{depends as authority_depends, waits as authority_waits};
pub use control::{ControlState, ControlView};
pub use database::{Database, Opened};
pub use dump::{Dump, Part, chunks_in, logs_in, logs_of_part, restored_control, rows_of_part};
pub use log_group::LogGroupState;
pub use queries::{LogView, Missing, PeerHeld, PeerLag, StoredDelta};
pub use rows::{Lease, Seeding};
