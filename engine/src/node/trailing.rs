//! Sends this site's audit logs to its peers, from the node that leads the control group: whatever is written goes out within a
//! second, and everything is compared again now and then. A peer remembers by itself how far it is, so nothing is kept here
//! that a restart could lose.

use super::auditing::{self, ENTRIES, ENTRIES_BYTES};
use super::peers;
use super::shard::{Shard, state_refusal};
use crate::federation::trail::{Contradiction, Lacking, lacking};
use crate::state::ControlView;
use crate::state::limits::{AUDIT_ALERT, MAX_AUDIT_ENTRIES};
use crate::times::show_time;
use bytes::Bytes;
use farside_codec::audit::{AuditPlace, AuditScope, AuditStandingQuestion};
use farside_codec::ids::SiteId;
use farside_codec::message::{PeerRecord, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at whether there is something new.
const LOOK: Duration = Duration::from_millis(500);
/// After which all is compared again though nothing is known to have changed.
const AGAIN: Duration = Duration::from_secs(60);
/// A rest after an attempt that failed.
const REST: Duration = Duration::from_secs(2);

/// How it stands with one peer.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// Entries that there were here when the peer had all of them.
    had: Option<u64>,
    /// When that was, or when the last attempt failed, by the monotonic clock.
    at: Duration,
    /// What is wrong, that does not pass by itself.
    trouble: Option<String>,
}

/// How it stands with the peers; on shard 0.
#[derive(Default)]
pub(crate) struct Trails(RefCell<BTreeMap<SiteId, Standing>>);

/// While this node leads the control group, sends peers what they lack.
pub(super) async fn keep_crossing<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(control) = shard.control.as_ref().filter(|control| control.is_leader()) else {
            shard.trails.0.borrow_mut().clear();
            continue;
        };
        let view = shard.view();
        shard.trails.0.borrow_mut().retain(|peer, _| view.peers.contains_key(peer));
        // Which incarnation this is has to be agreed on first.
        if shard.nodes.left_behind().is_some() || super::recovered::is_pending(&shard) {
            continue;
        }
        let Ok(count) = control.state().borrow().audit_count(shard.site.site) else { continue };
        let now = shard.clock.clock().monotonic();
        let is_due = |peer: &&PeerRecord| {
            let known = shard.trails.0.borrow().get(&peer.site).cloned().unwrap_or_default();
            let rested = now.saturating_sub(known.at);
            match known.had {
                Some(had) => had != count || rested >= AGAIN,
                None => known.at == Duration::ZERO || rested >= REST,
            }
        };
        let due: Vec<&PeerRecord> = view.peers.values().filter(|peer| !peer.paused).filter(is_due).collect();
        let crossed = due.into_iter().map(|peer| async {
            let standing = match cross(&shard, peer).await {
                Ok(trouble) => Standing { had: Some(count), at: now, trouble },
                Err(refusal) => {
                    // A peer that is away has its alert already.
                    let stays =
                        matches!(refusal.code, RefusalCode::Diverged | RefusalCode::Full | RefusalCode::BadRequest);
                    let trouble = stays.then(|| format!("peer {} does not take the audit log: {refusal}", peer.name));
                    Standing { had: None, at: now.max(Duration::from_nanos(1)), trouble }
                }
            };
            shard.trails.0.borrow_mut().insert(peer.site, standing);
        });
        futures_util::future::join_all(crossed).await;
    }
}

/// Sends a peer all that it lacks. Answers what is wrong with what it has.
async fn cross<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord) -> Result<Option<String>, Refusal> {
    let gone = || Refusal::new(RefusalCode::Unavailable, "the control group does not run here");
    let control = shard.control.as_ref().ok_or_else(gone)?;
    let question = AuditStandingQuestion { site: shard.site.site, scope: None, places: Vec::new() };
    let theirs = auditing::ask(shard, peer, question).await?.heads;
    let own = control.state().borrow().audit_heads(shard.site.site, None).map_err(state_refusal)?;
    let (lacking, contradictions) = lacking(&own, &theirs, shard.site.incarnation);
    let mut batch = Batch { entries: Vec::new(), bytes: 0 };
    let view = control.state().borrow().view();
    let crosses = |lacking: &Lacking| may_cross(&view, &lacking.scope, peer.site);
    for Lacking { scope, from, to } in lacking.into_iter().filter(crosses) {
        let AuditPlace { incarnation, mut sequence } = from;
        while sequence <= to {
            let place = AuditPlace { incarnation, sequence };
            let found = control.state().borrow().audit_entries(shard.site.site, &scope, &place, ENTRIES, ENTRIES_BYTES);
            let entries = found.map_err(state_refusal)?.entries;
            if entries.is_empty() {
                return Err(Refusal::new(
                    RefusalCode::Corrupt,
                    format!("entry {sequence} of an audit log is missing here"),
                ));
            }
            for entry in entries.into_iter().take((to - sequence + 1) as usize) {
                sequence += 1;
                batch.add(shard, peer, entry).await?;
            }
        }
    }
    batch.send(shard, peer).await?;
    Ok(contradictions.first().map(|found| told(shard, peer, found)))
}

/// Whether a peer may have a chain: that of a tenant tells of all of its logs, and some may be nowhere but elsewhere.
fn may_cross(view: &ControlView, scope: &AuditScope, peer: SiteId) -> bool {
    match scope {
        AuditScope::Site => true,
        AuditScope::Tenant(tenant) => {
            view.logs.values().filter(|log| log.tenant == *tenant).all(|log| log.policy.may_be_at(peer))
        }
    }
}

fn told<D: Disk>(shard: &Shard<D>, peer: &PeerRecord, found: &Contradiction) -> String {
    let log = |scope: &AuditScope| match scope {
        AuditScope::Site => "the site's audit log".to_owned(),
        AuditScope::Tenant(tenant) => match shard.view().tenants.get(tenant) {
            Some(tenant) => format!("the audit log of {}", tenant.name),
            None => format!("the audit log of tenant {tenant}"),
        },
    };
    match found {
        Contradiction::Ahead { scope, here, there } => format!(
            "{} ends here with entry {here}, and peer {} has it up to entry {there}: entries were removed here",
            log(scope),
            peer.name
        ),
        Contradiction::Differs { scope, sequence } => format!(
            "entry {sequence} of {} is another one here than at peer {}: one of the two was altered",
            log(scope),
            peer.name
        ),
    }
}

/// Entries on their way, of whatever logs.
struct Batch {
    entries: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    async fn add<D: Disk>(&mut self, shard: &Rc<Shard<D>>, peer: &PeerRecord, entry: Bytes) -> Result<(), Refusal> {
        if self.entries.len() >= ENTRIES || self.bytes + entry.len() > ENTRIES_BYTES {
            self.send(shard, peer).await?;
        }
        self.bytes += entry.len();
        self.entries.push(entry);
        Ok(())
    }

    async fn send<D: Disk>(&mut self, shard: &Rc<Shard<D>>, peer: &PeerRecord) -> Result<(), Refusal> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        match peers::tell(shard, peer, Request::FedAudit(std::mem::take(&mut self.entries))).await? {
            Reply::Done => Ok(()),
            _ => Err(Refusal::new(RefusalCode::Internal, "the peer answered something else than was asked")),
        }
    }
}

/// How the audit logs are, and what is wrong with them.
pub(super) async fn told_in_status<D: Disk>(shard: &Rc<Shard<D>>) -> (Value, Vec<String>) {
    let read = shard.on(0, |there| async move {
        let Some(control) = there.control.as_ref() else { return (Value::Null, Vec::new()) };
        let (own, view) = (there.site.site, there.view());
        let count = |site| control.state().borrow().audit_count(site).ok();
        let entries = count(own);
        let last = control.state().borrow().audit_heads(own, Some(&AuditScope::Site)).unwrap_or_default().pop();
        let peers = view.peers.values().map(|peer| {
            let crossed = there.trails.0.borrow().get(&peer.site).is_some_and(|standing| standing.had == entries);
            json!({
                "site": peer.name.as_str(), "entries_kept": count(peer.site),
                "caught_up": control.is_leader().then_some(crossed),
            })
        });
        let document = json!({
            "entries": entries, "entries_max": MAX_AUDIT_ENTRIES,
            "site_seq": last.as_ref().map(|head| head.sequence),
            "site_hash": last.as_ref().map(|head| head.hash.to_string()),
            "site_time": last.as_ref().map(|head| show_time(head.time)),
            "peers": peers.collect::<Vec<_>>(),
        });
        let mut alerts = alerts(&there, entries.unwrap_or(0));
        alerts.extend(super::noting::alert(&there));
        (document, alerts)
    });
    read.await.unwrap_or((Value::Null, Vec::new()))
}

fn alerts<D: Disk>(shard: &Shard<D>, entries: u64) -> Vec<String> {
    if !shard.leads_site() {
        return Vec::new();
    }
    let standing = shard.trails.0.borrow();
    let mut alerts: Vec<String> = standing.values().filter_map(|standing| standing.trouble.clone()).collect();
    if entries >= AUDIT_ALERT {
        alerts.push(format!(
            "the audit logs hold {entries} of the {MAX_AUDIT_ENTRIES} entries that they can: once they are full nothing is \
             done any more that has to be written down"
        ));
    }
    alerts
}
