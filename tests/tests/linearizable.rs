//! Concurrent clients of a log at a site of five nodes, while nodes are killed, stopped in their tracks and cut off: what the
//! clients saw could have happened one operation after the other. Registers that are read, written and compared, and a list
//! that grows.
//!
//! FARSIDE_RUNS=200 makes two hundred runs instead of three; FARSIDE_SEED=N begins with another one.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside::client::{Client, ClientError, Context, Log, Upload};
use farside_codec::message::{Moment, RefusalCode};
use farside_io::sim::histories::Dice;
use farside_tests::linear::{Did, Step, Written, check};
use farside_tests::namespaces::Machines;
use farside_tests::{Cluster, Stop, as_client, rounds, signal};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 5;
const WORKERS: u64 = 4;
const REGISTERS: u64 = 3;
/// The object that numbers are appended to.
const LIST: u64 = 99;
/// How long clients work in one run.
const WORK: Duration = Duration::from_secs(5);

/// What the clients of one run did.
struct Clients {
    begun: Instant,
    stop: AtomicBool,
    next: AtomicU64,
    steps: Mutex<Vec<Step>>,
}

impl Clients {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn did(&self, object: u64, begun: u64, ended: Option<u64>, did: Did) {
        self.steps.lock().expect("a lock").push(Step { object, begun, ended, did });
    }

    async fn work(&self, log: &Log, dice: &Dice) {
        while !self.stop.load(Ordering::Relaxed) {
            match dice.below(10) {
                0..3 => self.write(log, dice.below(REGISTERS), None).await,
                3..5 => self.compare(log, dice.below(REGISTERS)).await,
                5..7 => self.write(log, LIST, None).await,
                7 => self.read_all(log).await,
                _ => drop(self.read(log, dice.below(REGISTERS)).await),
            }
        }
    }

    /// Writes the next number to a register, or appends it.
    async fn write(&self, log: &Log, object: u64, expected: Option<u64>) {
        let number = 1 + self.next.fetch_add(1, Ordering::Relaxed);
        let mut upload = Upload::bytes(&name(object, number), number.to_string().into_bytes());
        upload.modified = (number as i64, 0);
        upload.condition = expected;
        let begun = self.now();
        let put = log.put(upload).await;
        let ended = Some(self.now());
        match put {
            Ok(put) => self.did(object, begun, ended, Did::Wrote { number, at: Some(put.receipt.cursor.sequence) }),
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::ConditionFailed => {
                let expected = expected.expect("a refused condition was asked for");
                self.did(object, begun, ended, Did::Unmet(expected));
            }
            // It may have been done, or still be.
            Err(_) => self.did(object, begun, None, Did::Wrote { number, at: None }),
        }
    }

    /// Writes a register unless somebody else has since it was read.
    async fn compare(&self, log: &Log, object: u64) {
        if let Some(expected) = self.read(log, object).await {
            self.write(log, object, Some(expected)).await;
        }
    }

    async fn read(&self, log: &Log, object: u64) -> Option<u64> {
        let begun = self.now();
        let sequence = match log.get(&name(object, 0), &Moment::Latest).await {
            Ok(found) => found.info.sequence,
            Err(ClientError::NotFound(_)) => 0,
            Err(_) => return None,
        };
        self.did(object, begun, Some(self.now()), Did::Read(sequence));
        Some(sequence)
    }

    async fn read_all(&self, log: &Log) {
        let begun = self.now();
        if let Ok(numbers) = appended(log).await {
            let ended = Some(self.now());
            self.did(LIST, begun, ended, Did::ReadAll(numbers.into_iter().map(|(_, number)| number).collect()));
        }
    }
}

fn name(object: u64, number: u64) -> Vec<u8> {
    match object {
        LIST => format!("appended-{number}").into_bytes(),
        register => format!("register-{register}").into_bytes(),
    }
}

/// What was appended, in order: sequence and number.
async fn appended(log: &Log) -> Result<Written, ClientError> {
    let listed = log.list(&Moment::Latest).await?;
    let is_appended = |name: &[u8]| name.starts_with(b"appended-");
    let found = listed.iter().filter(|found| is_appended(&found.name));
    let mut found: Written = found.map(|found| (found.sequence, found.modified.0 as u64)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Every write there is, by object.
async fn written(client: Client, log: &str) -> Result<BTreeMap<u64, Written>, ClientError> {
    let log = client.open_log(log).await?;
    let mut all = BTreeMap::from([(LIST, appended(&log).await?)]);
    for register in 0..REGISTERS {
        let versions = match log.history(&name(register, 0)).await {
            Ok(versions) => versions,
            Err(ClientError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        all.insert(register, versions.iter().rev().map(|one| (one.sequence, one.modified.0 as u64)).collect());
    }
    Ok(all)
}

/// Kills, stops and cuts off nodes until the time is over, and leaves all of them running and in touch.
fn trouble(cluster: &mut Cluster, machines: Option<&Machines>, dice: &Dice) -> Vec<String> {
    let begun = Instant::now();
    let mut said = Vec::new();
    let rest = |from: u64, to: u64| std::thread::sleep(Duration::from_millis(dice.between(from, to)));
    while begun.elapsed() < WORK {
        let victim = dice.below(NODES as u64) as usize;
        let what = dice.below(if machines.is_some() { 5 } else { 2 });
        said.push(format!("{:?}: trouble {what} at node {}", begun.elapsed(), victim + 1));
        match (what, machines) {
            (0, _) => {
                cluster.nodes[victim].kill();
                rest(100, 1200);
                cluster.nodes[victim].run();
            }
            (1, _) => {
                signal("-STOP", cluster.nodes[victim].process());
                rest(300, 2500);
                signal("-CONT", cluster.nodes[victim].process());
            }
            (what, Some(machines)) => {
                let mut others: Vec<usize> = (0..NODES).filter(|node| *node != victim).collect();
                // Sometimes two are cut off together.
                let with = dice.percent(40).then(|| others.remove(dice.below(4) as usize));
                for one in [Some(victim), with].into_iter().flatten() {
                    for other in &others {
                        if what != 3 {
                            machines.deafen(one, Some(*other));
                        }
                        if what != 4 {
                            machines.deafen(*other, Some(one));
                        }
                    }
                }
                rest(300, 2500);
                machines.heal();
            }
            _ => unreachable!("only machines of their own are cut off"),
        }
        rest(0, 700);
    }
    said
}

/// One run on a log of its own. Answers the steps, and what is written in the end.
fn run(
    cluster: &mut Cluster,
    machines: Option<&Machines>,
    root: &Path,
    seed: u64,
) -> (Vec<Step>, BTreeMap<u64, Written>, Vec<String>) {
    let (kms, log) = (root.join("kms"), format!("acme/run-{seed}"));
    cluster.farside(&["log", "create", &log]).ok();
    let context = Context::load(&cluster.context).expect("a context");
    let clients = Clients {
        begun: Instant::now(),
        stop: AtomicBool::new(false),
        next: AtomicU64::new(0),
        steps: Mutex::default(),
    };
    let said = std::thread::scope(|scope| {
        let _stop = Stop(&clients.stop);
        for worker in 0..WORKERS {
            let (clients, context, kms, log) = (&clients, &context, &kms, &log);
            scope.spawn(move || {
                as_client(kms, "acme", context, async |client| {
                    let log = client.open_log(log).await.expect("opened");
                    clients.work(&log, &Dice::new(seed * 100 + worker)).await;
                });
            });
        }
        trouble(cluster, machines, &Dice::new(seed))
    });
    let all = as_client(&kms, "acme", &context, async |client| {
        let begun = Instant::now();
        loop {
            match written(client.clone(), &log).await {
                Ok(all) => break all,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "nothing is read any more: {error}"),
            }
        }
    });
    (clients.steps.into_inner().expect("a lock"), all, said)
}

/// A check that finds nothing must not be one that looks at nothing: of each kind of lie about this very run it is told one.
fn notices_lies(steps: &[Step], all: &BTreeMap<u64, Written>) {
    let number = steps.iter().find_map(|step| match step.did {
        Did::Wrote { number, at: Some(_) } => Some(number),
        _ => None,
    });
    let number = number.expect("something was written");
    let mut lost = all.clone();
    lost.values_mut().for_each(|writes| writes.retain(|(_, one)| *one != number));
    assert!(check(steps, &lost).is_err(), "an acknowledged write is gone, and nobody minds");
    // Somebody asks when all is over, and sees what was there at first.
    let late = steps.iter().map(|step| step.begun).max().expect("there are steps") + 1_000_000_000_000;
    let (last, register) = (0..REGISTERS).map(|register| (all[&register].len(), register)).max().expect("registers");
    assert!(last > 0, "no register was written");
    for (object, did) in [(register, Did::Read(0)), (LIST, Did::ReadAll(BTreeSet::new()))] {
        let stale = Step { object, begun: late, ended: Some(late + 1), did };
        let told = [steps, std::slice::from_ref(&stale)].concat();
        assert!(check(&told, all).is_err(), "{stale:?} is believed");
    }
}

#[test]
fn what_clients_saw_could_have_happened_one_after_the_other() {
    let machines = Machines::make(NODES);
    if machines.is_none() {
        eprintln!("nobody is cut off: that needs root, network namespaces and nft");
    }
    let root = tempfile::tempdir().expect("a directory");
    let size = ["--cores", "0", "--device-count", "2", "--device-size", "96MiB"];
    let mut cluster = match &machines {
        Some(machines) => Cluster::start_on(machines, root.path(), "near", &["--geometry", "2+2"], &size),
        None => Cluster::start(root.path(), "near", NODES, &["--geometry", "2+2", "--device-size", "96MiB"]),
    };
    cluster.make_log(&root.path().join("kms"), "acme/first");
    let first = std::env::var("FARSIDE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + rounds("FARSIDE_RUNS", 3) as u64 {
        let (steps, all, said) = run(&mut cluster, machines.as_ref(), root.path(), seed);
        let count = |is: fn(&Did) -> bool| steps.iter().filter(|step| is(&step.did)).count();
        let unanswered = steps.iter().filter(|step| step.ended.is_none()).count();
        println!(
            "run {seed}: {} writes, {} reads, {} lists, {} conditions unmet, {unanswered} without an answer; {} troubles",
            count(|did| matches!(did, Did::Wrote { .. })),
            count(|did| matches!(did, Did::Read(_))),
            count(|did| matches!(did, Did::ReadAll(_))),
            count(|did| matches!(did, Did::Unmet(_))),
            said.len()
        );
        if let Err(what) = check(&steps, &all) {
            panic!("run {seed} is not linearizable: {what}\n{}", said.join("\n"));
        }
        notices_lies(&steps, &all);
        assert!(count(|did| matches!(did, Did::Wrote { at: Some(_), .. })) > 20, "hardly anything was written");
    }
}
