//! External backups, for the day when both sites are gone: everything that a site holds, at a target that needs to be trusted with
//! neither contents nor names.
//!
//! Where to start: [`Repository`] is what lies at a target, [`run_and_tell`] adds a backup to it, [`verify`] reads it again,
//! [`restore()`] makes a site of it. docs/backup.md says what an operator does.
//!
//! Invariants: a manifest is written last, under the next number, only where nobody has written one: what it names is there and durable;
//! nothing at a target is ever overwritten; whatever is read back is opened with its key and compared with its id.

mod error;
mod index;
mod known;
pub mod limits;
mod packer;
pub mod prune;
mod reader;
mod repository;
pub mod restore;
pub mod retention;
mod run;
mod snapshot;
pub mod target;
pub mod verify;
mod worker;

pub use error::BackupError;
pub use index::Index;
pub use repository::{Found, Repository};
pub use run::{Completed, SiteFacts, Tell, run_and_tell, run_chunks};
