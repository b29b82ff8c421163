//! What does not follow WIRE.md: raw QUIC callers, broken frames, replayed ones, callers that stop in the middle.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{DAY, Site, anywhere, now, run, serve, soon};
use farside_codec::cluster::RaftCall;
use farside_codec::ids::{GroupId, NodeId};
use farside_codec::message::{PutChunk, RefusalCode, Reply, Request, kind};
use farside_codec::{Field, FrameHeader, limits};
use farside_transport::{CallError, Class, Connection, Credentials, Endpoint, Rejection, Role, Settings, StreamError};
use proptest::prelude::*;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;

/// Believes everybody: the tests are about the other end.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A QUIC connection that is none of ours: any protocol, with or without a certificate.
async fn raw(
    address: SocketAddr,
    credentials: Option<&Credentials>,
    protocol: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut config = match credentials {
        None => config.with_no_client_auth(),
        Some(Credentials { identity, .. }) => {
            let identity = identity.get();
            let chain = vec![CertificateDer::from(identity.certificate().to_vec())];
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().to_vec()));
            config.with_client_auth_cert(chain, key).expect("a chain")
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let config = QuicClientConfig::try_from(config).expect("a QUIC suite");
    let endpoint = quinn::Endpoint::client(anywhere()).expect("an endpoint");
    endpoint.connect_with(quinn::ClientConfig::new(Arc::new(config)), address, "anyone").expect("a start").await
}

async fn end_of(connection: Result<quinn::Connection, quinn::ConnectionError>) -> quinn::ConnectionError {
    match connection {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}

#[test]
fn strangers_to_the_protocol_are_turned_away() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        let admin = near.credentials(Role::Admin, DAY, now());
        end_of(raw(address, None, b"farside-request/1").await).await;
        end_of(raw(address, Some(&admin), b"farside-request/2").await).await;
        end_of(raw(address, Some(&admin), b"h3").await).await;
        // Bytes that are no QUIC at all.
        let noise = tokio::net::UdpSocket::bind(anywhere()).await.expect("a socket");
        for length in [0, 1, 20, 1200, 1452] {
            for byte in [0, 0x40, 0xc0, 0xff] {
                noise.send_to(&vec![byte; length], address).await.expect("sent");
            }
        }
        soon("the refusal", || listener.statistics().refused_for(Rejection::NoCertificate) == 1).await;
        soon("the refusals", || listener.statistics().refused_for(Rejection::Protocol) == 2).await;
        raw(address, Some(&admin), b"farside-request/1").await.expect("the right protocol");
        let link = near.link(address, Settings::default(), Class::Request).await;
        link.call(&Request::Status, None).await.expect("the listener lives");
    });
}

/// Sends `bytes` as a stream of its own, and says how the listener ends it.
async fn send_raw(connection: &quinn::Connection, bytes: Vec<u8>) -> Result<Reply, quinn::ReadToEndError> {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    // The listener may stop a stream before it has all of it.
    let _ = send.write_all(&bytes).await;
    let _ = send.finish();
    let answer = tokio::time::timeout(Duration::from_secs(10), receive.read_to_end(1 << 20)).await.expect("an end")?;
    let header = FrameHeader::decode(&answer).expect("a reply's header");
    assert_eq!(header.kind(), kind::REPLY);
    assert_eq!(header.correlation(), quinn::VarInt::from(send.id()).into_inner());
    Ok(Reply::from_bytes(Bytes::from(answer).slice(32..)).expect("a reply"))
}

fn frame(stream: u64, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&FrameHeader::of_payload(kind, 0, stream, payload).to_array()[..], payload].concat()
}

/// What a frame's maker can get wrong, made for stream number `stream`.
fn broken_frames(stream: u64) -> Vec<(&'static str, Vec<u8>)> {
    let good = frame(stream, kind::REQUEST, &Request::Status.to_bytes());
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let endless = FrameHeader::new(kind::REQUEST, 0, stream, u32::MAX, 0).to_array().to_vec();
    let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: 1000 }).to_bytes();
    let body = |length: usize, sent: usize| {
        let mut bytes = frame(stream, kind::REQUEST, &put);
        bytes.extend(&frame(stream, kind::BODY, &vec![9; length])[..32 + sent]);
        bytes
    };
    let mut damaged = body(1000, 1000);
    *damaged.last_mut().expect("a byte") ^= 1;
    vec![
        ("nothing", Vec::new()),
        ("half a header", good[..16].to_vec()),
        ("half a payload", good[..good.len() - 1].to_vec()),
        ("a wrong magic", flipped(0)),
        ("a damaged header", flipped(9)),
        ("a damaged payload", flipped(32)),
        ("a length beyond every limit", endless),
        ("a wrong kind", frame(stream, kind::BODY, b"")),
        ("a disk's kind", frame(stream, kind::WAL_BATCH, b"")),
        ("no request", frame(stream, kind::REQUEST, b"nonsense")),
        ("an empty request", frame(stream, kind::REQUEST, b"")),
        ("a frame of another stream", frame(stream + 4, kind::REQUEST, &Request::Status.to_bytes())),
        ("no body", frame(stream, kind::REQUEST, &put)),
        ("a shorter body than announced", body(999, 999)),
        ("a longer body than announced", body(1001, 1001)),
        ("half a body", body(1000, 500)),
        ("a damaged body", damaged),
    ]
}

#[test]
fn a_broken_frame_ends_its_stream_and_nothing_else() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        let admin = near.credentials(Role::Admin, DAY, now());
        let connection = raw(address, Some(&admin), b"farside-request/1").await.expect("a connection");
        let cases = broken_frames(0).len() as u64;
        for case in 0..cases {
            // Streams that a caller opens are numbered 0, 4, 8 and so on (RFC 9000, section 2.1).
            let (what, bytes) = broken_frames(case * 4).swap_remove(case as usize);
            match send_raw(&connection, bytes).await {
                Ok(Reply::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::BadRequest, "{what}: {refusal}"),
                other => panic!("{what}: {other:?}"),
            }
        }
        let good = frame(cases * 4, kind::REQUEST, &Request::Status.to_bytes());
        assert_eq!(send_raw(&connection, good.clone()).await, Ok(Reply::Done));
        // The very same bytes once more are a replay.
        let Ok(Reply::Refused(refusal)) = send_raw(&connection, good).await else { panic!("a replay was carried out") };
        assert!(refusal.detail.contains("stream"), "{refusal}");
        let counted = listener.statistics();
        assert_eq!((counted.corrupt_frames, counted.foreign_frames), (cases - 6 + 1, 4));
    });
}

#[test]
fn a_reset_stream_is_no_corrupt_frame() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        serve(listener.clone());
        let link = near.link(address, Settings::default(), Class::Bulk).await;
        let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: 8 << 20 });
        let body = Bytes::from(vec![1; 8 << 20]);
        for _ in 0..10 {
            let call = link.call(&put, Some(vec![body.clone()]));
            assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err(), "8 MiB take longer");
        }
        let mut stream = link.open().await.expect("a stream");
        stream.send(kind::REQUEST, put.to_bytes()).await.expect("sent");
        drop(stream);
        assert_eq!(link.call(&Request::Status, None).await.expect("an answer").0, Reply::Done);
        assert_eq!(listener.statistics().corrupt_frames, 0);
    });
}

#[test]
fn a_refusal_is_heard_although_the_body_was_stopped() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        spawn_local(async move {
            let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
            while let Some(mut stream) = connection.accept().await {
                stream.receive(kind::REQUEST).await.expect("a request");
                stream.stop();
                let refusal = farside_codec::message::Refusal::new(RefusalCode::Full, "no space");
                stream.send(kind::REPLY, Reply::Refused(refusal).to_bytes()).await.expect("sent");
                stream.finish();
                stream.delivered().await;
            }
        });
        let link = near.link(address, Settings::default(), Class::Bulk).await;
        let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: 16 << 20 });
        let body = Bytes::from(vec![1; 16 << 20]);
        for _ in 0..5 {
            match link.call(&put, Some(vec![body.clone()])).await {
                Err(CallError::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Full),
                Err(error) => panic!("the refusal was lost: {error}"),
                Ok(_) => panic!("a refusal was due"),
            }
        }
    });
}

/// A listener that takes streams and never reads or answers.
fn ignore(near: &Site, settings: Settings) -> SocketAddr {
    let (listener, address) = near.listen(settings);
    spawn_local(async move {
        let mut kept = Vec::new();
        let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
        while let Some(stream) = connection.accept().await {
            kept.push(stream);
        }
    });
    address
}

fn hasty() -> Settings {
    let soon = Duration::from_millis(300);
    Settings { reply_timeout: soon, stall_timeout: soon, ..Settings::default() }
}

async fn put(link: &Connection, bytes: usize) -> Result<Reply, CallError> {
    let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: bytes as u32 });
    link.call(&put, Some(vec![Bytes::from(vec![1; bytes])])).await.map(|(reply, _)| reply)
}

#[test]
fn nobody_waits_for_ever() {
    run(async {
        let near = Site::new(1);
        // A caller whose listener neither answers nor reads.
        let link = near.link(ignore(&near, Settings::default()), hasty(), Class::Bulk).await;
        assert!(matches!(link.call(&Request::Status, None).await, Err(CallError::TimedOut)));
        assert!(matches!(put(&link, 16 << 20).await, Err(CallError::TimedOut)));
        // A listener whose caller announces a body that never comes, or stops in the middle of one.
        let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: 1000 }).to_bytes();
        for (case, body) in [(1, Vec::new()), (2, frame(0, kind::BODY, &[9; 1000])[..500].to_vec())] {
            let (listener, address) = near.listen(hasty());
            let arriving = listener.clone();
            let arrived = spawn_local(async move { arriving.accept().await.expect("a caller").complete().await });
            let admin = near.credentials(Role::Admin, DAY, now());
            let link = raw(address, Some(&admin), b"farside-request/1").await.expect("a connection");
            let connection = arrived.await.expect("a task").expect("a connection");
            let (mut send, _receive) = link.open_bi().await.expect("a stream");
            send.write_all(&[frame(0, kind::REQUEST, &put), body].concat()).await.expect("sent");
            let mut stream = connection.accept().await.expect("a stream");
            stream.receive(kind::REQUEST).await.expect("a request");
            let mut got = 0;
            let received =
                tokio::time::timeout(Duration::from_secs(5), stream.receive_body(1000, |piece| got += piece.len()));
            assert!(matches!(received.await, Ok(Err(StreamError::Stalled))), "case {case}");
            assert_eq!(got, if case == 1 { 0 } else { 468 });
            assert_eq!(listener.statistics().stalled, 1);
        }
    });
}

/// A listener that answers a status with `reply` and `body`, whatever their size, and everything else with `Done`.
fn answer_with(near: &Site, reply: Reply, body: Vec<Bytes>) -> (Endpoint, SocketAddr) {
    let (listener, address) = near.listen(Settings::default());
    let accepting = listener.clone();
    spawn_local(async move {
        let connection = accepting.accept().await.expect("a caller").complete().await.expect("a connection");
        while let Some(mut stream) = connection.accept().await {
            let request = stream.receive(kind::REQUEST).await.expect("a request");
            match Request::from_bytes(request).expect("a request") {
                Request::Status => stream.reply(&reply, body.clone()).await.expect("an answer"),
                _ => stream.reply(&Reply::Done, Vec::new()).await.expect("an answer"),
            }
            stream.delivered().await;
        }
    });
    (listener, address)
}

/// A raft message of so many bytes.
fn raft(bytes: usize) -> Request {
    Request::Raft(RaftCall { member: NodeId(1), group: GroupId(1), ask: Bytes::from(vec![7; bytes]) })
}

#[test]
fn a_request_that_fits_no_frame_is_refused_to_its_caller() {
    run(async {
        let near = Site::new(1);
        let (_listener, address) = answer_with(&near, Reply::Done, Vec::new());
        let caller = common::caller(Settings::default());
        let link = caller.connect(address, &near.node(), &near.expect(), Class::Request).await.expect("a connection");
        let room = limits::MAX_FRAME_BYTES - raft(0).to_bytes().len();
        assert_eq!(link.call(&raft(room), None).await.expect("the largest one").0, Reply::Done);
        let parts = vec![Bytes::from(vec![1; limits::MAX_CHUNK_SEALED_BYTES]), Bytes::from_static(b"2")];
        for (number, (request, body)) in [(raft(room + 1), None), (Request::Nodes, Some(parts))].into_iter().enumerate()
        {
            match link.call(&request, body).await {
                Err(CallError::Refused(refusal)) => {
                    assert_eq!(refusal.code, RefusalCode::BadRequest);
                    assert!(refusal.retry_after_ms == 0 && refusal.detail.contains("bytes"), "{refusal}");
                }
                Err(error) => panic!("{error}"),
                Ok(_) => panic!("more than a frame was sent"),
            }
            assert_eq!(caller.statistics().oversized_frames, number as u64 + 1);
        }
        assert_eq!(link.call(&Request::Nodes, None).await.expect("the connection is as it was").0, Reply::Done);
        let mut stream = link.open().await.expect("a stream");
        let sent = stream.send(kind::REQUEST, Bytes::from(vec![0; limits::MAX_FRAME_BYTES + 1])).await;
        assert!(matches!(sent, Err(StreamError::TooLarge { limit: limits::MAX_FRAME_BYTES, .. })), "{sent:?}");
    });
}

#[test]
fn a_reply_that_fits_no_frame_is_answered_as_a_refusal() {
    let document = |bytes: usize| Reply::Status(Bytes::from(vec![b' '; bytes]));
    let room = limits::MAX_FRAME_BYTES - document(0).to_bytes().len();
    let long = vec![Bytes::from(vec![1; limits::MAX_CHUNK_SEALED_BYTES + 1])];
    for (reply, body, fits) in
        [(document(room), vec![], true), (document(room + 1), vec![], false), (Reply::Done, long, false)]
    {
        run(async move {
            let near = Site::new(1);
            let (listener, address) = answer_with(&near, reply.clone(), body);
            let link = near.link(address, Settings::default(), Class::Request).await;
            match link.call(&Request::Status, None).await {
                Ok((answer, _)) => assert!(fits && answer == reply, "a reply of more than a frame"),
                Err(CallError::Refused(refusal)) => {
                    assert!(!fits, "{refusal}");
                    assert_eq!(refusal.code, RefusalCode::Internal);
                }
                Err(error) => panic!("{error}"),
            }
            assert_eq!(listener.statistics().oversized_frames, u64::from(!fits));
            assert_eq!(link.call(&Request::Nodes, None).await.expect("the listener lives").0, Reply::Done);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Streams of anything at all leave a listener that still answers.
    #[test]
    fn garbage_is_survived(streams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4096), 1..24)) {
        run(async move {
            let near = Site::new(1);
            let (listener, address) = near.listen(Settings::default());
            serve(listener);
            let admin = near.credentials(Role::Admin, DAY, now());
            let connection = raw(address, Some(&admin), b"farside-bulk/1").await.expect("a connection");
            for bytes in streams {
                let _ = send_raw(&connection, bytes).await;
            }
            let link = near.link(address, Settings::default(), Class::Request).await;
            link.call(&Request::Status, None).await.expect("the listener lives");
        });
    }
}
