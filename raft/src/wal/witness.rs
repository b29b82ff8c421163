//! Which mirrors hold everything, as it is known outside of the log.
//!
//! A mirror that was away holds a whole log, of a while ago, and nothing in it says that the others went on. A quorum of mirrors
//! would tell, but a log of two mirrors that has lost one is to go on. So whoever owns the log keeps the answer elsewhere: the set
//! shrinks there before anything is answered that only the rest holds, and grows when an opening has made all of them whole.

use farside_codec::ids::DeviceId;

/// Remembers which mirrors hold everything that was said to be durable.
pub trait Witness {
    /// As they were noted last; `None`: nobody has noted any. The error says why that can't be read.
    fn mirrors(&self) -> Result<Option<Vec<DeviceId>>, String>;
    /// Notes them, durably. The error says why that can't be done.
    fn note(&self, mirrors: &[DeviceId]) -> Result<(), String>;
}

/// Believes whichever mirrors are there.
pub(super) struct Nobody;

impl Witness for Nobody {
    fn mirrors(&self) -> Result<Option<Vec<DeviceId>>, String> {
        Ok(None)
    }
    fn note(&self, _: &[DeviceId]) -> Result<(), String> {
        Ok(())
    }
}
