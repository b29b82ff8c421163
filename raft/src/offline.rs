//! What can be done with a group's log while no node runs the group: looking at what is not applied yet, and going on with
//! one replica where the majority is lost.

use crate::group::GroupError;
use crate::machine::{SnapshotStore, StateMachine};
use crate::storage::{GroupStorage, Machine};
use crate::wal::{GroupLog, Wal};
use bytes::Bytes;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::record::wal::{Entry, EntryPayload, LogPosition, Membership, Vote, WalRecord};
use farside_io::disk::Disk;
use std::cell::RefCell;
use std::rc::Rc;

/// Reinstalls a group's own snapshot where its state has fallen behind what its log still holds, as a start does.
pub async fn catch_up<D: Disk, S: StateMachine, P: SnapshotStore>(
    wal: &Wal<D>,
    group: GroupId,
    state: &Rc<RefCell<S>>,
    snapshots: &Rc<P>,
) -> Result<(), GroupError> {
    let storage = GroupStorage::new(wal.clone(), group);
    let machine = Machine { storage, state: state.clone(), snapshots: snapshots.clone() };
    machine.catch_up().await.map(drop).map_err(GroupError::Storage)
}

/// The commands that follow what was applied last, committed or not.
pub fn tail(log: &GroupLog, applied: Option<LogPosition>) -> Vec<Bytes> {
    let from = applied.map_or(0, |applied| applied.index.saturating_add(1));
    let command = |entry: &Entry| match &entry.payload {
        EntryPayload::Command(command) => Some(command.clone()),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    };
    // A log begins past what was applied only where its snapshot was not installed yet.
    log.entries(from, u64::MAX).filter(|entry| entry.position.index >= from).filter_map(command).collect()
}

/// The records after which `entry.leader` is a group's only voter, whatever its log says so far; it leads as soon as it is
/// started. `entry` lies right behind the log and in a term that nobody has voted in: so it is told from whatever others
/// may have there, and whoever kept other entries gives them up for a leader of a later term.
pub fn forced_records(log: &GroupLog, group: GroupId, entry: LogPosition, listeners: &[NodeId]) -> Vec<WalRecord> {
    let member = entry.leader;
    assert!(log.end().is_none_or(|end| end.index + 1 == entry.index), "the entry follows the log");
    assert!(log.vote().is_none_or(|vote| vote.term < entry.term), "nobody has voted in its term");
    let mut nodes = [&[member], listeners].concat();
    nodes.sort_unstable();
    let membership = Membership { configurations: vec![vec![member]], nodes };
    let mut records = Vec::new();
    if log.end().map(|end| end.index) > log.last().map(|last| last.index) {
        // A snapshot that was received, and whose log was not dropped yet.
        records.extend(log.end().map(|end| WalRecord::Purge((group, end))));
    }
    let vote = Vote { term: entry.term, leader: member, committed: false };
    let entry = Entry { position: entry, payload: EntryPayload::Membership(membership) };
    records.extend([WalRecord::Vote((group, vote)), WalRecord::Append((group, entry))]);
    records
}

/// The same for a group of which nobody has anything: it begins with its only voter.
pub fn first_records(group: GroupId, entry: LogPosition, listeners: &[NodeId]) -> Vec<WalRecord> {
    assert_eq!(entry.index, 0, "an empty log begins");
    let mut records = vec![WalRecord::Member((group, entry.leader))];
    records.extend(forced_records(&GroupLog::default(), group, entry, listeners));
    records
}
