//! What one group's records add up to.

use farside_codec::delta::ChunkRef;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::record::wal::{Entry, EntryPayload, LogPosition, Membership, SnapshotRecord, Vote, WalRecord};
use std::collections::VecDeque;

/// A group's part of the log, in memory. Bounded: see [`super::Wal::live_limit`].
#[derive(Debug, Default, Clone)]
pub struct GroupLog {
    /// Under which number the node takes part, where that was said; 0: it does not.
    member: Option<NodeId>,
    vote: Option<Vote>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    snapshot: Option<SnapshotRecord>,
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry costs in memory besides its payload.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 96;

/// What an entry counts for, which is no less than it takes in a checkpoint.
pub(crate) fn cost(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Command(command) => command.len(),
            EntryPayload::Membership(membership) => {
                let voters = membership.configurations.iter().map(|voters| 1 + voters.len()).sum::<usize>();
                (voters + membership.nodes.len()) * 16
            }
        }
}

/// The group that a record belongs to.
pub(super) fn group_of(record: &WalRecord) -> GroupId {
    match record {
        WalRecord::Append((group, _)) => *group,
        WalRecord::Vote((group, _)) => *group,
        WalRecord::Committed((group, _)) => *group,
        WalRecord::TruncateAfter((group, _)) => *group,
        WalRecord::Purge((group, _)) => *group,
        WalRecord::Snapshot((group, _)) => *group,
        WalRecord::Member((group, _)) => *group,
    }
}

impl GroupLog {
    /// The vote cast last.
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }
    /// The last entry known to be committed.
    pub fn committed(&self) -> Option<LogPosition> {
        self.committed
    }
    /// The last entry dropped because a snapshot covers it.
    pub fn purged(&self) -> Option<LogPosition> {
        self.purged
    }
    /// The newest snapshot.
    pub fn snapshot(&self) -> Option<&SnapshotRecord> {
        self.snapshot.as_ref()
    }
    /// The chunks that the newest snapshot lies in.
    pub fn snapshot_pieces(&self) -> &[ChunkRef] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.pieces)
    }
    /// The last entry, also if it has been purged.
    pub fn last(&self) -> Option<LogPosition> {
        self.entries.back().map(|entry| entry.position).or(self.purged)
    }
    /// How far it goes with its snapshot, which may have been received just before the log was to be dropped.
    pub fn end(&self) -> Option<LogPosition> {
        self.last().into_iter().chain(self.covered()).max_by_key(|position| position.index)
    }

    /// How far a snapshot covers it, whether the entries were dropped already or not: all of that is committed.
    pub fn covered(&self) -> Option<LogPosition> {
        let covered = self.snapshot.as_ref().and_then(|snapshot| snapshot.last);
        self.purged.into_iter().chain(covered).max_by_key(|position| position.index)
    }

    /// Where the entries of each leader begin, of those that no snapshot covers.
    pub fn leaders(&self) -> Vec<LogPosition> {
        let from = self.covered().map_or(0, |covered| covered.index.saturating_add(1));
        let mut positions: Vec<LogPosition> = self.entries.iter().map(|entry| entry.position).collect();
        positions.retain(|position| position.index >= from);
        positions.dedup_by_key(|position| (position.term, position.leader));
        positions
    }

    /// Who votes and who listens, by the last entry that says so.
    pub fn membership(&self) -> Option<Membership> {
        let said = |entry: &Entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some((Some(entry.position.index), membership.clone())),
            EntryPayload::Blank | EntryPayload::Command(_) => None,
        };
        let covered = self.snapshot.as_ref().map(|snapshot| &snapshot.membership);
        let covered = covered.map(|stored| (stored.position.map(|at| at.index), stored.membership.clone()));
        let last = self.entries.iter().rev().find_map(said);
        covered.into_iter().chain(last).max_by_key(|(at, _)| *at).map(|(_, membership)| membership)
    }

    /// Bytes of entries in memory.
    pub fn live_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of those that are known to be committed: what a snapshot makes room of.
    pub fn settled_bytes(&self) -> usize {
        let is_open = |entry: &&Entry| self.committed.is_none_or(|committed| entry.position.index > committed.index);
        self.bytes - self.entries.iter().rev().take_while(is_open).map(cost).sum::<usize>()
    }

    /// Whether this entry is here, or covered.
    pub fn has(&self, entry: &Entry) -> bool {
        let index = entry.position.index;
        let here = || self.entries(index, index.saturating_add(1)).any(|here| here.position == entry.position);
        self.purged.is_some_and(|purged| index <= purged.index) || here()
    }

    /// Entries from index `from` up to but without `to`, as far as they are here.
    pub fn entries(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let first = self.entries.front().map_or(0, |entry| entry.position.index);
        let skip = from.saturating_sub(first) as usize;
        self.entries.iter().skip(skip).take_while(move |entry| entry.position.index < to)
    }

    /// Takes in one record. A gap before an entry can't come from a record just made, and recovery looks for it first.
    pub(super) fn apply(&mut self, record: &WalRecord) {
        match record {
            WalRecord::Append((_, entry)) => self.put(entry.clone()),
            WalRecord::Vote((_, vote)) => self.vote = Some(*vote),
            WalRecord::Committed((_, committed)) => self.committed = *committed,
            WalRecord::TruncateAfter((_, after)) => self.truncate(*after),
            WalRecord::Purge((_, upto)) => self.purge(*upto),
            WalRecord::Snapshot((_, snapshot)) => self.snapshot = Some(snapshot.clone()),
            WalRecord::Member((_, member)) => *self = Self { member: Some(*member), ..Self::default() },
        }
    }

    /// The number that was given last to this node in the group; 0: it has left.
    pub fn member(&self) -> Option<NodeId> {
        self.member
    }

    /// Under which number this node takes part in the group, if it does: under its own where none was said.
    pub fn takes_part_as(&self, own: NodeId) -> Option<NodeId> {
        let begun = self.last().is_some() || self.snapshot.is_some() || self.vote.is_some();
        self.member.or(begun.then_some(own)).filter(|member| *member != NodeId(0))
    }

    /// Nothing was ever written here about the group.
    pub fn knows_nothing(&self) -> bool {
        self.member.is_none() && self.last().is_none() && self.snapshot.is_none() && self.vote.is_none()
    }

    /// Whether an entry of this index would leave a hole.
    pub(super) fn leaves_gap(&self, index: u64) -> bool {
        self.last().is_some_and(|last| index > last.index.saturating_add(1))
    }

    fn put(&mut self, entry: Entry) {
        if self.purged.is_some_and(|purged| entry.position.index <= purged.index) {
            return;
        }
        let first = self.entries.front().map_or(entry.position.index, |first| first.position.index);
        match entry.position.index.checked_sub(first).map(|at| at as usize) {
            Some(at) if at < self.entries.len() => {
                self.bytes -= cost(&self.entries[at]);
                self.bytes += cost(&entry);
                self.entries[at] = entry;
            }
            _ => {
                self.bytes += cost(&entry);
                self.entries.push_back(entry);
            }
        }
    }

    fn truncate(&mut self, after: Option<u64>) {
        while let Some(entry) = self.entries.pop_back_if(|last| after.is_none_or(|after| last.position.index > after)) {
            self.bytes -= cost(&entry);
        }
    }

    fn purge(&mut self, upto: LogPosition) {
        while let Some(entry) = self.entries.pop_front_if(|first| first.position.index <= upto.index) {
            self.bytes -= cost(&entry);
        }
        self.purged = Some(upto);
    }

    /// The records that add up to this state, for a checkpoint.
    pub(super) fn records(&self, group: GroupId, out: &mut impl FnMut(WalRecord)) {
        if let Some(member) = self.member {
            out(WalRecord::Member((group, member)));
        }
        if let Some(snapshot) = &self.snapshot {
            out(WalRecord::Snapshot((group, snapshot.clone())));
        }
        if let Some(purged) = self.purged {
            out(WalRecord::Purge((group, purged)));
        }
        if let Some(vote) = self.vote {
            out(WalRecord::Vote((group, vote)));
        }
        self.entries.iter().for_each(|entry| out(WalRecord::Append((group, entry.clone()))));
        out(WalRecord::Committed((group, self.committed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use farside_codec::record::wal::{Membership, StoredMembership};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const GROUP: GroupId = GroupId(3);
    /// Indexes that records speak of.
    const INDEXES: u64 = 24;

    fn position(term: u64, index: u64) -> LogPosition {
        LogPosition { term, leader: NodeId(1), index }
    }

    fn membership() -> Membership {
        Membership { configurations: vec![vec![NodeId(1)]], nodes: vec![NodeId(1), NodeId(2)] }
    }

    fn snapshot(index: u64) -> SnapshotRecord {
        let membership = StoredMembership { position: Some(position(1, 0)), membership: membership() };
        SnapshotRecord { last: Some(position(1, index)), membership, pieces: Vec::new() }
    }

    fn record() -> impl Strategy<Value = WalRecord> {
        let payload = prop_oneof![
            Just(EntryPayload::Blank),
            (0usize..40).prop_map(|bytes| EntryPayload::Command(Bytes::from(vec![7; bytes]))),
            Just(EntryPayload::Membership(membership())),
        ];
        let index = 0..INDEXES;
        let entry = (1u64..4, index.clone(), payload)
            .prop_map(|(term, index, payload)| Entry { position: position(term, index), payload });
        let vote = (1u64..4, any::<bool>()).prop_map(|(term, committed)| Vote { term, leader: NodeId(1), committed });
        let at = (1u64..4, index.clone()).prop_map(|(term, index)| position(term, index));
        prop_oneof![
            8 => entry.prop_map(|entry| WalRecord::Append((GROUP, entry))),
            1 => vote.prop_map(|vote| WalRecord::Vote((GROUP, vote))),
            1 => prop::option::of(at.clone()).prop_map(|at| WalRecord::Committed((GROUP, at))),
            1 => prop::option::of(index.clone()).prop_map(|after| WalRecord::TruncateAfter((GROUP, after))),
            1 => at.prop_map(|upto| WalRecord::Purge((GROUP, upto))),
            1 => index.prop_map(|index| WalRecord::Snapshot((GROUP, snapshot(index)))),
            1 => (0u64..3).prop_map(|member| WalRecord::Member((GROUP, NodeId(member)))),
        ]
    }

    /// The same, said more simply.
    #[derive(Default)]
    struct Model {
        entries: BTreeMap<u64, Entry>,
        purged: Option<LogPosition>,
    }

    impl Model {
        /// Raft appends right behind the end, or in the place of an entry that is there.
        fn may_follow(&self, index: u64) -> bool {
            match (self.entries.keys().next(), self.entries.keys().next_back(), self.purged) {
                (Some(first), Some(last), _) => index >= *first && index <= last + 1,
                (_, _, Some(purged)) => index <= purged.index + 1,
                _ => true,
            }
        }

        fn apply(&mut self, record: &WalRecord) {
            match record {
                WalRecord::Append((_, entry)) => {
                    if self.purged.is_none_or(|purged| entry.position.index > purged.index) {
                        self.entries.insert(entry.position.index, entry.clone());
                    }
                }
                WalRecord::TruncateAfter((_, after)) => {
                    self.entries.retain(|index, _| after.is_some_and(|after| *index <= after));
                }
                WalRecord::Purge((_, upto)) => {
                    self.entries.retain(|index, _| *index > upto.index);
                    self.purged = Some(*upto);
                }
                WalRecord::Member(_) => *self = Self::default(),
                WalRecord::Vote(_) | WalRecord::Committed(_) | WalRecord::Snapshot(_) => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn records_add_up_and_a_checkpoint_says_the_same(
            records in prop::collection::vec(record(), 0..120),
            (from, to) in (0..INDEXES, 0..INDEXES),
        ) {
            let (mut log, mut model) = (GroupLog::default(), Model::default());
            let (mut vote, mut committed, mut newest, mut member) = (None, None, None, None);
            for record in records {
                match &record {
                    WalRecord::Append((_, entry)) if !model.may_follow(entry.position.index) => {
                        // What recovery calls a gap lies behind the end.
                        let last = log.last().map(|last| last.index);
                        let behind = last.is_some_and(|last| entry.position.index > last + 1);
                        prop_assert_eq!(log.leaves_gap(entry.position.index), behind);
                        continue;
                    }
                    WalRecord::Vote((_, cast)) => vote = Some(*cast),
                    WalRecord::Committed((_, upto)) => committed = *upto,
                    WalRecord::Snapshot((_, snapshot)) => newest = Some(snapshot.clone()),
                    WalRecord::Member((_, said)) => {
                        (vote, committed, newest, member) = (None, None, None, Some(*said));
                    }
                    _ => {}
                }
                log.apply(&record);
                model.apply(&record);
                let last = model.entries.values().next_back().map(|entry| entry.position).or(model.purged);
                prop_assert_eq!(log.last(), last);
                prop_assert_eq!(log.live_bytes(), model.entries.values().map(cost).sum::<usize>());
            }
            prop_assert!(log.entries(0, u64::MAX).eq(model.entries.values()));
            if from <= to {
                prop_assert!(log.entries(from, to).eq(model.entries.range(from..to).map(|(_, entry)| entry)));
            }
            prop_assert_eq!((log.vote(), log.committed(), log.purged()), (vote, committed, model.purged));
            prop_assert_eq!(log.snapshot(), newest.as_ref());
            prop_assert_eq!(log.member(), member);

            let mut again = GroupLog::default();
            log.records(GROUP, &mut |record| {
                assert_eq!(group_of(&record), GROUP);
                again.apply(&record);
            });
            prop_assert_eq!(format!("{again:?}"), format!("{log:?}"));
        }
    }
}
