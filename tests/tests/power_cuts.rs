//! Power cuts: the site lies on a file system on a loop device that is shut down under it (the GOINGDOWN ioctl), so that
//! what was flushed survives and what was not is gone. Everything acknowledged reads back, every time.
//!
//! Needs root and mkfs.ext4. A few cuts in the suite; `FARSIDE_POWER_CUTS=100 cargo test --test power_cuts` for the long run.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside_tests::{Cluster, Site, bytes, farside, rounds, skip};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// EXT4_IOC_SHUTDOWN, which XFS calls GOINGDOWN: 0x8004587D; 2 is "without flushing the log".
const GOING_DOWN: libc::c_ulong = 0x8004_587D;
const NO_LOG_FLUSH: u32 = 2;

/// A file system that can lose power. Unmounted when dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Disk {
    fn make(root: &Path) -> Option<Self> {
        let disk = Self { image: root.join("image"), mount: root.join("mount") };
        File::create(&disk.image).and_then(|file| file.set_len(3 << 30)).ok()?;
        std::fs::create_dir(&disk.mount).ok()?;
        let image = disk.image.display().to_string();
        (run("mkfs.ext4", &["-q", "-F", &image]) && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", &self.image.display().to_string(), &self.mount.display().to_string()])
    }

    #[allow(unsafe_code)]
    fn cut(&self) {
        let root = File::open(&self.mount).expect("the mount");
        // SAFETY: the ioctl reads one u32 that outlives the call.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), GOING_DOWN, &NO_LOG_FLUSH) };
        assert_eq!(done, 0, "the file system goes down: {}", std::io::Error::last_os_error());
    }

    fn restore(&self) {
        for _ in 0..100 {
            if run("umount", &[&self.mount.display().to_string()]) {
                assert!(self.mount(), "it mounts again");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the file system is still in use");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", &self.mount.display().to_string()]);
    }
}

fn write(site: &str, from: &AtomicU64, stop: &AtomicBool, acknowledged: &Mutex<BTreeMap<u64, usize>>, root: &Path) {
    while !stop.load(Ordering::Relaxed) {
        let number = from.fetch_add(1, Ordering::Relaxed);
        let length = [100, 20_000, 300_000, 5_000_000][number as usize % 4];
        let file = root.join(format!("in-{number}"));
        std::fs::write(&file, bytes(number, length)).expect("written");
        let (name, path) = (format!("object-{number}"), file.display().to_string());
        if farside(&["put", "--context", site, "acme/load", &name, &path, "--json"]).code == 0 {
            acknowledged.lock().expect("a lock").insert(number, length);
        }
        std::fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn everything_acknowledged_survives() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::make(root.path()) else {
        return skip("power cuts need root, mkfs.ext4 and loop devices");
    };
    let mut site = Site::start(&disk.mount, "near", &["--cores", "0", "--device-size", "400MiB"]);
    site.make_log(&root.path().join("kms"), "acme/load");
    // The client's own files must not lose power with the site.
    let context = root.path().join("admin.context");
    std::fs::copy(site.directory.join("admin.context"), &context).expect("copied");
    std::fs::copy(site.directory.join("admin.client.toml"), root.path().join("admin.client.toml")).expect("copied");
    let context = context.display().to_string();
    let (next, acknowledged) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    for round in 0..rounds("FARSIDE_POWER_CUTS", 4) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| write(&context, &next, &stop, &acknowledged, root.path()));
            }
            std::thread::sleep(Duration::from_millis(300 + (round as u64 * 7919) % 900));
            stop.store(true, Ordering::Relaxed);
            disk.cut();
            site.kill();
            disk.restore();
            site.run();
        });
        let known = acknowledged.lock().expect("a lock").clone();
        for (number, length) in known.iter().rev().take(16) {
            let read = farside(&["get", "--context", &context, "acme/load", &format!("object-{number}")]);
            assert_eq!(read.code, 0, "round {round}, object {number}: {}", read.stderr);
            assert!(read.stdout == bytes(*number, *length), "round {round}, object {number} differs");
        }
    }
    let known = acknowledged.into_inner().expect("a lock");
    assert!(known.len() > 4, "hardly anything was written: {}", known.len());
    let back = root.path().join("back");
    farside(&["get", "-r", "--context", &context, "acme/load", &back.display().to_string()]).ok();
    for (number, length) in known {
        let read = std::fs::read(back.join(format!("object-{number}"))).expect("it was acknowledged");
        assert!(read == bytes(number, length), "object {number} differs");
    }
    site.kill();
}

/// A site of six nodes, three of which lie on the file system that loses power: whatever was acknowledged is there when
/// they are back, and writes that had to wait for them go on.
#[test]
fn half_of_the_nodes_lose_power_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::make(root.path()) else {
        return skip("power cuts need root, mkfs.ext4 and loop devices");
    };
    let size = ["--device-count", "2", "--device-size", "160MiB", "--geometry", "2+2"];
    let first = Site::start(root.path(), "near", &[&["--cores", "0"][..], &size].concat());
    let mut cluster = Cluster { nodes: vec![first], context: root.path().join("near.context") };
    for node in 1..6 {
        let on = if node % 2 == 1 { disk.mount.as_path() } else { root.path() };
        cluster.add(on, &format!("near-{}", node + 1), &[&["--cores", ["0", "1"][node % 2]][..], &size[..4]].concat());
    }
    cluster.wait_for(Duration::from_secs(60), "five voters", |cluster| {
        cluster.nodes[0].status()["control"]["voters"].as_array().is_some_and(|voters| voters.len() == 5)
    });
    cluster.export();
    cluster.make_log(&root.path().join("kms"), "acme/load");
    let context = cluster.context.display().to_string();
    let (next, acknowledged) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    for round in 0..rounds("FARSIDE_POWER_CUTS", 3) {
        let stop = AtomicBool::new(false);
        let before = acknowledged.lock().expect("a lock").len();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| write(&context, &next, &stop, &acknowledged, root.path()));
            }
            std::thread::sleep(Duration::from_millis(1500 + (round as u64 * 7919) % 900));
            disk.cut();
            [1, 3, 5].into_iter().for_each(|node| cluster.nodes[node].kill());
            disk.restore();
            [1, 3, 5].into_iter().for_each(|node| cluster.nodes[node].run());
            let then = acknowledged.lock().expect("a lock").len();
            assert!(then > before, "nothing was written in time");
            let begun = std::time::Instant::now();
            while acknowledged.lock().expect("a lock").len() < then + 4 {
                assert!(begun.elapsed() < Duration::from_secs(60), "writes don't go on");
                std::thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let back = root.path().join("back");
        cluster.farside(&["get", "-r", "acme/load", &back.display().to_string()]).ok();
        for (number, length) in acknowledged.lock().expect("a lock").iter() {
            let read = std::fs::read(back.join(format!("object-{number}"))).expect("it was acknowledged");
            assert!(read == bytes(*number, *length), "round {round}, object {number} differs");
        }
        std::fs::remove_dir_all(&back).expect("removed");
    }
    // The file system can't be unmounted under them.
    cluster.nodes.iter_mut().for_each(Site::kill);
}
