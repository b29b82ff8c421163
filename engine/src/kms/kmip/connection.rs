//! One TLS connection to a KMIP server: opened, asked, and what goes wrong told apart.
//!
//! Follows the KMIP Profiles version 1.2, section 3.1 (mutual authentication by certificates over TLS 1.2 and later);
//! messages follow each other on the connection without framing of their own, each as long as its first header says
//! (KMIP specification 1.2, section 9.1). The server is believed only if its certificate leads to the authority that
//! the URL names; the machine's own trust store plays no part.
//!
//! The files are read at each connection, because certificates are renewed while a process runs. That is a blocking
//! read of some kilobytes from a local disk.
//!
//! Deliberately left out: resumption of TLS sessions (a connection is kept instead), revocation lists, and several
//! requests under way on one connection.

use super::address::Address;
use crate::kms::ttlv::{self, HEADER, TtlvError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

/// How long finding the host and connecting to it may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long one question and its answer may take, or the TLS handshake.
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

/// The pause in milliseconds behind the first failed attempt; it doubles. Up to half of it is left out at random, so
/// that many clients don't return in one moment to a server that has just come back.
const FIRST_PAUSE: u64 = 200;

/// How often the pause doubles at most.
const DOUBLINGS: u32 = 8;

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The connection could not be made, broke, or nothing came in time: worth another try.
    Broken(String),
    /// The server refuses the client's certificate.
    Denied(String),
    /// It speaks, and not so that it could be believed or understood; or the files are no use. Trying again won't help.
    Unusable(String),
}

impl LinkError {
    /// What came is no TTLV.
    pub(super) fn no_kmip(error: TtlvError) -> Self {
        Self::Unusable(format!("its answer is no KMIP: {error}"))
    }
}

/// An open connection on which no answer is outstanding.
pub(super) struct Connection(TlsStream<TcpStream>);

impl Connection {
    /// Connects to a server.
    pub(super) async fn open(address: &Address) -> Result<Self, LinkError> {
        let config = client_config(address).map_err(LinkError::Unusable)?;
        let name = address.tls_name().map_err(LinkError::Unusable)?;
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let socket = timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| LinkError::Broken(format!("no connection within {} s", CONNECT_LIMIT.as_secs())))?
            .map_err(|error| LinkError::Broken(error.to_string()))?;
        // Messages are small and each waits for its answer: holding bytes back would only delay it.
        socket.set_nodelay(true).map_err(|error| LinkError::Broken(error.to_string()))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let stream = timeout(OPERATION_LIMIT, handshake)
            .await
            .map_err(|_| LinkError::Broken(format!("no TLS within {} s", OPERATION_LIMIT.as_secs())))?
            .map_err(|error| link_error(&error))?;
        Ok(Self(stream))
    }

    /// Sends a message and answers the next one, which is wiped when it is dropped. After an error the connection must
    /// not be used again: what arrives on it later would be taken for the answer to something else.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Zeroizing<Vec<u8>>, LinkError> {
        timeout(OPERATION_LIMIT, self.ask_without_limit(request))
            .await
            .map_err(|_| LinkError::Broken(format!("no answer within {} s", OPERATION_LIMIT.as_secs())))?
    }

    async fn ask_without_limit(&mut self, request: &[u8]) -> Result<Zeroizing<Vec<u8>>, LinkError> {
        let sent = self.send(request).await.map_err(|error| link_error(&error));
        let mut header = [0; HEADER];
        let received = self.0.read_exact(&mut header).await.map_err(|error| link_error(&error));
        match (sent, received) {
            (Ok(()), Ok(_)) => {}
            // With TLS 1.3 a server refuses a certificate after the handshake: then sending may fail first, and only
            // what it had sent before says why.
            (Err(LinkError::Broken(_)), Err(told @ LinkError::Denied(_))) => return Err(told),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
        let length = ttlv::message_length(header).map_err(LinkError::no_kmip)?;
        // Allocated once in full, so that growing leaves no copy behind.
        let mut message = Zeroizing::new(vec![0; length]);
        let (start, rest) = message.split_at_mut(HEADER);
        start.copy_from_slice(&header);
        self.0.read_exact(rest).await.map_err(|error| link_error(&error))?;
        Ok(message)
    }

    async fn send(&mut self, request: &[u8]) -> std::io::Result<()> {
        self.0.write_all(request).await?;
        self.0.flush().await
    }
}

/// What TLS is to know: this client's certificate, and the authority of the server's.
fn client_config(address: &Address) -> Result<ClientConfig, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in read_certificates("ca", &address.authority)? {
        authorities.add(certificate).map_err(|error| format!("ca {}: {error}", address.authority.display()))?;
    }
    let chain = read_certificates("cert", &address.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&address.private_key)
        .map_err(|error| format!("key {}: {error}", address.private_key.display()))?;
    // Named here, because a process may have none installed or, by its dependencies, two.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(authorities)
        .with_client_auth_cert(chain, key)
        .map_err(|error| {
            let (certificate, key) = (address.certificate.display(), address.private_key.display());
            format!("cert {certificate} and key {key} don't fit together: {error}")
        })
}

/// Every certificate in a PEM file, which must have one.
fn read_certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{name} {}: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{name} {}: no certificate in PEM is in it", path.display()));
    }
    Ok(certificates)
}

/// Tells apart what TLS and the operating system report: rustls hides its own errors in those of the system.
fn link_error(error: &std::io::Error) -> LinkError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        None => LinkError::Broken(error.to_string()),
        Some(rustls::Error::AlertReceived(alert)) => of_alert(*alert),
        Some(rustls::Error::InvalidCertificate(error)) => LinkError::Unusable(of_certificate(error)),
        Some(error) => LinkError::Unusable(format!("it can't be spoken to over TLS: {error}")),
    }
}

/// The alerts of RFC 8446, section 6.2, by which a server says what it thinks of a client's certificate.
fn of_alert(alert: AlertDescription) -> LinkError {
    match alert {
        AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => {
            LinkError::Denied(format!("it does not accept the client's certificate (TLS alert {alert:?})"))
        }
        AlertDescription::InternalError => LinkError::Broken(format!("it gave up (TLS alert {alert:?})")),
        _ => LinkError::Unusable(format!("it refuses this client's TLS (alert {alert:?})")),
    }
}

/// What is wrong with the server's certificate.
fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by the given ca".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name (server-name= in the URL names the right one): {error}")
        }
        _ => format!("its certificate is not valid: {error}"),
    }
}

/// Waits behind a failed attempt; they are counted from 1.
pub(super) async fn pause(attempt: u32) {
    // Every RandomState is keyed at random, so that the hash of nothing is a random number; no more is asked of it.
    let random = RandomState::new().build_hasher().finish();
    let whole = FIRST_PAUSE << attempt.saturating_sub(1).min(DOUBLINGS);
    tokio::time::sleep(Duration::from_millis(whole - random % (whole / 2 + 1))).await;
}
