//! The sender of one log to one peer: offers chunks, sends what the peer lacks, then the deltas, in order.
//!
//! Invariants: a delta is delivered only after the peer said that each of its chunks is durable there; deltas are
//! delivered in sequence without gaps; at most [`SenderLimits`] of bytes and deltas are held here; whatever was in
//! flight when a link was lost is asked for again from the position that the peer states, never assumed.
//! Absent on purpose: retries' timing, connections, reading of chunks. The driver does what [`Sender::poll`] says and
//! reports what came of it.

use bytes::Bytes;
use farside_codec::delta::{ChunkRef, Cursor, Lineage, PrunedDelta};
use farside_codec::ids::ChunkId;
use farside_codec::message::{LogPosition, Refusal, RefusalCode};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What one sender may hold.
#[derive(Debug, Clone, Copy)]
pub struct SenderLimits {
    /// Chunk bytes on their way at once.
    pub chunk_bytes_in_flight: u64,
    /// Deltas held, delivered or not.
    pub deltas_held: usize,
    /// Encoded bytes of deltas held.
    pub delta_bytes_held: usize,
    /// Deltas in one delivery.
    pub deltas_per_delivery: usize,
    /// Encoded bytes in one delivery.
    pub bytes_per_delivery: usize,
    /// Chunk ids in one question.
    pub chunks_per_question: usize,
}

impl Default for SenderLimits {
    fn default() -> Self {
        Self {
            // Thirty-two default chunks: covers the 120 ms that a chunk takes at 1 GB/s when devices are busy at both ends.
            chunk_bytes_in_flight: 128 << 20,
            deltas_held: 1024,
            delta_bytes_held: 8 << 20,
            deltas_per_delivery: farside_codec::limits::MAX_DELTAS_PER_REQUEST,
            bytes_per_delivery: farside_codec::limits::MAX_DELTAS_BYTES_PER_REQUEST,
            chunks_per_question: 256,
        }
    }
}

/// What a peer is given of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Its bytes.
    Whole(Bytes),
    /// Its place: its version was pruned.
    Pruned(PrunedDelta),
}

impl Given {
    /// What it counts for in limits of bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Whole(encoded) => encoded.len(),
            Self::Pruned(_) => PRUNED_BYTES,
        }
    }
}

/// Encoded bytes of a place that tells a name.
const PRUNED_BYTES: usize = 137;

/// A committed delta, as the log's state hands it out.
#[derive(Debug, Clone)]
pub struct LoadedDelta {
    /// Its place and hash.
    pub cursor: Cursor,
    /// What the peer is given.
    pub given: Given,
    /// The chunks that it names.
    pub chunks: Vec<ChunkRef>,
}

/// What happened.
#[derive(Debug)]
pub enum SenderEvent {
    /// The log's head at home moved (or is told for the first time).
    Head(Cursor),
    /// A link to the peer is up, or what was loaded for it is out of date: it is begun again from where the peer says to be.
    Connected,
    /// The link is gone; everything in flight with it.
    Lost,
    /// The peer says where it stands, to a greeting or a delivery.
    Positioned(LogPosition),
    /// The peer refused a delivery.
    Refused(Refusal),
    /// Deltas that a `Load` asked for; empty when there are none.
    Loaded(Vec<LoadedDelta>),
    /// Which of the asked chunks the peer holds, in the question's order.
    Held(Vec<(ChunkId, bool)>),
    /// A chunk is durable at the peer.
    Sent(ChunkId),
    /// A chunk could not be sent now.
    NotSent(ChunkId),
    /// The peer's cursor is committed in this log's own group.
    Recorded,
}

/// What the driver is to do. Each is answered by the event named.
#[derive(Debug)]
pub enum SenderCommand {
    /// Greet the peer with this log's offer → `Positioned`, `Refused` or `Lost`.
    Greet,
    /// Read committed deltas from this sequence on, at most so many and so many bytes → `Loaded`.
    Load {
        /// First sequence.
        from: u64,
        /// Deltas at most.
        limit: usize,
        /// Encoded bytes at most (one delta always fits).
        bytes: usize,
    },
    /// Ask the peer which chunks it holds → `Held` or `Lost`.
    Ask(Vec<ChunkId>),
    /// Have this chunk's coordinator send it → `Sent`, `NotSent` or `Lost`.
    Send(ChunkRef),
    /// Deliver these deltas → `Positioned`, `Refused` or `Lost`.
    Deliver(Vec<Given>),
    /// Commit the peer's cursor in the log's own group → `Recorded`.
    Record {
        /// The cursor.
        cursor: Cursor,
        /// It is the answer to a greeting: the peer may have less than it had.
        greeted: bool,
    },
    /// The peer is ahead: it holds a higher generation. Fence this copy with the peer's lineage; the sender ends.
    StepDown(Lineage),
    /// Nothing can be sent until the refusal's reason goes away: wait, then report `Connected` again.
    Wait(Refusal),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    Greeting,
    Streaming,
    /// Told the driver to wait, or stepped down.
    Resting,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum ChunkState {
    Unasked,
    Asked,
    Wanted,
    Sending,
    Durable,
}

#[derive(Debug)]
struct Wanted {
    reference: ChunkRef,
    state: ChunkState,
    /// When a delta first named it, among the chunks of this sender.
    order: u64,
    /// Held deltas that name it.
    users: u32,
}

#[derive(Debug)]
struct Held {
    cursor: Cursor,
    given: Given,
    chunks: Vec<ChunkId>,
}

/// The sender of one log to one peer.
#[derive(Debug)]
pub struct Sender {
    limits: SenderLimits,
    phase: Phase,
    head: Cursor,
    /// From where the peer goes on, as it stated it last in this connection.
    acknowledged: Option<Cursor>,
    held: VecDeque<Held>,
    held_bytes: usize,
    chunks: HashMap<ChunkId, Wanted>,
    /// Chunks to be asked for and chunks to be sent, each by the order in which deltas name them.
    unasked: BTreeMap<u64, ChunkId>,
    unsent: BTreeMap<u64, ChunkId>,
    next_order: u64,
    bytes_in_flight: u64,
    loading: bool,
    /// The question under way.
    asked: Vec<ChunkId>,
    delivering: usize,
    greet_due: bool,
    recording: bool,
    /// What is to be recorded, and whether a greeting told it or something after one that is not recorded yet.
    unrecorded: Option<(Cursor, bool)>,
    /// What was recorded last in this connection, or is to be.
    recorded: Option<Cursor>,
    due: VecDeque<SenderCommand>,
}

impl Sender {
    /// A sender that knows nothing of its peer yet.
    pub fn new(head: Cursor, limits: SenderLimits) -> Self {
        assert!(limits.deltas_held > 0 && limits.chunks_per_question > 0, "a sender without room sends nothing");
        Self {
            limits,
            phase: Phase::Disconnected,
            head,
            acknowledged: None,
            held: VecDeque::new(),
            held_bytes: 0,
            chunks: HashMap::new(),
            unasked: BTreeMap::new(),
            unsent: BTreeMap::new(),
            next_order: 0,
            bytes_in_flight: 0,
            loading: false,
            asked: Vec::new(),
            delivering: 0,
            greet_due: false,
            recording: false,
            unrecorded: None,
            recorded: None,
            due: VecDeque::new(),
        }
    }

    /// The peer's durable position, as far as this connection knows.
    pub fn acknowledged(&self) -> Option<&Cursor> {
        self.acknowledged.as_ref()
    }

    /// The peer has acknowledged the head that this sender was told last.
    pub fn caught_up(&self) -> bool {
        self.acknowledged.as_ref().is_some_and(|position| position.hash == self.head.hash)
    }

    /// Takes one event in.
    pub fn handle(&mut self, event: SenderEvent) {
        match event {
            SenderEvent::Head(head) => self.head_moved(head),
            SenderEvent::Connected => self.greet_again(),
            SenderEvent::Lost => {
                self.forget_flight();
                self.phase = Phase::Disconnected;
            }
            SenderEvent::Positioned(position) => self.positioned(position),
            SenderEvent::Refused(refusal) => self.rest(SenderCommand::Wait(refusal)),
            SenderEvent::Loaded(deltas) => self.loaded(deltas),
            SenderEvent::Held(answers) => self.answered(&answers),
            SenderEvent::Sent(chunk) => self.settle(chunk, ChunkState::Durable),
            SenderEvent::NotSent(chunk) => self.settle(chunk, ChunkState::Wanted),
            SenderEvent::Recorded => self.recording = false,
        }
    }

    /// The next thing to do, if there is one now.
    pub fn poll(&mut self) -> Option<SenderCommand> {
        if let Some(command) = self.due.pop_front() {
            return Some(command);
        }
        if std::mem::take(&mut self.greet_due) {
            return Some(SenderCommand::Greet);
        }
        if !self.recording
            && let Some((cursor, greeted)) = self.unrecorded.take()
        {
            self.recording = true;
            return Some(SenderCommand::Record { cursor, greeted });
        }
        if self.phase != Phase::Streaming {
            return None;
        }
        self.poll_deliver().or_else(|| self.poll_send()).or_else(|| self.poll_ask()).or_else(|| self.poll_load())
    }

    fn rest(&mut self, command: SenderCommand) {
        self.forget_flight();
        self.phase = Phase::Resting;
        self.due.push_back(command);
    }

    /// Forgets all that a lost link carried. Late answers to it find nothing to change.
    fn forget_flight(&mut self) {
        self.acknowledged = None;
        self.recorded = None;
        self.unrecorded = None;
        self.held.clear();
        self.held_bytes = 0;
        self.chunks.clear();
        self.unasked.clear();
        self.unsent.clear();
        self.bytes_in_flight = 0;
        self.loading = false;
        self.asked.clear();
        self.delivering = 0;
        self.greet_due = false;
        // The driver gives up what it does for a connection with that connection, a record under way too.
        self.recording = false;
    }

    fn greet_again(&mut self) {
        self.forget_flight();
        self.phase = Phase::Greeting;
        self.greet_due = true;
    }

    /// Another generation's head means that this log lost its home and got it back: what is held here, and where the
    /// peer said to be, may be of the history that was left.
    fn head_moved(&mut self, head: Cursor) {
        let promoted = head.generation != self.head.generation;
        self.head = head;
        if promoted && matches!(self.phase, Phase::Greeting | Phase::Streaming) {
            self.greet_again();
        }
    }

    fn positioned(&mut self, position: LogPosition) {
        if let Some(refusal) = position.refusal {
            return self.rest(SenderCommand::Wait(refusal));
        }
        let theirs = position.lineage.last().map(|branch| branch.generation);
        if theirs.is_some_and(|theirs| theirs > self.head.generation) {
            return self.rest(SenderCommand::StepDown(position.lineage));
        }
        match self.phase {
            // The answer to an offer of before this log lost its home and got it back: nothing continues that position.
            Phase::Greeting if self.is_elsewhere(&position.head) => {
                let detail = "the peer stands where this log's history has never been: it is greeted again";
                self.rest(SenderCommand::Wait(Refusal::new(RefusalCode::Diverged, detail)));
            }
            Phase::Greeting => {
                self.phase = Phase::Streaming;
                self.acknowledge(position, true);
            }
            Phase::Streaming if self.delivering > 0 => self.delivered(position),
            // An answer to something that a lost link carried.
            Phase::Streaming | Phase::Disconnected | Phase::Resting => {}
        }
    }

    /// Whether a position can be none on this log's history. One below the head shows that with the next delivery.
    fn is_elsewhere(&self, position: &Cursor) -> bool {
        position.sequence >= self.head.sequence && position.hash != self.head.hash
    }

    /// It counts as far as it could be promoted.
    fn acknowledge(&mut self, position: LogPosition, greeted: bool) {
        if self.recorded.as_ref() != Some(&position.whole) {
            self.recorded = Some(position.whole.clone());
            let since_greeting = greeted || self.unrecorded.take().is_some_and(|(_, greeted)| greeted);
            self.unrecorded = Some((position.whole, since_greeting));
        }
        self.acknowledged = Some(position.head);
    }

    fn delivered(&mut self, position: LogPosition) {
        let (head, expected) = (&position.head, &self.held[self.delivering - 1].cursor);
        if (head.sequence, head.hash) != (expected.sequence, expected.hash) {
            // The peer stands elsewhere than where this delivery leads: begin again from what it says.
            return self.greet_again();
        }
        for _ in 0..std::mem::take(&mut self.delivering) {
            let Some(held) = self.held.pop_front() else { break };
            self.held_bytes -= held.given.bytes();
            for chunk in &held.chunks {
                if let Some(wanted) = self.chunks.get_mut(chunk) {
                    wanted.users -= 1;
                    if wanted.users == 0 {
                        self.chunks.remove(chunk);
                    }
                }
            }
        }
        self.acknowledge(position, false);
    }

    fn loaded(&mut self, deltas: Vec<LoadedDelta>) {
        if !std::mem::take(&mut self.loading) || self.phase != Phase::Streaming {
            return;
        }
        for delta in deltas {
            if delta.cursor.sequence != self.next_sequence() {
                // Loaded for a position that has changed since; the next poll loads again.
                return;
            }
            for reference in &delta.chunks {
                let wanted = self.chunks.entry(reference.chunk).or_insert_with(|| {
                    let order = self.next_order;
                    self.next_order += 1;
                    self.unasked.insert(order, reference.chunk);
                    Wanted { reference: reference.clone(), state: ChunkState::Unasked, order, users: 0 }
                });
                wanted.users += 1;
            }
            self.held_bytes += delta.given.bytes();
            self.held.push_back(Held {
                cursor: delta.cursor,
                given: delta.given,
                chunks: delta.chunks.iter().map(|reference| reference.chunk).collect(),
            });
        }
    }

    fn next_sequence(&self) -> u64 {
        let last = self.held.back().map(|held| &held.cursor).or(self.acknowledged.as_ref());
        // The peer may have named any sequence as its own, the highest too.
        last.map_or(1, |cursor| cursor.sequence.saturating_add(1))
    }

    fn answered(&mut self, answers: &[(ChunkId, bool)]) {
        let asked = std::mem::take(&mut self.asked);
        for (chunk, held) in answers.iter().filter(|_| !asked.is_empty()) {
            self.change(*chunk, ChunkState::Asked, if *held { ChunkState::Durable } else { ChunkState::Wanted });
        }
        // Whatever the answer left out is asked for again.
        for chunk in asked {
            self.change(chunk, ChunkState::Asked, ChunkState::Unasked);
        }
    }

    fn settle(&mut self, chunk: ChunkId, state: ChunkState) {
        if let Some(sealed_bytes) = self.change(chunk, ChunkState::Sending, state) {
            self.bytes_in_flight -= u64::from(sealed_bytes);
        }
    }

    /// Moves a chunk from one state to another and answers its length, or does nothing if it is in neither.
    fn change(&mut self, chunk: ChunkId, from: ChunkState, to: ChunkState) -> Option<u32> {
        let wanted = self.chunks.get_mut(&chunk).filter(|wanted| wanted.state == from)?;
        wanted.state = to;
        match to {
            ChunkState::Unasked => drop(self.unasked.insert(wanted.order, chunk)),
            ChunkState::Wanted => drop(self.unsent.insert(wanted.order, chunk)),
            ChunkState::Asked | ChunkState::Sending | ChunkState::Durable => {}
        }
        Some(wanted.reference.sealed_bytes)
    }

    fn poll_deliver(&mut self) -> Option<SenderCommand> {
        if self.delivering > 0 {
            return None;
        }
        let mut given = Vec::new();
        let mut bytes = 0;
        for held in &self.held {
            let durable = |chunk: &ChunkId| self.chunks.get(chunk).is_some_and(|at| at.state == ChunkState::Durable);
            bytes += held.given.bytes();
            let fits = given.is_empty() || bytes <= self.limits.bytes_per_delivery;
            if given.len() >= self.limits.deltas_per_delivery || !fits || !held.chunks.iter().all(durable) {
                break;
            }
            given.push(held.given.clone());
        }
        self.delivering = given.len();
        (!given.is_empty()).then_some(SenderCommand::Deliver(given))
    }

    fn poll_send(&mut self) -> Option<SenderCommand> {
        if self.bytes_in_flight >= self.limits.chunk_bytes_in_flight {
            return None;
        }
        let (_, chunk) = self.unsent.pop_first()?;
        let sealed_bytes = self.change(chunk, ChunkState::Wanted, ChunkState::Sending)?;
        self.bytes_in_flight += u64::from(sealed_bytes);
        Some(SenderCommand::Send(ChunkRef { chunk, sealed_bytes }))
    }

    fn poll_ask(&mut self) -> Option<SenderCommand> {
        if !self.asked.is_empty() {
            return None;
        }
        while self.asked.len() < self.limits.chunks_per_question
            && let Some((_, chunk)) = self.unasked.pop_first()
        {
            self.change(chunk, ChunkState::Unasked, ChunkState::Asked);
            self.asked.push(chunk);
        }
        (!self.asked.is_empty()).then(|| SenderCommand::Ask(self.asked.clone()))
    }

    fn poll_load(&mut self) -> Option<SenderCommand> {
        let from = self.next_sequence();
        let room = self.limits.deltas_held.saturating_sub(self.held.len());
        let bytes = self.limits.delta_bytes_held.saturating_sub(self.held_bytes);
        // Loading one delta at a time when the window is nearly full would cost a read each; wait for a quarter.
        let worth_it = room >= self.limits.deltas_held.div_ceil(4) && bytes >= self.limits.delta_bytes_held / 4;
        if self.loading || from > self.head.sequence || !worth_it {
            return None;
        }
        self.loading = true;
        Some(SenderCommand::Load { from, limit: room, bytes })
    }
}
