//! The chunks of one object: those on their way, and those that are there and kept from GC until a delta names them.
//!
//! All of it goes on side by side: a chunk that takes long holds up neither the others nor the touching of what is there, in
//! whatever order they come.

use super::freshness::Freshness;
use super::upload::Stored;
use super::{Client, ClientError};
use farside_codec::delta::ChunkReceipt;
use farside_codec::ids::ChunkId;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use tokio::time::{Instant, sleep_until};

/// Epochs after which GC may have collected a chunk that nobody has touched since.
const COLLECTED_AFTER: u64 = 2;

/// What comes of sending the chunk of a number.
type Sent = (usize, Result<Stored, ClientError>);

/// Receipts of the chunks of these numbers, which were asked for at that time.
type Touched = (Instant, Vec<usize>, Result<Vec<Option<ChunkReceipt>>, ClientError>);

/// The chunks of one object.
pub(super) struct Chunks<'a> {
    client: &'a Client,
    sends: FuturesUnordered<LocalBoxFuture<'a, Sent>>,
    begun: usize,
    stored: BTreeMap<usize, Stored>,
    fresh: Option<Freshness>,
    touching: Option<LocalBoxFuture<'a, Touched>>,
}

/// What has happened.
enum News {
    Sent(Sent),
    Touched(Touched),
    Due,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        let (sends, stored) = (FuturesUnordered::new(), BTreeMap::new());
        Self { client, sends, begun: 0, stored, fresh: None, touching: None }
    }

    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.begun == 0
    }

    /// How many are on their way.
    pub(super) fn under_way(&self) -> usize {
        self.sends.len()
    }

    /// Sends the next one.
    pub(super) fn send(&mut self, sending: impl Future<Output = Result<Stored, ClientError>> + 'a) {
        let number = self.begun;
        self.begun += 1;
        self.sends.push(Box::pin(async move { (number, sending.await) }));
    }

    /// Waits until one is stored, or what is there has been touched or is about to be. Nothing is lost where this is
    /// dropped.
    pub(super) async fn go_on(&mut self) -> Result<(), ClientError> {
        match self.news().await {
            News::Sent((number, stored)) => {
                let (stored, now) = (stored?, Instant::now());
                let fresh = self.fresh.get_or_insert(Freshness::new(stored.gc_epoch, now));
                fresh.stored(stored.gc_epoch, now);
                self.stored.insert(number, stored);
            }
            News::Due => {
                let numbers: Vec<usize> = self.stored.keys().copied().collect();
                let chunks: Vec<ChunkId> = self.stored.values().map(|stored| stored.reference.chunk).collect();
                let (client, asked) = (self.client, Instant::now());
                self.touching = Some(Box::pin(async move { (asked, numbers, client.receipts_of(&chunks).await) }));
            }
            News::Touched((asked, numbers, receipts)) => {
                self.touching = None;
                match receipts {
                    // A site that is away for a while has not collected anything meanwhile.
                    Err(error) if error.exit_code() == 4 => self.fresh.iter_mut().for_each(|fresh| fresh.missed(asked)),
                    receipts => self.was_touched(asked, &numbers, receipts?)?,
                }
            }
        }
        Ok(())
    }

    fn was_touched(
        &mut self,
        asked: Instant,
        numbers: &[usize],
        receipts: Vec<Option<ChunkReceipt>>,
    ) -> Result<(), ClientError> {
        let answered = receipts.iter().flatten().map(|receipt| receipt.gc_epoch).max().unwrap_or(0);
        let missed = receipts.iter().any(Option::is_none);
        let newest = self.stored.values().map(|stored| stored.gc_epoch).max().unwrap_or(0).max(answered);
        for (number, held) in numbers.iter().zip(receipts) {
            let Some(stored) = self.stored.get_mut(number) else { continue };
            match held {
                Some(receipt) => stored.gc_epoch = receipt.gc_epoch,
                // GC has not come to it yet: too few of the nodes that hold it have answered, and those have touched it.
                None if newest < stored.gc_epoch.saturating_add(COLLECTED_AFTER) => {}
                None => return Err(collected()),
            }
        }
        if let Some(fresh) = &mut self.fresh {
            match missed {
                true => fresh.missed(asked),
                false => fresh.touched(newest, asked),
            }
        }
        Ok(())
    }

    async fn news(&mut self) -> News {
        let due = self.fresh.filter(|_| self.touching.is_none()).map(|fresh| fresh.due());
        let touched = async {
            match &mut self.touching {
                Some(touching) => touching.await,
                None => std::future::pending().await,
            }
        };
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            touched = touched => News::Touched(touched),
            () = is_due => News::Due,
            Some(sent) = self.sends.next() => News::Sent(sent),
        }
    }

    /// All of them, in order, once none is under way.
    pub(super) fn into_stored(self) -> Vec<Stored> {
        self.stored.into_values().collect()
    }
}

pub(super) fn collected() -> ClientError {
    ClientError::Failed(
        "a chunk was collected before it was named, as the site was not reached for longer than a round of GC takes: put \
         it again"
            .into(),
    )
}
