//! One UDP socket of a shard: connections in and connections out.

use crate::identity::{Caller, HeldIdentity, IdentityError, Serial, Trust, Validity, serial_of, validity_of};
use crate::limits::{
    ARRIVAL_BYTES, BODIES_AT_A_TIME, CLOSED, CLOSED_EXPIRED, CLOSED_REVOKED, MAX_ARRIVALS, MAX_CONNECTIONS,
};
use crate::rejection::Rejection;
use crate::runtime::{CappedSocket, ShardRuntime};
use crate::seeds::{self, Ids};
use crate::settings::{Class, Expect, Settings};
use crate::statistics::{Counters, Statistics, Traffic};
use crate::stream::{self, CallError, Stream, StreamError};
use crate::tls;
use crate::waiting::{Patience, Waiting};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::limits::{MAX_CHUNK_SEALED_BYTES, MAX_FRAME_BYTES};
use farside_codec::message::{Reply, Request, kind};
use farside_io::entropy::Entropy;
use farside_io::pool::Notice;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{AsyncUdpSocket, ClientConfig, Runtime, ServerConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why an endpoint can't be bound.
#[derive(Debug)]
pub enum BindError {
    /// Somebody listens there.
    InUse(SocketAddr),
    /// The operating system refused the socket.
    Socket(SocketAddr, io::Error),
    /// TLS refuses the identity.
    Identity(IdentityError),
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(address) => write!(f, "UDP {address} is in use by another process"),
            Self::Socket(address, error) => write!(f, "UDP {address}: {error}"),
            Self::Identity(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectError {
    /// Nothing answers there.
    Unreachable(SocketAddr),
    /// One end refused the other.
    Refused {
        /// The other end.
        address: SocketAddr,
        /// Why.
        rejection: Rejection,
        /// It was the other end that refused, so it is this end's identity that is no good.
        by_other: bool,
    },
    /// TLS refuses our own identity.
    Identity(IdentityError),
    /// The endpoint is closed.
    Closed,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(address) => write!(f, "nothing answers at {address}"),
            Self::Refused { address, rejection, .. } => {
                write!(f, "the connection with {address} was refused: {rejection}")
            }
            Self::Identity(error) => error.fmt(f),
            Self::Closed => f.write_str("this end is closing"),
        }
    }
}

impl std::error::Error for ConnectError {}

fn connect_error(address: SocketAddr, error: quinn::ConnectionError, counters: &Counters) -> ConnectError {
    let by_other =
        matches!(error, quinn::ConnectionError::ConnectionClosed(_) | quinn::ConnectionError::ApplicationClosed(_));
    match (Rejection::of(&error), error) {
        (Some(rejection), _) => refused(address, rejection, by_other, counters),
        (None, quinn::ConnectionError::LocallyClosed) => ConnectError::Closed,
        _ => ConnectError::Unreachable(address),
    }
}

fn refused(address: SocketAddr, rejection: Rejection, by_other: bool, counters: &Counters) -> ConnectError {
    counters.refused(rejection);
    ConnectError::Refused { address, rejection, by_other }
}

/// What a caller proves itself with, and whom it believes.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate and key shown.
    pub identity: HeldIdentity,
    /// Whose certificates are accepted.
    pub trust: Trust,
}

/// A shard's (or a client's) endpoint. Clones share the socket.
#[derive(Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    settings: Settings,
    ids: Ids,
    counters: Arc<Counters>,
    notices: Arc<[Notice]>,
}

impl Endpoint {
    /// Listens on `address`. Must be called inside the `LocalSet` on whose thread it lives.
    pub fn listen(
        address: SocketAddr,
        credentials: &Credentials,
        settings: Settings,
        entropy: &dyn Entropy,
    ) -> Result<Self, BindError> {
        Self::bind(address, Some(credentials), settings, entropy)
    }

    /// An endpoint that only calls.
    pub fn caller(address: SocketAddr, settings: Settings, entropy: &dyn Entropy) -> Result<Self, BindError> {
        Self::bind(address, None, settings, entropy)
    }

    fn bind(
        address: SocketAddr,
        listener: Option<&Credentials>,
        settings: Settings,
        entropy: &dyn Entropy,
    ) -> Result<Self, BindError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Socket(address, error),
        };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
        let notices = size_buffers(&socket, settings.socket_buffer_bytes);
        socket.bind(&address.into()).map_err(fail)?;
        let socket = ShardRuntime.wrap_udp_socket(socket.into()).map_err(fail)?;
        let endpoint = Self::over(socket, listener, settings, entropy)?;
        Ok(Self { notices: notices.into(), ..endpoint })
    }

    /// An endpoint over a socket of the caller's making, such as a simulated network's.
    pub fn over(
        socket: Arc<dyn AsyncUdpSocket>,
        listener: Option<&Credentials>,
        settings: Settings,
        entropy: &dyn Entropy,
    ) -> Result<Self, BindError> {
        let address = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
        let ids = Ids::new(entropy);
        let mut config = seeds::endpoint_config(entropy, &ids);
        config
            .max_udp_payload_size(settings.mtu)
            .map_err(|_| BindError::Socket(address, io::Error::from(io::ErrorKind::InvalidInput)))?;
        let server = listener.map(|credentials| server_config(credentials, &settings, entropy)).transpose()?;
        let socket = Arc::new(CappedSocket { socket, segments: settings.segments() });
        let quic = quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(ShardRuntime))
            .map_err(|error| BindError::Socket(address, error))?;
        Ok(Self { quic, settings, ids, counters: Arc::default(), notices: Arc::new([]) })
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Settings of its connections.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was refused when the socket was made.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// What was counted since.
    pub fn statistics(&self) -> Statistics {
        self.counters.read()
    }

    /// The next caller; `None` once the endpoint is closed. Its handshake goes on in [`Arrival::complete`], so that a
    /// slow one holds up nobody else.
    pub async fn accept(&self) -> Option<Arrival> {
        loop {
            let incoming = self.quic.accept().await?;
            if self.quic.open_connections() < MAX_CONNECTIONS {
                return Some(Arrival { incoming, endpoint: self.clone() });
            }
            self.counters.refused(Rejection::Busy);
            incoming.refuse();
        }
    }

    /// Calls `address`, which must prove to be whom `expect` says.
    pub async fn connect(
        &self,
        address: SocketAddr,
        credentials: &Credentials,
        expect: &Expect,
        class: Class,
    ) -> Result<Connection, ConnectError> {
        let crypto = tls::client(&credentials.identity.get(), &credentials.trust, expect, class, &self.settings.crypto)
            .map_err(ConnectError::Identity)?;
        let mut config = ClientConfig::new(crypto);
        config.transport_config(self.settings.transport());
        let ids = self.ids.clone();
        config.initial_dst_cid_provider(Arc::new(move || ids.first()));
        // The name is not what is verified: the certificate's own name is.
        let connecting = self.quic.connect_with(config, address, "farside.internal").map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => ConnectError::Closed,
            _ => ConnectError::Unreachable(address),
        })?;
        let connection = connecting.await.map_err(|error| connect_error(address, error, &self.counters))?;
        self.established(connection)
    }

    fn established(&self, quic: quinn::Connection) -> Result<Connection, ConnectError> {
        let address = quic.remote_address();
        let Some((proof, class)) = proven(&quic) else {
            return Err(refused(address, Rejection::BadCertificate, false, &self.counters));
        };
        self.counters.connected();
        Ok(Connection {
            quic,
            proof: Arc::new(proof),
            class,
            settings: self.settings.clone(),
            counters: self.counters.clone(),
            bodies: Arc::new(Semaphore::new(BODIES_AT_A_TIME)),
        })
    }

    /// Closes every connection and waits until the other ends were told.
    pub async fn close(&self) {
        self.quic.close(VarInt::from_u32(0), b"closing");
        self.quic.wait_idle().await;
    }
}

/// What a listener is, to quinn.
fn server_config(
    credentials: &Credentials,
    settings: &Settings,
    entropy: &dyn Entropy,
) -> Result<ServerConfig, BindError> {
    let crypto =
        tls::server(&credentials.identity, &credentials.trust, &settings.crypto).map_err(BindError::Identity)?;
    let mut server = ServerConfig::new(crypto, seeds::token_key(entropy));
    server
        .transport_config(settings.transport())
        .migration(false)
        .max_incoming(MAX_ARRIVALS)
        .incoming_buffer_size(ARRIVAL_BYTES)
        .incoming_buffer_size_total(MAX_ARRIVALS as u64 * ARRIVAL_BYTES);
    Ok(server)
}

/// Asks for kernel buffers of `bytes` each way. The kernel caps what it grants without a word, and a burst that does
/// not fit is lost: that costs throughput, not correctness, so it is told and borne.
fn size_buffers(socket: &Socket, bytes: usize) -> Vec<Notice> {
    let sent = socket.set_send_buffer_size(bytes).and_then(|()| socket.send_buffer_size());
    let received = socket.set_recv_buffer_size(bytes).and_then(|()| socket.recv_buffer_size());
    let told = |granted: io::Result<usize>, setting: &str| {
        let granted = granted.unwrap_or(0);
        // Linux reports twice what it grants, to account for its own bookkeeping.
        (granted / 2 < bytes).then(|| {
            Notice(format!(
                "a UDP socket buffer is {} KiB instead of {} KiB; bursts will be lost and links slower: \
                 sysctl -w net.core.{setting}={bytes}",
                granted / 2048,
                bytes / 1024
            ))
        })
    };
    told(sent, "wmem_max").into_iter().chain(told(received, "rmem_max")).collect()
}

/// What the other end has proved.
struct Proof {
    caller: Caller,
    serial: Serial,
    validity: Validity,
    certificate: CertificateDer<'static>,
}

/// Whom the other end proved to be, and what the connection is for.
fn proven(quic: &quinn::Connection) -> Option<(Proof, Class)> {
    let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let handshake = quic.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    let certificate = chain.first()?.clone();
    let proof = Proof {
        caller: Caller::of_certificate(&certificate)?,
        serial: serial_of(&certificate)?,
        validity: validity_of(&certificate)?,
        certificate,
    };
    Some((proof, Class::of_protocol(handshake.protocol.as_deref()?)?))
}

/// A caller whose handshake is not done.
pub struct Arrival {
    incoming: quinn::Incoming,
    endpoint: Endpoint,
}

impl Arrival {
    /// Finishes the handshake.
    pub async fn complete(self) -> Result<Connection, ConnectError> {
        let address = self.incoming.remote_address();
        let connection = self.incoming.await;
        let connection = connection.map_err(|error| connect_error(address, error, &self.endpoint.counters))?;
        self.endpoint.established(connection)
    }
}

/// A connection between two proven identities. Clones share it.
#[derive(Clone)]
pub struct Connection {
    quic: quinn::Connection,
    proof: Arc<Proof>,
    class: Class,
    settings: Settings,
    counters: Arc<Counters>,
    /// First come, first served: see [`BODIES_AT_A_TIME`].
    bodies: Arc<Semaphore>,
}

impl Connection {
    /// Whom the other end proved to be.
    pub fn caller(&self) -> &Caller {
        &self.proof.caller
    }
    /// Which of its certificates it has shown.
    pub fn serial(&self) -> Serial {
        self.proof.serial
    }
    /// From when until when that is good. A connection outlives it.
    pub fn validity(&self) -> Validity {
        self.proof.validity
    }
    /// The certificate itself (DER).
    pub fn certificate(&self) -> &[u8] {
        &self.proof.certificate
    }
    /// What it carries.
    pub fn class(&self) -> Class {
        self.class
    }
    /// The other end.
    pub fn remote_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }
    /// No longer up.
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }
    /// Ends once the connection is gone.
    pub async fn closed(&self) {
        self.quic.closed().await;
    }
    /// UDP payload that discovery has found so far.
    pub fn current_mtu(&self) -> u16 {
        self.quic.stats().path.current_mtu
    }
    /// What it has carried so far.
    pub fn traffic(&self) -> Traffic {
        let statistics = self.quic.stats();
        let bytes = statistics.udp_rx.bytes + statistics.udp_tx.bytes;
        Traffic { datagrams_received: statistics.udp_rx.datagrams, bytes }
    }
    /// Closes it; `reason` is for people.
    pub fn close(&self, reason: &str) {
        self.quic.close(VarInt::from_u32(CLOSED), reason.as_bytes());
    }
    /// Closes it at once because the other end's identity was revoked, which it is told.
    pub fn close_revoked(&self) {
        self.counters.refused(Rejection::Revoked);
        self.quic.close(VarInt::from_u32(CLOSED_REVOKED), b"the identity was revoked");
    }
    /// Closes it at once because the other end's certificate has expired, which it is told.
    pub fn close_expired(&self) {
        self.counters.refused(Rejection::Expired);
        self.quic.close(VarInt::from_u32(CLOSED_EXPIRED), b"the certificate has expired");
    }

    /// Opens a stream; waits while as many as the other end allows are under way.
    pub async fn open(&self) -> Result<Stream, StreamError> {
        let halves = self.quic.open_bi().await?;
        Ok(Stream::new(halves, self.waiting(self.settings.patience_of_caller())))
    }

    /// The next stream that the other end opens; `None` once the connection is gone.
    pub async fn accept(&self) -> Option<Stream> {
        let halves = self.quic.accept_bi().await.ok()?;
        Some(Stream::new(halves, self.waiting(self.settings.patience_of_listener())))
    }

    fn waiting(&self, patience: Patience) -> Waiting {
        let line = (self.class == Class::Bulk).then(|| self.quic.clone());
        Waiting { patience, line, counters: self.counters.clone() }
    }

    /// Asks, with a body where the request has one. The stream comes back for the reply's body, if there is one.
    ///
    /// Sending may take as long as it moves; the reply is due within `reply_timeout` after that. What is on its way in the
    /// window when a body has been handed over is still being sent, so on a connection for bodies the reply is due once
    /// the line stands still. A request or body that fits no frame is refused here. Dropping the call resets the stream.
    pub async fn call(&self, request: &Request, body: Option<Vec<Bytes>>) -> Result<(Reply, Stream), CallError> {
        let mut stream = self.ask(request, body).await?;
        let frame = stream.receive(kind::REPLY).await?;
        match Reply::from_bytes(frame).map_err(StreamError::Corrupt)? {
            Reply::Refused(refusal) => Err(CallError::Refused(refusal)),
            reply => Ok((reply, stream)),
        }
    }

    async fn ask(&self, request: &Request, body: Option<Vec<Bytes>>) -> Result<Stream, CallError> {
        let encoded = request.to_bytes();
        stream::fits(&self.counters, encoded.len(), MAX_FRAME_BYTES)?;
        stream::fits(&self.counters, body.as_deref().map_or(0, stream::bytes_of), MAX_CHUNK_SEALED_BYTES)?;
        // In line before the stream is opened: the other end never waits for a body whose turn has not come.
        let _turn = match body {
            Some(_) => Some(self.bodies.acquire().await.map_err(|_| StreamError::Closed)?),
            None => None,
        };
        let opened = tokio::time::timeout(self.settings.reply_timeout, self.open()).await;
        let mut stream = opened.map_err(|_| CallError::TimedOut)??;
        let sent = async {
            stream.send(kind::REQUEST, encoded).await?;
            match body {
                Some(body) => stream.send_body(body).await,
                None => Ok(()),
            }
        };
        match sent.await {
            Ok(()) => stream.finish(),
            // The other end has seen enough, and its reply says why.
            Err(StreamError::Stopped) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(stream)
    }
}
