//! What must always hold, and what must happen at least once: a world in which nothing happens proves nothing.

use super::copies::{Copy, DeltaId, site_id};
use super::items::{Item, last_of};
use super::world::{Action, State, World};
use farside_codec::command::GroupCommand;
use farside_codec::delta::Generation;
use stateright::{Model, Property};
use std::sync::Arc;

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let after = self.step(before, action);
        (after != *before && after.flight.len() <= self.bounds.flight).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no two sites accept writes under one generation", one_writer),
            Property::always("a generation has one history", one_history),
            Property::always("a copy is one unbroken chain, and its lineage is true", true_lineages),
            Property::always("a write is acknowledged under the highest generation known", no_flaw),
            Property::always("what a peer acknowledged is kept by its promotion", acknowledged_is_kept),
            Property::always("what a home acknowledged is there or set aside there", placed_is_kept),
            Property::always("caught up is said only of what the peer has", caught_up_is_true),
            Property::always("a recorded cursor is where the peer has been", cursors_are_true),
            Property::always("in peace all copies become one", World::settles),
            Property::sometimes("a peer is caught up", peer_is_caught_up),
        ];
        if self.bounds.orders > 0 {
            properties.extend([
                Property::sometimes("an acknowledged write is undone and set aside", write_is_undone),
                Property::sometimes("two homes at once", two_homes),
                Property::sometimes("the old home follows the new one", old_home_follows),
                Property::sometimes("an undone write is placed again by its retry", undone_is_retried),
                Property::sometimes("a delivery meets a higher generation", delivery_is_late),
                Property::sometimes("a sender steps down", sender_steps_down),
                Property::sometimes("a fence is decided and not yet committed", fence_is_under_way),
                Property::sometimes("at rest after a promotion", rests_after_promotion),
            ]);
        }
        if self.bounds.orders > 1 {
            properties.extend([
                Property::sometimes("the log comes home again with what the other site wrote", comes_home),
                Property::sometimes("a fence is overtaken by a higher generation", fence_is_late),
            ]);
        }
        if self.bounds.moves > 0 {
            properties.extend([
                Property::sometimes("a log is in transit and no site takes writes", nobody_is_home),
                Property::sometimes("a switchover arrives and the old home follows", switchover_arrives),
            ]);
        }
        if self.bounds.moves > 1 {
            properties.push(Property::sometimes("the log comes home again by a switchover", moved_home));
        }
        if self.bounds.moves > 0 && self.bounds.orders > 0 {
            properties.extend([
                Property::sometimes("a log is taken back while it is in transit", taken_back),
                Property::sometimes("a log arrives that was taken back", arrives_although_taken_back),
                Property::sometimes("the next home was promoted before the log arrived", promoted_before_arrival),
            ]);
        }
        if self.bounds.sites > 2 && self.bounds.orders > 1 {
            properties.extend([
                Property::sometimes("a promotion is overtaken by a higher generation", promotion_is_late),
                Property::sometimes("two sites are promoted out of one generation", promoted_twice),
                Property::sometimes("what one peer acknowledged is undone by another's promotion", undone_by_another),
            ]);
        }
        properties
    }
}

fn copies<'a>(world: &'a World, state: &'a State) -> impl Iterator<Item = (usize, Arc<Copy>)> + 'a {
    world.sites().map(|site| (site, world.copy(state, site)))
}

fn place(world: &World, delta: DeltaId) -> (Generation, u64) {
    let cursor = &world.copies.delta(delta).cursor;
    (cursor.generation, cursor.sequence)
}

/// Whether `these` deltas hold no two of one generation and sequence.
fn agree(world: &World, mut these: Vec<DeltaId>) -> bool {
    these.sort_unstable();
    these.dedup();
    let mut places: Vec<_> = these.into_iter().map(|delta| place(world, delta)).collect();
    places.sort_unstable();
    places.windows(2).all(|pair| pair[0] != pair[1])
}

fn one_writer(world: &World, state: &State) -> bool {
    let own = |(delta, site): &(DeltaId, usize)| place(world, *delta).0.site == site_id(*site);
    let mut homes: Vec<_> =
        copies(world, state).filter(|(_, copy)| copy.is_home()).map(|(_, copy)| copy.known()).collect();
    let count = homes.len();
    homes.sort_unstable();
    homes.dedup();
    homes.len() == count
        && state.placed.iter().all(own)
        && agree(world, state.placed.iter().map(|(delta, _)| *delta).collect())
}

/// Two copies agree on whatever they hold of one generation: within it one is a prefix of the other.
fn one_history(world: &World, state: &State) -> bool {
    agree(world, copies(world, state).flat_map(|(_, copy)| [&copy.history[..], &copy.aside].concat()).collect())
}

fn true_lineages(world: &World, state: &State) -> bool {
    let begun = |generation: Generation| {
        let first = state.promoted.iter().find(|delta| place(world, **delta).0 == generation)?;
        Some(world.copies.delta(*first))
    };
    copies(world, state).all(|(_, copy)| {
        let lineage = copy.view.as_ref().map(|view| &view.lineage[..]).unwrap_or_default();
        let told = lineage.iter().skip(1).all(|branch| {
            begun(branch.generation)
                .is_some_and(|first| first.cursor.sequence == branch.first && first.previous == branch.previous)
        });
        copy.flaw.is_none() && told
    })
}

fn no_flaw(_: &World, state: &State) -> bool {
    state.flaw.is_none()
}

/// Whether the history that begins generation `first` holds a delta.
fn has(world: &World, first: DeltaId, delta: DeltaId) -> bool {
    let mut at = Some(first);
    while let Some(here) = at {
        if here == delta {
            return true;
        }
        at = world.copies.find(&world.copies.delta(here).previous);
    }
    false
}

/// A peer's history has what it acknowledged. The one excuse is a promotion of another site, above the delta's
/// generation, whose history never had it: then it is set aside, and with two sites there is no such excuse at all.
fn acknowledged_is_kept(world: &World, state: &State) -> bool {
    state.acknowledged.iter().all(|(delta, peer)| {
        let copy = world.copy(state, *peer);
        let undone_elsewhere = || {
            state.promoted.iter().any(|first| {
                let (generation, _) = place(world, *first);
                generation.site != site_id(*peer) && generation > place(world, *delta).0 && !has(world, *first, *delta)
            })
        };
        let excused = world.bounds.sites > 2 && copy.aside.contains(delta) && undone_elsewhere();
        copy.history.contains(delta) || excused
    })
}

fn placed_is_kept(world: &World, state: &State) -> bool {
    state.placed.iter().all(|(delta, site)| world.copy(state, *site).holds(*delta))
}

fn caught_up_is_true(world: &World, state: &State) -> bool {
    world.links().all(|(home, peer)| {
        let Some(sender) = state.senders[home][peer].map(|sender| world.senders.get(sender)) else { return true };
        let has = |delta| world.copy(state, peer).holds(delta);
        !sender.caught_up || sender.told.sequence == 0 || world.copies.find(&sender.told.hash).is_some_and(has)
    })
}

fn cursors_are_true(world: &World, state: &State) -> bool {
    copies(world, state).all(|(_, copy)| {
        copy.cursors.iter().all(|(peer, cursor)| {
            let site = world.sites().find(|site| site_id(*site) == *peer);
            let has = |delta| site.is_some_and(|site| world.copy(state, site).holds(delta));
            let own = |delta: &DeltaId| copy.history.contains(delta);
            cursor.sequence == 0 || world.copies.find(&cursor.hash).filter(own).is_some_and(has)
        })
    })
}

fn peer_is_caught_up(world: &World, state: &State) -> bool {
    let mut senders = state.senders.iter().flatten().flatten();
    senders.any(|sender| Some(world.senders.get(*sender)).is_some_and(|life| life.caught_up && life.told.sequence > 0))
}

fn write_is_undone(world: &World, state: &State) -> bool {
    state.placed.iter().any(|(delta, site)| world.copy(state, *site).aside.contains(delta))
}

fn two_homes(world: &World, state: &State) -> bool {
    copies(world, state).filter(|(_, copy)| copy.is_home()).count() > 1
}

fn old_home_follows(world: &World, state: &State) -> bool {
    let copy = world.copy(state, 0);
    !copy.is_home() && copy.history.iter().any(|delta| world.copies.delta(*delta).promoted)
}

fn undone_is_retried(world: &World, state: &State) -> bool {
    copies(world, state).any(|(_, copy)| {
        let operation = |delta: &DeltaId| world.copies.delta(*delta).operation;
        copy.aside.iter().any(|undone| copy.history.iter().any(|delta| operation(delta) == operation(undone)))
    })
}

fn comes_home(world: &World, state: &State) -> bool {
    let copy = world.copy(state, 0);
    let written_elsewhere = |delta: &DeltaId| {
        let delta = world.copies.delta(*delta);
        !delta.promoted && delta.cursor.generation.site != site_id(0)
    };
    copy.is_home() && copy.history.iter().any(written_elsewhere)
}

fn rests_after_promotion(world: &World, state: &State) -> bool {
    !state.promoted.is_empty() && state.flight.is_empty() && world.is_settled(state)
}

fn nobody_is_home(world: &World, state: &State) -> bool {
    copies(world, state).all(|(_, copy)| !copy.is_home()) && copies(world, state).any(|(_, copy)| copy.is_in_transit())
}

/// Whether this delta hands the log over, and to whom.
fn over_to(world: &World, delta: DeltaId) -> Option<Generation> {
    world.copies.delta(delta).hands_over_to
}

fn switchover_arrives(world: &World, state: &State) -> bool {
    let copy = world.copy(state, 0);
    let arrived = |pair: &[DeltaId]| over_to(world, pair[0]) == Some(place(world, pair[1]).0);
    !copy.is_home() && copy.history.windows(2).any(arrived)
}

fn moved_home(world: &World, state: &State) -> bool {
    let copy = world.copy(state, 0);
    copy.is_home() && copy.known().is_some_and(|known| copy.history.iter().any(|at| over_to(world, *at) == Some(known)))
}

/// Whether a home's history goes on after a delta that hands it over to somebody else.
fn takes_back(world: &World, copy: &Copy) -> bool {
    let back = |pair: &[DeltaId]| over_to(world, pair[0]).is_some_and(|to| to != place(world, pair[1]).0);
    copy.history.windows(2).any(back)
}

fn taken_back(world: &World, state: &State) -> bool {
    copies(world, state).any(|(_, copy)| copy.is_home() && takes_back(world, &copy))
}

fn arrives_although_taken_back(world: &World, state: &State) -> bool {
    two_homes(world, state) && taken_back(world, state)
}

fn promoted_before_arrival(world: &World, state: &State) -> bool {
    let homes: Vec<_> = copies(world, state).filter(|(_, copy)| copy.is_home()).map(|(_, copy)| copy.known()).collect();
    copies(world, state).any(|(_, copy)| {
        copy.is_in_transit() && homes.contains(&copy.known()) && {
            let home = copies(world, state).find(|(_, other)| other.is_home() && other.known() == copy.known());
            home.is_some_and(|(_, home)| !home.history.iter().any(|at| over_to(world, *at) == copy.known()))
        }
    })
}

/// Whether an item that fits `which` is on its way.
fn any_item(world: &World, state: &State, which: impl Fn(&Item) -> bool) -> bool {
    state.flight.iter().any(|(item, _)| which(&world.items.get(*item)))
}

fn delivery_is_late(world: &World, state: &State) -> bool {
    any_item(world, state, |item| match item {
        Item::Deltas { peer, accept, .. } => {
            !accept.deltas.is_empty() && last_of(&accept.lineage) < world.copy(state, *peer).known()
        }
        _ => false,
    })
}

fn sender_steps_down(world: &World, state: &State) -> bool {
    any_item(world, state, |item| matches!(item, Item::Local { command: GroupCommand::Fence(_), .. }))
}

fn fence_is_under_way(world: &World, state: &State) -> bool {
    any_item(world, state, |item| matches!(item, Item::Decided { command: GroupCommand::Fence(_), .. }))
}

fn fence_is_late(world: &World, state: &State) -> bool {
    any_item(world, state, |item| match item {
        Item::Decided { peer: site, command: GroupCommand::Fence(fence), .. }
        | Item::Local { site, command: GroupCommand::Fence(fence), .. } => {
            last_of(&fence.lineage) < world.copy(state, *site).known()
        }
        _ => false,
    })
}

fn promotion_is_late(world: &World, state: &State) -> bool {
    any_item(world, state, |item| match item {
        Item::Local { site, command: GroupCommand::Promote(promote), .. } => {
            Some(promote.generation) < world.copy(state, *site).known()
        }
        _ => false,
    })
}

fn promoted_twice(world: &World, state: &State) -> bool {
    let mut counters: Vec<u64> = state.promoted.iter().map(|first| place(world, *first).0.counter).collect();
    counters.sort_unstable();
    counters.windows(2).any(|pair| pair[0] == pair[1])
}

fn undone_by_another(world: &World, state: &State) -> bool {
    state.acknowledged.iter().any(|(delta, peer)| world.copy(state, *peer).aside.contains(delta))
}
