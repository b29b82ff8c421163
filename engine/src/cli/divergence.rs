//! Commands about what a change of home undid and set aside.

use super::args::Common;
use super::client_commands::{Outcome, connect, connect_to};
use super::objects::tell;
use super::output::{CliError, kind, show_name, with_name};
use super::sizes::{show_bytes, show_time};
use crate::client::{Client, ClientError, Log, Reapplied, SetAside, What, parse_log_name};
use crate::terminal::{Progress, line, note};
use crate::tree::{self, Restored};
use clap::Subcommand;
use farside_codec::message::RefusalCode;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Deltas that are named one by one when they were left alone.
const CHANGED_SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub(super) enum DivergenceCommand {
    /// Lists what was set aside, a line a delta
    #[command(after_help = "Example: farside divergence list --dir near acme/photos --json")]
    List {
        /// TENANT/LOG
        log: String,
    },
    /// Writes every version that was set aside as DIR/GENERATION-SEQUENCE/NAME
    #[command(after_help = "Example: farside divergence export --dir near acme/photos -o ./undone")]
    Export {
        /// TENANT/LOG
        log: String,
        /// An empty directory, which is made
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Applies it again where the log has its home, but for names that others have changed there since; exit 3 if there
    /// are such. Needs no keys, and may be repeated
    #[command(after_help = "Example: farside divergence reapply --dir near acme/photos --into far")]
    Reapply {
        /// TENANT/LOG
        log: String,
        /// A node's directory, or a context file, of the site that is home
        #[arg(long, value_name = "DIR|FILE")]
        into: PathBuf,
        /// Replaces what others have changed since
        #[arg(long)]
        overwrite: bool,
    },
    /// Lets go of it all, for good, and of the space that it takes
    #[command(after_help = "Example: farside divergence discard --dir near acme/photos --deltas 12")]
    Discard {
        /// TENANT/LOG
        log: String,
        /// How many deltas that is, as listed: nothing goes that nobody has looked at
        #[arg(long, value_name = "N")]
        deltas: u64,
    },
}

pub(super) async fn run(command: DivergenceCommand, common: &Common) -> Outcome {
    let (DivergenceCommand::List { log }
    | DivergenceCommand::Export { log, .. }
    | DivergenceCommand::Reapply { log, .. }
    | DivergenceCommand::Discard { log, .. }) = &command;
    parse_log_name(log)?;
    if let DivergenceCommand::Export { output, .. } = &command {
        make_empty(output)?;
    }
    let client = connect(common).await?;
    if let DivergenceCommand::Reapply { log, into, overwrite } = &command {
        let home = connect_to(into).await?;
        let done = reapply(&client, &home, log, *overwrite, common).await;
        home.close().await?;
        client.close().await?;
        return done;
    }
    let log = client.open_log(log).await?;
    match command {
        DivergenceCommand::Reapply { .. } => {}
        DivergenceCommand::List { .. } => list(&log, common).await?,
        DivergenceCommand::Export { output, .. } => export(&log, &output, common).await?,
        DivergenceCommand::Discard { deltas, .. } => discard(&log, deltas, common).await?,
    }
    Ok(client.close().await?)
}

fn make_empty(output: &Path) -> Outcome {
    let fail = |error| ClientError::File(output.to_owned(), error);
    std::fs::create_dir_all(output).map_err(fail)?;
    match std::fs::read_dir(output).map_err(fail)?.next() {
        Some(_) => Err(CliError::usage(format!("{} is not empty: give an empty directory", output.display()))),
        None => Ok(()),
    }
}

/// What a delta did, in a word, of what name and how large.
fn described(aside: &SetAside) -> (&'static str, Option<&[u8]>, u64) {
    match &aside.what {
        What::Put(object) => (kind(&object.info), Some(&object.info.name), object.info.size_bytes),
        What::Removed => ("removed", None, 0),
        What::Part => ("part", None, 0),
        What::Turn => ("turn", None, 0),
    }
}

fn print(aside: &SetAside, common: &Common) {
    let (kind, name, size_bytes) = described(aside);
    let SetAside { cursor, placed, undone, by, .. } = aside;
    if common.json {
        let object = json!({
            "generation": cursor.generation.counter, "seq": cursor.sequence, "time": show_time(*placed),
            "undone": show_time(*undone), "undone_by_generation": by.counter,
            "kind": kind, "size_bytes": size_bytes,
        });
        return line(match name {
            Some(name) => with_name(object, name),
            None => object,
        });
    }
    let name = name.map(show_name).unwrap_or_default();
    let (generation, sequence, time) = (cursor.generation, cursor.sequence, show_time(*placed));
    line(format!("{generation:>4} {sequence:>10}  {time}  {:>10}  {kind:<9}  {name}", show_bytes(size_bytes)));
}

async fn list(log: &Log, common: &Common) -> Outcome {
    let mut deltas = 0u64;
    log.for_each_set_aside(|aside| {
        deltas += 1;
        print(&aside, common);
        std::future::ready(Ok(()))
    })
    .await?;
    if !common.json {
        line(match deltas {
            0 => format!("nothing of {} was set aside here", log.name()),
            1 => "1 delta was set aside".to_owned(),
            deltas => format!("{deltas} deltas were set aside"),
        });
    }
    Ok(())
}

async fn export(log: &Log, output: &Path, common: &Common) -> Outcome {
    let mut progress = Progress::new();
    let (mut all, mut removals) = (Restored::default(), 0u64);
    let all_of = std::cell::RefCell::new((&mut all, &mut progress));
    log.for_each_set_aside(|aside| {
        let all_of = &all_of;
        removals += u64::from(matches!(aside.what, What::Removed));
        let target = output.join(format!("{}-{}", aside.cursor.generation, aside.cursor.sequence));
        async move {
            let What::Put(object) = aside.what else { return Ok(()) };
            let name = show_name(&object.info.name);
            let one = match tree::restore_one(*object, &target, &mut tell).await {
                // The others can be had all the same.
                Err(error) if error.is_of_one_object() => {
                    note(format!("{}: {name}: {error}", target.display()));
                    Restored { failures: 1, ..Restored::default() }
                }
                one => one?,
            };
            let (all, progress) = &mut *all_of.borrow_mut();
            (all.objects, all.bytes) = (all.objects + one.objects, all.bytes + one.bytes);
            all.failures += one.failures;
            progress.show(|| format!("{} versions, {}", all.objects, show_bytes(all.bytes)));
            Ok(())
        }
    })
    .await?;
    drop(progress);
    match common.json {
        true => line(json!({
            "versions": all.objects, "size_bytes": all.bytes, "removals": removals, "failures": all.failures,
        })),
        false => {
            let (versions, bytes, failed) = (all.objects, show_bytes(all.bytes), all.failures);
            line(format!(
                "{versions} versions, {bytes}; {removals} removals, which leave nothing to write; {failed} failed"
            ));
        }
    }
    if all.failures > 0 { Err(CliError::Told(1)) } else { Ok(()) }
}

async fn reapply(from: &Client, home: &Client, log: &str, overwrite: bool, common: &Common) -> Outcome {
    let mut progress = Progress::new();
    let (mut placed, mut already, mut changed, mut failed) = (0u64, 0u64, Vec::new(), 0u64);
    let sent = from.reapply(home, log, overwrite, |cursor, came| {
        match came {
            Reapplied::Placed => placed += 1,
            Reapplied::Already => already += 1,
            Reapplied::Changed => changed.push((cursor.generation.counter, cursor.sequence)),
            Reapplied::Failed(why) => {
                failed += 1;
                note(format!("error: {}/{}: {why}", cursor.generation, cursor.sequence));
            }
            Reapplied::Nothing => {}
        }
        progress.show(|| format!("{placed} deltas applied again"));
    });
    let sent = sent.await?;
    drop(progress);
    if common.json {
        let one = |(generation, sequence): &(u64, u64)| json!({ "generation": generation, "seq": sequence });
        line(json!({
            "log": log, "placed_deltas": placed, "already_there_deltas": already,
            "changed_since": changed.iter().map(one).collect::<Vec<_>>(),
            "failures": failed, "sent_chunks": sent.chunks, "sent_bytes": sent.bytes,
        }));
    } else {
        let bytes = show_bytes(sent.bytes);
        line(format!(
            "{placed} deltas applied again, {already} were there already; {} chunks sent, {bytes}",
            sent.chunks
        ));
    }
    if changed.is_empty() {
        return if failed > 0 { Err(CliError::Told(1)) } else { Ok(()) };
    }
    for (generation, sequence) in changed.iter().take(CHANGED_SHOWN) {
        note(format!("error: {generation}/{sequence} was left alone: its name was changed at the log's home since"));
    }
    if changed.len() > CHANGED_SHOWN {
        note(format!("and {} more", changed.len() - CHANGED_SHOWN));
    }
    note(format!(
        "hint: `farside divergence list {log}` names them; `export` writes them out, --overwrite replaces what is there"
    ));
    Err(CliError::Told(3))
}

async fn discard(log: &Log, deltas: u64, common: &Common) -> Outcome {
    match log.discard_set_aside(deltas).await {
        Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Unsafe => {
            note(format!("error: {}", refusal.detail));
            note(format!("hint: `farside divergence list {}` shows them, and their number", log.name()));
            Err(CliError::Told(3))
        }
        done => {
            done?;
            match common.json {
                true => line(json!({ "log": log.name(), "set_aside_deltas": 0 })),
                false => line(format!("nothing of {} is set aside any more; GC frees the space", log.name())),
            }
            Ok(())
        }
    }
}
