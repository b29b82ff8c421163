//! Commands about the site's system key, and unlocking a node that waits for its passphrase. All of them work on a node's
//! directory, whether the node runs or not.

use super::args::Common;
use super::output::CliError;
use super::sizes::show_time;
use crate::framed::FramedFileError;
use crate::node::directory::NodeDirectory;
use crate::node::keys::{self, ExportOptions, ExportState, Imported, KeyExport, KeyExports, KeyFile, PassphraseSource};
use crate::node::{DirectoryError, LocalOrder};
use crate::terminal::line;
use clap::{Args, Subcommand};
use farside_codec::audit::{AuditAction, AuditedExport};
use farside_codec::ids::hex;
use farside_codec::seal::shares::{MAX_SHARES, MIN_THRESHOLD};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

type Outcome = Result<(), CliError>;

/// Where a passphrase comes from.
#[derive(Debug, Clone, Args)]
pub(super) struct Unsealing {
    /// The file that holds the passphrase of a sealed system key, - for standard input. Without it the service manager's
    /// credential farside-passphrase counts, or else whoever sits at the terminal is asked
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
}

impl Unsealing {
    pub(super) fn source(&self) -> PassphraseSource {
        PassphraseSource { file: self.passphrase_file.clone() }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Writes the system key as shares, a file each, of which a few together give it back
    #[command(after_help = "Example: farside key export --dir near --shares 5 --threshold 3 -o shares\n\
                      Then give each share to somebody else, and read enough of them back: key confirm")]
    Export {
        /// How many shares to make
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(i64::from(MIN_THRESHOLD)..=i64::from(MAX_SHARES)))]
        shares: u8,
        /// How many of them give the key back
        #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(i64::from(MIN_THRESHOLD)..=i64::from(MAX_SHARES)))]
        threshold: u8,
        /// An empty directory, which is made, outside of the node's
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Reads shares back and remembers that they are good, which ends the alert
    #[command(after_help = "Example: farside key confirm --dir near share-1.txt share-3.txt share-4.txt")]
    Confirm {
        /// As many shares as the key takes, or more
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Brings the key back out of shares, where a node's system.key is lost or damaged
    #[command(after_help = "Example: farside key import --dir near share-1.txt share-3.txt share-4.txt")]
    Import {
        /// As many shares as the key takes, or more
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Replace a key file whose passphrase nobody knows any more
        #[arg(long)]
        replace_sealed: bool,
    },
    /// Where the key is, and whether it was exported
    #[command(after_help = "Example: farside key status --dir near --json")]
    Status,
    /// Seals the node's key file under a passphrase, which its start takes from then on
    #[command(
        after_help = "Examples: farside key seal --dir near\n          farside key seal --dir near --passphrase-file /run/keys/near"
    )]
    Seal {
        #[command(flatten)]
        unsealing: Unsealing,
        /// Change the passphrase of a key that is sealed
        #[arg(long)]
        change: bool,
        /// The file that holds the old passphrase, - for standard input
        #[arg(long, value_name = "FILE", requires = "change")]
        old_passphrase_file: Option<PathBuf>,
    },
    /// Takes the seal off again
    #[command(after_help = "Example: farside key unseal --dir near")]
    Unseal {
        #[command(flatten)]
        unsealing: Unsealing,
    },
}

fn directory<'a>(common: &'a Common, what: &str) -> Result<&'a Path, CliError> {
    common.dir.as_deref().ok_or_else(|| CliError::usage(format!("{what} needs --dir DIR")))
}

pub(super) fn run(command: KeyCommand, common: &Common) -> Outcome {
    let dir = directory(common, "key")?;
    match command {
        KeyCommand::Export { shares, threshold, output, unsealing } => {
            let options = ExportOptions { directory: dir.to_owned(), output, threshold, shares };
            export(&options, &unsealing.source(), common)
        }
        KeyCommand::Confirm { files, unsealing } => {
            let local = LocalOrder::begin(dir, AuditAction::KeyConfirm(noted(None, files.len())))?;
            let export = keys::confirm(dir, &files, &unsealing.source());
            local.end(AuditAction::KeyConfirm(noted(export.as_ref().ok(), files.len())), &export);
            let export = export?;
            match common.json {
                true => line(export_json(&export)),
                false => line(format!("{} shares of export {} are good", files.len(), hex(&export.set))),
            }
            Ok(())
        }
        KeyCommand::Import { files, replace_sealed } => {
            let import = || keys::import(dir, &files, replace_sealed);
            let imported = LocalOrder::around(dir, AuditAction::KeyImport, import)?;
            match (common.json, imported) {
                (true, _) => line(json!({ "imported": imported == Imported::Written })),
                (false, Imported::Written) => line(format!("the system key is back in {}", dir.display())),
                (false, Imported::WasThere) => {
                    line(format!("the system key of {} was there, and is good", dir.display()))
                }
            }
            Ok(())
        }
        KeyCommand::Status => status(dir, common),
        KeyCommand::Seal { unsealing, change, old_passphrase_file } => {
            let old = change.then_some(PassphraseSource { file: old_passphrase_file });
            let seal = || keys::seal(dir, &unsealing.source(), old.as_ref());
            LocalOrder::around(dir, AuditAction::KeySeal, seal)?;
            match common.json {
                true => line(json!({ "held": "passphrase" })),
                false => line(format!(
                    "the system key of {} is sealed; its node will wait for the passphrase when it starts",
                    dir.display()
                )),
            }
            Ok(())
        }
        KeyCommand::Unseal { unsealing } => {
            LocalOrder::around(dir, AuditAction::KeyUnseal, || keys::unseal(dir, &unsealing.source()))?;
            match common.json {
                true => line(json!({ "held": "clear" })),
                false => line(format!("the system key of {} lies in the clear from now on", dir.display())),
            }
            Ok(())
        }
    }
}

/// Tells a node that waits its passphrase.
pub(super) fn unlock(unsealing: &Unsealing, common: &Common) -> Outcome {
    let dir = directory(common, "node unlock")?;
    LocalOrder::around(dir, AuditAction::Unlock, || keys::unlock(dir, &unsealing.source()))?;
    match common.json {
        true => line(json!({ "unlocked": true })),
        false => line(format!("the node of {} is unlocked and starts", dir.display())),
    }
    Ok(())
}

/// What the audit log is told of an export, and of shares that were read back. No share is.
fn noted(export: Option<&KeyExport>, shares: usize) -> AuditedExport {
    let (set, threshold) = export.map_or(([0; 16], 0), |export| (export.set, export.threshold));
    AuditedExport { set, threshold, shares: u8::try_from(shares).unwrap_or(u8::MAX) }
}

fn export(options: &ExportOptions, source: &PassphraseSource, common: &Common) -> Outcome {
    let (directory, shares) = (&options.directory, usize::from(options.shares));
    let ordered = AuditedExport { threshold: options.threshold, ..noted(None, shares) };
    let local = LocalOrder::begin(directory, AuditAction::KeyExport(ordered.clone()))?;
    let exported = keys::export(options, source);
    let made = exported.as_ref().map_or(ordered, |(export, _)| noted(Some(export), shares));
    local.end(AuditAction::KeyExport(made), &exported);
    let (export, files) = exported?;
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    if common.json {
        let mut told = export_json(&export);
        told["files"] = json!(files);
        line(told);
        return Ok(());
    }
    files.iter().for_each(line);
    line(format!(
        "any {} of the {} give the key back: take each to another place, then read {0} of them back: farside key confirm \
         --dir {} FILE..",
        export.threshold,
        export.shares,
        options.directory.display()
    ));
    Ok(())
}

fn export_json(export: &KeyExport) -> Value {
    json!({
        "set": hex(&export.set), "threshold": export.threshold, "shares": export.shares, "made": show_time(export.made),
        "confirmed": export.confirmed.map(show_time),
    })
}

fn status(dir: &Path, common: &Common) -> Outcome {
    let directory = NodeDirectory::new(dir);
    let site = directory.load_site()?;
    let known = KeyExports::load(&directory).map_err(DirectoryError::from)?;
    let (held, trouble) = match KeyFile::read(&directory) {
        Ok(file) => (Ok(file), None),
        Err(FramedFileError::Missing(_)) => (Err("missing"), Some(5)),
        Err(FramedFileError::Damaged(..)) => (Err("damaged"), Some(6)),
        Err(error) => return Err(DirectoryError::from(error).into()),
    };
    // Without the passphrase nobody can say whether an export is of the key that the file holds.
    let counts = |export: &KeyExport| match &held {
        Ok(KeyFile::Clear(key)) => export.is_of(key, site.site),
        _ => true,
    };
    let state = known.state(counts);
    let held = held.as_ref().map_or_else(|missing| *missing, KeyFile::held);
    if common.json {
        let exports: Vec<Value> = known.exports.iter().filter(|export| counts(export)).map(export_json).collect();
        line(json!({
            "site": site.name.as_str(), "site_id": site.site.to_string(), "held": held, "export": state.as_str(),
            "exports": exports,
        }));
    } else {
        line(format!("site {}", site.name));
        line(match held {
            "clear" => "  the key lies in the clear beside the data".to_owned(),
            "passphrase" => "  the key is sealed by a passphrase".to_owned(),
            other => format!("  the key's file is {other}"),
        });
        known.exports.iter().filter(|export| counts(export)).for_each(|export| line(told(export)));
        match state {
            ExportState::None => line("  it was never exported: farside key export"),
            ExportState::Made => line("  no export was confirmed: farside key confirm"),
            ExportState::Confirmed => {}
        }
    }
    trouble.map_or(Ok(()), |code| Err(CliError::Told(code)))
}

fn told(export: &KeyExport) -> String {
    let (threshold, shares, made) = (export.threshold, export.shares, show_time(export.made));
    let confirmed =
        export.confirmed.map_or_else(|| "never confirmed".to_owned(), |time| format!("confirmed {}", show_time(time)));
    format!("  export {}: {threshold} of {shares} shares, made {made}, {confirmed}", hex(&export.set))
}
