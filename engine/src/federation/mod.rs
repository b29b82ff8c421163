//! What crosses between sites, decided by plain values: no clock, no I/O, no async.
//!
//! [`sender::Sender`] is the home's side of one log and one peer; [`receiver`] is what a copy answers; [`failover`]
//! decides whether this site may promote itself. The drivers in [`crate::node`] run what these ask for, and the
//! property tests drive them through every order of events.

pub mod doubt;
pub mod failover;
pub mod pace;
pub mod receiver;
pub mod sender;
pub mod trail;
