//! Audit logs with real processes: what operators do is there, with who and when; what is altered is found; two sites that
//! were cut off from each other have both logs afterwards; no kill leaves a change without its entry; and what a lost site
//! wrote is at its peer.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside_tests::{Cluster, Site, bytes, farside, rounds};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The entries that `audit show` prints, without the ends of its chains.
fn entries(told: &str) -> Vec<Value> {
    let lines = told.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["head"].is_null()).collect()
}

fn log(site: &Site, which: &[&str]) -> Vec<Value> {
    entries(&site.farside(&[&["audit", "show", "--json"], which].concat()).ok())
}

/// (action, outcome) of each entry.
fn told(entries: &[Value]) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (word(&entry["action"]), word(&entry["outcome"]))).collect()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether a log is good here and a peer that was asked has all of it.
fn is_shared(site: &Site, which: &[&str]) -> bool {
    let verified = site.farside(&[&["audit", "verify", "--json"], which].concat());
    assert_eq!(verified.code, 0, "{verified:?}");
    let verified = verified.json();
    let peers = verified["peers"].as_array().expect("a list");
    assert_eq!(verified["good"], true);
    !peers.is_empty() && peers.iter().all(|peer| peer["agrees"] == true && peer["behind_entries"] == 0)
}

fn put(site: &Site, root: &Path, log: &str, name: &str) {
    let file = root.join("in");
    std::fs::write(&file, bytes(7, 10_000)).expect("written");
    site.farside(&["put", log, name, &text(&file)]).ok();
}

#[test]
fn what_operators_do_is_there_with_who_and_when() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let begun = Instant::now();
    let (mut near, far) = (Site::start(root, "near", &["--cores", "0"]), Site::start(root, "far", &["--cores", "1"]));
    near.join(&far);
    let kms = root.join("kms");
    near.make_log(&kms, "acme/photos");
    put(&near, root, "acme/photos", "secret-name");
    near.farside(&["log", "policy", "acme/photos", "--history", "7d"]).ok();
    near.farside(&["repair", "limit", "--rate", "10MiB"]).ok();
    near.farside(&["repair", "limit", "--rate", "10MiB"]).ok();
    near.farside(&["scrub", "start"]).ok();
    near.farside(&["peer", "pause", "far"]).ok();
    near.farside(&["peer", "resume", "far"]).ok();
    near.farside(&["key", "export", "-o", &text(&root.join("shares"))]).ok();
    near.farside(&["tenant", "rotate", "acme"]).ok();
    near.farside(&["tenant", "shred", "acme"]).fails(3, "not shredded");
    near.farside(&["switchover", "--to", "nobody"]).fails(5, "no peer nobody");
    near.farside(&["tenant", "create", "acme", "--kms", &format!("file:{}", text(&kms))]).fails(1, "exists");
    near.wait_caught_up();
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", text(&kms))]).ok();
    far.farside(&["drill", "--from", "near"]).ok();

    wait_for("the export is written down", || {
        told(&log(&near, &["--site"])).iter().any(|(word, came)| word == "key.export" && came == "done")
    });
    let site = log(&near, &["--site"]);
    let words = told(&site);
    let expected = [
        ("site.found", "done"),
        ("peer.add", "done"),
        ("repair.limit", "done"),
        ("scrub.start", "ordered"),
        ("scrub.start", "done"),
        ("peer.pause", "done"),
        ("peer.resume", "done"),
        ("key.export", "ordered"),
        ("key.export", "done"),
    ];
    let expected: Vec<(String, String)> = expected.map(|(word, came)| (word.to_owned(), came.to_owned())).into();
    assert_eq!(words, expected, "in this order, and an order that changes nothing is none");
    let tenant = log(&near, &["acme"]);
    let expected = [
        ("tenant.create", "done"),
        ("log.create", "done"),
        ("log.policy.order", "ordered"),
        ("log.policy", "done"),
        ("log.policy.order", "done"),
        ("tenant.rotate", "done"),
        ("tenant.shred", "done"),
    ];
    let expected: Vec<(String, String)> = expected.map(|(word, came)| (word.to_owned(), came.to_owned())).into();
    assert_eq!(told(&tenant), expected);
    // Who, and when.
    assert_eq!((&site[0]["by"]["kind"], &site[0]["by"]["node"]), (&"site".into(), &1.into()));
    let by = &site[1]["by"];
    assert_eq!((&by["kind"], &by["role"], &by["name"]), (&"certificate".into(), &"admin".into(), &"admin".into()));
    assert_eq!(site[8]["by"]["kind"], "machine");
    let times: Vec<&str> = site.iter().map(|entry| entry["time"].as_str().expect("a time")).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    let since = near.farside(&["audit", "show", "--site", "--json", "--since", times[5]]);
    assert_eq!(entries(&since.ok()).len(), 4);
    assert!(begun.elapsed() < Duration::from_secs(120));
    assert_eq!(told(&log(&far, &["--site"]))[1..].iter().filter(|(word, _)| word == "drill").count(), 2);
    assert_eq!(told(&log(&far, &["--site"]))[1].0, "peer.token");
    // No names of objects and nothing of their contents.
    let all = near.farside(&["audit", "show", "acme", "--json"]).ok();
    assert!(!all.contains("secret-name") && !all.contains(&hex("secret-name")));

    // Near is lost; what it wrote is at far, whole.
    wait_for("far has it all", || is_shared(&near, &["--site"]) && is_shared(&near, &["acme"]));
    near.kill();
    assert_eq!(log(&far, &["--site", "--peer", "near"]), site);
    assert_eq!(log(&far, &["acme", "--peer", "near"]), tenant);
    far.farside(&["audit", "verify", "acme", "--peer", "near"]).ok();
    far.farside(&["failover", "--from", "near"]).ok();
    let promoted = told(&log(&far, &["acme"]));
    let came = |outcome: &str| ("log.promote".to_owned(), outcome.to_owned());
    assert_eq!(promoted[promoted.len() - 2..], [came("ordered"), came("done")]);
    let site = log(&far, &["--site"]);
    let failover = site.last().expect("an entry");
    assert_eq!((&failover["action"], &failover["about"]["logs"]), (&"failover".into(), &1.into()), "{failover}");
    assert_eq!(failover["order"], site[site.len() - 2]["order"], "one order, before and after");
    // Near is back, follows, and has what far wrote.
    near.run();
    wait_for("near has far's", || is_shared(&far, &["--site"]) && is_shared(&far, &["acme"]));
    near.farside(&["audit", "verify", "acme", "--peer", "far"]).ok();
    near.farside(&["audit", "show", "nobody"]).fails(5, "no tenant nobody");
    near.farside(&["audit", "show"]).fails(2, "which audit log?");
    near.farside(&["audit", "show", "--site", "--peer", "nobody"]).fails(5, "no peer nobody");
    near.farside(&["audit", "show", "--site", "--since", "yesterday"]).fails(2, "RFC 3339");
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes lines as an export, and verifies it without any node.
fn verify_lines(root: &Path, lines: &[String]) -> farside_tests::Outcome {
    let path = root.join("export");
    std::fs::write(&path, lines.join("\n") + "\n").expect("written");
    farside(&["audit", "verify", "--from", &text(&path)])
}

#[test]
fn what_is_altered_is_found_in_an_export() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let mut near = Site::start(root, "near", &["--cores", "0"]);
    (1..=6).for_each(|rate| drop(near.farside(&["repair", "limit", "--rate", &format!("{rate}MiB")]).ok()));
    let verified = near.farside(&["audit", "verify", "--site", "--json"]).json();
    let noted = verified["heads"][0]["hash"].as_str().expect("a hash").to_owned();
    let exported = near.farside(&["audit", "show", "--site", "--json"]).ok();
    let since = entries(&exported)[3]["time"].as_str().expect("a time").to_owned();
    let part = near.farside(&["audit", "show", "--site", "--json", "--since", &since]).ok();
    near.kill();
    let lines: Vec<String> = exported.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 8, "seven entries and their end");
    verify_lines(root, &lines).ok();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        verify_lines(root, &lines)
    };
    with(&|lines| drop(lines.remove(0))).fails(6, "entry 1 is missing");
    with(&|lines| drop(lines.remove(3))).fails(6, "entry 4 is missing");
    with(&|lines| drop(lines.remove(6))).fails(6, "entry 7 is missing");
    with(&|lines| lines.swap(2, 3)).fails(6, "entry 3 is missing");
    with(&|lines| lines.insert(4, lines[2].clone())).fails(6, "entry 3 stands after entry 4");
    with(&|lines| lines.truncate(5)).fails(6, "has no end");
    with(&|lines| lines[2] = lines[2].replace("\"admin\"", "\"nobody\"")).fails(6, "entry 3 than what was written");
    with(&|lines| lines[2] = "{}".into()).fails(6, "line 3");
    with(&|lines| lines[2] = "entry".into()).fails(6, "line 3 of the export is no JSON");
    with(&|lines| lines.push(lines[0].clone())).fails(6, "after its end");
    // Bytes and everything that is shown of them altered together: only the chain shows it.
    let altered = forge(&lines[2]);
    with(&|lines| lines[2] = altered.clone()).fails(6, "one of the two was altered");
    // Cut off with a new end, which only a hash shows that was noted down.
    let cut = |lines: &mut Vec<String>| {
        let last: Value = serde_json::from_str(&lines[5]).expect("JSON");
        let mut end: Value = serde_json::from_str(&lines[7]).expect("JSON");
        (end["seq"], end["hash"]) = (last["seq"].clone(), last["hash"].clone());
        lines.truncate(6);
        lines.push(end.to_string());
    };
    with(&cut).ok();
    let path = text(&root.join("export"));
    farside(&["audit", "verify", "--from", &path, "--has", &noted]).fails(6, "that was noted down");
    verify_lines(root, &lines).ok();
    farside(&["audit", "verify", "--from", &path, "--has", &noted]).ok();
    farside(&["audit", "verify", "--from", &path, "--has", "abc"]).fails(2, "a hash is of 64 digits");
    farside(&["audit", "verify", "--from", &text(&root.join("none"))]).fails(1, "none");
    // A part says that it is one.
    let part: Vec<String> = part.lines().map(str::to_owned).collect();
    let outcome = verify_lines(root, &part);
    outcome.ok();
    assert!(outcome.stderr.contains("begins with entry 4"), "{}", outcome.stderr);
    let mut holed = part.clone();
    holed.remove(1);
    verify_lines(root, &holed).fails(6, "entry 5 is missing");
}

/// The same line with another rate in the entry's bytes, and all that is shown of them as the command line would show it.
fn forge(line: &str) -> String {
    use farside_codec::Field;
    use farside_codec::audit::{AuditAction, AuditEntry, AuditHash};
    let mut shown: Value = serde_json::from_str(line).expect("JSON");
    let encoded: Vec<u8> = shown["entry"]
        .as_str()
        .expect("bytes")
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect();
    let mut entry = AuditEntry::from_bytes(encoded.into()).expect("an entry");
    entry.action = AuditAction::RepairLimit(1);
    let encoded = entry.to_bytes();
    shown["about"]["rate_bytes_per_second"] = 1.into();
    shown["hash"] = AuditHash::of(&encoded).to_string().into();
    shown["entry"] = encoded.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    shown.to_string()
}

#[test]
fn two_sites_that_were_cut_off_have_both_logs_afterwards() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let (mut near, mut far) =
        (Site::start(root, "near", &["--cores", "0"]), Site::start(root, "far", &["--cores", "1"]));
    near.join(&far);
    let kms = root.join("kms");
    near.make_log(&kms, "acme/photos");
    near.wait_caught_up();
    wait_for("far has it", || is_shared(&near, &["acme"]));
    far.kill();
    near.farside(&["log", "policy", "acme/photos", "--history", "3d"]).ok();
    near.make_log(&kms, "other/data");
    near.farside(&["repair", "limit", "--rate", "3MiB"]).ok();
    near.kill();
    far.run();
    far.farside(&["failover", "--from", "near"]).fails(3, "--force");
    far.farside(&["failover", "--from", "near", "--force"]).ok();
    far.farside(&["repair", "limit", "--rate", "5MiB"]).ok();
    far.make_log(&kms, "third/data");
    far.farside(&["audit", "verify", "--site"]).ok();
    let (fars, nears) = (log(&far, &["--site"]), {
        near.run();
        log(&near, &["--site"])
    });
    // Each goes on in its own; neither takes anything from the other's.
    wait_for("both have both", || {
        let shared = |site: &Site, tenants: &[&str]| {
            is_shared(site, &["--site"]) && tenants.iter().all(|tenant| is_shared(site, &[tenant]))
        };
        shared(&near, &["acme", "other"]) && shared(&far, &["acme", "third"])
    });
    assert_eq!(log(&near, &["--site", "--peer", "far"])[..fars.len()], fars);
    assert_eq!(log(&far, &["--site", "--peer", "near"])[..nears.len()], nears);
    for (site, peer) in [(&near, "far"), (&far, "near")] {
        for which in [&["--site"][..], &["acme"]] {
            site.farside(&[&["audit", "verify", "--peer", peer], which].concat()).ok();
        }
    }
    assert!(near.alerts().find("audit").is_none() && far.alerts().find("audit").is_none());
    // A restart of either loses nothing and sends nothing twice.
    let kept = near.status()["audit"]["peers"][0]["entries_kept"].clone();
    near.kill();
    far.kill();
    near.run();
    far.run();
    far.farside(&["repair", "limit", "--rate", "6MiB"]).ok();
    wait_for("one more", || {
        near.status()["audit"]["peers"][0]["entries_kept"].as_u64() == kept.as_u64().map(|kept| kept + 1)
    });
    assert!(is_shared(&far, &["--site"]));
}

/// Kills a site while an operator makes tenants and logs: each that is there has its entry, once.
#[test]
fn no_kill_leaves_a_change_without_its_entry() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let kms = format!("file:{}", text(&root.join("kms")));
    let mut near = Site::start(root, "near", &["--cores", "0"]);
    let mut made = 0;
    for round in 0..rounds("FARSIDE_AUDIT_KILLS", 4) {
        let directory: PathBuf = near.directory.clone();
        let (stop, kms) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), kms.clone());
        let stopped = stop.clone();
        let work = std::thread::spawn(move || {
            let dir = text(&directory);
            for number in 0.. {
                if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let name = format!("t{round}-{number}");
                farside(&["tenant", "create", &name, "--kms", &kms, "--dir", &dir]);
                farside(&["log", "create", &format!("{name}/l"), "--dir", &dir]);
            }
        });
        let after = u64::from_le_bytes(bytes(round as u64 + 41, 8).try_into().expect("eight")) % 2500;
        std::thread::sleep(Duration::from_millis(700 + after));
        near.kill();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        work.join().expect("it ends");
        near.run();
        let names = |told: String| -> Vec<String> {
            let name = |line: &str| {
                serde_json::from_str::<Value>(line).expect("JSON")["name"].as_str().expect("a name").to_owned()
            };
            told.lines().map(name).collect()
        };
        let tenants = names(near.farside(&["tenant", "list", "--json"]).ok());
        let logs = names(near.farside(&["log", "list", "--json"]).ok());
        for tenant in tenants.iter().filter(|tenant| tenant.starts_with(&format!("t{round}-"))) {
            let entries = told(&log(&near, &[tenant]));
            let done = |word: &str| entries.iter().filter(|(action, came)| action == word && came == "done").count();
            assert_eq!(done("tenant.create"), 1, "{tenant}: {entries:?}");
            assert_eq!(done("log.create"), usize::from(logs.contains(&format!("{tenant}/l"))), "{tenant}: {entries:?}");
            near.farside(&["audit", "verify", tenant]).ok();
            made += 1;
        }
    }
    assert!(made > 3, "only {made} tenants were made between kills");
}

#[test]
fn a_tenant_sees_its_own_log_and_no_other_one() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let near = Site::start(root, "near", &["--cores", "0"]);
    near.make_log(&root.join("kms"), "acme/photos");
    near.make_log(&root.join("kms"), "evil/own");
    let acme = near.farside(&["tenant", "show", "acme", "--json"]).json()["id"].as_str().expect("an id").to_owned();
    let context = root.join("evil.context");
    near.farside(&["context", "export", "--tenant", "evil", "-o", &text(&context)]).ok();
    let as_evil = |arguments: &[&str]| farside(&[arguments, &["--context", &text(&context)]].concat());
    let own = entries(&as_evil(&["audit", "show", "evil", "--json"]).ok());
    assert_eq!(own, log(&near, &["evil"]));
    as_evil(&["audit", "verify", "evil"]).ok();
    as_evil(&["audit", "show", "acme"]).fails(5, "no tenant acme");
    as_evil(&["audit", "show", &acme]).fails(5, "there is no such audit log here");
    as_evil(&["audit", "verify", &acme]).fails(5, "there is no such audit log here");
    as_evil(&["audit", "show", &"ee".repeat(16)]).fails(5, "there is no such audit log here");
    as_evil(&["audit", "show", "--site"]).fails(5, "there is no such audit log here");
    // That an identity was issued is in the site's.
    wait_for("it is written down", || told(&log(&near, &["--site"])).iter().any(|(word, _)| word == "identity.issue"));
}

#[test]
fn a_site_of_three_nodes_goes_on_in_one_log() {
    let root = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(root.path(), "near", 3, &["--geometry", "2+1"]);
    cluster.farside(&["repair", "limit", "--rate", "1MiB"]).ok();
    let leader = cluster.status()["control"]["leader"].as_str().expect("a leader").to_owned();
    let index = leader.trim_start_matches("node-").parse::<usize>().expect("a number") - 1;
    cluster.nodes[index].kill();
    // Whoever leads next goes on in the same log.
    wait_for("another one leads", || cluster.farside(&["repair", "limit", "--rate", "2MiB"]).code == 0);
    cluster.nodes[index].run();
    cluster.farside(&["repair", "limit", "--rate", "3MiB"]).ok();
    let other = &cluster.nodes[(index + 1) % 3];
    other.farside(&["context", "export", "-o", &text(&root.path().join("c"))]).ok();
    wait_for("what was done at a node is written down", || {
        let entries = entries(&cluster.farside(&["audit", "show", "--site", "--json"]).ok());
        entries.iter().any(|entry| entry["action"] == "identity.issue" && entry["outcome"] == "done")
    });
    let entries = entries(&cluster.farside(&["audit", "show", "--site", "--json"]).ok());
    let words = told(&entries);
    let count = |word: &str| words.iter().filter(|(action, came)| action == word && came == "done").count();
    assert_eq!((count("node.token"), count("node.joined"), count("repair.limit")), (2, 2, 3), "{words:?}");
    cluster.farside(&["audit", "verify", "--site"]).ok();
    for node in &cluster.nodes {
        node.farside(&["audit", "verify", "--site"]).ok();
    }
}

/// What a site wrote after its last backup is lost with it, and known at its peer; it goes on where it knows itself to be.
#[test]
fn a_restored_site_goes_on_in_its_next_incarnation() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let (mut near, far) = (Site::start(root, "near", &["--cores", "0"]), Site::start(root, "far", &["--cores", "1"]));
    near.join(&far);
    near.farside(&["repair", "limit", "--rate", "1MiB"]).ok();
    let (shares, target) = (root.join("shares"), format!("file://{}", text(&root.join("vault"))));
    std::fs::create_dir(root.join("vault")).expect("made");
    near.farside(&["key", "export", "--shares", "3", "--threshold", "2", "-o", &text(&shares)]).ok();
    near.farside(&["backup", "target", "add", "vault", &target]).ok();
    near.farside(&["backup", "now", "vault"]).ok();
    near.farside(&["repair", "limit", "--rate", "2MiB"]).ok();
    wait_for("far has it", || is_shared(&near, &["--site"]));
    let before = log(&near, &["--site"]);
    let port = near.port;
    near.kill();
    std::fs::remove_dir_all(&near.directory).expect("the site is gone");
    let files = format!("{0}/share-1.txt,{0}/share-3.txt", text(&shares));
    let (dir, listen) = (text(&near.directory), format!("127.0.0.1:{port}"));
    let mut restore = vec!["restore", "--target", &target, "--shares", &files, "--dir", &dir, "--listen", &listen];
    restore.extend(["--device-size", "128MiB", "--cores", "0"]);
    farside(&restore).ok();
    let mut near = Site::at(near.directory.clone(), port);
    near.run();
    near.farside(&["repair", "limit", "--rate", "3MiB"]).ok();
    let after = log(&near, &["--site"]);
    let restored = after.iter().position(|entry| entry["action"] == "site.restore").expect("it says so");
    assert_eq!(after[restored]["incarnation"], 1);
    assert!(restored < before.len() && after[..restored] == before[..restored], "what was backed up is there");
    near.farside(&["audit", "verify", "--site"]).ok();
    // Far has what was lost, and what came instead.
    wait_for("far has the rest", || {
        let there = log(&far, &["--site", "--peer", "near"]);
        there.len() == before.len() + after.len() - restored && there[..before.len()] == before
    });
    // The connection to the site as it was has to end first.
    wait_for("near is asked", || is_shared(&far, &["--site", "--peer", "near"]));
    let verified = far.farside(&["audit", "verify", "--site", "--peer", "near", "--json"]).json();
    assert_eq!((&verified["good"], &verified["peers"][0]["agrees"]), (&true.into(), &true.into()), "{verified}");
    let lost = &verified["lost"][0];
    assert_eq!((&lost["from_seq"], &lost["to_seq"]), (&(restored + 1).into(), &before.len().into()), "{verified}");
    assert!(near.alerts().find("audit").is_none(), "{}", near.alerts());
}
