//! Runs random histories over simulated devices: many seeds, each its own world, and one that fails can be replayed.
//!
//! `FARSIDE_HISTORIES` says how many, `FARSIDE_SEED` the first one's seed. A failure prints its seed, the command that
//! runs that one history again, and what happened last. A history must follow from its seed alone: every hundredth one
//! runs twice, and both must leave the same trace. Deliberately absent: threads, so that a panic belongs to one seed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::entropy::SeededEntropy;

/// Lines of a history that are shown when it fails.
const SHOWN_LINES: usize = 80;
/// One history in so many is replayed, to see that it follows from its seed.
const REPLAY_EVERY: u64 = 100;
/// No history comes near this time. One that does spins, which virtual time can't see.
const SPIN_BOUND: Duration = Duration::from_secs(90);

/// Random choices of one history.
#[derive(Debug)]
pub struct Dice(SeededEntropy);

impl Dice {
    /// The choices of one seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds are the rule, so they are mixed before use.
        Self(SeededEntropy::new(SeededEntropy::new(seed).next_u64()))
    }
    /// A number below `bound`, or 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.next_u64() % bound.max(1)
    }
    /// A number from `from` to `to`, both included.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }
    /// True in so many of a hundred cases.
    pub fn percent(&self, of_100: u64) -> bool {
        self.below(100) < of_100
    }
    /// One of these.
    pub fn pick<T: Clone>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
    /// Up to `count` different numbers below `bound`.
    pub fn sample(&self, count: usize, bound: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..bound).collect();
        (0..count.min(bound)).map(|_| left.swap_remove(self.below(left.len() as u64) as usize)).collect()
    }
    /// A seed for something else.
    pub fn seed(&self) -> u64 {
        self.0.next_u64()
    }
}

/// What happened in a history: its last lines, and a hash over all of them.
#[derive(Debug, Default)]
pub struct Journal {
    lines: RefCell<VecDeque<String>>,
    hash: Cell<u64>,
    count: Cell<u64>,
}

impl Journal {
    /// Adds a line.
    pub fn note(&self, line: std::fmt::Arguments<'_>) {
        let mut lines = self.lines.borrow_mut();
        let mut text = if lines.len() < SHOWN_LINES { String::new() } else { lines.pop_front().unwrap_or_default() };
        text.clear();
        // Writing to a string can't fail.
        let _ = text.write_fmt(line);
        let hash =
            text.bytes().fold(self.hash.get(), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        self.hash.set(hash.wrapping_mul(0x100_0000_01b3) ^ 1);
        self.count.set(self.count.get() + 1);
        lines.push_back(text);
    }

    /// The hash over every line so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    fn show(&self) {
        let lines = self.lines.borrow();
        println!("the last {} of {} lines:", lines.len(), self.count.get());
        lines.iter().for_each(|line| println!("  {line}"));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs `default` histories, or as many as the environment says. `test` names the test as cargo is told to run it.
pub fn run(test: &str, default: u64, history: impl Fn(u64, Rc<Journal>)) {
    let (first, count) = (number("FARSIDE_SEED", 1), number("FARSIDE_HISTORIES", default));
    let started = Instant::now();
    let watch = Watch::start(test);
    for seed in first..first.saturating_add(count) {
        watch.seed.store(seed, Ordering::Relaxed);
        let hash = run_one(test, seed, &history);
        if seed.is_multiple_of(REPLAY_EVERY) || count == 1 {
            assert_eq!(run_one(test, seed, &history), hash, "history {seed} does not follow from its seed");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{count} histories from seed {first} in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
}

fn command(test: &str, seed: u64) -> String {
    format!("FARSIDE_SEED={seed} FARSIDE_HISTORIES=1 cargo test {test} -- --nocapture")
}

fn run_one(test: &str, seed: u64, history: impl Fn(u64, Rc<Journal>)) -> u64 {
    let journal = Rc::new(Journal::default());
    let outcome = catch_unwind(AssertUnwindSafe(|| history(seed, journal.clone())));
    if let Err(panic) = outcome {
        journal.show();
        println!("history {seed} failed; this runs it again:\n  {}", command(test, seed));
        resume_unwind(panic);
    }
    journal.hash()
}

/// Ends the process when one history takes impossibly long.
struct Watch {
    seed: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
}

impl Watch {
    fn start(test: &str) -> Self {
        let (seed, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (watched, over, test) = (seed.clone(), done.clone(), test.to_owned());
        std::thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let now = watched.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                } else if since.elapsed() > SPIN_BOUND {
                    eprintln!("history {now} spins; this runs it again:\n  {}", command(&test, now));
                    std::process::abort();
                }
            }
        });
        Self { seed, done }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}
