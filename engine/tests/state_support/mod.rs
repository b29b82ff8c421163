//! A site's log group on a real state file, and the shortest way to each of its commands.

#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::federation::receiver::{LocalCopy, OfferDecision, decide};
use farside::federation::sender::Given;
use farside::state::{Database, LogGroupState, LogView, Opened};
use farside_codec::Field;
use farside_codec::command::{AcceptDeltas, CloseTime, Fence, GroupCommand, GroupOutcome, PlaceDeltas, Promote, Prune};
use farside_codec::delta::{
    ChunkRef, Cursor, Delta, DeltaKind, DeltaReceipt, EpochRecord, Generation, LogDescriptor, LogPolicy, Proposal,
};
use farside_codec::ids::{BlindName, ChunkId, EpochId, GroupId, Hlc, Label, LogId, OperationId, SiteId, TenantId};
use farside_codec::message::{LogOffer, Refusal, RefusalCode};
use farside_codec::record::wal::LogPosition;
use farside_raft::{Applied, StateMachine};
use tempfile::TempDir;

pub(crate) const GROUP: GroupId = GroupId(1);
/// The log of most tests.
pub(crate) const LOG: LogId = LogId([9; 16]);
/// A log with a little clock time between deltas.
pub(crate) const TICK: u64 = 10;

/// A site with one log group.
pub(crate) struct Site {
    pub(crate) id: SiteId,
    pub(crate) state: LogGroupState,
    pub(crate) database: Database,
    directory: TempDir,
    applied: u64,
}

pub(crate) fn site_id(number: u8) -> SiteId {
    SiteId([number; 16])
}

impl Site {
    pub(crate) fn new(number: u8) -> Self {
        let directory = TempDir::new().unwrap();
        let (database, opened) = Database::open(&directory.path().join("state")).unwrap();
        assert_eq!(opened, Opened::Fresh);
        let state = LogGroupState::new(database.clone(), GROUP, site_id(number));
        Self { id: site_id(number), state, database, directory, applied: 0 }
    }

    pub(crate) fn apply(&mut self, command: GroupCommand) -> GroupOutcome {
        self.apply_all(vec![command]).remove(0)
    }

    pub(crate) fn apply_all(&mut self, commands: Vec<GroupCommand>) -> Vec<GroupOutcome> {
        self.applied += commands.len() as u64;
        let commands: Vec<Bytes> = commands.iter().map(Field::to_bytes).collect();
        let outcomes = self.state.apply(&commands, &applied(self.applied)).unwrap();
        outcomes.into_iter().map(|outcome| GroupOutcome::from_bytes(outcome).unwrap()).collect()
    }

    pub(crate) fn create(&mut self, log: LogId) {
        let generation = Generation { counter: 1, site: self.id, incarnation: 0 };
        let outcome = self.apply(GroupCommand::CreateLog((descriptor(log), generation)));
        assert!(matches!(outcome, GroupOutcome::Head(_)), "{outcome:?}");
    }

    pub(crate) fn place(&mut self, log: LogId, time: u64, proposals: Vec<Proposal>) -> GroupOutcome {
        self.apply(GroupCommand::Place(PlaceDeltas { log, time: Hlc(time), site: self.id, proposals }))
    }

    /// Places one proposal that must be placed.
    pub(crate) fn put(&mut self, log: LogId, time: u64, proposal: Proposal) -> DeltaReceipt {
        self.try_put(log, time, proposal).unwrap()
    }

    pub(crate) fn try_put(&mut self, log: LogId, time: u64, proposal: Proposal) -> Result<DeltaReceipt, Refusal> {
        match self.place(log, time, vec![proposal]) {
            GroupOutcome::Placed(mut outcomes) => outcomes.remove(0),
            GroupOutcome::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn promote(&mut self, log: LogId, time: u64) -> GroupOutcome {
        let generation = Generation { counter: self.view(log).known.counter + 1, site: self.id, incarnation: 0 };
        self.apply(GroupCommand::Promote(Promote { log, generation, time: Hlc(time), weighed: None, cut: None }))
    }

    pub(crate) fn view(&self, log: LogId) -> LogView {
        self.state.log(log).unwrap().unwrap()
    }

    pub(crate) fn history(&self, log: LogId) -> Vec<(Cursor, Bytes)> {
        self.state.deltas(log, 1, usize::MAX, usize::MAX).unwrap()
    }

    /// Closes the file with a checkpoint and opens it again.
    pub(crate) fn reopen(self) -> Self {
        let Self { id, state, database, directory, applied } = self;
        database.checkpoint().unwrap();
        drop((state, database));
        let (database, opened) = Database::open(&directory.path().join("state")).unwrap();
        assert_eq!(opened, Opened::Existing);
        let state = LogGroupState::new(database.clone(), GROUP, id);
        assert_eq!(state.applied().unwrap().last.map_or(0, |last| last.index), applied);
        Self { id, state, database, directory, applied }
    }

    /// The same group in another file, by way of a snapshot.
    pub(crate) fn through_snapshot(&self) -> Self {
        let number = self.id.0[0];
        let mut other = Self::new(number);
        // Whatever was there before must be gone afterwards.
        other.create(LogId([0xEE; 16]));
        other.state.install_begin().unwrap();
        let mut pieces = self.state.snapshot().unwrap();
        while let Some(piece) = pieces.next_piece().unwrap() {
            assert!(piece.len() <= farside_raft::limits::PIECE_BYTES);
            other.state.install_piece(piece).unwrap();
        }
        other.state.install_finish(&self.state.applied().unwrap()).unwrap();
        other.applied = self.applied;
        other
    }

    /// What the driver sends for deltas from `from` on.
    pub(crate) fn delivery(&self, log: LogId, from: u64, limit: usize) -> AcceptDeltas {
        let view = self.view(log);
        let closed = self.state.closed().unwrap();
        let (mut deltas, mut pruned) = (Vec::new(), Vec::new());
        for (_, given) in self.state.given(log, from, limit, usize::MAX).unwrap() {
            match given {
                Given::Whole(encoded) => deltas.push(encoded),
                Given::Pruned(place) => pruned.push(place),
            }
        }
        AcceptDeltas {
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
        }
    }

    /// Everything that a snapshot holds, which is everything there is.
    pub(crate) fn rows(&self) -> Vec<u8> {
        let mut pieces = self.state.snapshot().unwrap();
        let mut rows = Vec::new();
        while let Some(piece) = pieces.next_piece().unwrap() {
            rows.extend_from_slice(&piece);
        }
        rows
    }
}

pub(crate) fn applied(index: u64) -> Applied {
    let last = Some(LogPosition { term: 1, leader: farside_codec::ids::NodeId(1), index });
    Applied { last, ..Applied::default() }
}

/// How an offer ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The copy took what was sent.
    Taken,
    /// The receiver knows a higher generation; the sender was fenced.
    SteppedDown,
    /// The receiver refused.
    Refused(RefusalCode),
}

/// One greeting and one delivery, as the drivers of two sites make them.
pub(crate) fn replicate(from: &mut Site, to: &mut Site, log: LogId, limit: usize, overlap: u64, time: u64) -> Sent {
    let view = from.view(log);
    let offer = LogOffer {
        descriptor: view.descriptor.clone(),
        lineage: view.lineage.clone(),
        head: view.head.clone(),
        head_time: view.head_time,
    };
    for _ in 0..3 {
        let local = to.state.log(log).unwrap();
        let local = local.map(|view| LocalCopy { lineage: view.lineage, head: view.head });
        let command = match decide(&offer, from.id, to.id, local.as_ref()) {
            OfferDecision::Create => {
                GroupCommand::CreateLog((descriptor(log), view.lineage.last().unwrap().generation))
            }
            OfferDecision::Fence => GroupCommand::Fence(Fence { log, lineage: view.lineage.clone(), time: Hlc(time) }),
            OfferDecision::Ahead => {
                let lineage = to.view(log).lineage;
                let outcome = from.apply(GroupCommand::Fence(Fence { log, lineage, time: Hlc(time) }));
                assert!(matches!(outcome, GroupOutcome::Head(_)), "{outcome:?}");
                return Sent::SteppedDown;
            }
            OfferDecision::Refuse(refusal) => return Sent::Refused(refusal.code),
            OfferDecision::Position => {
                let first = (to.view(log).goes_on_from().sequence + 1).saturating_sub(overlap).max(1);
                let delivery = from.delivery(log, first, limit);
                return match to.apply(GroupCommand::Accept(delivery)) {
                    GroupOutcome::Head(_) => Sent::Taken,
                    GroupOutcome::Refused(refusal) => Sent::Refused(refusal.code),
                    other => panic!("{other:?}"),
                };
            }
        };
        match to.apply(command) {
            GroupOutcome::Head(_) => {}
            GroupOutcome::Refused(refusal) => return Sent::Refused(refusal.code),
            other => panic!("{other:?}"),
        }
    }
    panic!("three steps and no position");
}

pub(crate) fn refused(outcome: GroupOutcome) -> RefusalCode {
    match outcome {
        GroupOutcome::Refused(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn log_id(number: u8) -> LogId {
    LogId([number; 16])
}

pub(crate) fn epoch(number: u8) -> EpochRecord {
    let epoch = EpochId([number; 16]);
    EpochRecord { epoch, salt: [number; 32], key_name: "photos".into(), key_version: 1, check: [number; 16] }
}

pub(crate) fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

pub(crate) fn descriptor(log: LogId) -> LogDescriptor {
    LogDescriptor {
        log,
        tenant: TenantId([7; 16]),
        tenant_name: label("acme"),
        name: label(&format!("log-{}", log.0[0])),
        created: Hlc(1),
        first_epoch: epoch(1),
        policy: LogPolicy::default(),
        policy_version: 0,
    }
}

pub(crate) fn operation(number: u64) -> OperationId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    OperationId(id)
}

pub(crate) fn name(number: u8) -> BlindName {
    BlindName([number; 32])
}

pub(crate) fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

/// A proposal without chunks.
pub(crate) fn proposal(operation_number: u64, kind: DeltaKind, name_number: u8) -> Proposal {
    let bare = Proposal::without_chunks(operation(operation_number), kind, name(name_number), EpochId([1; 16]));
    Proposal { payload: Bytes::from_static(b"sealed"), ..bare }
}

pub(crate) fn with_chunks(mut proposal: Proposal, chunks: &[u8], gc_epoch: u64) -> Proposal {
    proposal.chunks = chunks.iter().map(|id| ChunkRef { chunk: chunk(*id), sealed_bytes: 100 }).collect();
    proposal.gc_epoch = if chunks.is_empty() { u64::MAX } else { gc_epoch };
    proposal
}

pub(crate) fn parse(encoded: &Bytes) -> Delta {
    Delta::parse(encoded.clone()).unwrap()
}

pub(crate) fn home() -> Site {
    let mut site = Site::new(1);
    site.create(LOG);
    site
}

pub(crate) fn put(operation: u64, name: u8) -> Proposal {
    proposal(operation, DeltaKind::Put, name)
}

pub(crate) fn close(time: u64) -> GroupCommand {
    GroupCommand::Close(CloseTime { closed: Hlc(time), copies: Vec::new() })
}

/// Two sites, the second with a copy of the first's first `deltas` of `LOG`.
pub(crate) fn pair(deltas: u64) -> (Site, Site) {
    let (mut near, mut far) = (home(), Site::new(2));
    for number in 1..=deltas {
        near.put(LOG, number * TICK, put(number, number as u8));
    }
    assert_eq!(replicate(&mut near, &mut far, LOG, usize::MAX, 0, 1), Sent::Taken);
    (near, far)
}

pub(crate) fn prune(horizon: u64, below: u64, limit: u32) -> GroupCommand {
    GroupCommand::Prune(Prune { log: LOG, horizon: Hlc(horizon), below, limit })
}
