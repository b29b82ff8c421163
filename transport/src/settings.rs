//! What can be set about a link, and why each default is what it is (measured.md, "QUIC on loopback").

use crate::identity::{Caller, Role};
use crate::limits::{BATCH_BYTES, MAX_MTU, MAX_SEGMENTS, MIN_MTU};
use crate::tls::Crypto;
use crate::waiting::Patience;
use farside_codec::ids::SiteId;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// The two connections of a link: what Raft, control and clients ask never waits behind chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Short requests and their answers.
    Request,
    /// Chunk bodies.
    Bulk,
}

impl Class {
    /// The application protocol by which a listener tells the two apart.
    pub fn protocol(self) -> &'static [u8] {
        match self {
            Self::Request => b"farside-request/1",
            Self::Bulk => b"farside-bulk/1",
        }
    }

    pub(crate) fn of_protocol(protocol: &[u8]) -> Option<Self> {
        [Self::Request, Self::Bulk].into_iter().find(|class| class.protocol() == protocol)
    }
}

/// Whom a caller wants to reach; anyone else at that address is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The site.
    pub site: SiteId,
}

impl Expect {
    pub(crate) fn is(&self, caller: &Caller) -> bool {
        caller.site == self.site && caller.role == Role::Node
    }
}

/// How losses steer the sending rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// RFC 9438: right on clean paths.
    #[default]
    Cubic,
    /// Right on long paths that lose packets.
    Bbr,
}

/// Settings of an endpoint and its connections.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Largest UDP payload; discovery finds the path's own below it.
    pub mtu: u16,
    /// UDP payload of the first packets. Discovery goes up from here within a few round trips; a handshake that begins
    /// larger than the path hangs, and so does any above 6000.
    pub initial_mtu: u16,
    /// Bytes in flight on one stream: a default chunk and the next.
    pub stream_window_bytes: u32,
    /// Bytes in flight on one connection; larger windows lose packets in 4 MiB socket buffers.
    pub connection_window_bytes: u32,
    /// Kernel buffer of the socket, each way.
    pub socket_buffer_bytes: usize,
    /// Requests under way that a caller may have at once.
    pub max_streams: u32,
    /// A silent connection is closed after this.
    pub idle_timeout: Duration,
    /// An idle connection is kept alive this often.
    pub keep_alive: Duration,
    /// A reply that takes longer, from when the request was handed over, is given up.
    pub reply_timeout: Duration,
    /// A stream on which nothing moves for that long, although something is due, is given up. On connections for bodies both
    /// times begin anew while the line moves: whoever waits there stands behind what moves.
    pub stall_timeout: Duration,
    /// How losses steer the sending rate.
    pub congestion: Congestion,
    /// The cryptography and the clock that certificates are checked with.
    pub crypto: Crypto,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: 1452,
            initial_mtu: MIN_MTU,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 8 << 20,
            socket_buffer_bytes: 4 << 20,
            max_streams: 256,
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            reply_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            congestion: Congestion::Cubic,
            crypto: Crypto::default(),
        }
    }
}

/// Largest first packet that does not hang a handshake.
const MAX_INITIAL_MTU: u16 = 6000;

impl Settings {
    /// The defaults for paths that carry UDP payloads of up to `mtu`.
    pub fn with_mtu(mtu: u16) -> Self {
        Self { mtu: mtu.clamp(MIN_MTU, MAX_MTU), ..Self::default() }
    }

    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu);
        let mut config = TransportConfig::default();
        config
            .initial_mtu(self.initial_mtu.clamp(MIN_MTU, self.mtu.clamp(MIN_MTU, MAX_INITIAL_MTU)))
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window(self.stream_window_bytes.into())
            .receive_window(self.connection_window_bytes.into())
            .send_window(self.connection_window_bytes.into())
            .send_fairness(false)
            .max_concurrent_bidi_streams(self.max_streams.into())
            .max_concurrent_uni_streams(0u32.into())
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(self.idle_timeout()));
        if self.congestion == Congestion::Bbr {
            config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
        }
        Arc::new(config)
    }

    fn idle_timeout(&self) -> IdleTimeout {
        let ms = self.idle_timeout.as_millis().min(u128::from(u32::MAX)) as u32;
        IdleTimeout::from(VarInt::from_u32(ms))
    }

    /// Datagrams that may go to the kernel in one call: together they stay under the 64 KiB of a UDP send.
    pub(crate) fn segments(&self) -> usize {
        (BATCH_BYTES / usize::from(self.mtu.max(MIN_MTU))).clamp(1, MAX_SEGMENTS)
    }

    /// What a stream that the other end opened waits for.
    pub(crate) fn patience_of_listener(&self) -> Patience {
        Patience { first: self.stall_timeout, stall: self.stall_timeout }
    }

    /// What a stream that this end opened waits for.
    pub(crate) fn patience_of_caller(&self) -> Patience {
        Patience { first: self.reply_timeout, stall: self.stall_timeout }
    }
}
