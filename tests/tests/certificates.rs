//! Certificates of nodes and the site's authority are exchanged for new ones while everything goes on: nobody is cut off who should
//! not be, whatever is killed when.

use farside::client::{Client, ClientSettings, Context};
use farside_codec::message::Request;
use farside_tests::{Cluster, Outcome, Site, bytes, command, farside};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One site at a time: two cores carry three nodes, not nine.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn with(context: &Path, arguments: &[&str]) -> Outcome {
    farside(&[arguments, &["--context", &text(context)]].concat())
}

fn put(site: &Site, root: &Path, number: u64) -> Outcome {
    let file = root.join("in");
    std::fs::write(&file, bytes(number, 40_000)).expect("written");
    site.farside(&["put", "acme/data", &format!("object-{number}"), &text(&file)])
}

/// Every node's own context is another client's.
fn tell_kms(cluster: &Cluster, root: &Path) {
    let kms = format!("file:{}", text(&root.join("kms")));
    cluster.nodes.iter().for_each(|node| drop(node.farside(&["tenant", "kms", "acme", &kms]).ok()));
}

fn put_at_last(site: &Site, root: &Path, number: u64) {
    let begun = Instant::now();
    while put(site, root, number).code != 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "{}", put(site, root, number).stderr);
    }
}

fn holds(site: &Site, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let read = site.farside(&["get", "acme/data", &format!("object-{number}")]);
        assert!(read.code == 0 && read.stdout == bytes(number, 40_000), "object {number}: {}", read.stderr);
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Serials of what nodes show, by name.
fn shown(site: &Site) -> Vec<(String, String)> {
    let status = site.status();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    nodes.iter().map(|node| (text(&node["name"]), text(&node["certificate"]["serial"]))).collect()
}

fn progress(site: &Site) -> Value {
    let asked = site.farside(&["certificate", "status", "--json"]);
    serde_json::from_slice(&asked.stdout).unwrap_or_default()
}

fn set(site: &Site, line: &str) {
    let path = site.directory.join("node.toml");
    let settings = std::fs::read_to_string(&path).expect("read");
    let kept = settings.lines().filter(|old| !old.starts_with("certificate_seconds"));
    let kept = kept.collect::<Vec<_>>().join("\n");
    std::fs::write(&path, format!("{line}\n{kept}\n")).expect("written");
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

const SMALL: [&str; 6] = ["--geometry", "2+1", "--device-count", "2", "--device-size", "96MiB"];

#[test]
fn nodes_renew_what_they_show_in_time_and_on_order_and_after_a_long_rest() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let mut cluster = Cluster::start(root, "near", 3, &SMALL);
    cluster.make_log(&root.join("kms"), "acme/data");
    tell_kms(&cluster, root);
    let before = shown(&cluster.nodes[0]);
    assert!(before.len() == 3 && before.iter().all(|(_, serial)| serial.len() == 32), "{before:?}");
    cluster.nodes[0].farside(&["certificate", "rotate"]).ok();
    let after = shown(&cluster.nodes[0]);
    assert!(before.iter().zip(&after).all(|(old, new)| old.0 == new.0 && old.1 != new.1), "{before:?} {after:?}");
    // What a node shows no more may be revoked, and what it shows may not.
    cluster.nodes[0].farside(&["identity", "revoke", &before[1].1]).ok();
    cluster.nodes[0].farside(&["identity", "revoke", &after[1].1]).fails(3, "node remove");

    // A node that does not answer is named, and the others go on.
    cluster.nodes[2].kill();
    cluster.nodes[0].farside(&["certificate", "rotate"]).fails(4, "");
    cluster.nodes.iter().for_each(|node| set(node, "certificate_seconds = 15"));
    cluster.nodes.iter_mut().take(2).for_each(|node| assert_eq!(node.stop(), 0));
    cluster.nodes.iter_mut().for_each(Site::run);
    wait_for("all are up", || cluster.nodes[0].farside(&["certificate", "rotate"]).code == 0);
    let begun = shown(&cluster.nodes[0]);
    // Twice as long as a certificate lasts, on one connection.
    on_runtime(async {
        let context = Context::load(&cluster.context).expect("a context");
        let client = Client::connect(&context, ClientSettings::in_memory()).await.expect("connected");
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < Duration::from_secs(30) {
            client.control(&Request::ListTenants).await.expect("it is answered");
            put(&cluster.nodes[0], root, number).ok();
            number += 1;
        }
        println!("{number} objects put while certificates of 15 s were renewed");
    });
    let renewed = shown(&cluster.nodes[0]);
    assert!(begun.iter().zip(&renewed).all(|(old, new)| old.1 != new.1), "{begun:?} {renewed:?}");
    assert!(!cluster.nodes[0].alerts().contains("certificate"), "{}", cluster.nodes[0].alerts());
    // All of them rest until everything that they show has expired.
    cluster.nodes.iter_mut().for_each(|node| assert_eq!(node.stop(), 0));
    std::thread::sleep(Duration::from_secs(17));
    cluster.nodes.iter_mut().for_each(Site::run);
    put_at_last(&cluster.nodes[0], root, 1000);
    holds(&cluster.nodes[1], 0..3);
}

#[test]
fn a_certificate_that_can_t_be_renewed_is_told_of_before_and_after_its_end() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &["--cores", "0"]);
    set(&site, "certificate_seconds = 24");
    site.run();
    site.farside(&["certificate", "rotate"]).ok();
    let key = site.directory.join("authority.key");
    let away = site.directory.join("away");
    std::fs::rename(&key, &away).expect("moved");
    // While it can still be asked.
    wait_for("it is told of", || site.alerts().contains("the node's certificates are not as they should be"));
    wait_for("it has expired", || site.farside(&["status"]).code != 0);
    site.farside(&["status"]).fails(1, "the certificate of the node at 127.0.0.1");
    std::fs::rename(&away, &key).expect("moved");
    wait_for("it is renewed", || site.farside(&["status"]).code == 0);
    wait_for("nothing is wrong", || !site.alerts().contains("certificate"));
}

#[test]
fn a_site_goes_over_to_another_authority_with_a_node_down_and_whoever_knows_the_old_one_finds_the_way() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let mut cluster = Cluster::start(root, "near", 3, &SMALL);
    cluster.make_log(&root.join("kms"), "acme/data");
    tell_kms(&cluster, root);
    let out = text(&root.join("identities"));
    cluster.nodes[0].farside(&["identity", "issue", "anna", "--operator", "-o", &out]).ok();
    let anna = root.join("identities/anna.context");
    (0..3).for_each(|number| drop(put(&cluster.nodes[0], root, number).ok()));
    cluster.nodes[0].farside(&["certificate", "rotate", "--ca", "--drop"]).fails(3, "no other authority issues yet");
    cluster.nodes[2].kill();
    wait_for("it counts as dead", || {
        let status = cluster.nodes[0].status();
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["state"] == "dead"))
    });
    let said = cluster.nodes[0].farside(&["certificate", "rotate", "--ca"]).ok();
    assert!(said.contains("authority 1 issues"), "{said}");
    // Once more changes nothing.
    cluster.nodes[1].farside(&["certificate", "rotate", "--ca"]).ok();
    assert_eq!(progress(&cluster.nodes[1])["authority"], 1);
    put_at_last(&cluster.nodes[0], root, 3);
    // Whoever knows the old one only finds the way, and is let in.
    with(&anna, &["status"]).ok();
    cluster.nodes[0].farside(&["certificate", "rotate", "--ca", "--drop"]).fails(3, "node node-3");

    // The node that was down during all of it comes back in.
    cluster.nodes[2].run();
    wait_for("it has come along", || !progress(&cluster.nodes[0])["depends"].to_string().contains("node-3"));
    put_at_last(&cluster.nodes[2], root, 4);
    holds(&cluster.nodes[2], 0..5);
    cluster.nodes[0].farside(&["certificate", "rotate", "--ca", "--drop"]).fails(3, "operator anna");
    std::fs::remove_file(&anna).expect("removed");
    cluster.nodes[0].farside(&["identity", "issue", "anna", "--operator", "-o", &out]).ok();
    let depends = progress(&cluster.nodes[0])["depends"].clone();
    for one in depends.as_array().cloned().unwrap_or_default() {
        let one = one.as_str().unwrap_or_default().to_owned();
        assert!(one.starts_with("invitation ") || one.starts_with("operator admin"), "{depends}");
    }
    let list = cluster.nodes[0].farside(&["identity", "list", "--json"]).ok();
    for line in list.lines().filter(|line| line.contains("\"invitation\"")) {
        let invitation: Value = serde_json::from_str(line).expect("an object");
        cluster.nodes[0].farside(&["identity", "revoke", invitation["serial"].as_str().expect("text")]).ok();
    }
    let old = root.join("old.context");
    std::fs::copy(&cluster.context, &old).expect("copied");
    cluster.nodes[0].farside(&["certificate", "rotate", "--ca", "--drop"]).ok();
    assert_eq!(progress(&cluster.nodes[0])["step"], "settled");
    // Who knows only the old one finds nobody any more, and what is new goes on.
    assert_ne!(with(&old, &["status"]).code, 0);
    with(&anna, &["status"]).ok();
    cluster.nodes.iter_mut().for_each(Site::kill);
    cluster.nodes.iter_mut().for_each(Site::run);
    put_at_last(&cluster.nodes[1], root, 5);
    holds(&cluster.nodes[0], 0..6);
    cluster.add(root, "near-4", &["--cores", "0", "--device-count", "2", "--device-size", "96MiB"]);
    with(&anna, &["node", "list"]).ok();
}

#[test]
fn sites_that_replicate_go_on_while_either_goes_over_and_is_killed_on_the_way() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let one = ["--cores", "0"];
    let (mut near, mut far) = (Site::start(root, "near", &one), Site::start(root, "far", &one));
    near.make_log(&root.join("kms"), "acme/data");
    near.join(&far);
    near.wait_caught_up();
    // Nothing is issued before the peer knows.
    assert_eq!(far.stop(), 0);
    near.farside(&["certificate", "rotate", "--ca", "--wait", "3"]).fails(4, "");
    let waits = progress(&near);
    assert_eq!((&waits["step"], &waits["authority"]), (&"introduced".into(), &0.into()), "{waits}");
    assert!(waits["waits"].to_string().contains("peer far"), "{waits}");
    near.farside(&["certificate", "rotate", "--ca", "--drop"]).fails(3, "no other authority issues yet");
    near.kill();
    near.run();
    assert_eq!(progress(&near)["step"], "introduced");
    far.run();
    // Killed again and again on the way, each time a little later.
    let (dir, mut number) = (text(&near.directory), 0);
    for wait in [0, 100, 250, 400, 600, 900, 1300] {
        let mut order = command(&["certificate", "rotate", "--dir", &dir, "--ca"]);
        let mut order = order.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(wait));
        near.kill();
        if wait % 200 == 0 {
            far.kill();
            far.run();
        }
        drop(order.kill());
        drop(order.wait());
        near.run();
        put_at_last(&near, root, number);
        number += 1;
    }
    near.farside(&["certificate", "rotate", "--ca"]).ok();
    assert_eq!(progress(&near)["authority"], 1);
    near.wait_caught_up();
    let forced = near.farside(&["certificate", "rotate", "--ca", "--drop"]);
    if forced.code != 0 {
        forced.fails(3, "is still needed by");
        near.farside(&["certificate", "rotate", "--ca", "--drop", "--force"]).ok();
    }
    assert_eq!(progress(&near)["step"], "settled");
    put_at_last(&near, root, number);
    near.wait_caught_up();
    near.kill();
    near.run();
    put_at_last(&near, root, number + 1);
    near.wait_caught_up();
    // And the other side.
    far.farside(&["certificate", "rotate"]).ok();
    far.farside(&["certificate", "rotate", "--ca"]).ok();
    far.farside(&["certificate", "rotate", "--ca", "--drop", "--force"]).ok();
    far.kill();
    far.run();
    put_at_last(&near, root, number + 2);
    near.wait_caught_up();
    let kms = format!("file:{}", text(&root.join("kms")));
    far.farside(&["tenant", "kms", "acme", &kms]).ok();
    holds(&far, 0..number + 3);
    // A second way is as good as the first.
    near.farside(&["certificate", "rotate", "--ca"]).ok();
    assert_eq!(progress(&near)["authority"], 2);
    put_at_last(&near, root, number + 3);
    near.wait_caught_up();
}
