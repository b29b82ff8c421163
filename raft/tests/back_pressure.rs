//! A node whose store takes no snapshot: its log never grows past what a checkpoint can write again, it starts at any time,
//! the group goes on without it, and it catches up once its store takes something.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, DeviceId, GroupId, NodeId};
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_raft::limits::MIN_REGION_BYTES;
use farside_raft::wal::{Wal, WalMirror};
use farside_raft::{
    Applied, Group, GroupSettings, PeerError, PeerNetwork, ProposeError, SnapshotError, SnapshotPieces, SnapshotStore,
    StateError, StateMachine,
};
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

const GROUP: GroupId = GroupId(1);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Whose store is full.
const FULL: NodeId = NodeId(3);
const COMMAND_BYTES: usize = 256 << 10;
/// Twice as many bytes as a region has.
const COMMANDS: u64 = 256;
/// Virtual time in which everything must have come about.
const PATIENCE: Duration = Duration::from_secs(600);

/// Counts commands; their bytes are filling.
#[derive(Default)]
struct Count {
    commands: u64,
    applied: Applied,
}

struct Pieces(Vec<Bytes>);

impl SnapshotPieces for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.pop())
    }
}

impl StateMachine for Count {
    fn applied(&self) -> Result<Applied, StateError> {
        Ok(self.applied.clone())
    }
    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError> {
        self.commands += commands.len() as u64;
        self.applied = applied.clone();
        Ok(vec![Bytes::new(); commands.len()])
    }
    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError> {
        // The number, and one piece that finds no room where the store is full.
        Ok(Box::new(Pieces(vec![Bytes::from_static(b"last"), self.commands.to_bytes()])))
    }
    fn install_begin(&mut self) -> Result<(), StateError> {
        *self = Self::default();
        Ok(())
    }
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError> {
        if piece.len() == 8 {
            self.commands = u64::from_bytes(piece).map_err(StateError::Unreadable)?;
        }
        Ok(())
    }
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError> {
        self.applied = applied.clone();
        Ok(())
    }
}

/// A node's pieces, each as often as it was put.
#[derive(Default, Clone)]
struct Shelf {
    pieces: Rc<RefCell<HashMap<ChunkId, (Bytes, u32)>>>,
    kept: Rc<RefCell<Vec<ChunkId>>>,
    is_full: Rc<Cell<bool>>,
    most: Rc<Cell<usize>>,
}

impl SnapshotStore for Shelf {
    fn put(&self, _: GroupId, piece: Bytes) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>> {
        // The first piece still fits.
        if self.is_full.get() && piece.len() != 8 {
            return Box::pin(std::future::ready(Err(SnapshotError("no space left".into()))));
        }
        let mut id = [0; 32];
        id[..piece.len()].copy_from_slice(&piece);
        let reference = ChunkRef { chunk: ChunkId(id), sealed_bytes: piece.len() as u32 };
        let mut pieces = self.pieces.borrow_mut();
        pieces.entry(reference.chunk).or_insert((piece, 0)).1 += 1;
        self.most.set(self.most.get().max(pieces.len()));
        Box::pin(std::future::ready(Ok(reference)))
    }
    fn get<'a>(&'a self, piece: &'a ChunkRef) -> LocalBoxFuture<'a, Result<Bytes, SnapshotError>> {
        let found = self.pieces.borrow().get(&piece.chunk).map(|(bytes, _)| bytes.clone());
        Box::pin(std::future::ready(found.ok_or_else(|| SnapshotError("no such piece".into()))))
    }
    fn keep(&self, _: GroupId, pieces: &[ChunkRef]) {
        *self.kept.borrow_mut() = pieces.iter().map(|piece| piece.chunk).collect();
    }
    fn give_up(&self, _: GroupId, pieces: &[ChunkRef]) {
        let mut held = self.pieces.borrow_mut();
        for piece in pieces {
            let (_, count) = held.get_mut(&piece.chunk).expect("it was put");
            *count -= 1;
        }
        held.retain(|chunk, (_, count)| *count > 0 || self.kept.borrow().contains(chunk));
    }
}

type TestGroup = Group<SimDisk, Count, Shelf>;

#[derive(Default)]
struct Room(RefCell<BTreeMap<NodeId, (TestGroup, Wal<SimDisk>)>>);

impl PeerNetwork for Room {
    fn call(&self, target: NodeId, _: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(200)).await;
            let group = self.0.borrow().get(&target).map(|(group, _)| group.clone());
            match group {
                Some(group) => Ok(group.handle(request).await),
                None => Err(PeerError::Unreachable(target)),
            }
        })
    }
}

impl Room {
    fn all(&self) -> Vec<(TestGroup, Wal<SimDisk>)> {
        self.0.borrow().values().cloned().collect()
    }

    fn commands(&self, node: NodeId) -> u64 {
        self.0.borrow()[&node].0.state().borrow().commands
    }

    fn wal(&self, node: NodeId) -> Wal<SimDisk> {
        self.0.borrow()[&node].1.clone()
    }

    async fn start(self: &Rc<Self>, disks: &[SimDisk], shelves: &[Shelf], pool: &Pool) {
        for (node, (disk, shelf)) in NODES.into_iter().zip(disks.iter().zip(shelves)) {
            let mirror =
                WalMirror { device: DeviceId::default(), disk: disk.clone(), offset: 0, bytes: MIN_REGION_BYTES };
            let opened = Wal::open([node.0 as u8; 16], vec![mirror], pool).await;
            let (wal, _) = opened.unwrap_or_else(|error| panic!("node {node} does not start: {error}"));
            let (state, shelf) = (Rc::default(), Rc::new(shelf.clone()));
            let settings = GroupSettings::default();
            let group = TestGroup::start(GROUP, node, settings, wal.clone(), state, shelf, self.clone()).await;
            self.0.borrow_mut().insert(node, (group.expect("a group"), wal));
        }
        let room = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                for (group, wal) in room.all() {
                    group.snapshot_if_due().await;
                    assert_eq!(wal.failure(), None);
                    assert!(wal.live().0 <= wal.live_bound() + SMALL, "{} bytes are alive", wal.live().0);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    async fn propose(&self) {
        loop {
            // Never the one whose store is full: it would turn everything away.
            for (group, _) in self.all().into_iter().filter(|(group, _)| group.member() != FULL) {
                match group.propose(Bytes::from(vec![7; COMMAND_BYTES])).await {
                    Ok(_) => return,
                    Err(ProposeError::Stopped) => panic!("a group has stopped"),
                    Err(_) => {}
                }
            }
            if let Some((group, _)) = self.all().into_iter().find(|(group, _)| group.is_leader()) {
                // It may refuse now, and is asked again.
                let _ = if group.member() == FULL { group.hand_over(NODES[0]).await } else { Ok(()) };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Entries that are nobody's proposals.
const SMALL: usize = 64 << 10;

fn run<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let work = async { tokio::time::timeout(PATIENCE, work).await.expect("in time") };
    LocalSet::new().block_on(&runtime, work)
}

#[test]
fn a_store_that_is_full_does_not_fill_the_log() {
    let pool = Pool::new(48 << 20).expect("an arena");
    let mut disks: Vec<SimDisk> = NODES.iter().map(|node| SimDisk::new(MIN_REGION_BYTES, node.0)).collect();
    let shelves: Vec<Shelf> = NODES.iter().map(|_| Shelf::default()).collect();
    let full = &shelves[2];
    full.is_full.set(true);
    run(async {
        let room = Rc::new(Room::default());
        room.start(&disks, &shelves, &pool).await;
        let first = room.all()[0].0.clone();
        first.initialize(&NODES).await.expect("voters");
        for _ in 0..COMMANDS / 8 {
            futures_util::future::join_all((0..8).map(|_| room.propose())).await;
        }
        let wal = room.wal(FULL);
        assert!(wal.held_back() > 0, "it was to be full");
        assert!(room.commands(FULL) < COMMANDS, "it was to be left behind");
        assert!(full.most.get() <= 3, "{} pieces lay in the way", full.most.get());
    });
    // It starts, and is left behind no more once there is space.
    for is_full in [true, false] {
        disks.iter_mut().for_each(|disk| *disk = disk.crash());
        full.is_full.set(is_full);
        run(async {
            let room = Rc::new(Room::default());
            room.start(&disks, &shelves, &pool).await;
            room.propose().await;
            let expected = room.commands(NODES[0]).max(room.commands(NODES[1]));
            assert!(expected > COMMANDS);
            tokio::time::sleep(Duration::from_secs(5)).await;
            while !is_full && room.commands(FULL) < expected {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(room.commands(FULL) < expected, is_full);
        });
    }
}
