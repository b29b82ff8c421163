//! Random histories of a store over simulated devices: puts, reads, GC and compaction, cut short by power cuts and
//! kills, under every fault that a device has. What was acknowledged is read back as its receipt promises; no read is
//! ever wrong; space comes back.
//!
//! `FARSIDE_HISTORIES=10000 cargo test -p farside --test store_histories histories` runs the long version.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod store_support;

use farside_io::sim::histories;
use store_support::history::{self, Pools};

/// About a minute on one core.
const HISTORIES: u64 = 2000;

#[test]
fn histories_lose_nothing() {
    let pools = Pools::new();
    let name = "-p farside --test store_histories histories_lose_nothing";
    histories::run(name, HISTORIES, |seed, journal| history::run(seed, journal, &pools));
}
