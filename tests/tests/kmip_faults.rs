//! The KMIP provider against servers that no honest vendor sells: silent ones, ones that talk nonsense, and ones that
//! lose answers at the worst moment. PyKMIP plays no part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use farside::kms::ttlv::{self, Item, Value};
use farside::kms::{KmipKms, KmsError, TenantKms};
use farside_tests::lab::{Authority, kmip_url as url};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// A server, and a KMS that is pointed at it.
struct World {
    directory: TempDir,
    authority: Authority,
    client: (PathBuf, PathBuf),
    listener: TcpListener,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "authority");
        let client = authority.issue_client("tenant");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { directory, authority, client, listener }
    }

    fn kms(&self) -> KmipKms {
        let port = self.listener.local_addr().unwrap().port();
        KmipKms::open(&url(port, &self.authority.file(), &self.client)).unwrap()
    }

    /// A TLS server that demands a client's certificate of an authority.
    fn acceptor(&self, of_clients: &Authority, version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(of_clients.file()).unwrap()).unwrap();
        let (certificate, key) = self.authority.issue_server("127.0.0.1");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

async fn assert_mac_fails(world: &World, is_expected: impl Fn(&KmsError) -> bool) -> String {
    let start = Instant::now();
    let error = world.kms().mac("acme", 1, b"label").await.unwrap_err();
    println!("after {:?}: {error:?}", start.elapsed());
    assert!(is_expected(&error), "{error:?}");
    format!("{error:?}")
}

/// Runs a server beside what is asked of it.
async fn beside<T>(server: impl Future<Output = ()>, client: impl Future<Output = T>) -> T {
    tokio::select! {
        () = server => panic!("the server ended"),
        answer = client => answer,
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing() {
    let world = World::new().await;
    let start = Instant::now();
    // The kernel accepts.
    assert_mac_fails(&world, |error| matches!(error, KmsError::Unreachable { .. })).await;
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_server_that_says_nothing_behind_tls() {
    let world = World::new().await;
    let acceptor = world.acceptor(&world.authority, &rustls::version::TLS13);
    let server = async {
        let mut open = Vec::new();
        loop {
            open.push(acceptor.accept(world.accept().await).await.unwrap());
        }
    };
    let start = Instant::now();
    beside(server, assert_mac_fails(&world, |error| matches!(error, KmsError::Unreachable { .. }))).await;
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_server_that_closes_every_connection() {
    let world = World::new().await;
    let server = async {
        loop {
            drop(world.accept().await);
        }
    };
    beside(server, assert_mac_fails(&world, |error| matches!(error, KmsError::Unreachable { .. }))).await;
}

#[tokio::test]
async fn garbage_instead_of_tls() {
    let world = World::new().await;
    let server = async {
        loop {
            let mut stream = world.accept().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    };
    beside(server, assert_mac_fails(&world, |error| matches!(error, KmsError::Failed { .. }))).await;
}

#[tokio::test]
async fn garbage_behind_tls() {
    let world = World::new().await;
    let acceptor = world.acceptor(&world.authority, &rustls::version::TLS12);
    let batch_item = |children| response(vec![Item::structure(0x42_000f, children)]);
    for (bytes, why) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "is no tag"),
        (vec![0x42, 0, 0x7b, 1, 0x7f, 0xff, 0xff, 0xf8], "longer than"),
        (vec![0x42, 0, 0x7b, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0], "of type 07"),
        ([[0x42, 0, 0x7b, 1, 0, 0, 0, 8], [0xff; 8]].concat(), "is no tag"),
        ([[0x42, 0, 0x7b, 1, 0, 0, 0, 8], [0x42, 0, 0x7a, 1, 0, 0, 0, 8]].concat(), "ends within an item"),
        (Item::structure(0x42_0078, vec![]).encode().unwrap(), "other than a KMIP response"),
        (response(vec![]), "none or several answers"),
        (batch_item(vec![]), "lacks the result status"),
        (batch_item(vec![Item::enumeration(0x42_007f, 0), Item::enumeration(0x42_005c, 1)]), "another question"),
        (
            batch_item(vec![
                Item::enumeration(0x42_007f, 1),
                Item::enumeration(0x42_007e, 0x100),
                Item::text(0x42_007d, &format!("\u{1b}[2J{}", "x".repeat(1000))),
            ]),
            "General Failure: \u{fffd}[2Jxxx",
        ),
        (batch_item(vec![Item::enumeration(0x42_007f, 2)]), "General Failure: without a message"),
    ] {
        let server = async {
            loop {
                let mut stream = acceptor.accept(world.accept().await).await.unwrap();
                let _ = read_message(&mut stream).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                let _ = stream.read(&mut [0; 16]).await;
            }
        };
        let failing = assert_mac_fails(&world, |error| matches!(error, KmsError::Failed { .. }));
        let told = beside(server, failing).await;
        assert!(told.contains(why), "{told}");
        assert!(told.len() < 600, "{told}");
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_refused_after_the_handshake() {
    let world = World::new().await;
    let elsewhere = Authority::new(world.directory.path(), "elsewhere");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let acceptor = world.acceptor(&elsewhere, version);
        let server = async {
            loop {
                assert!(acceptor.accept(world.accept().await).await.is_err());
            }
        };
        beside(server, assert_mac_fails(&world, |error| matches!(error, KmsError::Denied { .. }))).await;
    }
}

/// What a made-up server does besides answering, at the first Create.
#[derive(Clone, Copy, PartialEq)]
enum AtCreate {
    /// Makes the key and hangs up.
    LosesTheAnswer,
    /// Hangs up and makes nothing.
    LosesTheQuestion,
    /// Makes the key, and another client makes one of that name.
    IsNotAlone,
    /// Answers.
    Answers,
}

/// A made-up server's memory.
struct Keys {
    at_create: AtCreate,
    mac: Vec<u8>,
    /// Identifier, name, and whether it is active.
    keys: Vec<(String, String, bool)>,
    /// The numbers of the operations that were asked for.
    asked: Vec<u32>,
}

/// Reads one message, as long as its header says.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut header = [0; ttlv::HEADER];
    stream.read_exact(&mut header).await.ok()?;
    let mut message = vec![0; ttlv::message_length(header).unwrap()];
    message[..ttlv::HEADER].copy_from_slice(&header);
    stream.read_exact(&mut message[ttlv::HEADER..]).await.ok()?;
    Some(message)
}

fn response(mut items: Vec<Item<'_>>) -> Vec<u8> {
    items.insert(0, Item::structure(0x42_007a, vec![Item::integer(0x42_000d, 1)]));
    Item::structure(0x42_007b, items).encode().unwrap()
}

/// The text under the first item of a tag, wherever it is.
fn find_text<'a>(item: &Item<'a>, tag: u32) -> Option<&'a str> {
    match &item.value {
        Value::TextString(text) if item.tag == tag => Some(text),
        Value::Structure(children) => children.iter().find_map(|child| find_text(child, tag)),
        _ => None,
    }
}

/// Answers one question; None is to hang up.
fn answer(memory: &mut Keys, message: &[u8]) -> Option<Vec<u8>> {
    let message = Item::decode(message).unwrap();
    let operation = message.child(0x42_000f).unwrap().child(0x42_005c).unwrap().as_enumeration().unwrap();
    memory.asked.push(operation);
    let identifier = find_text(&message, 0x42_0094).unwrap_or_default().to_owned();
    let name = find_text(&message, 0x42_0055).unwrap_or_default().to_owned();
    let mut payload: Vec<(u32, String)> = Vec::new();
    match operation {
        0x01 => {
            let at_create = std::mem::replace(&mut memory.at_create, AtCreate::Answers);
            if at_create == AtCreate::LosesTheQuestion {
                return None;
            }
            let made = format!("id-{}", memory.keys.len());
            memory.keys.push((made.clone(), name.clone(), false));
            if at_create == AtCreate::IsNotAlone {
                memory.keys.push(("id-other".to_owned(), name, false));
            }
            if at_create == AtCreate::LosesTheAnswer {
                return None;
            }
            payload.push((0x42_0094, made));
        }
        0x08 => payload.extend(memory.keys.iter().filter(|key| key.1 == name).map(|key| (0x42_0094, key.0.clone()))),
        0x12 => memory.keys.iter_mut().filter(|key| key.0 == identifier).for_each(|key| key.2 = true),
        0x14 => memory.keys.retain(|key| key.0 != identifier),
        0x23 => {}
        other => panic!("operation {other:#x}"),
    }
    let mut payload: Vec<_> = payload.iter().map(|(tag, text)| Item::text(*tag, text)).collect();
    if operation == 0x23 {
        payload.push(Item::bytes(0x42_00c6, &memory.mac));
    }
    let status = Item::enumeration(0x42_007f, 0);
    Some(response(vec![Item::structure(0x42_000f, vec![status, Item::structure(0x42_007c, payload)])]))
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, memory: Rc<RefCell<Keys>>) {
    while let Some(message) = read_message(&mut stream).await {
        let Some(reply) = answer(&mut memory.borrow_mut(), &message) else { return };
        if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Runs a client against a made-up server, and answers what the server has afterwards.
async fn with_made_up_server(at_create: AtCreate, mac: &[u8], client: impl AsyncFnOnce(KmipKms)) -> Keys {
    let world = World::new().await;
    let acceptor = world.acceptor(&world.authority, &rustls::version::TLS13);
    let memory = Rc::new(RefCell::new(Keys { at_create, mac: mac.to_vec(), keys: vec![], asked: vec![] }));
    let server = async {
        loop {
            let stream = acceptor.accept(world.accept().await).await.unwrap();
            tokio::task::spawn_local(serve(stream, memory.clone()));
        }
    };
    LocalSet::new().run_until(beside(server, client(world.kms()))).await;
    let mut memory = memory.borrow_mut();
    Keys { at_create, mac: vec![], keys: std::mem::take(&mut memory.keys), asked: std::mem::take(&mut memory.asked) }
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_not_repeated() {
    let server = with_made_up_server(AtCreate::LosesTheAnswer, &[1; 32], async |kms| {
        assert!(kms.create_key("acme").await.unwrap().key);
    })
    .await;
    assert_eq!(server.keys, [("id-0".to_owned(), "acme.v1".to_owned(), true)]);
    assert_eq!(server.asked.iter().filter(|operation| **operation == 0x01).count(), 1);
}

#[tokio::test]
async fn a_create_that_came_to_nothing_is_repeated_after_a_look() {
    let server = with_made_up_server(AtCreate::LosesTheQuestion, &[1; 32], async |kms| {
        assert!(kms.create_key("acme").await.unwrap().key);
    })
    .await;
    assert_eq!(server.keys, [("id-0".to_owned(), "acme.v1".to_owned(), true)]);
    // Twice looked for version 1 and once for 2, created, looked, created, looked whether alone, activated.
    assert_eq!(server.asked, [0x08, 0x08, 0x08, 0x01, 0x08, 0x01, 0x08, 0x12]);
}

#[tokio::test]
async fn of_two_keys_made_at_once_the_later_goes() {
    let server = with_made_up_server(AtCreate::IsNotAlone, &[1; 32], async |kms| {
        assert!(!kms.create_key("acme").await.unwrap().key);
    })
    .await;
    assert_eq!(server.keys, [("id-other".to_owned(), "acme.v1".to_owned(), false)]);
}

#[tokio::test]
async fn a_mac_of_another_length_is_refused() {
    for length in [0, 16, 31, 33, 64] {
        with_made_up_server(AtCreate::Answers, &vec![1; length], async |kms| {
            assert!(kms.create_key("acme").await.unwrap().key);
            let error = kms.mac("acme", 1, b"label").await.unwrap_err();
            assert!(matches!(error, KmsError::Failed { .. }), "{error:?}");
        })
        .await;
    }
    with_made_up_server(AtCreate::Answers, &[1; 32], async |kms| {
        assert!(kms.create_key("acme").await.unwrap().key);
        assert_eq!(*kms.mac("acme", 1, b"label").await.unwrap(), [1; 32]);
        // A label that no message could carry.
        let error = kms.mac("acme", 1, &vec![0; ttlv::MAXIMUM_MESSAGE]).await.unwrap_err();
        assert!(matches!(error, KmsError::Failed { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_dropped_question_leaves_no_answer_behind() {
    let server = with_made_up_server(AtCreate::Answers, &[1; 32], async |kms| {
        assert!(kms.create_key("acme").await.unwrap().key);
        for micros in (0..3000).step_by(50) {
            let _ = tokio::time::timeout(Duration::from_micros(micros), kms.mac("acme", 1, b"label")).await;
            assert_eq!(kms.newest_version("acme").await.unwrap(), 1);
        }
    })
    .await;
    assert_eq!(server.keys.len(), 1);
}
