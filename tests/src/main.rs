//! Long runs of the test world: `cargo run --release -p farside-tests -- sim --help`.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use farside_tests::planted;
use farside_tests::sim::scenarios::{self, SCENARIOS, Scenario};
use farside_tests::sim::{self, Options, Report};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "A world in which everything fails")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds of the simulator. Exit code 1 if one of them shows what must not be.
    Sim(Sim),
    /// Plants bugs in a copy of the tree, one at a time, and hunts them. Exit code 1 if one of them is not found, 2 if
    /// one can't be hunted.
    Planted(Planted),
}

#[derive(Args)]
struct Planted {
    /// Seeds after which a bug counts as not found.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Only bugs whose name contains this; may be given several times. The page keeps what it says of the others.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where the page goes [default: tests/PLANTED.md].
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Where the copy of the tree and its builds lie [default: target/planted].
    #[arg(long, value_name = "PATH")]
    work: Option<PathBuf>,
    /// Threads of the simulator.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    threads: u64,
}

#[derive(Args)]
struct Sim {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Goes on until so many minutes have passed, whatever --seeds says.
    #[arg(long)]
    minutes: Option<u64>,
    /// Which faults there are; `sim --help` says what each is for.
    #[arg(long, default_value = "everything", value_parser = scenario_parser())]
    scenario: &'static Scenario,
    /// Simulated seconds during which things go wrong.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Begins no seed any more once one has failed.
    #[arg(long)]
    until_found: bool,
    /// Threads; each runs seeds of its own.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Prints everything that happens.
    #[arg(long)]
    print: bool,
}

/// Knows every scenario by its name.
fn scenario_parser() -> impl TypedValueParser<Value = &'static Scenario> {
    let names = SCENARIOS.iter().map(|scenario| PossibleValue::new(scenario.name).help(scenario.about));
    PossibleValuesParser::new(names).try_map(|name| scenarios::find(&name).ok_or("there is no such scenario"))
}

fn main() -> ExitCode {
    // What a node says of the faults is expected here; FARSIDE_LOG brings it back.
    let filter = tracing_subscriber::EnvFilter::try_from_env("FARSIDE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Arguments::parse().command {
        Command::Sim(options) => simulate(&options),
        Command::Planted(options) => plant(options),
    }
}

fn plant(planted: Planted) -> ExitCode {
    let Planted { seeds, only, out, work, threads } = planted;
    let out = out.unwrap_or_else(|| planted::root().join("tests/PLANTED.md"));
    let work = work.unwrap_or_else(planted::default_work);
    match planted::run(&planted::Options { seeds, threads, only, out, work }) {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            eprintln!("not found: {}", missed.join(", "));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn simulate(sim: &Sim) -> ExitCode {
    let options = Options { print: sim.print, scenario: sim.scenario, ..Options::of(sim.seconds) };
    let begun = Instant::now();
    let (next, failed, done) = (AtomicU64::new(sim.seed), AtomicU64::new(0), AtomicU64::new(0));
    let (simulated, found) = (AtomicU64::new(0), AtomicBool::new(false));
    let is_over = |seed: u64| match sim.minutes {
        _ if sim.until_found && found.load(Ordering::Relaxed) => true,
        Some(minutes) => begun.elapsed() >= Duration::from_secs(60 * minutes),
        None => seed >= sim.seed + sim.seeds,
    };
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if is_over(seed) {
                return;
            }
            let report = sim::run_seed(seed, options);
            let again = sim.twice.then(|| sim::run_seed(seed, options));
            done.fetch_add(1, Ordering::Relaxed);
            simulated.fetch_add(report.simulated.as_secs(), Ordering::Relaxed);
            if !tell(&report, again.as_ref(), sim) {
                found.store(true, Ordering::Relaxed);
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..sim.threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    let (done, failed) = (done.into_inner(), failed.into_inner());
    let hours = 2.0 * simulated.into_inner() as f64 / 3600.0;
    eprintln!(
        "{done} seeds, {failed} failed, {hours:.1} simulated site-hours in {:.0} s on {} threads",
        begun.elapsed().as_secs_f64(),
        sim.threads
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Prints a seed's line, and what there is to say about a failure. Answers whether it was none.
fn tell(report: &Report, again: Option<&Report>, sim: &Sim) -> bool {
    let mut violations = report.violations.clone();
    if let Some(again) = again.filter(|again| again.trace != report.trace) {
        let differs = report.lines.iter().zip(&again.lines).find(|(one, other)| one != other);
        violations.push(format!("a second run has trace={:016x}; they part at {differs:?}", again.trace));
    }
    println!(
        "seed={} trace={:016x} operations={} answered={} faults={} simulated_seconds={} seconds={:.2} {}",
        report.seed,
        report.trace,
        report.operations,
        report.answered,
        report.faults,
        report.simulated.as_secs(),
        report.took.as_secs_f64(),
        if violations.is_empty() { "ok" } else { "FAILED" }
    );
    if violations.is_empty() {
        return true;
    }
    let history: Vec<&str> = report.lines.iter().map(String::as_str).collect();
    let from = history.len().saturating_sub(200);
    eprintln!("--- the last of seed {}'s history", report.seed);
    history[from..].iter().for_each(|line| eprintln!("{line}"));
    violations.iter().for_each(|violation| eprintln!("seed {}: {violation}", report.seed));
    let mut options = format!("--seed {}", report.seed);
    if sim.seconds != 60 {
        options += &format!(" --seconds {}", sim.seconds);
    }
    if sim.scenario.name != scenarios::everything().name {
        options += &format!(" --scenario {}", sim.scenario.name);
    }
    eprintln!("replay: cargo run --release -p farside-tests -- sim {options} --print");
    false
}
