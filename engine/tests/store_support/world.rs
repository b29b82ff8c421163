//! A store over the bays, and everything it is asked, each answer held against the model.

use super::bays::{Bay, Bays, NODE, SITE, Seat};
use super::model::{Chunk, Devices, Standing};
use super::plan::{Mood, Plan};
use farside::store::{CompactStep, DeviceState, DeviceStatus, Store, StoreError, open_devices};
use farside_codec::delta::ChunkReceipt;
use farside_codec::ids::ChunkId;
use farside_io::pool::Pool;
use farside_io::sim::SimDisk;
use farside_io::sim::histories::{Dice, Journal};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A put whose device fails under it turns to others so many times. Where more fail than that it may be refused.
const PLACEMENT_RETRIES: usize = farside::store::limits::MAX_PLACEMENT_ROUNDS - 1;

/// What outlives a store: devices, model, and the choices of the history.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) journal: Rc<Journal>,
    pub(crate) bays: Bays,
    pub(crate) pool: Pool,
    pub(crate) chunks: RefCell<Vec<Chunk>>,
    /// Counts what happens; the time of the model.
    now: Cell<u64>,
    /// GC epoch of this life; 0: not yet known to the store.
    pub(crate) epoch: Cell<u64>,
    /// System pieces stored since space was last given back, which use the reserve up.
    pub(crate) system_pieces: Cell<u64>,
    /// Space was short once.
    pub(crate) was_tight: Cell<bool>,
    /// Steps of compaction begun and ended, which free space while others ask for it.
    compactions: Cell<u64>,
}

macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.journal.note(format_args!($($what)*)) };
}
pub(crate) use note;

/// Shortens an id for the journal.
pub(crate) fn short(id: &ChunkId) -> String {
    format!("{:02x}{:02x}{:02x}", id.0[0], id.0[1], id.0[2])
}

impl World {
    pub(crate) fn new(plan: Plan, dice: Dice, journal: Rc<Journal>, pool: Pool) -> Self {
        let bays = Bays::new(&plan, &dice);
        let (chunks, system_pieces) = (RefCell::default(), Cell::new(0));
        Self {
            plan,
            dice,
            journal,
            bays,
            pool,
            chunks,
            now: Cell::new(1),
            epoch: Cell::new(0),
            system_pieces,
            compactions: Cell::new(0),
            was_tight: Cell::new(false),
        }
    }

    /// The next moment.
    pub(crate) fn tick(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    /// Opens the store as a start does. `None`: no device could be used, which only bad ones excuse.
    pub(crate) async fn open(&self) -> Option<Store<SimDisk>> {
        self.bays.bays.iter().for_each(Bay::opening);
        let candidates = self.bays.candidates(&self.dice);
        let set = match open_devices(&self.pool, candidates, SITE, NODE).await {
            Ok(set) => set,
            Err(error) => {
                note!(self, "no device: {error}");
                let good = self.bays.bays.iter().filter(|bay| !bay.bad.get()).count();
                assert_eq!(good, 0, "a good device was not taken: {error}");
                return None;
            }
        };
        assert_eq!(set.geometry, self.plan.geometry, "devices say how chunks are cut");
        let store = Store::open(&set, 0, self.pool.clone()).await.expect("a pool large enough");
        let now = self.tick();
        self.epoch.set(0);
        self.system_pieces.set(0);
        let status = store.status();
        for (index, (bay, device)) in self.bays.bays.iter().zip(&status.devices).enumerate() {
            bay.opened(now, device.state);
            let excused = bay.bad.get() || bay.seat.get() == Seat::Missing;
            assert!(excused || device.state == DeviceState::Ok, "good device {index} is {}", device.state);
        }
        let working = !self.bays.known_out();
        let back = |chunk: &Chunk| working & self.bays.worked_after(chunk.born);
        self.chunks.borrow_mut().iter_mut().for_each(|chunk| chunk.restarted(back(chunk)));
        note!(self, "open: {} chunks, {} fragments, {:?}", status.chunks, status.fragments, store.status().recovery);
        if self.plan.mood == Mood::Fair {
            assert_eq!(status.recovery.damaged_records, 0, "a torn tail is no damage");
            assert_eq!(status.recovery.contradicting_records, 0);
        }
        Some(store)
    }

    /// The chunk under this number, as it is now.
    fn standing(&self, number: usize) -> (Standing, u64) {
        let chunks = self.chunks.borrow();
        (chunks[number].standing, chunks[number].deletions)
    }

    /// Whether the store must be able to read the chunk now.
    pub(crate) fn is_bound(&self, number: usize) -> bool {
        let chunk = &self.chunks.borrow()[number];
        chunk.is_bound(self.bays.lost(chunk.since))
    }

    /// Notes how the devices are, and checks that no good one was given up.
    pub(crate) fn look(&self, store: &Store<SimDisk>) {
        store.take_events().iter().for_each(|event| note!(self, "event: {event}"));
        let status = store.status();
        for (index, (bay, device)) in self.bays.bays.iter().zip(&status.devices).enumerate() {
            bay.seen(self.now.get(), device.state);
            let excused = bay.bad.get() && (bay.told_to_fail.get() || bay.gone.get());
            let unchanged = device.state != DeviceState::Failed;
            assert!(excused || unchanged, "device {index} is {} for no reason", device.state);
            assert!(device.live_bytes <= device.used_bytes && device.used_bytes <= device.bytes, "{device:?}");
        }
        let working = status.devices.iter().filter(|device| device.state == DeviceState::Ok);
        assert_eq!(working.map(|device| device.fragments).sum::<u64>(), status.fragments);
        self.was_tight.set(self.was_tight.get() || !self.has_space(store));
        let expected = status.chunks * self.plan.geometry.total() as u64;
        assert_eq!(status.fragments + status.owed_fragments, expected, "{status:?}");
        if self.plan.mood == Mood::Fair {
            let counters = status.counters;
            let wrong = counters.damaged_fragments + counters.read_errors + counters.write_errors;
            assert_eq!(wrong, 0, "devices without faults: {counters:?}");
            assert_eq!(counters.transient_mismatches, 0, "{counters:?}");
        }
    }

    /// Devices that the store may not count on now.
    fn out(&self, store: &Store<SimDisk>) -> Devices {
        self.look(store);
        self.bays.known_out()
    }

    /// Holds an acknowledgement against what it promises.
    fn acknowledge(&self, number: usize, receipt: &ChunkReceipt, absent: Devices, (epoch, deletions): (u64, u64)) {
        let geometry = self.plan.geometry;
        assert_eq!(usize::from(receipt.data_fragments), geometry.data());
        assert_eq!(usize::from(receipt.parity_fragments), geometry.parity());
        let durable = usize::from(receipt.durable_fragments);
        assert!((geometry.data()..=geometry.total()).contains(&durable), "{receipt:?}");
        let working = self.plan.devices - absent.count_ones() as usize;
        let most = geometry.data() + self.losses_survived(working);
        assert!(durable <= most, "{receipt:?} counts more than {working} devices can make good");
        let epochs = epoch..=self.epoch.get();
        assert!(epochs.contains(&receipt.gc_epoch), "{receipt:?} is not of {epochs:?}, when the chunk was touched");
        let chunk = &mut self.chunks.borrow_mut()[number];
        // Deleted between the answer and our hearing it: the receipt's epoch is too old to be used.
        if chunk.deletions == deletions {
            chunk.acknowledged(receipt, absent);
        }
    }

    /// Puts a chunk in pieces. Half of the callers that may go away do.
    pub(crate) async fn put(&self, store: &Store<SimDisk>, number: usize, system: bool, cut: u64) {
        let (id, data) = {
            let chunk = &self.chunks.borrow()[number];
            (chunk.id, chunk.data.clone())
        };
        let (before, epoch) = (self.out(store), self.epoch.get());
        let room = (self.has_space(store), self.compactions.get());
        let begun = if system { store.begin_reserved(id, data.len()).await } else { store.begin(id, data.len()).await };
        let mut writer = match begun {
            Ok(writer) => writer,
            Err(error) => return self.refused(store, number, room, &error),
        };
        let was_present = writer.is_present();
        let piece = (cut as usize % data.len()).max(data.len() / 7 + 1);
        for piece in data.chunks(piece) {
            writer.append(piece).expect("as many bytes as announced");
        }
        let (now, (_, deletions)) = (self.tick(), self.standing(number));
        self.chunks.borrow_mut()[number].offered(now);
        let committed = writer.commit().await;
        self.chunks.borrow_mut()[number].puts -= 1;
        match committed {
            Ok(receipt) => {
                let absent = before & self.out(store);
                note!(self, "put {} ({} bytes): {receipt:?}, out {absent:b}", short(&id), data.len());
                self.system_pieces.set(self.system_pieces.get() + u64::from(system));
                self.acknowledge(number, &receipt, absent, (epoch, deletions));
            }
            // Deleted since it was found present; its bytes are to be sent again.
            Err(StoreError::NotFound(_)) if was_present => note!(self, "put {}: gone meanwhile", short(&id)),
            Err(error) => self.refused(store, number, room, &error),
        }
    }

    /// Whether every device that works has free space for any chunk beside what clients must leave alone.
    pub(crate) fn has_space(&self, store: &Store<SimDisk>) -> bool {
        let segment_bytes = u64::from(self.plan.segment_bytes);
        let most = self.plan.geometry.total().div_ceil(self.plan.devices) as u64;
        let free = |device: &DeviceStatus| (device.bytes - device.used_bytes) / segment_bytes;
        store.status().devices.iter().all(|device| device.state != DeviceState::Ok || free(device) >= 2 + most)
    }

    /// A put may be refused for want of space or devices, and for nothing else. `room`: whether there was space when it
    /// began, and the steps of compaction so far.
    fn refused(&self, store: &Store<SimDisk>, number: usize, room: (bool, u64), error: &StoreError) {
        note!(self, "put {}: {error}", short(&self.chunks.borrow()[number].id));
        self.look(store);
        let status = store.status();
        match error {
            StoreError::Full => {
                let told = self.bays.bays.iter().any(|bay| bay.told_full.get());
                let had_space = room == (self.has_space(store), self.compactions.get()) && room.0;
                assert!(told || !had_space, "refused for want of space, and there is some: {status:?}");
            }
            StoreError::Unavailable { fragments, needed } => {
                assert!(fragments < needed);
                let failing = self.bays.bays.iter().filter(|bay| bay.told_to_fail.get()).count();
                assert!(
                    self.placeable(self.bays.sound()) < *needed || failing > PLACEMENT_RETRIES,
                    "refused for want of devices, and enough work: {status:?}"
                );
            }
            other => panic!("a put was refused: {other}"),
        }
    }

    /// Losses that a chunk survives at best whose fragments all lie on so many devices: spread evenly.
    fn losses_survived(&self, devices: usize) -> usize {
        let (data, total) = (self.plan.geometry.data(), self.plan.geometry.total());
        let of_first = |lost: usize| lost * (total / devices.max(1)) + lost.min(total % devices.max(1));
        (0..devices).take_while(|lost| total - of_first(lost + 1) >= data).count()
    }

    /// Fragments of a chunk that a put places on so many devices.
    fn placeable(&self, devices: usize) -> usize {
        let total = self.plan.geometry.total();
        total.min(devices * total.div_ceil(self.plan.devices))
    }

    /// Reads a range (`length` 0: the rest) and compares it.
    pub(crate) async fn get(&self, store: &Store<SimDisk>, number: usize, offset: u32, length: u32) {
        let (id, data) = {
            let chunk = &self.chunks.borrow()[number];
            (chunk.id, chunk.data.clone())
        };
        self.look(store);
        let (before, bound) = (self.standing(number), self.is_bound(number));
        let answer = store.get(id, offset, length).await;
        self.look(store);
        let after = self.standing(number);
        let what = format!("get {} {offset}+{length} of {}", short(&id), data.len());
        match answer {
            Ok(read) => {
                let end = if length == 0 { data.len() } else { (offset + length) as usize };
                let got = read.pieces.concat();
                assert_eq!(read.sealed_bytes as usize, data.len(), "{what}");
                assert!(got == data[offset as usize..end], "{what}: wrong bytes");
                assert!(before.0 != Standing::New || after.0 != Standing::New, "{what}: never put, and read");
                assert!(before != after || before.0 != Standing::Deleted, "{what}: deleted, and read");
                note!(self, "{what}: good");
            }
            Err(error) => {
                note!(self, "{what}: {error} ({before:?}, bound {bound})");
                assert!(matches!(error, StoreError::NotFound(_) | StoreError::Corrupt(_)), "{what}: {error}");
                let kept = bound && self.is_bound(number) && before.1 == after.1;
                assert!(
                    !kept,
                    "{what}: {error}, though {before:?} and lost are {:b}",
                    self.bays.lost(self.chunks.borrow()[number].since)
                );
            }
        }
    }

    /// Asks for chunks, and takes what is claimed at its word.
    pub(crate) fn have(&self, store: &Store<SimDisk>, numbers: &[usize]) {
        let out = self.out(store);
        let ids: Vec<ChunkId> = numbers.iter().map(|number| self.chunks.borrow()[*number].id).collect();
        let answers = store.have(&ids);
        for (number, answer) in numbers.iter().zip(&answers) {
            let (standing, deletions) = self.standing(*number);
            let id = short(&self.chunks.borrow()[*number].id);
            match (answer, standing) {
                (Some(receipt), Standing::New | Standing::Deleted) => {
                    panic!("{id} is claimed ({receipt:?}) and is {standing:?}")
                }
                (Some(receipt), _) => {
                    note!(self, "have {id}: {receipt:?}");
                    self.acknowledge(*number, receipt, out, (self.epoch.get(), deletions));
                }
                (None, Standing::Promised { .. }) => {
                    let lost = self.bays.lost(self.chunks.borrow()[*number].since);
                    assert!(lost != 0, "{id} is denied, and is {standing:?}");
                }
                (None, _) => {}
            }
        }
    }

    /// Moves the GC epoch on.
    pub(crate) fn next_epoch(&self, store: &Store<SimDisk>, by: u64) {
        let (named, next) = store.collectable(u64::MAX, Default::default(), 1000);
        assert!(
            self.epoch.get() > 0 || named.is_empty() && next.is_none(),
            "nothing is collectable before an epoch is known"
        );
        let first = self.epoch.get() == 0;
        self.epoch.set(self.epoch.get() + by + u64::from(first));
        store.set_gc_epoch(self.epoch.get());
        if first {
            self.chunks.borrow_mut().iter_mut().for_each(|chunk| chunk.touched = self.epoch.get());
        }
    }

    /// Deletes a share of what GC may delete at `barrier`, or of everything, however lately it was touched.
    pub(crate) fn delete(&self, store: &Store<SimDisk>, barrier: Option<u64>, share: u64) {
        let count = self.chunks.borrow().len();
        let numbers: Vec<usize> = (0..count).filter(|_| self.dice.percent(share)).collect();
        self.delete_these(store, barrier, &numbers);
    }

    /// The same for these chunks.
    pub(crate) fn delete_these(&self, store: &Store<SimDisk>, barrier: Option<u64>, numbers: &[usize]) {
        let (mut named, mut cursor) = (Vec::new(), Some(Default::default()));
        while let Some(at) = cursor.filter(|_| barrier.is_some()) {
            let (more, next) = store.collectable(barrier.unwrap_or(0), at, 5);
            named.extend(more);
            cursor = next;
        }
        for number in numbers {
            let (id, touched) = {
                let chunk = &self.chunks.borrow()[*number];
                (chunk.id, chunk.touched)
            };
            let removed = match barrier {
                Some(barrier) => store.delete(&[id], barrier),
                None => store.release(&[id]),
            };
            if removed > 0 {
                note!(self, "deleted {}", short(&id));
                let old = barrier.is_none_or(|barrier| touched + 2 <= barrier);
                assert!(old, "{} was touched in {touched} and went at {barrier:?}", short(&id));
                assert!(barrier.is_none() || named.contains(&id), "{} went and was not collectable", short(&id));
                self.chunks.borrow_mut()[*number].deleted();
            }
        }
    }

    /// One step of compaction.
    pub(crate) async fn compact(&self, store: &Store<SimDisk>) -> CompactStep {
        self.compactions.set(self.compactions.get() + 1);
        let step = store.compact_step().await.expect("compaction goes on");
        self.compactions.set(self.compactions.get() + 1);
        self.look(store);
        note!(self, "compact: {step:?}");
        self.system_pieces.set(if step.freed_segments > 0 { 0 } else { self.system_pieces.get() });
        step
    }
}
