//! Makes a site of a backup, on bare devices, with nothing but the target and the system key.
//!
//! The site is the same: its name, id and CA, its tenants, logs and peers. Its incarnation is one higher, so that what the
//! lost one acknowledged past the backup is told apart from what is written from here on (`node/renewing.rs`). It has one
//! node, which others may join. An interrupted restore goes on when it is asked for again.

use super::error::BackupError;
use super::index::Index;
use super::limits::PACKS_AT_ONCE;
use super::reader::{Reader, by_pack, read_chunks};
use super::repository::{Found, Repository};
use super::run::{SiteFacts, Tell};
use super::worker::AtWork;
use crate::machine::Machine;
use crate::node::{Filling, NodeError, NodeOptions, RestoringFile, make_restored, restore_done, resume_restored};
use crate::state::{Part, chunks_in, logs_in, logs_of_part, restored_control, rows_of_part};
use farside_codec::backup::{Manifest, Work};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, GroupId, Hlc, LogId};
use farside_codec::limits::MAX_CHUNKS_PER_QUESTION;
use farside_io::clock::Clock;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use zeroize::Zeroizing;

const PIECE: &str = "a piece of a group's state";

fn state(error: farside_raft::StateError) -> BackupError {
    BackupError::State(error.to_string())
}

/// What `restore` is told.
pub struct RestoreOptions {
    /// The node's directory: new, or one into which a restore was begun.
    pub directory: PathBuf,
    /// The node.
    pub node: NodeOptions,
    /// How chunks are cut from now on; `None`: as they were.
    pub geometry: Option<Geometry>,
    /// The moment to go back to; `None`: everything that the newest backup holds.
    pub at: Option<Hlc>,
    /// All that is restored; `None`: everything.
    pub part: Option<Part>,
}

/// A site that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The backup.
    pub manifest: Manifest,
    /// The site's incarnation now.
    pub incarnation: u64,
    /// Chunks that were there already, from a restore that was interrupted.
    pub known_chunks: u64,
}

/// Restores a site.
pub async fn restore(
    options: &RestoreOptions,
    repository: &Repository,
    system_key: &[u8; 32],
    tell: Tell<'_>,
) -> Result<Restored, BackupError> {
    repository.require_mark().await?;
    let begun = resume_restored(&options.directory)?;
    let found = match &begun {
        Some(restoring) => repository.manifest(restoring.number).await?,
        None => choose(repository, options.at).await?,
    };
    let part = options.part.as_ref();
    let (tenant, log) = part.cloned().map_or((None, None), |part| (Some(part.tenant), part.log));
    let restoring = RestoringFile { number: found.manifest.number, at: options.at, tenant, log };
    // What was begun goes on as it was begun, and not as something else.
    if begun.as_ref().is_some_and(|begun| *begun != restoring) {
        return Err(BackupError::OtherRestore(options.directory.clone()));
    }
    let (is_new, manifest) = (begun.is_none(), found.manifest);
    // Before anything is made for it.
    let index = repository.index(&manifest.indexes).await?;
    let site = facts(&manifest, options.geometry);
    if is_new {
        if let Some(part) = part {
            require(repository, &manifest, &index, part).await?;
        }
        make_restored(&options.directory, &options.node, &site, system_key, restoring)?;
    }
    let filling = Filling::open(&options.directory);
    let clock = Machine::real().clock;
    let known_chunks = fill_from(repository, (&manifest, &index), part, clock, filling, tell).await?;
    restore_done(&options.directory)?;
    Ok(Restored { manifest, incarnation: site.incarnation, known_chunks })
}

/// The site that is made of a backup.
pub fn facts(manifest: &Manifest, geometry: Option<Geometry>) -> SiteFacts {
    SiteFacts {
        site: manifest.site,
        name: manifest.name.clone(),
        incarnation: manifest.incarnation + 1,
        groups: manifest.groups,
        geometry: geometry.unwrap_or(manifest.geometry),
        certificate: manifest.certificate.clone(),
        authority_key: Zeroizing::new(manifest.authority_key.to_vec()),
    }
}

/// Hands a backup over to the shards of a node that was made for it. Answers how many chunks were there already.
pub async fn fill_from(
    repository: &Repository,
    (manifest, index): (&Manifest, &Index),
    part: Option<&Part>,
    clock: Rc<dyn Clock>,
    filling: impl Future<Output = Result<Filling, NodeError>>,
    tell: Tell<'_>,
) -> Result<u64, BackupError> {
    // A prune spares what is being restored. Whoever may only read the target goes without.
    let at_work = AtWork::begin(repository, clock, Work::Restore(manifest.number)).await;
    let at_work = at_work.inspect_err(|error| tracing::warn!(%error, "a prune is not told of this restore")).ok();
    let filled = async { fill(repository, (manifest, index), part, filling.await?, tell).await }.await;
    if let Some(at_work) = at_work {
        at_work.end().await;
    }
    filled
}

/// The backup to restore: the newest one, or the first one in which everything up to a moment is.
pub async fn choose(repository: &Repository, at: Option<Hlc>) -> Result<Found, BackupError> {
    let numbers = repository.numbers().await?;
    let newest = *numbers.last().ok_or(BackupError::NoBackup)?;
    let newest = repository.manifest(newest).await?;
    let Some(at) = at else { return Ok(newest) };
    if newest.manifest.cut < at {
        return Err(BackupError::NotYet { newest_ms: newest.manifest.cut.ms() });
    }
    let (mut first, mut last, mut found) = (0, numbers.len() - 1, newest);
    while first < last {
        let middle = (first + last) / 2;
        let candidate = repository.manifest(numbers[middle]).await?;
        match candidate.manifest.cut < at {
            true => first = middle + 1,
            false => (last, found) = (middle, candidate),
        }
    }
    Ok(found)
}

/// A part that the backup knows nothing of is found missing before anything is made for it.
async fn require(repository: &Repository, manifest: &Manifest, index: &Index, part: &Part) -> Result<(), BackupError> {
    let mut reader = Reader::of_states(repository, index, manifest);
    for dump in manifest.dumps.iter().filter(|dump| dump.group != GroupId::CONTROL) {
        for id in &dump.pieces {
            let rows = reader.read(PIECE, id).await?;
            let mut is_there = false;
            let more = logs_of_part(&rows, part, &mut |_| is_there = true).map_err(state)?;
            if is_there {
                return Ok(());
            }
            if !more {
                break;
            }
        }
    }
    Err(BackupError::NoPart { part: part.to_string(), number: manifest.number })
}

async fn fill(
    repository: &Repository,
    (manifest, index): (&Manifest, &Index),
    part: Option<&Part>,
    filling: Filling,
    tell: Tell<'_>,
) -> Result<u64, BackupError> {
    let chunks = fill_states(repository, (manifest, index), part, &filling).await?;
    let all: Vec<ChunkId> = chunks.into_iter().collect();
    let mut missing = Vec::new();
    for asked in all.chunks(MAX_CHUNKS_PER_QUESTION) {
        let have = filling.have(asked).await?;
        missing.extend(asked.iter().zip(have).filter(|(_, have)| !have).map(|(chunk, _)| chunk.0));
    }
    let known = (all.len() - missing.len()) as u64;
    let (mut done, total) = (0, missing.len() as u64);
    let wanted = by_pack(index, missing.into_iter())?;
    let read = |chunks| read_chunks(repository, index, chunks);
    let mut packs = stream::iter(wanted.into_iter().map(read)).buffer_unordered(PACKS_AT_ONCE);
    while let Some(read) = packs.next().await {
        for (chunk, sealed) in read? {
            filling.chunk(ChunkId(chunk), sealed).await?;
            done += 1;
            tell(done, total);
        }
    }
    filling.settle().await?;
    let groups: Vec<_> = manifest.dumps.iter().map(|dump| (dump.group, dump.last)).collect();
    filling.finish(&groups).await?;
    Ok(known)
}

/// Hands the states over. Answers the chunks that they refer to.
async fn fill_states(
    repository: &Repository,
    (manifest, index): (&Manifest, &Index),
    part: Option<&Part>,
    filling: &Filling,
) -> Result<BTreeSet<ChunkId>, BackupError> {
    let mut reader = Reader::of_states(repository, index, manifest);
    let (mut chunks, mut logs) = (BTreeSet::new(), BTreeSet::<LogId>::new());
    let is_control = |group: GroupId| group == GroupId::CONTROL;
    let (control, others): (Vec<_>, Vec<_>) = manifest.dumps.iter().partition(|dump| is_control(dump.group));
    for dump in others.into_iter().chain(control) {
        for id in &dump.pieces {
            let mut rows = reader.read(PIECE, id).await?;
            match is_control(dump.group) {
                true => rows = restored_control(&rows, manifest.incarnation + 1, &logs, part).map_err(state)?,
                false => {
                    if let Some(part) = part {
                        let take = &mut |log| {
                            logs.insert(log);
                        };
                        logs_of_part(&rows, part, take).map_err(state)?;
                        rows = rows_of_part(&rows, &logs).map_err(state)?;
                    }
                    let named = &mut |chunk: farside_codec::delta::ChunkRef| {
                        chunks.insert(chunk.chunk);
                    };
                    chunks_in(&rows, named).map_err(state)?;
                    logs_in(&rows, &mut |log| {
                        logs.insert(log);
                    })
                    .map_err(state)?;
                }
            }
            filling.rows(dump.group, rows).await?;
        }
    }
    Ok(chunks)
}
