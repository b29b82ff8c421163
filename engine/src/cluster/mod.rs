//! Decisions about the nodes of a site, as plain values: who votes where ([`membership`]), who is on the map ([`map`]), and
//! which node gets which fragment of a stripe ([`spread`]). Drivers in `node/` carry them out.

pub mod map;
pub mod membership;
pub mod spread;
