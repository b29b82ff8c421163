//! Mutual TLS 1.3: both ends prove a Farside identity, checked against [`Trust`] at every handshake.

use crate::identity::{Caller, HeldIdentity, Identity, IdentityError, Role, Trust};
use crate::settings::{Class, Expect};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

/// The cryptography of an endpoint, and the clock that certificates are checked against. Never installed for the whole
/// process, so that a simulator can give each node its own.
#[derive(Debug, Clone)]
pub struct Crypto {
    /// Suites, key exchanges, signatures and randomness.
    pub provider: Arc<CryptoProvider>,
    /// What time it is.
    pub time: Arc<dyn TimeProvider>,
}

impl Default for Crypto {
    /// AWS-LC with its defaults (X25519MLKEM768 first, AES-256-GCM and the rest after it), and the system's clock.
    fn default() -> Self {
        Self { provider: Arc::new(aws_lc_rs::default_provider()), time: Arc::new(DefaultTimeProvider) }
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// The role that a peer site's identity must have in this direction.
    peers_may_be: Role,
    /// Whom the caller of a connection wants to reach.
    expect: Option<Expect>,
}

fn refuse(error: CertificateError) -> Error {
    Error::InvalidCertificate(error)
}

impl Verifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let caller = Caller::of_certificate(certificate).ok_or(refuse(CertificateError::BadEncoding))?;
        let expected = self.expect.as_ref().is_none_or(|expect| expect.is(&caller));
        let authorities = self.trust.authorities_for(caller.site);
        if authorities.is_empty() {
            return Err(refuse(CertificateError::UnknownIssuer));
        }
        if !expected || !self.trust.allows(&caller, self.peers_may_be) {
            return Err(refuse(CertificateError::ApplicationVerificationFailure));
        }
        let anchors: Result<Vec<_>, _> = authorities.iter().map(webpki::anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(|_| refuse(CertificateError::UnknownIssuer))?;
        let end = webpki::EndEntityCert::try_from(certificate).map_err(|_| refuse(CertificateError::BadEncoding))?;
        let usage = match self.expect {
            Some(_) => webpki::KeyUsage::server_auth(),
            None => webpki::KeyUsage::client_auth(),
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verified = end.verify_for_usage(algorithms, &anchors, chain, now, usage, None, None);
        verified.map(drop).map_err(|error| match error {
            webpki::Error::CertExpired { .. } => refuse(CertificateError::Expired),
            webpki::Error::CertNotValidYet { .. } => refuse(CertificateError::NotValidYet),
            webpki::Error::UnknownIssuer => refuse(CertificateError::UnknownIssuer),
            webpki::Error::RequiredEkuNotFoundContext(_) => refuse(CertificateError::InvalidPurpose),
            _ => refuse(CertificateError::BadSignature),
        })?;
        // Last: whoever can't prove to be somebody learns nothing of what was revoked.
        match self.trust.has_revoked(&caller, certificate) {
            true => Err(refuse(CertificateError::Revoked)),
            false => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, chain, now).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, chain, now).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the certificate that a caller shows, as every listener does that trusts `trust`, at a time of one's choice.
pub fn verify_caller(
    trust: &Trust,
    crypto: &Crypto,
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<Caller, Error> {
    let (trust, provider) = (trust.clone(), crypto.provider.clone());
    let verifier = Verifier { trust, provider, peers_may_be: Role::Peer, expect: None };
    verifier.verify(certificate, &[], now)?;
    Caller::of_certificate(certificate).ok_or(refuse(CertificateError::BadEncoding))
}

/// What a listener shows: the identity that is held when somebody calls.
#[derive(Debug)]
struct Shown {
    identity: HeldIdentity,
    provider: Arc<CryptoProvider>,
}

impl Shown {
    /// Refuses an identity that TLS could not show.
    fn new(identity: &HeldIdentity, crypto: &Crypto) -> Result<Self, IdentityError> {
        let shown = Self { identity: identity.clone(), provider: crypto.provider.clone() };
        shown.key().map(|_| shown).map_err(IdentityError::Tls)
    }

    fn key(&self) -> Result<CertifiedKey, Error> {
        let identity = self.identity.get();
        CertifiedKey::from_der(identity.rustls_chain(), identity.rustls_key(), &self.provider)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An identity was readable when it was held; without one the handshake fails and says so.
        self.key().ok().map(Arc::new)
    }
}

/// What a listener proves and asks for.
pub(crate) fn server(
    identity: &HeldIdentity,
    trust: &Trust,
    crypto: &Crypto,
) -> Result<Arc<QuicServerConfig>, IdentityError> {
    let provider = crypto.provider.clone();
    let verifier =
        Verifier { trust: trust.clone(), provider: provider.clone(), peers_may_be: Role::Peer, expect: None };
    let mut config = rustls::ServerConfig::builder_with_details(provider, crypto.time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Shown::new(identity, crypto)?));
    config.alpn_protocols = vec![Class::Request.protocol().to_vec(), Class::Bulk.protocol().to_vec()];
    // A ticket would let a caller back in without its certificate being checked against today's trust.
    config.send_tls13_tickets = 0;
    let config =
        QuicServerConfig::try_from(config).map_err(|_| IdentityError::Tls(Error::General("no QUIC suite".into())))?;
    Ok(Arc::new(config))
}

/// What a caller proves and asks for.
pub(crate) fn client(
    identity: &Identity,
    trust: &Trust,
    expect: &Expect,
    class: Class,
    crypto: &Crypto,
) -> Result<Arc<QuicClientConfig>, IdentityError> {
    let provider = crypto.provider.clone();
    let verifier = Verifier {
        trust: trust.clone(),
        provider: provider.clone(),
        peers_may_be: Role::Node,
        expect: Some(expect.clone()),
    };
    let mut config = rustls::ClientConfig::builder_with_details(provider, crypto.time.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.rustls_chain(), identity.rustls_key())
        .map_err(IdentityError::Tls)?;
    config.alpn_protocols = vec![class.protocol().to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    let config =
        QuicClientConfig::try_from(config).map_err(|_| IdentityError::Tls(Error::General("no QUIC suite".into())))?;
    Ok(Arc::new(config))
}
