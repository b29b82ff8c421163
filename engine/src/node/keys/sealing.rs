//! Sealing a node's key file under a passphrase, and taking the seal off. The old file stays until the new one is durable and
//! is known to open.

use super::{KeyError, KeyFile, PassphraseSource, SystemKey};
use crate::framed::{self, FileKind};
use crate::node::directory::NodeDirectory;
use crate::node::error::NodeError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Seals the key file. `old` is where the passphrase comes from that it is sealed under already; without it such a file is
/// refused.
pub fn seal(root: &Path, new: &PassphraseSource, old: Option<&PassphraseSource>) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(root);
    directory.load_site()?;
    let key = match (KeyFile::read(&directory)?, old) {
        (KeyFile::Clear(key), _) => key,
        (KeyFile::Sealed(sealed), Some(old)) => old.get("old passphrase: ")?.open(&sealed, &directory)?,
        (KeyFile::Sealed(_), None) => return Err(KeyError::AlreadySealed(directory.system_key()).into()),
    };
    key.authority(&directory)?;
    let passphrase = new.get_new()?;
    let sealed = passphrase.seal(&key, &directory)?;
    passphrase.open(&sealed, &directory)?;
    let path = directory.system_key();
    let before = OpenOptions::new().write(true).open(&path).map_err(|error| KeyError::Io(path.clone(), error))?;
    framed::write_record(&path, FileKind::SealedKey, &sealed)?;
    // The key is sealed; what is left of the old file is a matter of the device.
    if let Err(error) = wipe(before) {
        tracing::warn!(%error, "the key's old file could not be overwritten");
    }
    Ok(())
}

/// Overwrites a file that has no name any more. Devices and file systems that write elsewhere keep the old bytes all the same,
/// as docs/keys.md says.
fn wipe(mut file: File) -> io::Result<()> {
    let found = file.metadata()?;
    if found.nlink() > 0 {
        // Somebody's copy by another name.
        return Ok(());
    }
    file.write_all(&vec![0; found.len() as usize])?;
    file.sync_all()
}

/// Takes the seal off.
pub fn unseal(root: &Path, source: &PassphraseSource) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(root);
    directory.load_site()?;
    let key: SystemKey = match KeyFile::read(&directory)? {
        KeyFile::Clear(_) => return Err(KeyError::NotSealed(directory.system_key()).into()),
        KeyFile::Sealed(sealed) => source.get("passphrase: ")?.open(&sealed, &directory)?,
    };
    key.authority(&directory)?;
    Ok(key.write_clear(&directory)?)
}
