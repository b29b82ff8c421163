//! The simulator: whole sites with their clients on one thread, in virtual time, from one seed.
//!
//! Engine, raft and transport are what production runs; devices, network, clocks and chance are the simulator's. One
//! seed decides the world, the workload and the faults, and gives the same trace each time. Where to start:
//! [`run_seed`] for a run, [`world`] for what there is, [`faults`] for what goes wrong, [`oracles`] for what must hold.
//! docs/simulator.md says how to add to each.

pub mod divergence;
pub mod faults;
pub mod history;
pub mod host;
pub mod network;
pub mod node;
pub mod oracles;
pub mod scenarios;
pub mod site;
pub mod splits;
pub mod store;
pub mod telling;
pub mod trace;
pub mod violation;
pub mod watch;
pub mod work;
pub mod world;

use scenarios::Scenario;
use std::cell::RefCell;
use std::sync::Once;
use std::time::{Duration, Instant};
use trace::Trace;
use world::World;

/// How a seed is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Simulated time during which things go wrong.
    pub span: Duration,
    /// Faults in that time, from the least to the most.
    pub faults: (u64, u64),
    /// Operations that the workload is paced for, at least.
    pub operations: u64,
    /// Operations below which the workload goes on beyond the time, for as long again at most.
    pub least_operations: u64,
    /// Which faults there are.
    pub scenario: &'static Scenario,
    /// Lines go to standard error as they come.
    pub print: bool,
}

impl Options {
    /// For so many simulated seconds.
    pub fn of(seconds: u64) -> Self {
        Self {
            span: Duration::from_secs(seconds),
            faults: (5, 20),
            operations: 12 * seconds,
            least_operations: 500 * seconds / 60,
            scenario: scenarios::everything(),
            print: false,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::of(60)
    }
}

/// What came of a seed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The hash of everything that happened.
    pub trace: u64,
    /// Operations of the workload.
    pub operations: usize,
    /// Those that were placed or answered.
    pub answered: usize,
    /// Faults.
    pub faults: usize,
    /// Simulated time.
    pub simulated: Duration,
    /// Time that it took.
    pub took: Duration,
    /// What must not have been.
    pub violations: Vec<String>,
    /// The last lines of the trace.
    pub lines: Vec<String>,
}

impl Report {
    /// Of a seed of which nothing is known yet.
    fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics of the thread that runs a seed: those inside tasks are swallowed otherwise.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            before(panic);
        }));
    });
}

/// Runs one seed, on a thread of its own so that nothing of an earlier one is left in its thread-locals.
pub fn run_seed(seed: u64, options: Options) -> Report {
    note_panics();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(move || run_here(seed, options));
    let joined = thread
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().map_err(|_| "the world itself panicked".to_owned()));
    joined.unwrap_or_else(|error| Report { violations: vec![error], ..Report::of(seed) })
}

fn run_here(seed: u64, options: Options) -> Report {
    let begun = Instant::now();
    let seeded = farside_raft::seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("the operating system gives a runtime");
    let root = memory_directory().expect("a directory for node files");
    let mut report = tokio::task::LocalSet::new().block_on(&runtime, live(seed, options, root.path()));
    if !seeded {
        report.violations.push("the thread had drawn random numbers before it was seeded".into());
    }
    report.violations.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
    report.took = begun.elapsed();
    report
}

/// Node files lie in memory where that is possible: they are small, and flushed often.
fn memory_directory() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

/// A whole life of a world: made, worked in, broken, mended, judged.
async fn live(seed: u64, options: Options, root: &std::path::Path) -> Report {
    let trace = Trace::new(options.print);
    let mut violations = Vec::new();
    let mut report = Report::of(seed);
    match World::make(seed, root, trace.clone(), options.scenario).await {
        Err(error) => violations.push(format!("the world did not begin: {error}")),
        Ok(world) => {
            if let Err(error) = spend(&world, options, &mut report).await {
                violations.push(error);
            }
            violations.extend(world.violations().all());
            let events = world.shared().history.events();
            report.operations = events.len();
            report.answered = events.iter().filter(|event| event.outcome != history::Outcome::Unknown).count();
        }
    }
    report.trace = trace.hash();
    report.simulated = Duration::from_millis(trace.now_ms());
    report.lines = trace.lines();
    report.violations = violations;
    report
}

async fn spend(world: &World, options: Options, report: &mut Report) -> Result<(), String> {
    let random = world.random();
    let clients = 2 + (random.next_u64() % 3) as u8;
    // Snapshots are due by bytes, so where there are to be any there is more to do.
    let is_bulky = world.shared().objects == work::Objects::Bulky;
    let operations = if is_bulky { 3 * options.operations } else { options.operations };
    let pace = options.span.mul_f64(f64::from(clients) / operations as f64);
    let (least, most) = options.faults;
    let count = least + random.next_u64() % (most - least + 1);
    let plan = match options.scenario.orders {
        true => splits::plan(report.seed, random, options.span),
        false => faults::plan(random, options.scenario, count, options.span, world.targets(clients)),
    };
    report.faults = plan.len();
    let watch = tokio::task::spawn_local(watch::Watch::default().run(world.clone()));
    if random.next_u64().is_multiple_of(2) {
        tokio::task::spawn_local(faults::slow_flushes(world.clone()));
    }
    let workers = world.work(clients, pace);
    let end = tokio::time::Instant::now() + options.span;
    faults::run(world, plan).await;
    tokio::time::sleep_until(end).await;
    while world.shared().history.len() < options.least_operations && end.elapsed() < options.span {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.shared().over.set(true);
    world.make_peace().await?;
    for worker in workers {
        worker.await.map_err(|error| format!("a client failed: {error}"))?;
    }
    let watch = watch.await.map_err(|error| format!("the watch failed: {error}"))?;
    oracles::judge(world, &watch).await
}
