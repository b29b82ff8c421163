//! One node of a site, as a client has it: an address, what the node said about itself, a dialer for each shard and class.

use super::error::ClientError;
use crate::machine::Machine;
use farside_codec::Field;
use farside_codec::message::{Hello, Reply, Request};
use farside_transport::{
    CallError, Class, ConnectError, Connection, Credentials, Dialer, Endpoint, Expect, Rejection, StreamError,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// What calls any node of the site.
pub(super) struct Caller {
    pub(super) machine: Machine,
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    pub(super) expect: Expect,
    /// What every node is told first.
    pub(super) hello: Request,
}

/// How many shards a node has, and log groups its site.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) shards: u16,
    pub(super) groups: u32,
}

/// A node.
pub(super) struct Node {
    caller: Rc<Caller>,
    /// Shard 0.
    address: SocketAddr,
    shape: Cell<Option<Shape>>,
    dialers: RefCell<BTreeMap<(u16, Class), Rc<Dialer>>>,
}

impl Node {
    pub(super) fn new(caller: Rc<Caller>, address: SocketAddr) -> Self {
        Self { caller, address, shape: Cell::new(None), dialers: RefCell::default() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it said when it was greeted, if it was.
    pub(super) fn shape(&self) -> Option<Shape> {
        self.shape.get()
    }

    pub(super) fn dialer(&self, shard: u16, class: Class) -> Result<Rc<Dialer>, ClientError> {
        let port = self.address.port().checked_add(shard);
        let port = port.ok_or_else(|| ClientError::Failed("the site's shards have ports above 65535".into()))?;
        let make = || {
            let Caller { machine, endpoint, credentials, expect, .. } = &*self.caller;
            let address = SocketAddr::new(self.address.ip(), port);
            let (endpoint, credentials, entropy) = (endpoint.clone(), credentials.clone(), machine.entropy.clone());
            Rc::new(Dialer::new(endpoint, credentials, address, expect.clone(), class, entropy))
        };
        Ok(self.dialers.borrow_mut().entry((shard, class)).or_insert_with(make).clone())
    }

    /// Greets the node, and remembers what it says. Answers that, and the connection on which it said so.
    pub(super) async fn greet(&self) -> Result<(Shape, Connection), ClientError> {
        let connection = self.dialer(0, Class::Request)?.connection().await.map_err(connect_failed)?;
        match connection.call(&self.caller.hello, None).await {
            Ok((Reply::Hello(Hello { shards, groups, .. }), _)) if shards > 0 && groups > 0 => {
                let shape = Shape { shards, groups };
                self.shape.set(Some(shape));
                Ok((shape, connection))
            }
            Ok((reply, _)) => {
                let bytes = reply.to_bytes().len();
                Err(ClientError::Failed(format!("the node answered {bytes} bytes that are no greeting")))
            }
            Err(CallError::Refused(refusal)) => Err(refusal.into()),
            Err(CallError::Stream(StreamError::Rejected(rejection))) if is_over(rejection) => {
                Err(ClientError::TurnedAway(self.address, rejection))
            }
            Err(CallError::Stream(StreamError::Rejected(rejection))) => {
                Err(ClientError::Failed(format!("the node at {} refused this identity: {rejection}", self.address)))
            }
            Err(error) => Err(ClientError::Unreachable(format!("{}: {error}", self.address))),
        }
    }
}

/// Whether a rejection says that an identity that was good is so no more.
pub(super) fn is_over(rejection: Rejection) -> bool {
    matches!(rejection, Rejection::Revoked | Rejection::Expired)
}

pub(super) fn connect_failed(error: ConnectError) -> ClientError {
    match error {
        ConnectError::Refused { address, rejection, by_other: true } if is_over(rejection) => {
            ClientError::TurnedAway(address, rejection)
        }
        ConnectError::Refused { address, rejection: Rejection::Expired, .. } => ClientError::Failed(format!(
            "the certificate of the node at {address} has expired, or this machine's clock is wrong"
        )),
        ConnectError::Unreachable(_) | ConnectError::Closed => ClientError::Unreachable(error.to_string()),
        other => ClientError::Failed(other.to_string()),
    }
}
