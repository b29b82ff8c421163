//! What is kept for peers that lack something, and for how long.
//!
//! Time is counted, in commands that say how much of it has passed by a leader's monotonic clock: a wall clock that jumps lets
//! nothing go. Whoever is heard of again is kept for anew: what was let go of meanwhile it is sent as pruned.

use super::database::{Rows, Table};
use super::keys::Key;
use super::log_group::{Done, Work, read_row};
use super::place::delta_row;
use super::queries::logs_of;
use super::rows::{CursorRow, HoldRow, LogRow};
use farside_codec::Field;
use farside_codec::command::{GroupOutcome, HoldPeers};
use farside_codec::ids::{LogId, SiteId};
use farside_raft::StateError;

fn key(work: &Work<'_>, log: LogId, peer: SiteId) -> Key {
    work.key().log(log).site(peer)
}

fn held(work: &Work<'_>, log: LogId, peer: SiteId) -> Result<Option<HoldRow>, StateError> {
    work.change.get(Table::Holds, &key(work, log, peer))?.map(read_row).transpose()
}

pub(super) fn count(work: &Work<'_>, hold: &HoldPeers) -> Done {
    for log in logs_of(work.change, work.group)?.iter().filter(|log| log.is_told_by(work.site)) {
        let id = log.descriptor.log;
        forget_if(work, id, |site| hold.peers.iter().all(|peer| peer.site != site) || !log.goes_to(site))?;
        for peer in hold.peers.iter().filter(|peer| log.goes_to(peer.site)) {
            let cursor: Option<CursorRow> =
                work.change.get(Table::Cursors, &key(work, id, peer.site))?.map(read_row).transpose()?;
            let has = cursor.as_ref().map_or(0, |row| row.cursor.sequence);
            let known = held(work, id, peer.site)?;
            if has >= log.head.sequence {
                if known.is_some() {
                    work.change.remove(Table::Holds, &key(work, id, peer.site))?;
                }
                continue;
            }
            // How much a peer lacks that has not been heard of since this site is home nobody knows.
            let lacks = match cursor {
                Some(_) => log.total_bytes.saturating_sub(delta_row(work, id, has)?.map_or(0, |row| row.total_bytes)),
                None => 0,
            };
            let known = known.unwrap_or(HoldRow { behind_ms: 0, expired: false });
            let behind_ms = known.behind_ms.saturating_add(hold.passed_ms);
            let expired = known.expired || behind_ms >= peer.most_ms || lacks >= peer.most_bytes;
            work.change.put(Table::Holds, &key(work, id, peer.site), &HoldRow { behind_ms, expired }.to_bytes())?;
        }
    }
    Ok(GroupOutcome::Done)
}

/// A peer has said where it is.
pub(super) fn heard(work: &Work<'_>, log: &LogRow, peer: SiteId, said: &CursorRow) -> Result<(), StateError> {
    let id = log.descriptor.log;
    let Some(known) = held(work, id, peer)? else { return Ok(()) };
    let key = key(work, id, peer);
    let next = match said.cursor.sequence < log.head.sequence {
        true => delta_row(work, id, said.cursor.sequence + 1)?,
        false => None,
    };
    let Some(next) = next else { return work.change.remove(Table::Holds, &key) };
    // It can't have lacked it for longer than it was there. A clock that was wrong makes this too short at worst.
    let there_ms = said.time.ms().saturating_sub(next.time.ms());
    let behind_ms = if known.expired { 0 } else { known.behind_ms.min(there_ms) };
    work.change.put(Table::Holds, &key, &HoldRow { behind_ms, expired: false }.to_bytes())
}

/// Another site tells the log from here on: what was kept for its peers is for that one to say.
pub(super) fn forget(work: &Work<'_>, log: LogId) -> Result<(), StateError> {
    forget_if(work, log, |_| true)
}

fn forget_if(work: &Work<'_>, log: LogId, goes: impl Fn(SiteId) -> bool) -> Result<(), StateError> {
    let of = |key: &[u8]| key.last_chunk::<16>().is_none_or(|site| goes(SiteId(*site)));
    work.remove_where(Table::Holds, &work.key().log(log), |key, _| Ok(of(key)))
}
