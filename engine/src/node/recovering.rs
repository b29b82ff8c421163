//! `recover-quorum`, while the node is stopped: says what the node has, and has it go on by a plan that every node that is left
//! comes to ([`crate::cluster::recovery`]).
//!
//! What a plan asks of a node is written in this order: the plan, the groups' logs, and last the site's new incarnation. Until
//! that is there the node does not start, and the same command goes on; once it is there the plan is carried out, for good.

use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::keys::{HeldKey, PassphraseSource};
use super::recovered;
use super::renewing::RestoredAt;
use super::run::{open_storage, take};
use super::seed::{ShardSeed, Storage, shard_seeds};
use super::snapshots::ChunkSnapshots;
use super::start::{check_log, open_wal, seat_devices};
use crate::cluster::recovery::Plan;
use crate::framed::{self, FileKind, FramedFileError};
use crate::machine::Machine;
use crate::state::{ControlState, ControlView, Database, LogGroupState, LogView};
use crate::store::{DeviceSet, Store};
use farside_codec::ids::{GroupId, Hlc, NodeId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::record::wal::{LogPosition, Vote, WalRecord};
use farside_codec::recovery::{ForcedGroup, GroupReport, LogReport, NamedLog, NodeReport};
use farside_io::pool::Pool;
use farside_io::uring::{self, UringDisk};
use farside_raft::wal::{GroupLog, Wal};
use farside_raft::{Applied, StateMachine, offline};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

fn refused(detail: impl Into<String>) -> NodeError {
    NodeError::Refused(Refusal::new(RefusalCode::Unsafe, detail))
}

/// Reads a report that a node has written.
pub fn read_report(path: &Path) -> Result<NodeReport, NodeError> {
    Ok(framed::read_record(path, FileKind::Report)?)
}

/// Writes a report.
pub fn write_report(path: &Path, report: &NodeReport) -> Result<(), NodeError> {
    Ok(framed::write_record(path, FileKind::Report, report)?)
}

/// What the node at `root` has. It must not be running.
pub fn report(root: &Path, source: &PassphraseSource) -> Result<NodeReport, NodeError> {
    let (directory, site, _lock) = take(root)?;
    uring::check_io_uring().map_err(failed)?;
    let (seeds, _) = shard_seeds::<UringDisk>(root, HeldKey::of_command(&directory, source)?)?;
    let (mut groups, mut view) = (Vec::new(), ControlView::default());
    for seed in &seeds {
        let (found, said) = uring::start(examine(seed)).map_err(failed)??;
        groups.extend(found);
        view = said.unwrap_or(view);
    }
    groups.sort_by_key(|group| group.group);
    let named = |log: &farside_codec::delta::LogDescriptor| NamedLog {
        log: log.log,
        tenant: log.tenant_name.clone(),
        name: log.name.clone(),
    };
    Ok(NodeReport {
        site: site.site,
        site_name: site.name,
        incarnation: site.incarnation,
        node: site.node,
        made: Hlc::from_ms(Machine::real().clock.wall_ms()),
        log_groups: site.groups,
        nodes: view.nodes.values().cloned().collect(),
        assigned: (1..=site.groups).map(|group| view.group(GroupId(group))).collect(),
        logs: view.logs.values().map(named).collect(),
        groups,
    })
}

type Opened = (DeviceSet<UringDisk>, Pool, Wal<UringDisk>);

async fn open(seed: &ShardSeed<UringDisk>) -> Result<Opened, NodeError> {
    let Storage { pool, candidates, .. } = open_storage(seed)?;
    let devices = seat_devices(seed, &pool, candidates).await?;
    let (wal, _) = open_wal(seed, devices.wal_regions(seed.index), &pool).await?;
    Ok((devices, pool, wal))
}

/// The groups that a shard runs its part of.
fn groups_of(seed: &ShardSeed<UringDisk>) -> impl Iterator<Item = GroupId> {
    let (shards, index) = (seed.site.shards, seed.index);
    (0..=seed.site.groups).map(GroupId).filter(move |group| group.shard(shards) == index)
}

/// Under which number a node takes part in a group, as a start would see it; 0: it does not.
fn member_of(log: &GroupLog, group: GroupId, own: NodeId) -> NodeId {
    match group {
        GroupId::CONTROL => own,
        _ => log.takes_part_as(own).unwrap_or(NodeId(0)),
    }
}

async fn examine(seed: &ShardSeed<UringDisk>) -> Result<(Vec<GroupReport>, Option<ControlView>), NodeError> {
    let (devices, pool, wal) = open(seed).await?;
    let store = Store::open(&devices, seed.index, pool).await.map_err(failed)?;
    let snapshots = Rc::new(ChunkSnapshots::new(store));
    let (database, _) = Database::open(&NodeDirectory::new(&seed.root).state(seed.index)).map_err(failed)?;
    check_log(seed, &wal, &database)?;
    let (mut reports, mut view) = (Vec::new(), None);
    for group in groups_of(seed) {
        let member = wal.group(group, |log| member_of(log, group, seed.site.node));
        let (mut logs, mut stored) = (Vec::new(), Applied::default());
        if group == GroupId::CONTROL {
            let state = Rc::new(RefCell::new(ControlState::new(database.clone()).map_err(failed)?));
            let commands = unapplied(&wal, group, &state, &snapshots).await?;
            view = Some(state.borrow().preview(&commands).map_err(unreadable)?);
            stored = state.borrow().applied().map_err(failed)?;
        } else if member != NodeId(0) {
            let state = Rc::new(RefCell::new(LogGroupState::new(database.clone(), group, seed.site.site)));
            let commands = unapplied(&wal, group, &state, &snapshots).await?;
            logs = state.borrow().preview(&commands).map_err(unreadable)?;
            stored = state.borrow().applied().map_err(failed)?;
        }
        let logs = logs.into_iter().map(|log| log_report(log, seed.site.site)).collect();
        let Applied { last: applied, membership } = stored;
        reports.push(wal.group(group, |log| GroupReport {
            group,
            member,
            vote: log.vote(),
            last: log.end(),
            committed: furthest([log.committed(), log.covered(), applied]),
            covered: log.covered(),
            leaders: last_of(log.leaders()),
            membership: log.membership().unwrap_or(membership.membership),
            logs,
        }));
    }
    wal.close().await;
    Ok((reports, view))
}

/// What a commit mark that was not written down in time says less than what was done because of it.
fn furthest(known: [Option<LogPosition>; 3]) -> Option<LogPosition> {
    known.into_iter().flatten().max_by_key(|position| position.index)
}

/// As many as a report holds of where leaders' entries begin.
const MAX_LEADERS: usize = 1024;

fn last_of(mut leaders: Vec<LogPosition>) -> Vec<LogPosition> {
    leaders.drain(..leaders.len().saturating_sub(MAX_LEADERS));
    leaders
}

fn unreadable(error: farside_raft::StateError) -> NodeError {
    NodeError::Corrupt(error.to_string())
}

/// Brings a state to where its log begins, and answers with what the log holds besides.
async fn unapplied<S: StateMachine>(
    wal: &Wal<UringDisk>,
    group: GroupId,
    state: &Rc<RefCell<S>>,
    snapshots: &Rc<ChunkSnapshots<UringDisk>>,
) -> Result<Vec<bytes::Bytes>, NodeError> {
    let caught_up = offline::catch_up(wal, group, state, snapshots).await;
    caught_up.map_err(|error| NodeError::Corrupt(format!("group {group}: {error}")))?;
    let applied = state.borrow().applied().map_err(failed)?.last;
    Ok(wal.group(group, |log| offline::tail(log, applied)))
}

fn log_report(log: LogView, site: SiteId) -> LogReport {
    LogReport {
        home: log.is_home(site),
        log: NamedLog { log: log.descriptor.log, tenant: log.descriptor.tenant_name, name: log.descriptor.name },
        generation: log.known,
        sequence: log.head.sequence,
        hash: log.head.hash,
        time: log.head_time,
    }
}

/// What is there of a group now, as far as it could have changed since a report.
type Standing = (NodeId, Option<Vote>, Option<LogPosition>);

async fn standings(seed: &ShardSeed<UringDisk>) -> Result<BTreeMap<GroupId, Standing>, NodeError> {
    let (_devices, _pool, wal) = open(seed).await?;
    let one = |group| {
        let standing = |log: &GroupLog| (member_of(log, group, seed.site.node), log.vote(), log.end());
        (group, wal.group(group, standing))
    };
    let found = groups_of(seed).map(one).collect();
    wal.close().await;
    Ok(found)
}

/// Checks that `plan`, which follows from `reports`, is one that the node at `root` may carry out; and if it is `confirmed`,
/// does so. Answers whether that had been done before. The node must not be running.
pub fn carry_out(
    root: &Path,
    reports: &[NodeReport],
    plan: &Plan,
    confirmed: bool,
    source: &PassphraseSource,
) -> Result<bool, NodeError> {
    let directory = NodeDirectory::new(root);
    let mut site = directory.load_site()?;
    let _lock = directory.lock()?;
    let mine = reports.iter().find(|report| report.site == site.site && report.node == site.node);
    let mine = mine.ok_or_else(|| {
        refused(format!("no report is of this node, {} of site {}: make one with --report", site.node, site.name))
    })?;
    let begun = recovered::load(&directory)?.is_some_and(|begun| begun == plan.file);
    let incarnation = plan.file.recovery.incarnation;
    if begun && site.incarnation == incarnation {
        return Ok(true);
    }
    if site.incarnation != mine.incarnation {
        return Err(refused(format!(
            "this node is at incarnation {} of the site, and its report at {}: make a new one with --report",
            site.incarnation, mine.incarnation
        )));
    }
    uring::check_io_uring().map_err(failed)?;
    let (seeds, _) = shard_seeds::<UringDisk>(root, HeldKey::of_command(&directory, source)?)?;
    for seed in &seeds {
        let found = uring::start(standings(seed)).map_err(failed)??;
        found.into_iter().try_for_each(|(group, standing)| check(group, standing, mine, plan, begun))?;
    }
    if !confirmed {
        return Ok(false);
    }
    framed::write_record(&directory.recovered(), FileKind::Recovered, &plan.file)?;
    for seed in &seeds {
        uring::start(force(seed, plan)).map_err(failed)??;
    }
    finish(&directory, &mut site, incarnation)?;
    Ok(false)
}

/// Refuses where the node has gone on since its report, so that the plan may rest on less than there is.
fn check(group: GroupId, now: Standing, mine: &NodeReport, plan: &Plan, begun: bool) -> Result<(), NodeError> {
    let then = mine.groups.iter().find(|report| report.group == group);
    if then.is_some_and(|then| (then.member, then.vote, then.last) == now) {
        return Ok(());
    }
    let done = |forced: &ForcedGroup| begun && forced.member == now.0 && Some(forced.entry) == now.2;
    if plan.forced(group).is_some_and(done) {
        return Ok(());
    }
    Err(refused(format!(
        "this node's part in group {group} has changed since its report: it ran, or another plan was begun here. Stop all nodes \
         that are left, make a new report on each, and plan anew; where the others go on already, let this node join anew"
    )))
}

/// Makes this node the only voter of the groups that are to go on with what it has.
async fn force(seed: &ShardSeed<UringDisk>, plan: &Plan) -> Result<(), NodeError> {
    let own = seed.site.node;
    let mine: Vec<&ForcedGroup> =
        groups_of(seed).filter_map(|group| plan.forced(group)).filter(|forced| forced.member.node() == own).collect();
    if mine.is_empty() {
        return Ok(());
    }
    let (_devices, _pool, wal) = open(seed).await?;
    for forced in mine {
        let (end, vote) = wal.group(forced.group, |log| (log.end(), log.vote()));
        if end == Some(forced.entry) {
            continue;
        }
        let follows = forced.entry.index == end.map_or(0, |end| end.index.saturating_add(1));
        if end != forced.last || !follows || vote.is_some_and(|vote| vote.term >= forced.entry.term) {
            return Err(refused(format!("the log of group {} is not the one that the plan goes by", forced.group)));
        }
        let records = match forced.last {
            Some(_) => wal
                .group(forced.group, |log| offline::forced_records(log, forced.group, forced.entry, &forced.listeners)),
            None => begin(seed, forced)?,
        };
        wal.append_durably(&records).await.map_err(failed)?;
    }
    wal.close().await;
    Ok(())
}

/// A group of which nobody has anything: whatever the state file says of it is of an earlier part.
fn begin(seed: &ShardSeed<UringDisk>, forced: &ForcedGroup) -> Result<Vec<WalRecord>, NodeError> {
    let (database, _) = Database::open(&NodeDirectory::new(&seed.root).state(seed.index)).map_err(failed)?;
    LogGroupState::new(database.clone(), forced.group, seed.site.site).clear().map_err(failed)?;
    database.checkpoint().map_err(failed)?;
    Ok(offline::first_records(forced.group, forced.entry, &forced.listeners))
}

/// The last step: from here on the node starts, and takes part in the site as it goes on.
fn finish(directory: &NodeDirectory, site: &mut SiteFile, incarnation: u64) -> Result<(), NodeError> {
    // Logs are renewed from their heads on now, and not at the moment that an earlier restore went back to.
    let path = directory.restored_at();
    match framed::read_record::<RestoredAt>(&path, FileKind::RestoredAt) {
        Ok(restored) => framed::write_record(&path, FileKind::RestoredAt, &RestoredAt { at: None, ..restored })?,
        Err(FramedFileError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    site.incarnation = incarnation;
    framed::write_record(&directory.site(), FileKind::Site, site)?;
    Ok(directory.sync()?)
}
