//! A node that was away while much was written is given it in pieces that fit, and nobody else suffers from it.

use farside_tests::{Cluster, bytes};
use std::path::Path;
use std::time::Duration;

/// Small ones ride in the log itself.
const OBJECT_BYTES: usize = 15_000;
/// More than a request carries, less than a snapshot is made for.
const OBJECTS: u64 = 420;
const PATIENCE: Duration = Duration::from_secs(60);

fn runs(process: u32) -> bool {
    // One that has died and was not waited for has no image any more.
    std::fs::read_link(Path::new("/proc").join(process.to_string()).join("exe")).is_ok()
}

#[test]
fn a_node_that_was_away_gets_what_it_missed_and_nobody_dies_of_it() {
    let root = tempfile::tempdir().expect("a directory");
    let more = ["--device-count", "2", "--device-size", "512MiB", "--geometry", "2+1", "--groups", "1"];
    let mut cluster = Cluster::start(root.path(), "near", 3, &more);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    for number in 0..OBJECTS {
        std::fs::write(tree.join(format!("object-{number}")), bytes(number, OBJECT_BYTES)).expect("written");
    }
    let leader = cluster.status()["control"]["leader"].as_str().unwrap_or_default().to_owned();
    let away = cluster.nodes.iter().rposition(|node| !node.directory.ends_with(&leader)).expect("one that follows");
    cluster.nodes[away].kill();
    cluster.farside(&["put", "-r", "acme/data", &tree.display().to_string()]).ok();
    let others: Vec<u32> = (0..3).filter(|node| *node != away).map(|node| cluster.nodes[node].process()).collect();
    cluster.nodes[away].run();
    cluster.wait_for(PATIENCE, "it has everything again", |cluster| cluster.owes_nothing());
    std::thread::sleep(Duration::from_secs(3));
    assert!(others.iter().all(|node| runs(*node)), "a node has died: {others:?}");
    // Now it is needed for a majority.
    let other = (0..3).find(|node| *node != away).expect("another one");
    cluster.nodes[other].kill();
    for number in (0..OBJECTS).step_by(60) {
        let read = cluster.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert!(read.stdout == bytes(number, OBJECT_BYTES), "object {number}: {} {}", read.code, read.stderr);
    }
    cluster.farside(&["put", "acme/data", "one more", &tree.join("object-0").display().to_string()]).ok();
    cluster.farside(&["status", "--wait-caught-up", "5"]).ok();

    // Without a majority nobody knows how far anybody is.
    let third = (0..3).find(|node| *node != away && *node != other).expect("the third");
    cluster.nodes[third].kill();
    cluster.farside(&["status", "--wait-caught-up", "5"]).fails(4, "");
}
