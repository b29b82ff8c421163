//! One UDP socket of a shard: connections in and connections out.

use crate::identity::{Caller, Identity, IdentityError, Trust};
use crate::runtime::ShardRuntime;
use crate::settings::{Class, Expect, Settings};
use crate::stream::{CallError, Stream, StreamError};
use crate::tls;
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::message::{Reply, Request, kind};
use farside_io::entropy::{Entropy, random};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ClientConfig, EndpointConfig, ServerConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

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
#[derive(Debug)]
pub enum ConnectError {
    /// Nothing answers there.
    Unreachable(SocketAddr),
    /// The two sides don't accept one another's identity, or the certificates have expired.
    Refused {
        /// Who refused.
        address: SocketAddr,
        /// What TLS said.
        reason: String,
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
            Self::Refused { address, reason } => write!(f, "the connection with {address} was refused: {reason}"),
            Self::Identity(error) => error.fmt(f),
            Self::Closed => f.write_str("this end is closing"),
        }
    }
}

impl std::error::Error for ConnectError {}

fn connect_error(address: SocketAddr, error: quinn::ConnectionError) -> ConnectError {
    use quinn::ConnectionError as Quic;
    match error {
        Quic::TimedOut | Quic::Reset => ConnectError::Unreachable(address),
        Quic::LocallyClosed => ConnectError::Closed,
        other => ConnectError::Refused { address, reason: other.to_string() },
    }
}

/// What a caller proves itself with, and whom it believes.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate and key shown.
    pub identity: Identity,
    /// Whose certificates are accepted.
    pub trust: Trust,
}

/// A shard's (or a client's) endpoint. Clones share the socket.
#[derive(Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    settings: Settings,
}

impl Endpoint {
    /// Listens on `address`. Must be called inside the `LocalSet` on whose thread it lives.
    pub fn listen(
        address: SocketAddr,
        credentials: &Credentials,
        settings: Settings,
        entropy: &dyn Entropy,
    ) -> Result<Self, BindError> {
        let crypto = tls::server(&credentials.identity, &credentials.trust).map_err(BindError::Identity)?;
        let mut server = ServerConfig::with_crypto(crypto);
        server.transport_config(settings.transport()).migration(false);
        Self::bind(address, Some(server), settings, entropy)
    }

    /// An endpoint that only calls.
    pub fn caller(address: SocketAddr, settings: Settings, entropy: &dyn Entropy) -> Result<Self, BindError> {
        Self::bind(address, None, settings, entropy)
    }

    fn bind(
        address: SocketAddr,
        server: Option<ServerConfig>,
        settings: Settings,
        entropy: &dyn Entropy,
    ) -> Result<Self, BindError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Socket(address, error),
        };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
        // The kernel halves what it can't give; a smaller buffer costs throughput, not correctness.
        let _ = socket.set_send_buffer_size(settings.socket_buffer_bytes);
        let _ = socket.set_recv_buffer_size(settings.socket_buffer_bytes);
        socket.bind(&address.into()).map_err(fail)?;
        let mut config = EndpointConfig::default();
        config.rng_seed(Some(random(entropy)));
        config.max_udp_payload_size(settings.mtu).map_err(|_| fail(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let runtime = Arc::new(ShardRuntime { segments: settings.segments() });
        let quic = quinn::Endpoint::new(config, server, socket.into(), runtime).map_err(fail)?;
        Ok(Self { quic, settings })
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Settings of its connections.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The next caller; `None` once the endpoint is closed. Its handshake goes on in [`Arrival::complete`], so that a
    /// slow one holds up nobody else.
    pub async fn accept(&self) -> Option<Arrival> {
        self.quic.accept().await.map(|incoming| Arrival { incoming, settings: self.settings.clone() })
    }

    /// Calls `address`, which must prove to be whom `expect` says.
    pub async fn connect(
        &self,
        address: SocketAddr,
        credentials: &Credentials,
        expect: &Expect,
        class: Class,
    ) -> Result<Connection, ConnectError> {
        let crypto =
            tls::client(&credentials.identity, &credentials.trust, expect, class).map_err(ConnectError::Identity)?;
        let mut config = ClientConfig::new(crypto);
        config.transport_config(self.settings.transport());
        // The name is not what is verified: the certificate's own name is.
        let connecting = self.quic.connect_with(config, address, "farside.internal").map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => ConnectError::Closed,
            _ => ConnectError::Unreachable(address),
        })?;
        let connection = connecting.await.map_err(|error| connect_error(address, error))?;
        Connection::established(connection, self.settings.clone())
            .ok_or(ConnectError::Refused { address, reason: "it proved no Farside identity".into() })
    }

    /// Closes every connection and waits until the other ends were told.
    pub async fn close(&self) {
        self.quic.close(VarInt::from_u32(0), b"closing");
        self.quic.wait_idle().await;
    }
}

/// A caller whose handshake is not done.
pub struct Arrival {
    incoming: quinn::Incoming,
    settings: Settings,
}

impl Arrival {
    /// Finishes the handshake.
    pub async fn complete(self) -> Result<Connection, ConnectError> {
        let address = self.incoming.remote_address();
        let connection = self.incoming.await.map_err(|error| connect_error(address, error))?;
        Connection::established(connection, self.settings)
            .ok_or(ConnectError::Refused { address, reason: "it proved no Farside identity".into() })
    }
}

/// A connection between two proven identities. Clones share it.
#[derive(Clone)]
pub struct Connection {
    quic: quinn::Connection,
    caller: Arc<Caller>,
    class: Class,
    settings: Settings,
}

impl Connection {
    fn established(quic: quinn::Connection, settings: Settings) -> Option<Self> {
        let chain = quic.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        let caller = Caller::of_certificate(chain.first()?)?;
        let handshake = quic.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
        let class = Class::of_protocol(handshake.protocol.as_deref()?)?;
        Some(Self { quic, caller: Arc::new(caller), class, settings })
    }

    /// Whom the other end proved to be.
    pub fn caller(&self) -> &Caller {
        &self.caller
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
    /// What the other end said when it refused us: its TLS alert, which arrives after our own handshake is done.
    pub fn refusal(&self) -> Option<String> {
        match self.quic.close_reason()? {
            quinn::ConnectionError::ConnectionClosed(close) => Some(close.to_string()),
            quinn::ConnectionError::TransportError(error) => Some(error.to_string()),
            _ => None,
        }
    }
    /// UDP payload that discovery has found so far.
    pub fn current_mtu(&self) -> u16 {
        self.quic.stats().path.current_mtu
    }
    /// Closes it; `reason` is for people.
    pub fn close(&self, reason: &str) {
        self.quic.close(VarInt::from_u32(1), reason.as_bytes());
    }

    /// Opens a stream; waits while as many as the other end allows are under way.
    pub async fn open(&self) -> Result<Stream, StreamError> {
        let (send, receive) = self.quic.open_bi().await.map_err(|_| StreamError::Closed)?;
        Ok(Stream::new(send, receive))
    }

    /// The next stream that the other end opens; `None` once the connection is gone.
    pub async fn accept(&self) -> Option<Stream> {
        let (send, receive) = self.quic.accept_bi().await.ok()?;
        Some(Stream::new(send, receive))
    }

    /// Asks, with a body where the request has one. The stream comes back for the reply's body, if there is one.
    pub async fn call(&self, request: &Request, body: Option<Vec<Bytes>>) -> Result<(Reply, Stream), CallError> {
        tokio::time::timeout(self.settings.reply_timeout, self.exchange(request, body))
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange(&self, request: &Request, body: Option<Vec<Bytes>>) -> Result<(Reply, Stream), CallError> {
        let mut stream = self.open().await?;
        stream.send(kind::REQUEST, 0, request.to_bytes()).await?;
        if let Some(body) = body {
            stream.send_body(body).await?;
        }
        stream.finish();
        let frame = stream.receive(kind::REPLY).await?;
        match Reply::from_bytes(frame).map_err(StreamError::Corrupt)? {
            Reply::Refused(refusal) => Err(CallError::Refused(refusal)),
            reply => Ok((reply, stream)),
        }
    }
}
