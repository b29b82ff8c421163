//! Dropping versions that were replaced or removed before the history horizon. The hash chain stays whole: a pruned
//! delta keeps its row without its bytes.

use super::database::{Rows, Table};
use super::keys::last_number;
use super::log_group::{Done, Work};
use super::place::delta_row;
use farside_codec::Field;
use farside_codec::command::{GroupOutcome, Prune};
use farside_codec::delta::{Delta, DeltaKind};
use farside_raft::StateError;

pub(super) fn apply(work: &Work<'_>, prune: Prune) -> Done {
    let first = work.key().log(prune.log).number(0);
    let last = work.key().log(prune.log).number(prune.horizon.0);
    let mut dead = Vec::new();
    work.change.scan(Table::Dead, &first[..]..&last[..], &mut |key, _| {
        if last_number(key) < prune.below {
            dead.push(key.to_vec());
        }
        Ok(dead.len() < prune.limit as usize)
    })?;
    for key in &dead {
        drop_version(work, &prune, last_number(key))?;
        work.change.remove(Table::Dead, key)?;
    }
    Ok(GroupOutcome::Pruned(dead.len() as u32))
}

fn drop_version(work: &Work<'_>, prune: &Prune, sequence: u64) -> Result<(), StateError> {
    let Some(mut row) = delta_row(work, prune.log, sequence)?.filter(|row| !row.encoded.is_empty()) else {
        return Ok(());
    };
    let delta = Delta::parse(std::mem::take(&mut row.encoded)).map_err(StateError::Unreadable)?;
    for chunk in &delta.proposal.chunks {
        work.change.remove(Table::References, &work.key().chunk(chunk.chunk).log(prune.log).number(sequence))?;
    }
    work.change.remove(Table::Names, &work.key().log(prune.log).name(delta.proposal.name).number(sequence))?;
    work.change.put(Table::Deltas, &work.key().log(prune.log).number(sequence), &row.to_bytes())?;
    if let (DeltaKind::Put, Some(extent)) = (&delta.proposal.kind, &delta.proposal.extent) {
        for index in 0..extent.index {
            let key = work.key().log(prune.log).operation(extent.object).number(u64::from(index));
            if let Some(bytes) = work.change.get(Table::Extents, &key)? {
                work.change.remove(Table::Extents, &key)?;
                drop_version(work, prune, u64::from_bytes(bytes.into()).map_err(StateError::Unreadable)?)?;
            }
        }
    }
    Ok(())
}
