//! Keys, and how each follows from the one above it.

use crate::ids::{BlindName, EpochId, LogId, TenantId};
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What the KMS computes its MAC over: every part is preceded by its length, so that no two inputs give one label.
pub fn kms_label(tenant: TenantId, epoch: EpochId, salt: &[u8; 32]) -> Vec<u8> {
    let mut label = Vec::new();
    for part in [&b"farside tenant data key v1"[..], &tenant.0, &epoch.0, salt] {
        label.extend_from_slice(&(part.len() as u32).to_le_bytes());
        label.extend_from_slice(part);
    }
    label
}

struct Length32;

impl KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 (RFC 5869) with the parts, each preceded by its length, as info.
pub(crate) fn hkdf(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut info = Vec::with_capacity(128);
    for part in parts {
        info.extend_from_slice(&(part.len() as u32).to_le_bytes());
        info.extend_from_slice(part);
    }
    let mut out = [0; 32];
    let info = [&info[..]];
    let key = Prk::new_less_safe(HKDF_SHA256, key);
    key.expand(&info, Length32).and_then(|okm| okm.fill(&mut out)).expect("32 bytes are within HKDF's limit");
    out
}

/// A tenant's key for one epoch. Computed by the KMS, held in memory for minutes, stored nowhere.
pub struct TenantDataKey(Box<dyn AsRef<[u8]>>);

impl TenantDataKey {
    /// From the KMS's MAC over [`kms_label`], kept in memory like anything else until it is wiped.
    pub fn from_mac(mac: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(mac)))
    }

    /// The same MAC, where somebody keeps it better: whatever that is wipes it when it is dropped.
    pub fn kept(mac: impl AsRef<[u8]> + 'static) -> Self {
        assert_eq!(mac.as_ref().len(), 32, "the MAC is HMAC-SHA256's");
        Self(Box::new(mac))
    }

    pub(super) fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        hkdf((*self.0).as_ref(), parts)
    }

    /// Tells one key from another without telling anything else: a client pins it and refuses a KMS that disagrees.
    pub fn check(&self) -> [u8; 16] {
        let derived = self.derive(&[b"check"]);
        let mut out = [0; 16];
        out.copy_from_slice(&derived[..16]);
        out
    }

    /// The key that blinds a log's names. Only the key of the log's first epoch is ever asked.
    pub fn blind_key(&self, log: LogId) -> BlindKey {
        BlindKey(self.derive(&[b"blind-name", &log.0]))
    }

    /// The key of the digests that make equal plaintexts equal chunks, within a scope: a log's id or a tenant's.
    pub fn digest_key(&self, scope: &[u8; 16]) -> DigestKey {
        DigestKey(self.derive(&[b"digest", scope]))
    }
}

/// Blinds a log's names.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct BlindKey([u8; 32]);

impl BlindKey {
    /// The name as nodes see it: keyed BLAKE3.
    pub fn name(&self, name: &[u8]) -> BlindName {
        BlindName(*blake3::keyed_hash(&self.0, name).as_bytes())
    }
}

/// Makes chunk digests.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// Keyed BLAKE3 of a chunk's plaintext.
    pub fn digest(&self, plain: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, plain).as_bytes()
    }
}

/// AES-256-GCM under a key that is wiped here once the cipher holds it.
pub(crate) fn cipher(mut key: [u8; 32]) -> LessSafeKey {
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("the key has the cipher's length"));
    key.zeroize();
    cipher
}
