//! Checkpoints that power cuts interrupt, one after the other: each takes the space of the one before it, so that the
//! region never fills, and the one that ends leaves what a log says as it was.

use farside_codec::ids::{DeviceId, GroupId, NodeId};
use farside_codec::record::wal::{Entry, EntryPayload, LogPosition, Vote, WalRecord};
use farside_io::pool::Pool;
use farside_io::sim::{Fault, Operation, SimDisk};
use farside_raft::limits::{CHECKPOINT_EIGHTHS, MIN_REGION_BYTES};
use farside_raft::wal::{Wal, WalError, WalMirror};
use tokio::task::LocalSet;

const GROUP: GroupId = GroupId(1);
const COMMAND_BYTES: usize = 256 << 10;
/// Entries that are alive: as much as ever is.
const ENTRIES: u64 = 39;
/// A checkpoint of them that was interrupted late so many times would fill a region by itself.
const INTERRUPTIONS: u64 = 12;
/// Batches of 4 KiB that fill half a region.
const MORE_VOTES: u64 = 4000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

async fn open(disks: &[SimDisk], pool: &Pool) -> Result<Wal<SimDisk>, WalError> {
    let mirror = |disk: &SimDisk| WalMirror {
        device: DeviceId::default(),
        disk: disk.clone(),
        offset: 0,
        bytes: MIN_REGION_BYTES,
    };
    Wal::open([7; 16], disks.iter().map(mirror).collect(), pool).await.map(|(wal, _)| wal)
}

fn entry(index: u64) -> WalRecord {
    let position = LogPosition { term: 1, leader: NodeId(1), index };
    let payload = EntryPayload::Command(vec![index as u8; COMMAND_BYTES].into());
    WalRecord::Append((GROUP, Entry { position, payload }))
}

fn vote(term: u64) -> WalRecord {
    WalRecord::Vote((GROUP, Vote { term, leader: NodeId(1), committed: false }))
}

/// Everything alive, and so much written besides that a checkpoint is due with the next batch.
async fn fill(wal: &Wal<SimDisk>) {
    for index in 0..ENTRIES {
        wal.append_durably(&[entry(index)]).await.expect("durable");
    }
    let mut term = 1;
    while wal.used() * 8.0 < CHECKPOINT_EIGHTHS as f64 {
        wal.append_durably(&[vote(term)]).await.expect("durable");
        term += 1;
    }
}

fn interrupted(mirrors: u64) {
    let pool = Pool::new(24 << 20).expect("an arena");
    let mut disks: Vec<SimDisk> = (0..mirrors).map(|seed| SimDisk::new(MIN_REGION_BYTES, seed)).collect();
    LocalSet::new().block_on(&runtime(), async { fill(&open(&disks, &pool).await.expect("a log")).await });
    for number in 0..INTERRUPTIONS {
        disks.iter_mut().for_each(|disk| *disk = disk.crash());
        // A start begins with the checkpoint that is due, or was interrupted. Mostly its last batch is not written any more.
        let written = if number % 4 == 3 { 1 } else { 2 };
        disks.iter().for_each(|disk| disk.inject(Operation::Write, written, Fault::Fail { errno: 5 }));
        let opened = LocalSet::new().block_on(&runtime(), open(&disks, &pool));
        assert_eq!(opened.err(), Some(WalError::NoMirror), "interruption {number}");
        disks.iter().for_each(SimDisk::clear_faults);
    }
    disks.iter_mut().for_each(|disk| *disk = disk.crash());
    LocalSet::new().block_on(&runtime(), async {
        let wal = open(&disks, &pool).await.expect("a log");
        let entries: Vec<u64> =
            wal.group(GROUP, |log| log.entries(0, u64::MAX).map(|entry| entry.position.index).collect());
        assert_eq!(entries, (0..ENTRIES).collect::<Vec<_>>());
        assert!(wal.group(GROUP, |log| log.vote()).is_some());
        assert!(wal.used() * 8.0 < CHECKPOINT_EIGHTHS as f64, "what was interrupted takes space: {}", wal.used());
        // And goes round from here on.
        for term in 0..MORE_VOTES {
            wal.append_durably(&[vote(1 << 40 | term)]).await.expect("durable");
        }
        wal.close().await;
    });
}

#[test]
fn one_mirror_goes_on() {
    interrupted(1);
}

#[test]
fn two_mirrors_go_on() {
    interrupted(2);
}
