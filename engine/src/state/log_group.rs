//! The state machine of a log group: what its commands do, in one transaction a batch.
//!
//! Equal commands give equal states at every voter: nothing here asks a clock, a random source or another machine. A
//! refused command changes nothing. What each command may do is in the file of that name; this one dispatches.

use super::database::{Change, Database, Rows, Table};
use super::keys::Key;
use super::rows::{CursorRow, LogRow};
use super::{accept, aside, fence, holds, place, prune, snapshot};
use bytes::Bytes;
use farside_codec::command::{Acknowledge, ChangePolicy, GroupCommand, GroupOutcome};
use farside_codec::delta::{Cursor, Generation, LogDescriptor};
use farside_codec::ids::{DeltaHash, GroupId, Hlc, LogId, SiteId};
use farside_codec::message::{Refusal, RefusalCode};
use farside_codec::record::wal::{LogPosition, StoredMembership};
use farside_codec::{Field, record};
use farside_raft::{Applied, SnapshotPieces, StateError, StateMachine};

/// Keys of [`Table::Meta`].
pub(super) const APPLIED: &[u8] = b"applied";
const CLOSED: &[u8] = b"closed";
const BARRIER: &[u8] = b"barrier";

record!(
    /// [`Applied`] as it is stored.
    AppliedRow {
        /// The last entry.
        last: Option<LogPosition>,
        /// The voters.
        membership: StoredMembership,
    }
);

/// A log group's state. Reading is in `queries.rs`.
pub struct LogGroupState {
    pub(super) database: Database,
    pub(super) group: GroupId,
    /// This site: a log whose highest generation names it accepts writes here.
    pub(super) site: SiteId,
}

/// A change under way, with what every command needs at hand.
pub(super) struct Work<'a> {
    pub(super) change: &'a Change,
    pub(super) group: GroupId,
    pub(super) site: SiteId,
}

/// A command's outcome, or why nothing can be applied any more.
pub(super) type Done = Result<GroupOutcome, StateError>;

pub(super) fn refuse(code: RefusalCode, detail: impl Into<String>) -> Done {
    Ok(GroupOutcome::Refused(Refusal::new(code, detail)))
}

pub(super) fn read_row<R: Field>(bytes: Vec<u8>) -> Result<R, StateError> {
    R::from_bytes(Bytes::from(bytes)).map_err(StateError::Unreadable)
}

impl Work<'_> {
    pub(super) fn key(&self) -> Key {
        Key::group(self.group)
    }

    pub(super) fn log(&self, log: LogId) -> Result<Option<LogRow>, StateError> {
        self.change.get(Table::Logs, &self.key().log(log))?.map(read_row).transpose()
    }

    pub(super) fn put_log(&self, row: &LogRow) -> Result<(), StateError> {
        self.change.put(Table::Logs, &self.key().log(row.descriptor.log), &row.to_bytes())
    }

    /// Removes the rows below a prefix of which `goes` says so.
    pub(super) fn remove_where(
        &self,
        table: Table,
        prefix: &Key,
        goes: impl Fn(&[u8], &[u8]) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        let end = prefix.after_prefix().unwrap_or_default();
        let mut gone = Vec::new();
        self.change.scan(table, &prefix[..]..&end[..], &mut |key, value| {
            if goes(key, value)? {
                gone.push(key.to_vec());
            }
            Ok(true)
        })?;
        gone.iter().try_for_each(|key| self.change.remove(table, key))
    }

    pub(super) fn closed(&self) -> Result<Hlc, StateError> {
        Ok(self.change.get(Table::Meta, &self.key().part(CLOSED))?.map(read_row).transpose()?.unwrap_or_default())
    }

    pub(super) fn set_closed(&self, closed: Hlc) -> Result<(), StateError> {
        match closed > self.closed()? {
            true => self.change.put(Table::Meta, &self.key().part(CLOSED), &closed.to_bytes()),
            false => Ok(()),
        }
    }

    pub(super) fn barrier(&self) -> Result<u64, StateError> {
        Ok(self.change.get(Table::Meta, &self.key().part(BARRIER))?.map(read_row).transpose()?.unwrap_or(0))
    }

    pub(super) fn apply(&self, command: GroupCommand) -> Done {
        match command {
            GroupCommand::CreateLog((descriptor, generation)) => self.create_log(descriptor, generation),
            GroupCommand::Place(place) => place::apply(self, place),
            GroupCommand::Accept(accept) => accept::apply(self, accept),
            GroupCommand::Promote(promote) => fence::promote(self, promote),
            GroupCommand::Fence(fence) => fence::fence(self, fence),
            GroupCommand::Acknowledge(acknowledge) => self.acknowledge(acknowledge),
            GroupCommand::Close(time) => accept::close(self, &time),
            GroupCommand::Barrier(barrier) => {
                let barrier = barrier.max(self.barrier()?);
                self.change.put(Table::Meta, &self.key().part(BARRIER), &barrier.to_bytes())?;
                Ok(GroupOutcome::Done)
            }
            GroupCommand::ChangePolicy(change) => self.change_policy(change),
            GroupCommand::Prune(prune) => prune::apply(self, prune),
            GroupCommand::ForgetPeer(peer) => self.forget_peer(peer),
            GroupCommand::DiscardAside(discard) => aside::discard(self, &discard),
            GroupCommand::HandOver(order) => fence::hand_over(self, order),
            GroupCommand::Rewind(order) => fence::rewind_to(self, order),
            GroupCommand::HoldPeers(hold) => holds::count(self, &hold),
        }
    }

    fn create_log(&self, descriptor: LogDescriptor, generation: Generation) -> Done {
        if !descriptor.policy.is_bounded() {
            return refuse(RefusalCode::BadRequest, "the log's policy names more sites than there can be");
        }
        if let Some(row) = self.log(descriptor.log)? {
            return self.create_again(row, descriptor);
        }
        let head = Cursor { generation, sequence: 0, hash: DeltaHash::ZERO };
        let row = LogRow {
            epochs: vec![descriptor.first_epoch.clone()],
            // A copy learns the first branch from its sender; a home begins it.
            lineage: match generation.site == self.site {
                true => vec![farside_codec::delta::Branch { generation, first: 1, previous: DeltaHash::ZERO }],
                false => Vec::new(),
            },
            known: generation,
            head: head.clone(),
            head_time: descriptor.created,
            total_bytes: 0,
            live_bytes: 0,
            heard: None,
            closed: Hlc::default(),
            floor: 0,
            aside: 0,
            lease: None,
            seeding: None,
            descriptor,
        };
        self.put_log(&row)?;
        Ok(GroupOutcome::Head(head))
    }

    /// Asked for again, by a retry or by a site where its policy is newer: what a log is never changes.
    fn create_again(&self, mut row: LogRow, descriptor: LogDescriptor) -> Done {
        let identity = |log: &LogDescriptor| {
            (log.log, log.tenant, log.tenant_name.clone(), log.name.clone(), log.first_epoch.clone())
        };
        if identity(&row.descriptor) != identity(&descriptor) {
            return refuse(RefusalCode::Exists, "another log has this id");
        }
        if descriptor.policy_version > row.descriptor.policy_version {
            row.descriptor.policy = descriptor.policy;
            row.descriptor.policy_version = descriptor.policy_version;
            self.put_log(&row)?;
        }
        Ok(GroupOutcome::Head(row.head))
    }

    /// A peer's cursor counts only if this history has it. It falls back within a history only where the peer was greeted and says
    /// so, and nothing else was recorded meanwhile: an acknowledgement that comes late must not take back a later one.
    fn acknowledge(&self, acknowledge: Acknowledge) -> Done {
        let Some(log) = self.log(acknowledge.log)? else {
            return refuse(RefusalCode::NotFound, "no such log in this group");
        };
        let row = CursorRow { cursor: acknowledge.cursor, time: acknowledge.time, home: log.known };
        let held = match row.cursor.sequence {
            0 => Some(DeltaHash::ZERO),
            sequence => place::delta_row(self, acknowledge.log, sequence)?.map(|held| held.hash),
        };
        if held != Some(row.cursor.hash) {
            return refuse(RefusalCode::Diverged, "the peer's cursor is not on this log's history");
        }
        let key = self.key().log(acknowledge.log).site(acknowledge.peer);
        let known: Option<CursorRow> = self.change.get(Table::Cursors, &key)?.map(read_row).transpose()?;
        // Where a peer was when this site was home before need not be where it is.
        let is_late = |known: CursorRow| {
            let falls_back = known.home == row.home && known.cursor.sequence > row.cursor.sequence;
            falls_back && acknowledge.instead_of != Some(known.time)
        };
        if !known.is_some_and(is_late) {
            self.change.put(Table::Cursors, &key, &row.to_bytes())?;
            holds::heard(self, &log, acknowledge.peer, &row)?;
        }
        Ok(GroupOutcome::Done)
    }

    fn change_policy(&self, change: ChangePolicy) -> Done {
        let Some(mut row) = self.log(change.log)? else {
            return refuse(RefusalCode::NotFound, "no such log in this group");
        };
        row.descriptor.policy = change.policy;
        // A peer's offer may have named any version, the highest too.
        row.descriptor.policy_version = row.descriptor.policy_version.saturating_add(1);
        self.put_log(&row)?;
        Ok(GroupOutcome::Done)
    }

    fn forget_peer(&self, peer: SiteId) -> Done {
        for table in [Table::Cursors, Table::Holds] {
            self.remove_where(table, &self.key(), |key, _| Ok(key.ends_with(&peer.0)))?;
        }
        Ok(GroupOutcome::Done)
    }
}

impl LogGroupState {
    /// The state of `group` at `site`, in a shard's state file.
    pub fn new(database: Database, group: GroupId, site: SiteId) -> Self {
        Self { database, group, site }
    }

    /// Forgets everything about the group.
    pub fn clear(&mut self) -> Result<(), StateError> {
        self.install_begin()?;
        snapshot::finish(&self.database, self.group, &Applied::default())
    }
}

pub(super) fn stored_applied(rows: &impl Rows, group: GroupId) -> Result<Applied, StateError> {
    let Some(bytes) = rows.get(Table::Meta, &Key::group(group).part(APPLIED))? else { return Ok(Applied::default()) };
    let row: AppliedRow = read_row(bytes)?;
    Ok(Applied { last: row.last, membership: row.membership })
}

pub(super) fn store_applied(change: &Change, group: GroupId, applied: &Applied) -> Result<(), StateError> {
    let row = AppliedRow { last: applied.last, membership: applied.membership.clone() };
    change.put(Table::Meta, &Key::group(group).part(APPLIED), &row.to_bytes())
}

impl StateMachine for LogGroupState {
    fn applied(&self) -> Result<Applied, StateError> {
        stored_applied(&self.database.read()?, self.group)
    }

    fn apply(&mut self, commands: &[Bytes], applied: &Applied) -> Result<Vec<Bytes>, StateError> {
        let change = self.database.write()?;
        let work = Work { change: &change, group: self.group, site: self.site };
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            let command = GroupCommand::from_bytes(command.clone()).map_err(StateError::Unreadable)?;
            outcomes.push(work.apply(command)?.to_bytes());
        }
        store_applied(&change, self.group, applied)?;
        change.commit()?;
        Ok(outcomes)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotPieces>, StateError> {
        Ok(Box::new(snapshot::Pieces::new(self.database.read()?, self.group, snapshot::Cut::BySize)))
    }
    fn install_begin(&mut self) -> Result<(), StateError> {
        snapshot::begin(&self.database, self.group)
    }
    fn install_piece(&mut self, piece: Bytes) -> Result<(), StateError> {
        snapshot::piece(&self.database, self.group, piece)
    }
    fn install_finish(&mut self, applied: &Applied) -> Result<(), StateError> {
        snapshot::finish(&self.database, self.group, applied)
    }
}

/// For `queries.rs`: the group's closed time and barrier.
pub(super) fn meta_keys(group: GroupId) -> (Key, Key) {
    (Key::group(group).part(CLOSED), Key::group(group).part(BARRIER))
}
