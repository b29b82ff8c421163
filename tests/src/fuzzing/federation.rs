//! Decisions between sites: a sender to whom anything may happen in any order, and a receiver to whom anything is
//! offered.

use super::feed::Feed;
use super::{Seed, values};
use bytes::Bytes;
use farside::federation::receiver::{LocalCopy, OfferDecision, decide, generation_of};
use farside::federation::sender::{Given, LoadedDelta, Sender, SenderCommand, SenderEvent, SenderLimits};
use farside_codec::Field;
use farside_codec::delta::{Branch, ChunkRef, Cursor, Delta, Generation, Left, Lineage, PrunedDelta};
use farside_codec::ids::{ChunkId, DeltaHash, Hlc, OperationId};
use farside_codec::message::{LogOffer, LogPosition, Refusal, RefusalCode};
use std::collections::BTreeSet;

const LIMITS: SenderLimits = SenderLimits {
    chunk_bytes_in_flight: 300,
    deltas_held: 12,
    delta_bytes_held: 400,
    deltas_per_delivery: 4,
    bytes_per_delivery: 90,
    chunks_per_question: 5,
};
/// Commands that a sender may have at once: what its limits allow, a greeting, a record, a load, and what is due.
const MOST_COMMANDS: usize = 64;
/// Bytes of each chunk.
const CHUNK_BYTES: u32 = 100;

fn home() -> Generation {
    Generation { counter: 1, site: values::site(1), incarnation: 0 }
}

/// The log's deltas, which follow from one byte.
struct History(Vec<LoadedDelta>);

impl History {
    fn new(count: usize, shape: u8) -> Self {
        let delta = |place: usize| {
            let mut encoded = (place as u64 + 1).to_le_bytes().to_vec();
            encoded.resize(10 + (place * 37 + usize::from(shape)) % 90, shape);
            let hash = Delta::hash(&encoded);
            let chunk = |index: usize| ChunkId([((place * 3 + index * usize::from(shape)) % 23) as u8; 32]);
            let chunks: Vec<ChunkRef> = (0..(place + usize::from(shape)) % 5)
                .map(|index| ChunkRef { chunk: chunk(index), sealed_bytes: CHUNK_BYTES })
                .collect();
            let cursor = Cursor { generation: home(), sequence: place as u64 + 1, hash };
            let place = PrunedDelta {
                cursor: cursor.clone(),
                time: Hlc(place as u64),
                total_bytes: 0,
                left: Left { operation: OperationId::default(), removed: None },
            };
            let is_pruned = chunks.is_empty() && shape & 1 == 1;
            let given = if is_pruned { Given::Pruned(place) } else { Given::Whole(encoded.into()) };
            LoadedDelta { cursor, given, chunks }
        };
        Self((0..count).map(delta).collect())
    }

    fn cursor(&self, sequence: u64) -> Cursor {
        let before = (sequence as usize).checked_sub(1).and_then(|place| self.0.get(place));
        before.map_or(Cursor { generation: home(), sequence: 0, hash: DeltaHash::ZERO }, |delta| delta.cursor.clone())
    }

    fn loaded(&self, sequence: u64, limit: usize) -> Vec<LoadedDelta> {
        self.0.iter().skip(sequence.saturating_sub(1) as usize).take(limit).cloned().collect()
    }

    fn of(&self, given: &Given) -> &LoadedDelta {
        let sequence = match given {
            Given::Whole(encoded) => encoded.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            Given::Pruned(place) => place.cursor.sequence,
        };
        &self.0[sequence as usize - 1]
    }
}

struct World {
    sender: Sender,
    history: History,
    head: u64,
    waiting: Vec<SenderCommand>,
    /// Chunks that the peer was ever said to hold.
    told: BTreeSet<ChunkId>,
    sending: BTreeSet<ChunkId>,
}

impl World {
    fn handle(&mut self, event: SenderEvent) {
        match &event {
            SenderEvent::Connected | SenderEvent::Lost | SenderEvent::Refused(_) => self.sending.clear(),
            SenderEvent::Held(answers) => {
                self.told.extend(answers.iter().filter(|(_, held)| *held).map(|(chunk, _)| *chunk));
            }
            SenderEvent::Sent(chunk) => {
                self.told.insert(*chunk);
                self.sending.remove(chunk);
            }
            SenderEvent::NotSent(chunk) => drop(self.sending.remove(chunk)),
            _ => {}
        }
        self.sender.handle(event);
        self.drain();
    }

    /// Takes everything that the sender wants now, and holds it against what it promises.
    fn drain(&mut self) {
        for _ in 0..MOST_COMMANDS {
            let Some(command) = self.sender.poll() else { return };
            self.check(&command);
            self.waiting.push(command);
        }
        assert!(self.sender.poll().is_none(), "a sender that never has enough");
    }

    fn check(&mut self, command: &SenderCommand) {
        match command {
            SenderCommand::Greet | SenderCommand::Wait(_) => self.sending.clear(),
            SenderCommand::StepDown(lineage) => {
                self.sending.clear();
                assert!(generation_of(lineage) > Some(home()), "only a higher generation makes a home step down");
            }
            SenderCommand::Load { from, limit, bytes } => {
                assert!((1..=self.head).contains(from), "there are deltas from {from} on");
                assert!((1..=LIMITS.deltas_held).contains(limit) && *bytes <= LIMITS.delta_bytes_held);
            }
            SenderCommand::Ask(chunks) => {
                assert!((1..=LIMITS.chunks_per_question).contains(&chunks.len()));
                assert_eq!(chunks.iter().collect::<BTreeSet<_>>().len(), chunks.len(), "each is asked for once");
            }
            SenderCommand::Send(chunk) => {
                let in_flight = self.sending.len() as u64 * u64::from(CHUNK_BYTES);
                assert!(in_flight < LIMITS.chunk_bytes_in_flight && chunk.sealed_bytes == CHUNK_BYTES);
                assert!(self.sending.insert(chunk.chunk), "it is on its way already");
            }
            SenderCommand::Deliver(deltas) => self.check_delivery(deltas),
            SenderCommand::Record { .. } => {}
        }
    }

    fn check_delivery(&self, deltas: &[Given]) {
        let bytes: usize = deltas.iter().map(Given::bytes).sum();
        assert!((1..=LIMITS.deltas_per_delivery).contains(&deltas.len()));
        assert!(deltas.len() == 1 || bytes <= LIMITS.bytes_per_delivery);
        let position = self.sender.acknowledged().expect("a position that the peer stated");
        for (place, given) in (position.sequence + 1..).zip(deltas) {
            let delta = self.history.of(given);
            assert_eq!(delta.cursor.sequence, place, "in sequence, without a gap");
            let missing = delta.chunks.iter().find(|chunk| !self.told.contains(&chunk.chunk));
            assert_eq!(missing, None, "delta {place} goes before its chunk");
        }
    }

    fn position(head: Cursor, lineage: Lineage) -> LogPosition {
        LogPosition { log: values::log(1), whole: head.clone(), head, lineage, refusal: None }
    }

    /// What an honest peer answers, where a delivery arrives and a chunk may fail.
    fn answer(&mut self, command: SenderCommand, peer_head: &mut u64, fails: bool) {
        let own = vec![Branch { generation: home(), first: 1, previous: DeltaHash::ZERO }];
        let event = match command {
            SenderCommand::Greet => SenderEvent::Positioned(Self::position(self.history.cursor(*peer_head), own)),
            SenderCommand::Load { from, limit, .. } => SenderEvent::Loaded(self.history.loaded(from, limit)),
            SenderCommand::Ask(chunks) => {
                SenderEvent::Held(chunks.into_iter().map(|chunk| (chunk, self.told.contains(&chunk))).collect())
            }
            SenderCommand::Send(chunk) if fails => SenderEvent::NotSent(chunk.chunk),
            SenderCommand::Send(chunk) => SenderEvent::Sent(chunk.chunk),
            SenderCommand::Deliver(deltas) => {
                let last = deltas.last().map_or(0, |given| self.history.of(given).cursor.sequence);
                if fails {
                    return self.handle(SenderEvent::Refused(Refusal::new(RefusalCode::Busy, "busy")));
                }
                *peer_head = last;
                SenderEvent::Positioned(Self::position(self.history.cursor(last), own))
            }
            SenderCommand::Record { .. } => SenderEvent::Recorded,
            SenderCommand::StepDown(_) | SenderCommand::Wait(_) => return,
        };
        self.handle(event);
    }

    fn step(&mut self, feed: &mut Feed<'_>, peer_head: &mut u64) {
        match feed.below(16) {
            0 => self.handle(SenderEvent::Connected),
            1 => self.handle(SenderEvent::Lost),
            2 => {
                self.head = self.head.max(u64::from(feed.byte()) % (self.history.0.len() as u64 + 1));
                self.handle(SenderEvent::Head(self.history.cursor(self.head)));
            }
            3..=9 => {
                let (pick, fails) = (feed.byte(), feed.below(8) == 1);
                if !self.waiting.is_empty() {
                    let command = self.waiting.remove(usize::from(pick) % self.waiting.len());
                    self.answer(command, peer_head, fails);
                }
            }
            10 => self.stranger_position(feed),
            11 => self.handle(SenderEvent::Refused(Refusal::new(RefusalCode::Full, "full"))),
            12 => {
                let (from, limit) = (u64::from(feed.byte() & 63), feed.below(LIMITS.deltas_held));
                self.handle(SenderEvent::Loaded(self.history.loaded(from, limit)));
            }
            13 => {
                let answers = (0..feed.below(6)).map(|_| (ChunkId([feed.byte() % 23; 32]), feed.is())).collect();
                self.handle(SenderEvent::Held(answers));
            }
            14 => {
                let chunk = ChunkId([feed.byte() % 23; 32]);
                let event = if feed.is() { SenderEvent::Sent(chunk) } else { SenderEvent::NotSent(chunk) };
                self.handle(event);
            }
            _ => self.handle(SenderEvent::Recorded),
        }
    }

    /// A peer says that it stands anywhere.
    fn stranger_position(&mut self, feed: &mut Feed<'_>) {
        let (sequence, shape) = (feed.byte(), feed.byte());
        let mut head = self.history.cursor(u64::from(sequence));
        if shape & 1 == 1 {
            head = Cursor { sequence: u64::from(sequence), hash: DeltaHash([shape; 32]), ..head };
        }
        if shape & 2 == 2 {
            head.sequence = if shape & 4 == 4 { u64::MAX } else { u64::from(sequence) };
        }
        let counter = if shape & 8 == 8 { 9 } else { 1 };
        let branch = Branch { generation: Generation { counter, ..home() }, first: 1, previous: DeltaHash::ZERO };
        let refusal = (shape & 16 == 16).then(|| Refusal::new(RefusalCode::Diverged, "no"));
        let lineage = if shape & 32 == 32 { Vec::new() } else { vec![branch] };
        self.handle(SenderEvent::Positioned(LogPosition { refusal, ..Self::position(head, lineage) }));
    }
}

/// A sender, whatever happens. In the end, with a peer that answers, it must bring everything across.
pub fn sender(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let history = History::new(1 + feed.below(40), feed.byte());
    let sender = Sender::new(history.cursor(0), LIMITS);
    let (waiting, told, sending) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut world = World { sender, history, head: 0, waiting, told, sending };
    let mut peer_head = 0;
    while !feed.is_empty() {
        world.step(&mut feed, &mut peer_head);
        world.waiting.truncate(MOST_COMMANDS);
    }
    world.waiting.clear();
    world.head = world.history.0.len() as u64;
    for event in [SenderEvent::Lost, SenderEvent::Recorded, SenderEvent::Head(world.history.cursor(world.head))] {
        world.handle(event);
    }
    world.waiting.clear();
    world.handle(SenderEvent::Recorded);
    world.handle(SenderEvent::Connected);
    for _ in 0..2000 {
        if world.waiting.is_empty() {
            break;
        }
        let command = world.waiting.remove(0);
        world.answer(command, &mut peer_head, false);
    }
    assert!(world.sender.caught_up(), "the peer answers, and does not get everything");
    assert_eq!(peer_head, world.head);
}

/// Seeds of [`sender`].
pub fn sender_seeds() -> Vec<Seed> {
    let begin = [20u8, 3, 2, 20, 0];
    let answers: Vec<u8> = (0..60u8).flat_map(|step| [3, step.wrapping_mul(7), 0]).collect();
    let with = |more: &[u8]| [&begin[..], &answers[..30], more, &answers[..60]].concat();
    vec![
        ("all-is-well", [&begin[..], &answers].concat()),
        ("lost", with(&[1, 0])),
        ("late-answers", with(&[0, 13, 5, 1, 1, 2, 1, 3, 0, 4, 1, 5, 1, 14, 1, 1, 14, 2, 0, 12, 1, 4])),
        ("stands-elsewhere", with(&[10, 3, 1, 10, 200, 0])),
        ("stands-at-the-end", with(&[0, 10, 1, 6, 3, 0, 0, 2, 20])),
        ("steps-down", with(&[10, 3, 8, 0])),
        ("refused", with(&[11, 0, 3, 0, 1])),
        ("doubled", with(&[15, 15, 0, 0, 12, 0, 5, 12, 1, 5])),
    ]
}

fn lineage(feed: &mut Feed<'_>) -> Lineage {
    let (mut counter, mut first) = (0, 1);
    let branches = (0..feed.below(5)).map(|_| {
        let generation =
            Generation { counter, site: values::site(1 + (feed.byte() & 1)), incarnation: u64::from(feed.byte() & 1) };
        let branch = Branch { generation, first, previous: DeltaHash([feed.byte() & 1; 32]) };
        counter += u64::from(feed.byte() & 3);
        first += u64::from(feed.byte() & 7);
        branch
    });
    branches.collect()
}

/// An offer, against a copy that began as it did, or not at all.
pub fn receiver(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let (sender, here) = (values::site(1 + (feed.byte() & 1)), values::site(2 - (feed.byte() & 1)));
    if feed.below(4) == 1 {
        let mut input = farside_codec::Reader::new(Bytes::copy_from_slice(feed.rest()));
        let Ok(offer) = LogOffer::decode(&mut input) else { return };
        let local = Option::<(Lineage, Cursor)>::decode(&mut input).ok().flatten();
        return judge(&offer, sender, here, local.map(|(lineage, head)| LocalCopy { lineage, head }).as_ref());
    }
    let theirs = lineage(&mut feed);
    let offer = LogOffer {
        descriptor: values::descriptor(1),
        lineage: theirs.clone(),
        head: values::cursor(),
        head_time: farside_codec::ids::Hlc(9),
    };
    let mut ours = theirs;
    ours.truncate(feed.below(6));
    if feed.is() {
        ours.extend(lineage(&mut feed).pop());
    }
    let head =
        Cursor { sequence: u64::from(feed.byte() & 31), hash: DeltaHash([feed.byte() & 1; 32]), ..values::cursor() };
    judge(&offer, sender, here, feed.is().then_some(LocalCopy { lineage: ours, head }).as_ref());
}

fn judge(
    offer: &LogOffer,
    sender: farside_codec::ids::SiteId,
    here: farside_codec::ids::SiteId,
    local: Option<&LocalCopy>,
) {
    let decision = decide(offer, sender, here, local);
    assert_eq!(decision, decide(offer, sender, here, local), "a decision is a value");
    let theirs = generation_of(&offer.lineage);
    let rises = offer.lineage.windows(2).all(|pair| pair[0].generation < pair[1].generation);
    let ours = local.map(|local| generation_of(&local.lineage));
    match decision {
        OfferDecision::Refuse(refusal) => {
            assert_eq!(refusal.code, RefusalCode::BadRequest);
            return;
        }
        OfferDecision::Create => assert!(ours.is_none(), "nothing is made anew"),
        OfferDecision::Ahead => assert!(ours.flatten() > theirs, "this site knows a higher generation"),
        OfferDecision::Fence => {
            assert!(ours.flatten() < theirs, "only a higher generation fences");
            assert_ne!(ours, Some(None), "a copy that has heard nothing has nothing to set aside");
        }
        OfferDecision::Position => {
            let local = local.expect("a copy");
            let older = generation_of(&local.lineage) < theirs;
            let shared = local.lineage.iter().all(|branch| offer.lineage.contains(branch));
            assert!(!older || shared, "a copy that continues the sender's history has no branch of its own");
            assert!(generation_of(&local.lineage) <= theirs);
        }
    }
    assert!(rises && theirs.is_some_and(|theirs| theirs.site == sender), "an offer that is none was not refused");
}

/// Seeds of [`receiver`].
pub fn receiver_seeds() -> Vec<Seed> {
    let two = [2u8, 0, 0, 0, 1, 3, 0, 0, 1, 1, 3];
    let of = |head: [u8; 3], rest: &[u8]| [&head, &two[..], rest].concat();
    let offer = LogOffer {
        descriptor: values::descriptor(1),
        lineage: values::lineage(),
        head: values::cursor(),
        head_time: farside_codec::ids::Hlc(9),
    };
    let local = Some((values::lineage(), values::cursor()));
    let raw = [&[1, 1, 1][..], &offer.to_bytes(), &local.to_bytes()].concat();
    vec![
        ("new-here", of([0, 0, 0], &[2, 0, 9, 0, 0])),
        ("continues", of([0, 0, 0], &[1, 0, 3, 1, 1])),
        ("equal", of([0, 0, 0], &[2, 0, 9, 0, 1])),
        ("was-home", of([0, 0, 0], &[1, 1, 1, 1, 0, 0, 1, 1, 3, 9, 1, 1])),
        ("no-lineage", vec![0, 0, 0, 0, 0, 0, 3, 0, 1]),
        ("raw", raw),
        ("raw-new", [&[1, 1, 1][..], &offer.to_bytes(), &[0]].concat()),
    ]
}
