//! A group's state for an external backup: the rows of a snapshot, cut where their content says, and what is to be known of
//! them when they are backed up or restored.

use super::control::Kind;
use super::database::Table;
use super::keys::Key;
use super::log_group::read_row;
use super::rows::{AsideRow, DeltaRow, LogRow};
use super::snapshot::{Cut, Pieces, row, write_row};
use super::{ControlState, LogGroupState};
use bytes::Bytes;
use farside_codec::command::SiteRecord;
use farside_codec::delta::{ChunkRef, Delta};
use farside_codec::ids::{GroupId, Label, LogId};
use farside_codec::message::Tenant;
use farside_codec::{Field, Reader};
use farside_raft::{Applied, SnapshotPieces, StateError, StateMachine};
use std::collections::BTreeSet;

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

/// What is restored of a backup, where that is not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tenant.
    pub tenant: Label,
    /// Its log; all of them otherwise.
    pub log: Option<Label>,
}

/// `T`, or `T/L`.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.log {
            Some(log) => write!(f, "{}/{log}", self.tenant),
            None => write!(f, "{}", self.tenant),
        }
    }
}

/// Calls `visit` with each log of a part of a site whose state begins in a piece. Answers whether others may begin in the
/// next one: logs come before everything that is in them.
pub fn logs_of_part(piece: &Bytes, part: &Part, visit: &mut dyn FnMut(LogId)) -> Result<bool, StateError> {
    let mut reader = Reader::new(piece.clone());
    while reader.remaining() > 0 {
        let (table, _, value) = row(&mut reader).map_err(StateError::Unreadable)?;
        match table {
            Table::Meta => {}
            Table::Logs => {
                let LogRow { descriptor, .. } = read_row(value.to_vec())?;
                if descriptor.tenant_name == part.tenant && part.log.as_ref().is_none_or(|log| *log == descriptor.name)
                {
                    visit(descriptor.log);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The rows of a group's state without those of other logs than these, and without what peers have of them.
pub fn rows_of_part(piece: &Bytes, logs: &BTreeSet<LogId>) -> Result<Bytes, StateError> {
    let mut reader = Reader::new(piece.clone());
    let mut kept = Vec::with_capacity(piece.len());
    while reader.remaining() > 0 {
        let (table, key, value) = row(&mut reader).map_err(StateError::Unreadable)?;
        let place = match table {
            Table::Meta | Table::Control | Table::Audit => None,
            Table::Cursors | Table::Holds => continue,
            Table::References => Some(4 + 32),
            _ => Some(4),
        };
        let log = place.map(|place| key.get(place..).and_then(|rest| rest.first_chunk::<16>()).map(|log| LogId(*log)));
        if log.is_none_or(|log| log.is_some_and(|log| logs.contains(&log))) {
            write_row(&mut kept, table, &key, &value);
        }
    }
    Ok(kept.into())
}

/// Calls `visit` with each chunk that the deltas in a piece name, those that were set aside among them. One that several
/// name comes several times.
pub fn chunks_in(piece: &Bytes, visit: &mut dyn FnMut(ChunkRef)) -> Result<(), StateError> {
    let mut reader = Reader::new(piece.clone());
    while reader.remaining() > 0 {
        let (table, _, value) = row(&mut reader).map_err(StateError::Unreadable)?;
        let encoded = match table {
            Table::Deltas => DeltaRow::from_bytes(value).map(|row| row.encoded),
            Table::Aside => AsideRow::from_bytes(value).map(|row| row.encoded),
            _ => continue,
        };
        let encoded = encoded.map_err(StateError::Unreadable)?;
        // A delta whose version was pruned keeps its place, and names nothing any more.
        if !encoded.is_empty() {
            let delta = Delta::parse(encoded).map_err(StateError::Unreadable)?;
            delta.proposal.chunks.into_iter().for_each(&mut *visit);
        }
    }
    Ok(())
}

/// Calls `visit` with each log whose state begins in a piece.
pub fn logs_in(piece: &Bytes, visit: &mut dyn FnMut(LogId)) -> Result<(), StateError> {
    let mut reader = Reader::new(piece.clone());
    while reader.remaining() > 0 {
        let (table, key, _) = row(&mut reader).map_err(StateError::Unreadable)?;
        let log = key.get(4..).and_then(|rest| rest.first_chunk::<16>()).filter(|_| table == Table::Logs);
        log.into_iter().for_each(|log| visit(LogId(*log)));
    }
    Ok(())
}

/// The rows of the control group's state as they are at a site that was restored: without its nodes and what was given to
/// them, without tokens and backups under way, without logs that no group has a state of, and with the site's new incarnation.
/// Of a part of a site there are no other tenants either, and it knows neither peers nor targets: the site that it was
/// taken from may well go on.
pub fn restored_control(
    piece: &Bytes,
    incarnation: u64,
    logs: &BTreeSet<LogId>,
    part: Option<&Part>,
) -> Result<Bytes, StateError> {
    let mut reader = Reader::new(piece.clone());
    let mut restored = Vec::with_capacity(piece.len());
    while reader.remaining() > 0 {
        let (table, key, mut value) = row(&mut reader).map_err(StateError::Unreadable)?;
        if table == Table::Control {
            let kind = key.get(Key::group(GroupId::CONTROL).len()).copied().unwrap_or_default();
            let mut of_nodes = vec![Kind::Node, Kind::Group, Kind::Attempt, Kind::Token, Kind::BackupHold];
            // How chunks are cut is said by whoever restores, and by the manifest where nobody says it.
            of_nodes.extend([Kind::NodeStanding, Kind::Geometry]);
            if of_nodes.into_iter().any(|gone| gone as u8 == kind) {
                continue;
            }
            let of_others = [Kind::Peer, Kind::PeerTold, Kind::PeerAuthorities, Kind::PeerLimits, Kind::BackupTarget];
            if part.is_some() && of_others.into_iter().any(|gone| gone as u8 == kind) {
                continue;
            }
            if let Some(part) = part.filter(|_| kind == Kind::Tenant as u8) {
                let tenant: Tenant = read_row(value.to_vec())?;
                if tenant.name != part.tenant {
                    continue;
                }
            }
            let log = key.last_chunk::<16>().filter(|_| kind == Kind::Log as u8).map(|log| LogId(*log));
            if log.is_some_and(|log| !logs.contains(&log)) {
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
