//! Farside: decides and does. The chunk store, state, federation, keys, node, client and the `farside` binary.

pub mod client;
pub mod federation;
pub mod framed;
pub mod kms;
pub mod node;
pub mod state;
pub mod store;
pub mod tree;
