//! One history: a group that is worked with while its nodes and the ways between them fail and its members change.

use super::room::{End, Room, TestGroup};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::ids::NodeId;
use farside_io::sim::histories::{Dice, Journal};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Virtual time in which everything that was begun must end.
const HANG: Duration = Duration::from_secs(3600);
/// How long everything may take to be settled once nothing goes wrong any more.
const RECOVERY: Duration = Duration::from_secs(60);

macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.note(format_args!($($what)*)) };
}
pub(crate) use note;

/// What came of the commands.
#[derive(Default)]
struct Told {
    /// Command → the place that its receipt named.
    placed: BTreeMap<u64, u64>,
    asked: u64,
    /// The furthest place that was ever acknowledged, plus one.
    acknowledged: u64,
}

pub(crate) struct World {
    pub(crate) room: Rc<Room>,
    journal: Rc<Journal>,
    told: RefCell<Told>,
    begun: Instant,
    over: Cell<bool>,
    command_bytes: u64,
    /// Whether elections are contested now and then, which leaves less time for everything else.
    contested: bool,
}

/// Runs the history of one seed.
pub(crate) fn run(seed: u64, journal: Rc<Journal>) {
    farside_raft::seed_thread(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let work = async { tokio::time::timeout(HANG, live(seed, journal)).await.expect("nothing hangs") };
    LocalSet::new().block_on(&runtime, work);
}

async fn live(seed: u64, journal: Rc<Journal>) {
    let dice = Dice::new(seed);
    let voters = dice.pick(&[3, 3, 5]);
    let count = voters + dice.below(2);
    let command_bytes = dice.pick(&[8, 100, 20_000]);
    let contested = dice.percent(30);
    let room = Room::new(dice, count);
    let world = Rc::new(World {
        room,
        journal,
        told: RefCell::default(),
        begun: Instant::now(),
        over: Cell::new(false),
        command_bytes,
        contested,
    });
    note!(world, "{count} nodes, {voters} voters, commands of {command_bytes} bytes");
    for number in 1..=count {
        world.room.start(NodeId(number));
    }
    let first: Vec<NodeId> = (1..=voters).map(NodeId).collect();
    world.first_group().await.initialize(&first).await.expect("the first voters");
    let clients = world.room.dice.between(1, 4);
    let work: Vec<_> = (0..clients).map(|client| tokio::task::spawn_local(work(world.clone(), client))).collect();
    let end = Instant::now() + Duration::from_secs(world.room.dice.between(10, 30));
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(world.room.dice.below(1500))).await;
        world.do_something().await;
    }
    world.make_peace();
    world.settle().await;
    world.over.set(true);
    for one in work {
        one.await.expect("a client never fails");
    }
    world.judge();
}

impl World {
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        self.journal.note(format_args!("{:>8.3}  {what}", self.begun.elapsed().as_secs_f64()));
    }

    async fn first_group(&self) -> TestGroup {
        loop {
            if let Some(group) = self.room.group(NodeId(1)) {
                return group;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        (1..=self.room.nodes.len() as u64).map(NodeId).collect()
    }

    pub(crate) fn any(&self) -> NodeId {
        self.room.dice.pick(&self.ids())
    }

    /// Somebody who says that he leads.
    fn leader(&self) -> Option<TestGroup> {
        let groups = self.ids().into_iter().filter_map(|id| self.room.group(id));
        groups.filter(TestGroup::is_leader).max_by_key(|group| group.status().term)
    }

    async fn do_something(self: &Rc<Self>) {
        let dice = &self.room.dice;
        match dice.below(if self.contested { 23 } else { 20 }) {
            0..5 => {
                let id = self.any();
                match self.room.runs(id) {
                    true => {
                        let how = dice.pick(&[End::Kill, End::PowerCut]);
                        note!(self, "node {id}: {how:?}");
                        self.room.end(id, how).await;
                        if dice.percent(20) {
                            note!(self, "node {id} loses its state");
                            self.room.lose_state(id);
                        }
                    }
                    false => {
                        note!(self, "node {id} starts");
                        self.room.start(id);
                    }
                }
            }
            5 => {
                // Often twice within an election, in the middle of which nobody may vote twice.
                for _ in 0..dice.between(1, 3) {
                    let lost: Vec<NodeId> = self.ids().into_iter().filter(|_| dice.percent(80)).collect();
                    note!(self, "{lost:?} lose power");
                    for id in &lost {
                        self.room.end(*id, End::PowerCut).await;
                    }
                    lost.iter().for_each(|id| self.room.start(*id));
                    tokio::time::sleep(Duration::from_millis(dice.below(1200))).await;
                }
            }
            6..8 => {
                let (from, to) = (self.any(), self.any());
                note!(self, "cut from {from} to {to}");
                self.room.cuts.borrow_mut().insert((from, to));
            }
            8 => self.part(),
            9..11 => {
                note!(self, "healed");
                self.room.heal();
                if dice.percent(40) {
                    // Whoever was behind makes one of its own while the leader's is on its way.
                    note!(self, "everybody makes a snapshot, the leader first");
                    if let Some(leader) = self.leader() {
                        leader.snapshot().await;
                    }
                    tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
                    for group in self.ids().into_iter().filter_map(|id| self.room.group(id)) {
                        group.snapshot().await;
                    }
                }
            }
            11 => {
                let (loss, delay) = (dice.below(30), Duration::from_millis(dice.pick(&[5, 60, 250])));
                note!(self, "{loss} of 100 letters are lost, the others take up to {delay:?}");
                self.room.loss_percent.set(loss);
                self.room.delay.set(delay);
            }
            12..14 => {
                let id = self.any();
                self.room.checkpoint(id);
                if let Some(group) = self.room.group(id).filter(|_| dice.percent(60)) {
                    note!(self, "node {id} makes a snapshot");
                    group.snapshot().await;
                }
            }
            14..16 => {
                let to = self.any();
                if let Some(group) = self.leader() {
                    note!(self, "the leader is to hand over to {to}");
                    let world = self.clone();
                    tokio::task::spawn_local(async move {
                        let handed_over = group.hand_over(to).await;
                        note!(world, "to {to}: {handed_over:?}");
                    });
                }
            }
            16..20 => self.change_members(),
            _ => self.contest().await,
        }
    }

    /// Two parts that don't hear one another.
    fn part(&self) {
        let mine: BTreeSet<NodeId> = self.ids().into_iter().filter(|_| self.room.dice.percent(50)).collect();
        note!(self, "parted: {mine:?}");
        let mut cuts = self.room.cuts.borrow_mut();
        for (one, other) in self.ids().into_iter().flat_map(|one| self.ids().into_iter().map(move |other| (one, other)))
        {
            if mine.contains(&one) != mine.contains(&other) {
                cuts.insert((one, other));
            }
        }
    }

    /// One or three or five other voters; whoever is new learns first. Goes on by itself, and may never come to an end.
    fn change_members(self: &Rc<Self>) {
        let Some(group) = self.leader() else { return };
        let size = self.room.dice.pick(&[1, 3, 3, 5]);
        let chosen = self.room.dice.sample(size, self.room.nodes.len());
        let voters: BTreeSet<NodeId> = chosen.into_iter().map(|at| NodeId(at as u64 + 1)).collect();
        let keep = self.room.dice.percent(30);
        note!(self, "voters are to be {voters:?}");
        let world = self.clone();
        tokio::task::spawn_local(async move {
            for node in &voters {
                if let Err(error) = group.add_learner(*node).await {
                    return note!(world, "node {node} does not learn: {error}");
                }
            }
            let changed = group.change_voters(&voters, keep).await;
            note!(world, "voters {voters:?}: {changed:?}");
        });
    }

    fn make_peace(&self) {
        note!(self, "peace");
        self.room.heal();
        for id in self.ids() {
            self.room.start(id);
        }
    }

    /// Liveness: somebody leads, and all who receive the log have everything that it commits.
    async fn settle(&self) {
        let deadline = Instant::now() + RECOVERY;
        loop {
            if self.is_settled().await {
                return;
            }
            if Instant::now() > deadline {
                let how = |id: NodeId| (id, self.room.group(id).map(|group| group.status()));
                let standing: Vec<_> = self.ids().into_iter().map(how).collect();
                panic!("at peace for {RECOVERY:?}, and not settled: {standing:#?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn is_settled(&self) -> bool {
        let Some(group) = self.leader() else { return false };
        let last = match tokio::time::timeout(Duration::from_secs(2), self.propose(&group)).await {
            Ok(Some(place)) => place,
            _ => return false,
        };
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let status = group.status();
        let everybody = status.voters.union(&status.learners);
        let has_all = |id: &NodeId| {
            let there = self.room.group(*id);
            there.is_some_and(|group| group.state().borrow().commands.len() as u64 > last)
        };
        group.is_leader() && everybody.into_iter().all(has_all)
    }

    /// Proposes the next command; answers its place if it was acknowledged.
    async fn propose(&self, group: &TestGroup) -> Option<u64> {
        let number = {
            let mut told = self.told.borrow_mut();
            told.asked += 1;
            told.asked
        };
        let mut command = number.to_bytes().to_vec();
        command.resize(self.command_bytes as usize, 0);
        let place = group.propose(Bytes::from(command)).await.ok()?;
        let place = u64::from_bytes(place).expect("a place");
        let mut told = self.told.borrow_mut();
        told.placed.insert(number, place);
        told.acknowledged = told.acknowledged.max(place + 1);
        Some(place)
    }

    fn judge(&self) {
        let (truth, told) = (self.room.truth.all(), self.told.borrow());
        for (number, place) in &told.placed {
            assert_eq!(truth.get(*place as usize), Some(number), "command {number} was acknowledged at {place}");
        }
        let mut seen = BTreeSet::new();
        // Nobody repeats a command here, so none stands twice.
        truth.iter().for_each(|number| assert!(seen.insert(*number), "command {number} was applied twice"));
        for id in self.ids() {
            let group = self.room.group(id).expect("it runs");
            let commands = group.state().borrow().commands.clone();
            assert!(truth.starts_with(&commands), "node {id} has another history");
        }
        note!(self, "{} of {} commands acknowledged", told.placed.len(), told.asked);
    }
}

/// A client: proposes, and reads what a leader confirms.
async fn work(world: Rc<World>, client: u64) {
    while !world.over.get() {
        tokio::time::sleep(Duration::from_millis(5 + world.room.dice.below(120))).await;
        let id = world.any();
        let Some(group) = world.room.group(id) else { continue };
        let patience = Duration::from_millis(100 + world.room.dice.below(2000));
        if world.room.dice.percent(25) {
            let floor = world.told.borrow().acknowledged;
            let confirmed = tokio::time::timeout(patience, group.confirm_leader()).await;
            if matches!(confirmed, Ok(Ok(()))) {
                let seen = group.state().borrow().commands.len() as u64;
                assert!(seen >= floor, "node {id} confirmed a read that sees {seen} of {floor}");
                note!(world, "client {client} reads {seen} at node {id}");
            }
        } else if let Ok(Some(place)) = tokio::time::timeout(patience, world.propose(&group)).await {
            note!(world, "client {client}: place {place} at node {id}");
        }
    }
}
