//! Lets go of what changes of home set aside, when an administrator who has seen it says so.

use super::limits::DISCARD_DELTAS;
use super::server::Answered;
use super::shard::{Shard, log_view};
use farside_codec::aside::DiscardOrder;
use farside_codec::command::{DiscardAside, GroupCommand, GroupOutcome};
use farside_codec::message::{Refusal, RefusalCode, Reply};
use farside_io::disk::Disk;
use std::rc::Rc;

/// Discards on the log's own shard, bounded command by bounded command. Whoever stops in between leaves the newer part.
pub(super) async fn discard<D: Disk>(shard: &Rc<Shard<D>>, order: DiscardOrder) -> Answered {
    let log = order.log;
    let group = shard.led_group(log).await?;
    if log_view(&group, log)?.aside == 0 {
        // An order whose answer was lost is given again.
        return Ok(Reply::Done.into());
    }
    let mut expected = order.deltas;
    loop {
        let command = GroupCommand::DiscardAside(DiscardAside { log, expected, limit: DISCARD_DELTAS });
        match shard.command(group.id(), &command).await? {
            GroupOutcome::Pruned(gone) if gone > 0 => expected = expected.saturating_sub(u64::from(gone)),
            _ => return Err(Refusal::new(RefusalCode::Internal, "the log group did not do what it was asked")),
        }
        if expected == 0 {
            tracing::warn!(%log, deltas = order.deltas, "what changes of home had set aside was discarded by order");
            return Ok(Reply::Done.into());
        }
    }
}
