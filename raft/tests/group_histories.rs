//! Random histories of one group on three to six nodes: voters come and go, nodes are killed and lose power, ways between
//! them are cut, slow and lossy, leaders hand over. What was acknowledged is kept, at the place that its receipt named; no
//! two nodes apply different commands at one place; a read that a leader confirmed misses nothing; and once nothing goes
//! wrong any more, everybody who is to have the log has it.
//!
//! `FARSIDE_HISTORIES=10000 cargo test -p farside-raft --test group_histories` runs the long version.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod group_support;

use farside_io::sim::histories;
use group_support::history;

/// About a quarter of a minute on one core.
const HISTORIES: u64 = 135;

#[test]
fn histories_are_linearizable() {
    let name = "-p farside-raft --test group_histories histories_are_linearizable";
    histories::run(name, HISTORIES, history::run);
}
