//! Policies that put a bound on what a failover loses: `--lag-bound` stops writers before a peer lags too far behind, and
//! `--home-lease` keeps a home from acknowledging what a peer that takes over would not know of.

use farside_tests::{Site, signal};
use std::path::Path;
use std::time::{Duration, Instant};

fn put(site: &Site, name: &str) -> farside_tests::Outcome {
    site.farside(&["put", "acme/photos", name, "/etc/hostname"])
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn two_sites(root: &Path, policy: &[&str]) -> (Site, Site) {
    let (near, far) = (Site::start(root, "near", &["--cores", "0"]), Site::start(root, "far", &["--cores", "1"]));
    near.make_log(&root.join("kms"), "acme/photos");
    near.farside(&[&["log", "policy", "acme/photos"], policy].concat()).ok();
    near.join(&far);
    let url = format!("file:{}", root.join("kms").display());
    put(&near, "first").ok();
    near.wait_caught_up();
    far.farside(&["tenant", "kms", "acme", &url]).ok();
    (near, far)
}

#[test]
fn a_bound_on_lag_stops_writers() {
    let root = tempfile::tempdir().expect("a directory");
    let (near, far) = two_sites(root.path(), &["--lag-bound", "6s"]);
    let shown = near.farside(&["log", "show", "acme/photos"]).ok();
    assert!(shown.contains("writers stop where a peer lags 6 s behind"), "{shown}");
    near.farside(&["peer", "pause", "far"]).ok();
    let lag = || {
        let status = near.status();
        let log = status["logs"].as_array().expect("logs").iter().find(|log| log["name"] == "acme/photos").cloned();
        log.expect("the log")["peers"][0]["lag_seconds"].as_f64().expect("seconds")
    };
    put(&near, "second").ok();
    until("the lag grows", || lag() > 3.5);
    assert!(near.alerts().contains("writers are stopped at 6 s"), "{}", near.alerts());
    until("the lag is at its bound", || lag() > 6.0);
    put(&near, "third").fails(4, "stops writers at 6 s");
    // Reads are not held up, nor is another log.
    near.farside(&["get", "acme/photos", "second"]).ok();
    near.farside(&["log", "create", "acme/other"]).ok();
    near.farside(&["put", "acme/other", "a", "/etc/hostname"]).ok();
    near.farside(&["peer", "resume", "far"]).ok();
    near.wait_caught_up();
    put(&near, "third").ok();
    // Whoever would rather have writers go on says so.
    drop(far);
    put(&near, "fourth").ok();
    until("the lag is at its bound", || lag() > 6.0);
    put(&near, "fifth").fails(4, "stops writers");
    near.farside(&["log", "policy", "acme/photos", "--lag-bound", "none"]).ok();
    put(&near, "fifth").ok();
}

#[test]
fn a_home_lease_leaves_no_second_writer() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut near, far) = two_sites(root.path(), &["--home-lease", "5s"]);
    let shown = |site: &Site| site.farside(&["log", "show", "acme/photos", "--json"]).json();
    until("far has heard of the policy", || shown(&far)["home_lease_seconds"] == 5);
    far.farside(&["log", "policy", "acme/photos", "--home-lease", "none"]).fails(3, "near");
    until("far has promised", || near.status()["logs"][0]["peers"][0]["lease_left_seconds"].as_f64() > Some(0.0));
    put(&near, "second").ok();

    // A home that no peer renews its lease to acknowledges nothing, and goes on when one does.
    signal("-STOP", far.process());
    std::thread::sleep(Duration::from_secs(6));
    put(&near, "third").fails(4, "has a home lease");
    assert!(near.alerts().contains("has not renewed it"), "{}", near.alerts());
    signal("-CONT", far.process());
    until("near goes on", || put(&near, "third").code == 0);
    near.wait_caught_up();

    // A home that may be acknowledging is not replaced before its lease is over.
    signal("-STOP", near.process());
    let stopped = Instant::now();
    far.farside(&["failover"]).fails(3, "home lease that runs for");
    until("the lease is over", || far.farside(&["failover"]).code == 0);
    let waited = stopped.elapsed();
    assert!(waited > Duration::from_secs(4), "{waited:?}");
    put(&far, "fourth").ok();
    signal("-CONT", near.process());
    put(&near, "fifth").fails(3, "far");
    far.wait_caught_up();
    assert_eq!(shown(&near)["head_hash"], shown(&far)["head_hash"]);
    assert_eq!(near.status()["logs"][0]["set_aside_deltas"], 0);

    // The new home needs the promise of the old one as soon as that follows it, also once it was started anew.
    put(&far, "sixth").ok();
    until("near has promised", || far.status()["logs"][0]["peers"][0]["lease_left_seconds"].as_f64() > Some(0.0));
    near.kill();
    std::thread::sleep(Duration::from_secs(6));
    put(&far, "seventh").fails(4, "has a home lease");
    near.run();
    until("far goes on", || put(&far, "seventh").code == 0);
}

#[test]
fn bounds_that_can_not_be_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let near = Site::start(root.path(), "near", &["--cores", "0"]);
    near.make_log(&root.path().join("kms"), "acme/photos");
    let policy = |flag: &str, value: &str| near.farside(&["log", "policy", "acme/photos", flag, value]);
    policy("--home-lease", "1s").fails(2, "4 to 3600 seconds");
    policy("--home-lease", "2h").fails(2, "4 to 3600 seconds");
    policy("--home-lease", "soon").fails(2, "no duration");
    policy("--lag-bound", "0s").fails(2, "say none");
    let before = near.farside(&["log", "show", "acme/photos", "--json"]).json();
    assert_eq!((before["home_lease_seconds"].as_u64(), before["lag_stops_writers"].as_bool()), (Some(0), Some(false)));
}
