//! How a history ends: every promise is called in, with as many devices lost as it allows; then everything is deleted
//! and the space must come back.

use super::bays::{Bay, Seat};
use super::history::live;
use super::model::{Chunk, Standing};
use super::plan::Mood;
use super::world::{World, note};
use farside::store::{DeviceState, Store};
use farside_io::sim::SimDisk;

impl World {
    pub(crate) fn last_judgement(&self, runtime: &tokio::runtime::Runtime) {
        let calm = |bay: &Bay| {
            bay.calm();
            bay.seat.set(Seat::Here);
        };
        self.bays.bays.iter().for_each(calm);
        if self.dice.percent(50) {
            live(runtime, self.with_losses());
            self.bays.bays.iter().for_each(|bay| bay.seat.set(Seat::Here));
        }
        live(runtime, self.with_all());
    }

    /// Devices beside the bad ones go away, up to what every full receipt promises to survive.
    async fn with_losses(&self) {
        let mut may_go = self.plan.survivable.saturating_sub(self.bays.bad().len());
        for index in self.dice.sample(self.plan.devices, self.plan.devices) {
            let bay = &self.bays.bays[index];
            // A bad one may be lost as well, and costs nothing more.
            if bay.bad.get() || may_go > 0 {
                may_go -= usize::from(!bay.bad.get());
                bay.seat.set(Seat::Missing);
                note!(self, "device {index} is lost");
            }
        }
        let Some(store) = self.open().await else { return self.end() };
        self.read_all(&store).await;
        self.close(store);
    }

    async fn read_all(&self, store: &Store<SimDisk>) {
        let count = self.chunks.borrow().len();
        for number in 0..count {
            self.get(store, number, 0, 0).await;
        }
        self.have(store, &(0..count).collect::<Vec<_>>());
    }

    /// All devices are back that can come back.
    async fn with_all(&self) {
        let Some(store) = self.open().await else { return self.end() };
        self.read_all(&store).await;
        self.check_owed(&store);
        self.squeeze(&store).await;
        self.give_back(&store).await;
        self.close(store);
    }

    /// Where devices had no faults and always had space, only what was never acknowledged can be owed.
    fn check_owed(&self, store: &Store<SimDisk>) {
        let chunks = self.chunks.borrow();
        let unsure = chunks.iter().filter(|chunk| !matches!(chunk.standing, Standing::Promised { .. })).count();
        let status = store.status();
        let one_each = self.plan.devices >= self.plan.geometry.total();
        if self.plan.mood == Mood::Fair && one_each && !self.was_tight.get() {
            // A promise that was made of what a cut-off put had left may be of less than everything.
            let total = self.plan.geometry.total();
            let less = |chunk: &&Chunk| matches!(chunk.standing, Standing::Promised { losses, .. } if losses < self.plan.survivable);
            let owing = unsure + chunks.iter().filter(less).count();
            assert!(status.owed_fragments <= (owing * total) as u64, "{status:?}");
        }
    }

    /// Compacts until there is nothing to do.
    async fn compact_all(&self, store: &Store<SimDisk>) {
        let mut idle = 0;
        for _ in 0..400 {
            let step = self.compact(store).await;
            if !step.more {
                return;
            }
            idle = if step.moved_bytes + step.freed_segments > 0 { 0 } else { idle + 1 };
            if idle > 3 {
                // A driver takes that for the end of a round; only what is damaged or out of space may stay so.
                return;
            }
        }
        panic!("compaction comes to no end: {:?}", store.status());
    }

    /// Deletes a part or nothing, and checks that what is left takes no more space than it needs.
    async fn squeeze(&self, store: &Store<SimDisk>) {
        self.next_epoch(store, 1);
        self.next_epoch(store, 2);
        self.delete(store, Some(self.epoch.get()), self.dice.pick(&[0, 0, 50, 90]));
        self.compact_all(store).await;
        let status = store.status();
        let segment = u64::from(self.plan.segment_bytes);
        for (bay, device) in self.bays.bays.iter().zip(&status.devices) {
            if bay.bad.get() || device.state != DeviceState::Ok {
                continue;
            }
            let (used, live) = (device.used_bytes / segment, device.live_bytes.div_ceil(segment));
            // Records that are just too large for what is left of a segment leave half of it empty; compaction leaves
            // a quarter; one segment is active.
            assert!(used <= live * 8 / 3 + 1, "{live} segments' worth of records in {used}: {status:?}");
        }
        self.read_all(store).await;
    }

    /// Deletes everything: the space comes back, and a chunk fits again.
    async fn give_back(&self, store: &Store<SimDisk>) {
        // Reading touched nothing, but asking did.
        self.next_epoch(store, 2);
        self.delete(store, Some(self.epoch.get()), 100);
        self.compact_all(store).await;
        let status = store.status();
        assert_eq!(
            (status.chunks, status.fragments, status.owed_fragments, status.owed_bytes),
            (0, 0, 0, 0),
            "{status:?}"
        );
        for (bay, device) in self.bays.bays.iter().zip(&status.devices) {
            if device.state != DeviceState::Ok {
                continue;
            }
            assert_eq!((device.live_bytes, device.fragments), (0, 0), "{status:?}");
            let used = device.used_bytes / u64::from(self.plan.segment_bytes);
            assert!(used <= 1 || bay.bad.get(), "all is deleted and {used} segments are in use: {status:?}");
        }
        let working = status.devices.iter().filter(|device| device.state == DeviceState::Ok).count();
        if working == self.plan.devices {
            assert!(status.writable, "{status:?}");
            let seed = self.dice.seed();
            self.chunks.borrow_mut().push(Chunk::new(seed, store.largest_chunk_bytes().min(50_000)));
            let number = self.chunks.borrow().len() - 1;
            self.put(store, number, false, seed).await;
            let kept = matches!(self.chunks.borrow()[number].standing, Standing::Promised { .. });
            assert!(kept, "an empty store takes a chunk");
            self.get(store, number, 0, 0).await;
        }
    }
}
