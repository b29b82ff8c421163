//! One state file a shard, for all of its groups.
//!
//! Commits are not durable by themselves: the write-ahead log is, and what a crash takes from here it gives back. A
//! durable checkpoint now and then bounds how much that is. A file that was torn or has decayed is deleted when it is
//! opened, and every group of the shard reinstalls its snapshot.

use super::backend::{DamageFlag, PagedFile};
use super::limits::CACHE_BYTES;
use super::snapshot;
use farside_raft::StateError;
use redb::{Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Tables, by the number that snapshots name them with. Keys begin with the group, big-endian, so that a group is a
/// range of every table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// (group, which) → record.
    Meta = 1,
    /// (group, log) → LogRow.
    Logs = 2,
    /// (group, log, sequence) → DeltaRow.
    Deltas = 3,
    /// (group, log, name, sequence) → NameRow.
    Names = 4,
    /// (group, log, operation) → sequence.
    Operations = 5,
    /// (group, chunk, log, sequence) → nothing.
    References = 6,
    /// (group, log, peer) → CursorRow.
    Cursors = 7,
    /// (group, log, generation, sequence) → AsideRow.
    Aside = 8,
    /// (group, log, object, index) → sequence.
    Extents = 9,
    /// (group, log, when it was replaced, sequence) → sequence of what replaced it; a removal replaces itself too.
    Dead = 10,
    /// (group, kind, id) → record of the control group.
    Control = 11,
    /// (group, site, scope, incarnation, sequence) → entry of an audit log.
    Audit = 12,
    /// (group, log, peer) → HoldRow.
    Holds = 13,
}

impl Table {
    pub(super) const ALL: [Self; 13] = [
        Self::Meta,
        Self::Logs,
        Self::Deltas,
        Self::Names,
        Self::Operations,
        Self::References,
        Self::Cursors,
        Self::Aside,
        Self::Extents,
        Self::Dead,
        Self::Control,
        Self::Audit,
        Self::Holds,
    ];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }

    pub(super) fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(match self {
            Self::Meta => "meta",
            Self::Logs => "logs",
            Self::Deltas => "deltas",
            Self::Names => "names",
            Self::Operations => "operations",
            Self::References => "references",
            Self::Cursors => "cursors",
            Self::Aside => "aside",
            Self::Extents => "extents",
            Self::Dead => "dead",
            Self::Control => "control",
            Self::Audit => "audit",
            Self::Holds => "holds",
        })
    }
}

/// What became of the file when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Fresh,
    /// It was whole.
    Existing,
    /// It was damaged, and is gone; its groups are rebuilt from snapshots and log.
    Rebuilt,
}

/// A shard's state file. Clones share it.
#[derive(Clone)]
pub struct Database {
    redb: Rc<redb::Database>,
    damage: Arc<DamageFlag>,
    dirty: Rc<Cell<bool>>,
    path: Rc<PathBuf>,
}

impl Database {
    /// Opens or makes the file. An error means that the file can't be had, not that it is damaged.
    pub fn open(path: &Path) -> Result<(Self, Opened), StateError> {
        let existed = path.exists();
        match Self::try_open(path, existed) {
            Ok(database) => Ok((database, if existed { Opened::Existing } else { Opened::Fresh })),
            Err(error @ StateError::Damaged(_)) if existed => {
                tracing::error!(%error, path = %path.display(), "the state file is rebuilt");
                std::fs::remove_file(path).map_err(|error| StateError::Store(error.into()))?;
                Ok((Self::try_open(path, false)?, Opened::Rebuilt))
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(path: &Path, verify: bool) -> Result<Self, StateError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| StateError::Store(error.into()))?;
        let damage = Arc::new(DamageFlag::default());
        let paged = PagedFile::open(file, damage.clone()).map_err(|error| StateError::Damaged(error.into()))?;
        let redb = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(paged);
        let mut redb = redb.map_err(opening_failed)?;
        if verify {
            verify_whole(&mut redb)?;
        }
        let database = Self { redb: Rc::new(redb), damage, dirty: Rc::default(), path: Rc::new(path.to_owned()) };
        // A file of an earlier version has no tables that came later.
        let write = database.write()?;
        Table::ALL.into_iter().try_for_each(|table| write.touch(table))?;
        write.commit()?;
        match verify {
            true => snapshot::finish_clearing(&database)?,
            false => database.checkpoint()?,
        }
        Ok(database)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a read has found damage since it was opened.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_set()
    }

    /// Makes everything committed so far durable, if there is anything new.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        if !self.dirty.get() {
            return Ok(());
        }
        let mut write = self.redb.begin_write().map_err(|error| self.failed(error))?;
        write.set_durability(Durability::Immediate).map_err(|error| self.failed(error))?;
        write.commit().map_err(|error| self.failed(error))?;
        self.dirty.set(false);
        Ok(())
    }

    pub(super) fn read(&self) -> Result<View, StateError> {
        let read = self.redb.begin_read().map_err(|error| self.failed(error))?;
        Ok(View { read, database: self.clone() })
    }

    pub(super) fn write(&self) -> Result<Change, StateError> {
        let mut write = self.redb.begin_write().map_err(|error| self.failed(error))?;
        write.set_durability(Durability::None).map_err(|error| self.failed(error))?;
        Ok(Change { write, database: self.clone(), altered: Cell::new(false) })
    }

    fn failed(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StateError {
        match self.damage.is_set() {
            true => StateError::Damaged(error.into()),
            false => StateError::Store(error.into()),
        }
    }
}

/// Reads every page in use once, redb's own bookkeeping among them, so that decay is found now and not in the middle
/// of an answer or at the first commit.
fn verify_whole(redb: &mut redb::Database) -> Result<(), StateError> {
    match redb.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => Err(StateError::Damaged("redb's trees and its bookkeeping contradict one another".into())),
        Err(error) => Err(StateError::Damaged(error.into())),
    }
}

/// A full disk, a missing right or a lack of memory is no damage; bytes that are not what was written are.
fn opening_failed(error: redb::DatabaseError) -> StateError {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    let sound = match &error {
        redb::DatabaseError::Storage(redb::StorageError::Io(io)) => {
            let unreadable = io.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            !unreadable && !matches!(io.kind(), InvalidData | InvalidInput | UnexpectedEof)
        }
        _ => false,
    };
    match sound {
        true => StateError::Store(error.into()),
        false => StateError::Damaged(error.into()),
    }
}

/// A row handed to a scan; it goes on while the answer is `true`.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StateError>;

/// A row: key and value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Reading access, the same for a view and for a change under way.
pub(super) trait Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;
    fn scan<'k>(&self, table: Table, range: impl RangeBounds<&'k [u8]>, visit: Visit<'_>) -> Result<(), StateError>;
    fn last_in<'k>(&self, table: Table, range: impl RangeBounds<&'k [u8]>) -> Result<Option<Row>, StateError>;
}

/// A consistent view.
pub(super) struct View {
    read: ReadTransaction,
    database: Database,
}

/// A change under way; dropped without `commit` it did nothing.
pub(super) struct Change {
    write: WriteTransaction,
    database: Database,
    /// A row is another one now than it was.
    altered: Cell<bool>,
}

macro_rules! rows {
    ($kind:ty, $transaction:ident) => {
        impl Rows for $kind {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
                let rows =
                    self.$transaction.open_table(table.definition()).map_err(|error| self.database.failed(error))?;
                let found = rows.get(key).map_err(|error| self.database.failed(error))?;
                Ok(found.map(|value| value.value().to_vec()))
            }
            fn scan<'k>(
                &self,
                table: Table,
                range: impl RangeBounds<&'k [u8]>,
                visit: Visit<'_>,
            ) -> Result<(), StateError> {
                let rows =
                    self.$transaction.open_table(table.definition()).map_err(|error| self.database.failed(error))?;
                let range: (Bound<&[u8]>, Bound<&[u8]>) = (range.start_bound().cloned(), range.end_bound().cloned());
                for row in rows.range::<&[u8]>(range).map_err(|error| self.database.failed(error))? {
                    let (key, value) = row.map_err(|error| self.database.failed(error))?;
                    if !visit(key.value(), value.value())? {
                        break;
                    }
                }
                Ok(())
            }
            fn last_in<'k>(&self, table: Table, range: impl RangeBounds<&'k [u8]>) -> Result<Option<Row>, StateError> {
                let rows =
                    self.$transaction.open_table(table.definition()).map_err(|error| self.database.failed(error))?;
                let range: (Bound<&[u8]>, Bound<&[u8]>) = (range.start_bound().cloned(), range.end_bound().cloned());
                let mut rows = rows.range::<&[u8]>(range).map_err(|error| self.database.failed(error))?;
                let Some(row) = rows.next_back() else { return Ok(None) };
                let (key, value) = row.map_err(|error| self.database.failed(error))?;
                Ok(Some((key.value().to_vec(), value.value().to_vec())))
            }
        }
    };
}
rows!(View, read);
rows!(Change, write);

impl Change {
    fn touch(&self, table: Table) -> Result<(), StateError> {
        self.write.open_table(table.definition()).map(drop).map_err(|error| self.database.failed(error))
    }

    pub(super) fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let mut rows = self.write.open_table(table.definition()).map_err(|error| self.database.failed(error))?;
        let before = rows.insert(key, value).map_err(|error| self.database.failed(error))?;
        if before.is_none_or(|before| before.value() != value) {
            self.altered.set(true);
        }
        Ok(())
    }

    pub(super) fn remove(&self, table: Table, key: &[u8]) -> Result<(), StateError> {
        let mut rows = self.write.open_table(table.definition()).map_err(|error| self.database.failed(error))?;
        if rows.remove(key).map_err(|error| self.database.failed(error))?.is_some() {
            self.altered.set(true);
        }
        Ok(())
    }

    /// Whether any row has become another one since [`Change::forget_altered`].
    pub(super) fn has_altered(&self) -> bool {
        self.altered.get()
    }

    pub(super) fn forget_altered(&self) {
        self.altered.set(false);
    }

    pub(super) fn commit(self) -> Result<(), StateError> {
        self.database.dirty.set(true);
        self.write.commit().map_err(|error| self.database.failed(error))
    }
}
