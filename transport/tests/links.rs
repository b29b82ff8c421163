//! Links over real loopback QUIC: who gets in, what bulk may not do to requests, how a link comes back.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{DAY, Site, anywhere, caller, label, now, rejection_of, run, serve};
use farside_codec::Field;
use farside_codec::ids::{Hlc, NodeId, SiteId};
use farside_codec::message::{Hello, PutChunk, RefusalCode, Reply, Request, kind};
use farside_io::entropy::SystemEntropy;
use farside_transport::{
    BindError, CallError, Class, ConnectError, Credentials, Dialer, Endpoint, Expect, Rejection, Role, Settings, Trust,
};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::spawn_local;

/// Who gets in with these credentials: nobody's refusal, the listener's or our own.
async fn knock(address: SocketAddr, credentials: &Credentials, expect: &Expect) -> Result<(), Rejection> {
    match caller(Settings::default()).connect(address, credentials, expect, Class::Request).await {
        Ok(connection) => rejection_of(&connection).await.map_or(Ok(()), Err),
        Err(ConnectError::Refused { rejection, .. }) => Err(rejection),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn only_those_who_belong_get_in() {
    run(async {
        let (near, far, stranger) = (Site::new(1), Site::new(2), Site::new(3));
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        // The peer believes us about our site, and we it about its own.
        near.trust.set_peer(far.id, far.authority.certificate());
        far.trust.set_peer(near.id, near.authority.certificate());
        stranger.trust.set_peer(near.id, near.authority.certificate());

        let expect = near.expect();
        for role in [Role::Node, Role::Client, Role::Peer, Role::Admin] {
            assert_eq!(knock(address, &near.credentials(role, DAY, now()), &expect).await, Ok(()), "our own {role:?}");
            let peer = knock(address, &far.credentials(role, DAY, now()), &expect).await;
            let allowed = if role == Role::Peer { Ok(()) } else { Err(Rejection::NotAllowed) };
            assert_eq!(peer, allowed, "a peer's {role:?}");
            let strange = knock(address, &stranger.credentials(role, DAY, now()), &expect).await;
            assert_eq!(strange, Err(Rejection::UnknownAuthority), "a stranger's {role:?}");
        }
        let expired = near.credentials(Role::Admin, DAY, now() - 3 * DAY);
        assert_eq!(knock(address, &expired, &expect).await, Err(Rejection::Expired));
        let early = near.credentials(Role::Admin, DAY, now() + 3 * DAY);
        assert_eq!(knock(address, &early, &expect).await, Err(Rejection::Expired));

        near.trust.remove_peer(far.id);
        let removed = knock(address, &far.credentials(Role::Peer, DAY, now()), &expect).await;
        assert_eq!(removed, Err(Rejection::UnknownAuthority), "a removed peer");

        let counted = listener.statistics();
        assert_eq!(counted.connected, 5);
        assert_eq!(counted.refused_for(Rejection::NotAllowed), 3);
        assert_eq!(counted.refused_for(Rejection::UnknownAuthority), 5);
        assert_eq!(counted.refused_for(Rejection::Expired), 2);
    });
}

#[test]
fn a_caller_reaches_whom_it_wants_or_nobody() {
    run(async {
        let (near, far) = (Site::new(1), Site::new(2));
        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        near.trust.set_peer(far.id, far.authority.certificate());
        let admin = near.credentials(Role::Admin, DAY, now());
        // It is near that answers, and near's authority that speaks for it.
        assert_eq!(knock(address, &admin, &far.expect()).await, Err(Rejection::NotAllowed));
        // A client's certificate does not make a node.
        let posing = near.credentials(Role::Client, DAY, now());
        let listener = Endpoint::listen(anywhere(), &posing, Settings::default(), &SystemEntropy).expect("a listener");
        let address = listener.local_address().expect("an address");
        serve(listener);
        assert_eq!(knock(address, &admin, &near.expect()).await, Err(Rejection::NotAllowed));
    });
}

#[test]
fn another_authority_of_the_same_site_is_a_stranger() {
    run(async {
        let (near, forged) = (Site::new(1), Site::new(1));
        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        let identity = forged.authority.issue(Role::Admin, "admin", now(), DAY, &SystemEntropy).expect("an identity");
        let credentials = Credentials { identity: identity.into(), trust: near.trust.clone() };
        let refused = knock(address, &credentials, &near.expect()).await;
        assert!(matches!(refused, Err(Rejection::UnknownAuthority | Rejection::BadCertificate)), "{refused:?}");
    });
}

#[test]
fn an_invitation_opens_the_inviting_site_only() {
    run(async {
        let (near, far) = (Site::new(1), Site::new(2));
        let (listener, address) = far.listen(Settings::default());
        let identity = far.authority.issue(Role::Peer, "invite", now(), DAY, &SystemEntropy).expect("an invitation");
        // What a token carries: the invitation and the certificate of the site that issued it.
        let trust = Trust::new(far.id, far.authority.certificate());
        let invited = Credentials { identity: identity.into(), trust };
        let seen = spawn_local(async move {
            let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
            connection.caller().clone()
        });
        let connection = caller(Settings::default()).connect(address, &invited, &far.expect(), Class::Request).await;
        connection.expect("the invited gets in");
        let seen = seen.await.expect("a caller");
        assert_eq!((seen.role, seen.subject.as_str(), seen.site), (Role::Peer, "invite", far.id));

        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        let trust = Trust::new(near.id, near.authority.certificate());
        let elsewhere = Credentials { identity: invited.identity.clone(), trust };
        assert_eq!(knock(address, &elsewhere, &near.expect()).await, Err(Rejection::UnknownAuthority));
    });
}

#[test]
fn a_port_in_use_and_a_dead_address_are_told_apart() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        let second = Endpoint::listen(address, &near.node(), Settings::default(), &SystemEntropy);
        assert!(matches!(second, Err(BindError::InUse(taken)) if taken == address));
        listener.close().await;
        drop(listener);
        let hasty = Settings { idle_timeout: Duration::from_millis(300), ..Settings::default() };
        let nobody = caller(hasty).connect(address, &near.node(), &near.expect(), Class::Request).await;
        assert_eq!(nobody.err(), Some(ConnectError::Unreachable(address)));
    });
}

#[test]
fn bodies_arrive_whole_and_requests_pass_them() {
    run(async {
        for mtu in [1452, 8952] {
            let near = Site::new(1);
            let (listener, address) = near.listen(Settings::with_mtu(mtu));
            serve(listener);
            let bulk = near.link(address, Settings::with_mtu(mtu), Class::Bulk).await;
            let requests = near.link(address, Settings::with_mtu(mtu), Class::Request).await;
            let body = Bytes::from(vec![7; 4 << 20]);
            let mut sends = Vec::new();
            for _ in 0..16 {
                let (bulk, body) = (bulk.clone(), body.clone());
                sends.push(spawn_local(async move {
                    let put = PutChunk { chunk: Default::default(), sealed_bytes: body.len() as u32 };
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
            // Discovery went up from 1200 to where its steps end.
            assert!(bulk.current_mtu() <= mtu && bulk.current_mtu() > mtu - 40, "{}", bulk.current_mtu());
        }
    });
}

fn dialer(site: &Site, address: SocketAddr, settings: Settings) -> Rc<Dialer> {
    let entropy = Rc::new(SystemEntropy);
    Rc::new(Dialer::new(caller(settings), site.node(), address, site.expect(), Class::Request, entropy))
}

#[test]
fn a_dialer_finds_a_listener_that_comes_back() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        let dialer = dialer(&near, address, Settings::default());
        let first = dialer.connection().await.expect("a connection");
        assert_eq!(first.caller().role, Role::Node);
        listener.close().await;
        drop(listener);
        first.closed().await;
        let again = loop {
            match Endpoint::listen(address, &near.node(), Settings::default(), &SystemEntropy) {
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
fn many_callers_share_one_attempt_and_its_failure() {
    run(async {
        let near = Site::new(1);
        let silent = tokio::net::UdpSocket::bind(anywhere()).await.expect("a socket that answers nobody");
        let address = silent.local_addr().expect("an address");
        let hasty = Settings { idle_timeout: Duration::from_millis(300), ..Settings::default() };
        let dialer = dialer(&near, address, hasty);
        let all = (0..50).map(|_| {
            let dialer = dialer.clone();
            spawn_local(async move { dialer.connection().await.err() })
        });
        let all: Vec<_> = all.collect();
        // One after the other they would take 15 seconds.
        let failures = tokio::time::timeout(Duration::from_secs(5), async {
            for caller in all {
                assert_eq!(caller.await.expect("a caller"), Some(ConnectError::Unreachable(address)));
            }
        });
        failures.await.expect("one attempt for all");
    });
}

#[test]
fn a_caller_that_nobody_polls_any_more_holds_up_nobody() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener);
        let dialer = dialer(&near, address, Settings::default());
        let mut first = Box::pin(dialer.connection());
        // It begins the attempt, and is left alone then, as a stream of futures leaves those that it is not asked for.
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
        let second = tokio::time::timeout(Duration::from_secs(5), dialer.connection()).await;
        let second = second.expect("nobody waits for the first caller").expect("a connection");
        second.call(&Request::Status, None).await.expect("an answer");
        // The first one, polled again, gets the same connection.
        first.await.expect("a connection");
    });
}

#[test]
fn who_is_turned_away_does_not_knock_without_pause() {
    run(async {
        let (near, far) = (Site::new(1), Site::new(2));
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        far.trust.set_peer(near.id, near.authority.certificate());
        let credentials = far.credentials(Role::Peer, DAY, now());
        let entropy = Rc::new(SystemEntropy);
        let dialer =
            Dialer::new(caller(Settings::default()), credentials, address, near.expect(), Class::Request, entropy);
        let knocking = async {
            loop {
                let connection = dialer.connection().await.expect("our own half of the handshake is done");
                assert_eq!(rejection_of(&connection).await, Some(Rejection::UnknownAuthority));
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), knocking).await;
        let knocks = listener.statistics().refused_for(Rejection::UnknownAuthority);
        assert!((2..10).contains(&knocks), "{knocks} attempts within a second");
    });
}

fn hello(site: SiteId, oldest_version: u16, newest_version: u16) -> Hello {
    Hello {
        oldest_version,
        newest_version,
        site,
        site_name: label("near"),
        incarnation: 0,
        node: NodeId(1),
        shard: 0,
        shards: 1,
        groups: 8,
        now: Hlc::from_ms(5),
    }
}

/// A listener that answers every `Hello` with this one.
fn greet(listener: Endpoint, own: Hello) {
    spawn_local(async move {
        while let Some(arrival) = listener.accept().await {
            let connection = arrival.complete().await.expect("a connection");
            let own = own.clone();
            spawn_local(async move {
                while let Some(mut stream) = connection.accept().await {
                    stream.receive(kind::REQUEST).await.expect("a hello");
                    stream.send(kind::REPLY, Reply::Hello(own.clone()).to_bytes()).await.expect("sent");
                    stream.finish();
                }
            });
        }
    });
}

#[test]
fn a_handshake_finds_a_common_version_or_refuses() {
    run(async {
        let near = Site::new(1);
        for (oldest, newest, site, refusal) in [
            (1, 1, near.id, None),
            (1, 9, near.id, None),
            (2, 9, near.id, Some(RefusalCode::Version)),
            (1, 1, SiteId([7; 16]), Some(RefusalCode::Forbidden)),
        ] {
            let (listener, address) = near.listen(Settings::default());
            greet(listener, hello(site, oldest, newest));
            let connection = near.link(address, Settings::default(), Class::Request).await;
            match (connection.handshake(hello(near.id, 1, 1)).await, refusal) {
                (Ok(other), None) => assert_eq!(other.newest_version, newest),
                (Err(CallError::Refused(got)), Some(code)) => assert_eq!(got.code, code, "{got}"),
                (Ok(_), Some(code)) => panic!("{code:?} was due"),
                (Err(error), _) => panic!("{error}"),
            }
        }
    });
}
