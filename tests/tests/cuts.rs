//! A failover to a cut: every log as it was at one time, whatever came later set aside; and one that is interrupted goes on.

use farside::client::{Context, Upload, parse_label};
use farside_tests::{Site, as_client, bytes, rounds, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn two_sites(root: &Path, logs: &[&str]) -> (Site, Site) {
    let (near, far) = (Site::start(root, "near", &["--cores", "0"]), Site::start(root, "far", &["--cores", "1"]));
    let kms = root.join("kms");
    near.make_log(&kms, logs[0]);
    logs[1..].iter().for_each(|log| drop(near.farside(&["log", "create", log]).ok()));
    near.join(&far);
    wait_for("far has heard of the tenant", 20, || far.farside(&["tenant", "list"]).ok().contains("acme"));
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    (near, far)
}

fn put(site: &Site, log: &str, name: &str) {
    site.farside(&["put", log, name, "/etc/hostname"]).ok();
}

fn has(site: &Site, log: &str, name: &str) -> bool {
    let listed = site.farside(&["ls", log]);
    listed.code == 0 && String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.ends_with(name))
}

fn log<'a>(report: &'a Value, name: &str) -> &'a Value {
    report.as_array().expect("a list").iter().find(|log| log["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn all_logs_go_on_from_one_time() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut near, far) = two_sites(root.path(), &["acme/orders", "acme/photos", "acme/quiet"]);
    for log in ["acme/orders", "acme/photos"] {
        put(&near, log, "first");
    }
    near.wait_caught_up();
    // A photo takes long to cross; an order that refers to it, and is placed after it, does not.
    near.farside(&["peer", "limit", "far", "--rate", "1Mbit"]).ok();
    let photo = root.path().join("photo");
    std::fs::write(&photo, bytes(1, 12_000_000)).expect("written");
    near.farside(&["put", "acme/photos", "second", &photo.display().to_string()]).ok();
    put(&near, "acme/orders", "of-second");
    wait_for("the order is at far", 30, || has(&far, "acme/orders", "of-second"));
    // And far has heard where near's logs are.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!has(&far, "acme/photos", "second"), "it has crossed already");
    near.kill();

    let drilled = far.farside(&["drill", "--json"]).json();
    let report = far.farside(&["failover", "--at", "cut", "--json"]).json();
    assert_eq!(report["cut"], drilled["cut"], "a drill names the cut beforehand");
    let (orders, photos) = (log(&report["logs"], "acme/orders"), log(&report["logs"], "acme/photos"));
    assert_eq!((orders["position_seq"].as_u64(), orders["set_aside_deltas"].as_u64()), (Some(1), Some(1)));
    assert_eq!((photos["position_seq"].as_u64(), photos["lost_deltas_max"].as_u64()), (Some(1), Some(1)));
    assert!(has(&far, "acme/orders", "first") && has(&far, "acme/photos", "first"));
    assert!(!has(&far, "acme/orders", "of-second"), "an order of a photo that was lost");
    let aside = far.farside(&["divergence", "list", "acme/orders", "--json"]).json();
    assert_eq!((aside["name"].as_str(), aside["seq"].as_u64()), (Some("of-second"), Some(2)));
    put(&far, "acme/orders", "new");

    // Ordered again it changes nothing, and tells what was done before.
    let again = far.farside(&["failover", "--at", "cut", "--json"]).json();
    assert_eq!((again["logs"].as_array().map(Vec::len), again["before"].as_array().map(Vec::len)), (Some(0), Some(3)));
    let before = log(&again["before"], "acme/photos");
    assert_eq!((before["position_seq"].as_u64(), before["lost_deltas_max"].as_u64()), (Some(1), Some(1)));
    assert!(has(&far, "acme/orders", "new"));
    let said = far.farside(&["failover"]).ok();
    assert!(said.contains("promoted before"), "{said}");

    // The old home follows: it loses what the cut has left out.
    near.run();
    far.wait_caught_up();
    assert!(has(&near, "acme/orders", "new") && !has(&near, "acme/orders", "of-second"));
    far.farside(&["failover", "--at", "yesterday"]).fails(2, "possible values: latest, cut");
}

#[test]
fn quiet_logs_hold_no_cut_back() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut near, far) = two_sites(root.path(), &["acme/busy", "acme/quiet", "acme/empty"]);
    put(&near, "acme/quiet", "a");
    near.wait_caught_up();
    put(&near, "acme/busy", "last");
    near.wait_caught_up();
    // Longer than a group at rest takes to close time, and its home and the copy to pass that on.
    std::thread::sleep(Duration::from_secs(7));
    near.kill();
    let report = far.farside(&["failover", "--at", "cut", "--json"]).json();
    let busy = log(&report["logs"], "acme/busy");
    assert_eq!((busy["position_seq"].as_u64(), busy["set_aside_deltas"].as_u64()), (Some(1), Some(0)), "{report}");
    assert!(has(&far, "acme/busy", "last"));
}

#[test]
fn an_interrupted_failover_goes_on_by_the_same_cut() {
    let count = rounds("FARSIDE_LOGS", 120);
    let root = tempfile::tempdir().expect("a directory");
    let (mut near, mut far) = two_sites(root.path(), &["acme/orders", "acme/late"]);
    let context = Context::load(&near.directory.join("admin.context")).expect("a context");
    as_client(&root.path().join("kms"), "acme", &context, async |client| {
        let acme = parse_label("acme").expect("a label");
        for number in 0..count {
            let name = parse_label(&format!("log-{number}")).expect("a label");
            client.create_log(&acme, &name).await.expect("created");
            let log = client.open_log(&format!("acme/log-{number}")).await.expect("opened");
            log.put(Upload::bytes(b"early", vec![1])).await.expect("put");
        }
    });
    near.wait_caught_up();
    std::thread::sleep(Duration::from_secs(7));
    // One log stays behind, and all others have something that came after its cut.
    near.farside(&["peer", "limit", "far", "--rate", "1Mbit"]).ok();
    let large = root.path().join("large");
    std::fs::write(&large, bytes(1, 12_000_000)).expect("written");
    near.farside(&["put", "acme/late", "large", &large.display().to_string()]).ok();
    let last = format!("acme/log-{}", count - 1);
    as_client(&root.path().join("kms"), "acme", &context, async |client| {
        for number in 0..count {
            let log = client.open_log(&format!("acme/log-{number}")).await.expect("opened");
            log.put(Upload::bytes(b"later", vec![2])).await.expect("put");
        }
    });
    wait_for("the last log is at far", 60, || has(&far, &last, "later"));
    near.kill();

    let mut begun = farside_tests::command(&["failover", "--at", "cut", "--dir", &far.directory.display().to_string()]);
    let mut begun = begun.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let promoted = || {
        let logs = far.farside(&["log", "list", "--json"]).ok();
        logs.lines().filter(|line| line.contains(r#""home":"far""#)).count()
    };
    // Some are promoted, or all are: a machine that is that fast shows the same from here on.
    wait_for("a log is promoted", 60, || promoted() > 0);
    far.kill();
    begun.kill().expect("killed");
    begun.wait().expect("gone");
    far.run();
    let report = far.farside(&["failover", "--at", "cut", "--json"]).json();
    let of = |part: &str| report[part].as_array().expect("a list").clone();
    let all: Vec<Value> = of("logs").into_iter().chain(of("before")).collect();
    assert_eq!((all.len(), of("refused").len()), (count + 2, 0), "{report}");
    for log in &all {
        let name = log["name"].as_str().expect("a name");
        let expected = if name.contains("log-") { 1 } else { 0 };
        assert_eq!(log["position_seq"].as_u64(), Some(expected), "{log}");
        assert_eq!(log["generation"], 2, "{log}: promoted once");
    }
    put(&far, &last, "new");
    assert!(has(&far, &last, "early") && !has(&far, &last, "later"));
}
