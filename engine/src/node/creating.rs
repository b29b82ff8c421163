//! What an operator or a tenant's client has made: tenants, and logs whose home is this site.

use super::auditing::certificate;
use super::leases;
use super::limits::{LEASE_LEAST, LEASE_MOST};
use super::sending;
use super::server::Answered;
use super::shard::{Shard, log_view, state_refusal};
use crate::state::LogView;
use farside_codec::command::{ChangePolicy, ControlCommand, GroupCommand};
use farside_codec::delta::{Generation, LogDescriptor, LogPolicy};
use farside_codec::ids::{LogId, SiteId};
use farside_codec::message::{LogInfo, Refusal, RefusalCode, Reply, SetPolicy, Tenant};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::collections::BTreeSet;
use std::rc::Rc;

pub(super) async fn tenant<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut tenant: Tenant) -> Answered {
    tenant.created = shard.clock.now();
    shard.control(&certificate(caller), ControlCommand::PutTenant(tenant.clone())).await?;
    let made = shard.view().tenants.get(&tenant.tenant).cloned().unwrap_or(tenant);
    Ok(Reply::Tenants(vec![made]).into())
}

pub(super) async fn log<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut descriptor: LogDescriptor) -> Answered {
    check(&descriptor.policy)?;
    check_sites(shard, &LogPolicy::default(), &descriptor.policy)?;
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
    if !policy.is_bounded() {
        return bad(format!("a policy names {} sites at most", LogPolicy::MAX_SITES));
    }
    match home_lease_seconds {
        0 | LEASE_LEAST..=LEASE_MOST => Ok(()),
        _ => bad(format!("a home lease is {LEASE_LEAST} to {LEASE_MOST} seconds long")),
    }
}

/// Changes a log's policy, and lets go of peers that are not to hold it any more.
pub(super) async fn set_policy<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, set: SetPolicy) -> Answered {
    check_policy(shard, &set).await?;
    let (log, owner) = (set.log, shard.shard_of_log(set.log));
    let look = move |there: Rc<Shard<D>>| async move { log_view(&there.log_group(log)?, log) };
    let before = shard.on(owner, look).await??;
    shard.log_command(log, GroupCommand::ChangePolicy(ChangePolicy { log, policy: set.policy })).await?;
    let info = log_info(shard, log).await?;
    shard.control(&certificate(caller), ControlCommand::PutLog(info.descriptor)).await?;
    shard.on(owner, move |there| async move { sending::take_leave(&there, &before).await }).await?;
    Ok(Reply::Done.into())
}

/// Refuses a policy for a log whose home is elsewhere, as copies go by what the home says; and a lease that begins while a
/// peer does not follow, or that several peers would have.
async fn check_policy<D: Disk>(shard: &Rc<Shard<D>>, set: &SetPolicy) -> Result<(), Refusal> {
    check(&set.policy)?;
    let (log, begins, policy) = (set.log, set.policy.home_lease_seconds > 0, set.policy.clone());
    let look = move |there: Rc<Shard<D>>| async move {
        let view = log_view(&there.log_group(log)?, log)?;
        if !view.is_home(there.site.site) {
            let home = there.view().call_site(view.known.site);
            let detail = format!("the log's home is site {home}: change its policy there");
            return Err(Refusal::new(RefusalCode::NotHome, detail));
        }
        check_sites(&there, &view.descriptor.policy, &policy)?;
        check_residency(&there, &view.descriptor.policy, &policy)?;
        let before = &view.descriptor.policy;
        let goes_elsewhere = before.sites != policy.sites || before.residency != policy.residency;
        if !begins || before.home_lease_seconds > 0 && !goes_elsewhere {
            return Ok(());
        }
        let unsafe_now = |detail: &str| Err(Refusal::new(RefusalCode::Unsafe, detail));
        if there.view().peers.keys().filter(|peer| policy.goes_to(**peer)).count() > 1 {
            return unsafe_now("a home lease is between two sites: of several peers more than one could take over");
        }
        let next = LogView { descriptor: LogDescriptor { policy, ..view.descriptor.clone() }, ..view };
        match leases::all_follow(&there, &next)? {
            true => Ok(()),
            false => unsafe_now("a peer has not acknowledged anything of this home yet: try again once it has"),
        }
    };
    shard.on(shard.shard_of_log(log), look).await?
}

/// Refuses sites that are named anew and that nobody knows, and a policy by which this home may not have the log.
fn check_sites<D: Disk>(shard: &Shard<D>, before: &LogPolicy, policy: &LogPolicy) -> Result<(), Refusal> {
    if before.sites == policy.sites && before.residency == policy.residency {
        return Ok(());
    }
    let (view, here) = (shard.view(), shard.site.site);
    let known: BTreeSet<&SiteId> = before.named_sites().collect();
    let is_unknown = |site: &&SiteId| **site != here && !known.contains(site) && !view.peers.contains_key(site);
    if let Some(site) = policy.named_sites().find(is_unknown) {
        let detail = format!("there is no peer {site}: `farside peer list` names them");
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let unsafe_now = |detail: String| Err(Refusal::new(RefusalCode::Unsafe, detail));
    if !policy.goes_to(here) {
        return unsafe_now("the log has its home here, so this site is among those that hold it".into());
    }
    match policy.sites.iter().flatten().find(|site| !policy.may_be_at(**site)) {
        Some(site) => unsafe_now(format!(
            "site {} is not among those that may hold the log: change its residency first",
            view.call_site(*site)
        )),
        None => Ok(()),
    }
}

/// Refuses to bound where a log may be once it was free to be elsewhere: a peer may have it, or know of it, whatever is known here.
fn check_residency<D: Disk>(shard: &Shard<D>, before: &LogPolicy, policy: &LogPolicy) -> Result<(), Refusal> {
    let view = shard.view();
    match view.peers.values().find(|peer| before.may_be_at(peer.site) && !policy.may_be_at(peer.site)) {
        Some(peer) => {
            let detail = format!(
                "peer {} may have the log already: make a new one with `farside log create --residency`, and put there what is \
                 to stay",
                peer.name
            );
            Err(Refusal::new(RefusalCode::Unsafe, detail))
        }
        None => Ok(()),
    }
}

/// A log as its group knows it.
pub(super) async fn log_info<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<LogInfo, Refusal> {
    let owner = shard.shard_of_log(log);
    shard
        .on(owner, move |there| async move {
            let group = there.log_group(log)?;
            let view = group.state().borrow().log(log).map_err(state_refusal)?;
            let view = view.ok_or_else(|| Refusal::new(RefusalCode::NotFound, "the log is not in its group yet"))?;
            let (named, known) = (view.descriptor.policy.named_sites(), there.view());
            let names = named.filter_map(|site| Some((*site, known.site_name(*site)?.clone()))).collect();
            Ok(LogInfo {
                names,
                live_bytes: view.live_bytes,
                home: known.site_name(view.known.site).cloned(),
                group: group.id(),
                descriptor: view.descriptor,
                lineage: view.lineage,
                head: view.head,
                head_time: view.head_time,
                epochs: view.epochs,
            })
        })
        .await?
}
