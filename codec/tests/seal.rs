//! Sealed things open for their owner in their place, and nowhere else; and they never change their bytes.

use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{BlindName, ChunkId, EpochId, LogId, OperationId, TenantId};
use farside_codec::limits::SEGMENT_PLAIN_BYTES;
use farside_codec::seal::*;
use proptest::prelude::*;

fn key(byte: u8) -> TenantDataKey {
    TenantDataKey::from_mac([byte; 32])
}

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761) as u8).collect()
}

fn sealed(length: usize, digest: u8) -> (ChunkKey, Vec<u8>, ChunkId) {
    let chunk_key = ChunkKey::new(&key(1), &ChunkSecret { digest: [digest; 32], plain_bytes: length as u32 });
    let mut buffer = plain(length);
    buffer.resize(sealed_bytes(length), 0);
    let id = seal_chunk(&chunk_key, &mut buffer);
    (chunk_key, buffer, id)
}

#[test]
fn golden_vectors() {
    let label = kms_label(TenantId([1; 16]), EpochId([2; 16]), &[3; 32]);
    assert_eq!(label.len(), 4 * 4 + 26 + 16 + 16 + 32);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let (_, _, id) = sealed(3 * SEGMENT_PLAIN_BYTES + 17, 9);
    let sealed = seal_payload(&key(1), &binding(&[]), [5; 32], &object(b"name"), Some(b"contents"));
    let got = [
        hex(&key(1).check()),
        key(1).blind_key(LogId([4; 16])).name(b"name").to_string(),
        hex(&key(1).digest_key(&[4; 16]).digest(b"plain")),
        id.to_string(),
        blake3::hash(&sealed.payload).to_string(),
        hex(&sealed.inline),
    ];
    assert_eq!(got, GOLDEN);
}
const GOLDEN: [&str; 6] = [
    "20b2db10cc172fa8e14f28fe31c9166c",
    "20213bdd439f96f60f07cbe1228b03929bf8b8be0cfc557bbc3030aff7b3bd1e",
    "532e9638523dce45b967bdd15722fb5013c511e813392f6c8dac4ecd4e0ee081",
    "a0e24b3aca226dd4e650f36f5657e9b0965822b622aeccbbbd53f851e130c768",
    "b54ce6bbdae349fe86459d186a1288c1655d9bdf67f7c2441e63c47ae911e1a8",
    "3d0644b33f0b45dae89b8e7dfc864ad61bc23059b10938ae",
];

fn object(name: &'static [u8]) -> ObjectRecord {
    ObjectRecord {
        name: Bytes::from_static(name),
        kind: ObjectKind::File,
        mode: 0o644,
        modified_seconds: 1,
        modified_nanoseconds: 2,
        size_bytes: 8,
        digest: [7; 32],
        chunks: vec![],
    }
}

fn binding(chunks: &[ChunkRef]) -> Binding<'_> {
    Binding {
        log: LogId([4; 16]),
        name: BlindName([6; 32]),
        operation: OperationId([8; 16]),
        chunks,
        extent: None,
        size_bytes: 8,
    }
}

#[test]
fn segments_cannot_be_cut_moved_or_spliced() {
    let length = 3 * SEGMENT_PLAIN_BYTES;
    let (chunk_key, good, _) = sealed(length, 9);
    let mut opened = good.clone();
    open_chunk(&chunk_key, &mut opened).expect("opens");
    assert_eq!(opened[..length], plain(length));

    let mut cut = good[..2 * SEGMENT_PLAIN_BYTES].to_vec();
    cut.extend_from_slice(&good[length..length + 32]);
    assert_eq!(open_chunk(&chunk_key, &mut cut), Err(OpenError::Length));
    // Even a reader who was told the shorter length has another key.
    let shorter = ChunkSecret { digest: [9; 32], plain_bytes: 2 * SEGMENT_PLAIN_BYTES as u32 };
    assert_eq!(open_chunk(&ChunkKey::new(&key(1), &shorter), &mut cut), Err(OpenError::NotAuthentic));

    let mut swapped = good.clone();
    swapped[..SEGMENT_PLAIN_BYTES].copy_from_slice(&good[SEGMENT_PLAIN_BYTES..2 * SEGMENT_PLAIN_BYTES]);
    swapped[length..length + 16].copy_from_slice(&good[length + 16..length + 32]);
    assert_eq!(open_chunk(&chunk_key, &mut swapped), Err(OpenError::NotAuthentic));

    let (_, other, _) = sealed(length, 10);
    let mut spliced = good.clone();
    spliced[..SEGMENT_PLAIN_BYTES].copy_from_slice(&other[..SEGMENT_PLAIN_BYTES]);
    spliced[length..length + 16].copy_from_slice(&other[length..length + 16]);
    assert_eq!(open_chunk(&chunk_key, &mut spliced), Err(OpenError::NotAuthentic));
}

#[test]
fn a_payload_opens_only_where_it_belongs() {
    let chunks = [ChunkRef { chunk: ChunkId([1; 32]), sealed_bytes: 9 }];
    let at = binding(&chunks);
    let sealed = seal_payload(&key(1), &at, [5; 32], &object(b"name"), Some(b"contents"));
    let (record, contents) = open_payload(&key(1), &at, &sealed).expect("opens");
    assert_eq!((record, contents.as_deref()), (object(b"name"), Some(&b"contents"[..])));
    let elsewhere = [
        Binding { log: LogId([5; 16]), ..at.clone() },
        Binding { name: BlindName([5; 32]), ..at.clone() },
        Binding { operation: OperationId([5; 16]), ..at.clone() },
        Binding { chunks: &[], ..at.clone() },
        Binding { size_bytes: 9, ..at.clone() },
    ];
    for wrong in elsewhere {
        assert_eq!(open_payload(&key(1), &wrong, &sealed), Err(OpenError::NotAuthentic));
    }
    assert_eq!(open_payload(&key(2), &at, &sealed), Err(OpenError::NotAuthentic));
    let other = seal_payload(&key(1), &at, [6; 32], &object(b"name"), Some(b"contents"));
    let crossed = Sealed { payload: sealed.payload.clone(), inline: other.inline };
    assert_eq!(open_payload(&key(1), &at, &crossed), Err(OpenError::NotAuthentic));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_range_is_a_slice(length in 1usize..400_000, a: u32, b: u32) {
        let (chunk_key, sealed, _) = sealed(length, 3);
        let (a, b) = (a as usize % length, b as usize % length);
        let range = a.min(b)..a.max(b) + 1;
        let plan = RangePlan::new(length, range.clone()).expect("within");
        let mut text = sealed[plan.text.clone()].to_vec();
        open_range(&chunk_key, &plan, &mut text, &sealed[plan.tags.clone()]).expect("opens");
        prop_assert_eq!(&text[plan.within.clone()], &plain(length)[range]);
    }

    #[test]
    fn any_flipped_bit_is_noticed(length in 1usize..200_000, at: u32, bit in 0u8..8) {
        let (chunk_key, mut sealed, id) = sealed(length, 3);
        let at = at as usize % sealed.len();
        sealed[at] ^= 1 << bit;
        prop_assert_ne!(*blake3::hash(&sealed).as_bytes(), id.0);
        prop_assert_eq!(open_chunk(&chunk_key, &mut sealed), Err(OpenError::NotAuthentic));
    }
}
