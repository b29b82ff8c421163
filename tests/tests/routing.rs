//! Which sites hold a log, and which may never learn of it; and how much it may have.

use farside_tests::{Site, bytes};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn logs(site: &Site) -> Vec<String> {
    let listed = site.farside(&["log", "list", "--json"]).ok();
    let name =
        |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["name"].as_str().map(ToString::to_string);
    listed.lines().filter_map(name).collect()
}

fn peers_of(site: &Site, log: &str) -> Vec<String> {
    let logs = site.status()["logs"].as_array().cloned().unwrap_or_default();
    let found = logs.into_iter().find(|found| found["name"] == log).unwrap_or_default();
    let peers = found["peers"].as_array().cloned().unwrap_or_default();
    peers.iter().filter_map(|peer| peer["site"].as_str().map(ToString::to_string)).collect()
}

/// Whether a word stands in any file below a directory.
fn stands_in(directory: &Path, word: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).any(|path| match path.is_dir() {
        true => stands_in(&path, word),
        false => std::fs::read(&path).is_ok_and(|found| found.windows(word.len()).any(|window| window == word)),
    })
}

#[test]
fn a_log_goes_where_its_policy_says_and_nowhere_else() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let small = ["--cores", "0", "--device-size", "64MiB"];
    let site = |name: &str| Site::start(root.path(), name, &small);
    let (mut near, far, third) = (site("near"), site("far"), site("third"));
    near.make_log(&kms, "acme/photos");
    // Nobody learns of this one before its bound holds.
    near.join(&far);
    near.join(&third);
    far.join(&third);
    near.farside(&["log", "create", "acme/patientrecords", "--residency", "near,far"]).ok();
    let put = |site: &Site, log: &str, name: &str| site.farside(&["put", log, name, "/etc/hostname"]);
    put(&near, "acme/photos", "first").ok();
    put(&near, "acme/patientrecords", "first").ok();
    near.wait_caught_up();
    until("far has both", || logs(&far).len() == 2);
    assert_eq!(logs(&third), ["acme/photos"]);
    assert_eq!(peers_of(&near, "acme/patientrecords"), ["far"]);
    let shown = near.farside(&["log", "show", "acme/patientrecords"]).ok();
    assert!(shown.contains("may be nowhere but at near, far"), "{shown}");

    // It stays that way: neither routing nor a switchover takes it there.
    near.farside(&["log", "replicate", "acme/patientrecords", "--to", "third"]).fails(3, "change its residency first");
    near.farside(&["switchover", "--to", "third", "--log", "acme/patientrecords"])
        .fails(3, "is not sent to site third");
    near.farside(&["log", "policy", "acme/photos", "--residency", "near,far"])
        .fails(3, "peer third may have the log already");
    near.farside(&["log", "policy", "acme/photos", "--residency", "far"]).fails(3, "this site is among those");
    near.farside(&["log", "replicate", "acme/photos", "--to", "fourth"]).fails(5, "no peer fourth");
    near.farside(&["log", "replicate", "acme/photos", "--to", "all,far"]).fails(2, "all goes with no other site");
    near.farside(&["log", "replicate", "acme/photos", "--to", "none"]).fails(5, "no peer none");
    near.farside(&["log", "replicate", "acme/photos"]).fails(2, "--to");
    far.farside(&["log", "replicate", "acme/photos", "--to", "near"]).fails(3, "near");

    // A peer that is not to hold a log any more is sent nothing, and nobody waits for it.
    near.farside(&["log", "replicate", "acme/photos", "--to", "far"]).ok();
    put(&near, "acme/photos", "second").ok();
    near.wait_caught_up();
    let head = |site: &Site| site.farside(&["log", "show", "acme/photos", "--json"]).json()["head_seq"].as_u64();
    assert_eq!((head(&near), head(&far), head(&third)), (Some(2), Some(2), Some(1)));
    assert_eq!(peers_of(&near, "acme/photos"), ["far"]);
    third.farside(&["failover", "--from", "near", "--log", "acme/photos"]).fails(3, "is not sent here any more");
    near.farside(&["log", "replicate", "acme/photos", "--to", "all"]).ok();
    near.wait_caught_up();
    assert_eq!(head(&third), Some(2));
    near.farside(&["log", "replicate", "acme/photos", "--to", "far"]).ok();
    put(&near, "acme/photos", "third").ok();
    near.wait_caught_up();

    // Whoever takes over goes by it as well, and sends to the old home. What was refused before is told to nobody else.
    far.farside(&["failover"]).fails(3, "old home still answers");
    near.kill();
    far.farside(&["failover"]).ok();
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    put(&far, "acme/photos", "fourth").ok();
    put(&far, "acme/patientrecords", "second").ok();
    near.run();
    far.wait_caught_up();
    assert_eq!(head(&near), head(&far));
    assert_eq!((head(&third), peers_of(&far, "acme/photos")), (Some(2), vec!["near".to_owned()]));
    assert_eq!(peers_of(&far, "acme/patientrecords"), ["near"]);

    // The third site has no trace of it: no name, no audit entry.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(logs(&third), ["acme/photos"]);
    let mut third = third;
    assert_eq!(third.stop(), 0);
    assert!(stands_in(&third.directory, b"photos") && !stands_in(&third.directory, b"patientrecords"));
    assert!(stands_in(&far.directory, b"patientrecords"));
}

#[test]
fn a_log_has_no_more_than_its_quota() {
    let root = tempfile::tempdir().expect("a directory");
    let mut near = Site::init(root.path(), "near", &["--cores", "0"]);
    let config = near.directory.join("node.toml");
    let text = std::fs::read_to_string(&config).expect("a config");
    std::fs::write(&config, text.replace("gc_seconds = ", "gc_seconds = 1 # ")).expect("written");
    near.run();
    near.make_log(&root.path().join("kms"), "acme/photos");
    near.farside(&["log", "policy", "acme/photos", "--quota", "much"]).fails(2, "much is no size");
    let shown = near.farside(&["log", "policy", "acme/photos", "--quota", "1MiB", "--history", "1s"]).ok();
    assert!(shown.contains("of a quota of 1.0 MiB"), "{shown}");
    let file = root.path().join("in");
    std::fs::write(&file, bytes(1, 400_000)).expect("written");
    let put = |name: &str| near.farside(&["put", "acme/photos", name, &file.display().to_string()]);
    put("one").ok();
    std::fs::write(&file, bytes(2, 400_000)).expect("written");
    put("two").ok();
    std::fs::write(&file, bytes(3, 400_000)).expect("written");
    put("three").fails(1, "of its quota");
    near.farside(&["get", "acme/photos", "one"]).ok();
    near.farside(&["rm", "acme/photos", "one"]).ok();
    until("what was removed counts no more", || put("three").code == 0);
    let status = near.status();
    assert_eq!(status["logs"][0]["quota_bytes"], 1 << 20);
    assert!(status["logs"][0]["live_bytes"].as_u64() > Some(800_000), "{status}");
    near.farside(&["log", "policy", "acme/photos", "--quota", "none"]).ok();
    put("four").ok();
}
