//! Sealing: what clients do so that nobody else ever holds a plaintext. Pure: random bytes and the KMS's answer come in.
//!
//! ```text
//! tenant data key  = KMS MAC(label: purpose, tenant, epoch, salt)                      one per tenant and epoch
//! chunk key        = HKDF(tenant data key, "chunk" | digest | version | segment | length)   one per plaintext
//! payload key      = HKDF(tenant data key, "payload" | log | 32 random bytes)               one per delta
//! blind-name key   = HKDF(tenant data key of the log's first epoch, "blind-name" | log)     one per log, for ever
//! ```
//! Why no nonce repeats under one key is proved in docs/sealing.md.

mod chunk;
mod keys;
mod object;
pub mod passphrase;
mod payload;
pub mod shares;

pub use chunk::{ChunkKey, ChunkSecret, RangePlan, open_chunk, open_range, seal_chunk, sealed_bytes};
pub use keys::{BlindKey, DigestKey, TenantDataKey, kms_label};
pub(crate) use keys::{cipher, hkdf};
pub use object::{ObjectKind, ObjectRecord};
pub use payload::{Binding, Sealed, open_payload, seal_payload};

/// Why sealed bytes don't open. Deliberately says no more than this: tampering, a wrong key and a wrong place look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// Not sealed with this key for this place, or changed since.
    NotAuthentic,
    /// Shorter than anything that was ever sealed, or of another length than it must have.
    Length,
    /// Sealed by a version that this build doesn't know.
    Version(u8),
    /// It opened, and what was inside is not an object record.
    Contents,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAuthentic => {
                f.write_str("sealed data does not open: it was changed, or the key is another tenant's")
            }
            Self::Length => f.write_str("sealed data has an impossible length"),
            Self::Version(version) => write!(f, "sealed by format version {version}, which this build does not read"),
            Self::Contents => f.write_str("sealed data opened, but holds no object record"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Version of every sealed format; enters each key or its AAD.
pub const SEAL_VERSION: u8 = 1;
