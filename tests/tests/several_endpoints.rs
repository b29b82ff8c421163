//! A context that names several endpoints of a site: some are dead, some swallow everything, and one dies under load.
//!
//! The endpoints are relays of datagrams before one node, so that what the clients do about them is all that is looked at.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside::client::{Client, Context, Upload};
use farside_codec::message::Moment;
use farside_tests::{Outcome, Site, as_client, bytes, farside_within, free_port};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes may stall this long when a node dies.
const STALL: Duration = Duration::from_secs(3);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// An endpoint of a node: it passes datagrams on, or swallows them.
struct Relay {
    address: SocketAddr,
    swallows: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Relay {
    fn before(node: u16) -> Self {
        let socket = UdpSocket::bind(local(0)).expect("a port");
        let address = socket.local_addr().expect("an address");
        let (swallows, passed, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let relay = Self { address, swallows, passed, over };
        let (swallows, passed, over) = (relay.swallows.clone(), relay.passed.clone(), relay.over.clone());
        std::thread::spawn(move || {
            let mut callers: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
            let mut datagram = [0; 65_536];
            let tick = Some(Duration::from_millis(100));
            socket.set_read_timeout(tick).expect("set");
            while !over.load(Ordering::Relaxed) {
                let Ok((length, caller)) = socket.recv_from(&mut datagram) else { continue };
                if swallows.load(Ordering::Relaxed) {
                    continue;
                }
                passed.fetch_add(length as u64, Ordering::Relaxed);
                let line = callers.entry(caller).or_insert_with(|| {
                    let line = UdpSocket::bind(local(0)).expect("a port");
                    line.connect(local(node)).expect("connected");
                    line.set_read_timeout(tick).expect("set");
                    let back = (line.try_clone().expect("cloned"), socket.try_clone().expect("cloned"));
                    let (swallows, over) = (swallows.clone(), over.clone());
                    std::thread::spawn(move || answer(&back.0, &back.1, caller, &swallows, &over));
                    line
                });
                // A node that is gone is nobody's fault here.
                let _ = line.send(&datagram[..length]);
            }
        });
        relay
    }

    fn swallow(&self, all: bool) {
        self.swallows.store(all, Ordering::Relaxed);
    }

    fn passed_bytes(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

fn answer(line: &UdpSocket, socket: &UdpSocket, caller: SocketAddr, swallows: &AtomicBool, over: &AtomicBool) {
    let mut datagram = [0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = line.recv(&mut datagram) else { continue };
        if !swallows.load(Ordering::Relaxed) {
            let _ = socket.send_to(&datagram[..length], caller);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A site of one shard with a log `acme/data`, and its administrator's context with other endpoints.
fn site(root: &Path) -> Site {
    let site = Site::start(root, "near", &["--cores", "0"]);
    site.make_log(&root.join("kms"), "acme/data");
    site
}

fn context(site: &Site, endpoints: &[SocketAddr]) -> Context {
    let context = Context::load(&site.directory.join("admin.context")).expect("a context");
    Context { endpoints: endpoints.iter().map(ToString::to_string).collect(), ..context }
}

/// A context whose endpoints are these relays.
fn through(site: &Site, relays: &[Relay]) -> Context {
    let endpoints: Vec<SocketAddr> = relays.iter().map(|relay| relay.address).collect();
    context(site, &endpoints)
}

fn connected<F: AsyncFnOnce(Client)>(root: &Path, context: &Context, work: F) {
    as_client(&root.join("kms"), "acme", context, work);
}

#[test]
fn dead_endpoints_and_black_holes_are_passed_over() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let hole = UdpSocket::bind(local(0)).expect("a port");
    let endpoints = [local(free_port()), hole.local_addr().expect("an address"), local(site.port)];
    let path = root.path().join("other.context");
    context(&site, &endpoints).save(&path).expect("saved");
    let path = path.display().to_string();
    let run = |arguments: &[&str]| -> Outcome {
        let begun = Instant::now();
        let outcome = farside_within(Duration::from_secs(20), &[arguments, &["--context", &path]].concat());
        println!("{arguments:?}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < STALL, "{arguments:?} took {:?}", begun.elapsed());
        outcome
    };
    let kms = format!("file:{}", root.path().join("kms").display());
    run(&["tenant", "kms", "acme", &kms]).ok();
    for (number, length) in [100, 20_000, 3_000_000, 12_000_000].into_iter().enumerate() {
        let (name, file) = (format!("object-{number}"), root.path().join("in"));
        std::fs::write(&file, bytes(number as u64, length)).expect("written");
        run(&["put", "acme/data", &name, &file.display().to_string()]).ok();
        assert!(run(&["get", "acme/data", &name]).stdout == bytes(number as u64, length));
    }
    // Nobody at all is found out within the first patience, and by name.
    let nowhere = root.path().join("nowhere.context");
    context(&site, &endpoints[..2]).save(&nowhere).expect("saved");
    let begun = Instant::now();
    let failed = farside_within(Duration::from_secs(20), &["status", "--context", &nowhere.display().to_string()]);
    failed.fails(4, &format!("does not answer at {}", endpoints[0].min(endpoints[1])));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn an_endpoint_that_dies_under_load_holds_up_writes_for_less_than_three_seconds() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let relays: Vec<Relay> = (0..3).map(|_| Relay::before(site.port)).collect();
    connected(root.path(), &through(&site, &relays), async |client| {
        let log = client.open_log("acme/data").await.expect("opened");
        let mut number = 0;
        let mut write = async |rounds: usize| {
            let (mut longest, begun) = (Duration::ZERO, Instant::now());
            for _ in 0..rounds {
                number += 1;
                let length = [100, 30_000, 300_000, 5_000_000][number % 4];
                let began = Instant::now();
                let name = format!("object-{number}");
                let put = log.put(Upload::bytes(name.as_bytes(), bytes(number as u64, length))).await;
                put.unwrap_or_else(|error| panic!("object {number}: {error}"));
                longest = longest.max(began.elapsed());
            }
            (longest, begun.elapsed())
        };
        let before = write(36).await;
        // Which goes where is drawn: that one of three gets none of 27 larger chunks comes about once in 20,000 times.
        assert!(relays.iter().all(|relay| relay.passed_bytes() > 200_000), "chunks spread over all endpoints");
        // The first one is where logs are asked.
        for relay in [&relays[0], &relays[1]] {
            relay.swallow(true);
            let (longest, all) = write(24).await;
            println!("before: {before:?}, at a death: {longest:?} of {all:?}");
            assert!(longest < STALL, "a write took {longest:?}");
            assert!(all < before.1 + 2 * STALL, "silence was waited for again and again: {all:?}");
            relay.swallow(false);
            tokio::time::sleep(Duration::from_secs(6)).await;
            let passed = relay.passed_bytes();
            write(24).await;
            // It takes part again after a probe, which is sent when somebody calls.
            tokio::time::sleep(Duration::from_secs(1)).await;
            write(24).await;
            assert!(relay.passed_bytes() > passed + (1 << 20), "an endpoint that is back is used again");
        }
        for at in 1..=number {
            let object =
                log.get(format!("object-{at}").as_bytes(), &Moment::Latest).await.expect("it was acknowledged");
            let length = [100, 30_000, 300_000, 5_000_000][at % 4];
            assert!(object.into_bytes().await.expect("whole") == bytes(at as u64, length), "object {at} differs");
        }
        client.close().await.expect("closed");
    });
}

#[test]
fn a_read_goes_on_elsewhere_when_its_endpoint_dies_in_the_middle() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let relays: Vec<Relay> = (0..3).map(|_| Relay::before(site.port)).collect();
    connected(root.path(), &through(&site, &relays), async |client| {
        let log = client.open_log("acme/data").await.expect("opened");
        let whole = bytes(5, 60_000_000);
        log.put(Upload::bytes(b"large", whole.clone())).await.expect("put");
        let object = log.get(b"large", &Moment::Latest).await.expect("found");
        let mut read = Vec::new();
        let began = Instant::now();
        let done = object.read(|piece| {
            read.extend_from_slice(piece);
            relays[2].swallow(true);
            Ok(())
        });
        done.await.expect("read");
        assert!(read == whole);
        println!("{:?}", began.elapsed());
        assert!(began.elapsed() < 2 * STALL, "{:?}", began.elapsed());
    });
}
