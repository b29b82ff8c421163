//! Devices deleted, bytes flipped in every file of a node at rest: reads stay right at 4+2, and status says what is wrong.

use farside_tests::{Site, bytes};
use std::os::unix::fs::FileExt;
use std::path::Path;

const OBJECTS: u64 = 12;

fn fill(site: &Site, root: &Path) {
    site.make_log(&root.join("kms"), "acme/data");
    for number in 0..OBJECTS {
        let file = root.join("in");
        std::fs::write(&file, bytes(number, 700_000 * number as usize % 5_000_001 + 10)).expect("written");
        site.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
    }
}

fn check(site: &Site) {
    check_some(site, 0..OBJECTS);
}

fn check_some(site: &Site, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let read = site.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == bytes(number, 700_000 * number as usize % 5_000_001 + 10), "object {number} differs");
    }
}

/// Flips one bit in each of `places` evenly spread over the part of a file that is in use.
fn flip(path: &Path, places: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let length = file.metadata().expect("metadata").len();
    for place in 0..places {
        let mut byte = [0];
        // The interesting part of a device of a small node is its beginning: superblocks, log, first segments.
        let at = if length > 1 << 26 { (1 << 17) * place } else { length / places * place };
        file.read_exact_at(&mut byte, at).expect("read");
        byte[0] ^= 4;
        file.write_all_at(&byte, at).expect("written");
    }
}

#[test]
fn two_lost_devices_are_survived_and_told() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    fill(&site, root.path());
    site.kill();
    for lost in ["device-0", "device-4"] {
        std::fs::remove_file(site.directory.join("devices").join(lost)).expect("removed");
    }
    site.run();
    check(&site);
    let status = site.status();
    let states: Vec<&str> = status["nodes"][0]["devices"]
        .as_array()
        .expect("devices")
        .iter()
        .map(|device| device["state"].as_str().expect("a state"))
        .collect();
    assert_eq!(states.iter().filter(|state| **state == "missing").count(), 2, "{states:?}");
    assert!(status["repair"]["owed_fragments"].as_u64().expect("a number") > 0);
    assert!(site.alerts().contains("is missing"), "{}", site.alerts());
    // A third one is one too many, and that is said as well.
    site.kill();
    std::fs::remove_file(site.directory.join("devices/device-5")).expect("removed");
    site.run();
    let failed = (0..OBJECTS)
        .map(|number| site.farside(&["get", "acme/data", &format!("object-{number}")]))
        .find(|read| read.code != 0);
    failed.expect("some object is in chunks").fails(6, "damaged beyond its redundancy");
}

#[test]
fn flips_on_two_devices_are_survived_and_told() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0", "--device-size", "256MiB"]);
    fill(&site, root.path());
    site.kill();
    flip(&site.directory.join("devices/device-1"), 1800);
    flip(&site.directory.join("devices/device-3"), 1800);
    site.run();
    check(&site);
    let alerts = site.alerts();
    assert!(alerts.contains("damaged"), "{alerts}");
    // It goes on taking writes.
    site.farside(&["put", "acme/data", "another", "/etc/hostname"]).ok();
}

#[test]
fn a_flipped_state_file_is_rebuilt() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &[]);
    fill(&site, root.path());
    assert_eq!(site.stop(), 0);
    let state = site.directory.join("state");
    for entry in std::fs::read_dir(&state).expect("listed") {
        flip(&entry.expect("an entry").path(), 40);
    }
    site.run();
    check(&site);
    assert!(site.alerts().contains("has been rebuilt"), "{}", site.alerts());
    assert_eq!(site.stop(), 0);
    // Deleted altogether, it comes back as well.
    std::fs::remove_dir_all(&state).expect("removed");
    std::fs::create_dir(&state).expect("made");
    site.run();
    check(&site);
}

#[test]
fn a_full_site_says_so_and_gets_its_space_back() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &["--cores", "0", "--device-size", "96MiB"]);
    let settings = site.directory.join("node.toml");
    let text = std::fs::read_to_string(&settings).expect("read");
    std::fs::write(&settings, text.replace("gc_seconds = 300", "gc_seconds = 1")).expect("written");
    site.run();
    site.make_log(&root.path().join("kms"), "acme/data");
    site.farside(&["log", "policy", "acme/data", "--history", "1s"]).ok();
    let file = root.path().join("in");
    let mut kept = Vec::new();
    for number in 0..40 {
        std::fs::write(&file, bytes(number, 16 << 20)).expect("written");
        let put = site.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]);
        if put.code != 0 {
            put.fails(1, "the devices are full");
            // Said at once: what the refused put had stored is soon collected.
            assert!(site.alerts().contains("full"), "{}", site.alerts());
            break;
        }
        kept.push(number);
    }
    assert!((4..40).contains(&kept.len()), "{} objects fitted", kept.len());
    let read = |number: u64| site.farside(&["get", "acme/data", &format!("object-{number}")]);
    kept.iter().for_each(|number| assert!(read(*number).stdout == bytes(*number, 16 << 20), "object {number} differs"));
    // Removing works when nothing can be put, and frees space once its history is over and GC has been round.
    for number in kept.drain(..3) {
        site.farside(&["rm", "acme/data", &format!("object-{number}")]).ok();
    }
    std::fs::write(&file, bytes(99, 16 << 20)).expect("written");
    let path = file.display().to_string();
    let freed = (0..60).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        site.farside(&["put", "acme/data", "after", &path]).code == 0
    });
    assert!(freed, "no space came back: {}", site.alerts());
    kept.iter().for_each(|number| assert!(read(*number).stdout == bytes(*number, 16 << 20), "object {number} differs"));
}

#[test]
fn a_log_that_was_emptied_is_not_begun_anew() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    fill(&site, root.path());
    assert_eq!(site.stop(), 0);
    // The first three devices carry the mirrors, behind 64 KiB of superblocks.
    let (header, log) = (64 << 10, 32 << 20);
    let devices = site.directory.join("devices");
    let device = |number: usize| {
        let path = devices.join(format!("device-{number}"));
        std::fs::File::options().read(true).write(true).open(path).expect("open")
    };
    let mut kept = Vec::new();
    for number in 0..3 {
        let mut bytes = vec![0; log];
        device(number).read_exact_at(&mut bytes, header).expect("read");
        device(number).write_all_at(&vec![0; log], header).expect("emptied");
        kept.push(bytes);
    }
    let (ready, said) = site.try_run();
    assert!(ready.is_empty() && said.contains("the write-ahead log holds nothing of group"), "{ready} {said}");
    // With one mirror back all is as it was.
    device(1).write_all_at(&kept[1], header).expect("written");
    site.run();
    check(&site);
}

/// More is damaged at home than parity makes up for, and the peer has it still: reads are right at once, what was read is
/// whole here again, and so is the rest by itself.
#[test]
fn what_is_lost_comes_back_from_the_peer() {
    let root = tempfile::tempdir().expect("a directory");
    let mut near = Site::start(root.path(), "near", &["--cores", "0", "--device-size", "256MiB"]);
    let mut far = Site::start(root.path(), "far", &["--cores", "0", "--geometry", "2+1", "--device-count", "3"]);
    fill(&near, root.path());
    near.join(&far);
    near.wait_caught_up();
    near.kill();
    // The log's mirrors lie on the first three.
    for device in ["device-3", "device-4", "device-5"] {
        flip(&near.directory.join("devices").join(device), 1800);
    }
    near.run();
    // Half of it is read, the rest is found by those who look through what is there.
    check_some(&near, 0..OBJECTS / 2);
    assert!(near.counted("refetched_chunks") > 0, "{}", near.status());
    near.farside(&["scrub", "start", "--percent", "100"]).ok();
    let begun = std::time::Instant::now();
    // Now it does without the peer.
    let comes_back = || near.status()["repair"]["owed_fragments"] == 0 && scrubbed(&near);
    while !comes_back() {
        assert!(begun.elapsed().as_secs() < 60, "{}", near.status());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    far.stop();
    check(&near);

    // Without devices to keep it on it is passed on.
    far.run();
    near.kill();
    for device in ["device-3", "device-4", "device-5"] {
        std::fs::remove_file(near.directory.join("devices").join(device)).expect("removed");
    }
    near.run();
    check(&near);
    far.kill();
    let failed = (0..OBJECTS).map(|number| near.farside(&["get", "acme/data", &format!("object-{number}")]));
    failed.into_iter().find(|read| read.code != 0).expect("some object is in chunks").fails(6, "beyond its redundancy");
}

/// Whether everything on the only node was read once.
fn scrubbed(site: &Site) -> bool {
    !site.status()["nodes"][0]["scrub"]["last_full_pass"].is_null()
}
