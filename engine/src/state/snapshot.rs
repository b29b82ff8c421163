//! A group's rows as a stream of pieces, and back. Each row is table (1) ‖ key length (4) ‖ key ‖ value length (4) ‖ value.

use super::database::{Database, Rows, Table, View};
use super::keys::Key;
use super::limits::{CLEAR_ROWS, DUMP_CUT_MASK, DUMP_PIECE_BYTES, PIECE_BYTES};
use super::log_group::{APPLIED, store_applied};
use bytes::Bytes;
use farside_codec::ids::GroupId;
use farside_codec::{DecodeError, Field, Reader};
use farside_raft::{Applied, SnapshotPieces, StateError};
use std::ops::Bound;

/// Key of [`Table::Meta`]: the group's rows are being replaced. What it has applied is gone until they are.
const INSTALLING: &[u8] = b"installing";

/// Where a piece ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// When it is large enough: as few as possible.
    BySize,
    /// After a row whose key says so, and with each table: a row that changes, comes or goes changes one piece, and all
    /// others are what they were.
    ByContent,
}

impl Cut {
    fn ends(self, bytes: usize, key: &[u8]) -> bool {
        match self {
            Self::BySize => bytes >= PIECE_BYTES,
            Self::ByContent => bytes >= DUMP_PIECE_BYTES || crc32fast::hash(key) & DUMP_CUT_MASK == 0,
        }
    }
}

/// Reads a group's rows out of a view.
pub(super) struct Pieces {
    view: View,
    group: GroupId,
    table: usize,
    after: Option<Vec<u8>>,
    cut: Cut,
}

impl Pieces {
    pub(super) fn new(view: View, group: GroupId, cut: Cut) -> Self {
        Self { view, group, table: 0, after: None, cut }
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
                write_row(&mut piece, table, key, value);
                let full = self.cut.ends(piece.len(), key);
                last = full.then(|| key.to_vec());
                Ok(!full)
            })?;
            if last.is_some() {
                self.after = last;
                return Ok(Some(piece.into()));
            }
            self.table += 1;
            if self.cut == Cut::ByContent && !piece.is_empty() {
                break;
            }
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

/// Drops the group's rows. The mark comes first, so that a crash in between leaves the group empty and not half full.
pub(super) fn begin(database: &Database, group: GroupId) -> Result<(), StateError> {
    let change = database.write()?;
    change.put(Table::Meta, &Key::group(group).part(INSTALLING), &[])?;
    change.remove(Table::Meta, &Key::group(group).part(APPLIED))?;
    change.commit()?;
    clear(database, group)
}

/// Empties the groups whose rows were being replaced when the file was last closed.
pub(super) fn finish_clearing(database: &Database) -> Result<(), StateError> {
    let mut marked = Vec::new();
    database.read()?.scan(Table::Meta, .., &mut |key, _| {
        if let Some((group, INSTALLING)) = key.split_first_chunk::<4>() {
            marked.push(GroupId(u32::from_be_bytes(*group)));
        }
        Ok(true)
    })?;
    for group in marked {
        clear(database, group)?;
        let change = database.write()?;
        change.remove(Table::Meta, &Key::group(group).part(INSTALLING))?;
        change.commit()?;
    }
    Ok(())
}

fn clear(database: &Database, group: GroupId) -> Result<(), StateError> {
    let (prefix, end) = bounds(group);
    for table in Table::ALL {
        loop {
            let change = database.write()?;
            let (mut keys, mut more) = (Vec::new(), false);
            change.scan(table, &prefix[..]..&end[..], &mut |key, _| {
                more = keys.len() >= CLEAR_ROWS;
                if !more && !is_mark(table, key) {
                    keys.push(key.to_vec());
                }
                Ok(!more)
            })?;
            keys.iter().try_for_each(|key| change.remove(table, key))?;
            change.commit()?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

fn is_mark(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key.get(4..) == Some(INSTALLING)
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
        if table != Table::Meta || key.get(4..) != Some(APPLIED) {
            change.put(table, &key, &value)?;
        }
    }
    change.commit()
}

/// Appends a row to a piece.
pub(super) fn write_row(piece: &mut Vec<u8>, table: Table, key: &[u8], value: &[u8]) {
    piece.push(table as u8);
    (key.len() as u32).encode(piece);
    piece.extend_from_slice(key);
    (value.len() as u32).encode(piece);
    piece.extend_from_slice(value);
}

/// Takes the next row from a piece.
pub(super) fn row(reader: &mut Reader) -> Result<(Table, Bytes, Bytes), DecodeError> {
    let number = u8::decode(reader)?;
    let table = Table::from_number(number).ok_or(DecodeError::Unknown { what: "table", value: u64::from(number) })?;
    Ok((table, Bytes::decode(reader)?, Bytes::decode(reader)?))
}

pub(super) fn finish(database: &Database, group: GroupId, applied: &Applied) -> Result<(), StateError> {
    let change = database.write()?;
    change.remove(Table::Meta, &Key::group(group).part(INSTALLING))?;
    store_applied(&change, group, applied)?;
    change.commit()?;
    database.checkpoint()
}
