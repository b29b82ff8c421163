//! Promotion, fencing and failback, explored to the end for small numbers of sites, writes, promotions and failures:
//! every order of events within the bounds, on the engine's own state machines. docs/model.md says what that shows.
//!
//! `FARSIDE_MODEL=long cargo test --release -p farside-tests --test model -- --nocapture` goes further than `cargo test`.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod copies;
mod independence;
mod items;
mod judging;
mod senders;
mod settling;
mod telling;
mod world;

use farside_codec::ids::LogId;
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::time::{Duration, Instant};
use world::{Bounds, World};

/// The log that is explored. `independence` says why one is enough.
const LOG: LogId = LogId([9; 16]);
/// A run that takes longer is too large for its bounds.
const LONG: Duration = Duration::from_secs(3600);

fn is_long() -> bool {
    std::env::var("FARSIDE_MODEL").is_ok_and(|value| value == "long")
}

/// Explores everything within the bounds; prints how much that was, and the way to whatever must not be.
fn explore(name: &str, bounds: Bounds) {
    let begun = Instant::now();
    let threads = if is_long() { 2 } else { 1 };
    let checker = World::new(LOG, bounds).checker().threads(threads).timeout(LONG);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let world = checker.model();
    println!(
        "{name}: {} states ({} reached in all) to depth {} in {:.1} s; of the engine {:?} copies and {:?} senders",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
        world.copies.counts(),
        world.senders.counts()
    );
    for property in world.properties() {
        match (checker.discovery(property.name), property.expectation) {
            (Some(path), Expectation::Always) => {
                panic!("{name}: not so: {}\n{}", property.name, telling::story(world, path))
            }
            (None, Expectation::Sometimes) => panic!("{name}: it never happened: {}", property.name),
            (Some(path), _) => println!("{name}: after {} steps: {}", path.into_actions().len(), property.name),
            (None, _) => {}
        }
    }
    assert!(begun.elapsed() < LONG, "{name}: the time was over before everything was seen");
}

const SMALL: [(&str, Bounds); 5] = [
    ("two sites, one failover", Bounds { sites: 2, writes: 2, orders: 1, breaks: 0, moves: 0, flight: 3, beats: true }),
    (
        "two sites, failover and failback",
        Bounds { sites: 2, writes: 1, orders: 2, breaks: 1, moves: 0, flight: 2, beats: false },
    ),
    (
        "three sites, one failover",
        Bounds { sites: 3, writes: 1, orders: 1, breaks: 0, moves: 0, flight: 2, beats: false },
    ),
    (
        "two sites, switchover and back",
        Bounds { sites: 2, writes: 2, orders: 0, breaks: 1, moves: 2, flight: 2, beats: false },
    ),
    (
        "two sites, switchover and failover",
        Bounds { sites: 2, writes: 1, orders: 1, breaks: 0, moves: 1, flight: 3, beats: false },
    ),
];

const LARGE: [(&str, Bounds); 6] = [
    ("two sites, one failover", Bounds { sites: 2, writes: 2, orders: 1, breaks: 1, moves: 0, flight: 3, beats: true }),
    (
        "two sites, three writes",
        Bounds { sites: 2, writes: 3, orders: 1, breaks: 0, moves: 0, flight: 3, beats: false },
    ),
    (
        "two sites, failover and failback",
        Bounds { sites: 2, writes: 2, orders: 2, breaks: 1, moves: 0, flight: 3, beats: false },
    ),
    (
        "three sites, two failovers",
        Bounds { sites: 3, writes: 1, orders: 2, breaks: 0, moves: 0, flight: 2, beats: false },
    ),
    (
        "two sites, switchovers and a failover",
        Bounds { sites: 2, writes: 2, orders: 1, breaks: 1, moves: 2, flight: 3, beats: false },
    ),
    (
        "three sites, switchover and failover",
        Bounds { sites: 3, writes: 1, orders: 1, breaks: 0, moves: 1, flight: 2, beats: false },
    ),
];

#[test]
fn one_failover_between_two_sites() {
    let (name, bounds) = SMALL[0];
    explore(name, bounds);
}

#[test]
fn failover_and_failback_between_two_sites() {
    let (name, bounds) = SMALL[1];
    explore(name, bounds);
}

#[test]
fn one_failover_among_three_sites() {
    let (name, bounds) = SMALL[2];
    explore(name, bounds);
}

#[test]
fn switchover_and_back_between_two_sites() {
    let (name, bounds) = SMALL[3];
    explore(name, bounds);
}

#[test]
fn a_switchover_and_a_failover_of_two_sites() {
    let (name, bounds) = SMALL[4];
    explore(name, bounds);
}

#[test]
fn larger_worlds() {
    if is_long() {
        LARGE.into_iter().for_each(|(name, bounds)| explore(name, bounds));
    }
    // Seven numbers are bounds of one's own: sites, writes, orders, breaks, moves, flight, beats.
    let numbers = std::env::var("FARSIDE_MODEL").unwrap_or_default();
    let numbers: Vec<usize> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
    if let [sites, writes, orders, breaks, moves, flight, beats] = numbers[..] {
        let [writes, orders, breaks, moves] = [writes, orders, breaks, moves].map(|number| number as u8);
        explore("bounds of one's own", Bounds { sites, writes, orders, breaks, moves, flight, beats: beats > 0 });
    }
}
