//! A tree as it is: odd names, empty things, links, times, modes; unreadable and special files told; back identical.

use farside_tests::{Site, bytes, farside, farside_within, skip};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

type Entry = (u32, i64, i64, Vec<u8>);

/// Every entry: mode, modification time, contents or link target.
fn entries(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("metadata");
            let contents = match metadata.file_type() {
                kind if kind.is_symlink() => {
                    std::fs::read_link(&path).expect("a target").as_os_str().as_bytes().to_vec()
                }
                kind if kind.is_dir() => {
                    left.push(path.clone());
                    Vec::new()
                }
                _ => std::fs::read(&path).expect("read"),
            };
            let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
            let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
            found.insert(name, (mode, metadata.mtime(), metadata.mtime_nsec(), contents));
        }
    }
    found
}

fn build(root: &Path) {
    let write = |name: &[u8], contents: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, contents).expect("written");
    };
    write(b"empty", b"");
    write(b"sixteen-k", &bytes(1, 16 << 10));
    write(b"sixteen-k-and-one", &bytes(2, (16 << 10) + 1));
    write(b"two-chunks", &bytes(3, (4 << 20) + 5));
    write(b"exactly-one-chunk", &bytes(4, 4 << 20));
    write(b"not utf-8 \xff\xfe", b"latin");
    write(b"with\nnewline and \"quotes\" and \x1b[31m", b"odd");
    let deep: Vec<u8> = (0..60).flat_map(|level| format!("level-{level}/").into_bytes()).chain(*b"file").collect();
    write(&deep, b"deep");
    write(b"a.b/c.d", b"dots");
    std::fs::create_dir(root.join("empty-directory")).expect("made");
    symlink("two-chunks", root.join("link")).expect("linked");
    symlink("/etc/passwd", root.join("link-out")).expect("linked");
    symlink("nowhere", root.join("dangling")).expect("linked");
    symlink("a.b", root.join("link-to-directory")).expect("linked");
    std::fs::hard_link(root.join("sixteen-k"), root.join("hard-link")).expect("linked");
    std::fs::set_permissions(root.join("sixteen-k"), Permissions::from_mode(0o640)).expect("set");
    std::fs::set_permissions(root.join("empty-directory"), Permissions::from_mode(0o711)).expect("set");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(86_400, 123_456_789);
    std::fs::File::open(root.join("empty")).expect("open").set_modified(old).expect("set");
    std::fs::File::open(root.join("a.b")).expect("open").set_modified(old).expect("set");
}

#[test]
fn a_tree_comes_back_identical() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &[]);
    site.make_log(&root.path().join("kms"), "acme/tree");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    build(&tree);
    let expected = entries(&tree);
    let (from, to) = (tree.display().to_string(), root.path().join("back").display().to_string());
    let put = site.farside(&["put", "-r", "acme/tree", &from, "--json"]).ok();
    assert_eq!(put.lines().count(), expected.len());
    assert!(put.contains("name_base64"), "a name that is not UTF-8");
    let listed = site.farside(&["ls", "acme/tree", "--json"]).ok();
    assert_eq!(listed.lines().count(), expected.len());
    site.farside(&["get", "-r", "acme/tree", &to]).ok();
    assert_eq!(entries(Path::new(&to)), expected);
    site.farside(&["get", "-r", "acme/tree", &to]).fails(2, "not empty");

    // The tree changes; the old one is still there under its sequence.
    let head = site.farside(&["log", "show", "acme/tree", "--json"]).json()["head_seq"].to_string();
    site.farside(&["rm", "acme/tree", "empty"]).ok();
    site.farside(&["put", "acme/tree", "sixteen-k", "/etc/hostname"]).ok();
    let then = root.path().join("then").display().to_string();
    site.farside(&["get", "-r", "acme/tree", &then, "--seq", &head]).ok();
    assert_eq!(entries(Path::new(&then)), expected);
    let history = site.farside(&["history", "acme/tree", "sixteen-k", "--json"]).ok();
    assert_eq!(history.lines().count(), 2);
    assert!(site.farside(&["history", "acme/tree", "empty"]).ok().contains("removed"));
    site.farside(&["get", "acme/tree", "empty"]).fails(5, "there is no empty");
}

/// After a key has become known: a tree of everything is sealed anew under another key, and is all there with the old one gone.
#[test]
fn a_log_is_sealed_anew_and_needs_the_old_key_no_more() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--device-size", "256MiB"]);
    let kms = root.path().join("kms");
    site.make_log(&kms, "acme/old");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    build(&tree);
    let expected = entries(&tree);
    site.farside(&["put", "-r", "acme/old", &tree.display().to_string()]).ok();

    let reseal = |new: &str| site.farside(&["tenant", "reseal", "acme/old", new, "--json"]);
    reseal("new").fails(3, "farside tenant rotate acme");
    site.farside(&["log", "show", "acme/new"]).fails(5, "acme/new");
    reseal("old").fails(2, "into itself");
    reseal("a/b").fails(2, "a/b");
    site.farside(&["tenant", "reseal", "acme/none", "new"]).fails(5, "acme/none");
    site.farside(&["log", "policy", "acme/old", "--history", "3d"]).ok();
    site.farside(&["tenant", "rotate", "acme"]).ok();
    let done = reseal("new").json();
    assert_eq!(done["objects"], expected.len(), "{done}");
    assert_eq!(site.farside(&["log", "show", "acme/new", "--json"]).json()["history_seconds"], 3 * 86_400);
    // Nothing is done twice.
    let again = reseal("new").json();
    assert_eq!((&again["objects"], &again["there"]), (&0.into(), &expected.len().into()), "{again}");
    let whole = root.path().join("whole");
    site.farside(&["get", "-r", "acme/new", &whole.display().to_string()]).ok();
    assert_eq!(entries(&whole), expected);

    // Somebody uses the new one already; others still write to the old one.
    let put = |log: &str, name: &str, contents: &[u8]| {
        let path = root.path().join("in");
        std::fs::write(&path, contents).expect("written");
        site.farside(&["put", log, name, &path.display().to_string()]).ok();
    };
    put("acme/new", "sixteen-k", b"newer words");
    put("acme/old", "sixteen-k", b"later words");
    put("acme/old", "two-chunks", b"late words");
    let many = bytes(5, 60 << 20);
    put("acme/old", "many-chunks", &many);
    site.farside(&["rm", "acme/new", "a.b/c.d"]).ok();
    site.farside(&["rm", "acme/old", "empty"]).ok();
    let counts =
        |told: &Value| ["objects", "others", "removed", "failed"].map(|what| told[what].as_u64().expect("a figure"));
    assert_eq!(counts(&reseal("new").json()), [2, 2, 1, 0]);
    // What was removed comes back, and what was copied is replaced once more.
    put("acme/old", "empty", b"no more");
    put("acme/old", "two-chunks", b"latest words");
    assert_eq!(counts(&reseal("new").json()), [2, 2, 0, 0]);
    assert_eq!(counts(&reseal("new").json()), [0, 2, 0, 0]);
    // A log that holds other things is not mixed with it.
    site.farside(&["log", "create", "acme/other"]).ok();
    put("acme/other", "mine", b"mine");
    reseal("other").fails(3, "a log of its own");

    // The key that became known is destroyed: the new log is all there, the old one can't be read any more.
    std::fs::remove_file(kms.join("acme.v1.key")).expect("it was there");
    let get = |log: &str, name: &str| site.farside(&["get", log, name]);
    assert_eq!(get("acme/new", "sixteen-k").stdout, b"newer words");
    assert_eq!(get("acme/new", "two-chunks").stdout, b"latest words");
    assert_eq!(get("acme/new", "exactly-one-chunk").stdout, bytes(4, 4 << 20));
    assert!(get("acme/new", "many-chunks").stdout == many, "it differs");
    assert_eq!(get("acme/new", "empty").stdout, b"no more");
    get("acme/new", "a.b/c.d").fails(5, "there is no a.b/c.d");
    assert_ne!(get("acme/old", "exactly-one-chunk").code, 0, "the old key is gone");
}

#[test]
fn a_tree_goes_into_every_log_of_a_node_with_two_shards() {
    if farside_io::cores::available().expect("cores").len() < 2 {
        return skip("two shards need two cores");
    }
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0,1"]);
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    for number in 0..40 {
        let length = [10, 20_000, 300_000][number as usize % 3];
        std::fs::write(tree.join(format!("file-{number}")), bytes(number, length)).expect("written");
    }
    let (from, dir) = (tree.display().to_string(), site.directory.display().to_string());
    site.farside(&["tenant", "create", "acme", "--kms", &format!("file:{}", root.path().join("kms").display())]).ok();
    // Logs fall to groups, and groups to shards, by chance: with eight of them both shards lead some.
    for log in 0..8 {
        let name = format!("acme/log-{log}");
        site.farside(&["log", "create", &name]).ok();
        let put = farside_within(Duration::from_secs(30), &["put", "--dir", &dir, "-r", &name, &from, "--json"]);
        assert_eq!(put.ok().lines().count(), 40, "{name}");
    }
}

#[test]
fn trouble_in_a_tree_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &[]);
    site.make_log(&root.path().join("kms"), "acme/tree");
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    std::fs::write(tree.join("good"), "good").expect("written");
    let fifo = std::process::Command::new("mkfifo").arg(tree.join("pipe")).status().expect("mkfifo runs");
    assert!(fifo.success());
    let from = tree.display().to_string();
    let put = site.farside(&["put", "-r", "acme/tree", &from]);
    assert_eq!(put.code, 0, "{}", put.stderr);
    assert!(put.stderr.contains("pipe: skipped"), "{}", put.stderr);

    // A file that grows while it is read is told, and the whole is a failure.
    let growing = tree.join("growing");
    std::fs::write(&growing, bytes(1, 1 << 20)).expect("written");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (stop, growing) = (stop.clone(), growing.clone());
        std::thread::spawn(move || {
            use std::io::Write;
            let mut file = std::fs::File::options().append(true).open(growing).expect("open");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"more").expect("written");
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        })
    };
    let put = site.farside(&["put", "-r", "acme/tree", &from]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().expect("ended");
    put.fails(1, "growing: changed while it was read");
    farside(&["put", "-r", "acme/tree", "/no/such/tree", "--dir", &site.directory.display().to_string()])
        .fails(1, "No such file");
}
