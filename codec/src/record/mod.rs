//! What lies on devices. DISK.md holds the tables.

pub mod fragment;
pub mod segment;
pub mod superblock;
pub mod wal;
