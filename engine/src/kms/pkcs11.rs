//! A tenant's keys in a token that speaks PKCS#11, such as
//! `pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/acme.pin`.
//!
//! A version of a key is a secret key object that bears the label `NAME.vN` and never leaves the token. Only private
//! objects count: whoever lacks the PIN could have put a public one there.
//!
//! PKCS#11 can't make an object only if its label is free. So two creators may both make one; nobody can tell under
//! which of them data was sealed meanwhile, and this module neither chooses nor destroys: it refuses the label until
//! the token's operator has given one of them another. Left out as well: PINs in the URL, PIN pads, and finding keys in any other way
//! than by label. Making a version reads the label of every secret key in the token, since PKCS#11 has no search by prefix.

mod address;
mod login;

use self::address::Address;
use self::login::{Refusal, is_logged_in};
use super::{Created, KmsError, Mac, TenantKms, is_key, name_of};
use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki::types::Ulong;
use futures_util::future::LocalBoxFuture;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long one operation may take, logging in included. A token in the network answers in milliseconds.
const LIMIT: Duration = Duration::from_secs(10);
/// What a key holds, and what a MAC has: as many bytes as SHA-256 gives.
const KEY_BYTES: usize = 32;

/// A session in which the user is logged in. It only reads: a token that is write-protected gives MACs all the same.
#[derive(Debug)]
struct Connection {
    address: Arc<Address>,
    library: Pkcs11,
    slot: Slot,
    session: Session,
}

impl Connection {
    /// The keys with a label, or all. Private objects hide from whoever isn't logged in, which must not look as if they
    /// were destroyed.
    fn find(&self, label: Option<&str>) -> Result<Vec<ObjectHandle>, Error> {
        let mut template =
            vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), Attribute::Private(true)];
        template.extend(label.map(|label| Attribute::Label(label.into())));
        let found = self.session.find_objects(&template)?;
        if found.is_empty() && !is_logged_in(&self.session)? {
            return Err(Error::Pkcs11(RvError::UserNotLoggedIn, Function::FindObjects));
        }
        Ok(found)
    }

    fn only(&self, label: &str) -> Result<Option<ObjectHandle>, Refusal> {
        match self.find(Some(label))?[..] {
            [] => Ok(None),
            [object] => Ok(Some(object)),
            _ => Err(self.ambiguous(label)),
        }
    }

    fn ambiguous(&self, label: &str) -> Refusal {
        Refusal::Final(self.address.failed(format!(
            "several keys bear the label {label}: give all but one another label, and the other one in turn if clients \
             then say that the KMS computes another key; remove none"
        )))
    }

    fn newest(&self, key: &str) -> Result<Option<u32>, Refusal> {
        let mut versions = Vec::new();
        for object in self.find(None)? {
            match self.session.get_attributes(object, &[AttributeType::Label]) {
                // It was destroyed meanwhile.
                Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => {}
                answer => versions.extend(answer?.iter().filter_map(|attribute| version_in(key, attribute))),
            }
        }
        versions.sort_unstable();
        match versions.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(self.ambiguous(&label_of(key, pair[0]))),
            None => Ok(versions.pop()),
        }
    }

    /// Makes a version of a key, and looks whether somebody else made the same one meanwhile.
    fn make(&self, key: &str, version: u32) -> Result<(), Refusal> {
        use RvError::{AttributeReadOnly, AttributeTypeInvalid, AttributeValueInvalid, TemplateInconsistent};
        let label = label_of(key, version);
        let writing = self.library.open_rw_session(self.slot)?;
        let generate = |verify| writing.generate_key(&Mechanism::GenericSecretKeyGen, &template(&label, verify));
        match generate(false) {
            // Some tokens make no key that signs and does not verify. One that verifies gives nothing more away.
            Err(Error::Pkcs11(
                AttributeReadOnly | AttributeTypeInvalid | AttributeValueInvalid | TemplateInconsistent,
                _,
            )) => generate(true)?,
            answer => answer?,
        };
        self.only(&label)?.map(|_| ()).ok_or_else(|| Refusal::Final(self.address.no_key(name_of(key, version))))
    }

    fn mac(&self, key: &str, version: u32, label: &[u8]) -> Result<Mac, Refusal> {
        let no_key = || Refusal::Final(self.address.no_key(name_of(key, version)));
        let object = self.only(&label_of(key, version))?.ok_or_else(no_key)?;
        let answer = match self.session.sign(&Mechanism::Sha256Hmac, object, label) {
            Err(Error::Pkcs11(RvError::KeyFunctionNotPermitted, _)) => {
                let (kms, key) = (self.address.url.clone(), name_of(key, version));
                let why = "the token does not let it sign: CKR_KEY_FUNCTION_NOT_PERMITTED".to_owned();
                return Err(Refusal::Final(KmsError::Revoked { kms, key, why }));
            }
            answer => Zeroizing::new(answer?),
        };
        let mut mac = Zeroizing::new([0; KEY_BYTES]);
        if answer.len() != mac.len() {
            let why = format!("its MAC has {} bytes instead of {KEY_BYTES}", answer.len());
            return Err(Refusal::Final(self.address.failed(why)));
        }
        mac.copy_from_slice(&answer);
        Ok(mac)
    }

    fn rotate(&self, key: &str, above: u32) -> Result<u32, Refusal> {
        let newest = self.newest(key)?.ok_or_else(|| Refusal::Final(self.address.no_key(key.to_owned())))?;
        let too_many = || Refusal::Final(self.address.failed(format!("{key} has as many versions as can be counted")));
        let next = newest.max(above).checked_add(1).ok_or_else(too_many)?;
        self.make(key, next).map(|()| next)
    }
}

fn label_of(key: &str, version: u32) -> String {
    format!("{key}.v{version}")
}

/// The version of a key that a label names. It has to be spelled as [`label_of`] spells it: no zeros, no sign.
fn version_in(key: &str, attribute: &Attribute) -> Option<u32> {
    let Attribute::Label(label) = attribute else { return None };
    let number = std::str::from_utf8(label).ok()?.strip_prefix(key)?.strip_prefix(".v")?;
    let version: u32 = number.parse().ok()?;
    (version > 0 && version.to_string() == number).then_some(version)
}

/// What a new key is: a secret that signs, stays in the token, and can't be read, wrapped, or used for anything else.
fn template(label: &str, verify: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(Ulong::new(KEY_BYTES as _)),
        Attribute::Label(label.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Verify(verify),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// A token, and this process's session in it. Opening one reads the PIN and contacts nothing: the first operation does.
#[derive(Debug)]
pub struct Pkcs11Kms {
    address: Arc<Address>,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Pkcs11Kms {
    /// Reads an RFC 7512 URL: a token (by `token`, `serial`, `manufacturer`, `model` and `slot-id`), the `module-path`
    /// of the library that speaks to it, and as `pin-source` the file that holds its PIN.
    pub fn open(url: &str) -> Result<Self, KmsError> {
        let mut address = Address::parse(url).map_err(|why| KmsError::Url { url: url.to_owned(), why })?;
        address.read_pin()?;
        Ok(Self { address: Arc::new(address), connection: Arc::default() })
    }

    fn checked(&self, key: &str, version: u32) -> Result<String, KmsError> {
        is_key(key, version).then(|| key.to_owned()).ok_or_else(|| self.address.no_key(name_of(key, version)))
    }

    /// Runs an operation in a thread that may block. One that outlives its time keeps the connection and is left
    /// alone: nothing can end a call into a module. Later operations wait for the connection without a thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, KmsError> {
        let (address, connection) = (self.address.clone(), self.connection.clone());
        let answer = async move {
            let mut connection = connection.lock_owned().await;
            tokio::task::spawn_blocking(move || attempt(&address, &mut connection, work)).await
        };
        match tokio::time::timeout(LIMIT, answer).await {
            Err(_) => Err(self.address.unreachable(format!("no answer within {} seconds", LIMIT.as_secs()))),
            Ok(Err(error)) => Err(self.address.failed(format!("the operation was cut off: {error}"))),
            Ok(Ok(answer)) => answer.map_err(|refusal| self.address.explain(refusal)),
        }
    }
}

/// Does something in the session there is, or in a new one. Does it once more in a new one if the session was at fault.
fn attempt<T>(
    address: &Arc<Address>,
    held: &mut Option<Connection>,
    work: impl Fn(&Connection) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => address.connect()?,
    };
    let mut answer = work(&connection);
    if answer.as_ref().is_err_and(Refusal::is_of_session) {
        // The old one is closed first: a token may allow no second.
        drop(connection);
        connection = address.connect()?;
        answer = work(&connection);
    }
    *held = Some(connection);
    answer
}

impl TenantKms for Pkcs11Kms {
    fn url(&self) -> String {
        self.address.url.clone()
    }

    fn create_key<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Created, KmsError>> {
        Box::pin(async move {
            let name = self.checked(key, 1)?;
            let create = move |connection: &Connection| match connection.newest(&name)? {
                Some(_) => Ok(false),
                None => connection.make(&name, 1).map(|()| true),
            };
            Ok(Created { key: self.run(create).await?, place: false })
        })
    }

    fn rotate<'a>(&'a self, key: &'a str, above: u32) -> LocalBoxFuture<'a, Result<u32, KmsError>> {
        Box::pin(async move {
            let name = self.checked(key, 1)?;
            self.run(move |connection| connection.rotate(&name, above)).await
        })
    }

    fn mac<'a>(&'a self, key: &'a str, version: u32, label: &'a [u8]) -> LocalBoxFuture<'a, Result<Mac, KmsError>> {
        Box::pin(async move {
            let (name, label) = (self.checked(key, version)?, label.to_owned());
            self.run(move |connection| connection.mac(&name, version, &label)).await
        })
    }
}
