//! Putting: seal, store the chunks, then propose the delta that names them.

use super::download::{Object, Pieces};
use super::storing::{Chunks, collected};
use super::{ClientError, Log, keys};
use bytes::Bytes;
use farside_codec::delta::{ChunkRef, Deduplication, DeltaKind, DeltaReceipt, EpochRecord, Extent, Proposal};
use farside_codec::ids::{ChunkId, OperationId};
use farside_codec::limits::{
    DEFAULT_CHUNK_PLAIN_BYTES, MAX_CHUNKS_PER_DELTA, MAX_DELTAS_BYTES_PER_REQUEST, MAX_INLINE_PLAIN_BYTES,
    MAX_NAME_BYTES,
};
use farside_codec::message::{Moment, RefusalCode};
use farside_codec::seal::{
    Binding, ChunkKey, ChunkSecret, DigestKey, ObjectKind, ObjectRecord, TenantDataKey, seal_chunk, seal_payload,
    sealed_bytes,
};
use std::io::Read;
use std::rc::Rc;
use tokio::sync::oneshot;

/// Chunks of one object on their way at once: 32 MiB of the default size.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Proposals of one request; a quarter of what nodes accept keeps the latency of a batch down.
const PROPOSALS_PER_REQUEST: usize = 64;
/// How often chunks are put again because GC has outrun their receipts.
const STALE_RETRIES: usize = 3;

/// Where an object's contents come from.
pub enum UploadBody {
    /// There are none: a directory or a link.
    None,
    /// From memory.
    Bytes(Bytes),
    /// From a reader, which is read once, on a thread that may wait for it.
    Reader(Box<dyn Read + Send>),
    /// Those of an object, of this log or another one, which is checked as it is read.
    Object(Box<Object>),
}

/// An object to be put.
pub struct Upload {
    /// Its name: any bytes, 1 to 4,096 of them.
    pub name: Bytes,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits.
    pub mode: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// Its contents.
    pub body: UploadBody,
    /// Put only if the name's newest delta has this sequence (0: only if there is none).
    pub condition: Option<u64>,
    /// The id of the put, by which a repetition is known and not done again; `None`: a new one.
    pub operation: Option<OperationId>,
}

impl Upload {
    /// A file of these bytes.
    pub fn bytes(name: &[u8], contents: Vec<u8>) -> Self {
        Self::reader_or(name, UploadBody::Bytes(contents.into()))
    }

    /// A file that is read from `reader`.
    pub fn reader(name: &[u8], reader: Box<dyn Read + Send>) -> Self {
        Self::reader_or(name, UploadBody::Reader(reader))
    }

    fn reader_or(name: &[u8], body: UploadBody) -> Self {
        let name = Bytes::copy_from_slice(name);
        Self { name, kind: ObjectKind::File, mode: 0o644, modified: (0, 0), body, condition: None, operation: None }
    }
}

/// What came of a put, once it is durable.
#[derive(Debug, Clone)]
pub struct PutReceipt {
    /// The object's name.
    pub name: Bytes,
    /// Its place in the log.
    pub receipt: DeltaReceipt,
    /// Plaintext bytes.
    pub size_bytes: u64,
    /// Chunks that hold them; 0 when they ride in the delta.
    pub chunks: u64,
    /// Plaintext bytes that were there already.
    pub deduplicated_bytes: u64,
}

impl PutReceipt {
    /// The moment right after it.
    pub fn moment(&self) -> Moment {
        Moment::Sequence(self.receipt.cursor.sequence)
    }
}

/// An object whose chunks are durable: what is left is to propose these, in order.
pub(crate) struct Prepared {
    name: Bytes,
    proposals: Vec<Proposal>,
    size_bytes: u64,
    chunks: u64,
    deduplicated_bytes: u64,
}

/// A chunk that is at the site.
pub(super) struct Stored {
    secret: ChunkSecret,
    pub(super) reference: ChunkRef,
    /// When it was stored or touched last.
    pub(super) gc_epoch: u64,
    placement_epoch: u64,
    deduplicated: bool,
}

#[derive(Default)]
struct Contents {
    stored: Vec<Stored>,
    inline: Option<Bytes>,
    size_bytes: u64,
    digest: [u8; 32],
}

struct Sealer {
    key: Rc<TenantDataKey>,
    epoch: EpochRecord,
    digests: Option<DigestKey>,
}

/// Where contents come from, in pieces of the size of a chunk; the last one is shorter.
enum Source<'a> {
    Memory(Bytes),
    /// `None` while it is read.
    Reader(Option<Box<dyn Read + Send>>),
    Object(Pieces<'a>),
}

impl Source<'_> {
    async fn next(&mut self, name: &[u8]) -> Result<Vec<u8>, ClientError> {
        match self {
            Self::Memory(bytes) => Ok(bytes.split_to(bytes.len().min(DEFAULT_CHUNK_PLAIN_BYTES)).into()),
            Self::Reader(reader) => {
                let fail = |error| ClientError::File(String::from_utf8_lossy(name).into_owned().into(), error);
                let lost = || fail(std::io::ErrorKind::BrokenPipe.into());
                let (sender, receiver) = oneshot::channel();
                let mut from = reader.take().ok_or_else(lost)?;
                // Nothing waits for it at the end of the process: the input may never come.
                let read = move || {
                    let mut plain = Vec::with_capacity(DEFAULT_CHUNK_PLAIN_BYTES.min(1 << 16));
                    let read = from.by_ref().take(DEFAULT_CHUNK_PLAIN_BYTES as u64).read_to_end(&mut plain);
                    drop(sender.send((from, read.map(|_| plain))));
                };
                std::thread::Builder::new().name("input".into()).spawn(read).map_err(fail)?;
                let (from, plain) = receiver.await.map_err(|_| lost())?;
                *reader = Some(from);
                plain.map_err(fail)
            }
            Self::Object(pieces) => pieces.next(DEFAULT_CHUNK_PLAIN_BYTES).await,
        }
    }
}

impl Log {
    async fn sealer(&self) -> Result<Sealer, ClientError> {
        let descriptor = &self.info.descriptor;
        // The newest version of the key, whatever the order in which epochs came: one that was set aside and is applied
        // again does not undo a rotation.
        let newest = self.info.epochs.iter().max_by_key(|epoch| epoch.key_version);
        let epoch = newest.unwrap_or(&descriptor.first_epoch).clone();
        let key = keys::check(&self.client, &descriptor.tenant_name, descriptor.tenant, &epoch).await?;
        let digests = match descriptor.policy.deduplication {
            Deduplication::Off => None,
            Deduplication::Log => Some(key.digest_key(&descriptor.log.0)),
            Deduplication::Tenant => Some(key.digest_key(&descriptor.tenant.0)),
        };
        Ok(Sealer { key, epoch, digests })
    }

    /// Puts one object; it is durable when this answers.
    pub async fn put(&self, upload: Upload) -> Result<PutReceipt, ClientError> {
        let prepared = self.prepare(upload).await?;
        self.commit_one(prepared).await
    }

    /// Proposes a prepared object.
    pub(crate) async fn commit_one(&self, prepared: Prepared) -> Result<PutReceipt, ClientError> {
        let mut receipts = self.commit(vec![prepared]).await;
        receipts.pop().unwrap_or(Err(ClientError::Failed("no receipt came back".into())))
    }

    /// Seals an object and makes its chunks durable.
    pub(crate) async fn prepare(&self, upload: Upload) -> Result<Prepared, ClientError> {
        if upload.name.is_empty() || upload.name.len() > MAX_NAME_BYTES {
            return Err(ClientError::Usage(format!(
                "a name has 1 to {MAX_NAME_BYTES} bytes, not {}",
                upload.name.len()
            )));
        }
        let sealer = self.sealer().await?;
        let contents = match upload.body {
            UploadBody::None => Contents::default(),
            UploadBody::Bytes(bytes) => self.store(&sealer, Source::Memory(bytes), &upload.name).await?,
            UploadBody::Reader(reader) => self.store(&sealer, Source::Reader(Some(reader)), &upload.name).await?,
            UploadBody::Object(object) => self.store(&sealer, Source::Object(object.pieces()), &upload.name).await?,
        };
        let record = ObjectRecord {
            name: upload.name,
            kind: upload.kind,
            mode: upload.mode,
            modified_seconds: upload.modified.0 as u64,
            modified_nanoseconds: upload.modified.1,
            size_bytes: contents.size_bytes,
            digest: contents.digest,
            chunks: Vec::new(),
        };
        Ok(self.assemble(&sealer, record, contents, upload.condition, upload.operation))
    }

    /// Makes the deltas of an object: one, or extents and a last one for more chunks than one delta may name.
    fn assemble(
        &self,
        sealer: &Sealer,
        record: ObjectRecord,
        contents: Contents,
        condition: Option<u64>,
        operation: Option<OperationId>,
    ) -> Prepared {
        let object = operation.unwrap_or_else(|| OperationId(self.client.random()));
        // A put that is repeated repeats its extents.
        let of_extent = |index: usize| match operation {
            Some(object) => {
                let hash = blake3::hash(&[&object.0[..], &(index as u64).to_le_bytes()].concat());
                OperationId(std::array::from_fn(|at| hash.as_bytes()[at]))
            }
            None => OperationId(self.client.random()),
        };
        let deduplicated = |stored: &&Stored| stored.deduplicated;
        let deduplicated_bytes =
            contents.stored.iter().filter(deduplicated).map(|stored| u64::from(stored.secret.plain_bytes)).sum();
        let parts: Vec<&[Stored]> = match contents.stored.is_empty() {
            true => vec![&[]],
            false => contents.stored.chunks(MAX_CHUNKS_PER_DELTA).collect(),
        };
        let last = parts.len() - 1;
        let proposal = |(index, stored): (usize, &&[Stored])| {
            let ends = index == last;
            let chunks: Vec<ChunkRef> = stored.iter().map(|stored| stored.reference.clone()).collect();
            let operation = if ends { object } else { of_extent(index) };
            let extent = (last > 0).then_some(Extent { object, index: index as u32 });
            let mut record = record.clone();
            record.chunks = stored.iter().map(|stored| stored.secret.clone()).collect();
            let name = self.blind(&record.name);
            let size_bytes = record.size_bytes;
            let binding =
                Binding { log: self.id(), name, operation, chunks: &chunks, extent: extent.clone(), size_bytes };
            let sealed = seal_payload(&sealer.key, &binding, self.client.random(), &record, contents.inline.as_deref());
            Proposal {
                operation,
                kind: if ends { DeltaKind::Put } else { DeltaKind::Extent },
                name,
                key_epoch: sealer.epoch.epoch,
                gc_epoch: stored.iter().map(|stored| stored.gc_epoch).min().unwrap_or(u64::MAX),
                placement_epoch: stored.iter().map(|stored| stored.placement_epoch).max().unwrap_or(0),
                condition: condition.filter(|_| ends),
                size_bytes,
                chunks,
                extent,
                payload: sealed.payload,
                inline: sealed.inline,
            }
        };
        let proposals = parts.iter().enumerate().map(proposal).collect();
        let chunks = contents.stored.len() as u64;
        Prepared { name: record.name.clone(), proposals, size_bytes: record.size_bytes, chunks, deduplicated_bytes }
    }

    /// Reads the contents; small ones come back inline, others are stored as chunks.
    async fn store(&self, sealer: &Sealer, mut source: Source<'_>, name: &[u8]) -> Result<Contents, ClientError> {
        let mut contents = Contents::default();
        let mut hasher = blake3::Hasher::new();
        let mut chunks = Chunks::new(&self.client);
        loop {
            let mut next = std::pin::pin!(source.next(name));
            let plain = loop {
                // What comes slowly must not hold up what is on its way, nor let GC take what is there.
                tokio::select! {
                    biased;
                    plain = &mut next => break plain?,
                    went_on = chunks.go_on() => went_on?,
                }
            };
            hasher.update(&plain);
            contents.size_bytes += plain.len() as u64;
            let ends = plain.len() < DEFAULT_CHUNK_PLAIN_BYTES;
            if ends && chunks.is_empty() && plain.len() <= MAX_INLINE_PLAIN_BYTES {
                contents.inline = (!plain.is_empty()).then(|| plain.into());
                break;
            }
            if !plain.is_empty() {
                chunks.send(self.store_chunk(sealer, plain));
            }
            // Nor what goes out slowly.
            while chunks.under_way() >= CHUNKS_IN_FLIGHT || (ends && chunks.under_way() > 0) {
                chunks.go_on().await?;
            }
            if ends {
                break;
            }
        }
        contents.stored = chunks.into_stored();
        contents.digest = *hasher.finalize().as_bytes();
        Ok(contents)
    }

    async fn store_chunk(&self, sealer: &Sealer, mut plain: Vec<u8>) -> Result<Stored, ClientError> {
        let digest = sealer.digests.as_ref().map_or_else(|| self.client.random(), |digests| digests.digest(&plain));
        let secret = ChunkSecret { digest, plain_bytes: plain.len() as u32 };
        let length = sealed_bytes(plain.len());
        plain.resize(length, 0);
        let chunk = seal_chunk(&ChunkKey::new(&sealer.key, &secret), &mut plain);
        let reference = ChunkRef { chunk, sealed_bytes: length as u32 };
        if sealer.digests.is_some()
            && let Some(held) = self.client.receipt_of(chunk).await?
        {
            let (gc_epoch, placement_epoch) = (held.gc_epoch, held.placement_epoch);
            return Ok(Stored { secret, reference, gc_epoch, placement_epoch, deduplicated: true });
        }
        let receipt = self.client.put_sealed(chunk, plain.into()).await?;
        let (gc_epoch, placement_epoch, deduplicated) =
            (receipt.gc_epoch, receipt.placement_epoch, receipt.deduplicated);
        Ok(Stored { secret, reference, gc_epoch, placement_epoch, deduplicated })
    }

    /// Proposes prepared objects, in as few requests as their sizes allow.
    pub(crate) async fn commit(&self, objects: Vec<Prepared>) -> Vec<Result<PutReceipt, ClientError>> {
        let mut receipts = Vec::with_capacity(objects.len());
        let mut batch: Vec<Prepared> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for object in objects {
            let more: usize = object.proposals.iter().map(cost).sum();
            let full = count + object.proposals.len() > PROPOSALS_PER_REQUEST
                || bytes + more > MAX_DELTAS_BYTES_PER_REQUEST / 2;
            if full && !batch.is_empty() {
                receipts.extend(self.commit_batch(std::mem::take(&mut batch)).await);
                (count, bytes) = (0, 0);
            }
            count += object.proposals.len();
            bytes += more;
            batch.push(object);
        }
        receipts.extend(self.commit_batch(batch).await);
        receipts
    }

    async fn commit_batch(&self, objects: Vec<Prepared>) -> Vec<Result<PutReceipt, ClientError>> {
        let mut outcomes = Vec::with_capacity(objects.len());
        let proposals: Vec<Proposal> = objects.iter().flat_map(|object| object.proposals.clone()).collect();
        // Extents of one very large object go in several requests; everything else fits one.
        for part in split(proposals) {
            match self.propose_until_fresh(part).await {
                Ok(receipts) => outcomes.extend(receipts.into_iter().map(|receipt| receipt.map_err(ClientError::from))),
                Err(error) => {
                    let text = error.to_string();
                    let first = std::iter::once(Err(error));
                    let others = std::iter::repeat_with(|| Err(ClientError::Failed(text.clone())));
                    return first.chain(others).take(objects.len()).collect();
                }
            }
        }
        let mut outcomes = outcomes.into_iter();
        objects.into_iter().map(|object| collect(object, &mut outcomes)).collect()
    }

    /// A receipt that GC has outrun is renewed by asking for its chunks again, which touches them.
    async fn propose_until_fresh(
        &self,
        mut proposals: Vec<Proposal>,
    ) -> Result<Vec<Result<DeltaReceipt, farside_codec::message::Refusal>>, ClientError> {
        for _ in 0..STALE_RETRIES {
            let receipts = match self.propose(proposals.clone()).await {
                // All of them were refused for the first that names what is gone.
                Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::StaleReceipt => {
                    proposals.iter().map(|_| Err(refusal.clone())).collect()
                }
                receipts => receipts?,
            };
            let stale = |receipt: &Result<DeltaReceipt, farside_codec::message::Refusal>| {
                receipt.as_ref().is_err_and(|refusal| refusal.code == RefusalCode::StaleReceipt)
            };
            if !receipts.iter().any(stale) {
                return Ok(receipts);
            }
            for proposal in proposals.iter_mut().filter(|proposal| !proposal.chunks.is_empty()) {
                proposal.gc_epoch = self.touch(&proposal.chunks).await?;
            }
        }
        self.propose(proposals).await
    }

    async fn touch(&self, chunks: &[ChunkRef]) -> Result<u64, ClientError> {
        let chunks: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.chunk).collect();
        let mut lowest = u64::MAX;
        for held in self.client.receipts_of(&chunks).await? {
            lowest = lowest.min(held.ok_or_else(collected)?.gc_epoch);
        }
        Ok(lowest)
    }
}

fn cost(proposal: &Proposal) -> usize {
    256 + proposal.chunks.len() * 36 + proposal.payload.len() + proposal.inline.len()
}

fn split(proposals: Vec<Proposal>) -> Vec<Vec<Proposal>> {
    let mut parts: Vec<Vec<Proposal>> = vec![Vec::new()];
    let mut bytes = 0;
    for proposal in proposals {
        let more = cost(&proposal);
        if bytes + more > MAX_DELTAS_BYTES_PER_REQUEST && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(last) = parts.last_mut() {
            last.push(proposal);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// The receipt of an object is that of its last delta, if all of them were placed.
fn collect(
    object: Prepared,
    outcomes: &mut impl Iterator<Item = Result<DeltaReceipt, ClientError>>,
) -> Result<PutReceipt, ClientError> {
    let mut last = Err(ClientError::Failed("no receipt came back".into()));
    let mut failed = None;
    for outcome in outcomes.take(object.proposals.len()) {
        match outcome {
            Ok(receipt) => last = Ok(receipt),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let receipt = failed.map_or(last, Err)?;
    let Prepared { name, size_bytes, chunks, deduplicated_bytes, .. } = object;
    Ok(PutReceipt { name, receipt, size_bytes, chunks, deduplicated_bytes })
}
