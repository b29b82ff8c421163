//! What the control group agrees on about external backups: where they go, and what is kept while one reads.

use super::control::{ControlView, Kind, Outcome, full, key};
use super::database::{Change, Table};
use super::limits::{MAX_BACKUP_HOLDS, MAX_BACKUP_TARGETS};
use farside_codec::Field;
use farside_codec::dump::{BackupTarget, HeldBackup, ScheduleBackup};
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{Refusal, RefusalCode};
use farside_raft::StateError;

/// Keeps what a backup reads, or lets go of it. Whoever has not renewed in time is let go of with the next change.
pub(super) fn hold(change: &Change, view: &mut ControlView, held: HeldBackup) -> Result<Outcome, StateError> {
    let key = key(Kind::BackupHold, &held.id);
    if held.until == Hlc::default() {
        view.backup_holds.remove(&held.id);
        change.remove(Table::Control, &key)?;
        return Ok(Ok(()));
    }
    if view.backup_holds.len() >= MAX_BACKUP_HOLDS && !view.backup_holds.contains_key(&held.id) {
        // One whose backup has ended without a word gives way: it would be the first to end by itself.
        let Some(first) = view.backup_holds.values().min_by_key(|held| held.until).cloned() else {
            return Ok(full("backups that read", MAX_BACKUP_HOLDS));
        };
        view.backup_holds.remove(&first.id);
        change.remove(Table::Control, &super::control::key(Kind::BackupHold, &first.id))?;
    }
    change.put(Table::Control, &key, &held.to_bytes())?;
    view.backup_holds.insert(held.id, held);
    Ok(Ok(()))
}

/// Adds a place, or says what was completed there. What it is and where can't change under one name.
pub(super) fn put_target(change: &Change, view: &mut ControlView, target: BackupTarget) -> Result<Outcome, StateError> {
    let mut merged = match view.backup_targets.get(&target.name) {
        Some(known) if (&known.url, &known.endpoint) != (&target.url, &target.endpoint) => {
            let detail = format!("backup target {} is {} already: choose another name", known.name, known.url);
            return Ok(Err(Refusal::new(RefusalCode::Exists, detail)));
        }
        Some(known) => known.clone(),
        None if view.backup_targets.len() >= MAX_BACKUP_TARGETS => {
            return Ok(full("backup targets", MAX_BACKUP_TARGETS));
        }
        None => BackupTarget { newest: None, schedule: None, ..target.clone() },
    };
    // Two may have been under way.
    let number = |target: &BackupTarget| target.newest.as_ref().map(|newest| newest.number);
    if number(&target) > number(&merged) {
        merged.newest = target.newest;
    }
    change.put(Table::Control, &key(Kind::BackupTarget, merged.name.as_str().as_bytes()), &merged.to_bytes())?;
    view.backup_targets.insert(merged.name.clone(), merged);
    Ok(Ok(()))
}

/// Has backups made by the site itself, or no more.
pub(super) fn schedule(change: &Change, view: &mut ControlView, order: ScheduleBackup) -> Result<Outcome, StateError> {
    let Some(target) = view.backup_targets.get(&order.name) else { return Ok(no_target(&order.name)) };
    let target = BackupTarget { schedule: order.schedule, ..target.clone() };
    change.put(Table::Control, &key(Kind::BackupTarget, target.name.as_str().as_bytes()), &target.to_bytes())?;
    view.backup_targets.insert(target.name.clone(), target);
    Ok(Ok(()))
}

fn no_target(name: &Label) -> Outcome {
    Err(Refusal::new(RefusalCode::NotFound, format!("there is no backup target {name}")))
}

/// Forgets a place. What lies there stays.
pub(super) fn forget_target(change: &Change, view: &mut ControlView, name: &Label) -> Result<Outcome, StateError> {
    if view.backup_targets.remove(name).is_none() {
        return Ok(no_target(name));
    }
    change.remove(Table::Control, &key(Kind::BackupTarget, name.as_str().as_bytes()))?;
    Ok(Ok(()))
}
