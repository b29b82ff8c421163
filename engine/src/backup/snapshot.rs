//! What a backup asks its site for: a hold on everything, and the states of its groups.

use super::error::BackupError;
use super::limits::RENEW;
use crate::client::{Client, ClientError, Target, unexpected};
use bytes::Bytes;
use farside_codec::dump::{BackupHold, DumpQuestion};
use farside_codec::ids::{GroupId, Hlc};
use farside_codec::message::{RefusalCode, Reply, Request};
use farside_codec::record::wal::LogPosition;
use tokio::time::Instant;

/// Keeps the site from letting go of what the states refer to, while it is renewed.
pub(super) struct Hold<'a> {
    client: &'a Client,
    id: [u8; 16],
    renewed: Instant,
}

impl<'a> Hold<'a> {
    /// Begins to hold. Everything that was acknowledged before the time that is answered is in every state that is read
    /// from now on.
    pub(super) async fn begin(client: &'a Client) -> Result<(Self, Hlc), BackupError> {
        let hold = Self { client, id: client.random(), renewed: Instant::now() };
        let cut = hold.say(true).await?;
        Ok((hold, cut))
    }

    async fn say(&self, holds: bool) -> Result<Hlc, BackupError> {
        match self.client.control(&Request::BackupHold(BackupHold { id: self.id, holds })).await? {
            Reply::BackupHeld(now) => Ok(now),
            reply => Err(unexpected(&reply).into()),
        }
    }

    pub(super) async fn renew_if_due(&mut self) -> Result<(), BackupError> {
        if self.renewed.elapsed() >= RENEW {
            self.say(true).await?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    /// Lets go. Without it the hold ends by itself.
    pub(super) async fn end(self) {
        if let Err(error) = self.say(false).await {
            tracing::info!(%error, "the site keeps what this backup has read for some minutes");
        }
    }
}

/// Reads one group's state.
pub(super) struct DumpReader<'a> {
    client: &'a Client,
    group: GroupId,
    session: [u8; 16],
    piece: u32,
    more: bool,
    /// The last entry of the group's log that is in it.
    pub(super) last: Option<LogPosition>,
}

impl<'a> DumpReader<'a> {
    pub(super) fn new(client: &'a Client, group: GroupId) -> Self {
        Self { client, group, session: client.random(), piece: 0, more: true, last: None }
    }

    /// The next pieces; none after the last.
    pub(super) async fn next(&mut self) -> Result<Vec<Bytes>, DumpError> {
        if !self.more {
            return Ok(Vec::new());
        }
        let question = DumpQuestion { group: self.group, session: self.session, piece: self.piece };
        match self.client.link.call(Target::Any, &Request::Dump(question)).await {
            Ok(Reply::Dumped(dumped)) => {
                self.piece += dumped.pieces.len() as u32;
                (self.more, self.last) = (dumped.more, dumped.last);
                Ok(dumped.pieces)
            }
            Ok(reply) => Err(DumpError::Failed(unexpected(&reply))),
            // Its leader has changed, or was asked too seldom.
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => Err(DumpError::Lost),
            Err(error) => Err(DumpError::Failed(error)),
        }
    }
}

/// Why a state could not be read.
pub(super) enum DumpError {
    /// It is to be read from the start again.
    Lost,
    /// Anything else.
    Failed(ClientError),
}
