//! A demo that does not come to its end leaves neither nodes nor gigabytes behind.

use farside_tests::{binary, command, signal};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Runs a demo below `root` until its nodes are up.
fn start(root: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut demo = command(&["demo", "--size", "1MiB"]);
    let mut demo = demo.env("TMPDIR", root).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut output = BufReader::new(demo.stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.starts_with("putting data") {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0, "it ended");
    }
    assert_eq!(nodes(root).len(), 2);
    (demo, output)
}

/// Nodes that run below `root`.
fn nodes(root: &Path) -> Vec<PathBuf> {
    let root = root.display().to_string();
    let running = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.starts_with(&binary().display().to_string()) && line.contains("node") && line.contains(&root)
    };
    let entries = std::fs::read_dir("/proc").expect("listed").flatten();
    entries.map(|entry| entry.path()).filter(running).collect()
}

fn left(root: &Path) -> usize {
    std::fs::read_dir(root).expect("listed").count()
}

/// Nothing runs there any more, within a moment.
fn quiet(root: &Path) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        nodes(root).is_empty()
    })
}

#[test]
fn signals_and_closed_pipes_leave_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut demo, output) = start(root.path());
    signal("-TERM", demo.id());
    assert_eq!(demo.wait().expect("ended").code(), Some(143));
    assert!(quiet(root.path()));
    assert_eq!(left(root.path()), 0);
    drop(output);

    // Nobody reads on.
    let (mut demo, output) = start(root.path());
    drop(output);
    assert_eq!(demo.wait().expect("ended").code(), Some(141));
    assert!(quiet(root.path()));
    assert_eq!(left(root.path()), 0);
}

#[test]
fn a_killed_demo_takes_its_nodes_along_and_the_next_one_cleans_up() {
    let root = tempfile::tempdir().expect("a directory");
    let (mut demo, _output) = start(root.path());
    demo.kill().expect("killed");
    demo.wait().expect("ended");
    assert!(quiet(root.path()));
    assert_eq!(left(root.path()), 1);
    let (mut demo, _output) = start(root.path());
    assert_eq!(left(root.path()), 1);
    signal("-INT", demo.id());
    assert_eq!(demo.wait().expect("ended").code(), Some(130));
    assert_eq!(left(root.path()), 0);
}
