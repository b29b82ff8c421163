//! What the store has promised, chunk by chunk, and whether a promise binds under the harm done so far.
//!
//! A receipt promises that the chunk survives so many losses of devices. A device counts as lost for a chunk if harm
//! came to it since the chunk was first written, or if it can't be used now; not if it was out when the receipt was
//! made and has brought back nothing of the chunk since, for then it holds nothing that was counted.

use farside_codec::delta::ChunkReceipt;
use farside_codec::ids::ChunkId;
use std::rc::Rc;

/// A set of devices, a bit each.
pub(crate) type Devices = u32;

/// What is known of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never offered to the store.
    New,
    /// Offered and not acknowledged, or deleted in an earlier life: it may be here or not.
    Unknown,
    /// Acknowledged.
    Promised {
        losses: usize,
        /// Devices that were out when it was acknowledged, and have not come back with something of it.
        absent: Devices,
    },
    /// Deleted in this life: it is not here.
    Deleted,
}

pub(crate) struct Chunk {
    pub(crate) id: ChunkId,
    pub(crate) data: Rc<Vec<u8>>,
    pub(crate) standing: Standing,
    /// When the oldest of its fragments that may still count were first written.
    pub(crate) since: u64,
    /// When it was first offered at all; deleted since, it may still lie on a device that was away.
    pub(crate) born: u64,
    /// Rises with every deletion.
    pub(crate) deletions: u64,
    /// Puts under way in this life; one whose caller went away may be under way for ever.
    pub(crate) puts: u32,
    /// Epoch in which it was touched in this life, at least.
    pub(crate) touched: u64,
}

/// The bytes of a chunk: random, so that nothing is right by accident.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let entropy = farside_io::entropy::SeededEntropy::new(seed);
    let mut out = vec![0; length];
    farside_io::entropy::Entropy::fill(&entropy, &mut out);
    out
}

impl Chunk {
    pub(crate) fn new(seed: u64, length: usize) -> Self {
        let data = bytes(seed, length);
        let id = ChunkId(*blake3::hash(&data).as_bytes());
        Self { id, data: Rc::new(data), standing: Standing::New, since: 0, born: 0, deletions: 0, puts: 0, touched: 0 }
    }

    /// The store is offered the chunk at `now`.
    pub(crate) fn offered(&mut self, now: u64) {
        self.puts += 1;
        self.born = if self.standing == Standing::New { now } else { self.born };
        match self.standing {
            Standing::New | Standing::Deleted => (self.standing, self.since) = (Standing::Unknown, now),
            Standing::Unknown | Standing::Promised { .. } => {}
        }
    }

    /// The store answered for the chunk, while these devices were out.
    pub(crate) fn acknowledged(&mut self, receipt: &ChunkReceipt, absent: Devices) {
        let losses = usize::from(receipt.durable_fragments - receipt.data_fragments);
        self.touched = self.touched.max(receipt.gc_epoch);
        if !matches!(self.standing, Standing::Promised { .. }) {
            self.standing = Standing::Promised { losses, absent };
        }
    }

    pub(crate) fn deleted(&mut self) {
        // A put under way goes on, and may store it again.
        self.standing = if self.puts > 0 { Standing::Unknown } else { Standing::Deleted };
        self.deletions += 1;
    }

    /// Whether its promise binds while these devices are lost to it.
    pub(crate) fn is_bound(&self, lost: Devices) -> bool {
        match self.standing {
            Standing::Promised { losses, absent } => (lost & !absent).count_ones() as usize <= losses,
            _ => false,
        }
    }

    /// A new life begins: what was deleted may be back. So may fragments of an earlier life, on devices of `back` that
    /// were out when the chunk was acknowledged: those count as well as any, so it is a loss when such a one goes again.
    pub(crate) fn restarted(&mut self, back: Devices) {
        (self.touched, self.puts) = (0, 0);
        match &mut self.standing {
            Standing::Deleted => self.standing = Standing::Unknown,
            Standing::Promised { absent, .. } => *absent &= !back,
            Standing::New | Standing::Unknown => {}
        }
    }
}
