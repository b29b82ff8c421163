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
