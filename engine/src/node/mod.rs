//! A node: its directory, its shards, what they answer and what they do by themselves.
//!
//! Where to start: [`init`](init()) makes one, [`run`](run()) runs it on the real machine, a simulator runs what
//! [`shard_seeds`] gives with [`run_shard`]; `start` builds a shard, `server` answers callers, `receiving` and `sending`
//! federate, `collecting` keeps house.

mod collecting;
pub mod config;
mod devices;
pub mod directory;
mod error;
mod failing_over;
mod init;
pub mod limits;
mod links;
mod peers;
mod receiving;
mod run;
mod seed;
mod sending;
mod server;
mod shard;
mod snapshots;
mod start;
mod status;

pub use directory::DirectoryError;
pub use error::NodeError;
pub use init::{InitOptions, SitePlan, announce, export_context, format_options, found, init};
pub use peers::token_site;
pub use run::run;
pub use seed::{ShardSeed, Stopper, Storage, shard_seeds};
pub use start::run_shard;
