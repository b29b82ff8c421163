//! Groups' states for external backups: read a few pieces at a time, out of a view that was taken at the first question; and
//! the hold that keeps what such a state refers to until it has been read as well.
//!
//! A view keeps old pages of the state file from being used again, so there are few at once, and one that nobody has
//! asked for a while is let go of. Whoever comes back then begins anew.

use super::limits::{BACKUP_HOLD, DUMP_PATIENCE, DUMP_REPLY_BYTES, DUMPS};
use super::server::Answered;
use super::shard::{Shard, propose_refusal, state_refusal};
use crate::state::Dump;
use bytes::Bytes;
use farside_codec::command::ControlCommand;
use farside_codec::dump::{BackupHold, DumpQuestion, DumpedPieces, HeldBackup};
use farside_codec::ids::{GroupId, Hlc};
use farside_codec::message::{Refusal, RefusalCode, Reply};
use farside_codec::record::wal::LogPosition;
use farside_io::disk::Disk;
use farside_raft::SnapshotPieces;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A state that is being read.
struct Session {
    group: GroupId,
    name: [u8; 16],
    last: Option<LogPosition>,
    /// None once all were given out: the view need not stay open for an answer that is asked for again.
    pieces: Option<Box<dyn SnapshotPieces>>,
    /// Pieces given out.
    given: u32,
    /// What was given out last, from which piece on: an answer that was lost is asked for again.
    before: (u32, DumpedPieces),
    /// When it was asked last, by the monotonic clock.
    asked: Duration,
}

/// States that are being read on a shard.
#[derive(Default)]
pub(crate) struct Dumps(RefCell<Vec<Session>>);

/// Keeps what a backup reads, or lets go of it.
pub(super) async fn hold<D: Disk>(shard: &Rc<Shard<D>>, hold: BackupHold) -> Answered {
    let now = shard.clock.now();
    let until = match hold.holds {
        true => Hlc::from_ms(now.ms() + BACKUP_HOLD.as_millis() as u64),
        false => Hlc::default(),
    };
    let held = ControlCommand::HoldBackup(HeldBackup { id: hold.id, until });
    shard.control(&shard.by_itself(), held).await?;
    Ok(Reply::BackupHeld(now).into())
}

/// Gives out the next pieces of a group's state, if this node leads it.
pub(super) async fn dump<D: Disk>(shard: &Rc<Shard<D>>, question: DumpQuestion) -> Answered {
    let owner = question.group.shard(shard.shards());
    shard.on(owner, move |there| async move { dump_here(&there, question).await }).await?
}

async fn dump_here<D: Disk>(shard: &Rc<Shard<D>>, question: DumpQuestion) -> Answered {
    let now = shard.clock.clock().monotonic();
    if question.piece == 0 {
        let (applied, pieces) = begin(shard, question.group).await?;
        let before = (0, DumpedPieces { last: None, pieces: Vec::new(), more: false });
        let (group, name, last) = (question.group, question.session, applied.last);
        let mut sessions = shard.dumps.0.borrow_mut();
        sessions.retain(|session| session.name != name && now.saturating_sub(session.asked) < DUMP_PATIENCE);
        // One that was read to its end is kept for an answer that is asked for again, and keeps nothing open.
        while sessions.len() >= 4 * DUMPS
            && let Some(ended) = sessions.iter().position(|session| session.pieces.is_none())
        {
            sessions.remove(ended);
        }
        if sessions.iter().filter(|session| session.pieces.is_some()).count() >= DUMPS {
            let detail = format!("{DUMPS} backups read this shard already: try again when one of them has ended");
            return Err(Refusal::retry(RefusalCode::Busy, 1000, detail));
        }
        sessions.push(Session { group, name, last, pieces: Some(pieces), given: 0, before, asked: now });
    }
    let mut sessions = shard.dumps.0.borrow_mut();
    let lost = || Refusal::new(RefusalCode::ConditionFailed, "the state that was being read is not kept here any more");
    let is_it = |session: &Session| session.group == question.group && session.name == question.session;
    let at = sessions.iter().position(is_it).ok_or_else(lost)?;
    let session = &mut sessions[at];
    session.asked = now;
    if session.given != question.piece {
        // Nothing but the last answer can be repeated.
        let (from, before) = &session.before;
        return if *from == question.piece { Ok(Reply::Dumped(before.clone()).into()) } else { Err(lost()) };
    }
    let dumped = next(session)?;
    session.given += dumped.pieces.len() as u32;
    session.before = (question.piece, dumped.clone());
    Ok(Reply::Dumped(dumped).into())
}

/// Takes a view of everything that was committed in a group before now.
async fn begin<D: Disk>(shard: &Rc<Shard<D>>, group: GroupId) -> Result<Dump, Refusal> {
    let missing = || Refusal::retry(RefusalCode::NotLeader, 100, "the group does not run on this node");
    if group == GroupId::CONTROL {
        let control = shard.control.as_ref().ok_or_else(missing)?;
        control.confirm_leader().await.map_err(propose_refusal)?;
        return control.state().borrow().dump().map_err(state_refusal);
    }
    let group = shard.group(group).ok_or_else(missing)?;
    group.confirm_leader().await.map_err(propose_refusal)?;
    let dump = group.state().borrow().dump();
    dump.map_err(state_refusal)
}

fn next(session: &mut Session) -> Result<DumpedPieces, Refusal> {
    let (mut pieces, mut bytes) = (Vec::<Bytes>::new(), 0);
    while let Some(left) = session.pieces.as_mut().filter(|_| bytes < DUMP_REPLY_BYTES) {
        match left.next_piece().map_err(state_refusal)? {
            Some(piece) => {
                bytes += piece.len();
                pieces.push(piece);
            }
            None => session.pieces = None,
        }
    }
    let more = session.pieces.is_some();
    Ok(DumpedPieces { last: session.last, pieces, more })
}
