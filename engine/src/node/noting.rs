//! What is done in a node's directory, with or without the node: it is left there as a small file before it is done, and written
//! into the audit log by the node, at once if it runs, or else when it starts. A file goes once it is written down; one
//! that is found again, because the node died in between, is written down once all the same.

use super::auditing::{self, Order};
use super::directory::NodeDirectory;
use super::error::{NodeError, failed};
use super::renewing::RestoredAt;
use super::shard::Shard;
use crate::framed::{self, FileKind, FramedFileError};
use crate::machine::Machine;
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntry, AuditNote, AuditNotes, AuditOutcome, AuditPlace, AuditScope, AuditUser,
    AuditedRestore,
};
use farside_codec::command::ControlCommand;
use farside_codec::ids::{Hlc, hex};
use farside_codec::message::{Refusal, RefusalCode};
use farside_io::disk::Disk;
use farside_io::entropy::random;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Between two looks into the directory.
const LOOK: Duration = Duration::from_millis(500);
/// Files that wait at most: whoever wants to do more has the node run first.
const MOST_WAITING: usize = 1024;
/// Among so many entries of an incarnation is the one with which it began: whoever calls while the node starts may come first.
const FIRST_ENTRIES: usize = 64;
/// What such a file is called.
const EXTENSION: &str = "note";

/// Something that is done in a node's directory.
pub(crate) struct LocalOrder {
    directory: NodeDirectory,
    machine: Machine,
    order: [u8; 16],
    by: AuditActor,
}

impl LocalOrder {
    /// Leaves word that something is about to be done there. It is not done where that can't be left.
    pub(crate) fn begin(root: &Path, action: AuditAction) -> Result<Self, NodeError> {
        let directory = NodeDirectory::new(root);
        let site = directory.load_site()?;
        let machine = Machine::real();
        let by = AuditActor::Machine(AuditUser { node: site.node, user: own_user() });
        let order = random(machine.entropy.as_ref());
        let local = Self { directory, machine, order, by };
        local.leave(action, AuditOutcome::Ordered)?;
        Ok(local)
    }

    /// Leaves word of what came of it. That it was ordered is there already, if this can't be left.
    pub(crate) fn end<T>(&self, action: AuditAction, came: &Result<T, impl std::fmt::Display>) {
        let outcome = match came {
            Ok(_) => AuditOutcome::Done,
            Err(error) => AuditOutcome::failed(&Refusal::new(RefusalCode::Internal, error.to_string())),
        };
        if let Err(error) = self.leave(action, outcome) {
            tracing::error!(%error, "what came of it is not in the audit log");
        }
    }

    /// Does something, and leaves word before and after it.
    pub(crate) fn around<T, E: std::fmt::Display + From<NodeError>>(
        root: &Path,
        action: AuditAction,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let local = Self::begin(root, action.clone())?;
        let came = work();
        local.end(action, &came);
        came
    }

    fn leave(&self, action: AuditAction, outcome: AuditOutcome) -> Result<(), NodeError> {
        let place = self.directory.audit();
        let fail = |error: std::io::Error| failed(format_args!("{}: {error}", place.display()));
        if !place.is_dir() {
            std::fs::create_dir_all(&place).map_err(fail)?;
            File::open(self.directory.root()).and_then(|root| root.sync_all()).map_err(fail)?;
        }
        if waiting(&place).map_err(fail)?.len() >= MOST_WAITING {
            return Err(failed(format_args!(
                "{MOST_WAITING} entries of the audit log wait in {} for the node: run it first",
                place.display()
            )));
        }
        let id: [u8; 16] = random(self.machine.entropy.as_ref());
        let ordered = Hlc::from_ms(self.machine.clock.wall_ms());
        let notes = vec![AuditNote { scope: AuditScope::Site, action, outcome }];
        let notes = AuditNotes { id, order: self.order, by: self.by.clone(), ordered, notes };
        // They are written down in the order in which they were left.
        let name = format!("{:020}-{}.{EXTENSION}", self.machine.clock.wall_ms(), hex(&id));
        Ok(framed::write_record(&place.join(name), FileKind::AuditNotes, &notes)?)
    }
}

/// The user that this process runs as, as the kernel shows it; nobody where it does not.
fn own_user() -> u32 {
    std::fs::metadata("/proc/self").map_or(u32::MAX, |process| process.uid())
}

/// The files that wait, the oldest first.
fn waiting(place: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    found.truncate(MOST_WAITING);
    Ok(found)
}

/// Has what was left in the node's directory written down.
pub(super) async fn keep_noted<D: Disk>(shard: Rc<Shard<D>>) {
    let place = NodeDirectory::new(&shard.root).audit();
    loop {
        if let Err(error) = take_in(&shard, &place).await {
            tracing::error!(%error, "what was done in the node's directory is not in the audit log yet");
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn take_in<D: Disk>(shard: &Rc<Shard<D>>, place: &Path) -> Result<(), NodeError> {
    let fail = |error: std::io::Error| failed(format_args!("{}: {error}", place.display()));
    for path in waiting(place).map_err(fail)? {
        let notes = match framed::read_record::<AuditNotes>(&path, FileKind::AuditNotes) {
            // In a directory nobody shows a certificate.
            Ok(notes) if matches!(notes.by, AuditActor::Machine(_)) => notes,
            Ok(_) => {
                std::fs::rename(&path, path.with_extension("damaged")).map_err(fail)?;
                tracing::error!(path = %path.display(), "a note for the audit log is in another's name");
                continue;
            }
            Err(error @ FramedFileError::Damaged(..)) => {
                // It stays for whoever looks into it, and holds up nothing.
                std::fs::rename(&path, path.with_extension("damaged")).map_err(fail)?;
                tracing::error!(%error, "a note for the audit log is damaged");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match shard.control(&notes.by.clone(), ControlCommand::NoteAudit(notes)).await {
            Ok(_) => std::fs::remove_file(&path).map_err(fail)?,
            // It never will be.
            Err(refusal) if refusal.code == RefusalCode::BadRequest => {
                std::fs::rename(&path, path.with_extension("damaged")).map_err(fail)?;
            }
            Err(refusal) => return Err(failed(refusal)),
        }
    }
    Ok(())
}

/// What wrongly can't be read in the directory, as an alert.
pub(super) fn alert<D: Disk>(shard: &Shard<D>) -> Option<String> {
    let place = NodeDirectory::new(&shard.root).audit();
    let entries = std::fs::read_dir(&place).ok()?;
    let is_damaged = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "damaged");
    let damaged = entries.flatten().map(|entry| entry.path()).filter(is_damaged).count();
    (damaged > 0).then(|| format!("{damaged} notes for the audit log in {} are damaged", place.display()))
}

/// The first entry of a site's new incarnation after a restore says so. What a recovery begins says it by itself.
pub(super) async fn note_restored<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), NodeError> {
    let incarnation = shard.site.incarnation;
    let (Some(control), true) = (&shard.control, incarnation > 0) else { return Ok(()) };
    if super::recovered::is_pending(shard) {
        return Ok(());
    }
    let place = AuditPlace { incarnation, sequence: 0 };
    let state = control.state();
    let found = state.borrow().audit_entries(shard.site.site, &AuditScope::Site, &place, FIRST_ENTRIES, usize::MAX);
    let says_so = |entry: &Bytes| {
        let action = AuditEntry::from_bytes(entry.clone()).map(|entry| entry.action);
        matches!(action, Ok(AuditAction::Restore(_) | AuditAction::Recover(_)))
    };
    if found.map_err(failed)?.entries.iter().any(says_so) {
        return Ok(());
    }
    let path = NodeDirectory::new(&shard.root).restored_at();
    let at = match framed::read_record::<RestoredAt>(&path, FileKind::RestoredAt) {
        Ok(restored) => restored.at.filter(|_| restored.incarnation == incarnation),
        Err(FramedFileError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let action = AuditAction::Restore(AuditedRestore { incarnation, at });
    let notes = vec![auditing::note(AuditScope::Site, action, AuditOutcome::Done)];
    Order::new(shard, shard.by_itself()).note(shard, notes).await.map_err(failed)
}
