//! Takes away backups that no rule keeps, and what only they needed.
//!
//! Others may be at work meanwhile, and this may be killed at any point; so nothing that a pack holds goes at once. What no
//! backup needs is first written down as doomed: from then on no backup counts on it, and one that was under way
//! looks again before it is completed. It goes when that has lain there for a while and still nothing needs it.
//! Packs of which a part is needed stay whole.

use super::error::BackupError;
use super::reader::{Reader, States};
use super::repository::Repository;
use super::retention::Retention;
use farside_codec::backup::{Doomed, Manifest, SealedPack, Work};
use farside_codec::ids::Hlc;
use farside_codec::limits::MAX_LIST;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a prune is told.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// Which backups stay.
    pub retention: Retention,
    /// How long what nothing needs stays, for backups that are under way.
    pub grace: Duration,
    /// Say what would go, and change nothing.
    pub only_say: bool,
    /// This machine's clock.
    pub now: Hlc,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups that stay.
    pub kept: Vec<u64>,
    /// Backups that went.
    pub removed: Vec<u64>,
    /// Packs that nothing needs any more, and that go after the grace.
    pub doomed_packs: u64,
    /// Their bytes.
    pub doomed_bytes: u64,
    /// Packs that went.
    pub removed_packs: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

/// Prunes a target.
pub async fn prune(repository: &Repository, options: &PruneOptions) -> Result<Pruned, BackupError> {
    repository.require_mark().await?;
    let workers = repository.workers(options.now).await?;
    let mut manifests = BTreeMap::new();
    for number in repository.numbers().await? {
        manifests.insert(number, repository.manifest(number).await?.manifest);
    }
    let cuts: Vec<(u64, Hlc)> = manifests.iter().map(|(number, manifest)| (*number, manifest.cut)).collect();
    let mut kept = options.retention.kept(&cuts);
    // What is being restored stays until that has ended.
    kept.extend(workers.iter().filter_map(|work| match work {
        Work::Restore(number) if manifests.contains_key(number) => Some(*number),
        _ => None,
    }));
    let mut pruned = Pruned { kept: kept.iter().copied().collect(), ..Pruned::default() };
    for number in cuts.iter().map(|(number, _)| *number).filter(|number| !kept.contains(number)) {
        if !options.only_say {
            repository.remove_manifest(number).await?;
        }
        manifests.remove(&number);
        pruned.removed.push(number);
    }
    let indexes = repository.indexes().await?;
    let needed = needed(repository, manifests.values(), &indexes).await?;
    let there = There { packs: repository.packs().await?, indexes, doomed: repository.doomed().await? };
    remove_doomed(repository, options, &needed, &there, &mut pruned).await?;
    let backup_runs = workers.contains(&Work::Backup);
    doom(repository, options, &needed, &there, backup_runs, &mut pruned).await?;
    Ok(pruned)
}

/// What lies at the target.
struct There {
    /// Packs, with their bytes.
    packs: BTreeMap<[u8; 16], u64>,
    /// Names of indexes.
    indexes: Vec<String>,
    /// What is written down as doomed, by name.
    doomed: Vec<(String, Doomed)>,
}

/// What backups need.
#[derive(Default)]
struct Needed {
    packs: BTreeSet<[u8; 16]>,
    indexes: BTreeSet<String>,
    /// Packs that some index names which a backup needs.
    named: BTreeSet<[u8; 16]>,
    /// Packs that some other index names. As long as a doomed pack is among these or the ones before it stays written down, or
    /// a later backup would take it for being there.
    left: BTreeSet<[u8; 16]>,
}

async fn needed(
    repository: &Repository,
    manifests: impl Iterator<Item = &Manifest>,
    indexes: &[String],
) -> Result<Needed, BackupError> {
    let mut needed = Needed::default();
    let mut states = States::default();
    for manifest in manifests {
        let index = repository.index(&manifest.indexes).await?;
        needed.indexes.extend(manifest.indexes.iter().map(|reference| reference.name.clone()));
        needed.named.extend(index.packs().map(|(pack, _)| pack));
        let mut reader = Reader::of_states(repository, &index, manifest);
        for id in manifest.dumps.iter().flat_map(|dump| &dump.pieces) {
            let chunks = states.chunks(&mut reader, id).await?;
            for id in chunks.iter().chain([id]) {
                // Who can't say what a backup needs takes nothing away.
                let located = index.find(id).ok_or(BackupError::Lost { what: "chunk", id: *id })?;
                needed.packs.insert(located.pack);
            }
        }
    }
    for name in indexes.iter().filter(|name| !needed.indexes.contains(*name)) {
        match repository.read_index(name).await {
            Ok((_, packs)) => needed.left.extend(packs.iter().map(|pack| pack.pack)),
            // A backup makes nothing of it either.
            Err(BackupError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(needed)
}

/// Removes what has been doomed for long enough and is still needed by nothing.
async fn remove_doomed(
    repository: &Repository,
    options: &PruneOptions,
    needed: &Needed,
    there: &There,
    pruned: &mut Pruned,
) -> Result<(), BackupError> {
    let grace_ms = options.grace.as_millis() as u64;
    for (name, doomed) in &there.doomed {
        let age_ms = options.now.ms().saturating_sub(doomed.time.ms());
        if age_ms < grace_ms {
            continue;
        }
        for pack in doomed.packs.iter().filter(|pack| !needed.packs.contains(*pack)) {
            let Some(bytes) = there.packs.get(pack) else { continue };
            (pruned.removed_packs, pruned.removed_bytes) = (pruned.removed_packs + 1, pruned.removed_bytes + bytes);
            if !options.only_say {
                repository.remove(&SealedPack::name(pack)).await?;
            }
        }
        for index in doomed.indexes.iter().filter(|index| !needed.indexes.contains(*index) && !options.only_say) {
            repository.remove(index).await?;
        }
        // A backup under way may have read an index that names one of them; once no index does, and those have ended, nobody
        // takes one for being there. One that is needed after all must not stay doomed.
        let is_named = |pack: &[u8; 16]| needed.named.contains(pack) || needed.left.contains(pack);
        let is_settled = |pack: &[u8; 16]| needed.packs.contains(pack) || !is_named(pack);
        let is_over = age_ms >= 2 * grace_ms && doomed.packs.iter().all(is_settled);
        if is_over && !options.only_say {
            repository.remove(name).await?;
        }
    }
    Ok(())
}

/// Writes down what nothing needs.
async fn doom(
    repository: &Repository,
    options: &PruneOptions,
    needed: &Needed,
    there: &There,
    backup_runs: bool,
    pruned: &mut Pruned,
) -> Result<(), BackupError> {
    let known_packs: BTreeSet<&[u8; 16]> = there.doomed.iter().flat_map(|(_, doomed)| &doomed.packs).collect();
    let known_indexes: BTreeSet<&String> = there.doomed.iter().flat_map(|(_, doomed)| &doomed.indexes).collect();
    // What a backup under way has stored is in no manifest, and perhaps in no index.
    let is_old = |pack: &[u8; 16]| !backup_runs || needed.named.contains(pack);
    let is_due = |pack: &[u8; 16]| !needed.packs.contains(pack) && !known_packs.contains(pack) && is_old(pack);
    let packs: Vec<[u8; 16]> = there.packs.keys().copied().filter(is_due).take(MAX_LIST).collect();
    let is_due = |name: &String| !backup_runs && !needed.indexes.contains(name) && !known_indexes.contains(name);
    let indexes: Vec<String> = there.indexes.iter().filter(|name| is_due(name)).take(MAX_LIST).cloned().collect();
    pruned.doomed_packs = packs.len() as u64;
    pruned.doomed_bytes = packs.iter().filter_map(|pack| there.packs.get(pack)).sum();
    if options.only_say || packs.is_empty() && indexes.is_empty() {
        return Ok(());
    }
    repository.put_doomed(&Doomed { time: options.now, packs, indexes }).await
}
