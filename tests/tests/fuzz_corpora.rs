//! Every fuzz target over its committed corpus and seeded mutations of it, on stable, and that nothing of a target is
//! missing. FARSIDE_MUTATIONS=50 tries fifty times as many; `FARSIDE_BLESS=1 cargo test -p farside-tests --test fuzz_corpora`
//! writes the seeds anew.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside_io::sim::histories::Dice;
use farside_tests::fuzzing::allocation::Counting;
use farside_tests::fuzzing::{TARGETS, Target, mutation};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[global_allocator]
static COUNTING: Counting = Counting;

/// What every mutation follows from.
const SEED: u64 = 0x5eed;
/// A seed is small, so that a fuzzer gets through many.
const MOST_SEED_BYTES: usize = 3 << 10;
/// Inputs of one corpus: more would be a fuzzer's own collection.
const MOST_INPUTS: usize = 60;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seed_path(target: &Target, seed: &str) -> PathBuf {
    fuzz().join("corpus").join(target.name).join(format!("seed-{seed}"))
}

/// The inputs of a target, in the order of their names.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target.name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs one input. What it is must be known if it fails, and it must be easy to run again.
fn run(target: &Target, what: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{} fails with {what}, {} bytes: {hex}", target.name, bytes.len());
    }
}

#[test]
fn corpora_and_what_they_turn_into() {
    let only = std::env::var("FARSIDE_TARGET").ok();
    let times = farside_tests::rounds("FARSIDE_MUTATIONS", 1) as u32;
    for target in TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)) {
        let begun = std::time::Instant::now();
        let inputs = corpus(target);
        assert!(!inputs.is_empty() && inputs.len() <= MOST_INPUTS, "{} has {} inputs", target.name, inputs.len());
        inputs.iter().for_each(|(name, bytes)| run(target, name, bytes));
        let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, bytes)| bytes).collect();
        let dice = Dice::new(SEED);
        for number in 0..target.mutations * times {
            run(target, &format!("mutation {number}"), &mutation::mutated(&dice, &inputs));
        }
        println!("{:<16} {:>5} in {:.2} s", target.name, target.mutations * times, begun.elapsed().as_secs_f64());
    }
}

#[test]
fn seeds_are_real_encodings_of_today() {
    let bless = std::env::var_os("FARSIDE_BLESS").is_some();
    for target in TARGETS {
        let seeds = (target.seeds)();
        let names: BTreeSet<&str> = seeds.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), seeds.len(), "two seeds of {} have one name", target.name);
        for (name, bytes) in seeds {
            assert!(bytes.len() <= MOST_SEED_BYTES, "{} of {} has {} bytes", name, target.name, bytes.len());
            let path = seed_path(target, name);
            if bless {
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                std::fs::write(&path, &bytes).expect("written");
            }
            let held = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(held == bytes, "{} is out of date; FARSIDE_BLESS=1 writes it anew", path.display());
        }
    }
}

#[test]
fn every_target_has_its_file_its_corpus_and_its_place() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let list = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz().join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(list("corpus"), targets);
    assert_eq!(list("fuzz_targets"), targets.iter().map(|name| format!("{name}.rs")).collect());
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for target in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)), "{}", target.name);
        let file = std::fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{}.rs", target.name)));
        assert!(file.expect("its file").contains("farside_tests::fuzzing::"), "{} runs something else", target.name);
    }
}

#[test]
fn an_allocation_before_its_bytes_is_noticed() {
    use farside_codec::{DecodeError, Field, Reader};

    #[derive(Debug, PartialEq)]
    struct Believer;

    impl Field for Believer {
        fn encode(&self, _: &mut Vec<u8>) {}
        fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
            let believed = Vec::<u8>::with_capacity(u32::decode(input)? as usize);
            Err(DecodeError::Truncated { need: believed.capacity(), have: 0 })
        }
    }
    let decode = |length: u32| farside_tests::fuzzing::wire::canonical::<Believer>(&length.to_le_bytes());
    assert_eq!(decode(7), None);
    assert!(catch_unwind(|| decode(1 << 20)).is_err(), "the promise is empty");
}
