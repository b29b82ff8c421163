//! What is neither alive nor dead, at a site of three nodes: a node whose disk hangs, and one whose clock is hours off. Each
//! ends in a bounded time, with service kept and a word of what is wrong, and is over when its cause is.

use farside_tests::{Cluster, Outcome};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Within this a command is answered, whatever is wrong with one node.
const BOUND: Duration = Duration::from_secs(10);
const SIZE: [&str; 4] = ["--device-count", "2", "--device-size", "128MiB"];

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A command that has to be done in time.
fn in_time(cluster: &Cluster, arguments: &[&str]) -> Outcome {
    let begun = Instant::now();
    let outcome = cluster.farside(arguments);
    assert!(begun.elapsed() < BOUND, "{arguments:?} took {:?}", begun.elapsed());
    outcome
}

/// Puts an object and reads it back.
fn works(cluster: &Cluster, root: &Path, log: &str, number: u64) {
    let (file, name) = (root.join("in"), format!("object-{number}"));
    let bytes = farside_tests::bytes(number, 700_000);
    std::fs::write(&file, &bytes).expect("written");
    in_time(cluster, &["put", log, &name, &file.display().to_string()]).ok();
    let read = in_time(cluster, &["get", log, &name]);
    assert_eq!(read.code, 0, "{}", read.stderr);
    assert!(read.stdout == bytes, "object {number} differs");
}

fn node_state(cluster: &Cluster, name: &str) -> String {
    let nodes = cluster.nodes[0].status()["nodes"].clone();
    let node = nodes.as_array().into_iter().flatten().find(|node| node["name"] == name).cloned();
    node.and_then(|node| node["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// A file system of its own, that hangs on command.
struct Hanging {
    mount: PathBuf,
}

impl Hanging {
    fn make(root: &Path) -> Option<Self> {
        let (image, mount) = (root.join("image"), root.join("hanging"));
        std::fs::create_dir(&mount).expect("made");
        std::fs::File::create(&image).and_then(|file| file.set_len(700 << 20)).expect("an image");
        let (image, path) = (image.display().to_string(), mount.display().to_string());
        let mounted = run("mkfs.ext4", &["-q", &image]) && run("mount", &["-o", "loop", &image, &path]);
        mounted.then_some(Self { mount })
    }

    fn hangs(&self, hangs: bool) {
        let path = self.mount.display().to_string();
        assert!(run("fsfreeze", &[if hangs { "--freeze" } else { "--unfreeze" }, &path]), "fsfreeze");
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let path = self.mount.display().to_string();
        // A node that hangs can't be ended before.
        run("fsfreeze", &["--unfreeze", &path]);
        run("umount", &["--lazy", &path]);
    }
}

#[test]
fn a_node_whose_disk_hangs_holds_nobody_up() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(hanging) = Hanging::make(root.path()) else {
        eprintln!("SKIPPED: a file system that hangs needs root, loop devices and ext4");
        return;
    };
    let mut cluster = Cluster::start(root.path(), "near", 1, &[&["--geometry", "2+1"], &SIZE[..]].concat());
    cluster.add(&hanging.mount, "near-2", &SIZE);
    cluster.add(root.path(), "near-3", &SIZE);
    cluster.wait_for(Duration::from_secs(60), "three voters", |cluster| {
        cluster.nodes[0].status()["control"]["voters"].as_array().is_some_and(|voters| voters.len() == 3)
    });
    cluster.export();
    cluster.make_log(&root.path().join("kms"), "acme/data");
    cluster.wait_for(Duration::from_secs(60), "it has settled", Cluster::owes_nothing);
    (0..3).for_each(|number| works(&cluster, root.path(), "acme/data", number));

    hanging.hangs(true);
    let begun = Instant::now();
    let mut number = 3;
    while node_state(&cluster, "node-2") != "dead" {
        works(&cluster, root.path(), "acme/data", number);
        number += 1;
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", cluster.nodes[0].status());
    }
    println!("counted as dead after {:?}, {number} objects", begun.elapsed());
    works(&cluster, root.path(), "acme/data", number);
    hanging.hangs(false);
    cluster.wait_for(Duration::from_secs(60), "it is back, and nothing is owed", |cluster| {
        node_state(cluster, "node-2") == "up" && cluster.owes_nothing()
    });
    for number in 0..=number {
        let read = in_time(&cluster, &["get", "acme/data", &format!("object-{number}")]);
        assert!(read.code == 0 && read.stdout == farside_tests::bytes(number, 700_000), "object {number}");
    }
    cluster.nodes.iter_mut().for_each(|node| node.kill());
}

/// What fakes a process's clock; it is installed where it is missing.
fn faketime() -> Option<&'static str> {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(library).exists() {
        run("apt-get", &["update", "-qq"]);
        run("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "faketime"]);
    }
    Path::new(library).exists().then_some(library)
}

/// Seconds between now and the times that the newest objects of some logs bear, the largest of them.
fn farthest_seconds(cluster: &Cluster, logs: &[String]) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let of_log = |log: &String| {
        let listed = in_time(cluster, &["ls", log, "--json"]).ok();
        let newest = listed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let newest = newest.max_by_key(|entry| entry["seq"].as_u64()).expect("an object");
        let time = farside::cli::sizes::parse_time(newest["time"].as_str().expect("a time")).expect("a time");
        (time.ms() / 1000).abs_diff(now)
    };
    logs.iter().map(of_log).max().unwrap_or(0)
}

#[test]
fn a_node_whose_clock_is_hours_off_leads_nothing() {
    let Some(library) = faketime() else {
        eprintln!("SKIPPED: a wrong clock needs faketime, on x86-64");
        return;
    };
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(root.path(), "near", 3, &[&["--geometry", "2+1"], &SIZE[..]].concat());
    let shows = root.path().join("shows");
    let set = |offset: &str| std::fs::write(&shows, offset).expect("set");
    set("+0");
    let faked = &mut cluster.nodes[2];
    faked.stop();
    let shows_path = shows.display().to_string();
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", &shows_path),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    faked.environment.extend(environment.map(|(name, value)| (name.into(), value.into())));
    faked.run();
    let logs: Vec<String> = (0..8).map(|number| format!("acme/log-{number}")).collect();
    cluster.make_log(&root.path().join("kms"), &logs[0]);
    for log in &logs[1..] {
        in_time(&cluster, &["log", "create", log]).ok();
    }
    cluster.wait_for(Duration::from_secs(60), "it has settled", Cluster::owes_nothing);
    let mut number = 0;
    let mut all_work = |cluster: &Cluster| {
        for log in &logs {
            works(cluster, root.path(), log, number);
            number += 1;
        }
    };
    all_work(&cluster);
    let alert = |cluster: &Cluster| {
        let status = cluster.nodes[0].status();
        let alerts = status["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().filter_map(Value::as_str).find(|alert| alert.contains("its clock is")).map(str::to_owned)
    };
    for (offset, said) in [("+3h", "s ahead of those of the other nodes"), ("-2h", "s behind those of the other nodes")]
    {
        set(offset);
        // At once, before anybody has compared anything, and later.
        all_work(&cluster);
        assert!(farthest_seconds(&cluster, &logs) < 60, "{offset}: a wrong time went into a log");
        cluster.wait_for(Duration::from_secs(20), "it is told", |cluster| {
            alert(cluster).is_some_and(|alert| alert.starts_with("node-3") && alert.contains(said))
        });
        all_work(&cluster);
        assert!(farthest_seconds(&cluster, &logs) < 60, "{offset}: a wrong time went into a log later");
    }
    // Right again, it is one of three.
    set("+0");
    cluster.wait_for(Duration::from_secs(20), "it is over", |cluster| alert(cluster).is_none());
    cluster.nodes[0].kill();
    all_work(&cluster);
    assert!(farthest_seconds(&cluster, &logs) < 60, "a wrong time went into a log in the end");
}
