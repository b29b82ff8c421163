//! Writing a log anew: every object of one log, sealed once more under another key and under names that nobody can tell
//! from the old ones, in a log of their own. For the day when a key has become known to somebody.
//!
//! It may be interrupted and asked for again at any time, and clients may go over to the new log while it is filled. What
//! is a copy is told from what somebody else has written by its operation's id, which follows from the two logs and from
//! what it is a copy of. So a later call replaces a copy of what has been replaced in the old log since, and removes
//! one of what has been removed there, however clocks go; what anybody else has written to the new log, or removed in it,
//! it leaves alone.

use super::download::Object;
use super::upload::{Upload, UploadBody};
use super::{Client, ClientError, Log, unexpected};
use bytes::Bytes;
use farside_codec::delta::{Delta, DeltaKind, EpochRecord, LogPolicy, Proposal};
use farside_codec::ids::{BlindName, DeltaHash, Label, LogId, OperationId};
use farside_codec::message::{History, LogInfo, Moment, ReadDeltas, Refusal, RefusalCode, Reply, Request, Version};
use tokio::task::JoinSet;

/// Objects on their way at once. Each of them is a task: its chunks must come and go while others are waited for.
const OBJECTS_AT_ONCE: usize = 8;
/// The first deltas of a log, among which there is a copy if it was filled by this.
const FIRST_DELTAS: u32 = 64;
/// Failures that are told one by one.
const FAILURES_TOLD: usize = 16;
/// Bytes of an operation's id that say that it is a copy out of one log in another; the others say of what.
const MARK_BYTES: usize = 6;

/// What came of it.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Objects that were sealed anew.
    pub objects: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Objects that had been sealed anew before.
    pub there: u64,
    /// Names that were left alone, since somebody else has written or removed them in the new log.
    pub others: u64,
    /// Copies that were removed, since what they are copies of was.
    pub removed: u64,
    /// Objects that could not be sealed anew.
    pub failed: u64,
    /// The first of them, and why.
    pub failures: Vec<(Bytes, ClientError)>,
    /// The old log's head when this began: everything up to there was looked at.
    pub head: u64,
}

/// What is said meanwhile: objects that were looked at.
pub type TellReseal<'a> = &'a mut dyn FnMut(u64);

fn refused(detail: String) -> ClientError {
    ClientError::Refused(Refusal::new(RefusalCode::Unsafe, detail))
}

/// Ids of operations by which copies out of one log are known in another.
#[derive(Clone, Copy)]
struct Marks([u8; 32]);

impl Marks {
    fn new(old: LogId, new: LogId) -> Self {
        Self(blake3::derive_key("farside 2026-11-27 operations of a log that is sealed anew", &[old.0, new.0].concat()))
    }

    fn operation(&self, what: u8, of: &[u8]) -> OperationId {
        let hash = blake3::keyed_hash(&self.0, &[&[what], of].concat());
        let mut id = [0; 16];
        id[..MARK_BYTES].copy_from_slice(&self.0[..MARK_BYTES]);
        id[MARK_BYTES..].copy_from_slice(&hash.as_bytes()[..16 - MARK_BYTES]);
        OperationId(id)
    }

    /// Of the copy of a version with this hash.
    fn copy(&self, version: &DeltaHash) -> OperationId {
        self.operation(0, &version.0)
    }

    /// Of the removal of a copy.
    fn removal(&self, copy: OperationId) -> OperationId {
        self.operation(1, &copy.0)
    }

    fn is_ours(&self, operation: OperationId) -> bool {
        operation.0[..MARK_BYTES] == self.0[..MARK_BYTES]
    }
}

impl Client {
    /// The log `name` of the same tenant into which `old` is sealed anew: made where there is none, under the tenant's newest
    /// key and with the old log's policy, but for a home lease.
    pub async fn log_to_reseal(&self, old: &Log, name: &Label) -> Result<Log, ClientError> {
        let descriptor = &old.info().descriptor;
        let site = self.link.site();
        if old.info().lineage.last().is_none_or(|last| last.generation.site != site) {
            let home = old.info().home.as_ref().map_or_else(|| "another site".to_owned(), ToString::to_string);
            return Err(refused(format!("{} has its home at {home}: reseal it there", old.name())));
        }
        if *name == descriptor.name {
            return Err(ClientError::Usage(format!(
                "{} can't be sealed anew into itself: name another log",
                old.name()
            )));
        }
        let full = format!("{}/{name}", descriptor.tenant_name);
        match self.resolve(&full).await {
            Ok(found) => {
                refuse_same_key(&found.descriptor.first_epoch, old, &full)?;
                let new = self.open_log(&full).await?;
                new.refuse_unrelated(Marks::new(old.id(), new.id()), old).await?;
                return Ok(new);
            }
            Err(ClientError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        if let Some(newest) = self.tenant(&descriptor.tenant_name).await?.epochs.last() {
            refuse_same_key(newest, old, &full)?;
        }
        let policy = LogPolicy { home_lease_seconds: 0, ..descriptor.policy.clone() };
        let made: LogInfo = self.create_log_with(&descriptor.tenant_name, name, policy).await?;
        refuse_same_key(&made.descriptor.first_epoch, old, &full)?;
        self.open_log(&full).await
    }
}

/// Names are made unreadable under the key that a log began with, so that has to be a newer one.
fn refuse_same_key(theirs: &EpochRecord, old: &Log, new: &str) -> Result<(), ClientError> {
    let descriptor = &old.info().descriptor;
    let ours = &descriptor.first_epoch;
    let is_older = theirs.key_name == ours.key_name && theirs.key_version <= ours.key_version;
    match theirs.epoch == ours.epoch || is_older {
        true => Err(refused(format!(
            "{new} is, or would be, under the key that {} began with: `farside tenant rotate {}` first, then name a log \
             that is not there yet",
            old.name(),
            descriptor.tenant_name
        ))),
        false => Ok(()),
    }
}

impl Log {
    /// The version of the KMS's key under which this log seals.
    pub fn key_version(&self) -> u32 {
        let newest = self.info().epochs.iter().map(|epoch| epoch.key_version).max();
        newest.unwrap_or(self.info().descriptor.first_epoch.key_version)
    }

    /// A log that was there before, with other things in it, is not mixed with another one.
    async fn refuse_unrelated(&self, marks: Marks, old: &Log) -> Result<(), ClientError> {
        if self.info().head.sequence == 0 {
            return Ok(());
        }
        let request = Request::ReadDeltas(ReadDeltas { log: self.id(), from: 1, limit: FIRST_DELTAS });
        let deltas = match self.client.link.call(self.target(), &request).await? {
            Reply::Deltas(deltas) => deltas,
            reply => return Err(unexpected(&reply)),
        };
        for delta in deltas {
            // What was pruned can't be asked any more.
            if delta.is_empty() || marks.is_ours(self.parse(delta)?.proposal.operation) {
                return Ok(());
            }
        }
        Err(refused(format!("{} holds what is not from {}: name a log that is not there yet", self.name(), old.name())))
    }

    /// Seals every object of this log anew into `new`, as [`Client::log_to_reseal`] answers it, and removes there what was
    /// removed here since an earlier call.
    pub async fn reseal(&self, new: &Log, tell: TellReseal<'_>) -> Result<Resealed, ClientError> {
        let marks = Marks::new(self.id(), new.id());
        let head = self.client.resolve(&self.name()).await?.head.sequence;
        let mut under_way = UnderWay { tasks: JoinSet::new(), done: Resealed { head, ..Resealed::default() }, tell };
        if head > 0 {
            let at = Moment::Sequence(head);
            let mut after = None;
            loop {
                let page = self.page(&at, after).await?;
                for version in page.versions {
                    let delta = self.parse(version.delta.clone())?;
                    after = Some(delta.proposal.name);
                    under_way.begin(copy(self.clone(), new.clone(), version, delta, marks)).await?;
                }
                if !page.more || after.is_none() {
                    break;
                }
            }
            under_way.end(0).await?;
        }
        let at = Moment::Sequence(new.client.resolve(&new.name()).await?.head.sequence);
        let mut after = None;
        while at != Moment::Sequence(0) {
            let page = new.page(&at, after).await?;
            for version in page.versions {
                let delta = new.parse(version.delta.clone())?;
                after = Some(delta.proposal.name);
                if marks.is_ours(delta.proposal.operation) {
                    under_way.begin(remove(self.clone(), head, new.clone(), version, delta, marks)).await?;
                }
            }
            if !page.more || after.is_none() {
                break;
            }
        }
        under_way.end(0).await?;
        Ok(under_way.done)
    }

    /// A name's newest delta, be it a removal.
    async fn newest(&self, name: BlindName) -> Result<Option<Delta>, ClientError> {
        let request = Request::History(History { log: self.id(), name, before: u64::MAX, limit: 1 });
        match self.client.link.call(self.target(), &request).await {
            Ok(Reply::Versions(found)) => {
                found.versions.into_iter().next().map(|newest| self.parse(newest.delta)).transpose()
            }
            Ok(reply) => Err(unexpected(&reply)),
            Err(ClientError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What came of one object.
enum Came {
    Copied(u64),
    There,
    Others,
    Removed,
    Nothing,
}

/// One object's name, as far as it is known, and what came of it.
type Outcome = (Bytes, Result<Came, ClientError>);

struct UnderWay<'a> {
    tasks: JoinSet<Outcome>,
    done: Resealed,
    tell: TellReseal<'a>,
}

impl UnderWay<'_> {
    async fn begin(&mut self, work: impl Future<Output = Outcome> + 'static) -> Result<(), ClientError> {
        self.tasks.spawn_local(work);
        self.end(OBJECTS_AT_ONCE - 1).await
    }

    /// Waits until no more than so many are left.
    async fn end(&mut self, left: usize) -> Result<(), ClientError> {
        while self.tasks.len() > left
            && let Some(ended) = self.tasks.join_next().await
        {
            let (name, came) = ended.map_err(|error| ClientError::Failed(error.to_string()))?;
            let done = &mut self.done;
            match came {
                Ok(Came::Copied(bytes)) => (done.objects, done.bytes) = (done.objects + 1, done.bytes + bytes),
                Ok(Came::There) => done.there += 1,
                Ok(Came::Others) => done.others += 1,
                Ok(Came::Removed) => done.removed += 1,
                Ok(Came::Nothing) => {}
                // Nothing goes on where nobody answers, or where the key is not to be had.
                Err(error @ (ClientError::Unreachable(_) | ClientError::Kms(_))) => return Err(error),
                Err(error) => {
                    done.failed += 1;
                    if done.failures.len() < FAILURES_TOLD {
                        done.failures.push((name, error));
                    }
                }
            }
            (self.tell)(done.objects + done.there + done.others + done.failed);
        }
        Ok(())
    }
}

/// Seals one version anew, unless it was.
async fn copy(old: Log, new: Log, version: Version, delta: Delta, marks: Marks) -> Outcome {
    let hash = Delta::hash(&version.delta);
    let object = match old.open(version).await {
        Ok(object) => object,
        Err(error) => return (format!("the object of delta {}", delta.sequence).into_bytes().into(), Err(error)),
    };
    let name = object.info.name.clone();
    (name, copy_object(object, &new, marks.copy(&hash), marks).await)
}

async fn copy_object(object: Object, new: &Log, operation: OperationId, marks: Marks) -> Result<Came, ClientError> {
    let info = object.info.clone();
    let newest = new.newest(new.blind(&info.name)).await?.map(|delta| (delta.sequence, delta.proposal));
    let condition = match &newest {
        Some((_, proposal)) if proposal.operation == operation => return Ok(Came::There),
        Some((_, proposal)) if !marks.is_ours(proposal.operation) => return Ok(Came::Others),
        Some((sequence, proposal)) if proposal.kind != DeltaKind::Remove => *sequence,
        _ => 0,
    };
    let Some(kind) = info.kind else { return Ok(Came::Nothing) };
    let upload = Upload {
        name: info.name,
        kind,
        mode: info.mode,
        modified: info.modified,
        body: UploadBody::Object(Box::new(object)),
        condition: Some(condition),
        operation: Some(operation),
    };
    match new.put(upload).await {
        // It was there once, somebody has removed it, and that was pruned.
        Ok(receipt) if receipt.receipt.replayed => Ok(Came::Others),
        Ok(receipt) => Ok(Came::Copied(receipt.size_bytes)),
        // Somebody has just written it there.
        Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => Ok(Came::Others),
        Err(error) => Err(error),
    }
}

/// Removes a copy of what was removed.
async fn remove(old: Log, head: u64, new: Log, version: Version, delta: Delta, marks: Marks) -> Outcome {
    let name = match new.open(version).await {
        Ok(object) => object.info.name,
        Err(error) => return (format!("the copy of delta {}", delta.sequence).into_bytes().into(), Err(error)),
    };
    let removed = async {
        if head > 0 && old.version(&name, &Moment::Sequence(head)).await?.is_some() {
            return Ok(Came::Nothing);
        }
        let (operation, epoch) = (marks.removal(delta.proposal.operation), new.info().descriptor.first_epoch.epoch);
        let mut proposal = Proposal::without_chunks(operation, DeltaKind::Remove, delta.proposal.name, epoch);
        proposal.condition = Some(delta.sequence);
        match new.client.propose_one(new.id(), proposal).await {
            Ok(_) => Ok(Came::Removed),
            // Somebody has just written it there.
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => Ok(Came::Nothing),
            Err(error) => Err(error),
        }
    };
    let removed = removed.await;
    (name, removed)
}
