//! A site of seven nodes loses machines while clients write and read: nothing that was acknowledged is lost, no read is
//! wrong, writers hardly notice, and redundancy comes back.

use farside_tests::{Cluster, Outcome, Site, Stop, bytes, farside, free_port, rounds};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writers may be held up by the death of a node for so long.
const STALL: Duration = Duration::from_secs(3);

/// One site at a time: two cores carry seven nodes, not fourteen.
static MACHINE: Mutex<()> = Mutex::new(());

/// What clients have done.
#[derive(Default)]
struct Done {
    /// Lengths of the objects that were acknowledged, by number.
    acknowledged: BTreeMap<u64, usize>,
    /// When each was, since the beginning.
    moments: Vec<Duration>,
    /// Commands that failed, and what they said.
    failures: Vec<String>,
}

struct Clients<'a> {
    cluster: &'a Cluster,
    root: &'a std::path::Path,
    begun: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    done: Mutex<Done>,
}

impl Clients<'_> {
    fn write(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let length = [100, 20_000, 300_000, 2_000_000][number as usize % 4];
            let file = self.root.join(format!("in-{number}"));
            std::fs::write(&file, bytes(number, length)).expect("written");
            let (name, path) = (format!("object-{number}"), file.display().to_string());
            let put = self.cluster.farside(&["put", "acme/load", &name, &path, "--json"]);
            std::fs::remove_file(&file).expect("removed");
            let mut done = self.done.lock().expect("a lock");
            match put.code {
                0 => {
                    done.acknowledged.insert(number, length);
                    done.moments.push(self.begun.elapsed());
                    // Enough to find a gap; what is written has to be read back twice.
                    drop(done);
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                _ => done.failures.push(format!("put {name}: {}", put.stderr)),
            }
        }
    }

    fn read(&self) {
        let mut turn = 0u64;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 7919;
            let known: Vec<(u64, usize)> = self
                .done
                .lock()
                .expect("a lock")
                .acknowledged
                .iter()
                .map(|(number, length)| (*number, *length))
                .collect();
            if known.is_empty() {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let (number, length) = known[turn as usize % known.len()];
            let read = self.get(number);
            match read.code {
                0 => assert!(read.stdout == bytes(number, length), "object {number} is wrong"),
                _ => self.done.lock().expect("a lock").failures.push(format!("get {number}: {}", read.stderr)),
            }
        }
    }

    fn get(&self, number: u64) -> Outcome {
        self.cluster.farside(&["get", "acme/load", &format!("object-{number}")])
    }

    /// The longest time without an acknowledgement between two moments.
    fn longest_stall(&self, from: Duration, to: Duration) -> Duration {
        let done = self.done.lock().expect("a lock");
        let within = done.moments.iter().copied().filter(|moment| (from..to).contains(moment));
        let (mut last, mut longest) = (from, Duration::ZERO);
        for moment in within.chain([to]) {
            longest = longest.max(moment.saturating_sub(last));
            last = last.max(moment);
        }
        longest
    }

    /// Reads everything back, in one go.
    fn check_all(&self, into: &str) {
        let known = self.done.lock().expect("a lock").acknowledged.clone();
        let back = self.root.join(into);
        self.cluster.farside(&["get", "-r", "acme/load", &back.display().to_string()]).ok();
        for (number, length) in known {
            let read = std::fs::read(back.join(format!("object-{number}"))).expect("it was acknowledged");
            assert!(read == bytes(number, length), "object {number} differs");
        }
        std::fs::remove_dir_all(&back).expect("removed");
    }
}

/// What each node is made of.
const SIZE: [&str; 4] = ["--device-count", "2", "--device-size", "192MiB"];

/// Seven nodes that count as dead after so many seconds of silence.
fn seven(root: &std::path::Path, seconds: u64) -> Cluster {
    let mut cluster = Cluster::start(root, "near", 7, &SIZE);
    for node in &mut cluster.nodes {
        let path = node.directory.join("node.toml");
        let text = std::fs::read_to_string(&path).expect("read");
        let lines = text.lines().filter(|line| !line.starts_with("dead_after_seconds"));
        let text: String =
            lines.chain([format!("dead_after_seconds = {seconds}").as_str()]).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).expect("written");
        node.stop();
        node.run();
    }
    cluster
}

/// Kills one node, then another, then all at once; each time everything acknowledged is there.
#[test]
fn seven_nodes_lose_one_then_another_then_all() {
    let _machine = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = seven(root.path(), 6);
    cluster.make_log(&root.path().join("kms"), "acme/load");
    let mut nodes = std::mem::take(&mut cluster.nodes);
    let cluster = cluster;
    let clients = Clients {
        cluster: &cluster,
        root: root.path(),
        begun: Instant::now(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        done: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2).map(|_| scope.spawn(|| clients.write())).collect();
        let reader = scope.spawn(|| clients.read());
        // Whoever fails here must not leave the others at it for ever.
        let _stop = Stop(&clients.stop);
        std::thread::sleep(Duration::from_secs(5));
        for victim in [2, 4] {
            let from = clients.begun.elapsed();
            nodes[victim].kill();
            std::thread::sleep(Duration::from_secs(8));
            let stall = clients.longest_stall(from, clients.begun.elapsed());
            println!("kill of node {}: writers were held up for {stall:?}", victim + 1);
            assert!(stall <= STALL, "writers were held up for {stall:?}");
        }
        clients.stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
        reader.join().expect("a reader ends");
    });
    {
        let done = clients.done.lock().expect("a lock");
        assert!(done.failures.is_empty(), "{} failures: {:?}", done.failures.len(), done.failures.first());
        println!("{} objects acknowledged", done.acknowledged.len());
        assert!(done.acknowledged.len() > 10, "hardly anything was written");
    }
    clients.check_all("after-two");
    for node in &mut nodes {
        node.kill();
    }
    std::thread::scope(|scope| nodes.iter_mut().for_each(|node| drop(scope.spawn(|| node.run()))));
    clients.check_all("after-all");
    let again = Cluster { nodes, context: cluster.context.clone() };
    again.wait_for(Duration::from_secs(120), "nothing is owed any more", Cluster::owes_nothing);
}

/// A node that stays away counts as dead, and the others have what it held; then it can be removed, and a new one gets its
/// share and no more.
#[test]
fn what_a_dead_node_held_is_rebuilt_and_a_new_one_gets_its_share() {
    let _machine = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = seven(root.path(), 3);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    let objects = rounds("FARSIDE_CLUSTER_OBJECTS", 24) as u64;
    for number in 0..objects {
        let file = root.path().join("in");
        std::fs::write(&file, bytes(number, 1_500_000)).expect("written");
        cluster.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
    }
    cluster.wait_for(Duration::from_secs(30), "nothing is owed", Cluster::owes_nothing);
    cluster.nodes[5].kill();
    let name = "node-6";
    let early = cluster.nodes[0].farside(&["node", "remove", name]);
    early.fails(3, "");
    let state = |cluster: &Cluster, name: &str| {
        let nodes = cluster.nodes[0].status()["nodes"].clone();
        let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == name)).cloned();
        found.map(|node| node["state"].as_str().unwrap_or_default().to_owned())
    };
    cluster.wait_for(Duration::from_secs(30), "the node is dead", |cluster| {
        state(cluster, name).as_deref() == Some("dead")
    });
    cluster.wait_for(Duration::from_secs(90), "what it held is rebuilt", Cluster::owes_nothing);
    // Two more may go now, with nothing left of the dead one.
    for victim in [1, 3] {
        cluster.nodes[victim].kill();
    }
    for number in 0..objects {
        let read = cluster.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == bytes(number, 1_500_000), "object {number} differs");
    }
    for victim in [1, 3] {
        cluster.nodes[victim].run();
    }
    cluster.wait_for(Duration::from_secs(60), "it can be removed", |cluster| {
        cluster.nodes[0].farside(&["node", "remove", name]).code == 0
    });
    // What was removed is not listened to any more.
    cluster.nodes[5].run();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(state(&cluster, name), None);
    cluster.nodes.remove(5);
    let fragments = |cluster: &Cluster| -> BTreeMap<String, u64> {
        let status = cluster.nodes[0].status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let count = |node: &serde_json::Value| node["fragments"].as_u64().unwrap_or(0);
        nodes.iter().map(|node| (node["name"].to_string(), count(node))).collect()
    };
    // Nodes that were away for a moment hold what others made up for meanwhile, until they are told that it is too much.
    cluster.wait_for(Duration::from_secs(60), "what is there twice is dropped", |cluster| {
        fragments(cluster).values().sum::<u64>() == 6 * objects
    });
    let before = fragments(&cluster);
    cluster.add(root.path(), "near-8", &SIZE);
    let joined = "\"node-8\"".to_owned();
    cluster.wait_for(Duration::from_secs(60), "the new node holds something", |cluster| {
        fragments(cluster).get(&joined).is_some_and(|count| *count > 0)
    });
    cluster.wait_for(Duration::from_secs(90), "everything is in its place", Cluster::owes_nothing);
    let after = fragments(&cluster);
    let total: u64 = before.values().sum();
    let share = total as f64 / after.len() as f64;
    println!("before: {before:?}; after: {after:?}; a fair share is {share:.1}");
    assert_eq!(after.values().sum::<u64>(), total, "nothing is there twice, nothing is gone");
    for (node, count) in before.iter().filter(|(node, _)| **node != joined) {
        assert!(after[node] <= *count, "{node} got something: only the new node should");
    }
}

/// A node is drained while the site works; then it holds nothing, removing it moves nothing, and the commands that would
/// break redundancy are refused.
#[test]
fn a_drained_node_goes_without_a_trace() {
    let _machine = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(root.path(), "near", 4, &SIZE);
    cluster.make_log(&root.path().join("kms"), "acme/data");
    for number in 0..8u64 {
        let file = root.path().join("in");
        std::fs::write(&file, bytes(number, 1_000_000)).expect("written");
        cluster.farside(&["put", "acme/data", &format!("object-{number}"), &file.display().to_string()]).ok();
    }
    cluster.farside(&["node", "remove", "node-3"]).fails(3, "drain");
    cluster.farside(&["node", "drain", "node-9"]).fails(5, "no node node-9");
    cluster.farside(&["node", "drain", "node-3"]).ok();
    cluster.wait_for(Duration::from_secs(90), "it is drained, and can be removed", |cluster| {
        let removed = cluster.farside(&["node", "remove", "node-3"]);
        removed.code == 0
    });
    cluster.farside(&["node", "drain", "node-2"]).fails(3, "voters");
    for number in 0..8u64 {
        let read = cluster.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == bytes(number, 1_000_000), "object {number} differs");
    }
    let names = cluster.farside(&["node", "list"]).ok();
    assert!(names.contains("node-3: removed"), "{names}");
}

/// Tokens are good once and for what they were made for; what can't join is told why, and leaves nothing behind.
#[test]
fn a_node_joins_with_a_token_of_its_own() {
    let _machine = MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = tempfile::tempdir().expect("a directory");
    let first = Site::start(root.path(), "near", &["--cores", "0"]);
    let join = |name: &str, token: &str, more: &[&str]| {
        let (path, listen) = (root.path().join(name).display().to_string(), format!("127.0.0.1:{}", free_port()));
        let arguments =
            ["join", "--dir", &path, "--token", token.trim(), "--listen", &listen, "--device-size", "192MiB"];
        farside(&[&arguments[..], &["--cores", "0"], more].concat())
    };
    let token = first.farside(&["invite", "--node", "left"]).ok();
    join("half", &token[..token.len() / 2], &[]).fails(2, "no node token");
    join("peer", &first.farside(&["peer", "token"]).ok(), &[]).fails(2, "no node token");
    join("rack", &token, &["--rack", "No Rack"]).fails(2, "");
    join("second", &token, &["--rack", "rack-7"]).ok();
    join("third", &token, &[]).fails(3, "used before");
    assert!(!root.path().join("third").exists(), "what could not join left something behind");
    let again = first.farside(&["invite", "--node", "left"]).ok();
    join("fourth", &again, &[]).fails(3, "called left already");
    farside(&["peer", "add", "--dir", &first.directory.display().to_string(), "near", again.trim()])
        .fails(2, "no peer token");
    first.farside(&["invite", "--node", "Not A Name"]).fails(2, "");
    let listed = first.farside(&["node", "list"]).ok();
    assert!(listed.contains("left: joining") && listed.contains("rack rack-7"), "{listed}");
    // A node that never started is taken out as it came.
    first.farside(&["node", "remove", "left"]).ok();
    first.farside(&["node", "drain", "node-1"]).fails(3, "");
    first.farside(&["node", "remove", "node-1"]).fails(3, "");
    first.farside(&["repair", "limit", "--rate", "0"]).ok();
    first.farside(&["repair", "limit", "--rate", "many"]).fails(2, "");
    assert_eq!(first.farside(&["repair", "status", "--json"]).json()["owed_fragments"], 0);
}
