//! Sealed data opens for its owner in its place, as it was sealed, and never after a change of any byte.

use super::feed::Feed;
use super::wire::canonical;
use super::{Seed, values};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::delta::Extent;
use farside_codec::ids::{BlindName, ChunkId, LogId, OperationId};
use farside_codec::limits::SEGMENT_PLAIN_BYTES;
use farside_codec::seal::{
    Binding, ChunkKey, ChunkSecret, ObjectKind, ObjectRecord, OpenError, RangePlan, Sealed, TenantDataKey, open_chunk,
    open_payload, open_range, seal_chunk, seal_payload, sealed_bytes,
};

/// Longest chunk here: three segments and a little.
const MOST_PLAIN: usize = 3 * SEGMENT_PLAIN_BYTES + 20;

/// A chunk: sealed and opened, whole and in part, then with one byte changed, then in favour of any bytes at all.
pub fn chunk(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let key = TenantDataKey::from_mac([feed.byte(); 32]);
    let length = 1 + feed.word() as usize % MOST_PLAIN;
    let (from, wanted) = (feed.word() as usize % length, feed.word() as usize);
    let (at, change) = (feed.word() as usize, feed.byte().max(1));
    let pattern = feed.rest();
    let plain: Vec<u8> = (0..length).map(|at| pattern.get(at % 61).copied().unwrap_or(at as u8)).collect();
    let chunk_key = ChunkKey::new(&key, &ChunkSecret { digest: [7; 32], plain_bytes: length as u32 });
    let mut sealed = plain.clone();
    sealed.resize(sealed_bytes(length), 0);
    let id = seal_chunk(&chunk_key, &mut sealed);
    assert_eq!(id, ChunkId(*blake3::hash(&sealed).as_bytes()));
    let mut opened = sealed.clone();
    assert_eq!(open_chunk(&chunk_key, &mut opened), Ok(()));
    assert!(opened[..length] == plain, "what was sealed comes back");

    let at = at % sealed.len();
    let mut bad = sealed.clone();
    bad[at] ^= change;
    let end = from + 1 + wanted % (length - from);
    let plan = RangePlan::new(length, from..end).expect("a range of the chunk");
    let open = |sealed: &[u8]| {
        let mut text = sealed[plan.text.clone()].to_vec();
        open_range(&chunk_key, &plan, &mut text, &sealed[plan.tags.clone()])
            .map(|()| text[plan.within.clone()].to_vec())
    };
    assert!(open(&sealed).as_deref() == Ok(&plain[from..end]), "a range is a part of the whole");
    match plan.text.contains(&at) || plan.tags.contains(&at) {
        true => assert_eq!(open(&bad), Err(OpenError::NotAuthentic), "byte {at} may change"),
        false => assert!(open(&bad).as_deref() == Ok(&plain[from..end]), "what is not fetched says nothing"),
    }
    assert_eq!(open_chunk(&chunk_key, &mut bad), Err(OpenError::NotAuthentic), "byte {at} may change");
    let mut cut = sealed[..sealed.len() - 1].to_vec();
    assert_eq!(open_chunk(&chunk_key, &mut cut), Err(OpenError::Length));
    foreign_chunk(&key, pattern);
    assert_eq!(RangePlan::new(length, end..end), None);
    assert_eq!(RangePlan::new(length, from..length + 1), None);
}

/// Bytes that nobody sealed don't open, whatever length is claimed for them.
fn foreign_chunk(key: &TenantDataKey, bytes: &[u8]) {
    let plain_bytes = bytes.len().saturating_sub(16);
    for plain_bytes in [plain_bytes, plain_bytes + 1, 0, u32::MAX as usize] {
        let chunk_key = ChunkKey::new(key, &ChunkSecret { digest: [7; 32], plain_bytes: plain_bytes as u32 });
        let opened = open_chunk(&chunk_key, &mut bytes.to_vec());
        assert!(opened.is_err() || bytes.is_empty(), "{} bytes opened as {plain_bytes}", bytes.len());
    }
}

/// Seeds of [`chunk`].
pub fn chunk_seeds() -> Vec<Seed> {
    let seed = |length: u32, from: u32, wanted: u32, at: u32| {
        let numbers = [length - 1, from, wanted - 1, at].map(u32::to_le_bytes).concat();
        [&[1], &numbers[..], &[0x80], b"a pattern of contents, with a tag"].concat()
    };
    let segment = SEGMENT_PLAIN_BYTES as u32;
    vec![
        ("one-byte", seed(1, 0, 1, 16)),
        ("small", seed(1000, 10, 900, 999)),
        ("a-segment", seed(segment, 0, segment, segment)),
        ("across", seed(segment + 1, segment - 1, 2, segment)),
        ("three", seed(3 * segment, segment, segment, 2 * segment)),
        ("tag", seed(2 * segment + 5, 5, 5, 2 * segment + 6)),
    ]
}

fn binding<'a>(proposal: &'a farside_codec::delta::Proposal, log: LogId) -> Binding<'a> {
    Binding {
        log,
        name: proposal.name,
        operation: proposal.operation,
        chunks: &proposal.chunks,
        extent: proposal.extent.clone(),
        size_bytes: proposal.size_bytes,
    }
}

/// An object's record, and what is sealed of it: bound to its place, its bytes and nothing else.
pub fn payload(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let key = TenantDataKey::from_mac([feed.byte(); 32]);
    let (at, change, elsewhere) = (usize::from(feed.short()), feed.byte().max(1), feed.below(6));
    let inline = feed.below(64);
    let contents = feed.take(inline);
    let rest = feed.rest();
    let proposal = values::proposal(farside_codec::delta::DeltaKind::Put);
    let place = binding(&proposal, values::log(1));
    let foreign = Sealed { payload: Bytes::copy_from_slice(rest), inline: Bytes::copy_from_slice(contents) };
    assert!(open_payload(&key, &place, &foreign).is_err(), "nobody sealed this");
    let Some(object) = canonical::<ObjectRecord>(rest) else { return };
    if object.to_bytes().len() > 64 << 10 {
        return;
    }
    let contents = (!contents.is_empty()).then_some(contents);
    let sealed = seal_payload(&key, &place, [change; 32], &object, contents);
    let opened = open_payload(&key, &place, &sealed).expect("its own place");
    assert_eq!((opened.0, opened.1.as_deref()), (object, contents));
    let mut bad = sealed.clone();
    let at = at % (sealed.payload.len() + sealed.inline.len());
    let (part, within) = match at.checked_sub(sealed.payload.len()) {
        None => (&mut bad.payload, at),
        Some(within) => (&mut bad.inline, within),
    };
    let mut changed = part.to_vec();
    changed[within] ^= change;
    *part = changed.into();
    assert!(open_payload(&key, &place, &bad).is_err(), "byte {at} may change");
    let mut other = proposal.clone();
    let mut log = values::log(1);
    match elsewhere {
        0 => log = values::log(2),
        1 => other.name = BlindName([1; 32]),
        2 => other.operation = OperationId([1; 16]),
        3 => drop(other.chunks.pop()),
        4 => other.extent = Some(Extent { object: OperationId([11; 16]), index: 18 }),
        _ => other.size_bytes += 1,
    }
    let moved = open_payload(&key, &binding(&other, log), &sealed);
    assert_eq!(moved, Err(OpenError::NotAuthentic), "a payload opens in its own delta only");
}

/// Seeds of [`payload`].
pub fn payload_seeds() -> Vec<Seed> {
    let object = |kind: ObjectKind, chunks: usize| ObjectRecord {
        name: Bytes::from_static(b"a/name \xff"),
        kind,
        mode: 0o644,
        modified_seconds: 1,
        modified_nanoseconds: 2,
        size_bytes: 8,
        digest: [7; 32],
        chunks: vec![ChunkSecret { digest: [8; 32], plain_bytes: 9 }; chunks],
    };
    let seed = |at: u16, elsewhere: u8, contents: &[u8], object: ObjectRecord| {
        let head = [&[1], &at.to_le_bytes()[..], &[4, elsewhere, contents.len() as u8], contents].concat();
        [&head[..], &object.to_bytes()].concat()
    };
    let link = ObjectKind::Link(Bytes::from_static(b"../target"));
    vec![
        ("file", seed(0, 0, b"", object(ObjectKind::File, 2))),
        ("inline", seed(160, 1, b"contents", object(ObjectKind::File, 0))),
        ("link", seed(40, 2, b"", object(link, 0))),
        ("directory", seed(70, 5, b"", object(ObjectKind::Directory, 0))),
    ]
}
