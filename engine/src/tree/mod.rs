//! Trees of files: putting one as it is, and giving it back identical.

mod restore;
mod store;

pub use restore::{Restored, place, restore, restore_one};
pub(crate) use store::prepare_still;
pub use store::{Stored, store};

/// A line for whoever watches: something that was skipped, or is not what it seems.
pub type Tell<'a> = &'a mut dyn FnMut(Notice);

/// What there is to say about one entry of a tree.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The entry.
    pub path: std::path::PathBuf,
    /// What about it.
    pub what: String,
    /// Whether it makes the whole a failure.
    pub failure: bool,
}
