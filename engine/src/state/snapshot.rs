//! A group's rows as a stream of pieces, and back. Each row is table (1) ‖ key length (4) ‖ key ‖ value length (4) ‖ value.

use super::database::{Database, Rows, Table, View};
use super::keys::Key;
use super::log_group::store_applied;
use bytes::Bytes;
use farside_codec::ids::GroupId;
use farside_codec::{DecodeError, Field, Reader};
use farside_raft::{Applied, SnapshotPieces, StateError};
use std::ops::Bound;

/// A piece ends with the row that brings it here; a row is below 1 MiB, so a piece stays below 4 MiB.
const PIECE_BYTES: usize = 3 << 20;
/// Rows deleted in one transaction while a state is replaced.
const DELETE_ROWS: usize = 4096;

/// Reads a group's rows out of a view.
pub(super) struct Pieces {
    view: View,
    group: GroupId,
    table: usize,
    after: Option<Vec<u8>>,
}

impl Pieces {
    pub(super) fn new(view: View, group: GroupId) -> Self {
        Self { view, group, table: 0, after: None }
    }
}

fn bounds(group: GroupId) -> (Key, Vec<u8>) {
    let prefix = Key::group(group);
    let end = prefix.after_prefix().unwrap_or_default();
    (prefix, end)
}

impl SnapshotPieces for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>, StateError> {
        let mut piece = Vec::new();
        let (prefix, end) = bounds(self.group);
        while let Some(table) = Table::ALL.get(self.table).copied() {
            let after = self.after.take();
            let start = after.as_deref().map_or(Bound::Included(&prefix[..]), Bound::Excluded);
            let mut last = None;
            self.view.scan(table, (start, Bound::Excluded(&end[..])), &mut |key, value| {
                piece.push(table as u8);
                (key.len() as u32).encode(&mut piece);
                piece.extend_from_slice(key);
                (value.len() as u32).encode(&mut piece);
                piece.extend_from_slice(value);
                let full = piece.len() >= PIECE_BYTES;
                last = full.then(|| key.to_vec());
                Ok(!full)
            })?;
            if last.is_some() {
                self.after = last;
                return Ok(Some(piece.into()));
            }
            self.table += 1;
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// Drops the group's rows, what it has applied first, so that a crash leaves it empty and not half full.
pub(super) fn begin(database: &Database, group: GroupId) -> Result<(), StateError> {
    let (prefix, end) = bounds(group);
    for table in Table::ALL {
        loop {
            let change = database.write()?;
            let mut keys = Vec::new();
            change.scan(table, &prefix[..]..&end[..], &mut |key, _| {
                keys.push(key.to_vec());
                Ok(keys.len() < DELETE_ROWS)
            })?;
            keys.iter().try_for_each(|key| change.remove(table, key))?;
            change.commit()?;
            if keys.len() < DELETE_ROWS {
                break;
            }
        }
    }
    Ok(())
}

pub(super) fn piece(database: &Database, group: GroupId, piece: Bytes) -> Result<(), StateError> {
    let change = database.write()?;
    let mut reader = Reader::new(piece);
    let prefix = Key::group(group);
    while reader.remaining() > 0 {
        let (table, key, value) = row(&mut reader).map_err(StateError::Unreadable)?;
        if !key.starts_with(&prefix) {
            return Err(StateError::Unreadable(DecodeError::Invalid { what: "group of a snapshot's row" }));
        }
        // What was applied is stored last, by `finish`.
        if table != Table::Meta || !key.ends_with(b"applied") {
            change.put(table, &key, &value)?;
        }
    }
    change.commit()
}

fn row(reader: &mut Reader) -> Result<(Table, Bytes, Bytes), DecodeError> {
    let number = u8::decode(reader)?;
    let table = Table::from_number(number).ok_or(DecodeError::Unknown { what: "table", value: u64::from(number) })?;
    Ok((table, Bytes::decode(reader)?, Bytes::decode(reader)?))
}

pub(super) fn finish(database: &Database, group: GroupId, applied: &Applied) -> Result<(), StateError> {
    let change = database.write()?;
    store_applied(&change, group, applied)?;
    change.commit()?;
    database.checkpoint()
}
