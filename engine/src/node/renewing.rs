//! A site that was restored, or that went on without the majority of a group: each log that it is home of goes on under a new
//! generation, so that whatever was acknowledged and is not here is told apart from what is written from here on. Until
//! that is done nothing is acknowledged in the log, whichever node leads it.
//!
//! It is found again after any interruption: a log whose generation is of an earlier incarnation has not been renewed. Who
//! places a delta looks at that in the very state in which the renewal is committed, so no other mark is needed.

use super::collecting;
use super::directory::NodeDirectory;
use super::limits::TEND;
use super::shard::{LogGroup, Shard, propose_refusal, state_refusal};
use crate::framed::{self, FileKind, FramedFileError};
use crate::state::LogView;
use farside_codec::command::{GroupCommand, Promote, Rewind};
use farside_codec::delta::Generation;
use farside_codec::ids::{GroupId, Hlc};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::record;
use farside_io::disk::Disk;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

record!(
    /// To which moment a restored site goes back; kept in its directory.
    RestoredAt {
        /// The incarnation that goes back to it; a later one goes on from where it is.
        incarnation: u64,
        /// Everything placed later is set aside. `None`: nothing is.
        at: Option<Hlc>,
        /// It is a part of the site, restored beside it.
        is_part: bool,
    }
);

/// Refuses what would have others take a part of a site, which was restored beside it, for the site.
pub(crate) fn refuse_part(root: &Path) -> Result<(), Refusal> {
    let detail = "this is a part of a site that was restored beside it, and whoever meets it would take it for that site: take from it \
                  what was lost, or restore the whole site";
    match framed::read_record::<RestoredAt>(&NodeDirectory::new(root).restored_at(), FileKind::RestoredAt) {
        Ok(RestoredAt { is_part: true, .. }) => Err(Refusal::new(RefusalCode::Unsafe, detail)),
        Ok(_) | Err(FramedFileError::Missing(_)) => Ok(()),
        Err(error) => Err(Refusal::new(RefusalCode::Internal, error.to_string())),
    }
}

/// Renews the logs of this shard's groups that this node leads when it has just started. Harmless where nothing is to be
/// renewed.
pub(super) async fn renew<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), Refusal> {
    if shard.site.incarnation == 0 {
        return Ok(());
    }
    // What is touched here is dated by the epochs of the time before, which the site's groups have committed.
    let barrier = collecting::known_barrier(shard).await?;
    shard.store.set_gc_epoch(barrier);
    for group in shard.groups() {
        while !group.is_leader() && group.votes_alone().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if group.is_leader() {
            renew_group(shard, &group).await?;
        }
    }
    Ok(())
}

/// Renews the logs of each group that this node comes to lead later, and those that somebody writes to before.
pub(super) async fn keep_renewed<D: Disk>(shard: Rc<Shard<D>>) {
    // In its first incarnation no log is of an earlier one.
    if shard.site.incarnation == 0 {
        return;
    }
    let mut looked: BTreeMap<GroupId, u64> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = shard.renewal.notified() => looked.clear(),
            () = tokio::time::sleep(TEND) => {}
        }
        // At first it is asked whether the logs are this site's at all.
        if !shard.fence_checked.get() {
            continue;
        }
        for group in shard.groups().into_iter().filter(|group| group.is_leader()) {
            let term = group.status().term;
            if looked.get(&group.id()) == Some(&term) {
                continue;
            }
            match renew_group(&shard, &group).await {
                Ok(()) => drop(looked.insert(group.id(), term)),
                Err(refusal) => tracing::info!(%refusal, group = %group.id(), "its logs can't begin anew now"),
            }
        }
    }
}

/// Refuses to place anything in a log that has to begin a new generation first, and has that done.
pub(super) fn refuse_due<D: Disk>(shard: &Shard<D>, log: &LogView) -> Result<(), Refusal> {
    match is_due(shard, log) {
        true => {
            shard.renewal.notify_one();
            let detail = "the site was recovered, and the log is about to begin a new generation";
            Err(Refusal::retry(RefusalCode::Unavailable, 200, detail))
        }
        false => Ok(()),
    }
}

async fn renew_group<D: Disk>(shard: &Rc<Shard<D>>, group: &LogGroup<D>) -> Result<(), Refusal> {
    // Whoever has just begun to lead has not applied everything yet.
    group.confirm_leader().await.map_err(propose_refusal)?;
    let logs = group.state().borrow().logs().map_err(state_refusal)?;
    let due: Vec<LogView> = logs.into_iter().filter(|log| is_due(shard, log)).collect();
    if due.is_empty() {
        return Ok(());
    }
    let path = NodeDirectory::new(&shard.root).restored_at();
    let at = match framed::read_record::<RestoredAt>(&path, FileKind::RestoredAt) {
        Ok(restored) => restored.at.filter(|_| restored.incarnation == shard.site.incarnation),
        Err(FramedFileError::Missing(_)) => None,
        Err(error) => return Err(Refusal::new(RefusalCode::Internal, error.to_string())),
    };
    for log in &due {
        renew_log(shard, group, log, at).await?;
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
    let promote = GroupCommand::Promote(Promote { log: id, generation, time, weighed: None, cut: None });
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
    tracing::warn!(log = %id, %generation, "the log goes on under a new generation");
    Ok(())
}
