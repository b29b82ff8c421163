//! Who is who: a site's certificate authority, the identities it issues, and whom a site trusts.
//!
//! A certificate carries its holder in one URI name: `farside://SITE/ROLE/SUBJECT`, with the site's id in hexadecimal.
//! A site's own authority may issue any role; a peer site's authority is believed only about its own site, and only
//! for `peer` identities that call here and `node` identities that are called from here. Keys are Ed25519: signatures
//! have one length, which keeps a simulated handshake reproducible.

use crate::limits::MAX_SUBJECT_BYTES;
use farside_codec::ids::{Label, SiteId};
use farside_io::entropy::{Entropy, random};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
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
}

impl std::fmt::Display for IdentityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "certificate: {error}"),
            Self::NoName => f.write_str("the certificate carries no farside:// name"),
            Self::BadSubject => f.write_str("a subject is 1 to 128 of a-z 0-9 . _ -"),
            Self::Tls(error) => write!(f, "TLS refuses the identity: {error}"),
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
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// Puts together what [`Identity::certificate`] and [`Identity::key`] gave.
    pub fn from_parts(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<Self, IdentityError> {
        let der = CertificateDer::from(certificate.as_slice());
        let caller = Caller::of_certificate(&der).ok_or(IdentityError::NoName)?;
        Ok(Self { caller, certificate, key })
    }

    /// Whom it names.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
    /// The certificate (DER).
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    /// The private key (PKCS #8 DER).
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn rustls_chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.clone())]
    }
    pub(crate) fn rustls_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { caller: self.caller.clone(), certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

/// A site's certificate authority.
pub struct Authority {
    site: SiteId,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// Leaves begin a day early, because clocks differ.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(86_400);

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

impl Authority {
    /// A new one for `site`. Its certificate outlives the hardware; rotating it is a new authority.
    pub fn create(site: SiteId, name: &Label, entropy: &dyn Entropy) -> Result<Self, IdentityError> {
        let (key, der) = fresh_key(entropy)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("farside site {name} {site}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { site, certificate, key: der })
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
        if !is_subject(subject) {
            return Err(IdentityError::BadSubject);
        }
        let authority_key = KeyPair::try_from(self.key.as_slice())?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.as_slice()), authority_key)?;
        let (key, der) = fresh_key(entropy)?;
        let caller = Caller { role, subject: subject.to_owned(), site: self.site };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("farside {} {subject}", role.as_str()));
        params.subject_alt_names = vec![SanType::URI(caller.uri().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(CLOCK_ALLOWANCE);
        params.not_after = epoch + now + life;
        // The key is fresh, so its hash makes a serial number that no other certificate has.
        params.serial_number = Some(SerialNumber::from_slice(&key.public_key_raw()[..16]));
        let certificate = params.signed_by(&key, &issuer)?.der().to_vec();
        Ok(Identity { caller, certificate, key: der })
    }
}

/// Whom a site believes. Clones share one list, which may change while connections are up.
#[derive(Clone)]
pub struct Trust {
    own: SiteId,
    authorities: Arc<RwLock<BTreeMap<SiteId, CertificateDer<'static>>>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust(own {})", self.own)
    }
}

impl Trust {
    /// Trusts one site's authority with every role.
    pub fn new(own: SiteId, certificate: &[u8]) -> Self {
        let authorities = BTreeMap::from([(own, CertificateDer::from(certificate.to_vec()))]);
        Self { own, authorities: Arc::new(RwLock::new(authorities)) }
    }

    /// Trusts a peer's authority about its own site.
    pub fn set_peer(&self, site: SiteId, certificate: &[u8]) {
        assert!(site != self.own, "a site is not its own peer");
        let mut authorities = self.authorities.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        authorities.insert(site, CertificateDer::from(certificate.to_vec()));
    }

    /// Forgets a peer. Connections that are up stay up until the caller closes them.
    pub fn remove_peer(&self, site: SiteId) {
        let mut authorities = self.authorities.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if site != self.own {
            authorities.remove(&site);
        }
    }

    /// The authority that speaks for `site`.
    pub(crate) fn authority_for(&self, site: SiteId) -> Option<CertificateDer<'static>> {
        let authorities = self.authorities.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        authorities.get(&site).cloned()
    }

    /// Whether an identity may be shown here at all, where those of peers must have the role `peers_may_be`.
    pub(crate) fn allows(&self, caller: &Caller, peers_may_be: Role) -> bool {
        caller.site == self.own || caller.role == peers_may_be
    }
}
