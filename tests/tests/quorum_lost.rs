//! A site loses the majority of its groups for good: it goes on with what is left once an operator has confirmed what that costs,
//! and whoever comes back afterwards changes nothing.

use farside_tests::{Cluster, Outcome, Site, bytes, farside, outcome};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// One site at a time: two cores carry five nodes, not ten.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Objects of which some ride in their deltas and some are chunks.
const LENGTHS: [usize; 4] = [100, 20_000, 300_000, 1_500_000];

fn put(site: &Cluster, root: &Path, number: u64) -> Outcome {
    let file = root.join("in");
    std::fs::write(&file, bytes(number, LENGTHS[number as usize % 4])).expect("written");
    site.farside(&["put", "acme/data", &format!("object-{number}"), &text(&file)])
}

fn put_at_last(site: &Cluster, root: &Path, number: u64) {
    let mut last = put(site, root, number);
    for _ in 0..20 {
        if last.code == 0 {
            return;
        }
        last = put(site, root, number);
    }
    drop(last.ok());
}

fn get_all(site: &Cluster, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let read = site.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert_eq!(read.code, 0, "object {number}: {}", read.stderr);
        assert!(read.stdout == bytes(number, LENGTHS[number as usize % 4]), "object {number} differs");
    }
}

fn report(site: &Site, path: &Path) -> Outcome {
    site.farside(&["recover-quorum", "--report", &text(path), "--json"])
}

fn recover(site: &Site, reports: &[PathBuf], more: &[&str]) -> Outcome {
    let reports = reports.iter().map(|path| text(path)).collect::<Vec<_>>().join(",");
    site.farside(&[&["recover-quorum", "--reports", &reports, "--json"], more].concat())
}

fn plan_of(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).expect("a plan")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

/// The generation of the log, as the site's home says.
fn generation(site: &Cluster) -> u64 {
    let status = site.status();
    let logs = status["logs"].as_array().cloned().unwrap_or_default();
    let log = logs.iter().find(|log| log["name"] == "acme/data");
    log.and_then(|log| log["generation"].as_u64()).expect("a generation")
}

#[test]
fn two_of_five_go_on_and_the_lost_three_stay_out() {
    let _machine = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let size = ["--geometry", "2+3", "--device-count", "2", "--device-size", "96MiB"];
    let mut site = Cluster::start(root, "near", 5, &size);
    site.make_log(&root.join("kms"), "acme/data");
    (0..8).for_each(|number| drop(put(&site, root, number).ok()));
    site.wait_for(Duration::from_secs(60), "nothing is owed", Cluster::owes_nothing);
    let before = generation(&site);
    report(&site.nodes[1], &root.join("early")).fails(1, "already running");
    // What was acknowledged is with everybody by now.
    std::thread::sleep(Duration::from_secs(2));
    let mut lost: Vec<Site> = [4, 2, 0].into_iter().map(|index| site.nodes.remove(index)).collect();
    for node in &mut lost {
        node.kill();
        copy(&node.directory, &node.directory.with_extension("saved"));
        std::fs::remove_dir_all(&node.directory).expect("removed");
    }
    site.export();
    assert_ne!(put(&site, root, 90).code, 0, "two of five are no majority");

    site.nodes.iter_mut().for_each(|node| assert_eq!(node.stop(), 0));
    let reports: Vec<PathBuf> = ["one", "two"].iter().map(|name| root.join(name)).collect();
    for (node, path) in site.nodes.iter().zip(&reports) {
        let said = report(node, path).json();
        assert_eq!((said["site"].as_str(), said["incarnation"].as_u64()), (Some("near"), Some(0)));
        assert_eq!(said["groups"].as_array().map(Vec::len), Some(9), "{said}");
    }
    let plans: Vec<Value> = site
        .nodes
        .iter()
        .map(|node| {
            let planned = recover(node, &reports, &[]);
            planned.fails(3, "--confirm near");
            plan_of(&planned)
        })
        .collect();
    assert_eq!(plans[0], plans[1], "both come to the same");
    assert_eq!(plans[0]["lost"].as_array().map(Vec::len), Some(3));
    assert!(plans[0]["logs"].to_string().contains("acme/data"), "{}", plans[0]);
    site.nodes.iter().for_each(|node| drop(recover(node, &reports, &["--confirm", "near"]).ok()));
    site.nodes.iter_mut().for_each(Site::run);
    site.export();
    get_all(&site, 0..8);
    put_at_last(&site, root, 8);
    (9..12).for_each(|number| put_at_last(&site, root, number));
    assert_eq!(generation(&site), before + 1, "what is written now is told from what was lost");
    site.wait_for(Duration::from_secs(30), "the others are out for good", |site| {
        site.nodes[1].farside(&["node", "list"]).ok().matches(": removed").count() == 3
    });

    // The majority of the old voters comes back at once, from copies.
    for node in &mut lost {
        std::fs::rename(node.directory.with_extension("saved"), &node.directory).expect("renamed");
        node.run();
    }
    std::thread::sleep(Duration::from_secs(6));
    let kms = format!("file:{}", root.join("kms").display());
    for (number, node) in lost.iter().enumerate() {
        assert!(node.alerts().contains("left behind"), "{}", node.alerts());
        node.farside(&["tenant", "kms", "acme", &kms]).ok();
        // A client that begins there is refused, or goes on to those that are of the site.
        let (name, file) = (format!("late-{number}"), text(&root.join("in")));
        let put = node.farside(&["put", "acme/data", &name, &file]);
        match put.code {
            0 => assert_eq!(site.farside(&["get", "acme/data", &name]).code, 0, "it is not in the site"),
            code => assert!([1, 3, 4].contains(&code), "{put:?}"),
        }
        println!("a put that begins at a node that was left behind: exit {}, {}", put.code, put.stderr);
    }
    assert_eq!(generation(&site), before + 1);
    get_all(&site, 0..12);
    put_at_last(&site, root, 12);
    lost.iter_mut().for_each(Site::kill);
    lost.clear();

    site.add(root, "near-6", &["--cores", "0", "--device-count", "2", "--device-size", "96MiB"]);
    site.wait_for(Duration::from_secs(90), "groups grow again", |site| {
        let status = site.nodes[0].status();
        let voters = |of: &Value| of["voters"].as_array().map_or(0, Vec::len);
        voters(&status["control"]) == 3
    });
    site.wait_for(Duration::from_secs(90), "what was lost is rebuilt", |site| {
        let repair = &site.nodes[0].status()["repair"];
        site.owes_nothing() && repair["unreadable_chunks"] == 0
    });
    put_at_last(&site, root, 13);
    get_all(&site, 0..14);
    assert_eq!(generation(&site), before + 1);
}

/// The only one of three that is left: small objects are there, and what has too few fragments is told of.
#[test]
fn one_of_three_goes_on_however_often_it_is_interrupted() {
    let _machine = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let size = ["--geometry", "2+1", "--device-count", "2", "--device-size", "96MiB"];
    let mut site = Cluster::start(root, "near", 3, &size);
    site.make_log(&root.join("kms"), "acme/data");
    (0..4).for_each(|number| drop(put(&site, root, number).ok()));
    let file = |name: &str| root.join(name);
    let stopped_report = |site: &mut Cluster, index: usize, name: &str| {
        site.nodes[index].stop();
        report(&site.nodes[index], &file(name)).ok();
    };
    site.wait_for(Duration::from_secs(60), "it has settled", Cluster::owes_nothing);
    // Two of three are a majority: nothing is to be recovered.
    stopped_report(&mut site, 0, "first");
    stopped_report(&mut site, 1, "second");
    recover(&site.nodes[0], &[file("first"), file("second")], &[]).fails(3, "nothing is to be recovered");
    recover(&site.nodes[0], &[file("second")], &[]).fails(3, "no report is of this node");
    site.nodes[0].run();
    site.nodes[1].run();
    put_at_last(&site, root, 4);
    std::thread::sleep(Duration::from_secs(2));
    for index in [2, 1] {
        let mut node = site.nodes.remove(index);
        node.kill();
        std::fs::remove_dir_all(&node.directory).expect("removed");
    }
    let node = &mut site.nodes[0];
    recover(node, &[file("first")], &["--confirm", "near"]).fails(1, "already running");
    node.stop();
    recover(node, &[file("first")], &["--confirm", "near"]).fails(3, "has changed since its report");
    report(node, &file("now")).ok();
    let now = [file("now")];
    recover(node, &now, &["--confirm", "far"]).fails(3, "--confirm near");
    let mut other = Site::start(root, "other", &["--cores", "0"]);
    other.stop();
    report(&other, &file("foreign")).ok();
    recover(node, &[file("now"), file("foreign")], &[]).fails(3, "two sites");
    recover(node, &[file("now"), file("now")], &[]).fails(3, "two reports");
    std::fs::write(file("torn"), &std::fs::read(file("now")).expect("read")[..200]).expect("written");
    recover(node, &[file("torn")], &[]).fails(6, "damaged");
    recover(node, &[node.directory.join("site.frame")], &[]).fails(6, "damaged");
    let path = text(&node.directory);
    farside(&["recover-quorum", "--dir", &path]).fails(2, "--report");
    farside(&["recover-quorum", "--dir", &text(root), "--report", &text(&file("none"))]).fails(5, "not a node");

    // Killed anywhere, it goes on.
    let identity = std::fs::read(node.directory.join("site.frame")).expect("read");
    let confirm = ["recover-quorum", "--dir", &path, "--reports", &text(&file("now")), "--confirm", "near"];
    for wait in [0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128] {
        let mut child =
            farside_tests::command(&confirm).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(wait));
        drop(child.kill());
        drop(child.wait());
    }
    outcome(&mut farside_tests::command(&confirm)).ok();
    // Cut off before its last step, it is no node, and goes on all the same.
    std::fs::write(node.directory.join("site.frame"), &identity).expect("written");
    farside(&["node", "--dir", &path]).fails(3, "has not ended");
    report(node, &file("late")).fails(3, "has not ended");
    outcome(&mut farside_tests::command(&confirm)).ok();
    let again = outcome(&mut farside_tests::command(&confirm)).ok();
    assert!(again.contains("done here before"), "{again}");
    node.run();
    site.export();
    let small = site.farside(&["get", "acme/data", "object-0"]);
    assert!(small.code == 0 && small.stdout == bytes(0, LENGTHS[0]), "{}", small.stderr);
    site.farside(&["get", "acme/data", "object-3"]).fails(6, "is lost");
    site.wait_for(Duration::from_secs(60), "what can't be read is counted", |site| {
        let repair = site.nodes[0].farside(&["repair", "status", "--json"]).json();
        repair["unreadable_chunks"].as_u64().is_some_and(|count| count > 0)
    });
    // It ran since, and is still what it was made.
    site.nodes[0].stop();
    let again = outcome(&mut farside_tests::command(&confirm)).ok();
    assert!(again.contains("done here before"), "{again}");
    site.nodes[0].run();
    put_at_last(&site, root, 8);
    let read = site.farside(&["get", "acme/data", "object-8"]);
    assert!(read.stdout == bytes(8, LENGTHS[0]), "{}", read.stderr);
}
