//! A zone of a device that is to go: it is read, takes nothing, and is emptied.

use super::{Zone, close_active};
use crate::store::status::DeviceState;
use farside_io::disk::Disk;

impl<D: Disk> Zone<D> {
    /// Whether the device is to go.
    pub(in crate::store) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Says whether the device is to go.
    pub(in crate::store) fn set_leaving(&self, leaving: bool) {
        self.leaving.set(leaving);
    }

    /// Whether new fragments may go here.
    pub(in crate::store) fn takes(&self) -> bool {
        self.works() && !self.is_leaving()
    }

    /// Takes the device out of use for good: what it held lies elsewhere.
    pub(in crate::store) fn retire(&self) {
        self.state.set(DeviceState::Evicted);
    }

    /// Gets no more records into the segment that was appended to last, so that it can be emptied like the others.
    pub(in crate::store) fn close(&self) {
        close_active(&mut self.segments.borrow_mut());
    }

    /// Whether nothing here counts and nothing is being written.
    pub(in crate::store) fn is_empty(&self) -> bool {
        let segments = self.segments.borrow();
        segments.live_fragments == 0 && segments.open.values().all(|open| open.in_flight.is_empty())
    }

    /// The segments in which something counts.
    pub(in crate::store) fn live_segments(&self) -> Vec<u32> {
        let segments = self.segments.borrow();
        (0..).zip(&segments.table).filter(|(_, found)| found.live_blocks > 0).map(|(segment, _)| segment).collect()
    }
}
