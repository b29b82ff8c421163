//! TLS of a relay: it shows what it is given, and believes everybody. That certificates are checked is shown elsewhere;
//! here a caller that is turned away would only hide what it says.

use farside_transport::{Class, Crypto, Identity};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use quinn::rustls::crypto::{CryptoProvider, verify_tls13_signature};
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use quinn::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use quinn::rustls::version::TLS13;
use quinn::rustls::{self, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use quinn::{ClientConfig, ServerConfig, TransportConfig};
use std::sync::Arc;
use std::time::Duration;

/// Streams at once, as the product allows.
const STREAMS: u32 = 256;
/// How soon a node that was killed counts as gone: a scenario waits for it.
const IDLE: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl Anybody {
    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }
}

fn no_old_tls() -> Error {
    Error::General("TLS 1.2 is not spoken here".into())
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_old_tls())
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
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_old_tls())
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
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn shown(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![CertificateDer::from(identity.certificate().to_vec())];
    (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().to_vec())))
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS.into())
        .keep_alive_interval(Some(IDLE / 3))
        .max_idle_timeout(Some(IDLE.try_into().expect("a short time")));
    Arc::new(config)
}

pub(super) fn server(identity: &Identity) -> ServerConfig {
    let provider = Crypto::default().provider;
    let (chain, key) = shown(identity);
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(Arc::new(Anybody(provider)))
        .with_single_cert(chain, key)
        .expect("an identity");
    config.alpn_protocols = [Class::Request, Class::Bulk].map(|class| class.protocol().to_vec()).to_vec();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("a QUIC suite")));
    config.transport_config(transport());
    config
}

pub(super) fn client(identity: &Identity, class: Class) -> ClientConfig {
    let provider = Crypto::default().provider;
    let (chain, key) = shown(identity);
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(chain, key)
        .expect("an identity");
    config.alpn_protocols = vec![class.protocol().to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("a QUIC suite")));
    config.transport_config(transport());
    config
}
