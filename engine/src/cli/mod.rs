//! The `farside` command: parses, runs, prints, and answers with the exit code of cli.md.

mod args;
mod audit;
mod audit_text;
mod backup;
mod backup_args;
mod certificates;
mod client_commands;
mod device_args;
mod devices;
mod divergence;
mod identities;
mod keys;
mod logs;
mod nodes;
mod objects;
mod output;
mod peers;
mod recovery;
mod recovery_args;
mod sides;
pub mod sizes;
mod status_text;

pub(crate) use client_commands::{all_caught_up, status_document};
pub(crate) use sides::failover_json;
pub(crate) use sizes::show_bytes;

use crate::client::parse_label;
use crate::interrupt;
use crate::node::{self, InitOptions, JoinOptions, NodeOptions};
use crate::terminal::{line, note};
use args::{Arguments, BenchCommand, Command, Common, Init, Join, Moving, NodeArguments};
use clap::Parser;
use farside_codec::erasure::Geometry;
use output::CliError;
use serde_json::json;
use std::io::ErrorKind;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FARSIDE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,openraft=off,quinn=error"));
    // Whoever has closed standard error must not end a node by it.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.log_internal_errors(false).init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(answer(&error)),
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.tell()),
    }
}

/// Whether these arguments, the program's name before them, are a command line. Nothing is run; the error is what a user
/// would be told.
pub fn understands(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<(), String> {
    Arguments::try_parse_from(arguments).map(drop).map_err(|error| error.render().to_string())
}

/// Help and version are answers; everything else that the parser says is a usage error.
fn answer(error: &clap::Error) -> u8 {
    match error.print() {
        Err(trouble) if !error.use_stderr() && trouble.kind() != ErrorKind::BrokenPipe => {
            note(format_args!("error: standard output: {trouble}"));
            1
        }
        _ if error.use_stderr() => 2,
        _ => 0,
    }
}

/// Runs a client's work on a runtime of its own.
pub(crate) fn on_runtime<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = tokio::task::LocalSet::new().block_on(&runtime, work);
    // A thread may hang in the module of a token, which nothing ends but the end of the process.
    runtime.shutdown_background();
    Ok(done)
}

fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { command, common } = arguments;
    if !matches!(command, Command::Node { command: None, .. }) {
        // A node stops by itself, when it has finished what it is at.
        interrupt::leave_on_signals().map_err(CliError::failed)?;
    }
    match command {
        Command::Init(options) => init(&options, &common),
        Command::Join(options) => join(&options, &common),
        Command::Node { command: None, unsealing } => {
            let dir = common.dir.ok_or_else(|| CliError::usage("node needs --dir DIR"))?;
            Ok(node::run(&dir, unsealing.passphrase_file.as_deref(), |ready| line(ready))?)
        }
        Command::Key(command) => keys::run(command, &common),
        Command::Device(command) => match devices::offline(command, &common)? {
            Some(command) => on_runtime(devices::devices(command, &common)).map_err(CliError::failed)?,
            None => Ok(()),
        },
        Command::RecoverQuorum(options) => recovery::recover_quorum(&options, &common),
        Command::Demo { path, keep, size } => {
            let demo = crate::demo::Options { path, keep, bytes: size, json: common.json };
            crate::demo::run(&demo).map_err(CliError::failed)
        }
        Command::Bench(BenchCommand::Replicate { size, mtu, work }) => {
            crate::bench::replicate(size, mtu, work.as_deref(), common.json).map_err(CliError::failed)
        }
        command => on_runtime(client_command(command, &common)).map_err(CliError::failed)?,
    }
}

async fn client_command(command: Command, common: &Common) -> Result<(), CliError> {
    match command {
        Command::Context(command) => client_commands::context(command, common).await,
        Command::Tenant(command) => client_commands::tenant(command, common).await,
        Command::Log(command) => logs::log(command, common).await,
        Command::Put { recursive, log, name, file } => {
            objects::put(recursive, &log, &name, file.as_deref(), common).await
        }
        Command::Get { recursive, log, name, output, at } => {
            objects::get(recursive, &log, &name, &output, &at, common).await
        }
        Command::Ls { log, at } => objects::ls(&log, &at, common).await,
        Command::Rm { log, name } => objects::rm(&log, &name, common).await,
        Command::History { log, name } => objects::history(&log, &name, common).await,
        Command::Status { wait_caught_up } => client_commands::status(wait_caught_up, common).await,
        Command::Peer(command) => peers::peer(command, common).await,
        Command::Failover { from, log, at, force } => sides::failover(from, log, at, force, common).await,
        Command::Switchover(Moving { to, log, wait }) => {
            sides::switchover(sides::Move { to, log, wait_seconds: wait, back: false }, common).await
        }
        Command::Failback(Moving { to, log, wait }) => {
            sides::switchover(sides::Move { to, log, wait_seconds: wait, back: true }, common).await
        }
        Command::Drill { from, log, objects } => sides::drill(from, log, objects, common).await,
        Command::Invite { node } => nodes::invite(node.as_deref(), common).await,
        Command::Node { command: Some(command), .. } => nodes::node(command, common).await,
        Command::Repair(command) => nodes::repair(command, common).await,
        Command::Site(command) => devices::site(command, common).await,
        Command::Scrub(command) => nodes::scrub(command, common).await,
        Command::Identity(command) => identities::run(command, common).await,
        Command::Certificate(command) => certificates::run(command, common).await,
        Command::Divergence(command) => divergence::run(command, common).await,
        Command::Audit(command) => audit::run(command, common).await,
        Command::Backup(command) => backup::backup(command, common).await,
        Command::Restore(options) => backup::restore_site(options, common).await,
        Command::Demo { .. }
        | Command::Device(_)
        | Command::Init(_)
        | Command::Join(_)
        | Command::RecoverQuorum(_)
        | Command::Node { command: None, .. }
        | Command::Key(_)
        | Command::Bench(_) => Ok(()),
    }
}

fn node_options(arguments: &NodeArguments) -> NodeOptions {
    NodeOptions {
        listen: arguments.listen,
        advertise: arguments.advertise,
        devices: arguments.devices.clone(),
        device_count: arguments.device_count,
        device_bytes: arguments.device_size,
        cores: (!arguments.cores.is_empty()).then(|| arguments.cores.clone()),
        mtu: arguments.mtu,
    }
}

fn join(options: &Join, common: &Common) -> Result<(), CliError> {
    let directory = common.dir.clone().ok_or_else(|| CliError::usage("join needs --dir DIR"))?;
    let join = JoinOptions {
        directory: directory.clone(),
        token: options.token.clone(),
        rack: options.rack.as_deref().map(parse_label).transpose()?,
        node: node_options(&options.node),
    };
    let site = node::join(&join)?;
    match common.json {
        true => line(json!({
            "site": site.name.as_str(), "site_id": site.site.to_string(), "node": site.node.0, "shards": site.shards,
            "listen": options.node.listen.to_string(),
        })),
        false => {
            line(format!("node {} of site {} made in {}", site.node, site.name, directory.display()));
            line(format!("run it: farside node --dir {}", directory.display()));
        }
    }
    Ok(())
}

fn parse_geometry(text: &str) -> Result<Geometry, CliError> {
    Geometry::parse(text).ok_or_else(|| CliError::usage(format!("{text} is no geometry: 4+2, 8+3, up to 128 in all")))
}

fn init(options: &Init, common: &Common) -> Result<(), CliError> {
    let directory = common.dir.clone().ok_or_else(|| CliError::usage("init needs --dir DIR"))?;
    let init = InitOptions {
        directory: directory.clone(),
        site: parse_label(&options.site)?,
        node: node_options(&options.node),
        geometry: parse_geometry(&options.geometry)?,
        groups: options.groups,
    };
    let site = node::init(&init)?;
    if let Some(notice) = init.notice() {
        note(format_args!("notice: {notice}"));
    }
    match common.json {
        true => line(json!({
            "site": site.name.as_str(), "site_id": site.site.to_string(), "shards": site.shards,
            "geometry": site.geometry.to_string(), "listen": options.node.listen.to_string(),
            "device_losses_survived": init.losses_survived(),
        })),
        false => {
            line(format!(
                "site {} made in {} ({} on {} shards)",
                site.name,
                directory.display(),
                site.geometry,
                site.shards
            ));
            line(format!("run it: farside node --dir {}", directory.display()));
        }
    }
    Ok(())
}
