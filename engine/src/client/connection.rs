//! A client's way to its site: one dialer for each shard and class, and calls that are repeated where that is safe.

use super::context::Context;
use super::error::ClientError;
use crate::machine::Machine;
use bytes::Bytes;
use farside_codec::ids::{ChunkId, GroupId, Hlc, LogId, NodeId, SiteId};
use farside_codec::message::{Hello, RefusalCode, Reply, Request};
use farside_codec::{Field, frame};
use farside_transport::{
    CallError, Class, ConnectError, Credentials, Dialer, Endpoint, Expect, Settings, Stream, StreamError,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
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
const KEEP_ALIVE: Duration = Duration::from_millis(1500);
/// Shorter for the first call: a command that finds nobody should say so soon.
const FIRST_PATIENCE: Duration = Duration::from_secs(4);

type Link = (u16, Class);

/// Connections to one site.
pub struct SiteLink {
    machine: Machine,
    endpoint: Endpoint,
    credentials: Credentials,
    expect: Expect,
    /// Shard 0 of the node that answered.
    address: SocketAddr,
    hello: Hello,
    dialers: RefCell<BTreeMap<Link, Rc<Dialer>>>,
}

impl SiteLink {
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
        let hello = Request::Hello(Hello {
            oldest_version: frame::OLDEST_VERSION,
            newest_version: frame::VERSION,
            site: SiteId::default(),
            site_name: context.site_name.clone(),
            incarnation: 0,
            node: NodeId(0),
            shard: 0,
            shards: 0,
            groups: 0,
            now: Hlc::from_ms(machine.clock.wall_ms()),
        });
        let mut last = ClientError::Unreachable(format!("the context of site {} names no node", context.site_name));
        let deadline = Instant::now() + FIRST_PATIENCE;
        for address in addresses {
            let dialer = Rc::new(Dialer::new(
                endpoint.clone(),
                credentials.clone(),
                address,
                expect.clone(),
                Class::Request,
                machine.entropy.clone(),
            ));
            match tokio::time::timeout_at(deadline, greet(&dialer, &hello)).await {
                Ok(Ok(hello)) => {
                    let dialers = RefCell::new(BTreeMap::from([((0, Class::Request), dialer)]));
                    let machine = machine.clone();
                    return Ok(Self { machine, endpoint, credentials, expect, address, hello, dialers });
                }
                Ok(Err(error)) => last = error,
                Err(_) => {
                    last = ClientError::Unreachable(format!("site {} does not answer at {address}", context.site_name))
                }
            }
        }
        Err(last)
    }

    /// What the node said about itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The shard that coordinates a chunk.
    pub fn shard_of_chunk(&self, chunk: ChunkId) -> u16 {
        chunk.shard(self.hello.shards)
    }

    /// The shard that runs a log's group.
    pub fn shard_of_log(&self, log: LogId) -> u16 {
        GroupId::of_log(log, self.hello.groups).shard(self.hello.shards)
    }

    fn dialer(&self, link: Link) -> Result<Rc<Dialer>, ClientError> {
        let mut dialers = self.dialers.borrow_mut();
        let port = self.address.port().checked_add(link.0);
        let port = port.ok_or_else(|| ClientError::Failed("the site's shards have ports above 65535".into()))?;
        let make = || {
            let address = SocketAddr::new(self.address.ip(), port);
            let entropy = self.machine.entropy.clone();
            let (endpoint, credentials) = (self.endpoint.clone(), self.credentials.clone());
            Rc::new(Dialer::new(endpoint, credentials, address, self.expect.clone(), link.1, entropy))
        };
        Ok(dialers.entry(link).or_insert_with(make).clone())
    }

    /// Asks a shard, again and again while that may help. Every request that a client makes is safe to repeat.
    pub async fn call(&self, shard: u16, class: Class, request: &Request) -> Result<Reply, ClientError> {
        self.call_with(shard, class, request, None).await.map(|(reply, _)| reply)
    }

    /// The same, with a body to send, and the stream for a body to receive.
    pub async fn call_with(
        &self,
        shard: u16,
        class: Class,
        request: &Request,
        body: Option<Bytes>,
    ) -> Result<(Reply, Stream), ClientError> {
        let mut deadline = Instant::now() + PATIENCE;
        let dialer = self.dialer((shard, class))?;
        let mut wait = Duration::from_millis(20);
        let mut first = true;
        loop {
            let connected = tokio::time::timeout_at(deadline, dialer.connection());
            let connected = connected.await.unwrap_or(Err(ConnectError::Unreachable(dialer.address())));
            let error = match connected {
                Err(error) => connect_failed(error),
                Ok(connection) => {
                    let parts = body.as_ref().map(|body| vec![body.clone()]);
                    match connection.call(request, parts).await {
                        Ok(answer) => return Ok(answer),
                        Err(CallError::Refused(refusal)) if refusal.retry_after_ms > 0 => {
                            wait = Duration::from_millis(u64::from(refusal.retry_after_ms));
                            ClientError::Refused(refusal)
                        }
                        Err(CallError::Refused(refusal)) => return Err(refusal.into()),
                        Err(error) => ClientError::Unreachable(format!("{}: {error}", dialer.address())),
                    }
                }
            };
            let final_one = matches!(&error, ClientError::Refused(refusal) if refusal.code == RefusalCode::Full);
            if std::mem::take(&mut first) {
                deadline = deadline.max(Instant::now() + SECOND_CHANCE);
            }
            if final_one || Instant::now() + wait > deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    /// Says goodbye.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

fn connect_failed(error: ConnectError) -> ClientError {
    match error {
        ConnectError::Unreachable(_) | ConnectError::Closed => ClientError::Unreachable(error.to_string()),
        other => ClientError::Failed(other.to_string()),
    }
}

async fn greet(dialer: &Dialer, hello: &Request) -> Result<Hello, ClientError> {
    let connection = dialer.connection().await.map_err(connect_failed)?;
    match connection.call(hello, None).await {
        Ok((Reply::Hello(hello), _)) if hello.shards > 0 && hello.groups > 0 => Ok(hello),
        Ok((reply, _)) => {
            Err(ClientError::Failed(format!("the node answered {} bytes that are no greeting", reply.to_bytes().len())))
        }
        Err(CallError::Refused(refusal)) => Err(refusal.into()),
        Err(CallError::Stream(StreamError::Rejected(rejection))) => {
            Err(ClientError::Failed(format!("the node at {} refused this identity: {rejection}", dialer.address())))
        }
        Err(error) => Err(ClientError::Unreachable(format!("{}: {error}", dialer.address()))),
    }
}
