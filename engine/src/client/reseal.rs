//! Writing a log anew: every object of one log, sealed once more under another key and under names that nobody can tell
//! from the old ones, in a log of their own. For the day when a key has become known to somebody.
//!
//! It may be interrupted and asked for again at any time, and clients may go over to the new log while it is filled. What
//! is a copy is told from what somebody else has written by its operation's id, which follows from a secret of the new log,
//! from what it is a copy of, and from what it is put on top of. So a later call replaces a copy of what has been replaced
//! in the old log since, and removes one of what has been removed there, however clocks go; what anybody else has written to
//! the new log, or removed in it, it leaves alone. That the new log is the one into which the old one is sealed
//! anew follows from its own id.

use super::download::Object;
use super::upload::{Upload, UploadBody};
use super::{Client, ClientError, Log};
use crate::kms::KmsError;
use bytes::Bytes;
use farside_codec::delta::{Delta, DeltaKind, EpochRecord, LogPolicy, Proposal};
use farside_codec::ids::{BlindName, DeltaHash, EpochId, Label, LogId, OperationId, SiteId};
use farside_codec::message::{LogInfo, Moment, Refusal, RefusalCode, Version};
use tokio::task::JoinSet;

/// Objects on their way at once. Each of them is a task: its chunks must come and go while others are waited for.
const OBJECTS_AT_ONCE: usize = 8;
/// Failures that are told one by one.
const FAILURES_TOLD: usize = 16;
/// Bytes of an operation's id that say that this made it, and bytes that say for which version: of one name, so few will do.
const MARK_BYTES: usize = 6;
const VERSION_BYTES: usize = 6;

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

/// Ids of operations by which copies out of one log are known in another. Whoever has both logs and not the new one's key
/// can't tell from them which is a copy of what.
#[derive(Clone, Copy)]
struct Marks {
    secret: [u8; 32],
    /// The key that copies are sealed under: an object is not made of parts under several.
    epoch: EpochId,
}

impl Marks {
    fn new(old: &Log, new: &Log) -> Self {
        let own = new.blind(&[b"what is sealed anew from ", &old.id().0[..]].concat());
        let secret = blake3::derive_key("farside 2026-11-27 operations of a log that is sealed anew", &own.0);
        let newest = new.info().epochs.iter().max_by_key(|epoch| epoch.key_version);
        Self { secret, epoch: newest.unwrap_or(&new.info().descriptor.first_epoch).epoch }
    }

    /// For a version with this hash, or the removal of a copy of it, where the name's newest delta is `below`.
    fn operation(&self, kind: u8, version: &[u8], below: Option<OperationId>) -> OperationId {
        let hash = |parts: &[&[u8]]| *blake3::keyed_hash(&self.secret, &parts.concat()).as_bytes();
        let version = hash(&[&[kind], version]);
        let place = hash(&[&version, &below.unwrap_or(OperationId([0; 16])).0, &self.epoch.0]);
        let mut id = [0; 16];
        id[..MARK_BYTES].copy_from_slice(&hash(&[b"mark"])[..MARK_BYTES]);
        id[MARK_BYTES..MARK_BYTES + VERSION_BYTES].copy_from_slice(&version[..VERSION_BYTES]);
        id[MARK_BYTES + VERSION_BYTES..].copy_from_slice(&place[..16 - MARK_BYTES - VERSION_BYTES]);
        OperationId(id)
    }

    fn is_ours(&self, operation: OperationId) -> bool {
        begin_alike(operation, self.operation(0, &[], None), MARK_BYTES)
    }

    /// Whether both are for the same version.
    fn is_same(&self, one: OperationId, other: OperationId) -> bool {
        begin_alike(one, other, MARK_BYTES + VERSION_BYTES)
    }
}

fn begin_alike(one: OperationId, other: OperationId, bytes: usize) -> bool {
    one.0[..bytes] == other.0[..bytes]
}

/// The log of this name into which another one is sealed anew.
fn log_of(old: LogId, name: &Label) -> LogId {
    let key = [&old.0[..], name.as_str().as_bytes()].concat();
    let hash = blake3::derive_key("farside 2026-11-27 log in which another one is sealed anew", &key);
    LogId(std::array::from_fn(|at| hash[at]))
}

impl Client {
    /// The log `name` of the same tenant into which `old` is sealed anew: made where there is none, under the tenant's newest
    /// key and with the old log's policy, but for a home lease.
    pub async fn log_to_reseal(&self, old: &Log, name: &Label) -> Result<Log, ClientError> {
        let descriptor = &old.info().descriptor;
        let site = self.link.site();
        refuse_elsewhere(old.info(), site, &old.name())?;
        if *name == descriptor.name {
            return Err(ClientError::Usage(format!(
                "{} can't be sealed anew into itself: name another log",
                old.name()
            )));
        }
        let full = format!("{}/{name}", descriptor.tenant_name);
        match self.resolve(&full).await {
            Ok(found) => {
                if found.descriptor.log != log_of(old.id(), name) {
                    let detail = format!("{full} is a log of its own: name one that is not there yet");
                    return Err(refused(detail));
                }
                refuse_same_key(&found.descriptor.first_epoch, old, &full)?;
                refuse_elsewhere(&found, site, &full)?;
                return self.open_log(&full).await;
            }
            Err(ClientError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        if let Some(newest) = self.tenant(&descriptor.tenant_name).await?.epochs.last() {
            refuse_same_key(newest, old, &full)?;
        }
        let policy = LogPolicy { home_lease_seconds: 0, ..descriptor.policy.clone() };
        let made = self.create_log_as(log_of(old.id(), name), &descriptor.tenant_name, name, policy).await?;
        refuse_same_key(&made.descriptor.first_epoch, old, &full)?;
        self.open_log(&full).await
    }
}

fn refuse_elsewhere(log: &LogInfo, site: SiteId, name: &str) -> Result<(), ClientError> {
    match log.lineage.last().is_none_or(|last| last.generation.site != site) {
        true => {
            let home = log.home.as_ref().map_or_else(|| "another site".to_owned(), ToString::to_string);
            Err(refused(format!("{name} has its home at {home}: reseal it where both are at home")))
        }
        false => Ok(()),
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

    /// Seals every object of this log anew into `new`, as [`Client::log_to_reseal`] answers it, and removes there what was
    /// removed here since an earlier call.
    pub async fn reseal(&self, new: &Log, tell: TellReseal<'_>) -> Result<Resealed, ClientError> {
        let marks = Marks::new(self, new);
        let head = self.client.resolve(&self.name()).await?.head.sequence;
        let mut under_way = UnderWay { tasks: JoinSet::new(), done: Resealed { head, ..Resealed::default() }, tell };
        let each = async |version, delta| under_way.begin(copy(self.clone(), new.clone(), version, delta, marks)).await;
        self.for_each_version(&Moment::Latest, each).await?;
        under_way.end(0).await?;
        let each = async |version, delta: Delta| match marks.is_ours(delta.proposal.operation) {
            true => under_way.begin(remove(self.clone(), new.clone(), version, delta, marks)).await,
            false => Ok(()),
        };
        new.for_each_version(&Moment::Latest, each).await?;
        under_way.end(0).await?;
        Ok(under_way.done)
    }

    /// A name's newest delta, be it a removal.
    async fn newest(&self, name: BlindName) -> Result<Option<Delta>, ClientError> {
        let newest = self.client.newest_delta(self.id(), name).await?;
        newest.map(|delta| self.parse(delta)).transpose()
    }
}

/// Whether others would fail in the same way.
fn concerns_all(error: &ClientError) -> bool {
    match error {
        // A key that is gone leaves what is under others.
        ClientError::Kms(error) => !matches!(error, KmsError::NoKey { .. } | KmsError::Revoked { .. }),
        ClientError::Refused(refusal) => {
            matches!(
                refusal.code,
                RefusalCode::Full | RefusalCode::Quota | RefusalCode::NotHome | RefusalCode::Forbidden
            )
        }
        ClientError::Unreachable(_) | ClientError::TurnedAway(..) => true,
        _ => false,
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
                Err(error) if concerns_all(&error) => return Err(error),
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
    (name, copy_object(&old, object, &new, &hash, marks).await)
}

async fn copy_object(
    old: &Log,
    object: Object,
    new: &Log,
    hash: &DeltaHash,
    marks: Marks,
) -> Result<Came, ClientError> {
    let info = object.info.clone();
    let newest = new.newest(new.blind(&info.name)).await?;
    let below = newest.as_ref().map(|delta| delta.proposal.operation);
    let operation = marks.operation(0, &hash.0, below);
    match below {
        Some(below) if marks.is_same(below, operation) => return Ok(Came::There),
        Some(below) if !marks.is_ours(below) => return Ok(Came::Others),
        _ => {}
    }
    // Another call, which began later, may have copied what has replaced it. Asked in this order, that call's copy is what
    // the condition speaks of, or this is not the newest version any more.
    let now = old.version(&info.name, &Moment::Latest).await?;
    if now.is_none_or(|now| Delta::hash(&now.delta) != *hash) {
        return Ok(Came::Nothing);
    }
    let Some(kind) = info.kind else { return Ok(Came::Nothing) };
    let condition = newest.filter(|newest| newest.proposal.kind != DeltaKind::Remove);
    let upload = Upload {
        name: info.name.clone(),
        kind,
        mode: info.mode,
        modified: info.modified,
        body: UploadBody::Object(Box::new(object)),
        condition: Some(condition.map_or(0, |newest| newest.sequence)),
        operation: Some(operation),
    };
    match new.put(upload).await {
        // Placed by this call, whose first try was not answered; or once, and somebody has removed it since, which was pruned.
        Ok(receipt) if receipt.receipt.replayed => {
            match new.newest(new.blind(&info.name)).await?.map(|newest| newest.proposal.operation) {
                Some(newest) if newest == operation => Ok(Came::Copied(receipt.size_bytes)),
                _ => Ok(Came::Others),
            }
        }
        Ok(receipt) => Ok(Came::Copied(receipt.size_bytes)),
        // Somebody has just written it there.
        Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => Ok(Came::Nothing),
        Err(error) => Err(error),
    }
}

/// Removes a copy of what was removed.
async fn remove(old: Log, new: Log, version: Version, delta: Delta, marks: Marks) -> Outcome {
    let name = match new.open(version).await {
        Ok(object) => object.info.name,
        Err(error) => return (format!("the copy of delta {}", delta.sequence).into_bytes().into(), Err(error)),
    };
    let removed = async {
        if old.version(&name, &Moment::Latest).await?.is_some() {
            return Ok(Came::Nothing);
        }
        let copy = delta.proposal.operation;
        let (operation, epoch) = (marks.operation(1, &copy.0, Some(copy)), new.info().descriptor.first_epoch.epoch);
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
