//! A site that small objects fill: writers are told, reads, removals and restarts go on, nothing acknowledged is lost.
//!
//! Small objects ride in deltas, so what fills up is the log's state, whose snapshots need space like everything else.

use farside_tests::{Site, bytes};
use serde_json::Value;

const OBJECT_BYTES: usize = 15_000;
const OBJECTS: u64 = 8_000;

#[test]
fn small_objects_fill_a_site_and_it_goes_on() {
    let root = tempfile::tempdir().expect("a directory");
    let size = ["--cores", "0", "--device-size", "64MiB", "--geometry", "2+1"];
    let mut site = Site::start(root.path(), "near", &size);
    site.make_log(&root.path().join("kms"), "acme/data");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    for number in 0..OBJECTS {
        std::fs::write(tree.join(format!("object-{number}")), bytes(number, OBJECT_BYTES)).expect("written");
    }
    let put = site.farside(&["put", "-r", "acme/data", &tree.display().to_string(), "--json"]);
    assert_eq!(put.code, 1, "{}", put.stderr);
    assert!(put.stderr.contains("full"), "{}", put.stderr);
    let receipts = String::from_utf8(put.stdout).expect("text");
    let stored: Vec<u64> = receipts
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line).ok()?["name"].as_str()?.strip_prefix("object-")?.parse().ok()
        })
        .collect();
    assert!((500..OBJECTS as usize).contains(&stored.len()), "{} objects were stored", stored.len());
    let whole = |site: &Site, number: u64| {
        let read = site.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert!(read.stdout == bytes(number, OBJECT_BYTES), "object {number}: {} {}", read.code, read.stderr);
    };
    let some = || stored.iter().step_by(stored.len() / 10).copied();
    some().for_each(|number| whole(&site, number));
    assert!(site.alerts().contains("full"), "{}", site.alerts());
    site.farside(&["rm", "acme/data", &format!("object-{}", stored[1])]).ok();
    // Killed in that state, it comes back in that state.
    site.kill();
    site.run();
    some().for_each(|number| whole(&site, number));
    site.farside(&["rm", "acme/data", &format!("object-{}", stored[2])]).ok();
    let file = tree.join("object-0").display().to_string();
    site.farside(&["put", "acme/data", "one more", &file]).fails(1, "full");
    assert!(!site.alerts().contains("has stopped"), "{}", site.alerts());
}
