//! The site's system key: the file that holds it, in the clear or sealed under a passphrase; the page of memory in which a
//! running node has it; and what operators do with it.
//!
//! Everything that the key seals at a node is opened through [`SystemKey`], wherever the key came from. What is written
//! is checked first: a key never takes the place of another one that opens this node's `authority.key`.
//!
//! Deliberately absent, so far: a TPM 2.0 or a PKCS#11 token that holds the key.

mod error;
mod exporting;
mod importing;
mod passphrase;
mod sealing;
pub(super) mod telling;
mod unlocking;

pub use error::KeyError;
pub use exporting::{ExportOptions, ExportState, KeyExport, KeyExports, confirm, export, key_of_shares};
pub use importing::{Imported, import};
pub use passphrase::{Passphrase, PassphraseError, PassphraseSource};
pub use sealing::{seal, unseal};
pub use unlocking::{obtain, unlock};

use super::directory::{DirectoryError, NodeDirectory};
use super::error::{NodeError, failed};
use crate::framed::{self, FileKind, FramedFileError};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use farside_codec::Field;
use farside_codec::seal::passphrase::SealedKey;
use farside_codec::seal::shares;
use farside_io::entropy::{Entropy, random};
use farside_io::secret::SecretPage;
use zeroize::Zeroizing;

const AUTHORITY_LABEL: &str = "farside site authority key v1";

/// The site's system key. Seals the CA's key here; never leaves the site but in shares.
pub struct SystemKey(Zeroizing<[u8; shares::SECRET_BYTES]>);

impl SystemKey {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(Zeroizing::new(random(entropy)))
    }

    /// The site's, as another of its nodes gave it, or its shares.
    pub fn from_bytes(bytes: [u8; shares::SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, for another node of the site.
    pub fn bytes(&self) -> &[u8; shares::SECRET_BYTES] {
        &self.0
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0[..]).expect("the key has the cipher's length"))
    }

    /// nonce (12) ‖ ciphertext ‖ tag. The nonce is random: a system key seals a handful of small files in its life.
    fn seal(&self, label: &str, plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        let nonce: [u8; 12] = random(entropy);
        let mut body = plain.to_vec();
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(label), &mut body)
            .expect("a small file is within the cipher's limit");
        [&nonce[..], &body].concat()
    }

    fn open(&self, label: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_first_chunk::<12>()?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.cipher().open_in_place(nonce, Aad::from(label), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }

    /// Writes a new node's key file, and the site CA's key sealed under it.
    pub fn save(
        &self,
        directory: &NodeDirectory,
        authority_key: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<(), DirectoryError> {
        self.write_clear(directory)?;
        let sealed = self.seal(AUTHORITY_LABEL, authority_key, entropy);
        Ok(framed::write(&directory.authority_key(), FileKind::AuthorityKey, &sealed)?)
    }

    fn write_clear(&self, directory: &NodeDirectory) -> Result<(), FramedFileError> {
        framed::write(&directory.system_key(), FileKind::SystemKey, &self.0[..])
    }

    /// The key of one of the site's CAs, sealed.
    pub(in crate::node) fn seal_authority(&self, authority_key: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
        self.seal(AUTHORITY_LABEL, authority_key, entropy)
    }

    /// Opens it; `None`: it was sealed under another system key, or is damaged.
    pub(in crate::node) fn open_authority(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.open(AUTHORITY_LABEL, sealed)
    }

    /// Reads the key of the site's first CA, which only the right system key opens.
    pub fn authority(&self, directory: &NodeDirectory) -> Result<Zeroizing<Vec<u8>>, DirectoryError> {
        let sealed = framed::read(&directory.authority_key(), FileKind::AuthorityKey)?;
        let wrong = || DirectoryError::WrongSystemKey(directory.authority_key());
        self.open(AUTHORITY_LABEL, &sealed).ok_or_else(wrong)
    }
}

/// What a node's key file holds.
pub enum KeyFile {
    /// The key: whoever reads the file has it.
    Clear(SystemKey),
    /// The key under a passphrase.
    Sealed(SealedKey),
}

impl KeyFile {
    /// Reads it.
    pub fn read(directory: &NodeDirectory) -> Result<Self, FramedFileError> {
        let path = directory.system_key();
        let (file, bytes) = framed::read_one_of(&path, &[FileKind::SystemKey, FileKind::SealedKey])?;
        let read = match file {
            FileKind::SealedKey => SealedKey::read(bytes).map(Self::Sealed),
            _ => <[u8; shares::SECRET_BYTES]>::from_bytes(bytes).map(|key| Self::Clear(SystemKey::from_bytes(key))),
        };
        read.map_err(|error| FramedFileError::Damaged(path, error))
    }

    /// The key. A passphrase is asked for only if it takes one.
    pub fn open(
        self,
        directory: &NodeDirectory,
        ask: impl FnOnce() -> Result<Passphrase, KeyError>,
    ) -> Result<SystemKey, KeyError> {
        match self {
            Self::Clear(key) => Ok(key),
            Self::Sealed(sealed) => ask()?.open(&sealed, directory),
        }
    }

    /// What status calls it.
    pub fn held(&self) -> &'static str {
        match self {
            Self::Clear(_) => "clear",
            Self::Sealed(_) => "passphrase",
        }
    }
}

/// The system key of a node's directory, for a command that needs it; it opens the directory's `authority.key`.
pub fn system_key(directory: &NodeDirectory, source: &PassphraseSource) -> Result<SystemKey, NodeError> {
    let key = KeyFile::read(directory)?.open(directory, || source.get("passphrase: "))?;
    key.authority(directory)?;
    Ok(key)
}

/// The system key as a running node has it, on a page of its own.
pub struct HeldKey {
    page: SecretPage,
    /// How it was unlocked; `None`: it was not sealed.
    unlocked_by: Option<&'static str>,
}

impl HeldKey {
    /// Keeps a key that opens the node's files.
    fn new(key: &SystemKey, directory: &NodeDirectory, unlocked_by: Option<&'static str>) -> Result<Self, NodeError> {
        // Refuses a wrong key now, not when a token is asked for.
        key.authority(directory)?;
        Ok(Self { page: SecretPage::new(key.bytes()).map_err(failed)?, unlocked_by })
    }

    /// Of a node whose key is not sealed.
    pub fn in_the_clear(directory: &NodeDirectory) -> Result<Self, NodeError> {
        let sealed = || Err(KeyError::Sealed(directory.system_key()));
        Self::new(&KeyFile::read(directory)?.open(directory, sealed)?, directory, None)
    }

    /// For a command that works on a node's devices while it is stopped.
    pub fn of_command(directory: &NodeDirectory, source: &PassphraseSource) -> Result<Self, NodeError> {
        Self::new(&system_key(directory, source)?, directory, None)
    }

    /// The key, for as long as it is used.
    pub fn key(&self) -> SystemKey {
        let mut key = SystemKey(Zeroizing::new([0; shares::SECRET_BYTES]));
        key.0.copy_from_slice(self.page.as_ref());
        key
    }

    /// How it was unlocked; `None`: it was not sealed.
    pub fn unlocked_by(&self) -> Option<&'static str> {
        self.unlocked_by
    }
}
