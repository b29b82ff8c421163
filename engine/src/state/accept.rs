//! Accepting what the home placed: only what continues this copy's head, on the home's own lineage, bytes unchanged.

use super::log_group::{Done, Work, refuse};
use super::place::{delta_row, insert};
use super::rows::LogRow;
use bytes::Bytes;
use farside_codec::command::{AcceptDeltas, GroupOutcome};
use farside_codec::delta::{Branch, Cursor, Delta, Lineage};
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn apply(work: &Work<'_>, accept: AcceptDeltas) -> Done {
    let Some(mut row) = work.log(accept.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    let Some(theirs) = accept.lineage.last().map(|branch| branch.generation) else {
        return refuse(RefusalCode::BadRequest, "the sender's lineage is empty");
    };
    if theirs < row.known {
        return refuse(RefusalCode::NotHome, format!("the log's home is site {}", row.known.site));
    }
    if row.known.site == work.site && theirs != row.known {
        return refuse(RefusalCode::Diverged, "this site was home and must be fenced before it takes a copy's place");
    }
    let checked = match check(work, &row, &accept)? {
        Ok(checked) => checked,
        Err((code, detail)) => return refuse(code, detail),
    };
    row.known = theirs;
    for (delta, encoded) in checked {
        if let Some(branch) = branch_beginning(&accept.lineage, &delta) {
            row.lineage.retain(|known| known.first < branch.first || known == branch);
            if row.lineage.last() != Some(branch) {
                row.lineage.push(branch.clone());
            }
        }
        insert(work, &mut row, &delta, encoded)?;
    }
    row.heard = Some((accept.head, accept.head_time));
    work.set_closed(accept.closed)?;
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

fn branch_beginning<'a>(lineage: &'a Lineage, delta: &Delta) -> Option<&'a Branch> {
    lineage.iter().find(|branch| branch.first == delta.sequence && branch.generation == delta.generation)
}

type Objection = (RefusalCode, String);

/// Reads and checks every delta before the first is inserted: a refused command changes nothing.
fn check(
    work: &Work<'_>,
    row: &LogRow,
    accept: &AcceptDeltas,
) -> Result<Result<Vec<(Delta, Bytes)>, Objection>, StateError> {
    let mut head: Cursor = row.head.clone();
    let mut time = row.head_time;
    let mut checked = Vec::with_capacity(accept.deltas.len());
    for encoded in &accept.deltas {
        let delta = match Delta::parse(encoded.clone()) {
            Ok(delta) if delta.log == accept.log => delta,
            Ok(_) => return Ok(Err((RefusalCode::BadRequest, "a delta belongs to another log".into()))),
            Err(error) => return Ok(Err((RefusalCode::BadRequest, format!("a delta can't be read: {error}")))),
        };
        let hash = Delta::hash(encoded);
        if delta.sequence <= row.head.sequence {
            // Delivered before, or another history.
            match delta_row(work, accept.log, delta.sequence)? {
                Some(held) if held.hash == hash => continue,
                _ => return Ok(Err((RefusalCode::Diverged, format!("delta {} is another one here", delta.sequence)))),
            }
        }
        if delta.sequence != head.sequence + 1 || delta.previous != head.hash {
            let detail = format!("delta {} does not continue this copy's head {}", delta.sequence, head.sequence);
            return Ok(Err((RefusalCode::Diverged, detail)));
        }
        let branch = accept.lineage.iter().rev().find(|branch| branch.first <= delta.sequence);
        if branch.is_none_or(|branch| branch.generation != delta.generation) || delta.time <= time && head.sequence > 0
        {
            return Ok(Err((RefusalCode::BadRequest, format!("delta {} is not of its lineage", delta.sequence))));
        }
        time = delta.time;
        head = Cursor { generation: delta.generation, sequence: delta.sequence, hash };
        checked.push((delta, encoded.clone()));
    }
    Ok(Ok(checked))
}
