//! A site of five nodes, each on a machine of its own, between which the network is cut: whoever is with the majority goes
//! on, whoever is not refuses writes in a bounded time, and when the cut is healed all of them agree. One-way cuts too.

use farside_tests::namespaces::Machines;
use farside_tests::{Cluster, Outcome, bytes, signal};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const NODES: usize = 5;
/// Within this a command is answered, one way or the other, whatever is cut.
const BOUND: Duration = Duration::from_secs(25);

struct Cut<'a> {
    machines: &'a Machines,
    cluster: &'a Cluster,
    root: &'a Path,
}

impl Cut<'_> {
    fn file(&self, number: u64) -> String {
        let file = self.root.join("in");
        std::fs::write(&file, bytes(number, 90_000)).expect("written");
        file.display().to_string()
    }

    fn put(&self, number: u64) -> Outcome {
        let file = self.file(number);
        self.cluster.farside(&["put", "acme/data", &format!("object-{number}"), &file])
    }

    /// Puts until that succeeds again: what was on its way to a leader that is cut off may fail once.
    fn put_at_last(&self, number: u64) {
        let begun = Instant::now();
        let mut said = Vec::new();
        loop {
            let put = self.put(number);
            if put.code == 0 {
                break;
            }
            said.push(format!("{:?}: {} {}", begun.elapsed(), put.code, put.stderr));
            assert!(begun.elapsed() < BOUND, "object {number} can't be put: {said:?}");
        }
        println!("object {number} put {:?} after the cut", begun.elapsed());
    }

    /// Runs a command on a machine of the cluster.
    fn on(&self, machine: usize, arguments: &[&str]) -> Outcome {
        let prefix = self.machines.prefix(machine);
        let context = self.cluster.context.display().to_string();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg(farside_tests::binary()).args(arguments).args(["--context", &context]);
        let begun = Instant::now();
        let output = command.output().expect("it runs");
        assert!(begun.elapsed() < BOUND, "{arguments:?} took {:?}", begun.elapsed());
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Every object is there, whole, from every machine, and nothing else is.
    fn agree(&self, numbers: std::ops::Range<u64>) {
        for machine in 0..NODES {
            let listed = |line: &str| line.contains("object-");
            let begun = Instant::now();
            let names = loop {
                let listing = self.on(machine, &["ls", "acme/data"]);
                if listing.code == 0 || begun.elapsed() > BOUND {
                    break listing.ok();
                }
            };
            assert_eq!(names.lines().filter(|line| listed(line)).count() as u64, numbers.end, "{names}");
            assert!(!names.contains("refused"), "what was refused was done: {names}");
            for number in numbers.clone() {
                let read = self.on(machine, &["get", "acme/data", &format!("object-{number}")]);
                assert_eq!(read.code, 0, "object {number} from machine {machine}: {}", read.stderr);
                assert!(read.stdout == bytes(number, 90_000), "object {number} differs");
            }
        }
    }
}

fn start(machines: &Machines, root: &Path) -> Cluster {
    let size = ["--cores", "0", "--device-count", "2", "--device-size", "96MiB"];
    Cluster::start_on(machines, root, "near", &["--geometry", "2+2"], &size)
}

#[test]
fn the_majority_goes_on_and_everybody_agrees_afterwards() {
    let Some(machines) = Machines::make(NODES) else {
        // Not every machine that has root may have these; a failure would say nothing about what is tested.
        eprintln!("SKIPPED: cuts between machines need root, network namespaces and nft");
        return;
    };
    let root = tempfile::tempdir().expect("a directory");
    let cluster = start(&machines, root.path());
    cluster.make_log(&root.path().join("kms"), "acme/data");
    let cut = Cut { machines: &machines, cluster: &cluster, root: root.path() };
    (0..3).for_each(|number| drop(cut.put(number).ok()));

    // Two of five are cut off, from the others and from the client that is here.
    let (few, many) = ([3, 4], [0, 1, 2]);
    for (one, other) in few.into_iter().flat_map(|one| many.map(|other| (one, other))) {
        machines.deafen(one, Some(other));
        machines.deafen(other, Some(one));
    }
    few.iter().for_each(|one| machines.deafen(*one, None));
    cut.put_at_last(3);
    cut.put(4).ok();
    let file = cut.file(99);
    for machine in few {
        let refused = cut.on(machine, &["put", "acme/data", "refused", &file]);
        assert!([1, 4].contains(&refused.code), "{}: {}", refused.code, refused.stderr);
        assert!(!refused.stderr.is_empty(), "it says why");
    }
    cut.put(5).ok();
    machines.heal();
    cut.put_at_last(6);
    cut.agree(0..7);

    // One machine hears nobody, and is heard by all.
    (0..4).for_each(|other| machines.deafen(4, Some(other)));
    cut.put_at_last(7);
    cut.put_at_last(8);
    machines.heal();
    cut.put_at_last(9);
    // One machine hears all, and nobody hears it.
    (0..4).for_each(|other| machines.deafen(other, Some(4)));
    cut.put_at_last(10);
    cut.put_at_last(11);
    machines.heal();
    cut.put_at_last(12);
    cut.agree(0..13);

    // One is stopped in its tracks, which is worse than dead: it holds its connections.
    let stopped = &cluster.nodes[2];
    signal("-STOP", stopped.process());
    cut.put_at_last(13);
    cut.put_at_last(14);
    signal("-CONT", stopped.process());
    cut.put_at_last(15);
    cut.agree(0..16);
    cluster.wait_for(Duration::from_secs(60), "nothing is owed", Cluster::owes_nothing);
}
