//! Formats that are on disks and wires already: these bytes never change without a new version number.

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::*;
use farside_codec::delta::*;
use farside_codec::ids::*;
use farside_codec::message::*;
use farside_codec::record::wal;

fn digest(value: &impl Field) -> String {
    let bytes = value.to_bytes();
    format!("{} {}", bytes.len(), &blake3::hash(&bytes).to_string()[..16])
}

/// What is written is read back.
fn round_trip<T: Field + PartialEq + std::fmt::Debug>(value: T) {
    assert_eq!(T::from_bytes(value.to_bytes()), Ok(value));
}

fn generation() -> Generation {
    Generation { counter: 3, site: SiteId([1; 16]), incarnation: 2 }
}

fn cursor() -> Cursor {
    Cursor { generation: generation(), sequence: 77, hash: DeltaHash([4; 32]) }
}

fn epoch() -> EpochRecord {
    EpochRecord { epoch: EpochId([5; 16]), salt: [6; 32], key_name: "acme".into(), key_version: 2, check: [7; 16] }
}

fn proposal(kind: DeltaKind) -> Proposal {
    Proposal {
        operation: OperationId([8; 16]),
        kind,
        name: BlindName([9; 32]),
        key_epoch: EpochId([5; 16]),
        gc_epoch: 12,
        placement_epoch: 13,
        condition: Some(14),
        size_bytes: 15,
        chunks: vec![ChunkRef { chunk: ChunkId([10; 32]), sealed_bytes: 16 }],
        extent: Some(Extent { object: OperationId([11; 16]), index: 17 }),
        payload: Bytes::from_static(b"payload"),
        inline: Bytes::from_static(b"inline"),
    }
}

fn delta() -> Delta {
    Delta {
        log: LogId([2; 16]),
        generation: generation(),
        sequence: 78,
        previous: DeltaHash([4; 32]),
        time: Hlc(99),
        closed: Hlc(98),
        proposal: proposal(DeltaKind::Put),
    }
}

fn lineage() -> Lineage {
    vec![Branch { generation: generation(), first: 1, previous: DeltaHash::ZERO }]
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

fn descriptor() -> LogDescriptor {
    LogDescriptor {
        log: LogId([2; 16]),
        tenant: TenantId([3; 16]),
        tenant_name: label("acme"),
        name: label("photos"),
        created: Hlc(5),
        first_epoch: epoch(),
        policy: LogPolicy::default(),
        policy_version: 6,
    }
}

fn position() -> wal::LogPosition {
    wal::LogPosition { term: 1, leader: NodeId(2), index: 3 }
}

fn membership() -> wal::StoredMembership {
    let membership = wal::Membership { configurations: vec![vec![NodeId(1)]], nodes: vec![NodeId(1)] };
    wal::StoredMembership { position: Some(position()), membership }
}

/// Every pinned value, by name.
fn samples() -> Vec<(&'static str, String)> {
    let receipt = ChunkReceipt {
        durable_fragments: 6,
        data_fragments: 4,
        parity_fragments: 2,
        placement_epoch: 1,
        gc_epoch: 2,
        deduplicated: true,
    };
    let delta_receipt =
        DeltaReceipt { cursor: cursor(), time: Hlc(9), operation: OperationId([8; 16]), replayed: false };
    let kinds = vec![
        DeltaKind::Put,
        DeltaKind::Remove,
        DeltaKind::Epoch(epoch()),
        DeltaKind::Extent,
        DeltaKind::Switchover(generation()),
        DeltaKind::Config(Bytes::from_static(b"config")),
        DeltaKind::Promoted(generation()),
    ];
    let accept = AcceptDeltas {
        log: LogId([2; 16]),
        lineage: lineage(),
        deltas: vec![delta().to_bytes()],
        pruned: vec![PrunedDelta {
            cursor: cursor(),
            time: Hlc(5),
            total_bytes: 6,
            left: Left { operation: OperationId([8; 16]), removed: Some(BlindName([9; 32])) },
        }],
        floor: 7,
        head: cursor(),
        head_time: Hlc(1),
        closed: Hlc(2),
        policy: LogPolicy::default(),
        policy_version: 4,
        lease_ms: 3,
    };
    let held = HeldPeer { site: SiteId([3; 16]), most_ms: 4, most_bytes: 5 };
    let hold = HoldPeers { peers: vec![held], passed_ms: 6 };
    let snapshot = wal::SnapshotRecord {
        last: Some(position()),
        membership: membership(),
        pieces: vec![ChunkRef { chunk: ChunkId([10; 32]), sealed_bytes: 16 }],
    };
    let entry = |payload| wal::Entry { position: position(), payload };
    let group = GroupId(4);
    let records = vec![
        wal::WalRecord::Append((group, entry(wal::EntryPayload::Blank))),
        wal::WalRecord::Append((group, entry(wal::EntryPayload::Command(Bytes::from_static(b"command"))))),
        wal::WalRecord::Append((group, entry(wal::EntryPayload::Membership(membership().membership)))),
        wal::WalRecord::Vote((group, wal::Vote { term: 5, leader: NodeId(6), committed: true })),
        wal::WalRecord::Committed((group, Some(position()))),
        wal::WalRecord::TruncateAfter((group, Some(7))),
        wal::WalRecord::Purge((group, position())),
        wal::WalRecord::Snapshot((group, snapshot)),
    ];
    let head = wal::BatchHead {
        owner: [1; 16],
        offset: 9,
        opening: 6,
        previous_crc: 2,
        tail: 3,
        durable: 4,
        checkpoint: 7,
        checkpoint_records: 8,
        checkpoint_ends: true,
        records: 5,
    };
    let fed = FedDeltas {
        log: LogId([2; 16]),
        lineage: lineage(),
        deltas: vec![delta().to_bytes()],
        pruned: vec![PrunedDelta {
            cursor: cursor(),
            time: Hlc(5),
            total_bytes: 6,
            left: Left { operation: OperationId([8; 16]), removed: Some(BlindName([9; 32])) },
        }],
        floor: 7,
        head: cursor(),
        head_time: Hlc(1),
        closed: Hlc(2),
        policy: LogPolicy::default(),
        policy_version: 4,
        lease_ms: 3,
    };
    let closed = ClosedLog { log: LogId([2; 16]), generation: generation(), head: DeltaHash([5; 32]), closed: Hlc(9) };
    let acknowledge = Acknowledge {
        log: LogId([2; 16]),
        peer: SiteId([3; 16]),
        cursor: cursor(),
        time: Hlc(1),
        instead_of: Some(Hlc(7)),
    };
    let offer = LogOffer { descriptor: descriptor(), lineage: lineage(), head: cursor(), head_time: Hlc(3) };
    round_trip(delta());
    round_trip(records.clone());
    vec![
        ("delta", digest(&delta())),
        ("delta kinds", digest(&kinds)),
        ("descriptor", digest(&descriptor())),
        ("chunk receipt", digest(&receipt)),
        ("delta receipt", digest(&delta_receipt)),
        (
            "place",
            digest(&GroupCommand::Place(PlaceDeltas {
                log: LogId([2; 16]),
                time: Hlc(1),
                site: SiteId([1; 16]),
                proposals: vec![proposal(DeltaKind::Put)],
            })),
        ),
        ("accept", digest(&GroupCommand::Accept(accept))),
        (
            "promote",
            digest(&GroupCommand::Promote(Promote {
                log: LogId([2; 16]),
                generation: generation(),
                time: Hlc(1),
                weighed: None,
                cut: Some(Hlc(2)),
            })),
        ),
        ("fence", digest(&GroupCommand::Fence(Fence { log: LogId([2; 16]), lineage: lineage(), time: Hlc(1) }))),
        ("close", digest(&GroupCommand::Close(CloseTime { closed: Hlc(2), copies: vec![closed.clone()] }))),
        ("acknowledge", digest(&GroupCommand::Acknowledge(acknowledge))),
        ("hold peers", digest(&GroupCommand::HoldPeers(hold))),
        ("wal head", digest(&head)),
        ("wal records", digest(&records)),
        ("federated deltas", digest(&Request::FedDeltas(fed))),
        ("federated closed time", digest(&Request::FedClosed(FedClosed { group: GroupId(3), logs: vec![closed] }))),
        ("federation greeting", digest(&Request::FedHello(FedHello { site: SiteId([1; 16]), offers: vec![offer] }))),
        ("refusal", digest(&Reply::Refused(Refusal::retry(RefusalCode::Full, 7, "full")))),
    ]
}

#[test]
fn nothing_has_moved() {
    let found: Vec<String> = samples().into_iter().map(|(name, digest)| format!("{name}: {digest}")).collect();
    assert_eq!(found, GOLDEN);
}

/// Length of the encoded value and the first eight bytes of its BLAKE3.
const GOLDEN: [&str; 18] = [
    "delta: 285 adb8ac0eaff3bbf8",
    "delta kinds: 168 c97c00730c4298d0",
    "descriptor: 173 0834a459c8d72279",
    "chunk receipt: 20 248e14762baf662f",
    "delta receipt: 97 440b8be680968d38",
    "place: 227 caa3d099b33fb40d",
    "accept: 677 b0ca0ba1826eb831",
    "promote: 68 86f3146da8e5924b",
    "fence: 102 bdd92f09e92edf71",
    "close: 102 b874ef82aebe6e9f",
    "acknowledge: 123 1a7cfc5d55bb366b",
    "hold peers: 46 f1d188416211d249",
    "wal head: 69 157fb4f5b160ab63",
    "wal records: 362 7a6fafd4bffbc118",
    "federated deltas: 677 7cf10a98396781a0",
    "federated closed time: 98 bbf129546d2ebc0c",
    "federation greeting: 351 3e8f75bb2124defe",
    "refusal: 17 fbbee2b9c3533ce1",
];

#[test]
fn cut_and_flipped_records_are_errors_and_never_panics() {
    let good = Request::FedHello(FedHello {
        site: SiteId([1; 16]),
        offers: vec![LogOffer { descriptor: descriptor(), lineage: lineage(), head: cursor(), head_time: Hlc(3) }],
    })
    .to_bytes();
    for length in 0..good.len() {
        assert!(Request::from_bytes(good.slice(..length)).is_err(), "cut at {length}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        // It may well be another request; it is never a panic, and a length never reserves more than there is.
        drop(Request::from_bytes(bad.into()));
    }
}
