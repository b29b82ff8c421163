//! Which node of a site a client asks, and when it stops waiting for one: the choice against a plain account of what happened.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside::client::pulse::{ABSENT, Haste, LATE, Pulse, QUIET, STUCK, TICK};
use farside::client::route::{FIRST_REST, LAST_REST, MAX_NODES, PROBE_PATIENCE, Route, Target};
use farside_codec::ids::{ChunkId, LogId};
use farside_codec::message::{Failover, Request};
use farside_transport::{Class, Traffic};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn node(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 7400))
}

fn chunk(number: u64) -> Target {
    Target::Chunk(ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()))
}

fn log(number: u8) -> Target {
    Target::Log(LogId([number; 16]))
}

fn site(nodes: u8) -> Route {
    Route::new((1..=nodes).map(node))
}

fn first(route: &Route, target: Target, now: Duration) -> SocketAddr {
    route.choose(target, &BTreeSet::new(), now).expect("a node is known")
}

/// Where each of so many chunks goes.
fn places(route: &Route, now: Duration) -> Vec<SocketAddr> {
    (0..4000).map(|number| first(route, chunk(number), now)).collect()
}

#[test]
fn chunks_spread_and_only_those_of_a_silent_node_move() {
    let mut route = site(8);
    let before = places(&route, SECOND);
    let mut shares: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    before.iter().for_each(|place| *shares.entry(*place).or_default() += 1);
    assert!(shares.len() == 8 && shares.values().all(|share| (400..600).contains(share)), "{shares:?}");
    // Who answers is of no matter.
    route.answered(node(5), chunk(0));
    route.answered(node(6), log(0));
    assert_eq!(places(&route, SECOND), before);
    route.silent(node(3), SECOND);
    let without = places(&route, SECOND);
    for (before, now) in before.iter().zip(&without) {
        assert!(*now != node(3) && (*before == node(3) || now == before));
    }
    // Time alone brings nobody back: an answer does.
    let later = 60 * SECOND;
    assert_eq!(places(&route, later), without);
    assert_eq!(route.due(later), [node(3)]);
    assert_eq!(places(&route, later), without);
    route.probed(node(3), true, later);
    assert_eq!(places(&route, later), before);
}

#[test]
fn logs_stick_to_the_node_that_answered_last() {
    let mut route = site(5);
    for number in [4, 2, 5] {
        route.answered(node(number), log(9));
        route.answered(node(1), chunk(1));
        assert!((0..50).all(|target| first(&route, log(target), SECOND) == node(number)));
        assert_eq!(first(&route, Target::Any, SECOND), node(number));
    }
    // When it is gone, its logs spread over all others.
    route.silent(node(5), SECOND);
    let found: BTreeSet<SocketAddr> = (0..50).map(|target| first(&route, log(target), SECOND)).collect();
    assert_eq!(found, (1..5).map(node).collect());
}

#[test]
fn not_now_counts_for_the_kind_that_was_refused_and_ends_by_itself() {
    let mut route = site(3);
    route.answered(node(2), Target::Any);
    let chunks = places(&route, SECOND);
    route.refused(node(2), log(1), SECOND, Duration::from_millis(100));
    assert_ne!(first(&route, log(1), SECOND), node(2));
    assert_eq!(places(&route, SECOND), chunks, "what one log waits for is no reason to move chunks");
    assert_eq!(first(&route, log(1), SECOND + FIRST_REST), node(2));
    route.refused(node(2), log(1), 4 * SECOND, Duration::from_secs(3600));
    assert_ne!(first(&route, log(1), 4 * SECOND + LAST_REST - TICK), node(2));
    assert_eq!(first(&route, log(1), 4 * SECOND + LAST_REST), node(2), "nobody is asked to stay away for ever");
    assert!(route.due(9 * SECOND).is_empty(), "who refuses is not silent");
}

#[test]
fn a_node_that_stays_silent_is_probed_ever_less_often() {
    let mut route = site(2);
    let (mut now, mut waits) = (SECOND, Vec::new());
    route.silent(node(1), now);
    for _ in 0..6 {
        let begun = now;
        // Everybody who still waits for it says the same.
        route.silent(node(1), now);
        while route.due(now).is_empty() {
            now += Duration::from_millis(50);
        }
        waits.push((now - begun).as_millis());
        assert!(route.due(now + PROBE_PATIENCE).is_empty(), "one probe at a time");
        now += PROBE_PATIENCE;
        route.probed(node(1), false, now);
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
    // To answer a probe is not to be of use.
    now += LAST_REST;
    assert_eq!(route.due(now), [node(1)]);
    route.probed(node(1), true, now);
    route.silent(node(1), now);
    assert!(route.due(now + LAST_REST - TICK).is_empty());
    route.answered(node(1), chunk(1));
    route.silent(node(1), now);
    assert_eq!(route.due(now + FIRST_REST), [node(1)]);
}

#[test]
fn nodes_that_are_learnt_replace_those_that_do_not_answer() {
    let mut route = Route::new([node(1), node(2), node(3)]);
    route.answered(node(1), log(1));
    route.answered(node(3), chunk(1));
    route.silent(node(3), SECOND);
    route.learn([]);
    assert!((1..=3).all(|number| route.knows(node(number))), "a site that names no node changes nothing");
    route.learn([node(4), node(5)]);
    let known: Vec<u8> = (1..=6).filter(|number| route.knows(node(*number))).collect();
    assert_eq!(known, [1, 4, 5]);
    assert_eq!(first(&route, log(1), SECOND), node(1));
    route.silent(node(1), SECOND);
    route.learn([node(4), node(5)]);
    assert!(!route.knows(node(1)) && first(&route, log(1), SECOND) != node(1));
    route.learn((0..=u16::MAX).map(|port| SocketAddr::from(([10, 0, 1, 1], port))));
    let mut tried = BTreeSet::new();
    while let Some(address) = route.choose(log(1), &tried, SECOND) {
        tried.insert(address);
    }
    assert_eq!(tried.len(), MAX_NODES);
}

#[derive(Debug, Clone)]
enum Event {
    Answered(u8, bool),
    Silent(u8),
    Refused(u8, bool),
    Probes(bool),
    Passes(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let number = 1..=6u8;
    prop_oneof![
        (number.clone(), any::<bool>()).prop_map(|(number, is_chunk)| Event::Answered(number, is_chunk)),
        number.clone().prop_map(Event::Silent),
        (number, any::<bool>()).prop_map(|(number, is_chunk)| Event::Refused(number, is_chunk)),
        any::<bool>().prop_map(Event::Probes),
        (0..3000u16).prop_map(Event::Passes),
    ]
}

fn target(is_chunk: bool) -> Target {
    if is_chunk { chunk(7) } else { log(7) }
}

proptest! {
    /// A node against which nothing speaks is chosen before any other, everybody is chosen in the end, and nobody twice.
    #[test]
    fn whoever_is_well_is_asked_first(events in proptest::collection::vec(event(), 0..60)) {
        let mut route = site(6);
        let (mut silent, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let mut now = SECOND;
        for event in events {
            match event {
                Event::Answered(number, is_chunk) => {
                    route.answered(node(number), target(is_chunk));
                    silent.remove(&node(number));
                    refused.remove(&(node(number), is_chunk));
                }
                Event::Silent(number) => {
                    route.silent(node(number), now);
                    silent.insert(node(number));
                }
                Event::Refused(number, is_chunk) => {
                    route.refused(node(number), target(is_chunk), now, Duration::ZERO);
                    silent.remove(&node(number));
                    refused.insert((node(number), is_chunk));
                }
                Event::Probes(answer) => for address in route.due(now) {
                    prop_assert!(silent.contains(&address));
                    route.probed(address, answer, now);
                    if answer {
                        silent.remove(&address);
                    }
                },
                Event::Passes(ms) => now += Duration::from_millis(u64::from(ms)),
            }
            for is_chunk in [false, true] {
                let mut tried = BTreeSet::new();
                let mut order = Vec::new();
                while let Some(address) = route.choose(target(is_chunk), &tried, now) {
                    prop_assert!(tried.insert(address));
                    order.push(address);
                }
                prop_assert_eq!(order.len(), 6);
                prop_assert!(order.is_sorted_by_key(|address| silent.contains(address)));
                // A refusal that is over, or not, comes before silence; those never refused come before all.
                let well = order.iter().position(|address| silent.contains(address)).unwrap_or(6);
                let spoken_against = |address: &SocketAddr| refused.contains(&(*address, is_chunk));
                let some_well = order[..well].iter().any(|address| !spoken_against(address));
                let first_resting = route.choose(target(is_chunk), &BTreeSet::new(), now + LAST_REST);
                prop_assert!(!some_well || first_resting.is_some_and(|address| !silent.contains(&address)));
            }
        }
    }
}

/// Feels a pulse each tick until it is silent; answers after how long. `traffic` is that of a moment.
fn silent_after(haste: Haste, traffic: impl Fn(Duration) -> Option<Traffic>) -> Option<Duration> {
    let mut pulse = Pulse::new(haste, SECOND);
    let mut passed = Duration::ZERO;
    while passed < 60 * SECOND {
        passed += TICK;
        if pulse.is_silent(SECOND + passed, traffic(passed)) {
            return Some(passed);
        }
    }
    None
}

#[test]
fn silence_is_no_answer_or_no_life() {
    let nobody = |_: Duration| None;
    for haste in [Haste::Answer, Haste::Life] {
        assert_eq!(silent_after(haste, nobody), Some(ABSENT), "{haste:?}: nobody was ever there");
        // A connection that came late has its whole time before it.
        let late = |passed: Duration| (passed > ABSENT / 2).then_some(Traffic { datagrams_received: 3, bytes: 4000 });
        let connected = ABSENT / 2 + TICK / 2;
        assert_eq!(silent_after(haste, late), Some(connected + QUIET), "{haste:?}");
    }
    assert_eq!(silent_after(Haste::Never, nobody), None);
    let nothing = |_: Duration| Some(Traffic { datagrams_received: 9, bytes: 9000 });
    assert_eq!(silent_after(Haste::Never, nothing), None);
    // The first tick finds what came before.
    assert_eq!(silent_after(Haste::Answer, nothing), Some(QUIET + TICK));
    assert_eq!(silent_after(Haste::Life, nothing), Some(QUIET + TICK));
    // A link of 64 KiB a second needs a minute for a chunk, and may take it; no short answer takes so long.
    let moving = |passed: Duration| {
        let pieces = passed.as_millis() as u64 / 200;
        Some(Traffic { datagrams_received: pieces, bytes: pieces * (13 << 10) })
    };
    assert_eq!(silent_after(Haste::Life, moving), None);
    assert_eq!(silent_after(Haste::Answer, moving), Some(LATE));
    // Dead after ten seconds of that.
    let dies = silent_after(Haste::Life, |passed| moving(passed.min(10 * SECOND)));
    assert_eq!(dies, Some(10 * SECOND + QUIET));
    // Kept alive, and stuck.
    let kept_alive =
        |passed: Duration| Some(Traffic { datagrams_received: passed.as_secs(), bytes: passed.as_secs() * 60 });
    assert_eq!(silent_after(Haste::Life, kept_alive), Some(STUCK));
}

#[test]
fn a_client_that_was_held_up_blames_nobody() {
    for haste in [Haste::Answer, Haste::Life] {
        let mut pulse = Pulse::new(haste, SECOND);
        let mut now = SECOND;
        let mut traffic = None;
        for _ in 0..20 {
            // It reads its input for ten seconds at a time and hardly looks up.
            now += 10 * SECOND;
            assert!(!pulse.is_silent(now, traffic), "{haste:?}");
            if haste == Haste::Answer {
                pulse = Pulse::new(haste, now);
            } else {
                now += TICK;
                traffic = Some(Traffic { datagrams_received: now.as_secs(), bytes: now.as_secs() << 20 });
                assert!(!pulse.is_silent(now, traffic));
            }
        }
    }
}

#[test]
fn what_must_not_be_done_twice_at_a_time_is_not_hurried() {
    let failover = Request::Failover(Failover { from: None, log: None, force: false, cut: false });
    for request in [Request::PeerToken, Request::PeerAdd(String::new()), failover] {
        assert_eq!(Haste::of(&request, Class::Request), Haste::Never);
    }
    assert_eq!(Haste::of(&Request::Status, Class::Request), Haste::Life);
    assert_eq!(Haste::of(&Request::ListLogs, Class::Request), Haste::Answer);
}
