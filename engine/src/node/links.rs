//! A shard's links to peer sites and to the other nodes of its own: one dialer for each of their shards and each class,
//! made when first needed.

use super::directory::SiteFile;
use super::limits::{HANG_UP, LISTEN, LISTEN_ASK, LISTEN_MOST, LOOK_AGAIN, RAFT_PATIENCE};
use super::server::Answered;
use super::shard::Shard;
use crate::machine::Machine;
use bytes::Bytes;
use farside_codec::cluster::{NodeRecord, NodeState};
use farside_codec::frame;
use farside_codec::ids::{Hlc, Label, NodeId, SiteId};
use farside_codec::message::{Hello, PeerRecord, Refusal, RefusalCode, Reply, Request};
use farside_io::clock::Clock;
use farside_io::disk::Disk;
use farside_io::entropy::Entropy;
use farside_transport::{
    CallError, Class, ConnectError, Connection, Credentials, Dialer, Endpoint, Expect, Rejection, Stream, StreamError,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

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

/// Dialers by whom they reach, which of its shards, and in which class.
struct Dialers<W> {
    endpoint: Endpoint,
    credentials: Credentials,
    entropy: Rc<dyn Entropy>,
    made: RefCell<BTreeMap<(W, u16, Class), Rc<Dialer>>>,
}

impl<W: Ord + Copy> Dialers<W> {
    fn new(endpoint: Endpoint, credentials: Credentials, entropy: Rc<dyn Entropy>) -> Self {
        Self { endpoint, credentials, entropy, made: RefCell::default() }
    }

    /// The dialer of `whom`, whose shard 0 is at `first`; another one than before where that has moved.
    fn to(&self, whom: W, first: SocketAddr, shard: u16, class: Class, site: SiteId) -> Option<Rc<Dialer>> {
        let address = SocketAddr::new(first.ip(), first.port().checked_add(shard)?);
        let mut made = self.made.borrow_mut();
        let dial = || {
            let (endpoint, credentials) = (self.endpoint.clone(), self.credentials.clone());
            Rc::new(Dialer::new(endpoint, credentials, address, Expect { site }, class, self.entropy.clone()))
        };
        let dialer = made.entry((whom, shard, class)).or_insert_with(dial);
        if dialer.address() != address {
            *dialer = dial();
        }
        Some(dialer.clone())
    }

    fn get(&self, whom: W, shard: u16, class: Class) -> Option<Rc<Dialer>> {
        self.made.borrow().get(&(whom, shard, class)).cloned()
    }

    /// Gives up every connection to those of whom `gone` is true.
    fn forget(&self, gone: impl Fn(W) -> bool, reason: &str) {
        let gone: Vec<Rc<Dialer>> = {
            let mut made = self.made.borrow_mut();
            let keys: Vec<_> = made.keys().filter(|(whom, ..)| gone(*whom)).copied().collect();
            keys.iter().filter_map(|key| made.remove(key)).collect()
        };
        gone.iter().for_each(|dialer| dialer.hang_up(reason));
    }
}

/// Links to all peers.
pub(crate) struct PeerLinks {
    dialers: Dialers<SiteId>,
    hellos: RefCell<BTreeMap<SiteId, Hello>>,
    /// Which of a peer's nodes is talked to: counted on whenever one does not answer.
    turns: RefCell<BTreeMap<SiteId, usize>>,
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

/// Greets a caller back, if the two understand one another and their clocks agree.
pub(super) fn greet<D: Disk>(shard: &Rc<Shard<D>>, hello: &Hello) -> Answered {
    if hello.newest_version < frame::OLDEST_VERSION || hello.oldest_version > frame::VERSION {
        let detail = format!(
            "the caller speaks protocol versions {} to {}, site {} speaks {} to {}",
            hello.oldest_version,
            hello.newest_version,
            shard.site.name,
            frame::OLDEST_VERSION,
            frame::VERSION
        );
        return Err(Refusal::new(RefusalCode::Version, detail));
    }
    if hello.site != SiteId::default() {
        let skew =
            |error: farside_io::clock::ClockSkew| Refusal::retry(RefusalCode::ClockSkew, 5000, error.to_string());
        shard.clock.observe(hello.now).map_err(skew)?;
    }
    Ok(Reply::Hello(own_hello(&shard.site, shard.index, shard.clock.now())).into())
}

fn turned_away(peer: &PeerRecord) -> PeerCallError {
    PeerCallError::Unreachable(forgotten(&peer.name))
}

impl PeerLinks {
    pub(crate) fn new(endpoint: Endpoint, credentials: Credentials, entropy: Rc<dyn Entropy>) -> Self {
        let dialers = Dialers::new(endpoint, credentials, entropy);
        Self { dialers, hellos: RefCell::default(), turns: RefCell::default() }
    }

    fn turn(&self, peer: SiteId) -> usize {
        self.turns.borrow().get(&peer).copied().unwrap_or(0)
    }

    fn dialer(&self, peer: &PeerRecord, turn: usize, shard: u16, class: Class) -> Result<Rc<Dialer>, PeerCallError> {
        let no_address = || PeerCallError::Unreachable(format!("peer {} has no address", peer.name));
        let at = turn % peer.endpoints.len().max(1);
        let first = peer.endpoints.get(at).and_then(|text| text.parse().ok()).ok_or_else(no_address)?;
        self.dialers.to(peer.site, first, shard, class, peer.site).ok_or_else(no_address)
    }

    /// Goes on with the next node of a peer. What the last one said of itself does not hold for it. Of several who have called
    /// the same one in vain only the first turns away: as many turns as there are nodes would lead back to it.
    fn turn_away_from(&self, peer: &PeerRecord, turn: usize) {
        if peer.endpoints.len() > 1 && self.turn(peer.site) == turn {
            self.turns.borrow_mut().insert(peer.site, turn.wrapping_add(1));
            self.hellos.borrow_mut().remove(&peer.site);
        }
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
        self.ask(peer, shard, class, request, body).await.map(|(reply, _)| reply)
    }

    /// Asks one shard of a peer, and leaves the body of its answer to the caller.
    pub(crate) async fn ask(
        &self,
        peer: &PeerRecord,
        shard: u16,
        class: Class,
        request: &Request,
        body: Option<Vec<Bytes>>,
    ) -> Result<(Reply, Stream), PeerCallError> {
        let turn = self.turn(peer.site);
        let dialer = self.dialer(peer, turn, shard, class)?;
        let connection = dialer.connection().await.map_err(|error| {
            self.turn_away_from(peer, turn);
            match error {
                ConnectError::Refused { rejection: Rejection::UnknownAuthority, .. } => turned_away(peer),
                other => PeerCallError::Unreachable(other.to_string()),
            }
        })?;
        connection.call(request, body).await.map_err(|error| match error {
            // Our half of the handshake is done before the peer says no to its own.
            CallError::Stream(StreamError::Rejected(Rejection::UnknownAuthority)) => turned_away(peer),
            CallError::Refused(refusal) => PeerCallError::Call(CallError::Refused(refusal)),
            other => {
                self.turn_away_from(peer, turn);
                PeerCallError::Call(other)
            }
        })
    }

    /// Whether the connection over which a peer was greeted is still up. Nothing needs to be said to find that out.
    pub(crate) fn is_up(&self, peer: SiteId) -> bool {
        self.dialers.get(peer, 0, Class::Request).is_some_and(|dialer| dialer.is_up())
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
        self.dialers.forget(|site| site == peer, "the peer was removed");
        self.hellos.borrow_mut().remove(&peer);
        self.turns.borrow_mut().remove(&peer);
    }
}

/// Why another node of this site did not do what it was asked.
#[derive(Debug)]
pub(crate) enum NodeCallError {
    /// There is no way to it now, or it did not answer in time.
    Silent(NodeId),
    /// It refused.
    Refused(Refusal),
}

/// What another node answered does not fit what it was asked.
pub(crate) fn misanswered() -> Refusal {
    Refusal::new(RefusalCode::Internal, "a node answered something else than was asked")
}

impl From<NodeCallError> for Refusal {
    fn from(error: NodeCallError) -> Self {
        match error {
            NodeCallError::Silent(node) => {
                Refusal::retry(RefusalCode::Unavailable, 100, format!("node {node} does not answer"))
            }
            NodeCallError::Refused(refusal) => refusal,
        }
    }
}

/// Links to the other nodes of the site. Clones share them.
#[derive(Clone)]
pub(crate) struct NodeLinks(Rc<Links>);

struct Links {
    dialers: Dialers<NodeId>,
    site: SiteId,
    /// What a node is asked to find out whether it answers again.
    hello: Request,
    clock: Rc<dyn Clock>,
    /// This node.
    own: NodeId,
    /// The site's incarnation when this node was started.
    incarnation: u64,
    /// A higher one, if another node of the site has greeted this one with it.
    ahead: Cell<u64>,
    /// Woken when that happens.
    behind: Notify,
    /// Nodes that the site goes on without, whatever its control group says so far.
    fenced: BTreeSet<NodeId>,
    /// Nodes that did not answer when they were asked last. Nobody waits for them: a greeting now and then finds out when
    /// they are back.
    silent: RefCell<BTreeMap<NodeId, Silence>>,
}

/// The connection that a call uses, once there is one.
type Line = RefCell<Option<Connection>>;

#[derive(Clone, Copy)]
struct Silence {
    /// Since when, by the monotonic clock.
    since: Duration,
    /// When it was greeted last.
    greeted: Duration,
}

impl NodeLinks {
    pub(crate) fn new(
        site: &SiteFile,
        fenced: BTreeSet<NodeId>,
        endpoint: Endpoint,
        credentials: Credentials,
        machine: &Machine,
    ) -> Self {
        let dialers = Dialers::new(endpoint, credentials, machine.entropy.clone());
        // For no site: clocks are compared elsewhere.
        let hello = Request::Hello(Hello::of_caller(site.name.clone(), Hlc::default()));
        let (clock, silent) = (machine.clock.clone(), RefCell::default());
        let (own, incarnation, ahead, behind) = (site.node, site.incarnation, Cell::new(0), Notify::new());
        Self(Rc::new(Links { dialers, site: site.site, hello, clock, own, incarnation, ahead, behind, fenced, silent }))
    }

    /// Whether the site goes on without a node.
    pub(crate) fn is_fenced(&self, node: NodeId) -> bool {
        self.0.fenced.contains(&node)
    }

    /// The incarnation in which the site goes on without this node, if it is known to.
    pub(crate) fn left_behind(&self) -> Option<u64> {
        Some(self.0.ahead.get()).filter(|ahead| *ahead > 0)
    }

    /// Waits until it is.
    pub(crate) async fn left_behind_by(&self) -> u64 {
        loop {
            match self.left_behind() {
                Some(incarnation) => return incarnation,
                None => self.0.behind.notified().await,
            }
        }
    }

    /// Takes note of it. Nothing is said to other nodes any more.
    pub(crate) fn leave_behind(&self, incarnation: u64) {
        self.0.ahead.set(incarnation);
        self.0.behind.notify_one();
    }

    /// Takes note of what another node says of itself.
    fn greeted_back(&self, reply: &Reply) {
        if let Reply::Hello(hello) = reply
            && hello.site == self.0.site
            && hello.incarnation > self.0.incarnation
        {
            self.leave_behind(hello.incarnation);
        }
    }

    /// Greets every node of the site once, so that a node that was left behind knows it before it takes anything in.
    pub(crate) async fn greet_all(&self, nodes: &BTreeMap<NodeId, NodeRecord>) {
        let others = nodes.values().filter(|node| node.node != self.0.own && node.state != NodeState::Removed);
        let greetings = others.map(|node| async move {
            let greeted = self.call(node, 0, Class::Request, &self.0.hello, None, RAFT_PATIENCE).await;
            // Whoever does not answer now is greeted again before it is asked anything.
            greeted.into_iter().for_each(|(reply, _)| self.greeted_back(&reply));
        });
        futures_util::future::join_all(greetings).await;
    }

    /// Whether a node answered when it was asked last, or was not asked yet.
    pub(crate) fn answers(&self, node: NodeId) -> bool {
        !self.0.silent.borrow().contains_key(&node) && !self.is_fenced(node)
    }

    /// Gives up the connections to nodes that are no longer of the site.
    pub(crate) fn keep(&self, nodes: &BTreeMap<NodeId, NodeRecord>) {
        let stays = |node| nodes.get(&node).is_some_and(|known| known.state != NodeState::Removed);
        self.0.dialers.forget(|node| !stays(node), "the node was removed");
        self.0.silent.borrow_mut().retain(|node, _| stays(*node));
    }

    /// Asks one shard of a node, and waits for up to `patience` until its answer begins; less where the node is not there.
    pub(crate) async fn call(
        &self,
        node: &NodeRecord,
        shard: u16,
        class: Class,
        request: &Request,
        body: Option<Vec<Bytes>>,
        patience: Duration,
    ) -> Result<(Reply, Stream), NodeCallError> {
        let silent = || NodeCallError::Silent(node.node);
        if self.left_behind().is_some() || self.is_fenced(node.node) {
            return Err(silent());
        }
        let known = self.0.silent.borrow().get(&node.node).copied();
        if let Some(silence) = known {
            self.greet_again(node, silence);
            return Err(silent());
        }
        let first: SocketAddr = node.endpoint.parse().map_err(|_| silent())?;
        let dialer = self.0.dialers.to(node.node, first, shard, class, self.0.site).ok_or_else(silent)?;
        let line = Line::default();
        let asked = async {
            let connection = dialer.connection().await.ok()?;
            line.replace(Some(connection.clone()));
            Some(connection.call(request, body).await)
        };
        let answered = tokio::select! {
            biased;
            answered = asked => answered,
            () = self.nobody_there(&line) => None,
            () = tokio::time::sleep(patience) => None,
        };
        match answered {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(CallError::Refused(refusal))) => Err(NodeCallError::Refused(refusal)),
            None | Some(Err(_)) => {
                let now = self.0.clock.monotonic();
                let silence = Silence { since: now, greeted: now };
                self.0.silent.borrow_mut().entry(node.node).or_insert(silence);
                Err(silent())
            }
        }
    }

    /// Ends once nothing at all came from a node for too long, though it was asked whether it is there. Looks are counted
    /// and not time, so that a node that was held up itself blames nobody.
    async fn nobody_there(&self, line: &Line) {
        let (mut heard, mut looks) = (None, 0);
        while looks < LISTEN_MOST {
            tokio::time::sleep(LISTEN).await;
            looks += 1;
            let connection = line.borrow().clone();
            let now = connection.as_ref().map(|connection| connection.traffic().datagrams_received);
            if now != heard {
                (heard, looks) = (now, 0);
            }
            if let Some(connection) = connection.filter(|_| looks == LISTEN_ASK) {
                let links = self.0.clone();
                // Its answer does not matter: what carries the question is acknowledged.
                let asked =
                    async move { tokio::time::timeout(RAFT_PATIENCE, connection.call(&links.hello, None)).await };
                tokio::task::spawn_local(asked);
            }
        }
    }

    /// Finds out, beside everything else, whether a silent node answers again.
    fn greet_again(&self, node: &NodeRecord, silence: Silence) {
        let now = self.0.clock.monotonic();
        if now.saturating_sub(silence.greeted) < LOOK_AGAIN {
            return;
        }
        self.0.silent.borrow_mut().insert(node.node, Silence { greeted: now, ..silence });
        let (own, links, node) = (self.clone(), self.0.clone(), node.clone());
        tokio::task::spawn_local(async move {
            let Ok(first) = node.endpoint.parse::<SocketAddr>() else { return };
            let Some(dialer) = links.dialers.to(node.node, first, 0, Class::Request, links.site) else { return };
            let answered = tokio::time::timeout(RAFT_PATIENCE, async {
                let connection = dialer.connection().await.ok()?;
                connection.call(&links.hello, None).await.ok()
            });
            match answered.await {
                Ok(Some((reply, _))) => {
                    own.greeted_back(&reply);
                    links.silent.borrow_mut().remove(&node.node);
                }
                // A process that died says nothing any more, and what took its place knows nothing of the connections.
                _ if now.saturating_sub(silence.since) > HANG_UP => {
                    links.dialers.forget(|other| other == node.node, "the node does not answer");
                }
                _ => {}
            }
        });
    }
}
