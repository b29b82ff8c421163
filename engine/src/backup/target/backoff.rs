//! When something that failed in passing is tried again, as a plain value: bounded in number and in time.
//!
//! Pauses double, and each is drawn from half of its span to one and a half, so that those who failed together do not come
//! back together. A store that says how long it wants to be left alone is obeyed, within the patience that is left.

use super::limits::{ATTEMPTS, PATIENCE, PAUSE, PAUSE_MOST, RETRY_AFTER_MOST};
use std::time::Duration;

/// The attempts at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backoff {
    failed: u32,
    ends: Duration,
}

impl Backoff {
    /// Begins at `now`, and lets no attempt begin after `patience`.
    pub(super) fn new(now: Duration, patience: Option<Duration>) -> Self {
        Self { failed: 0, ends: now.saturating_add(patience.unwrap_or(PATIENCE)) }
    }

    /// After a failure at `now`: how long to wait before the next attempt; nothing if there is none. `asked` is what the store
    /// asked for, `chance` any number.
    pub(super) fn next(&mut self, now: Duration, asked: Option<Duration>, chance: u32) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= ATTEMPTS || asked.is_some_and(|asked| asked > RETRY_AFTER_MOST) {
            return None;
        }
        let span = PAUSE.saturating_mul(1 << (self.failed - 1).min(16)).min(PAUSE_MOST);
        let pause = span / 2 + span.mul_f64(f64::from(chance) / f64::from(u32::MAX));
        let pause = pause.max(asked.unwrap_or_default());
        (now.saturating_add(pause) <= self.ends).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_and_end() {
        let pauses = |chance| {
            let mut backoff = Backoff::new(Duration::ZERO, None);
            let next = || backoff.next(Duration::ZERO, None, chance).map(|pause| pause.as_millis());
            std::iter::from_fn(next).collect::<Vec<u128>>()
        };
        assert_eq!(pauses(0), [100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(pauses(u32::MAX), [300, 600, 1200, 2400, 4800, 9600, 15_000]);
    }

    #[test]
    fn a_store_is_obeyed_within_reason() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        let mut backoff = Backoff::new(Duration::ZERO, None);
        assert_eq!(backoff.next(Duration::ZERO, asked(30), 0), asked(30));
        assert_eq!(backoff.next(Duration::from_secs(100), asked(30), 0), None, "that is past all patience");
        assert_eq!(Backoff::new(Duration::ZERO, None).next(Duration::ZERO, asked(3600), 0), None);
        assert_eq!(Backoff::new(Duration::ZERO, asked(0)).next(Duration::ZERO, None, 0), None);
    }

    proptest! {
        /// However long attempts take and whatever is asked for: it ends, and no attempt begins late.
        #[test]
        fn it_ends(steps in proptest::collection::vec((0u64..20_000, proptest::option::of(0u64..100), any::<u32>()), 20)) {
            let mut backoff = Backoff::new(Duration::from_secs(7), Some(Duration::from_secs(60)));
            let (mut now, mut attempts) = (Duration::from_secs(7), 1);
            for (took, asked, chance) in steps {
                now += Duration::from_millis(took);
                let Some(pause) = backoff.next(now, asked.map(Duration::from_secs), chance) else { break };
                prop_assert!(pause >= asked.map_or(PAUSE / 2, Duration::from_secs));
                now += pause;
                prop_assert!(now <= Duration::from_secs(67));
                attempts += 1;
            }
            prop_assert!(attempts <= ATTEMPTS);
        }
    }
}
