//! Tells a path as a story: what happened, and what it made of which copy.

use super::copies::{Copy, DeltaId};
use super::items::{brief, brief_lineage};
use super::world::{Action, State, World};
use stateright::Path;
use std::fmt::Write;

pub(crate) fn story(world: &World, path: Path<State, Action>) -> String {
    let mut told = String::new();
    let mut before: Option<State> = None;
    for (number, (state, action)) in path.into_vec().into_iter().enumerate() {
        if let Some(before) = &before {
            for site in world.sites().filter(|site| before.copies[*site] != state.copies[*site]) {
                let _ = writeln!(told, "       site {site}: {}", describe(world, &world.copy(&state, site)));
            }
        }
        if let Some(flaw) = state.flaw {
            let _ = writeln!(told, "       {flaw}");
        }
        if let Some(action) = action {
            let _ = writeln!(told, "{:4}. {}", number + 1, name(world, action));
        }
        before = Some(state);
    }
    let Some(last) = before else { return told };
    for site in world.sites() {
        let copy = world.copy(&last, site);
        let _ = writeln!(told, "at the end site {site}: {}", describe(world, &copy));
        if let Some(flaw) = copy.flaw {
            let _ = writeln!(told, "       {flaw}");
        }
    }
    for (item, awaited) in &last.flight {
        let waits = if *awaited { "" } else { " (nobody waits for it)" };
        let _ = writeln!(told, "on its way: {}{waits}", world.items.get(*item));
    }
    told
}

fn describe(world: &World, copy: &Copy) -> String {
    let Some(view) = &copy.view else { return "has not heard of the log".into() };
    let deltas = |of: &[DeltaId]| {
        let one = |delta: &DeltaId| {
            let delta = world.copies.delta(*delta);
            let what = match (delta.promoted, delta.hands_over_to) {
                (true, _) => "promoted".to_owned(),
                (_, Some(to)) => format!("over to {}", brief(to)),
                _ => format!("write {}", delta.operation.0[0]),
            };
            format!("{}:{what} ({})", delta.cursor.sequence, brief(delta.cursor.generation))
        };
        of.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let home = match (copy.is_home(), copy.is_in_transit()) {
        (true, _) => "home",
        (_, true) => "in transit",
        _ => "copy",
    };
    let aside = if copy.aside.is_empty() { String::new() } else { format!(", aside {}", deltas(&copy.aside)) };
    format!("{home} [{}], holds {}{aside}", brief_lineage(&view.lineage), deltas(&copy.history))
}

fn name(world: &World, action: Action) -> String {
    match action {
        Action::Write { site, write } => format!("a client writes {write} at {site}"),
        Action::Order { site } => format!("site {site} is ordered to take over"),
        Action::Move { home, peer } => format!("site {home} is ordered to hand over to {peer}"),
        Action::Start { home, peer } => format!("the sender {home}->{peer} starts and greets"),
        Action::Stop { home, peer } => format!("the sender {home}->{peer} is stopped"),
        Action::Connect { home, peer } => format!("the link {home}->{peer} is up again"),
        Action::Lose { home, peer } => format!("the link {home}->{peer} is lost"),
        Action::Kill { site } => format!("site {site} dies and starts again"),
        Action::Tell { home, peer } => format!("the sender {home}->{peer} looks at its head"),
        Action::Beat { home, peer } => format!("site {home} tells {peer} its head"),
        Action::Arrive { item, .. } => format!("done: {}", world.items.get(item)),
        Action::Vanish { item } => format!("lost: {}", world.items.get(item)),
    }
}
