//! A tenant's keys in a KMIP server: `kmip://HOST[:PORT]?ca=FILE&cert=FILE&key=FILE[&server-name=NAME]`.
//!
//! Follows the KMIP specification 1.2, sections 4.1 (Create), 4.9 (Locate), 4.12 (Get Attributes), 4.19 (Activate),
//! 4.21 (Destroy) and 4.33 (MAC). TTLV is in `ttlv`, messages, connections and the URL are beside this.
//!
//! Version N of key NAME is the symmetric key whose Name is `NAME.vN`: 256 random bits that the server draws, and that
//! may be used to compute MACs and for nothing else. They never leave the server. The algorithm of a key is HMAC-SHA256.
//! Where a server refuses to make such keys (PyKMIP does), the same bits are made under the algorithm AES, with the same
//! usage mask; every MAC names HMAC-SHA256 by itself, so this changes nothing but the label on the key.
//!
//! KMIP does not say that names are unique, and Locate followed by Create is two steps. So, before a key that was made
//! is activated, its maker looks whether it is alone, and destroys it if not: of two keys made at the same time the
//! later one always sees the other. Both may see each other and withdraw, and try again at different times. Where two
//! keys have one name all the same, nothing is computed under either.
//!
//! Creating and activating are two steps as well, and a client may die between them. So a key of ours that is found in
//! the state Pre-Active is activated once when a MAC is asked of it.
//!
//! The newest version is found by doubling and then bisecting, since Locate takes whole names only. That needs versions
//! without gaps: they may all be destroyed, which shreds what was sealed under them, but not one out of the middle.
//!
//! Bounds: a question is put up to three times, with pauses of 0.6 s at most between them. Each time there are 2 s to
//! connect, 5 s for TLS and 5 s for the answer. So it takes 16 s to give up on a server that accepts and says nothing.
//! Futures may be dropped at any time; a connection on which an answer is outstanding is then closed. Calls at the same
//! time each take a connection of their own, and one of them is kept.
//!
//! Deliberately left out: failing over to a second server (name a balanced host), re-keying by the server (it would
//! choose names itself), credentials in messages, and wiping the MAC in TLS's own buffers.

mod address;
mod connection;
mod message;

use crate::kms::ttlv::Item;
use crate::kms::{Created, KmsError, Mac, TenantKms, is_key, name_of};
use address::Address;
use connection::{Connection, LinkError, pause};
use futures_util::future::LocalBoxFuture;
use message::{Trouble, algorithm, operation, reason, state, unusable};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use zeroize::Zeroizing;

/// How often a question is put to a server whose connection breaks.
const ATTEMPTS: u32 = 3;

/// How many identifiers are remembered. When there are more, all are forgotten: a Locate finds them again.
const REMEMBERED: usize = 4096;

/// A newest version beyond this is no number of rotations, but a server that finds every name.
const HIGHEST_VERSION: u32 = 1 << 20;

/// The bytes of an HMAC-SHA256.
const MAC_BYTES: usize = 32;

/// A KMIP server that holds a tenant's keys.
pub struct KmipKms {
    address: Address,
    /// The connection that was used last, if no answer is outstanding on it.
    kept: Cell<Option<Connection>>,
    /// The identifiers of objects by name. Servers never give an identifier to a second object.
    identifiers: RefCell<HashMap<String, String>>,
}

impl std::fmt::Debug for KmipKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KmipKms").field(&self.address.to_string()).finish()
    }
}

/// A version of a key.
struct KeyVersion {
    /// How the server knows it.
    name: String,
    /// How people are told of it.
    shown: String,
}

impl KmipKms {
    /// Reads the URL of a server. Neither the server nor the files are looked at before the first question.
    pub fn open(url: &str) -> Result<Self, KmsError> {
        Ok(Self { address: Address::parse(url)?, kept: Cell::default(), identifiers: RefCell::default() })
    }
}

impl TenantKms for KmipKms {
    fn url(&self) -> String {
        self.address.to_string()
    }

    fn create_key<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Created, KmsError>> {
        Box::pin(async move { Ok(Created { key: self.create_first_version(key).await?, place: false }) })
    }

    fn rotate<'a>(&'a self, key: &'a str, above: u32) -> LocalBoxFuture<'a, Result<u32, KmsError>> {
        Box::pin(async move {
            let next = self.newest_version(key).await?.max(above).saturating_add(1);
            // If another client has made it since, the key was rotated all the same.
            self.make(&self.version(key, next)?).await?;
            Ok(next)
        })
    }

    fn mac<'a>(&'a self, key: &'a str, version: u32, label: &'a [u8]) -> LocalBoxFuture<'a, Result<Mac, KmsError>> {
        Box::pin(self.mac_under(key, version, label))
    }
}

/// What the trait asks for.
impl KmipKms {
    /// Looks at version 2 also: where only version 1 was destroyed, a new one would pass for the old one.
    async fn create_first_version(&self, key: &str) -> Result<bool, KmsError> {
        let first = self.version(key, 1)?;
        if self.locate(&first).await?.is_some() || self.locate(&self.version(key, 2)?).await?.is_some() {
            return Ok(false);
        }
        self.make(&first).await
    }

    /// The newest version of a key.
    pub async fn newest_version(&self, key: &str) -> Result<u32, KmsError> {
        let first = self.version(key, 1)?;
        if self.locate(&first).await?.is_none() {
            return Err(self.no_key(&first));
        }
        let (mut there, mut missing) = (1, 2);
        while self.locate(&self.version(key, missing)?).await?.is_some() {
            if missing >= HIGHEST_VERSION {
                return Err(self.failed(format!("it finds every version of {key}, even {missing}")));
            }
            (there, missing) = (missing, missing * 2);
        }
        while missing - there > 1 {
            let middle = there.midpoint(missing);
            if self.locate(&self.version(key, middle)?).await?.is_some() {
                there = middle;
            } else {
                missing = middle;
            }
        }
        Ok(there)
    }

    async fn mac_under(&self, key: &str, version: u32, label: &[u8]) -> Result<Mac, KmsError> {
        let version = self.version(key, version)?;
        let known = self.identifiers.borrow().get(&version.name).cloned();
        if let Some(identifier) = known {
            match self.mac_or_activate(&version, &identifier, label).await {
                // The server may have been set up anew from a copy of its keys: then the name leads further.
                Err(KmsError::NoKey { .. }) => _ = self.identifiers.borrow_mut().remove(&version.name),
                other => return other,
            }
        }
        let identifier = self.locate(&version).await?.ok_or_else(|| self.no_key(&version))?;
        let mac = self.mac_or_activate(&version, &identifier, label).await?;
        let mut identifiers = self.identifiers.borrow_mut();
        if identifiers.len() >= REMEMBERED {
            identifiers.clear();
        }
        identifiers.insert(version.name, identifier);
        Ok(mac)
    }
}

/// The steps of which that consists.
impl KmipKms {
    /// Makes a version unless it is there; answers whether it did, as far as it knows. A Create whose answer was lost is not repeated before a Locate has shown
    /// that it came to nothing.
    async fn make(&self, version: &KeyVersion) -> Result<bool, KmsError> {
        let mut lost = false;
        for attempt in 1..=ATTEMPTS {
            if let Some(identifier) = self.locate(version).await? {
                if !lost {
                    return Ok(false);
                }
                self.activate(version, &identifier).await?;
                return Ok(true);
            }
            match self.create(version).await {
                Ok(identifier) if self.settle(version, &identifier).await? => return Ok(true),
                // What the other client makes is found next. If it withdrew as well, the pauses set them apart.
                Ok(_) => {}
                Err(Trouble::Link(LinkError::Broken(_))) if attempt < ATTEMPTS => lost = true,
                Err(trouble) => return Err(self.error(version, trouble)),
            }
            pause(attempt).await;
        }
        Err(self.failed(format!("other clients are making {} all the time; try again", version.shown)))
    }

    /// One Create, and a second one where the server makes no keys for HMAC by that name of the algorithm.
    async fn create(&self, version: &KeyVersion) -> Result<String, Trouble> {
        let as_hmac = message::create(&version.name, algorithm::HMAC_SHA256);
        match self.ask(1, operation::CREATE, as_hmac, message::created).await {
            Err(Trouble::Refused { reason: reason::INVALID_FIELD | reason::FEATURE_NOT_SUPPORTED, .. }) => {
                let as_aes = message::create(&version.name, algorithm::AES);
                self.ask(1, operation::CREATE, as_aes, message::created).await
            }
            other => other,
        }
    }

    /// Activates a new key if it is the only one of its name, and destroys it otherwise; answers which. It is not active
    /// then, and a server destroys no active key: had someone begun to use it, it would stay.
    async fn settle(&self, version: &KeyVersion, identifier: &str) -> Result<bool, KmsError> {
        let all = self.locate_all(version).await?;
        if all.iter().all(|other| other == identifier) {
            self.activate(version, identifier).await?;
            return Ok(true);
        }
        let destroyed = self.ask(ATTEMPTS, operation::DESTROY, message::of_object(identifier), |_| Ok(())).await;
        destroyed.map_err(|trouble| self.error(version, trouble))?;
        Ok(false)
    }

    /// Activates a key, or finds that it is active: another client may have done it, or an answer was lost.
    async fn activate(&self, version: &KeyVersion, identifier: &str) -> Result<(), KmsError> {
        match self.ask(ATTEMPTS, operation::ACTIVATE, message::of_object(identifier), |_| Ok(())).await {
            Ok(()) => Ok(()),
            Err(trouble @ Trouble::Refused { .. }) => match self.state(version, identifier).await? {
                Some(state::ACTIVE) => Ok(()),
                _ => Err(self.error(version, trouble)),
            },
            Err(trouble) => Err(self.error(version, trouble)),
        }
    }

    /// The identifier of a version, if the server has it.
    async fn locate(&self, version: &KeyVersion) -> Result<Option<String>, KmsError> {
        let mut all = self.locate_all(version).await?;
        if all.len() > 1 {
            return Err(self.failed(format!(
                "the name {} is ambiguous: several objects have it, and which one is {} can't be told",
                version.name, version.shown
            )));
        }
        Ok(all.pop())
    }

    async fn locate_all(&self, version: &KeyVersion) -> Result<Vec<String>, KmsError> {
        match self.ask(ATTEMPTS, operation::LOCATE, message::locate(&version.name), message::located).await {
            // By the specification nothing found is no failure; not every server keeps to it.
            Err(Trouble::Refused { reason: reason::ITEM_NOT_FOUND, .. }) => Ok(Vec::new()),
            other => other.map_err(|trouble| self.error(version, trouble)),
        }
    }

    /// The state of a key, or None if the server does not tell it to this client.
    async fn state(&self, version: &KeyVersion, identifier: &str) -> Result<Option<u32>, KmsError> {
        let question = message::get_state(identifier);
        match self.ask(ATTEMPTS, operation::GET_ATTRIBUTES, question, message::state_of).await {
            Ok(state) => Ok(Some(state)),
            Err(Trouble::Refused { .. }) => Ok(None),
            Err(trouble) => Err(self.error(version, trouble)),
        }
    }

    /// A MAC under a key that may not be active yet. Servers give all sorts of reasons why a key in the wrong state is
    /// not used, permission denied among them: only its state tells a revoked key from a client without rights.
    async fn mac_or_activate(&self, version: &KeyVersion, identifier: &str, label: &[u8]) -> Result<Mac, KmsError> {
        let trouble = match self.mac_once(identifier, label).await {
            Ok(mac) => return Ok(mac),
            Err(trouble) => trouble,
        };
        let Trouble::Refused { reason: given, message } = &trouble else {
            return Err(self.error(version, trouble));
        };
        if matches!(*given, reason::ITEM_NOT_FOUND | reason::AUTHENTICATION_NOT_SUCCESSFUL) {
            return Err(self.error(version, trouble));
        }
        match self.state(version, identifier).await? {
            Some(state::PRE_ACTIVE) => {
                self.activate(version, identifier).await?;
                self.mac_once(identifier, label).await.map_err(|trouble| self.error(version, trouble))
            }
            Some(state::DEACTIVATED) => Err(self.revoked(version, format!("it is deactivated: {message}"))),
            Some(state::COMPROMISED) => Err(self.revoked(version, format!("it is marked as compromised: {message}"))),
            Some(state::DESTROYED | state::DESTROYED_COMPROMISED) => Err(self.no_key(version)),
            _ => Err(self.error(version, trouble)),
        }
    }

    async fn mac_once(&self, identifier: &str, label: &[u8]) -> Result<Mac, Trouble> {
        self.ask(ATTEMPTS, operation::MAC, message::mac(identifier, label), |payload| {
            let data = message::mac_data(payload)?;
            if data.len() != MAC_BYTES {
                return Err(format!("it answers with a MAC of {} bytes, not {MAC_BYTES}", data.len()));
            }
            let mut mac = Zeroizing::new([0; MAC_BYTES]);
            mac.copy_from_slice(data);
            Ok(mac)
        })
        .await
    }

    /// Asks a question up to so many times, as long as connections break.
    async fn ask<T>(
        &self,
        attempts: u32,
        operation: u32,
        payload: Vec<Item<'_>>,
        read: impl Fn(&Item<'_>) -> Result<T, String>,
    ) -> Result<T, Trouble> {
        let request =
            message::request(operation, payload).map_err(|error| unusable(format!("the request: {error}")))?;
        let mut attempt = 1;
        loop {
            let kept = self.kept.take();
            let is_new = kept.is_none();
            match self.ask_on(kept, &request, operation, &read).await {
                Err(Trouble::Link(LinkError::Broken(_))) if attempt < attempts => {
                    // A kept connection breaks when the server is restarted or tired of it. That says nothing of now.
                    if is_new {
                        pause(attempt).await;
                    }
                }
                other => return other,
            }
            attempt += 1;
        }
    }

    /// Asks once, on a connection that was kept or on a new one, and keeps it if the answer came whole.
    async fn ask_on<T>(
        &self,
        kept: Option<Connection>,
        request: &[u8],
        operation: u32,
        read: impl FnOnce(&Item<'_>) -> Result<T, String>,
    ) -> Result<T, Trouble> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(&self.address).await?,
        };
        let bytes = connection.ask(request).await?;
        let answer = message::answer(&bytes, operation, read);
        if !matches!(answer, Err(Trouble::Link(_))) {
            self.kept.set(Some(connection));
        }
        answer
    }
}

/// Names and errors.
impl KmipKms {
    fn version(&self, key: &str, version: u32) -> Result<KeyVersion, KmsError> {
        let named = KeyVersion { name: format!("{key}.v{version}"), shown: name_of(key, version) };
        if is_key(key, version) { Ok(named) } else { Err(self.no_key(&named)) }
    }

    fn no_key(&self, version: &KeyVersion) -> KmsError {
        KmsError::NoKey { kms: self.address.server(), key: version.shown.clone() }
    }

    fn revoked(&self, version: &KeyVersion, why: String) -> KmsError {
        KmsError::Revoked { kms: self.address.server(), key: version.shown.clone(), why }
    }

    fn failed(&self, why: String) -> KmsError {
        KmsError::Failed { kms: self.address.server(), why }
    }

    /// What is told of an operation on a version that gave nothing.
    fn error(&self, version: &KeyVersion, trouble: Trouble) -> KmsError {
        let kms = self.address.server();
        let (given, why) = match trouble {
            Trouble::Link(LinkError::Broken(why)) => return KmsError::Unreachable { kms, why },
            Trouble::Link(LinkError::Denied(why)) => return KmsError::Denied { kms, why },
            Trouble::Link(LinkError::Unusable(why)) => return KmsError::Failed { kms, why },
            Trouble::Refused { reason, message } => {
                (reason, format!("{}: {message}", message::reason_in_words(reason)))
            }
        };
        match given {
            reason::ITEM_NOT_FOUND | reason::OBJECT_DESTROYED | reason::OBJECT_NOT_FOUND => self.no_key(version),
            reason::AUTHENTICATION_NOT_SUCCESSFUL | reason::PERMISSION_DENIED | reason::NOT_AUTHORISED => {
                KmsError::Denied { kms, why }
            }
            reason::WRONG_KEY_LIFECYCLE_STATE => self.revoked(version, why),
            _ => KmsError::Failed { kms, why },
        }
    }
}
