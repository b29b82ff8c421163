//! What a store gives back where a backup should lie.

use super::{Seed, values};
use farside_codec::Field;
use farside_codec::backup::{
    BackupKey, EntryKind, Manifest, ObjectKind, PackEntry, PackIndex, PackWriter, SiteMark, open_entry, open_object,
    read_pack, read_tail, seal_object,
};
use farside_codec::ids::Hlc;

const PACK: [u8; 16] = [3; 16];

fn key() -> BackupKey {
    BackupKey::new(&[1; 32], values::site(1))
}

/// An object or a pack as it comes, and with one byte changed one that was sealed here.
pub fn backup(bytes: &[u8]) {
    let key = key();
    let _ = open_object::<SiteMark>(&key, ObjectKind::Site, "site", bytes);
    let _ = open_object::<Vec<PackIndex>>(&key, ObjectKind::Index, "indexes/1", bytes);
    let _ = open_object::<Manifest>(&key, ObjectKind::Manifest, "manifests/1", bytes);
    let _ = read_tail(bytes, bytes.len() as u64);
    let mut opened = 0;
    if let Ok(entries) = read_pack(&key, &PACK, bytes, &mut |_, _| opened += 1) {
        assert_eq!(entries.len(), opened, "every entry of a pack that is whole opens");
    }
    let entry = PackEntry { kind: EntryKind::Chunk, id: [4; 32], offset: 0, sealed_bytes: bytes.len() as u32 };
    assert!(open_entry(&key, &PACK, 0, &entry, bytes).is_err(), "nothing was sealed under that name");
    let Some((at, contents)) = bytes.split_first() else { return };
    let mut writer = PackWriter::new(&key, PACK);
    writer.append(EntryKind::Piece, *blake3::hash(contents).as_bytes(), contents.to_vec());
    let mut whole = writer.finish().parts.concat();
    assert!(read_pack(&key, &PACK, &whole, &mut |_, plain| assert_eq!(plain, contents)).is_ok());
    let at = usize::from(*at) * whole.len() / 256;
    whole[at] ^= 1;
    assert!(read_pack(&key, &PACK, &whole, &mut |_, _| ()).is_err(), "byte {at} may change");
}

/// Seeds of [`backup`].
pub fn backup_seeds() -> Vec<Seed> {
    let key = key();
    let mark = SiteMark { site: values::site(1), name: values::label("near"), created: Hlc(3) };
    let mut writer = PackWriter::new(&key, PACK);
    writer.append(EntryKind::Chunk, *blake3::hash(b"chunk").as_bytes(), b"chunk".to_vec());
    writer.append(EntryKind::Piece, *blake3::hash(b"piece").as_bytes(), b"piece".to_vec());
    let pack = writer.finish();
    let index = vec![PackIndex { pack: pack.pack, bytes: pack.bytes, entries: pack.entries.clone() }];
    vec![
        ("site", seal_object(&key, ObjectKind::Site, "site", &mark, [5; 32]).to_vec()),
        ("index", seal_object(&key, ObjectKind::Index, "indexes/1", &index, [5; 32]).to_vec()),
        ("index-plain", index.to_bytes().to_vec()),
        ("pack", pack.parts.concat()),
        ("empty", Vec::new()),
    ]
}
