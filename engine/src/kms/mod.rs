//! A tenant's key management, as clients reach it. Nodes never do.
//!
//! The KMS computes a MAC; the tenant data key is that MAC and is stored nowhere. Each kind of KMS is one file beside this
//! one and implements [`TenantKms`]; the URL says which. Keys have versions, counted from 1; rotating makes the next one,
//! and every version that some data was sealed under has to stay.
//!
//! A URL is kept in a text file beside the client's context, so it never holds a secret: it names the files that do.

mod file;
mod kmip;
mod parameters;
mod pkcs11;
pub mod ttlv;
mod vault;

pub use file::FileKms;
pub use kmip::KmipKms;
pub use pkcs11::Pkcs11Kms;
pub use vault::VaultKms;

use crate::framed::FramedFileError;
use farside_codec::ids::Label;
use farside_io::entropy::{Entropy, SystemEntropy};
use futures_util::future::LocalBoxFuture;
use std::path::PathBuf;
use std::rc::Rc;
use zeroize::Zeroizing;

/// Longest URL of a KMS.
pub const MAX_URL_BYTES: usize = 4096;

/// How much is shown of what a stranger wrote.
const SHOWN_CHARACTERS: usize = 300;

/// Why a KMS gave no key.
#[derive(Debug)]
pub enum KmsError {
    /// The URL names no KMS that this build speaks to, or something in it is wrong.
    Url {
        /// As far as it names a place; [`open`] leaves out the rest.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such key, or it was destroyed.
    NoKey {
        /// Which KMS.
        kms: String,
        /// Name and version of the key.
        key: String,
    },
    /// The key is there, and the KMS does not let it be used: it was revoked, disabled, or is too old by its policy.
    Revoked {
        /// Which KMS.
        kms: String,
        /// Name and version of the key.
        key: String,
        /// What the KMS says.
        why: String,
    },
    /// The KMS does not accept this client's credentials, or they don't allow this.
    Denied {
        /// Which KMS.
        kms: String,
        /// What the KMS says.
        why: String,
    },
    /// The KMS is sealed: its operators have to unseal it.
    Sealed {
        /// Which KMS.
        kms: String,
    },
    /// It could not be reached, or did not answer in time, as often as it was tried.
    Unreachable {
        /// Which KMS.
        kms: String,
        /// What happened last.
        why: String,
    },
    /// It answered something that can't be used.
    Failed {
        /// Which KMS.
        kms: String,
        /// What was wrong.
        why: String,
    },
    /// The place that holds the keys is not there, or not mounted: nobody can say which it has.
    NoPlace(PathBuf),
    /// A file of keys is damaged.
    Damaged(FramedFileError),
    /// The operating system refused a file that the URL names.
    Io(PathBuf, std::io::Error),
}

impl std::fmt::Display for KmsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url { url, why } => write!(f, "{url} is no KMS: {why}"),
            Self::NoKey { kms, key } => write!(
                f,
                "the KMS {kms} has no key {key}: without it the tenant's data can't be read, here or anywhere"
            ),
            Self::Revoked { kms, key, why } => write!(f, "the KMS {kms} lets nobody use key {key}: {why}"),
            Self::Denied { kms, why } => write!(f, "the KMS {kms} denies this client: {why}"),
            Self::Sealed { kms } => write!(f, "the KMS {kms} is sealed"),
            Self::Unreachable { kms, why } => write!(f, "the KMS {kms} does not answer: {why}"),
            Self::Failed { kms, why } => write!(f, "the KMS {kms}: {why}"),
            Self::NoPlace(path) => write!(f, "the directory of keys {} is not there", path.display()),
            Self::Damaged(error) => error.fmt(f),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for KmsError {}

/// One kind of KMS: computes MACs under keys that never leave it.
pub trait TenantKms: std::fmt::Debug {
    /// The URL that opens it again, wherever the process runs. It holds no secret.
    fn url(&self) -> String;

    /// Makes version 1 of a key for HMAC-SHA256 unless the KMS has a key of that name.
    fn create_key<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Created, KmsError>>;

    /// Takes back what [`TenantKms::create_key`] made. A KMS that others share keeps it, as this does: a key that nobody
    /// needs is litter, and nobody here can know that none has sealed under it meanwhile.
    fn take_back<'a>(&'a self, key: &'a str, created: Created) -> LocalBoxFuture<'a, ()> {
        let _ = (key, created);
        Box::pin(std::future::ready(()))
    }

    /// Makes the next version of a key, and answers its number, which is greater than `above`: versions that were used
    /// and are gone must not come back as others.
    fn rotate<'a>(&'a self, key: &'a str, above: u32) -> LocalBoxFuture<'a, Result<u32, KmsError>>;

    /// HMAC-SHA256 of `label` under a version of a key.
    fn mac<'a>(&'a self, key: &'a str, version: u32, label: &'a [u8]) -> LocalBoxFuture<'a, Result<Mac, KmsError>>;
}

/// A MAC, wiped from memory when it is no longer needed.
pub type Mac = Zeroizing<[u8; 32]>;

/// What came into being with a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Created {
    /// The key was made; otherwise it was there.
    pub key: bool,
    /// So was the place that holds it.
    pub place: bool,
}

/// Opens the KMS that a URL names: `file:DIR`, `vault:https://HOST[:PORT]?..`, `pkcs11:token=NAME?..`,
/// `kmip://HOST[:PORT]?..`. Nothing is asked yet.
pub fn open(url: &str, entropy: &Rc<dyn Entropy>) -> Result<Rc<dyn TenantKms>, KmsError> {
    let opened = open_as_given(url, entropy);
    // The message may be kept somewhere, and somebody may have put a secret where none belongs.
    opened.map_err(|error| match error {
        KmsError::Url { url, why } => KmsError::Url { url: without_secrets(&url), why },
        other => other,
    })
}

/// A URL as far as it names a place: without users, passwords and parameters.
fn without_secrets(url: &str) -> String {
    let place = url.split(['?', ';', '#', '=']).next().unwrap_or_default();
    let place = match (place.find("//"), place.rfind('@')) {
        (Some(slashes), Some(at)) if slashes < at => format!("{}//{}", &place[..slashes], &place[at + 1..]),
        (None, Some(at)) => place[at + 1..].to_owned(),
        _ => place.to_owned(),
    };
    let cut = place.len() < url.len();
    let place = presentable(&place);
    if cut { format!("{place}..") } else { place }
}

fn open_as_given(url: &str, entropy: &Rc<dyn Entropy>) -> Result<Rc<dyn TenantKms>, KmsError> {
    let refuse = |why: &str| Err(KmsError::Url { url: url.to_owned(), why: why.into() });
    if url.len() > MAX_URL_BYTES {
        return refuse("it is longer than any URL of a KMS");
    }
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("file") => Ok(Rc::new(FileKms::parse(url, entropy.clone())?)),
        Some("kmip") => Ok(Rc::new(KmipKms::open(url)?)),
        Some("pkcs11") => Ok(Rc::new(Pkcs11Kms::open(url)?)),
        Some("vault") => Ok(Rc::new(VaultKms::parse(url, entropy.clone())?)),
        _ => refuse("this build speaks to file:DIR, vault:https://HOST, pkcs11:token=NAME and kmip://HOST"),
    }
}

/// What [`open`] reads wherever the process runs, of a URL as somebody typed it here.
pub fn absolute_url(url: &str) -> Result<String, KmsError> {
    let entropy: Rc<dyn Entropy> = Rc::new(SystemEntropy);
    open(url, &entropy).map(|kms| kms.url())
}

/// Whether this can be a version of a tenant's key. Names come from a site: what is none must lead neither to another
/// place in the KMS nor out of a directory.
fn is_key(key: &str, version: u32) -> bool {
    Label::parse(key).is_some() && version > 0
}

/// A key's name and version, for people.
fn name_of(key: &str, version: u32) -> String {
    format!("{}, version {version}", presentable(key))
}

/// What a stranger wrote, cut and without control characters, so that it can't fill or steer a terminal.
fn presentable(text: &str) -> String {
    let visible = |letter: char| match letter.is_control() {
        true if letter.is_whitespace() => ' ',
        true => char::REPLACEMENT_CHARACTER,
        false => letter,
    };
    text.chars().take(SHOWN_CHARACTERS).map(visible).collect()
}
