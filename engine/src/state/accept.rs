//! Accepting what the home placed: only what continues this copy's head, on the home's own lineage, bytes unchanged.

use super::limits::{MAX_EPOCHS_BYTES, MAX_GENERATIONS};
use super::lineage;
use super::log_group::{Done, Work, refuse};
use super::place::{bytes_of, delta_row, insert};
use super::rows::{Lease, LogRow};
use super::{fence, seeding};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::{AcceptDeltas, CloseTime, GroupOutcome};
use farside_codec::delta::{Cursor, Delta, DeltaKind, Generation, PrunedDelta};
use farside_codec::ids::Hlc;
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn apply(work: &Work<'_>, accept: AcceptDeltas) -> Done {
    let Some(mut row) = work.log(accept.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if let Some(detail) = lineage::objection(&accept.lineage) {
        return refuse(RefusalCode::BadRequest, detail);
    }
    if !accept.policy.is_bounded() {
        return refuse(RefusalCode::BadRequest, "the log's policy names more sites than there can be");
    }
    let Some(theirs) = accept.lineage.last().map(|branch| branch.generation) else {
        return refuse(RefusalCode::BadRequest, "the sender's lineage is empty");
    };
    if theirs < row.known {
        return refuse(RefusalCode::NotHome, format!("the log's home is site {}", row.known.site));
    }
    if row.known.site == work.site || theirs.site == work.site {
        return refuse(RefusalCode::Diverged, "this site was home and must be fenced before it takes a copy's place");
    }
    if !lineage::continues(&row, &accept.lineage) {
        return refuse(RefusalCode::Diverged, "this copy is not a beginning of the sender's history");
    }
    if theirs != row.known {
        // What the home before has promised about time was of its own deltas.
        row.closed = row.closed.min(row.head_time);
    }
    if seeding::leads_elsewhere(&row, &accept.lineage) {
        // The sender learns from the position that it is to begin again.
        let head = row.head.sequence;
        take_policy(&mut row, theirs, &accept);
        (row.known, row.lineage) = (theirs, accept.lineage);
        seeding::fill_again(&mut row, head);
        work.put_log(&row)?;
        return Ok(GroupOutcome::Head(row.head));
    }
    let given = match given(&accept) {
        Ok(given) => given,
        Err((code, detail)) => return refuse(code, detail),
    };
    let reached = given.first().zip(given.last()).map(|(first, last)| (first.sequence(), last.sequence()));
    let checked = match check(work, &row, &accept, given)? {
        Ok(checked) => checked,
        Err((code, detail)) => return refuse(code, detail),
    };
    // A switchover's last delta and what it brings about are one step: with it this site is home.
    let last = checked.last().and_then(|(given, _)| match given {
        Given::Whole(delta, _) => Some(delta),
        Given::Pruned(_) => None,
    });
    let own = fence::handed_over(work.site, theirs, last);
    if own.is_some() && last.is_some_and(|last| last.sequence < row.floor.max(accept.floor)) {
        return refuse(RefusalCode::Diverged, "the log is handed over to a copy that is not an exact one");
    }
    if own.is_some() && accept.lineage.len() >= MAX_GENERATIONS {
        return refuse(RefusalCode::BadRequest, "the log is handed over and can list no further home");
    }
    take_policy(&mut row, theirs, &accept);
    row.known = theirs;
    row.lineage = accept.lineage;
    for (given, place) in checked {
        match (given, place) {
            (Given::Whole(delta, encoded), Place::Next) => {
                row.closed = row.closed.max(delta.closed);
                insert(work, &mut row, &delta, encoded)?;
            }
            (Given::Whole(delta, encoded), Place::Hole(_)) => seeding::fill(work, &mut row, &delta, encoded)?,
            (Given::Pruned(pruned), Place::Next) => seeding::take(work, &mut row, &pruned, accept.floor)?,
            // Neither has it any more.
            (Given::Pruned(pruned), Place::Hole(time)) => {
                row.floor = row.floor.max(accept.floor);
                seeding::take_left(work, &mut row, pruned.cursor.sequence, time, &pruned.left)?;
            }
        }
    }
    seeding::came(work, &mut row, reached)?;
    // Pipelined deliveries may be committed out of order; what was heard never falls back.
    let place = |head: &Cursor| (head.generation, head.sequence);
    if row.heard.as_ref().is_none_or(|(heard, _)| place(heard) <= place(&accept.head)) {
        row.heard = Some((accept.head.clone(), accept.head_time));
    }
    if row.head.hash == accept.head.hash {
        // The sender's closed time says nothing about deltas of its that are not here yet.
        row.closed = row.closed.max(accept.closed);
    }
    if let Some(own) = own {
        let time = row.head_time;
        fence::begin(work, &mut row, own, time)?;
    }
    work.put_log(&row)?;
    Ok(GroupOutcome::Head(row.head))
}

/// Closes time. What homes say of copies counts where they are where it was said of, and under that generation.
pub(super) fn close(work: &Work<'_>, time: &CloseTime) -> Done {
    for said in &time.copies {
        let Some(mut row) = work.log(said.log)? else { continue };
        let holds = row.known == said.generation && row.head.hash == said.head && row.seeding.is_none();
        if holds && said.closed > row.closed {
            row.closed = said.closed;
            work.put_log(&row)?;
        }
    }
    work.set_closed(time.closed).map(|()| GroupOutcome::Done)
}

/// Goes by the home's policy, and promises it what it asks for where that policy has a lease. Pipelined deliveries may be
/// committed out of order: a policy that the home has changed since is not taken any more, a promise is made all the same.
fn take_policy(row: &mut LogRow, home: Generation, accept: &AcceptDeltas) {
    if home > row.known || accept.policy_version >= row.descriptor.policy_version {
        row.descriptor.policy = accept.policy.clone();
        row.descriptor.policy_version = accept.policy_version;
    }
    // The count goes on from home to home: by it a leader knows whether it has taken note of the last promise.
    let (before, longest_ms, promises) = match &row.lease {
        Some(lease) if lease.home == home => (true, lease.longest_ms, lease.promises),
        Some(lease) => (true, 0, lease.promises),
        None => (false, 0, 0),
    };
    if row.descriptor.policy.home_lease_seconds == 0 {
        // The home goes on without.
        row.lease = before.then_some(Lease { home, longest_ms: 0, promises });
    } else if accept.lease_ms > 0 {
        let longest_ms = longest_ms.max(accept.lease_ms);
        row.lease = Some(Lease { home, longest_ms, promises: promises.saturating_add(1) });
    }
}

type Objection = (RefusalCode, String);

/// One of what was delivered.
enum Given {
    Whole(Delta, Bytes),
    Pruned(PrunedDelta),
}

/// Where it goes.
enum Place {
    /// After the head.
    Next,
    /// Where this copy has pruned it, and is filled up again; it is of this time.
    Hole(Hlc),
}

impl Given {
    fn sequence(&self) -> u64 {
        match self {
            Self::Whole(delta, _) => delta.sequence,
            Self::Pruned(pruned) => pruned.cursor.sequence,
        }
    }
}

/// What was delivered, in order.
fn given(accept: &AcceptDeltas) -> Result<Vec<Given>, Objection> {
    let bad = |detail: String| Err((RefusalCode::BadRequest, detail));
    let mut given = Vec::with_capacity(accept.deltas.len() + accept.pruned.len());
    let mut pruned = accept.pruned.iter().peekable();
    for encoded in &accept.deltas {
        let delta = match Delta::parse(encoded.clone()) {
            Ok(delta) if delta.log == accept.log => delta,
            Ok(_) => return bad("a delta belongs to another log".into()),
            Err(error) => return bad(format!("a delta can't be read: {error}")),
        };
        while let Some(before) = pruned.next_if(|pruned| pruned.cursor.sequence < delta.sequence) {
            given.push(Given::Pruned(before.clone()));
        }
        given.push(Given::Whole(delta, encoded.clone()));
    }
    given.extend(pruned.cloned().map(Given::Pruned));
    match given.windows(2).all(|pair| pair[0].sequence().checked_add(1) == Some(pair[1].sequence())) {
        true => Ok(given),
        false => Err((RefusalCode::Diverged, "what was delivered leaves gaps".into())),
    }
}

fn impossible(sequence: u64) -> Objection {
    (RefusalCode::BadRequest, format!("delta {sequence} is pruned, and that can't be"))
}

/// Checks everything before the first is inserted: a refused command changes nothing.
fn check(
    work: &Work<'_>,
    row: &LogRow,
    accept: &AcceptDeltas,
    given: Vec<Given>,
) -> Result<Result<Vec<(Given, Place)>, Objection>, StateError> {
    let mut head: Cursor = row.head.clone();
    let (mut time, mut total_bytes) = (row.head_time, row.total_bytes);
    let mut epochs = row.epochs.clone();
    let filled = row.seeding.as_ref().and_then(|seeding| Some((seeding.whole.sequence, seeding.filled.as_ref()?)));
    if let (Some((_, filled)), Some(first)) = (filled, given.first())
        && first.sequence() > filled.sequence + 1
    {
        let detail = format!("this copy is filled up from delta {} on", filled.sequence);
        return Ok(Err((RefusalCode::Diverged, detail)));
    }
    if !accept.pruned.is_empty() && accept.floor > accept.head.sequence {
        return Ok(Err((RefusalCode::BadRequest, "more is pruned than there is".into())));
    }
    let mut checked = Vec::new();
    for given in given {
        let (cursor, at, previous) = match &given {
            Given::Whole(delta, encoded) => {
                let hash = Delta::hash(encoded);
                let cursor = Cursor { generation: delta.generation, sequence: delta.sequence, hash };
                (cursor, delta.time, Some(delta.previous))
            }
            // What it continued went with it; the next delta says whether it is the one.
            Given::Pruned(pruned) => (pruned.cursor.clone(), pruned.time, None),
        };
        let sequence = cursor.sequence;
        if sequence <= row.head.sequence {
            // Delivered before, or another history.
            match delta_row(work, accept.log, sequence)? {
                Some(held) if held.hash == cursor.hash => {
                    // What is missing below where the copy is exact was replaced there.
                    if held.is_pruned() && filled.is_some_and(|(whole, _)| sequence > whole) {
                        if previous.is_none() && sequence > accept.floor {
                            return Ok(Err(impossible(sequence)));
                        }
                        checked.push((given, Place::Hole(held.time)));
                    }
                    continue;
                }
                _ => return Ok(Err((RefusalCode::Diverged, format!("delta {sequence} is another one here")))),
            }
        }
        if sequence != head.sequence + 1 || previous.is_some_and(|previous| previous != head.hash) {
            let detail = format!("delta {sequence} does not continue this copy's head {}", head.sequence);
            return Ok(Err((RefusalCode::Diverged, detail)));
        }
        let branch = lineage::reached(&accept.lineage, sequence).last();
        let fits = branch.is_some_and(|branch| {
            branch.generation == cursor.generation && (branch.first != sequence || branch.previous == head.hash)
        });
        let rises = (at > time || head.sequence == 0) && at <= accept.head_time;
        if !fits || !rises || sequence > accept.head.sequence {
            return Ok(Err((RefusalCode::BadRequest, format!("delta {sequence} is not of its lineage"))));
        }
        match &given {
            Given::Whole(delta, encoded) => {
                total_bytes = total_bytes.saturating_add(bytes_of(delta, encoded));
                if let DeltaKind::Epoch(epoch) = &delta.proposal.kind
                    && !epochs.iter().any(|known| known.epoch == epoch.epoch)
                {
                    // No honest home places more: they are in every row of the log, and in its snapshot.
                    epochs.push(epoch.clone());
                    if epochs.iter().map(|epoch| epoch.to_bytes().len()).sum::<usize>() > MAX_EPOCHS_BYTES {
                        let detail = "the log has more key epochs than it can list".into();
                        return Ok(Err((RefusalCode::BadRequest, detail)));
                    }
                }
            }
            Given::Pruned(pruned) => {
                if sequence > accept.floor || pruned.total_bytes < total_bytes {
                    return Ok(Err(impossible(sequence)));
                }
                total_bytes = pruned.total_bytes;
            }
        }
        time = at;
        head = cursor;
        checked.push((given, Place::Next));
    }
    Ok(Ok(checked))
}
