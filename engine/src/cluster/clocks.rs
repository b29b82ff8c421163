//! Whose clock is wrong, where the nodes of a site disagree about the time: whoever most of them disagree with. Of two nodes, or of a few
//! of many, nobody can tell.

/// What follows for one node from what the others' clocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody disagrees.
    Agrees,
    /// Somebody does, and it may be either.
    Unsure,
    /// More than half of the site's nodes agree with one another, and not with this one: that far ahead of it they are, in
    /// milliseconds.
    Wrong(i64),
}

/// Judges a clock. `ahead_ms`: how far ahead of it the clocks of those are who answered, of a site of `nodes`; two clocks agree
/// that are `most_ms` apart at most.
pub fn judge(nodes: usize, ahead_ms: &[i64], most_ms: u64) -> Verdict {
    let agree = |one: i64, other: i64| one.abs_diff(other) <= most_ms;
    let mut differ: Vec<i64> = ahead_ms.iter().copied().filter(|ahead| !agree(*ahead, 0)).collect();
    if differ.is_empty() {
        return Verdict::Agrees;
    }
    differ.sort_unstable();
    let median = differ[differ.len() / 2];
    match differ.iter().filter(|ahead| agree(**ahead, median)).count() * 2 > nodes {
        true => Verdict::Wrong(median),
        false => Verdict::Unsure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn the_majority_is_right() {
        let judge = |nodes, ahead: &[i64]| judge(nodes, ahead, 60_000);
        assert_eq!(judge(1, &[]), Verdict::Agrees);
        assert_eq!(judge(3, &[-59_000, 60_000]), Verdict::Agrees);
        assert_eq!(judge(2, &[HOUR]), Verdict::Unsure);
        assert_eq!(judge(3, &[HOUR]), Verdict::Unsure, "one of two who answer");
        assert_eq!(judge(3, &[0, HOUR]), Verdict::Unsure, "the other one is wrong, as far as this one can tell");
        assert_eq!(judge(3, &[HOUR, HOUR + 5]), Verdict::Wrong(HOUR + 5));
        assert_eq!(judge(3, &[HOUR, -HOUR]), Verdict::Unsure, "three clocks, three times");
        assert_eq!(judge(5, &[HOUR, HOUR, HOUR, 0]), Verdict::Wrong(HOUR));
        assert_eq!(judge(5, &[i64::MAX, i64::MIN, i64::MAX, i64::MAX]), Verdict::Wrong(i64::MAX));
    }

    proptest! {
        /// Of nodes with two different times at most one side is told that it is wrong, and that is the smaller one.
        #[test]
        fn never_both_sides(right in 0usize..6, wrong in 0usize..6, off in 60_001i64..1_000_000_000) {
            let (all, seen) = (right + wrong, |same: usize, others: usize, off: i64| {
                let mut ahead = vec![0; same.saturating_sub(1)];
                ahead.resize(ahead.len() + others, off);
                ahead
            });
            if right > 0 {
                let verdict = judge(all, &seen(right, wrong, off), 60_000);
                prop_assert_eq!(matches!(verdict, Verdict::Wrong(_)), wrong > right);
            }
            if wrong > 0 {
                let verdict = judge(all, &seen(wrong, right, -off), 60_000);
                prop_assert_eq!(matches!(verdict, Verdict::Wrong(_)), right > wrong);
            }
        }
    }
}
