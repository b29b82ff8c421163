//! What the control group does when a site goes on without nodes that took the majority of a group with them: in one step,
//! so that nobody sees a part of it.

use super::control::{ControlView, Kind, Outcome, key};
use super::database::{Change, Table};
use super::nodes::{next_epoch, put_group, put_node};
use farside_codec::Field;
use farside_codec::cluster::NodeState;
use farside_codec::command::SiteRecord;
use farside_codec::ids::{GroupId, LogId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::recovery::Recovery;
use farside_raft::StateError;

/// Nodes that were lost are out for good, and groups have the members that go on with them. Done again it does nothing: any
/// node that is left may have it done.
pub(super) fn apply(change: &Change, view: &mut ControlView, recovery: Recovery) -> Result<Outcome, StateError> {
    let Some(site) = view.site.clone() else {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, "the site was not founded yet")));
    };
    if site.incarnation >= recovery.incarnation {
        return Ok(Ok(()));
    }
    let fits = |group: &GroupId| *group != GroupId::CONTROL && group.0 <= site.groups;
    let emptied_fit = recovery.emptied.iter().all(fits);
    if !emptied_fit || recovery.groups.iter().any(|one| !fits(&one.group) || !one.members.contains(&one.leader)) {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, "no such group, or no member leads it")));
    }
    let epoch = next_epoch(change, view)?;
    for node in &recovery.lost {
        // One that was let in after the reports were made, and lost, is let go like any dead node.
        let Some(mut record) = view.nodes.get(node).cloned() else { continue };
        record.state = NodeState::Removed;
        record.devices.iter_mut().filter(|device| device.left.is_none()).for_each(|device| device.left = Some(epoch));
        put_node(change, view, record)?;
    }
    for mut group in recovery.groups {
        // What was decided before does not count any more, whoever says it.
        let before = view.groups.get(&group.group).map_or(0, |before| before.stints);
        group.stints = group.stints.max(before.saturating_add(1));
        put_group(change, view, group)?;
    }
    let is_gone = |log: &LogId| recovery.emptied.contains(&GroupId::of_log(*log, site.groups));
    let gone: Vec<LogId> = view.logs.keys().filter(|log| site.groups > 0 && is_gone(log)).copied().collect();
    for log in gone {
        change.remove(Table::Control, &key(Kind::Log, &log.0))?;
        view.logs.remove(&log);
    }
    let site = SiteRecord { incarnation: recovery.incarnation, ..site };
    change.put(Table::Control, &key(Kind::Site, &[]), &site.to_bytes())?;
    view.site = Some(site);
    view.draw_map();
    Ok(Ok(()))
}
