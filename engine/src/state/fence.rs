//! Changing homes: promotion here, handing over, and the fence when a higher generation is heard of from elsewhere.
//!
//! A switchover loses nothing because one delta ends the old generation and begins the next: the home places nothing
//! after it, and the site that it names is home only by having it. Until it arrives no site takes writes; whoever
//! can't wait for that promotes a site by force, as after any loss.

use super::database::Table;
use super::limits::MAX_GENERATIONS;
use super::lineage;
use super::log_group::{Done, Work, read_row, refuse};
use super::place::{delta_row, insert, take_back};
use super::queries::last_at;
use super::rows::{CursorRow, LogRow};
use super::{aside, holds, seeding};
use farside_codec::Field;
use farside_codec::command::{Fence, GroupOutcome, HandOverLog, Promote, Rewind};
use farside_codec::delta::{Branch, Cursor, Delta, DeltaKind, Generation, Proposal};
use farside_codec::ids::{BlindName, DeltaHash, EpochId, Hlc, OperationId, SiteId};
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn promote(work: &Work<'_>, promote: Promote) -> Done {
    let Some(mut row) = work.log(promote.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if promote.generation.site != work.site {
        return refuse(RefusalCode::BadRequest, "a site promotes itself and no other");
    }
    if promote.generation <= row.known {
        return match promote.generation == row.known && row.is_home(work.site) {
            true => Ok(GroupOutcome::Head(row.head)),
            false => refuse(RefusalCode::NotHome, format!("generation {} is known already", row.known)),
        };
    }
    let lease = row.lease.as_ref().filter(|lease| lease.home == row.known && lease.longest_ms > 0);
    let promised = lease.map_or(0, |lease| lease.promises);
    if promote.weighed.is_some_and(|(home, promises)| home != row.known || promised > promises) {
        return refuse(RefusalCode::Unsafe, "the log's home has just been heard of, so it is alive");
    }
    // An exact copy of a while ago is one; what came since is set aside. Where there is none, it is for people to say.
    let back = row.seeding.as_ref().map(|seeding| (seeding.whole.sequence, seeding.floor));
    let back = match back {
        Some((0, _)) if promote.weighed.is_some() => return refuse(RefusalCode::Unsafe, NOT_EXACT),
        Some((0, _)) => None,
        back => match promote.cut {
            None => back,
            Some(time) => {
                let (whole, floor) = back.unwrap_or((row.head.sequence, row.floor));
                let cut = last_at(work.change, &work.key().log(promote.log), whole, time)?;
                if cut < floor {
                    return refuse(
                        RefusalCode::Unsafe,
                        format!("versions that the log had at {cut} were pruned: it can go back to {floor} at most"),
                    );
                }
                Some((cut, floor))
            }
        },
    };
    let head = back.map_or(row.head.sequence, |(sequence, _)| sequence);
    // Generations that begin past this copy's head never came here, so this history does not have them.
    row.lineage.retain(|branch| branch.first <= head);
    if row.lineage.len() >= MAX_GENERATIONS {
        return refuse(RefusalCode::Full, TOO_MANY_HOMES);
    }
    if let Some((sequence, floor)) = back {
        row.known = promote.generation;
        rewind(work, &mut row, sequence, promote.time)?;
        row.floor = floor;
        row.closed = row.closed.min(row.head_time);
        forget_cursors_past(work, &row)?;
    } else if row.seeding.is_some() {
        row.floor = row.floor.max(head.saturating_add(1));
    }
    row.seeding = None;
    begin(work, &mut row, promote.generation, promote.time)?;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

const NOT_EXACT: &str =
    "this copy is still being made: names are missing, or have older versions than they had at any one time";
const TOO_MANY_HOMES: &str = "the log has had as many homes as it can list: go on in a new log";

/// Begins a generation of this site after the head.
pub(super) fn begin(work: &Work<'_>, row: &mut LogRow, generation: Generation, time: Hlc) -> Result<(), StateError> {
    row.lineage.push(Branch { generation, first: row.head.sequence + 1, previous: row.head.hash });
    row.known = generation;
    place_own(work, row, generation, DeltaKind::Promoted(generation), time)
}

/// Ends this home's generation. The next home must be able to list its own, or it could never take the last delta in.
pub(super) fn hand_over(work: &Work<'_>, order: HandOverLog) -> Done {
    let Some(mut row) = work.log(order.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if order.to.site == work.site {
        return refuse(RefusalCode::BadRequest, "a log is handed over to another site");
    }
    if row.in_transit_to(work.site) == Some(order.to) {
        return Ok(GroupOutcome::Head(row.head));
    }
    if !row.is_home(work.site) {
        return refuse(RefusalCode::NotHome, format!("the log's home is site {}", row.known.site));
    }
    if order.to.counter <= row.known.counter {
        return refuse(RefusalCode::BadRequest, format!("generation {} is known already", row.known));
    }
    if row.lineage.len() >= MAX_GENERATIONS {
        return refuse(RefusalCode::Full, TOO_MANY_HOMES);
    }
    let generation = row.known;
    place_own(work, &mut row, generation, DeltaKind::Switchover(order.to), order.time)?;
    row.known = order.to;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

/// The generation that is this site's from here on, if `last`, with which a delivery under `theirs` ends, hands the log
/// over to it. A home that has gone on after it under another generation has taken the log back.
pub(super) fn handed_over(site: SiteId, theirs: Generation, last: Option<&Delta>) -> Option<Generation> {
    let last = last.filter(|last| last.generation == theirs)?;
    match last.proposal.kind {
        DeltaKind::Switchover(to) if to.site == site && to.counter > theirs.counter => Some(to),
        _ => None,
    }
}

/// Places a delta of the site's own. Its operation follows from what it says, so that it is the same at every voter.
fn place_own(
    work: &Work<'_>,
    row: &mut LogRow,
    generation: Generation,
    kind: DeltaKind,
    time: Hlc,
) -> Result<(), StateError> {
    let closed = work.closed()?;
    let said = match &kind {
        // As it was before there was another kind.
        DeltaKind::Promoted(generation) => generation.to_bytes(),
        kind => kind.to_bytes(),
    };
    let mut operation = [0; 16];
    operation.copy_from_slice(&blake3::hash(&said).as_bytes()[..16]);
    let proposal = Proposal::without_chunks(OperationId(operation), kind, BlindName::default(), EpochId::default());
    let delta = Delta {
        log: row.descriptor.log,
        generation,
        sequence: row.head.sequence + 1,
        previous: row.head.hash,
        time: row.next_time(time, closed),
        closed,
        proposal,
    };
    insert(work, row, &delta, delta.to_bytes())
}

pub(super) fn fence(work: &Work<'_>, fence: Fence) -> Done {
    let Some(mut row) = work.log(fence.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if let Some(detail) = lineage::objection(&fence.lineage) {
        return refuse(RefusalCode::BadRequest, detail);
    }
    let Some(theirs) = fence.lineage.last().map(|branch| branch.generation) else {
        return refuse(RefusalCode::BadRequest, "the new home's lineage is empty");
    };
    if row.lineage == fence.lineage {
        return Ok(GroupOutcome::Head(row.head));
    }
    // What this site has handed over to has not begun as far as it knows; whoever was promoted meanwhile has.
    let begun = match (row.in_transit_to(work.site), row.lineage.last()) {
        (Some(_), Some(last)) => last.generation,
        _ => row.known,
    };
    if theirs < begun {
        return refuse(RefusalCode::NotHome, format!("generation {begun} is known here"));
    }
    if theirs.site == work.site {
        // Its deltas are elsewhere and not here: writing on would make a second history of one generation.
        return refuse(RefusalCode::Diverged, "this site was home under a generation that it has forgotten");
    }
    let (shared, common) = lineage::common_point(&row, &fence.lineage);
    let forgotten = theirs == begun && row.lineage.last().is_some_and(|last| last.generation == theirs);
    let agrees = match fence.lineage.get(shared) {
        // The new home left our history at a delta that we may hold: then it must be the same one.
        Some(branch) if branch.first == common + 1 => hash_at(work, &row, common)? == Some(branch.previous),
        _ => true,
    };
    if forgotten || !agrees {
        return refuse(RefusalCode::Diverged, "the new home's history and this copy's have no such point in common");
    }
    // Versions that the new home's history still has may be missing here.
    let lacks = common < row.floor || row.seeding.is_some();
    row.lineage = fence.lineage;
    row.known = theirs;
    row.heard = None;
    rewind(work, &mut row, common, fence.time)?;
    // The old home's promises about time were for deltas that are gone; the log's own order is all that is left.
    row.closed = row.closed.min(row.head_time);
    if lacks {
        seeding::fill_again(&mut row, common);
    }
    forget_cursors_past(work, &row)?;
    holds::forget(work, fence.log)?;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

/// Goes back to an earlier head, under a new generation: what follows is another history, and what came after is set
/// aside.
pub(super) fn rewind_to(work: &Work<'_>, order: Rewind) -> Done {
    let Some(mut row) = work.log(order.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if row.known == order.generation && row.is_home(work.site) {
        return Ok(GroupOutcome::Head(row.head));
    }
    if order.generation.site != work.site || !row.is_home(work.site) {
        return refuse(RefusalCode::NotHome, format!("the log's home is site {}", row.known.site));
    }
    if order.generation <= row.known {
        return refuse(RefusalCode::BadRequest, format!("generation {} is known already", row.known));
    }
    if order.sequence < row.floor {
        let detail =
            format!("versions that the log had at {} were pruned: go back to {} at most", order.sequence, row.floor);
        return refuse(RefusalCode::ConditionFailed, detail);
    }
    row.lineage.retain(|branch| branch.first <= order.sequence);
    if row.lineage.len() >= MAX_GENERATIONS {
        return refuse(RefusalCode::Full, TOO_MANY_HOMES);
    }
    row.known = order.generation;
    rewind(work, &mut row, order.sequence, order.time)?;
    row.closed = row.closed.min(row.head_time);
    forget_cursors_past(work, &row)?;
    begin(work, &mut row, order.generation, order.time)?;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

fn hash_at(work: &Work<'_>, row: &LogRow, sequence: u64) -> Result<Option<DeltaHash>, StateError> {
    match sequence {
        0 => Ok(Some(DeltaHash::ZERO)),
        _ => Ok(delta_row(work, row.descriptor.log, sequence)?.map(|held| held.hash)),
    }
}

/// Sets aside everything after `common`, newest first. Nothing is dropped: the deltas stay listed and exportable here,
/// and their chunks stay referenced.
fn rewind(work: &Work<'_>, row: &mut LogRow, common: u64, time: Hlc) -> Result<(), StateError> {
    let log = row.descriptor.log;
    while row.head.sequence > common {
        let sequence = row.head.sequence;
        let stored = delta_row(work, log, sequence)?.ok_or_else(seeding::gap)?;
        if stored.is_pruned() {
            seeding::drop_place(work, row, &stored)?;
        } else {
            let delta = Delta::parse(stored.encoded.clone()).map_err(StateError::Unreadable)?;
            let encoded = take_back(work, row, stored, &delta)?;
            aside::keep(work, row, &delta, encoded, time)?;
        }
        (row.head, row.head_time, row.total_bytes) = match sequence - 1 {
            0 => (Cursor { generation: row.known, sequence: 0, hash: DeltaHash::ZERO }, row.descriptor.created, 0),
            before => {
                let held = delta_row(work, log, before)?.ok_or_else(seeding::gap)?;
                let cursor = Cursor { generation: held.generation, sequence: before, hash: held.hash };
                (cursor, held.time, held.total_bytes)
            }
        };
    }
    Ok(())
}

/// A cursor past the head is a peer's place in a history that is gone from here: it says nothing any more.
fn forget_cursors_past(work: &Work<'_>, row: &LogRow) -> Result<(), StateError> {
    work.remove_where(Table::Cursors, &work.key().log(row.descriptor.log), |_, value| {
        Ok(read_row::<CursorRow>(value.to_vec())?.cursor.sequence > row.head.sequence)
    })
}
