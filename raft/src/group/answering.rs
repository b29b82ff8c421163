//! What a group answers the other nodes of it.

use super::{Group, see_through};
use crate::machine::{SnapshotStore, StateMachine};
use crate::message::{Answer, AppendEntries, Ask, SnapshotEnd, SnapshotPiece, Voted};
use crate::types;
use bytes::Bytes;
use farside_codec::Field;
use farside_io::disk::Disk;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;

impl<D: Disk, S: StateMachine, P: SnapshotStore> Group<D, S, P> {
    /// Answers another node of the group.
    pub async fn handle(&self, request: Bytes) -> Bytes {
        let answer = match Ask::from_bytes(request) {
            Ok(ask) => self.answer(ask).await,
            Err(error) => {
                tracing::warn!(%error, group = %self.id, "a Raft message can't be read");
                Answer::Stopped
            }
        };
        answer.to_bytes()
    }

    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Append(append) => self.append(append).await,
            Ask::Vote(request) => self.answer_vote(request, false).await,
            Ask::PreVote(request) => self.answer_vote(request, true).await,
            Ask::Piece(piece) => self.keep_piece(piece).await,
            Ask::Install(end) => self.install(end).await,
            Ask::HandOver(order) => {
                let last = order.last.map(types::log_id);
                let request = TransferLeaderRequest::new(types::vote(order.vote), order.to.0, last);
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Answer::HandedOver,
                    Ok(Err(_)) => Answer::NotReady,
                    Err(_) => Answer::Stopped,
                }
            }
        }
    }

    /// Takes a leader's entries in, unless the log has no room for them: then the leader goes on beating and comes back with
    /// them, and this node neither falls silent nor stands for election.
    async fn append(&self, append: AppendEntries) -> Answer {
        let storage = &self.machine.storage;
        let Some(admitted) = storage.wal.admit_entries(self.id, &storage.gate, &append.entries) else {
            tracing::warn!(group = %self.id, "entries have to wait until a snapshot makes room in the write-ahead log");
            return Answer::Stopped;
        };
        let is_beat = append.entries.is_empty();
        let request = AppendEntriesRequest {
            vote: types::vote(append.vote),
            prev_log_id: append.previous.map(types::log_id),
            entries: append.entries.iter().map(types::entry).collect(),
            leader_commit: append.committed.map(types::log_id),
        };
        let raft = self.raft.clone();
        let work = async move { raft.append_entries(request).await };
        let response = if is_beat { Some(work.await) } else { see_through(admitted, work).await };
        match response {
            Some(Ok(AppendEntriesResponse::Success)) => Answer::Appended,
            Some(Ok(AppendEntriesResponse::PartialSuccess(upto))) => {
                Answer::AppendedTo(upto.as_ref().map(types::position))
            }
            Some(Ok(AppendEntriesResponse::Conflict)) => Answer::Conflict,
            Some(Ok(AppendEntriesResponse::HigherVote(vote))) => Answer::HigherVote(types::wal_vote(&vote)),
            Some(Err(_)) | None => Answer::Stopped,
        }
    }

    async fn answer_vote(&self, request: crate::message::RequestVote, pre: bool) -> Answer {
        let request = VoteRequest {
            vote: types::vote(request.vote),
            last_log_id: request.last.map(types::log_id),
            leadership_transfer: request.transfer,
        };
        let response = if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        match response {
            Ok(response) => Answer::Voted(Voted {
                vote: types::wal_vote(&response.vote),
                granted: response.vote_granted,
                last: response.last_log_id.as_ref().map(types::position),
            }),
            Err(_) => Answer::Stopped,
        }
    }

    async fn keep_piece(&self, piece: SnapshotPiece) -> Answer {
        if piece.number == 0 {
            self.begin_to_receive();
        }
        let (number, received) = (piece.number as usize, self.received.get());
        // Another leader's snapshot may begin while a piece of this one is being kept.
        let goes_on = || received == self.received.get() && number == self.pieces.borrow().len();
        if !goes_on() {
            return Answer::Conflict;
        }
        match self.machine.snapshots.put(self.id, piece.bytes).await {
            Ok(kept) if !goes_on() => {
                self.machine.snapshots.give_up(self.id, &[kept]);
                Answer::Conflict
            }
            Ok(kept) => {
                self.pieces.borrow_mut().push(kept);
                Answer::Kept
            }
            Err(error) => {
                tracing::warn!(%error, group = %self.id, "a snapshot can't be received");
                if goes_on() {
                    self.begin_to_receive();
                }
                Answer::Stopped
            }
        }
    }

    /// What was received so far will never be whole. It must not lie in the way of what is sent next.
    fn begin_to_receive(&self) {
        self.received.set(self.received.get() + 1);
        let pieces = std::mem::take(&mut *self.pieces.borrow_mut());
        self.machine.snapshots.give_up(self.id, &pieces);
    }

    async fn install(&self, end: SnapshotEnd) -> Answer {
        let pieces = std::mem::take(&mut *self.pieces.borrow_mut());
        if pieces.len() != end.pieces as usize {
            self.machine.snapshots.give_up(self.id, &pieces);
            return Answer::Conflict;
        }
        let meta = types::SnapshotMeta {
            last_log_id: end.last.map(types::log_id),
            last_membership: types::stored_membership(&end.membership),
        };
        let snapshot = Snapshot { meta, snapshot: pieces };
        match self.raft.install_full_snapshot(types::vote(end.vote), snapshot).await {
            Ok(response) => Answer::Installed(types::wal_vote(&response.vote)),
            Err(_) => Answer::Stopped,
        }
    }
}
