//! Links over real loopback QUIC: who gets in, what a corrupt frame does, what bulk may not do to requests.

use bytes::Bytes;
use farside_codec::ids::{Hlc, Label, SiteId};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request, kind};
use farside_io::entropy::SystemEntropy;
use farside_transport::{
    Authority, CallError, Class, ConnectError, Connection, Credentials, Dialer, Endpoint, Expect, Role, Settings, Trust,
};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::{LocalSet, spawn_local};

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

struct Site {
    id: SiteId,
    authority: Authority,
    trust: Trust,
}

impl Site {
    fn new(number: u8) -> Self {
        let id = SiteId([number; 16]);
        let authority = Authority::create(id, &Label::parse("near").expect("a label")).expect("an authority");
        let trust = Trust::new(id, authority.certificate());
        Self { id, authority, trust }
    }
    fn credentials(&self, role: Role, life: Duration, at: Duration) -> Credentials {
        let identity = self.authority.issue(role, "1", at, life).expect("an identity");
        Credentials { identity, trust: self.trust.clone() }
    }
    fn expect(&self) -> Expect {
        Expect { site: self.id }
    }
    fn listen(&self, settings: Settings) -> (Endpoint, SocketAddr) {
        let credentials = self.credentials(Role::Node, DAY, now());
        let endpoint = Endpoint::listen(anywhere(), &credentials, settings, &SystemEntropy).expect("a listener");
        let address = endpoint.local_address().expect("an address");
        (endpoint, address)
    }
}

/// Answers every request with `Done`, every body with its length as a refusal's text.
fn serve(endpoint: Endpoint) {
    spawn_local(async move {
        while let Some(arrival) = endpoint.accept().await {
            spawn_local(async move {
                let Ok(connection) = arrival.complete().await else { return };
                while let Some(mut stream) = connection.accept().await {
                    spawn_local(async move {
                        let Ok(request) = stream.receive(kind::REQUEST).await else { return stream.stop() };
                        let reply = match <Request as farside_codec::Field>::from_bytes(request) {
                            Ok(Request::PutChunk(put)) => {
                                let mut got = 0;
                                let body = stream.receive_body(put.sealed_bytes as usize, |piece| got += piece.len());
                                body.await.expect("a body");
                                Reply::Refused(Refusal::new(RefusalCode::Full, got.to_string()))
                            }
                            _ => Reply::Done,
                        };
                        let _ = stream.send(kind::REPLY, 0, farside_codec::Field::to_bytes(&reply)).await;
                        stream.finish();
                        stream.delivered().await;
                    });
                }
            });
        }
    });
}

async fn dial(address: SocketAddr, credentials: &Credentials, expect: &Expect) -> Result<Connection, ConnectError> {
    let endpoint = Endpoint::caller(anywhere(), Settings::default(), &SystemEntropy).expect("a caller");
    let connection = endpoint.connect(address, credentials, expect, Class::Request).await?;
    // TLS 1.3 tells the caller of a refused certificate only after its own handshake is done.
    match connection.call(&Request::Status, None).await {
        Ok(_) => Ok(connection),
        Err(error) => Err(ConnectError::Refused { address, reason: error.to_string() }),
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn only_those_who_belong_get_in() {
    run(async {
        let (near, far, stranger) = (Site::new(1), Site::new(2), Site::new(3));
        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        // The peer believes us about our site, and we it about its own.
        near.trust.set_peer(far.id, far.authority.certificate());
        far.trust.set_peer(near.id, near.authority.certificate());
        stranger.trust.set_peer(near.id, near.authority.certificate());

        let expect = near.expect();
        for role in [Role::Node, Role::Client, Role::Peer, Role::Admin] {
            let own = dial(address, &near.credentials(role, DAY, now()), &expect).await.expect("our own");
            assert_eq!(own.caller().role, Role::Node);
            let peer = dial(address, &far.credentials(role, DAY, now()), &expect).await;
            assert_eq!(peer.is_ok(), role == Role::Peer, "a peer's {role:?}");
            assert!(
                dial(address, &stranger.credentials(role, DAY, now()), &expect).await.is_err(),
                "a stranger's {role:?}"
            );
        }
        let expired = near.credentials(Role::Admin, DAY, now() - 3 * DAY);
        assert!(dial(address, &expired, &expect).await.is_err(), "an expired identity");
        let elsewhere = Expect { site: far.id };
        assert!(dial(address, &near.credentials(Role::Admin, DAY, now()), &elsewhere).await.is_err(), "another site");
        near.trust.remove_peer(far.id);
        assert!(dial(address, &far.credentials(Role::Peer, DAY, now()), &expect).await.is_err(), "a removed peer");
    });
}

#[test]
fn a_port_in_use_and_a_dead_address_are_told_apart() {
    run(async {
        let near = Site::new(1);
        let (_listener, address) = near.listen(Settings::default());
        let credentials = near.credentials(Role::Node, DAY, now());
        let second = Endpoint::listen(address, &credentials, Settings::default(), &SystemEntropy);
        assert!(matches!(second, Err(farside_transport::BindError::InUse(taken)) if taken == address));
    });
}

#[test]
fn bodies_arrive_whole_and_requests_pass_them() {
    run(async {
        for mtu in [1452, 8952] {
            let near = Site::new(1);
            let (listener, address) = near.listen(Settings::with_mtu(mtu));
            serve(listener);
            let caller = Endpoint::caller(anywhere(), Settings::with_mtu(mtu), &SystemEntropy).expect("a caller");
            let credentials = near.credentials(Role::Node, DAY, now());
            let bulk = caller.connect(address, &credentials, &near.expect(), Class::Bulk).await.expect("bulk");
            let requests =
                caller.connect(address, &credentials, &near.expect(), Class::Request).await.expect("requests");
            let body = Bytes::from(vec![7; 4 << 20]);
            let mut sends = Vec::new();
            for _ in 0..16 {
                let (bulk, body) = (bulk.clone(), body.clone());
                sends.push(spawn_local(async move {
                    let put =
                        farside_codec::message::PutChunk { chunk: Default::default(), sealed_bytes: body.len() as u32 };
                    match bulk.call(&Request::PutChunk(put), Some(vec![body.slice(..100), body.slice(100..)])).await {
                        Err(CallError::Refused(refusal)) => assert_eq!(refusal.detail, body.len().to_string()),
                        _ => panic!("a body's length was due"),
                    }
                }));
            }
            // Requests go on while 64 MiB are under way: several finish before the last body does.
            let mut answered = 0;
            while sends.iter().any(|send| !send.is_finished()) {
                requests.call(&Request::Status, None).await.expect("an answer");
                answered += 1;
            }
            assert!(answered > 3, "only {answered} requests passed the bulk transfer");
            assert!(bulk.current_mtu() <= mtu);
        }
    });
}

#[test]
fn a_corrupt_frame_ends_its_stream_and_nothing_else() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        let connection =
            dial(address, &near.credentials(Role::Admin, DAY, now()), &near.expect()).await.expect("a link");
        for garbage in [Bytes::from_static(b"nonsense"), Bytes::from(vec![0; 64]), Bytes::new()] {
            let mut stream = connection.open().await.expect("a stream");
            // A well-formed frame whose payload is no request.
            stream.send(kind::REQUEST, 0, garbage).await.expect("sent");
            stream.finish();
            let answer =
                tokio::time::timeout(Duration::from_secs(5), stream.receive(kind::REPLY)).await.expect("an end");
            drop(answer);
        }
        // A frame of a kind that is not due.
        let mut stream = connection.open().await.expect("a stream");
        stream.send(kind::REPLY, 0, Bytes::new()).await.expect("sent");
        assert!(stream.receive(kind::REPLY).await.is_err());
        let (reply, _) = connection.call(&Request::Status, None).await.expect("the connection lives");
        assert_eq!(reply, Reply::Done);
    });
}

#[test]
fn a_dialer_finds_a_listener_that_comes_back() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        let caller = Endpoint::caller(anywhere(), Settings::default(), &SystemEntropy).expect("a caller");
        let credentials = near.credentials(Role::Node, DAY, now());
        let dialer =
            Dialer::new(caller, credentials.clone(), address, near.expect(), Class::Request, Rc::new(SystemEntropy));
        let first = dialer.connection().await.expect("a connection");
        listener.close().await;
        drop(listener);
        first.closed().await;
        let again = loop {
            match Endpoint::listen(address, &credentials, Settings::default(), &SystemEntropy) {
                Ok(endpoint) => break endpoint,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        serve(again);
        let second = dialer.connection().await.expect("a second connection");
        second.call(&Request::Status, None).await.expect("an answer");
    });
}

#[test]
fn hello_round_trips() {
    let hello = farside_codec::message::Hello {
        oldest_version: 1,
        newest_version: 1,
        site: SiteId([9; 16]),
        site_name: Label::parse("near").expect("a label"),
        incarnation: 0,
        node: farside_codec::ids::NodeId(1),
        shard: 0,
        shards: 1,
        groups: 8,
        now: Hlc::from_ms(5),
    };
    let request = Request::Hello(hello);
    let bytes = farside_codec::Field::to_bytes(&request);
    assert_eq!(<Request as farside_codec::Field>::from_bytes(bytes), Ok(request));
}
