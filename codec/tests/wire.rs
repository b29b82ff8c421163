//! WIRE.md tells the truth: its tables are made from the declarations in the source, and golden vectors pin the bytes.
//!
//! After a deliberate change of a message, `FARSIDE_BLESS=1 cargo test -p farside-codec --test wire` writes the tables
//! anew; a change of bytes also raises `frame::VERSION`.

use bytes::Bytes;
use farside_codec::delta::{
    ChunkRef, Cursor, Deduplication, Delta, DeltaKind, EpochRecord, Extent, Generation, LogDescriptor, LogPolicy,
    Proposal,
};
use farside_codec::ids::{
    BlindName, ChunkId, DeltaHash, EpochId, Hlc, Label, LogId, NodeId, OperationId, SiteId, TenantId,
};
use farside_codec::message::{Hello, PutChunk, Refusal, RefusalCode, Reply, Request};
use farside_codec::{DecodeError, Field};
use proptest::prelude::*;
use std::fmt::Write;

const MESSAGES: &str = include_str!("../src/message.rs");
const PEERS: &str = include_str!("../src/peer.rs");
const FEDERATION: &str = include_str!("../src/federation.rs");
const REFUSALS: &str = include_str!("../src/refusal.rs");
const DUMP: &str = include_str!("../src/dump.rs");
const ASIDE: &str = include_str!("../src/aside.rs");
const AUDIT: &str = include_str!("../src/audit/mod.rs");
const ACTIONS: &str = include_str!("../src/audit/action.rs");
const SIDES: &str = include_str!("../src/sides.rs");
const IDENTITY: &str = include_str!("../src/identity.rs");
const AUTHORITY: &str = include_str!("../src/authority.rs");
const CLUSTER: &str = include_str!("../src/cluster.rs");
const DELTAS: &str = include_str!("../src/delta.rs");
/// What Raft says lies beside the group that says it, further down the road; one page describes the wire.
const RAFT: &str = include_str!("../../raft/src/message.rs");
const BEGIN: &str = "<!-- tables: made by codec/tests/wire.rs -->\n";
const END: &str = "<!-- end of tables -->";

/// One declaration of a record or a choice, as it stands in the source.
#[derive(Default)]
struct Declaration {
    choice: bool,
    name: String,
    about: String,
    /// Field or number, type or variant, meaning.
    rows: Vec<[String; 3]>,
}

fn declarations(source: &str) -> Vec<Declaration> {
    let mut found = Vec::new();
    let mut open: Option<Declaration> = None;
    let mut about = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            about = format!("{about} {}", text.trim()).trim().to_owned();
        } else if line == "record!(" || line == "choice!(" {
            open = Some(Declaration { choice: line == "choice!(", ..Declaration::default() });
            about.clear();
        } else if line == "pub struct Generation {" {
            open = Some(Declaration {
                name: "Generation".into(),
                about: std::mem::take(&mut about),
                ..Declaration::default()
            });
        } else if let Some(declaration) = open.as_mut() {
            if line == ");" || line == "}" && declaration.name == "Generation" {
                found.extend(open.take());
            } else if let Some(name) = line.strip_suffix('{') {
                declaration.name = name.trim().to_owned();
                declaration.about = without_links(std::mem::take(&mut about));
            } else if let Some(row) = line.strip_suffix(',') {
                declaration.rows.push(row_of(declaration.choice, row, std::mem::take(&mut about)));
            }
        } else if !line.starts_with("#[") {
            about.clear();
        }
    }
    found
}

/// Links of the source's own documentation lead nowhere on a page.
fn without_links(about: String) -> String {
    about.replace("[`", "`").replace("`]", "`")
}

fn row_of(choice: bool, row: &str, about: String) -> [String; 3] {
    let about = without_links(about);
    match choice {
        true => {
            let (variant, number) = row.split_once(" = ").expect("a variant has a number");
            [number.to_owned(), format!("`{variant}`"), about]
        }
        false => {
            let (field, kind) = row.trim_start_matches("pub ").split_once(": ").expect("a field has a type");
            [format!("`{field}`"), format!("`{kind}`"), about]
        }
    }
}

fn tables() -> String {
    let mut out = String::new();
    let sources = [
        ("Requests, replies and what they carry", MESSAGES),
        ("Peers", PEERS),
        ("Refusals", REFUSALS),
        ("Federation", FEDERATION),
        ("Changes of home", SIDES),
        ("What was set aside", ASIDE),
        ("External backups", DUMP),
        ("Identities", IDENTITY),
        ("The site's authority", AUTHORITY),
        ("Audit logs", AUDIT),
        ("What audit logs tell", ACTIONS),
        ("Deltas", DELTAS),
        ("Between the nodes of a site", CLUSTER),
        ("Between the nodes of a group", RAFT),
    ];
    for (heading, source) in sources {
        write!(out, "\n### {heading}\n").expect("text grows");
        for declaration in declarations(source) {
            let head = if declaration.choice { "| number | variant | |" } else { "| field | type | |" };
            write!(out, "\n#### {}\n\n{}\n\n{head}\n|---|---|---|\n", declaration.name, declaration.about)
                .expect("text grows");
            for [first, second, about] in declaration.rows {
                writeln!(out, "| {first} | {second} | {about} |").expect("text grows");
            }
        }
    }
    out.push('\n');
    out
}

#[test]
fn the_tables_of_wire_md_are_the_source() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../WIRE.md");
    let page = std::fs::read_to_string(path).expect("WIRE.md");
    let (before, rest) = page.split_once(BEGIN).expect("where the tables begin");
    let (written, after) = rest.split_once(END).expect("where the tables end");
    let made = tables();
    assert!(made.matches("####").count() > 40, "the source was not understood");
    if std::env::var_os("FARSIDE_BLESS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{made}{END}{after}")).expect("WIRE.md is written");
    } else {
        let differs = written.lines().zip(made.lines()).find(|(old, new)| old != new);
        assert!(written == made, "WIRE.md is out of date (FARSIDE_BLESS=1 writes it anew); first: {differs:?}");
    }
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

fn hello() -> Request {
    Request::Hello(Hello {
        oldest_version: 1,
        newest_version: 2,
        site: SiteId([0x11; 16]),
        site_name: label("near"),
        incarnation: 3,
        node: NodeId(4),
        shard: 5,
        shards: 6,
        groups: 7,
        now: Hlc(8),
    })
}

fn epoch() -> EpochRecord {
    EpochRecord { epoch: EpochId([1; 16]), salt: [2; 32], key_name: "k".into(), key_version: 3, check: [4; 16] }
}

fn delta() -> Delta {
    Delta {
        log: LogId([0x21; 16]),
        generation: Generation { counter: 1, site: SiteId([0x11; 16]), incarnation: 2 },
        sequence: 3,
        previous: DeltaHash([0x31; 32]),
        time: Hlc(4),
        closed: Hlc(5),
        proposal: Proposal {
            operation: OperationId([0x41; 16]),
            kind: DeltaKind::Epoch(epoch()),
            name: BlindName([0x51; 32]),
            key_epoch: EpochId([0x61; 16]),
            gc_epoch: 6,
            placement_epoch: 7,
            condition: Some(8),
            size_bytes: 9,
            chunks: vec![ChunkRef { chunk: ChunkId([0x71; 32]), sealed_bytes: 10 }],
            extent: Some(Extent { object: OperationId([0x42; 16]), index: 11 }),
            payload: Bytes::from_static(b"payload"),
            inline: Bytes::from_static(b"inline"),
        },
    }
}

fn descriptor() -> LogDescriptor {
    LogDescriptor {
        log: LogId([0x21; 16]),
        tenant: TenantId([0x22; 16]),
        tenant_name: label("acme"),
        name: label("main"),
        created: Hlc(1),
        first_epoch: epoch(),
        policy: LogPolicy {
            deduplication: Deduplication::Tenant,
            history_seconds: 2,
            lag_bound_seconds: 3,
            lag_stops_writers: true,
            home_lease_seconds: 4,
            sites: Some(vec![SiteId([1; 16])]),
            residency: None,
            quota_bytes: 5,
        },
        policy_version: 4,
    }
}

fn check<T: Field + PartialEq + std::fmt::Debug>(value: T, golden: &str) {
    let bytes = value.to_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    assert_eq!(T::from_bytes(bytes.clone()).as_ref(), Ok(&value));
    // A record has one length: nothing shorter or longer is the same record.
    for end in 0..bytes.len() {
        assert!(T::from_bytes(bytes.slice(..end)).is_err(), "{end} of {} bytes", bytes.len());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(T::from_bytes(longer.into()), Err(DecodeError::Trailing { extra: 1 }));
}

#[test]
fn golden_messages() {
    check(hello(), HELLO);
    check(Request::PutChunk(PutChunk { chunk: ChunkId([0x71; 32]), sealed_bytes: 10 }), PUT_CHUNK);
    check(Request::CreateLog(descriptor()), CREATE_LOG);
    let mut refusal = Refusal::retry(RefusalCode::NotHome, 250, "ask far");
    refusal.home = Some(label("far"));
    check(Reply::Refused(refusal), REFUSED);
    let cursor = Cursor {
        generation: Generation { counter: 1, site: SiteId([0x11; 16]), incarnation: 2 },
        sequence: 3,
        hash: DeltaHash([0x31; 32]),
    };
    check(cursor, CURSOR);
    check(delta(), DELTA);
}

const HELLO: &str = "01000100020011111111111111111111111111111111046e6561720300000000000000040000000000000005000600070000000800000000000000";
const PUT_CHUNK: &str = "100071717171717171717171717171717171717171717171717171717171717171710a000000";
const CREATE_LOG: &str = "420021212121212121212121212121212121222222222222222222222222222222220461636d65046d61696e0100000000000000010101010101010101010101010101010202020202020202020202020202020202020202020202020202020202020202010000006b03000000040404040404040404040404040404040200020000000000000003000000000000000104000000000000000101000000010101010101010101010101010101010005000000000000000400000000000000";
const REFUSED: &str = "000005000700000061736b206661720103666172fa000000";
const CURSOR: &str = "010000000000000011111111111111111111111111111111020000000000000003000000000000003131313131313131313131313131313131313131313131313131313131313131";
const DELTA: &str = "2121212121212121212121212121212101000000000000001111111111111111111111111111111102000000000000000300000000000000313131313131313131313131313131313131313131313131313131313131313104000000000000000500000000000000414141414141414141414141414141410300010101010101010101010101010101010202020202020202020202020202020202020202020202020202020202020202010000006b03000000040404040404040404040404040404045151515151515151515151515151515151515151515151515151515151515151616161616161616161616161616161610600000000000000070000000000000001080000000000000009000000000000000100000071717171717171717171717171717171717171717171717171717171717171710a00000001424242424242424242424242424242420b000000070000007061796c6f616406000000696e6c696e65";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever arrives is a message or an error; and a message that was understood is written back as it came.
    #[test]
    fn no_bytes_are_too_strange(number in 0u16..128, tail in proptest::collection::vec(any::<u8>(), 0..512)) {
        let bytes = Bytes::from([&number.to_le_bytes()[..], &tail].concat());
        if let Ok(request) = Request::from_bytes(bytes.clone()) {
            prop_assert_eq!(request.to_bytes(), bytes.clone());
        }
        if let Ok(reply) = Reply::from_bytes(bytes.clone()) {
            prop_assert_eq!(reply.to_bytes(), bytes);
        }
    }

    /// A flipped bit inside a message never panics and never lengthens it.
    #[test]
    fn damage_is_survived(at in 0usize..400, bit in 0u8..8) {
        let mut bytes = Request::CreateLog(descriptor()).to_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let bytes = Bytes::from(bytes);
        if let Ok(request) = Request::from_bytes(bytes.clone()) {
            prop_assert_eq!(request.to_bytes(), bytes);
        }
        let mut bytes = delta().to_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = Delta::parse(bytes.into());
    }
}
