//! Reads a target again: what each backup names is there, opens with the site's key, and is what its id says.

use super::error::BackupError;
use super::index::Index;
use super::limits::PACKS_AT_ONCE;
use super::reader::{Reader, States};
use super::repository::{Found, Repository};
use super::run::Tell;
use super::target::TargetError;
use farside_codec::backup::{Manifest, SealedPack};
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every manifest, index and state, the list of packs, and so many packs drawn at random.
    Sample(usize),
    /// Everything.
    All,
}

/// One backup, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Its number.
    pub number: u64,
    /// Its manifest, if that can be read.
    pub manifest: Option<Manifest>,
    /// Chunks that it needs.
    pub chunks: u64,
    /// What is wrong; empty: nothing that was found.
    pub faults: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The backups, oldest first.
    pub backups: Vec<Verified>,
    /// Packs that were read.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Packs that the backups need.
    pub packs: u64,
    /// Names of objects that are damaged or not there.
    pub damaged: Vec<String>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.backups.iter().all(|backup| backup.faults.is_empty())
    }
}

/// Faults of one backup that are told one by one; past that there are too many to read.
const FAULTS_TOLD: usize = 16;

impl Verified {
    fn fault(&mut self, fault: impl ToString) {
        if self.faults.len() < FAULTS_TOLD {
            self.faults.push(fault.to_string());
        }
    }
}

/// What a fault is found with, for those that end the verification: a target that is away says nothing about its backups.
fn passes(error: BackupError) -> Result<BackupError, BackupError> {
    match &error {
        BackupError::Target(
            TargetError::NotFound { .. } | TargetError::Short { .. } | TargetError::TooLarge { .. },
        ) => Ok(error),
        BackupError::Target(_) | BackupError::WrongKey => Err(error),
        _ => Ok(error),
    }
}

/// Verifies every backup at a target.
pub async fn verify(repository: &Repository, depth: Depth, tell: Tell<'_>) -> Result<Report, BackupError> {
    repository.require_mark().await?;
    let mut report = Report::default();
    let numbers = repository.numbers().await?;
    // Whatever a backup needs was there before its manifest was.
    let lengths = repository.packs().await?;
    // Which backups need what of each pack.
    let mut needs: BTreeMap<[u8; 16], BTreeSet<u64>> = BTreeMap::new();
    let mut states = States::default();
    let mut before: Option<(u64, [u8; 32])> = None;
    for number in numbers {
        let mut verified = Verified { number, manifest: None, chunks: 0, faults: Vec::new() };
        match repository.manifest(number).await {
            Ok(Found { manifest, hash }) => {
                // The one before may have been pruned; one that is there must be the one that was there then.
                if before.is_some_and(|(last, hash)| last + 1 == number && hash != manifest.previous) {
                    verified.fault("the backup before it is not the one that was there when it was made");
                }
                before = Some((number, hash));
                verify_one(repository, &manifest, &lengths, &mut verified, &mut needs, &mut states).await?;
                verified.manifest = Some(manifest);
            }
            Err(error) => verified.fault(passes(error)?),
        }
        report.backups.push(verified);
    }
    report.packs = needs.len() as u64;
    read_packs(repository, depth, &needs, &mut report, tell).await?;
    forget_pruned(repository, &needs, &mut report).await?;
    Ok(report)
}

/// A backup of which something is missing may have been pruned meanwhile, and is none any more.
async fn forget_pruned(
    repository: &Repository,
    needs: &BTreeMap<[u8; 16], BTreeSet<u64>>,
    report: &mut Report,
) -> Result<(), BackupError> {
    if report.is_clean() {
        return Ok(());
    }
    let left: BTreeSet<u64> = repository.numbers().await?.into_iter().collect();
    report.backups.retain(|backup| backup.faults.is_empty() || left.contains(&backup.number));
    let is_needed = |name: &String| {
        needs.iter().any(|(pack, backups)| SealedPack::name(pack) == *name && !backups.is_disjoint(&left))
    };
    report.damaged.retain(is_needed);
    Ok(())
}

/// Everything about a backup but what is in its packs.
async fn verify_one(
    repository: &Repository,
    manifest: &Manifest,
    lengths: &BTreeMap<[u8; 16], u64>,
    verified: &mut Verified,
    needs: &mut BTreeMap<[u8; 16], BTreeSet<u64>>,
    states: &mut States,
) -> Result<(), BackupError> {
    let mut index = Index::default();
    for reference in &manifest.indexes {
        match repository.packs_of(reference).await {
            Ok(packs) => packs.iter().for_each(|pack| index.add(pack)),
            Err(error) => verified.fault(passes(error)?),
        }
    }
    let ids = || manifest.dumps.iter().flat_map(|dump| dump.pieces.iter().copied());
    let mut needed: BTreeSet<[u8; 32]> = BTreeSet::new();
    let mut reader = Reader::of_states(repository, &index, manifest);
    for id in ids() {
        match states.chunks(&mut reader, &id).await {
            Ok(chunks) => needed.extend(chunks.iter()),
            Err(error) => verified.fault(passes(error)?),
        }
    }
    verified.chunks = needed.len() as u64;
    if verified.faults.is_empty() && verified.chunks != manifest.chunks {
        verified.fault(format!("it says {} chunks, its states name {}", manifest.chunks, verified.chunks));
    }
    for id in needed.into_iter().chain(ids()) {
        match index.find(&id) {
            Some(located) => {
                let is_new = needs.entry(located.pack).or_default().insert(manifest.number);
                if is_new && lengths.get(&located.pack) != Some(&located.pack_bytes) {
                    let name = SealedPack::name(&located.pack);
                    verified.fault(format!("{name} is not there, or not as long as it was"));
                }
            }
            None => verified.fault(BackupError::Lost { what: "chunk", id }),
        }
    }
    Ok(())
}

async fn read_packs(
    repository: &Repository,
    depth: Depth,
    needs: &BTreeMap<[u8; 16], BTreeSet<u64>>,
    report: &mut Report,
    tell: Tell<'_>,
) -> Result<(), BackupError> {
    let mut packs: Vec<[u8; 16]> = needs.keys().copied().collect();
    if let Depth::Sample(count) = depth {
        // Ids of packs are random, so any place to begin is a draw.
        let draw: [u8; 8] = repository.random();
        let first = u64::from_le_bytes(draw) % packs.len().max(1) as u64;
        packs.rotate_left(first as usize);
        packs.truncate(count);
    }
    let all = packs.len() as u64;
    let read = |pack: [u8; 16]| async move { (pack, repository.pack(&pack).await) };
    let mut reads = stream::iter(packs.into_iter().map(read)).buffer_unordered(PACKS_AT_ONCE);
    while let Some((pack, read)) = reads.next().await {
        report.packs_read += 1;
        match read {
            Ok(entries) => report.bytes_read += entries.iter().map(|(_, plain)| plain.len() as u64).sum::<u64>(),
            Err(error) => {
                let error = passes(error)?;
                report.damaged.push(SealedPack::name(&pack));
                for backup in report.backups.iter_mut().filter(|backup| needs[&pack].contains(&backup.number)) {
                    backup.fault(&error);
                }
            }
        }
        tell(report.packs_read, all);
    }
    Ok(())
}
