//! A put over a line that takes several rounds of GC for one chunk: it is done as long as bytes flow, and ends where none do.

use farside::node::directory::NodeDirectory;
use farside_tests::{Site, bytes, command, free_port};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// Bytes a second towards the site: a chunk of the default size takes eight seconds, more than two rounds of GC.
const RATE: usize = 512 << 10;
/// Three chunks: the first one is there for sixteen seconds before there is anything that could name it.
const OBJECT_BYTES: usize = 12 << 20;
/// Datagrams that wait for the line; what comes beyond is lost, as it is where a line is slow.
const QUEUE: usize = 64;
/// How often threads look whether the line is taken down.
const LOOK: Duration = Duration::from_millis(100);

/// A slow line in front of a site, until it is dropped. What the site says comes back as fast as it is said.
struct Line {
    is_over: Arc<AtomicBool>,
    is_dead: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

type Queued = (Arc<UdpSocket>, Vec<u8>);

impl Line {
    fn new(port: u16, site: SocketAddr) -> Self {
        let (is_over, is_dead) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let entrance = Arc::new(socket(SocketAddr::from(([127, 0, 0, 1], port))));
        let (queue, queued) = sync_channel(QUEUE);
        let (over, dead) = (is_over.clone(), is_dead.clone());
        let taking = spawn(move || take(&entrance, site, &queue, &over));
        let carrying = spawn(move || carry(&queued, &dead));
        Self { is_over, is_dead, threads: vec![taking, carrying] }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the line ends well");
        }
    }
}

fn socket(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("the port is free");
    socket.set_read_timeout(Some(LOOK)).expect("a timeout");
    socket
}

/// Takes in what callers send, each of whom has a socket of its own at the other end.
fn take(entrance: &Arc<UdpSocket>, site: SocketAddr, queue: &SyncSender<Queued>, is_over: &Arc<AtomicBool>) {
    let mut callers: BTreeMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = BTreeMap::new();
    let mut datagram = vec![0; 65_536];
    while !is_over.load(Relaxed) {
        let Ok((length, caller)) = entrance.recv_from(&mut datagram) else { continue };
        let (exit, _) = callers.entry(caller).or_insert_with(|| {
            let exit = Arc::new(socket(SocketAddr::from(([127, 0, 0, 1], 0))));
            exit.connect(site).expect("connected");
            let (from, to, is_over) = (exit.clone(), entrance.clone(), is_over.clone());
            (exit, spawn(move || bring_back(&from, &to, caller, &is_over)))
        });
        let _ = queue.try_send((exit.clone(), datagram[..length].to_vec()));
    }
    for (_, thread) in callers.into_values() {
        thread.join().expect("it ends");
    }
}

fn bring_back(from: &UdpSocket, to: &UdpSocket, caller: SocketAddr, is_over: &AtomicBool) {
    let mut datagram = vec![0; 65_536];
    while !is_over.load(Relaxed) {
        if let Ok(length) = from.recv(&mut datagram) {
            let _ = to.send_to(&datagram[..length], caller);
        }
    }
}

fn carry(queued: &Receiver<Queued>, is_dead: &AtomicBool) {
    let mut free = Instant::now();
    while let Ok((exit, datagram)) = queued.recv() {
        // A line that had nothing to do does not make up for it.
        free = free.max(Instant::now()) + Duration::from_secs_f64(datagram.len() as f64 / RATE as f64);
        sleep(free.saturating_duration_since(Instant::now()));
        if !is_dead.load(Relaxed) {
            let _ = exit.send(&datagram);
        }
    }
}

/// A site with a round of GC every three seconds, behind a slow line, with a log.
fn site_behind_a_line(root: &Path) -> (Site, Line) {
    let mut site = Site::init(root, "near", &["--cores", "0", "--device-size", "256MiB"]);
    let (directory, port) = (NodeDirectory::new(&site.directory), free_port());
    let settings = std::fs::read_to_string(directory.config()).expect("read");
    let settings = settings.replace("gc_seconds = 300", "gc_seconds = 3");
    let settings = format!("advertise = \"127.0.0.1:{port}\"\n{settings}");
    std::fs::write(directory.config(), settings).expect("written");
    site.farside(&["context", "export", "-o", &directory.admin_context().display().to_string()]).ok();
    let line = Line::new(port, SocketAddr::from(([127, 0, 0, 1], site.port)));
    site.run();
    site.make_log(&root.join("kms"), "acme/data");
    (site, line)
}

fn put(site: &Site, root: &Path) -> Child {
    let file = root.join("object");
    std::fs::write(&file, bytes(1, OBJECT_BYTES)).expect("written");
    let (file, directory) = (file.display().to_string(), site.directory.display().to_string());
    let mut put = command(&["put", "acme/data", "slow", &file, "--dir", &directory]);
    put.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn end_of(put: Child) -> Output {
    put.wait_with_output().expect("it ends")
}

#[test]
fn an_object_whose_chunks_go_out_slowly_is_put_whole() {
    let root = tempfile::tempdir().expect("a directory");
    let (site, _line) = site_behind_a_line(root.path());
    let begun = Instant::now();
    let output = end_of(put(&site, root.path()));
    let took = begun.elapsed();
    assert!(output.status.success(), "after {took:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(took > Duration::from_secs(20), "it took {took:?}: the line was no slow one");
    let read = site.farside(&["get", "acme/data", "slow"]);
    assert!(read.stdout == bytes(1, OBJECT_BYTES), "{} bytes came back: {}", read.stdout.len(), read.stderr);
}

#[test]
fn a_put_ends_whose_line_goes_dead() {
    let root = tempfile::tempdir().expect("a directory");
    let (site, line) = site_behind_a_line(root.path());
    let put = put(&site, root.path());
    sleep(Duration::from_secs(4));
    line.is_dead.store(true, Relaxed);
    let begun = Instant::now();
    let output = end_of(put);
    let took = begun.elapsed();
    assert!(!output.status.success() && took < Duration::from_secs(40), "{output:?} after {took:?}");
}
