//! Figures that can be reproduced: `cargo run --release -p farside-bench -- --help`.
//!
//! One number per claim, each beside its limit or what one would use instead, measured in the same run, in turn. The
//! benchmark of replication belongs to the command line: `farside bench replicate`.

mod codec;
mod figure;
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Codec => {
            codec::run(arguments.json);
            Ok(())
        }
        Command::Restart { fragments, work } => restart::run(fragments, work.as_deref(), arguments.json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
