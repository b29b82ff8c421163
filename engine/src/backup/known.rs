//! What lies at the target already when a backup begins: what the newest one names, and what interrupted ones have left, without
//! what is doomed.

use super::error::BackupError;
use super::index::Index;
use super::limits::{INDEX_ENTRIES, SMALL_INDEX_BYTES, SMALL_INDEXES};
use super::repository::{Found, Repository};
use farside_codec::backup::{ObjectReference, PackIndex};
use std::collections::BTreeSet;

/// What a backup need not store again.
pub(super) struct Known {
    pub(super) index: Index,
    /// Indexes to be named by the next manifest.
    kept: Vec<ObjectReference>,
    /// Indexes to be written anew, since they name packs that are doomed.
    stale: Vec<ObjectReference>,
    doomed: BTreeSet<[u8; 16]>,
}

impl Known {
    pub(super) async fn read(repository: &Repository, before: Option<&Found>) -> Result<Self, BackupError> {
        let doomed = repository.doomed().await?;
        let gone: BTreeSet<&String> = doomed.iter().flat_map(|(_, doomed)| &doomed.indexes).collect();
        let packs = doomed.iter().flat_map(|(_, doomed)| doomed.packs.iter().copied()).collect();
        let mut known = Self { index: Index::default(), kept: Vec::new(), stale: Vec::new(), doomed: packs };
        let named = before.map(|found| found.manifest.indexes.clone()).unwrap_or_default();
        let names: BTreeSet<String> = named.iter().map(|reference| reference.name.clone()).collect();
        for reference in named {
            let packs = repository.packs_of(&reference).await?;
            known.take(reference, &packs);
        }
        let left = repository.indexes().await?.into_iter();
        for name in left.filter(|name| !names.contains(name) && !gone.contains(name)) {
            match repository.read_index(&name).await {
                Ok((reference, packs)) => known.take(reference, &packs),
                // It is no use, and nothing needs it.
                Err(error) => tracing::warn!(%error, name, "an index that no backup needs can't be read"),
            }
        }
        Ok(known)
    }

    fn take(&mut self, reference: ObjectReference, packs: &[PackIndex]) {
        let (gone, there): (Vec<_>, Vec<_>) = packs.iter().partition(|pack| self.doomed.contains(&pack.pack));
        there.into_iter().for_each(|pack| self.index.add(pack));
        let list = if gone.is_empty() { &mut self.kept } else { &mut self.stale };
        list.push(reference);
    }

    /// The indexes of the next manifest: these and more, where many small ones become one.
    pub(super) async fn merged_with(
        self,
        repository: &Repository,
        more: Vec<ObjectReference>,
    ) -> Result<Vec<ObjectReference>, BackupError> {
        let all = self.kept.into_iter().chain(more);
        let (mut small, mut kept): (Vec<_>, Vec<_>) = all.partition(|reference| reference.bytes < SMALL_INDEX_BYTES);
        if self.stale.is_empty() && small.len() <= SMALL_INDEXES {
            kept.extend(small);
            return Ok(kept);
        }
        small.extend(self.stale);
        let (mut packs, mut entries): (Vec<PackIndex>, usize) = (Vec::new(), 0);
        for reference in &small {
            let read = repository.packs_of(reference).await?;
            for pack in read.into_iter().filter(|pack| !self.doomed.contains(&pack.pack)) {
                if entries >= INDEX_ENTRIES {
                    kept.push(repository.put_index(&packs).await?);
                    packs.clear();
                    entries = 0;
                }
                entries += pack.entries.len();
                packs.push(pack);
            }
        }
        if !packs.is_empty() {
            kept.push(repository.put_index(&packs).await?);
        }
        Ok(kept)
    }
}
