//! Seeds of the simulator: the first three hundred, a replay of some, and every seed that once found a bug.
//!
//! `cargo run --release -p farside-tests -- sim --help` runs more. FARSIDE_SEEDS sets how many run here.

use farside_tests::sim::{Options, Report, run_seed};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that found a bug of ours, and what it was. What a seed does changes when the simulator learns new faults, so
/// these stay for what they cost: nothing.
const FOUND: [(u64, &str); 3] = [
    (13, "a state file whose bookkeeping had decayed was opened, and its groups stopped at the first commit"),
    (14, "the same after a restart, so that the site never caught up"),
    (255, "a failover gave the position at which it was weighed, not the one at which the generation began"),
];

fn check(report: &Report) {
    let last: Vec<String> = report.lines.iter().rev().take(60).rev().cloned().collect();
    assert!(
        report.violations.is_empty(),
        "seed={} trace={:016x}: {:#?}\n{}\nreplay: cargo run --release -p farside-tests -- sim --seed {} --print",
        report.seed,
        report.trace,
        report.violations,
        last.join("\n"),
        report.seed
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
    let (operations, faults) = (AtomicU64::new(0), AtomicU64::new(0));
    on_two_threads(seeds, |number| {
        let report = run_seed(1 + number, Options::default());
        println!("seed={} trace={:016x}", report.seed, report.trace);
        operations.fetch_add(report.answered as u64, Ordering::Relaxed);
        faults.fetch_add(report.faults as u64, Ordering::Relaxed);
        check(&report);
    });
    // A world in which nothing happens proves nothing.
    assert!(operations.into_inner() > 200 * seeds, "the workload hardly ran");
    assert!(faults.into_inner() >= 5 * seeds, "hardly anything went wrong");
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
fn seeds_that_found_a_bug() {
    on_two_threads(FOUND.len() as u64, |number| {
        let (seed, bug) = FOUND[number as usize];
        println!("seed={seed}: {bug}");
        check(&run_seed(seed, Options::default()));
    });
}
