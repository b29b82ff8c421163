//! Sites, listeners and callers on loopback, for the suites of this folder.

#![allow(dead_code, reason = "no suite uses all of it")]

use farside_codec::Field;
use farside_codec::ids::{Label, SiteId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request, kind};
use farside_io::entropy::SystemEntropy;
use farside_transport::{
    Authority, CallError, Class, Connection, Credentials, Endpoint, Expect, Rejection, Role, Settings, Stream,
    StreamError, Trust,
};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::{LocalSet, spawn_local};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

pub(crate) fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub(crate) fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

/// Waits for something that takes a few turns of the runtime, and fails if it never comes.
pub(crate) async fn soon(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came");
}

pub(crate) struct Site {
    pub(crate) id: SiteId,
    pub(crate) authority: Authority,
    pub(crate) trust: Trust,
}

impl Site {
    pub(crate) fn new(number: u8) -> Self {
        let id = SiteId([number; 16]);
        let authority = Authority::create(id, &label("near"), &SystemEntropy).expect("an authority");
        let trust = Trust::new(id, authority.certificate());
        Self { id, authority, trust }
    }
    pub(crate) fn credentials(&self, role: Role, life: Duration, at: Duration) -> Credentials {
        let identity = self.authority.issue(role, "1", at, life, &SystemEntropy).expect("an identity");
        Credentials { identity: identity.into(), trust: self.trust.clone() }
    }
    pub(crate) fn node(&self) -> Credentials {
        self.credentials(Role::Node, DAY, now())
    }
    pub(crate) fn expect(&self) -> Expect {
        Expect { site: self.id }
    }
    pub(crate) fn listen(&self, settings: Settings) -> (Endpoint, SocketAddr) {
        let endpoint = Endpoint::listen(anywhere(), &self.node(), settings, &SystemEntropy).expect("a listener");
        let address = endpoint.local_address().expect("an address");
        (endpoint, address)
    }
    /// A connection of this site with itself.
    pub(crate) async fn link(&self, address: SocketAddr, settings: Settings, class: Class) -> Connection {
        let caller = caller(settings);
        caller.connect(address, &self.node(), &self.expect(), class).await.expect("a connection")
    }
}

pub(crate) fn caller(settings: Settings) -> Endpoint {
    Endpoint::caller(anywhere(), settings, &SystemEntropy).expect("a caller")
}

/// Answers every request with `Done`, every body with its length as a refusal's text, everything broken with
/// `BadRequest`.
pub(crate) fn serve(endpoint: Endpoint) {
    spawn_local(async move {
        while let Some(arrival) = endpoint.accept().await {
            spawn_local(async move {
                let Ok(connection) = arrival.complete().await else { return };
                while let Some(stream) = connection.accept().await {
                    spawn_local(answer(stream));
                }
            });
        }
    });
}

async fn answer(mut stream: Stream) {
    let reply = match read(&mut stream).await {
        Ok(reply) => reply,
        Err(StreamError::Closed) => return,
        Err(error) => Reply::Refused(Refusal::new(RefusalCode::BadRequest, error.to_string())),
    };
    let _ = stream.send(kind::REPLY, reply.to_bytes()).await;
    stream.finish();
    stream.delivered().await;
}

async fn read(stream: &mut Stream) -> Result<Reply, StreamError> {
    let request = stream.receive(kind::REQUEST).await?;
    match Request::from_bytes(request).map_err(StreamError::Corrupt)? {
        Request::PutChunk(put) => {
            let mut got = 0;
            stream.receive_body(put.sealed_bytes as usize, |piece| got += piece.len()).await?;
            Ok(Reply::Refused(Refusal::new(RefusalCode::Full, got.to_string())))
        }
        _ => Ok(Reply::Done),
    }
}

/// The first call on a connection, which is where a caller learns that it was turned away.
pub(crate) async fn rejection_of(connection: &Connection) -> Option<Rejection> {
    match connection.call(&Request::Status, None).await {
        Ok(_) => None,
        Err(CallError::Stream(StreamError::Rejected(rejection))) => Some(rejection),
        Err(error) => panic!("neither let in nor turned away: {error}"),
    }
}
