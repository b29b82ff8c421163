//! The first start of a site that was restored: each log that it is home of goes on under a new generation, so that whatever the
//! lost site acknowledged past the backup is told apart from what is written from here on. Until that is done nothing is
//! acknowledged here.
//!
//! It is found again after any interruption: a log whose generation is of an earlier incarnation has not been renewed.

use super::collecting;
use super::directory::NodeDirectory;
use super::shard::{LogGroup, Shard, state_refusal};
use crate::framed::{self, FileKind, FramedFileError};
use crate::state::LogView;
use farside_codec::command::{GroupCommand, Promote, Rewind};
use farside_codec::delta::Generation;
use farside_codec::ids::Hlc;
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::record;
use farside_io::disk::Disk;
use std::rc::Rc;

record!(
    /// To which moment a restored site goes back; kept in its directory.
    RestoredAt {
        /// Everything placed later is set aside. `None`: nothing is.
        at: Option<Hlc>,
    }
);

/// Renews the logs of this shard's groups that this node leads. Harmless where nothing is to be renewed.
pub(super) async fn renew<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    if shard.site.incarnation == 0 {
        return Ok(());
    }
    let path = NodeDirectory::new(&shard.root).restored_at();
    let at = match framed::read_record::<RestoredAt>(&path, FileKind::RestoredAt) {
        Ok(restored) => restored.at,
        Err(FramedFileError::Missing(_)) => None,
        Err(error) => return Err(Refusal::new(RefusalCode::Internal, error.to_string())),
    };
    // What is touched here is dated by the epochs of the lost site's time, which its groups have committed.
    let barrier = collecting::known_barrier(shard).await?;
    shard.store.set_gc_epoch(barrier);
    for group in shard.groups() {
        while !group.is_leader() && group.votes_alone().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let logs = group.state().borrow().logs().map_err(state_refusal)?;
        for log in logs.into_iter().filter(|log| group.is_leader() && is_due(shard, log)) {
            renew_log(shard, &group, &log, at).await?;
        }
    }
    Ok(())
}

fn is_due<D: Disk>(shard: &Shard<D>, log: &LogView) -> bool {
    log.is_home(shard.site.site) && log.known.incarnation < shard.site.incarnation
}

async fn renew_log<D: Disk>(
    shard: &Rc<Shard<D>>,
    group: &LogGroup<D>,
    log: &LogView,
    at: Option<Hlc>,
) -> Result<(), Refusal> {
    let id = log.descriptor.log;
    let generation =
        Generation { counter: log.known.counter + 1, site: shard.site.site, incarnation: shard.site.incarnation };
    let time = shard.clock.now();
    let sequence = match at {
        Some(at) => group.state().borrow().sequence_at_time(id, at).map_err(state_refusal)?,
        None => log.head.sequence,
    };
    let promote = GroupCommand::Promote(Promote { log: id, generation, time });
    let command = match sequence < log.head.sequence {
        true => GroupCommand::Rewind(Rewind { log: id, sequence, generation, time }),
        false => promote.clone(),
    };
    match shard.command(group.id(), &command).await {
        // The versions of that moment are gone. Whoever asked for it was told so when the site was restored.
        Err(refusal) if refusal.code == RefusalCode::ConditionFailed => {
            tracing::error!(log = %id, %refusal, "the log can't go back so far, and stays as it was when it was backed up");
            shard.command(group.id(), &promote).await.map(drop)
        }
        done => done.map(drop),
    }?;
    tracing::warn!(log = %id, %generation, "the log was restored, and goes on under a new generation");
    Ok(())
}
