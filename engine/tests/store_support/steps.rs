//! What happens while a store is open: several things at once, each drawn before any of them begins.

use super::bays::{draw_fault, draw_rates, draw_wait};
use super::model::{Chunk, Standing};
use super::world::{World, note, short};
use farside::store::{Store, StoreError};
use farside_codec::ids::ChunkId;
use farside_io::sim::{SimDisk, SimFaults};
use futures_util::future::{LocalBoxFuture, join, join_all};
use std::time::Duration;

/// Chunks of one history: few enough that they meet one another.
const MAX_CHUNKS: u64 = 48;
/// Steps of compaction after which most of what was deleted has given its space back.
const CLEARING_STEPS: u32 = 20;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Put {
        chunk: usize,
        system: bool,
        cut: u64,
    },
    /// A put whose caller goes away after so many polls.
    Abandon {
        chunk: usize,
        polls: u64,
    },
    /// A put in the middle of which GC wants the chunk, of which a part may have been here before.
    Contend {
        chunk: usize,
        cut: u64,
        polls: u64,
    },
    /// A put that says one thing and sends another.
    Lie {
        chunk: usize,
        seed: u64,
    },
    Get {
        chunk: usize,
        offset: u32,
        length: u32,
    },
    GetPastEnd {
        chunk: usize,
    },
    Have(Vec<usize>),
    Epoch(u64),
    Delete {
        barrier: Option<u64>,
        share: u64,
    },
    Compact,
    Harm(usize),
    Wait(usize),
    Stall {
        device: usize,
        millis: u64,
    },
}

impl World {
    /// A chunk that is known, or a new one.
    fn draw_chunk(&self, new_percent: u64, largest: usize) -> usize {
        let count = self.chunks.borrow().len() as u64;
        if count < MAX_CHUNKS && (count == 0 || self.dice.percent(new_percent)) {
            let chunk = Chunk::new(self.dice.seed(), self.draw_length(largest));
            // The shortest chunks are soon all known.
            let same = self.chunks.borrow().iter().position(|known| known.id == chunk.id);
            return same.unwrap_or_else(|| {
                self.chunks.borrow_mut().push(chunk);
                count as usize
            });
        }
        self.dice.below(count) as usize
    }

    /// A chunk to put. Of those that are known, rather one of which a part may be here: a put has to complete it.
    fn draw_offered(&self, store: &Store<SimDisk>) -> usize {
        let is_part = |chunk: &Chunk| chunk.standing == Standing::Unknown && store.sealed_bytes(&chunk.id).is_some();
        let parts: Vec<usize> = {
            let chunks = self.chunks.borrow();
            (0..chunks.len()).filter(|number| is_part(&chunks[*number])).collect()
        };
        match parts.is_empty() || self.dice.percent(60) {
            true => self.draw_chunk(75, largest(store)),
            false => self.dice.pick(&parts),
        }
    }

    fn draw_length(&self, largest: usize) -> usize {
        if let Some(length) = self.plan.one_length {
            return length.min(largest);
        }
        let most = match self.dice.below(10) {
            0 => 100,
            1..=4 => 16 << 10,
            5..=7 => 64 << 10,
            _ => largest as u64,
        };
        let most = most.min(largest as u64);
        let length = self.dice.between(1, most);
        // Lengths around blocks are where mistakes hide.
        let near = self.dice.percent(30);
        let edge = (length / 4096 * 4096).saturating_add(self.dice.below(3)).saturating_sub(1);
        (if near { edge } else { length }).clamp(1, most) as usize
    }

    fn draw_get(&self) -> Step {
        let chunk = self.draw_chunk(0, 1);
        let bytes = self.chunks.borrow()[chunk].data.len() as u64;
        if self.dice.percent(40) {
            return Step::Get { chunk, offset: 0, length: 0 };
        }
        let offset = self.dice.below(bytes);
        let length = self.dice.between(1, bytes - offset);
        Step::Get { chunk, offset: offset as u32, length: length as u32 }
    }

    fn draw_step(&self, store: &Store<SimDisk>) -> Step {
        let dice = &self.dice;
        let bad = self.bays.bad();
        match dice.below(100) {
            0..=3 => Step::Contend { chunk: self.draw_offered(store), cut: dice.seed(), polls: dice.below(24) },
            4..=34 => {
                let chunk = self.draw_offered(store);
                Step::Put { chunk, system: dice.percent(8), cut: dice.seed() }
            }
            35..=36 => Step::Abandon { chunk: self.draw_offered(store), polls: dice.below(40) },
            37 => Step::Lie { chunk: self.draw_chunk(100, largest(store)), seed: dice.seed() },
            38..=58 => self.draw_get(),
            59 => Step::GetPastEnd { chunk: self.draw_chunk(0, 1) },
            60..=66 => {
                let count = self.chunks.borrow().len();
                Step::Have(dice.sample(5, count))
            }
            67..=71 => Step::Epoch(dice.between(1, 2)),
            72..=77 => {
                let barrier =
                    dice.percent(80).then(|| (self.epoch.get() + dice.below(3)).saturating_sub(dice.below(2)));
                Step::Delete { barrier, share: dice.pick(&[10, 30, 90]) }
            }
            78..=88 => Step::Compact,
            89..=93 if !bad.is_empty() => Step::Harm(dice.pick(&bad)),
            89..=96 => Step::Wait(dice.below(self.plan.devices as u64) as usize),
            _ => {
                let device = dice.below(self.plan.devices as u64) as usize;
                Step::Stall { device, millis: dice.between(1, 300) }
            }
        }
    }

    /// Several things at once.
    pub(crate) async fn burst(&self, store: &Store<SimDisk>) {
        if self.chunks.borrow().is_empty() {
            self.draw_chunk(100, largest(store));
        }
        let count = self.dice.pick(&[1, 2, 4, 8, 12]);
        let steps: Vec<Step> = (0..count).map(|_| self.draw_step(store)).collect();
        note!(self, "burst {steps:?}");
        // Some begin in the middle of the others: a deletion meets a put under way, an epoch ends within it.
        let latest = self.dice.pick(&[0, 0, 10, 40]);
        let late = |step| (self.dice.below(latest + 1), step);
        let steps: Vec<(u64, Step)> = steps.into_iter().map(late).collect();
        join_all(steps.into_iter().map(|(polls, step)| async move {
            others(polls).await;
            self.take(store, step).await;
        }))
        .await;
        self.look(store);
    }

    /// Nothing but puts, so that several records of a segment are on their way at once: where the power goes then, some of
    /// them leave holes in front of others.
    pub(crate) async fn rush(&self, store: &Store<SimDisk>) {
        let numbers: Vec<usize> = (0..self.dice.between(3, 8)).map(|_| self.draw_offered(store)).collect();
        note!(self, "rush {numbers:?}");
        join_all(numbers.into_iter().map(|number| self.put(store, number, false, 1))).await;
        self.look(store);
    }

    /// Deletes everything and gives all space back, down to a store in which nothing was ever put as far as it can tell.
    pub(crate) async fn clear(&self, store: &Store<SimDisk>) {
        note!(self, "everything goes");
        self.next_epoch(store, 1);
        self.next_epoch(store, 2);
        self.delete(store, Some(self.epoch.get()), 100);
        for _ in 0..CLEARING_STEPS {
            let step = self.compact(store).await;
            if !step.more {
                break;
            }
        }
        self.look(store);
    }

    fn take<'a>(&'a self, store: &'a Store<SimDisk>, step: Step) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            match step {
                Step::Put { chunk, system, cut } => self.put(store, chunk, system, cut).await,
                Step::Contend { chunk, cut, polls } => self.contend(store, chunk, cut, polls).await,
                Step::Abandon { chunk, polls } => drop(fused(self.put(store, chunk, false, 1), polls).await),
                Step::Lie { chunk, seed } => self.lie(store, chunk, seed).await,
                Step::Get { chunk, offset, length } => self.get(store, chunk, offset, length).await,
                Step::GetPastEnd { chunk } => self.get_past_end(store, chunk).await,
                Step::Have(chunks) => self.have(store, &chunks),
                Step::Epoch(by) => self.next_epoch(store, by),
                Step::Delete { barrier, share } => self.delete(store, barrier, share),
                Step::Compact => drop(self.compact(store).await),
                Step::Harm(device) => self.harm(device),
                Step::Wait(device) => {
                    let (operation, fault) = draw_wait(&self.dice);
                    self.bays.bays[device].inject(operation, self.dice.below(4), fault);
                }
                Step::Stall { device, millis } => {
                    let disk = self.bays.bays[device].disk();
                    disk.stall();
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    disk.release();
                }
            }
        })
    }

    /// Puts a chunk, and deletes it while that is under way: two barriers on, all that was touched so far may go.
    async fn contend(&self, store: &Store<SimDisk>, number: usize, cut: u64, polls: u64) {
        if self.epoch.get() == 0 {
            self.next_epoch(store, 1);
        }
        let delete = async {
            others(polls).await;
            self.delete_these(store, Some(self.epoch.get() + 2), &[number]);
        };
        join(self.put(store, number, false, cut), delete).await;
    }

    /// Something goes wrong with a bad device.
    fn harm(&self, device: usize) {
        let (bay, dice) = (&self.bays.bays[device], &self.dice);
        match dice.below(20) {
            0..=4 => {
                let rates = draw_rates(dice, self.plan.extra_yields);
                note!(self, "device {device}: {rates:?}");
                bay.set_rates(rates);
            }
            5..=8 => bay.set_rates(SimFaults { max_extra_yields: self.plan.extra_yields, ..SimFaults::default() }),
            9..=15 => {
                let (operation, fault) = draw_fault(dice, self.plan.device_bytes());
                let after = dice.below(6);
                note!(self, "device {device}: {fault:?} at {operation:?} {after}");
                bay.inject(operation, after, fault);
            }
            16..=17 => {
                note!(self, "device {device}: bits flip");
                bay.flip(&self.plan, dice);
            }
            18 => *bay.old_copy.borrow_mut() = Some(bay.disk().duplicate(dice.seed())),
            _ if dice.percent(20) => {
                note!(self, "device {device}: dies");
                bay.kill_forever();
            }
            _ => {}
        }
    }

    /// Announces a chunk and sends other bytes, or too many, or too few.
    async fn lie(&self, store: &Store<SimDisk>, number: usize, seed: u64) {
        let (id, mut data) = {
            let chunk = &self.chunks.borrow()[number];
            (chunk.id, chunk.data.to_vec())
        };
        let announced = data.len();
        let Ok(mut writer) = store.begin(id, announced).await else { return };
        if writer.is_present() {
            return;
        }
        let result = match seed % 3 {
            0 => {
                data[seed as usize % announced] ^= 1;
                writer.append(&data).expect("as many as announced");
                writer.commit().await.expect_err("other bytes")
            }
            1 => {
                writer.append(&data).expect("as many as announced");
                writer.append(&[1]).expect_err("one too many")
            }
            _ => {
                writer.append(&data[1..]).expect("fewer than announced");
                writer.commit().await.expect_err("one too few")
            }
        };
        assert!(matches!(result, StoreError::Mismatch(_) | StoreError::Length { .. }), "{result}");
        note!(self, "lied about {}: {result}", short(&id));
    }

    async fn get_past_end(&self, store: &Store<SimDisk>, number: usize) {
        let (id, bytes) = {
            let chunk = &self.chunks.borrow()[number];
            (chunk.id, chunk.data.len() as u32)
        };
        let error = store.get(id, 1, bytes).await.expect_err("a range past the end");
        assert!(matches!(error, StoreError::Range { .. } | StoreError::NotFound(_)), "{error}");
        let nobody = ChunkId([0xEE; 32]);
        assert_eq!(store.get(nobody, 0, 0).await.expect_err("never put"), StoreError::NotFound(nobody));
    }
}

/// Chunks of a history are no longer than this.
fn largest(store: &Store<SimDisk>) -> usize {
    store.largest_chunk_bytes().min(400 << 10)
}

/// Lets others go on for a while.
async fn others(polls: u64) {
    for _ in 0..polls {
        tokio::task::yield_now().await;
    }
}

/// Polls `work` to its end, or so many times: then the fuse has burnt, and `None`.
pub(crate) async fn fused<T>(work: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(context) {
            return std::task::Poll::Ready(Some(done));
        }
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}
