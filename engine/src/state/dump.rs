//! A group's state for an external backup: the rows of a snapshot, cut where their content says, and what is to be known of
//! them when they are backed up or restored.

use super::control::Kind;
use super::database::Table;
use super::keys::Key;
use super::log_group::read_row;
use super::snapshot::{Cut, Pieces, row, write_row};
use super::{ControlState, LogGroupState};
use bytes::Bytes;
use farside_codec::command::SiteRecord;
use farside_codec::ids::{ChunkId, GroupId};
use farside_codec::{Field, Reader};
use farside_raft::{Applied, SnapshotPieces, StateError, StateMachine};

/// A state as of one moment: how far it has come, and its pieces.
pub type Dump = (Applied, Box<dyn SnapshotPieces>);

impl LogGroupState {
    /// The group's state as it is now, however long reading it takes.
    pub fn dump(&self) -> Result<Dump, StateError> {
        Ok((self.applied()?, Box::new(Pieces::new(self.database.read()?, self.group, Cut::ByContent))))
    }
}

impl ControlState {
    /// The control group's state as it is now, however long reading it takes.
    pub fn dump(&self) -> Result<Dump, StateError> {
        Ok((self.applied()?, Box::new(Pieces::new(self.database().read()?, GroupId::CONTROL, Cut::ByContent))))
    }
}

/// Calls `visit` with each chunk that the rows of a piece refer to. One that several deltas name comes several times.
pub fn references_in(piece: &Bytes, visit: &mut dyn FnMut(ChunkId)) -> Result<(), StateError> {
    let mut reader = Reader::new(piece.clone());
    while reader.remaining() > 0 {
        let (table, key, _) = row(&mut reader).map_err(StateError::Unreadable)?;
        let chunk = key.get(4..).and_then(|rest| rest.first_chunk::<32>()).filter(|_| table == Table::References);
        chunk.into_iter().for_each(|chunk| visit(ChunkId(*chunk)));
    }
    Ok(())
}

/// The rows of the control group's state as they are at a site that was restored: without its nodes and what was given to
/// them, without tokens and backups under way, and with the site's new incarnation.
pub fn restored_control(piece: &Bytes, incarnation: u64) -> Result<Bytes, StateError> {
    let mut reader = Reader::new(piece.clone());
    let mut restored = Vec::with_capacity(piece.len());
    while reader.remaining() > 0 {
        let (table, key, mut value) = row(&mut reader).map_err(StateError::Unreadable)?;
        if table == Table::Control {
            let kind = key.get(Key::group(GroupId::CONTROL).len()).copied().unwrap_or_default();
            let of_nodes = [Kind::Node, Kind::Group, Kind::Attempt, Kind::Token, Kind::BackupHold];
            if of_nodes.into_iter().any(|gone| gone as u8 == kind) {
                continue;
            }
            if kind == Kind::Site as u8 {
                let site: SiteRecord = read_row(value.to_vec())?;
                value = SiteRecord { incarnation, ..site }.to_bytes();
            }
        }
        write_row(&mut restored, table, &key, &value);
    }
    Ok(restored.into())
}
