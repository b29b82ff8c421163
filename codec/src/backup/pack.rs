//! Packs: chunks and pieces of state, many to an object of tens of MiB.
//!
//! ```text
//! header (32) ‖ pack id (16) ‖ sealed entry ‖ ... ‖ sealed directory ‖ tail (20)
//! tail = offset of the directory (8) ‖ its length (4) ‖ entries (4) ‖ CRC32 of the sixteen bytes before (4)
//! ```
//! Entry i is ciphertext ‖ tag under the pack's key with nonce i, its kind and id in the AAD, so any of them is read by itself; the
//! directory comes after the last one in the count. Its copy in an index makes reading it unnecessary, as long as there is one.

use super::manifest::PackEntry;
use super::object::nonce;
use super::{BackupError, BackupKey, MAX_PACK_BYTES, MAX_PACK_ENTRIES, PACK_TARGET_BYTES};
use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::ids::{hex, parse_hex};
use crate::limits::TAG_BYTES;
use crate::message::kind;
use crate::seal::cipher;
use crate::{DecodeError, Field};
use aws_lc_rs::aead::{Aad, LessSafeKey};
use bytes::Bytes;

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A chunk, sealed by its tenant as it always is. Its id is the chunk's.
    Chunk = 1,
    /// A piece of a group's state. Its id is its BLAKE3.
    Piece = 2,
}

impl Field for EntryKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn decode(input: &mut crate::Reader) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            1 => Ok(Self::Chunk),
            2 => Ok(Self::Piece),
            other => Err(DecodeError::Unknown { what: "kind of a pack's entry", value: u64::from(other) }),
        }
    }
}

const HEAD_BYTES: usize = HEADER_BYTES + 16;
/// Bytes at the end of a pack that say where its directory is.
pub const TAIL_BYTES: usize = 20;

fn pack_cipher(key: &BackupKey, pack: &[u8; 16]) -> LessSafeKey {
    cipher(key.derive(&[b"pack", pack]))
}

fn aad(kind: EntryKind, id: &[u8; 32]) -> Aad<[u8; 33]> {
    let mut bound = [kind as u8; 33];
    bound[1..].copy_from_slice(id);
    Aad::from(bound)
}

/// A pack that is being filled.
pub struct PackWriter {
    pack: [u8; 16],
    cipher: LessSafeKey,
    parts: Vec<Bytes>,
    bytes: usize,
    entries: Vec<PackEntry>,
}

/// A pack, to be stored under [`SealedPack::name`].
pub struct SealedPack {
    /// Its id.
    pub pack: [u8; 16],
    /// Its bytes, in order.
    pub parts: Vec<Bytes>,
    /// How many bytes that is.
    pub bytes: u64,
    /// What is in it.
    pub entries: Vec<PackEntry>,
}

impl SealedPack {
    /// The name under which a pack is stored. Spread over 256 prefixes, as stores like it.
    pub fn name(pack: &[u8; 16]) -> String {
        let hex = hex(pack);
        format!("packs/{}/{hex}", &hex[..2])
    }

    /// The id of the pack that is stored under a name, if it is one's.
    pub fn id_of(name: &str) -> Option<[u8; 16]> {
        let mut pack = [0; 16];
        let is_hex = parse_hex(name.rsplit('/').next()?, &mut pack);
        (is_hex && Self::name(&pack) == name).then_some(pack)
    }
}

impl PackWriter {
    /// Begins a pack; its id is random and used once.
    pub fn new(key: &BackupKey, pack: [u8; 16]) -> Self {
        let header = FrameHeader::of_payload(kind::BACKUP_PACK, 0, 0, &pack);
        let head = [&header.to_array()[..], &pack].concat();
        Self { pack, cipher: pack_cipher(key, &pack), parts: vec![head.into()], bytes: HEAD_BYTES, entries: Vec::new() }
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// It should be stored before anything is added.
    pub fn is_full(&self) -> bool {
        self.bytes >= PACK_TARGET_BYTES || self.entries.len() >= MAX_PACK_ENTRIES
    }

    /// Seals one more entry.
    pub fn append(&mut self, kind: EntryKind, id: [u8; 32], mut plain: Vec<u8>) {
        assert!(!self.is_full(), "a full pack takes nothing in");
        let number = self.entries.len() as u32;
        let sealed = self.cipher.seal_in_place_append_tag(nonce(number), aad(kind, &id), &mut plain);
        sealed.expect("an entry is within the cipher's limit");
        self.entries.push(PackEntry { kind, id, offset: self.bytes as u32, sealed_bytes: plain.len() as u32 });
        self.bytes += plain.len();
        self.parts.push(plain.into());
    }

    /// Ends it.
    pub fn finish(mut self) -> SealedPack {
        let mut directory = self.entries.to_bytes().to_vec();
        let number = self.entries.len() as u32;
        let sealed = self.cipher.seal_in_place_append_tag(nonce(number), Aad::from(b"directory"), &mut directory);
        sealed.expect("a directory is within the cipher's limit");
        let mut tail = Vec::with_capacity(TAIL_BYTES);
        (self.bytes as u64).encode(&mut tail);
        (directory.len() as u32).encode(&mut tail);
        number.encode(&mut tail);
        crc32fast::hash(&tail).encode(&mut tail);
        self.bytes += directory.len() + tail.len();
        self.parts.extend([Bytes::from(directory), Bytes::from(tail)]);
        assert!(self.bytes <= MAX_PACK_BYTES, "a pack is bounded by its target and its largest entry");
        SealedPack { pack: self.pack, parts: self.parts, bytes: self.bytes as u64, entries: self.entries }
    }
}

/// Where a pack's directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackDirectory {
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub sealed_bytes: u32,
    /// Entries of the pack.
    pub entries: u32,
}

/// Reads the last [`TAIL_BYTES`] of a pack of so many bytes.
pub fn read_tail(tail: &[u8], pack_bytes: u64) -> Result<PackDirectory, BackupError> {
    let mut input = crate::Reader::new(Bytes::copy_from_slice(tail));
    let offset = u64::decode(&mut input)?;
    let (sealed_bytes, entries, crc) = (u32::decode(&mut input)?, u32::decode(&mut input)?, u32::decode(&mut input)?);
    input.finish()?;
    let directory = PackDirectory { offset, sealed_bytes, entries };
    let end = offset.checked_add(u64::from(sealed_bytes) + TAIL_BYTES as u64);
    if crc32fast::hash(&tail[..TAIL_BYTES - 4]) != crc {
        return Err(DecodeError::Corrupt { what: "a pack's tail" }.into());
    }
    match end == Some(pack_bytes) && offset >= HEAD_BYTES as u64 && entries as usize <= MAX_PACK_ENTRIES {
        true => Ok(directory),
        false => Err(DecodeError::Invalid { what: "a pack's tail" }.into()),
    }
}

/// Opens entry `number` of a pack: `sealed` is what lies where its directory says.
pub fn open_entry(
    key: &BackupKey,
    pack: &[u8; 16],
    number: u32,
    entry: &PackEntry,
    sealed: &[u8],
) -> Result<Vec<u8>, BackupError> {
    let plain = open_with(&pack_cipher(key, pack), number, entry, sealed)?;
    // What is sealed right was named by whoever had the key: a wrong name in there is a fault of ours.
    match *blake3::hash(&plain).as_bytes() == entry.id {
        true => Ok(plain),
        false => Err(BackupError::Contents),
    }
}

fn open_with(cipher: &LessSafeKey, number: u32, entry: &PackEntry, sealed: &[u8]) -> Result<Vec<u8>, BackupError> {
    let mut body = sealed.to_vec();
    let bound = aad(entry.kind, &entry.id);
    let plain = cipher.open_in_place(nonce(number), bound, &mut body).map_err(|_| BackupError::NotAuthentic)?.len();
    debug_assert_eq!(plain + TAG_BYTES, body.len());
    body.truncate(plain);
    Ok(body)
}

/// Reads a whole pack: its directory, and with it every entry, each handed to `visit` once it has been opened and its id
/// checked.
pub fn read_pack(
    key: &BackupKey,
    pack: &[u8; 16],
    bytes: &[u8],
    visit: &mut dyn FnMut(&PackEntry, Vec<u8>),
) -> Result<Vec<PackEntry>, BackupError> {
    let header = FrameHeader::decode(bytes)?;
    let name = bytes.get(HEADER_BYTES..HEAD_BYTES).unwrap_or_default();
    header.check_payload(name)?;
    if header.kind() != kind::BACKUP_PACK || name != pack {
        return Err(DecodeError::Invalid { what: "a pack's head" }.into());
    }
    let tail = bytes.len().checked_sub(TAIL_BYTES).and_then(|from| bytes.get(from..)).unwrap_or_default();
    let directory = read_tail(tail, bytes.len() as u64)?;
    let cipher = pack_cipher(key, pack);
    let part = |offset: u64, length: u32| {
        let from = usize::try_from(offset).ok()?;
        bytes.get(from..from.checked_add(length as usize)?)
    };
    let mut body = part(directory.offset, directory.sealed_bytes).ok_or(BackupError::NotAuthentic)?.to_vec();
    let opened = cipher.open_in_place(nonce(directory.entries), Aad::from(b"directory"), &mut body);
    let plain = opened.map_err(|_| BackupError::NotAuthentic)?.len();
    body.truncate(plain);
    let entries = Vec::<PackEntry>::from_bytes(body.into())?;
    if entries.len() != directory.entries as usize {
        return Err(BackupError::Contents);
    }
    for (number, entry) in (0..).zip(&entries) {
        let sealed = part(u64::from(entry.offset), entry.sealed_bytes).ok_or(BackupError::Contents)?;
        let plain = open_with(&cipher, number, entry, sealed)?;
        if *blake3::hash(&plain).as_bytes() != entry.id {
            return Err(BackupError::Contents);
        }
        visit(entry, plain);
    }
    Ok(entries)
}
