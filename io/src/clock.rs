//! Clocks, injected, and the hybrid logical clock on top of them (Kulkarni et al., "Logical Physical Clocks", 2014).

use farside_codec::ids::Hlc;
use farside_codec::limits::MAX_CLOCK_SKEW_MS;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait Clock {
    /// Since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since 1970, as well as this machine knows.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Clone, Default)]
pub struct SimClock(Rc<Cell<Duration>>, u64);

impl SimClock {
    /// A clock whose wall stands at `wall_ms` when its monotonic time is zero.
    pub fn new(wall_ms: u64) -> Self {
        Self(Rc::default(), wall_ms)
    }
    /// Moves time on.
    pub fn advance(&self, by: Duration) {
        self.0.set(self.0.get() + by);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.0.get()
    }
    fn wall_ms(&self) -> u64 {
        self.1 + self.0.get().as_millis() as u64
    }
}

/// A time that is further ahead than any honest clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// How far ahead of ours.
    pub ahead_ms: u64,
}

impl std::fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a clock is {} ms ahead of ours: check time synchronisation on both machines", self.ahead_ms)
    }
}

impl std::error::Error for ClockSkew {}

/// The hybrid logical clock of a shard: rises with every reading, follows the wall clock, and
/// never goes back but by [`HlcClock::come_back`].
pub struct HlcClock {
    clock: Rc<dyn Clock>,
    last: Cell<Hlc>,
}

impl HlcClock {
    /// A clock on top of `clock`.
    pub fn new(clock: Rc<dyn Clock>) -> Self {
        Self { clock, last: Cell::default() }
    }

    /// A time above every one that this clock gave or observed.
    pub fn now(&self) -> Hlc {
        // A counter that overflows carries into the milliseconds, which keeps the order.
        let next = Hlc::from_ms(self.clock.wall_ms()).max(self.last.get().next());
        self.last.set(next);
        next
    }

    /// Merges a time seen elsewhere, unless it is too far ahead.
    pub fn observe(&self, seen: Hlc) -> Result<(), ClockSkew> {
        let ahead_ms = seen.ms().saturating_sub(self.clock.wall_ms());
        if ahead_ms > MAX_CLOCK_SKEW_MS {
            return Err(ClockSkew { ahead_ms });
        }
        self.last.set(self.last.get().max(seen));
        Ok(())
    }

    /// Goes back to the wall clock, if that is far behind every time that was given: it was wrong for some time, and is right now.
    pub fn come_back(&self) {
        let wall_ms = self.clock.wall_ms();
        if self.last.get().ms().saturating_sub(wall_ms) > MAX_CLOCK_SKEW_MS {
            self.last.set(Hlc::from_ms(wall_ms));
        }
    }

    /// The clock below.
    pub fn clock(&self) -> &Rc<dyn Clock> {
        &self.clock
    }
}
