//! What a change of home undid at a site: listed, read, and let go of.

use super::{Client, ClientError, Log, Object, Target, unexpected};
use farside_codec::aside::{AsideDelta, AsideQuestion, DiscardOrder};
use farside_codec::delta::{Cursor, Delta, DeltaKind, Generation};
use farside_codec::ids::{Hlc, LogId, OperationId};
use farside_codec::message::{Reply, Request, Version};
use std::collections::BTreeMap;

/// Deltas asked for at once.
const PAGE: u32 = 256;

/// What a delta that was set aside did.
pub enum What {
    /// Put this object.
    Put(Box<Object>),
    /// Removed a name, which such a delta does not carry.
    Removed,
    /// Carried a part of an object that comes later.
    Part,
    /// Moved the log's home, or its keys.
    Turn,
}

/// A delta that was set aside.
pub struct SetAside {
    /// Where it stood.
    pub cursor: Cursor,
    /// When it was placed there.
    pub placed: Hlc,
    /// When it was undone.
    pub undone: Hlc,
    /// The generation that undid it.
    pub by: Generation,
    /// What it did.
    pub what: What,
}

/// Parts of objects that were set aside themselves, by object and index.
type Parts = BTreeMap<(OperationId, u32), bytes::Bytes>;

/// What a site lists page by page, in order of generation and sequence.
#[derive(Default)]
pub(super) struct Pages {
    after: Option<Cursor>,
    ended: bool,
}

impl Pages {
    /// The next one; `None` after the last.
    pub(super) async fn next(&mut self, client: &Client, log: LogId) -> Result<Option<Vec<AsideDelta>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let request = Request::SetAside(AsideQuestion { log, after: self.after.clone(), limit: PAGE });
        let page = match client.link.call(Target::Log(log), &request).await? {
            Reply::SetAside(page) => page,
            reply => return Err(unexpected(&reply)),
        };
        for aside in &page.deltas {
            // A site that never got further would be asked for ever.
            if self.after.as_ref().is_some_and(|after| order(after) >= order(&aside.cursor)) {
                return Err(ClientError::Failed("the site lists what was set aside out of order".into()));
            }
            self.after = Some(aside.cursor.clone());
        }
        self.ended = !page.more || self.after.is_none();
        Ok(Some(page.deltas))
    }
}

impl Log {
    /// Hands everything that was set aside of this log to `each`, in order of generation and sequence.
    pub async fn for_each_set_aside<F, R>(&self, mut each: F) -> Result<(), ClientError>
    where
        F: FnMut(SetAside) -> R,
        R: Future<Output = Result<(), ClientError>>,
    {
        let (mut pages, mut parts) = (Pages::default(), Parts::new());
        while let Some(page) = pages.next(&self.client, self.id()).await? {
            for aside in page {
                each(self.open_aside(aside, &mut parts).await?).await?;
            }
        }
        Ok(())
    }

    async fn open_aside(&self, aside: AsideDelta, parts: &mut Parts) -> Result<SetAside, ClientError> {
        let AsideDelta { delta: encoded, cursor, mut extents, time, by } = aside;
        let delta: Delta = self.parse(encoded.clone())?;
        let what = match (&delta.proposal.kind, &delta.proposal.extent) {
            (DeltaKind::Put, extent) => {
                if let Some(extent) = extent {
                    let object = extent.object;
                    let undone = |index| parts.remove(&(object, index));
                    extents.extend((extents.len() as u32..extent.index).map_while(undone));
                }
                What::Put(Box::new(self.open(Version { delta: encoded, extents }).await?))
            }
            (DeltaKind::Remove, _) => What::Removed,
            (DeltaKind::Extent, Some(extent)) => {
                parts.insert((extent.object, extent.index), encoded);
                What::Part
            }
            _ => What::Turn,
        };
        Ok(SetAside { cursor, placed: delta.time, undone: time, by, what })
    }

    /// Lets go of everything that was set aside, for good. Refused unless that is as many deltas as `deltas`.
    pub async fn discard_set_aside(&self, deltas: u64) -> Result<(), ClientError> {
        let request = Request::Discard(DiscardOrder { log: self.id(), deltas });
        match self.client.link.call(self.target(), &request).await? {
            Reply::Done => Ok(()),
            reply => Err(unexpected(&reply)),
        }
    }
}

fn order(cursor: &Cursor) -> (Generation, u64) {
    (cursor.generation, cursor.sequence)
}
