//! openraft's storage on the shard's write-ahead log and the caller's state machine.

use crate::limits;
use crate::machine::{Applied, SnapshotPieces, SnapshotStore, StateError, StateMachine};
use crate::types::{self, Entry, LogId, SnapshotMeta, StoredMembership, Types, Vote};
use crate::wal::{Gate, Wal, WalError, cost};
use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::GroupId;
use farside_codec::record::wal::{self, LogPosition, SnapshotRecord, WalRecord};
use farside_io::disk::Disk;
use futures_util::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use std::cell::RefCell;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

fn wal_failed(error: WalError) -> io::Error {
    io::Error::other(error)
}

fn state_failed(error: StateError) -> io::Error {
    io::Error::other(error.to_string())
}

/// What an entry takes besides its command, and more.
const ENTRY_BYTES: usize = 128;

/// One group's view of the log.
pub(crate) struct GroupStorage<D> {
    pub(crate) wal: Wal<D>,
    pub(crate) group: GroupId,
    pub(crate) gate: Gate,
}

impl<D> Clone for GroupStorage<D> {
    fn clone(&self) -> Self {
        Self { wal: self.wal.clone(), group: self.group, gate: self.gate.clone() }
    }
}

impl<D: Disk> GroupStorage<D> {
    pub(crate) fn new(wal: Wal<D>, group: GroupId) -> Self {
        let gate = Gate::new(&wal);
        Self { wal, group, gate }
    }
}

impl<D: Disk> RaftLogReader<Types> for GroupStorage<D> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(&mut self, range: R) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.wal.group(self.group, |log| log.entries(from, to).map(types::entry).collect()))
    }

    /// The first entries of a range, as many as one request may carry: a follower that lags is sent the rest afterwards.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        Ok(self.wal.group(self.group, |log| {
            let mut bytes = 0;
            let fits = |entry: &&wal::Entry| {
                let is_first = bytes == 0;
                bytes += ENTRY_BYTES
                    + if let wal::EntryPayload::Command(command) = &entry.payload { command.len() } else { 0 };
                is_first || bytes <= limits::APPEND_BYTES
            };
            log.entries(start, end).take_while(fits).map(types::entry).collect()
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.wal.group(self.group, |log| log.vote()).map(types::vote))
    }
}

impl<D: Disk> RaftLogStorage<Types> for GroupStorage<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        Ok(self.wal.group(self.group, |log| LogState {
            last_purged_log_id: log.purged().map(types::log_id),
            last_log_id: log.last().map(types::log_id),
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let record = WalRecord::Vote((self.group, types::wal_vote(vote)));
        self.wal.append_durably(&[record]).await.map_err(wal_failed)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Only spares work after a restart, so nobody waits for it.
        let record = WalRecord::Committed((self.group, committed.as_ref().map(types::position)));
        self.wal.append(&[record], None);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // It may lie ahead of the entries if those were torn off; openraft wants one that is there.
        Ok(self.wal.group(self.group, |log| {
            let last = log.last();
            log.committed()
                .filter(|committed| last.is_some_and(|last| committed.index <= last.index))
                .map(types::log_id)
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry>,
    {
        let entries: Vec<wal::Entry> = entries.into_iter().map(|entry| types::wal_entry(&entry)).collect();
        self.wal.room().await;
        self.gate.appended(entries.iter().map(cost));
        let records: Vec<WalRecord> = entries.into_iter().map(|entry| WalRecord::Append((self.group, entry))).collect();
        self.wal.append(&records, Some(Box::new(|result| callback.io_completed(result.map_err(wal_failed)))));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let record = WalRecord::TruncateAfter((self.group, last.map(|last| last.index)));
        self.wal.append_durably(&[record]).await.map_err(wal_failed)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let record = WalRecord::Purge((self.group, types::position(&upto)));
        self.wal.append_durably(&[record]).await.map_err(wal_failed)
    }
}

fn log_id_of(position: &LogPosition) -> LogId {
    types::log_id(*position)
}

/// A snapshot's pieces, by where they are kept on this node.
pub(crate) type Pieces = Vec<ChunkRef>;

/// openraft's view of a state machine.
pub(crate) struct Machine<D, S, P> {
    pub(crate) storage: GroupStorage<D>,
    pub(crate) state: Rc<RefCell<S>>,
    pub(crate) snapshots: Rc<P>,
}

impl<D, S, P> Clone for Machine<D, S, P> {
    fn clone(&self) -> Self {
        Self { storage: self.storage.clone(), state: self.state.clone(), snapshots: self.snapshots.clone() }
    }
}

impl<D: Disk, S: StateMachine, P: SnapshotStore> Machine<D, S, P> {
    /// Reinstalls the group's own snapshot if the state has fallen behind it, or behind what the log still holds: its file
    /// was lost or damaged, or a snapshot was being received. The log's entries then bring it up to date.
    pub(crate) async fn catch_up(&self) -> io::Result<bool> {
        let applied = self.state.borrow().applied().map_err(state_failed)?.last.map(|last| last.index);
        let (purged, snapshot) =
            self.storage.wal.group(self.storage.group, |log| (log.purged(), log.snapshot().cloned()));
        let is_behind = |of: Option<LogPosition>| of.is_some_and(|of| applied.is_none_or(|applied| applied < of.index));
        let behind = is_behind(purged) || is_behind(snapshot.as_ref().and_then(|snapshot| snapshot.last));
        match snapshot {
            _ if !behind => Ok(false),
            Some(snapshot) => self.install(&snapshot).await.map(|()| true),
            None => Err(io::Error::other("the state is behind the log and there is no snapshot to begin from")),
        }
    }

    /// Makes a snapshot of a state that is ahead of the log: of one whose entries others had flushed sooner, before the power
    /// went. openraft lets go of what there is of the log then, and if the state's file was lost later, nothing could make it
    /// again. What finds no room is left for the next snapshot.
    pub(crate) async fn keep_what_is_ahead(&self) -> io::Result<()> {
        let (last, snapshot) = self.storage.wal.group(self.storage.group, |log| (log.last(), log.snapshot().cloned()));
        let (applied, reader) = {
            let state = self.state.borrow();
            state.applied().and_then(|applied| Ok((applied, state.snapshot()?))).map_err(state_failed)?
        };
        let reached = applied.last.as_ref().map(log_id_of);
        let is_ahead = |of: Option<LogPosition>| of.as_ref().map(log_id_of) < reached;
        if !is_ahead(last) || !is_ahead(snapshot.and_then(|snapshot| snapshot.last)) {
            return Ok(());
        }
        let (mut reader, mut pieces) = (reader, Vec::new());
        while let Some(piece) = reader.next_piece().map_err(state_failed)? {
            match self.snapshots.put(self.storage.group, piece).await {
                Ok(kept) => pieces.push(kept),
                Err(error) => {
                    tracing::warn!(%error, group = %self.storage.group, "a state that is ahead of its log has no snapshot yet");
                    self.snapshots.give_up(self.storage.group, &pieces);
                    return Ok(());
                }
            }
        }
        self.record(SnapshotRecord { last: applied.last, membership: applied.membership, pieces }).await.map(drop)
    }

    async fn install(&self, snapshot: &SnapshotRecord) -> io::Result<()> {
        self.state.borrow_mut().install_begin().map_err(state_failed)?;
        for piece in &snapshot.pieces {
            let bytes = self.snapshots.get(piece).await.map_err(io::Error::other)?;
            self.state.borrow_mut().install_piece(bytes).map_err(state_failed)?;
        }
        let applied = Applied { last: snapshot.last, membership: snapshot.membership.clone() };
        self.state.borrow_mut().install_finish(&applied).map_err(state_failed)
    }

    /// Makes a snapshot the group's own, unless a newer one is: one that was received while this one was still being
    /// built, after which the log between the two is gone. Answers the one that counts.
    async fn record(&self, snapshot: SnapshotRecord) -> io::Result<SnapshotRecord> {
        let index = |snapshot: &SnapshotRecord| snapshot.last.map(|last| last.index);
        let newest = || self.storage.wal.group(self.storage.group, |log| log.snapshot().cloned());
        if let Some(known) = newest().filter(|known| index(known) > index(&snapshot)) {
            return Ok(known);
        }
        let record = WalRecord::Snapshot((self.storage.group, snapshot.clone()));
        self.storage.wal.append_durably(&[record]).await.map_err(wal_failed)?;
        // One that was recorded meanwhile lets go of the pieces before it, once it is durable itself.
        if newest().as_ref() == Some(&snapshot) {
            self.snapshots.keep(self.storage.group, &snapshot.pieces);
        }
        Ok(snapshot)
    }

    /// Applies a run of commands, and answers their proposers.
    fn apply_run(&self, run: &mut Run, applied: &Applied) -> io::Result<()> {
        let commands: Vec<Bytes> = run.commands.drain(..).collect();
        let outcomes = self.state.borrow_mut().apply(&commands, applied).map_err(state_failed)?;
        debug_assert_eq!(outcomes.len(), commands.len());
        let mut outcomes = outcomes.into_iter();
        for (responder, is_command) in run.responders.drain(..) {
            let outcome = if is_command { outcomes.next().unwrap_or_default() } else { Bytes::new() };
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Run {
    commands: Vec<Bytes>,
    responders: Vec<(Option<openraft::storage::ApplyResponder<Types>>, bool)>,
}

/// Entries applied in one transaction of the state machine.
const APPLY_ENTRIES: usize = 256;

impl<D: Disk, S: StateMachine, P: SnapshotStore> RaftStateMachine<Types> for Machine<D, S, P> {
    type SnapshotData = Pieces;
    type SnapshotBuilder = Builder<D, S, P>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.state.borrow().applied().map_err(state_failed)?;
        Ok((applied.last.map(types::log_id), types::stored_membership(&applied.membership)))
    }

    async fn apply<E>(&mut self, mut entries: E) -> io::Result<()>
    where
        E: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin,
    {
        let mut applied = self.state.borrow().applied().map_err(state_failed)?;
        let mut run = Run::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let position = types::position(&entry.log_id);
            applied.last = Some(position);
            let is_command = match entry.payload {
                openraft::EntryPayload::Normal(command) => {
                    run.commands.push(command.0);
                    true
                }
                openraft::EntryPayload::Membership(membership) => {
                    let membership = types::wal_membership(&membership);
                    let position = Some(position);
                    applied.membership = farside_codec::record::wal::StoredMembership { position, membership };
                    false
                }
                openraft::EntryPayload::Blank => false,
            };
            run.responders.push((responder, is_command));
            if run.responders.len() >= APPLY_ENTRIES {
                self.apply_run(&mut run, &applied)?;
            }
        }
        if !run.responders.is_empty() {
            self.apply_run(&mut run, &applied)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<D, S, P> {
        let view = {
            let state = self.state.borrow();
            state.applied().and_then(|applied| Ok((applied, state.snapshot()?)))
        };
        Builder { machine: self.clone(), view: Some(view) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, pieces: Pieces) -> io::Result<()> {
        let snapshot = SnapshotRecord {
            last: meta.last_log_id.as_ref().map(types::position),
            membership: types::wal_stored_membership(&meta.last_membership),
            pieces,
        };
        // What can't be read must not count.
        for piece in &snapshot.pieces {
            self.snapshots.get(piece).await.map_err(io::Error::other)?;
        }
        // In this order: a state that was ahead of the log and of every snapshot could not be made again if its file was lost.
        let counts = self.record(snapshot).await?;
        self.install(&counts).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::type_config::alias::SnapshotOf<Types, Pieces>>> {
        let snapshot = self.storage.wal.group(self.storage.group, |log| log.snapshot().cloned());
        Ok(snapshot.map(|snapshot| Snapshot { meta: meta(&snapshot), snapshot: snapshot.pieces }))
    }
}

fn meta(snapshot: &SnapshotRecord) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: snapshot.last.map(types::log_id),
        last_membership: types::stored_membership(&snapshot.membership),
    }
}

type View = Result<(Applied, Box<dyn SnapshotPieces>), StateError>;

/// Writes out a view of the state that was taken when the builder was made.
pub(crate) struct Builder<D, S, P> {
    machine: Machine<D, S, P>,
    view: Option<View>,
}

impl<D: Disk, S: StateMachine, P: SnapshotStore> Builder<D, S, P> {
    /// Keeps a piece, however long it takes: a snapshot that fails would stop the group, and with it reads and removals,
    /// where all that is missing may be space. Meanwhile the log grows to its bound and proposals are turned away.
    async fn keep(&self, piece: Bytes) -> ChunkRef {
        loop {
            match self.machine.snapshots.put(self.machine.storage.group, piece.clone()).await {
                Ok(kept) => return kept,
                Err(error) => tracing::warn!(%error, group = %self.machine.storage.group, "a snapshot has to wait"),
            }
            tokio::time::sleep(limits::SNAPSHOT_RETRY).await;
        }
    }
}

impl<D: Disk, S: StateMachine, P: SnapshotStore> RaftSnapshotBuilder<Types> for Builder<D, S, P> {
    type SnapshotData = Pieces;

    async fn build_snapshot(&mut self) -> io::Result<openraft::type_config::alias::SnapshotOf<Types, Pieces>> {
        let view = self.view.take().ok_or(io::Error::other("a builder builds once"))?;
        let (applied, mut reader) = view.map_err(state_failed)?;
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next_piece().map_err(state_failed)? {
            pieces.push(self.keep(piece).await);
        }
        let record = SnapshotRecord { last: applied.last, membership: applied.membership, pieces };
        let counts = self.machine.record(record).await?;
        Ok(Snapshot { meta: meta(&counts), snapshot: counts.pieces })
    }
}
