//! External backup: everything that a site holds, sealed, in a store that is not the site's.

pub mod target;
