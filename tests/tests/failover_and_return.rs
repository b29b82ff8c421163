//! Two sites: what is put at near is at far; near dies, far takes over; near comes back, learns it, and follows.

use farside_tests::{Site, bytes};

#[test]
fn the_old_home_refuses_writes_and_becomes_a_copy() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let (mut near, far) = (Site::start(root.path(), "near", &[]), Site::start(root.path(), "far", &[]));
    near.make_log(&kms, "acme/photos");
    near.join(&far);
    let file = root.path().join("file");
    std::fs::write(&file, bytes(1, 9_000_001)).expect("written");
    let path = file.display().to_string();
    let put = near.farside(&["put", "acme/photos", "cat", &path, "--json"]).json();
    assert_eq!(
        (put["size_bytes"].as_u64(), put["chunks"].as_u64(), put["seq"].as_u64()),
        (Some(9_000_001), Some(3), Some(1))
    );
    near.farside(&["put", "acme/photos", "small", "/dev/null"]).ok();
    near.wait_caught_up();
    // What far never gets: written while it is paused.
    near.farside(&["peer", "pause", "far"]).ok();
    near.farside(&["put", "acme/photos", "late", &path]).ok();
    near.kill();

    // Far knows nothing of `late` but that near was alive; without near it takes over.
    let url = format!("file:{}", kms.display());
    far.farside(&["tenant", "kms", "acme", &url]).ok();
    far.farside(&["put", "acme/photos", "early", &path]).fails(3, "near");
    let failover = far.farside(&["failover", "--from", "near", "--json"]).json();
    let log = &failover["logs"][0];
    assert_eq!(
        (log["name"].as_str(), log["generation"].as_u64(), log["position_seq"].as_u64()),
        (Some("acme/photos"), Some(2), Some(2))
    );
    assert!(failover["rto_seconds"].as_f64().expect("seconds") < 10.0);
    far.farside(&["put", "acme/photos", "new", &path]).ok();
    let back = far.farside(&["get", "acme/photos", "cat"]);
    assert_eq!(back.stdout, std::fs::read(&file).expect("read"));

    // The old home comes back.
    near.run();
    let refused = near.farside(&["put", "acme/photos", "again", &path]);
    refused.fails(3, "far");
    // It follows now that it takes from far again; what only it had is set aside, and told.
    near.farside(&["peer", "resume", "far"]).ok();
    far.wait_caught_up();
    let listing = |site: &Site| site.farside(&["ls", "acme/photos"]).ok();
    assert_eq!(listing(&near), listing(&far));
    assert!(!listing(&near).contains("late"));
    assert!(near.alerts().contains("1 deltas of acme/photos were set aside"), "{}", near.alerts());
    let shown = |site: &Site| site.farside(&["log", "show", "acme/photos", "--json"]).json();
    assert_eq!(shown(&near)["head_hash"], shown(&far)["head_hash"]);
    assert_eq!(shown(&near)["lineage"], shown(&far)["lineage"]);
    // And it takes over in turn.
    drop(far);
    let failover = near.farside(&["failover", "--json"]).json();
    assert_eq!(failover["logs"][0]["generation"], 3);
    near.farside(&["put", "acme/photos", "once more", &path]).ok();
}

#[test]
fn a_home_that_answers_is_not_failed_over_without_force() {
    let root = tempfile::tempdir().expect("a directory");
    let (near, far) = (Site::start(root.path(), "near", &[]), Site::start(root.path(), "far", &["--cores", "0"]));
    near.make_log(&root.path().join("kms"), "acme/photos");
    near.join(&far);
    near.farside(&["put", "acme/photos", "a", "/etc/hostname"]).ok();
    near.wait_caught_up();
    far.farside(&["failover"]).fails(3, "still answers");
    let forced = far.farside(&["failover", "--force", "--json"]).json();
    assert_eq!(forced["loss_may_grow"], false, "near answered that it is fenced");
    near.farside(&["put", "acme/photos", "b", "/etc/hostname"]).fails(3, "far");
}
