//! A site is lost at a random moment while it is written to: the far copy of every log is a prefix that reads back whole, and the
//! failover says how much was lost as the test measures it.
//!
//! A few losses in the suite; `FARSIDE_LOSSES=100 cargo test --release --test site_losses -- --nocapture` for the long run.

use farside::client::{Context, Log, Upload};
use farside_codec::message::Moment;
use farside_io::sim::histories::Dice;
use farside_tests::{Site, Stop, as_client, bytes, rounds};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LOGS: [&str; 2] = ["acme/photos", "acme/orders"];

/// An acknowledged write: its place in its log, and when that was in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    sequence: u64,
    ms: u64,
}

type Written = Mutex<BTreeMap<(usize, u64), Acknowledged>>;

fn length(log: usize, number: u64) -> usize {
    let lengths = if log == 0 { [700_000, 90_000, 2_500_000] } else { [10, 3_000, 30_000] };
    lengths[number as usize % 3]
}

fn contents(log: usize, number: u64) -> Vec<u8> {
    bytes(number * 2 + log as u64, length(log, number))
}

/// Puts one object after the other until there is nobody to put them to.
async fn write(log: &Log, place: usize, stop: &AtomicBool, written: &Written) {
    for number in 0.. {
        let put = log.put(Upload::bytes(format!("object-{number}").as_bytes(), contents(place, number)));
        let put = tokio::time::timeout(Duration::from_millis(500), put).await;
        if let Ok(Ok(receipt)) = put {
            let at = Acknowledged { sequence: receipt.receipt.cursor.sequence, ms: receipt.receipt.time.ms() };
            written.lock().expect("a lock").insert((place, number), at);
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Reads a log back as the far side has it. Answers how many objects there are.
async fn check(log: &Log, place: usize, position: u64, written: &BTreeMap<(usize, u64), Acknowledged>) -> usize {
    let listed = log.list(&Moment::Latest).await.expect("listed");
    for info in &listed {
        let number = String::from_utf8_lossy(&info.name).trim_start_matches("object-").parse().expect("a number");
        let object = log.get(&info.name, &Moment::Latest).await.expect("found");
        let read = object.into_bytes().await.expect("read and opened");
        assert!(read == contents(place, number), "object {number} of log {place} differs");
        assert!(info.sequence <= position, "object {number} came after the position that was told");
    }
    for ((_, number), at) in written.range((place, 0)..(place + 1, 0)) {
        let name = format!("object-{number}");
        let is_there = listed.iter().any(|info| info.name == name.as_bytes());
        assert_eq!(is_there, at.sequence <= position, "{name} of log {place}, acknowledged at {}", at.sequence);
    }
    listed.len()
}

/// Loses a site. Answers by how many seconds what was told to be lost differs from what was, at most.
fn lose(seed: u64) -> f64 {
    let dice = Dice::new(seed);
    let root = tempfile::tempdir().expect("a directory");
    let kms = root.path().join("kms");
    let size = ["--device-size", "256MiB"];
    let mut near = Site::start(root.path(), "near", &[&["--cores", "0"], &size[..]].concat());
    let far = Site::start(root.path(), "far", &[&["--cores", "1"], &size[..]].concat());
    near.make_log(&kms, LOGS[0]);
    near.farside(&["log", "create", LOGS[1]]).ok();
    near.join(&far);
    // In every other run the far side lags behind.
    let lags = dice.below(2) == 0;
    if lags {
        near.farside(&["peer", "limit", "far", "--rate", "40Mbit"]).ok();
    }
    let context = |site: &Site| Context::load(&site.directory.join("admin.context")).expect("a context");
    let (near_context, far_context) = (context(&near), context(&far));
    let (stop, written) = (AtomicBool::new(false), Written::default());
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (place, name) in LOGS.into_iter().enumerate() {
            let (kms, context, stop, written) = (&kms, &near_context, &stop, &written);
            scope.spawn(move || {
                as_client(kms, "acme", context, async |client| {
                    let log = client.open_log(name).await.expect("opened");
                    write(&log, place, stop, written).await;
                });
            });
        }
        std::thread::sleep(Duration::from_millis(300 + dice.below(4000)));
        near.kill();
    });
    let written = written.into_inner().expect("a lock");
    let report = far.farside(&["failover", "--json"]).json();
    let mut worst = 0.0f64;
    let mut said = Vec::new();
    for (place, name) in LOGS.into_iter().enumerate() {
        let log = report["logs"].as_array().expect("logs").iter().find(|log| log["name"] == name).expect("the log");
        let position = log["position_seq"].as_u64().expect("a position");
        let there = read_back(&kms, &far_context, name, place, position, &written);
        let lost = measured(&written, place, position);
        let told = log["lost_seconds_max"].as_f64().expect("the home was heard of");
        worst = worst.max((told - lost).abs());
        said.push(format!("{name}: {there} objects, {told:.3} s told and {lost:.3} s measured as lost"));
    }
    assert_ne!(report["rpo_seconds"], Value::Null);
    println!("loss {seed}{}: {}", if lags { ", far lags" } else { "" }, said.join("; "));
    worst
}

fn read_back(
    kms: &Path,
    context: &Context,
    name: &str,
    place: usize,
    position: u64,
    written: &BTreeMap<(usize, u64), Acknowledged>,
) -> usize {
    as_client(kms, "acme", context, async |client| {
        let log = client.open_log(name).await.expect("opened");
        check(&log, place, position, written).await
    })
}

/// Seconds of acknowledged writes behind a position.
fn measured(written: &BTreeMap<(usize, u64), Acknowledged>, place: usize, position: u64) -> f64 {
    let of = written.range((place, 0)..(place + 1, 0)).map(|(_, at)| *at);
    let (kept, lost): (Vec<Acknowledged>, Vec<Acknowledged>) = of.partition(|at| at.sequence <= position);
    let newest = |all: &[Acknowledged]| all.iter().map(|at| at.ms).max();
    match (newest(&lost), newest(&kept)) {
        (None, _) => 0.0,
        // Nothing that was acknowledged came: since the first of it.
        (Some(last), kept) => {
            let first = lost.iter().map(|at| at.ms).min().unwrap_or(last);
            last.saturating_sub(kept.unwrap_or(first)) as f64 / 1000.0
        }
    }
}

#[test]
fn what_is_lost_is_what_is_said() {
    let count = rounds("FARSIDE_LOSSES", 2) as u64;
    let differences: Vec<f64> = (1..=count).map(lose).collect();
    let worst = differences.iter().copied().fold(0.0, f64::max);
    println!("{count} sites lost: told and measured differ by {worst:.3} s at most");
    assert!(worst <= 1.0, "what was told differs from what was lost by {worst} s");
}
