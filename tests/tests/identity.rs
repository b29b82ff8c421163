//! Who may call a site: identities are issued, listed, expire and are revoked; what is revoked is refused everywhere, at once
//! and for good.

use farside::client::{Client, ClientError, ClientSettings, Context};
use farside_codec::message::Request;
use farside_tests::{Cluster, Outcome, Site, farside};
use farside_transport::Rejection;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Within this every node of a site refuses what was revoked, and has closed what was open under it.
const BOUND: Duration = Duration::from_secs(5);

/// One site at a time: two cores carry three nodes, not nine.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Issues an identity at a site; answers its context.
fn issue(site: &Site, root: &Path, name: &str, more: &[&str]) -> PathBuf {
    let output = root.join("identities");
    site.farside(&[&["identity", "issue", name, "-o", &text(&output)], more].concat()).ok();
    output.join(format!("{name}.context"))
}

fn with(context: &Path, arguments: &[&str]) -> Outcome {
    farside(&[arguments, &["--context", &text(context)]].concat())
}

/// A context that leads to one node only.
fn at_node(context: &Path, node: &Site) -> PathBuf {
    let mut only = Context::load(context).expect("a context");
    only.endpoints = vec![format!("127.0.0.1:{}", node.port)];
    let path = context.with_extension(format!("{}.context", node.port));
    only.save(&path).expect("written");
    path
}

fn listed(site: &Site, name: &str) -> Vec<Value> {
    let told = site.farside(&["identity", "list", "--json"]).ok();
    let all = told.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is an object"));
    all.filter(|identity| identity["name"] == name).collect()
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn connect(context: &Path) -> Client {
    let context = Context::load(context).expect("a context");
    Client::connect(&context, ClientSettings::in_memory()).await.expect("connected")
}

/// Asks over and over on one connection until the site turns the caller away; answers why and after how long.
async fn turned_away(client: &Client) -> (Rejection, Duration) {
    let begun = Instant::now();
    loop {
        if let Err(error) = client.control(&Request::ListTenants).await {
            let why = match &error {
                ClientError::TurnedAway(_, rejection) => Some(*rejection),
                _ => None,
            };
            return (why.ok_or(error).expect("nothing else goes wrong"), begun.elapsed());
        }
        assert!(begun.elapsed() < 2 * BOUND, "nobody turns it away");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn counter(site: &Site, name: &str) -> u64 {
    let status = site.status();
    let counters = status["counters"].as_array().cloned().unwrap_or_default();
    counters.iter().filter_map(|counters| counters[name].as_u64()).sum()
}

#[test]
fn identities_are_issued_listed_and_revoked() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let mut site = Site::start(root, "near", &["--cores", "0"]);
    site.make_log(&root.join("kms"), "acme/data");
    site.make_log(&root.join("kms"), "other/data");
    let output = root.join("identities");
    let client = issue(&site, root, "web-1", &["--tenant", "acme", "--life", "90d"]);
    let anna = issue(&site, root, "anna", &["--operator"]);
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&output), mode(&client), mode(&anna)), (0o700, 0o600, 0o600));
    assert_eq!(std::fs::read_dir(&output).expect("listed").count(), 2, "nothing else is left");

    // Nothing is overwritten, no name is given twice, and what makes no sense is refused.
    let before = std::fs::read(&client).expect("read");
    let out = text(&output);
    site.farside(&["identity", "issue", "web-1", "--tenant", "acme", "-o", &out]).fails(1, "already exists");
    assert!(std::fs::read(&client).expect("read") == before);
    let elsewhere = text(&root.join("elsewhere"));
    site.farside(&["identity", "issue", "web-1", "--tenant", "other", "-o", &elsewhere]).fails(1, "is called web-1");
    assert_eq!(std::fs::read_dir(&elsewhere).expect("listed").count(), 0);
    site.farside(&["identity", "issue", "x", "--tenant", "none", "-o", &elsewhere]).fails(5, "there is no tenant none");
    site.farside(&["identity", "issue", "x", "-o", &elsewhere]).fails(2, "--operator");
    site.farside(&["identity", "issue", "Web 1", "--operator", "-o", &elsewhere]).fails(2, "is no name");
    site.farside(&["identity", "issue", "x", "--operator", "--life", "0s", "-o", &elsewhere]).fails(2, "a second");
    site.farside(&["identity", "issue", "x", "--operator", "--life", "4000d", "-o", &elsewhere]).fails(2, "ten years");
    site.farside(&["identity", "issue", "x", "--operator", "-o", &text(&client)]).fails(1, "exists");
    site.farside(&["identity", "issue", "x", "--operator", "-o", &text(&root.join("no/parent"))])
        .fails(1, "No such file");

    // Each may do what it was issued for.
    let logs = with(&client, &["log", "list"]).ok();
    assert!(logs.contains("acme/data") && !logs.contains("other/data"), "{logs}");
    with(&client, &["identity", "list"]).fails(1, "may not ask this");
    with(&client, &["identity", "revoke", "anna"]).fails(1, "may not ask this");
    with(&anna, &["status"]).ok();
    let of_client = &listed(&site, "web-1")[0];
    assert_eq!(
        (&of_client["role"], &of_client["tenant"], &of_client["state"]),
        (&"client".into(), &"acme".into(), &"good".into())
    );
    assert!(of_client["revoked"].is_null() && of_client["revoked_by"].is_null(), "{of_client}");
    let roles: Vec<Value> = listed(&site, "1").iter().map(|identity| identity["role"].clone()).collect();
    assert!(roles.contains(&"node".into()) && roles.contains(&"peer".into()), "the node's own are listed: {roles:?}");

    // One that was made on the node's own machine is listed once it is shown.
    let exported = root.join("exported.context");
    site.farside(&["context", "export", "--tenant", "other", "-o", &text(&exported)]).ok();
    with(&exported, &["log", "list"]).ok();
    let begun = Instant::now();
    while listed(&site, "other").is_empty() {
        assert!(begun.elapsed() < BOUND, "what was shown is not listed");
    }

    // The token of somebody who never comes is no good any more once it is revoked.
    let token = site.farside(&["invite"]).ok();
    let invited =
        listed(&site, "invited-node").pop().expect("it is listed")["serial"].as_str().expect("text").to_owned();
    site.farside(&["identity", "revoke", &invited]).ok();
    let join = ["join", "--dir", &text(&root.join("two")), "--token", token.trim(), "--listen", "127.0.0.1:9"];
    farside(&[&join[..], &["--device-size", "128MiB"]].concat()).fails(4, "revoked");

    // Revoked by name, by anna, and known to be after a crash.
    site.farside(&["identity", "revoke", "nobody"]).fails(5, "nobody");
    with(&anna, &["identity", "revoke", "web-1"]).ok();
    with(&client, &["log", "list"]).fails(3, "it was revoked");
    assert!(counter(&site, "refused_revoked") > 0);
    let revoked = &listed(&site, "web-1")[0];
    assert_eq!((&revoked["state"], &revoked["revoked_by"]), (&"revoked".into(), &"anna".into()));
    let first = revoked["revoked"].clone();
    site.farside(&["identity", "revoke", "web-1"]).ok();
    assert_eq!(
        (&listed(&site, "web-1")[0]["revoked"], &listed(&site, "web-1")[0]["revoked_by"]),
        (&first, &"anna".into())
    );
    site.kill();
    site.run();
    with(&client, &["log", "list"]).fails(3, "it was revoked");
    // Its name is free again.
    std::fs::remove_file(&client).expect("removed");
    let again = issue(&site, root, "web-1", &["--tenant", "acme"]);
    with(&again, &["log", "list"]).ok();

    // The last operator stays, unless somebody insists; then there is a way back.
    let node = listed(&site, "1").into_iter().find(|one| one["role"] == "node").expect("listed");
    site.farside(&["identity", "revoke", node["serial"].as_str().expect("text")]).fails(3, "node remove");
    with(&anna, &["identity", "revoke", "admin"]).ok();
    site.farside(&["status"]).fails(3, "it was revoked");
    with(&anna, &["identity", "revoke", "anna"]).fails(3, "the last identity of an operator");
    with(&anna, &["status"]).ok();
    with(&anna, &["identity", "revoke", "anna", "--force"]).ok();
    with(&anna, &["status"]).fails(3, "it was revoked");
    let own = text(&site.directory.join("admin.context"));
    site.farside(&["context", "export", "-o", &own]).ok();
    assert!(site.farside(&["status"]).ok().contains("near"));
    site.farside(&["identity", "list"]).ok();
}

#[test]
fn what_has_expired_is_told_from_what_was_revoked() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let site = Site::start(root, "near", &["--cores", "0"]);
    site.make_log(&root.join("kms"), "acme/data");
    let brief = issue(&site, root, "brief", &["--tenant", "acme", "--life", "8s"]);
    assert!(!site.alerts().contains("expire soon"), "not in the first half of its life");
    on_runtime(async {
        let client = connect(&brief).await;
        let (rejection, _) = turned_away(&client).await;
        assert_eq!(rejection, Rejection::Expired, "a connection does not outlive the certificate");
    });
    with(&brief, &["log", "list"]).fails(3, "its certificate has expired");
    assert_eq!(listed(&site, "brief")[0]["state"], "expired");
    assert!(counter(&site, "refused_expired") > 0 && counter(&site, "refused_revoked") == 0);
    // Before that it is told of.
    issue(&site, root, "soon", &["--tenant", "acme", "--life", "9s"]);
    let begun = Instant::now();
    while !site.alerts().contains("soon in 0 h") {
        assert!(begun.elapsed() < Duration::from_secs(9), "nothing is told of its end");
    }
    // A name whose holder can't show it any more is free.
    std::fs::remove_file(&brief).expect("removed");
    let brief = issue(&site, root, "brief", &["--tenant", "acme"]);
    with(&brief, &["log", "list"]).ok();
}

#[test]
fn every_node_of_a_site_cuts_off_who_was_revoked_for_good() {
    let _machine = alone();
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let size = ["--geometry", "2+1", "--device-count", "2", "--device-size", "96MiB"];
    let mut cluster = Cluster::start(root, "near", 3, &size);
    cluster.make_log(&root.join("kms"), "acme/data");
    let client = issue(&cluster.nodes[0], root, "web-1", &["--tenant", "acme"]);
    let late = issue(&cluster.nodes[0], root, "web-2", &["--tenant", "acme"]);
    let only: Vec<PathBuf> = cluster.nodes.iter().map(|node| at_node(&client, node)).collect();
    on_runtime(async {
        let mut clients = Vec::new();
        for context in &only {
            clients.push(connect(context).await);
        }
        for client in &clients {
            client.control(&Request::ListTenants).await.expect("it is let in");
        }
        cluster.farside(&["identity", "revoke", "web-1"]).ok();
        let done = Instant::now();
        for (node, client) in clients.iter().enumerate() {
            let (rejection, _) = turned_away(client).await;
            assert_eq!(rejection, Rejection::Revoked);
            assert!(done.elapsed() < BOUND, "node {node} let it in for {:?}", done.elapsed());
            println!("node {} cut it off within {:?} of the answer", node + 1, done.elapsed());
        }
    });
    only.iter().for_each(|context| with(context, &["log", "list"]).fails(3, "it was revoked"));

    // A node that is down meanwhile lets nobody in before it knows.
    cluster.nodes[2].kill();
    let begun = Instant::now();
    while cluster.farside(&["identity", "revoke", "web-2"]).code != 0 {
        assert!(begun.elapsed() < 6 * BOUND, "two of three can't revoke");
    }
    cluster.nodes[2].run();
    let only_late = at_node(&late, &cluster.nodes[2]);
    let begun = Instant::now();
    loop {
        let asked = with(&only_late, &["log", "list"]);
        assert_ne!(asked.code, 0, "a node that was down lets in who was revoked");
        if asked.code == 3 {
            asked.fails(3, "it was revoked");
            break;
        }
        assert!(begun.elapsed() < 6 * BOUND, "{asked:?}");
    }

    // All of them die at once, and know it still.
    cluster.nodes.iter_mut().for_each(Site::kill);
    cluster.nodes.iter_mut().for_each(Site::run);
    for node in &cluster.nodes {
        for context in [at_node(&client, node), at_node(&late, node)] {
            let begun = Instant::now();
            loop {
                let asked = with(&context, &["log", "list"]);
                assert_ne!(asked.code, 0, "it is let in after a crash");
                if asked.code == 3 {
                    asked.fails(3, "it was revoked");
                    break;
                }
                assert!(begun.elapsed() < 6 * BOUND, "{asked:?}");
            }
        }
    }
}
