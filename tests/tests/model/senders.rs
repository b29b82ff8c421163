//! The engine's own senders, as values, in the manner of [`super::copies`]: a sender is the list of what it heard, two
//! are one if they are equal in everything, and what an event makes of one is found out once.

use bytes::Bytes;
use farside::federation::sender::{Given, LoadedDelta, Sender, SenderCommand, SenderEvent, SenderLimits};
use farside::state::StoredDelta;
use farside_codec::Field;
use farside_codec::delta::{Cursor, Lineage};
use farside_codec::message::{LogPosition, Refusal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// One delta a delivery, so that everything can happen between two of them.
const LIMITS: SenderLimits = SenderLimits {
    chunk_bytes_in_flight: 1 << 20,
    deltas_held: 2,
    delta_bytes_held: 1 << 20,
    deltas_per_delivery: 1,
    bytes_per_delivery: 1 << 20,
    chunks_per_question: 1,
};

/// A sender's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SenderId(u32);

/// An event that can be told again.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    Head(Cursor),
    Connected,
    Lost,
    Positioned(LogPosition),
    Refused(Refusal),
    Loaded(Vec<StoredDelta>),
    Recorded,
}

impl Heard {
    fn event(&self) -> SenderEvent {
        let loaded = |(cursor, encoded): &StoredDelta| LoadedDelta {
            cursor: cursor.clone(),
            given: Given::Whole(encoded.clone()),
            chunks: Vec::new(),
        };
        match self {
            Self::Head(head) => SenderEvent::Head(head.clone()),
            Self::Connected => SenderEvent::Connected,
            Self::Lost => SenderEvent::Lost,
            Self::Positioned(position) => SenderEvent::Positioned(position.clone()),
            Self::Refused(refusal) => SenderEvent::Refused(refusal.clone()),
            Self::Loaded(deltas) => SenderEvent::Loaded(deltas.iter().map(loaded).collect()),
            Self::Recorded => SenderEvent::Recorded,
        }
    }

    /// Bytes that tell it from every other one.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Head(head) => (0u8, head.to_bytes()).encode(out),
            Self::Connected => 1u8.encode(out),
            Self::Lost => 2u8.encode(out),
            Self::Positioned(position) => (3u8, position.to_bytes()).encode(out),
            Self::Refused(refusal) => (4u8, refusal.to_bytes()).encode(out),
            Self::Loaded(deltas) => {
                5u8.encode(out);
                deltas.iter().for_each(|(cursor, _)| cursor.encode(out));
            }
            Self::Recorded => 6u8.encode(out),
        }
    }
}

/// What a sender asks its driver for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Greet,
    Load { from: u64, limit: usize },
    Deliver(Vec<Bytes>),
    Record { cursor: Cursor, greeted: bool },
    StepDown(Lineage),
    Wait,
}

fn whole(given: Given) -> Bytes {
    match given {
        Given::Whole(encoded) => encoded,
        Given::Pruned(_) => panic!("nothing is pruned here"),
    }
}

fn asked(command: SenderCommand) -> Asked {
    match command {
        SenderCommand::Greet => Asked::Greet,
        SenderCommand::Load { from, limit, .. } => Asked::Load { from, limit },
        SenderCommand::Deliver(deltas) => Asked::Deliver(deltas.into_iter().map(whole).collect()),
        SenderCommand::Record { cursor, greeted } => Asked::Record { cursor, greeted },
        SenderCommand::StepDown(lineage) => Asked::StepDown(lineage),
        SenderCommand::Wait(_) => Asked::Wait,
        SenderCommand::Ask(_) | SenderCommand::Send(_) => panic!("no delta here names a chunk"),
    }
}

/// A sender, and how it came to be what it is.
pub(crate) struct Life {
    pub(crate) connected: bool,
    pub(crate) acknowledged: Option<Cursor>,
    pub(crate) caught_up: bool,
    /// The head that it was told last.
    pub(crate) told: Cursor,
    first: Cursor,
    /// Events, as they came between two rounds of asking.
    heard: Vec<Vec<Heard>>,
}

impl Life {
    fn begin(first: Cursor) -> Self {
        Self { connected: false, acknowledged: None, caught_up: false, told: first.clone(), first, heard: Vec::new() }
    }

    /// Lives it again.
    fn sender(&self) -> Sender {
        let mut sender = Sender::new(self.first.clone(), LIMITS);
        self.heard.iter().for_each(|events| drop(hear(&mut sender, events)));
        sender
    }
}

/// Tells a sender these events and asks it what to do, no further than its driver asks: not while there is no
/// connection, and nothing after a command that ends one.
fn hear(sender: &mut Sender, events: &[Heard]) -> Vec<Asked> {
    events.iter().for_each(|event| sender.handle(event.event()));
    let mut asks = Vec::new();
    if matches!(events.last(), Some(Heard::Lost)) {
        return asks;
    }
    while let Some(command) = sender.poll().map(asked) {
        let ends = matches!(command, Asked::StepDown(_) | Asked::Wait);
        asks.push(command);
        if ends {
            break;
        }
    }
    asks
}

/// All states of all senders that were met so far.
#[derive(Default)]
pub(crate) struct Senders {
    met: Mutex<Met>,
}

type Step = (SenderId, Arc<Vec<Asked>>);

#[derive(Default)]
struct Met {
    lives: Vec<Arc<Life>>,
    by_text: HashMap<String, SenderId>,
    steps: HashMap<(SenderId, Vec<u8>), Step>,
}

impl Senders {
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().expect("no thread has panicked")
    }

    pub(crate) fn get(&self, sender: SenderId) -> Arc<Life> {
        self.met().lives[sender.0 as usize].clone()
    }

    /// How many states, and how many steps between them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let met = self.met();
        (met.lives.len(), met.steps.len())
    }

    /// A sender that has just begun.
    pub(crate) fn begin(&self, head: Cursor) -> SenderId {
        let life = Life::begin(head);
        let sender = life.sender();
        self.known(&sender, life)
    }

    /// Tells a sender these events, one after the other, and answers what it asks for then.
    pub(crate) fn tell(&self, sender: SenderId, events: Vec<Heard>) -> Step {
        let mut key = Vec::new();
        events.iter().for_each(|event| event.encode(&mut key));
        let before = {
            let met = self.met();
            if let Some(known) = met.steps.get(&(sender, key.clone())) {
                return known.clone();
            }
            met.lives[sender.0 as usize].clone()
        };
        let mut machine = before.sender();
        let asks = Arc::new(hear(&mut machine, &events));
        let mut life = Life {
            connected: before.connected,
            acknowledged: machine.acknowledged().cloned(),
            caught_up: machine.caught_up(),
            told: before.told.clone(),
            first: before.first.clone(),
            heard: before.heard.clone(),
        };
        for event in &events {
            match event {
                Heard::Head(head) => life.told = head.clone(),
                Heard::Connected => life.connected = true,
                Heard::Lost => life.connected = false,
                _ => {}
            }
        }
        life.heard.push(events);
        let after = self.known(&machine, life);
        self.met().steps.insert((sender, key), (after, asks.clone()));
        (after, asks)
    }

    fn known(&self, sender: &Sender, life: Life) -> SenderId {
        let mut met = self.met();
        let id = SenderId(met.lives.len() as u32);
        let id = *met.by_text.entry(format!("{sender:?}")).or_insert(id);
        if id.0 as usize == met.lives.len() {
            met.lives.push(Arc::new(life));
        }
        id
    }
}
