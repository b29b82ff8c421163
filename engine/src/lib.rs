//! Farside: decides and does. The chunk store, state, federation, keys, node, client and the `farside` binary.

pub mod backup;
pub mod bench;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod federation;
pub mod framed;
mod interrupt;
pub mod kms;
pub mod machine;
pub mod node;
pub mod placement;
pub mod state;
pub mod store;
mod terminal;
mod times;
pub mod tree;
mod whole_file;
