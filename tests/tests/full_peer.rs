//! A peer that has no room for more: little crosses in vain, and it catches up soon after it has room again.

use farside_tests::{Site, bytes, wait_for};
use std::path::Path;
use std::time::Duration;

const OBJECT_BYTES: usize = 16 << 20;
const OBJECTS: u64 = 20;
/// How long it is watched what crosses.
const WATCHED: Duration = Duration::from_secs(12);
/// Once the peer has refused a while it is asked every five seconds, by each shard.
const REFUSALS: u64 = 4;

fn trouble(site: &Site) -> String {
    let status = site.status();
    let logs = status["logs"].as_array().cloned().unwrap_or_default();
    logs.iter().map(|log| log["peers"].to_string()).collect()
}

fn fill(site: &Site, root: &Path) {
    let file = root.join("in");
    for number in 0..OBJECTS {
        std::fs::write(&file, bytes(number, OBJECT_BYTES)).expect("written");
        site.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
    }
}

#[test]
fn a_peer_that_is_full_is_asked_seldom_and_catches_up() {
    let root = tempfile::tempdir().expect("a directory");
    let near = Site::start(root.path(), "near", &["--cores", "0", "--device-size", "512MiB"]);
    let small = ["--cores", "0", "--geometry", "2+1", "--device-count", "3", "--device-size", "128MiB"];
    let mut far = Site::start(root.path(), "far", &small);
    near.make_log(&root.path().join("kms"), "acme/data");
    near.join(&far);
    fill(&near, root.path());
    wait_for("the peer is full", 60, || near.counted("refused_by_peers") >= 6);
    let count = || (near.counted("refused_by_peers"), near.counted("refused_by_peers_bytes"));
    let (refused, in_vain) = count();
    std::thread::sleep(WATCHED);
    let (refused, in_vain) = (count().0 - refused, count().1 - in_vain);
    println!("{refused} refusals, {in_vain} bytes in {} s", WATCHED.as_secs());
    assert!((1..=REFUSALS).contains(&refused), "{refused} refusals");
    assert!(trouble(&near).contains("full"), "it is said why: {}", trouble(&near));
    near.farside(&["status", "--wait-caught-up", "1"]).fails(4, "");

    far.kill();
    let more = |number: u32| far.directory.join("devices").join(format!("more-{number}")).display().to_string();
    for number in 0..3 {
        far.farside(&["device", "add", &more(number), "--size", "512MiB"]).ok();
    }
    far.run();
    near.wait_caught_up();
    let read = |site: &Site, number: u64| site.farside(&["get", "acme/data", &format!("object-{number}")]).stdout;
    (0..OBJECTS).for_each(|number| assert!(read(&near, number) == bytes(number, OBJECT_BYTES), "object {number}"));
    // What stopped is over, so the next one goes at once.
    let refused = near.counted("refused_by_peers");
    near.farside(&["put", "acme/data", "one more", &root.path().join("in").display().to_string()]).ok();
    near.wait_caught_up();
    assert_eq!(near.counted("refused_by_peers"), refused, "nothing is refused any more");
}
