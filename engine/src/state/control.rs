//! The control group's machine: tenants, logs, peers, tokens. Small, so that all of it is in memory as well.

use super::database::{Change, Database, Rows, Table};
use super::keys::Key;
use super::limits::{MAX_CUT_PLANS, MAX_EPOCHS_BYTES, MAX_LOGS, MAX_TENANTS, MAX_TOKENS};
use super::log_group::{read_row, store_applied, stored_applied};
use super::snapshot;
use super::{audit, authorities, backups, identities, nodes, peers, recover};
use crate::cluster::map::PlacementMap;
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::authority::{Authorities, NodeStanding, PeerAuthorities, PeerTold};
use farside_codec::cluster::{GroupRecord, NodeRecord};
use farside_codec::command::{
    ControlCommand, ControlOutcome, CutPlan, PendingToken, RedeemToken, SiteRecord, TokenPurpose,
};
use farside_codec::delta::LogDescriptor;
use farside_codec::dump::{BackupTarget, HeldBackup};
use farside_codec::erasure::Geometry;
use farside_codec::identity::{IdentityRecord, Serial};
use farside_codec::ids::{GroupId, Hlc, Label, LogId, NodeId, SiteId, TenantId};
use farside_codec::message::{PeerLimits, PeerRecord, Refusal, RefusalCode, Tenant};
use farside_codec::peer::{PeerHold, PeerLimit};
use farside_raft::{Applied, SnapshotPieces, StateError, StateMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// Everything that the control group has agreed on. Shared with every shard, replaced whole.
#[derive(Debug, Clone, Default)]
pub struct ControlView {
    /// The site; `None` before its first command.
    pub site: Option<SiteRecord>,
    /// Tenants.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Logs.
    pub logs: BTreeMap<LogId, LogDescriptor>,
    /// Peers.
    pub peers: BTreeMap<SiteId, PeerRecord>,
    /// The cuts of failovers that have begun and are not over, by when they were made.
    pub cut_plans: BTreeMap<Hlc, CutPlan>,
    /// How fast peers are sent chunks, where somebody has said so.
    pub peer_limits: BTreeMap<SiteId, Vec<PeerLimit>>,
    /// How long what peers lack is kept, where somebody has said so.
    pub peer_holds: BTreeMap<SiteId, PeerHold>,
    /// Tokens that wait for whom they let in.
    pub tokens: BTreeMap<[u8; 32], PendingToken>,
    /// Nodes, also those that are out for good.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Groups whose members are no longer the first node alone.
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// By which attempt a node was let in, to answer a repeated one.
    pub attempts: BTreeMap<[u8; 16], NodeId>,
    /// Counts changes of the placement map, and of how chunks are cut.
    pub placement_epoch: u64,
    /// How chunks are cut; `None`: as the site was made.
    pub geometry: Option<Geometry>,
    /// What repair may read and write on each node, in bytes a second; 0: there is no limit.
    pub repair_limit: u64,
    /// What is kept for backups that read.
    pub backup_holds: BTreeMap<[u8; 16], HeldBackup>,
    /// Where backups go.
    pub backup_targets: BTreeMap<Label, BackupTarget>,
    /// Identities that the site has issued.
    pub identities: Arc<BTreeMap<Serial, IdentityRecord>>,
    /// Those of them that are refused.
    pub revoked: Arc<BTreeSet<Serial>>,
    /// The site's authorities; `None`: it has the one that it was made with.
    pub authorities: Option<Arc<Authorities>>,
    /// How far nodes have come along with them.
    pub standings: BTreeMap<NodeId, NodeStanding>,
    /// How far peers have.
    pub peers_told: BTreeMap<SiteId, PeerTold>,
    /// Whom to trust about peers, where they have said so since they joined.
    pub peer_authorities: BTreeMap<SiteId, PeerAuthorities>,
    /// The placement map of `nodes`.
    pub map: Arc<PlacementMap>,
}

impl ControlView {
    fn add_tenant(&mut self, tenant: Tenant) {
        self.tenants.insert(tenant.tenant, tenant);
    }
    fn add_log(&mut self, log: LogDescriptor) {
        self.logs.insert(log.log, log);
    }
    pub(super) fn add_peer(&mut self, peer: PeerRecord) {
        self.peers.insert(peer.site, peer);
    }
    fn add_token(&mut self, token: PendingToken) {
        self.tokens.insert(token.secret_hash, token);
    }
    pub(super) fn add_node(&mut self, node: NodeRecord) {
        self.nodes.insert(node.node, node);
    }
    pub(super) fn draw_map(&mut self) {
        self.map = Arc::new(PlacementMap::new(self.nodes.values()));
    }
    /// Whether a backup reads at `now`, so that nothing may be pruned.
    pub fn backup_reads(&self, now: Hlc) -> bool {
        self.backup_holds.values().any(|held| held.until > now)
    }
    /// Who should be in a log group. The first node of a site begins with all groups.
    pub fn group(&self, group: GroupId) -> GroupRecord {
        let first = || {
            let leader = NodeId(1);
            GroupRecord { group, members: vec![leader], leader, leaving: Vec::new(), stints: 0 }
        };
        self.groups.get(&group).cloned().unwrap_or_else(first)
    }
    /// The nodes that should be members of a log group.
    pub fn members(&self, group: GroupId) -> Vec<NodeId> {
        self.group(group).members.into_iter().map(NodeId::node).collect()
    }
    /// A node by name.
    pub fn node(&self, name: &Label) -> Option<&NodeRecord> {
        self.nodes.values().find(|node| node.name == *name)
    }
    /// A tenant by name.
    pub fn tenant(&self, name: &Label) -> Option<&Tenant> {
        self.tenants.values().find(|tenant| tenant.name == *name)
    }
    /// A log by its tenant's name and its own.
    pub fn log(&self, tenant: &Label, name: &Label) -> Option<&LogDescriptor> {
        self.logs.values().find(|log| log.tenant_name == *tenant && log.name == *name)
    }
    /// A peer by name.
    pub fn peer(&self, name: &Label) -> Option<&PeerRecord> {
        self.peers.values().find(|peer| peer.name == *name)
    }
    /// What to call a site: its name, or its id where nobody here knows one.
    pub fn call_site(&self, site: SiteId) -> String {
        self.site_name(site).map_or_else(|| site.to_string(), ToString::to_string)
    }
    /// What was said of how long what a peer lacks is kept.
    pub fn hold(&self, peer: SiteId) -> PeerHold {
        self.peer_holds.get(&peer).cloned().unwrap_or(PeerHold::UNSAID)
    }
    /// Everything that was said of a peer's bounds.
    pub fn bounds(&self, peer: SiteId) -> PeerLimits {
        let limits = self.peer_limits.get(&peer).cloned().unwrap_or_default();
        PeerLimits { site: peer, limits, hold: self.hold(peer) }
    }
    /// The name of a site, this one or a peer.
    pub fn site_name(&self, site: SiteId) -> Option<&Label> {
        let own = self.site.as_ref().filter(|own| own.site == site).map(|own| &own.name);
        own.or_else(|| self.peers.get(&site).map(|peer| &peer.name))
    }
}

/// Kinds of rows in [`Table::Control`].
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Site = 1,
    Tenant = 2,
    Log = 3,
    Peer = 4,
    Token = 5,
    Node = 6,
    Group = 7,
    Attempt = 8,
    Epoch = 9,
    RepairLimit = 10,
    BackupHold = 11,
    BackupTarget = 12,
    Geometry = 13,
    CutPlan = 14,
    Identity = 40,
    Authorities = 41,
    NodeStanding = 42,
    PeerTold = 43,
    PeerAuthorities = 44,
    PeerLimits = 45,
    AuditHead = 30,
    AuditCount = 31,
    AuditOrder = 32,
    AuditTurn = 33,
}

/// The control group's state.
pub struct ControlState {
    database: Database,
    view: Arc<ControlView>,
    /// Woken when the view was replaced.
    changed: Rc<Notify>,
}

pub(super) fn key(kind: Kind, id: &[u8]) -> Key {
    Key::group(GroupId::CONTROL).part(&[kind as u8]).part(id)
}

pub(super) type Outcome = Result<(), Refusal>;

pub(super) fn exists(detail: String) -> Outcome {
    Err(Refusal::new(RefusalCode::Exists, detail))
}

pub(super) fn full<T>(what: &str, limit: usize) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalCode::Full, format!("the site has {limit} {what}, and that is as many as it can have")))
}

impl ControlState {
    /// The control state in shard 0's file.
    pub fn new(database: Database) -> Result<Self, StateError> {
        let mut state = Self { database, view: Arc::default(), changed: Rc::default() };
        state.load()?;
        Ok(state)
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// What it says now.
    pub fn view(&self) -> Arc<ControlView> {
        self.view.clone()
    }
    /// The signal that it says something else.
    pub fn changed(&self) -> Rc<Notify> {
        self.changed.clone()
    }

    fn load(&mut self) -> Result<(), StateError> {
        let mut view = ControlView::default();
        let prefix = Key::group(GroupId::CONTROL);
        let end = prefix.after_prefix().unwrap_or_default();
        self.database.read()?.scan(Table::Control, &prefix[..]..&end[..], &mut |key, value| {
            let value = value.to_vec();
            match key.get(4).copied() {
                Some(1) => view.site = Some(read_row(value)?),
                Some(2) => view.add_tenant(read_row(value)?),
                Some(3) => view.add_log(read_row(value)?),
                Some(4) => view.add_peer(read_row(value)?),
                Some(5) => view.add_token(read_row(value)?),
                Some(6) => view.add_node(read_row(value)?),
                Some(7) => {
                    let group: GroupRecord = read_row(value)?;
                    view.groups.insert(group.group, group);
                }
                Some(8) => {
                    let (attempt, node) = read_row(value)?;
                    view.attempts.insert(attempt, node);
                }
                Some(9) => view.placement_epoch = read_row(value)?,
                Some(10) => view.repair_limit = read_row(value)?,
                Some(11) => {
                    let held: HeldBackup = read_row(value)?;
                    view.backup_holds.insert(held.id, held);
                }
                Some(12) => {
                    let target: BackupTarget = read_row(value)?;
                    view.backup_targets.insert(target.name.clone(), target);
                }
                Some(13) => view.geometry = Some(read_row(value)?),
                Some(14) => {
                    let plan: CutPlan = read_row(value)?;
                    view.cut_plans.insert(plan.made, plan);
                }
                Some(40) => identities::add(&mut view, read_row(value)?),
                Some(41) => view.authorities = Some(Arc::new(read_row(value)?)),
                Some(42) => {
                    let standing: NodeStanding = read_row(value)?;
                    view.standings.insert(standing.node, standing);
                }
                Some(43) => {
                    let told: PeerTold = read_row(value)?;
                    view.peers_told.insert(told.peer, told);
                }
                Some(44) => {
                    let said: PeerAuthorities = read_row(value)?;
                    view.peer_authorities.insert(said.site, said);
                }
                Some(45) => {
                    let PeerLimits { site, limits, hold } = read_row(value)?;
                    if !limits.is_empty() {
                        view.peer_limits.insert(site, limits);
                    }
                    if hold != PeerHold::UNSAID {
                        view.peer_holds.insert(site, hold);
                    }
                }
                _ => {}
            }
            Ok(true)
        })?;
        view.draw_map();
        self.view = Arc::new(view);
        Ok(())
    }

    pub(super) fn apply_one(
        change: &Change,
        view: &mut ControlView,
        command: ControlCommand,
    ) -> Result<ControlOutcome, StateError> {
        let outcome = match command {
            ControlCommand::JoinNode((join, time)) => {
                return Ok(match nodes::join(change, view, join, time)? {
                    Ok(node) => ControlOutcome::Joined(node),
                    Err(refusal) => ControlOutcome::Refused(refusal),
                });
            }
            ControlCommand::Audited(audited) => return audit::command(change, view, audited),
            ControlCommand::NoteAudit(notes) => audit::notes(change, view, notes)?,
            ControlCommand::AcceptAudit(entries) => audit::accept(change, view, entries)?,
            ControlCommand::RegisterNode(beat) => nodes::register(change, view, beat)?,
            ControlCommand::SetNodeState((node, state)) => nodes::set_state(change, view, node, state)?,
            ControlCommand::AssignGroup(group) => nodes::assign(change, view, group)?,
            ControlCommand::LimitRepair(limit) => {
                change.put(Table::Control, &key(Kind::RepairLimit, &[]), &limit.to_bytes())?;
                view.repair_limit = limit;
                Ok(())
            }
            ControlCommand::PlanCut((plan, instead_of)) => plan_cut(change, view, plan, &instead_of)?,
            ControlCommand::SetGeometry(geometry) => nodes::set_geometry(change, view, geometry)?,
            ControlCommand::HoldBackup(held) => backups::hold(change, view, held)?,
            ControlCommand::PutBackupTarget(target) => backups::put_target(change, view, target)?,
            ControlCommand::ScheduleBackup(order) => backups::schedule(change, view, order)?,
            ControlCommand::ForgetBackupTarget(name) => backups::forget_target(change, view, &name)?,
            ControlCommand::SettleGroup((group, members)) => nodes::settle(change, view, group, &members)?,
            ControlCommand::Recover(recovery) => recover::apply(change, view, recovery)?,
            ControlCommand::PutIdentity(put) => identities::put(change, view, put)?,
            ControlCommand::RevokeIdentity(order) => identities::revoke(change, view, order)?,
            ControlCommand::IntroduceAuthority(order) => authorities::introduce(change, view, order)?,
            ControlCommand::StepAuthority(of) => authorities::step(change, view, of)?,
            ControlCommand::DropAuthority(order) => authorities::drop_old(change, view, order)?,
            ControlCommand::StandNode(standing) => authorities::stand(change, view, standing)?,
            ControlCommand::TellPeer(told) => authorities::tell(change, view, told)?,
            ControlCommand::MovePeer(said) => peers::move_peer(change, view, said)?,
            ControlCommand::PutPeerAuthorities(said) => authorities::trust_peer(change, view, said)?,
            ControlCommand::Found(site) => match &view.site {
                Some(known) if *known != site => exists("the site was founded before".into()),
                _ => {
                    change.put(Table::Control, &key(Kind::Site, &[]), &site.to_bytes())?;
                    view.site = Some(site);
                    Ok(())
                }
            },
            ControlCommand::PutTenant(tenant) => put_tenant(change, view, tenant)?,
            ControlCommand::PutLog(log) => put_log(change, view, log)?,
            ControlCommand::PutPeer(peer) => peers::put(change, view, peer)?,
            ControlCommand::SetPeer((name, action)) => peers::set(change, view, &name, action)?,
            ControlCommand::PutToken(token) => put_token(change, view, token)?,
            ControlCommand::RedeemToken(redeem) => redeem_token(change, view, redeem)?,
        };
        Ok(match outcome {
            Ok(()) => ControlOutcome::Done,
            Err(refusal) => ControlOutcome::Refused(refusal),
        })
    }
}

fn put_tenant(change: &Change, view: &mut ControlView, tenant: Tenant) -> Result<Outcome, StateError> {
    if view.tenant(&tenant.name).is_some_and(|known| known.tenant != tenant.tenant) {
        return Ok(exists(format!("tenant {} exists already", tenant.name)));
    }
    if view.tenants.len() >= MAX_TENANTS && !view.tenants.contains_key(&tenant.tenant) {
        return Ok(full("tenants", MAX_TENANTS));
    }
    let mut merged = view.tenants.get(&tenant.tenant).cloned().unwrap_or_else(|| tenant.clone());
    if merged.name != tenant.name {
        return Ok(exists(format!("tenant {} exists under another name", tenant.name)));
    }
    for epoch in tenant.epochs {
        if !merged.epochs.iter().any(|known| known.epoch == epoch.epoch) {
            merged.epochs.push(epoch);
        }
    }
    if merged.epochs.iter().map(|epoch| epoch.to_bytes().len()).sum::<usize>() > MAX_EPOCHS_BYTES {
        let detail = format!("tenant {} has as many key epochs as can be listed", merged.name);
        return Ok(Err(Refusal::new(RefusalCode::Full, detail)));
    }
    change.put(Table::Control, &key(Kind::Tenant, &merged.tenant.0), &merged.to_bytes())?;
    view.add_tenant(merged);
    Ok(Ok(()))
}

fn put_log(change: &Change, view: &mut ControlView, log: LogDescriptor) -> Result<Outcome, StateError> {
    if view.log(&log.tenant_name, &log.name).is_some_and(|known| known.log != log.log) {
        return Ok(exists(format!("log {}/{} exists already", log.tenant_name, log.name)));
    }
    if view.tenants.get(&log.tenant).is_none_or(|tenant| tenant.name != log.tenant_name) {
        return Ok(Err(Refusal::new(RefusalCode::NotFound, format!("there is no tenant {}", log.tenant_name))));
    }
    if !log.policy.is_bounded() {
        let detail = "the log's policy names more sites than there can be";
        return Ok(Err(Refusal::new(RefusalCode::BadRequest, detail)));
    }
    let merged = match view.logs.get(&log.log) {
        None if view.logs.len() >= MAX_LOGS => return Ok(full("logs", MAX_LOGS)),
        None => log,
        Some(known) if known.tenant != log.tenant || known.name != log.name => {
            return Ok(exists(format!("the log's id belongs to {}/{} already", known.tenant_name, known.name)));
        }
        Some(known) if known.policy_version >= log.policy_version => return Ok(Ok(())),
        Some(known) => LogDescriptor { policy: log.policy, policy_version: log.policy_version, ..known.clone() },
    };
    change.put(Table::Control, &key(Kind::Log, &merged.log.0), &merged.to_bytes())?;
    view.add_log(merged);
    Ok(Ok(()))
}

/// Two orders at once must not cut a log at two times. Committed again it changes nothing more.
fn plan_cut(
    change: &Change,
    view: &mut ControlView,
    plan: Option<CutPlan>,
    instead_of: &[Hlc],
) -> Result<Outcome, StateError> {
    let row = |made: Hlc| key(Kind::CutPlan, &made.0.to_be_bytes());
    if let Some(plan) = &plan {
        let has = |other: &CutPlan| {
            let logs = || other.logs.iter().map(|planned| planned.log);
            plan.logs.iter().any(|planned| logs().any(|log| log == planned.log))
        };
        let others =
            || view.cut_plans.values().filter(|other| other.made != plan.made && !instead_of.contains(&other.made));
        if others().any(has) {
            let detail = "another failover to a cut of some of these logs has just begun: try again";
            return Ok(Err(Refusal::retry(RefusalCode::Busy, 200, detail)));
        }
        if others().count() >= MAX_CUT_PLANS {
            return Ok(full("failovers to a cut under way", MAX_CUT_PLANS));
        }
        if plan.logs.len() > MAX_LOGS {
            return Ok(full("logs", MAX_LOGS));
        }
    }
    for made in instead_of {
        change.remove(Table::Control, &row(*made))?;
        view.cut_plans.remove(made);
    }
    if let Some(plan) = plan {
        change.put(Table::Control, &row(plan.made), &plan.to_bytes())?;
        view.cut_plans.insert(plan.made, plan);
    }
    Ok(Ok(()))
}

fn put_token(change: &Change, view: &mut ControlView, token: PendingToken) -> Result<Outcome, StateError> {
    if view.tokens.len() >= MAX_TOKENS
        && let Some(oldest) = view.tokens.values().min_by_key(|token| token.expires).map(|token| token.secret_hash)
    {
        // The one that would expire first gives way.
        change.remove(Table::Control, &key(Kind::Token, &oldest))?;
        view.tokens.remove(&oldest);
    }
    change.put(Table::Control, &key(Kind::Token, &token.secret_hash), &token.to_bytes())?;
    view.add_token(token);
    Ok(Ok(()))
}

/// Whom a token lets in, if it is still good.
pub(super) fn token_purpose(view: &ControlView, secret_hash: &[u8; 32], time: Hlc) -> Result<TokenPurpose, Refusal> {
    let good = view.tokens.get(secret_hash).filter(|token| token.expires > time);
    good.map(|token| token.purpose.clone()).ok_or_else(|| {
        let detail = "the token was used before, has expired, or was not made here: ask for a new one";
        Refusal::new(RefusalCode::Forbidden, detail)
    })
}

/// Uses a token up. One that let nobody in is still good.
pub(super) fn use_up(change: &Change, view: &mut ControlView, secret_hash: &[u8; 32]) -> Result<(), StateError> {
    change.remove(Table::Control, &key(Kind::Token, secret_hash))?;
    view.tokens.remove(secret_hash);
    Ok(())
}

/// A token of the other kind opens nothing.
pub(super) fn wrong_token() -> Refusal {
    Refusal::new(RefusalCode::Forbidden, "the token was made for something else: ask for the right one")
}

fn redeem_token(change: &Change, view: &mut ControlView, redeem: RedeemToken) -> Result<Outcome, StateError> {
    match token_purpose(view, &redeem.secret_hash, redeem.time) {
        Ok(TokenPurpose::Peer) => {}
        Ok(TokenPurpose::Node(_)) => return Ok(Err(wrong_token())),
        Err(refusal) => return Ok(Err(refusal)),
    }
    let outcome = peers::put(change, view, redeem.peer)?;
    if outcome.is_ok() {
        use_up(change, view, &redeem.secret_hash)?;
    }
    Ok(outcome)
}

impl StateMachine for ControlState {
    fn applied(&self) -> Result<Applied, StateError> {
        stored_applied(&self.database.read()?, GroupId::CONTROL)
    }

    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError> {
        let change = self.database.write()?;
        let mut view = (*self.view).clone();
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            let command = ControlCommand::from_bytes(command.clone()).map_err(StateError::Unreadable)?;
            outcomes.push(Self::apply_one(&change, &mut view, command)?.to_bytes());
        }
        store_applied(&change, GroupId::CONTROL, applied)?;
        change.commit()?;
        self.view = Arc::new(view);
        self.changed.notify_one();
        Ok(outcomes)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError> {
        Ok(Box::new(snapshot::Pieces::new(self.database.read()?, GroupId::CONTROL, snapshot::Cut::BySize)))
    }
    fn install_begin(&mut self) -> Result<(), StateError> {
        self.view = Arc::default();
        snapshot::begin(&self.database, GroupId::CONTROL)
    }
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError> {
        snapshot::piece(&self.database, GroupId::CONTROL, piece)
    }
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError> {
        snapshot::finish(&self.database, GroupId::CONTROL, applied)?;
        self.load()?;
        self.changed.notify_one();
        Ok(())
    }
}
