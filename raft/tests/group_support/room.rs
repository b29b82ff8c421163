//! Nodes, each with a log on simulated devices, and the ways between them.

use super::ledger::{Ledger, Shelf, Truth};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::ids::{GroupId, NodeId};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_io::sim::histories::Dice;
use farside_raft::limits::MIN_REGION_BYTES;
use farside_raft::message::{Answer, Ask};
use farside_raft::wal::{Wal, WalMirror};
use farside_raft::{Group, GroupSettings, PeerError, PeerNetwork};
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

pub(crate) const GROUP: GroupId = GroupId(1);
/// How long a caller waits for an answer that never comes.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a letter takes at most while nothing is wrong.
const USUAL_DELAY: Duration = Duration::from_millis(2);

pub(crate) type TestGroup = Group<SimDisk, Ledger, Shelf>;
type Letter = (Bytes, oneshot::Sender<Bytes>);

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    PowerCut,
}

/// A vote that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cast {
    pub(crate) voter: NodeId,
    pub(crate) candidate: NodeId,
}

struct Running {
    task: JoinHandle<()>,
    group: Rc<RefCell<Option<TestGroup>>>,
    letters: mpsc::UnboundedSender<Letter>,
}

pub(crate) struct Node {
    disks: Vec<SimDisk>,
    shelf: Shelf,
    /// The state as it was last made durable: it is a cache, and may be behind.
    kept: Ledger,
    running: Option<Running>,
}

pub(crate) struct Room {
    pub(crate) dice: Dice,
    pub(crate) nodes: Vec<RefCell<Node>>,
    pub(crate) truth: Truth,
    /// One-way cuts.
    pub(crate) cuts: RefCell<BTreeSet<(NodeId, NodeId)>>,
    /// Of a hundred, so many letters are lost.
    pub(crate) loss_percent: Cell<u64>,
    /// A letter takes up to so long.
    pub(crate) delay: Cell<Duration>,
    /// Who is told of votes as they are cast.
    listener: RefCell<Option<mpsc::UnboundedSender<Cast>>>,
    pool: Pool,
}

impl Room {
    pub(crate) fn new(dice: Dice, count: u64) -> Rc<Self> {
        let truth = Truth::default();
        // Where flushes take no time nothing is ever under way when the power goes.
        let slowest = Duration::from_millis(dice.pick(&[0, 3, 15, 60]));
        let node = |_| {
            let mirrors = dice.between(1, 2);
            let disk = || {
                let disk = SimDisk::new(MIN_REGION_BYTES, dice.seed());
                disk.slow_down(slowest);
                disk
            };
            let disks = (0..mirrors).map(|_| disk()).collect();
            let kept = Ledger::new(&truth);
            RefCell::new(Node { disks, shelf: Shelf::default(), kept, running: None })
        };
        let nodes = (1..=count).map(node).collect();
        Rc::new(Self {
            nodes,
            truth,
            cuts: RefCell::default(),
            loss_percent: Cell::new(0),
            delay: Cell::new(USUAL_DELAY),
            listener: RefCell::default(),
            pool: Pool::new(48 << 20).expect("an arena"),
            dice,
        })
    }

    pub(crate) fn node(&self, id: NodeId) -> &RefCell<Node> {
        &self.nodes[id.0 as usize - 1]
    }

    /// The node's group, while it runs.
    pub(crate) fn group(&self, id: NodeId) -> Option<TestGroup> {
        self.node(id).borrow().running.as_ref().and_then(|running| running.group.borrow().clone())
    }

    /// Nothing is wrong with any way any more.
    pub(crate) fn heal(&self) {
        self.cuts.borrow_mut().clear();
        self.loss_percent.set(0);
        self.delay.set(USUAL_DELAY);
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.borrow().contains(&(from, to))
    }

    pub(crate) fn runs(&self, id: NodeId) -> bool {
        self.node(id).borrow().running.is_some()
    }

    pub(crate) fn start(self: &Rc<Self>, id: NodeId) {
        let mut node = self.node(id).borrow_mut();
        if node.running.is_some() {
            return;
        }
        let mirrors: Vec<WalMirror<SimDisk>> = node
            .disks
            .iter()
            .map(|disk| WalMirror {
                device: farside_codec::ids::DeviceId::default(),
                disk: disk.clone(),
                offset: 0,
                bytes: MIN_REGION_BYTES,
            })
            .collect();
        let (letters, mut inbox) = mpsc::unbounded_channel::<Letter>();
        let group = Rc::new(RefCell::new(None));
        let (room, slot, shelf, kept) = (self.clone(), group.clone(), node.shelf.clone(), node.kept.clone());
        let local = LocalSet::new();
        local.spawn_local(async move {
            let mut owner = [7; 16];
            owner[0] = id.0 as u8;
            let (wal, _) = Wal::open(owner, mirrors, &room.pool).await.expect("nothing was damaged");
            let door: Rc<dyn PeerNetwork> = Rc::new(Door { room, from: id });
            let (state, shelf) = (Rc::new(RefCell::new(kept)), Rc::new(shelf));
            let settings = GroupSettings::default();
            let group: TestGroup =
                Group::start(GROUP, id, settings, wal, state, shelf, door).await.expect("the group starts");
            slot.borrow_mut().replace(group.clone());
            while let Some((letter, answer)) = inbox.recv().await {
                let group = group.clone();
                tokio::task::spawn_local(async move {
                    // Nobody may be there for the answer any more.
                    let _ = answer.send(group.handle(letter).await);
                });
            }
        });
        let task = tokio::task::spawn_local(async move {
            local.await;
            // Its letter box stays open as long as it runs.
            std::future::pending::<()>().await;
        });
        node.running = Some(Running { task, group, letters });
    }

    /// Makes the node's state durable as it is now.
    pub(crate) fn checkpoint(&self, id: NodeId) {
        if let Some(group) = self.group(id) {
            let state = group.state().borrow().clone();
            self.node(id).borrow_mut().kept = state;
        }
    }

    pub(crate) async fn end(&self, id: NodeId, how: End) {
        let Some(running) = self.node(id).borrow_mut().running.take() else { return };
        let Running { task, group, letters } = running;
        task.abort();
        // Aborted is all that it can say.
        let _ = task.await;
        drop((group, letters));
        let mut node = self.node(id).borrow_mut();
        for disk in &mut node.disks {
            *disk = match how {
                End::Kill => disk.kill(),
                End::PowerCut => disk.crash(),
            };
        }
    }

    /// Its state file is gone: everything comes from snapshot and log.
    pub(crate) fn lose_state(&self, id: NodeId) {
        self.node(id).borrow_mut().kept = Ledger::new(&self.truth);
    }

    /// Every vote that is granted from now on, as soon as the voter has answered.
    pub(crate) fn hear_votes(&self) -> mpsc::UnboundedReceiver<Cast> {
        let (teller, votes) = mpsc::unbounded_channel();
        self.listener.replace(Some(teller));
        votes
    }

    fn tell_of_vote(&self, cast: Cast, asked: Bytes, answered: Bytes) {
        let mut listener = self.listener.borrow_mut();
        let Some(teller) = listener.as_ref().filter(|teller| !teller.is_closed()) else { return *listener = None };
        let is_vote = matches!(Ask::from_bytes(asked), Ok(Ask::Vote(_)));
        if is_vote && matches!(Answer::from_bytes(answered), Ok(Answer::Voted(voted)) if voted.granted) {
            // Nobody listens any more: that is no loss.
            let _ = teller.send(cast);
        }
    }

    async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let most = self.delay.get().as_micros() as u64;
        tokio::time::sleep(Duration::from_micros(50 + self.dice.below(most))).await;
        !self.is_cut(from, to) && !self.dice.percent(self.loss_percent.get())
    }
}

struct Door {
    room: Rc<Room>,
    from: NodeId,
}

impl Door {
    async fn ask(&self, target: NodeId, request: Bytes) -> Option<Bytes> {
        if !self.room.travel(self.from, target).await {
            return std::future::pending().await;
        }
        let letters = self.room.node(target).borrow().running.as_ref().map(|running| running.letters.clone())?;
        let (answer, answered) = oneshot::channel();
        letters.send((request.clone(), answer)).ok()?;
        let answer = answered.await.ok()?;
        self.room.tell_of_vote(Cast { voter: target, candidate: self.from }, request, answer.clone());
        match self.room.travel(target, self.from).await {
            true => Some(answer),
            false => std::future::pending().await,
        }
    }
}

impl PeerNetwork for Door {
    fn call(&self, target: NodeId, _: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let answer = tokio::time::timeout(PATIENCE, self.ask(target, request)).await;
            answer.ok().flatten().ok_or(PeerError::Unreachable(target))
        })
    }
}
