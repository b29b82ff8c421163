//! Bringing the system key back into a node's directory that has lost it, out of its shares.

use super::exporting::{combined, read_shares};
use super::{KeyError, KeyFile};
use crate::framed::FramedFileError;
use crate::node::directory::NodeDirectory;
use crate::node::error::NodeError;
use std::path::{Path, PathBuf};

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The key is back.
    Written,
    /// It was there, and good.
    WasThere,
}

/// Writes the key that the shares give, if it opens the node's `authority.key`. A key file that may be good stays: one that is
/// sealed, unless `replace_sealed` says that nobody knows its passphrase any more.
pub fn import(root: &Path, files: &[PathBuf], replace_sealed: bool) -> Result<Imported, NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let key = combined(&read_shares(files)?, &site, &directory)?;
    let opens = key.authority(&directory);
    match KeyFile::read(&directory) {
        Ok(KeyFile::Sealed(_)) if !replace_sealed => return Err(KeyError::MayBeGood(directory.system_key()).into()),
        Ok(KeyFile::Clear(there)) if there.authority(&directory).is_ok() => {
            return match there.bytes() == key.bytes() {
                true => Ok(Imported::WasThere),
                false => Err(KeyError::OtherKey(directory.system_key()).into()),
            };
        }
        Err(error @ FramedFileError::Io(..)) => return Err(error.into()),
        Ok(_) | Err(FramedFileError::Missing(_) | FramedFileError::Damaged(..)) => {}
    }
    opens?;
    key.write_clear(&directory)?;
    Ok(Imported::Written)
}
