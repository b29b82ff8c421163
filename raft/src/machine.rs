//! What a group replicates: a state machine of the caller's, and where its snapshots are kept.

use bytes::Bytes;
use farside_codec::delta::ChunkRef;
use farside_codec::record::wal::{LogPosition, StoredMembership};
use futures_util::future::LocalBoxFuture;

/// How far a state machine has come. It stores this with its state, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; `None` before the first.
    pub last: Option<LogPosition>,
    /// The voters as of then.
    pub membership: StoredMembership,
}

impl Default for Applied {
    fn default() -> Self {
        let membership = farside_codec::record::wal::Membership { configurations: Vec::new(), nodes: Vec::new() };
        Self { last: None, membership: StoredMembership { position: None, membership } }
    }
}

/// Why a state machine can't go on. It stops its group on this node; nothing is lost.
#[derive(Debug)]
pub enum StateError {
    /// What it stored is damaged; it can be rebuilt from snapshot and log.
    Damaged(Box<dyn std::error::Error + Send + Sync>),
    /// The operating system or the store refused.
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// A committed command or a snapshot's piece can't be read: written by a newer version, or a fault of ours.
    Unreadable(farside_codec::DecodeError),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(error) => write!(f, "the state is damaged: {error}"),
            Self::Store(error) => write!(f, "the state's store refused: {error}"),
            Self::Unreadable(error) => write!(f, "a committed record can't be read: {error}"),
        }
    }
}

impl std::error::Error for StateError {}

/// The pieces of a consistent view, in order.
pub trait SnapshotPieces {
    /// The next one, of up to 4 MiB; `None` after the last.
    fn next_piece(&mut self) -> Result<Option<Bytes>, StateError>;
}

/// A replicated state machine. Equal commands in equal order give equal states and equal outcomes.
pub trait StateMachine: 'static {
    /// How far it has come.
    fn applied(&self) -> Result<Applied, StateError>;

    /// Applies commands in order and stores `applied` with what they did. Need not be durable: the log is.
    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError>;

    /// A consistent view of everything applied so far, however long reading it takes.
    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError>;

    /// Begins to replace the state: it counts as empty until `install_finish`.
    fn install_begin(&mut self) -> Result<(), StateError>;

    /// Takes in one piece.
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError>;

    /// Ends it: the state is the snapshot's.
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError>;
}

/// Why a piece of a snapshot can't be kept or read.
#[derive(Debug)]
pub struct SnapshotError(pub Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a piece of a snapshot: {}", self.0)
    }
}

impl std::error::Error for SnapshotError {}

/// Where snapshots are kept: as erasure-coded chunks.
pub trait SnapshotStore: 'static {
    /// Keeps a piece of one group's next snapshot, durably, and until [`SnapshotStore::keep`] is called for the group, or
    /// [`SnapshotStore::give_up`] as often as it was put. One that could not be kept need not be given up.
    fn put(
        &self,
        group: farside_codec::ids::GroupId,
        piece: Bytes,
    ) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>>;
    /// Reads one.
    fn get<'a>(&'a self, piece: &'a ChunkRef) -> LocalBoxFuture<'a, Result<Bytes, SnapshotError>>;
    /// Says which pieces are needed from now on, of one group; all others of it may go.
    fn keep(&self, group: farside_codec::ids::GroupId, pieces: &[ChunkRef]);
    /// Says that these pieces were put for a snapshot that will never be whole: what they take is free at once, so that
    /// one that did not fit is not in the way of the next.
    fn give_up(&self, group: farside_codec::ids::GroupId, pieces: &[ChunkRef]);
}
