//! The engine's own log group, as values: a copy's state is a number, and what a command makes of it is found out once.
//!
//! Nothing here imitates the engine. A state is reached by giving a fresh [`LogGroupState`] on a real state file every
//! command that led to it; two states are one if every row that a snapshot holds is the same. A site's states are few,
//! while their combinations are many: that is what makes it possible to explore the real thing to the end.

use bytes::Bytes;
use farside::state::{Database, LogGroupState, LogView, StoredDelta};
use farside_codec::command::{GroupCommand, GroupOutcome};
use farside_codec::delta::{Cursor, Delta, DeltaKind, Generation};
use farside_codec::ids::{DeltaHash, GroupId, LogId, NodeId, OperationId, SiteId};
use farside_codec::record::wal::LogPosition;
use farside_codec::{Field, Reader};
use farside_raft::{Applied, StateMachine};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;

/// Groups in one state file. A file that is thrown away often stays small, and its trees flat.
const GROUPS_PER_FILE: u32 = 256;

/// A copy's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct CopyId(u32);

/// A delta, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeltaId(u32);

/// What is told apart about a delta.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) cursor: Cursor,
    pub(crate) previous: DeltaHash,
    pub(crate) operation: OperationId,
    /// The first one of its generation, after a promotion.
    pub(crate) promoted: bool,
    /// The last one of its generation, before this one.
    pub(crate) hands_over_to: Option<Generation>,
}

/// A copy's state, as its public surface shows it.
pub(crate) struct Copy {
    /// `None` before the site heard of the log.
    pub(crate) view: Option<LogView>,
    pub(crate) deltas: Vec<StoredDelta>,
    /// The same, by number.
    pub(crate) history: Vec<DeltaId>,
    pub(crate) aside: Vec<DeltaId>,
    /// What peers have, as far as this copy was told.
    pub(crate) cursors: Vec<(SiteId, Cursor)>,
    /// What is wrong with it by itself.
    pub(crate) flaw: Option<&'static str>,
    site: usize,
    commands: Vec<Bytes>,
}

impl Copy {
    /// Whether the log accepts writes here.
    pub(crate) fn is_home(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.is_home(site_id(self.site)))
    }

    /// Whether this site was the last to write, and is home or waits until the next home has everything.
    pub(crate) fn tells(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.is_told_by(site_id(self.site)))
    }

    /// Whether this site has handed the log over and has not heard that the next home has begun.
    pub(crate) fn is_in_transit(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.is_in_transit(site_id(self.site)))
    }

    /// Whether this site holds the delta, in its history or set aside.
    pub(crate) fn holds(&self, delta: DeltaId) -> bool {
        self.history.contains(&delta) || self.aside.contains(&delta)
    }

    /// The highest generation known here.
    pub(crate) fn known(&self) -> Option<Generation> {
        self.view.as_ref().map(|view| view.known)
    }

    /// The commands that led here.
    pub(crate) fn commands(&self) -> &[Bytes] {
        &self.commands
    }
}

/// Sites are counted from 0; their ids are not.
pub(crate) fn site_id(site: usize) -> SiteId {
    SiteId([site as u8 + 1; 16])
}

/// All states of all copies of one log that were met so far.
pub(crate) struct Copies {
    log: LogId,
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    copies: Vec<Arc<Copy>>,
    by_rows: HashMap<(usize, Vec<u8>), CopyId>,
    steps: HashMap<(CopyId, Bytes), (CopyId, GroupOutcome)>,
    deltas: Vec<Arc<Placed>>,
    by_hash: HashMap<DeltaHash, DeltaId>,
}

impl Copies {
    pub(crate) fn new(log: LogId) -> Self {
        Self { log, met: Mutex::default() }
    }

    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().expect("no thread has panicked")
    }

    /// A site that never heard of the log.
    pub(crate) fn absent(&self, site: usize) -> CopyId {
        self.reach(site, Vec::new()).0
    }

    pub(crate) fn get(&self, copy: CopyId) -> Arc<Copy> {
        self.met().copies[copy.0 as usize].clone()
    }

    pub(crate) fn delta(&self, delta: DeltaId) -> Arc<Placed> {
        self.met().deltas[delta.0 as usize].clone()
    }

    /// A delta that some copy held at some time.
    pub(crate) fn find(&self, hash: &DeltaHash) -> Option<DeltaId> {
        self.met().by_hash.get(hash).copied()
    }

    /// How many states, and how many steps between them, were found out by running the engine.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let met = self.met();
        (met.copies.len(), met.steps.len())
    }

    /// Applies a command, and answers what the engine answered.
    pub(crate) fn apply(&self, copy: CopyId, command: &GroupCommand) -> (CopyId, GroupOutcome) {
        let command = command.to_bytes();
        let before = {
            let met = self.met();
            if let Some(known) = met.steps.get(&(copy, command.clone())) {
                return known.clone();
            }
            met.copies[copy.0 as usize].clone()
        };
        let mut commands = before.commands.clone();
        commands.push(command.clone());
        let (after, outcome) = self.reach(before.site, commands);
        let outcome = outcome.expect("a command has an outcome");
        self.met().steps.insert((copy, command), (after, outcome.clone()));
        (after, outcome)
    }

    /// Gives a fresh log group these commands; answers its state and its last outcome.
    fn reach(&self, site: usize, commands: Vec<Bytes>) -> (CopyId, Option<GroupOutcome>) {
        on_a_fresh_group(site, |state| {
            let outcomes = apply_all(state, &commands);
            let outcome = outcomes.last().map(|bytes| GroupOutcome::from_bytes(bytes.clone()).expect("an outcome"));
            let rows = rows_of(state).concat();
            if let Some(known) = self.met().by_rows.get(&(site, rows.clone())) {
                return (*known, outcome);
            }
            let copy = self.read(site, state, commands);
            let mut met = self.met();
            let id = CopyId(met.copies.len() as u32);
            // Another thread may have met it meanwhile.
            let id = *met.by_rows.entry((site, rows)).or_insert(id);
            if id.0 as usize == met.copies.len() {
                met.copies.push(Arc::new(copy));
            }
            (id, outcome)
        })
    }

    fn read(&self, site: usize, state: &LogGroupState, commands: Vec<Bytes>) -> Copy {
        let view = state.log(self.log).expect("the log's row");
        let deltas = state.deltas(self.log, 1, usize::MAX, usize::MAX).expect("the log's deltas");
        let aside = state.set_aside(self.log, None, usize::MAX, usize::MAX).expect("what was set aside").deltas;
        let peers = state.peers(self.log).expect("the peers' cursors");
        let history: Vec<DeltaId> = deltas.iter().map(|(_, encoded)| self.name(encoded)).collect();
        let mut copy = Copy {
            flaw: None,
            history,
            aside: aside.iter().map(|aside| self.name(&aside.delta)).collect(),
            cursors: peers.into_iter().map(|lag| (lag.peer, lag.cursor)).collect(),
            view,
            deltas,
            site,
            commands,
        };
        copy.flaw = self.flaw_of(&copy);
        copy
    }

    fn name(&self, encoded: &Bytes) -> DeltaId {
        let hash = Delta::hash(encoded);
        let mut met = self.met();
        if let Some(known) = met.by_hash.get(&hash) {
            return *known;
        }
        let delta = Delta::parse(encoded.clone()).expect("a delta");
        let id = DeltaId(met.deltas.len() as u32);
        met.deltas.push(Arc::new(Placed {
            cursor: Cursor { generation: delta.generation, sequence: delta.sequence, hash },
            previous: delta.previous,
            operation: delta.proposal.operation,
            promoted: matches!(delta.proposal.kind, DeltaKind::Promoted(_)),
            hands_over_to: match delta.proposal.kind {
                DeltaKind::Switchover(to) => Some(to),
                _ => None,
            },
        }));
        met.by_hash.insert(hash, id);
        id
    }

    /// A copy is one unbroken chain, each delta of the generation that its lineage says, each operation once.
    fn flaw_of(&self, copy: &Copy) -> Option<&'static str> {
        let Some(view) = &copy.view else {
            return (!copy.history.is_empty()).then_some("deltas of a log that is not here");
        };
        let mut previous = DeltaHash::ZERO;
        let mut operations = Vec::new();
        let mut ended = None;
        for (at, id) in copy.history.iter().enumerate() {
            let delta = self.delta(*id);
            let sequence = at as u64 + 1;
            let branch = view.lineage.iter().rev().find(|branch| branch.first <= sequence);
            if delta.cursor.sequence != sequence || delta.previous != previous {
                return Some("a delta does not continue the one before it");
            }
            if branch.is_none_or(|branch| branch.generation != delta.cursor.generation) {
                return Some("a delta is of another generation than the lineage says");
            }
            if branch.is_some_and(|branch| branch.first == sequence && branch.previous != previous) {
                return Some("a branch does not begin where the lineage says");
            }
            if operations.contains(&delta.operation) {
                return Some("an operation was applied twice");
            }
            if ended == Some(delta.cursor.generation) {
                return Some("a delta follows in a generation that was handed over");
            }
            if delta.hands_over_to.is_some() {
                ended = Some(delta.cursor.generation);
            }
            operations.push(delta.operation);
            previous = delta.cursor.hash;
        }
        let rising = view.lineage.windows(2).all(|pair| pair[0].generation < pair[1].generation);
        match () {
            () if view.head.sequence != copy.history.len() as u64 => Some("the head is not the number of deltas"),
            () if view.head.hash != previous => Some("the head is not the last delta"),
            () if !rising => Some("the lineage does not rise"),
            () if copy.is_in_transit() => {
                let last = copy.history.last().and_then(|last| self.delta(*last).hands_over_to);
                (last != Some(view.known)).then_some("a log is in transit to nowhere")
            }
            () if view.lineage.last().is_some_and(|last| last.generation != view.known) => {
                Some("the lineage does not end with the highest generation known")
            }
            () if view.aside != copy.aside.len() as u64 => Some("deltas set aside are miscounted"),
            () => None,
        }
    }
}

/// A state file for a while, and the next group in it.
struct Scratch {
    database: Database,
    next: u32,
    _directory: TempDir,
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Runs `work` with a log group of `site` to which nothing has happened.
pub(crate) fn on_a_fresh_group<T>(site: usize, work: impl FnOnce(&mut LogGroupState) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.as_ref().is_none_or(|scratch| scratch.next > GROUPS_PER_FILE) {
            let directory = TempDir::new().expect("a directory");
            let (database, _) = Database::open(&directory.path().join("state")).expect("a state file");
            *scratch = Some(Scratch { database, next: 1, _directory: directory });
        }
        let scratch = scratch.as_mut().expect("just made");
        scratch.next += 1;
        work(&mut LogGroupState::new(scratch.database.clone(), GroupId(scratch.next), site_id(site)))
    })
}

/// Applies commands as one batch.
pub(crate) fn apply_all(state: &mut LogGroupState, commands: &[Bytes]) -> Vec<Bytes> {
    // The place in the log is no part of what is explored, so it is always the same.
    let last = Some(LogPosition { term: 1, leader: NodeId(1), index: 1 });
    state.apply(commands, &Applied { last, ..Applied::default() }).expect("the state file takes commands")
}

/// Every row that there is, without its group: what a snapshot holds.
pub(crate) fn rows_of(state: &LogGroupState) -> Vec<Vec<u8>> {
    let mut pieces = state.snapshot().expect("a view");
    let mut rows = Vec::new();
    while let Some(piece) = pieces.next_piece().expect("rows") {
        let mut reader = Reader::new(piece);
        while reader.remaining() > 0 {
            let mut row = vec![u8::decode(&mut reader).expect("a table")];
            let (key, value) = (Bytes::decode(&mut reader).expect("a key"), Bytes::decode(&mut reader).expect("a row"));
            key.slice(4..).encode(&mut row);
            value.encode(&mut row);
            rows.push(row);
        }
    }
    rows
}
