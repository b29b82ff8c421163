//! Sealed delta payloads, and the contents of small objects beside them.
//!
//! version (1) ‖ fresh (32) ‖ ciphertext ‖ tag (16). The key follows from 32 bytes drawn for this sealing alone; under it
//! the payload has nonce 0 and the inline contents nonce 1. The AAD binds everything about the delta that nodes see,
//! so nobody moves a payload to another log, name, operation or chunk list.

use super::keys::{TenantDataKey, cipher};
use super::object::ObjectRecord;
use super::{OpenError, SEAL_VERSION};
use crate::delta::{ChunkRef, Extent};
use crate::field::Field;
use crate::ids::{BlindName, LogId, OperationId};
use crate::limits::{MAX_INLINE_PLAIN_BYTES, MAX_PAYLOAD_BYTES, TAG_BYTES};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::Bytes;

const FRESH_BYTES: usize = 32;
const PREFIX_BYTES: usize = 1 + FRESH_BYTES;

/// What a payload is bound to.
#[derive(Debug, Clone)]
pub struct Binding<'a> {
    /// The log.
    pub log: LogId,
    /// The object.
    pub name: BlindName,
    /// The operation.
    pub operation: OperationId,
    /// The chunks that the delta names.
    pub chunks: &'a [ChunkRef],
    /// Which part of a larger object it is.
    pub extent: Option<Extent>,
    /// The object's length.
    pub size_bytes: u64,
}

impl Binding<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut aad = b"farside delta payload".to_vec();
        self.log.encode(&mut aad);
        self.name.encode(&mut aad);
        self.operation.encode(&mut aad);
        self.extent.encode(&mut aad);
        self.size_bytes.encode(&mut aad);
        (self.chunks.len() as u32).encode(&mut aad);
        self.chunks.iter().for_each(|chunk| chunk.encode(&mut aad));
        aad
    }
}

/// A sealed payload and sealed contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The object record.
    pub payload: Bytes,
    /// The contents of a small object; empty where they lie in chunks, or there are none.
    pub inline: Bytes,
}

fn nonce(number: u8) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = number;
    Nonce::assume_unique_for_key(nonce)
}

fn payload_cipher(key: &TenantDataKey, log: LogId, fresh: &[u8]) -> LessSafeKey {
    cipher(key.derive(&[b"payload", &log.0, fresh, &[SEAL_VERSION]]))
}

/// Seals a record, and contents of up to 16 KiB. `fresh` must be drawn anew for every call.
pub fn seal_payload(
    key: &TenantDataKey,
    binding: &Binding<'_>,
    fresh: [u8; FRESH_BYTES],
    object: &ObjectRecord,
    contents: Option<&[u8]>,
) -> Sealed {
    let cipher = payload_cipher(key, binding.log, &fresh);
    let aad = binding.aad();
    let seal = |number: u8, mut plain: Vec<u8>| {
        let sealed = cipher.seal_in_place_append_tag(nonce(number), Aad::from(&aad), &mut plain);
        sealed.expect("a payload is within the cipher's limit");
        plain
    };
    let mut payload = vec![SEAL_VERSION];
    payload.extend_from_slice(&fresh);
    let mut plain = Vec::new();
    object.encode(&mut plain);
    payload.extend_from_slice(&seal(0, plain));
    assert!(payload.len() <= MAX_PAYLOAD_BYTES, "an object record is bounded by its maker");
    let inline = contents.map_or(Bytes::new(), |contents| {
        assert!(contents.len() <= MAX_INLINE_PLAIN_BYTES, "larger contents go into chunks");
        seal(1, contents.to_vec()).into()
    });
    Sealed { payload: payload.into(), inline }
}

/// Opens what [`seal_payload`] sealed for this very binding. Contents are `None` where there are none inline.
pub fn open_payload(
    key: &TenantDataKey,
    binding: &Binding<'_>,
    sealed: &Sealed,
) -> Result<(ObjectRecord, Option<Bytes>), OpenError> {
    let version = *sealed.payload.first().ok_or(OpenError::Length)?;
    if version != SEAL_VERSION {
        return Err(OpenError::Version(version));
    }
    if sealed.payload.len() < PREFIX_BYTES + TAG_BYTES {
        return Err(OpenError::Length);
    }
    let cipher = payload_cipher(key, binding.log, &sealed.payload[1..PREFIX_BYTES]);
    let aad = binding.aad();
    let open = |number: u8, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let opened = cipher.open_in_place(nonce(number), Aad::from(&aad), &mut bytes);
        let length = opened.map_err(|_| OpenError::NotAuthentic)?.len();
        bytes.truncate(length);
        Ok(Bytes::from(bytes))
    };
    let record = open(0, &sealed.payload[PREFIX_BYTES..])?;
    let record = ObjectRecord::from_bytes(record).map_err(|_| OpenError::Contents)?;
    let contents = if sealed.inline.is_empty() { None } else { Some(open(1, &sealed.inline)?) };
    Ok((record, contents))
}
