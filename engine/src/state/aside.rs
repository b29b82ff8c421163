//! What a change of home undid and set aside: kept, found, and let go of when an administrator says so.
//!
//! Invariants: nothing goes by itself; each delta that is set aside keeps its own references to its chunks, so that one
//! can go while another of the same place in another generation stays.

use super::database::{Rows, Table};
use super::keys::Key;
use super::limits::DISCARD_BYTES;
use super::log_group::{Done, LogGroupState, Work, read_row, refuse};
use super::rows::{AsideRow, LogRow};
use bytes::Bytes;
use farside_codec::aside::{AsideDelta, AsideDeltas};
use farside_codec::command::{DiscardAside, GroupOutcome};
use farside_codec::delta::{Cursor, Delta, DeltaKind, Generation};
use farside_codec::ids::{Hlc, LogId};
use farside_codec::message::RefusalCode;
use farside_codec::{DecodeError, Field};
use farside_raft::StateError;

/// The highest bit tells a reference from a delta that was set aside from one of the log's own at that sequence.
const MARK: u64 = 1 << 63;

fn of(key: Key, generation: Generation) -> Key {
    key.number(generation.counter).site(generation.site).number(generation.incarnation)
}

fn references(work: &Work<'_>, delta: &Delta) -> Vec<Key> {
    let chunks = delta.proposal.chunks.iter();
    let key = |chunk| of(work.key().chunk(chunk).log(delta.log).number(delta.sequence | MARK), delta.generation);
    chunks.map(|reference| key(reference.chunk)).collect()
}

/// Sets a delta aside that was taken out of its place.
pub(super) fn keep(
    work: &Work<'_>,
    row: &mut LogRow,
    delta: &Delta,
    encoded: Bytes,
    time: Hlc,
) -> Result<(), StateError> {
    let key = of(work.key().log(delta.log), delta.generation).number(delta.sequence);
    if work.change.get(Table::Aside, &key)?.is_none() {
        work.change.put(Table::Aside, &key, &AsideRow { time, by: row.known, encoded }.to_bytes())?;
        row.aside += 1;
    }
    references(work, delta).iter().try_for_each(|key| work.change.put(Table::References, key, &[]))
}

/// Lets go of what was set aside.
pub(super) fn discard(work: &Work<'_>, discard: &DiscardAside) -> Done {
    let Some(mut log) = work.log(discard.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if log.aside != discard.expected {
        let (there, said) = (log.aside, discard.expected);
        let detail =
            format!("{there} deltas are set aside, not {said}: look at what they are before they are let go of");
        return refuse(RefusalCode::Unsafe, detail);
    }
    let prefix = work.key().log(discard.log);
    let end = prefix.after_prefix().unwrap_or_default();
    let (mut found, mut bytes) = (Vec::new(), 0);
    work.change.scan(Table::Aside, &prefix[..]..&end[..], &mut |key, value| {
        let goes_on = found.len() < discard.limit as usize && bytes < DISCARD_BYTES;
        if goes_on {
            let row: AsideRow = read_row(value.to_vec())?;
            bytes += row.encoded.len();
            found.push((key.to_vec(), row));
        }
        Ok(goes_on)
    })?;
    for (key, row) in &found {
        let delta = Delta::parse(row.encoded.clone()).map_err(StateError::Unreadable)?;
        references(work, &delta).iter().try_for_each(|key| work.change.remove(Table::References, key))?;
        work.change.remove(Table::Aside, key)?;
    }
    let gone = StateError::Unreadable(DecodeError::Invalid { what: "count of deltas set aside" });
    log.aside = log.aside.checked_sub(found.len() as u64).ok_or(gone)?;
    work.put_log(&log)?;
    Ok(GroupOutcome::Pruned(found.len() as u32))
}

impl LogGroupState {
    /// Deltas set aside, in order of generation and sequence, after `after`; at most `limit` of them and about `bytes`.
    pub fn set_aside(
        &self,
        log: LogId,
        after: Option<&Cursor>,
        limit: usize,
        bytes: usize,
    ) -> Result<AsideDeltas, StateError> {
        let prefix = self.key(log);
        let end = prefix.after_prefix().unwrap_or_default();
        let start = match after {
            Some(after) => of(prefix, after.generation).number(after.sequence.saturating_add(1)),
            None => prefix,
        };
        let view = self.database.read()?;
        let (mut deltas, mut more, mut size) = (Vec::new(), false, 0);
        view.scan(Table::Aside, &start[..]..&end[..], &mut |_, value| {
            more = deltas.len() >= limit || size >= bytes;
            if more {
                return Ok(false);
            }
            let AsideRow { time, by, encoded } = read_row(value.to_vec())?;
            let delta = Delta::parse(encoded.clone()).map_err(StateError::Unreadable)?;
            let mut extents = Vec::new();
            if let (DeltaKind::Put, Some(extent)) = (&delta.proposal.kind, &delta.proposal.extent) {
                for index in 0..extent.index {
                    // Those after the first that was undone were undone as well.
                    let Some(kept) = self.extent(&view, log, extent.object, index)? else { break };
                    extents.push(kept);
                }
            }
            size += encoded.len() + extents.iter().map(Bytes::len).sum::<usize>();
            // With its earlier parts it may belong on the next page: an answer is one frame.
            more = size > bytes && !deltas.is_empty();
            if !more {
                let cursor =
                    Cursor { generation: delta.generation, sequence: delta.sequence, hash: Delta::hash(&encoded) };
                deltas.push(AsideDelta { delta: encoded, cursor, extents, time, by });
            }
            Ok(!more)
        })?;
        Ok(AsideDeltas { deltas, more })
    }
}
