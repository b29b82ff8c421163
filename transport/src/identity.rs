//! Who is who: a site's certificate authority, the identities it issues, and whom a site trusts.
//!
//! A certificate carries its holder in one URI name: `farside://SITE/ROLE/SUBJECT`, with the site's id in hexadecimal.
//! A site's own authority may issue any role; a peer site's authority is believed only about its own site, and only
//! for `peer` identities that call here and `node` identities that are called from here. Keys are Ed25519: signatures
//! have one length, which keeps a simulated handshake reproducible.
//!
//! A certificate is told from every other one by its serial, which follows from its key; by that it is revoked.

use crate::limits::MAX_SUBJECT_BYTES;
use farside_codec::ids::{Label, SiteId};
use farside_io::entropy::{Entropy, random};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use zeroize::Zeroizing;

/// What the holder of a certificate may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node of the site: answers calls, and calls on other nodes.
    Node,
    /// A tenant's client; the subject is the tenant's id.
    Client,
    /// A site calling on its peer.
    Peer,
    /// An operator of the site.
    Admin,
}

impl Role {
    /// As it stands in certificates and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Node, Self::Client, Self::Peer, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

fn is_subject(text: &str) -> bool {
    let rule = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && text.bytes().all(rule)
}

/// Who a certificate says that its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its role.
    pub role: Role,
    /// Which one: a node's number, a tenant's id, an operator's name.
    pub subject: String,
    /// The site whose authority issued it.
    pub site: SiteId,
}

impl Caller {
    /// As it stands in a certificate.
    pub fn uri(&self) -> String {
        format!("farside://{}/{}/{}", self.site, self.role.as_str(), self.subject)
    }

    /// Reads what [`Caller::uri`] writes.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("farside://")?.splitn(3, '/');
        let (site, role, subject) = (parts.next()?, parts.next()?, parts.next()?);
        let caller = Self { site: SiteId::parse(site)?, role: Role::parse(role)?, subject: subject.to_owned() };
        // A peer's authority may have written anything; a subject ends up in log lines and comparisons.
        is_subject(subject).then_some(caller)
    }

    /// Reads the one name of a certificate, without verifying anything else about it. Several URIs are none:
    /// who is checked must be who is meant.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names = certificate.valid_uri_names();
        match (names.next(), names.next()) {
            (Some(name), None) => Self::parse(name),
            _ => None,
        }
    }
}

/// What tells a certificate from all others: the first bytes of its public key.
pub type Serial = [u8; 16];

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub begins: u64,
    /// The last one.
    pub ends: u64,
}

impl Validity {
    /// When the authority signed it.
    pub fn issued(&self) -> u64 {
        self.begins.saturating_add(CLOCK_ALLOWANCE.as_secs())
    }
}

/// The serial of a certificate, if it has one of ours: DER drops zeroes in front, and adds one before a high bit.
pub fn serial_of(certificate: &CertificateDer<'_>) -> Option<Serial> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let number = certificate.serial();
    let number = number.iter().position(|byte| *byte != 0).and_then(|first| number.get(first..)).unwrap_or_default();
    let mut serial = Serial::default();
    let free = serial.len().checked_sub(number.len())?;
    serial.iter_mut().skip(free).zip(number).for_each(|(to, from)| *to = *from);
    Some(serial)
}

/// From when until when a certificate is good.
pub fn validity_of(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let validity = certificate.validity();
    Some(Validity { begins: seconds(validity.not_before), ends: seconds(validity.not_after) })
}

/// Whether an authority has issued a certificate, whenever that is good.
pub fn is_issued_by(certificate: &[u8], authority: &[u8]) -> bool {
    let (certificate, authority) = (CertificateDer::from(certificate), CertificateDer::from(authority));
    let Some(validity) = validity_of(&certificate) else { return false };
    let (Ok(end), Ok(anchor)) =
        (webpki::EndEntityCert::try_from(&certificate), webpki::anchor_from_trusted_cert(&authority))
    else {
        return false;
    };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(validity.ends));
    let (anchors, usage) = ([anchor], webpki::KeyUsage::client_auth());
    end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None).is_ok()
}

/// Why an authority or an identity can't be made or used.
#[derive(Debug, Clone, PartialEq)]
pub enum IdentityError {
    /// The certificate library refused.
    Certificate(rcgen::Error),
    /// A certificate carries no Farside name, or several.
    NoName,
    /// A subject has characters that don't belong in a name.
    BadSubject,
    /// TLS refuses the key or the chain.
    Tls(rustls::Error),
    /// A certificate can't be read.
    Unreadable,
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "certificate: {error}"),
            Self::NoName => f.write_str("the certificate carries no farside:// name"),
            Self::BadSubject => f.write_str("a subject is 1 to 128 of a-z 0-9 . _ -"),
            Self::Tls(error) => write!(f, "TLS refuses the identity: {error}"),
            Self::Unreadable => f.write_str("the certificate can't be read"),
        }
    }
}

impl std::error::Error for IdentityError {}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

/// A certificate chain with its key: what one proves oneself with.
pub struct Identity {
    caller: Caller,
    serial: Serial,
    validity: Validity,
    certificate: Vec<u8>,
    /// The issuer's key, certified by the authority before it (DER).
    endorsement: Option<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// Puts together what [`Identity::certificate`] and [`Identity::key`] gave.
    pub fn from_parts(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<Self, IdentityError> {
        let der = CertificateDer::from(certificate.as_slice());
        let caller = Caller::of_certificate(&der).ok_or(IdentityError::NoName)?;
        let serial = serial_of(&der).ok_or(IdentityError::Unreadable)?;
        let validity = validity_of(&der).ok_or(IdentityError::Unreadable)?;
        Ok(Self { caller, serial, validity, certificate, endorsement: None, key })
    }

    /// Whom it names.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
    /// What tells its certificate from all others.
    pub fn serial(&self) -> Serial {
        self.serial
    }
    /// From when until when it is good.
    pub fn validity(&self) -> Validity {
        self.validity
    }
    /// The certificate (DER).
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    /// The private key (PKCS #8 DER).
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The same, shown with what makes those find the way who trust only the authority before the one that issued it.
    pub fn endorsed_by(self, endorsement: Option<Vec<u8>>) -> Self {
        Self { endorsement, ..self }
    }

    pub(crate) fn rustls_chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = std::iter::once(&self.certificate).chain(&self.endorsement);
        chain.map(|certificate| CertificateDer::from(certificate.clone())).collect()
    }
    pub(crate) fn rustls_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            caller: self.caller.clone(),
            serial: self.serial,
            validity: self.validity,
            certificate: self.certificate.clone(),
            endorsement: self.endorsement.clone(),
            key: self.key.clone(),
        }
    }
}

/// An identity that may be exchanged for a newer one while connections are up: they go on under the one that they were
/// made with. Clones share it.
#[derive(Clone)]
pub struct HeldIdentity(Arc<RwLock<Identity>>);

impl std::fmt::Debug for HeldIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldIdentity({})", self.get().caller.uri())
    }
}

impl HeldIdentity {
    /// Holds this one.
    pub fn new(identity: Identity) -> Self {
        Self(Arc::new(RwLock::new(identity)))
    }

    /// The one that is shown from now on.
    pub fn get(&self) -> Identity {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another one to whoever connects from now on.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }
}

impl From<Identity> for HeldIdentity {
    fn from(identity: Identity) -> Self {
        Self::new(identity)
    }
}

/// A key that was made for an identity, whose certificate somebody else is to sign: the key itself goes nowhere.
pub struct IdentityRequest {
    public_key: [u8; 32],
    key: Zeroizing<Vec<u8>>,
}

impl IdentityRequest {
    /// Makes one.
    pub fn new(entropy: &dyn Entropy) -> Result<Self, IdentityError> {
        let (key, der) = fresh_key(entropy)?;
        let public_key = key.public_key_raw().try_into().map_err(|_| IdentityError::Unreadable)?;
        Ok(Self { public_key, key: der })
    }

    /// What is to be signed.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// The identity, with the certificate that came back. Refused where that is over another key.
    pub fn complete(self, certificate: Vec<u8>) -> Result<Identity, IdentityError> {
        let identity = Identity::from_parts(certificate, self.key)?;
        match identity.serial == serial_of_key(&self.public_key) {
            true => Ok(identity),
            false => Err(IdentityError::Unreadable),
        }
    }
}

/// The serial of every certificate over this key.
pub fn serial_of_key(public_key: &[u8; 32]) -> Serial {
    let mut serial = Serial::default();
    serial.iter_mut().zip(public_key).for_each(|(to, from)| *to = *from);
    serial
}

/// A site's certificate authority.
pub struct Authority {
    site: SiteId,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// Leaves begin a day early, because clocks differ.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(86_400);

/// What stands before the 32 bytes of an Ed25519 public key in SPKI (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What stands before the 32 secret bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A fresh key, and its PKCS #8 form.
fn fresh_key(entropy: &dyn Entropy) -> Result<(KeyPair, Zeroizing<Vec<u8>>), IdentityError> {
    let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random(entropy));
    let der = Zeroizing::new([&ED25519_PKCS8[..], &secret[..]].concat());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &PKCS_ED25519)?;
    Ok((key, der))
}

/// What the certificate of an authority says. It outlives the hardware; rotating it is a new authority.
fn authority_params(name: String) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

impl Authority {
    /// A new one for `site`, its first.
    pub fn create(site: SiteId, name: &Label, entropy: &dyn Entropy) -> Result<Self, IdentityError> {
        let (key, der) = fresh_key(entropy)?;
        let certificate = authority_params(format!("farside site {name} {site}")).self_signed(&key)?.der().to_vec();
        Ok(Self { site, certificate, key: der })
    }

    /// The one after others. It has a name of its own, so that nobody takes one for the other.
    pub fn create_next(
        site: SiteId,
        name: &Label,
        generation: u32,
        entropy: &dyn Entropy,
    ) -> Result<Self, IdentityError> {
        let (key, der) = fresh_key(entropy)?;
        let params = authority_params(format!("farside site {name} {site} {generation}"));
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { site, certificate, key: der })
    }

    /// Certifies the key of the next authority (DER): whoever trusts this one follows what that one has issued.
    pub fn endorse(&self, next: &Self) -> Result<Vec<u8>, IdentityError> {
        let own_key = KeyPair::try_from(self.key.as_slice())?;
        let own = Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.as_slice()), own_key)?;
        let (_, known) =
            x509_parser::parse_x509_certificate(&next.certificate).map_err(|_| IdentityError::Unreadable)?;
        let mut names = known.subject().iter_common_name();
        let name = names.next().and_then(|name| name.as_str().ok()).ok_or(IdentityError::Unreadable)?;
        let key = SubjectPublicKeyInfo::from_der(known.public_key().raw)?;
        Ok(authority_params(name.to_owned()).signed_by(&key, &own)?.der().to_vec())
    }

    /// Puts together what [`Authority::certificate`] and [`Authority::key`] gave.
    pub fn from_parts(site: SiteId, certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Self {
        Self { site, certificate, key }
    }

    /// The certificate (DER), which others trust.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    /// The private key (PKCS #8 DER).
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Issues an identity that is good from a day before `now` (seconds since 1970) until `life` after it.
    pub fn issue(
        &self,
        role: Role,
        subject: &str,
        now: Duration,
        life: Duration,
        entropy: &dyn Entropy,
    ) -> Result<Identity, IdentityError> {
        let (key, der) = fresh_key(entropy)?;
        let public_key = key.public_key_raw().try_into().map_err(|_| IdentityError::Unreadable)?;
        Identity::from_parts(self.sign(role, subject, &public_key, now, now + life)?, der)
    }

    /// The certificate of an identity whose key is somebody else's: good from a day before `from` until `until` (since
    /// 1970).
    pub fn sign(
        &self,
        role: Role,
        subject: &str,
        public_key: &[u8; 32],
        from: Duration,
        until: Duration,
    ) -> Result<Vec<u8>, IdentityError> {
        if !is_subject(subject) {
            return Err(IdentityError::BadSubject);
        }
        let authority_key = KeyPair::try_from(self.key.as_slice())?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.as_slice()), authority_key)?;
        let caller = Caller { role, subject: subject.to_owned(), site: self.site };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("farside {} {subject}", role.as_str()));
        params.subject_alt_names = vec![SanType::URI(caller.uri().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + from.saturating_sub(CLOCK_ALLOWANCE);
        params.not_after = epoch + until;
        // The key is fresh, so its first bytes make a serial number that no other certificate has.
        params.serial_number = Some(SerialNumber::from_slice(&serial_of_key(public_key)));
        let spki = [&ED25519_SPKI[..], public_key].concat();
        let key = SubjectPublicKeyInfo::from_der(&spki)?;
        Ok(params.signed_by(&key, &issuer)?.der().to_vec())
    }
}

/// Whom a site believes. Clones share one list, which may change while connections are up.
#[derive(Clone)]
pub struct Trust {
    own: SiteId,
    lists: Arc<RwLock<Lists>>,
}

#[derive(Default)]
struct Lists {
    /// Who speaks for each site; several while a site goes over from one authority to the next.
    authorities: BTreeMap<SiteId, Vec<CertificateDer<'static>>>,
    /// Identities of the own site that are refused although they are genuine.
    revoked: Arc<BTreeSet<Serial>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust(own {})", self.own)
    }
}

impl Trust {
    /// Trusts one site's authority with every role.
    pub fn new(own: SiteId, certificate: &[u8]) -> Self {
        let trust = Self { own, lists: Arc::default() };
        trust.set(own, &[certificate]);
        trust
    }

    fn set(&self, site: SiteId, certificates: &[&[u8]]) {
        let certificates = certificates.iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
        self.lists.write().unwrap_or_else(PoisonError::into_inner).authorities.insert(site, certificates);
    }

    /// Trusts these authorities of the own site with every role, and no other ones.
    pub fn set_own(&self, certificates: &[&[u8]]) {
        assert!(!certificates.is_empty(), "a site trusts itself");
        self.set(self.own, certificates);
    }

    /// Trusts a peer's authorities about its own site, and no other ones.
    pub fn set_peer_all(&self, site: SiteId, certificates: &[&[u8]]) {
        assert!(site != self.own, "a site is not its own peer");
        self.set(site, certificates);
    }

    /// Trusts a peer's authority about its own site.
    pub fn set_peer(&self, site: SiteId, certificate: &[u8]) {
        assert!(site != self.own, "a site is not its own peer");
        self.set(site, &[certificate]);
    }

    /// Forgets a peer. Connections that are up stay up until the caller closes them.
    pub fn remove_peer(&self, site: SiteId) {
        if site != self.own {
            self.lists.write().unwrap_or_else(PoisonError::into_inner).authorities.remove(&site);
        }
    }

    /// Refuses these identities of the own site from now on, and none besides. Connections that are up stay up until the
    /// caller closes them.
    pub fn set_revoked(&self, revoked: Arc<BTreeSet<Serial>>) {
        self.lists.write().unwrap_or_else(PoisonError::into_inner).revoked = revoked;
    }

    /// Whether an identity of the own site is refused.
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).revoked.contains(serial)
    }

    /// Whether the certificate of a caller is one that this site has revoked.
    pub(crate) fn has_revoked(&self, caller: &Caller, certificate: &CertificateDer<'_>) -> bool {
        caller.site == self.own && serial_of(certificate).is_none_or(|serial| self.is_revoked(&serial))
    }

    /// The authorities that speak for `site`.
    pub(crate) fn authorities_for(&self, site: SiteId) -> Vec<CertificateDer<'static>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.authorities.get(&site).cloned().unwrap_or_default()
    }

    /// Whether an identity may be shown here at all, where those of peers must have the role `peers_may_be`.
    pub(crate) fn allows(&self, caller: &Caller, peers_may_be: Role) -> bool {
        caller.site == self.own || caller.role == peers_may_be
    }
}
