//! Which backups stay.

use farside_codec::ids::Hlc;
use std::collections::BTreeSet;

/// How many backups are kept, by each rule. One that any rule keeps stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones.
    pub last: usize,
    /// The newest of each of so many hours that have one.
    pub hourly: usize,
    /// Of each of so many days (UTC).
    pub daily: usize,
    /// Of each of so many weeks (from Monday).
    pub weekly: usize,
    /// Of each of so many months, of 30 days each: a rule must not depend on a calendar that changes.
    pub monthly: usize,
}

/// Which of its spans a time is in.
type SpanOf = fn(u64) -> u64;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// 1970 began on a Thursday.
const WEEK_SHIFT_MS: u64 = 3 * DAY_MS;

impl Retention {
    /// No rule keeps anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Which of these backups, by number and cut, oldest first, stay. The newest one always does.
    pub fn kept(&self, backups: &[(u64, Hlc)]) -> BTreeSet<u64> {
        let rules: [(usize, SpanOf); 4] = [
            (self.hourly, |ms| ms / HOUR_MS),
            (self.daily, |ms| ms / DAY_MS),
            (self.weekly, |ms| (ms + WEEK_SHIFT_MS) / (7 * DAY_MS)),
            (self.monthly, |ms| ms / (30 * DAY_MS)),
        ];
        let newest_first = || backups.iter().rev();
        let mut kept: BTreeSet<u64> = newest_first().take(self.last.max(1)).map(|(number, _)| *number).collect();
        for (count, span_of) in rules {
            let mut spans = BTreeSet::new();
            for (number, cut) in newest_first() {
                let span = span_of(cut.ms());
                if spans.len() >= count && !spans.contains(&span) {
                    break;
                }
                if spans.insert(span) {
                    kept.insert(*number);
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(retention: Retention, hours: &[u64], expected: &[u64]) {
        let backups: Vec<(u64, Hlc)> =
            (1..).zip(hours).map(|(number, hour)| (number, Hlc::from_ms(hour * HOUR_MS))).collect();
        let kept: Vec<u64> = retention.kept(&backups).into_iter().collect();
        assert_eq!(kept, expected, "{retention:?} of {hours:?}");
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_spans() {
        let none = Retention::default();
        check(none, &[], &[]);
        check(none, &[1, 2, 3], &[3]);
        check(Retention { last: 2, ..none }, &[1, 2, 3], &[2, 3]);
        check(Retention { hourly: 2, ..none }, &[5, 5, 6, 6, 7], &[4, 5]);
        check(Retention { daily: 3, ..none }, &[1, 23, 24, 47, 48, 100], &[4, 5, 6]);
        // Day 4 of 1970 is a Monday.
        check(Retention { weekly: 2, ..none }, &[24 * 3, 24 * 4, 24 * 10, 24 * 11], &[3, 4]);
        check(Retention { monthly: 2, ..none }, &[0, 24 * 29, 24 * 30, 24 * 61], &[3, 4]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_kept_when_it_is_asked_again(
            mut hours in prop::collection::vec(0u64..5000, 0..60),
            (last, hourly, daily, weekly, monthly) in (0usize..5, 0usize..5, 0usize..5, 0usize..5, 0usize..5),
        ) {
            hours.sort_unstable();
            let retention = Retention { last, hourly, daily, weekly, monthly };
            let backups: Vec<(u64, Hlc)> =
                (1..).zip(&hours).map(|(number, hour)| (number, Hlc::from_ms(hour * HOUR_MS))).collect();
            let kept = retention.kept(&backups);
            prop_assert!(kept.len() <= last.max(1) + hourly + daily + weekly + monthly);
            prop_assert_eq!(backups.last().map(|(number, _)| kept.contains(number)).unwrap_or(true), true);
            let left: Vec<(u64, Hlc)> = backups.into_iter().filter(|(number, _)| kept.contains(number)).collect();
            prop_assert_eq!(retention.kept(&left), kept);
        }
    }
}
