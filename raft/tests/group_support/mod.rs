//! What the group's histories are made of: a ledger as the state machine, nodes that die and come back, the room between
//! them, and the history that drives them.

mod contest;
pub(crate) mod history;
pub(crate) mod ledger;
pub(crate) mod room;
