//! Keys of the tables: fixed-width parts, big-endian numbers, so that byte order is the order of things.

use farside_codec::ids::{BlindName, ChunkId, GroupId, LogId, OperationId, SiteId};

/// Builds a key part by part.
#[derive(Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn group(group: GroupId) -> Self {
        let mut key = Vec::with_capacity(96);
        key.extend_from_slice(&group.0.to_be_bytes());
        Self(key)
    }
    pub(super) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    pub(super) fn number(self, number: u64) -> Self {
        self.part(&number.to_be_bytes())
    }
    pub(super) fn log(self, log: LogId) -> Self {
        self.part(&log.0)
    }
    pub(super) fn name(self, name: BlindName) -> Self {
        self.part(&name.0)
    }
    pub(super) fn chunk(self, chunk: ChunkId) -> Self {
        self.part(&chunk.0)
    }
    pub(super) fn operation(self, operation: OperationId) -> Self {
        self.part(&operation.0)
    }
    pub(super) fn site(self, site: SiteId) -> Self {
        self.part(&site.0)
    }
    /// The first key after every key that begins with this one; `None` if there is none.
    pub(super) fn after_prefix(&self) -> Option<Vec<u8>> {
        let mut end = self.0.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Some(end);
            }
        }
        None
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The number in the last eight bytes of a key.
pub(super) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
