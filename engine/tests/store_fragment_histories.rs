//! Random histories of a store that holds some fragments of each chunk: they are sent, put, read, dropped, collected and
//! moved, several at once, and cut short by power cuts and kills, with faults on one device or none.
//!
//! What was acknowledged is there and right, but for what the one bad device held; no read is ever wrong; what was
//! dropped or deleted is gone until the next start; every buffer and all space comes back.
//!
//! `FARSIDE_HISTORIES=10000 cargo test -p farside --test store_fragment_histories` runs the long version.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod fragments_support;

use farside::store::{DeviceState, Store, StoreError, Stripe};
use farside_codec::ids::ChunkId;
use farside_io::sim::histories::{self, Dice, Journal};
use farside_io::sim::{Fault, Operation, SimDisk, SimFaults};
use fragments_support::{Node, Shape, chunk, encode, run, send};
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// About ten seconds on one core.
const HISTORIES: u64 = 400;
const CHUNKS: u64 = 12;
const FRAGMENTS: u8 = 6;

/// What is known of one chunk.
#[derive(Default)]
struct Known {
    /// Fragments that were acknowledged and not dropped or deleted since.
    promised: BTreeSet<u8>,
    /// Fragments that may be here.
    possible: BTreeSet<u8>,
    /// Rises with everything that takes fragments away.
    removals: u64,
    /// Writes under way; those whose caller went away may be for ever.
    writing: u32,
}

struct History {
    dice: Dice,
    journal: Rc<Journal>,
    node: Node,
    shape: Shape,
    /// The device that comes to harm.
    bad: Option<usize>,
    chunks: Vec<(ChunkId, Vec<u8>)>,
    fragments: Vec<Vec<Vec<u8>>>,
    known: RefCell<Vec<Known>>,
    epoch: Cell<u64>,
}

macro_rules! note {
    ($history:expr, $($what:tt)*) => { $history.journal.note(format_args!($($what)*)) };
}

impl History {
    async fn new(seed: u64, journal: Rc<Journal>) -> Self {
        let dice = Dice::new(seed);
        let segment_bytes = dice.pick(&[48 << 10, 64 << 10, 128 << 10]);
        let devices = dice.between(1, 7) as usize;
        let shape = Shape { geometry: "4+2", devices, segment_bytes, segments: dice.between(10, 26) };
        let bad = dice.percent(60).then(|| dice.below(devices as u64) as usize);
        let node = Node::new(seed, shape).await;
        let store = node.open().await;
        let (mut chunks, mut fragments) = (Vec::new(), Vec::new());
        for _ in 0..CHUNKS {
            let chunk = chunk(dice.seed(), dice.between(1, 60_000) as usize);
            let stripe = encode(&store, &chunk).await;
            fragments.push((0..6).map(|fragment| stripe.fragment(fragment).to_vec()).collect());
            chunks.push(chunk);
        }
        let known = RefCell::new((0..CHUNKS).map(|_| Known::default()).collect());
        journal.note(format_args!("{shape:?}, bad: {bad:?}"));
        Self { dice, journal, node, shape, bad, chunks, fragments, known, epoch: Cell::new(0) }
    }

    /// Fragments of one chunk that the bad device may take with it, or not take.
    fn at_stake(&self) -> usize {
        let most = usize::from(FRAGMENTS).div_ceil(self.shape.devices);
        if self.bad.is_some() { most } else { 0 }
    }

    fn share(&self) -> Vec<u8> {
        let count = self.dice.between(1, u64::from(FRAGMENTS)) as usize;
        self.dice.sample(count, usize::from(FRAGMENTS)).into_iter().map(|fragment| fragment as u8).collect()
    }

    /// Sends or puts some fragments.
    async fn write(&self, store: &Store<SimDisk>, number: usize, share: &[u8], lent: bool, piece: usize) {
        let stripe: Stripe = encode(store, &self.chunks[number]).await;
        let removals = {
            let known = &mut self.known.borrow_mut()[number];
            known.possible.extend(share);
            known.writing += 1;
            known.removals
        };
        let stored = match lent {
            true => store.put_fragments(&stripe, share).await,
            false => send(store, &stripe, share, piece).await,
        };
        note!(self, "write {number} {share:?}: {stored:?}");
        let known = &mut self.known.borrow_mut()[number];
        known.writing -= 1;
        match stored {
            Ok(stored) => {
                assert!(!stored.is_empty() && stored.iter().all(|fragment| share.contains(fragment)), "{stored:?}");
                if known.removals == removals {
                    known.promised.extend(stored);
                }
            }
            Err(StoreError::Full | StoreError::NotFound(_)) => {}
            // The others hold their part of the chunk already, and no device takes a second one for one that failed.
            Err(StoreError::Unavailable { .. }) => {
                let failed = store.status().devices.iter().any(|device| device.state == DeviceState::Failed);
                assert!(failed && self.bad.is_some(), "write {number} {share:?}: all devices work");
            }
            Err(error) => panic!("write {number} {share:?}: {error}"),
        }
    }

    /// A write whose caller goes away.
    async fn abandon(&self, store: &Store<SimDisk>, number: usize, share: &[u8], polls: u64) {
        let mut work = Box::pin(self.write(store, number, share, polls.is_multiple_of(2), 9_000));
        for _ in 0..polls {
            if futures_util::poll!(&mut work).is_ready() {
                return;
            }
            tokio::task::yield_now().await;
        }
        note!(self, "write {number} {share:?} is left alone after {polls}");
    }

    async fn read(&self, store: &Store<SimDisk>, number: usize, fragment: u8, cut: u64) {
        let expected = &self.fragments[number][usize::from(fragment)];
        let start = cut as usize % expected.len();
        let range = start..expected.len().min(start + 1 + (cut >> 32) as usize % 20_000);
        let before = {
            let known = &self.known.borrow()[number];
            (known.removals, known.promised.contains(&fragment), known.possible.contains(&fragment))
        };
        let read =
            store.read_fragment(self.chunks[number].0, store.geometry(), usize::from(fragment), range.clone()).await;
        let known = &self.known.borrow()[number];
        match read {
            Ok(bytes) => {
                assert!(bytes[..] == expected[range], "fragment {fragment} of {number} is wrong");
                assert!(before.2 || known.possible.contains(&fragment), "fragment {fragment} of {number} was removed");
            }
            Err(StoreError::NotFound(_)) => {
                let kept = before.1 && before.0 == known.removals && self.bad.is_none();
                assert!(!kept, "fragment {fragment} of {number} is gone");
            }
            Err(error) => panic!("fragment {fragment} of {number}: {error}"),
        }
    }

    fn removed(&self, number: usize, fragments: &[u8]) {
        let known = &mut self.known.borrow_mut()[number];
        known.removals += 1;
        for fragment in fragments {
            known.promised.remove(fragment);
            if known.writing == 0 {
                known.possible.remove(fragment);
            }
        }
    }

    fn drop_some(&self, store: &Store<SimDisk>, number: usize, share: &[u8]) {
        let dropped = store.drop_fragments(self.chunks[number].0, store.geometry(), share);
        note!(self, "drop {number} {share:?}: {dropped}");
        if dropped > 0 {
            self.removed(number, share);
        }
    }

    fn delete(&self, store: &Store<SimDisk>, percent: u64) {
        self.epoch.set(self.epoch.get() + 1);
        store.set_gc_epoch(self.epoch.get());
        for (number, (id, _)) in self.chunks.iter().enumerate() {
            if self.dice.percent(percent) && store.delete(&[*id], self.epoch.get()) > 0 {
                note!(self, "delete {number}");
                self.removed(number, &[0, 1, 2, 3, 4, 5]);
            }
        }
    }

    /// What the store says that it has is what it was given, and all of that.
    fn look(&self, store: &Store<SimDisk>) {
        let ids: Vec<ChunkId> = self.chunks.iter().map(|chunk| chunk.0).collect();
        let known = self.known.borrow();
        let mut fragments = 0;
        for (number, (held, known)) in store.fragments(&ids, self.dice.percent(20)).into_iter().zip(&*known).enumerate()
        {
            let held: BTreeSet<u8> = held.into_iter().flat_map(|held| held.fragments).collect();
            fragments += held.len() as u64;
            assert!(held.is_subset(&known.possible), "{number}: {held:?} of {:?}", known.possible);
            let lost: Vec<_> = known.promised.difference(&held).collect();
            assert!(lost.len() <= self.at_stake(), "{number}: {lost:?} are gone");
        }
        assert_eq!(fragments, store.status().fragments);
        let (walked, end) = store.walk(Default::default(), 1000);
        let walked: BTreeMap<_, _> = walked.into_iter().collect();
        assert!(end.is_none() && walked.len() as u64 == store.status().chunks);
    }

    async fn step(&self, store: &Store<SimDisk>, kind: u64) {
        let (dice, number) = (&self.dice, self.dice.below(CHUNKS) as usize);
        match kind {
            0..=7 => {
                let (share, lent, piece) = (self.share(), dice.percent(50), dice.between(1, 50_000) as usize);
                self.write(store, number, &share, lent, piece.max(500)).await;
            }
            8 => {
                let (share, polls) = (self.share(), dice.below(30));
                self.abandon(store, number, &share, polls).await;
            }
            9..=13 => {
                let (fragment, cut) = (dice.below(u64::from(FRAGMENTS)) as u8, dice.seed());
                self.read(store, number, fragment, cut).await;
            }
            14 => self.drop_some(store, number, &self.share()),
            15 => self.delete(store, self.dice.pick(&[0, 30, 100])),
            16..=17 => drop(store.compact_step().await.expect("compaction goes on")),
            18 => self.look(store),
            _ => self.harm(),
        }
    }

    fn harm(&self) {
        let Some(bad) = self.bad else { return };
        let disk = self.node.disks.borrow()[bad].clone();
        let (operation, fault) = self.dice.pick(&[
            (Operation::Read, Fault::Flip { bits: 30 }),
            (Operation::Read, Fault::Fail { errno: 5 }),
            (Operation::Write, Fault::Fail { errno: 5 }),
            (Operation::Write, Fault::Full),
            (Operation::Write, Fault::Lose),
            (Operation::Write, Fault::Flip { bits: 9 }),
            (Operation::Sync, Fault::Fail { errno: 5 }),
            (Operation::Sync, Fault::Lose),
        ]);
        note!(self, "{operation:?} on device {bad}: {fault:?}");
        disk.inject(operation, self.dice.below(6), fault);
        if self.dice.percent(20) {
            disk.set_faults(SimFaults { read_flips_ppm: 200_000, ..SimFaults::default() });
        }
    }

    async fn life(&self) {
        let store = self.node.open().await;
        self.known.borrow_mut().iter_mut().for_each(|known| known.writing = 0);
        self.epoch.set(self.epoch.get() + 2);
        store.set_gc_epoch(self.epoch.get());
        self.look(&store);
        for _ in 0..self.dice.between(1, 8) {
            let kinds: Vec<u64> = (0..self.dice.between(1, 10)).map(|_| self.dice.below(20)).collect();
            join_all(kinds.into_iter().map(|kind| self.step(&store, kind))).await;
        }
        if self.dice.percent(60) {
            let kinds = [self.dice.below(18), self.dice.below(18), 0, 16];
            let mut last = Box::pin(join_all(kinds.into_iter().map(|kind| self.step(&store, kind))));
            for _ in 0..self.dice.below(60) {
                if futures_util::poll!(&mut last).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        } else {
            self.look(&store);
        }
    }

    /// The power goes, or the process. What was dropped or deleted may be back.
    fn end_life(&self) {
        let power_cut = self.dice.percent(60);
        let next = |disk: &SimDisk| if power_cut { disk.crash() } else { disk.kill() };
        let next: Vec<SimDisk> = self.node.disks.borrow().iter().map(next).collect();
        // A device that can't be opened at all is another test's matter.
        next.iter().for_each(SimDisk::clear_faults);
        self.node.disks.replace(next);
        note!(self, "the end; power cut: {power_cut}");
        for known in self.known.borrow_mut().iter_mut() {
            known.possible.extend(0..FRAGMENTS);
        }
    }

    /// Everything is read, then everything is deleted.
    async fn last_judgement(&self) {
        self.node.disks.borrow().iter().for_each(SimDisk::clear_faults);
        let store = self.node.open().await;
        self.look(&store);
        for (number, (id, _)) in self.chunks.iter().enumerate() {
            let promised = self.known.borrow()[number].promised.clone();
            let mut lost = 0;
            for fragment in promised {
                let expected = &self.fragments[number][usize::from(fragment)];
                match store.read_fragment(*id, store.geometry(), usize::from(fragment), 0..expected.len()).await {
                    Ok(bytes) => assert!(bytes[..] == expected[..], "fragment {fragment} of {number} is wrong"),
                    Err(_) => lost += 1,
                }
            }
            assert!(lost <= self.at_stake(), "{lost} fragments of {number} are gone");
        }
        let ids: Vec<ChunkId> = self.chunks.iter().map(|chunk| chunk.0).collect();
        store.release(&ids);
        for _ in 0..100 {
            if !store.compact_step().await.expect("compaction goes on").more {
                break;
            }
        }
        let status = store.status();
        assert_eq!((status.chunks, status.fragments, status.owed_fragments), (0, 0, 0));
        for (device, status) in status.devices.iter().enumerate().filter(|(device, _)| Some(*device) != self.bad) {
            let used = status.used_bytes / u64::from(self.shape.segment_bytes);
            assert!(used <= 1, "all is deleted and {used} segments of device {device} are in use");
        }
    }
}

#[test]
fn fragments_are_kept() {
    let name = "-p farside --test store_fragment_histories fragments_are_kept";
    histories::run(name, HISTORIES, |seed, journal| {
        let history = run(History::new(seed, journal));
        for _ in 0..history.dice.between(1, 5) {
            run(history.life());
            history.end_life();
        }
        run(history.last_judgement());
        assert_eq!(history.node.pool.free_bytes(), history.node.pool.total_bytes(), "every buffer comes back");
    });
}
