//! Where each chunk and each piece of state lies, in memory. About a hundred bytes each.

use farside_codec::backup::{EntryKind, PackEntry, PackIndex};
use std::collections::{BTreeMap, HashMap};

/// A place in a pack.
#[derive(Debug, Clone, Copy)]
struct Place {
    pack: u32,
    /// The entry's place among the pack's.
    number: u32,
    offset: u32,
    sealed_bytes: u32,
    kind: EntryKind,
}

/// An entry that was found.
#[derive(Debug, Clone)]
pub struct Located {
    /// The pack.
    pub pack: [u8; 16],
    /// Its bytes.
    pub pack_bytes: u64,
    /// The entry's place among the pack's.
    pub number: u32,
    /// The entry.
    pub entry: PackEntry,
}

/// What is known of a target's packs.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<([u8; 16], u64)>,
    known: BTreeMap<[u8; 16], u32>,
    places: HashMap<[u8; 32], Place>,
}

impl Index {
    /// Takes in what a pack holds. Of two places of one thing the first one counts.
    pub fn add(&mut self, index: &PackIndex) {
        if self.known.contains_key(&index.pack) {
            return;
        }
        let pack = self.packs.len() as u32;
        self.packs.push((index.pack, index.bytes));
        self.known.insert(index.pack, pack);
        for (number, entry) in (0..).zip(&index.entries) {
            let PackEntry { kind, id, offset, sealed_bytes } = *entry;
            self.places.entry(id).or_insert(Place { pack, number, offset, sealed_bytes, kind });
        }
    }

    /// Whether something lies at the target.
    pub fn has(&self, id: &[u8; 32]) -> bool {
        self.places.contains_key(id)
    }

    /// Where something lies.
    pub fn find(&self, id: &[u8; 32]) -> Option<Located> {
        let Place { pack, number, offset, sealed_bytes, kind } = *self.places.get(id)?;
        let (pack, pack_bytes) = self.packs[pack as usize];
        Some(Located { pack, pack_bytes, number, entry: PackEntry { kind, id: *id, offset, sealed_bytes } })
    }

    /// Every pack, with its bytes.
    pub fn packs(&self) -> impl Iterator<Item = ([u8; 16], u64)> + '_ {
        self.packs.iter().copied()
    }
}
