//! Reads of a log: names as of a moment, histories, deltas, what was set aside. The leader of the log's group answers them.

use super::limits;
use super::server::{Answered, check_tenant};
use super::shard::{Shard, log_view, state_refusal};
use crate::state::Missing;
use crate::times::show_time;
use farside_codec::ids::LogId;
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::rc::Rc;

/// The log that a request reads.
pub(super) fn log_read(request: &Request) -> LogId {
    match request {
        Request::Lookup(lookup) => lookup.log,
        Request::List(list) => list.log,
        Request::History(history) => history.log,
        Request::ReadDeltas(read) => read.log,
        Request::SetAside(question) => question.log,
        _ => LogId::default(),
    }
}

/// Refuses a moment of which not everything is here.
fn refuse_missing(missing: Option<Missing>) -> Result<(), Refusal> {
    let detail = match missing {
        None => return Ok(()),
        Some(Missing::Pruned(floor, time)) => format!(
            "not all that there was at that moment is kept: versions that were replaced by {} (position {floor}) have been pruned",
            show_time(time)
        ),
        Some(Missing::Seeding(whole)) => {
            format!(
                "not all that there was at that moment is here: the copy is being made anew, and is whole up to position {whole}"
            )
        }
    };
    Err(Refusal::new(RefusalCode::Pruned, detail))
}

/// Reads a log on its own shard.
pub(super) async fn read<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, log: LogId, request: Request) -> Answered {
    let group = shard.led_group(log).await?;
    check_tenant(caller, log_view(&group, log)?.descriptor.tenant)?;
    let state = group.state().borrow();
    let reply = match request {
        Request::Lookup(lookup) => {
            let found = state.lookup(log, lookup.name, &lookup.at).map_err(state_refusal)?;
            // It may have been there, or another version of it.
            let missing = state.missing_of(log, lookup.name, &lookup.at, found.as_ref());
            refuse_missing(missing.map_err(state_refusal)?)?;
            Reply::Found(found)
        }
        Request::List(list) => {
            refuse_missing(state.missing_at(log, &list.at).map_err(state_refusal)?)?;
            let limit = list.limit.min(limits::LIST_VERSIONS) as usize;
            Reply::Versions(state.list(log, &list.at, list.after, limit, limits::LIST_BYTES).map_err(state_refusal)?)
        }
        Request::History(history) => {
            let limit = history.limit.min(limits::LIST_VERSIONS) as usize;
            let found = state.history(log, history.name, history.before, limit, limits::LIST_BYTES);
            Reply::Versions(found.map_err(state_refusal)?)
        }
        Request::ReadDeltas(read) => {
            let limit = (read.limit as usize).min(limits::READ_DELTAS);
            let deltas = state.deltas(log, read.from, limit, limits::LIST_BYTES).map_err(state_refusal)?;
            Reply::Deltas(deltas.into_iter().map(|(_, encoded)| encoded).collect())
        }
        Request::SetAside(question) => {
            let limit = (question.limit as usize).clamp(1, limits::READ_DELTAS);
            let found = state.set_aside(log, question.after.as_ref(), limit, limits::LIST_BYTES);
            Reply::SetAside(found.map_err(state_refusal)?)
        }
        _ => return Err(Refusal::new(RefusalCode::Internal, "not a read of a log")),
    };
    Ok(reply.into())
}
