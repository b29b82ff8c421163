//! What the engine asks of a device: aligned reads and writes of owned buffers, and flushes that mean it.
//!
//! Two implementations: [`crate::uring`] on io_uring with O_DIRECT, and [`crate::sim`], which keeps live and
//! durable bytes apart and can tear, drop, flip, misdirect, fail and stall. Nothing here is `Send`: a device belongs
//! to one shard.

use crate::limits;
use crate::pool::{Buffer, Slice};

/// Why a device did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskError {
    /// The range ends past the device.
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes of the device.
        device_bytes: u64,
    },
    /// Offset or length is not a multiple of 4 KiB.
    Misaligned {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// The file system below the device has no space left.
    Full,
    /// The kernel answered with this error number.
    Io {
        /// What was tried.
        operation: &'static str,
        /// First byte asked for.
        offset: u64,
        /// The error number, as in errno(3).
        errno: i32,
    },
    /// A flush failed earlier. What was written since the flush before it may be lost, so the device is out of use.
    Failed,
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfRange { offset, length, device_bytes } => {
                write!(f, "{length} bytes at {offset} end past the device's {device_bytes}")
            }
            Self::Misaligned { offset, length } => write!(f, "{length} bytes at {offset} are not 4 KiB aligned"),
            Self::Full => f.write_str("the file system below the device is full"),
            Self::Io { operation, offset, errno } => {
                write!(f, "{operation} at {offset}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Failed => f.write_str("the device failed a flush earlier and is out of use"),
        }
    }
}

impl std::error::Error for DiskError {}

/// Checks that a range is aligned to 4 KiB and lies on a device of `device_bytes`.
pub(crate) fn check_range(offset: u64, length: u64, device_bytes: u64) -> Result<(), DiskError> {
    if !(offset | length).is_multiple_of(limits::PAGE_BYTES as u64) {
        return Err(DiskError::Misaligned { offset, length });
    }
    match offset.checked_add(length) {
        Some(end) if end <= device_bytes => Ok(()),
        _ => Err(DiskError::OutOfRange { offset, length, device_bytes }),
    }
}

/// A device. Handles are cheap to clone and share one device. Offsets and lengths are multiples of 4 KiB.
#[allow(async_fn_in_trait)]
pub trait Disk: Clone + 'static {
    /// Bytes of the device.
    fn len_bytes(&self) -> u64;

    /// Fills all of `buffer[..buffer.len()]` from `offset`. The buffer comes back either way.
    async fn read(&self, offset: u64, buffer: Buffer) -> (Result<(), DiskError>, Buffer);

    /// Writes all of `data` at `offset`. Durable only after a [`Disk::sync`] that was called after this returned.
    async fn write(&self, offset: u64, data: Slice) -> Result<(), DiskError>;

    /// Makes every write that has returned durable. Concurrent calls are merged: at most one flush is in flight and
    /// one waits. After a failed flush every later call answers [`DiskError::Failed`].
    async fn sync(&self) -> Result<(), DiskError>;
}
