//! A mirror of the log that was away, and is alone now, is not believed: what the log went on to promise is not in it.

use farside_codec::ids::{DeviceId, GroupId, NodeId};
use farside_codec::record::wal::{Vote, WalRecord};
use farside_io::pool::Pool;
use farside_io::sim::{Fault, Operation, SimDisk};
use farside_raft::limits::MIN_REGION_BYTES;
use farside_raft::wal::{Wal, WalError, WalMirror, Witness};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::task::LocalSet;

const GROUP: GroupId = GroupId(1);
const FIRST: DeviceId = DeviceId([1; 16]);
const SECOND: DeviceId = DeviceId([2; 16]);

/// What a node's directory would say, and whether it can be written.
#[derive(Default)]
struct Noted {
    mirrors: RefCell<Option<Vec<DeviceId>>>,
    is_full: Cell<bool>,
}

impl Witness for Noted {
    fn mirrors(&self) -> Result<Option<Vec<DeviceId>>, String> {
        Ok(self.mirrors.borrow().clone())
    }
    fn note(&self, mirrors: &[DeviceId]) -> Result<(), String> {
        if self.is_full.get() {
            return Err("no space".into());
        }
        *self.mirrors.borrow_mut() = Some(mirrors.to_vec());
        Ok(())
    }
}

struct Node {
    disks: Vec<(DeviceId, SimDisk)>,
    noted: Rc<Noted>,
    pool: Pool,
}

impl Node {
    fn new() -> Self {
        let disks = vec![(FIRST, SimDisk::new(MIN_REGION_BYTES, 1)), (SECOND, SimDisk::new(MIN_REGION_BYTES, 2))];
        Self { disks, noted: Rc::default(), pool: Pool::new(24 << 20).expect("an arena") }
    }

    async fn open(&self, present: &[DeviceId]) -> Result<Wal<SimDisk>, WalError> {
        let mirrors = self.disks.iter().filter(|(device, _)| present.contains(device)).map(|(device, disk)| {
            WalMirror { device: *device, disk: disk.clone(), offset: 0, bytes: MIN_REGION_BYTES }
        });
        Wal::open_with([7; 16], mirrors.collect(), &self.pool, self.noted.clone()).await.map(|(wal, _)| wal)
    }

    fn crash(&mut self) {
        self.disks.iter_mut().for_each(|(_, disk)| *disk = disk.crash());
    }

    fn said(&self) -> Vec<DeviceId> {
        self.noted.mirrors.borrow().clone().unwrap_or_default()
    }
}

fn vote(term: u64) -> WalRecord {
    WalRecord::Vote((GROUP, Vote { term, leader: NodeId(1), committed: false }))
}

fn term(wal: &Wal<SimDisk>) -> Option<u64> {
    wal.group(GROUP, |log| log.vote().map(|vote| vote.term))
}

fn run(work: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), work());
}

#[test]
fn who_was_away_is_not_believed_alone() {
    run(async || {
        let mut node = Node::new();
        let wal = node.open(&[FIRST, SECOND]).await.expect("a log");
        assert_eq!(node.said(), [FIRST, SECOND]);
        wal.append_durably(&[vote(1)]).await.expect("durable");
        // The second one fails, and the node votes on.
        node.disks[1].1.inject(Operation::Write, 0, Fault::Fail { errno: 5 });
        wal.append_durably(&[vote(2)]).await.expect("one mirror is enough");
        assert_eq!(node.said(), [FIRST], "noted before it was answered");
        wal.close().await;
        node.crash();
        let stale = WalError::Stale { missing: vec![FIRST] };
        assert_eq!(node.open(&[SECOND]).await.err(), Some(stale.clone()));
        assert!(stale.to_string().contains(&FIRST.to_string()), "{stale}");
        assert_eq!(node.said(), [FIRST], "a start that is refused changes nothing");
        // With the first one both are whole again, and either is enough from then on.
        let wal = node.open(&[FIRST, SECOND]).await.expect("a log");
        assert_eq!((term(&wal), node.said()), (Some(2), vec![FIRST, SECOND]));
        wal.close().await;
        node.crash();
        let wal = node.open(&[SECOND]).await.expect("a log");
        assert_eq!((term(&wal), node.said()), (Some(2), vec![SECOND]));
        wal.append_durably(&[vote(3)]).await.expect("durable");
        wal.close().await;
        // Now it is the other one that was away.
        node.crash();
        assert_eq!(node.open(&[FIRST]).await.err(), Some(WalError::Stale { missing: vec![SECOND] }));
    });
}

#[test]
fn nothing_is_answered_that_could_not_be_noted() {
    run(async || {
        let mut node = Node::new();
        let wal = node.open(&[FIRST, SECOND]).await.expect("a log");
        wal.append_durably(&[vote(1)]).await.expect("durable");
        node.noted.is_full.set(true);
        assert!(!wal.let_go(SECOND), "a device that is to go stays until that is noted");
        node.disks[1].1.inject(Operation::Write, 0, Fault::Fail { errno: 5 });
        let refused = wal.append_durably(&[vote(2)]).await;
        assert_eq!(refused, Err(WalError::Unrecorded("no space".into())));
        node.crash();
        assert_eq!(node.open(&[FIRST, SECOND]).await.err(), Some(WalError::Unrecorded("no space".into())));
        node.noted.is_full.set(false);
        let wal = node.open(&[SECOND]).await.expect("it holds all that was answered");
        assert_eq!(term(&wal), Some(2), "what was not answered it was given by the start before");
        assert!(!wal.let_go(SECOND), "nothing else holds the log");
        wal.close().await;
    });
}
