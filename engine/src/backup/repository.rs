//! What lies at a target: the mark of its site, manifests, indexes, packs.
//!
//! ```text
//! site                         whose backups these are
//! manifests/0000000000000001   one a backup, counted
//! indexes/HEX                  where things lie
//! packs/HH/HEX                 chunks and pieces of state
//! doomed/HEX                   what no backup needs, and that goes in a while
//! workers/HEX                  who is at work
//! ```

use super::error::BackupError;
use super::index::{Index, Located};
use super::limits::{MAX_MANIFESTS, READ_TRIES, WORKER_LIFE};
use super::target::{Target, TargetError};
use crate::whole_file;
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::backup::{
    BackupError as FormatError, BackupKey, Doomed, MAX_OBJECT_BYTES, MAX_PACK_BYTES, Manifest, ObjectKind,
    ObjectReference, PackEntry, PackIndex, SealedPack, SiteMark, Work, Worker, open_entry, open_object, read_pack,
    seal_object,
};
use farside_codec::ids::{Hlc, SiteId, hex};
use farside_io::entropy::{Entropy, random};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const SITE: &str = "site";
const MANIFESTS: &str = "manifests/";
const INDEXES: &str = "indexes/";
const DOOMED: &str = "doomed/";
const WORKERS: &str = "workers/";

/// A manifest, and the hash that the next one names.
#[derive(Debug, Clone)]
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// BLAKE3 of its bytes at the target.
    pub hash: [u8; 32],
}

/// A target, opened with the key of one site.
pub struct Repository {
    target: Target,
    key: BackupKey,
    entropy: Rc<dyn Entropy>,
    /// Where indexes are kept that were read once; they are sealed there as well.
    cache: Option<PathBuf>,
}

fn manifest_name(number: u64) -> String {
    format!("{MANIFESTS}{number:016}")
}

/// Keeps a copy of an index. Without it the next backup reads a little more.
fn keep(path: &Path, bytes: &[u8]) {
    let kept = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = kept.and_then(|()| whole_file::write(path, 0o600, bytes)) {
        tracing::info!(%error, path = %path.display(), "an index is not kept here");
    }
}

impl Repository {
    /// The backups of `site` at a target.
    pub fn new(target: Target, system_key: &[u8; 32], site: SiteId, entropy: Rc<dyn Entropy>) -> Self {
        Self { target, key: BackupKey::new(system_key, site), entropy, cache: None }
    }

    /// Keeps indexes that were read in this directory.
    pub fn cached_in(self, directory: PathBuf) -> Self {
        Self { cache: Some(directory), ..self }
    }

    /// The target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn key(&self) -> &BackupKey {
        &self.key
    }

    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        random(self.entropy.as_ref())
    }

    /// Whose backups lie there; `None` where there are none.
    pub async fn mark(&self) -> Result<Option<SiteMark>, BackupError> {
        match self.read(ObjectKind::Site, SITE).await {
            Ok((mark, _)) => Ok(Some(mark)),
            Err(BackupError::Target(TargetError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Refuses a target at which no backups lie.
    pub async fn require_mark(&self) -> Result<(), BackupError> {
        self.mark().await?.map(drop).ok_or(BackupError::NoBackup)
    }

    /// Begins to keep the backups of a site there.
    pub async fn begin(&self, mark: &SiteMark) -> Result<(), BackupError> {
        let sealed = seal_object(&self.key, ObjectKind::Site, SITE, mark, self.random());
        match self.target.put_new(SITE, vec![sealed]).await {
            // Somebody was there just before: whose key that is shows when it is opened.
            Err(TargetError::Exists { .. }) => self.mark().await.map(drop),
            put => Ok(put?),
        }
    }

    /// The numbers of all backups, oldest first.
    pub async fn numbers(&self) -> Result<Vec<u64>, BackupError> {
        let listed = self.target.list(MANIFESTS).await?;
        let number = |name: &str| name.strip_prefix(MANIFESTS).filter(|digits| digits.len() == 16)?.parse().ok();
        Ok(listed.iter().filter_map(|listed| number(&listed.name)).take(MAX_MANIFESTS).collect())
    }

    /// One backup's manifest.
    pub async fn manifest(&self, number: u64) -> Result<Found, BackupError> {
        match self.read::<Manifest>(ObjectKind::Manifest, &manifest_name(number)).await {
            Ok((manifest, hash)) if manifest.number == number => Ok(Found { manifest, hash }),
            Ok(_) => Err(self.damaged(&manifest_name(number))),
            Err(BackupError::Target(TargetError::NotFound { .. })) => Err(BackupError::NoSuchBackup(number)),
            Err(error) => Err(error),
        }
    }

    /// The newest backup's manifest.
    pub async fn newest(&self) -> Result<Option<Found>, BackupError> {
        match self.numbers().await?.last() {
            Some(number) => self.manifest(*number).await.map(Some),
            None => Ok(None),
        }
    }

    /// Completes a backup. `false`: somebody else has completed one under this number.
    pub async fn complete(&self, manifest: &Manifest) -> Result<bool, BackupError> {
        let name = manifest_name(manifest.number);
        let sealed = seal_object(&self.key, ObjectKind::Manifest, &name, manifest, self.random());
        match self.target.put_new(&name, vec![sealed]).await {
            Err(TargetError::Exists { .. }) => Ok(false),
            put => Ok(put.map(|()| true)?),
        }
    }

    /// Everything that the indexes of a manifest name.
    pub async fn index(&self, indexes: &[ObjectReference]) -> Result<Index, BackupError> {
        let mut index = Index::default();
        for reference in indexes {
            self.packs_of(reference).await?.iter().for_each(|pack| index.add(pack));
        }
        Ok(index)
    }

    /// What one index names.
    pub(super) async fn packs_of(&self, reference: &ObjectReference) -> Result<Vec<PackIndex>, BackupError> {
        match self.read_index(&reference.name).await? {
            (found, packs) if found == *reference => Ok(packs),
            _ => Err(self.damaged(&reference.name)),
        }
    }

    /// Reads an index, which nobody ever changes: what was read once is kept here, sealed as it was, and opens under its own
    /// name only.
    pub(super) async fn read_index(&self, name: &str) -> Result<(ObjectReference, Vec<PackIndex>), BackupError> {
        let path = self.cache.as_ref().map(|directory| directory.join(name.replace('/', "-")));
        let cached = path.as_ref().and_then(|path| std::fs::read(path).ok());
        let opened = cached.and_then(|bytes| {
            let packs = open_object(&self.key, ObjectKind::Index, name, &bytes).ok()?;
            Some((packs, Bytes::from(bytes)))
        });
        let (packs, bytes) = match opened {
            Some(found) => found,
            None => {
                let (packs, bytes) = self.read_bytes(ObjectKind::Index, name).await?;
                path.iter().for_each(|path| keep(path, &bytes));
                (packs, bytes)
            }
        };
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok((ObjectReference { name: name.to_owned(), bytes: bytes.len() as u64, hash }, packs))
    }

    /// Keeps no other indexes here than these.
    pub(super) fn keep_only(&self, indexes: &[ObjectReference]) {
        let Some(Ok(kept)) = self.cache.as_ref().map(std::fs::read_dir) else { return };
        let names: Vec<String> = indexes.iter().map(|reference| reference.name.replace('/', "-")).collect();
        for entry in kept.flatten().filter(|entry| !names.iter().any(|name| entry.file_name() == name.as_str())) {
            // It costs some room until the next backup.
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// Names of indexes that lie there, whether a manifest needs them or not.
    pub(super) async fn indexes(&self) -> Result<Vec<String>, BackupError> {
        Ok(self.target.list(INDEXES).await?.into_iter().map(|listed| listed.name).collect())
    }

    /// Writes an index of packs that are durable.
    pub(super) async fn put_index(&self, packs: &Vec<PackIndex>) -> Result<ObjectReference, BackupError> {
        let name = self.random_name(INDEXES);
        let sealed = seal_object(&self.key, ObjectKind::Index, &name, packs, self.random());
        let (bytes, hash) = (sealed.len() as u64, *blake3::hash(&sealed).as_bytes());
        self.target.put_new(&name, vec![sealed]).await?;
        Ok(ObjectReference { name, bytes, hash })
    }

    /// Reads one entry of a pack, until it is what its id says.
    pub(super) async fn entry(&self, at: &Located) -> Result<Vec<u8>, BackupError> {
        let name = SealedPack::name(&at.pack);
        let (offset, length) = (u64::from(at.entry.offset), u64::from(at.entry.sealed_bytes));
        let read = async || self.target.get_range(&name, offset, length).await;
        let opened = until_good(read, |sealed| open_entry(&self.key, &at.pack, at.number, &at.entry, sealed)).await?;
        opened.map_err(|error| BackupError::Damaged { name, error })
    }

    /// Reads a whole pack, until all of it opens.
    pub(super) async fn pack(&self, pack: &[u8; 16]) -> Result<Vec<(PackEntry, Vec<u8>)>, BackupError> {
        let name = SealedPack::name(pack);
        let read = async || self.target.get(&name, MAX_PACK_BYTES as u64).await;
        let open = |bytes: &Bytes| {
            let mut read = Vec::new();
            read_pack(&self.key, pack, bytes, &mut |entry, plain| read.push((entry.clone(), plain)))?;
            Ok(read)
        };
        until_good(read, open).await?.map_err(|error| BackupError::Damaged { name, error })
    }

    /// Lengths of all packs that lie there.
    pub(super) async fn packs(&self) -> Result<BTreeMap<[u8; 16], u64>, BackupError> {
        let listed = self.target.list("packs/").await?;
        Ok(listed.iter().filter_map(|listed| Some((SealedPack::id_of(&listed.name)?, listed.bytes))).collect())
    }

    /// What is written down as doomed, by name.
    pub(super) async fn doomed(&self) -> Result<Vec<(String, Doomed)>, BackupError> {
        let mut doomed = Vec::new();
        for listed in self.target.list(DOOMED).await? {
            match self.read(ObjectKind::Doomed, &listed.name).await {
                Ok((record, _)) => doomed.push((listed.name, record)),
                // Somebody prunes as well.
                Err(BackupError::Target(TargetError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(doomed)
    }

    pub(super) async fn put_doomed(&self, doomed: &Doomed) -> Result<(), BackupError> {
        let name = self.random_name(DOOMED);
        let sealed = seal_object(&self.key, ObjectKind::Doomed, &name, doomed, self.random());
        Ok(self.target.put_new(&name, vec![sealed]).await?)
    }

    /// Says that somebody is at work. Answers the name of what says so.
    pub(super) async fn begin_work(&self, work: Work, now: Hlc) -> Result<String, BackupError> {
        let name = self.random_name(WORKERS);
        let worker = Worker { time: now, work };
        let sealed = seal_object(&self.key, ObjectKind::Worker, &name, &worker, self.random());
        self.target.put_new(&name, vec![sealed]).await?;
        Ok(name)
    }

    /// What others are at. Who has said nothing for long has ended without a word.
    pub(super) async fn workers(&self, now: Hlc) -> Result<Vec<Work>, BackupError> {
        let mut workers = Vec::new();
        for listed in self.target.list(WORKERS).await? {
            match self.read::<Worker>(ObjectKind::Worker, &listed.name).await {
                Ok((worker, _)) if now.ms().saturating_sub(worker.time.ms()) > WORKER_LIFE.as_millis() as u64 => {
                    self.remove(&listed.name).await?;
                }
                Ok((worker, _)) => workers.push(worker.work),
                Err(BackupError::Target(TargetError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(workers)
    }

    /// Removes an object; one that is gone already is no error.
    pub(super) async fn remove(&self, name: &str) -> Result<(), BackupError> {
        Ok(self.target.delete(name).await?)
    }

    pub(super) async fn remove_manifest(&self, number: u64) -> Result<(), BackupError> {
        self.remove(&manifest_name(number)).await
    }

    fn random_name(&self, folder: &str) -> String {
        let id: [u8; 16] = self.random();
        format!("{folder}{}", hex(&id))
    }

    fn damaged(&self, name: &str) -> BackupError {
        BackupError::Damaged { name: name.to_owned(), error: FormatError::Contents }
    }

    async fn read<R: Field>(&self, kind: ObjectKind, name: &str) -> Result<(R, [u8; 32]), BackupError> {
        let (record, bytes) = self.read_bytes(kind, name).await?;
        Ok((record, *blake3::hash(&bytes).as_bytes()))
    }

    /// Reads a small object, until it opens. The site's mark that does not is another key's.
    async fn read_bytes<R: Field>(&self, kind: ObjectKind, name: &str) -> Result<(R, Bytes), BackupError> {
        let read = async || self.target.get(name, MAX_OBJECT_BYTES as u64).await;
        let open = |bytes: &Bytes| Ok((open_object(&self.key, kind, name, bytes)?, bytes.clone()));
        until_good(read, open).await?.map_err(|error| match (kind, &error) {
            (ObjectKind::Site, FormatError::NotAuthentic) => BackupError::WrongKey,
            _ => BackupError::Damaged { name: name.to_owned(), error },
        })
    }
}

/// Reads something until it opens. A store or a network may damage what it delivers; what is damaged at the target stays so.
async fn until_good<T>(
    read: impl AsyncFn() -> Result<Bytes, TargetError>,
    open: impl Fn(&Bytes) -> Result<T, FormatError>,
) -> Result<Result<T, FormatError>, TargetError> {
    let mut opened = open(&read().await?);
    for _ in 1..READ_TRIES {
        if opened.is_ok() {
            break;
        }
        opened = open(&read().await?);
    }
    Ok(opened)
}
