//! A planned change of home loses nothing and holds writers up for moments; what can't arrive stays in transit until it
//! does or is taken back; a drill says beforehand whether the far side would work.

use farside_tests::{Cluster, Site, Stop, bytes};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What writers may wait for a planned change of home. Asked for are 2 seconds on loopback.
const STALL: Duration = Duration::from_secs(2);
const WRITERS: usize = 3;

fn two_sites(root: &Path) -> (Site, Site) {
    let kms = root.join("kms");
    let near = Site::start(root, "near", &["--cores", "0"]);
    let far = Site::start(root, "far", &["--cores", "0"]);
    near.make_log(&kms, "acme/data");
    near.join(&far);
    near.farside(&["put", "acme/data", "first", "/etc/hostname"]).ok();
    near.wait_caught_up();
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    (near, far)
}

fn shown(site: &Site) -> serde_json::Value {
    site.farside(&["log", "show", "acme/data", "--json"]).json()
}

fn equal(near: &Site, far: &Site) {
    let (one, other) = (shown(near), shown(far));
    assert_eq!((&one["head_hash"], &one["lineage"]), (&other["head_hash"], &other["lineage"]));
}

/// What one writer was told.
struct Written {
    names: Vec<String>,
    /// The longest that it waited between two receipts, and how often it had to go to the other site.
    longest: Duration,
    turns: usize,
}

/// Writes one object after the other wherever the log's home is, until it is told to stop.
fn write(sites: [&Site; 2], number: usize, file: &str, over: &AtomicBool) -> Written {
    let mut written = Written { names: Vec::new(), longest: Duration::ZERO, turns: 0 };
    let (mut at, mut last) = (0, Instant::now());
    while !over.load(Ordering::Relaxed) {
        let name = format!("{number}/{}", written.names.len());
        let put = sites[at].farside(&["put", "acme/data", &name, file]);
        match put.code {
            0 => {
                written.longest = written.longest.max(last.elapsed());
                last = Instant::now();
                written.names.push(name);
            }
            3 => {
                at = 1 - at;
                written.turns += 1;
            }
            code => assert_eq!(code, 0, "{}", put.stderr),
        }
    }
    written
}

#[test]
fn writers_lose_nothing_and_wait_for_moments() {
    let root = tempfile::tempdir().expect("a directory");
    let (near, far) = two_sites(root.path());
    let file = root.path().join("file");
    std::fs::write(&file, bytes(1, 300_000)).expect("written");
    let (file, over) = (file.display().to_string(), AtomicBool::new(false));
    let written: Vec<Written> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn({
                    let (near, far, file, over) = (&near, &far, &file, &over);
                    move || write([near, far], number, file, over)
                })
            })
            .collect();
        // Whoever fails here must not leave the writers at it for ever.
        let _stop = Stop(&over);
        std::thread::sleep(Duration::from_secs(3));
        let moved = near.farside(&["switchover", "--to", "far", "--json"]).json();
        println!("switchover: {moved}");
        assert_eq!((&moved["logs"][0]["generation"], &moved["logs"][0]["lost_deltas_max"]), (&2.into(), &0.into()));
        assert_eq!((moved["rpo_seconds"].as_f64(), moved["left"].as_array().map(Vec::len)), (Some(0.0), Some(0)));
        std::thread::sleep(Duration::from_secs(2));
        let back = far.farside(&["failback", "--to", "near", "--json"]).json();
        println!("failback: {back}");
        assert_eq!(back["logs"][0]["generation"], 3);
        std::thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let longest = written.iter().map(|written| written.longest).max().expect("writers");
    let count: usize = written.iter().map(|written| written.names.len()).sum();
    println!("{count} objects; writers waited {:.3} s at most", longest.as_secs_f64());
    assert!(written.iter().all(|written| written.turns >= 2), "every writer changed sides twice");
    assert!(longest < STALL, "a writer waited {longest:?}");
    near.wait_caught_up();
    equal(&near, &far);
    for site in [&near, &far] {
        let listed = site.farside(&["ls", "acme/data", "--json"]).ok();
        let listed: Vec<serde_json::Value> =
            listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let is_there = |name: &&String| listed.iter().any(|object| object["name"] == **name);
        let missing: Vec<&String> =
            written.iter().flat_map(|written| &written.names).filter(|name| !is_there(name)).collect();
        assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");
        let drilled = far.farside(&["drill", "--objects", "1000", "--json"]).json();
        assert_eq!(drilled["logs"][0]["objects_read"], count + 1);
        assert!(!site.alerts().contains("set aside"), "{}", site.alerts());
    }
}

#[test]
fn a_log_in_transit_arrives_or_is_taken_back() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut near, far) = two_sites(root.path());
    // Far answers, and takes nothing from near: the last delta of near's generation can't arrive.
    far.farside(&["peer", "pause", "near"]).ok();
    let order = ["switchover", "--to", "far", "--wait", "0"];
    near.farside(&order).fails(4, "acme/data is in transit: far does not answer that it has the last delta");
    near.farside(&["put", "acme/data", "x", "/etc/hostname"]).fails(3, "in transit to site far");
    far.farside(&["put", "acme/data", "x", "/etc/hostname"]).fails(3, "home is site near");
    assert_eq!(near.status()["logs"][0]["in_transit"], true);
    assert!(near.alerts().contains("acme/data is in transit to far"), "{}", near.alerts());
    // It is so after a crash as well.
    near.kill();
    near.run();
    near.farside(&["put", "acme/data", "x", "/etc/hostname"]).fails(3, "in transit to site far");
    near.farside(&order).fails(4, "in transit");
    // And arrives by itself.
    far.farside(&["peer", "resume", "near"]).ok();
    far.farside(&["status", "--wait-caught-up", "60"]).ok();
    let deadline = Instant::now() + Duration::from_secs(20);
    while far.farside(&["put", "acme/data", "x", "/etc/hostname"]).code != 0 {
        assert!(Instant::now() < deadline, "the log did not arrive: {}", near.alerts());
        std::thread::sleep(Duration::from_millis(100));
    }
    far.wait_caught_up();
    equal(&near, &far);
    assert_eq!(near.status()["logs"][0]["in_transit"], false);

    // The other way, and whoever can't wait takes it back.
    near.farside(&["peer", "pause", "far"]).ok();
    far.farside(&["failback", "--to", "near", "--wait", "0"]).fails(4, "failover --force");
    far.farside(&["failover"]).fails(3, "the old home still answers");
    let taken = far.farside(&["failover", "--force", "--json"]).json();
    // What near may have written by then far can't know.
    assert_eq!((&taken["logs"][0]["generation"], taken["logs"][0]["lost_deltas_max"].is_null()), (&4.into(), true));
    far.farside(&["put", "acme/data", "y", "/etc/hostname"]).ok();
    near.farside(&["peer", "resume", "far"]).ok();
    far.wait_caught_up();
    equal(&near, &far);
    near.farside(&["put", "acme/data", "z", "/etc/hostname"]).fails(3, "home is site far (generation 4)");
    assert!(![near.alerts(), far.alerts()].concat().contains("set aside"));
}

#[test]
fn what_would_hold_writers_up_or_make_no_sense_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let (near, far) = two_sites(root.path());
    near.farside(&["switchover"]).fails(2, "--to");
    near.farside(&["switchover", "--to", "Far!"]).fails(2, "no name");
    near.farside(&["switchover", "--to", "mars"]).fails(5, "no peer mars");
    near.farside(&["switchover", "--to", "far", "--log", "acme/none"]).fails(5, "no log acme/none");
    near.farside(&["failback", "--to", "far"]).fails(3, "never home of acme/data: use switchover");
    far.farside(&["switchover", "--to", "near"]).fails(5, "no log that is meant has its home at site far");
    near.farside(&["peer", "pause", "far"]).ok();
    near.farside(&["switchover", "--to", "far"]).fails(3, "peer far is paused");
    // Further behind than writers could wait for.
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    for number in 0..300 {
        std::fs::write(tree.join(number.to_string()), b"small").expect("written");
    }
    near.farside(&["put", "-r", "acme/data", &tree.display().to_string()]).ok();
    far.farside(&["peer", "pause", "near"]).ok();
    near.farside(&["peer", "resume", "far"]).ok();
    near.farside(&["switchover", "--to", "far", "--wait", "1"]).fails(3, "acme/data was not moved: far lacks");
    near.farside(&["put", "acme/data", "still", "/etc/hostname"]).ok();
    far.farside(&["peer", "resume", "near"]).ok();
    near.farside(&["switchover", "--to", "far", "--log", "acme/data"]).ok();
    far.farside(&["put", "acme/data", "now", "/etc/hostname"]).ok();
    // A peer that is gone is told of at once.
    drop(near);
    far.farside(&["failback", "--to", "near"]).fails(4, "near does not answer: nothing was changed");
    far.farside(&["put", "acme/data", "on", "/etc/hostname"]).ok();
}

#[test]
fn a_drill_says_whether_the_far_side_would_work() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let near = Site::start(root.path(), "near", &["--cores", "0"]);
    let mut far = Site::start(root.path(), "far", &["--cores", "0"]);
    near.make_log(&kms, "acme/data");
    near.join(&far);
    let file = root.path().join("file");
    std::fs::write(&file, bytes(1, 5_000_000)).expect("written");
    for name in ["a", "b", "c"] {
        near.farside(&["put", "acme/data", name, &file.display().to_string()]).ok();
    }
    near.wait_caught_up();
    near.farside(&["drill"]).fails(5, "no log here has its home at another site");
    far.farside(&["drill", "--objects", "few"]).fails(2, "few");
    far.farside(&["drill", "--log", "acme/none"]).fails(5, "no log acme/none");
    far.farside(&["drill", "--from", "mars"]).fails(5, "no peer mars");
    // The far side has everything but the way to the key.
    far.farside(&["drill"]).fails(1, "does not know the KMS of tenant acme");
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    let drilled = far.farside(&["drill", "--objects", "2", "--json"]).json();
    let log = &drilled["logs"][0];
    assert_eq!((&log["objects"], &log["objects_read"], &log["read_bytes"]), (&3.into(), &2.into(), &10_000_000.into()));
    assert_eq!((&log["lost_deltas_max"], &drilled["home_answers"]), (&0.into(), &true.into()));
    assert_eq!(shown(&far)["generation"], 1, "a drill changes nothing");
    // More is damaged than the geometry survives, and nobody has noticed.
    far.stop();
    for device in ["device-3", "device-4", "device-5"] {
        std::fs::remove_file(far.directory.join("devices").join(device)).expect("removed");
    }
    far.run();
    let outcome = far.farside(&["drill", "--objects", "2", "--json"]);
    assert!([1, 5, 6].contains(&outcome.code), "exit {}: {}", outcome.code, outcome.stderr);
    let drilled: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    assert_eq!(drilled["logs"][0]["objects_read"], 0);
    assert_eq!(drilled["logs"][0]["failures"].as_array().map(Vec::len), Some(2), "{drilled}");
}

#[test]
fn sites_of_three_nodes_hand_over_although_each_has_lost_one() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let geometry = ["--geometry", "1+2", "--device-count", "3"];
    let mut near = Cluster::start(root.path(), "near", 3, &geometry);
    let mut far = Cluster::start(root.path(), "far", 3, &geometry);
    near.make_log(&kms, "acme/data");
    let token = far.farside(&["peer", "token"]).ok();
    near.farside(&["peer", "add", "far", token.trim()]).ok();
    let file = root.path().join("file");
    std::fs::write(&file, bytes(1, 500_000)).expect("written");
    let path = file.display().to_string();
    let put = |site: &Cluster, name: &str| site.farside(&["put", "acme/data", name, &path]);
    (0..5).for_each(|number| drop(put(&near, &format!("early/{number}")).ok()));
    near.farside(&["status", "--wait-caught-up", "60"]).ok();
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    // Whichever of them leads the log's group, at one of the two sites it is one that dies, or not.
    near.nodes[1].kill();
    far.nodes[2].kill();
    (0..5).for_each(|number| drop(put(&near, &format!("late/{number}")).ok()));
    let begun = Instant::now();
    let moved = near.farside(&["switchover", "--to", "far", "--json"]).json();
    println!("after {:.1} s: {moved}", begun.elapsed().as_secs_f64());
    assert_eq!(moved["logs"][0]["generation"], 2);
    put(&near, "refused").fails(3, "home is site far");
    put(&far, "after").ok();
    let drilled = near.farside(&["drill", "--objects", "20", "--json"]);
    assert_eq!(drilled.code, 0, "{}", drilled.stderr);
    for number in 0..5 {
        for when in ["early", "late"] {
            let back = far.farside(&["get", "acme/data", &format!("{when}/{number}")]);
            assert!(back.stdout == bytes(1, 500_000), "{when}/{number}: {}", back.stderr);
        }
    }
    near.nodes[1].run();
    far.nodes[2].run();
    let moved = far.farside(&["failback", "--to", "near", "--json"]).json();
    println!("and back: {moved}");
    put(&near, "home again").ok();
    near.farside(&["status", "--wait-caught-up", "60"]).ok();
    let listed = |site: &Cluster| site.farside(&["ls", "acme/data"]).ok();
    assert_eq!((listed(&near), listed(&near).lines().count()), (listed(&far), 12));
}
