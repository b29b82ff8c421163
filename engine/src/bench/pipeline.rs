//! The bare pipeline: a chunk is read, goes over QUIC, is copied once into an aligned registered buffer, written with
//! O_DIRECT and flushed, then answered. No erasure coding, no checksums of blocks, no log. What a replication engine on
//! the same parts can't beat.

use crate::client::parse_label;
use farside_codec::ids::{ChunkId, SiteId};
use farside_codec::limits;
use farside_codec::message::{PutChunk, Refusal, Reply, Request, kind};
use farside_io::cores;
use farside_io::disk::Disk;
use farside_io::entropy::{Entropy, SystemEntropy};
use farside_io::pool::Pool;
use farside_io::uring::{self, Ring, UringDisk};
use farside_transport::{Authority, Class, Credentials, Endpoint, Expect, Role, Settings, Stream, Trust};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// As much as a sealed default chunk, and as many at once as a sender has under way.
const CHUNK_BYTES: usize = limits::DEFAULT_CHUNK_PLAIN_BYTES;
const IN_FLIGHT: usize = 32;
const POOL_BYTES: usize = 192 << 20;

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Carries `bytes` from one file to another; answers bytes a second.
pub(super) fn run(work: &Path, bytes: u64, mtu: u16, cores: (usize, usize)) -> Result<f64, String> {
    let chunks = bytes.div_ceil(CHUNK_BYTES as u64);
    let (from, to) = (work.join("pipeline-from"), work.join("pipeline-to"));
    for path in [&from, &to] {
        uring::create(path, chunks * CHUNK_BYTES as u64).map_err(failed)?;
    }
    uring::start(fill(&from, chunks)).map_err(failed)??;
    let site = SiteId([7; 16]);
    let authority =
        Authority::create(site, &parse_label("pipeline").map_err(failed)?, &SystemEntropy).map_err(failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let issue = |role| authority.issue(role, "1", now, Duration::from_secs(86_400), &SystemEntropy).map_err(failed);
    let trust = Trust::new(site, authority.certificate());
    let receiver = Credentials { identity: issue(Role::Node)?.into(), trust: trust.clone() };
    let sender = Credentials { identity: issue(Role::Admin)?.into(), trust };
    let (listening, address) = mpsc::channel();
    let receiving = std::thread::spawn(move || {
        // On a machine with fewer cores the scheduler shares them out.
        let _ = cores::pin(cores.1);
        uring::start(receive(&to, receiver, mtu, chunks, listening)).map_err(failed)?
    });
    let address = address.recv().map_err(|_| "the pipeline's receiver did not come up".to_owned())?;
    let sending = std::thread::spawn(move || {
        let _ = cores::pin(cores.0);
        let begun = Instant::now();
        uring::start(send(&from, sender, mtu, chunks, address, Expect { site }))
            .map_err(failed)?
            .map(|()| begun.elapsed())
    });
    let elapsed = sending.join().map_err(|_| "the pipeline's sender failed".to_owned())??;
    receiving.join().map_err(|_| "the pipeline's receiver failed".to_owned())??;
    for name in ["pipeline-from", "pipeline-to"] {
        std::fs::remove_file(work.join(name)).map_err(failed)?;
    }
    Ok((chunks * CHUNK_BYTES as u64) as f64 / elapsed.as_secs_f64())
}

/// Writes the source: blocks that were reserved and never written cost no disk to read.
async fn fill(path: &Path, chunks: u64) -> Result<(), String> {
    let pool = Pool::new(POOL_BYTES).map_err(failed)?;
    let ring = Ring::register(&pool).map_err(failed)?;
    let disk = UringDisk::open(path, &ring).map_err(failed)?;
    let mut chunk = pool.take(CHUNK_BYTES).await.map_err(failed)?;
    SystemEntropy.fill(&mut chunk);
    let chunk = chunk.share();
    let write = |at: u64| disk.write(at * CHUNK_BYTES as u64, chunk.clone());
    stream::iter(0..chunks).map(write).buffer_unordered(IN_FLIGHT).try_collect::<()>().await.map_err(failed)?;
    disk.sync().await.map_err(failed)
}

async fn receive(
    path: &Path,
    credentials: Credentials,
    mtu: u16,
    chunks: u64,
    listening: mpsc::Sender<SocketAddr>,
) -> Result<(), String> {
    let pool = Pool::new(POOL_BYTES).map_err(failed)?;
    let ring = Ring::register(&pool).map_err(failed)?;
    let disk = UringDisk::open(path, &ring).map_err(failed)?;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::listen(anywhere, &credentials, Settings::with_mtu(mtu), &SystemEntropy).map_err(failed)?;
    listening.send(endpoint.local_address().map_err(failed)?).map_err(failed)?;
    let arrival = endpoint.accept().await.ok_or("nobody called")?;
    let connection = arrival.complete().await.map_err(failed)?;
    let next = Rc::new(Cell::new(0));
    while let Some(stream) = connection.accept().await {
        let (pool, disk, next) = (pool.clone(), disk.clone(), next.clone());
        let last = next.get() + 1 >= chunks;
        let offset = next.replace(next.get() + 1) * CHUNK_BYTES as u64;
        let task = tokio::task::spawn_local(async move { store(stream, &pool, &disk, offset).await });
        drop(task);
        if last {
            break;
        }
    }
    connection.closed().await;
    Ok(())
}

async fn store(mut stream: Stream, pool: &Pool, disk: &UringDisk, offset: u64) {
    if stream.receive(kind::REQUEST).await.is_err() {
        return;
    }
    let Ok(mut buffer) = pool.take(CHUNK_BYTES).await else { return };
    let mut at = 0;
    let received = stream.receive_body(CHUNK_BYTES, |piece| {
        buffer[at..at + piece.len()].copy_from_slice(&piece);
        at += piece.len();
    });
    let written = match received.await {
        Ok(()) => disk.write(offset, buffer.share()).await,
        Err(_) => return,
    };
    let flushed = if written.is_ok() { disk.sync().await } else { written };
    let reply = match flushed {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Refused(Refusal::new(farside_codec::message::RefusalCode::Internal, error.to_string())),
    };
    if stream.reply(&reply, Vec::new()).await.is_ok() {
        stream.delivered().await;
    }
}

async fn send(
    path: &Path,
    credentials: Credentials,
    mtu: u16,
    chunks: u64,
    address: SocketAddr,
    expect: Expect,
) -> Result<(), String> {
    let pool = Pool::new(POOL_BYTES).map_err(failed)?;
    let ring = Ring::register(&pool).map_err(failed)?;
    let disk = UringDisk::open(path, &ring).map_err(failed)?;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::caller(anywhere, Settings::with_mtu(mtu), &SystemEntropy).map_err(failed)?;
    let connection = endpoint.connect(address, &credentials, &expect, Class::Bulk).await.map_err(failed)?;
    let carry = |chunk: u64| {
        let (pool, disk, connection) = (&pool, &disk, &connection);
        async move {
            let buffer = pool.take(CHUNK_BYTES).await.map_err(failed)?;
            let (read, buffer) = disk.read(chunk * CHUNK_BYTES as u64, buffer).await;
            read.map_err(failed)?;
            let request = Request::PutChunk(PutChunk { chunk: ChunkId::default(), sealed_bytes: CHUNK_BYTES as u32 });
            connection.call(&request, Some(vec![buffer.into_bytes()])).await.map_err(failed)?;
            Ok::<(), String>(())
        }
    };
    stream::iter(0..chunks).map(carry).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    connection.close("done");
    endpoint.close().await;
    Ok(())
}
