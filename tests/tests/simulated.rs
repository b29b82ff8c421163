//! Seeds of the simulator: the first three hundred, a replay of some, a few of each scenario.
//!
//! `cargo run --release -p farside-tests -- sim --help` runs more. FARSIDE_SEEDS sets how many run here.

use farside_tests::sim::scenarios::{SCENARIOS, Scenario, everything, find};
use farside_tests::sim::{Options, Report, run_seed, splits};
use std::sync::atomic::{AtomicU64, Ordering};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds that found a bug of ours. What a seed does changes when the simulator learns something new, so what brings each
/// of them out is a scenario by now.
const FOUND: [(&str, u64); 9] = [
    ("decayed-state-file", 13),
    ("decayed-state-file", 14),
    ("promotion-overtaken", 255),
    ("core", 713),
    ("core", 1412),
    ("core", 4576),
    ("geometry", 11),
    ("geometry", 130),
    ("seeding", 109),
];
/// Seeds of each scenario.
const OF_EACH: u64 = 2;

fn check(report: &Report, scenario: &Scenario) {
    let last: Vec<String> = report.lines.iter().rev().take(60).rev().cloned().collect();
    assert!(
        report.violations.is_empty(),
        "seed={} trace={:016x}: {:#?}\n{}\nreplay: cargo run --release -p farside-tests -- sim --seed {} --scenario {} --print",
        report.seed,
        report.trace,
        report.violations,
        last.join("\n"),
        report.seed,
        scenario.name
    );
}

/// Runs `work` for each number below `count`, on two threads.
fn on_two_threads(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            work(number);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(run)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("every seed is clean"));
    });
}

#[test]
fn everything_fails_and_nothing_is_lost() {
    let seeds = farside_tests::rounds("FARSIDE_SEEDS", 300) as u64;
    let (operations, faults) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
    on_two_threads(seeds, |number| {
        let report = run_seed(1 + number, Options::default());
        println!("seed={} trace={:016x}", report.seed, report.trace);
        operations.fetch_min(report.operations as u64, Ordering::Relaxed);
        faults.fetch_min(report.faults as u64, Ordering::Relaxed);
        check(&report, everything());
    });
    // A world in which nothing happens proves nothing.
    assert!(operations.into_inner() >= 500, "the workload hardly ran");
    assert!(faults.into_inner() >= 5, "hardly anything went wrong");
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    on_two_threads(10, |number| {
        let (first, second) =
            (run_seed(1000 + number, Options::default()), run_seed(1000 + number, Options::default()));
        assert_eq!(first.trace, second.trace, "seed {}", first.seed);
        assert_eq!(first.lines, second.lines, "seed {}", first.seed);
    });
}

#[test]
fn sites_are_split_in_orders_of_every_kind() {
    let scenario = find("splits").expect("a scenario");
    let count = farside_tests::rounds("FARSIDE_SPLITS", 24) as u64;
    on_two_threads(count, |number| {
        let seed = 1 + number * (splits::ORDERS / count.min(splits::ORDERS));
        println!("scenario=splits seed={seed}");
        check(&run_seed(seed, Options { scenario, ..Options::default() }), scenario);
    });
}

#[test]
fn every_scenario_and_what_was_found() {
    let of_each = SCENARIOS.iter().flat_map(|scenario| (1..=OF_EACH).map(|seed| (scenario.name, 500 + seed)));
    let runs: Vec<(&str, u64)> = FOUND.into_iter().chain(of_each).collect();
    on_two_threads(runs.len() as u64, |number| {
        let (name, seed) = runs[number as usize];
        println!("scenario={name} seed={seed}");
        let scenario = find(name).expect("a scenario that was found is kept");
        check(&run_seed(seed, Options { scenario, ..Options::default() }), scenario);
    });
}
