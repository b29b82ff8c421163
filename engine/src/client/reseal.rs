//! Writing a log anew: every object of one log, sealed once more under another key and under names that nobody can tell
//! from the old ones, in a log of their own. For the day when a key has become known to somebody.
//!
//! It may be interrupted and asked for again at any time: what the new log has of a name counts if it was placed later than
//! what the old log has, whether this put it there or somebody who uses the new log already. So writers may go over to the
//! new log while it is filled, and whatever still reached the old one follows with the next call.

use super::download::Object;
use super::upload::{Upload, UploadBody};
use super::{Client, ClientError, Log};
use farside_codec::delta::LogPolicy;
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{LogInfo, Moment, Refusal, RefusalCode, Reply, Request, SetPolicy};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::cell::RefCell;

/// Objects on their way at once.
const OBJECTS_AT_ONCE: usize = 8;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Objects that were sealed anew.
    pub objects: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Objects of which the new log had a newer version already.
    pub there: u64,
    /// Names that were removed in the old log after they had been sealed anew, and are removed in the new one as well.
    pub removed: u64,
    /// The old log's head when this began: everything up to there is in the new log.
    pub head: u64,
}

/// What is said meanwhile: objects that were looked at.
pub type TellReseal<'a> = &'a mut dyn FnMut(u64);

fn refused(detail: String) -> ClientError {
    ClientError::Refused(Refusal::new(RefusalCode::Unsafe, detail))
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
            Ok(found) => refuse_same_key(&found, old)?,
            Err(ClientError::NotFound(_)) => {
                let newest = self.tenant(&descriptor.tenant_name).await?.epochs.last().map(|epoch| epoch.epoch);
                if newest == Some(descriptor.first_epoch.epoch) {
                    return Err(same_key(old, &full));
                }
                let made = self.create_log(&descriptor.tenant_name, name).await?;
                refuse_same_key(&made, old)?;
                let policy = LogPolicy { home_lease_seconds: 0, ..descriptor.policy.clone() };
                match self.control(&Request::SetPolicy(SetPolicy { log: made.descriptor.log, policy })).await? {
                    Reply::Log(_) | Reply::Done => {}
                    reply => return Err(super::unexpected(&reply)),
                }
            }
            Err(error) => return Err(error),
        }
        self.open_log(&full).await
    }
}

fn same_key(old: &Log, new: &str) -> ClientError {
    let tenant = &old.info().descriptor.tenant_name;
    refused(format!(
        "{new} is, or would be, under the key that {} began with: `farside tenant rotate {tenant}` first, then name a log that \
         is not there yet",
        old.name()
    ))
}

/// Names are made unreadable under the key that a log began with, so that has to be a newer one.
fn refuse_same_key(new: &LogInfo, old: &Log) -> Result<(), ClientError> {
    let (theirs, ours) = (&new.descriptor.first_epoch, &old.info().descriptor.first_epoch);
    match theirs.epoch == ours.epoch || theirs.key_name == ours.key_name && theirs.key_version <= ours.key_version {
        true => Err(same_key(old, &format!("{}/{}", new.descriptor.tenant_name, new.descriptor.name))),
        false => Ok(()),
    }
}

impl Log {
    /// Seals every object of this log anew into `new`, as [`Client::log_to_reseal`] answers it, and removes there what was
    /// removed here since an earlier call.
    pub async fn reseal(&self, new: &Log, tell: TellReseal<'_>) -> Result<Resealed, ClientError> {
        let head = self.client.resolve(&self.name()).await?.head.sequence;
        let done = RefCell::new(Resealed { head, ..Resealed::default() });
        let tell = RefCell::new(tell);
        if head > 0 {
            let under_way = RefCell::new(FuturesUnordered::new());
            let end_one = async |left: usize| {
                while under_way.borrow().len() > left {
                    // Nobody else looks at it while this waits.
                    let mut taken = under_way.take();
                    let ended = taken.next().await.unwrap_or(Ok(()));
                    *under_way.borrow_mut() = taken;
                    ended?;
                    let looked = done.borrow().objects + done.borrow().there;
                    (tell.borrow_mut())(looked);
                }
                Ok(())
            };
            let each = |object: Object| {
                under_way.borrow_mut().push(reseal_one(object, new, &done));
                end_one(OBJECTS_AT_ONCE - 1)
            };
            self.for_each(&Moment::Sequence(head), each).await?;
            end_one(0).await?;
        }
        self.remove_removed(new, &done).await?;
        Ok(done.into_inner())
    }

    /// The sequence and time of a name's newest version, and whether that is a removal.
    async fn newest(&self, name: &[u8]) -> Result<Option<(u64, Hlc, bool)>, ClientError> {
        match self.history(name).await {
            Ok(versions) => Ok(versions.first().map(|newest| (newest.sequence, newest.time, newest.kind.is_none()))),
            Err(ClientError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn remove_removed(&self, new: &Log, done: &RefCell<Resealed>) -> Result<(), ClientError> {
        for copy in new.list(&Moment::Latest).await? {
            if let Some((_, removed, true)) = self.newest(&copy.name).await?
                && removed > copy.time
            {
                match new.remove(&copy.name).await {
                    Ok(_) => done.borrow_mut().removed += 1,
                    // Somebody was faster.
                    Err(ClientError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

async fn reseal_one(object: Object, new: &Log, done: &RefCell<Resealed>) -> Result<(), ClientError> {
    let info = object.info.clone();
    let newest = new.newest(&info.name).await?;
    if newest.is_some_and(|(_, time, _)| time > info.time) {
        done.borrow_mut().there += 1;
        return Ok(());
    }
    let Some(kind) = info.kind else { return Ok(()) };
    let upload = Upload {
        name: info.name,
        kind,
        mode: info.mode,
        modified: info.modified,
        body: UploadBody::Object(Box::new(object)),
        condition: Some(newest.map_or(0, |(sequence, ..)| sequence)),
    };
    match new.put(upload).await {
        Ok(receipt) => {
            let mut done = done.borrow_mut();
            (done.objects, done.bytes) = (done.objects + 1, done.bytes + receipt.size_bytes);
        }
        // Somebody has put another one there meanwhile, which is newer.
        Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => {
            done.borrow_mut().there += 1;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
