//! What the log's histories are made of: a model of what records add up to, groups that write them as Raft does,
//! mirrors with their fates, and the lives that drive them.

pub(crate) mod groups;
pub(crate) mod history;
pub(crate) mod mirrors;
pub(crate) mod model;
