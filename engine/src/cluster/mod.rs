//! Decisions about the nodes of a site, as plain values: who votes where ([`membership`]), who is on the map ([`map`]),
//! which node gets which fragment of a stripe ([`spread`]), whether what is stored would fit elsewhere ([`room`]), whose clock
//! is wrong ([`clocks`]), and how a site goes on that has lost a quorum ([`recovery`]).
//! Drivers in `node/` carry them out.

pub mod clocks;
pub mod map;
pub mod membership;
pub mod recovery;
pub mod room;
pub mod spread;
