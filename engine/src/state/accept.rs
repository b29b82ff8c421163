//! Accepting what the home placed: only what continues this copy's head, on the home's own lineage, bytes unchanged.

use super::fence;
use super::limits::{MAX_EPOCHS_BYTES, MAX_GENERATIONS};
use super::lineage;
use super::log_group::{Done, Work, refuse};
use super::place::{delta_row, insert};
use super::rows::{Lease, LogRow};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::{AcceptDeltas, GroupOutcome};
use farside_codec::delta::{Cursor, Delta, DeltaKind, Generation};
use farside_codec::message::RefusalCode;
use farside_raft::StateError;

pub(super) fn apply(work: &Work<'_>, accept: AcceptDeltas) -> Done {
    let Some(mut row) = work.log(accept.log)? else {
        return refuse(RefusalCode::NotFound, "no such log in this group");
    };
    if let Some(detail) = lineage::objection(&accept.lineage) {
        return refuse(RefusalCode::BadRequest, detail);
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
    let checked = match check(work, &row, &accept)? {
        Ok(checked) => checked,
        Err((code, detail)) => return refuse(code, detail),
    };
    // A switchover's last delta and what it brings about are one step: with it this site is home.
    let own = fence::handed_over(work.site, theirs, checked.last().map(|(delta, _)| delta));
    if own.is_some() && accept.lineage.len() >= MAX_GENERATIONS {
        return refuse(RefusalCode::BadRequest, "the log is handed over and can list no further home");
    }
    take_policy(&mut row, theirs, &accept);
    row.known = theirs;
    row.lineage = accept.lineage;
    for (delta, encoded) in checked {
        row.closed = row.closed.max(delta.closed);
        insert(work, &mut row, &delta, encoded)?;
    }
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

/// Reads and checks every delta before the first is inserted: a refused command changes nothing.
fn check(
    work: &Work<'_>,
    row: &LogRow,
    accept: &AcceptDeltas,
) -> Result<Result<Vec<(Delta, Bytes)>, Objection>, StateError> {
    let mut head: Cursor = row.head.clone();
    let mut time = row.head_time;
    let mut epochs = row.epochs.clone();
    let mut checked = Vec::new();
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
        let branch = lineage::reached(&accept.lineage, delta.sequence).last();
        let fits = branch.is_some_and(|branch| {
            branch.generation == delta.generation
                && (branch.first != delta.sequence || branch.previous == delta.previous)
        });
        let rises = (delta.time > time || head.sequence == 0) && delta.time <= accept.head_time;
        if !fits || !rises || delta.sequence > accept.head.sequence {
            return Ok(Err((RefusalCode::BadRequest, format!("delta {} is not of its lineage", delta.sequence))));
        }
        if let DeltaKind::Epoch(epoch) = &delta.proposal.kind
            && !epochs.iter().any(|known| known.epoch == epoch.epoch)
        {
            // No honest home places more: they are in every row of the log, and in its snapshot.
            epochs.push(epoch.clone());
            if epochs.iter().map(|epoch| epoch.to_bytes().len()).sum::<usize>() > MAX_EPOCHS_BYTES {
                return Ok(Err((RefusalCode::BadRequest, "the log has more key epochs than it can list".into())));
            }
        }
        time = delta.time;
        head = Cursor { generation: delta.generation, sequence: delta.sequence, hash };
        checked.push((delta, encoded.clone()));
    }
    Ok(Ok(checked))
}
