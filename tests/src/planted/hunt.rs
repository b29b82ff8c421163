//! Running a hunter until it finds something, has done its seeds, or falls silent.

use super::patch::Hunter;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A seed of the simulator takes a second or two. One from which nothing is heard for that long will not end.
const SILENCE: Duration = Duration::from_secs(180);
/// Histories say nothing until they are through, and end by themselves where one of them spins.
const HISTORIES_END: Duration = Duration::from_secs(1800);

/// What a hunter found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// What it said.
    pub what: String,
}

/// What came of a hunt.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// What was found, if anything was.
    pub found: Option<Found>,
    /// Seeds that were to be run at most.
    pub seeds: u64,
    /// How long it took.
    pub seconds: f64,
}

enum Line {
    Out(String),
    Error(String),
}

/// Lets a hunter loose.
pub fn run(program: &Path, hunter: Hunter, seeds: u64, threads: u64) -> Result<Hunt, String> {
    let mut command = Command::new(program);
    let (count, threads) = (seeds.to_string(), threads.to_string());
    let patience = match hunter.scenario() {
        Some(scenario) => {
            command.args(["sim", "--seeds", &count, "--threads", &threads, "--until-found", "--scenario", scenario]);
            SILENCE
        }
        None => {
            command.args(["--nocapture", "--test-threads=1"]);
            command.env("FARSIDE_SEED", "1").env("FARSIDE_HISTORIES", &count);
            HISTORIES_END
        }
    };
    let begun = Instant::now();
    let (heard, ended) = listen(command, patience)?;
    let seconds = begun.elapsed().as_secs_f64();
    let found = match hunter.scenario() {
        Some(_) => of_simulator(&heard),
        None => of_histories(&heard),
    };
    let found = match (found, ended) {
        (None, Ended::Silent) => Some(Found { seed: first_unheard(&heard), what: "a seed that does not end".into() }),
        (None, Ended::Badly(status)) => {
            Some(Found { seed: first_unheard(&heard), what: format!("the process died: {status}") })
        }
        (found, _) => found,
    };
    Ok(Hunt { found, seeds, seconds })
}

enum Ended {
    Well,
    Badly(String),
    Silent,
}

/// Runs a command and hears what it says, until it ends or says nothing for too long; then it is killed.
fn listen(mut command: Command, patience: Duration) -> Result<(Vec<Line>, Ended), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
    let mut child = command.spawn().map_err(|error| format!("{:?} can't be run: {error}", command.get_program()))?;
    let (sender, lines) = mpsc::channel();
    let errors = sender.clone();
    let readers = [
        child.stdout.take().map(|out| std::thread::spawn(move || pass_on(out, &sender, Line::Out))),
        child.stderr.take().map(|error| std::thread::spawn(move || pass_on(error, &errors, Line::Error))),
    ];
    let mut heard = Vec::new();
    let silent = loop {
        match lines.recv_timeout(patience) {
            Ok(line) => heard.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // It may have ended just now.
                let _ = child.kill();
                break true;
            }
        }
    };
    let status = child.wait().map_err(|error| error.to_string())?;
    for reader in readers.into_iter().flatten() {
        reader.join().map_err(|_| "what a hunter said could not be read")?;
    }
    heard.extend(lines.try_iter());
    let ended = match status.success() {
        _ if silent => Ended::Silent,
        true => Ended::Well,
        false => Ended::Badly(status.to_string()),
    };
    Ok((heard, ended))
}

fn pass_on(from: impl Read, to: &mpsc::Sender<Line>, kind: fn(String) -> Line) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        if to.send(kind(String::from_utf8_lossy(&line).into_owned())).is_err() {
            return;
        }
    }
}

fn outs(heard: &[Line]) -> impl Iterator<Item = &str> {
    heard.iter().filter_map(|line| match line {
        Line::Out(text) => Some(text.as_str()),
        Line::Error(_) => None,
    })
}

fn errors(heard: &[Line]) -> impl Iterator<Item = &str> {
    heard.iter().filter_map(|line| match line {
        Line::Error(text) => Some(text.as_str()),
        Line::Out(_) => None,
    })
}

fn seed_of(line: &str) -> Option<u64> {
    line.strip_prefix("seed=")?.split(' ').next()?.parse().ok()
}

/// The lowest seed that failed, and the first thing that was wrong with it.
fn of_simulator(heard: &[Line]) -> Option<Found> {
    let failed = outs(heard).filter(|line| line.ends_with("FAILED")).filter_map(seed_of);
    let seed = failed.min()?;
    let prefix = format!("seed {seed}: ");
    let mut lines = errors(heard).skip_while(|line| !line.starts_with(&prefix));
    let first = lines.next().and_then(|line| line.strip_prefix(&prefix)).unwrap_or("it said nothing of it");
    // A panic says where, and on the next line why.
    let why = if first.starts_with("panic: ") { lines.next() } else { None };
    let what = why.map_or_else(|| first.to_owned(), |why| format!("panic: {why}"));
    Some(Found { seed, what })
}

/// The history that failed or spun, and the first panic.
fn of_histories(heard: &[Line]) -> Option<Found> {
    let number = |line: &str, end: &str| -> Option<u64> {
        let (number, _) = line.strip_prefix("history ")?.split_once(end)?;
        number.parse().ok()
    };
    if let Some(seed) = errors(heard).find_map(|line| number(line, " spins")) {
        return Some(Found { seed, what: "a history that spins".into() });
    }
    let seed = outs(heard).find_map(|line| number(line, " failed"))?;
    let mut lines = errors(heard).skip_while(|line| !line.contains(" panicked at "));
    let what = lines.nth(1).unwrap_or("it said nothing of it");
    Some(Found { seed, what: what.to_owned() })
}

/// Seeds begin in order, so the first of which nothing was heard is the one that went on.
fn first_unheard(heard: &[Line]) -> u64 {
    let mut done: Vec<u64> = outs(heard).filter_map(seed_of).collect();
    done.sort_unstable();
    (1..).zip(&done).find(|(expected, seed)| expected != *seed).map_or(done.len() as u64 + 1, |(expected, _)| expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[(bool, &str)]) -> Vec<Line> {
        let line = |(error, text): &(bool, &str)| {
            if *error { Line::Error((*text).to_owned()) } else { Line::Out((*text).to_owned()) }
        };
        lines.iter().map(line).collect()
    }

    fn check(found: Option<Found>, seed: u64, what: &str) {
        assert_eq!(found, Some(Found { seed, what: what.into() }));
    }

    #[test]
    fn the_lowest_seed_counts() {
        let said = heard(&[
            (false, "seed=1 trace=0 ok"),
            (false, "seed=4 trace=0 FAILED"),
            (true, "seed 4: the copies differ"),
            (false, "seed=3 trace=0 FAILED"),
            (true, "seed 3: panic: panicked at engine/src/x.rs:1:2:"),
            (true, "a delta continues the head"),
        ]);
        check(of_simulator(&said), 3, "panic: a delta continues the head");
        assert_eq!(first_unheard(&said), 2);
    }

    #[test]
    fn a_history_is_named_with_its_panic() {
        let said = heard(&[
            (true, "thread 'histories' panicked at engine/tests/x.rs:1:2:"),
            (true, "good device 1 is failed"),
            (false, "history 17 failed; this runs it again:"),
        ]);
        check(of_histories(&said), 17, "good device 1 is failed");
        check(of_histories(&heard(&[(true, "history 9 spins; this runs it again:")])), 9, "a history that spins");
        assert_eq!(of_histories(&heard(&[(false, "1000 histories from seed 1")])), None);
    }
}
