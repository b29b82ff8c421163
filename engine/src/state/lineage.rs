//! Lineages: which of a log's histories a copy is on, and where two of them part.
//!
//! The home's lineage is the only true one, and a copy keeps it as it was told. A generation has one writer, so two
//! lineages that name a generation agree on where it begins, or one of them is false.

use super::limits::MAX_GENERATIONS;
use super::rows::LogRow;
use farside_codec::delta::{Branch, Lineage};
use farside_codec::ids::DeltaHash;

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
