//! A shard: one thread, its devices' zones, its groups, its endpoint. Shares nothing; work for another shard is handed
//! over by a bounded queue and runs there.

use super::auditing;
use super::authority;
use super::awaited::while_awaited;
use super::backing_up::Backups;
use super::beating::Beats;
use super::certificates::{Certificates, Shown};
use super::clocks::Clocks;
use super::closing::Closings;
use super::directory::SiteFile;
use super::dumping::Dumps;
use super::identities::{self, Callers};
use super::keys::HeldKey;
use super::leases::Promises;
use super::leaving::Moving;
use super::links::{NodeLinks, PeerLinks};
use super::pacing::Paces;
use super::probing::Doubts;
use super::refetching::Refetches;
use super::repairing::Repair;
use super::routing;
use super::scrubbing::Scrub;
use super::sending::SenderState;
use super::snapshots::ChunkSnapshots;
use super::trailing::Trails;
use crate::machine::Machine;
use crate::state::{ControlState, ControlView, Database, LogGroupState, LogView, Opened};
use crate::store::{DeviceSet, Store};
use farside_codec::Field;
use farside_codec::audit::AuditActor;
use farside_codec::cluster::{NodeRecord, NodeState};
use farside_codec::command::{ControlCommand, ControlOutcome, GroupCommand, GroupOutcome};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, GroupId, LogId, NodeId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::recovery::Recovery;
use farside_io::clock::HlcClock;
use farside_io::disk::Disk;
use farside_raft::wal::{Wal, WalReport};
use farside_raft::{Group, PeerNetwork, ProposeError, StateError};
use farside_transport::{Endpoint, Trust};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// A log group on this shard.
pub(crate) type LogGroup<D> = Group<D, LogGroupState, ChunkSnapshots<D>>;
/// The control group, on shard 0.
pub(crate) type ControlGroup<D> = Group<D, ControlState, ChunkSnapshots<D>>;

/// Work for another shard: made where it is asked for, run where it belongs.
pub(crate) type Job<D> = Box<dyn FnOnce(Rc<Shard<D>>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Counters of what callers sent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Cell<u64>,
    pub(crate) refused: Cell<u64>,
    pub(crate) corrupt_frames: Cell<u64>,
    pub(crate) refused_handshakes: Cell<u64>,
    /// Chunks whose fragments this shard sent to their nodes.
    pub(crate) chunks_spread: Cell<u64>,
    /// Reads that had to do without a fragment that they wanted.
    pub(crate) degraded_reads: Cell<u64>,
    /// Fragments that this shard rebuilt or moved.
    pub(crate) repaired_fragments: Cell<u64>,
    /// Their bytes.
    pub(crate) repaired_bytes: Cell<u64>,
    /// Chunks that were lost here and came back from peers.
    pub(crate) refetched_chunks: Cell<u64>,
    /// Their bytes.
    pub(crate) refetched_bytes: Cell<u64>,
    /// Chunks and deliveries for which a peer had no room or too few devices, once they had crossed.
    pub(crate) refused_by_peers: Cell<u64>,
    /// Their bytes.
    pub(crate) refused_by_peers_bytes: Cell<u64>,
}

impl Counters {
    /// What status shows of them, by name.
    pub(crate) fn shown(&self) -> [(&'static str, u64); 11] {
        [
            ("requests", &self.requests),
            ("refused", &self.refused),
            ("corrupt_frames", &self.corrupt_frames),
            ("refused_handshakes", &self.refused_handshakes),
            ("chunks_spread", &self.chunks_spread),
            ("repaired_fragments", &self.repaired_fragments),
            ("repaired_bytes", &self.repaired_bytes),
            ("refetched_chunks", &self.refetched_chunks),
            ("refetched_bytes", &self.refetched_bytes),
            ("refused_by_peers", &self.refused_by_peers),
            ("refused_by_peers_bytes", &self.refused_by_peers_bytes),
        ]
        .map(|(name, counter)| (name, counter.get()))
    }
}

/// Adds one.
pub(crate) fn count(counter: &Cell<u64>) {
    add(counter, 1);
}

/// Adds so many.
pub(crate) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// A shard of a running node.
pub(crate) struct Shard<D: Disk> {
    pub(crate) index: u16,
    pub(crate) site: SiteFile,
    /// How the site went on that had lost a quorum, if it has.
    pub(crate) recovery: Option<Recovery>,
    /// The node's directory.
    pub(crate) root: PathBuf,
    /// Where peers and clients find shard 0.
    pub(crate) advertised: SocketAddr,
    pub(crate) gc_seconds: u64,
    pub(crate) store: Store<D>,
    /// The node's devices, as their superblocks say.
    pub(crate) devices: RefCell<DeviceSet<D>>,
    /// What is moved from device to device.
    pub(crate) moving: Moving,
    pub(crate) database: Database,
    pub(crate) opened: Opened,
    pub(crate) wal: Wal<D>,
    pub(crate) wal_report: WalReport,
    /// Mirrors that the log should have.
    pub(crate) wal_mirrors: usize,
    /// Mirrors that were there when it was opened.
    pub(crate) wal_present: usize,
    pub(crate) snapshots: Rc<ChunkSnapshots<D>>,
    pub(crate) groups: RefCell<BTreeMap<GroupId, LogGroup<D>>>,
    /// On shard 0.
    pub(crate) control: Option<ControlGroup<D>>,
    pub(crate) view: Rc<RefCell<Arc<ControlView>>>,
    /// How its groups reach other nodes.
    pub(crate) network: Rc<dyn PeerNetwork>,
    /// Links to other nodes.
    pub(crate) nodes: NodeLinks,
    /// What was promised to homes elsewhere.
    pub(crate) promises: Promises,
    /// Closed time of copies, as homes have said it since this was committed last.
    pub(crate) closings: Closings,
    /// Heartbeats that leave together.
    pub(crate) beats: Rc<Beats>,
    /// When each node was heard last, by the monotonic clock; kept where the control group is led.
    pub(crate) heard: RefCell<BTreeMap<NodeId, Duration>>,
    /// How long a node may be silent before it counts as dead.
    pub(crate) dead_after: Duration,
    pub(crate) clock: HlcClock,
    pub(crate) machine: Machine,
    pub(crate) endpoint: Endpoint,
    pub(crate) trust: Trust,
    /// The site's system key.
    pub(crate) key: Arc<HeldKey>,
    pub(crate) links: PeerLinks,
    pub(crate) neighbours: Vec<mpsc::Sender<Job<D>>>,
    /// Woken when a log's head moved.
    pub(crate) moved: RefCell<BTreeMap<LogId, Rc<Notify>>>,
    pub(crate) senders: RefCell<BTreeMap<(LogId, SiteId), SenderState>>,
    /// When it was counted last, in the groups that are led here, for how long peers have lacked something; by the monotonic clock.
    pub(crate) held_at: RefCell<BTreeMap<GroupId, Duration>>,
    /// The peers were asked whether this site is still home, or had their time to answer.
    pub(crate) fence_checked: Cell<bool>,
    /// Woken when a log is written to that has to begin a new generation first.
    pub(crate) renewal: Notify,
    /// The file system of the node's directory is nearly full, so that the state file could not grow.
    pub(crate) cramped: Cell<bool>,
    pub(crate) counters: Counters,
    /// What the node shows.
    pub(crate) shown: Shown,
    pub(crate) certificates: Certificates,
    /// Who is connected.
    pub(crate) callers: Callers,
    pub(crate) repair: Repair,
    /// Whether the node's clock can be trusted, and those of others.
    pub(crate) clocks: Clocks,
    /// What is sent to peers that have a limit; on shard 0.
    pub(crate) paces: Paces,
    /// Peers that take nothing now.
    pub(crate) doubts: Doubts,
    /// What peers are asked for.
    pub(crate) refetches: Refetches,
    pub(crate) scrub: Scrub,
    /// Backups that it makes by itself; on shard 0.
    pub(crate) backups: Backups,
    /// How far peers are with the audit logs; on shard 0.
    pub(crate) trails: Trails,
    /// States that are being read for backups.
    pub(crate) dumps: Dumps,
    /// Part of the shard's time that scrubbing takes.
    pub(crate) scrub_percent: u8,
    /// A round of GC that another node asked for is under way.
    pub(crate) collecting: Cell<bool>,
    pub(crate) stopping: Notify,
    pub(crate) notices: Vec<String>,
}

/// A state machine that can't be read is a fault of this node; the caller may try again elsewhere or later.
pub(crate) fn state_refusal(error: StateError) -> Refusal {
    tracing::error!(%error, "the state can't be read");
    Refusal::new(
        RefusalCode::Internal,
        format!("the node's state can't be read: {error}; restart the node to rebuild it"),
    )
}

/// A log that is not here, or none of the caller's business.
pub(super) fn no_such_log() -> Refusal {
    Refusal::new(RefusalCode::NotFound, "there is no such log here")
}

/// What a group knows of one of its logs.
pub(super) fn log_view<D: Disk>(group: &LogGroup<D>, log: LogId) -> Result<LogView, Refusal> {
    let view = group.state().borrow().log(log).map_err(state_refusal)?;
    view.ok_or_else(no_such_log)
}

pub(super) fn propose_refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader(_) | ProposeError::Superseded(_) => {
            Refusal::retry(RefusalCode::NotLeader, 100, error.to_string())
        }
        ProposeError::Busy => Refusal::retry(RefusalCode::Busy, 50, error.to_string()),
        ProposeError::TooLarge => Refusal::new(RefusalCode::BadRequest, error.to_string()),
        ProposeError::Stopped => Refusal::new(RefusalCode::Unavailable, error.to_string()),
    }
}

impl<D: Disk> Shard<D> {
    pub(crate) fn shards(&self) -> u16 {
        self.site.shards
    }

    /// What the control group has agreed on, as this shard heard last.
    pub(crate) fn view(&self) -> Arc<ControlView> {
        self.view.borrow().clone()
    }

    /// How chunks are cut that are written now.
    pub(crate) fn geometry(&self) -> Geometry {
        self.view.borrow().geometry.unwrap_or(self.site.geometry)
    }

    /// Has a chunk looked at by repair soon.
    pub(crate) fn owe(&self, chunk: ChunkId) {
        self.repair.owe(chunk);
    }

    /// This node is the only one of its site.
    pub(crate) fn is_alone(&self) -> bool {
        let view = self.view.borrow();
        view.nodes.len() == 1 && view.nodes.contains_key(&self.site.node)
    }

    /// How long to rest between two looks at the other nodes, where there are any.
    pub(crate) fn pace(&self, pause: Duration) -> Duration {
        if self.is_alone() { super::limits::ALONE_LOOK } else { pause }
    }

    /// A node of the site that has not been removed.
    pub(crate) fn node(&self, node: NodeId) -> Result<NodeRecord, Refusal> {
        let known = self.view.borrow().nodes.get(&node).cloned().filter(|node| node.state != NodeState::Removed);
        known.ok_or_else(|| Refusal::retry(RefusalCode::Unavailable, 100, format!("node {node} is not of this site")))
    }

    /// The other nodes of the site that are counted on. One that counts as dead is counted on again once it is heard.
    pub(crate) fn others(&self) -> Vec<NodeRecord> {
        let other = |node: &&NodeRecord| {
            node.node != self.site.node && matches!(node.state, NodeState::Up | NodeState::Draining)
        };
        self.view.borrow().nodes.values().filter(other).cloned().collect()
    }

    /// The log groups that run on this shard.
    pub(crate) fn groups(&self) -> Vec<LogGroup<D>> {
        self.groups.borrow().values().cloned().collect()
    }

    /// A log group, if it runs on this shard.
    pub(crate) fn group(&self, group: GroupId) -> Option<LogGroup<D>> {
        self.groups.borrow().get(&group).cloned()
    }

    pub(crate) fn group_of(&self, log: LogId) -> GroupId {
        GroupId::of_log(log, self.site.groups)
    }

    pub(crate) fn shard_of_log(&self, log: LogId) -> u16 {
        self.group_of(log).shard(self.shards())
    }

    /// The group of a log, which must be one of this shard's.
    pub(crate) fn log_group(&self, log: LogId) -> Result<LogGroup<D>, Refusal> {
        let missing = || Refusal::retry(RefusalCode::NotLeader, 100, "the log's group does not run on this node");
        self.group(self.group_of(log)).ok_or_else(missing)
    }

    /// The same, once this node is sure that it leads the group and knows everything that was committed in it.
    pub(crate) async fn led_group(&self, log: LogId) -> Result<LogGroup<D>, Refusal> {
        let group = self.log_group(log)?;
        let confirmed = group.confirm_leader().await;
        confirmed.map_err(|error| Refusal::retry(RefusalCode::NotLeader, 100, error.to_string()))?;
        Ok(group)
    }

    /// Runs `work` on a shard and answers with what it made. On this one it runs at once.
    pub(crate) async fn on<T, F, W>(self: &Rc<Self>, shard: u16, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        W: Future<Output = T> + 'static,
        F: FnOnce(Rc<Self>) -> W + Send + 'static,
    {
        if shard == self.index {
            return Ok(work(self.clone()).await);
        }
        let (sender, receiver) = oneshot::channel();
        let job: Job<D> = Box::new(move |there| {
            Box::pin(async move {
                // Whoever asked may have gone away; the work was done all the same.
                let _ = sender.send(work(there).await);
            })
        });
        self.hand_over(shard, job, receiver).await
    }

    /// The same for work that only reads, asks or sends: it ends where it waits next once nobody waits for what it makes,
    /// and does not begin if that is so by then. What writes must not be cut off in the middle, and goes by [`Shard::on`].
    pub(crate) async fn on_while_awaited<T, F, W>(self: &Rc<Self>, shard: u16, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        W: Future<Output = T> + 'static,
        F: FnOnce(Rc<Self>) -> W + Send + 'static,
    {
        if shard == self.index {
            return Ok(work(self.clone()).await);
        }
        let (sender, receiver) = oneshot::channel();
        let job: Job<D> = Box::new(move |there| Box::pin(while_awaited(sender, async move { work(there).await })));
        self.hand_over(shard, job, receiver).await
    }

    async fn hand_over<T>(&self, shard: u16, job: Job<D>, made: oneshot::Receiver<T>) -> Result<T, Refusal> {
        let gone = || Refusal::new(RefusalCode::Unavailable, "a shard of this node has stopped");
        self.neighbours[usize::from(shard)].send(job).await.map_err(|_| gone())?;
        made.await.map_err(|_| gone())
    }

    /// Whether there is space for what a client or peer wants to add. Removals are not asked.
    pub(crate) fn takes_writes(&self) -> Result<(), Refusal> {
        if self.cramped.get() {
            let detail = format!("the file system of {} is nearly full: free some of it", self.root.display());
            return Err(Refusal::retry(RefusalCode::Full, 500, detail));
        }
        self.store.takes_writes().map_err(super::server::store_refusal)
    }

    /// Commits a command in a group of this shard, if this node leads it.
    pub(crate) async fn command(&self, group: GroupId, command: &GroupCommand) -> Result<GroupOutcome, Refusal> {
        let missing = || Refusal::retry(RefusalCode::NotLeader, 100, "the group does not run on this node");
        let group = self.group(group).ok_or_else(missing)?;
        let outcome = group.propose(command.to_bytes()).await.map_err(propose_refusal)?;
        self.outcome_of(command, outcome)
    }

    /// Commits a command in a log group, wherever that is led.
    pub(crate) async fn group_command(
        self: &Rc<Self>,
        group: GroupId,
        command: GroupCommand,
    ) -> Result<GroupOutcome, Refusal> {
        let committed = routing::commit(self, group, command.to_bytes()).await?;
        self.outcome_of(&command, committed.outcome)
    }

    /// Commits a command of one log, wherever that is led.
    pub(crate) async fn log_command(
        self: &Rc<Self>,
        log: LogId,
        command: GroupCommand,
    ) -> Result<GroupOutcome, Refusal> {
        self.group_command(self.group_of(log), command).await
    }

    fn outcome_of(&self, command: &GroupCommand, outcome: bytes::Bytes) -> Result<GroupOutcome, Refusal> {
        match GroupOutcome::from_bytes(outcome) {
            Ok(GroupOutcome::Refused(refusal)) => Err(self.with_home(refusal, command)),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
        }
    }

    /// A state machine knows sites by id; people know them by name.
    fn with_home(&self, mut refusal: Refusal, command: &GroupCommand) -> Refusal {
        let log = match command {
            GroupCommand::Place(place) => Some(place.log),
            GroupCommand::Accept(accept) => Some(accept.log),
            GroupCommand::Promote(promote) => Some(promote.log),
            _ => None,
        };
        if refusal.code == RefusalCode::NotHome
            && let Some(log) = log.and_then(|log| log_view(&self.log_group(log).ok()?, log).ok())
            && let Some(home) = self.view().site_name(log.known.site).cloned()
        {
            let generation = log.known.counter;
            refusal.detail = match log.is_in_transit(self.site.site) {
                true => format!("the log is in transit to site {home} (generation {generation})"),
                false => format!("the log's home is site {home} (generation {generation}), not {}", self.site.name),
            };
            refusal.home = Some(home);
        }
        refusal
    }

    /// This node leads the control group.
    pub(crate) fn leads_site(&self) -> bool {
        self.control.as_ref().is_some_and(Group::is_leader)
    }

    /// What this node does of its own accord is done by the site itself.
    pub(crate) fn by_itself(&self) -> AuditActor {
        AuditActor::Site(self.site.node)
    }

    /// Commits a command in the control group, wherever that is led, and waits until this node knows what came of it. Who
    /// ordered it is written down in the same step.
    pub(crate) async fn control(
        self: &Rc<Self>,
        by: &AuditActor,
        command: ControlCommand,
    ) -> Result<ControlOutcome, Refusal> {
        let command = auditing::written(self, by, command)?;
        let committed = routing::commit(self, GroupId::CONTROL, command.to_bytes()).await?;
        self.on(0, move |there| async move { there.wait_for_control(committed.index).await }).await?;
        match ControlOutcome::from_bytes(committed.outcome) {
            Ok(ControlOutcome::Refused(refusal)) => Err(refusal),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
        }
    }

    /// Waits until the control group's log is applied here up to `index`, and every shard has the view of it.
    pub(super) async fn wait_for_control(self: &Rc<Self>, index: u64) {
        let Some(control) = &self.control else { return };
        let deadline = tokio::time::Instant::now() + super::limits::NODE_PATIENCE;
        // A node that hears nothing from the leader answers late, and may not know yet what it has just been told.
        while control.status().applied_index < Some(index) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.publish_view().await;
    }

    /// Gives every shard what the control group agreed on, whenever that changes.
    pub(crate) async fn keep_view(self: Rc<Self>) {
        let Some(control) = &self.control else { return };
        let changed = control.state().borrow().changed();
        loop {
            changed.notified().await;
            self.publish_view().await;
        }
    }

    /// Gives every shard what the control group agreed on, and trusts the peers it names and nobody else.
    pub(crate) async fn publish_view(self: &Rc<Self>) {
        let Some(control) = &self.control else { return };
        let view = control.state().borrow().view();
        let before = self.view();
        if Arc::ptr_eq(&view, &before) {
            return;
        }
        for peer in before.peers.keys().filter(|peer| !view.peers.contains_key(peer)) {
            self.trust.remove_peer(*peer);
        }
        for peer in view.peers.values() {
            match view.peer_authorities.get(&peer.site) {
                None => self.trust.set_peer(peer.site, &peer.certificate),
                Some(said) => {
                    let certificates: Vec<&[u8]> =
                        said.certificates.iter().map(|certificate| &certificate[..]).collect();
                    self.trust.set_peer_all(peer.site, &certificates);
                }
            }
        }
        authority::trust(self, &view);
        self.trust.set_revoked(view.revoked.clone());
        for shard in 0..self.shards() {
            let view = view.clone();
            // A shard that has stopped needs no view.
            let _ = self.on(shard, move |there| async move { there.take_view(view) }).await;
        }
    }

    fn take_view(&self, view: Arc<ControlView>) {
        let before = std::mem::replace(&mut *self.view.borrow_mut(), view.clone());
        before.peers.keys().filter(|peer| !view.peers.contains_key(peer)).for_each(|peer| self.links.forget(*peer));
        self.nodes.keep(&view.nodes);
        identities::cut_off(self, &before, &view);
        self.store.set_placement_epoch(view.placement_epoch.max(1));
        self.store.set_geometry(self.geometry());
        self.store.set_spread(view.nodes.len() > 1);
    }

    /// Which of these chunks are stored here, on whatever shards; those that are get touched.
    pub(crate) async fn have(
        self: &Rc<Self>,
        chunks: Vec<ChunkId>,
    ) -> Result<Vec<Option<farside_codec::delta::ChunkReceipt>>, Refusal> {
        let mut answers = vec![None; chunks.len()];
        for shard in 0..self.shards() {
            let mine = |(at, chunk): (usize, &ChunkId)| (chunk.shard(self.shards()) == shard).then_some((at, *chunk));
            let (places, asked): (Vec<usize>, Vec<ChunkId>) = chunks.iter().enumerate().filter_map(mine).unzip();
            if asked.is_empty() {
                continue;
            }
            let held = self.on_while_awaited(shard, move |there| async move { there.store.have(&asked) }).await?;
            places.into_iter().zip(held).for_each(|(at, held)| answers[at] = held);
        }
        Ok(answers)
    }

    /// The signal that a log's head moved.
    pub(crate) fn moved(&self, log: LogId) -> Rc<Notify> {
        self.moved.borrow_mut().entry(log).or_default().clone()
    }
}
