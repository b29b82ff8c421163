//! Devices come and go: one more, one less while the node works, one in the place of another; and what lies elsewhere than it
//! should is moved. Nothing that was stored is missing at any moment, and the redundancy is what it was.

use farside_tests::{Cluster, Outcome, Site, Stop, bytes, command, outcome, rounds, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// One site at a time: two cores carry one.
static MACHINE: Mutex<()> = Mutex::new(());

fn machine() -> std::sync::MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Lengths of objects: some of several chunks, most of them just large enough not to ride in their delta.
fn length(number: u64) -> usize {
    if number.is_multiple_of(40) { 5_000_000 } else { 20_000 + number as usize % 1_000 }
}

/// A tree of so many objects, and a place for what is read back.
struct Tree {
    root: PathBuf,
    count: u64,
}

impl Tree {
    fn make(root: &Path, count: u64) -> Self {
        let tree = root.join("tree");
        std::fs::create_dir(&tree).expect("made");
        for number in 0..count {
            std::fs::write(tree.join(format!("object-{number}")), bytes(number, length(number))).expect("written");
        }
        Self { root: root.to_owned(), count }
    }

    fn put(&self, farside: impl Fn(&[&str]) -> Outcome) {
        let tree = self.root.join("tree").display().to_string();
        // Nodes that are starved of their processors answer late. What was stored by then stays, and the rest follows.
        let mut tries = (0..5).map(|_| farside(&["put", "-r", "acme/data", &tree]));
        tries.find(|put| put.code != 4).expect("the site answers").ok();
    }

    /// Reads everything back.
    fn check(&self, farside: impl Fn(&[&str]) -> Outcome) {
        let back = self.root.join("back");
        farside(&["get", "-r", "acme/data", &back.display().to_string()]).ok();
        for number in 0..self.count {
            let read = std::fs::read(back.join(format!("object-{number}"))).expect("it was put");
            assert!(read == bytes(number, length(number)), "object {number} differs");
        }
        std::fs::remove_dir_all(&back).expect("removed");
    }
}

/// The devices of a site, or of one of its nodes.
fn devices(farside: impl Fn(&[&str]) -> Outcome, node: Option<&str>) -> Vec<Value> {
    let listed = farside(&["device", "list", "--json"]).ok();
    let devices = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    devices.filter(|device| node.is_none_or(|node| device["node"] == node)).collect()
}

fn device(devices: &[Value], name: &str) -> Option<Value> {
    devices.iter().find(|device| device["path"].as_str().is_some_and(|path| path.ends_with(name))).cloned()
}

fn fragments(device: &Value) -> u64 {
    device["fragments"].as_u64().expect("a number")
}

/// Whether nothing is owed, nothing is to be moved, and no device is on its way out.
fn rests(farside: impl Fn(&[&str]) -> Outcome) -> bool {
    let repair = farside(&["repair", "status", "--json"]).json();
    let none =
        ["owed_fragments", "misplaced_fragments", "evicting_fragments"].iter().all(|figure| repair[*figure] == 0);
    // A site of one node always knows.
    none && repair["looked_at_all"] != false
}

/// Whether a node has noted that everything lies where it should.
fn is_balanced(site: &Site) -> bool {
    let file = std::fs::read(site.directory.join("devices.frame")).unwrap_or_default();
    // The last two bytes: unbalanced, paused.
    file.len() > 34 && file[file.len() - 2] == 0
}

fn named(site: &Site, name: &str) -> bool {
    std::fs::read_to_string(site.directory.join("node.toml")).expect("settings").contains(name)
}

fn lose(site: &mut Site, names: &[&str]) {
    site.kill();
    for name in names {
        std::fs::remove_file(site.directory.join("devices").join(name)).expect("removed");
    }
    site.run();
}

fn path(site: &Site, name: &str) -> String {
    site.directory.join("devices").join(name).display().to_string()
}

/// A site of one node with a tree of files in it.
fn filled(root: &Path) -> (Site, Tree) {
    let site = Site::start(root, "near", &["--cores", "0"]);
    site.make_log(&root.join("kms"), "acme/data");
    let tree = Tree::make(root, 200);
    tree.put(|arguments| site.farside(arguments));
    (site, tree)
}

#[test]
fn a_device_that_is_added_gets_its_share() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    let tree = Tree::make(root.path(), 400);
    tree.put(|arguments| site.farside(arguments));
    let add = |site: &Site, new: &str, more: &[&str]| site.farside(&[&["device", "add", new], more].concat());
    let new = path(&site, "more");
    add(&site, &new, &["--size", "128MiB"]).fails(1, "already running");
    site.kill();
    add(&site, &new, &[]).fails(2, "with --size a file is made");
    add(&site, &new, &["--size", "8MiB"]).fails(1, "too small");
    assert!(!Path::new(&new).exists(), "what a refused command made is gone");
    add(&site, &path(&site, "device-3"), &["--size", "1MiB"]).ok();
    add(&site, &path(&site, "device-3"), &[]).ok();
    std::fs::hard_link(path(&site, "device-3"), path(&site, "twin")).expect("linked");
    add(&site, &path(&site, "twin"), &[]).fails(2, "one device");
    std::fs::remove_file(path(&site, "twin")).expect("removed");
    let other = Site::init(root.path(), "other", &["--cores", "0"]);
    add(&site, &path(&other, "device-5"), &[]).fails(3, "holds a Farside superblock already");
    add(&site, &new, &["--size", "128MiB"]).ok();
    // Once more changes nothing.
    add(&site, &new, &["--size", "128MiB"]).ok();
    site.run();
    wait_for("everything lies where it should", 60, || {
        is_balanced(&site) && rests(|arguments| site.farside(arguments))
    });
    let found = devices(|arguments| site.farside(arguments), None);
    assert_eq!(found.len(), 7, "{found:?}");
    let total: u64 = found.iter().map(fragments).sum();
    let (got, share) = (fragments(&device(&found, "more").expect("it is listed")), total as f64 / 7.0);
    println!("the new device holds {got} fragments of {total}; a fair share is {share:.1}");
    assert!(got as f64 <= 1.1 * share && got as f64 >= 0.9 * share, "{got} fragments for a share of {share}");
    assert!(found.iter().all(|device| fragments(device) as f64 <= 1.1 * share), "{found:?}");
    tree.check(|arguments| site.farside(arguments));
    site.kill();
    site.run();
    assert_eq!(site.alerts(), "[]");
    lose(&mut site, &["device-1", "device-4"]);
    tree.check(|arguments| site.farside(arguments));
}

#[test]
fn a_device_is_evicted_while_the_node_works() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let (mut site, tree) = filled(root.path());
    let evict = |site: &Site, device: &str, more: &[&str]| site.farside(&[&["device", "evict", device], more].concat());
    // Five devices would survive less, and three of the six hold the write-ahead log.
    evict(&site, "devices/device-4", &[]).fails(3, "would survive the loss of 1 instead of 2");
    evict(&site, "devices/device-0", &[]).fails(3, "mirror");
    evict(&site, "devices/nothing", &[]).fails(5, "no device devices/nothing");
    evict(&site, "devices/device-4", &["--node", "node-7"]).fails(5, "at node node-7");
    site.kill();
    site.farside(&["device", "add", &path(&site, "more"), "--size", "128MiB"]).ok();
    site.run();
    wait_for("the new device has its share", 60, || is_balanced(&site));
    // That it had nothing of the log yet is said once.
    assert_eq!(site.stop(), 0);
    site.run();
    // What holds a mirror of the log may go now, because the new one has another.
    site.farside(&["repair", "limit", "--rate", "2MiB"]).ok();
    evict(&site, "devices/device-0", &[]).ok();
    evict(&site, &path(&site, "device-0"), &[]).ok();
    evict(&site, "devices/device-5", &[]).fails(3, "would survive");
    let listed = site.farside(&["device", "list"]).ok();
    assert!(listed.contains("device-0: evicting ("), "{listed}");
    let shown = site.farside(&["repair", "status"]).ok();
    assert!(shown.contains("being evicted: "), "{shown}");
    assert_eq!(site.alerts(), "[]");
    // It is called off, and it comes back.
    evict(&site, "devices/device-0", &["--cancel"]).ok();
    evict(&site, "devices/device-0", &["--cancel"]).ok();
    site.farside(&["repair", "limit", "--rate", "0"]).ok();
    wait_for("it has its share again", 60, || is_balanced(&site) && rests(|arguments| site.farside(arguments)));
    let found = devices(|arguments| site.farside(arguments), None);
    let total: u64 = found.iter().map(fragments).sum();
    let back = device(&found, "device-0").expect("it is listed");
    assert!(back["state"] == "ok" && fragments(&back) as f64 > 0.8 * total as f64 / 7.0, "{back} of {total}");

    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed);
                let file = root.path().join("in");
                std::fs::write(&file, bytes(7_000 + number, 300_000)).expect("written");
                let put = site.farside(&["put", "acme/data", &format!("late-{number}"), &file.display().to_string()]);
                assert_eq!(put.code, 0, "{}", put.stderr);
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        evict(&site, "devices/device-0", &[]).ok();
        wait_for("it has gone", 60, || !named(&site, "device-0"));
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer ends");
    });
    let written = written.load(Ordering::Relaxed);
    assert!(written > 0, "nothing was written meanwhile");
    wait_for("it is shown to have gone", 10, || {
        let found = devices(|arguments| site.farside(arguments), None);
        device(&found, "device-0").is_some_and(|device| device["state"] == "evicted" && fragments(&device) == 0)
    });
    assert_eq!(site.alerts(), "[]");
    evict(&site, "devices/device-0", &["--cancel"]).fails(5, "none of this node's");
    // It is pulled, and nobody misses it.
    std::fs::remove_file(site.directory.join("devices/device-0")).expect("removed");
    tree.check(|arguments| site.farside(arguments));
    assert_eq!(site.stop(), 0);
    site.run();
    assert_eq!(site.alerts(), "[]");
    assert_eq!(devices(|arguments| site.farside(arguments), None).len(), 6);
    // What is left of the log is on the device that was added.
    lose(&mut site, &["device-1", "device-2"]);
    tree.check(|arguments| site.farside(arguments));
    for number in 0..written {
        let read = site.farside(&["get", "acme/data", &format!("late-{number}")]);
        assert_eq!(read.code, 0, "late-{number}: {}", read.stderr);
        assert!(read.stdout == bytes(7_000 + number, 300_000), "late-{number} differs");
    }
}

#[test]
fn a_device_that_is_lost_is_evicted_and_made_up_for() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let mut site =
        Site::start(root.path(), "near", &["--cores", "0", "--device-count", "7", "--device-size", "128MiB"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    let tree = Tree::make(root.path(), 120);
    tree.put(|arguments| site.farside(arguments));
    lose(&mut site, &["device-5"]);
    assert!(site.alerts().contains("device-5 is missing"), "{}", site.alerts());
    site.farside(&["device", "evict", "devices/device-5"]).ok();
    wait_for("it has gone", 60, || !named(&site, "device-5"));
    tree.check(|arguments| site.farside(arguments));
    site.kill();
    site.run();
    assert_eq!(site.alerts(), "[]");
    // One that held a mirror of the log is not let go before there is another.
    site.kill();
    std::fs::remove_file(path(&site, "device-1")).expect("removed");
    site.run();
    site.farside(&["device", "evict", "devices/device-1"]).fails(3, "needs 3 mirrors, and 2 are left");
    site.kill();
    site.farside(&["device", "add", &path(&site, "more"), "--size", "128MiB"]).ok();
    site.run();
    site.farside(&["device", "evict", "devices/device-1"]).ok();
    wait_for("it has gone as well", 60, || !named(&site, "device-1"));
    site.kill();
    site.run();
    assert_eq!(site.alerts(), "[]");
    lose(&mut site, &["device-0", "device-2"]);
    tree.check(|arguments| site.farside(arguments));
}

/// What each node of a cluster is made of.
const SIZE: [&str; 6] = ["--device-count", "2", "--device-size", "128MiB", "--geometry", "2+1"];

#[test]
fn a_lost_device_of_a_cluster_is_replaced() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(root.path(), "near", 3, &SIZE);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    let tree = Tree::make(root.path(), 120);
    tree.put(|arguments| cluster.farside(arguments));
    cluster
        .wait_for(Duration::from_secs(60), "nothing is owed", |cluster| rests(|arguments| cluster.farside(arguments)));
    tree.check(|arguments| cluster.farside(arguments));
    lose(&mut cluster.nodes[1], &["device-0"]);
    tree.check(|arguments| cluster.farside(arguments));
    let node = &mut cluster.nodes[1];
    assert_eq!(node.stop(), 0);
    let (old, new) = (path(node, "device-0"), path(node, "new"));
    node.farside(&["device", "replace", &old, &new, "--size", "128MiB"]).ok();
    node.run();
    tree.check(|arguments| cluster.farside(arguments));
    cluster.wait_for(Duration::from_secs(90), "everything is redundant again", |cluster| {
        rests(|arguments| cluster.farside(arguments))
            && fragments(&device(&devices(|arguments| cluster.farside(arguments), Some("node-2")), "new").expect("new"))
                > 0
    });
    tree.check(|arguments| cluster.farside(arguments));
    // Any node may be lost now, and what is left of the second is the new device and its sister.
    for victim in [0, 2] {
        cluster.nodes[victim].kill();
        tree.check(|arguments| cluster.farside(arguments));
        cluster.nodes[victim].run();
        cluster
            .wait_for(Duration::from_secs(60), "it is back", |cluster| rests(|arguments| cluster.farside(arguments)));
    }
}

#[test]
fn devices_of_a_cluster_are_added_and_evicted() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(root.path(), "near", 4, &SIZE);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    let tree = Tree::make(root.path(), 240);
    tree.put(|arguments| cluster.farside(arguments));
    let settled = |cluster: &Cluster| rests(|arguments| cluster.farside(arguments));
    cluster.wait_for(Duration::from_secs(60), "nothing is owed", settled);
    let node = &mut cluster.nodes[1];
    assert_eq!(node.stop(), 0);
    node.farside(&["device", "add", &path(node, "more"), "--size", "128MiB"]).ok();
    node.run();
    cluster.wait_for(Duration::from_secs(90), "the new device has its share", |cluster| {
        let found = devices(|arguments| cluster.farside(arguments), Some("node-2"));
        is_balanced(&cluster.nodes[1])
            && settled(cluster)
            && device(&found, "more").is_some_and(|more| fragments(&more) > 0)
    });
    // Two looks, so that what one node has moved to another is where it should be on that one as well.
    cluster.farside(&["site", "rebalance"]).ok();
    cluster.wait_for(Duration::from_secs(60), "everything lies where it should", |cluster| {
        cluster.nodes.iter().all(is_balanced) && settled(cluster)
    });
    let found = devices(|arguments| cluster.farside(arguments), None);
    let total: u64 = found.iter().map(fragments).sum();
    let (got, share) = (fragments(&device(&found, "more").expect("it is listed")), total as f64 / 9.0);
    println!("the new device holds {got} fragments of {total}; a fair share is {share:.1}");
    // Ids are drawn, so how many fall to one device varies as counts do; store/placement.rs is strict, with thousands of chunks.
    assert!(got as f64 <= 1.1 * share + 3.0 * share.sqrt(), "{got} fragments for a share of {share}");
    tree.check(|arguments| cluster.farside(arguments));

    // By any node: the third's first device goes; the two paths that look alike are told apart.
    let gone = path(&cluster.nodes[2], "device-0");
    cluster.farside(&["device", "evict", &gone, "--node", "node-1"]).fails(5, "no device");
    cluster.farside(&["device", "evict", &gone]).ok();
    cluster.wait_for(Duration::from_secs(90), "it has gone", |cluster| !named(&cluster.nodes[2], "device-0"));
    std::fs::remove_file(&gone).expect("pulled");
    let last = path(&cluster.nodes[2], "device-1");
    cluster.farside(&["device", "evict", &last]).fails(3, "drain the node instead");
    tree.check(|arguments| cluster.farside(arguments));
    cluster.wait_for(Duration::from_secs(90), "everything is redundant again", settled);
    let listed = cluster.farside(&["node", "list", "--json"]).ok();
    let counts: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let counts: Vec<u64> = counts.iter().map(|node| node["devices"].as_u64().expect("a number")).collect();
    assert_eq!(counts, [2, 3, 1, 2], "{listed}");
    cluster.nodes[2].kill();
    tree.check(|arguments| cluster.farside(arguments));
    cluster.nodes[2].run();
}

/// A number that looks random.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// Runs a command of a stopped node again and again, killed at ever later moments, until one comes to its end.
fn until_done(site: &Site, arguments: &[&str], state: &mut u64) {
    let directory = site.directory.display().to_string();
    let arguments = [arguments, &["--dir", &directory]].concat();
    for kill in 1.. {
        let patience = Duration::from_millis(draw(state, 40 * kill));
        let mut child = command(&arguments).spawn().expect("it runs");
        std::thread::sleep(patience);
        // It may have ended.
        let _ = child.kill();
        if child.wait().expect("it ended").success() {
            println!("{} came to its end after {kill} tries", arguments[1]);
            return;
        }
        if kill % 16 == 0 {
            // One that is not killed says why it does not.
            outcome(&mut command(&arguments)).ok();
            return;
        }
    }
}

/// Lets the node run and kills it, a few times, at moments that look random.
fn killed_a_few_times(site: &mut Site, state: &mut u64, done: impl Fn(&Site) -> bool) {
    for _ in 0..rounds("FARSIDE_DEVICE_KILLS", 4) {
        std::thread::sleep(Duration::from_millis(200 + draw(state, 2_200)));
        site.kill();
        site.run();
    }
    wait_for("it comes to its end all the same", 90, || done(site));
}

#[test]
fn whoever_is_killed_in_between_goes_on() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let mut state = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
    println!("seed {state}");
    let (mut site, tree) = filled(root.path());
    // Slow enough that kills come in between.
    site.farside(&["repair", "limit", "--rate", "8MiB"]).ok();
    let still = |site: &Site| is_balanced(site) && rests(|arguments| site.farside(arguments));

    site.kill();
    let more = path(&site, "more");
    until_done(&site, &["device", "add", &more, "--size", "128MiB"], &mut state);
    site.run();
    killed_a_few_times(&mut site, &mut state, still);
    tree.check(|arguments| site.farside(arguments));
    let found = devices(|arguments| site.farside(arguments), None);
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(found.iter().all(|device| device["state"] == "ok"), "{found:?}");

    site.farside(&["device", "evict", "devices/device-2"]).ok();
    killed_a_few_times(&mut site, &mut state, |site| !named(site, "device-2"));
    tree.check(|arguments| site.farside(arguments));
    site.kill();
    std::fs::remove_file(path(&site, "device-2")).expect("removed");
    site.run();
    assert_eq!(devices(|arguments| site.farside(arguments), None).len(), 6);

    site.kill();
    std::fs::remove_file(path(&site, "device-3")).expect("removed");
    let (old, new) = (path(&site, "device-3"), path(&site, "new"));
    until_done(&site, &["device", "replace", &old, &new, "--size", "128MiB"], &mut state);
    site.run();
    killed_a_few_times(&mut site, &mut state, |site| rests(|arguments| site.farside(arguments)));
    tree.check(|arguments| site.farside(arguments));

    site.farside(&["site", "rebalance"]).ok();
    killed_a_few_times(&mut site, &mut state, still);
    site.kill();
    site.run();
    assert_eq!(site.alerts(), "[]");
    // Of everything there is as much as there should be.
    lose(&mut site, &["device-0", "device-5"]);
    tree.check(|arguments| site.farside(arguments));
}

#[test]
fn a_rebalance_is_called_off_and_ordered_again() {
    let _machine = machine();
    let root = tempfile::tempdir().expect("a directory");
    let (mut site, tree) = filled(root.path());
    site.farside(&["repair", "limit", "--rate", "1MiB"]).ok();
    site.kill();
    site.farside(&["device", "add", &path(&site, "more"), "--size", "128MiB"]).ok();
    site.run();
    let left = |site: &Site| {
        site.farside(&["repair", "status", "--json"]).json()["misplaced_fragments"].as_u64().expect("a number")
    };
    wait_for("it is known what is to be moved", 30, || left(&site) > 50);
    site.farside(&["site", "rebalance", "--cancel"]).ok();
    assert!(site.alerts().contains("farside site rebalance"), "{}", site.alerts());
    let held =
        |site: &Site| fragments(&device(&devices(|arguments| site.farside(arguments), None), "more").expect("listed"));
    std::thread::sleep(Duration::from_secs(1));
    let before = held(&site);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(held(&site), before, "nothing is moved");
    site.kill();
    site.run();
    std::thread::sleep(Duration::from_secs(3));
    assert!(held(&site) <= before + 1, "nothing is moved after a restart either");
    site.farside(&["repair", "limit", "--rate", "0"]).ok();
    let said = site.farside(&["site", "rebalance", "--json"]).json();
    assert!(said["rebalance"] == "begun" && said["silent"] == serde_json::json!([]), "{said}");
    wait_for("everything lies where it should", 60, || is_balanced(&site) && left(&site) == 0);
    assert!(held(&site) > before + 50, "{} after {before}", held(&site));
    assert_eq!(site.alerts(), "[]");
    tree.check(|arguments| site.farside(arguments));
}
