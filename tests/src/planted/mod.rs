//! Planted bugs: mistakes that somebody could make, each put into a copy of the tree, to see who finds it and how soon.
//!
//! A simulator that finds nothing may be a good engine's or a blind one. The patches under tests/planted/ tell the two
//! apart. One at a time is applied to a copy ([`workshop`]), built there and hunted ([`hunt`]); tests/PLANTED.md is what
//! came of it ([`report`]). The hunters have to find nothing in the clean copy first, or a find would mean nothing.

pub mod hunt;
pub mod patch;
pub mod report;
pub mod workshop;

use hunt::{Found, Hunt};
use patch::{Hunter, Patch};
use report::Row;
use std::path::{Path, PathBuf};
use workshop::Workshop;

/// What is to be hunted, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seeds after which a bug counts as not found.
    pub seeds: u64,
    /// Threads of the simulator.
    pub threads: u64,
    /// Only bugs whose name contains one of these; empty: all.
    pub only: Vec<String>,
    /// Where the page goes.
    pub out: PathBuf,
    /// Where the copy and what is built from it lie.
    pub work: PathBuf,
}

/// The top of the source tree that this was built from.
pub fn root() -> PathBuf {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_root.parent().unwrap_or(crate_root).to_owned()
}

/// Where the copy lies unless somebody says otherwise: beside the build that this program is of.
pub fn default_work() -> PathBuf {
    let built = std::env::current_exe().ok();
    let target = built.as_deref().and_then(Path::parent).and_then(Path::parent);
    target.map_or_else(|| std::env::temp_dir().join("farside-planted"), |target| target.join("planted"))
}

/// Hunts, and writes the page. Answers the names of the bugs that were not found.
pub fn run(options: &Options) -> Result<Vec<String>, String> {
    let root = root();
    let all = patch::all(&root)?;
    let chosen = choose(&all, &options.only)?;
    let kept = if options.only.is_empty() { Vec::new() } else { report::rows(&options.out, &all) };
    report::check_writable(&options.out)?;
    for one in &chosen {
        one.check(&root)?;
    }
    let workshop = Workshop::open(&root, &options.work)?;
    for hunter in Hunter::ALL.into_iter().filter(|hunter| chosen.iter().any(|one| one.hunter == *hunter)) {
        find_nothing(&workshop, hunter, options)?;
    }
    let mut rows = kept;
    for one in &chosen {
        let hunt = workshop.with(one, || hunt_one(&workshop, one.hunter, options.seeds, options.threads))?;
        let row = Row::new(one, &hunt);
        println!("{row}");
        rows.retain(|before| before.name != row.name);
        rows.push(row);
        // Written after each, so that a run that is interrupted leaves what it found.
        report::write(&options.out, &mut rows)?;
    }
    let names = chosen.iter().map(|one| one.name.clone());
    Ok(names.filter(|name| rows.iter().any(|row| row.name == *name && !row.is_found())).collect())
}

fn choose(all: &[Patch], only: &[String]) -> Result<Vec<Patch>, String> {
    for wanted in only {
        if !all.iter().any(|one| one.name.contains(wanted.as_str())) {
            let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
            return Err(format!("no planted bug is called {wanted}; there are {}", names.join(", ")));
        }
    }
    let is_wanted = |one: &&Patch| only.is_empty() || only.iter().any(|wanted| one.name.contains(wanted.as_str()));
    Ok(all.iter().filter(is_wanted).cloned().collect())
}

fn hunt_one(workshop: &Workshop, hunter: Hunter, seeds: u64, threads: u64) -> Result<Hunt, String> {
    let program = workshop.build(hunter)?;
    hunt::run(&program, hunter, seeds, threads)
}

/// Lets a hunter loose on the clean copy, a few seeds long.
fn find_nothing(workshop: &Workshop, hunter: Hunter, options: &Options) -> Result<(), String> {
    let seeds = hunter.clean_seeds().min(options.seeds);
    let hunt = hunt_one(workshop, hunter, seeds, options.threads)?;
    match hunt.found {
        None => {
            println!("{hunter}: nothing is found in the clean tree, {seeds} seeds long, {:.0} s", hunt.seconds);
            Ok(())
        }
        Some(Found { seed, what }) => Err(format!(
            "{hunter} finds something in the clean tree, so that what it finds elsewhere means nothing: seed {seed}: {what}"
        )),
    }
}
