//! A token bucket, as a plain value: it says how long to wait, and knows no clock.
//!
//! It is kept as the time at which everything that was let through would have been paid for at the rate (the virtual
//! scheduling of GCRA, ITU-T I.371). Within any span of time it lets through at most the burst and what the rate gives for
//! the span, and one amount may be larger than the burst: it waits for the difference.

use std::time::Duration;

const NANOSECONDS: u128 = 1_000_000_000;

/// A rate, and what of it has been used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    per_second: u64,
    burst: u64,
    /// When all that was taken is paid for, in nanoseconds of the caller's clock.
    paid_at: u128,
}

impl TokenBucket {
    /// Lets `per_second` through, and `burst` at once after a rest. Both are at least one.
    pub fn new(per_second: u64, burst: u64) -> Self {
        assert!(per_second > 0 && burst > 0, "a rate of nothing lets nothing through, ever");
        Self { per_second, burst, paid_at: 0 }
    }

    /// Takes `amount` and answers how long to wait from `now` on before it is used. Those who come later wait longer: nobody
    /// is overtaken. `now` never goes back.
    pub fn take(&mut self, amount: u64, now: Duration) -> Duration {
        let now = now.as_nanos();
        let paid_at = self.paid_at.max(now) + self.time_of(amount);
        self.paid_at = paid_at;
        let wait = paid_at.saturating_sub(self.time_of(self.burst)).saturating_sub(now);
        // Six hundred years fit.
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Rounded up: never more than the rate.
    fn time_of(&self, amount: u64) -> u128 {
        (u128::from(amount) * NANOSECONDS).div_ceil(u128::from(self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_the_rest_waits() {
        let mut bucket = TokenBucket::new(10, 5);
        let waits: Vec<u128> = (0..8).map(|_| bucket.take(1, SECOND).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 300]);
        // After a rest there is one burst, not more.
        let waits: Vec<u128> = (0..7).map(|_| bucket.take(1, 100 * SECOND).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200]);
    }

    #[test]
    fn more_than_a_burst_waits_for_the_difference() {
        let mut bucket = TokenBucket::new(1 << 20, 1 << 20);
        assert_eq!(bucket.take(64 << 20, Duration::ZERO), 63 * SECOND);
        assert_eq!(bucket.take(0, 63 * SECOND), Duration::ZERO);
        assert_eq!(bucket.take(1 << 20, 63 * SECOND), SECOND);
        assert!(TokenBucket::new(1, 1).take(u64::MAX, SECOND) > Duration::from_secs(1 << 33));
    }

    proptest! {
        /// In no span passes more than a burst and what the rate gives for it; nobody overtakes; nobody waits for nothing.
        #[test]
        fn the_rate_is_kept(
            per_second in 1u64..5_000_000,
            burst in 1u64..5_000_000,
            steps in proptest::collection::vec((0u64..3_000_000_000, 0u64..8_000_000), 1..60),
        ) {
            let mut bucket = TokenBucket::new(per_second, burst);
            let (mut now, mut passed) = (0u64, Vec::new());
            for (step, amount) in steps {
                now += step;
                let wait = bucket.take(amount, Duration::from_nanos(now));
                passed.push((u128::from(now) + wait.as_nanos(), u128::from(amount)));
            }
            prop_assert!(passed.windows(2).all(|pair| pair[0].0 <= pair[1].0), "nobody is overtaken");
            for first in 0..passed.len() {
                let mut sum = 0;
                for (at, amount) in &passed[first..] {
                    sum += amount;
                    let span = at - passed[first].0;
                    let allowed = span * u128::from(per_second) / NANOSECONDS + u128::from(burst).max(passed[first].1) + 1;
                    prop_assert!(sum <= allowed, "{sum} in {span} ns, {allowed} allowed");
                }
            }
            // Work-conserving: who waits is late by exactly what was taken before.
            let total: u128 = passed.iter().map(|(_, amount)| amount).sum();
            let last = passed.last().map_or(0, |(at, _)| *at);
            let paid = total * NANOSECONDS / u128::from(per_second) + passed.len() as u128;
            prop_assert!(last <= u128::from(now) + paid);
        }
    }
}
