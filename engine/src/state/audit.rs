//! Audit logs in the control group's state: what a command does is written down in the step in which it does it, so that there
//! is no change without its entry and no entry without its change. And copies of what peers wrote, entry by entry as they
//! wrote them.
//!
//! Nothing is ever taken away again. How many entries there may be is bounded, and said long before ([`AUDIT_ALERT`]).

use super::control::{ControlState, ControlView, Kind, Outcome, key};
use super::database::{Change, Rows, Table};
use super::keys::Key;
use super::limits::{
    AUDIT_ORDERS, AUDIT_RESERVE, MAX_AUDIT_CHAINS, MAX_AUDIT_ENTRIES, MAX_AUDIT_ENTRY_BYTES, MAX_AUDIT_NOTES,
};
use super::log_group::read_row;
use bytes::Bytes;
use farside_codec::audit::chain::{ChainFault, next_after};
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntries, AuditEntry, AuditHash, AuditHead, AuditNotes, AuditOutcome, AuditPlace,
    AuditScope, AuditedBackup, AuditedCommand, AuditedEpoch, AuditedListing, AuditedLog, AuditedNode, AuditedPeer,
    AuditedPeerOrder, AuditedRecovery, AuditedSchedule, AuditedSite, AuditedTarget, AuditedTenant, AuditedToken,
    AuditedTrust,
};
use farside_codec::cluster::NodeState;
use farside_codec::command::{AcceptAudit, ControlCommand, ControlOutcome};
use farside_codec::identity::{IdentityRecord, IdentityRole, Serial};
use farside_codec::ids::{GroupId, Hlc, NodeId, SiteId};
use farside_codec::message::{Refusal, RefusalCode, Tenant};
use farside_codec::{Field, record};
use farside_raft::StateError;
use std::collections::BTreeMap;

record!(
    /// How much there is of one site's audit logs.
    CountRow {
        /// Entries.
        entries: u64,
        /// Chains.
        chains: u64,
    }
);
record!(
    /// An order that was carried out.
    OrderRow {
        /// Which one it was, counted from 1.
        turn: u64,
        /// What was answered.
        outcome: Bytes,
    }
);

/// Who ordered something, and when.
struct Stamp {
    order: [u8; 16],
    by: AuditActor,
    ordered: Hlc,
}

/// Whether a command is one that is written down. One that a node of another version sends without that is carried out.
pub fn is_audited(command: &ControlCommand) -> bool {
    planned(&ControlView::default(), command).is_some()
}

/// What a command is about to do, and in whose log that belongs. A new kind of command does not compile until somebody has
/// said whether it is written down.
fn planned(view: &ControlView, command: &ControlCommand) -> Option<(AuditScope, AuditAction)> {
    let site = |action| Some((AuditScope::Site, action));
    match command {
        ControlCommand::Found(found) => {
            site(AuditAction::Found(AuditedSite { name: found.name.clone(), groups: found.groups }))
        }
        ControlCommand::PutTenant(tenant) => {
            Some((AuditScope::Tenant(tenant.tenant), AuditAction::Tenant(planned_tenant(view, tenant))))
        }
        ControlCommand::PutLog(log) => {
            let action = AuditedLog {
                log: log.log,
                tenant_name: log.tenant_name.clone(),
                name: log.name.clone(),
                created: !view.logs.contains_key(&log.log),
                policy: log.policy.clone(),
            };
            Some((AuditScope::Tenant(log.tenant), AuditAction::Log(action)))
        }
        ControlCommand::PutPeer(peer) => {
            site(AuditAction::AddPeer(AuditedPeer { peer: peer.site, name: peer.name.clone() }))
        }
        ControlCommand::SetPeer((name, action)) => {
            site(AuditAction::SetPeer(AuditedPeerOrder { name: name.clone(), action: action.clone() }))
        }
        ControlCommand::PutToken(token) => {
            site(AuditAction::Token(AuditedToken { purpose: token.purpose.clone(), expires: token.expires }))
        }
        ControlCommand::RedeemToken(redeem) => {
            site(AuditAction::PeerJoined(AuditedPeer { peer: redeem.peer.site, name: redeem.peer.name.clone() }))
        }
        ControlCommand::JoinNode(_) => {
            site(AuditAction::NodeJoined(AuditedNode { node: NodeId(0), name: None, state: NodeState::Joining }))
        }
        // That a node is silent is what the site sees, not what somebody does.
        ControlCommand::SetNodeState((_, NodeState::Dead)) => None,
        ControlCommand::SetNodeState((node, state)) => {
            let name = view.nodes.get(node).map(|known| known.name.clone());
            site(AuditAction::SetNode(AuditedNode { node: *node, name, state: state.clone() }))
        }
        ControlCommand::SetGeometry(geometry) => site(AuditAction::SiteGeometry(*geometry)),
        ControlCommand::LimitRepair(limit) => site(AuditAction::RepairLimit(*limit)),
        ControlCommand::PutBackupTarget(target) => match &target.newest {
            None => {
                site(AuditAction::BackupTarget(AuditedTarget { name: target.name.clone(), url: target.url.clone() }))
            }
            Some(newest) => site(AuditAction::Backup(AuditedBackup {
                target: target.name.clone(),
                number: newest.number,
                cut: newest.cut,
                chunks: newest.chunks,
            })),
        },
        ControlCommand::ForgetBackupTarget(name) => site(AuditAction::ForgetBackupTarget(name.clone())),
        ControlCommand::ScheduleBackup(order) => site(AuditAction::BackupSchedule(AuditedSchedule {
            target: order.name.clone(),
            schedule: order.schedule.clone(),
        })),
        ControlCommand::Recover(recovery) => site(AuditAction::Recover(AuditedRecovery {
            incarnation: recovery.incarnation,
            lost: recovery.lost.clone(),
            emptied_groups: recovery.emptied.len() as u32,
        })),
        // One that was ordered has a name of its own. Others are listed when they are shown first: those of nodes follow from what
        // nodes do by themselves, invitations are in the log as tokens, and one that was issued at a node as that.
        ControlCommand::PutIdentity(put) => put.named.then(|| {
            let issued = listing(put.record.serial, Some(&put.record));
            (scope_of(&put.record.role), AuditAction::IssueIdentity(issued))
        }),
        ControlCommand::RevokeIdentity(revoke) => {
            let known = view.identities.get(&revoke.serial);
            let scope = known.map_or(AuditScope::Site, |known| scope_of(&known.role));
            Some((scope, AuditAction::RevokeIdentity(listing(revoke.serial, known))))
        }
        ControlCommand::IntroduceAuthority(introduce) => {
            site(AuditAction::IntroduceAuthority(introduce.next.generation))
        }
        ControlCommand::DropAuthority(order) => site(AuditAction::DropAuthority(order.force)),
        ControlCommand::PutPeerAuthorities(told) => site(AuditAction::TrustPeer(AuditedTrust {
            peer: told.site,
            change: told.change,
            certificates: told.certificates.iter().map(|der| *blake3::hash(der).as_bytes()).collect(),
        })),
        // What nodes say of themselves, and how the site keeps its own house.
        ControlCommand::RegisterNode(_)
        | ControlCommand::StepAuthority(_)
        | ControlCommand::StandNode(_)
        | ControlCommand::TellPeer(_)
        | ControlCommand::MovePeer(_)
        // The failover itself is written down.
        | ControlCommand::PlanCut(_)
        | ControlCommand::AssignGroup(_)
        | ControlCommand::SettleGroup(_)
        | ControlCommand::HoldBackup(_) => None,
        // What writes itself.
        ControlCommand::Audited(_) | ControlCommand::NoteAudit(_) | ControlCommand::AcceptAudit(_) => None,
    }
}

/// A tenant sees what becomes of its clients' identities.
fn scope_of(role: &IdentityRole) -> AuditScope {
    match role {
        IdentityRole::Client(tenant) => AuditScope::Tenant(*tenant),
        _ => AuditScope::Site,
    }
}

fn listing(serial: Serial, record: Option<&IdentityRecord>) -> AuditedListing {
    AuditedListing {
        serial,
        name: record.map(|record| record.name.clone()),
        role: record.map(|record| record.role.clone()),
        expires: record.map(|record| record.expires),
    }
}

fn planned_tenant(view: &ControlView, tenant: &Tenant) -> AuditedTenant {
    let known = view.tenants.get(&tenant.tenant);
    let is_new = |epoch: &&farside_codec::delta::EpochRecord| {
        known.is_none_or(|known| known.epochs.iter().all(|other| other.epoch != epoch.epoch))
    };
    let newest = tenant.epochs.iter().rfind(is_new);
    AuditedTenant {
        name: tenant.name.clone(),
        created: known.is_none(),
        epochs_added: tenant.epochs.iter().filter(is_new).count() as u32,
        newest: newest.map(|epoch| AuditedEpoch { epoch: epoch.epoch, key_version: epoch.key_version }),
    }
}

/// What came of it, where only that says it.
fn completed(view: &ControlView, action: AuditAction, outcome: &ControlOutcome) -> AuditAction {
    match (action, outcome) {
        (AuditAction::NodeJoined(joined), ControlOutcome::Joined(node)) => {
            let name = view.nodes.get(node).map(|known| known.name.clone());
            AuditAction::NodeJoined(AuditedNode { node: *node, name, ..joined })
        }
        (action, _) => action,
    }
}

/// What a stranger or a tenant tries in vain is not written down: they could fill the log by trying.
fn writes_failures(by: &AuditActor) -> bool {
    match by {
        AuditActor::Site(_) | AuditActor::Machine(_) => true,
        AuditActor::Certificate(name) => matches!(name.split('/').nth(3), Some("admin" | "node")),
    }
}

/// Carries a command out and writes down that it was. Committed again it answers as it did before.
pub(super) fn command(
    change: &Change,
    view: &mut ControlView,
    audited: AuditedCommand,
) -> Result<ControlOutcome, StateError> {
    if let Some(known) = answered(change, &audited.order)? {
        return Ok(known);
    }
    let command = match ControlCommand::from_bytes(audited.command) {
        Ok(command) => command,
        Err(error) => return Ok(refused(RefusalCode::BadRequest, &format!("no command: {error}"))),
    };
    let Some((scope, action)) = planned(view, &command) else {
        return Ok(refused(RefusalCode::BadRequest, "nothing that is written into an audit log"));
    };
    let own = view.site.as_ref().map(|site| site.site);
    // Whatever a site has lost, it goes on.
    let must = matches!(command, ControlCommand::Recover(_) | ControlCommand::Found(_));
    if let Some(own) = own.filter(|_| !must)
        && let Err(refusal) = has_room(change, own, MAX_AUDIT_ENTRIES)?
    {
        return Ok(ControlOutcome::Refused(refusal));
    }
    change.forget_altered();
    let outcome = ControlState::apply_one(change, view, command)?;
    let came = match &outcome {
        ControlOutcome::Refused(refusal) => writes_failures(&audited.by).then(|| AuditOutcome::failed(refusal)),
        // An order that finds everything as it is to be has changed nothing.
        ControlOutcome::Done | ControlOutcome::Joined(_) => change.has_altered().then_some(AuditOutcome::Done),
    };
    let stamp = Stamp { order: audited.order, by: audited.by, ordered: audited.ordered };
    if let Some(came) = came {
        let action = completed(view, action, &outcome);
        append(change, view, &stamp, scope, action, came)?;
    }
    remember(change, &stamp.order, &outcome)?;
    Ok(outcome)
}

/// Writes down what happened elsewhere. Committed again it does nothing.
pub(super) fn notes(
    change: &Change,
    view: &mut ControlView,
    notes: AuditNotes,
) -> Result<Result<(), Refusal>, StateError> {
    if answered(change, &notes.id)?.is_some() {
        return Ok(Ok(()));
    }
    let Some(own) = view.site.as_ref().map(|site| site.site) else {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, "the site was not founded yet")));
    };
    if notes.notes.is_empty() || notes.notes.len() > MAX_AUDIT_NOTES {
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, "too many notes at once, or none")));
    }
    if let Err(refusal) = has_room(change, own, MAX_AUDIT_ENTRIES + AUDIT_RESERVE)? {
        return Ok(Err(refusal));
    }
    let stamp = Stamp { order: notes.order, by: notes.by, ordered: notes.ordered };
    for note in notes.notes {
        append(change, view, &stamp, note.scope, note.action, note.outcome)?;
    }
    remember(change, &notes.id, &ControlOutcome::Done)?;
    Ok(Ok(()))
}

fn refused(code: RefusalCode, detail: &str) -> ControlOutcome {
    ControlOutcome::Refused(Refusal::new(code, detail))
}

fn has_room(rows: &impl Rows, site: SiteId, most: u64) -> Result<Result<(), Refusal>, StateError> {
    let count = count(rows, site)?;
    if count.entries < most && count.chains < MAX_AUDIT_CHAINS {
        return Ok(Ok(()));
    }
    let detail = format!(
        "the audit logs of the site hold {} entries, and that is as many as they can: nothing that would have to be \
         written down is done any more",
        count.entries
    );
    Ok(Err(Refusal::new(RefusalCode::Full, detail)))
}

fn scope_key(scope: &AuditScope) -> [u8; 17] {
    let mut key = [0; 17];
    if let AuditScope::Tenant(tenant) = scope {
        key[0] = 1;
        key[1..].copy_from_slice(&tenant.0);
    }
    key
}

fn log_key(site: SiteId, scope: &AuditScope) -> Key {
    Key::group(GroupId::CONTROL).site(site).part(&scope_key(scope))
}

fn entry_key(site: SiteId, scope: &AuditScope, incarnation: u64, sequence: u64) -> Key {
    log_key(site, scope).number(incarnation).number(sequence)
}

fn heads_key(site: SiteId, scope: Option<&AuditScope>) -> Key {
    let prefix = key(Kind::AuditHead, &site.0);
    match scope {
        Some(scope) => prefix.part(&scope_key(scope)),
        None => prefix,
    }
}

fn count(rows: &impl Rows, site: SiteId) -> Result<CountRow, StateError> {
    let row = rows.get(Table::Control, &key(Kind::AuditCount, &site.0))?.map(read_row).transpose()?;
    Ok(row.unwrap_or(CountRow { entries: 0, chains: 0 }))
}

fn heads(rows: &impl Rows, site: SiteId, scope: Option<&AuditScope>) -> Result<Vec<AuditHead>, StateError> {
    let prefix = heads_key(site, scope);
    let end = prefix.after_prefix().unwrap_or_default();
    let mut heads = Vec::new();
    rows.scan(Table::Control, &prefix[..]..&end[..], &mut |_, value| {
        heads.push(read_row(value.to_vec())?);
        Ok(true)
    })?;
    Ok(heads)
}

fn hash(
    rows: &impl Rows,
    site: SiteId,
    scope: &AuditScope,
    place: &AuditPlace,
) -> Result<Option<AuditHash>, StateError> {
    let row = rows.get(Table::Audit, &entry_key(site, scope, place.incarnation, place.sequence))?;
    Ok(row.map(|encoded| AuditHash::of(&encoded)))
}

/// Writes the next entry of one of this site's own logs.
fn append(
    change: &Change,
    view: &ControlView,
    stamp: &Stamp,
    scope: AuditScope,
    action: AuditAction,
    outcome: AuditOutcome,
) -> Result<(), StateError> {
    let Some(site) = &view.site else { return Ok(()) };
    let last = heads(change, site.site, Some(&scope))?.pop();
    let (sequence, previous, time) = next_after(last.as_ref(), stamp.ordered);
    let incarnation = last.as_ref().map_or(0, |last| last.incarnation).max(site.incarnation);
    let (ordered, order, by) = (stamp.ordered, stamp.order, stamp.by.clone());
    let entry = AuditEntry {
        site: site.site,
        incarnation,
        scope,
        sequence,
        previous,
        time,
        ordered,
        order,
        by,
        action,
        outcome,
    };
    let encoded = entry.to_bytes();
    let hash = AuditHash::of(&encoded);
    let (head, chains) = match last {
        Some(last) if last.incarnation == incarnation => (AuditHead { sequence, hash, time, ..last }, 0),
        _ => (AuditHead::begin(&entry, hash), 1),
    };
    change.put(Table::Audit, &entry_key(site.site, &entry.scope, incarnation, sequence), &encoded)?;
    put_head(change, &head)?;
    add_count(change, site.site, 1, chains)
}

fn put_head(change: &Change, head: &AuditHead) -> Result<(), StateError> {
    let key = heads_key(head.site, Some(&head.scope)).number(head.incarnation);
    change.put(Table::Control, &key, &head.to_bytes())
}

fn add_count(change: &Change, site: SiteId, entries: u64, chains: u64) -> Result<(), StateError> {
    let known = count(change, site)?;
    let row = CountRow { entries: known.entries + entries, chains: known.chains + chains };
    change.put(Table::Control, &key(Kind::AuditCount, &site.0), &row.to_bytes())
}

/// What was answered to an order that was carried out not long ago.
fn answered(rows: &impl Rows, order: &[u8; 16]) -> Result<Option<ControlOutcome>, StateError> {
    let row: Option<OrderRow> = rows.get(Table::Control, &key(Kind::AuditOrder, order))?.map(read_row).transpose()?;
    row.map(|row| ControlOutcome::from_bytes(row.outcome).map_err(StateError::Unreadable)).transpose()
}

/// Remembers an order, and forgets the one that was carried out so many orders ago.
fn remember(change: &Change, order: &[u8; 16], outcome: &ControlOutcome) -> Result<(), StateError> {
    let turns = key(Kind::AuditTurn, &[]);
    let end = turns.after_prefix().unwrap_or_default();
    let last = change.last_in(Table::Control, &turns[..]..&end[..])?;
    let turn = last.map_or(0, |(key, _)| super::keys::last_number(&key)) + 1;
    change.put(Table::Control, &turns.clone().number(turn), order)?;
    let row = OrderRow { turn, outcome: outcome.to_bytes() };
    change.put(Table::Control, &key(Kind::AuditOrder, order), &row.to_bytes())?;
    let Some(old) = turn.checked_sub(AUDIT_ORDERS) else { return Ok(()) };
    let old = turns.number(old);
    if let Some(order) = change.get(Table::Control, &old)? {
        change.remove(Table::Control, &key(Kind::AuditOrder, &order))?;
        change.remove(Table::Control, &old)?;
    }
    Ok(())
}

/// Entries of a peer that fit, and are not kept yet.
struct Taken<'a> {
    change: &'a Change,
    heads: BTreeMap<Vec<u8>, AuditHead>,
    entries: BTreeMap<Vec<u8>, Bytes>,
    chains: u64,
}

impl Taken<'_> {
    fn held(&self, key: &Key) -> Result<Option<AuditHash>, StateError> {
        match self.entries.get(&key[..]) {
            Some(encoded) => Ok(Some(AuditHash::of(encoded))),
            None => Ok(self.change.get(Table::Audit, key)?.map(|encoded| AuditHash::of(&encoded))),
        }
    }

    fn head(&self, key: &Key) -> Result<Option<AuditHead>, StateError> {
        match self.heads.get(&key[..]) {
            Some(head) => Ok(Some(head.clone())),
            None => self.change.get(Table::Control, key)?.map(read_row).transpose(),
        }
    }

    /// Takes an entry in, if it is the next one of its log or one that is there already.
    fn take(&mut self, entry: &AuditEntry, encoded: Bytes) -> Result<Result<(), Refusal>, StateError> {
        let hash = AuditHash::of(&encoded);
        let (site, scope, incarnation) = (entry.site, &entry.scope, entry.incarnation);
        let place = entry_key(site, scope, incarnation, entry.sequence);
        let head_key = heads_key(site, Some(scope)).number(incarnation);
        let head = match self.head(&head_key)? {
            Some(head) if entry.sequence <= head.sequence => {
                return Ok(match self.held(&place)? == Some(hash) {
                    true => Ok(()),
                    false => Err(differs(entry)),
                });
            }
            Some(head) => head.follow(entry, hash),
            None => {
                self.chains += 1;
                match self.begins(entry)? {
                    true => Ok(AuditHead::begin(entry, hash)),
                    false => Err(ChainFault::Broken { sequence: entry.sequence }),
                }
            }
        };
        match head {
            Ok(head) => {
                self.heads.insert(head_key.to_vec(), head);
                self.entries.insert(place.to_vec(), encoded);
                Ok(Ok(()))
            }
            Err(fault @ ChainFault::Broken { .. }) => Ok(Err(Refusal::new(RefusalCode::Diverged, fault.to_string()))),
            Err(fault) => Ok(Err(Refusal::new(RefusalCode::BadRequest, fault.to_string()))),
        }
    }

    /// Whether a chain may begin with an entry: the first of all, or one that goes on where an earlier incarnation was.
    fn begins(&self, entry: &AuditEntry) -> Result<bool, StateError> {
        let Some(before) = entry.sequence.checked_sub(1) else { return Ok(false) };
        if before == 0 {
            return Ok(entry.previous == AuditHash::ZERO);
        }
        let prefix = heads_key(entry.site, Some(&entry.scope));
        let pending = self.heads.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, head)| head.incarnation);
        let stored = heads(self.change, entry.site, Some(&entry.scope))?;
        let earlier = stored.iter().map(|head| head.incarnation).chain(pending);
        for incarnation in earlier.filter(|incarnation| *incarnation < entry.incarnation) {
            let key = entry_key(entry.site, &entry.scope, incarnation, before);
            if self.held(&key)? == Some(entry.previous) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn differs(entry: &AuditEntry) -> Refusal {
    let detail =
        format!("entry {} of the audit log is another one here than there: one of the two was altered", entry.sequence);
    Refusal::new(RefusalCode::Diverged, detail)
}

/// Keeps what a peer wrote: all of it, or nothing.
pub(super) fn accept(change: &Change, view: &ControlView, accept: AcceptAudit) -> Result<Outcome, StateError> {
    let bad = |detail: String| Ok(Err(Refusal::new(RefusalCode::BadRequest, detail)));
    if !view.peers.contains_key(&accept.site) {
        return Ok(Err(Refusal::new(RefusalCode::Forbidden, "the site whose audit log that is, is no peer")));
    }
    let mut taken = Taken { change, heads: BTreeMap::new(), entries: BTreeMap::new(), chains: 0 };
    for encoded in accept.entries {
        if encoded.len() > MAX_AUDIT_ENTRY_BYTES {
            return bad(format!("an entry of an audit log is {} bytes, which is too many", encoded.len()));
        }
        let entry = match AuditEntry::from_bytes(encoded.clone()) {
            Ok(entry) if entry.site == accept.site => entry,
            Ok(_) => return bad("an entry of an audit log is another site's than the one that sends it".into()),
            Err(error) => return bad(format!("an entry of an audit log can't be read: {error}")),
        };
        if let Err(refusal) = taken.take(&entry, encoded)? {
            return Ok(Err(refusal));
        }
    }
    let Taken { heads, entries, chains, .. } = taken;
    let known = count(change, accept.site)?;
    let most = MAX_AUDIT_ENTRIES + AUDIT_RESERVE;
    if known.entries + entries.len() as u64 > most || known.chains + chains > MAX_AUDIT_CHAINS {
        let detail =
            format!("{} entries of the peer's audit logs are kept here, and that is as many as can be", known.entries);
        return Ok(Err(Refusal::new(RefusalCode::Full, detail)));
    }
    for (key, encoded) in &entries {
        change.put(Table::Audit, key, encoded)?;
    }
    heads.values().try_for_each(|head| put_head(change, head))?;
    add_count(change, accept.site, entries.len() as u64, chains)?;
    Ok(Ok(()))
}

impl ControlState {
    /// How many entries there are of a site's audit logs.
    pub fn audit_count(&self, site: SiteId) -> Result<u64, StateError> {
        Ok(count(&self.database().read()?, site)?.entries)
    }

    /// Where the chains end of what a site wrote, by scope and incarnation.
    pub fn audit_heads(&self, site: SiteId, scope: Option<&AuditScope>) -> Result<Vec<AuditHead>, StateError> {
        heads(&self.database().read()?, site, scope)
    }

    /// The hashes of entries, as they are stored.
    pub fn audit_hashes(
        &self,
        site: SiteId,
        scope: &AuditScope,
        places: &[AuditPlace],
    ) -> Result<Vec<Option<AuditHash>>, StateError> {
        let rows = self.database().read()?;
        places.iter().map(|place| hash(&rows, site, scope, place)).collect()
    }

    /// Entries from a place on, up to a number and a size; one always fits.
    pub fn audit_entries(
        &self,
        site: SiteId,
        scope: &AuditScope,
        from: &AuditPlace,
        limit: usize,
        bytes: usize,
    ) -> Result<AuditEntries, StateError> {
        let rows = self.database().read()?;
        let start = entry_key(site, scope, from.incarnation, from.sequence);
        let end = log_key(site, scope).after_prefix().unwrap_or_default();
        let (mut entries, mut size, mut more) = (Vec::<Bytes>::new(), 0, false);
        rows.scan(Table::Audit, &start[..]..&end[..], &mut |_, value| {
            more = entries.len() >= limit || !entries.is_empty() && size + value.len() > bytes;
            if !more {
                size += value.len();
                entries.push(Bytes::copy_from_slice(value));
            }
            Ok(!more)
        })?;
        Ok(AuditEntries { entries, more, heads: heads(&rows, site, Some(scope))? })
    }
}
