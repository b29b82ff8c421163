//! What an operator or a tenant's client has made: tenants, and logs whose home is this site.

use super::auditing::certificate;
use super::leases;
use super::limits::{LEASE_LEAST, LEASE_MOST};
use super::server::{Answered, log_info};
use super::shard::{Shard, log_view, state_refusal};
use crate::state::LogView;
use farside_codec::command::{ControlCommand, GroupCommand};
use farside_codec::delta::{Generation, LogDescriptor, LogPolicy};
use farside_codec::ids::SiteId;
use farside_codec::message::{PeerRecord, Refusal, RefusalCode, Reply, SetPolicy, Tenant};
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
    check_sites(shard, &descriptor.policy)?;
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
    let LogPolicy { sites, residency, .. } = policy;
    if lag_stops_writers && lag_bound_seconds == 0 {
        return bad("a bound on lag of no time at all would stop every writer".into());
    }
    let too_many = |sites: &Option<Vec<SiteId>>| sites.as_ref().is_some_and(|sites| sites.len() > LogPolicy::MAX_SITES);
    if too_many(sites) || too_many(residency) {
        return bad(format!("a policy names {} sites at most", LogPolicy::MAX_SITES));
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
    let (log, begins, policy) = (set.log, set.policy.home_lease_seconds > 0, set.policy.clone());
    let look = move |there: Rc<Shard<D>>| async move {
        let view = log_view(&there.log_group(log)?, log)?;
        if !view.is_home(there.site.site) {
            let known = view.known.site;
            let home = there.view().site_name(known).map_or_else(|| known.to_string(), ToString::to_string);
            let detail = format!("the log's home is site {home}: change its policy there");
            return Err(Refusal::new(RefusalCode::NotHome, detail));
        }
        check_sites(&there, &policy)?;
        check_residency(&there, &view, &policy)?;
        if !begins || view.descriptor.policy.home_lease_seconds > 0 {
            return Ok(());
        }
        let unsafe_now = |detail: &str| Err(Refusal::new(RefusalCode::Unsafe, detail));
        if there.view().peers.keys().filter(|peer| policy.goes_to(**peer)).count() > 1 {
            return unsafe_now("a home lease is between two sites: of several peers more than one could take over");
        }
        match leases::all_follow(&there, &view)? {
            true => Ok(()),
            false => unsafe_now("a peer has not acknowledged anything of this home yet: try again once it has"),
        }
    };
    shard.on(shard.shard_of_log(log), look).await?
}

/// Refuses sites that nobody knows, and a policy by which this home may not have the log.
fn check_sites<D: Disk>(shard: &Shard<D>, policy: &LogPolicy) -> Result<(), Refusal> {
    let (view, here) = (shard.view(), shard.site.site);
    let named = || policy.sites.iter().chain(&policy.residency).flatten();
    if let Some(site) = named().find(|site| **site != here && !view.peers.contains_key(site)) {
        let detail = format!("there is no peer {site}: `farside peer list` names them");
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let unsafe_now = |detail: String| Err(Refusal::new(RefusalCode::Unsafe, detail));
    if !policy.goes_to(here) {
        return unsafe_now("the log has its home here, so this site is among those that hold it".into());
    }
    match policy.sites.iter().flatten().find(|site| !policy.may_be_at(**site)) {
        Some(site) => {
            let name = view.site_name(*site).map_or_else(|| site.to_string(), ToString::to_string);
            unsafe_now(format!("site {name} is not among those that may hold the log: change its residency first"))
        }
        None => Ok(()),
    }
}

/// Refuses to bound where a log may be while it is elsewhere.
fn check_residency<D: Disk>(shard: &Shard<D>, log: &LogView, policy: &LogPolicy) -> Result<(), Refusal> {
    let lags =
        shard.log_group(log.descriptor.log)?.state().borrow().peers(log.descriptor.log).map_err(state_refusal)?;
    let has = |peer: &&PeerRecord| !policy.may_be_at(peer.site) && lags.iter().any(|lag| lag.peer == peer.site);
    match shard.view().peers.values().find(has) {
        Some(peer) => {
            let detail = format!(
                "peer {} has the log already: make a new one with `farside log create --residency`, and put there what is to stay",
                peer.name
            );
            Err(Refusal::new(RefusalCode::Unsafe, detail))
        }
        None => Ok(()),
    }
}
