//! Figures that can be reproduced: `cargo run --release -p farside-bench -- --help`.
//!
//! One number per claim, each beside its limit or what one would use instead, measured in the same run, in turn. The
//! benchmark of replication belongs to the command line: `farside bench replicate`.

mod codec;
mod figure;
mod repair;
mod rest;
mod restart;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Figures that can be reproduced")]
struct Arguments {
    /// One JSON object a figure.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Erasure kernels beside reed-solomon-simd; sealing, hashes and checksums beside a copy of the same bytes.
    Codec,
    /// How long a store with many fragments takes to open. Writes 8 KiB a fragment into DIR.
    Restart {
        /// Fragments.
        #[arg(long, default_value_t = 1_000_000)]
        fragments: u64,
        /// Where the devices lie; default: the system's temporary directory.
        #[arg(long)]
        work: Option<PathBuf>,
    },
    /// How fast a lost node's fragments are rebuilt beside the bare pipeline, and what clients notice of it. Runs real nodes on
    /// this machine; needs nine times as much space as each node gets, and 10 GiB.
    Repair {
        /// MiB that each node gets.
        #[arg(long, default_value_t = 4096)]
        mib: u64,
        /// Where the nodes lie; default: the system's temporary directory.
        #[arg(long)]
        work: Option<PathBuf>,
    },
    /// What each node of a site takes of a core while nobody does anything. Runs real nodes on this machine.
    Rest {
        /// Nodes.
        #[arg(long, default_value_t = 5)]
        nodes: usize,
        /// Log groups.
        #[arg(long, default_value_t = 16)]
        groups: usize,
        /// Logs.
        #[arg(long, default_value_t = 1000)]
        logs: usize,
        /// For how long it is looked at.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where the nodes lie; default: the system's temporary directory.
        #[arg(long)]
        work: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Codec => {
            codec::run(arguments.json);
            Ok(())
        }
        Command::Restart { fragments, work } => restart::run(fragments, work.as_deref(), arguments.json),
        Command::Repair { mib, work } => repair::run(mib << 20, work.as_deref(), arguments.json),
        Command::Rest { nodes, groups, logs, seconds, work } => {
            rest::run(&rest::Plan { nodes, groups, logs, seconds }, work.as_deref(), arguments.json)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
