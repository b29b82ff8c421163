//! What is let into a shard's log: never more than a checkpoint can write once again, so that the log always goes round and
//! a node always starts.
//!
//! Entries come as proposals, and from leaders elsewhere, and pass through openraft, to which an error of its log is the
//! end of the group. So they are turned away before they reach it. Votes, and what else is not an entry, need no leave:
//! the region has room for them besides.

use super::Wal;
use super::state::{ENTRY_OVERHEAD_BYTES, GroupLog, cost};
use crate::limits;
use farside_codec::ids::GroupId;
use farside_codec::record::wal::Entry;
use farside_io::disk::Disk;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::{Mutex, Notify};

/// The way of one group's entries into the log. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate(Rc<Inside>);

struct Inside {
    /// Bytes on their way into the log, of all groups.
    all: Rc<Cell<usize>>,
    /// Those of each of this group's requests, the oldest first.
    entering: RefCell<VecDeque<Rc<Cell<usize>>>>,
    /// Bytes of this group's proposals that are not answered yet.
    proposed: Cell<usize>,
    answered: Notify,
    /// Whose turn it is next: a large proposal must not stand behind small ones for ever.
    turn: Mutex<()>,
}

impl Gate {
    pub(crate) fn new<D: Disk>(wal: &Wal<D>) -> Self {
        let all = wal.0.entering.clone();
        Self(Rc::new(Inside {
            all,
            entering: RefCell::default(),
            proposed: Cell::default(),
            answered: Notify::new(),
            turn: Mutex::default(),
        }))
    }

    fn enter(&self, bytes: usize, proposed: usize) -> Admitted {
        let left = Rc::new(Cell::new(bytes));
        self.0.all.set(self.0.all.get() + bytes);
        self.0.entering.borrow_mut().push_back(left.clone());
        self.0.proposed.set(self.0.proposed.get() + proposed);
        Admitted { gate: self.clone(), left, proposed }
    }

    /// Entries are in the log now, and count as what is alive there.
    pub(crate) fn appended(&self, entries: impl Iterator<Item = usize>) {
        let mut bytes: usize = entries.sum();
        for left in self.0.entering.borrow().iter() {
            let taken = left.get().min(bytes);
            left.set(left.get() - taken);
            self.0.all.set(self.0.all.get() - taken);
            bytes -= taken;
        }
    }
}

/// Bytes of a proposal that waits for its turn.
struct Waiting {
    all: Rc<Cell<usize>>,
    bytes: usize,
}

impl Waiting {
    fn new(all: &Rc<Cell<usize>>, bytes: usize) -> Self {
        all.set(all.get() + bytes);
        Self { all: all.clone(), bytes }
    }

    /// Those of all that wait.
    fn all(&self) -> usize {
        self.all.get()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Entries that were let in. They count until they are in the log, or this is dropped: what was let in has to be seen
/// through, whoever waits for it.
pub(crate) struct Admitted {
    gate: Gate,
    left: Rc<Cell<usize>>,
    proposed: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let inside = &self.gate.0;
        inside.all.set(inside.all.get() - self.left.take());
        inside.entering.borrow_mut().retain(|left| !Rc::ptr_eq(left, &self.left));
        inside.proposed.set(inside.proposed.get() - self.proposed);
        inside.answered.notify_one();
    }
}

impl<D: Disk> Wal<D> {
    fn halves(&self, halves: u64) -> usize {
        self.live_limit() / 2 * halves as usize
    }

    fn has_room(&self, bytes: usize, halves: u64) -> bool {
        self.live().0 + self.0.entering.get() + bytes <= self.halves(halves)
    }

    /// Lets a proposal in, once its group's turn has come; `None` where the log has no room for it now. Whoever does not lead
    /// any more is to say so at once.
    ///
    /// Groups share what may be alive: what one of them has proposed and not committed is bounded by its part, or nodes
    /// that each are full of what they proposed could wait for one another to take it.
    pub(crate) async fn admit_proposal(
        &self,
        gate: &Gate,
        command: usize,
        leads: impl Fn() -> bool,
    ) -> Option<Admitted> {
        let bytes = command + ENTRY_OVERHEAD_BYTES;
        let inside = &gate.0;
        // What waits is in memory as well.
        let waiting = Waiting::new(&self.0.waiting, bytes);
        if !self.has_room(waiting.all(), limits::PROPOSAL_HALVES) {
            return None;
        }
        let part = self.halves(limits::PROPOSAL_HALVES) / self.0.groups.borrow().len().max(1);
        let turn = async {
            let turn = inside.turn.lock().await;
            while inside.proposed.get() > 0 && inside.proposed.get() + bytes > part && leads() {
                // What was proposed may stay unanswered when another node leads.
                let _ = tokio::time::timeout(limits::TURN_LOOK, inside.answered.notified()).await;
            }
            turn
        };
        // A leader that has lost its voters may never get there.
        let _turn = tokio::time::timeout(limits::TURN_PATIENCE, turn).await.ok()?;
        drop(waiting);
        let admitted = self.has_room(bytes, limits::PROPOSAL_HALVES).then(|| gate.enter(bytes, bytes));
        // Whoever comes next may fit in as well.
        inside.answered.notify_one();
        admitted
    }

    /// Lets in a leader's entries; `None` where there is no room for those that are not here yet.
    pub(crate) fn admit_entries(&self, group: GroupId, gate: &Gate, entries: &[Entry]) -> Option<Admitted> {
        let is_new = |log: &GroupLog, entry: &&Entry| !log.has(entry);
        let bytes = self.group(group, |log| entries.iter().filter(|entry| is_new(log, entry)).map(cost).sum());
        let admitted = (bytes == 0 || self.has_room(bytes, limits::FOLLOWER_HALVES)).then(|| gate.enter(bytes, 0));
        self.0.held_back.set(self.0.held_back.get() + u64::from(admitted.is_none()));
        admitted
    }

    /// How often entries of a leader were turned away: snapshots don't keep up, and the log before them stays.
    pub fn held_back(&self) -> u64 {
        self.0.held_back.get()
    }

    /// The most bytes of entries that are ever alive, but for those that elections and changes of members add.
    pub fn live_bound(&self) -> usize {
        self.halves(limits::FOLLOWER_HALVES)
    }

    /// The group of which a snapshot would make most room: what is not committed stays whatever is covered.
    pub(crate) fn most_settled(&self) -> Option<GroupId> {
        let groups = self.0.groups.borrow();
        let settled = groups.iter().map(|(group, log)| (log.settled_bytes(), *group)).filter(|(bytes, _)| *bytes > 0);
        settled.max().map(|(_, group)| group)
    }
}
