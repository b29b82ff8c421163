//! Peers that lack too much, for too long, or everything: what is kept for them has an end that status tells of, and when they come
//! they are given what is there. Nothing of it stops writers, and whoever takes over in the middle is an exact copy of something.

use farside_tests::{Site, bytes};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const LOG: &str = "acme/photos";

/// A site that collects every second and keeps old versions for two.
fn site(root: &Path, name: &str, core: &str) -> Site {
    let mut site = Site::init(root, name, &["--cores", core]);
    let config = root.join(name).join("node.toml");
    let text = std::fs::read_to_string(&config).expect("a config");
    std::fs::write(&config, text.replace("gc_seconds = ", "gc_seconds = 1 # ")).expect("written");
    site.run();
    site
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

struct Pair {
    root: tempfile::TempDir,
    near: Site,
    far: Site,
}

impl Pair {
    /// Two sites, not joined yet.
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let (near, far) = (site(root.path(), "near", "0"), site(root.path(), "far", "1"));
        near.make_log(&root.path().join("kms"), LOG);
        near.farside(&["log", "policy", LOG, "--history", "1s"]).ok();
        Self { root, near, far }
    }

    fn join(&self, bound: &str) {
        self.near.join(&self.far);
        self.near.farside(&["peer", "hold", "far", "--for", bound]).ok();
    }

    /// The far site gets the tenant's KMS, once it has heard of the tenant.
    fn trust(&self) {
        let url = format!("file:{}", self.root.path().join("kms").display());
        until("far knows the tenant", || self.far.farside(&["tenant", "kms", "acme", &url]).code == 0);
    }

    /// Puts an object whose contents follow from a number.
    fn put(&self, site: &Site, name: &str, number: u64) {
        let file = self.root.path().join("in");
        std::fs::write(&file, bytes(number, 70_000)).expect("written");
        site.farside(&["put", LOG, name, &file.display().to_string()]).ok();
    }

    /// The same object is there.
    fn shows(&self, site: &Site, name: &str, number: u64) {
        let file = self.root.path().join("out");
        site.farside(&["get", LOG, name, "-o", &file.display().to_string()]).ok();
        assert!(std::fs::read(&file).expect("the object") == bytes(number, 70_000), "{name} is another object");
    }

    fn peer(&self) -> Value {
        entry(&self.near)["peers"][0].clone()
    }
}

fn entry(site: &Site) -> Value {
    let logs = site.status()["logs"].as_array().cloned().unwrap_or_default();
    logs.into_iter().find(|log| log["name"] == LOG).unwrap_or_default()
}

fn names(site: &Site) -> Vec<String> {
    let listed = site.farside(&["ls", LOG, "--json"]).ok();
    listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["name"].to_string()).collect()
}

/// Versions of an object that a site has.
fn versions(site: &Site, name: &str) -> usize {
    site.farside(&["history", LOG, name]).ok().lines().count()
}

#[test]
fn a_peer_that_was_away_for_too_long_is_given_what_is_there() {
    let mut pair = Pair::new();
    pair.join("8s");
    for (number, name) in (1..).zip(["kept", "changed", "removed"]) {
        pair.put(&pair.near, name, number);
    }
    pair.near.wait_caught_up();
    pair.trust();
    assert_eq!(pair.peer()["hold_expires_seconds"], Value::Null, "it lacks nothing");

    pair.far.kill();
    pair.put(&pair.near, "changed", 12);
    until("it is said how long what far lacks is kept", || pair.peer()["hold_expires_seconds"].as_f64() > Some(0.0));
    assert!(pair.peer()["hold_bytes"].as_u64() > Some(70_000));
    until("there is an alarm before the end", || pair.near.alerts().contains("half of its bounds is used up"));
    until("it is kept no more", || pair.peer()["hold_expired"] == true);
    assert!(
        pair.near.alerts().contains("far lacks too much of acme/photos, or for too long"),
        "{}",
        pair.near.alerts()
    );
    for number in 13..20 {
        pair.put(&pair.near, "changed", number);
    }
    pair.near.farside(&["rm", LOG, "removed"]).ok();
    pair.put(&pair.near, "new", 30);
    until("near has pruned", || versions(&pair.near, "changed") == 1);

    pair.far.run();
    pair.near.wait_caught_up();
    assert_eq!(names(&pair.far), names(&pair.near));
    for (name, number) in [("kept", 1), ("changed", 19), ("new", 30)] {
        pair.shows(&pair.far, name, number);
    }
    pair.far.farside(&["get", LOG, "removed", "-o", "-"]).fails(5, "removed");
    let (ours, theirs) = (entry(&pair.near), entry(&pair.far));
    assert_eq!(theirs["head_hash"], ours["head_hash"]);
    assert_eq!(theirs["exact_up_to_seq"], theirs["head_seq"]);
    until("near sees that far lacks nothing", || pair.peer()["hold_expired"] == false);

    // It is a copy like any other, and takes over.
    pair.near.kill();
    pair.far.farside(&["failover"]).ok();
    pair.put(&pair.far, "changed", 40);
    pair.near.run();
    pair.far.wait_caught_up();
    pair.shows(&pair.near, "changed", 40);
}

#[test]
fn a_new_peer_is_given_what_is_there() {
    let pair = Pair::new();
    for number in 1..9 {
        pair.put(&pair.near, "changed", number);
    }
    pair.put(&pair.near, "kept", 20);
    until("near has pruned", || versions(&pair.near, "changed") == 1);
    pair.join("3s");
    pair.near.wait_caught_up();
    pair.trust();
    assert_eq!(versions(&pair.far, "changed"), 1, "it gets no history that near has not");
    pair.shows(&pair.far, "changed", 8);
    pair.shows(&pair.far, "kept", 20);
}

#[test]
fn whoever_takes_over_in_the_middle_goes_back_to_an_exact_copy() {
    let mut pair = Pair::new();
    pair.join("3s");
    for (number, name) in (1..).zip(["kept", "changed", "removed"]) {
        pair.put(&pair.near, name, number);
    }
    pair.near.wait_caught_up();
    pair.trust();
    let exact = entry(&pair.far)["head_seq"].clone();
    pair.far.kill();
    for number in 11..15 {
        pair.put(&pair.near, "changed", number);
    }
    pair.near.farside(&["rm", LOG, "removed"]).ok();
    pair.put(&pair.near, "new", 30);
    until("near has pruned", || versions(&pair.near, "changed") == 1);

    // Deltas go ahead, and none goes before its chunks: at a byte a second far stays in the middle.
    pair.near.farside(&["peer", "limit", "far", "--rate", "1B"]).ok();
    pair.far.run();
    until("far is in the middle", || pair.far.alerts().contains("the copy of acme/photos is being made anew"));
    assert_eq!(entry(&pair.far)["exact_up_to_seq"], exact);
    assert!(entry(&pair.far)["head_seq"].as_u64() > exact.as_u64());
    assert_eq!(pair.peer()["cursor_seq"], exact, "lag is not flattered");
    pair.near.kill();
    let said = pair.far.farside(&["failover", "--json"]).json();
    assert_eq!(said["logs"][0]["position_seq"], exact);
    assert_eq!(names(&pair.far), ["changed", "kept", "removed"].map(|name| format!("{name:?}")));
    pair.shows(&pair.far, "changed", 2);
    pair.put(&pair.far, "changed", 50);

    // The old home has pruned what its new one still has. It sets aside what nobody else has, and is given the rest again.
    pair.near.run();
    pair.far.wait_caught_up();
    assert_eq!(names(&pair.near), names(&pair.far));
    for (name, number) in [("kept", 1), ("changed", 50), ("removed", 3)] {
        pair.shows(&pair.near, name, number);
    }
    let near = entry(&pair.near);
    assert_eq!(near["head_hash"], entry(&pair.far)["head_hash"]);
    assert!(near["set_aside_deltas"].as_u64() > Some(0));
    assert!(!pair.near.alerts().contains("made anew"), "{}", pair.near.alerts());
}

#[test]
fn bounds_that_can_not_be_are_refused() {
    let pair = Pair::new();
    pair.near.join(&pair.far);
    let hold = |more: &[&str]| pair.near.farside(&[&["peer", "hold", "far"], more].concat());
    hold(&[]).fails(2, "--for");
    hold(&["--for", "soon"]).fails(2, "soon is no duration");
    hold(&["--for", "0s"]).fails(2, "say none");
    hold(&["--up-to", "much"]).fails(2, "much is no size");
    hold(&["--up-to", "0"]).fails(2, "no possible size");
    hold(&["--reset", "--for", "7d"]).fails(2, "--reset");
    pair.near.farside(&["peer", "hold", "farther", "--for", "7d"]).fails(5, "no peer farther");
    let shown = || pair.near.farside(&["peer", "list", "--json"]).json()["hold"].clone();
    assert_eq!((shown()["seconds"].as_u64(), shown()["bytes"].as_u64()), (None, None));
    hold(&["--for", "14d"]).ok();
    hold(&["--up-to", "2TiB"]).ok();
    assert_eq!((shown()["seconds"].as_u64(), shown()["bytes"].as_u64()), (Some(14 * 86_400), Some(2 << 40)));
    let listed = pair.near.farside(&["peer", "list"]).ok();
    assert!(listed.contains("what it lacks is kept for 14.0 days, up to 2.0 TiB of a log"), "{listed}");
    hold(&["--for", "none"]).ok();
    assert_eq!((shown()["seconds"].as_u64(), shown()["bytes"].as_u64()), (Some(0), Some(2 << 40)));
    hold(&["--reset"]).ok();
    assert_eq!((shown()["seconds"].as_u64(), shown()["bytes"].as_u64()), (None, None));
}
