//! One Raft group on one node.

mod answering;

use crate::limits;
use crate::machine::{SnapshotStore, StateMachine};
use crate::network::{Factory, PeerNetwork};
use crate::storage::{GroupStorage, Machine};
use crate::types::{Command, Types};
use crate::wal::{Admitted, Wal};
use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::record::wal::WalRecord;
use farside_io::disk::Disk;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, Config, Raft, ReadPolicy, SnapshotPolicy};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Timing of a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupSettings {
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower stands.
    pub election_min: Duration,
    /// Longest.
    pub election_max: Duration,
    /// Heartbeats go out when [`Group::beat`] is called, so that those of several groups can leave together.
    pub beats_when_told: bool,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1200),
            beats_when_told: false,
        }
    }
}

/// Why a group does not run here.
#[derive(Debug)]
pub enum GroupError {
    /// Its log, its state or its snapshot can't be read.
    Storage(std::io::Error),
    /// The settings contradict one another.
    Settings(String),
    /// It has stopped.
    Stopped,
}

impl std::fmt::Display for GroupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Settings(reason) => write!(f, "the settings of a group don't fit together: {reason}"),
            Self::Stopped => f.write_str("the group has stopped on this node"),
        }
    }
}

impl std::error::Error for GroupError {}

/// Why a command was not committed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads; ask it, if it is known.
    NotLeader(Option<NodeId>),
    /// Too many proposals wait already, or the log has no room before a snapshot is made.
    Busy,
    /// A command is larger than a record may be.
    TooLarge,
    /// This node led when it took the command in, and another one leads now: the command may have been committed or not,
    /// and may still be.
    Superseded(Option<NodeId>),
    /// The group has stopped on this node. Whether the command was committed is unknown.
    Stopped,
}

impl std::fmt::Display for ProposeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLeader(Some(node)) => write!(f, "node {node} leads the group"),
            Self::NotLeader(None) => f.write_str("the group has no leader now"),
            Self::Busy => f.write_str("too many proposals wait for this group, or for a snapshot of it"),
            Self::TooLarge => f.write_str("the command is larger than a log record may be"),
            Self::Superseded(_) => f.write_str("the group changed its leader while it was at this command: try again"),
            Self::Stopped => f.write_str("the group has stopped on this node"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// Why the members of a group were not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipError {
    /// Another node leads; ask it, if it is known.
    NotLeader(Option<NodeId>),
    /// Not now: a change is under way, or the leader is new. Or never: a voter that does not receive the log, or none at
    /// all.
    Refused(String),
    /// The group has stopped on this node.
    Stopped,
}

impl std::fmt::Display for MembershipError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLeader(leader) => ProposeError::NotLeader(*leader).fmt(f),
            Self::Refused(reason) => write!(f, "the group's members can't be changed now: {reason}"),
            Self::Stopped => ProposeError::Stopped.fmt(f),
        }
    }
}

impl std::error::Error for MembershipError {}

fn membership_error(error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
    match error {
        RaftError::APIError(
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward),
        ) => MembershipError::NotLeader(forward.leader_id.map(NodeId)),
        RaftError::APIError(error) => MembershipError::Refused(error.to_string()),
        RaftError::Fatal(_) => MembershipError::Stopped,
    }
}

/// How a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_index: Option<u64>,
    /// Index of the last entry applied.
    pub applied_index: Option<u64>,
    /// Index of the last entry in the newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Who votes, as far as this node knows; in the middle of a change, who does so before or after it.
    pub voters: BTreeSet<NodeId>,
    /// Who votes as of the last change that is known to be committed.
    pub settled_voters: BTreeSet<NodeId>,
    /// Who receives the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Who is known to have which part of the log, by the index of its last entry. Empty unless this node leads.
    pub replicated: BTreeMap<NodeId, u64>,
    /// It runs.
    pub running: bool,
}

/// A group on this node. Clones share it.
pub struct Group<D: Disk, S: StateMachine, P: SnapshotStore> {
    raft: Raft<Types, Machine<D, S, P>>,
    machine: Machine<D, S, P>,
    id: GroupId,
    node: NodeId,
    settings: GroupSettings,
    waiting: Rc<Cell<usize>>,
    /// Pieces of a snapshot that is being received.
    pieces: Rc<RefCell<Vec<ChunkRef>>>,
    /// Snapshots that began to be received.
    received: Rc<Cell<u64>>,
    /// The state was rebuilt from the snapshot when the group started.
    rebuilt: bool,
}

impl<D: Disk, S: StateMachine, P: SnapshotStore> Clone for Group<D, S, P> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            machine: self.machine.clone(),
            id: self.id,
            node: self.node,
            settings: self.settings,
            waiting: self.waiting.clone(),
            pieces: self.pieces.clone(),
            received: self.received.clone(),
            rebuilt: self.rebuilt,
        }
    }
}

impl<D: Disk, S: StateMachine, P: SnapshotStore> Group<D, S, P> {
    /// Begins to take part in a group under a number that nobody had in it before. The state must be empty.
    pub async fn join(wal: &Wal<D>, id: GroupId, member: NodeId) -> Result<(), GroupError> {
        let begun = wal.append_durably(&[WalRecord::Member((id, member))]).await;
        begun.map_err(|error| GroupError::Storage(std::io::Error::other(error.to_string())))
    }

    /// Starts the group with what log and state hold; `node` is the number under which this node takes part in it.
    pub async fn start(
        id: GroupId,
        node: NodeId,
        settings: GroupSettings,
        wal: Wal<D>,
        state: Rc<RefCell<S>>,
        snapshots: Rc<P>,
        peers: Rc<dyn PeerNetwork>,
    ) -> Result<Self, GroupError> {
        // openraft looks five times within its heartbeat whether one, or an election, is due. With hundreds of groups at rest that
        // is most of what they cost, and elections need no more than some looks within their time.
        let heartbeat = match settings.beats_when_told {
            true => settings.election_min - Duration::from_millis(1),
            false => settings.heartbeat,
        };
        let config = Config {
            cluster_name: format!("group-{id}"),
            heartbeat_interval: heartbeat.as_millis() as u64,
            election_timeout_min: settings.election_min.as_millis() as u64,
            election_timeout_max: settings.election_max.as_millis() as u64,
            enable_heartbeat: !settings.beats_when_told,
            // Snapshots are asked for by bytes, in `snapshot_if_due`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            enable_pre_vote: Some(true),
            // A leader that lost its unflushed tail must not come back as leader of the same term (measured.md).
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config.validate().map_err(|error| GroupError::Settings(error.to_string()))?;
        let storage = GroupStorage::new(wal, id);
        snapshots.keep(id, &storage.wal.group(id, |log| log.snapshot_pieces().to_vec()));
        let machine = Machine { storage: storage.clone(), state, snapshots: snapshots.clone() };
        let rebuilt = machine.catch_up().await.map_err(GroupError::Storage)?;
        machine.keep_what_is_ahead().await.map_err(GroupError::Storage)?;
        let factory = Factory { group: id, peers, snapshots };
        let raft = Raft::new(node.0, Arc::new(config), factory, storage, machine.clone()).await;
        let raft = raft.map_err(|error| GroupError::Storage(std::io::Error::other(error.to_string())))?;
        let (waiting, pieces) = (Rc::default(), Rc::default());
        let received = Rc::default();
        Ok(Self { raft, machine, id, node, settings, waiting, pieces, received, rebuilt })
    }

    /// Makes the group's first voters known; harmless when that was done before.
    pub async fn initialize(&self, voters: &[NodeId]) -> Result<(), GroupError> {
        let members: BTreeMap<u64, openraft::EmptyNode> =
            voters.iter().map(|node| (node.0, openraft::EmptyNode {})).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(GroupError::Settings(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(GroupError::Stopped),
        }
    }

    /// Its number.
    pub fn id(&self) -> GroupId {
        self.id
    }
    /// The number under which this node takes part.
    pub fn member(&self) -> NodeId {
        self.node
    }
    /// The state machine.
    pub fn state(&self) -> &Rc<RefCell<S>> {
        &self.machine.state
    }
    /// Whether the state was rebuilt from the snapshot when the group started.
    pub fn was_rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Commits a command and answers with its outcome.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        if command.len() > limits::RECORD_BYTES {
            return Err(ProposeError::TooLarge);
        }
        if self.waiting.get() >= limits::PROPOSALS {
            return Err(ProposeError::Busy);
        }
        self.waiting.set(self.waiting.get() + 1);
        let done = Countdown(self.waiting.clone());
        let storage = &self.machine.storage;
        let leads = || self.is_leader();
        let admitted =
            storage.wal.admit_proposal(&storage.gate, command.len(), leads).await.ok_or(ProposeError::Busy)?;
        let raft = self.raft.clone();
        let work = async move {
            let _done = done;
            raft.client_write(Command(command)).await
        };
        match see_through(admitted, work).await.ok_or(ProposeError::Stopped)? {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader(forward.leader_id.map(NodeId)))
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
                Err(ProposeError::Superseded(forward.leader_id.map(NodeId)))
            }
            Err(_) => Err(ProposeError::Stopped),
        }
    }

    /// Lets a node receive the log without a vote. Harmless where it does already.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let added = self.raft.add_learner(node.0, openraft::EmptyNode {}, false).await;
        added.map(drop).map_err(membership_error)
    }

    /// Makes these nodes the voters, by joint consensus (Ongaro 2014, 4.3): at each moment between, both the old and the
    /// new majority decide. Whoever is to vote must receive the log already ([`Group::add_learner`]) and should have most
    /// of it ([`GroupStatus::replicated`]), or the group waits for it. Who votes no more leaves the group, unless
    /// `keep`. A leader that is to leave hands over first.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>, keep: bool) -> Result<(), MembershipError> {
        // A leader that votes itself out leads on until that is committed, and openraft (0.10.0-alpha.37) stops the group
        // on its node if it is asked for another change just then.
        if !voters.contains(&self.node) {
            return Err(MembershipError::Refused(format!("node {} leads, and would not vote any more", self.node)));
        }
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        self.raft.change_membership(voters, keep).await.map(drop).map_err(membership_error)
    }

    /// Sends nothing to these nodes any more, none of which votes.
    pub async fn remove_learners(&self, nodes: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let nodes = ChangeMembers::RemoveNodes(nodes.iter().map(|node| node.0).collect());
        self.raft.change_membership(nodes, false).await.map(drop).map_err(membership_error)
    }

    /// Lets another voter lead from now on. It must have the log up to now: from here on this node takes nothing in. If it
    /// leads all the same when the longest election is over, because the other one did not stand or did not win, it
    /// stands again itself.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), MembershipError> {
        let status = self.status();
        if !self.is_leader() {
            return Err(MembershipError::NotLeader(status.leader));
        }
        // openraft would stop taking proposals for somebody who can never be elected.
        if to == self.node || !status.voters.contains(&to) {
            return Err(MembershipError::Refused(format!("node {to} is no other voter")));
        }
        // What was appended just now is on its way there.
        let waits = tokio::time::Instant::now() + self.settings.election_min;
        while !self.has_everything(to) {
            if tokio::time::Instant::now() >= waits {
                return Err(MembershipError::Refused(format!("node {to} has not got the whole log")));
            }
            tokio::time::sleep(self.settings.heartbeat / 10).await;
        }
        let stopped = |_| MembershipError::Stopped;
        self.raft.trigger().transfer_leader(to.0).await.map_err(stopped)?;
        let deadline = self.settings.election_max * 2;
        let changed = async {
            while self.is_leader() {
                tokio::time::sleep(self.settings.heartbeat / 4).await;
            }
        };
        if tokio::time::timeout(deadline, changed).await.is_err() {
            self.raft.trigger().elect(false).await.map_err(stopped)?;
            return Err(MembershipError::Refused(format!("node {to} did not take over")));
        }
        Ok(())
    }

    fn has_everything(&self, node: NodeId) -> bool {
        let status = self.status();
        status.replicated.get(&node).copied() >= status.last_index
    }

    /// Waits until this node is sure that it leads and has applied everything committed before: a linearizable read
    /// of the state may follow.
    pub async fn confirm_leader(&self) -> Result<(), ProposeError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(_)) => Err(ProposeError::NotLeader(self.leader())),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.status().leader
    }

    /// Nobody but this node votes here, as far as its log says; known from the start on, where [`Group::status`] may not be.
    pub async fn votes_alone(&self) -> bool {
        let own = self.node.0;
        let alone = self.raft.with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([own]));
        alone.await.unwrap_or(false)
    }

    /// Lets the others hear that this node leads, if it does. To be called every [`GroupSettings::heartbeat`] where groups
    /// beat when they are told.
    pub async fn beat(&self) {
        if self.is_leader() {
            // A group that has stopped leads nothing any more; its status says so.
            let _ = self.raft.trigger().heartbeat().await;
        }
    }

    /// This node leads.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// How it stands.
    pub fn status(&self) -> GroupStatus {
        let metrics = openraft::async_runtime::WatchReceiver::borrow_watched(&self.raft.metrics()).clone();
        let membership = metrics.membership_config.membership();
        let replicated = metrics.replication.iter().flatten();
        let replicated = replicated.filter_map(|(node, upto)| upto.as_ref().map(|upto| (NodeId(*node), upto.index)));
        GroupStatus {
            voters: membership.voter_ids().map(NodeId).collect(),
            settled_voters: metrics.committed_membership_config.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            replicated: replicated.collect(),
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            last_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|last| last.index),
            snapshot_index: metrics.snapshot.map(|last| last.index),
            running: metrics.running_state.is_ok(),
        }
    }

    /// Bytes of the newest snapshot. The next one is written before this one goes.
    pub fn snapshot_bytes(&self) -> u64 {
        let pieces =
            |log: &crate::wal::GroupLog| log.snapshot_pieces().iter().map(|piece| u64::from(piece.sealed_bytes)).sum();
        self.machine.storage.wal.group(self.id, pieces)
    }

    /// Makes a snapshot if the log's live part has reached its bound and that of this group makes most room.
    pub async fn snapshot_if_due(&self) {
        let wal = &self.machine.storage.wal;
        if wal.live().0 > wal.live_limit() && wal.most_settled() == Some(self.id) {
            self.snapshot().await;
        }
    }

    /// Makes a snapshot, after which the log before it is dropped.
    pub async fn snapshot(&self) {
        // It runs in the background; a group that has stopped has nothing to make one of.
        let _ = self.raft.trigger().snapshot().await;
    }

    /// Stands for election now.
    pub async fn elect(&self) {
        let _ = self.raft.trigger().elect(false).await;
    }

    /// Stops it for good: this node is no member any more, and forgets the group. Should it come back it does so under
    /// another number: replaying a log in which it votes already, it could elect itself with a part of it.
    pub async fn leave(&self) -> Result<(), GroupError> {
        self.shutdown().await;
        let forgotten = self.machine.storage.wal.append_durably(&[WalRecord::Member((self.id, NodeId(0)))]).await;
        self.machine.snapshots.keep(self.id, &[]);
        forgotten.map_err(|error| GroupError::Storage(std::io::Error::other(error.to_string())))
    }

    /// Stops it.
    pub async fn shutdown(&self) {
        let _ = self.raft.shutdown().await;
    }
}

/// Does what was let in, whatever becomes of who waits for it: it counts until openraft has done it. `None` only where
/// everything ends.
async fn see_through<T: 'static>(admitted: Admitted, work: impl Future<Output = T> + 'static) -> Option<T> {
    let work = async move {
        let done = work.await;
        drop(admitted);
        done
    };
    tokio::task::spawn_local(work).await.ok()
}

struct Countdown(Rc<Cell<usize>>);

impl Drop for Countdown {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
