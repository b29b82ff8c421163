//! Backups in a real store: whoever runs it learns nothing, both sites come back from it byte for byte, and a store that fails,
//! throttles, loses answers and damages what it delivers costs time and nothing else.

use farside_tests::backups::{Objects, World};
use farside_tests::lab::{Faults, S3Proxy, SeaweedFs};
use farside_tests::{Site, bytes, skip};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const MARKER: &[u8] = b"plaintext-that-nobody-may-see-anywhere";

fn store(world: &mut World) -> Option<SeaweedFs> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    world.environment = SeaweedFs::environment().into_iter().map(own).collect();
    match SeaweedFs::start(&world.path("store")) {
        Ok(store) => Some(store),
        Err(reason) => {
            skip(&format!("SeaweedFS: {reason}"));
            None
        }
    }
}

/// Every file below a directory, searched for these bytes. Answers how many bytes that were.
fn search(directory: &Path, secrets: &[(&str, &[u8])]) -> u64 {
    let mut searched = 0;
    for entry in std::fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            searched += search(&path, secrets);
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        searched += bytes.len() as u64;
        for (what, secret) in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == *secret);
            assert!(!found, "{what} is in {}", path.display());
        }
    }
    searched
}

fn marked(seed: u64, length: usize) -> Vec<u8> {
    [MARKER, &bytes(seed, length)].concat()
}

#[test]
fn both_sites_are_destroyed_and_come_back_from_a_store_that_knows_nothing() {
    let mut world = World::default();
    let Some(store) = store(&mut world) else { return };
    let near = Site::start(world.root(), "near-marker", &["--cores", "0", "--geometry", "2+1"]);
    let far = Site::start(world.root(), "far-marker", &["--cores", "0", "--geometry", "2+1"]);
    near.make_log(&world.kms, "acme/data");
    near.join(&far);
    let endpoint = store.endpoint();
    let target = ["backup", "target", "add", "vault", "s3://backups/near", "--endpoint", &endpoint];
    near.farside(&target).fails(3, "AWS_ACCESS_KEY_ID");
    world.at(&near, &target).ok();
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "object-name-marker", MARKER.to_vec());
    world.put(&near, &mut objects, "large", marked(1, 5_000_000));
    for number in 0..10 {
        world.put(&near, &mut objects, &format!("many/{number}"), marked(10 + number, 40_000));
    }
    near.wait_caught_up();
    let first = world.at(&near, &["backup", "now", "--json", "vault"]).json();
    // An unchanged site costs next to nothing.
    let second = world.at(&near, &["backup", "now", "--json", "vault"]).json();
    let cost = |figure: &str| second[figure].as_u64().expect("a figure");
    assert!(cost("requests") < 20 && cost("sent_bytes") + cost("received_bytes") < 1 << 20, "{second}");
    assert_eq!(second["known_chunks"], first["chunks"]);
    world.at(&near, &["backup", "verify", "vault", "--read-all"]).ok();

    let system_key = std::fs::read(near.directory.join("system.key")).expect("read");
    let authority_key = std::fs::read(near.directory.join("node.identity")).expect("read");
    let secrets: [(&str, &[u8]); 8] = [
        ("plaintext", MARKER),
        ("an object's name", b"object-name-marker"),
        ("a site's name", b"near-marker"),
        ("the peer's name", b"far-marker"),
        ("a log's name", b"acme/data"),
        ("the CA", b"farside://"),
        ("the system key", &system_key[system_key.len() - 32..]),
        ("a certificate", &authority_key[authority_key.len() / 2..authority_key.len() / 2 + 64]),
    ];
    let searched = search(&world.path("store/data"), &secrets);
    assert!(searched > 5_000_000, "only {searched} bytes were found");

    let shares = world.shares(&near);
    let stranger = world.shares(&far);
    for mut site in [near, far] {
        site.kill();
        std::fs::remove_dir_all(&site.directory).expect("removed");
    }
    let target = ["--target", "s3://backups/near", "--endpoint", &endpoint];
    let refused = |shares: &[String], code: i32, what: &str| {
        let (arguments, site) = world.restore(&target, shares, "refused", &[]);
        world.run(&arguments).fails(code, what);
        assert!(!site.directory.exists(), "a restore that was refused leaves something behind");
    };
    refused(&shares[..2], 3, "3");
    refused(&stranger[..3], 3, "another system key");
    refused(&[&shares[..2], &stranger[2..3]].concat(), 3, "site");
    let text = std::fs::read_to_string(&shares[0]).expect("read");
    let line = text.lines().find(|line| line.starts_with("farside-share")).expect("a share").to_owned();
    let last = line.chars().last().expect("a letter");
    let damaged = world.text("damaged.txt");
    let wrong = format!("{}{}", &line[..line.len() - 1], if last == '7' { '8' } else { '7' });
    std::fs::write(&damaged, wrong).expect("written");
    refused(&[vec![damaged], shares[1..3].to_vec()].concat(), 6, "damaged.txt");
    let (_, site) = world.restored(&target, &[&shares[..1], &shares[3..]].concat(), "again", &["--geometry", "3+1"]);
    world.check(&site, &objects);
    // Whoever has destroyed the tenant's key has destroyed what a restore brings back.
    std::fs::remove_dir_all(&world.kms).expect("removed");
    std::fs::create_dir(&world.kms).expect("made");
    site.farside(&["get", "acme/data", "large"]).fails(5, "acme");
}

#[test]
fn a_store_that_fails_throttles_and_damages_costs_time_and_nothing_else() {
    let mut world = World::default();
    let Some(store) = store(&mut world) else { return };
    let proxy = S3Proxy::start(store.address(), Faults::default());
    let near = Site::start(world.root(), "near", &["--cores", "0", "--geometry", "2+1"]);
    near.make_log(&world.kms, "acme/data");
    let endpoint = proxy.endpoint();
    world.at(&near, &["backup", "target", "add", "vault", "s3://backups/x", "--endpoint", &endpoint]).ok();
    let bad = Faults {
        seed: 5,
        failed: 25,
        slow_down: 15,
        delayed: 15,
        delay: Duration::from_millis(300),
        cut_before: 5,
        cut_after: 10,
        corrupted: 5,
        ..Faults::default()
    };
    let mut objects = Objects::new();
    let mut slowest = Duration::ZERO;
    for round in 0..4u64 {
        for number in 0..4 {
            let begun = Instant::now();
            world.put(&near, &mut objects, &format!("{round}/{number}"), bytes(10 * round + number, 200_000));
            slowest = slowest.max(begun.elapsed());
        }
        proxy.set(Faults { seed: round, ..bad });
        let told = world.at(&near, &["backup", "now", "--json", "vault"]).json();
        println!("{} requests, {} of them again, {} faults", told["requests"], told["retries"], proxy.happened());
        if round == 2 {
            world.at(&near, &["backup", "prune", "vault", "--keep-last", "2", "--grace", "0s"]).ok();
        }
    }
    assert!(proxy.happened() > 0, "nothing went wrong");
    assert!(slowest < Duration::from_secs(10), "writers waited {slowest:?}");
    proxy.set(Faults::default());
    let verified = world.at(&near, &["backup", "verify", "vault", "--read-all", "--json"]).ok();
    let last: Value = serde_json::from_str(verified.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["damaged_backups"], &last["backups"]), (&0.into(), &3.into()), "{verified}");
    let shares = world.shares(&near);
    let target = ["--target", "s3://backups/x", "--endpoint", &endpoint];
    proxy.set(Faults { seed: 99, ..bad });
    let (arguments, mut site) = world.restore(&target, &shares[..3], "again", &[]);
    world.run(&arguments).ok();
    drop(near);
    site.run();
    world.check(&site, &objects);
}

#[test]
fn the_site_makes_backups_by_itself() {
    let mut world = World::default();
    let Some(store) = store(&mut world) else { return };
    let mut near = Site::init(world.root(), "near", &["--cores", "0", "--geometry", "2+1"]);
    near.environment = world.environment.clone();
    near.run();
    near.make_log(&world.kms, "acme/data");
    let endpoint = store.endpoint();
    world.at(&near, &["backup", "target", "add", "vault", "s3://backups/x", "--endpoint", &endpoint]).ok();
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "one", bytes(1, 500_000));
    near.farside(&["backup", "schedule", "vault", "--control", "sometimes"]).fails(2, "sometimes");
    near.farside(&["backup", "schedule", "none", "--control", "daily"]).fails(5, "there is no backup target none");
    near.farside(&["backup", "schedule", "vault", "--control", "hourly", "--chunks", "continuous"]).ok();
    let begun = Instant::now();
    while near.status()["backups"][0]["newest"]["backup"] != 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no backup came: {}", near.status());
        std::thread::sleep(Duration::from_millis(500));
    }
    world.at(&near, &["backup", "verify", "vault", "--read-all"]).ok();
    // What it can't do it says.
    drop(store);
    near.farside(&["backup", "schedule", "vault", "--control", "off"]).ok();
}
