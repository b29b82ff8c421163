//! Changing homes: promotion here, and the fence when a higher generation is heard of from elsewhere.

use super::database::Table;
use super::log_group::{Done, Work, refuse};
use super::place::{delta_row, insert, take_back};
use super::rows::LogRow;
use farside_codec::Field;
use farside_codec::command::{Fence, GroupOutcome, Promote};
use farside_codec::delta::{Branch, Cursor, Delta, DeltaKind, Lineage, Proposal};
use farside_codec::ids::{BlindName, DeltaHash, EpochId, OperationId};
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn promote(work: &Work<'_>, promote: Promote) -> Done {
    let Some(mut row) = work.log(promote.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if promote.generation <= row.known {
        return match promote.generation == row.known
            && row.lineage.last().is_some_and(|last| last.generation == row.known)
        {
            true => Ok(GroupOutcome::Head(row.head)),
            false => refuse(RefusalCode::NotHome, format!("generation {} is known already", row.known)),
        };
    }
    let first = row.head.sequence + 1;
    row.lineage.push(Branch { generation: promote.generation, first, previous: row.head.hash });
    row.known = promote.generation;
    let delta = Delta {
        log: promote.log,
        generation: promote.generation,
        sequence: first,
        previous: row.head.hash,
        time: promote.time.max(row.head_time.next()),
        closed: work.closed()?,
        proposal: promoted(&promote),
    };
    insert(work, &mut row, &delta, delta.to_bytes())?;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

/// The first delta of a generation. Its operation follows from the generation, so that it is the same at every voter.
fn promoted(promote: &Promote) -> Proposal {
    let mut operation = [0; 16];
    operation.copy_from_slice(&blake3::hash(&promote.generation.to_bytes()).as_bytes()[..16]);
    Proposal {
        operation: OperationId(operation),
        kind: DeltaKind::Promoted(promote.generation),
        name: BlindName::default(),
        key_epoch: EpochId::default(),
        gc_epoch: u64::MAX,
        placement_epoch: 0,
        condition: None,
        size_bytes: 0,
        chunks: Vec::new(),
        extent: None,
        payload: Default::default(),
        inline: Default::default(),
    }
}

pub(super) fn fence(work: &Work<'_>, fence: Fence) -> Done {
    let Some(mut row) = work.log(fence.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    let Some(theirs) = fence.lineage.last().map(|branch| branch.generation) else {
        return refuse(RefusalCode::BadRequest, "the new home's lineage is empty");
    };
    if theirs < row.known {
        return refuse(RefusalCode::NotHome, format!("generation {} is known here", row.known));
    }
    let (shared, common) = common_point(&row, &fence.lineage);
    let agrees = match fence.lineage.get(shared) {
        // The new home left our history at a delta that we may hold: then it must be the same one.
        Some(branch) if branch.first == common + 1 => hash_at(work, &row, common)? == Some(branch.previous),
        _ => true,
    };
    if !agrees || (shared == 0 && common > 0) {
        return refuse(RefusalCode::Diverged, "the new home's history and this copy's have no such point in common");
    }
    rewind(work, &mut row, common)?;
    row.lineage.truncate(shared);
    if let Some(branch) = fence.lineage.get(shared).filter(|branch| branch.first == common + 1) {
        row.lineage.push(branch.clone());
    }
    row.known = theirs;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

/// How many branches the two lineages share, and the last sequence that both histories have.
fn common_point(row: &LogRow, theirs: &Lineage) -> (usize, u64) {
    let shared = row.lineage.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    let end = |lineage: &Lineage| lineage.get(shared).map_or(u64::MAX, |branch| branch.first - 1);
    (shared, row.head.sequence.min(end(&row.lineage)).min(end(theirs)))
}

fn hash_at(work: &Work<'_>, row: &LogRow, sequence: u64) -> Result<Option<DeltaHash>, StateError> {
    match sequence {
        0 => Ok(Some(DeltaHash::ZERO)),
        _ => Ok(delta_row(work, row.descriptor.log, sequence)?.map(|held| held.hash)),
    }
}

/// Sets aside everything after `common`, newest first. Nothing is dropped: the deltas stay listed and exportable here,
/// and their chunks stay referenced.
fn rewind(work: &Work<'_>, row: &mut LogRow, common: u64) -> Result<(), StateError> {
    let log = row.descriptor.log;
    while row.head.sequence > common {
        let sequence = row.head.sequence;
        let Some(stored) = delta_row(work, log, sequence)? else {
            return Err(StateError::Unreadable(farside_codec::DecodeError::Invalid { what: "gap in a log" }));
        };
        let delta = Delta::parse(stored.encoded.clone()).map_err(StateError::Unreadable)?;
        let encoded = take_back(work, row, stored, &delta)?;
        let key = work.key().log(log).number(delta.generation.counter).number(sequence);
        work.change.put(Table::Aside, &key, &encoded)?;
        for chunk in &delta.proposal.chunks {
            work.change.put(
                Table::References,
                &work.key().chunk(chunk.chunk).log(log).number(aside_mark(sequence)),
                &[],
            )?;
        }
        row.aside += 1;
        (row.head, row.head_time, row.total_bytes) = match sequence - 1 {
            0 => (Cursor { generation: row.known, sequence: 0, hash: DeltaHash::ZERO }, row.descriptor.created, 0),
            before => match delta_row(work, log, before)? {
                None => {
                    return Err(StateError::Unreadable(farside_codec::DecodeError::Invalid { what: "gap in a log" }));
                }
                Some(held) => {
                    let cursor = Cursor { generation: held.generation, sequence: before, hash: held.hash };
                    (cursor, held.time, held.total_bytes)
                }
            },
        };
    }
    Ok(())
}

/// A reference from a delta that was set aside: the highest bit tells it from one of the log's own at that sequence.
fn aside_mark(sequence: u64) -> u64 {
    sequence | 1 << 63
}
