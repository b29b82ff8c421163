//! Small objects of a backup: the mark of its site, indexes, manifests.
//!
//! An object is a frame: header ‖ salt (32) ‖ ciphertext ‖ tag (16). The header's flags say which kind it is, so that
//! damage is told from a wrong key without one.

use super::{BackupError, BackupKey, MAX_OBJECT_BYTES};
use crate::frame::{FrameHeader, HEADER_BYTES};
use crate::limits::TAG_BYTES;
use crate::message::kind;
use crate::seal::cipher;
use crate::{DecodeError, Field};
use aws_lc_rs::aead::{Aad, Nonce};
use bytes::Bytes;

/// What a small object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// Whose backups lie here.
    Site = 1,
    /// Where chunks and pieces lie.
    Index = 2,
    /// What one backup is made of.
    Manifest = 3,
    /// What is to go.
    Doomed = 4,
    /// Who is at work.
    Worker = 5,
}

const SALT_BYTES: usize = 32;

fn object_key(key: &BackupKey, kind: ObjectKind, name: &str, salt: &[u8]) -> [u8; 32] {
    key.derive(&[b"object", &[kind as u8], name.as_bytes(), salt])
}

/// Seals a record to be kept under `name`. The salt is random and used once.
pub fn seal_object(key: &BackupKey, kind: ObjectKind, name: &str, record: &impl Field, salt: [u8; 32]) -> Bytes {
    let mut body = record.to_bytes().to_vec();
    let cipher = cipher(object_key(key, kind, name, &salt));
    let sealed = cipher.seal_in_place_append_tag(nonce(0), Aad::empty(), &mut body);
    sealed.expect("an object is within the cipher's limit");
    let payload = [&salt[..], &body].concat();
    assert!(payload.len() <= MAX_OBJECT_BYTES, "an object is bounded by its maker");
    let header = FrameHeader::of_payload(kind::BACKUP_OBJECT, kind as u32, 0, &payload);
    [&header.to_array()[..], &payload].concat().into()
}

/// Opens what was kept under `name`.
pub fn open_object<R: Field>(key: &BackupKey, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<R, BackupError> {
    let header = FrameHeader::decode(bytes)?;
    let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
    header.check_payload(payload)?;
    if header.kind() != kind::BACKUP_OBJECT || header.flags() != kind as u32 {
        return Err(DecodeError::Unknown { what: "kind of a backup's object", value: u64::from(header.flags()) }.into());
    }
    let (salt, body) = payload.split_at_checked(SALT_BYTES).ok_or(BackupError::NotAuthentic)?;
    let mut body = body.to_vec();
    let cipher = cipher(object_key(key, kind, name, salt));
    let plain = cipher.open_in_place(nonce(0), Aad::empty(), &mut body).map_err(|_| BackupError::NotAuthentic)?.len();
    debug_assert_eq!(plain + TAG_BYTES, body.len());
    body.truncate(plain);
    R::from_bytes(body.into()).map_err(|_| BackupError::Contents)
}

/// A counted nonce.
pub(super) fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
