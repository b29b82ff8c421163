//! Runs the federation senders: one for each log that was written here last and each peer that is not paused.
//!
//! The decisions are [`Sender`]'s; this carries them out and reports back.

use super::limits::HEARTBEAT;
use super::links::PeerCallError;
use super::peers::{TELL, greet, greeted};
use super::refetching::{found, is_gone};
use super::shard::Shard;
use super::{gathering, leases, pacing, probing};
use crate::federation::doubt::{Doubt, LONGEST_REST};
use crate::federation::receiver::generation_of;
use crate::federation::sender::{Given, LoadedDelta, Sender, SenderCommand, SenderEvent, SenderLimits};
use crate::state::LogView;
use farside_codec::command::{Acknowledge, Fence, GroupCommand};
use farside_codec::delta::{ChunkRef, Cursor, Delta};
use farside_codec::ids::{ChunkId, GroupId, Hlc, LogId, SiteId};
use farside_codec::message::{
    FedDeltas, FedHello, LogOffer, PeerRecord, PutChunk, Refusal, RefusalCode, Reply, Request,
};
use farside_io::disk::Disk;
use farside_transport::{CallError, Class};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How a sender is doing, for status.
#[derive(Debug, Clone, Default)]
pub(crate) struct SenderState {
    pub(crate) connected: bool,
    pub(crate) caught_up: bool,
    pub(crate) trouble: Option<String>,
    /// Since when, by the monotonic clock, there is no connection.
    pub(crate) lost_since: Option<Duration>,
    /// Until when, by the monotonic clock, the peer has promised not to take over, and under which version of the log's policy.
    pub(crate) promised: Option<(u64, Duration)>,
}

impl SenderState {
    /// Until when the peer has promised it under the log's policy as it is.
    pub(crate) fn promised_until(&self, log: &LogView) -> Option<Duration> {
        self.promised.filter(|(version, _)| *version == log.descriptor.policy_version).map(|(_, until)| until)
    }
}

/// How often the set of senders is compared with what it should be.
const RECONCILE: Duration = Duration::from_millis(200);
/// A rest after a refusal that names none.
const REST: Duration = Duration::from_secs(1);
/// How soon a chunk that was not sent is tried again: a peer that is full or busy is not asked at once.
const AGAIN: Duration = Duration::from_millis(200);

type Pending<'a> = FuturesUnordered<LocalBoxFuture<'a, SenderEvent>>;

/// Starts and stops senders as homes and peers change.
pub(crate) async fn keep_senders<D: Disk>(shard: Rc<Shard<D>>) {
    let mut running: BTreeMap<(LogId, SiteId), tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = wanted(&shard);
        running.retain(|key, task| {
            let stay = wanted.contains(key) && !task.is_finished();
            if !stay {
                task.abort();
                shard.senders.borrow_mut().remove(key);
            }
            stay
        });
        for (log, peer) in wanted {
            running.entry((log, peer)).or_insert_with(|| tokio::task::spawn_local(run(shard.clone(), log, peer)));
        }
        tokio::time::sleep(RECONCILE).await;
    }
}

fn wanted<D: Disk>(shard: &Rc<Shard<D>>) -> Vec<(LogId, SiteId)> {
    let view = shard.view();
    let peers: Vec<SiteId> = view.peers.values().filter(|peer| !peer.paused).map(|peer| peer.site).collect();
    let mut wanted = Vec::new();
    if peers.is_empty() || shard.nodes.left_behind().is_some() {
        return wanted;
    }
    for group in shard.groups().into_iter().filter(|group| group.is_leader()) {
        let logs = group.state().borrow().logs().unwrap_or_default();
        for log in logs.iter().filter(|log| log.is_told_by(shard.site.site)) {
            wanted.extend(peers.iter().filter(|peer| log.goes_to(**peer)).map(|peer| (log.descriptor.log, *peer)));
        }
    }
    wanted
}

/// Tells peers that are to be sent a log no more that it is so: by its policy they know that their copies are old. One that does
/// not hear of it now does not know.
pub(super) async fn take_leave<D: Disk>(shard: &Rc<Shard<D>>, before: &LogView) {
    let (log, view) = (before.descriptor.log, shard.view());
    let Some(now) = shard.log_group(log).ok().and_then(|group| group.state().borrow().log(log).ok()?) else { return };
    let left = view.peers.values().filter(|peer| before.goes_to(peer.site) && !now.goes_to(peer.site) && !peer.paused);
    let told = left.map(|peer| {
        let driver = Driver::new(shard.clone(), log, peer.clone());
        async move {
            let _ = tokio::time::timeout(TELL, driver.call_deltas(Vec::new())).await;
        }
    });
    futures_util::future::join_all(told).await;
}

struct Driver<D: Disk> {
    shard: Rc<Shard<D>>,
    log: LogId,
    peer: PeerRecord,
    /// One chunk of the log at a time waits for its turn at the peer and for its limit: so the logs take turns.
    turn: Mutex<()>,
    /// Deliveries that the peer had no room for, since it took one.
    refused: RefCell<Doubt>,
    /// What the peer was told last.
    told: Cell<Option<News>>,
}

/// Where a log's head is, and the version of its policy.
type News = (u64, u64);

fn news(view: &LogView) -> News {
    (view.head.sequence, view.descriptor.policy_version)
}

impl<D: Disk> Driver<D> {
    fn new(shard: Rc<Shard<D>>, log: LogId, peer: PeerRecord) -> Self {
        Self { shard, log, peer, turn: Mutex::default(), refused: RefCell::default(), told: Cell::default() }
    }
}

async fn run<D: Disk>(shard: Rc<Shard<D>>, log: LogId, peer: SiteId) {
    let Some(peer) = shard.view().peers.get(&peer).cloned() else { return };
    let driver = Driver::new(shard, log, peer);
    let Some(view) = driver.view() else { return };
    let mut sender = Sender::new(view.head, SenderLimits::default());
    loop {
        let now = driver.shard.clock.clock().monotonic();
        driver.report(|state| {
            (state.connected, state.caught_up) = (false, false);
            state.lost_since.get_or_insert(now);
        });
        if let Err(error) = driver.connect().await {
            driver.report(|state| state.trouble = Some(error.to_string()));
            // The dialer's own backoff paces attempts; this only keeps a refusal from spinning.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        driver.report(|state| (state.connected, state.trouble, state.lost_since) = (true, None, None));
        sender.handle(SenderEvent::Connected);
        if driver.stream(&mut sender).await {
            return;
        }
        sender.handle(SenderEvent::Lost);
    }
}

impl<D: Disk> Driver<D> {
    fn view(&self) -> Option<LogView> {
        self.shard.log_group(self.log).ok()?.state().borrow().log(self.log).ok()?
    }

    fn report(&self, change: impl FnOnce(&mut SenderState)) {
        change(self.shard.senders.borrow_mut().entry((self.log, self.peer.site)).or_default());
    }

    async fn connect(&self) -> Result<(), PeerCallError> {
        let hello = greet(&self.shard, &self.peer).await?;
        // A peer whose clock is far ahead is not merged; it is told by the refusal of its own requests.
        let _ = self.shard.clock.observe(hello.now);
        Ok(())
    }

    /// Runs one connection. Answers `true` when the sender has ended for good.
    async fn stream(&self, sender: &mut Sender) -> bool {
        let moved = self.shard.moved(self.log);
        let mut pending: Pending<'_> = FuturesUnordered::new();
        let mut beat = tokio::time::interval(HEARTBEAT);
        self.told.take();
        loop {
            while let Some(command) = sender.poll() {
                match command {
                    SenderCommand::StepDown(lineage) => {
                        pending.clear();
                        let fence = Fence { log: self.log, lineage, time: self.shard.clock.now() };
                        match self.shard.log_command(self.log, GroupCommand::Fence(fence)).await {
                            Ok(_) => tracing::warn!(log = %self.log, peer = %self.peer.name, "the peer is home now"),
                            Err(refusal) => {
                                tracing::error!(log = %self.log, peer = %self.peer.name, %refusal, "the peer is home now, and that can't be recorded here");
                            }
                        }
                        return true;
                    }
                    SenderCommand::Wait(refusal) => {
                        // What nobody polls any more must not stand in line.
                        pending.clear();
                        let rest = self.rest_after(&refusal);
                        self.report(|state| state.trouble = Some(refusal.detail));
                        self.wait(rest).await;
                        return false;
                    }
                    command => {
                        if matches!(command, SenderCommand::Greet) {
                            // The sender has forgotten all that is under way.
                            pending.clear();
                            self.told.take();
                        }
                        pending.push(Box::pin(self.execute(command)));
                    }
                }
            }
            self.report(|state| {
                state.caught_up = sender.caught_up();
                if state.caught_up {
                    // Whatever it was, it is over.
                    state.trouble = None;
                }
            });
            let event = tokio::select! {
                biased;
                Some(event) = pending.next(), if !pending.is_empty() => Some(event),
                () = moved.notified() => None,
                _ = beat.tick() => {
                    if !self.shard.links.is_up(self.peer.site) {
                        return false;
                    }
                    if self.view().is_some_and(|view| sender.acknowledged().is_some() && self.has_news(&view)) {
                        pending.push(Box::pin(self.tell_head()));
                    }
                    None
                }
            };
            match event {
                Some(SenderEvent::Lost) => return false,
                Some(event) => sender.handle(event),
                None => {}
            }
            if let Some(view) = self.view() {
                sender.handle(SenderEvent::Head(view.head));
            }
        }
    }

    /// Whether the peer does not know something yet, or is to renew its promise.
    fn has_news(&self, view: &LogView) -> bool {
        self.told.get() != Some(news(view)) || self.promise_is_due(view)
    }

    /// How long nothing is delivered after a refusal: what it refuses has crossed.
    fn rest_after(&self, refusal: &Refusal) -> Duration {
        let asked = match refusal.retry_after_ms {
            0 => REST,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let next = self.refused.borrow().next();
        asked.min(LONGEST_REST).max(next.saturating_sub(self.shard.clock.clock().monotonic()))
    }

    /// Lets a time pass. A peer that takes no deltas now may still have its part in a lease, and is to know what it lacks.
    async fn wait(&self, mut rest: Duration) {
        loop {
            let lacks_room = !self.refused.borrow().is_over();
            let is_due = |view: &LogView| self.promise_is_due(view) || lacks_room && self.has_news(view);
            if self.view().as_ref().is_some_and(is_due) {
                self.tell_head().await;
            }
            let slice = rest.min(HEARTBEAT);
            tokio::time::sleep(slice).await;
            rest -= slice;
            if rest.is_zero() || !self.shard.links.is_up(self.peer.site) {
                return;
            }
        }
    }

    async fn execute(&self, command: SenderCommand) -> SenderEvent {
        match command {
            SenderCommand::Greet => self.greet().await,
            SenderCommand::Load { from, limit, bytes } => self.load(from, limit, bytes),
            SenderCommand::Ask(chunks) => self.ask(chunks).await,
            SenderCommand::Send(chunk) => self.send(chunk).await,
            SenderCommand::Deliver(deltas) => self.deliver(deltas).await,
            SenderCommand::Record { cursor, greeted } => self.record(cursor, greeted).await,
            SenderCommand::StepDown(_) | SenderCommand::Wait(_) => SenderEvent::Lost,
        }
    }

    /// The log, as long as the peer is to be sent it.
    fn sent(&self) -> Option<LogView> {
        self.view().filter(|view| view.goes_to(self.peer.site))
    }

    async fn greet(&self) -> SenderEvent {
        let Some(view) = self.sent() else { return SenderEvent::Lost };
        let offer =
            LogOffer { descriptor: view.descriptor, lineage: view.lineage, head: view.head, head_time: view.head_time };
        let request = Request::FedHello(FedHello { site: self.shard.site.site, offers: vec![offer] });
        match self.call_log(&request).await {
            Ok(Reply::FedPositions(mut positions)) if positions.len() == 1 => {
                positions.pop().map_or(SenderEvent::Lost, SenderEvent::Positioned)
            }
            other => self.lost(other),
        }
    }

    fn load(&self, from: u64, limit: usize, bytes: usize) -> SenderEvent {
        let Ok(group) = self.shard.log_group(self.log) else { return SenderEvent::Lost };
        let given = group.state().borrow().given(self.log, from, limit, bytes);
        let loaded = |(cursor, given): (Cursor, Given)| {
            let chunks = match &given {
                Given::Whole(encoded) => Delta::parse(encoded.clone()).ok()?.proposal.chunks,
                Given::Pruned(_) => Vec::new(),
            };
            Some(LoadedDelta { cursor, given, chunks })
        };
        match given.map(|given| given.into_iter().map(loaded).collect::<Option<Vec<_>>>()) {
            Ok(Some(deltas)) => SenderEvent::Loaded(deltas),
            _ => {
                let detail = "deltas that the peer lacks can't be read here: restart the node to rebuild its state";
                SenderEvent::Refused(Refusal::new(RefusalCode::Internal, detail))
            }
        }
    }

    async fn ask(&self, chunks: Vec<ChunkId>) -> SenderEvent {
        let Some(peer) = self.shard.links.known(self.peer.site) else { return SenderEvent::Lost };
        let mut answers = Vec::with_capacity(chunks.len());
        for shard in 0..peer.shards {
            let asked: Vec<ChunkId> =
                chunks.iter().filter(|chunk| chunk.shard(peer.shards) == shard).copied().collect();
            if asked.is_empty() {
                continue;
            }
            let request = Request::HaveChunks(asked.clone());
            match self.shard.links.call(&self.peer, shard, Class::Request, &request, None).await {
                Ok(Reply::ChunksHeld(held)) if held.len() == asked.len() => {
                    answers.extend(asked.into_iter().zip(held.into_iter().map(|held| held.is_some())));
                }
                other => return self.lost(other),
            }
        }
        SenderEvent::Held(answers)
    }

    /// Waits until something may be sent to the peer.
    async fn turn_at_peer(&self) -> probing::Turn {
        let tell = |why: &str| self.report(|state| state.trouble = Some(why.to_owned()));
        probing::turn(&self.shard, self.peer.site, tell).await
    }

    /// Has the chunk's own coordinator read and send it.
    async fn send(&self, reference: ChunkRef) -> SenderEvent {
        let (peer, chunk, bytes) = (self.peer.clone(), reference.chunk, reference.sealed_bytes as usize);
        let turn = {
            let _turn = self.turn.lock().await;
            let turn = self.turn_at_peer().await;
            pacing::pass(&self.shard, peer.site, bytes).await;
            turn
        };
        let owner = chunk.shard(self.shard.shards());
        let sent = move |there| async move { send_chunk(&there, &peer, reference).await };
        match self.shard.on_while_awaited(owner, sent).await {
            Ok(Ok(())) => {
                turn.was_taken(&self.shard);
                SenderEvent::Sent(chunk)
            }
            Ok(Err(NotSent { trouble, crossed, rest, takes_nothing })) => {
                match takes_nothing {
                    true => turn.was_refused(&self.shard, bytes, &trouble),
                    false => drop(turn),
                }
                if !crossed {
                    pacing::give_back(&self.shard, self.peer.site, bytes).await;
                }
                tokio::time::sleep(rest.max(AGAIN)).await;
                if self.is_pruned(chunk) {
                    return SenderEvent::Connected;
                }
                self.report(|state| state.trouble = Some(trouble));
                SenderEvent::NotSent(chunk)
            }
            Err(_) => SenderEvent::Lost,
        }
    }

    /// Whether nothing names a chunk any more: what was loaded has been pruned since, and the peer is to have the place of it.
    fn is_pruned(&self, chunk: ChunkId) -> bool {
        let Ok(group) = self.shard.log_group(self.log) else { return false };
        let referenced = group.state().borrow().references(&[chunk]);
        referenced.is_ok_and(|referenced| referenced == [false])
    }

    async fn deliver(&self, given: Vec<Given>) -> SenderEvent {
        let bytes = given.iter().map(Given::bytes).sum();
        pacing::goes_ahead(&self.shard, self.peer.site, bytes).await;
        if self.sent().is_none() {
            return SenderEvent::Lost;
        }
        match self.call_deltas(given).await {
            Ok(Reply::FedAck(position)) => {
                self.refused.borrow_mut().end();
                SenderEvent::Positioned(position)
            }
            Err(PeerCallError::Call(CallError::Refused(refusal))) => {
                if probing::is_of_the_peer(&refusal) {
                    probing::count_refused(&self.shard, bytes);
                    let now = self.shard.clock.clock().monotonic();
                    self.refused.borrow_mut().refused(now, true, refusal.detail.clone());
                }
                SenderEvent::Refused(refusal)
            }
            other => self.lost(other),
        }
    }

    fn deltas(&self, view: LogView, given: Vec<Given>) -> FedDeltas {
        let closed = self.shard.log_group(self.log).ok().and_then(|group| group.state().borrow().closed().ok());
        // Who has handed the log over promises nothing for the next home.
        let closed = closed.filter(|_| view.is_home(self.shard.site.site)).unwrap_or_default();
        let lease_ms = leases::asked_for(&self.shard, &view, self.peer.site);
        let (mut deltas, mut pruned) = (Vec::with_capacity(given.len()), Vec::new());
        for given in given {
            match given {
                Given::Whole(encoded) => deltas.push(encoded),
                Given::Pruned(place) => pruned.push(place),
            }
        }
        FedDeltas {
            log: self.log,
            lineage: view.lineage,
            deltas,
            pruned,
            floor: view.floor,
            head: view.head,
            head_time: view.head_time,
            closed,
            policy: view.descriptor.policy,
            policy_version: view.descriptor.policy_version,
            lease_ms,
        }
    }

    /// Whether the peer is to renew its promise, so early that two answers may be lost.
    fn promise_is_due(&self, view: &LogView) -> bool {
        let lease = Duration::from_millis(leases::asked_for(&self.shard, view, self.peer.site));
        let senders = self.shard.senders.borrow();
        let until = senders.get(&(self.log, self.peer.site)).and_then(|state| state.promised_until(view));
        let until = until.unwrap_or_default();
        until.saturating_sub(self.shard.clock.clock().monotonic()) < lease * 3 / 4
    }

    /// Delivers deltas, or none, and takes note of what the peer promises with its answer.
    /// What is said of the log is all of one moment: its head, and up to when there is nothing else.
    async fn call_deltas(&self, given: Vec<Given>) -> Result<Reply, PeerCallError> {
        let gone = || PeerCallError::Unreachable("the log's group is not here any more".into());
        let view = self.view().ok_or_else(gone)?;
        let (asked_at, home, version) =
            (self.shard.clock.clock().monotonic(), view.known, view.descriptor.policy_version);
        let request = self.deltas(view, given);
        let lease = Duration::from_millis(request.lease_ms);
        let reply = self.call_log(&Request::FedDeltas(request)).await?;
        if let Reply::FedAck(position) = &reply
            && !lease.is_zero()
            && generation_of(&position.lineage) == Some(home)
        {
            // What was promised before for longer still holds, but not what was under an older policy.
            self.report(|state| {
                let before = state.promised.unwrap_or_default();
                state.promised = Some(before.max((version, asked_at + lease)));
            });
        }
        Ok(reply)
    }

    /// Tells the peer how far this log is, so that it knows what a failover would lose.
    async fn tell_head(&self) -> SenderEvent {
        let Some(view) = self.view() else { return SenderEvent::Lost };
        let head = view.head.clone();
        self.told.set(Some(news(&view)));
        let reply = self.call_deltas(Vec::new()).await;
        if !matches!(reply, Ok(Reply::FedAck(_))) {
            // It has not taken it in, and is told once more.
            self.told.take();
        }
        match reply {
            Err(PeerCallError::Unreachable(_) | PeerCallError::Call(CallError::Stream(_) | CallError::TimedOut)) => {
                SenderEvent::Lost
            }
            _ => SenderEvent::Head(head),
        }
    }

    /// When this site has recorded where the peer is.
    fn recorded_at(&self) -> Option<Hlc> {
        let group = self.shard.log_group(self.log).ok()?;
        let recorded = group.state().borrow().recorded_at(self.log, self.peer.site);
        recorded.ok()?
    }

    async fn record(&self, cursor: Cursor, greeted: bool) -> SenderEvent {
        let time = self.shard.clock.now();
        let instead_of = if greeted { self.recorded_at() } else { None };
        let acknowledge = Acknowledge { log: self.log, peer: self.peer.site, cursor, time, instead_of };
        // An unrecorded cursor costs a repeated question after a restart, nothing else.
        let _ = self.shard.log_command(self.log, GroupCommand::Acknowledge(acknowledge)).await;
        SenderEvent::Recorded
    }

    async fn call_log(&self, request: &Request) -> Result<Reply, PeerCallError> {
        let lost = || PeerCallError::Unreachable(format!("peer {} was not greeted", self.peer.name));
        let peer = self.shard.links.known(self.peer.site).ok_or_else(lost)?;
        let shard = GroupId::of_log(self.log, peer.groups).shard(peer.shards);
        self.shard.links.call(&self.peer, shard, Class::Request, request, None).await
    }

    fn lost(&self, outcome: Result<Reply, PeerCallError>) -> SenderEvent {
        match outcome {
            Err(PeerCallError::Call(CallError::Refused(refusal))) => SenderEvent::Refused(refusal),
            Err(error) => {
                self.report(|state| state.trouble = Some(error.to_string()));
                SenderEvent::Lost
            }
            Ok(_) => {
                self.report(|state| state.trouble = Some("the peer answered something else than was asked".into()));
                SenderEvent::Lost
            }
        }
    }
}

/// Why a chunk was not sent.
struct NotSent {
    trouble: String,
    /// Its bytes may have gone all the same.
    crossed: bool,
    /// How long the peer wants to be left alone with it.
    rest: Duration,
    /// The peer would have refused any other one too.
    takes_nothing: bool,
}

impl NotSent {
    fn before(trouble: String) -> Self {
        Self { trouble, crossed: false, rest: Duration::ZERO, takes_nothing: false }
    }
}

impl From<PeerCallError> for NotSent {
    fn from(error: PeerCallError) -> Self {
        let (rest, takes_nothing) = match &error {
            PeerCallError::Call(CallError::Refused(refusal)) => {
                let rest = Duration::from_millis(refusal.retry_after_ms.into()).min(REST);
                (rest, probing::is_of_the_peer(refusal))
            }
            _ => (Duration::ZERO, false),
        };
        let crossed = !matches!(error, PeerCallError::Unreachable(_));
        Self { trouble: error.to_string(), crossed, rest, takes_nothing }
    }
}

/// Reads a chunk and sends it to its coordinator at the peer.
async fn send_chunk<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord, reference: ChunkRef) -> Result<(), NotSent> {
    let hello = greeted(shard, peer).await.map_err(|error| NotSent::before(error.to_string()))?;
    let read = match gathering::read(shard, reference.chunk, 0, 0).await {
        Ok(read) => read,
        // Of several peers another one may have it.
        Err(refusal) if is_gone(&refusal) => {
            found(shard, reference.chunk).await.ok_or_else(|| NotSent::before(refusal.detail))?
        }
        Err(refusal) => return Err(NotSent::before(refusal.detail)),
    };
    let request = Request::PutChunk(PutChunk { chunk: reference.chunk, sealed_bytes: read.sealed_bytes });
    let there = reference.chunk.shard(hello.shards);
    match shard.links.call(peer, there, Class::Bulk, &request, Some(read.pieces)).await {
        Ok(Reply::ChunkStored(_)) => Ok(()),
        Ok(_) => {
            let trouble = "the peer answered something else than was asked".into();
            Err(NotSent { trouble, crossed: true, rest: REST, takes_nothing: false })
        }
        Err(error) => Err(error.into()),
    }
}
