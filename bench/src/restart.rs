//! How long a store takes to open: a million fragments, read back by their segments' indexes, from devices that no
//! cache holds (O_DIRECT).

use farside::store::{Candidate, DeviceSet, FormatOptions, Store, format_devices, open_devices};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, NodeId, SiteId};
use farside_io::entropy::SystemEntropy;
use farside_io::pool::Pool;
use farside_io::uring::{self, Ring, UringDisk};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GEOMETRY: &str = "4+2";
/// A header block and a block of data: the smallest that a fragment is on a device.
const RECORD_BYTES: u64 = 8 << 10;
const WAL_BYTES: u64 = 32 << 20;
const POOL_BYTES: usize = 128 << 20;
const IN_FLIGHT: usize = 64;
/// Opened so often; the median is told.
const ROUNDS: usize = 5;

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Fills a store with so many fragments, and opens it.
pub(crate) fn run(fragments: u64, work: Option<&Path>, as_json: bool) -> Result<(), String> {
    let base = work.map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = tempfile::tempdir_in(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    let geometry = Geometry::parse(GEOMETRY).ok_or("no geometry")?;
    let of_each = fragments.div_ceil(geometry.total() as u64) * RECORD_BYTES;
    // A quarter more, for the segments' ends and those that are kept free.
    let device_bytes = (of_each + of_each / 4 + WAL_BYTES + (512 << 20)).next_multiple_of(2 << 20);
    let paths: Vec<PathBuf> = (0..geometry.total()).map(|at| directory.path().join(format!("device-{at}"))).collect();
    for path in &paths {
        uring::create(path, device_bytes).map_err(failed)?;
    }
    let filled = uring::start(fill(&paths, geometry, fragments)).map_err(failed)??;
    let mut took = Vec::new();
    let mut index_bytes = 0;
    for _ in 0..ROUNDS {
        let (time, found, bytes) = uring::start(open(&paths)).map_err(failed)??;
        if found < fragments {
            return Err(format!("{found} of {fragments} fragments were found again"));
        }
        took.push(time);
        index_bytes = bytes;
    }
    took.sort_unstable();
    report(fragments, filled, &took, index_bytes, as_json);
    Ok(())
}

fn report(fragments: u64, filled: Duration, took: &[Duration], index_bytes: u64, as_json: bool) {
    let seconds = |time: Duration| time.as_secs_f64();
    let (median, least, most) = (seconds(took[took.len() / 2]), seconds(took[0]), seconds(took[took.len() - 1]));
    if as_json {
        let figure = json!({
            "name": "restart",
            "parameters": { "fragments": fragments, "geometry": GEOMETRY },
            "operations_per_second": fragments as f64 / median,
            "seconds": median,
            "limit": 5.0,
            "rounds": took.len(),
            "min": least,
            "max": most,
            "index_bytes_per_fragment": index_bytes as f64 / fragments as f64,
        });
        println!("{figure}");
        return;
    }
    println!("a store of {fragments} fragments ({GEOMETRY}), filled in {:.0} s", seconds(filled));
    println!("  opens in          {median:.2} s  (median of {}, {least:.2} to {most:.2}; to stay under 5)", took.len());
    println!("  index             {:.1} bytes a fragment", index_bytes as f64 / fragments as f64);
}

async fn devices(paths: &[PathBuf], pool: &Pool) -> Result<Vec<UringDisk>, String> {
    let ring = Ring::register(pool).map_err(failed)?;
    paths.iter().map(|path| UringDisk::open(path, &ring).map_err(failed)).collect()
}

async fn seat(paths: &[PathBuf], pool: &Pool) -> Result<DeviceSet<UringDisk>, String> {
    let disks = devices(paths, pool).await?;
    let candidates = disks.into_iter().map(|disk| Candidate { label: String::new(), disk: Some(disk) });
    open_devices(pool, candidates.collect(), SiteId([1; 16]), NodeId(1)).await.map_err(failed)
}

async fn fill(paths: &[PathBuf], geometry: Geometry, fragments: u64) -> Result<Duration, String> {
    let begun = Instant::now();
    let pool = Pool::new(POOL_BYTES).map_err(failed)?;
    let disks = devices(paths, &pool).await?;
    let (site, node) = (SiteId([1; 16]), NodeId(1));
    let options = FormatOptions { site, node, shards: 1, geometry, wal_bytes: WAL_BYTES, segment_bytes: None };
    format_devices(&pool, &disks, &options, &SystemEntropy).await.map_err(failed)?;
    let store = Store::open(&seat(paths, &pool).await?, 0, pool.clone()).await.map_err(failed)?;
    let chunks = fragments.div_ceil(geometry.total() as u64);
    let put = |number: u64| {
        let store = &store;
        async move {
            let contents = number.to_le_bytes();
            let chunk = ChunkId(*blake3::hash(&contents).as_bytes());
            let mut writer = store.begin(chunk, contents.len()).await.map_err(failed)?;
            writer.append(&contents).map_err(failed)?;
            writer.commit().await.map(drop).map_err(failed)
        }
    };
    stream::iter(0..chunks).map(put).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    Ok(begun.elapsed())
}

async fn open(paths: &[PathBuf]) -> Result<(Duration, u64, u64), String> {
    let pool = Pool::new(POOL_BYTES).map_err(failed)?;
    let devices = seat(paths, &pool).await?;
    let begun = Instant::now();
    let store = Store::open(&devices, 0, pool).await.map_err(failed)?;
    let took = begun.elapsed();
    let status = store.status();
    Ok((took, status.fragments, status.index_bytes))
}
