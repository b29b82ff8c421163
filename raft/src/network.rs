//! openraft's network on whatever carries bytes between nodes.

use crate::machine::SnapshotStore;
use crate::message::{Answer, AppendEntries, Ask, HandOver, RequestVote, SnapshotEnd, SnapshotPiece};
use crate::storage::Pieces;
use crate::types::{self, Types, Vote};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::ids::{GroupId, NodeId};
use futures_util::future::LocalBoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::rc::Rc;

/// Why another node did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerError {
    /// There is no such node, or no way to it now.
    Unreachable(NodeId),
    /// What came back is no answer.
    Garbled(NodeId),
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(node) => write!(f, "node {node} can't be reached"),
            Self::Garbled(node) => write!(f, "node {node} answered something else than was asked"),
        }
    }
}

impl std::error::Error for PeerError {}

/// Carries a group's requests to other nodes, where [`crate::Group::handle`] answers them.
pub trait PeerNetwork: 'static {
    /// Asks `target`, and waits for its answer.
    fn call(&self, target: NodeId, group: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>>;

    /// The same for a message without entries, which may travel with those of other groups.
    fn beat(&self, target: NodeId, group: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        self.call(target, group, request)
    }
}

/// The network of a site with one node.
pub struct Alone;

impl PeerNetwork for Alone {
    fn call(&self, target: NodeId, _: GroupId, _: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable(target))))
    }
}

pub(crate) struct Factory<P> {
    pub(crate) group: GroupId,
    pub(crate) peers: Rc<dyn PeerNetwork>,
    pub(crate) snapshots: Rc<P>,
}

impl<P: SnapshotStore> RaftNetworkFactory<Types> for Factory<P> {
    type Network = Link<P>;

    async fn new_client(&mut self, target: u64, _: &openraft::EmptyNode) -> Link<P> {
        let target = NodeId(target);
        Link { group: self.group, target, peers: self.peers.clone(), snapshots: self.snapshots.clone() }
    }
}

/// The way to one other node.
pub(crate) struct Link<P> {
    group: GroupId,
    target: NodeId,
    peers: Rc<dyn PeerNetwork>,
    snapshots: Rc<P>,
}

impl<P: SnapshotStore> Link<P> {
    async fn ask(&self, ask: Ask) -> Result<Answer, PeerError> {
        let is_beat = matches!(&ask, Ask::Append(append) if append.entries.is_empty());
        let bytes = ask.to_bytes();
        let answer = match is_beat {
            true => self.peers.beat(self.target, self.group, bytes).await?,
            false => self.peers.call(self.target, self.group, bytes).await?,
        };
        match Answer::from_bytes(answer) {
            Ok(Answer::Stopped) => Err(PeerError::Unreachable(self.target)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(PeerError::Garbled(self.target)),
        }
    }

    async fn ask_for_vote(&self, rpc: VoteRequest<Types>, pre: bool) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = RequestVote {
            vote: types::wal_vote(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(types::position),
            transfer: rpc.leadership_transfer,
        };
        let ask = if pre { Ask::PreVote(request) } else { Ask::Vote(request) };
        match self.ask(ask).await.map_err(failed)? {
            Answer::Voted(voted) => {
                Ok(VoteResponse::new(types::vote(voted.vote), voted.last.map(types::log_id), voted.granted))
            }
            _ => Err(failed(PeerError::Garbled(self.target))),
        }
    }

    async fn send_snapshot(
        &self,
        vote: &Vote,
        meta: &types::SnapshotMeta,
        pieces: &Pieces,
    ) -> Result<Vote, StreamingError<Types>> {
        for (number, piece) in pieces.iter().enumerate() {
            let bytes = self.snapshots.get(piece).await.map_err(|error| NetworkError::<Types>::new(&error))?;
            let piece = SnapshotPiece { number: number as u32, bytes };
            let answer = self.ask(Ask::Piece(piece)).await.map_err(|error| Unreachable::<Types>::new(&error))?;
            if answer != Answer::Kept {
                return Err(NetworkError::<Types>::new(&PeerError::Garbled(self.target)).into());
            }
        }
        let end = SnapshotEnd {
            vote: types::wal_vote(vote),
            pieces: pieces.len() as u32,
            last: meta.last_log_id.as_ref().map(types::position),
            membership: types::wal_stored_membership(&meta.last_membership),
        };
        match self.ask(Ask::Install(end)).await.map_err(|error| Unreachable::<Types>::new(&error))? {
            Answer::Installed(vote) => Ok(types::vote(vote)),
            _ => Err(NetworkError::<Types>::new(&PeerError::Garbled(self.target)).into()),
        }
    }
}

fn failed(error: PeerError) -> RPCError<Types> {
    match error {
        PeerError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
        PeerError::Garbled(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

impl<P: SnapshotStore> RaftNetworkV2<Types> for Link<P> {
    type SnapshotData = Pieces;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = AppendEntries {
            vote: types::wal_vote(&rpc.vote),
            previous: rpc.prev_log_id.as_ref().map(types::position),
            entries: rpc.entries.iter().map(types::wal_entry).collect(),
            committed: rpc.leader_commit.as_ref().map(types::position),
        };
        match self.ask(Ask::Append(request)).await.map_err(failed)? {
            Answer::Appended => Ok(AppendEntriesResponse::Success),
            Answer::AppendedTo(upto) => Ok(AppendEntriesResponse::PartialSuccess(upto.map(types::log_id))),
            Answer::Conflict => Ok(AppendEntriesResponse::Conflict),
            Answer::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(types::vote(vote))),
            _ => Err(failed(PeerError::Garbled(self.target))),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, _: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(rpc, true).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = HandOver {
            vote: types::wal_vote(rpc.from_leader()),
            to: NodeId(*rpc.to_node_id()),
            last: rpc.last_log_id().map(types::position),
        };
        match self.ask(Ask::HandOver(request)).await.map_err(failed)? {
            Answer::HandedOver => Ok(Ok(())),
            Answer::NotReady => {
                let (expected, actual) = (rpc.last_log_id().cloned(), None);
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual }))
            }
            _ => Err(failed(PeerError::Garbled(self.target))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types, Pieces>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let cancel = std::pin::pin!(cancel);
        let send = std::pin::pin!(self.send_snapshot(&vote, &snapshot.meta, &snapshot.snapshot));
        match futures_util::future::select(cancel, send).await {
            futures_util::future::Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            futures_util::future::Either::Right((result, _)) => result.map(SnapshotResponse::new),
        }
    }
}
