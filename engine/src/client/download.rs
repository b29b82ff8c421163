//! Getting: find the version, open its payload, fetch and open its chunks, check the whole.

use super::{ClientError, Log, keys, unexpected};
use bytes::Bytes;
use farside_codec::delta::{ChunkRef, Delta, DeltaKind};
use farside_codec::ids::{BlindName, Hlc};
use farside_codec::message::{History, List, Lookup, Moment, RefusalCode, Reply, Request, Version, Versions};
use farside_codec::seal::{
    Binding, ChunkKey, ChunkSecret, ObjectKind, ObjectRecord, OpenError, Sealed, TenantDataKey, open_chunk,
    open_payload,
};
use futures_util::stream::{FuturesOrdered, StreamExt};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::task::{JoinError, JoinHandle};

/// Chunks of one object on their way at once.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Names asked for at once.
const LIST_PAGE: u32 = 1000;

/// What is known about one version of an object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Its name; empty for a removal, whose delta carries none.
    pub name: Bytes,
    /// Sequence of its delta.
    pub sequence: u64,
    /// Time of its delta.
    pub time: Hlc,
    /// What it is; `None` for a removal.
    pub kind: Option<ObjectKind>,
    /// Plaintext bytes.
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub modified: (i64, u32),
}

/// A chunk on its way, as a task that ends with this.
struct Fetching(JoinHandle<Result<Vec<u8>, ClientError>>);

impl Future for Fetching {
    type Output = Result<Result<Vec<u8>, ClientError>, JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The contents of an object on their way, several chunks at once. They are checked as a whole when they end.
pub(super) struct Pieces<'a> {
    object: &'a Object,
    inline: Option<&'a Bytes>,
    left: std::slice::Iter<'a, (ChunkSecret, ChunkRef)>,
    fetches: FuturesOrdered<Fetching>,
    hasher: blake3::Hasher,
    size_bytes: u64,
    /// What came and is not handed on yet.
    waiting: Vec<u8>,
}

impl Pieces<'_> {
    /// The next ones as they lie in chunks; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        while self.fetches.len() < CHUNKS_IN_FLIGHT
            && let Some((secret, reference)) = self.left.next()
        {
            // It comes in whoever is waited for meanwhile: what lay unread would hold up all else on its connection.
            let fetch = self.object.fetch(secret.clone(), reference.clone());
            self.fetches.push_back(Fetching(tokio::task::spawn_local(fetch)));
        }
        let plain = match self.inline.take() {
            Some(inline) => Some(inline.to_vec()),
            None => match self.fetches.next().await {
                Some(fetched) => Some(fetched.map_err(|error| ClientError::Failed(error.to_string()))??),
                None => None,
            },
        };
        let Object { log, info, digest, .. } = self.object;
        if let Some(plain) = plain {
            self.hasher.update(&plain);
            self.size_bytes += plain.len() as u64;
            return Ok(Some(plain));
        }
        let whole = info.size_bytes == 0 || self.hasher.finalize().as_bytes() == digest;
        match self.size_bytes == info.size_bytes && whole {
            true => Ok(None),
            false => Err(log.corrupt(&info.name, OpenError::NotAuthentic)),
        }
    }

    /// The next `bytes` of them, fewer at the end.
    pub(super) async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, ClientError> {
        while self.waiting.len() < bytes
            && let Some(plain) = self.chunk().await?
        {
            match self.waiting.is_empty() {
                true => self.waiting = plain,
                false => self.waiting.extend_from_slice(&plain),
            }
        }
        let rest = self.waiting.split_off(bytes.min(self.waiting.len()));
        Ok(std::mem::replace(&mut self.waiting, rest))
    }
}

/// An object that can be read.
pub struct Object {
    log: Log,
    /// What is known about it.
    pub info: ObjectInfo,
    key: Rc<TenantDataKey>,
    digest: [u8; 32],
    inline: Option<Bytes>,
    chunks: Vec<(ChunkSecret, ChunkRef)>,
}

impl Log {
    fn corrupt(&self, name: &[u8], error: OpenError) -> ClientError {
        ClientError::Corrupt {
            what: format!("{} in {}", String::from_utf8_lossy(name).escape_debug(), self.name()),
            error,
        }
    }

    pub(crate) async fn version(&self, name: &[u8], at: &Moment) -> Result<Option<Version>, ClientError> {
        let request = Request::Lookup(Lookup { log: self.id(), name: self.blind(name), at: at.clone() });
        match self.client.link.call(self.target(), &request).await? {
            Reply::Found(version) => Ok(version),
            reply => Err(unexpected(&reply)),
        }
    }

    /// One object as of a moment.
    pub async fn get(&self, name: &[u8], at: &Moment) -> Result<Object, ClientError> {
        let version = self.version(name, at).await?.ok_or_else(|| self.no_such(name))?;
        let object = self.open(version).await?;
        match object.info.name == name {
            true => Ok(object),
            false => Err(self.corrupt(name, OpenError::NotAuthentic)),
        }
    }

    /// Opens a version's payload.
    pub(super) async fn open(&self, version: Version) -> Result<Object, ClientError> {
        let delta = self.parse(version.delta)?;
        let descriptor = &self.info.descriptor;
        let epoch = self.epoch(delta.proposal.key_epoch).await?;
        let key = keys::check(&self.client, &descriptor.tenant_name, descriptor.tenant, &epoch).await?;
        let mut chunks = Vec::new();
        for extent in version.extents {
            let extent = self.parse(extent)?;
            let (part, _) = self.open_delta(&key, &extent)?;
            chunks.extend(part.chunks.into_iter().zip(extent.proposal.chunks));
        }
        let (record, inline) = self.open_delta(&key, &delta)?;
        chunks.extend(record.chunks.iter().cloned().zip(delta.proposal.chunks.iter().cloned()));
        Ok(Object { log: self.clone(), digest: record.digest, info: info(&delta, Some(record)), key, inline, chunks })
    }

    pub(super) fn parse(&self, encoded: Bytes) -> Result<Delta, ClientError> {
        let delta = Delta::parse(encoded).ok().filter(|delta| delta.log == self.id());
        delta.ok_or_else(|| self.corrupt(b"a delta", OpenError::Contents))
    }

    fn open_delta(&self, key: &TenantDataKey, delta: &Delta) -> Result<(ObjectRecord, Option<Bytes>), ClientError> {
        let proposal = &delta.proposal;
        let binding = Binding {
            log: delta.log,
            name: proposal.name,
            operation: proposal.operation,
            chunks: &proposal.chunks,
            extent: proposal.extent.clone(),
            size_bytes: proposal.size_bytes,
        };
        let sealed = Sealed { payload: proposal.payload.clone(), inline: proposal.inline.clone() };
        let opened = open_payload(key, &binding, &sealed).map_err(|error| self.corrupt(b"an object", error))?;
        let fits = self.blind(&opened.0.name) == proposal.name && opened.0.chunks.len() == proposal.chunks.len();
        if fits { Ok(opened) } else { Err(self.corrupt(&opened.0.name, OpenError::NotAuthentic)) }
    }

    async fn page(&self, at: &Moment, after: Option<BlindName>) -> Result<Versions, ClientError> {
        let request = Request::List(List { log: self.id(), at: at.clone(), after, limit: LIST_PAGE });
        match self.client.link.call(self.target(), &request).await? {
            Reply::Versions(versions) => Ok(versions),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Hands every object as of a moment to `each`, in no order that means anything, page by page. A log that is
    /// written to meanwhile is listed as it was when this began, as long as its history reaches back so far.
    pub async fn for_each<F, R>(&self, at: &Moment, mut each: F) -> Result<(), ClientError>
    where
        F: FnMut(Object) -> R,
        R: Future<Output = Result<(), ClientError>>,
    {
        self.for_each_version(at, async |version, _| each(self.open(version).await?).await).await
    }

    /// The same of versions that are not opened, each with its delta.
    pub(super) async fn for_each_version<F>(&self, at: &Moment, mut each: F) -> Result<(), ClientError>
    where
        F: AsyncFnMut(Version, Delta) -> Result<(), ClientError>,
    {
        let mut moment = match at {
            Moment::Latest => Moment::Sequence(self.client.resolve(&self.name()).await?.head.sequence),
            other => other.clone(),
        };
        let mut after = None;
        loop {
            let page = match self.page(&moment, after).await {
                // What was there when this began is being pruned already, or the copy is being made: the rest is as it is now.
                Err(error) if *at == Moment::Latest && moment != Moment::Latest && is_pruned(&error) => {
                    moment = Moment::Latest;
                    continue;
                }
                page => page?,
            };
            for version in page.versions {
                let delta = self.parse(version.delta.clone())?;
                after = Some(delta.proposal.name);
                each(version, delta).await?;
            }
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Every object as of a moment, sorted by name.
    pub async fn list(&self, at: &Moment) -> Result<Vec<ObjectInfo>, ClientError> {
        let mut found = Vec::new();
        self.for_each(at, |object| {
            found.push(object.info);
            std::future::ready(Ok(()))
        })
        .await?;
        found.sort_by(|a: &ObjectInfo, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// A name's versions and removals, newest first.
    pub async fn history(&self, name: &[u8]) -> Result<Vec<ObjectInfo>, ClientError> {
        let mut found = Vec::new();
        let mut before = u64::MAX;
        loop {
            let request =
                Request::History(History { log: self.id(), name: self.blind(name), before, limit: LIST_PAGE });
            let versions = match self.client.link.call(self.target(), &request).await? {
                Reply::Versions(versions) => versions,
                reply => return Err(unexpected(&reply)),
            };
            for version in versions.versions {
                let delta = self.parse(version.delta.clone())?;
                before = delta.sequence;
                found.push(match delta.proposal.kind {
                    DeltaKind::Remove => info(&delta, None),
                    _ => self.open(version).await?.info,
                });
            }
            if !versions.more {
                return if found.is_empty() { Err(self.no_such(name)) } else { Ok(found) };
            }
        }
    }
}

fn is_pruned(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(refusal) if refusal.code == RefusalCode::Pruned)
}

fn info(delta: &Delta, record: Option<ObjectRecord>) -> ObjectInfo {
    let (sequence, time) = (delta.sequence, delta.time);
    match record {
        None => ObjectInfo { name: Bytes::new(), sequence, time, kind: None, size_bytes: 0, mode: 0, modified: (0, 0) },
        Some(record) => ObjectInfo {
            name: record.name,
            sequence,
            time,
            kind: Some(record.kind),
            size_bytes: record.size_bytes,
            mode: record.mode,
            modified: (record.modified_seconds as i64, record.modified_nanoseconds),
        },
    }
}

impl Object {
    /// Hands the contents to `write`, in order, and checks them as a whole at the end.
    pub async fn read(&self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), ClientError> {
        let name = String::from_utf8_lossy(&self.info.name).escape_debug().to_string();
        let mut pieces = self.pieces();
        while let Some(plain) = pieces.chunk().await? {
            write(&plain).map_err(|error| ClientError::File(name.clone().into(), error))?;
        }
        Ok(())
    }

    /// The contents piece by piece.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces {
            object: self,
            inline: self.inline.as_ref(),
            left: self.chunks.iter(),
            fetches: FuturesOrdered::new(),
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
            waiting: Vec::new(),
        }
    }

    /// The contents in memory.
    pub async fn into_bytes(self) -> Result<Vec<u8>, ClientError> {
        let mut out = Vec::new();
        self.read(|bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .await?;
        Ok(out)
    }

    fn fetch(
        &self,
        secret: ChunkSecret,
        reference: ChunkRef,
    ) -> impl Future<Output = Result<Vec<u8>, ClientError>> + use<> {
        let (log, key, name) = (self.log.clone(), self.key.clone(), self.info.name.clone());
        async move {
            let mut sealed = log.client.get_sealed(&reference).await?;
            let opened = open_chunk(&ChunkKey::new(&key, &secret), &mut sealed);
            opened.map_err(|error| log.corrupt(&name, error))?;
            sealed.truncate(secret.plain_bytes as usize);
            Ok(sealed)
        }
    }
}
