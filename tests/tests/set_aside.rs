//! What a failover undid is set aside at the old home: it can be listed, read back whole, and let go of, and only by who
//! knows what it is.

use farside_tests::{Site, bytes, farside};
use std::path::Path;
use std::time::{Duration, Instant};

fn put(root: &Path, site: &Site, name: &str, contents: &[u8]) {
    let file = root.join("in");
    std::fs::write(&file, contents).expect("written");
    site.farside(&["put", "acme/data", name, &file.display().to_string()]).ok();
}

#[test]
fn what_a_failover_undid_is_listed_exported_and_let_go_of() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let mut near = Site::init(root.path(), "near", &["--cores", "0"]);
    let config = near.directory.join("node.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, text.replace("gc_seconds = ", "gc_seconds = 1 # ")).expect("written");
    near.run();
    let far = Site::start(root.path(), "far", &["--cores", "0"]);
    near.make_log(&kms, "acme/data");
    near.join(&far);
    let put = |site: &Site, name: &str, contents: &[u8]| put(root.path(), site, name, contents);
    put(&near, "shared", &bytes(1, 500_000));
    near.wait_caught_up();
    // Only near has what follows: it is undone when far becomes home.
    near.farside(&["peer", "pause", "far"]).ok();
    let large = bytes(2, 6_000_000);
    put(&near, "only/here", b"first");
    put(&near, "only/here", &large);
    put(&near, "shared", b"changed");
    near.farside(&["rm", "acme/data", "shared"]).ok();
    far.farside(&["failover", "--from", "near", "--force"]).ok();
    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    put(&far, "newer", b"of far");
    near.farside(&["peer", "resume", "far"]).ok();
    far.wait_caught_up();

    let list = near.farside(&["divergence", "list", "acme/data", "--json"]).ok();
    let listed: Vec<serde_json::Value> = list.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<_> =
        listed.iter().map(|delta| (delta["kind"].as_str(), delta["name"].as_str(), &delta["size_bytes"])).collect();
    let (file, removed) = (Some("file"), Some("removed"));
    let expected = [(file, Some("only/here"), 5), (file, Some("only/here"), 6_000_000), (file, Some("shared"), 7)];
    for (shown, (kind, name, size)) in shown.iter().zip(expected) {
        assert_eq!((shown.0, shown.1, shown.2.as_u64()), (kind, name, Some(size)));
    }
    assert_eq!((shown.len(), shown[3].0), (4, removed));
    assert!(listed.iter().all(|delta| delta["generation"] == 1 && delta["undone_by_generation"] == 2));
    assert!(near.alerts().contains("4 deltas of acme/data were set aside"));
    // Elsewhere nothing was.
    assert!(far.farside(&["divergence", "list", "acme/data"]).ok().contains("nothing of acme/data was set aside here"));

    let out = root.path().join("undone");
    let out = out.display().to_string();
    let exported = near.farside(&["divergence", "export", "acme/data", "-o", &out, "--json"]).json();
    assert_eq!(
        (&exported["versions"], &exported["removals"], &exported["failures"]),
        (&3.into(), &1.into(), &0.into())
    );
    let sequence = |at: usize| listed[at]["seq"].as_u64().expect("a sequence");
    let read = |at: usize, name: &str| {
        let path = root.path().join(format!("undone/1-{}/{name}", sequence(at)));
        std::fs::read(path).expect("exported")
    };
    assert_eq!(read(0, "only/here"), b"first");
    assert!(read(1, "only/here") == large, "what was exported differs");
    assert_eq!(read(2, "shared"), b"changed");
    near.farside(&["divergence", "export", "acme/data", "-o", &out]).fails(2, "is not empty");

    // Who counts wrong has not looked; a client of the tenant may look as well.
    near.farside(&["divergence", "discard", "acme/data", "--deltas", "3"]).fails(3, "4 deltas are set aside, not 3");
    near.farside(&["divergence", "discard", "acme/none", "--deltas", "4"]).fails(5, "there is no log acme/none");
    near.farside(&["divergence", "discard", "acme/data"]).fails(2, "--deltas");
    let context = root.path().join("acme.context").display().to_string();
    near.farside(&["context", "export", "--tenant", "acme", "-o", &context]).ok();
    farside(&["tenant", "kms", "--context", &context, "acme", &format!("file:{}", kms.display())]).ok();
    assert_eq!(farside(&["divergence", "list", "--context", &context, "acme/data"]).ok().lines().count(), 5);

    let chunks = |site: &Site| site.status()["chunks"].as_u64().expect("a number");
    let before = chunks(&near);
    near.farside(&["divergence", "discard", "acme/data", "--deltas", "4"]).ok();
    // The same order once more: the answer to it may have been lost.
    near.farside(&["divergence", "discard", "acme/data", "--deltas", "4"]).ok();
    assert!(!near.alerts().contains("set aside"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while chunks(&near) >= before || chunks(&near) > chunks(&far) {
        assert!(Instant::now() < deadline, "GC freed nothing: {before} chunks, and {} now", chunks(&near));
        std::thread::sleep(Duration::from_millis(200));
    }
    let back = root.path().join("back").display().to_string();
    near.farside(&["get", "acme/data", "shared", "-o", &back]).ok();
    assert!(std::fs::read(&back).expect("read") == bytes(1, 500_000), "what both sites have stays");
}

#[test]
fn what_was_undone_is_applied_again_where_the_log_is_home() {
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let (near, far) =
        (Site::start(root.path(), "near", &["--cores", "0"]), Site::start(root.path(), "far", &["--cores", "0"]));
    near.make_log(&kms, "acme/data");
    near.join(&far);
    let put = |site: &Site, name: &str, contents: &[u8]| put(root.path(), site, name, contents);
    for name in ["changed", "fought over", "removed"] {
        put(&near, name, name.as_bytes());
    }
    near.wait_caught_up();
    near.farside(&["peer", "pause", "far"]).ok();
    let large = bytes(3, 6_000_000);
    put(&near, "changed", b"first");
    put(&near, "changed", &large);
    put(&near, "fought over", b"by near");
    near.farside(&["rm", "acme/data", "removed"]).ok();
    put(&near, "new", &bytes(4, 200_000));
    far.farside(&["failover", "--from", "near", "--force"]).ok();
    let into = far.directory.display().to_string();
    let reapply = ["divergence", "reapply", "acme/data", "--into", &into];
    near.farside(&["peer", "resume", "far"]).ok();
    far.wait_caught_up();
    assert!(near.alerts().contains("5 deltas of acme/data were set aside"));

    far.farside(&["tenant", "kms", "acme", &format!("file:{}", kms.display())]).ok();
    put(&far, "fought over", b"by far");
    std::fs::rename(&kms, root.path().join("away")).expect("renamed");

    // No command line has a way to the tenant's keys now, and needs none. What somebody has changed since is left alone.
    let first = near.farside(&[&reapply[..], &["--json"]].concat());
    first.fails(3, "was left alone: its name was changed");
    let first: serde_json::Value = serde_json::from_slice(&first.stdout).expect("JSON");
    assert_eq!((&first["placed_deltas"], &first["already_there_deltas"]), (&4.into(), &0.into()));
    assert_eq!((&first["sent_chunks"], first["sent_bytes"].as_u64() > Some(6_200_000)), (&3.into(), true), "{first}");
    let counts =
        |outcome: serde_json::Value| ["placed_deltas", "already_there_deltas"].map(|key| outcome[key].as_u64());
    let overwritten = near.farside(&[&reapply[..], &["--overwrite", "--json"]].concat()).json();
    assert_eq!(overwritten["sent_chunks"], 0);
    assert_eq!(counts(overwritten), [Some(1), Some(4)]);
    std::fs::rename(root.path().join("away"), &kms).expect("renamed");
    let read = |site: &Site, name: &str| site.farside(&["get", "acme/data", name]).stdout;
    far.wait_caught_up();
    for site in [&near, &far] {
        assert!(read(site, "changed") == large && read(site, "new") == bytes(4, 200_000));
        assert_eq!(read(site, "fought over"), b"by near");
        site.farside(&["get", "acme/data", "removed"]).fails(5, "no removed");
    }
    // What was applied again is not applied once more over what came after it.
    put(&far, "fought over", b"by far");
    for more in [&["--json"][..], &["--overwrite", "--json"]] {
        assert_eq!(counts(near.farside(&[&reapply[..], more].concat()).json()), [Some(0), Some(5)]);
    }
    assert_eq!(read(&far, "fought over"), b"by far");

    let elsewhere = near.directory.display().to_string();
    near.farside(&["divergence", "reapply", "acme/data"]).fails(2, "--into");
    near.farside(&["divergence", "reapply", "acme/none", "--into", &into]).fails(5, "no log acme/none");
    near.farside(&["divergence", "reapply", "acme/data", "--into", "/nowhere"]).fails(5, "/nowhere");
    near.farside(&["divergence", "reapply", "acme/data", "--into", &elsewhere, "--overwrite"])
        .fails(3, "home is site far");
}
