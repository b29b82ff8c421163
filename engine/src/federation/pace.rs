//! How fast a peer is sent chunks: the rate that holds at a time of day, and who has to wait how long for it.
//!
//! A leaky bucket (Turner 1986) that is kept as a debt: what was sent is owed, and paid off at the rate of the moment. So a rate that
//! changes holds at once, also for what was sent before.

use farside_codec::peer::PeerLimit;
use std::time::Duration;

/// What may be sent at once, in seconds of the rate: enough that timers need not be exact.
const AT_ONCE_SECONDS: f64 = 0.05;

/// The part of the rate that what goes ahead never takes from chunks: a delta may be waiting for one.
const ALWAYS_CHUNKS: f64 = 0.1;
/// What went ahead is owed for no longer than that.
const MOST_AHEAD_SECONDS: f64 = 10.0;

/// The rate in bytes a second at a minute of the day in UTC; 0: there is no limit. A window goes before what holds all day; of
/// windows that overlap the lowest rate holds.
pub fn rate_at(limits: &[PeerLimit], minute: u16) -> u64 {
    let within = limits.iter().filter(|limit| limit.window.as_ref().is_some_and(|window| window.contains(minute)));
    // No limit is the highest rate of all.
    let lowest = within.map(|limit| limit.rate).min_by_key(|rate| rate.wrapping_sub(1));
    let all_day = || limits.iter().find(|limit| limit.window.is_none()).map(|limit| limit.rate);
    lowest.or_else(all_day).unwrap_or(0)
}

/// The part of a site's rate that one of `senders` nodes has. It is never so little that nothing moves.
pub fn share(rate: u64, senders: u64) -> u64 {
    match rate {
        0 => 0,
        rate => (rate / senders.max(1)).max(1),
    }
}

/// What was sent and is not paid off.
#[derive(Debug, Default)]
pub struct Pace {
    chunks: f64,
    /// What went without waiting is paid off first, but for a part of the rate that is always the chunks'.
    ahead: f64,
    looked: Duration,
}

impl Pace {
    /// How long no chunk may be sent at `now`, if nothing goes ahead meanwhile; zero: one may.
    pub fn wait(&mut self, now: Duration, rate: u64) -> Duration {
        let passed = now.saturating_sub(self.looked).as_secs_f64();
        self.looked = now;
        if rate == 0 {
            (self.chunks, self.ahead) = (0.0, 0.0);
            return Duration::ZERO;
        }
        let rate = rate as f64;
        let paid = passed * rate;
        let for_ahead = self.ahead.min(paid * (1.0 - ALWAYS_CHUNKS));
        self.ahead -= for_ahead;
        self.chunks = (self.chunks - (paid - for_ahead)).max(0.0);
        let beyond = self.chunks / rate - AT_ONCE_SECONDS;
        Duration::from_secs_f64(beyond.clamp(0.0, 86_400.0))
    }

    /// So many bytes of a chunk are sent.
    pub fn sent(&mut self, bytes: usize) {
        self.chunks += bytes as f64;
    }

    /// So many of them were not.
    pub fn give_back(&mut self, bytes: usize) {
        self.chunks = (self.chunks - bytes as f64).max(0.0);
    }

    /// So many bytes go without waiting. What goes faster than the rate for long is not held against it for ever.
    pub fn went_ahead(&mut self, bytes: usize, rate: u64) {
        self.ahead = (self.ahead + bytes as f64).min(rate as f64 * MOST_AHEAD_SECONDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_codec::peer::DayWindow;
    use proptest::prelude::*;

    fn limit(rate: u64, window: Option<(u16, u16)>) -> PeerLimit {
        PeerLimit { rate, window: window.map(|(from, until)| DayWindow { from, until }) }
    }

    #[test]
    fn windows_go_before_the_day() {
        let limits = [limit(10, None), limit(0, Some((22 * 60, 6 * 60))), limit(3, Some((5 * 60, 7 * 60)))];
        let at = |hour: u16, minute: u16| rate_at(&limits, hour * 60 + minute);
        assert_eq!([at(12, 0), at(22, 0), at(23, 59), at(0, 0), at(4, 59)], [10, 0, 0, 0, 0]);
        assert_eq!([at(5, 0), at(5, 59), at(6, 59), at(7, 0), at(21, 59)], [3, 3, 3, 10, 10]);
        assert_eq!(rate_at(&[], 7), 0);
        assert_eq!(rate_at(&limits[1..2], 12 * 60), 0);
    }

    #[test]
    fn what_was_sent_is_paid_off_at_the_rate_of_the_moment() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        assert_eq!(pace.wait(second, 100), Duration::ZERO);
        pace.sent(1000);
        assert_eq!(pace.wait(second, 100), Duration::from_millis(9950));
        assert_eq!(pace.wait(second * 3 / 2, 1000), Duration::from_millis(450));
        assert_eq!(pace.wait(2 * second, 0), Duration::ZERO);
        assert_eq!(pace.wait(2 * second, 1), Duration::ZERO);
        pace.sent(usize::MAX);
        assert_eq!(pace.wait(2 * second, 1), Duration::from_secs(86_400));
        pace.give_back(usize::MAX);
        assert_eq!(pace.wait(2 * second, 1), Duration::ZERO);
    }

    #[test]
    fn what_goes_ahead_is_counted_and_starves_nobody() {
        let at = Duration::from_secs;
        let mut pace = Pace::default();
        pace.wait(at(1), 100);
        pace.went_ahead(90, 100);
        pace.sent(105);
        // In a second 90 are paid for what went ahead and 10 for the chunk; then the chunk has all.
        assert_eq!(pace.wait(at(2), 100), Duration::from_millis(900));
        assert_eq!(pace.wait(at(3), 100), Duration::ZERO);
        // An hour of far too much: a chunk a hundred bytes long goes every ten seconds all the same, and soon faster.
        for second in 3..3603 {
            pace.wait(at(second), 100);
            pace.went_ahead(10_000, 100);
        }
        pace.sent(100);
        assert!(pace.wait(at(3603), 100) > Duration::ZERO);
        assert_eq!(pace.wait(at(3613), 100), Duration::ZERO);
        pace.wait(at(3620), 100);
        pace.sent(100);
        assert!(pace.wait(at(3621), 100) < Duration::from_millis(1));
    }

    proptest! {
        /// Over any time the rate is kept, but for what may be sent at once and the last piece; and whoever always waits as
        /// long as it is told loses nothing of the rate.
        #[test]
        fn the_rate_is_kept_and_used(
            rate in 1000u64..1_000_000,
            pieces in prop::collection::vec(1usize..100_000, 1..60),
            late in prop::collection::vec(0u64..20, 60),
        ) {
            let (mut pace, mut now, mut sent) = (Pace::default(), Duration::from_secs(5), 0);
            let begun = now;
            for (piece, late) in pieces.iter().zip(late) {
                let wait = pace.wait(now, rate);
                now += wait + Duration::from_nanos(2) + Duration::from_millis(if wait.is_zero() { 0 } else { late });
                prop_assert!(pace.wait(now, rate) < Duration::from_micros(1));
                pace.sent(*piece);
                sent += piece;
                let most = (now - begun).as_secs_f64() * rate as f64 + AT_ONCE_SECONDS * rate as f64 + *piece as f64;
                prop_assert!(sent as f64 <= most + 1.0, "{} sent, {} may be", sent, most);
            }
            // Twenty milliseconds late at most each time, of which fifty are made good.
            let least = (now - begun).as_secs_f64() * rate as f64 - 1.0;
            prop_assert!(sent as f64 >= least, "{} sent, {} could be", sent, least);
        }
    }
}
