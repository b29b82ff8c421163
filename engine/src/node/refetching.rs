//! Gets chunks back that this site has lost and a peer still has.
//!
//! Too little of a chunk may be left: a node is lost while another one is away, more devices fail at once than parity makes up
//! for. Where a delta names the chunk, a peer that has the delta has the chunk as well. It is asked at once when somebody reads
//! the chunk here, or when it is to be sent to another peer. What repair and mending come across is asked for in the background, by a task
//! of its own: what can be rebuilt must not wait for what has to come from afar. The bytes are the chunk that the id names, or they are
//! refused: the id is their hash.
//!
//! A peer's own question is never passed on to a peer, or two sites that have both lost a chunk would ask one another for ever.

use super::chunks;
use super::collecting::unreferenced;
use super::gathering::{self, ChunkBytes};
use super::limits::{
    REFETCH_BATCH, REFETCH_FLIGHTS, REFETCH_LOOK, REFETCH_PATIENCE, REFETCH_REST, REFETCH_RESTING, REFETCH_WANTED,
    REFETCHES,
};
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
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Chunks that a shard gets back.
pub(crate) struct Refetches {
    may_ask: bool,
    /// Each holds a whole chunk in memory.
    turns: Semaphore,
    /// Chunks that are being asked for: whoever wants the same one waits with the first.
    flights: RefCell<BTreeMap<ChunkId, Rc<Flight>>>,
    /// Chunks that are to be asked for in the background.
    wanted: RefCell<BTreeSet<ChunkId>>,
    /// Chunks that no peer could give, or no delta names, and when that was found out: they are not asked for again at once.
    vain: RefCell<BTreeMap<ChunkId, Duration>>,
    /// When no peer could be asked.
    silent: Cell<Option<Duration>>,
}

impl Refetches {
    /// `may_ask`: whether peers are asked at all.
    pub(super) fn new(may_ask: bool) -> Self {
        Self {
            may_ask,
            turns: Semaphore::new(REFETCHES),
            flights: RefCell::default(),
            wanted: RefCell::default(),
            vain: RefCell::default(),
            silent: Cell::default(),
        }
    }

    /// Has a chunk asked for soon. Past the bound it is wanted again when somebody comes across it again.
    pub(super) fn want(&self, chunk: ChunkId) {
        let mut wanted = self.wanted.borrow_mut();
        if wanted.len() < REFETCH_WANTED {
            wanted.insert(chunk);
        }
    }

    /// The next chunk that is wanted, behind the last one and around: one that can't be had holds up no other.
    fn next(&self, last: &mut ChunkId) -> Option<ChunkId> {
        let mut wanted = self.wanted.borrow_mut();
        let behind = wanted.range((Bound::Excluded(*last), Bound::Unbounded)).next();
        let next = behind.or_else(|| wanted.first()).copied()?;
        wanted.remove(&next);
        *last = next;
        Some(next)
    }

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

    /// Whether there was nobody to ask a moment ago.
    fn is_silent(&self, now: Duration) -> bool {
        self.silent.get().is_some_and(|since| now.saturating_sub(since) < REFETCH_REST)
    }
}

/// A chunk that is being asked for.
#[derive(Default)]
struct Flight {
    came: OnceCell<Came>,
    landed: Notify,
}

/// What came of asking for a chunk.
#[derive(Debug, Clone)]
enum Came {
    /// It is these bytes; there may have been no place for them.
    Back { read: ChunkBytes, stored: bool },
    /// No peer has it, or nobody needs it.
    Not,
    /// A peer may have it, and could not give it.
    NotNow,
    /// No peer could be asked.
    NobodyThere,
}

/// Reads a chunk for a caller. One that is lost here is got back first, or passed on where there is no place for it.
pub(super) async fn get<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, get: GetChunk) -> Answered {
    match gathering::get(shard, get.clone()).await {
        Err(refusal) if caller.role != Role::Peer && is_gone(&refusal) => {
            let owner = get.chunk.shard(shard.shards());
            let found = shard.on(owner, move |there| async move { found(&there, get.chunk).await }).await?;
            found.map_or(Err(refusal), |read| part(read, &get))
        }
        answered => answered,
    }
}

/// Reads a chunk for a caller who wants to know what is here. One that is lost is got back afterwards.
pub(super) async fn get_own<D: Disk>(shard: &Rc<Shard<D>>, get: GetChunk) -> Answered {
    let chunk = get.chunk;
    let answered = gathering::get(shard, get).await;
    if answered.as_ref().is_err_and(is_gone) {
        let owner = chunk.shard(shard.shards());
        let wants = move |there: Rc<Shard<D>>| async move { there.refetches.want(chunk) };
        shard.on(owner, wants).await?;
    }
    answered
}

/// Whether a refusal to read a chunk says that too little of it is here, and not that it can't be read now.
pub(super) fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code, RefusalCode::NotFound | RefusalCode::Corrupt)
}

/// The bytes of a lost chunk of this shard, if a peer has them. It is here again then, if there is a place for it.
pub(super) async fn found<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Option<ChunkBytes> {
    match ask_once(shard, chunk).await {
        Came::Back { read, .. } => Some(read),
        Came::Not | Came::NotNow | Came::NobodyThere => None,
    }
}

/// The part of a chunk that was asked for.
fn part(ChunkBytes { sealed_bytes, pieces }: ChunkBytes, get: &GetChunk) -> Answered {
    let range = gathering::range_of(sealed_bytes, get.offset, get.length)?;
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

/// Gets back what is wanted, for as long as the shard runs.
pub(super) async fn keep_refetching<D: Disk>(shard: Rc<Shard<D>>) {
    let mut last = ChunkId([0; 32]);
    loop {
        tokio::time::sleep(shard.pace(REFETCH_LOOK)).await;
        if givers(&shard).is_empty() {
            shard.refetches.wanted.borrow_mut().clear();
            continue;
        }
        let mut got = false;
        let mut later = Vec::new();
        for _ in 0..REFETCH_BATCH {
            // What could not be kept need not come.
            if shard.takes_writes().is_err() {
                break;
            }
            let Some(chunk) = shard.refetches.next(&mut last) else { break };
            match ask_once(&shard, chunk).await {
                Came::Back { read, stored } => {
                    limit(&shard, read.sealed_bytes as usize).await;
                    got |= stored;
                }
                Came::Not => {}
                Came::NotNow => later.push(chunk),
                Came::NobodyThere => {
                    shard.refetches.want(chunk);
                    break;
                }
            }
        }
        if got {
            shard.repair.count_again();
        }
        if !later.is_empty() {
            later.into_iter().for_each(|chunk| shard.refetches.want(chunk));
            // Whoever can't give them now can't either a moment later.
            tokio::time::sleep(REFETCH_REST / 2).await;
        }
    }
}

/// Peers that may be asked now.
fn givers<D: Disk>(shard: &Shard<D>) -> Vec<PeerRecord> {
    if !shard.refetches.may_ask {
        return Vec::new();
    }
    shard.view().peers.values().filter(|peer| !peer.paused).cloned().collect()
}

/// Asks peers for a chunk, or waits for what comes of it where that is done already.
async fn ask_once<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Came {
    let known = shard.refetches.flights.borrow().get(&chunk).cloned();
    let flight = match known {
        Some(flight) => flight,
        None => {
            let now = shard.clock.clock().monotonic();
            if shard.refetches.rests(&chunk, now) {
                return Came::Not;
            }
            let is_full = shard.refetches.flights.borrow().len() >= REFETCH_FLIGHTS;
            if is_full || shard.refetches.is_silent(now) || givers(shard).is_empty() {
                return Came::NobodyThere;
            }
            let flight = Rc::new(Flight::default());
            shard.refetches.flights.borrow_mut().insert(chunk, flight.clone());
            // On its own, so that it lands whoever goes away.
            let (shard, own) = (shard.clone(), flight.clone());
            tokio::task::spawn_local(async move {
                let came = ask_in_turn(&shard, chunk).await;
                shard.refetches.flights.borrow_mut().remove(&chunk);
                let _ = own.came.set(came);
                own.landed.notify_waiters();
            });
            flight
        }
    };
    let mut landed = std::pin::pin!(flight.landed.notified());
    landed.as_mut().enable();
    if flight.came.get().is_none() {
        landed.await;
    }
    flight.came.get().cloned().unwrap_or(Came::NobodyThere)
}

async fn ask_in_turn<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Came {
    let Ok(_turn) = shard.refetches.turns.acquire().await else { return Came::NobodyThere };
    let now = || shard.clock.clock().monotonic();
    if shard.refetches.is_silent(now()) {
        return Came::NobodyThere;
    }
    // The rest of a put that was given up is nobody's, nor is what somebody makes up.
    match unreferenced(shard, vec![chunk], 0).await {
        Ok(garbage) if garbage.is_empty() => {}
        Ok(_) => {
            shard.refetches.was_vain(chunk, now());
            return Came::Not;
        }
        Err(refusal) => {
            tracing::info!(%chunk, %refusal, "whether a lost chunk is needed is not known yet");
            return Came::NobodyThere;
        }
    }
    let came = ask_peers(shard, chunk).await;
    match came {
        Came::Back { .. } | Came::NotNow => {}
        Came::Not => shard.refetches.was_vain(chunk, now()),
        Came::NobodyThere => shard.refetches.silent.set(Some(now())),
    }
    came
}

async fn ask_peers<D: Disk>(shard: &Rc<Shard<D>>, chunk: ChunkId) -> Came {
    let mut came = Came::NobodyThere;
    for peer in givers(shard) {
        let taken = tokio::time::timeout(REFETCH_PATIENCE, take_from(shard, &peer, chunk)).await;
        let trouble = match taken.unwrap_or_else(|_| Err(GiverError::Failed("it took too long".into()))) {
            Ok(read) => {
                count(&shard.counters.refetched_chunks);
                add(&shard.counters.refetched_bytes, u64::from(read.sealed_bytes));
                let put = PutChunk { chunk, sealed_bytes: read.sealed_bytes };
                let stored = chunks::put_pieces(shard, put, read.pieces.clone()).await;
                match &stored {
                    Ok(_) => tracing::warn!(%chunk, peer = %peer.name, "a lost chunk is here again, from the peer"),
                    Err(refusal) => {
                        tracing::warn!(%chunk, peer = %peer.name, %refusal, "a lost chunk can't be kept that the peer has");
                    }
                }
                return Came::Back { read, stored: stored.is_ok() };
            }
            Err(GiverError::Silent(detail)) => detail,
            Err(GiverError::Failed(detail)) => {
                came = Came::NotNow;
                detail
            }
            // It has paused us, or has only just started, or its own nodes don't answer.
            Err(GiverError::Refused(refusal)) if refusal.retry_after_ms > 0 => {
                came = Came::NotNow;
                refusal.to_string()
            }
            Err(GiverError::Refused(refusal)) => {
                if let Came::NobodyThere = came {
                    came = Came::Not;
                }
                refusal.to_string()
            }
        };
        tracing::info!(%chunk, peer = %peer.name, %trouble, "a lost chunk did not come back");
    }
    came
}

/// Why a peer did not give a chunk.
enum GiverError {
    /// It does not answer.
    Silent(String),
    /// It answers, and what it sends does not arrive.
    Failed(String),
    /// It has not got it either, or what it gave is not it.
    Refused(Refusal),
}

impl From<PeerCallError> for GiverError {
    fn from(error: PeerCallError) -> Self {
        match error {
            PeerCallError::Call(CallError::Refused(refusal)) => Self::Refused(refusal),
            PeerCallError::Call(error) => Self::Failed(error.to_string()),
            error => Self::Silent(error.to_string()),
        }
    }
}

/// Has a peer send a chunk: the bytes that the id is the hash of, or an error.
async fn take_from<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord, chunk: ChunkId) -> Result<ChunkBytes, GiverError> {
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
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let received = stream.receive_body(length, |piece| {
        hasher.update(&piece);
        pieces.push(piece);
    });
    received.await.map_err(|error| GiverError::Failed(error.to_string()))?;
    match *hasher.finalize().as_bytes() == chunk.0 {
        true => Ok(ChunkBytes { sealed_bytes: length as u32, pieces }),
        false => Err(wrong("what the peer sent is not the chunk".into())),
    }
}
