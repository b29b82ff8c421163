//! What status says of peers: caught up only once they said so, paused, out of reach, removed; and what joins sites.

use farside_tests::{Site, bytes, farside, farside_within, free_port};
use std::time::{Duration, Instant};

fn file(url: &std::path::Path) -> String {
    format!("file:{}", url.display())
}

#[test]
fn a_paused_peer_is_not_caught_up() {
    let root = tempfile::tempdir().expect("a directory");
    let one = ["--cores", "0"];
    let (near, far) = (Site::start(root.path(), "near", &one), Site::start(root.path(), "far", &one));
    near.make_log(&root.path().join("kms"), "acme/photos");
    near.join(&far);
    near.wait_caught_up();
    // Longer than time itself lasts.
    near.farside(&["status", "--wait-caught-up", "18446744073709551615"]).ok();
    assert_eq!(
        near.farside(&["peer", "pause", "far"]).ok(),
        "far is paused: nothing is sent to it or taken from it, and what it lacks is kept\n"
    );
    near.farside(&["status", "--wait-caught-up", "5"]).ok();
    near.farside(&["put", "acme/photos", "a", "/etc/hostname"]).ok();
    let begun = Instant::now();
    near.farside(&["status", "--wait-caught-up", "60"]).fails(4, "acme/photos at far, which is paused");
    assert!(begun.elapsed() < Duration::from_secs(30), "waiting does not help");
    let resumed = near.farside(&["peer", "resume", "far", "--json"]).json();
    assert_eq!((resumed["site"].as_str(), resumed["state"].as_str()), (Some("far"), Some("active")));
    near.wait_caught_up();
    assert_eq!(near.farside(&["peer", "remove", "far", "--json"]).json()["state"], "removed");
    // Far knows the log still, and its home no more.
    far.farside(&["peer", "remove", "near"]).ok();
    let id = near.status()["site_id"].as_str().expect("an id").to_owned();
    for command in [&["status"][..], &["log", "list"]] {
        let shown = far.farside(command).ok();
        assert!(shown.contains(&format!("home {id} (removed peer)")), "{shown}");
    }
}

#[test]
fn an_empty_log_that_the_peer_refuses_is_not_caught_up() {
    let root = tempfile::tempdir().expect("a directory");
    let one = ["--cores", "0"];
    let (near, far) = (Site::start(root.path(), "near", &one), Site::start(root.path(), "far", &one));
    near.make_log(&root.path().join("kms"), "acme/photos");
    // Another tenant of that name.
    far.farside(&["tenant", "create", "acme", "--kms", &file(&root.path().join("other-kms"))]).ok();
    near.join(&far);
    near.farside(&["status", "--wait-caught-up", "3"]).fails(4, "acme/photos at far");
    assert_eq!(near.status()["logs"][0]["peers"][0]["caught_up"], false);
}

#[test]
fn a_peer_out_of_reach_is_told_once_and_for_all_logs() {
    let root = tempfile::tempdir().expect("a directory");
    let one = ["--cores", "0"];
    let (near, mut far) = (Site::start(root.path(), "near", &one), Site::start(root.path(), "far", &one));
    near.make_log(&root.path().join("kms"), "acme/photos");
    near.farside(&["log", "create", "acme/idle"]).ok();
    near.join(&far);
    near.wait_caught_up();
    assert_eq!(far.stop(), 0);
    near.farside(&["put", "acme/photos", "a", "/etc/hostname"]).ok();
    std::thread::sleep(Duration::from_secs(8));
    let status = near.status();
    let alerts = status["alerts"].as_array().expect("alerts");
    let unreachable = alerts.iter().filter(|alert| alert.to_string().contains("peer far has been unreachable for"));
    assert_eq!(unreachable.count(), 1, "{alerts:?}");
    for log in status["logs"].as_array().expect("logs") {
        assert_eq!(log["peers"][0]["state"], "unreachable", "{log}");
    }
    // What it has acknowledged stays so.
    assert_eq!(
        (status["logs"][0]["peers"][0]["caught_up"] == true, status["logs"][0]["name"].as_str()),
        (true, Some("acme/idle"))
    );
}

#[test]
fn a_site_that_nobody_can_reach_is_not_made() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("near").display().to_string();
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let arguments =
        ["init", "--dir", &dir, "--site", "near", "--cores", "0", "--device-size", "128MiB", "--listen", &listen];
    farside(&arguments).fails(2, "--advertise");
    farside(&[&arguments[..], &["--advertise", "0.0.0.0:1"]].concat()).fails(2, "--advertise names no address");
    farside(&[&arguments[..], &["--advertise", "127.0.0.2:65536"]].concat()).fails(2, "invalid");
    let advertise = format!("127.0.0.1:{port}");
    farside(&[&arguments[..], &["--advertise", &advertise]].concat()).ok();
    let mut near = Site::at(root.path().join("near"), port);
    let far = Site::start(root.path(), "far", &["--cores", "0"]);
    near.run();
    far.join(&near);
    assert!(far.farside(&["peer", "list"]).ok().contains(&advertise));
    // One that was made otherwise gives no token.
    let settings = near.directory.join("node.toml");
    let text = std::fs::read_to_string(&settings).expect("read");
    assert_eq!(near.stop(), 0);
    std::fs::write(&settings, text.replace("advertise = ", "# ")).expect("written");
    near.run();
    near.farside(&["peer", "token"]).fails(2, "nobody can reach this site at 0.0.0.0");
    near.farside(&["context", "export", "-o", "-"]).fails(2, "nobody can reach this site");
}

#[test]
fn a_site_that_is_gone_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let one = ["--cores", "0"];
    let (near, mut far) = (Site::start(root.path(), "near", &one), Site::start(root.path(), "far", &one));
    let token = far.farside(&["peer", "token"]).ok();
    far.kill();
    near.farside(&["peer", "add", "far", token.trim()]).fails(4, "site far does not answer");
}

#[test]
fn a_put_whose_node_dies_gives_up_and_says_what_it_had_done() {
    let root = tempfile::tempdir().expect("a directory");
    let mut near = Site::start(root.path(), "near", &["--cores", "0"]);
    near.make_log(&root.path().join("kms"), "acme/photos");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    for number in 0..2000 {
        std::fs::write(tree.join(format!("file-{number}")), bytes(number, 20_000)).expect("written");
    }
    let (dir, from) = (near.directory.display().to_string(), tree.display().to_string());
    let put = std::thread::spawn(move || {
        let begun = Instant::now();
        let put = farside_within(Duration::from_secs(60), &["put", "--dir", &dir, "-r", "acme/photos", &from]);
        (put, begun.elapsed())
    });
    std::thread::sleep(Duration::from_millis(400));
    near.kill();
    let (put, took) = put.join().expect("ended");
    put.fails(4, "stored before it failed");
    assert!(took < Duration::from_secs(12), "{took:?}");
}

/// Chunks go to a peer at the rate that it is limited to, a log without chunks is not held up by them, and a window of the
/// day goes before what holds all day.
#[test]
fn a_limited_peer_is_sent_no_more_than_that() {
    let root = tempfile::tempdir().expect("a directory");
    let two = ["--cores", "0,1"];
    let (near, far) = (Site::start(root.path(), "near", &two), Site::start(root.path(), "far", &two));
    near.make_log(&root.path().join("kms"), "acme/photos");
    near.farside(&["log", "create", "acme/notes"]).ok();
    near.join(&far);
    near.wait_caught_up();
    let limit = |more: &[&str]| near.farside(&[&["peer", "limit", "far"], more].concat());
    assert_eq!(limit(&["--rate", "32Mbit"]).ok(), "far is sent chunks at the new rate from now on\n");
    let put = |name: &str, length: usize| {
        let file = root.path().join("in");
        std::fs::write(&file, bytes(length as u64, length)).expect("written");
        near.farside(&["put", "acme/photos", name, &file.display().to_string()]).ok();
    };
    let begun = Instant::now();
    put("a", 24_000_000);
    near.wait_caught_up();
    let took = begun.elapsed();
    println!("24 MB at 4 MB/s took {took:?}");
    // The last chunk goes once those before it are paid off; it may be the largest.
    assert!(took > Duration::from_millis(3500), "24 MB took {took:?} at 4 MB/s");

    // At this rate it would take minutes, and what is in the other log arrives meanwhile.
    limit(&["--rate", "64KiB"]).ok();
    put("b", 16_000_000);
    near.farside(&["put", "acme/notes", "note", "/etc/hostname"]).ok();
    let begun = Instant::now();
    let caught_up = |log: &str| {
        let logs = near.status()["logs"].as_array().cloned().unwrap_or_default();
        logs.iter().any(|entry| entry["name"] == log && entry["peers"][0]["caught_up"] == true)
    };
    while !caught_up("acme/notes") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", near.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!caught_up("acme/photos"), "16 MB at 64 KiB/s");
    assert_eq!(near.status()["peers"][0]["limit_bytes_per_second"], 65_536);

    // All day but for two minutes that are over, or not to come for hours.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs() / 60 % 1440;
    let time = |minute: u64| format!("{:02}:{:02}", minute % 1440 / 60, minute % 60);
    let window = format!("{}-{}", time(now + 720), time(now + 718));
    limit(&["--rate", "0", "--window", &window]).ok();
    near.wait_caught_up();
    let listed = near.farside(&["peer", "list"]).ok();
    assert!(listed.contains("always else: at most 64.0 KiB/s"), "{listed}");
    assert!(listed.contains(&format!("{window} UTC: as fast as it goes")), "{listed}");
    let listed = near.farside(&["peer", "list", "--json"]).json();
    assert_eq!(listed["limits"][1]["window"], window);
    let audited = near.farside(&["audit", "show", "--site"]).ok();
    assert!(audited.contains("peer.limit"), "{audited}");
    assert_eq!(limit(&["--clear", "--json"]).json()["state"], "unlimited");
    assert_eq!(near.farside(&["peer", "list", "--json"]).json()["limits"], serde_json::json!([]));

    limit(&["--rate", "fast"]).fails(2, "fast is no rate a second");
    limit(&["--rate", "1Mbit", "--window", "22:00-22:00"]).fails(2, "begins when it ends");
    limit(&["--rate", "1Mbit", "--window", "25:00-26:00"]).fails(2, "no part of a day");
    limit(&["--rate", "1Mbit", "--clear"]).fails(2, "--clear");
    limit(&[]).fails(2, "--rate");
    near.farside(&["peer", "limit", "farther", "--rate", "1Mbit"]).fails(5, "no peer farther");
    for hour in 0..8 {
        limit(&["--rate", "1Mbit", "--window", &format!("{hour:02}:00-{hour:02}:30")]).ok();
    }
    let full = limit(&["--rate", "2Mbit"]);
    assert!(full.code != 0 && full.stderr.contains("8 limits for this peer"), "{} {}", full.code, full.stderr);
}
