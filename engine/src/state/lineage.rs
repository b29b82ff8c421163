//! Lineages: which of a log's histories a copy is on, and where two of them part.
//!
//! The home's lineage is the only true one, and a copy keeps it as it was told. A generation has one writer, so two
//! lineages that name a generation agree on where it begins, or one of them is false.

use super::limits::MAX_GENERATIONS;
use super::rows::LogRow;
use farside_codec::delta::{Branch, Generation, Lineage};
use farside_codec::ids::{DeltaHash, SiteId};

/// Whether the log accepts writes at `site`.
pub(crate) fn is_home(lineage: &Lineage, known: Generation, site: SiteId) -> bool {
    known.site == site && lineage.last().is_some_and(|last| last.generation == known)
}

/// Whether `site` was the last to write: it is home, or it has handed the log over and waits for the next home to say that it
/// has all of it. It is the one that tells others what there is.
pub(crate) fn is_told_by(lineage: &Lineage, site: SiteId) -> bool {
    lineage.last().is_some_and(|last| last.generation.site == site)
}

/// Where `site` has handed the log over: the next home's generation, which it has not heard to have begun.
pub(crate) fn in_transit_to(lineage: &Lineage, known: Generation, site: SiteId) -> Option<Generation> {
    (is_told_by(lineage, site) && !is_home(lineage, known, site)).then_some(known)
}

/// Why a lineage can't be one; `None` if it can.
pub(super) fn objection(lineage: &Lineage) -> Option<&'static str> {
    let rising = |pair: &[Branch]| pair[0].generation < pair[1].generation && pair[0].first < pair[1].first;
    match lineage.first() {
        None => Some("the lineage is empty"),
        Some(first) if first.first != 1 || first.previous != DeltaHash::ZERO => {
            Some("the lineage does not begin at the log's beginning")
        }
        Some(_) if lineage.len() > MAX_GENERATIONS => Some("the lineage has more generations than a log can have"),
        Some(_) if !lineage.windows(2).all(rising) => Some("the lineage does not rise"),
        Some(_) => None,
    }
}

/// Branches that begin at or before `sequence`.
pub(super) fn reached(lineage: &Lineage, sequence: u64) -> &[Branch] {
    &lineage[..lineage.partition_point(|branch| branch.first <= sequence)]
}

/// Whether this copy's whole history is the beginning of the one that `theirs` tells of.
pub(super) fn continues(row: &LogRow, theirs: &Lineage) -> bool {
    let head = row.head.sequence;
    let passed = reached(&row.lineage, head) == reached(theirs, head);
    let next = theirs.iter().find(|branch| branch.first == head + 1);
    let same_generation = row.lineage.last().map(|branch| branch.generation) == Some(row.known)
        && theirs.last().map(|branch| branch.generation) == Some(row.known);
    passed && next.is_none_or(|branch| branch.previous == row.head.hash) && (!same_generation || row.lineage == *theirs)
}

/// How many branches the two share, and the last sequence that both histories have.
pub(super) fn common_point(row: &LogRow, theirs: &Lineage) -> (usize, u64) {
    let shared = row.lineage.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let end = |lineage: &Lineage| lineage.get(shared).map_or(u64::MAX, |branch| branch.first.saturating_sub(1));
    (shared, row.head.sequence.min(end(&row.lineage)).min(end(theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_codec::delta::{Cursor, EpochRecord, LogDescriptor, LogPolicy};
    use farside_codec::ids::{EpochId, Hlc, Label, LogId, TenantId};
    use proptest::prelude::*;

    /// A log's history: hashes that follow from everything before them, and the generations that wrote them.
    #[derive(Debug, Clone)]
    struct History {
        hashes: Vec<DeltaHash>,
        lineage: Lineage,
    }

    fn branch(counter: u64, site: u8, first: u64, previous: DeltaHash) -> Branch {
        Branch { generation: Generation { counter, site: SiteId([site; 16]), incarnation: 0 }, first, previous }
    }

    fn last_of(lineage: &Lineage) -> Generation {
        lineage.last().map(|branch| branch.generation).expect("a lineage")
    }

    impl History {
        fn write(&mut self) {
            let text = format!("{:?} {:?}", last_of(&self.lineage), self.hashes);
            self.hashes.push(DeltaHash(*blake3::hash(text.as_bytes()).as_bytes()));
        }

        /// What a copy with the first `keep` deltas keeps in its row.
        fn row(&self, keep: usize) -> LogRow {
            let hash = keep.checked_sub(1).map_or(DeltaHash::ZERO, |at| self.hashes[at]);
            let known = last_of(&self.lineage);
            let epoch = EpochId([1; 16]);
            let first_epoch =
                EpochRecord { epoch, salt: [1; 32], key_name: "key".into(), key_version: 1, check: [1; 16] };
            LogRow {
                descriptor: LogDescriptor {
                    log: LogId([9; 16]),
                    tenant: TenantId([7; 16]),
                    tenant_name: Label::parse("acme").expect("a label"),
                    name: Label::parse("log").expect("a label"),
                    created: Hlc(1),
                    first_epoch,
                    policy: LogPolicy::default(),
                    policy_version: 0,
                },
                lineage: self.lineage.clone(),
                known,
                head: Cursor { generation: known, sequence: keep as u64, hash },
                head_time: Hlc(1),
                total_bytes: 0,
                live_bytes: 0,
                heard: None,
                closed: Hlc(0),
                lease: None,
                seeding: None,
                floor: 0,
                epochs: Vec::new(),
                aside: 0,
            }
        }
    }

    /// Every history that a few writes and promotions of one log make.
    fn histories(steps: &[(u8, u8, u8, u8)]) -> Vec<History> {
        let mut all = vec![History { hashes: Vec::new(), lineage: vec![branch(1, 1, 1, DeltaHash::ZERO)] }];
        for (number, (which, by, keep, writes)) in steps.iter().enumerate() {
            let at = usize::from(*which) % all.len();
            let mut next = all[at].clone();
            next.hashes.truncate(usize::from(*keep) % (next.hashes.len() + 1));
            let first = next.hashes.len() as u64 + 1;
            next.lineage.retain(|branch| branch.first < first);
            let previous = next.hashes.last().copied().unwrap_or(DeltaHash::ZERO);
            next.lineage.push(branch(number as u64 + 2, *by, first, previous));
            (0..=*writes).for_each(|_| next.write());
            all.push(next);
            all[at].write();
        }
        all
    }

    fn two_histories() -> impl Strategy<Value = (History, History, usize)> {
        let step = (any::<u8>(), 1u8..4, any::<u8>(), 0u8..4);
        (prop::collection::vec(step, 0..6), any::<u8>(), any::<u8>(), any::<u8>()).prop_map(
            |(steps, one, other, keep)| {
                let all = histories(&steps);
                let pick = |number: u8| all[usize::from(number) % all.len()].clone();
                let (one, other) = (pick(one), pick(other));
                let keep = usize::from(keep) % (one.hashes.len() + 1);
                (one, other, keep)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_common_point_is_where_the_histories_part((ours, theirs, keep) in two_histories()) {
            let equal = |(ours, theirs): &(&DeltaHash, &DeltaHash)| ours == theirs;
            let common = ours.hashes[..keep].iter().zip(&theirs.hashes).take_while(equal).count();
            // Two copies of one history do not part: how much the other has is not for its lineage to say.
            let common = if ours.lineage == theirs.lineage { keep } else { common };
            let (shared, point) = common_point(&ours.row(keep), &theirs.lineage);
            prop_assert_eq!(point, common as u64);
            prop_assert_eq!(&ours.lineage[..shared], &theirs.lineage[..shared]);
        }

        #[test]
        fn a_copy_continues_a_history_if_it_is_a_beginning_of_it((ours, theirs, keep) in two_histories()) {
            // An older home's history is refused before this is asked.
            prop_assume!(last_of(&theirs.lineage) >= last_of(&ours.lineage));
            let is_beginning = theirs.hashes.len() >= keep && theirs.hashes[..keep] == ours.hashes[..keep];
            prop_assert_eq!(continues(&ours.row(keep), &theirs.lineage), is_beginning);
        }

        #[test]
        fn a_lineage_is_one_unless_it_was_spoiled((ours, _, at) in two_histories(), spoil in 0u8..5) {
            prop_assert_eq!(objection(&ours.lineage), None);
            let mut lineage = ours.lineage;
            let at = at % lineage.len();
            match spoil {
                0 => lineage.clear(),
                1 => lineage[0].first += 1,
                2 => lineage[0].previous = DeltaHash([1; 32]),
                3 => {
                    let mut later = lineage[at].clone();
                    later.first += 1;
                    lineage.insert(at + 1, later);
                }
                _ => {
                    let last = lineage[lineage.len() - 1].clone();
                    lineage.push(branch(1000, 1, last.first, last.previous));
                }
            }
            prop_assert!(objection(&lineage).is_some());
        }
    }
}
