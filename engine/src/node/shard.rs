//! A shard: one thread, its devices' zones, its groups, its endpoint. Shares nothing; work for another shard is handed
//! over by a bounded queue and runs there.

use super::directory::SiteFile;
use super::links::PeerLinks;
use super::sending::SenderState;
use super::snapshots::ChunkSnapshots;
use crate::machine::Machine;
use crate::state::{ControlState, ControlView, Database, LogGroupState, Opened};
use crate::store::Store;
use farside_codec::Field;
use farside_codec::command::{ControlCommand, ControlOutcome, GroupCommand, GroupOutcome};
use farside_codec::ids::{ChunkId, GroupId, Label, LogId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::clock::HlcClock;
use farside_io::disk::Disk;
use farside_raft::wal::{Wal, WalReport};
use farside_raft::{Group, ProposeError, StateError};
use farside_transport::{Endpoint, Trust};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
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
}

/// Adds one.
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// A shard of a running node.
pub(crate) struct Shard<D: Disk> {
    pub(crate) index: u16,
    pub(crate) site: SiteFile,
    /// The node's directory.
    pub(crate) root: PathBuf,
    /// Where peers and clients find shard 0.
    pub(crate) advertised: SocketAddr,
    pub(crate) gc_seconds: u64,
    pub(crate) store: Store<D>,
    pub(crate) database: Database,
    pub(crate) opened: Opened,
    pub(crate) wal: Wal<D>,
    pub(crate) wal_report: WalReport,
    /// Mirrors that the log should have.
    pub(crate) wal_mirrors: usize,
    /// Mirrors that were there when it was opened.
    pub(crate) wal_present: usize,
    pub(crate) snapshots: Rc<ChunkSnapshots<D>>,
    pub(crate) groups: BTreeMap<GroupId, LogGroup<D>>,
    pub(crate) control: Option<ControlGroup<D>>,
    pub(crate) view: RefCell<Arc<ControlView>>,
    pub(crate) clock: HlcClock,
    pub(crate) machine: Machine,
    pub(crate) endpoint: Endpoint,
    pub(crate) trust: Trust,
    pub(crate) links: PeerLinks,
    pub(crate) neighbours: Vec<mpsc::Sender<Job<D>>>,
    /// Woken when a log's head moved.
    pub(crate) moved: RefCell<BTreeMap<LogId, Rc<Notify>>>,
    pub(crate) senders: RefCell<BTreeMap<(LogId, SiteId), SenderState>>,
    /// The peers were asked whether this site is still home, or had their time to answer.
    pub(crate) fence_checked: Cell<bool>,
    /// The file system of the node's directory is nearly full, so that the state file could not grow.
    pub(crate) cramped: Cell<bool>,
    pub(crate) counters: Counters,
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

fn propose_refusal(error: ProposeError) -> Refusal {
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

    pub(crate) fn group_of(&self, log: LogId) -> GroupId {
        GroupId::of_log(log, self.site.groups)
    }

    pub(crate) fn shard_of_log(&self, log: LogId) -> u16 {
        self.group_of(log).shard(self.shards())
    }

    /// The group of a log, which must be one of this shard's.
    pub(crate) fn log_group(&self, log: LogId) -> Result<&LogGroup<D>, Refusal> {
        let missing = || Refusal::new(RefusalCode::Internal, "the log's group does not run on this shard");
        self.groups.get(&self.group_of(log)).ok_or_else(missing)
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
        let gone = || Refusal::new(RefusalCode::Unavailable, "a shard of this node has stopped");
        self.neighbours[usize::from(shard)].send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }

    /// Whether there is space for what a client or peer wants to add. Removals are not asked.
    pub(crate) fn takes_writes(&self) -> Result<(), Refusal> {
        if self.cramped.get() {
            let detail = format!("the file system of {} is nearly full: free some of it", self.root.display());
            return Err(Refusal::retry(RefusalCode::Full, 500, detail));
        }
        self.store.takes_writes().map_err(super::server::store_refusal)
    }

    /// Commits a command in a group of this shard.
    pub(crate) async fn command(&self, group: GroupId, command: &GroupCommand) -> Result<GroupOutcome, Refusal> {
        let missing = || Refusal::new(RefusalCode::Internal, "the group does not run on this shard");
        let group = self.groups.get(&group).ok_or_else(missing)?;
        let outcome = group.propose(command.to_bytes()).await.map_err(propose_refusal)?;
        match GroupOutcome::from_bytes(outcome) {
            Ok(GroupOutcome::Refused(refusal)) => Err(self.with_home(refusal, command)),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
        }
    }

    /// Commits a command of one log, on whatever shard that is.
    pub(crate) async fn log_command(
        self: &Rc<Self>,
        log: LogId,
        command: GroupCommand,
    ) -> Result<GroupOutcome, Refusal> {
        let group = self.group_of(log);
        self.on(group.shard(self.shards()), move |there| async move { there.command(group, &command).await }).await?
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
            && let Some(home) = log.and_then(|log| self.home_of(log))
        {
            let generation = log.and_then(|log| self.generation_of(log)).unwrap_or(0);
            refusal.detail = format!("the log's home is site {home} (generation {generation}), not {}", self.site.name);
            refusal.home = Some(home);
        }
        refusal
    }

    fn home_of(&self, log: LogId) -> Option<Label> {
        let log = self.log_group(log).ok()?.state().borrow().log(log).ok()??;
        self.view().site_name(log.known.site).cloned()
    }

    fn generation_of(&self, log: LogId) -> Option<u64> {
        Some(self.log_group(log).ok()?.state().borrow().log(log).ok()??.known.counter)
    }

    /// Commits a command in the control group.
    pub(crate) async fn control(self: &Rc<Self>, command: ControlCommand) -> Result<(), Refusal> {
        self.on(0, move |there| async move {
            let group = there.control.clone().ok_or(Refusal::new(RefusalCode::Internal, "no control group here"))?;
            let outcome = group.propose(command.to_bytes()).await.map_err(propose_refusal)?;
            there.publish_view().await;
            match ControlOutcome::from_bytes(outcome) {
                Ok(ControlOutcome::Done) => Ok(()),
                Ok(ControlOutcome::Refused(refusal)) => Err(refusal),
                Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
            }
        })
        .await?
    }

    /// Gives every shard what the control group agreed on, and trusts the peers it names and nobody else.
    pub(crate) async fn publish_view(self: &Rc<Self>) {
        let Some(control) = &self.control else { return };
        let view = control.state().borrow().view();
        let before = self.view();
        for peer in before.peers.keys().filter(|peer| !view.peers.contains_key(peer)) {
            self.trust.remove_peer(*peer);
        }
        for peer in view.peers.values() {
            self.trust.set_peer(peer.site, &peer.certificate);
        }
        for shard in 0..self.shards() {
            let view = view.clone();
            // A shard that has stopped needs no view.
            let _ = self.on(shard, move |there| async move { *there.view.borrow_mut() = view }).await;
        }
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
            let held = self.on(shard, move |there| async move { there.store.have(&asked) }).await?;
            places.into_iter().zip(held).for_each(|(at, held)| answers[at] = held);
        }
        Ok(answers)
    }

    /// The signal that a log's head moved.
    pub(crate) fn moved(&self, log: LogId) -> Rc<Notify> {
        self.moved.borrow_mut().entry(log).or_default().clone()
    }
}
