//! A node: its directory, its shards, what they answer and what they do by themselves.
//!
//! Where to start: [`init`](init()) makes one, [`run`](run()) runs it on the real machine, a simulator runs what
//! [`shard_seeds`] gives with [`run_shard`]; `start` builds a shard, `server` answers callers, `receiving` and `sending`
//! federate, `collecting` keeps house.

mod aside;
mod auditing;
mod authority;
mod backing_up;
mod beating;
mod certificates;
mod chunks;
mod clocks;
mod collecting;
pub mod config;
mod creating;
mod devices;
pub mod directory;
mod dumping;
mod entering;
mod error;
mod expiring;
mod failing_over;
mod fragments;
mod identities;
mod init;
mod joining;
pub mod keys;
mod leases;
mod leaving;
pub mod limits;
mod links;
mod membership;
mod mending;
mod moving;
mod noting;
mod pacing;
mod peers;
mod receiving;
mod recovered;
mod recovering;
mod recut;
mod refetching;
mod renewing;
mod repairing;
mod replacing;
mod restoring;
mod routing;
mod run;
mod scrubbing;
mod seed;
mod sending;
mod server;
mod shard;
mod snapshots;
mod start;
mod status;
mod switching;
mod token;
mod trailing;

pub use authority::issuing_parts;
pub use directory::DirectoryError;
pub use entering::{JoinOptions, ask_to_join, enter, join};
pub use error::NodeError;
pub use init::{InitOptions, NodeOptions, SitePlan, announce, export_context, format_options, found, init};
pub use keys::{HeldKey, SystemKey};
pub(crate) use noting::LocalOrder;
pub use peers::token_site;
pub use recovering::{carry_out, read_report, report, write_report};
pub(crate) use renewing::refuse_part;
pub use replacing::{AddOptions, ReplaceOptions, add, replace};
pub use restoring::{Filling, RestoringFile, found_restored, make_restored, restore_done, resume_restored};
pub use run::run;
pub use seed::{ShardSeed, Stopper, Storage, shard_seeds};
pub use start::run_shard;
