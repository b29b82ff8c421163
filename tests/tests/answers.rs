//! Where answers go: files written whole or not at all, pipes, devices, a reader who has left, a disk that is full.

use farside_tests::{Site, bytes, command, names, signal};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// A site with a log `acme/data` that holds a file, a link and a directory.
fn site(root: &Path) -> Site {
    let site = Site::start(root, "near", &["--cores", "0"]);
    site.make_log(&root.join("kms"), "acme/data");
    let tree = root.join("tree");
    std::fs::create_dir_all(tree.join("folder")).expect("made");
    std::fs::write(tree.join("file"), "contents").expect("written");
    symlink("file", tree.join("link")).expect("linked");
    site.farside(&["put", "-r", "acme/data", &tree.display().to_string()]).ok();
    site
}

#[test]
fn files_are_written_whole_and_nothing_else_is_touched() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let dir = site.directory.display().to_string();
    let out = root.path().join("out");
    std::fs::create_dir(&out).expect("made");
    // A bare name, beside a file that is called almost so.
    std::fs::write(out.join("near.new"), "another's").expect("written");
    let export = |target: &str| {
        let mut command = command(&["context", "export", "--dir", &dir, "-o", target]);
        command.current_dir(&out).output().expect("it runs")
    };
    assert!(export("near.context").status.success());
    assert_eq!(std::fs::read(out.join("near.new")).expect("read"), b"another's");
    site.farside(&["status", "--context", &out.join("near.context").display().to_string()]).fails(2, "name two sites");
    let context = std::fs::read(out.join("near.context")).expect("read");
    std::fs::create_dir(out.join("folder")).expect("made");
    for directory in ["folder", "nothing/"] {
        assert_eq!(export(directory).status.code(), Some(1), "{directory}");
    }
    assert_eq!(names(&out), ["folder", "near.context", "near.new"]);
    // Standard output, by any name, gets the contents and nothing else.
    for standard in ["-", "/dev/stdout"] {
        let answer = export(standard).stdout;
        // Each has an identity of its own, whose signature may be a byte longer.
        assert!(answer.starts_with(&context[..4]) && answer.len().abs_diff(context.len()) < 8, "{standard}");
    }

    let path = |name: &str| out.join(name).display().to_string();
    let get = |name: &str, target: &str| site.farside(&["get", "acme/data", name, "-o", target]);
    get("file", &path("file")).ok();
    assert_eq!(std::fs::read(out.join("file")).expect("read"), b"contents");
    // A device, reached by a link so that a mistake here costs only the link.
    let is_device = || std::fs::metadata("/dev/null").is_ok_and(|null| null.file_type().is_char_device());
    assert!(is_device(), "this machine's own /dev/null is none");
    symlink("/dev/null", out.join("null")).expect("linked");
    get("file", &path("null")).ok();
    assert!(out.join("null").is_symlink() && is_device());
    get("file", &path("folder")).fails(1, "directory");
    get("link", "-").fails(2, "link is a link to file");
    get("folder", &path("new")).fails(2, "folder is a directory");
    assert_eq!(names(&out), ["file", "folder", "near.context", "near.new", "null"]);
    // Half a context, and two of them.
    for damaged in [&context[..context.len() / 2], &[&context[..], &context].concat(), b""] {
        std::fs::write(out.join("damaged"), damaged).expect("written");
        farside_tests::farside(&["status", "--context", &path("damaged")]).fails(6, "is damaged");
    }
}

#[test]
fn an_answer_that_nobody_gets_is_no_success() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let dir = site.directory.display().to_string();
    let full = |arguments: &[&str]| {
        let full = File::options().write(true).open("/dev/full").expect("open");
        let output = command(arguments).args(["--dir", &dir]).stdout(full).stderr(Stdio::piped()).spawn();
        let output = output.expect("it runs").wait_with_output().expect("ended");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [
        &["ls", "acme/data"][..],
        &["put", "--json", "acme/data", "another", "/etc/hostname"],
        &["get", "acme/data", "file"],
        &["status"],
        &["--help"],
    ] {
        let (code, said) = full(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output: No space left"), "{arguments:?}: {said}");
    }
    // A reader who has left is no reason to say anything.
    let mut child = command(&["status", "--dir", &dir]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
    // Nor is one of standard error.
    let mut child = command(&["get", "acme/data", "no\nsuch", "--dir", &dir]);
    let mut child = child.stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("ended").code(), Some(5));
    site.farside(&["get", "acme/data", "no\nsuch"]).fails(5, "no\\nsuch");
}

#[test]
fn an_interrupted_get_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let site = site(root.path());
    let (input, out) = (root.path().join("input"), root.path().join("out"));
    std::fs::write(&input, bytes(1, 64 << 20)).expect("written");
    std::fs::create_dir(&out).expect("made");
    site.farside(&["put", "acme/data", "large", &input.display().to_string()]).ok();
    let (dir, target) = (site.directory.display().to_string(), out.join("large").display().to_string());
    // One that is done before the signal comes shows nothing; that is rare.
    let interrupted = (0..20).any(|_| {
        let mut child = command(&["get", "--dir", &dir, "acme/data", "large", "-o", &target]).spawn().expect("it runs");
        while names(&out).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(names(&out)[0].starts_with(".farside-") || names(&out) == ["large"]);
        signal("-INT", child.id());
        let code = child.wait().expect("ended").code();
        let left = names(&out);
        let _ = std::fs::remove_file(&target);
        code == Some(130) && left.is_empty()
    });
    assert!(interrupted);
}

#[test]
fn a_node_prints_one_line_and_needs_no_reader() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::init(root.path(), "near", &["--cores", "0"]);
    let dir = site.directory.display().to_string();
    let mut command = command(&["node", "--dir", &dir]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut ready = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
    stdout.read_line(&mut ready).expect("a line");
    assert!(ready.starts_with("ready "), "{ready}");
    drop((stdout, child.stderr.take()));
    site.make_log(&root.path().join("kms"), "acme/data");
    signal("-TERM", child.id());
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}
