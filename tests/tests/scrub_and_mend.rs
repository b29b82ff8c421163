//! A site of one node gets its redundancy back by itself: after a device was away, or was replaced, and after bytes rotted
//! that nobody has read. That it is back is shown by what can be lost then.

use farside_tests::{Site, bytes};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const OBJECTS: u64 = 8;

fn contents(number: u64) -> Vec<u8> {
    bytes(number, 300_000 + 700_000 * number as usize % 3_000_001)
}

fn put(site: &Site, root: &Path, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let file = root.join("in");
        std::fs::write(&file, contents(number)).expect("written");
        site.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
    }
}

fn check(site: &Site) {
    for number in 0..OBJECTS {
        let read = site.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == contents(number), "object {number} differs");
    }
}

fn owed(site: &Site) -> u64 {
    site.status()["repair"]["owed_fragments"].as_u64().expect("a number")
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn lose(site: &mut Site, devices: &[&str]) {
    site.kill();
    for lost in devices {
        std::fs::remove_file(site.directory.join("devices").join(lost)).expect("removed");
    }
    site.run();
}

#[test]
fn what_was_written_without_a_device_is_made_up_for_when_it_is_back() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    put(&site, root.path(), 0..3);
    site.kill();
    let (device, away) = (site.directory.join("devices/device-3"), root.path().join("away"));
    std::fs::rename(&device, &away).expect("moved");
    site.run();
    put(&site, root.path(), 3..OBJECTS);
    // Five devices take five fragments; nothing is tried that can't be.
    std::thread::sleep(Duration::from_secs(3));
    assert!(owed(&site) > 0, "a device is missing");
    site.kill();
    std::fs::rename(&away, &device).expect("moved back");
    site.run();
    wait_for("nothing is owed", || owed(&site) == 0);
    let counters = site.status()["counters"][0].clone();
    assert!(counters["repaired_fragments"].as_u64() >= Some(5), "{counters}");
    assert_eq!(site.alerts(), "[]");
    // What was written without device-3 needs it now.
    lose(&mut site, &["device-0", "device-1"]);
    check(&site);
}

/// Flips a bit in every so many bytes from where segments begin, to the end of the file. Three devices hold mirrors of the
/// write-ahead log in front of them.
fn rot(path: &Path, has_log: bool) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let length = file.metadata().expect("metadata").len();
    let mut flipped = 0;
    let first = if has_log { 32 << 20 } else { 128 << 10 };
    for at in (first + 70_000..length).step_by(30_011) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        if byte[0] != 0 {
            file.write_all_at(&[byte[0] ^ 16], at).expect("written");
            flipped += 1;
        }
    }
    assert!(flipped > 10, "only {flipped} bytes of {} ({length}) were worth flipping", path.display());
}

#[test]
fn rot_that_nobody_has_read_is_found_and_made_up_for() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    put(&site, root.path(), 0..OBJECTS);
    // Under a node that runs: a start looks at part of it by itself.
    rot(&site.directory.join("devices/device-1"), true);
    rot(&site.directory.join("devices/device-3"), false);
    site.farside(&["scrub", "start", "--percent", "0"]).fails(2, "0 is not in 1..=100");
    let before = site.farside(&["scrub", "status"]).ok();
    assert!(before.contains("no pass was ever over"), "{before}");
    site.farside(&["scrub", "start", "--percent", "100"]).ok();
    let scrub = || site.farside(&["scrub", "status", "--json"]).json();
    wait_for("a pass is over", || !scrub()["last_full_pass"].is_null());
    let found = scrub();
    assert!(found["damaged_fragments"].as_u64() > Some(0), "{found}");
    assert!(found["good_fragments"].as_u64() > Some(OBJECTS * 2), "{found}");
    wait_for("nothing is owed", || owed(&site) == 0);
    // A second pass finds everything good, and says so after a restart as well.
    site.farside(&["scrub", "start", "--percent", "100"]).ok();
    wait_for("another pass is over", || {
        let now = scrub();
        now["state"] == "resting" && now["last_full_pass"] != found["last_full_pass"]
    });
    assert_eq!(scrub()["damaged_fragments"], 0, "{}", scrub());
    let second = scrub()["last_full_pass"].clone();
    lose(&mut site, &["device-0", "device-5"]);
    assert_eq!(site.farside(&["scrub", "status", "--json"]).json()["last_full_pass"], second);
    check(&site);
}

#[test]
fn a_lost_device_is_replaced() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    put(&site, root.path(), 0..OBJECTS);
    let devices = site.directory.join("devices");
    let path = |name: &str| devices.join(name).display().to_string();
    let (first, new) = (path("device-0"), path("new"));
    let replace = |site: &Site, old: &str, new: &str, more: &[&str]| {
        site.farside(&[&["device", "replace", old, new], more].concat())
    };
    replace(&site, &first, &new, &["--size", "128MiB"]).fails(1, "already running");
    site.kill();
    replace(&site, &first, &new, &[]).fails(2, "with --size a file is made");
    replace(&site, &path("nothing"), &new, &["--size", "128MiB"]).fails(2, "names no device");
    replace(&site, &first, &new, &["--size", "128MiB"]).fails(3, "works");
    replace(&site, &first, &path("device-3"), &["--force"]).fails(2, "one device");
    // The first one carries a mirror of the write-ahead log, as the second and the third do.
    std::fs::remove_file(&first).expect("removed");
    replace(&site, &first, &new, &["--size", "8MiB"]).fails(1, "too small");
    assert!(!devices.join("new").exists(), "what a refused command made is gone");
    let other = Site::init(root.path(), "other", &["--cores", "0"]);
    let theirs = other.directory.join("devices/device-5").display().to_string();
    replace(&site, "devices/device-0", &theirs, &[]).fails(3, "holds a Farside superblock already");
    replace(&site, "devices/device-0", &new, &["--size", "160MiB"]).ok();
    site.run();
    wait_for("nothing is owed", || owed(&site) == 0);
    // The new one had nothing of the log, which was written to it; that is said once.
    assert!(site.alerts().contains("written back from a mirror"), "{}", site.alerts());
    assert_eq!(site.stop(), 0);
    site.run();
    assert_eq!(site.alerts(), "[]");
    let listed = site.farside(&["device", "list"]).ok();
    assert!(listed.lines().count() == 6 && listed.contains(&new) && !listed.contains("device-0"), "{listed}");
    put(&site, root.path(), 0..1);
    // All that is left of the log is what the new device has of it.
    lose(&mut site, &["device-1", "device-2"]);
    check(&site);
}
