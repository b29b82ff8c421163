//! External backups: what is sealed opens with the same key in the same place, and nowhere else; the bytes are pinned.

use bytes::Bytes;
use farside_codec::backup::*;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{GroupId, Hlc, Label, NodeId, SiteId};
use farside_codec::record::wal::LogPosition;
use proptest::prelude::*;

fn key() -> BackupKey {
    BackupKey::new(&[1; 32], SiteId([2; 16]))
}

fn manifest() -> Manifest {
    let position = LogPosition { term: 3, leader: NodeId(1), index: 99 };
    Manifest {
        number: 7,
        previous: [8; 32],
        site: SiteId([2; 16]),
        name: Label::parse("near").expect("a label"),
        incarnation: 1,
        groups: 16,
        geometry: Geometry::parse("4+2").expect("a geometry"),
        certificate: Bytes::from_static(b"certificate"),
        authority_key: Bytes::from_static(b"key"),
        cut: Hlc(5),
        finished: Hlc(6),
        dumps: vec![GroupDump { group: GroupId(1), last: Some(position), pieces: vec![[9; 32]] }],
        indexes: vec![ObjectReference { name: "indexes/1".into(), bytes: 10, hash: [11; 32] }],
        chunks: 12,
        chunk_bytes: 13,
    }
}

fn pack(contents: &[Vec<u8>]) -> SealedPack {
    let mut writer = PackWriter::new(&key(), [3; 16]);
    for (number, plain) in contents.iter().enumerate() {
        let kind = if number % 2 == 0 { EntryKind::Chunk } else { EntryKind::Piece };
        writer.append(kind, *blake3::hash(plain).as_bytes(), plain.clone());
    }
    writer.finish()
}

#[test]
fn an_object_opens_under_its_own_name_with_its_own_key_only() {
    let sealed = seal_object(&key(), ObjectKind::Manifest, "manifests/7", &manifest(), [4; 32]);
    let open = |key: &BackupKey, kind, name: &str| open_object::<Manifest>(key, kind, name, &sealed);
    assert_eq!(open(&key(), ObjectKind::Manifest, "manifests/7"), Ok(manifest()));
    assert_eq!(open(&key(), ObjectKind::Manifest, "manifests/8"), Err(BackupError::NotAuthentic));
    assert!(matches!(open(&key(), ObjectKind::Index, "manifests/7"), Err(BackupError::Layout(_))));
    let others = [BackupKey::new(&[9; 32], SiteId([2; 16])), BackupKey::new(&[1; 32], SiteId([9; 16]))];
    for other in &others {
        assert_eq!(open(other, ObjectKind::Manifest, "manifests/7"), Err(BackupError::NotAuthentic));
    }
    let wrong = open_object::<PackIndex>(&key(), ObjectKind::Manifest, "manifests/7", &sealed);
    assert_eq!(wrong, Err(BackupError::Contents));
}

#[test]
fn the_bytes_are_pinned() {
    let sealed = seal_object(&key(), ObjectKind::Manifest, "manifests/7", &manifest(), [4; 32]);
    let digest = |bytes: &[u8]| format!("{} {}", bytes.len(), &blake3::hash(bytes).to_string()[..16]);
    let packed = pack(&[vec![5; 1000], vec![6; 10]]).parts.concat();
    let got = [digest(&sealed), digest(&packed), SealedPack::name(&[0xab; 16])];
    assert_eq!(got, ["336 a781513655f4f953", "1212 9397d1fef537832f", "packs/ab/abababababababababababababababab"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_pack_gives_back_what_went_in_and_tells_every_flipped_bit(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        flip in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let sealed = pack(&contents);
        let mut bytes = sealed.parts.concat();
        prop_assert_eq!(bytes.len() as u64, sealed.bytes);
        let mut read = Vec::new();
        let entries = read_pack(&key(), &sealed.pack, &bytes, &mut |_, plain| read.push(plain)).expect("it is whole");
        prop_assert_eq!(&entries, &sealed.entries);
        prop_assert_eq!(&read, &contents);
        for (number, (entry, plain)) in (0..).zip(entries.iter().zip(&contents)) {
            let from = entry.offset as usize;
            let part = &bytes[from..from + entry.sealed_bytes as usize];
            prop_assert_eq!(open_entry(&key(), &sealed.pack, number, entry, part), Ok(plain.clone()));
            prop_assert!(open_entry(&key(), &sealed.pack, number + 1, entry, part).is_err());
            prop_assert!(open_entry(&key(), &[0; 16], number, entry, part).is_err());
        }
        let at = flip.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read_pack(&key(), &sealed.pack, &bytes, &mut |_, _| ()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open_object::<Manifest>(&key(), ObjectKind::Manifest, "x", &bytes).is_err());
        prop_assert!(read_pack(&key(), &[3; 16], &bytes, &mut |_, _| ()).is_err());
        prop_assert!(read_tail(&bytes, 400).is_err());
    }
}
