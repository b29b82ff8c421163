//! Reads chunks and pieces back: one by one out of packs of which little is needed, whole packs where it is much.

use super::error::BackupError;
use super::index::Index;
use super::limits::{PACKS_KEPT, WHOLE_PACK_ENTRIES};
use super::repository::Repository;
use crate::state::chunks_in;
use bytes::Bytes;
use farside_codec::backup::Manifest;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

/// A pack that was read whole: its id, and what is in it.
type WholePack = ([u8; 16], HashMap<[u8; 32], Bytes>);

/// Reads pieces in order. Packs that it has read whole are kept for a while: pieces that were backed up together lie together.
pub(super) struct Reader<'a> {
    repository: &'a Repository,
    index: &'a Index,
    /// How much of each pack is needed.
    needed: BTreeMap<[u8; 16], usize>,
    kept: VecDeque<WholePack>,
}

impl<'a> Reader<'a> {
    /// For reading these.
    fn new(repository: &'a Repository, index: &'a Index, ids: impl Iterator<Item = [u8; 32]>) -> Self {
        let mut needed: BTreeMap<[u8; 16], usize> = BTreeMap::new();
        for located in ids.filter_map(|id| index.find(&id)) {
            *needed.entry(located.pack).or_default() += 1;
        }
        Self { repository, index, needed, kept: VecDeque::new() }
    }

    /// For reading the states of one backup.
    pub(super) fn of_states(repository: &'a Repository, index: &'a Index, manifest: &Manifest) -> Self {
        Self::new(repository, index, manifest.dumps.iter().flat_map(|dump| dump.pieces.iter().copied()))
    }

    /// One piece.
    pub(super) async fn read(&mut self, what: &'static str, id: &[u8; 32]) -> Result<Bytes, BackupError> {
        let located = self.index.find(id).ok_or(BackupError::Lost { what, id: *id })?;
        if self.needed.get(&located.pack).is_none_or(|needed| *needed < WHOLE_PACK_ENTRIES) {
            return Ok(self.repository.entry(&located).await?.into());
        }
        if !self.kept.iter().any(|(pack, _)| *pack == located.pack) {
            let entries = self.repository.pack(&located.pack).await?;
            let entries = entries.into_iter().map(|(entry, plain)| (entry.id, Bytes::from(plain))).collect();
            self.kept.push_back((located.pack, entries));
            while self.kept.len() > PACKS_KEPT {
                self.kept.pop_front();
            }
        }
        let kept = self.kept.iter().find(|(pack, _)| *pack == located.pack);
        kept.and_then(|(_, entries)| entries.get(id).cloned()).ok_or(BackupError::Lost { what, id: *id })
    }
}

/// Which chunks each piece of a state names. Backups share most of their pieces, and each is read once.
#[derive(Default)]
pub(super) struct States(HashMap<[u8; 32], Rc<[[u8; 32]]>>);

impl States {
    pub(super) async fn chunks(
        &mut self,
        reader: &mut Reader<'_>,
        id: &[u8; 32],
    ) -> Result<Rc<[[u8; 32]]>, BackupError> {
        if let Some(known) = self.0.get(id) {
            return Ok(known.clone());
        }
        let piece = reader.read("a piece of a group's state", id).await?;
        let mut named = Vec::new();
        let read = chunks_in(&piece, &mut |chunk| named.push(chunk.chunk.0));
        read.map_err(|error| BackupError::State(error.to_string()))?;
        named.sort_unstable();
        named.dedup();
        let named: Rc<[[u8; 32]]> = named.into();
        self.0.insert(*id, named.clone());
        Ok(named)
    }
}

/// Sorts chunks by the packs that they lie in.
pub(super) fn by_pack(index: &Index, ids: impl Iterator<Item = [u8; 32]>) -> Result<Vec<Vec<[u8; 32]>>, BackupError> {
    let mut packs: BTreeMap<[u8; 16], Vec<[u8; 32]>> = BTreeMap::new();
    for id in ids {
        let located = index.find(&id).ok_or(BackupError::Lost { what: "chunk", id })?;
        packs.entry(located.pack).or_default().push(id);
    }
    Ok(packs.into_values().collect())
}

/// Reads chunks of one pack.
pub(super) async fn read_chunks(
    repository: &Repository,
    index: &Index,
    chunks: Vec<[u8; 32]>,
) -> Result<Vec<([u8; 32], Bytes)>, BackupError> {
    let mut reader = Reader::new(repository, index, chunks.iter().copied());
    let mut read = Vec::with_capacity(chunks.len());
    for id in chunks {
        read.push((id, reader.read("chunk", &id).await?));
    }
    Ok(read)
}
