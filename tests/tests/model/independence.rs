//! Why one log is enough: what a group does with one log does not depend on any other log of it. Two logs' commands,
//! mixed in one group, leave exactly the rows that they leave apart. Between sites each log has senders of its own.

use super::copies::{apply_all, on_a_fresh_group, rows_of};
use super::world::{Action, Bounds, World};
use bytes::Bytes;
use farside_codec::ids::LogId;
use farside_io::sim::histories::Dice;

const WALKS: u64 = 200;
const STEPS: u64 = 120;

/// What each site's group was told on a random way through the world.
fn walk(world: &World, dice: &Dice) -> Vec<Vec<Bytes>> {
    let mut state = world.begin();
    let mut actions = Vec::new();
    for _ in 0..STEPS {
        actions.clear();
        world.possible(&state, &mut actions);
        // An order is rare, so that there is something to undo.
        let action = dice.pick(&actions);
        if matches!(action, Action::Order { .. }) && dice.percent(80) {
            continue;
        }
        state = world.step(&state, action);
    }
    world.sites().map(|site| world.copy(&state, site).commands().to_vec()).collect()
}

/// Two rows of commands as one, each in its own order.
fn mix(dice: &Dice, first: &[Bytes], second: &[Bytes]) -> Vec<Bytes> {
    let (mut first, mut second) = (first.iter(), second.iter());
    let mut mixed = Vec::new();
    while first.len() + second.len() > 0 {
        let from_first = dice.below((first.len() + second.len()) as u64) < first.len() as u64;
        mixed.extend(if from_first { first.next() } else { second.next() }.cloned());
    }
    mixed
}

fn rows(site: usize, commands: &[Bytes]) -> Vec<Vec<u8>> {
    on_a_fresh_group(site, |state| {
        apply_all(state, commands);
        rows_of(state)
    })
}

#[test]
fn two_logs_of_a_group_leave_one_another_alone() {
    let bounds = Bounds { sites: 3, writes: 4, orders: 3, breaks: 3, moves: 3, flight: 6, beats: true };
    let worlds = [7, 8].map(|log| World::new(LogId([log; 16]), bounds));
    let mut undone = 0;
    for seed in 1..=WALKS {
        let dice = Dice::new(seed);
        let [one, other] = [&worlds[0], &worlds[1]].map(|world| walk(world, &dice));
        for site in 0..bounds.sites {
            let mixed = rows(site, &mix(&dice, &one[site], &other[site]));
            let mut apart = [rows(site, &one[site]), rows(site, &other[site])].concat();
            undone += apart.iter().filter(|row| row[0] == ASIDE).count();
            apart.sort_unstable();
            // The place in the group's own log is the one row that they share.
            apart.dedup();
            let mut mixed_sorted = mixed;
            mixed_sorted.sort_unstable();
            assert_eq!(mixed_sorted, apart, "seed={seed} site={site}");
        }
    }
    assert!(undone > 100, "hardly anything was undone");
}

/// The number of the table of deltas set aside, as DISK.md says.
const ASIDE: u8 = 8;
