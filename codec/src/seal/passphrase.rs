//! The system key under a passphrase: Argon2id (RFC 9106) makes a key out of what people can remember, and makes each guess
//! cost memory and time; AES-256-GCM seals the system key under it.
//!
//! What it costs is part of the record, so that it can rise without a new format, and is bounded when it is read: a damaged
//! or hostile record asks for no more than [`MAX_MEMORY_KIB`] and about ten seconds.
//!
//! Deliberately absent: rules for good passphrases. Whoever steals the record guesses at a few tries a second and core, so
//! six random words hold, and a name with a number does not.

use super::keys::cipher;
use crate::field::{DecodeError, Field};
use crate::record;
use crate::seal::shares::SECRET_BYTES;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::aead::{Aad, Nonce};
use bytes::Bytes;
use zeroize::Zeroizing;

/// Memory of a guess: what RFC 9106 recommends where memory is not for the asking.
pub const DEFAULT_MEMORY_KIB: u32 = 64 << 10;
/// Passes over it, of the same recommendation.
pub const DEFAULT_PASSES: u32 = 3;
/// One: here lanes run one after the other, and only who guesses would have cores for more.
pub const DEFAULT_LANES: u32 = 1;
/// Least memory that a record may name. Nobody has written less.
pub const MIN_MEMORY_KIB: u32 = 8 << 10;
/// Most memory that a record may name: 1 GiB, which a node has.
pub const MAX_MEMORY_KIB: u32 = 1 << 20;
/// Most KiB that a record may have filled, all passes together: about ten seconds.
pub const MAX_FILLED_KIB: u64 = 8 << 20;
/// Most lanes.
pub const MAX_LANES: u32 = 16;

const VERSION: u8 = 1;
const LABEL: &[u8] = b"farside system key under a passphrase v1";

const _: () = assert!(DEFAULT_MEMORY_KIB >= MIN_MEMORY_KIB && DEFAULT_MEMORY_KIB <= MAX_MEMORY_KIB);
const _: () = assert!(DEFAULT_MEMORY_KIB as u64 * DEFAULT_PASSES as u64 <= MAX_FILLED_KIB);
const _: () = assert!(SECRET_BYTES + crate::limits::TAG_BYTES == 48);
// Argon2 wants eight blocks of 1 KiB a lane.
const _: () = assert!(MIN_MEMORY_KIB >= 8 * MAX_LANES);

record!(
    /// The system key, sealed under a passphrase.
    SealedKey {
        /// 1: Argon2id of version 1.3, AES-256-GCM.
        version: u8,
        /// Memory of Argon2id.
        memory_kib: u32,
        /// Its passes.
        passes: u32,
        /// Its lanes.
        lanes: u32,
        /// Its salt, drawn at random for each sealing.
        salt: [u8; 16],
        /// Ciphertext and tag. The nonce is zero: a key with a fresh salt seals one thing in its life.
        sealed: [u8; 48],
    }
);

/// Why a sealed key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsealError {
    /// It is another passphrase, or bytes of the record were changed by somebody who mended its checksum.
    WrongPassphrase,
    /// The machine has not the memory that the record asks for.
    Memory {
        /// How much.
        kib: u32,
    },
}

impl std::fmt::Display for UnsealError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WrongPassphrase => f.write_str("the passphrase is wrong"),
            Self::Memory { kib } => write!(f, "a passphrase takes {} MiB of memory, which are not there", kib >> 10),
        }
    }
}

impl std::error::Error for UnsealError {}

impl SealedKey {
    /// Seals `key` at the default cost. `salt` is fresh.
    pub fn seal(key: &[u8; SECRET_BYTES], passphrase: &[u8], salt: [u8; 16]) -> Result<Self, UnsealError> {
        let (memory_kib, passes, lanes) = (DEFAULT_MEMORY_KIB, DEFAULT_PASSES, DEFAULT_LANES);
        let mut record = Self { version: VERSION, memory_kib, passes, lanes, salt, sealed: [0; 48] };
        let mut body = Zeroizing::new(*key);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = cipher(*record.stretched(passphrase)?)
            .seal_in_place_separate_tag(nonce, Aad::from(record.bound()), &mut body[..])
            .expect("32 bytes are within the cipher's limit");
        record.sealed[..SECRET_BYTES].copy_from_slice(&body[..]);
        record.sealed[SECRET_BYTES..].copy_from_slice(tag.as_ref());
        Ok(record)
    }

    /// Reads one, and refuses what would cost more than anybody has asked for.
    pub fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        let record = Self::from_bytes(bytes)?;
        if record.version != VERSION {
            let (got, known) = (u16::from(record.version), u16::from(VERSION));
            return Err(DecodeError::Version { got, oldest: known, newest: known });
        }
        let too_long = |what, limit, got| Err(DecodeError::TooLong { what, limit, got });
        let filled = u64::from(record.memory_kib) * u64::from(record.passes);
        match record.memory_kib {
            kib if kib > MAX_MEMORY_KIB => too_long("memory of a passphrase", MAX_MEMORY_KIB as usize, kib as usize),
            kib if kib < MIN_MEMORY_KIB => Err(DecodeError::Invalid { what: "memory of a passphrase" }),
            _ if filled > MAX_FILLED_KIB => too_long("work of a passphrase", MAX_FILLED_KIB as usize, filled as usize),
            _ if record.passes == 0 => Err(DecodeError::Invalid { what: "passes of a passphrase" }),
            _ if !(1..=MAX_LANES).contains(&record.lanes) => {
                Err(DecodeError::Invalid { what: "lanes of a passphrase" })
            }
            _ => Ok(record),
        }
    }

    /// Opens it.
    pub fn open(&self, passphrase: &[u8]) -> Result<Zeroizing<[u8; SECRET_BYTES]>, UnsealError> {
        let mut body = Zeroizing::new(self.sealed);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let opened = cipher(*self.stretched(passphrase)?).open_in_place(nonce, Aad::from(self.bound()), &mut body[..]);
        let mut key = Zeroizing::new([0; SECRET_BYTES]);
        key.copy_from_slice(opened.map_err(|_| UnsealError::WrongPassphrase)?);
        Ok(key)
    }

    /// What the seal is bound to: everything before the ciphertext.
    fn bound(&self) -> Vec<u8> {
        let bytes = self.to_bytes();
        [LABEL, &bytes[..bytes.len() - self.sealed.len()]].concat()
    }

    fn stretched(&self, passphrase: &[u8]) -> Result<Zeroizing<[u8; 32]>, UnsealError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.expect("the bounds of a record are within Argon2's");
        let no_memory = |_| UnsealError::Memory { kib: self.memory_kib };
        // Wiped afterwards: it is as good as the passphrase for whoever finds it.
        let mut blocks: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
        blocks.try_reserve_exact(params.block_count()).map_err(no_memory)?;
        blocks.resize(params.block_count(), Block::new());
        let mut key = Zeroizing::new([0; 32]);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon
            .hash_password_into_with_memory(passphrase, &self.salt, &mut key[..], &mut blocks[..])
            .expect("a salt of 16 bytes, a passphrase that fits into memory, and as many blocks as it asked for");
        Ok(key)
    }
}
