//! A shard's links to peer sites: one dialer for each of the peer's shards and each class, made when first needed.

use super::directory::SiteFile;
use bytes::Bytes;
use farside_codec::frame;
use farside_codec::ids::{Hlc, Label, SiteId};
use farside_codec::message::{Hello, PeerRecord, Reply, Request};
use farside_io::entropy::Entropy;
use farside_transport::{
    CallError, Class, ConnectError, Credentials, Dialer, Endpoint, Expect, Rejection, StreamError,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// Why a peer did not answer.
#[derive(Debug)]
pub(crate) enum PeerCallError {
    /// There is no connection.
    Unreachable(String),
    /// The call failed on its way or was refused.
    Call(CallError),
}

/// A site that does not know this one any more.
pub(super) fn forgotten(by: &Label) -> String {
    format!("site {by} does not know this peer any more: join them again with `farside peer token` and `peer add`")
}

impl std::fmt::Display for PeerCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(reason) => f.write_str(reason),
            Self::Call(error) => error.fmt(f),
        }
    }
}

type Key = (SiteId, u16, Class);

/// Links to all peers.
pub(crate) struct PeerLinks {
    endpoint: Endpoint,
    credentials: Credentials,
    entropy: Rc<dyn Entropy>,
    dialers: RefCell<BTreeMap<Key, Rc<Dialer>>>,
    hellos: RefCell<BTreeMap<SiteId, Hello>>,
}

/// What this node says of itself when it calls or is called.
pub(crate) fn own_hello(site: &SiteFile, shard: u16, now: Hlc) -> Hello {
    Hello {
        oldest_version: frame::OLDEST_VERSION,
        newest_version: frame::VERSION,
        site: site.site,
        site_name: site.name.clone(),
        incarnation: site.incarnation,
        node: site.node,
        shard,
        shards: site.shards,
        groups: site.groups,
        now,
    }
}

fn turned_away(peer: &PeerRecord) -> PeerCallError {
    PeerCallError::Unreachable(forgotten(&peer.name))
}

impl PeerLinks {
    pub(crate) fn new(endpoint: Endpoint, credentials: Credentials, entropy: Rc<dyn Entropy>) -> Self {
        Self { endpoint, credentials, entropy, dialers: RefCell::default(), hellos: RefCell::default() }
    }

    fn dialer(&self, peer: &PeerRecord, shard: u16, class: Class) -> Result<Rc<Dialer>, PeerCallError> {
        let no_address = || PeerCallError::Unreachable(format!("peer {} has no address", peer.name));
        let first: SocketAddr = peer.endpoints.first().and_then(|text| text.parse().ok()).ok_or_else(no_address)?;
        let address = SocketAddr::new(first.ip(), first.port().checked_add(shard).ok_or_else(no_address)?);
        let mut dialers = self.dialers.borrow_mut();
        let dialer = dialers.entry((peer.site, shard, class)).or_insert_with(|| self.dial(address, peer.site, class));
        if dialer.address() != address {
            // The peer has moved.
            *dialer = self.dial(address, peer.site, class);
        }
        Ok(dialer.clone())
    }

    fn dial(&self, address: SocketAddr, site: SiteId, class: Class) -> Rc<Dialer> {
        let (endpoint, credentials) = (self.endpoint.clone(), self.credentials.clone());
        Rc::new(Dialer::new(endpoint, credentials, address, Expect { site }, class, self.entropy.clone()))
    }

    /// Asks one shard of a peer.
    pub(crate) async fn call(
        &self,
        peer: &PeerRecord,
        shard: u16,
        class: Class,
        request: &Request,
        body: Option<Vec<Bytes>>,
    ) -> Result<Reply, PeerCallError> {
        let dialer = self.dialer(peer, shard, class)?;
        let connection = dialer.connection().await.map_err(|error| match error {
            ConnectError::Refused { rejection: Rejection::UnknownAuthority, .. } => turned_away(peer),
            other => PeerCallError::Unreachable(other.to_string()),
        })?;
        connection.call(request, body).await.map(|(reply, _)| reply).map_err(|error| match error {
            // Our half of the handshake is done before the peer says no to its own.
            CallError::Stream(StreamError::Rejected(Rejection::UnknownAuthority)) => turned_away(peer),
            other => PeerCallError::Call(other),
        })
    }

    /// Whether the connection over which a peer was greeted is still up. Nothing needs to be said to find that out.
    pub(crate) fn is_up(&self, peer: SiteId) -> bool {
        self.dialers.borrow().get(&(peer, 0, Class::Request)).is_some_and(|dialer| dialer.is_up())
    }

    /// How many shards and groups a peer has; asked once a connection.
    pub(crate) async fn hello(&self, peer: &PeerRecord, own: Hello) -> Result<Hello, PeerCallError> {
        match self.call(peer, 0, Class::Request, &Request::Hello(own), None).await? {
            Reply::Hello(hello) if hello.shards > 0 && hello.groups > 0 && hello.site == peer.site => {
                self.hellos.borrow_mut().insert(peer.site, hello.clone());
                Ok(hello)
            }
            _ => Err(PeerCallError::Unreachable(format!("peer {} did not greet back", peer.name))),
        }
    }

    /// What a peer said last.
    pub(crate) fn known(&self, peer: SiteId) -> Option<Hello> {
        self.hellos.borrow().get(&peer).cloned()
    }

    /// Gives up every connection to a peer.
    pub(crate) fn forget(&self, peer: SiteId) {
        let gone: Vec<Rc<Dialer>> = {
            let mut dialers = self.dialers.borrow_mut();
            let keys: Vec<Key> = dialers.keys().filter(|(site, ..)| *site == peer).copied().collect();
            keys.iter().filter_map(|key| dialers.remove(key)).collect()
        };
        for dialer in gone {
            dialer.hang_up("the peer was removed");
        }
        self.hellos.borrow_mut().remove(&peer);
    }
}
