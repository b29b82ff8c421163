//! Scenarios run real node processes of the real binary, kill them for real, and look at what is left.
//!
//! One file under tests/ each, named for what it shows. This is what they share: sites, commands, a tree of files. And
//! [`sim`] is the world in which everything fails, in virtual time; [`relay`] listens in on what sites and clients say;
//! [`lab`] runs other people's servers; [`linear`] judges what concurrent clients saw; [`fuzzing`] is what any bytes at all are thrown at; [`planted`] puts mistakes into
//! the engine to see whether anybody notices.

pub mod backups;
pub mod fuzzing;
pub mod lab;
pub mod linear;
pub mod namespaces;
pub mod planted;
pub mod relay;
pub mod sim;

use farside::client::{Client, ClientSettings, Context, parse_label};
use namespaces::Machines;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Once, mpsc};
use std::time::Duration;

/// The `farside` binary of this build.
pub fn binary() -> PathBuf {
    static BUILT: Once = Once::new();
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("farside");
    BUILT.call_once(|| {
        if !path.exists() {
            let built = Command::new(env!("CARGO")).args(["build", "-p", "farside", "--bin", "farside"]).status();
            assert!(built.expect("cargo runs").success(), "the binary builds");
        }
    });
    path
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; -1 if it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Checks that it succeeded, and answers standard output as text.
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "stderr: {}", self.stderr);
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks that it failed with `code`, saying `what`.
    pub fn fails(&self, code: i32, what: &str) {
        assert_eq!(self.code, code, "stdout: {} stderr: {}", String::from_utf8_lossy(&self.stdout), self.stderr);
        assert!(self.stderr.contains(what), "`{what}` is not in: {}", self.stderr);
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).expect("one JSON object")
    }
}

/// A command of `farside` without standard input, and of nobody's context.
pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("FARSIDE_CONTEXT").stdin(Stdio::null());
    command
}

/// Runs `farside` with these arguments.
pub fn farside<S: AsRef<OsStr>>(arguments: &[S]) -> Outcome {
    outcome(&mut command(arguments))
}

/// Runs a command to its end.
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().expect("the binary runs");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `farside` with these arguments, and kills it after `patience`: then the code is -1.
pub fn farside_within<S: AsRef<OsStr>>(patience: Duration, arguments: &[S]) -> Outcome {
    let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let process = child.id();
    let (ended, waits) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            signal("-KILL", process);
        }
    });
    let output = read_all(&mut child);
    drop(ended);
    watch.join().expect("the watch ends");
    output
}

fn read_all(child: &mut Child) -> Outcome {
    let mut stderr = child.stderr.take().expect("its errors");
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).expect("read");
        text
    });
    let mut stdout = Vec::new();
    child.stdout.take().expect("its output").read_to_end(&mut stdout).expect("read");
    let stderr = String::from_utf8_lossy(&errors.join().expect("read")).into_owned();
    Outcome { code: child.wait().expect("ended").code().unwrap_or(-1), stdout, stderr }
}

/// A port such that it and the next few are free for UDP.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes run side by side; each has a range of its own, below what the kernel gives to clients, and comes back to
    // a port that it has given out, and which may not be bound yet, only after many others.
    let base = 10_000 + (std::process::id() % 220) as u16 * 100;
    loop {
        let port = base + NEXT.fetch_add(4, Ordering::Relaxed) % 100;
        let free = |port| UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if (port..port + 4).all(free) {
            return port;
        }
    }
}

/// A site and, while it runs, its node. Killed when dropped.
pub struct Site {
    /// Its directory.
    pub directory: PathBuf,
    /// Shard 0's port.
    pub port: u16,
    /// The node logs all that it can.
    pub verbose: bool,
    /// What the node's command begins with, where it runs on a machine of its own.
    pub prefix: Vec<String>,
    /// What the node has in its environment, besides what everybody has.
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Site {
    /// Makes a site in `root`, with further arguments of `init`.
    pub fn init(root: &Path, name: &str, more: &[&str]) -> Self {
        let directory = root.join(name);
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let path = directory.display().to_string();
        let mut arguments = vec!["init", "--dir", &path, "--site", name, "--listen", &listen];
        if !more.contains(&"--devices") && !more.contains(&"--device-size") {
            arguments.extend(["--device-size", "128MiB"]);
        }
        arguments.extend(more);
        farside(&arguments).ok();
        Self { directory, port, verbose: false, prefix: Vec::new(), environment: Vec::new(), child: None }
    }

    /// A site that was made already.
    pub fn at(directory: PathBuf, port: u16) -> Self {
        Self { directory, port, verbose: false, prefix: Vec::new(), environment: Vec::new(), child: None }
    }

    /// Makes a site and runs its node.
    pub fn start(root: &Path, name: &str, more: &[&str]) -> Self {
        let mut site = Self::init(root, name, more);
        site.run();
        site
    }

    /// Runs the node, and waits until it is ready.
    pub fn run(&mut self) {
        let (ready, stderr) = self.try_run();
        assert!(ready.starts_with("ready "), "the node is not ready: {stderr}");
    }

    /// Runs the node; answers its first line, and what it said on stderr if that was none.
    pub fn try_run(&mut self) -> (String, String) {
        assert!(self.child.is_none(), "it runs already");
        let log = self.log();
        let mut command = match self.prefix.split_first() {
            None => Command::new(binary()),
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(binary());
                command
            }
        };
        let mut child = command
            .args(["node", "--dir"])
            .arg(&self.directory)
            .envs(self.verbose.then_some(("FARSIDE_LOG", "trace")))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).expect("a log"))
            .spawn()
            .expect("the node starts");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut ready).expect("a line");
        if ready.is_empty() {
            child.wait().expect("it ended");
            return (ready, std::fs::read_to_string(&log).unwrap_or_default());
        }
        self.child = Some(child);
        (ready, String::new())
    }

    /// The node's process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Where the node's stderr goes.
    pub fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Kills the node with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// Stops the node with SIGTERM; answers its exit code.
    pub fn stop(&mut self) -> i32 {
        self.stop_by("-TERM")
    }

    /// Stops the node with a signal of one's choice; answers its exit code.
    pub fn stop_by(&mut self, name: &str) -> i32 {
        let mut child = self.child.take().expect("it runs");
        signal(name, child.id());
        child.wait().expect("ended").code().unwrap_or(-1)
    }

    /// Runs a command against this site.
    pub fn farside(&self, arguments: &[&str]) -> Outcome {
        let path = self.directory.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--dir", &path]);
        farside(&all)
    }

    /// Its status document.
    pub fn status(&self) -> Value {
        self.farside(&["status", "--json"]).json()
    }

    /// What a counter stands at, over its shards, of a site of one node.
    pub fn counted(&self, counter: &str) -> u64 {
        let status = self.status();
        let shards = status["counters"].as_array().into_iter().flatten();
        shards.filter_map(|shard| shard[counter].as_u64()).sum()
    }

    /// Its alerts, in one text, but for the one about its system key: what a test makes is lost with it.
    pub fn alerts(&self) -> String {
        let mut alerts = self.status()["alerts"].take();
        if let Some(alerts) = alerts.as_array_mut() {
            alerts.retain(|alert| !alert.as_str().is_some_and(|alert| alert.starts_with("the system key ")));
        }
        alerts.to_string()
    }

    /// Makes a tenant and a log `T/L`.
    pub fn make_log(&self, kms: &Path, log: &str) {
        let tenant = log.split('/').next().expect("T/L");
        self.farside(&["tenant", "create", tenant, "--kms", &format!("file:{}", kms.display())]).ok();
        self.farside(&["log", "create", log]).ok();
    }

    /// Joins this site with another one.
    pub fn join(&self, other: &Self) {
        let token = other.farside(&["peer", "token"]).ok();
        let name = other.directory.file_name().expect("a name").to_string_lossy().into_owned();
        self.farside(&["peer", "add", &name, token.trim()]).ok();
    }

    /// Waits until every peer has everything.
    pub fn wait_caught_up(&self) {
        self.farside(&["status", "--wait-caught-up", "60"]).ok();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A site of several nodes: the first one's directory is `ROOT/NAME`, the others' are `ROOT/NAME-2` and so on.
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Site>,
    /// A context that names all of them.
    pub context: PathBuf,
}

impl Cluster {
    /// Makes and runs a site of so many nodes, and waits until it has settled. `more` goes to `init` and to `join`;
    /// geometry and groups, which are the site's, to `init` alone.
    pub fn start(root: &Path, name: &str, count: usize, more: &[&str]) -> Self {
        let core = |node: usize| ["--cores", if node.is_multiple_of(2) { "0" } else { "1" }];
        let first = Site::start(root, name, &[&core(0)[..], more].concat());
        let mut cluster = Self { nodes: vec![first], context: root.join(format!("{name}.context")) };
        let mut joins = more.to_vec();
        for of_site in ["--geometry", "--groups"] {
            if let Some(at) = joins.iter().position(|flag| *flag == of_site) {
                joins.drain(at..at + 2);
            }
        }
        for node in 1..count {
            cluster.add(root, &format!("{name}-{}", node + 1), &[&core(node)[..], &joins].concat());
        }
        cluster.wait_for(Duration::from_secs(60), "every node is up", |cluster| {
            let status = cluster.nodes[0].status();
            let up = status["nodes"].as_array().is_some_and(|nodes| {
                nodes.len() == count && nodes.iter().all(|node| node["state"] == "up" && node["devices"] != "[]")
            });
            let voters = status["control"]["voters"].as_array().map_or(0, Vec::len);
            up && voters == voters_of(count)
        });
        cluster.export();
        cluster
    }

    /// The same on machines of their own, a node on each. `init` has `first` as well.
    pub fn start_on(machines: &Machines, root: &Path, name: &str, first: &[&str], more: &[&str]) -> Self {
        let mut cluster = Self { nodes: Vec::new(), context: root.join(format!("{name}.context")) };
        for number in 0..machines.count() {
            let listen = format!("{}:{MACHINE_PORT}", machines.address(number));
            let directory = root.join(if number == 0 { name.to_owned() } else { format!("{name}-{}", number + 1) });
            let path = directory.display().to_string();
            let token = cluster.nodes.first().map(|node| node.farside(&["invite"]).ok()).unwrap_or_default();
            let made: Vec<&str> = match number {
                0 => [&["init", "--dir", &path, "--site", name, "--listen", &listen], first].concat(),
                _ => vec!["join", "--dir", &path, "--token", token.trim(), "--listen", &listen],
            };
            farside(&[&made[..], more].concat()).ok();
            let mut node = Site::at(directory, MACHINE_PORT);
            node.prefix = machines.prefix(number);
            node.run();
            cluster.nodes.push(node);
        }
        cluster.wait_for(Duration::from_secs(60), "all vote", |cluster| {
            let voters = cluster.nodes[0].status()["control"]["voters"].as_array().map_or(0, Vec::len);
            voters == voters_of(machines.count())
        });
        cluster.export();
        cluster
    }

    /// Lets one more node join, and runs it.
    pub fn add(&mut self, root: &Path, name: &str, more: &[&str]) {
        let token = self.nodes[0].farside(&["invite"]).ok();
        let (directory, port) = (root.join(name), free_port());
        let (path, listen) = (directory.display().to_string(), format!("127.0.0.1:{port}"));
        let mut arguments = vec!["join", "--dir", &path, "--token", token.trim(), "--listen", &listen];
        if !more.contains(&"--device-size") {
            arguments.extend(["--device-size", "128MiB"]);
        }
        arguments.extend(more);
        farside(&arguments).ok();
        let mut node = Site::at(directory, port);
        node.run();
        self.nodes.push(node);
    }

    /// Writes the context anew, with all nodes that there are.
    pub fn export(&self) {
        let path = self.context.display().to_string();
        self.nodes[0].farside(&["context", "export", "-o", &path]).ok();
    }

    /// Runs a command against the site, whichever of its nodes answers.
    pub fn farside(&self, arguments: &[&str]) -> Outcome {
        let path = self.context.display().to_string();
        farside(&[arguments, &["--context", &path]].concat())
    }

    /// The status document of the site.
    pub fn status(&self) -> Value {
        self.farside(&["status", "--json"]).json()
    }

    /// Makes a tenant and a log `T/L`.
    pub fn make_log(&self, kms: &Path, log: &str) {
        let tenant = log.split('/').next().expect("T/L");
        self.farside(&["tenant", "create", tenant, "--kms", &format!("file:{}", kms.display())]).ok();
        self.farside(&["log", "create", log]).ok();
    }

    /// Waits until something holds.
    pub fn wait_for(&self, patience: Duration, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < patience, "in vain, for {patience:?}: {what}; {}", self.nodes[0].status());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether the site could lose nodes as if it had lost none before: all of it was looked at, nothing is owed or in the
    /// wrong place, and each group has the members that it is to have.
    pub fn owes_nothing(&self) -> bool {
        let repair = &self.nodes[0].status()["repair"];
        let none =
            ["owed_fragments", "misplaced_fragments", "groups_changing"].iter().all(|figure| repair[figure] == 0);
        none && repair["looked_at_all"] == true
    }
}

/// Voters of a group at a site of so many nodes.
fn voters_of(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// Where nodes listen that have a machine of their own.
const MACHINE_PORT: u16 = 7400;

/// Does something as a client that has a tenant's keys in the file that `Cluster::make_log` and `Site::make_log` made.
pub fn as_client<T>(kms: &Path, tenant: &str, context: &Context, work: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut settings = ClientSettings::in_memory();
        settings.set_kms(&parse_label(tenant).expect("a label"), &format!("file:{}", kms.display()));
        work(Client::connect(context, settings).await.expect("a node answers")).await
    })
}

/// Tells what waits for it to end, also where a test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a signal, such as `-TERM`, to a process of ours.
pub fn signal(signal: &str, process: u32) {
    let killed = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

/// Waits so many seconds at most until something is so.
pub fn wait_for(what: &str, seconds: u64, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What lies in a directory, by name.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Bytes that follow from a seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// How often a long scenario repeats: `name` in the environment, or a few times for the suite.
pub fn rounds(name: &str, few: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Says in one visible line that a test can't run here; with CI=true that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "can't be skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
}
