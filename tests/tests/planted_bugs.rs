//! The planted bugs stay alive: each still applies to the tree, is small, and lies in what production runs. Whether they
//! are found takes longer: `cargo run --release -p farside-tests -- planted`.

use farside_tests::planted::{patch, root};

/// Lines that a patch takes away or adds: a mistake, not another program.
const MOST_CHANGED: usize = 12;

#[test]
fn every_planted_bug_still_applies() {
    let root = root();
    let patches = patch::all(&root).expect("tests/planted holds patches with a head each");
    assert!(patches.len() >= 20, "{} bugs are few", patches.len());
    let stale: Vec<String> = patches.iter().filter_map(|patch| patch.check(&root).err()).collect();
    assert!(stale.is_empty(), "{stale:#?}");
    for patch in &patches {
        assert!((1..=MOST_CHANGED).contains(&patch.changed_lines), "{} changes {}", patch.name, patch.changed_lines);
        for file in &patch.files {
            let of = |part: &str| file.starts_with(part) && file.components().any(|part| part.as_os_str() == "src");
            let in_production = ["engine", "raft", "transport", "io"].into_iter().any(of);
            let in_simulator = file.starts_with("io/src/sim") || file.ends_with("sim.rs");
            assert!(in_production && !in_simulator, "{} changes {}", patch.name, file.display());
        }
    }
}
