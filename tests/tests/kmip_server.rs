//! The KMIP provider against a real server: PyKMIP 0.11.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use farside::kms::{Created, KmipKms, KmsError, TenantKms};
use farside_tests::lab::{Authority, PyKmip, free_tcp_port as free_port, kmip_url as url};
use farside_tests::{Site, bytes, skip};
use rcgen::ExtendedKeyUsagePurpose;
use std::time::{Duration, Instant};

/// A server, where there can be one.
fn started() -> Option<PyKmip> {
    PyKmip::start().map_err(|why| skip(&why)).ok()
}

fn open(server: &PyKmip) -> KmipKms {
    KmipKms::open(&server.url()).unwrap()
}

/// Asserts that a result is an error of one kind, and answers it as text.
macro_rules! assert_fails {
    ($result:expr, $pattern:pat) => {{
        let error = $result.map(|_| ()).expect_err("this must fail");
        assert!(matches!(error, $pattern), "{error:?}");
        in_words(&error)
    }};
}

fn in_words(error: &KmsError) -> String {
    format!("{error:?}")
}

#[tokio::test]
async fn keys_are_made_once_and_rotated() {
    let Some(server) = started() else { return };
    let kms = open(&server);
    assert!(kms.create_key("acme").await.unwrap().key);
    assert!(!kms.create_key("acme").await.unwrap().key);
    assert_eq!(kms.newest_version("acme").await.unwrap(), 1);
    for next in 2..=5 {
        assert_eq!(kms.rotate("acme", 0).await.unwrap(), next);
        assert_eq!(kms.newest_version("acme").await.unwrap(), next);
    }
    assert!(!kms.create_key("acme").await.unwrap().key);

    let first = kms.mac("acme", 1, b"label").await.unwrap();
    let again = KmipKms::open(&kms.url()).unwrap();
    assert_eq!(kms.url(), again.url());
    assert_eq!(*first, *kms.mac("acme", 1, b"label").await.unwrap());
    assert_eq!(*first, *again.mac("acme", 1, b"label").await.unwrap());
    assert_ne!(*first, *again.mac("acme", 1, b"labels").await.unwrap());
    for other in 2..=5 {
        assert_ne!(*first, *again.mac("acme", other, b"label").await.unwrap());
    }
    assert!(kms.create_key("other.tenant_1-a").await.unwrap().key);
    assert_ne!(*first, *kms.mac("other.tenant_1-a", 1, b"label").await.unwrap());

    let described = server.operator("describe", &["acme.v1"]);
    println!("acme.v1 as PyKMIP describes it:\n{described}");
    assert!(described.contains("Cryptographic Length 256"), "{described}");
    assert!(described.contains("Cryptographic Usage Mask 128"), "{described}");
    assert!(described.contains("State State.ACTIVE"), "{described}");
}

#[tokio::test]
async fn the_mac_is_hmac_sha256_and_a_key_that_was_not_activated_is() {
    let Some(server) = started() else { return };
    let secret = [0x5a; 32];
    let hex = "5a".repeat(32);
    server.operator("register", &["active.v1", &hex]);
    server.operator("activate", &["active.v1"]);
    server.operator("register", &["fresh.v1", &hex]);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let kms = open(&server);
    let long = vec![7; 5000];
    for label in [b"a tenant's label".as_slice(), &[0], &long] {
        let expected = aws_lc_rs::hmac::sign(&key, label);
        assert_eq!(kms.mac("active", 1, label).await.unwrap().as_slice(), expected.as_ref());
        assert_eq!(kms.mac("fresh", 1, label).await.unwrap().as_slice(), expected.as_ref());
    }
    assert!(server.operator("describe", &["fresh.v1"]).contains("State State.ACTIVE"));
    assert!(!kms.create_key("fresh").await.unwrap().key);
}

#[tokio::test]
async fn keys_that_are_not_there() {
    let Some(server) = started() else { return };
    let kms = open(&server);
    let told = assert_fails!(kms.mac("nobody", 1, b"label").await, KmsError::NoKey { .. });
    assert!(told.contains("nobody, version 1"), "{told}");
    assert_fails!(kms.newest_version("nobody").await, KmsError::NoKey { .. });
    assert_fails!(kms.rotate("nobody", 0).await, KmsError::NoKey { .. });
    kms.create_key("acme").await.unwrap();
    let told = assert_fails!(kms.mac("acme", 2, b"label").await, KmsError::NoKey { .. });
    assert!(told.contains("acme, version 2"), "{told}");
    assert_fails!(kms.mac("acme", 0, b"label").await, KmsError::NoKey { .. });

    // Another client of the same server sees nothing of it: PyKMIP shows keys to their owner only.
    let stranger = KmipKms::open(&server.url_of(&server.authority.issue_client("stranger"))).unwrap();
    assert_fails!(stranger.mac("acme", 1, b"label").await, KmsError::NoKey { .. });
}

#[tokio::test]
async fn names_that_are_none_never_reach_the_server() {
    // Nothing listens there.
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "authority");
    let kms = KmipKms::open(&url(free_port(), &authority.file(), &authority.issue_client("tenant"))).unwrap();
    for name in ["", "a b", "a/b", "a\nb", "ä", "a\0", "%41", &"a".repeat(65)] {
        assert_fails!(kms.mac(name, 1, b"label").await, KmsError::NoKey { .. });
        assert_fails!(kms.create_key(name).await, KmsError::NoKey { .. });
        assert_fails!(kms.newest_version(name).await, KmsError::NoKey { .. });
        assert_fails!(kms.rotate(name, 0).await, KmsError::NoKey { .. });
    }
    let told = assert_fails!(kms.mac("a\x1b[2J", 1, b"label").await, KmsError::NoKey { .. });
    assert!(!told.contains('\x1b') && !told.contains("\\u{1b}"), "{told}");
}

#[tokio::test]
async fn revoked_keys_and_destroyed_keys() {
    let Some(server) = started() else { return };
    let (knows, asks_anew) = (open(&server), open(&server));
    for key in ["revoked", "compromised"] {
        knows.create_key(key).await.unwrap();
        knows.mac(key, 1, b"label").await.unwrap();
    }
    server.operator("revoke", &["revoked.v1"]);
    server.operator("compromise", &["compromised.v1"]);
    for key in ["revoked", "compromised"] {
        for kms in [&knows, &asks_anew] {
            let told = assert_fails!(kms.mac(key, 1, b"label").await, KmsError::Revoked { .. });
            println!("{told}");
        }
        assert_eq!(knows.newest_version(key).await.unwrap(), 1);
        assert!(!knows.create_key(key).await.unwrap().key);
        server.operator("destroy", &[&format!("{key}.v1")]);
        for kms in [&knows, &asks_anew] {
            assert_fails!(kms.mac(key, 1, b"label").await, KmsError::NoKey { .. });
        }
    }
    // Version 1 alone was destroyed: no other key may take its place.
    knows.create_key("half").await.unwrap();
    knows.rotate("half", 0).await.unwrap();
    server.operator("revoke", &["half.v1"]);
    server.operator("destroy", &["half.v1"]);
    assert!(!knows.create_key("half").await.unwrap().key);
    assert_fails!(knows.mac("half", 1, b"label").await, KmsError::NoKey { .. });
    knows.mac("half", 2, b"label").await.unwrap();
}

#[tokio::test]
async fn an_identifier_that_was_remembered_is_looked_up_anew() {
    let Some(server) = started() else { return };
    let kms = open(&server);
    kms.create_key("acme").await.unwrap();
    kms.mac("acme", 1, b"label").await.unwrap();
    server.operator("revoke", &["acme.v1"]);
    server.operator("destroy", &["acme.v1"]);
    server.operator("register", &["acme.v1", &"11".repeat(32)]);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[0x11; 32]);
    let expected = aws_lc_rs::hmac::sign(&key, b"label");
    assert_eq!(kms.mac("acme", 1, b"label").await.unwrap().as_slice(), expected.as_ref());
}

#[tokio::test]
async fn what_others_may_have_sealed_under_is_not_taken_back() {
    let Some(server) = started() else { return };
    let (maker, other) = (open(&server), open(&server));
    let created = maker.create_key("acme").await.unwrap();
    let before = other.mac("acme", 1, b"label").await.unwrap();
    maker.take_back("acme", created).await;
    assert_eq!(*before, *other.mac("acme", 1, b"label").await.unwrap());
    // Versions that were used, and are gone, don't come back as others.
    assert_eq!(maker.rotate("acme", 5).await.unwrap(), 6);
}

#[tokio::test]
async fn a_name_that_two_keys_have_is_refused() {
    let Some(server) = started() else { return };
    let kms = open(&server);
    server.operator("register", &["twin.v1", &"11".repeat(32)]);
    server.operator("register", &["twin.v1", &"22".repeat(32)]);
    let told = assert_fails!(kms.mac("twin", 1, b"label").await, KmsError::Failed { .. });
    assert!(told.contains("twin.v1 is ambiguous"), "{told}");
    assert_fails!(kms.create_key("twin").await, KmsError::Failed { .. });
    assert_fails!(kms.rotate("twin", 0).await, KmsError::Failed { .. });
}

#[tokio::test]
async fn many_clients_at_once_make_one_key() {
    let Some(server) = started() else { return };
    let clients: Vec<_> = (0..4).map(|_| open(&server)).collect();
    let made = futures_util::future::join_all(clients.iter().map(|kms| kms.create_key("acme"))).await;
    println!("{made:?}");
    assert!(made.iter().filter(|made| matches!(made, Ok(Created { key: true, .. }))).count() <= 1);
    // One may have met two others who were about to withdraw; then whoever tries again succeeds.
    clients[0].create_key("acme").await.unwrap();
    let mut macs = Vec::new();
    for kms in &clients {
        macs.push(*kms.mac("acme", 1, b"label").await.unwrap());
    }
    assert!(macs.iter().all(|mac| *mac == macs[0]));
    // The same on one KMS.
    let again = futures_util::future::join_all((0..8).map(|_| clients[0].mac("acme", 1, b"label"))).await;
    assert!(again.iter().all(|mac| **mac.as_ref().unwrap() == macs[0]));
}

#[tokio::test]
async fn a_server_that_stops_and_comes_back() {
    let Some(mut server) = started() else { return };
    let kms = open(&server);
    kms.create_key("acme").await.unwrap();
    let before = kms.mac("acme", 1, b"label").await.unwrap();
    server.stop();
    for _ in 0..2 {
        let start = Instant::now();
        let told = assert_fails!(kms.mac("acme", 1, b"label").await, KmsError::Unreachable { .. });
        println!("after {:?}: {told}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(8));
    }
    assert_fails!(kms.create_key("acme").await, KmsError::Unreachable { .. });
    server.restart();
    assert_eq!(*before, *kms.mac("acme", 1, b"label").await.unwrap());
    // Restarted between two questions: the kept connection is dead, and that does not show.
    server.restart();
    let start = Instant::now();
    assert_eq!(*before, *kms.mac("acme", 1, b"label").await.unwrap());
    println!("over a dead connection: {:?}", start.elapsed());
    server.restart();
    assert_eq!(kms.rotate("acme", 0).await.unwrap(), 2);
}

#[tokio::test]
async fn certificates_that_do_not_fit() {
    let Some(server) = started() else { return };
    let elsewhere = Authority::new(server.home(), "elsewhere");
    let mask = |told: String| {
        println!("{told}");
        told
    };

    let wrong_ca = KmipKms::open(&url(server.port, &elsewhere.file(), &server.client)).unwrap();
    let told = mask(assert_fails!(wrong_ca.mac("acme", 1, b"label").await, KmsError::Failed { .. }));
    assert!(told.contains("its certificate is not signed by the given ca"), "{told}");

    let wrong_client = KmipKms::open(&server.url_of(&elsewhere.issue_client("tenant"))).unwrap();
    mask(assert_fails!(wrong_client.mac("acme", 1, b"label").await, KmsError::Denied { .. }));
    mask(assert_fails!(wrong_client.create_key("acme").await, KmsError::Denied { .. }));

    let no_usage = server.authority.issue("without-usage", "client.test", None);
    let without_usage = KmipKms::open(&server.url_of(&no_usage)).unwrap();
    mask(assert_fails!(without_usage.mac("acme", 1, b"label").await, KmsError::Denied { .. }));

    let server_usage = server.authority.issue("server", "client.test", Some(ExtendedKeyUsagePurpose::ServerAuth));
    let for_servers = KmipKms::open(&server.url_of(&server_usage)).unwrap();
    mask(assert_fails!(for_servers.mac("acme", 1, b"label").await, KmsError::Denied { .. }));

    let other_name = KmipKms::open(&format!("{}&server-name=kms.test", server.url())).unwrap();
    let told = mask(assert_fails!(other_name.mac("acme", 1, b"label").await, KmsError::Failed { .. }));
    assert!(told.contains("its certificate is for another name"), "{told}");
    let right_name = server.url().replace("127.0.0.1", "localhost") + "&server-name=127.0.0.1";
    KmipKms::open(&right_name).unwrap().create_key("by-name").await.unwrap();
}

#[tokio::test]
async fn files_are_read_at_each_connection() {
    let Some(mut server) = started() else { return };
    let certificate = server.home().join("renewed.pem");
    let key = server.home().join("renewed.key");
    let kms = KmipKms::open(&server.url_of(&(certificate.clone(), key.clone()))).unwrap();
    let told = assert_fails!(kms.create_key("acme").await, KmsError::Failed { .. });
    assert!(told.contains("renewed.pem"), "{told}");
    std::fs::write(&certificate, "no PEM").unwrap();
    let told = assert_fails!(kms.create_key("acme").await, KmsError::Failed { .. });
    assert!(told.contains("renewed.pem"), "{told}");
    std::fs::copy(&server.client.0, &certificate).unwrap();
    let told = assert_fails!(kms.create_key("acme").await, KmsError::Failed { .. });
    assert!(told.contains("renewed.key"), "{told}");
    // A key that belongs to another certificate.
    std::fs::copy(server.authority.issue_client("other").1, &key).unwrap();
    let told = assert_fails!(kms.create_key("acme").await, KmsError::Failed { .. });
    assert!(told.contains("renewed.key"), "{told}");
    std::fs::copy(&server.client.1, &key).unwrap();
    assert!(kms.create_key("acme").await.unwrap().key);
    let before = kms.mac("acme", 1, b"label").await.unwrap();

    let renewed = server.authority.issue("tenant", "client.test", Some(ExtendedKeyUsagePurpose::ClientAuth));
    std::fs::copy(&renewed.0, &certificate).unwrap();
    std::fs::copy(&renewed.1, &key).unwrap();
    server.restart();
    assert_eq!(*before, *kms.mac("acme", 1, b"label").await.unwrap());
}

#[test]
fn urls() {
    let here = std::env::current_dir().unwrap().display().to_string();
    for (given, canonical) in [
        ("kmip://kms.test?ca=/a&cert=/b&key=/c", "kmip://kms.test:5696?ca=/a&cert=/b&key=/c"),
        ("kmip:KMS.test:99?key=/c&ca=/a&cert=/b", "kmip://kms.test:99?ca=/a&cert=/b&key=/c"),
        ("kmip://kms.test/?ca=/a&cert=/b&key=/c", "kmip://kms.test:5696?ca=/a&cert=/b&key=/c"),
        ("kmip://[0:0::1]?ca=/a&cert=/b&key=/c", "kmip://[::1]:5696?ca=/a&cert=/b&key=/c"),
        ("kmip:[::1]:7?ca=/a&cert=/b&key=/c", "kmip://[::1]:7?ca=/a&cert=/b&key=/c"),
        (
            "kmip://10.0.0.1?ca=/a&cert=/b&key=/c&server-name=kms.test",
            "kmip://10.0.0.1:5696?ca=/a&cert=/b&key=/c&server-name=kms.test",
        ),
        ("kmip://h?ca=/a b&cert=/%C3%A4=%26%25%23&key=/c", "kmip://h:5696?ca=/a%20b&cert=/ä=%26%25%23&key=/c"),
        ("kmip://h?ca=a&cert=./b&key=c/d", &format!("kmip://h:5696?ca={here}/a&cert={here}/b&key={here}/c/d")),
    ] {
        let kms = KmipKms::open(given).unwrap();
        assert_eq!(kms.url(), canonical);
        assert_eq!(KmipKms::open(&kms.url()).unwrap().url(), canonical);
    }
}

#[test]
fn bad_urls() {
    let files = "ca=/a&cert=/b&key=/c";
    for (given, why) in [
        ("", "does not begin with kmip:"),
        ("https://h?ca=/a&cert=/b&key=/c", "does not begin with kmip:"),
        ("kmip:", "it lacks ?ca="),
        ("kmip://h", "it lacks ?ca="),
        ("kmip://h?", "parameter \"\""),
        ("kmip://h?ca=/a&cert=/b", "it lacks the parameter key"),
        ("kmip://h?cert=/b&key=/c", "it lacks the parameter ca"),
        ("kmip://h?ca=/a&key=/c", "it lacks the parameter cert"),
        ("kmip://h?ca=&cert=/b&key=/c", "the parameter ca is empty"),
        ("kmip://h?ca=/a%00&cert=/b&key=/c", "the parameter ca is empty or has a zero byte"),
        ("kmip://h?ca=/a%zz&cert=/b&key=/c", "ca has a %"),
        ("kmip://h?ca=/a%ff&cert=/b&key=/c", "ca has a %"),
        ("kmip://h?ca=/a%4&cert=/b&key=/c", "ca has a %"),
        ("kmip://h?ca=/a&ca=/a&cert=/b&key=/c", "the parameter ca is given twice"),
        ("kmip://h?FILES&password=secret", "parameter \"password\""),
        ("kmip://h?FILES&", "parameter \"\""),
        ("kmip://h?FILES&CA=/a", "parameter \"CA\""),
        ("kmip://h?FILES&server-name=", "the parameter server-name is empty"),
        ("kmip://h?FILES&server-name=a b", "\"a b\" is no name or address"),
        ("kmip://h?FILES#part", "fragment"),
        ("kmip://user@h?FILES", "user info"),
        ("kmip://user:secret@h?FILES", "user info"),
        ("kmip://?FILES", "it names no host"),
        ("kmip://:5696?FILES", "it names no host"),
        ("kmip:///h?FILES", "a path"),
        ("kmip://h/path?FILES", "a path"),
        ("kmip://h:0?FILES", "\"0\" is no port"),
        ("kmip://h:65536?FILES", "\"65536\" is no port"),
        ("kmip://h:+1?FILES", "\"+1\" is no port"),
        ("kmip://h:?FILES", "\"\" is no port"),
        ("kmip://h:kms?FILES", "\"kms\" is no port"),
        ("kmip://::1?FILES", "stands in brackets"),
        ("kmip://[::1?FILES", "not closed"),
        ("kmip://[::1]5696?FILES", "colon"),
        ("kmip://[fe80::1%25eth0]?FILES", "is no IPv6 address"),
        ("kmip://[h]?FILES", "is no IPv6 address"),
        ("kmip://a b?FILES", "is no name of a host"),
        ("kmip://ä?FILES", "is no name of a host"),
        ("kmip://a..b?FILES", "is no name or address"),
    ] {
        let given = given.replace("FILES", files);
        match KmipKms::open(&given) {
            Err(KmsError::Url { url, why: told }) => {
                assert_eq!(url, given);
                assert!(told.contains(why), "{given}: {told}");
                assert!(!told.contains("secret") || told.contains("holds no secret"), "{given}: {told}");
            }
            other => panic!("{given}: {other:?}"),
        }
    }
}

#[test]
fn a_tenant_of_a_kmip_server() {
    let Some(mut server) = started() else { return };
    let root = tempfile::tempdir().unwrap();
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let (input, contents) = (root.path().join("in"), bytes(9, 300_000));
    std::fs::write(&input, &contents).unwrap();
    let path = input.display().to_string();
    site.farside(&["tenant", "create", "acme", "--kms", &server.url()]).ok();
    site.farside(&["log", "create", "acme/photos"]).ok();
    site.farside(&["put", "acme/photos", "first", &path]).ok();
    assert_eq!(site.farside(&["tenant", "rotate", "acme", "--json"]).json()["kms_key_version"], 2);
    site.farside(&["put", "acme/photos", "second", &path]).ok();
    let get = |name: &str| site.farside(&["get", "acme/photos", name]);
    assert!(get("first").stdout == contents && get("second").stdout == contents);
    let wrong = server.url().replace("key=", "kye=");
    site.farside(&["tenant", "kms", "acme", &wrong]).fails(2, "kye");

    // One version is revoked, then destroyed; the server goes away and comes back.
    server.operator("revoke", &["acme.v2"]);
    get("second").fails(3, "lets nobody use key acme, version 2");
    assert!(get("first").stdout == contents);
    server.operator("destroy", &["acme.v2"]);
    get("second").fails(5, "has no key acme, version 2");
    site.farside(&["tenant", "shred", "acme"]).fails(3, "1 of its keys are not gone");
    server.stop();
    get("first").fails(4, "does not answer");
    server.restart();
    assert!(get("first").stdout == contents);
}
