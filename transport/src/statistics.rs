//! What an endpoint counts: who was turned away and why, and what arrived broken.
//!
//! The counters are atomics although a shard has one thread, because status is read from another one and must answer
//! when the shard is stuck.

use crate::rejection::Rejection;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of one endpoint, shared by its connections and streams.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    connected: AtomicU64,
    refused: [AtomicU64; Rejection::COUNT],
    corrupt_frames: AtomicU64,
    foreign_frames: AtomicU64,
    stalled: AtomicU64,
    oversized_frames: AtomicU64,
}

impl Counters {
    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Relaxed);
    }
    pub(crate) fn refused(&self, rejection: Rejection) {
        self.refused[rejection.index()].fetch_add(1, Relaxed);
    }
    pub(crate) fn corrupt_frame(&self) {
        self.corrupt_frames.fetch_add(1, Relaxed);
    }
    pub(crate) fn foreign_frame(&self) {
        self.foreign_frames.fetch_add(1, Relaxed);
    }
    pub(crate) fn stalled(&self) {
        self.stalled.fetch_add(1, Relaxed);
    }
    pub(crate) fn oversized_frame(&self) {
        self.oversized_frames.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Statistics {
        Statistics {
            connected: self.connected.load(Relaxed),
            refused: Rejection::ALL.map(|rejection| (rejection, self.refused[rejection.index()].load(Relaxed))),
            corrupt_frames: self.corrupt_frames.load(Relaxed),
            foreign_frames: self.foreign_frames.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
            oversized_frames: self.oversized_frames.load(Relaxed),
        }
    }
}

/// What a connection has carried since it was made. Whoever is waited for shows by it that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Datagrams that came from the other end.
    pub datagrams_received: u64,
    /// Bytes of datagrams, both ways.
    pub bytes: u64,
}

/// What an endpoint has counted since it was bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// Connections made, in and out.
    pub connected: u64,
    /// Connections refused by either end, by reason.
    pub refused: [(Rejection, u64); Rejection::COUNT],
    /// Frames that broke the format.
    pub corrupt_frames: u64,
    /// Frames of another kind or another stream than was due: out of order, spliced or replayed.
    pub foreign_frames: u64,
    /// Streams given up because nothing moved, replies that did not come in time among them.
    pub stalled: u64,
    /// Requests, replies and bodies of this end that were not sent because no frame may be so large.
    pub oversized_frames: u64,
}

impl Statistics {
    /// Connections refused for one reason.
    pub fn refused_for(&self, rejection: Rejection) -> u64 {
        self.refused[rejection.index()].1
    }
}
