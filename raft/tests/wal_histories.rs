//! Random histories of a write-ahead log on one to three simulated mirrors: appends of several groups at once, cut short
//! by power cuts and kills, with mirrors that fail, lie, go away and come back old. What was reported flushed is there
//! after every start, in exactly the order in which it was appended; nothing that was dropped comes back; damage below
//! the durable watermark is told and never taken for a torn tail.
//!
//! `FARSIDE_HISTORIES=10000 cargo test -p farside-raft --test wal_histories` runs the long version.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod wal_support;

use farside_io::pool::Pool;
use farside_io::sim::histories;
use wal_support::history;

/// About half a minute on one core.
const HISTORIES: u64 = 370;

#[test]
fn histories_keep_what_was_flushed() {
    let pool = Pool::new(24 << 20).expect("an arena");
    let name = "-p farside-raft --test wal_histories histories_keep_what_was_flushed";
    histories::run(name, HISTORIES, |seed, journal| history::run(seed, journal, &pool));
}
