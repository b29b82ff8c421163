//! `farside bench`: figures that can be reproduced, each beside its limit.

mod pipeline;

use crate::cli::show_bytes;
use crate::client::{ClientError, Upload};
use crate::demo::local::{Generated, LocalSite, SitePlan, device_bytes, join};
use crate::demo::wait_until_caught_up;
use crate::demo::work::WorkDirectory;
use crate::terminal::{Progress, line};
use farside_io::cores;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// Carries `bytes` through files in `work` by the bare pipeline: read, sent over QUIC, written and flushed, and nothing else.
/// Answers bytes a second; what a replication engine on the same parts can't beat. The error is a sentence for people.
pub fn pipeline(work: &Path, bytes: u64, mtu: u16) -> Result<f64, String> {
    let cores = cores::available().map_err(|error| error.to_string())?;
    pipeline::run(work, bytes, mtu, (cores[0], *cores.last().unwrap_or(&0)))
}

/// Rounds of the figure and of its limit, one after the other in turn, each with a far site of its own.
const ROUNDS: [&str; 3] = ["far-1", "far-2", "far-3"];
/// Bytes of one object of the benchmark.
const OBJECT_BYTES: u64 = 64 << 20;

struct Round {
    ours: f64,
    limit: f64,
    cpu_seconds: f64,
}

/// Catch-up of a far site with `bytes`, beside the bare pipeline at the same MTU. The error is a sentence for people.
pub(crate) fn replicate(bytes: u64, mtu: u16, base: Option<&Path>, as_json: bool) -> Result<(), String> {
    let work = WorkDirectory::new(None, base)?;
    let cores = cores::available().map_err(|error| error.to_string())?;
    // Each node as `init` makes it: a shard on every core. The pipeline has one core a side.
    let (near_core, far_core) = (cores[0], *cores.last().unwrap_or(&0));
    let shards = cores.len();
    let plan = |name| SitePlan {
        root: &work.path,
        name,
        cores: cores.clone(),
        device_bytes: device_bytes(bytes),
        mtu: Some(mtu),
    };
    let near = LocalSite::start(&plan("near"))?;
    crate::cli::on_runtime(fill(&near, bytes, &work.path))
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let mut rounds = Vec::new();
    let mut peak = 0;
    for name in ROUNDS {
        let limit = pipeline::run(&work.path, bytes, mtu, (near_core, far_core))?;
        let far = LocalSite::start(&plan(name))?;
        let before = cpu_seconds(near.process()) + cpu_seconds(far.process());
        let ours = crate::cli::on_runtime(catch_up(&near, &far, bytes));
        let ours = ours.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let cpu_seconds = cpu_seconds(near.process()) + cpu_seconds(far.process()) - before;
        peak = peak.max(peak_resident(near.process())).max(peak_resident(far.process()));
        rounds.push(Round { ours, limit, cpu_seconds });
        drop(far);
        // The space is needed for the next round.
        let _ = std::fs::remove_dir_all(work.path.join(name));
    }
    report(&rounds, (bytes, mtu, shards), peak, as_json);
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn report(rounds: &[Round], (bytes, mtu, shards): (u64, u16, usize), peak: u64, as_json: bool) {
    let ours = median(rounds.iter().map(|round| round.ours));
    let limit = median(rounds.iter().map(|round| round.limit));
    let ratio = median(rounds.iter().map(|round| round.ours / round.limit));
    let per_gib = median(rounds.iter().map(|round| round.cpu_seconds)) / (bytes as f64 / f64::from(1 << 30));
    let least = rounds.iter().map(|round| round.ours).fold(f64::MAX, f64::min);
    let most = rounds.iter().map(|round| round.ours).fold(0.0, f64::max);
    if as_json {
        line(json!({
                "name": "replicate catch-up",
                "parameters": { "bytes": bytes, "mtu": mtu, "geometry": "4+2", "shards": shards },
                "throughput_bytes_per_second": ours,
                "cpu_seconds_per_gib": per_gib,
                "limit": limit,
                "ratio_to_limit": ratio,
                "rounds": rounds.len(),
                "min": least,
                "max": most,
                "peak_resident_bytes": peak,
        }));
        return;
    }
    line(format!("catch-up of {} at MTU {mtu}, 4+2 on both sides, every chunk and delta flushed", show_bytes(bytes)));
    line(format!(
        "  ours           {}/s  (median of {}, {} to {})",
        show_bytes(ours as u64),
        rounds.len(),
        show_bytes(least as u64),
        show_bytes(most as u64)
    ));
    line(format!("  bare pipeline  {}/s  (QUIC, one copy, O_DIRECT, the same flushes)", show_bytes(limit as u64)));
    line(format!("  ratio          {ratio:.2}"));
    line(format!("  CPU            {per_gib:.2} s/GiB, both nodes"));
    line(format!("  peak resident  {}", show_bytes(peak)));
}

/// Puts the data into the near site, which has no peer yet.
async fn fill(near: &LocalSite, bytes: u64, work: &Path) -> Result<(), ClientError> {
    let client = near.client().await?;
    let tenant = crate::client::parse_label("bench")?;
    client.create_tenant(&tenant, &format!("file:{}", work.join("tenant-kms").display())).await?;
    client.create_log(&tenant, &crate::client::parse_label("data")?).await?;
    let log = client.open_log("bench/data").await?;
    let mut progress = Progress::new();
    let mut done = 0;
    while done < bytes {
        let size = OBJECT_BYTES.min(bytes - done);
        log.put(Upload::reader(format!("object-{done}").as_bytes(), Box::new(Generated::new(done, size)))).await?;
        done += size;
        progress.show(|| format!("filling near: {} of {}", show_bytes(done), show_bytes(bytes)));
    }
    client.close().await
}

/// Joins the two and waits; answers bytes a second.
async fn catch_up(near: &LocalSite, far: &LocalSite, bytes: u64) -> Result<f64, ClientError> {
    let (near_client, far_client) = (near.client().await?, far.client().await?);
    let begun = Instant::now();
    join(&near_client, &far_client).await?;
    wait_until_caught_up(&near_client).await?;
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    let remove =
        farside_codec::message::SetPeer { name: far.name.clone(), action: farside_codec::message::PeerAction::Remove };
    near_client.control(&farside_codec::message::Request::SetPeer(remove)).await?;
    Ok(rate)
}

/// User and system time of a process.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in the 100 Hz that the kernel shows to user space.
    (ticks(11) + ticks(12)) / 100.0
}

/// Most memory that a process ever had resident.
fn peak_resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
