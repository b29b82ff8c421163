//! kill -9 at random moments under load: everything that was acknowledged reads back, and the far copy is a prefix.
//!
//! A few kills in the suite; `FARSIDE_KILLS=100 cargo test --test killed_under_load` for the long run.

use farside_tests::{Site, bytes, farside, rounds};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Puts objects one after the other until told to stop; remembers those that were acknowledged.
fn write(
    site: &str,
    from: &AtomicU64,
    stop: &AtomicBool,
    acknowledged: &Mutex<BTreeMap<u64, usize>>,
    root: &std::path::Path,
) {
    while !stop.load(Ordering::Relaxed) {
        let number = from.fetch_add(1, Ordering::Relaxed);
        let length = [100, 20_000, 300_000, 5_000_000][number as usize % 4];
        let file = root.join(format!("in-{number}"));
        std::fs::write(&file, bytes(number, length)).expect("written");
        let (name, path) = (format!("object-{number}"), file.display().to_string());
        if farside(&["put", "--dir", site, "acme/load", &name, &path, "--json"]).code == 0 {
            acknowledged.lock().expect("a lock").insert(number, length);
        }
        std::fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let root = tempfile::tempdir().expect("a directory");
    let mut near = Site::start(root.path(), "near", &["--cores", "0", "--device-size", "256MiB"]);
    let far = Site::start(root.path(), "far", &["--cores", "0", "--device-size", "256MiB"]);
    near.make_log(&root.path().join("kms"), "acme/load");
    near.join(&far);
    let directory = near.directory.display().to_string();
    let (next, acknowledged) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    for round in 0..rounds("FARSIDE_KILLS", 6) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| write(&directory, &next, &stop, &acknowledged, root.path()));
            }
            std::thread::sleep(Duration::from_millis(300 + (round as u64 * 7919) % 900));
            stop.store(true, Ordering::Relaxed);
            near.kill();
            // The writers that are cut off give up once the node is back, or succeed then.
            near.run();
        });
        let known = acknowledged.lock().expect("a lock").clone();
        for (number, length) in known.iter().rev().take(12) {
            let read = near.farside(&["get", "acme/load", &format!("object-{number}")]);
            assert_eq!(read.code, 0, "round {round}, object {number}: {}", read.stderr);
            assert!(read.stdout == bytes(*number, *length), "round {round}, object {number} differs");
        }
    }
    let known = acknowledged.into_inner().expect("a lock");
    assert!(known.len() > 6, "hardly anything was written: {}", known.len());
    near.wait_caught_up();
    let shown = |site: &Site| site.farside(&["log", "show", "acme/load", "--json"]).json();
    assert_eq!(shown(&near)["head_hash"], shown(&far)["head_hash"], "the far copy is the same history");
    let back = root.path().join("back");
    near.farside(&["get", "-r", "acme/load", &back.display().to_string()]).ok();
    for (number, length) in known {
        let read = std::fs::read(back.join(format!("object-{number}"))).expect("it was acknowledged");
        assert!(read == bytes(number, length), "object {number} differs");
    }
}
