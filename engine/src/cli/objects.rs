//! Commands on objects: put, get, list, remove, history.

use super::args::{At, Common};
use super::client_commands::{Outcome, connect};
use super::output::{CliError, kind, object_json, put_json, show_name};
use super::sizes::{parse_time, show_bytes, show_time};
use crate::client::{ClientError, Log, Object, ObjectInfo, Upload, parse_log_name};
use crate::terminal::{self, Progress, line, note};
use crate::tree::{self, Notice};
use crate::whole_file::WholeFile;
use farside_codec::message::Moment;
use farside_codec::seal::ObjectKind;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// Permission bits of a file that holds an object, before the process's own mask.
const FILE_MODE: u32 = 0o666;

/// Where an answer's contents go.
pub(super) enum Output<'a> {
    /// Standard output, by whichever name: then nothing else is printed there.
    Standard,
    /// A file, a pipe, a device.
    File(&'a Path),
}

impl<'a> Output<'a> {
    /// What `-o` names.
    pub(super) fn of(path: &'a Path) -> Self {
        match path == Path::new("-") || is_standard_output(path) {
            true => Self::Standard,
            false => Self::File(path),
        }
    }
}

/// Whether a path leads to what standard output is, as /dev/stdout does.
fn is_standard_output(path: &Path) -> bool {
    let own = std::io::stdout().as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    match (own, std::fs::metadata(path)) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn moment(at: &At) -> Result<Moment, CliError> {
    match (&at.at, at.seq) {
        (Some(text), _) => Ok(Moment::Time(parse_time(text).map_err(CliError::usage)?)),
        (None, Some(sequence)) => Ok(Moment::Sequence(sequence)),
        (None, None) => Ok(Moment::Latest),
    }
}

pub(super) fn tell(notice: Notice) {
    note(format!("{}: {}", show_name(notice.path.as_os_str().as_bytes()), notice.what));
}

pub(super) async fn put(recursive: bool, log: &str, name: &Path, file: Option<&Path>, common: &Common) -> Outcome {
    parse_log_name(log)?;
    match (recursive, file) {
        (true, None) => put_tree(log, name, common).await,
        (true, Some(_)) => Err(CliError::usage("put -r takes T/L DIR")),
        (false, None) => Err(CliError::usage("put takes T/L NAME FILE; - reads standard input")),
        (false, Some(file)) => put_file(log, name, file, common).await,
    }
}

/// A file of this machine, and what it is to be stored as.
fn open(name: &Path, file: &Path) -> Result<(File, Upload), CliError> {
    let fail = |error| ClientError::File(file.to_owned(), error);
    let input = File::open(file).map_err(fail)?;
    let metadata = input.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(CliError::usage(format!("{} is a directory; put -r puts trees", file.display())));
    }
    let reader = Box::new(input.try_clone().map_err(fail)?);
    let mut upload = Upload::reader(name.as_os_str().as_bytes(), reader);
    upload.mode = metadata.mode() & 0o7777;
    upload.modified = (metadata.mtime(), metadata.mtime_nsec() as u32);
    Ok((input, upload))
}

async fn put_file(log: &str, name: &Path, file: &Path, common: &Common) -> Outcome {
    // What can't be opened is told before anybody is called.
    let is_input = file == Path::new("-");
    let mut first = if is_input { None } else { Some(open(name, file)?) };
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    let (prepared, is_torn) = match is_input {
        true => {
            let upload = Upload::reader(name.as_os_str().as_bytes(), Box::new(std::io::stdin()));
            (log.prepare(upload).await?, false)
        }
        false => tree::prepare_still(&log, file, || first.take().map_or_else(|| open(name, file), Ok)).await?,
    };
    let receipt = log.commit_one(prepared).await?;
    match common.json {
        true => line(put_json(&log.name(), &receipt)),
        false => line(format!(
            "{}  seq {}  {}  {}",
            show_name(&receipt.name),
            receipt.receipt.cursor.sequence,
            show_bytes(receipt.size_bytes),
            show_time(receipt.receipt.time)
        )),
    }
    client.close().await?;
    if is_torn {
        note(format!("error: {} changed while it was read: what was put may never have been there", file.display()));
        return Err(CliError::Told(1));
    }
    Ok(())
}

async fn put_tree(log: &str, root: &Path, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    let mut progress = Progress::new();
    let (mut objects, mut bytes) = (0u64, 0u64);
    let name = log.name();
    let begun = Instant::now();
    let mut each = |receipt: &crate::client::PutReceipt| {
        objects += 1;
        bytes += receipt.size_bytes;
        if common.json {
            line(put_json(&name, receipt));
        }
        progress.show(|| format!("{objects} objects, {}", show_bytes(bytes)));
    };
    let outcome = tree::store(&log, root, &mut each, &mut tell).await;
    drop(progress);
    let stored = outcome.inspect_err(|_| {
        note(format!("{objects} objects, {} were stored before it failed", show_bytes(bytes)));
    })?;
    client.close().await?;
    let seconds = begun.elapsed().as_secs_f64();
    if !common.json {
        line(format!(
            "{} objects, {} in {seconds:.1} s; {} were there already; {} skipped, {} failed",
            stored.objects,
            show_bytes(stored.bytes),
            show_bytes(stored.deduplicated_bytes),
            stored.skipped,
            stored.failures
        ));
    }
    if stored.failures > 0 { Err(CliError::Told(1)) } else { Ok(()) }
}

pub(super) async fn get(recursive: bool, log: &str, name: &Path, output: &Path, at: &At, common: &Common) -> Outcome {
    let at = moment(at)?;
    parse_log_name(log)?;
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    match recursive {
        true => get_tree(&log, &at, name, common).await?,
        false => get_object(&log.get(name.as_os_str().as_bytes(), &at).await?, output, common).await?,
    }
    Ok(client.close().await?)
}

async fn get_tree(log: &Log, at: &Moment, target: &Path, common: &Common) -> Outcome {
    let mut progress = Progress::new();
    let mut each = |so_far: &tree::Restored| {
        progress.show(|| format!("{} objects, {}", so_far.objects, show_bytes(so_far.bytes)));
    };
    let restored = tree::restore(log, at, target, &mut each, &mut tell).await?;
    drop(progress);
    match common.json {
        true => {
            line(json!({ "objects": restored.objects, "size_bytes": restored.bytes, "failures": restored.failures }))
        }
        false => {
            line(format!("{} objects, {}; {} failed", restored.objects, show_bytes(restored.bytes), restored.failures))
        }
    }
    match (restored.damaged, restored.failures) {
        (0, 0) => Ok(()),
        (0, _) => Err(CliError::Told(1)),
        _ => Err(CliError::Told(6)),
    }
}

async fn get_object(object: &Object, output: &Path, common: &Common) -> Outcome {
    let name = show_name(&object.info.name);
    match &object.info.kind {
        Some(ObjectKind::Link(target)) => {
            let target = show_name(target);
            return Err(CliError::usage(format!("{name} is a link to {target}; get -r restores links")));
        }
        Some(ObjectKind::Directory) => return Err(CliError::usage(format!("{name} is a directory; use get -r"))),
        Some(ObjectKind::File) | None => {}
    }
    match Output::of(output) {
        Output::Standard => {
            object
                .read(|bytes| {
                    terminal::contents(bytes);
                    Ok(())
                })
                .await?;
            terminal::flush();
        }
        Output::File(path) => {
            let fail = |error| ClientError::File(path.to_owned(), error);
            let mut file = WholeFile::create(path, FILE_MODE).map_err(fail)?;
            let (mut progress, mut came) = (Progress::new(), 0);
            let write = |bytes: &[u8]| {
                came += bytes.len() as u64;
                progress.show(|| format!("{name}: {} of {}", show_bytes(came), show_bytes(object.info.size_bytes)));
                file.write_all(bytes)
            };
            object.read(write).await.map_err(|error| match error {
                // What could not be written is the file, not the object that it was read from.
                ClientError::File(_, error) => fail(error),
                other => other,
            })?;
            drop(progress);
            file.complete().map_err(fail)?;
            if common.json {
                line(object_json(&object.info));
            }
        }
    }
    Ok(())
}

fn print_object(info: &ObjectInfo, common: &Common) {
    match common.json {
        true => line(object_json(info)),
        false => line(format!(
            "{:>10}  {}  {:>10}  {:<9}  {}",
            info.sequence,
            show_time(info.time),
            show_bytes(info.size_bytes),
            kind(info),
            show_name(&info.name)
        )),
    }
}

pub(super) async fn ls(log: &str, at: &At, common: &Common) -> Outcome {
    let at = moment(at)?;
    parse_log_name(log)?;
    let client = connect(common).await?;
    client.open_log(log).await?.list(&at).await?.iter().for_each(|info| print_object(info, common));
    Ok(client.close().await?)
}

pub(super) async fn rm(log: &str, name: &Path, common: &Common) -> Outcome {
    parse_log_name(log)?;
    let client = connect(common).await?;
    let log = client.open_log(log).await?;
    let receipt = log.remove(name.as_os_str().as_bytes()).await?;
    match common.json {
        true => line(put_json(&log.name(), &receipt)),
        false => line(format!("removed {}  seq {}", show_name(&receipt.name), receipt.receipt.cursor.sequence)),
    }
    Ok(client.close().await?)
}

pub(super) async fn history(log: &str, name: &Path, common: &Common) -> Outcome {
    parse_log_name(log)?;
    let client = connect(common).await?;
    let name = name.as_os_str().as_bytes();
    for mut info in client.open_log(log).await?.history(name).await? {
        info.name = name.to_vec().into();
        print_object(&info, common);
    }
    Ok(client.close().await?)
}
