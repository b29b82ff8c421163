//! Records as Raft groups make them: terms rise, a conflict truncates before it appends, a purge follows a snapshot.

use super::model::{State, States};
use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, GroupId, NodeId};
use farside_codec::record::wal::{
    Entry, EntryPayload, LogPosition, Membership, SnapshotRecord, StoredMembership, Vote, WalRecord,
};
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_io::sim::histories::Dice;

/// What the records of one history are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) groups: u32,
    /// Bytes of a command, at most.
    pub(crate) command_bytes: u64,
    /// Live bytes above which the largest group makes a snapshot.
    pub(crate) live_bytes: usize,
}

/// The next append of some group, given what all records so far add up to.
pub(crate) fn draw(dice: &Dice, manner: &Manner, states: &States) -> Vec<WalRecord> {
    let group = GroupId(dice.between(1, u64::from(manner.groups)) as u32);
    let empty = State::default();
    let state = states.get(&group).unwrap_or(&empty);
    match dice.below(20) {
        0..=1 => vec![vote(dice, group, state)],
        2..=3 => commit(dice, group, state).into_iter().collect(),
        4..=6 => conflict(dice, manner, group, state),
        7 => snapshot(dice, group, state, state.last().map_or(0, |last| last.index)),
        9 if dice.percent(10) => {
            // It leaves, or begins anew as somebody else.
            let before = state.member.map_or(1, |member| member.0);
            vec![WalRecord::Member((group, NodeId(if dice.percent(50) { 0 } else { before + 1 })))]
        }
        8 if dice.percent(30) => {
            // A leader's snapshot, past all that is here.
            let ahead = state.last().map_or(0, |last| last.index) + dice.between(1, 9);
            snapshot(dice, group, state, ahead)
        }
        _ => {
            let next = state.last().map_or(0, |last| last.index + 1);
            append(dice, manner, group, next, term(state))
        }
    }
}

fn term(state: &State) -> u64 {
    let last = state.last().map_or(1, |last| last.term);
    last.max(state.vote.map_or(1, |vote| vote.term))
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term, leader: NodeId(term % 3 + 1), index }
}

fn vote(dice: &Dice, group: GroupId, state: &State) -> WalRecord {
    let term = term(state) + dice.below(2);
    WalRecord::Vote((group, Vote { term, leader: NodeId(term % 3 + 1), committed: dice.percent(50) }))
}

fn commit(dice: &Dice, group: GroupId, state: &State) -> Option<WalRecord> {
    let entries: Vec<LogPosition> = state.entries.values().map(|entry| entry.position).collect();
    let committed = state.committed.map_or(0, |at| at.index);
    let open: Vec<LogPosition> = entries.into_iter().filter(|at| at.index >= committed).collect();
    (!open.is_empty()).then(|| WalRecord::Committed((group, Some(dice.pick(&open)))))
}

fn append(dice: &Dice, manner: &Manner, group: GroupId, first: u64, term: u64) -> Vec<WalRecord> {
    let count = dice.pick(&[1, 1, 2, 5]);
    let entries = (first..first + count).map(|index| {
        let payload = match dice.below(12) {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Membership(membership(dice)),
            _ => {
                let mut command = vec![0; dice.between(1, manner.command_bytes) as usize];
                SeededEntropy::new(dice.seed()).fill(&mut command);
                EntryPayload::Command(Bytes::from(command))
            }
        };
        WalRecord::Append((group, Entry { position: position(term, index), payload }))
    });
    entries.collect()
}

/// Another leader's entries take the place of uncommitted ones.
fn conflict(dice: &Dice, manner: &Manner, group: GroupId, state: &State) -> Vec<WalRecord> {
    let least = state.committed.map(|at| at.index).max(state.purged.map(|at| at.index));
    let last = state.last().map(|last| last.index);
    let (from, to) = (least.map_or(0, |at| at + 1), last.map_or(0, |at| at + 1));
    if from >= to {
        return Vec::new();
    }
    // The first index that goes.
    let first = dice.between(from, to - 1);
    let mut records = vec![WalRecord::TruncateAfter((group, first.checked_sub(1)))];
    if dice.percent(60) {
        records.extend(append(dice, manner, group, first, term(state) + 1));
    }
    records
}

/// A snapshot up to `index`, and the purge that it allows, at once or later.
pub(crate) fn snapshot(dice: &Dice, group: GroupId, state: &State, index: u64) -> Vec<WalRecord> {
    let here = state.entries.get(&index).map(|entry| entry.position);
    let purged = state.purged.map_or(0, |at| at.index);
    if here.is_none() && index <= state.last().map_or(purged, |last| last.index) {
        return Vec::new();
    }
    let last = here.unwrap_or(position(term(state), index));
    let stored = StoredMembership { position: Some(last), membership: membership(dice) };
    let pieces = (0..dice.below(3)).map(|_| {
        let mut id = [0; 32];
        SeededEntropy::new(dice.seed()).fill(&mut id);
        ChunkRef { chunk: ChunkId(id), sealed_bytes: 77 }
    });
    let record = SnapshotRecord { last: Some(last), membership: stored, pieces: pieces.collect() };
    vec![
        WalRecord::Snapshot((group, record)),
        WalRecord::Committed((group, Some(last))),
        WalRecord::Purge((group, last)),
    ]
}

fn membership(dice: &Dice) -> Membership {
    let nodes: Vec<NodeId> = (1..=dice.between(1, 5)).map(NodeId).collect();
    Membership { configurations: vec![nodes.clone()], nodes }
}
