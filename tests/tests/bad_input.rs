//! Wrong arguments, wrong identities, damaged files: a clear sentence, the right exit code, and nothing lost.

use farside_tests::{Site, farside};
use std::path::Path;

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn wrong_arguments() {
    farside(&["--no-such-flag"]).fails(2, "unexpected argument");
    farside(&["frobnicate"]).fails(2, "unrecognized subcommand");
    farside(&["status"]).fails(2, "which site?");
    farside(&["node", "--dir", "/no/such/directory"]).fails(5, "not a node's directory");
    farside(&["ls", "a/b", "--dir", "/no/such/directory"]).fails(5, "not a node's directory");
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("site").display().to_string();
    farside(&["init", "--dir", &dir, "--site", "UPPER"]).fails(2, "no name");
    farside(&["init", "--dir", &dir, "--site", "near", "--geometry", "0+2"]).fails(2, "no geometry");
    farside(&["init", "--dir", &dir, "--site", "near", "--device-size", "much"]).fails(2, "no size");
    farside(&["init", "--dir", &dir, "--site", "near", "--device-size", "1MiB"]).fails(1, "too small");
    assert!(!Path::new(&dir).exists(), "a failed init leaves nothing");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(root.path().join("site/precious"), "x").expect("written");
    farside(&["init", "--dir", &dir, "--site", "near"]).fails(1, "not empty");
    assert!(root.path().join("site/precious").exists());
    // What is wrong with the arguments alone is said although there is no site to ask.
    let nobody = ["--context", "/no/such/context"];
    let check = |arguments: &[&str], code, what| farside(&[arguments, &nobody].concat()).fails(code, what);
    check(&["put", "acme/photos", "a"], 2, "NAME FILE");
    check(&["put", "-r", "nolog", "."], 2, "TENANT/LOG");
    check(&["log", "policy", "acme/photos", "--dedup", "some"], 2, "off, log or tenant");
    check(&["tenant", "create", "acme", "--kms", "foo"], 2, "file:DIR");
    check(&["peer", "add", "far", "token"], 2, "no peer token");
    check(&["ls", "acme/photos", "--at", "2026-02-30T00:00:00Z"], 2, "in no calendar");
    check(&["ls", "acme/photos", "--at", "1969-07-20T20:17:40Z"], 2, "before 1970");
    check(&["ls", "acme/photos"], 5, "/no/such/context is missing");
    let unset = farside_tests::command(&["status"]).env("FARSIDE_CONTEXT", "").output().expect("it runs");
    assert_eq!(unset.status.code(), Some(2), "an empty variable counts as unset");
}

#[test]
fn a_running_node_and_what_it_refuses() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &[]);
    let kms = root.path().join("kms");
    site.make_log(&kms, "acme/photos");
    site.make_log(&kms, "other/things");
    let dir = site.directory.display().to_string();
    farside(&["node", "--dir", &dir]).fails(1, "already running");

    let mut second = Site::init(root.path(), "second", &[]);
    let settings = second.directory.join("node.toml");
    let text = std::fs::read_to_string(&settings).expect("read");
    std::fs::write(&settings, text.replace(&second.port.to_string(), &site.port.to_string())).expect("written");
    assert!(second.try_run().1.contains("in use"));
    std::fs::write(&settings, text.replace("mtu", "mut")).expect("written");
    assert!(second.try_run().1.contains(": unknown field"));
    std::fs::write(&settings, text.replace("device-1", "device-0")).expect("written");
    assert!(second.try_run().1.contains("twice"));
    std::fs::write(&settings, text.replace("devices/device-1", "devices/../devices/device-0")).expect("written");
    assert!(second.try_run().1.contains("one device twice"));
    std::fs::write(&settings, text.replace("pool_bytes = ", "pool_bytes = 1 # ")).expect("written");
    assert!(second.try_run().1.contains("`pool_bytes` is below"));
    std::fs::write(&settings, &text).expect("written");
    second.run();
    assert_eq!(second.stop_by("-HUP"), 0);

    site.farside(&["put", "acme/nothing", "a", "/dev/null"]).fails(5, "no log");
    site.farside(&["get", "acme/photos", "nothing"]).fails(5, "there is no nothing");
    site.farside(&["put", "acme/photos", "a", "/no/such/file"]).fails(1, "No such file");
    site.farside(&["put", "nolog", "a", "/dev/null"]).fails(2, "TENANT/LOG");
    site.farside(&["tenant", "create", "acme", "--kms", "file:/tmp/x"]).fails(1, "exists already");
    site.farside(&["tenant", "create", "third", "--kms", "vault:x"]).fails(2, "no address");
    site.farside(&["failover"]).fails(5, "nothing to fail over");
    site.farside(&["ls", "acme/photos", "--at", "yesterday"]).fails(2, "RFC 3339");

    // A client of one tenant sees nothing of another's.
    let context = root.path().join("acme.context").display().to_string();
    site.farside(&["context", "export", "--tenant", "acme", "-o", &context]).ok();
    farside(&["tenant", "kms", "--context", &context, "acme", &format!("file:{}", kms.display())]).ok();
    farside(&["put", "--context", &context, "acme/photos", "mine", "/etc/hostname"]).ok();
    farside(&["ls", "--context", &context, "other/things"]).fails(5, "there is no log other/things");
    farside(&["status", "--context", &context]).fails(1, "may not ask");
    farside(&["failover", "--context", &context]).fails(1, "may not ask");
    // A damaged context, a context of another site at this address.
    flip(Path::new(&context), 200);
    farside(&["ls", "--context", &context, "acme/photos"]).fails(6, "damaged");
    // Another KMS computes other keys: nothing is sealed with them.
    let wrong = root.path().join("wrong-kms");
    let wrong_url = format!("file:{}", wrong.display());
    site.farside(&["tenant", "kms", "acme", &wrong_url]).fails(5, "is not there");
    std::fs::create_dir(&wrong).expect("made");
    std::fs::copy(kms.join("other.v1.key"), wrong.join("acme.v1.key")).expect("copied");
    site.farside(&["tenant", "kms", "acme", &wrong_url]).fails(3, "another key");
    site.farside(&["put", "acme/photos", "still works", "/etc/hostname"]).ok();
}

#[test]
fn tokens_are_good_once_and_names_are_unique() {
    let root = tempfile::tempdir().expect("a directory");
    let (near, far) = (Site::start(root.path(), "near", &[]), Site::start(root.path(), "far", &[]));
    let twin_root = root.path().join("elsewhere");
    std::fs::create_dir(&twin_root).expect("made");
    let twin = Site::start(&twin_root, "near", &[]);
    let token = far.farside(&["peer", "token"]).ok().trim().to_owned();
    near.farside(&["peer", "add", "far", "farside-peer-1.00"]).fails(2, "no peer token");
    near.farside(&["peer", "add", "far", &token[..token.len() - 2]]).fails(2, "no peer token");
    near.farside(&["peer", "add", "elsewhere", &token]).fails(2, "made by site far");
    near.farside(&["peer", "add", "far", &token]).ok();
    twin.farside(&["peer", "add", "far", &token]).fails(1, "used before");
    let another = far.farside(&["peer", "token"]).ok().trim().to_owned();
    twin.farside(&["peer", "add", "far", &another]).fails(1, "two sites of one name");
    let own = twin.farside(&["peer", "token"]).ok().trim().to_owned();
    near.farside(&["peer", "add", "near", &own]).fails(2, "like this one");
    assert!(near.farside(&["peer", "list"]).ok().contains("far"));
    near.farside(&["peer", "remove", "far"]).ok();
    near.farside(&["peer", "remove", "far"]).fails(5, "no peer far");
}

#[test]
fn flipped_identity_and_key_files_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &[]);
    for name in ["site.frame", "system.key", "authority.key", "node.identity", "peer.identity"] {
        let path = site.directory.join(name);
        let good = std::fs::read(&path).expect("read");
        for at in [0, 10, 40, good.len() - 1] {
            flip(&path, at);
            let (_, stderr) = site.try_run();
            assert!(stderr.contains(name) && stderr.contains("damaged"), "{name} at {at}: {stderr}");
            std::fs::write(&path, &good).expect("restored");
            std::fs::remove_file(site.log()).expect("a fresh log");
        }
    }
    site.run();
    assert_eq!(site.stop(), 0);
}
