//! What records add up to, said again and more simply than the log says it.

use farside_codec::ids::{GroupId, NodeId};
use farside_codec::record::wal::{Entry, LogPosition, SnapshotRecord, Vote, WalRecord};
use farside_io::disk::Disk;
use farside_raft::wal::Wal;
use std::collections::BTreeMap;

/// One group's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct State {
    /// The number that the node took part under last, where one was given; 0: it left.
    pub(crate) member: Option<NodeId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogPosition>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) snapshot: Option<SnapshotRecord>,
    pub(crate) entries: BTreeMap<u64, Entry>,
}

impl State {
    /// The last entry, purged or not.
    pub(crate) fn last(&self) -> Option<LogPosition> {
        self.entries.values().next_back().map(|entry| entry.position).or(self.purged)
    }

    fn apply(&mut self, record: &WalRecord) {
        match record {
            WalRecord::Append((_, entry)) => drop(self.entries.insert(entry.position.index, entry.clone())),
            WalRecord::Vote((_, vote)) => self.vote = Some(*vote),
            WalRecord::Committed((_, committed)) => self.committed = *committed,
            WalRecord::TruncateAfter((_, None)) => self.entries.clear(),
            WalRecord::TruncateAfter((_, Some(after))) => self.entries.retain(|index, _| index <= after),
            WalRecord::Purge((_, upto)) => {
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(*upto);
            }
            WalRecord::Snapshot((_, snapshot)) => self.snapshot = Some(snapshot.clone()),
            WalRecord::Member((_, member)) => *self = Self { member: Some(*member), ..Self::default() },
        }
    }
}

/// All groups.
pub(crate) type States = BTreeMap<GroupId, State>;

/// Applies records in their order.
pub(crate) fn apply(states: &mut States, records: &[WalRecord]) {
    for record in records {
        let group = match record {
            WalRecord::Append((group, _)) => group,
            WalRecord::Vote((group, _)) => group,
            WalRecord::Committed((group, _)) => group,
            WalRecord::TruncateAfter((group, _)) => group,
            WalRecord::Purge((group, _)) => group,
            WalRecord::Snapshot((group, _)) => group,
            WalRecord::Member((group, _)) => group,
        };
        states.entry(*group).or_default().apply(record);
    }
}

/// What the log itself says of these groups.
pub(crate) fn observe<D: Disk>(wal: &Wal<D>, groups: u32) -> States {
    let state = |group| {
        wal.group(group, |log| {
            let entries = log.entries(0, u64::MAX).map(|entry| (entry.position.index, entry.clone())).collect();
            let state = State {
                member: log.member(),
                vote: log.vote(),
                committed: log.committed(),
                purged: log.purged(),
                snapshot: log.snapshot().cloned(),
                entries,
            };
            assert_eq!(log.last(), state.last());
            state
        })
    };
    (1..=groups).map(|group| (GroupId(group), state(GroupId(group)))).collect()
}

/// Shortens states for the journal.
pub(crate) fn brief(states: &States) -> String {
    let one = |(group, state): (&GroupId, &State)| {
        let vote = state.vote.map(|vote| (vote.term, vote.committed));
        let (first, last) = (state.entries.keys().next(), state.last().map(|last| (last.term, last.index)));
        let (purged, committed) = (state.purged.map(|at| at.index), state.committed.map(|at| at.index));
        let snapshot = state.snapshot.as_ref().and_then(|snapshot| snapshot.last).map(|at| at.index);
        format!(
            "{}: vote {vote:?} purged {purged:?} snapshot {snapshot:?} committed {committed:?} first {first:?} last {last:?}",
            group.0
        )
    };
    states.iter().map(one).collect::<Vec<_>>().join("; ")
}
