//! Exports of the system key: its shares, a file each, and what the node's directory remembers of them. An export counts once
//! it was confirmed: somebody has read enough shares back, from where they are kept, and they gave the key.

use super::{KeyError, PassphraseSource, SystemKey, system_key};
use crate::framed::{self, FileKind, FramedFileError};
use crate::interrupt::Undo;
use crate::machine::Machine;
use crate::node::directory::{NodeDirectory, SiteFile};
use crate::node::error::NodeError;
use crate::times::show_time;
use crate::whole_file;
use aws_lc_rs::constant_time;
use farside_codec::ids::{Hlc, SiteId, hex};
use farside_codec::record;
use farside_codec::seal::shares::{self, Share};
use farside_io::entropy::random;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Exports that are remembered: more than an operator makes in the life of a site.
const MAX_EXPORTS: usize = 64;
/// Largest file that a share is looked for in: a letter, and no device.
const MAX_SHARE_FILE_BYTES: u64 = 64 << 10;

record!(
    /// One export of the system key.
    KeyExport {
        /// Which one: its shares carry the same.
        set: [u8; 16],
        /// How many shares give the key back.
        threshold: u8,
        /// How many were made.
        shares: u8,
        /// What tells whether the key is still the one that was exported.
        check: [u8; 16],
        /// When it was made, or first heard of here.
        made: Hlc,
        /// When enough of its shares were last read back.
        confirmed: Option<Hlc>,
    }
);

record!(
    /// The exports that a node's directory knows of, the oldest first.
    KeyExports {
        /// They.
        exports: Vec<KeyExport>,
    }
);

/// Whether the key would survive the loss of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportState {
    /// Nobody has a share of it.
    None,
    /// Shares were made, and nobody has shown that they are good.
    Made,
    /// Enough of them were read back.
    Confirmed,
}

impl ExportState {
    /// What status calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Made => "made",
            Self::Confirmed => "confirmed",
        }
    }
}

impl KeyExport {
    fn state(&self) -> ExportState {
        match self.confirmed {
            Some(_) => ExportState::Confirmed,
            None => ExportState::Made,
        }
    }

    /// Whether it is of this key.
    pub fn is_of(&self, key: &SystemKey, site: SiteId) -> bool {
        shares::check_of(key.bytes(), site, &self.set) == self.check
    }
}

impl KeyExports {
    /// Those that the directory knows of.
    pub fn load(directory: &NodeDirectory) -> Result<Self, FramedFileError> {
        match framed::read_record(&directory.key_exports(), FileKind::KeyExports) {
            Err(FramedFileError::Missing(_)) => Ok(Self { exports: Vec::new() }),
            other => other,
        }
    }

    /// The best that there is of those that `counts` holds for.
    pub fn state(&self, counts: impl Fn(&KeyExport) -> bool) -> ExportState {
        let states = self.exports.iter().filter(|export| counts(export)).map(KeyExport::state);
        states.max().unwrap_or(ExportState::None)
    }

    /// Remembers one, in the place of what was known of it. The oldest unconfirmed one is forgotten where there are too many.
    fn put(&mut self, export: KeyExport) {
        match self.exports.iter_mut().find(|known| known.set == export.set) {
            Some(known) => *known = KeyExport { made: known.made, ..export },
            None => self.exports.push(export),
        }
        if self.exports.len() > MAX_EXPORTS {
            let unconfirmed = self.exports.iter().position(|export| export.confirmed.is_none());
            self.exports.remove(unconfirmed.unwrap_or(0));
        }
    }

    fn save(&self, directory: &NodeDirectory) -> Result<(), FramedFileError> {
        framed::write_record(&directory.key_exports(), FileKind::KeyExports, self)
    }
}

/// What an export is to be.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The node's directory.
    pub directory: PathBuf,
    /// Where the shares are written: an empty directory, or none, outside of the node's.
    pub output: PathBuf,
    /// How many shares give the key back.
    pub threshold: u8,
    /// How many are made.
    pub shares: u8,
}

/// Writes the shares. On failure, or interrupted, what it wrote is removed again.
pub fn export(options: &ExportOptions, source: &PassphraseSource) -> Result<(KeyExport, Vec<PathBuf>), NodeError> {
    let directory = NodeDirectory::new(&options.directory);
    let site = directory.load_site()?;
    let mut known = KeyExports::load(&directory)?;
    check_output(&options.output, &directory)?;
    let key = system_key(&directory, source)?;
    let machine = Machine::real();
    let made = Hlc::from_ms(machine.clock.wall_ms());
    let (entropy, set) = (machine.entropy.as_ref(), random(machine.entropy.as_ref()));
    let (threshold, count) = (options.threshold, options.shares);
    let shares = shares::split(key.bytes(), site.site, threshold, count, set, &mut |bytes| entropy.fill(bytes));
    let shares = shares.map_err(KeyError::Shares)?;
    let files = write_shares(&options.output, &shares, &site, made)?;
    let check = shares::check_of(key.bytes(), site.site, &set);
    let export = KeyExport { set, threshold, shares: count, check, made, confirmed: None };
    known.put(export.clone());
    known.save(&directory)?;
    Ok((export, files))
}

/// Refuses a place where shares would get mixed up with others, or lost together with the key.
fn check_output(output: &Path, directory: &NodeDirectory) -> Result<(), KeyError> {
    let fail = |error| KeyError::Io(output.to_owned(), error);
    let is_there = match std::fs::read_dir(output) {
        Ok(mut entries) => match entries.next() {
            Some(_) => return Err(KeyError::NotEmpty(output.to_owned())),
            None => true,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(fail(error)),
    };
    let nearest = if is_there { output } else { whole_file::directory_of(output) };
    let place = std::fs::canonicalize(nearest).map_err(fail)?;
    match place.starts_with(std::fs::canonicalize(directory.root()).map_err(fail)?) {
        true => Err(KeyError::Inside(output.to_owned())),
        false => Ok(()),
    }
}

fn write_shares(output: &Path, shares: &[Share], site: &SiteFile, made: Hlc) -> Result<Vec<PathBuf>, KeyError> {
    let path_of = |share: &Share| output.join(format!("share-{}.txt", share.index()));
    let files: Vec<PathBuf> = shares.iter().map(path_of).collect();
    let made_here = match DirBuilder::new().mode(0o700).create(output) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(KeyError::Io(output.to_owned(), error)),
    };
    let (place, written) = (output.to_owned(), files.clone());
    // Only what this call made: the directory was empty before.
    let remove = move || {
        written.iter().for_each(|path| drop(std::fs::remove_file(path)));
        if made_here {
            let _ = std::fs::remove_dir(&place);
        }
    };
    let _undo = Undo::register(remove.clone());
    let write = |(share, path): (&Share, &PathBuf)| {
        let text = Zeroizing::new(letter(share, site, made));
        whole_file::write(path, 0o600, text.as_bytes()).map_err(|error| KeyError::Io(path.clone(), error))
    };
    let synced = || {
        let parent = File::open(whole_file::directory_of(output)).and_then(|parent| parent.sync_all());
        parent.map_err(|error| KeyError::Io(output.to_owned(), error))
    };
    let done = shares.iter().zip(&files).try_for_each(write).and_then(|()| synced());
    done.map(|()| files).inspect_err(|_| remove())
}

/// What whoever is given a share reads.
fn letter(share: &Share, site: &SiteFile, made: Hlc) -> String {
    let (threshold, shares, index) = (share.threshold(), share.shares(), share.index());
    let set = hex(&share.set());
    format!(
        "Share {index} of {shares} of the system key of a Farside site\n\
         \n\
         site    {name}, {id}\n\
         export  {set}, {made}\n\
         \n\
         Any {threshold} of the {shares} shares bring the key back: they restore the site from its backup, or a node that has\n\
         lost its system.key. Fewer than {threshold} say nothing about it. {threshold} in one hand are the key itself.\n\
         \n\
         Keep this share where nobody who has another one finds it: on paper in a safe, with a person. Do not keep it on\n\
         a machine of the site, in its backup, or in mail. The other shares belong elsewhere.\n\
         Spaces, line breaks and capitals in the share do not matter.\n\
         \n\
         {text}\n",
        name = site.name,
        id = site.site,
        made = show_time(made),
        text = *Zeroizing::new(share.to_text()),
    )
}

/// The shares that these files hold.
pub(super) fn read_shares(files: &[PathBuf]) -> Result<Vec<Share>, KeyError> {
    let read = |path: &PathBuf| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SHARE_FILE_BYTES as usize));
        let opened = File::open(path).and_then(|file| file.take(MAX_SHARE_FILE_BYTES).read_to_end(&mut bytes));
        opened.map_err(|error| KeyError::Io(path.clone(), error))?;
        let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        Share::parse(&text).map_err(|error| KeyError::Share(path.clone(), error))
    };
    files.iter().map(read).collect()
}

/// The key out of shares, and the site that it is of.
pub fn key_of_shares(files: &[PathBuf]) -> Result<(SiteId, SystemKey), KeyError> {
    let (site, key) = shares::combine(&read_shares(files)?)?;
    Ok((site, SystemKey(key)))
}

/// The key out of shares of this site.
pub(super) fn combined(shares: &[Share], site: &SiteFile, directory: &NodeDirectory) -> Result<SystemKey, KeyError> {
    let (of, key) = shares::combine(shares)?;
    match of == site.site {
        true => Ok(SystemKey(key)),
        false => Err(KeyError::OtherSite(directory.root().to_owned())),
    }
}

/// Reads shares back, and remembers that their export is good if they give the node's key.
pub fn confirm(root: &Path, files: &[PathBuf], source: &PassphraseSource) -> Result<KeyExport, NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let mut known = KeyExports::load(&directory)?;
    let shares = read_shares(files)?;
    let given = combined(&shares, &site, &directory)?;
    let key = system_key(&directory, source)?;
    constant_time::verify_slices_are_equal(given.bytes(), key.bytes())
        .map_err(|_| KeyError::OtherKey(directory.system_key()))?;
    let now = Hlc::from_ms(Machine::real().clock.wall_ms());
    let share = &shares[0];
    let (set, threshold, count) = (share.set(), share.threshold(), share.shares());
    let check = share.check();
    let export = KeyExport { set, threshold, shares: count, check, made: now, confirmed: Some(now) };
    known.put(export);
    known.save(&directory)?;
    let is_it = |export: &&KeyExport| export.set == set;
    Ok(known.exports.iter().find(is_it).cloned().expect("it was put a moment ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(set: usize, confirmed: bool) -> KeyExport {
        let confirmed = confirmed.then(|| Hlc::from_ms(2));
        KeyExport { set: [set as u8; 16], threshold: 2, shares: 3, check: [0; 16], made: Hlc::from_ms(1), confirmed }
    }

    #[test]
    fn a_confirmed_export_outlives_many_others() {
        let mut known = KeyExports { exports: vec![export(0, true)] };
        assert_eq!(known.state(|_| true), ExportState::Confirmed);
        (1..=MAX_EXPORTS).for_each(|set| known.put(export(set, false)));
        assert_eq!((known.exports.len(), known.exports[0].set, known.exports[1].set), (MAX_EXPORTS, [0; 16], [2; 16]));
        assert_eq!(known.state(|export| export.set != [0; 16]), ExportState::Made);
        known.put(export(2, true));
        assert_eq!(
            (known.exports.len(), known.state(|export| export.set == [2; 16])),
            (MAX_EXPORTS, ExportState::Confirmed)
        );
        assert_eq!(known.state(|_| false), ExportState::None);
    }
}
