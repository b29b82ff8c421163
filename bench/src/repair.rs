//! How fast full redundancy is back once a node is lost, and what clients notice of it. Real nodes on this machine, one of
//! which is killed.

use farside::bench::pipeline;
use farside::client::{Client, ClientError, Context, Log, Upload};
use farside_codec::erasure::Geometry;
use farside_codec::message::Moment;
use farside_tests::{Cluster, as_client, bytes};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const GEOMETRY: &str = "4+2";
/// Nodes: one more than a stripe has fragments, so that there is somewhere for what is rebuilt to go.
const NODES: usize = 7;
/// Which node is killed: none that the commands talk to first.
const KILLED: usize = 4;
/// Objects that fill the site.
const FILL_BYTES: usize = 64 << 20;
/// Objects that clients put and get meanwhile.
const OBJECT_BYTES: usize = 64 << 10;
/// How many of those there are by name.
const NAMES: u64 = 64;
/// Clients at work at once, and how long each rests between two operations.
const CLIENTS: u64 = 4;
const REST: Duration = Duration::from_millis(20);
/// How long clients are looked at before anything is lost.
const BEFORE: Duration = Duration::from_secs(30);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes that the bare pipeline carries.
const PIPELINE_BYTES: u64 = 2 << 30;
/// What `init` sets.
const MTU: u16 = 1452;
/// Least part of the limit that is aimed at, and how many times as long as before an operation may take.
const LEAST_RATIO: f64 = 0.5;
const MOST_SLOWER: f64 = 3.0;

/// What the clients are doing it in.
const QUIET: u8 = 0;
const LOOKED_AT: u8 = 1;
const REPAIRING: u8 = 2;
const OVER: u8 = 3;

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Seconds that operations took, before and during repair.
#[derive(Default)]
struct Latencies {
    before: RefCell<Vec<f64>>,
    during: RefCell<Vec<f64>>,
    failures: Cell<u64>,
}

/// The time within which 99 of 100 were done.
fn p99(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get((seconds.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
}

async fn operate(log: &Log, number: u64) -> Result<(), ClientError> {
    let name = format!("small-{}", number % NAMES);
    if number.is_multiple_of(2) {
        return log.put(Upload::bytes(name.as_bytes(), bytes(number, OBJECT_BYTES))).await.map(drop);
    }
    log.get(name.as_bytes(), &Moment::Latest).await?.into_bytes().await.map(drop)
}

async fn work(log: &Log, phase: &AtomicU8, seen: &Latencies, from: u64) {
    let mut number = from;
    while phase.load(Ordering::Relaxed) != OVER {
        let (in_phase, begun) = (phase.load(Ordering::Relaxed), Instant::now());
        let done = operate(log, number).await;
        let took = begun.elapsed().as_secs_f64();
        match (in_phase, done) {
            (_, Err(_)) => seen.failures.set(seen.failures.get() + 1),
            (LOOKED_AT, Ok(())) => seen.before.borrow_mut().push(took),
            (REPAIRING, Ok(())) => seen.during.borrow_mut().push(took),
            _ => {}
        }
        number += CLIENTS;
        tokio::time::sleep(REST).await;
    }
}

async fn fill(client: &Client, total: u64) -> Result<(), ClientError> {
    let log = client.open_log("acme/data").await?;
    for number in 0..NAMES {
        log.put(Upload::bytes(format!("small-{number}").as_bytes(), bytes(number, OBJECT_BYTES))).await?;
    }
    for number in 0..total.div_ceil(FILL_BYTES as u64) {
        let contents = bytes(1 << 32 | number, FILL_BYTES);
        log.put(Upload::bytes(format!("object-{number}").as_bytes(), contents)).await?;
    }
    Ok(())
}

fn live_bytes(cluster: &Cluster, node: usize) -> u64 {
    let status = cluster.status();
    let name = format!("node-{}", node + 1);
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let devices = nodes.into_iter().find(|one| one["name"] == name.as_str()).map(|node| node["devices"].clone());
    let devices = devices.and_then(|devices| devices.as_array().cloned()).unwrap_or_default();
    devices.iter().filter_map(|device| device["live_bytes"].as_u64()).sum()
}

/// What came of it.
struct Figures {
    rebuilt: u64,
    seconds: f64,
    limit: f64,
    before: f64,
    during: f64,
    operations: usize,
    failures: u64,
}

/// Fills a site until each node has so many bytes, kills one, and waits until nothing is owed.
pub(crate) fn run(bytes_of_each: u64, base: Option<&Path>, as_json: bool) -> Result<(), String> {
    let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = tempfile::tempdir_in(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    let geometry = Geometry::parse(GEOMETRY).ok_or("no geometry")?;
    // Room for what is rebuilt, for segments' ends, and for what is kept free.
    let device_bytes = bytes_of_each / geometry.total() as u64 * 5 / 4 + (256 << 20);
    let device_size = format!("{}MiB", device_bytes >> 20);
    let more = ["--geometry", GEOMETRY, "--device-size", &device_size];
    let mut cluster = Cluster::start(directory.path(), "repair", NODES, &more);
    let kms = directory.path().join("kms");
    cluster.make_log(&kms, "acme/data");
    let context = Context::load(&cluster.context).map_err(failed)?;
    let total = bytes_of_each * NODES as u64 / geometry.total() as u64 * geometry.data() as u64;
    as_client(&kms, "acme", &context, async |client| fill(&client, total).await).map_err(failed)?;
    cluster.wait_for(PATIENCE, "nothing is owed", Cluster::owes_nothing);
    let figures = lose_one(&mut cluster, &kms, &context)?;
    drop(cluster);
    let rate = pipeline(directory.path(), PIPELINE_BYTES.min(bytes_of_each), MTU).map_err(failed)?;
    // Each rebuilt byte takes k that are read and carried.
    report(&Figures { limit: rate / geometry.data() as f64, ..figures }, as_json);
    Ok(())
}

fn lose_one(cluster: &mut Cluster, kms: &Path, context: &Context) -> Result<Figures, String> {
    let phase = AtomicU8::new(QUIET);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            as_client(kms, "acme", context, async |client| {
                let (log, seen) = (client.open_log("acme/data").await?, Latencies::default());
                let clients = (0..CLIENTS).map(|number| work(&log, &phase, &seen, number));
                futures_util::future::join_all(clients).await;
                Ok::<Latencies, ClientError>(seen)
            })
        });
        // Ends the clients also where something fails on the way.
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| measure(cluster, &phase)));
        phase.store(OVER, Ordering::Relaxed);
        let (rebuilt, seconds) = measured.map_err(|_| "the site did not do what it should".to_owned())?;
        let seen = clients.join().map_err(|_| "the clients failed".to_owned())?.map_err(failed)?;
        let (before, during) = (seen.before.into_inner(), seen.during.into_inner());
        let operations = during.len();
        let failures = seen.failures.get();
        Ok(Figures { rebuilt, seconds, limit: 0.0, before: p99(before), during: p99(during), operations, failures })
    })
}

/// Answers how many bytes were rebuilt, in how many seconds since the node counted as dead.
fn measure(cluster: &mut Cluster, phase: &AtomicU8) -> (u64, f64) {
    std::thread::sleep(Duration::from_secs(3));
    phase.store(LOOKED_AT, Ordering::Relaxed);
    std::thread::sleep(BEFORE);
    phase.store(QUIET, Ordering::Relaxed);
    let rebuilt = live_bytes(cluster, KILLED);
    cluster.nodes[KILLED].kill();
    let name = format!("node-{}", KILLED + 1);
    let is_dead = |cluster: &Cluster| {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["name"] == name.as_str() && node["state"] == "dead")
    };
    cluster.wait_for(PATIENCE, "the node counts as dead", is_dead);
    phase.store(REPAIRING, Ordering::Relaxed);
    let begun = Instant::now();
    cluster.wait_for(PATIENCE, "everything is rebuilt", Cluster::owes_nothing);
    (rebuilt, begun.elapsed().as_secs_f64())
}

fn report(figures: &Figures, as_json: bool) {
    let Figures { rebuilt, seconds, limit, before, during, operations, failures } = *figures;
    let (rate, mebi) = (rebuilt as f64 / seconds, |bytes: f64| bytes / f64::from(1 << 20));
    if as_json {
        let figure = json!({
            "name": "repair",
            "parameters": { "nodes": NODES, "geometry": GEOMETRY, "bytes": rebuilt },
            "throughput_bytes_per_second": rate,
            "seconds": seconds,
            "limit_name": "bare pipeline / k",
            "limit": limit,
            "ratio_to_limit": rate / limit,
            "p99_before_seconds": before,
            "p99_during_seconds": during,
            "ratio_of_p99": during / before,
            "operations": operations,
            "failures": failures,
        });
        println!("{figure}");
        return;
    }
    println!("a node of {NODES} with {:.0} MiB is lost, {GEOMETRY}, all on this machine", mebi(rebuilt as f64));
    println!("  full redundancy after  {seconds:.1} s from when it counted as dead, {:.0} MiB/s rebuilt", mebi(rate));
    println!(
        "  bare pipeline / k      {:.0} MiB/s  (k bytes are read and carried for each that is rebuilt)",
        mebi(limit)
    );
    println!("  ratio                  {:.2}  (to stay above {LEAST_RATIO})", rate / limit);
    println!("  clients' p99 before    {:.1} ms", before * 1000.0);
    println!("  clients' p99 during    {:.1} ms  ({operations} operations, {failures} failed)", during * 1000.0);
    println!("  ratio                  {:.1}  (to stay under {MOST_SLOWER})", during / before);
}
