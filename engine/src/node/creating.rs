//! What an operator or a tenant's client has made: tenants, and logs whose home is this site.

use super::auditing::certificate;
use super::leases;
use super::limits::{LEASE_LEAST, LEASE_MOST};
use super::server::{Answered, log_info};
use super::shard::{Shard, log_view};
use farside_codec::command::{ControlCommand, GroupCommand};
use farside_codec::delta::{Generation, LogDescriptor, LogPolicy};
use farside_codec::message::{Refusal, RefusalCode, Reply, SetPolicy, Tenant};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::rc::Rc;

pub(super) async fn tenant<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut tenant: Tenant) -> Answered {
    tenant.created = shard.clock.now();
    shard.control(&certificate(caller), ControlCommand::PutTenant(tenant.clone())).await?;
    let made = shard.view().tenants.get(&tenant.tenant).cloned().unwrap_or(tenant);
    Ok(Reply::Tenants(vec![made]).into())
}

pub(super) async fn log<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut descriptor: LogDescriptor) -> Answered {
    check(&descriptor.policy)?;
    descriptor.created = shard.clock.now();
    let log = descriptor.log;
    shard.control(&certificate(caller), ControlCommand::PutLog(descriptor.clone())).await?;
    let generation = Generation { counter: 1, site: shard.site.site, incarnation: shard.site.incarnation };
    shard.log_command(log, GroupCommand::CreateLog((descriptor, generation))).await?;
    Ok(Reply::Log(log_info(shard, log).await?).into())
}

/// Refuses a policy that can't be.
fn check(policy: &LogPolicy) -> Result<(), Refusal> {
    let bad = |detail: String| Err(Refusal::new(RefusalCode::BadRequest, detail));
    let LogPolicy { lag_bound_seconds, lag_stops_writers, home_lease_seconds, .. } = *policy;
    if lag_stops_writers && lag_bound_seconds == 0 {
        return bad("a bound on lag of no time at all would stop every writer".into());
    }
    match home_lease_seconds {
        0 | LEASE_LEAST..=LEASE_MOST => Ok(()),
        _ => bad(format!("a home lease is {LEASE_LEAST} to {LEASE_MOST} seconds long")),
    }
}

/// Refuses a policy for a log whose home is elsewhere, as copies go by what the home says; and a lease that begins while a
/// peer does not follow, or that several peers would have.
pub(super) async fn check_policy<D: Disk>(shard: &Rc<Shard<D>>, set: &SetPolicy) -> Result<(), Refusal> {
    check(&set.policy)?;
    let (log, begins) = (set.log, set.policy.home_lease_seconds > 0);
    let look = move |there: Rc<Shard<D>>| async move {
        let view = log_view(&there.log_group(log)?, log)?;
        if !view.is_home(there.site.site) {
            let known = view.known.site;
            let home = there.view().site_name(known).map_or_else(|| known.to_string(), ToString::to_string);
            let detail = format!("the log's home is site {home}: change its policy there");
            return Err(Refusal::new(RefusalCode::NotHome, detail));
        }
        if !begins || view.descriptor.policy.home_lease_seconds > 0 {
            return Ok(());
        }
        let unsafe_now = |detail: &str| Err(Refusal::new(RefusalCode::Unsafe, detail));
        if there.view().peers.len() > 1 {
            return unsafe_now("a home lease is between two sites: of several peers more than one could take over");
        }
        match leases::all_follow(&there, &view)? {
            true => Ok(()),
            false => unsafe_now("a peer has not acknowledged anything of this home yet: try again once it has"),
        }
    };
    shard.on(shard.shard_of_log(log), look).await?
}
