//! Groups on real files: one voter that is restarted, three voters that lose one another.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, GroupId, NodeId};
use farside_io::pool::Pool;
use farside_io::uring::{self, Ring, UringDisk};
use farside_raft::wal::{Wal, WalError, WalMirror};
use farside_raft::{
    Alone, Applied, Group, GroupSettings, PeerError, PeerNetwork, ProposeError, SnapshotError, SnapshotPieces,
    SnapshotStore, StateError, StateMachine,
};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const REGION: u64 = 32 << 20;

/// Remembers every command, in order.
#[derive(Default)]
struct Ledger {
    commands: Vec<Bytes>,
    applied: Applied,
}

struct Once(Option<Bytes>);

impl SnapshotPieces for Once {
    fn next_piece(&mut self) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.take())
    }
}

impl StateMachine for Ledger {
    fn applied(&self) -> Result<Applied, StateError> {
        Ok(self.applied.clone())
    }
    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError> {
        self.applied = applied.clone();
        let outcome = |command: &Bytes| {
            self.commands.push(command.clone());
            (self.commands.len() as u64).to_bytes()
        };
        Ok(commands.iter().map(outcome).collect())
    }
    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError> {
        Ok(Box::new(Once(Some(self.commands.to_bytes()))))
    }
    fn install_begin(&mut self) -> Result<(), StateError> {
        *self = Self::default();
        Ok(())
    }
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError> {
        self.commands.extend(Vec::from_bytes(piece).map_err(StateError::Unreadable)?);
        Ok(())
    }
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError> {
        self.applied = applied.clone();
        Ok(())
    }
}

#[derive(Default, Clone)]
struct Shelf(Rc<RefCell<HashMap<ChunkId, Bytes>>>);

impl SnapshotStore for Shelf {
    fn put(&self, _: GroupId, piece: Bytes) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>> {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&(self.0.borrow().len() as u32).to_le_bytes());
        let reference = ChunkRef { chunk: ChunkId(id), sealed_bytes: piece.len() as u32 };
        self.0.borrow_mut().insert(reference.chunk, piece);
        Box::pin(std::future::ready(Ok(reference)))
    }
    fn get<'a>(&'a self, piece: &'a ChunkRef) -> LocalBoxFuture<'a, Result<Bytes, SnapshotError>> {
        let found = self.0.borrow().get(&piece.chunk).cloned();
        Box::pin(std::future::ready(found.ok_or_else(|| SnapshotError("no such piece".into()))))
    }
    fn keep(&self, _: GroupId, _: &[ChunkRef]) {}
    fn give_up(&self, _: GroupId, _: &[ChunkRef]) {}
}

type TestGroup = Group<UringDisk, Ledger, Shelf>;

fn on_ring<F: Future>(work: F) -> F::Output {
    uring::start(work).expect("a runtime")
}

async fn open_wal(directory: &Path, names: &[&str]) -> Result<Wal<UringDisk>, WalError> {
    let pool = Pool::new(32 << 20).expect("a pool");
    let ring = Ring::register(&pool).expect("a ring");
    let mirrors = names.iter().map(|name| {
        let path = directory.join(name);
        if !path.exists() {
            uring::create(&path, REGION).expect("a file");
        }
        WalMirror {
            device: farside_codec::ids::DeviceId::default(),
            disk: UringDisk::open(&path, &ring).expect("a device"),
            offset: 0,
            bytes: REGION,
        }
    });
    Wal::open([7; 16], mirrors.collect(), &pool).await.map(|(wal, _)| wal)
}

async fn start(wal: Wal<UringDisk>, node: u64, shelf: &Shelf, peers: Rc<dyn PeerNetwork>) -> TestGroup {
    let state = Rc::new(RefCell::new(Ledger::default()));
    let settings = GroupSettings::default();
    let shelf = Rc::new(shelf.clone());
    Group::start(GroupId(1), NodeId(node), settings, wal, state, shelf, peers).await.expect("a group")
}

async fn propose(group: &TestGroup, text: &str) -> Result<Bytes, ProposeError> {
    for _ in 0..200 {
        match group.propose(Bytes::copy_from_slice(text.as_bytes())).await {
            Err(ProposeError::NotLeader(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other,
        }
    }
    Err(ProposeError::NotLeader(None))
}

fn ledger(group: &TestGroup) -> Vec<String> {
    group.state().borrow().commands.iter().map(|command| String::from_utf8_lossy(command).into_owned()).collect()
}

#[test]
fn a_single_voter_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::default();
    let mut expected = Vec::new();
    for life in 0..4 {
        on_ring(async {
            let wal = open_wal(directory.path(), &["a", "b"]).await.expect("a log");
            let group = start(wal.clone(), 1, &shelf, Rc::new(Alone)).await;
            group.initialize(&[NodeId(1)]).await.expect("voters");
            for number in 0..50 {
                let text = format!("life {life} command {number}");
                propose(&group, &text).await.expect("committed");
                expected.push(text);
            }
            assert_eq!(ledger(&group), expected);
            if life == 1 {
                // From here on the log alone does not hold everything.
                group.snapshot().await;
                while wal.group(GroupId(1), |log| log.purged()).is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            // No shutdown: what was acknowledged is on the devices.
        });
    }
}

#[test]
fn a_mirror_may_be_damaged_and_two_may_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::default();
    on_ring(async {
        let wal = open_wal(directory.path(), &["a", "b"]).await.expect("a log");
        let group = start(wal, 1, &shelf, Rc::new(Alone)).await;
        group.initialize(&[NodeId(1)]).await.expect("voters");
        for number in 0..20 {
            propose(&group, &number.to_string()).await.expect("committed");
        }
    });
    let flip = |name: &str| {
        let path = directory.path().join(name);
        let mut bytes = std::fs::read(&path).expect("a file");
        // The second batch: below the durable mark of those after it.
        bytes[4096 + 50] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    };
    flip("a");
    on_ring(async {
        let wal = open_wal(directory.path(), &["a", "b"]).await.expect("one mirror is enough");
        let group = start(wal, 1, &shelf, Rc::new(Alone)).await;
        propose(&group, "more").await.expect("committed");
        assert_eq!(ledger(&group).len(), 21);
    });
    // The first mirror was mended from the second; now both are damaged.
    flip("a");
    flip("b");
    on_ring(async {
        let opened = open_wal(directory.path(), &["a", "b"]).await;
        assert!(matches!(opened, Err(WalError::Damaged { batch: 2 })), "{:?}", opened.err());
    });
}

#[test]
fn the_log_goes_round() {
    let directory = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::default();
    let mut expected = 0;
    for _ in 0..2 {
        on_ring(async {
            let wal = open_wal(directory.path(), &["a"]).await.expect("a log");
            let group = start(wal, 1, &shelf, Rc::new(Alone)).await;
            group.initialize(&[NodeId(1)]).await.expect("voters");
            // Three laps of the region.
            for _ in 0..96 {
                let batch = (0..16).map(|_| propose_bytes(&group, vec![3; 64 << 10]));
                futures_util::future::join(futures_util::future::join_all(batch), group.snapshot_if_due()).await;
                expected += 16;
            }
            assert_eq!(group.state().borrow().commands.len(), expected);
        });
    }
}

async fn propose_bytes(group: &TestGroup, bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    loop {
        match group.propose(bytes.clone()).await {
            Ok(_) => return,
            Err(ProposeError::Stopped) => panic!("the group has stopped"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Three nodes in one process; links between them can be cut.
#[derive(Default)]
struct Room {
    groups: RefCell<BTreeMap<NodeId, TestGroup>>,
    cut: RefCell<BTreeSet<NodeId>>,
}

struct Door {
    room: Rc<Room>,
    from: NodeId,
}

impl PeerNetwork for Door {
    fn call(&self, target: NodeId, _: GroupId, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let cut = self.room.cut.borrow().contains(&target) || self.room.cut.borrow().contains(&self.from);
            let group = self.room.groups.borrow().get(&target).cloned();
            match group.filter(|_| !cut) {
                Some(group) => Ok(group.handle(request).await),
                None => Err(PeerError::Unreachable(target)),
            }
        })
    }
}

async fn leader(room: &Room) -> TestGroup {
    for _ in 0..500 {
        let cut = room.cut.borrow().clone();
        let leading =
            |(node, group): (&NodeId, &TestGroup)| (!cut.contains(node) && group.is_leader()).then(|| group.clone());
        if let Some(group) = room.groups.borrow().iter().find_map(leading) {
            return group;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no leader within ten seconds");
}

#[test]
fn three_voters_survive_one_and_catch_it_up() {
    let directory = tempfile::tempdir().expect("a directory");
    on_ring(async {
        let room = Rc::new(Room::default());
        let nodes = [NodeId(1), NodeId(2), NodeId(3)];
        for node in nodes {
            let wal = open_wal(directory.path(), &[&format!("node-{node}")]).await.expect("a log");
            let door = Rc::new(Door { room: room.clone(), from: node });
            let group = start(wal, node.0, &Shelf::default(), door).await;
            room.groups.borrow_mut().insert(node, group);
        }
        let first = room.groups.borrow()[&NodeId(1)].clone();
        first.initialize(&nodes).await.expect("voters");
        let old = leader(&room).await;
        propose(&old, "before").await.expect("committed");

        let lost = old.status().leader.expect("itself");
        room.cut.borrow_mut().insert(lost);
        let new = loop {
            let new = leader(&room).await;
            if propose(&new, "while one is cut off").await.is_ok() {
                break new;
            }
        };
        // The one that is cut off can't commit, and its log is dropped before the others' reaches it by snapshot.
        let alone = tokio::time::timeout(Duration::from_secs(1), old.propose(Bytes::from_static(b"lost"))).await;
        assert!(!matches!(alone, Ok(Ok(_))), "a minority committed");
        new.snapshot().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        room.cut.borrow_mut().clear();
        propose(&new, "after").await.or(propose(&leader(&room).await, "after").await).expect("committed");
        for _ in 0..500 {
            if ledger(&old).contains(&"after".to_owned()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut expected = ledger(&leader(&room).await);
        expected.dedup();
        let mut got = ledger(&old);
        got.dedup();
        assert_eq!(got, expected);
        assert!(!got.contains(&"lost".to_owned()));
    });
}
