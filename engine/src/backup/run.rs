//! One backup: states of all groups, every chunk that they refer to and that is not at the target yet, indexes, and at last the
//! manifest.

use super::error::BackupError;
use super::index::Index;
use super::known::Known;
use super::limits::{CHUNKS_AT_ONCE, DUMP_TRIES, MANIFEST_TRIES, RUN_TRIES};
use super::packer::{Packer, Stored};
use super::repository::{Found, Repository};
use super::snapshot::{DumpError, DumpReader, Hold};
use super::worker::AtWork;
use crate::client::{Client, ClientError, unexpected};
use crate::node::directory::SiteFile;
use crate::state::chunks_in;
use bytes::Bytes;
use farside_codec::backup::{EntryKind, GroupDump, Manifest, ObjectReference, SiteMark, Work};
use farside_codec::delta::ChunkRef;
use farside_codec::dump::{BackupTarget, NewestBackup};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, GroupId, Hlc, Label, SiteId};
use farside_codec::message::{Reply, Request};
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeSet, HashSet};
use zeroize::Zeroizing;

/// What a backup says of its site, which a restore makes it from again.
pub struct SiteFacts {
    /// The site.
    pub site: SiteId,
    /// Its name.
    pub name: Label,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its log groups.
    pub groups: u32,
    /// How it cuts chunks.
    pub geometry: Geometry,
    /// Its CA's certificate (DER).
    pub certificate: Bytes,
    /// Its CA's key (PKCS #8 DER).
    pub authority_key: Zeroizing<Vec<u8>>,
}

impl SiteFacts {
    /// As a node of the site knows it, with how that cuts chunks now, and with the certificate and the key of the authority
    /// that issues now.
    pub fn new(site: &SiteFile, geometry: Geometry, (certificate, authority_key): (Bytes, Zeroizing<Vec<u8>>)) -> Self {
        Self {
            site: site.site,
            name: site.name.clone(),
            incarnation: site.incarnation,
            groups: site.groups,
            geometry,
            certificate,
            authority_key,
        }
    }
}

/// What is said while a backup runs: chunks that are done, and all that there are to do.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// A backup that was completed.
#[derive(Debug, Clone)]
pub struct Completed {
    /// Its manifest.
    pub manifest: Manifest,
    /// What was stored for it.
    pub stored: Stored,
    /// Chunks that were at the target already.
    pub known_chunks: u64,
}

/// Makes one backup of the site that `client`, an administrator's, is connected to, and tells the site of it.
pub async fn run_and_tell(
    client: &Client,
    repository: &Repository,
    site: &SiteFacts,
    target: BackupTarget,
    tell: Tell<'_>,
) -> Result<Completed, BackupError> {
    let made = run(client, repository, site, tell).await?;
    let newest = Some(NewestBackup::from(&made.manifest));
    match client.control(&Request::SetBackupTarget(BackupTarget { newest, ..target })).await? {
        Reply::Done => Ok(made),
        reply => Err(unexpected(&reply).into()),
    }
}

/// Makes one backup of the site that `client`, an administrator's, is connected to.
async fn run(
    client: &Client,
    repository: &Repository,
    site: &SiteFacts,
    tell: Tell<'_>,
) -> Result<Completed, BackupError> {
    if repository.mark().await?.is_none() {
        let mark = SiteMark { site: site.site, name: site.name.clone(), created: Hlc::default() };
        repository.begin(&mark).await?;
    }
    let mut at_work = AtWork::begin(repository, client.machine.clock.clone(), Work::Backup).await?;
    let mut made = Err(BackupError::Outrun);
    for _ in 0..RUN_TRIES {
        made = try_run(client, repository, site, &mut at_work, tell).await;
        // What it has stored, or counts on, was found to be needed by nothing while it ran. Most of it is there still.
        if !matches!(made, Err(BackupError::Doomed)) {
            break;
        }
    }
    at_work.end().await;
    made
}

/// Stores the chunks that a backup would store, and makes none: the next one has less to do.
pub async fn run_chunks(client: &Client, repository: &Repository, site: &SiteFacts) -> Result<Stored, BackupError> {
    let before = repository.newest().await?;
    refuse_superseded(before.as_ref(), site)?;
    let mut at_work = AtWork::begin(repository, client.machine.clock.clone(), Work::Backup).await?;
    let gathered = async {
        let known = Known::read(repository, before.as_ref()).await?;
        gather(client, repository, site, &known, Keep::Chunks, &mut at_work, &mut |_, _| ()).await
    };
    let gathered = gathered.await;
    at_work.end().await;
    Ok(gathered?.stored)
}

/// What is stored of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Chunks and the states that name them.
    All,
    /// Chunks. The states are read only to know which there are.
    Chunks,
}

/// What was read for a backup, and is at the target now.
struct Gathered {
    cut: Hlc,
    dumps: Vec<GroupDump>,
    chunks: Chunks,
    known_chunks: u64,
    indexes: Vec<ObjectReference>,
    stored: Stored,
}

async fn gather(
    client: &Client,
    repository: &Repository,
    site: &SiteFacts,
    known: &Known,
    keep: Keep,
    at_work: &mut AtWork<'_>,
    tell: Tell<'_>,
) -> Result<Gathered, BackupError> {
    let (mut hold, cut) = Hold::begin(client).await?;
    let gathered = async {
        let mut packer = Packer::new(repository);
        let mut dumps = Vec::new();
        let mut chunks = Chunks::default();
        // The control group's last: a log that was made meanwhile is known there, and where it has no state it was not yet.
        for group in (1..=site.groups).map(GroupId).chain([GroupId::CONTROL]) {
            dumps.push(dump(client, &mut packer, &known.index, group, keep, &mut chunks, &mut hold).await?);
            at_work.renew_if_due().await?;
        }
        let known_chunks = chunks.known.len() as u64 - chunks.missing.len() as u64;
        read_chunks(client, &mut packer, &chunks, &mut hold, at_work, tell).await?;
        let (indexes, stored) = packer.finish().await?;
        Ok(Gathered { cut, dumps, chunks, known_chunks, indexes, stored })
    };
    let gathered: Result<_, BackupError> = gathered.await;
    // Everything was read, or is read no more. What is only written needs no hold.
    hold.end().await;
    gathered
}

async fn try_run(
    client: &Client,
    repository: &Repository,
    site: &SiteFacts,
    at_work: &mut AtWork<'_>,
    tell: Tell<'_>,
) -> Result<Completed, BackupError> {
    let before = repository.newest().await?;
    refuse_superseded(before.as_ref(), site)?;
    let known = Known::read(repository, before.as_ref()).await?;
    let gathered = gather(client, repository, site, &known, Keep::All, at_work, tell).await?;
    let Gathered { cut, dumps, chunks, known_chunks, indexes, stored } = gathered;
    let indexes = known.merged_with(repository, indexes).await?;
    let manifest = Manifest {
        number: 0,
        previous: [0; 32],
        site: site.site,
        name: site.name.clone(),
        incarnation: site.incarnation,
        groups: site.groups,
        geometry: site.geometry,
        certificate: site.certificate.clone(),
        authority_key: Bytes::copy_from_slice(&site.authority_key),
        cut,
        finished: Hlc::from_ms(client.machine.clock.wall_ms()),
        dumps,
        indexes,
        chunks: chunks.known.len() as u64,
        chunk_bytes: chunks.bytes,
    };
    refuse_doomed(repository, &manifest, &chunks).await?;
    let manifest = complete(repository, site, manifest, before).await?;
    repository.keep_only(&manifest.indexes);
    Ok(Completed { manifest, stored, known_chunks })
}

/// A backup must not count on what a prune that ran meanwhile will take away.
async fn refuse_doomed(repository: &Repository, manifest: &Manifest, chunks: &Chunks) -> Result<(), BackupError> {
    let doomed: BTreeSet<[u8; 16]> =
        repository.doomed().await?.into_iter().flat_map(|(_, doomed)| doomed.packs).collect();
    if doomed.is_empty() {
        return Ok(());
    }
    let index = repository.index(&manifest.indexes).await?;
    let pieces = manifest.dumps.iter().flat_map(|dump| &dump.pieces);
    for id in chunks.known.iter().map(|chunk| &chunk.0).chain(pieces) {
        let located = index.find(id).ok_or(BackupError::Lost { what: "chunk", id: *id })?;
        if doomed.contains(&located.pack) {
            return Err(BackupError::Doomed);
        }
    }
    Ok(())
}

/// A site that was restored elsewhere must not add to the backups that it was restored from.
fn refuse_superseded(newest: Option<&Found>, site: &SiteFacts) -> Result<(), BackupError> {
    match newest.map(|found| found.manifest.incarnation) {
        Some(theirs) if theirs > site.incarnation => Err(BackupError::Superseded { theirs, ours: site.incarnation }),
        _ => Ok(()),
    }
}

/// Chunks that the states refer to.
#[derive(Default)]
struct Chunks {
    known: HashSet<ChunkId>,
    bytes: u64,
    /// Those that are not at the target.
    missing: Vec<ChunkRef>,
}

impl Chunks {
    fn add(&mut self, reference: ChunkRef, index: &Index) {
        if self.known.insert(reference.chunk) {
            self.bytes += u64::from(reference.sealed_bytes);
            if !index.has(&reference.chunk.0) {
                self.missing.push(reference);
            }
        }
    }
}

/// Reads one group's state, from the start again where it was lost in the middle.
async fn dump(
    client: &Client,
    packer: &mut Packer<'_>,
    index: &Index,
    group: GroupId,
    keep: Keep,
    chunks: &mut Chunks,
    hold: &mut Hold<'_>,
) -> Result<GroupDump, BackupError> {
    for _ in 0..DUMP_TRIES {
        let mut reader = DumpReader::new(client, group);
        let mut ids = Vec::new();
        let lost = loop {
            hold.renew_if_due().await?;
            let pieces = match reader.next().await {
                Ok(pieces) if pieces.is_empty() => break false,
                Ok(pieces) => pieces,
                Err(DumpError::Lost) => break true,
                Err(DumpError::Failed(error)) => return Err(error.into()),
            };
            for piece in pieces {
                let id = *blake3::hash(&piece).as_bytes();
                let named = chunks_in(&piece, &mut |reference| chunks.add(reference, index));
                named.map_err(|error| BackupError::State(error.to_string()))?;
                ids.push(id);
                if keep == Keep::All && !index.has(&id) {
                    packer.add(EntryKind::Piece, id, piece.to_vec()).await?;
                }
            }
        };
        match (lost, reader.last) {
            (true, _) => {}
            (false, None) => return Err(BackupError::State(format!("group {group} has no log"))),
            (false, last) => return Ok(GroupDump { group, last, pieces: ids }),
        }
    }
    Err(BackupError::State(format!("group {group} changes its leader faster than its state is read")))
}

/// Reads every chunk that is not at the target.
async fn read_chunks(
    client: &Client,
    packer: &mut Packer<'_>,
    chunks: &Chunks,
    hold: &mut Hold<'_>,
    at_work: &mut AtWork<'_>,
    tell: Tell<'_>,
) -> Result<(), BackupError> {
    let read = |reference: ChunkRef| async move {
        let chunk = reference.chunk;
        let fail = |error| BackupError::Chunk { chunk, error };
        let sealed = client.get_sealed(&reference).await.map_err(fail)?;
        match *blake3::hash(&sealed).as_bytes() == chunk.0 {
            true => Ok((chunk, sealed)),
            false => Err(fail(ClientError::Failed("the site gives other bytes than its id says".into()))),
        }
    };
    let mut sealed = stream::iter(chunks.missing.iter().cloned().map(read)).buffer_unordered(CHUNKS_AT_ONCE);
    let (mut done, all) = (0, chunks.missing.len() as u64);
    while let Some(read) = sealed.next().await {
        let (chunk, sealed) = read?;
        packer.add(EntryKind::Chunk, chunk.0, sealed).await?;
        hold.renew_if_due().await?;
        at_work.renew_if_due().await?;
        done += 1;
        tell(done, all);
    }
    Ok(())
}

/// Writes the manifest under the next number; where others complete backups meanwhile, under the one after.
async fn complete(
    repository: &Repository,
    site: &SiteFacts,
    manifest: Manifest,
    mut before: Option<Found>,
) -> Result<Manifest, BackupError> {
    for _ in 0..MANIFEST_TRIES {
        let (number, previous) = before.as_ref().map_or((1, [0; 32]), |found| (found.manifest.number + 1, found.hash));
        let manifest = Manifest { number, previous, ..manifest.clone() };
        if repository.complete(&manifest).await? {
            return Ok(manifest);
        }
        before = repository.newest().await?;
        refuse_superseded(before.as_ref(), site)?;
    }
    Err(BackupError::Outrun)
}
