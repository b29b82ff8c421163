//! What a change of home undid at one site, applied again at the log's home: the very deltas, sealed as they are.
//!
//! Nothing is opened, so no key is needed. An operation keeps its id, so one that its client has tried again at the new home
//! meanwhile, or that an earlier run applied, is not applied twice. What others have changed since is left alone.

use super::aside::Pages;
use super::{Client, ClientError};
use bytes::Bytes;
use farside_codec::aside::AsideDelta;
use farside_codec::delta::{ChunkRef, Cursor, Delta, DeltaKind, DeltaReceipt, Generation, Proposal};
use farside_codec::ids::{ChunkId, LogId, OperationId};
use farside_codec::message::{LogInfo, Refusal, RefusalCode};
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::sync::Semaphore;

/// Chunks on their way at once.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Names that are changed at the same time.
const NAMES_IN_FLIGHT: usize = 32;
/// How often chunks are touched again because GC has outrun their receipts.
const STALE_RETRIES: usize = 3;

/// What came of one delta that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reapplied {
    /// It has a place in the home's history now.
    Placed,
    /// It had one already, or one that came after it has.
    Already,
    /// Somebody has changed the name since: it was left alone.
    Changed,
    /// It can't be had here, or is refused there, for this reason; others may be.
    Failed(String),
    /// There is nothing to apply: a turn of the log's own, or a part that is told of with its object.
    Nothing,
}

/// What was sent for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Chunks that the home did not have.
    pub chunks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
}

/// What has to be known of all of them before the first is applied.
#[derive(Default)]
struct Survey {
    /// In which order they were placed.
    operations: HashMap<OperationId, usize>,
    /// Where histories parted, by the generation that undid what came after.
    parted: BTreeMap<Generation, u64>,
}

/// A chunk that the home holds.
struct Brought {
    gc_epoch: u64,
    placement_epoch: u64,
    sent_bytes: u64,
}

struct Reapply<'a> {
    from: &'a Client,
    home: &'a Client,
    log: LogInfo,
    overwrite: bool,
    survey: Survey,
    /// Parts of objects that come later.
    parts: RefCell<BTreeMap<(OperationId, u32), Proposal>>,
    chunks: Semaphore,
    sent: Cell<Sent>,
}

impl Client {
    /// Applies what was set aside of `log` at this site at its home, in order, and tells of each delta. With `overwrite` what
    /// was changed there since is replaced.
    pub async fn reapply(
        &self,
        home: &Client,
        log: &str,
        overwrite: bool,
        mut each: impl FnMut(&Cursor, Reapplied),
    ) -> Result<Sent, ClientError> {
        let (own, there) = (self.resolve(log).await?, home.resolve(log).await?);
        if own.descriptor.log != there.descriptor.log {
            return Err(ClientError::Usage(format!("{log} is another log at the other site: they share a name only")));
        }
        let mut work = Reapply {
            from: self,
            home,
            log: there,
            overwrite,
            survey: Survey::default(),
            parts: RefCell::default(),
            chunks: Semaphore::new(CHUNKS_IN_FLIGHT),
            sent: Cell::default(),
        };
        let mut pages = Pages::default();
        while let Some(page) = pages.next(self, work.id()).await? {
            for aside in &page {
                work.survey.take(aside)?;
            }
        }
        pages = Pages::default();
        while let Some(page) = pages.next(self, work.id()).await? {
            for apart in apart(&page)? {
                let mut coming = iter(apart).map(|aside| work.one(aside)).buffered(NAMES_IN_FLIGHT);
                let mut asides = apart.iter();
                while let (Some(came), Some(aside)) = (coming.next().await, asides.next()) {
                    let came = match came {
                        Err(error) if is_of_one(&error) => Reapplied::Failed(error.to_string()),
                        came => came?,
                    };
                    each(&aside.cursor, came);
                }
            }
        }
        Ok(work.sent.get())
    }
}

impl Survey {
    fn take(&mut self, aside: &AsideDelta) -> Result<(), ClientError> {
        let place = self.operations.len();
        self.operations.insert(parse(&aside.delta)?.proposal.operation, place);
        let parted = self.parted.entry(aside.by).or_insert(u64::MAX);
        *parted = (*parted).min(aside.cursor.sequence.saturating_sub(1));
        Ok(())
    }
}

/// Whether an error says that one delta can't be applied, and nothing about the others.
fn is_of_one(error: &ClientError) -> bool {
    match error {
        ClientError::NotFound(_) | ClientError::Corrupt { .. } => true,
        ClientError::Refused(refusal) => {
            matches!(refusal.code, RefusalCode::Corrupt | RefusalCode::NotFound | RefusalCode::BadRequest)
        }
        _ => false,
    }
}

/// Cuts a page into runs that may be applied at the same time: no name twice, and what goes with others by itself.
fn apart(page: &[AsideDelta]) -> Result<Vec<&[AsideDelta]>, ClientError> {
    let (mut runs, mut names, mut first) = (Vec::new(), HashSet::new(), 0);
    for (at, aside) in page.iter().enumerate() {
        let proposal = parse(&aside.delta)?.proposal;
        let alone = proposal.extent.is_some() || !matches!(proposal.kind, DeltaKind::Put | DeltaKind::Remove);
        if alone || !names.insert(proposal.name) {
            runs.push(&page[first..at]);
            first = at;
            names.clear();
            names.insert(proposal.name);
        }
        if alone {
            runs.push(&page[at..=at]);
            first = at + 1;
            names.clear();
        }
    }
    runs.push(&page[first..]);
    Ok(runs)
}

fn parse(encoded: &Bytes) -> Result<Delta, ClientError> {
    Delta::parse(encoded.clone()).map_err(|error| ClientError::Failed(format!("a delta can't be read: {error}")))
}

impl Reapply<'_> {
    fn id(&self) -> LogId {
        self.log.descriptor.log
    }

    async fn one(&self, aside: &AsideDelta) -> Result<Reapplied, ClientError> {
        let proposal = parse(&aside.delta)?.proposal;
        match (&proposal.kind, proposal.extent.clone()) {
            (DeltaKind::Extent, Some(extent)) => {
                self.parts.borrow_mut().insert((extent.object, extent.index), proposal);
                Ok(Reapplied::Nothing)
            }
            (DeltaKind::Epoch(epoch), _) => match self.log.epochs.iter().any(|known| known.epoch == epoch.epoch) {
                true => Ok(Reapplied::Already),
                false => self.place(vec![proposal]).await,
            },
            (DeltaKind::Put | DeltaKind::Remove, extent) => {
                self.change(aside, proposal, extent.map(|at| at.object)).await
            }
            _ => Ok(Reapplied::Nothing),
        }
    }

    /// Puts or removes a name again, unless others have changed it since the histories parted.
    async fn change(
        &self,
        aside: &AsideDelta,
        mut proposal: Proposal,
        object: Option<OperationId>,
    ) -> Result<Reapplied, ClientError> {
        let newest = self.newest(&proposal).await?;
        let place = |delta: &Delta| self.survey.operations.get(&delta.proposal.operation).copied();
        let own = self.survey.operations.get(&proposal.operation).copied();
        // It, or what replaced it, was tried again there by its own client, or applied before.
        if newest.as_ref().and_then(place).is_some_and(|at| Some(at) >= own) {
            return Ok(Reapplied::Already);
        }
        let parted = self.parted(aside);
        let is_strange = |newest: &Delta| newest.sequence > parted && place(newest).is_none();
        if !self.overwrite && newest.as_ref().is_some_and(is_strange) {
            return match self.is_placed(&proposal).await? {
                true => Ok(Reapplied::Already),
                false => Ok(Reapplied::Changed),
            };
        }
        let stands = newest.filter(|newest| newest.proposal.kind != DeltaKind::Remove);
        // Whoever changes the name in this very moment is not overwritten either.
        proposal.condition = (!self.overwrite).then_some(stands.map_or(0, |newest| newest.sequence));
        let mut proposals = Vec::new();
        if let Some(object) = object {
            let mut parts = self.parts.borrow_mut();
            let of_it: Vec<_> = parts.range((object, 0)..=(object, u32::MAX)).map(|(at, _)| *at).collect();
            proposals.extend(of_it.into_iter().filter_map(|at| parts.remove(&at)));
        }
        proposals.push(proposal);
        self.place(proposals).await
    }

    /// Up to here the home's history is the one that the delta was placed in: no further than any later generation goes back,
    /// and no further than where what was set aside with it begins.
    fn parted(&self, aside: &AsideDelta) -> u64 {
        let later = self.log.lineage.iter().find(|branch| branch.generation > aside.cursor.generation);
        let forked = later.map_or(u64::MAX, |branch| branch.first.saturating_sub(1));
        self.survey.parted.get(&aside.by).copied().unwrap_or(0).min(forked)
    }

    /// Whether the home has applied the operation before, whatever came of it since: who asks under a condition that can't be
    /// met is answered by the first receipt or not at all.
    async fn is_placed(&self, proposal: &Proposal) -> Result<bool, ClientError> {
        let (operation, name, epoch) = (proposal.operation, proposal.name, proposal.key_epoch);
        let mut question = Proposal::without_chunks(operation, DeltaKind::Remove, name, epoch);
        question.condition = Some(u64::MAX);
        match self.propose(question).await? {
            Ok(receipt) if receipt.replayed => Ok(true),
            Err(refusal) if refusal.code == RefusalCode::ConditionFailed => Ok(false),
            Ok(_) => Err(ClientError::Failed("the home placed what it should have refused".into())),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The name's newest delta at the home, a removal too.
    async fn newest(&self, proposal: &Proposal) -> Result<Option<Delta>, ClientError> {
        let newest = self.home.newest_delta(self.id(), proposal.name).await?;
        newest.map(|delta| parse(&delta)).transpose()
    }

    /// Places an object's deltas, one after the other: they may be larger than a request.
    async fn place(&self, proposals: Vec<Proposal>) -> Result<Reapplied, ClientError> {
        let mut came = Reapplied::Already;
        for mut proposal in proposals {
            let mut attempts = 0;
            let receipt = loop {
                (proposal.gc_epoch, proposal.placement_epoch) = self.bring(&proposal.chunks).await?;
                match self.propose(proposal.clone()).await? {
                    Err(refusal) if refusal.code == RefusalCode::StaleReceipt && attempts < STALE_RETRIES => {
                        attempts += 1
                    }
                    receipt => break receipt,
                }
            };
            match receipt {
                Ok(receipt) if receipt.replayed => {}
                Ok(_) => came = Reapplied::Placed,
                Err(refusal) if refusal.code == RefusalCode::ConditionFailed => return Ok(Reapplied::Changed),
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(came)
    }

    async fn propose(&self, proposal: Proposal) -> Result<Result<DeltaReceipt, Refusal>, ClientError> {
        let mut receipts = self.home.propose(self.id(), vec![proposal]).await?;
        receipts.pop().ok_or_else(|| ClientError::Failed("no receipt came back".into()))
    }

    /// Makes chunks durable at the home. Answers their lowest GC epoch and highest placement epoch.
    async fn bring(&self, chunks: &[ChunkRef]) -> Result<(u64, u64), ClientError> {
        let brought = iter(chunks).map(|chunk| self.bring_one(chunk)).buffer_unordered(CHUNKS_IN_FLIGHT);
        let brought: Vec<Brought> = brought.try_collect().await?;
        let mut sent = self.sent.get();
        sent.chunks += brought.iter().filter(|one| one.sent_bytes > 0).count() as u64;
        sent.bytes += brought.iter().map(|one| one.sent_bytes).sum::<u64>();
        self.sent.set(sent);
        let lowest = brought.iter().map(|one| one.gc_epoch).min().unwrap_or(u64::MAX);
        Ok((lowest, brought.iter().map(|one| one.placement_epoch).max().unwrap_or(0)))
    }

    /// Has one chunk held at the home: asks whether it is, and sends it otherwise.
    async fn bring_one(&self, reference: &ChunkRef) -> Result<Brought, ClientError> {
        let chunk = reference.chunk;
        let _turn = self.chunks.acquire().await.map_err(|closed| ClientError::Failed(closed.to_string()))?;
        let (receipt, sent_bytes) = match self.home.receipt_of(chunk).await? {
            Some(receipt) => (receipt, 0),
            None => {
                let sealed = self.from.get_sealed(reference).await?;
                if ChunkId(*blake3::hash(&sealed).as_bytes()) != chunk {
                    let detail = format!("chunk {chunk} is not what it was where it was set aside");
                    return Err(Refusal::new(RefusalCode::Corrupt, detail).into());
                }
                (self.home.put_sealed(chunk, sealed.into()).await?, u64::from(reference.sealed_bytes))
            }
        };
        Ok(Brought { gc_epoch: receipt.gc_epoch, placement_epoch: receipt.placement_epoch, sent_bytes })
    }
}
