//! The sender, given events that fit nothing: late, doubled, of another connection, about chunks and deltas that nobody
//! asked for, heads that go back. `federation_sender.rs` has drivers that behave; here nobody does.
//!
//! Whatever it hears it must not panic, must keep its limits and its order, and must deliver a delta only after each
//! chunk of it was said to be durable in this connection. And once its driver and its peer behave again, it must come
//! to an end: caught up, in a bounded number of steps.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::federation::sender::{Given, LoadedDelta, Sender, SenderCommand, SenderEvent, SenderLimits};
use farside_codec::delta::{Branch, ChunkRef, Cursor, Delta, Generation, Left, PrunedDelta};
use farside_codec::ids::{ChunkId, DeltaHash, Hlc, LogId, OperationId, SiteId};
use farside_codec::message::{LogPosition, Refusal, RefusalCode};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LIMITS: SenderLimits = SenderLimits {
    chunk_bytes_in_flight: 300,
    deltas_held: 9,
    delta_bytes_held: 500,
    deltas_per_delivery: 3,
    bytes_per_delivery: 110,
    chunks_per_question: 4,
};
/// Chunks that deltas name; noise speaks of some more.
const CHUNKS: u8 = 24;
/// Far more than a well-behaved peer needs for the longest history here.
const STEPS: usize = 5_000;

fn generation(counter: u64) -> Generation {
    Generation { counter, site: SiteId([counter as u8; 16]), incarnation: 0 }
}

fn chunk(number: u16) -> ChunkId {
    ChunkId([(number % u16::from(CHUNKS + 8)) as u8; 32])
}

/// An event that can be told again. `SenderEvent` itself is told once.
#[derive(Debug, Clone)]
enum Told {
    Head(Cursor),
    Connected,
    Lost,
    Positioned(LogPosition),
    Refused,
    Loaded(Vec<LoadedDelta>),
    Held(Vec<(ChunkId, bool)>),
    Sent(ChunkId),
    NotSent(ChunkId),
    Recorded,
}

impl Told {
    fn event(self) -> SenderEvent {
        match self {
            Self::Head(head) => SenderEvent::Head(head),
            Self::Connected => SenderEvent::Connected,
            Self::Lost => SenderEvent::Lost,
            Self::Positioned(position) => SenderEvent::Positioned(position),
            Self::Refused => SenderEvent::Refused(Refusal::retry(RefusalCode::Unavailable, 50, "not now")),
            Self::Loaded(deltas) => SenderEvent::Loaded(deltas),
            Self::Held(answers) => SenderEvent::Held(answers),
            Self::Sent(chunk) => SenderEvent::Sent(chunk),
            Self::NotSent(chunk) => SenderEvent::NotSent(chunk),
            Self::Recorded => SenderEvent::Recorded,
        }
    }
}

/// What the sender may rely on, kept beside it.
#[derive(Default)]
struct Connection {
    is_up: bool,
    /// Chunks said to be durable.
    said: BTreeSet<ChunkId>,
    /// Chunks asked to be sent, and their bytes.
    sending: BTreeMap<ChunkId, u64>,
    loading: bool,
    delivering: bool,
    recording: bool,
}

struct World {
    history: Vec<LoadedDelta>,
    /// The peer, as it really is.
    peer_chunks: BTreeSet<ChunkId>,
    peer_head: usize,
    recorded: Option<Cursor>,
    /// The command that did it.
    recorded_by: u64,
    sender: Sender,
    connection: Connection,
    waiting: Vec<Waiting>,
    issued: u64,
    past: Vec<Told>,
}

/// A command that is to be answered.
struct Waiting {
    command: SenderCommand,
    number: u64,
    /// By which command what was recorded was, when this one was given.
    recorded: u64,
}

/// Deltas that say their own sequence in their first bytes.
fn history(deltas: &[Vec<u8>]) -> Vec<LoadedDelta> {
    let build = |(index, chunks): (usize, &Vec<u8>)| {
        let sequence = index as u64 + 1;
        let encoded = Bytes::from([&sequence.to_le_bytes()[..], &vec![0; chunks.len() * 9]].concat());
        let cursor = Cursor { generation: generation(1), sequence, hash: Delta::hash(&encoded) };
        let place = PrunedDelta {
            cursor: cursor.clone(),
            time: Hlc(sequence),
            total_bytes: sequence,
            left: Left { operation: OperationId::default(), removed: None },
        };
        // Some of those that name nothing are pruned.
        let is_pruned = chunks.is_empty() && sequence.is_multiple_of(3);
        LoadedDelta {
            cursor,
            given: if is_pruned { Given::Pruned(place) } else { Given::Whole(encoded) },
            chunks: chunks.iter().map(|id| ChunkRef { chunk: chunk(u16::from(*id)), sealed_bytes: 100 }).collect(),
        }
    };
    deltas.iter().enumerate().map(build).collect()
}

fn sequence_of(given: &Given) -> usize {
    match given {
        Given::Whole(encoded) => encoded.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)) as usize,
        Given::Pruned(place) => place.cursor.sequence as usize,
    }
}

impl World {
    fn new(deltas: &[Vec<u8>]) -> Self {
        let start = Cursor { generation: generation(1), sequence: 0, hash: DeltaHash::ZERO };
        Self {
            history: history(deltas),
            peer_chunks: BTreeSet::new(),
            peer_head: 0,
            recorded: None,
            recorded_by: 0,
            issued: 0,
            sender: Sender::new(start, LIMITS),
            connection: Connection::default(),
            waiting: Vec::new(),
            past: Vec::new(),
        }
    }

    fn cursor(&self, sequence: usize) -> Cursor {
        match sequence.checked_sub(1).and_then(|at| self.history.get(at)) {
            Some(delta) => delta.cursor.clone(),
            None => Cursor { generation: generation(1), sequence: 0, hash: DeltaHash::ZERO },
        }
    }

    fn position(&self, sequence: usize, counter: u64) -> LogPosition {
        let lineage = vec![Branch { generation: generation(counter), first: 1, previous: DeltaHash::ZERO }];
        LogPosition {
            log: LogId::default(),
            head: self.cursor(sequence),
            whole: self.cursor(sequence),
            lineage,
            refusal: None,
        }
    }

    fn tell(&mut self, told: Told) {
        self.past.push(told.clone());
        let connection = &mut self.connection;
        match &told {
            Told::Connected | Told::Lost => {
                *connection = Connection { is_up: matches!(told, Told::Connected), ..Connection::default() };
            }
            Told::Positioned(_) | Told::Refused => connection.delivering = false,
            Told::Loaded(_) => connection.loading = false,
            Told::Held(answers) => {
                connection.said.extend(answers.iter().filter(|(_, held)| *held).map(|(chunk, _)| *chunk));
            }
            Told::Sent(chunk) => {
                connection.said.insert(*chunk);
                connection.sending.remove(chunk);
            }
            Told::NotSent(chunk) => drop(connection.sending.remove(chunk)),
            Told::Recorded => connection.recording = false,
            Told::Head(_) => {}
        }
        self.sender.handle(told.event());
        self.drain();
    }

    fn drain(&mut self) {
        for polls in 0.. {
            assert!(polls < 100, "it asks and asks");
            let Some(command) = self.sender.poll() else { break };
            self.check(&command);
            self.issued += 1;
            self.waiting.push(Waiting { command, number: self.issued, recorded: self.recorded_by });
        }
        assert!(self.connection.sending.len() <= 3, "more chunk bytes in flight than allowed");
    }

    fn check(&mut self, command: &SenderCommand) {
        let acknowledged = self.sender.acknowledged().map(|cursor| cursor.sequence as usize);
        let connection = &mut self.connection;
        match command {
            SenderCommand::Greet => *connection = Connection { is_up: true, ..Connection::default() },
            SenderCommand::Wait(_) | SenderCommand::StepDown(_) => *connection = Connection::default(),
            SenderCommand::Load { limit, bytes, .. } => {
                assert!(!std::mem::replace(&mut connection.loading, true), "two loads at once");
                assert!(*limit > 0 && *limit <= LIMITS.deltas_held && *bytes <= LIMITS.delta_bytes_held);
            }
            SenderCommand::Ask(chunks) => {
                let different: BTreeSet<_> = chunks.iter().collect();
                assert!(!chunks.is_empty() && different.len() == chunks.len());
                assert!(chunks.len() <= LIMITS.chunks_per_question);
            }
            SenderCommand::Send(reference) => {
                let before = connection.sending.values().sum::<u64>();
                assert!(before < LIMITS.chunk_bytes_in_flight, "{before} bytes are on their way");
                let twice = connection.sending.insert(reference.chunk, u64::from(reference.sealed_bytes));
                assert!(twice.is_none(), "a chunk is sent twice at once");
            }
            SenderCommand::Deliver(deltas) => {
                assert!(!std::mem::replace(&mut connection.delivering, true), "two deliveries at once");
                let bytes: usize = deltas.iter().map(Given::bytes).sum();
                assert!(!deltas.is_empty() && deltas.len() <= LIMITS.deltas_per_delivery);
                assert!(bytes <= LIMITS.bytes_per_delivery || deltas.len() == 1);
                let first = acknowledged.expect("a delivery needs the peer's position") + 1;
                for (at, given) in deltas.iter().enumerate() {
                    assert_eq!(sequence_of(given), first + at, "a gap");
                    let chunks = &self.history[first + at - 1].chunks;
                    let durable = chunks.iter().all(|reference| connection.said.contains(&reference.chunk));
                    assert!(durable, "delta {} goes before one of its chunks", first + at);
                }
            }
            SenderCommand::Record { .. } => {
                assert!(!std::mem::replace(&mut connection.recording, true), "two records at once");
            }
        }
        let streams = !matches!(
            command,
            SenderCommand::Greet | SenderCommand::Wait(_) | SenderCommand::StepDown(_) | SenderCommand::Record { .. }
        );
        assert!(acknowledged.is_some() || !streams, "it goes on without the peer's position: {command:?}");
    }

    /// What a driver and a peer that behave say to a command.
    fn honest(&mut self, waiting: &Waiting) -> Told {
        match &waiting.command {
            SenderCommand::Greet => Told::Positioned(self.position(self.peer_head, 1)),
            SenderCommand::Load { from, limit, bytes } => {
                let mut size = 0;
                let fits = |delta: &&LoadedDelta| {
                    size += delta.given.bytes();
                    size <= *bytes || size == delta.given.bytes()
                };
                let from = (*from as usize).saturating_sub(1);
                Told::Loaded(self.history.iter().skip(from).take(*limit).take_while(fits).cloned().collect())
            }
            SenderCommand::Ask(chunks) => {
                Told::Held(chunks.iter().map(|chunk| (*chunk, self.peer_chunks.contains(chunk))).collect())
            }
            SenderCommand::Send(reference) => {
                self.peer_chunks.insert(reference.chunk);
                Told::Sent(reference.chunk)
            }
            SenderCommand::Deliver(deltas) => self.take(deltas),
            SenderCommand::Record { cursor, greeted } => {
                // A log group takes an older cursor for a newer one only if the peer was greeted and says so, and nothing else
                // was recorded since.
                let rises = |recorded: &Cursor| recorded.sequence <= cursor.sequence;
                let falls = *greeted && waiting.recorded == self.recorded_by;
                if falls || self.recorded.as_ref().is_none_or(rises) {
                    (self.recorded, self.recorded_by) = (Some(cursor.clone()), waiting.number);
                }
                Told::Recorded
            }
            SenderCommand::StepDown(_) | SenderCommand::Wait(_) => Told::Lost,
        }
    }

    /// The peer takes what continues its head and is whole, and refuses anything else.
    fn take(&mut self, deltas: &[Given]) -> Told {
        for sequence in deltas.iter().map(sequence_of) {
            let whole = |delta: &LoadedDelta| delta.chunks.iter().all(|at| self.peer_chunks.contains(&at.chunk));
            match sequence {
                old if old <= self.peer_head => {}
                next if next == self.peer_head + 1 && whole(&self.history[next - 1]) => self.peer_head = next,
                _ => return Told::Refused,
            }
        }
        Told::Positioned(self.position(self.peer_head, 1))
    }

    fn noise(&mut self, kind: u8, first: u16, second: u16) {
        let sequence = usize::from(first) % (self.history.len() + 1);
        let told = match kind {
            0 | 1 => Told::Head(self.cursor(sequence)),
            2 => Told::Connected,
            3 => Told::Lost,
            // What the peer may have said once: it never had more than it has.
            4 | 5 => Told::Positioned(self.position(sequence.min(self.peer_head), 1)),
            6 => Told::Positioned(self.position(sequence.min(self.peer_head), 2 * u64::from(second.is_multiple_of(8)))),
            7 => Told::Refused,
            8 | 9 => {
                let deltas = self.history.iter().skip(sequence).take(usize::from(second % 4)).cloned();
                Told::Loaded(deltas.collect())
            }
            10 | 11 => Told::Held(
                (0..second % 6).map(|at| (chunk(first.wrapping_add(at)), second.is_multiple_of(3))).collect(),
            ),
            12 | 13 => Told::Sent(chunk(first)),
            14 => Told::NotSent(chunk(first)),
            15 => Told::Recorded,
            _ if self.past.is_empty() => Told::Lost,
            _ => self.past[usize::from(first) % self.past.len()].clone(),
        };
        self.tell(told);
    }

    /// Answers one waiting command; it may go on waiting, and be answered once more.
    fn answer(&mut self, pick: usize, once_more: bool) {
        if self.waiting.is_empty() {
            return;
        }
        let at = pick % self.waiting.len();
        let waiting = match once_more {
            true => Waiting { command: again(&self.waiting[at].command), ..self.waiting[at] },
            false => self.waiting.remove(at),
        };
        let told = self.honest(&waiting);
        self.tell(told);
    }

    /// From now on everybody behaves.
    fn behave(&mut self, link_is_lost: bool) {
        if link_is_lost {
            self.waiting.clear();
            self.tell(Told::Lost);
        }
        let head = self.cursor(self.history.len());
        self.tell(Told::Head(head));
        for _ in 0..STEPS {
            match () {
                () if !self.waiting.is_empty() => self.answer(0, false),
                () if !self.connection.is_up => self.tell(Told::Connected),
                () => break,
            }
        }
        assert!(self.waiting.is_empty(), "it did not come to an end");
        assert!(self.sender.caught_up(), "at rest, and not caught up: {:?}", self.sender);
        assert_eq!(self.peer_head, self.history.len());
        assert_eq!(self.recorded.as_ref().map(|cursor| cursor.sequence), Some(self.history.len() as u64));
    }
}

fn again(command: &SenderCommand) -> SenderCommand {
    match command {
        SenderCommand::Greet => SenderCommand::Greet,
        SenderCommand::Load { from, limit, bytes } => SenderCommand::Load { from: *from, limit: *limit, bytes: *bytes },
        SenderCommand::Ask(chunks) => SenderCommand::Ask(chunks.clone()),
        SenderCommand::Send(reference) => SenderCommand::Send(reference.clone()),
        SenderCommand::Deliver(deltas) => SenderCommand::Deliver(deltas.clone()),
        SenderCommand::Record { cursor, greeted } => {
            SenderCommand::Record { cursor: cursor.clone(), greeted: *greeted }
        }
        SenderCommand::StepDown(lineage) => SenderCommand::StepDown(lineage.clone()),
        SenderCommand::Wait(refusal) => SenderCommand::Wait(refusal.clone()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whatever_it_hears_it_keeps_its_promises_and_comes_to_an_end(
        deltas in prop::collection::vec(prop::collection::vec(0..CHUNKS, 0..5), 1..30),
        steps in prop::collection::vec((any::<bool>(), 0u8..20, any::<u16>(), any::<u16>()), 0..300),
        link_is_lost in any::<bool>(),
    ) {
        let mut world = World::new(&deltas);
        world.tell(Told::Connected);
        for (noise, kind, first, second) in steps {
            match noise {
                true => world.noise(kind, first, second),
                false => world.answer(usize::from(first), kind == 0),
            }
        }
        world.behave(link_is_lost);
    }
}
