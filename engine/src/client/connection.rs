//! A client's way to its site: every node that it knows, and calls that are repeated, at whichever node, where that is
//! safe. With a single node a call is that node's alone; with several, one that is silent is not waited for.

use super::context::Context;
use super::error::ClientError;
use super::node::{Caller, Node, Shape, connect_failed, is_over};
use super::pulse::{Haste, Pulse, TICK};
use super::route::{PROBE_PATIENCE, Route, Target};
use crate::machine::Machine;
use bytes::Bytes;
use farside_codec::cluster::NodeState;
use farside_codec::ids::{Hlc, SiteId};
use farside_codec::message::{Hello, Refusal, RefusalCode, Reply, Request};
use farside_transport::{CallError, Class, ConnectError, Connection, Expect, Settings, StreamError};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a call is repeated before the site counts as unreachable: longer than a node that has just started asks its
/// peers whether it is still home.
const PATIENCE: Duration = Duration::from_secs(8);
/// What is left of it at least once a call has failed. A client that was held up itself, by its own input, finds its
/// connection gone and its patience over at once.
const SECOND_CHANCE: Duration = Duration::from_secs(2);
/// A client notices sooner than nodes do that its connection is dead, so that there is patience left for another one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Often enough that one that is lost costs nobody its connection: silence is noticed within [`super::pulse::QUIET`].
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Shorter for the first call: a command that finds nobody should say so soon.
const FIRST_PATIENCE: Duration = Duration::from_secs(4);
/// How long the first call waits for one node before it calls another one as well (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Nodes that are asked the same at a time. A node that is slow and not dead still answers first, so it is not given up.
const AT_ONCE: usize = 3;
/// Nodes that say "not now" before there is a pause: if so many do, it is the site that can't.
const REFUSALS: usize = 3;

/// How long goodbyes take at most: QUIC itself gives a node that never answered three seconds.
const GOODBYE: Duration = Duration::from_millis(300);

/// Connections to one site.
pub struct SiteLink {
    caller: Rc<Caller>,
    route: Rc<RefCell<Route>>,
    nodes: RefCell<BTreeMap<SocketAddr, Rc<Node>>>,
}

/// What is asked, wherever that will be.
struct Question<'a> {
    target: Target,
    class: Class,
    request: &'a Request,
    body: Option<Bytes>,
    /// Bytes of the chunk that follow the reply.
    awaited_bytes: u32,
}

type Answer = (Reply, Vec<u8>);

/// Why an attempt at a node gave no answer.
enum Miss {
    /// It would give none anywhere.
    Failed(ClientError),
    /// The node is not there, as far as this client can see.
    Silent(ClientError),
    /// The node said no.
    Refused(Refusal),
}

/// Whoever is turned away for good need not ask elsewhere.
fn turned_away(error: ClientError) -> Miss {
    match error {
        ClientError::TurnedAway(..) => Miss::Failed(error),
        error => Miss::Silent(error),
    }
}

/// Why a round of attempts gave no answer: for good, or for now, with the wait that the site asks for.
enum Missed {
    ForGood(ClientError),
    ForNow(ClientError, Option<Duration>),
}

/// How long a call goes on.
struct Patience {
    deadline: Cell<Instant>,
    failed: Cell<bool>,
    /// An attempt got no answer: what it asked for may have been done.
    silent: Cell<bool>,
}

impl Patience {
    fn new() -> Self {
        Self { deadline: Cell::new(Instant::now() + PATIENCE), failed: Cell::new(false), silent: Cell::new(false) }
    }

    fn failed(&self) {
        if !self.failed.replace(true) {
            self.deadline.set(self.deadline.get().max(Instant::now() + SECOND_CHANCE));
        }
    }
}

/// What is said of a write whose home has moved: that it was not done is certain only where each attempt was answered. One that
/// an old home has placed may have come to the next one, or may be undone.
fn honestly(patience: &Patience, question: &Question<'_>, error: ClientError) -> ClientError {
    match error {
        ClientError::Refused(refusal)
            if refusal.code == RefusalCode::NotHome
                && patience.silent.get()
                && matches!(question.request, Request::Propose(_)) =>
        {
            let detail = format!(
                "{}; an earlier try of this write got no answer, and whether that was done is not known",
                refusal.detail
            );
            ClientError::Refused(Refusal { code: RefusalCode::Unavailable, detail, ..refusal })
        }
        error => error,
    }
}

/// The connection that an attempt uses, once there is one.
type Line = Rc<RefCell<Option<Connection>>>;

/// The attempt that was begun last: if its node is silent, the next one is asked as well.
struct Watch {
    address: SocketAddr,
    line: Line,
    pulse: Pulse,
}

impl SiteLink {
    /// The site that it leads to.
    pub fn site(&self) -> SiteId {
        self.caller.expect.site
    }

    /// Finds a node of the site that answers.
    pub(super) async fn connect(context: &Context, machine: &Machine) -> Result<Self, ClientError> {
        let credentials = context.credentials()?;
        let expect = Expect { site: context.site };
        let addresses = context.addresses()?;
        let local: SocketAddr = match addresses.first() {
            Some(SocketAddr::V6(_)) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            _ => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        };
        let settings = Settings { idle_timeout: IDLE_TIMEOUT, keep_alive: KEEP_ALIVE, ..Settings::default() };
        let endpoint = machine.endpoint(local, None, settings);
        let endpoint = endpoint.map_err(|error| ClientError::Failed(error.to_string()))?;
        let now = Hlc::from_ms(machine.clock.wall_ms());
        let hello = Request::Hello(Hello::of_caller(context.site_name.clone(), now));
        let caller = Rc::new(Caller { machine: machine.clone(), endpoint, credentials, expect, hello });
        let route = Rc::new(RefCell::new(Route::new(addresses.iter().copied())));
        let link = Self { caller, route, nodes: RefCell::default() };
        link.find(addresses, context.site_name.as_str()).await?;
        Ok(link)
    }

    /// Greets one node after the other, each with a head start, until one answers.
    async fn find(&self, addresses: Vec<SocketAddr>, site: &str) -> Result<(), ClientError> {
        let deadline = Instant::now() + FIRST_PATIENCE;
        let mut left = addresses.into_iter();
        let mut asked = BTreeSet::new();
        let mut greetings = FuturesUnordered::new();
        let mut last = ClientError::Unreachable(format!("the context of site {site} names no node"));
        loop {
            if let Some(address) = left.next() {
                let node = self.node(address);
                asked.insert(address);
                greetings.push(async move { (address, node.greet().await) });
            }
            let next = match left.len() {
                0 => deadline,
                _ => deadline.min(Instant::now() + HEAD_START),
            };
            match tokio::time::timeout_at(next, greetings.next()).await {
                Ok(Some((address, Ok(_)))) => {
                    self.route.borrow_mut().answered(address, Target::Any);
                    asked.remove(&address);
                    asked.into_iter().for_each(|address| self.silent(address));
                    return Ok(());
                }
                Ok(Some((address, Err(error)))) => {
                    self.silent(address);
                    // A node whose clock is wrong may turn away whom others let in; if none does, this is what to say.
                    if !matches!(last, ClientError::TurnedAway(..)) {
                        last = error;
                    }
                }
                Ok(None) => return Err(last),
                Err(_) if Instant::now() >= deadline && matches!(last, ClientError::TurnedAway(..)) => {
                    return Err(last);
                }
                Err(_) if Instant::now() >= deadline => {
                    let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
                    let text = format!("site {site} does not answer at {}", asked.join(", "));
                    return Err(ClientError::Unreachable(text));
                }
                Err(_) => {}
            }
        }
    }

    /// What the site says about where its nodes are, for contexts that are older than some of them.
    pub fn learn(&self, endpoints: impl IntoIterator<Item = SocketAddr>) {
        let mut route = self.route.borrow_mut();
        route.learn(endpoints);
        self.nodes.borrow_mut().retain(|address, _| route.knows(*address));
    }

    /// Asks which nodes the site has: a context names those that there were when it was made.
    pub(super) async fn find_nodes(&self) {
        // Without an answer those are what there is.
        let Ok(Reply::Nodes(nodes)) = self.call(Target::Any, &Request::Nodes).await else { return };
        let there = nodes.iter().filter(|node| matches!(node.state, NodeState::Up | NodeState::Draining));
        let addresses: Vec<SocketAddr> = there.filter_map(|node| node.endpoint.parse().ok()).collect();
        if addresses.len() > 1 {
            self.learn(addresses);
        }
    }

    fn node(&self, address: SocketAddr) -> Rc<Node> {
        let mut nodes = self.nodes.borrow_mut();
        nodes.entry(address).or_insert_with(|| Rc::new(Node::new(self.caller.clone(), address))).clone()
    }

    fn now(&self) -> Duration {
        self.caller.machine.clock.monotonic()
    }

    fn silent(&self, address: SocketAddr) {
        self.route.borrow_mut().silent(address, self.now());
    }

    /// Asks the site, again and again while that may help. Every request that a client makes is safe to repeat.
    pub async fn call(&self, target: Target, request: &Request) -> Result<Reply, ClientError> {
        let question = Question { target, class: Class::Request, request, body: None, awaited_bytes: 0 };
        self.ask(&question).await.map(|(reply, _)| reply)
    }

    /// The same, with a chunk to send.
    pub async fn send(&self, target: Target, request: &Request, body: Bytes) -> Result<Reply, ClientError> {
        let question = Question { target, class: Class::Bulk, request, body: Some(body), awaited_bytes: 0 };
        self.ask(&question).await.map(|(reply, _)| reply)
    }

    /// The same, with a chunk to receive: its `bytes`, if the reply says that so many follow.
    pub async fn fetch(&self, target: Target, request: &Request, bytes: u32) -> Result<(Reply, Vec<u8>), ClientError> {
        self.ask(&Question { target, class: Class::Bulk, request, body: None, awaited_bytes: bytes }).await
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Answer, ClientError> {
        self.probe_silent_nodes();
        let patience = Patience::new();
        let mut wait = Duration::from_millis(20);
        let mut tried = BTreeSet::new();
        loop {
            let error = match self.round(question, &patience, &mut tried).await {
                Ok(answer) => return Ok(answer),
                Err(Missed::ForGood(error)) => return Err(honestly(&patience, question, error)),
                Err(Missed::ForNow(error, again)) => {
                    wait = again.unwrap_or(wait);
                    error
                }
            };
            if Instant::now() + wait > patience.deadline.get() {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
            if !self.route.borrow().has_more(&tried) {
                tried.clear();
            }
        }
    }

    /// Asks one node, and others where that one says nothing, or "not now". The first answer counts.
    async fn round(
        &self,
        question: &Question<'_>,
        patience: &Patience,
        tried: &mut BTreeSet<SocketAddr>,
    ) -> Result<Answer, Missed> {
        let mut attempts: FuturesUnordered<LocalBoxFuture<'_, (SocketAddr, Result<Answer, Miss>)>> =
            FuturesUnordered::new();
        let haste = Haste::of(question.request, question.class);
        let mut refusals = 0;
        let mut watch: Option<Watch> = None;
        let mut missed = Missed::ForGood(ClientError::Unreachable("no node of the site is known".into()));
        loop {
            let may_begin = |at_once: usize| refusals < REFUSALS && at_once < AT_ONCE;
            let next = match may_begin(attempts.len()) && watch.is_none() {
                true => self.route.borrow().choose(question.target, tried, self.now()),
                false => None,
            };
            if let Some(address) = next {
                tried.insert(address);
                let line = Line::default();
                let attempt = self.attempt(self.node(address), question, patience, line.clone());
                attempts.push(Box::pin(async move { (address, attempt.await) }));
                watch = Some(Watch { address, line, pulse: Pulse::new(haste, self.now()) });
            }
            let others = may_begin(attempts.len()) && self.route.borrow().has_more(tried);
            let ended = tokio::select! {
                biased;
                ended = attempts.next() => ended,
                () = self.silence(watch.as_mut()), if others => {
                    watch.take().into_iter().for_each(|watch| self.silent(watch.address));
                    continue;
                }
            };
            let Some((address, outcome)) = ended else { return Err(missed) };
            missed = match outcome {
                Ok(answer) => {
                    self.route.borrow_mut().answered(address, question.target);
                    return Ok(answer);
                }
                Err(miss) => {
                    refusals += usize::from(matches!(miss, Miss::Refused(_)));
                    let unanswered = matches!(miss, Miss::Silent(_)) || !attempts.is_empty();
                    patience.silent.set(patience.silent.get() || unanswered);
                    self.missed(address, question, miss, tried)?
                }
            };
            patience.failed();
            if Instant::now() > patience.deadline.get() {
                return Err(missed);
            }
            // The next node is asked at once, unless it was asked already, beside this one.
            watch = watch.filter(|watch| watch.address != address);
        }
    }

    /// Puts a node aside that gave no answer. An error is what no other node would answer either.
    fn missed(
        &self,
        address: SocketAddr,
        question: &Question<'_>,
        miss: Miss,
        tried: &BTreeSet<SocketAddr>,
    ) -> Result<Missed, Missed> {
        let is_worth_repeating = |refusal: &Refusal| match refusal.code {
            // More space comes with time, but seldom with the time that a call has.
            RefusalCode::Full => false,
            // Such as a node that stops.
            RefusalCode::Unavailable | RefusalCode::NotLeader if self.route.borrow().has_more(tried) => true,
            _ => refusal.retry_after_ms > 0,
        };
        match miss {
            Miss::Failed(error) => Err(Missed::ForGood(error)),
            Miss::Silent(error) => {
                self.silent(address);
                Ok(Missed::ForNow(error, None))
            }
            Miss::Refused(refusal) if is_worth_repeating(&refusal) => {
                let again = Duration::from_millis(u64::from(refusal.retry_after_ms));
                self.route.borrow_mut().refused(address, question.target, self.now(), again);
                Ok(Missed::ForNow(ClientError::Refused(refusal), (!again.is_zero()).then_some(again)))
            }
            Miss::Refused(refusal) => Err(Missed::ForGood(refusal.into())),
        }
    }

    /// Ends when the node that is watched counts as silent.
    async fn silence(&self, watch: Option<&mut Watch>) {
        let Some(watch) = watch else { return std::future::pending().await };
        loop {
            tokio::time::sleep(TICK).await;
            let traffic = watch.line.borrow().as_ref().map(Connection::traffic);
            if watch.pulse.is_silent(self.now(), traffic) {
                return;
            }
        }
    }

    async fn attempt(
        &self,
        node: Rc<Node>,
        question: &Question<'_>,
        patience: &Patience,
        line: Line,
    ) -> Result<Answer, Miss> {
        let Question { target, class, request, body, awaited_bytes } = question;
        let Shape { shards, groups } = match node.shape() {
            Some(shape) => shape,
            None => {
                let greeted = tokio::time::timeout_at(patience.deadline.get(), node.greet()).await;
                let late = || ClientError::Unreachable(format!("{} does not answer", node.address()));
                let (shape, connection) = greeted.unwrap_or_else(|_| Err(late())).map_err(turned_away)?;
                // It was heard. On a long way the next connection takes as long again.
                line.replace(Some(connection));
                shape
            }
        };
        let dialer = node.dialer(target.shard(shards, groups), *class).map_err(Miss::Failed)?;
        let connected = tokio::time::timeout_at(patience.deadline.get(), dialer.connection()).await;
        let connected = connected.unwrap_or(Err(ConnectError::Unreachable(dialer.address())));
        let connection = connected.map_err(|error| turned_away(connect_failed(error)))?;
        line.replace(Some(connection.clone()));
        let lost = |error: String| Miss::Silent(ClientError::Unreachable(format!("{}: {error}", dialer.address())));
        let parts = body.as_ref().map(|body| vec![body.clone()]);
        let (reply, mut stream) = match connection.call(request, parts).await {
            Ok(answer) => answer,
            Err(CallError::Refused(refusal)) => return Err(Miss::Refused(refusal)),
            Err(CallError::Stream(StreamError::Rejected(rejection))) if is_over(rejection) => {
                return Err(Miss::Failed(ClientError::TurnedAway(dialer.address(), rejection)));
            }
            Err(error) => return Err(lost(error.to_string())),
        };
        let mut received = Vec::new();
        if let Reply::ChunkRange(range) = &reply
            && range.length == *awaited_bytes
        {
            let length = range.length as usize;
            received.reserve_exact(length);
            let body = stream.receive_body(length, |piece| received.extend_from_slice(&piece)).await;
            body.map_err(|error| match error {
                StreamError::Rejected(rejection) if is_over(rejection) => {
                    Miss::Failed(ClientError::TurnedAway(dialer.address(), rejection))
                }
                error => lost(error.to_string()),
            })?;
        }
        Ok((reply, received))
    }

    /// Greets silent nodes whose time is over, beside whatever else is done. Nobody waits for them.
    fn probe_silent_nodes(&self) {
        let due = self.route.borrow_mut().due(self.now());
        for address in due {
            let (node, route, caller) = (self.node(address), self.route.clone(), self.caller.clone());
            tokio::task::spawn_local(async move {
                let greeted = tokio::time::timeout(PROBE_PATIENCE, node.greet()).await;
                let now = caller.machine.clock.monotonic();
                route.borrow_mut().probed(address, matches!(greeted, Ok(Ok(_))), now);
            });
        }
    }

    /// Says goodbye, and waits until it was heard; where one of several nodes may be silent, not for long.
    pub async fn close(&self) {
        let goodbye = self.caller.endpoint.close();
        let several = self.route.borrow().has_several();
        match several {
            // What is not heard in time was said all the same.
            true => drop(tokio::time::timeout(GOODBYE, goodbye).await),
            false => goodbye.await,
        }
    }
}
