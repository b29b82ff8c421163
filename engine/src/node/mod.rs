//! A node: its directory, its shards, what they answer and what they do by themselves.
//!
//! Where to start: [`init`](init()) makes one, [`run`](run()) runs it; `start` builds a shard, `server` answers callers,
//! `receiving` and `sending` federate, `collecting` keeps house.

mod collecting;
pub mod config;
pub mod directory;
mod error;
mod failing_over;
mod init;
pub mod limits;
mod links;
mod peers;
mod receiving;
mod run;
mod sending;
mod server;
mod shard;
mod snapshots;
mod start;
mod status;

pub use error::NodeError;
pub use init::{InitOptions, export_context, init};
pub use peers::token_site;
pub use run::run;
