//! The replicated state: every command in order. And a shelf for its snapshots.

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::delta::ChunkRef;
use farside_codec::ids::{ChunkId, GroupId};
use farside_raft::{Applied, SnapshotError, SnapshotPieces, SnapshotStore, StateError, StateMachine};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// What every node applied, by place: two that differ are the end of everything.
#[derive(Default, Clone)]
pub(crate) struct Truth(Rc<RefCell<Vec<u64>>>);

impl Truth {
    fn applied(&self, place: usize, command: u64) {
        let mut known = self.0.borrow_mut();
        match known.get(place) {
            Some(other) => assert_eq!(*other, command, "two commands were applied at place {place}"),
            None => {
                assert_eq!(known.len(), place, "a place was left out");
                known.push(command);
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<u64> {
        self.0.borrow().clone()
    }
}

/// Remembers every command, in order; answers each with its place.
#[derive(Default, Clone)]
pub(crate) struct Ledger {
    pub(crate) commands: Vec<u64>,
    applied: Applied,
    truth: Truth,
}

impl Ledger {
    pub(crate) fn new(truth: &Truth) -> Self {
        Self { truth: truth.clone(), ..Self::default() }
    }

    fn push(&mut self, command: &Bytes) -> Result<u64, StateError> {
        // A command is a number and filling.
        let number = u64::from_bytes(command.slice(..8)).map_err(StateError::Unreadable)?;
        self.truth.applied(self.commands.len(), number);
        self.commands.push(number);
        Ok(self.commands.len() as u64 - 1)
    }
}

struct Pieces(Vec<Bytes>);

impl SnapshotPieces for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.pop())
    }
}

impl StateMachine for Ledger {
    fn applied(&self) -> Result<Applied, StateError> {
        Ok(self.applied.clone())
    }
    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError> {
        self.applied = applied.clone();
        commands.iter().map(|command| Ok(self.push(command)?.to_bytes())).collect()
    }
    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError> {
        // Several pieces, the last one first.
        let pieces = self.commands.chunks(40).map(|part| part.to_vec().to_bytes());
        Ok(Box::new(Pieces(pieces.rev().collect())))
    }
    fn install_begin(&mut self) -> Result<(), StateError> {
        *self = Self::new(&self.truth);
        Ok(())
    }
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError> {
        let commands: Vec<u64> = Vec::from_bytes(piece).map_err(StateError::Unreadable)?;
        commands.iter().try_for_each(|command| self.push(&command.to_bytes()).map(drop))
    }
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError> {
        self.applied = applied.clone();
        Ok(())
    }
}

/// A node's snapshots, as the engine keeps them: once a newer one is kept, the pieces of the one before are gone.
#[derive(Default)]
struct Pile {
    pieces: HashMap<ChunkId, Bytes>,
    kept: Vec<ChunkId>,
    made: u32,
}

/// A node's snapshots, on something that forgets nothing by itself.
#[derive(Default, Clone)]
pub(crate) struct Shelf(Rc<RefCell<Pile>>);

impl SnapshotStore for Shelf {
    fn put(&self, _: GroupId, piece: Bytes) -> LocalBoxFuture<'_, Result<ChunkRef, SnapshotError>> {
        Box::pin(async move {
            let number = {
                let mut pile = self.0.borrow_mut();
                pile.made += 1;
                pile.made
            };
            // Some take so long that another snapshot overtakes this one.
            let slow = number.wrapping_mul(2_654_435_761) >> 24;
            tokio::time::sleep(Duration::from_millis(if slow < 32 { 400 } else { u64::from(slow) / 16 })).await;
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            let reference = ChunkRef { chunk: ChunkId(id), sealed_bytes: piece.len() as u32 };
            self.0.borrow_mut().pieces.insert(reference.chunk, piece);
            Ok(reference)
        })
    }

    fn get<'a>(&'a self, piece: &'a ChunkRef) -> LocalBoxFuture<'a, Result<Bytes, SnapshotError>> {
        let found = self.0.borrow().pieces.get(&piece.chunk).cloned();
        Box::pin(std::future::ready(found.ok_or_else(|| SnapshotError("no such piece".into()))))
    }

    fn keep(&self, _: GroupId, pieces: &[ChunkRef]) {
        let mut pile = self.0.borrow_mut();
        let kept: Vec<ChunkId> = pieces.iter().map(|piece| piece.chunk).collect();
        let gone: Vec<ChunkId> = pile.kept.iter().filter(|chunk| !kept.contains(chunk)).copied().collect();
        gone.iter().for_each(|chunk| drop(pile.pieces.remove(chunk)));
        pile.kept = kept;
    }

    fn give_up(&self, _: GroupId, pieces: &[ChunkRef]) {
        // Every piece that is put is another one.
        pieces.iter().for_each(|piece| drop(self.0.borrow_mut().pieces.remove(&piece.chunk)));
    }
}
