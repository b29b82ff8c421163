//! What one group's records add up to.

use farside_codec::delta::ChunkRef;
use farside_codec::ids::GroupId;
use farside_codec::record::wal::{Entry, EntryPayload, LogPosition, SnapshotRecord, Vote, WalRecord};
use std::collections::VecDeque;

/// A group's part of the log, in memory. Bounded: see [`super::Wal::live_limit`].
#[derive(Debug, Default, Clone)]
pub struct GroupLog {
    vote: Option<Vote>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    snapshot: Option<SnapshotRecord>,
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry costs in memory besides its payload.
const ENTRY_OVERHEAD_BYTES: usize = 96;

fn cost(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Command(command) => command.len(),
            EntryPayload::Membership(membership) => membership.nodes.len() * 16,
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
    /// Bytes of entries in memory.
    pub fn live_bytes(&self) -> usize {
        self.bytes
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
        }
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
