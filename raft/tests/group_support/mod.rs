//! What the group's histories are made of: a ledger as the state machine, nodes that die and come back, the room between
//! them, elections in which votes are forgotten if they can be, and the history that drives them all.

mod contest;
pub(crate) mod history;
pub(crate) mod ledger;
pub(crate) mod room;
