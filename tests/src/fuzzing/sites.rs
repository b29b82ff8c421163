//! Sites as the state machines' fuzzing sees them: a log group each, on a state file, with a twin that applies the same
//! commands in one go and must come to the same answers and rows.

use bytes::Bytes;
use farside::federation::sender::Given;
use farside::state::{Database, LogGroupState, LogView};
use farside_codec::Field;
use farside_codec::command::{AcceptDeltas, GroupCommand, GroupOutcome};
use farside_codec::delta::{Cursor, Delta};
use farside_codec::ids::{DeltaHash, GroupId, LogId, SiteId};
use farside_raft::{Applied, StateMachine};
use std::cell::RefCell;

/// Groups that one state file holds before a new one is begun, so that none grows without end.
const GROUPS_A_FILE: u32 = 400;

/// Two state files, of the sites and of their twins, and the next group that is empty in both.
struct Shelf {
    files: [Database; 2],
    next: u32,
}

thread_local! {
    static SHELF: RefCell<Option<Shelf>> = const { RefCell::new(None) };
}

/// A state file that is gone with the process. In memory where there is a file system for that: what is asked of the
/// state is the same, and flushes cost nothing.
pub(super) fn database() -> Database {
    let memory = tempfile::Builder::new().tempdir_in("/dev/shm");
    let directory = memory.or_else(|_| tempfile::tempdir()).expect("a directory");
    let (database, _) = Database::open(&directory.path().join("state")).expect("a state file");
    // The file stays for whoever has it open.
    directory.close().expect("removed");
    database
}

/// Everything that a group's state holds.
pub(super) fn rows(state: &impl StateMachine) -> Vec<u8> {
    let mut pieces = state.snapshot().expect("a view");
    let mut rows = Vec::new();
    while let Some(piece) = pieces.next_piece().expect("a piece") {
        assert!(piece.len() <= farside_raft::limits::PIECE_BYTES);
        rows.extend_from_slice(&piece);
    }
    rows
}

/// A site with one log group, and its twin.
pub(super) struct Site {
    pub(super) id: SiteId,
    pub(super) state: LogGroupState,
    twin: LogGroupState,
    commands: Vec<Bytes>,
    outcomes: Vec<Bytes>,
}

impl Site {
    /// An empty group at a site.
    pub(super) fn new(id: SiteId) -> Self {
        SHELF.with_borrow_mut(|shelf| {
            if shelf.as_ref().is_none_or(|shelf| shelf.next > GROUPS_A_FILE) {
                *shelf = Some(Shelf { files: [database(), database()], next: 1 });
            }
            let shelf = shelf.as_mut().expect("there is one");
            // Pages that were given up are used again once something is durable.
            shelf.files.iter().for_each(|file| file.checkpoint().expect("durable"));
            let group = GroupId(shelf.next);
            shelf.next += 1;
            let [state, twin] = shelf.files.each_ref().map(|file| {
                let mut state = LogGroupState::new(file.clone(), group, id);
                // How far it has come is there before the first command, so that a refused one leaves the same.
                state.apply(&[], &Applied::default()).expect("nothing is applied");
                state
            });
            Self { id, state, twin, commands: Vec::new(), outcomes: Vec::new() }
        })
    }

    /// Applies one command. A refused one changes nothing, and none that can be read stops the group.
    pub(super) fn apply(&mut self, command: GroupCommand) -> GroupOutcome {
        let before = rows(&self.state);
        let encoded = command.to_bytes();
        let outcomes = self.state.apply(std::slice::from_ref(&encoded), &Applied::default());
        let outcome = outcomes.unwrap_or_else(|error| unreachable!("{command:?} stops the group: {error}")).remove(0);
        self.commands.push(encoded);
        self.outcomes.push(outcome.clone());
        let outcome = GroupOutcome::from_bytes(outcome).expect("an outcome");
        if matches!(outcome, GroupOutcome::Refused(_)) {
            assert!(rows(&self.state) == before, "{command:?} was refused and changed something");
        }
        outcome
    }

    pub(super) fn view(&self, log: LogId) -> Option<LogView> {
        self.state.log(log).expect("a row")
    }

    /// What a driver sends of a log from a sequence on.
    pub(super) fn delivery(&self, log: LogId, from: u64, limit: usize) -> Option<AcceptDeltas> {
        let view = self.view(log)?;
        let (mut deltas, mut pruned) = (Vec::new(), Vec::new());
        for (_, given) in self.state.given(log, from, limit, usize::MAX).expect("deltas") {
            match given {
                Given::Whole(encoded) => deltas.push(encoded),
                Given::Pruned(place) => pruned.push(place),
            }
        }
        let closed = self.state.closed().expect("a time");
        Some(AcceptDeltas {
            log,
            lineage: view.lineage,
            deltas,
            pruned,
            floor: view.floor,
            head: view.head,
            head_time: view.head_time,
            closed,
            policy: view.descriptor.policy,
            policy_version: view.descriptor.policy_version,
            lease_ms: 0,
        })
    }

    /// Checks that a log is one chain, and answers it: each delta's hash, from the first on.
    pub(super) fn check_chain(&self, log: LogId) -> Vec<DeltaHash> {
        let Some(view) = self.view(log) else { return Vec::new() };
        let deltas = self.state.deltas(log, 1, usize::MAX, usize::MAX).expect("deltas");
        let (mut previous, mut time) = (DeltaHash::ZERO, None);
        for (place, (cursor, encoded)) in deltas.iter().enumerate() {
            assert_eq!(cursor.sequence, place as u64 + 1, "no gap");
            // A pruned delta has no bytes; its hash stays.
            if let Ok(delta) = Delta::parse(encoded.clone()) {
                assert_eq!(Delta::hash(encoded), cursor.hash);
                assert_eq!((delta.previous, delta.sequence, delta.log), (previous, cursor.sequence, log));
                assert!(Some(delta.time) > time || delta.time.0 == u64::MAX, "time rises");
                let branch = view.lineage.iter().rfind(|branch| branch.first <= cursor.sequence);
                assert_eq!(branch.map(|branch| branch.generation), Some(delta.generation), "it is of its lineage");
                time = Some(delta.time);
            } else {
                assert!(encoded.is_empty(), "a delta that can't be read");
            }
            previous = cursor.hash;
        }
        let head = deltas.last().map_or((0, DeltaHash::ZERO), |(cursor, _)| (cursor.sequence, cursor.hash));
        assert_eq!((view.head.sequence, view.head.hash), head, "the head is the last delta");
        let rising = |pair: &[farside_codec::delta::Branch]| {
            pair[0].generation < pair[1].generation && pair[0].first < pair[1].first
        };
        assert!(view.lineage.windows(2).all(rising), "a lineage rises: {:?}", view.lineage);
        assert!(view.lineage.last().is_none_or(|last| last.generation <= view.known));
        deltas.into_iter().map(|(Cursor { hash, .. }, _)| hash).collect()
    }

    /// The twin catches up, and is the same.
    pub(super) fn check_twin(&mut self) {
        let outcomes = self.twin.apply(&self.commands, &Applied::default()).expect("a group that goes on");
        assert_eq!(outcomes, self.outcomes, "equal commands have equal outcomes");
        assert!(rows(&self.twin) == rows(&self.state), "equal commands give equal states");
    }
}
