//! What clients asked for and what they were told, in real-time order. The oracles read nothing else of the workload.

use farside_codec::delta::{Cursor, DeltaReceipt, Lineage};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A new version of the name, with this number.
    Put {
        /// Only if the name's newest delta has this sequence.
        condition: Option<u64>,
    },
    /// No version from here on.
    Remove,
    /// The newest version.
    Get,
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, or nothing certain: it may have been done, and may still be.
    Unknown,
    /// It was not done.
    Refused,
    /// It was not done, because its condition did not hold.
    Unmet,
    /// It is durable there.
    Placed(Cursor),
    /// The version with this number, of this sequence.
    Found {
        /// The put's number.
        number: u64,
        /// Its sequence.
        sequence: u64,
    },
    /// There is none.
    Nothing,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number: that of the version that a put makes.
    pub number: u64,
    /// The log, by its place among the world's logs.
    pub log: usize,
    /// The name.
    pub name: u64,
    /// The site that was asked.
    pub site: usize,
    /// What was asked for.
    pub operation: Operation,
    /// The log's lineage as the site showed it just before.
    pub lineage: Lineage,
    /// When it was asked for, counted in events.
    pub asked: u64,
    /// When it was answered; `u64::MAX`: never.
    pub answered: u64,
    /// The same moments in milliseconds of simulated time.
    pub asked_ms: u64,
    /// See above.
    pub answered_ms: u64,
    /// The answer.
    pub outcome: Outcome,
    /// Where it was placed: what it was told.
    pub receipt: Option<DeltaReceipt>,
}

/// What is about to be asked for; see [`Event`].
pub struct Question {
    /// The log.
    pub log: usize,
    /// The name.
    pub name: u64,
    /// The site that is asked.
    pub site: usize,
    /// What is asked for.
    pub operation: Operation,
    /// The log's lineage as the site showed it just before.
    pub lineage: Lineage,
}

#[derive(Default)]
struct Inner {
    events: BTreeMap<u64, Event>,
    clock: u64,
}

/// The history. Clones are the same one.
#[derive(Clone, Default)]
pub struct History(Rc<RefCell<Inner>>);

impl History {
    /// Notes that something is about to be asked for; answers its number.
    pub fn ask(&self, question: Question, now_ms: u64) -> u64 {
        let mut inner = self.0.borrow_mut();
        inner.clock += 1;
        let (number, asked) = (inner.events.len() as u64 + 1, inner.clock);
        let Question { log, name, site, operation, lineage } = question;
        let event = Event {
            number,
            log,
            name,
            site,
            operation,
            lineage,
            asked,
            answered: u64::MAX,
            asked_ms: now_ms,
            answered_ms: u64::MAX,
            outcome: Outcome::Unknown,
            receipt: None,
        };
        inner.events.insert(number, event);
        number
    }

    /// Notes that it was placed.
    pub fn placed(&self, number: u64, receipt: DeltaReceipt, now_ms: u64) {
        self.answer(number, Outcome::Placed(receipt.cursor.clone()), now_ms);
        if let Some(event) = self.0.borrow_mut().events.get_mut(&number) {
            event.receipt = Some(receipt);
        }
    }

    /// Notes the answer.
    pub fn answer(&self, number: u64, outcome: Outcome, now_ms: u64) {
        let mut inner = self.0.borrow_mut();
        inner.clock += 1;
        let now = inner.clock;
        if let Some(event) = inner.events.get_mut(&number) {
            // What may still be done has no end.
            let is_certain = outcome != Outcome::Unknown;
            (event.answered, event.answered_ms) = if is_certain { (now, now_ms) } else { (u64::MAX, u64::MAX) };
            event.outcome = outcome;
        }
    }

    /// How many operations were asked for so far.
    pub fn len(&self) -> u64 {
        self.0.borrow().events.len() as u64
    }

    /// Whether nothing was asked for yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything so far, in the order of asking.
    pub fn events(&self) -> Vec<Event> {
        self.0.borrow().events.values().cloned().collect()
    }
}
