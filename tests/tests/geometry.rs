//! A site goes over to another geometry while it is used: one of a single node that is killed on the way, and one of four that
//! lose a node in the middle.

use farside_tests::{Cluster, Outcome, Site, bytes};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const OBJECT_BYTES: usize = 5_000_000;

fn put(farside: impl Fn(&[&str]) -> Outcome, root: &Path, number: u64) {
    let file = root.join("in");
    std::fs::write(&file, bytes(number, OBJECT_BYTES)).expect("written");
    farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
}

fn reads(farside: impl Fn(&[&str]) -> Outcome, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let read = farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == bytes(number, OBJECT_BYTES), "object {number} differs");
    }
}

fn left(status: &Value) -> Option<u64> {
    status["repair"]["other_geometry_chunks"].as_u64()
}

fn is_cut(status: &Value, geometry: &str) -> bool {
    status["geometry"] == geometry && left(status) == Some(0) && status["repair"]["owed_fragments"] == 0
}

fn wait_until_cut(status: impl Fn() -> Value, geometry: &str) {
    let begun = Instant::now();
    while !is_cut(&status(), geometry) {
        assert!(begun.elapsed() < Duration::from_secs(90), "not cut {geometry}: {}", status());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_site_of_one_node_is_cut_again_and_survives_what_the_new_geometry_says() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0", "--device-size", "128MiB"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    let shown = site.farside(&["site", "geometry"]).ok();
    assert_eq!(shown, "chunks are cut 4+2\n");
    (0..24).for_each(|number| put(|arguments| site.farside(arguments), root.path(), number));

    site.farside(&["site", "geometry", "4x2"]).fails(2, "4x2 is no geometry");
    site.farside(&["site", "geometry", "120+9"]).fails(2, "no geometry");
    site.farside(&["site", "geometry", "4+3"]).fails(3, "4+3 needs 7 devices to survive 3");
    site.farside(&["site", "geometry", "1+5"]).fails(3, "would not fit");
    assert!(is_cut(&site.status(), "4+2"), "what was refused changed nothing");

    // Slowly, so that it is killed in the middle.
    site.farside(&["repair", "limit", "--rate", "8MiB"]).ok();
    let said = site.farside(&["site", "geometry", "3+2"]).ok();
    assert!(said.starts_with("new chunks are cut 3+2"), "{said}");
    let begun = Instant::now();
    while left(&site.status()).is_none_or(|left| left == 0 || left > 20) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", site.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    site.kill();
    site.run();
    reads(|arguments| site.farside(arguments), 0..24);
    let document = site.status();
    assert!(document["geometry"] == "3+2" && left(&document) > Some(0), "{document}");
    put(|arguments| site.farside(arguments), root.path(), 24);
    site.farside(&["repair", "limit", "--rate", "0"]).ok();
    wait_until_cut(|| site.status(), "3+2");
    let audit = site.farside(&["audit", "show", "--site"]).ok();
    assert!(audit.contains("site.geometry") && audit.contains("3+2"), "{audit}");

    // Back, and over again: whatever is left of the older stripes after a start does no harm.
    for geometry in ["4+2", "2+2"] {
        site.farside(&["site", "geometry", geometry]).ok();
        wait_until_cut(|| site.status(), geometry);
    }
    site.kill();
    for lost in ["device-2", "device-5"] {
        std::fs::remove_file(site.directory.join("devices").join(lost)).expect("removed");
    }
    site.run();
    reads(|arguments| site.farside(arguments), 0..25);
}

#[test]
fn a_site_of_four_nodes_is_cut_again_while_it_is_written_to_and_loses_a_node() {
    let root = tempfile::tempdir().expect("a directory");
    let size = ["--geometry", "2+1", "--device-count", "2", "--device-size", "192MiB"];
    let mut cluster = Cluster::start(root.path(), "near", 4, &size);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    cluster.wait_for(Duration::from_secs(60), "it has settled", Cluster::owes_nothing);
    (0..16).for_each(|number| put(|arguments| cluster.farside(arguments), root.path(), number));

    cluster
        .farside(&["site", "geometry", "6+3"])
        .fails(3, "no more than 3 of them in one failure domain, and the site has 8");
    cluster.farside(&["site", "geometry", "5+1"]).fails(3, "5+1 needs 6 failure domains to survive 1");
    cluster.farside(&["repair", "limit", "--rate", "8MiB"]).ok();
    cluster.farside(&["site", "geometry", "2+2"]).ok();
    put(|arguments| cluster.farside(arguments), root.path(), 16);
    // In the middle of it.
    cluster.nodes[3].kill();
    put(|arguments| cluster.farside(arguments), root.path(), 17);
    reads(|arguments| cluster.farside(arguments), 0..18);
    cluster.nodes[3].run();
    cluster.farside(&["repair", "limit", "--rate", "0"]).ok();
    wait_until_cut(|| cluster.status(), "2+2");
    cluster.wait_for(Duration::from_secs(90), "nothing is owed", Cluster::owes_nothing);
    // Of 2+2 any two may go: here a node, and a device of another one. Of 2+1 that would have been one too many.
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    std::fs::remove_file(cluster.nodes[2].directory.join("devices/device-1")).expect("removed");
    cluster.nodes[2].run();
    reads(|arguments| cluster.farside(arguments), 0..18);
    cluster.nodes[1].run();

    // And back again, without that device.
    cluster.wait_for(Duration::from_secs(90), "everybody is back", Cluster::owes_nothing);
    cluster.farside(&["site", "geometry", "2+1"]).ok();
    wait_until_cut(|| cluster.status(), "2+1");
    reads(|arguments| cluster.farside(arguments), 0..18);
}
