//! Gets chunks back that this site has lost and a peer still has.
//!
//! Too little of a chunk may be left: a node is lost while another one is away, more devices fail at once than parity makes up
//! for. Where a delta names the chunk, a peer that has the delta has the chunk as well. It is asked when somebody reads
//! the chunk here, when it is to be sent to another peer, and when repair or mending comes across it. The bytes are the chunk that
//! the id names, or they are refused: the id is their hash.
//!
//! A peer's own question is never passed on to a peer, or two sites that have both lost a chunk would ask one another for ever.

use super::chunks;
use super::collecting::unreferenced;
use super::limits::{GC_STEP_CHUNKS, REFETCH_PATIENCE, REFETCH_REST, REFETCH_RESTING, REFETCHES};
use super::links::PeerCallError;
use super::peers::greeted;
use super::repairing::limit;
use super::server::{Answer, Answered};
use super::shard::{Shard, add, count};
use bytes::Bytes;
use farside_codec::ids::ChunkId;
use farside_codec::limits::MAX_CHUNK_SEALED_BYTES;
use farside_codec::message::{ChunkRange, GetChunk, PeerRecord, PutChunk, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{CallError, Caller, Class, Role};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Chunks that a shard gets back.
pub(crate) struct Refetches {
    /// Each holds a whole chunk in memory.
    turns: Semaphore,
    /// Chunks that no peer could give, and when that was found out: they are not asked for again at once.
    vain: RefCell<BTreeMap<ChunkId, Duration>>,
}

impl Default for Refetches {
    fn default() -> Self {
        Self { turns: Semaphore::new(REFETCHES), vain: RefCell::default() }
    }
}

impl Refetches {
    fn rests(&self, chunk: &ChunkId, now: Duration) -> bool {
        self.vain.borrow().get(chunk).is_some_and(|since| now.saturating_sub(*since) < REFETCH_REST)
    }

    fn was_vain(&self, chunk: ChunkId, now: Duration) {
        let mut vain = self.vain.borrow_mut();
        if vain.len() >= REFETCH_RESTING {
            vain.retain(|_, since| now.saturating_sub(*since) < REFETCH_REST);
        }
        // Past the bound one is asked for once too often.
        if vain.len() < REFETCH_RESTING {
            vain.insert(chunk, now);
        }
    }
}

/// Reads a chunk for a caller. One that is lost here is got back first, or passed on where there is no place for it.
pub(super) async fn get<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, get: GetChunk) -> Answered {
    match chunks::get(shard, get.clone()).await {
        Err(refusal) if caller.role != Role::Peer && is_gone(&refusal) => {
            let owner = get.chunk.shard(shard.shards());
            let found = shard.on(owner, move |there| async move { find(&there, get.chunk).await }).await?;
            found.map_or(Err(refusal), |pieces| part(pieces, &get))
        }
        answered => answered,
    }
}

/// Whether a refusal to read a chunk says that too little of it is here, and not that it can't be read now.
pub(super) fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code, RefusalCode::NotFound | RefusalCode::Corrupt)
}

/// The part of a chunk that was asked for.
fn part(pieces: Vec<Bytes>, get: &GetChunk) -> Answered {
    let sealed_bytes = pieces.iter().map(Bytes::len).sum::<usize>() as u32;
    let range = chunks::range_of(sealed_bytes, get.offset, get.length)?;
    let mut body = Vec::new();
    let mut begin = 0;
    for piece in pieces {
        let (from, to) = (range.start.max(begin), range.end.min(begin + piece.len()));
        if from < to {
            body.push(piece.slice(from - begin..to - begin));
        }
        begin += piece.len();
    }
    let range = ChunkRange { sealed_bytes, offset: get.offset, length: range.len() as u32 };
    Ok(Answer { reply: Reply::ChunkRange(range), body })
}

/// Gets a chunk back, on the shard that looks after it. Answers whether it is here.
pub(super) async fn refetch<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> bool {
    let owner = chunk.shard(shard.shards());
    let got = shard.on(owner, move |there| async move { refetch_all(&there, vec![chunk]).await == 1 });
    got.await.unwrap_or(false)
}

/// Gets those of these chunks back that a delta names and a peer has. Answers how many.
pub(super) async fn refetch_all<D: Disk>(shard: &Rc<Shard<D>>, lost: Vec<ChunkId>) -> usize {
    let mut got = 0;
    for chunk in needed(shard, lost).await {
        match ask_peers(shard, chunk).await {
            Came::Back { stored: true, .. } => got += 1,
            Came::Back { stored: false, .. } | Came::Not => {}
            // Nor would the next one.
            Came::NobodyThere => break,
        }
    }
    got
}

/// The bytes of a lost chunk, which is here again if there is a place for it.
async fn find<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Option<Vec<Bytes>> {
    let chunk = needed(shard, vec![chunk]).await.pop()?;
    match ask_peers(shard, chunk).await {
        Came::Back { pieces, .. } => Some(pieces),
        Came::Not | Came::NobodyThere => None,
    }
}

/// Those of these chunks that are worth asking for: a delta names them, and no peer has just said that it lacks them.
async fn needed<D: Disk>(shard: &Rc<Shard<D>>, mut lost: Vec<ChunkId>) -> Vec<ChunkId> {
    if givers(shard).is_empty() {
        return Vec::new();
    }
    let now = shard.clock.clock().monotonic();
    lost.retain(|chunk| !shard.refetches.rests(chunk, now));
    let mut needed = Vec::new();
    for chunks in lost.chunks(GC_STEP_CHUNKS) {
        // The rest of a put that was given up is nobody's.
        match unreferenced(shard, chunks.to_vec(), 0).await {
            Ok(garbage) => needed.extend(chunks.iter().filter(|chunk| !garbage.contains(chunk))),
            Err(refusal) => tracing::info!(%refusal, "it is not known yet which of the lost chunks are needed"),
        }
    }
    needed
}

/// Peers that may be asked now.
fn givers<D: Disk>(shard: &Shard<D>) -> Vec<PeerRecord> {
    shard.view().peers.values().filter(|peer| !peer.paused).cloned().collect()
}

/// What came of asking for a chunk.
enum Came {
    /// It is these bytes; there may have been no place for them.
    Back {
        pieces: Vec<Bytes>,
        stored: bool,
    },
    Not,
    /// No peer could be asked.
    NobodyThere,
}

async fn ask_peers<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Came {
    let Ok(_turn) = shard.refetches.turns.acquire().await else { return Came::NobodyThere };
    let mut came = Came::NobodyThere;
    for peer in givers(shard) {
        let taken = tokio::time::timeout(REFETCH_PATIENCE, take_from(shard, &peer, chunk)).await;
        let trouble = match taken.unwrap_or_else(|_| Err(GiverError::Silent("it took too long".into()))) {
            Ok(pieces) => {
                let sealed_bytes = pieces.iter().map(Bytes::len).sum::<usize>() as u32;
                count(&shard.counters.refetched_chunks);
                add(&shard.counters.refetched_bytes, u64::from(sealed_bytes));
                let stored = chunks::put_pieces(shard, PutChunk { chunk, sealed_bytes }, pieces.clone()).await;
                match &stored {
                    Ok(_) => tracing::warn!(%chunk, peer = %peer.name, "a lost chunk is here again, from the peer"),
                    Err(refusal) => {
                        tracing::warn!(%chunk, peer = %peer.name, %refusal, "a lost chunk can't be kept that the peer has");
                    }
                }
                return Came::Back { pieces, stored: stored.is_ok() };
            }
            Err(GiverError::Silent(detail)) => detail,
            Err(GiverError::Refused(refusal)) => {
                came = Came::Not;
                refusal.to_string()
            }
        };
        tracing::info!(%chunk, peer = %peer.name, %trouble, "a lost chunk did not come back");
    }
    if matches!(came, Came::Not) {
        shard.refetches.was_vain(chunk, shard.clock.clock().monotonic());
    }
    came
}

/// Why a peer did not give a chunk.
enum GiverError {
    /// It does not answer, or not in time.
    Silent(String),
    /// It has not got it either, or what it gave is not it.
    Refused(Refusal),
}

impl From<PeerCallError> for GiverError {
    fn from(error: PeerCallError) -> Self {
        match error {
            PeerCallError::Call(CallError::Refused(refusal)) => Self::Refused(refusal),
            error => Self::Silent(error.to_string()),
        }
    }
}

/// Has a peer send a chunk: the bytes that the id is the hash of, or an error.
async fn take_from<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord, chunk: ChunkId) -> Result<Vec<Bytes>, GiverError> {
    let wrong = |detail: String| GiverError::Refused(Refusal::new(RefusalCode::BadRequest, detail));
    let hello = greeted(shard, peer).await?;
    let request = Request::GetChunk(GetChunk { chunk, offset: 0, length: 0 });
    let (reply, mut stream) = shard.links.ask(peer, chunk.shard(hello.shards), Class::Bulk, &request, None).await?;
    let length = match reply {
        Reply::ChunkRange(range) if range.offset == 0 && range.length == range.sealed_bytes => range.length as usize,
        _ => return Err(wrong("the peer answered something else than was asked".into())),
    };
    if length == 0 || length > MAX_CHUNK_SEALED_BYTES {
        return Err(wrong(format!("the peer speaks of a chunk of {length} bytes")));
    }
    limit(shard, length).await;
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let received = stream.receive_body(length, |piece| {
        hasher.update(&piece);
        pieces.push(piece);
    });
    received.await.map_err(|error| GiverError::Silent(error.to_string()))?;
    match *hasher.finalize().as_bytes() == chunk.0 {
        true => Ok(pieces),
        false => Err(wrong("what the peer sent is not the chunk".into())),
    }
}
