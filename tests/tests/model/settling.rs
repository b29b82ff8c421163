//! Peace: nobody writes or orders anything any more, every link is up, everything on its way arrives. Then all copies
//! must become one, whatever the moment at which peace began.
//!
//! One fair order of events is followed from each state, not all of them. The orders in which things can arrive before
//! peace are what the exploration goes through.

use super::copies::{CopyId, site_id};
use super::items::ItemId;
use super::senders::SenderId;
use super::world::{Action, SITES, State, World};

/// What the machines are and what is on its way, without what the judges remember.
pub(crate) type Physical = ([CopyId; SITES], [[Option<SenderId>; SITES]; SITES], Vec<(ItemId, bool)>);

/// Events until everything must be at rest. Three sites need about a hundred from the worst state.
const PATIENCE: usize = 600;

fn physical(state: &State) -> Physical {
    (state.copies, state.senders, state.flight.clone())
}

impl World {
    /// Whether the world comes to rest from here with equal copies and everybody informed.
    pub(crate) fn settles(&self, state: &State) -> bool {
        let mut passed = Vec::new();
        let mut now = state.clone();
        let verdict = loop {
            let here = physical(&now);
            if let Some(known) = self.settles.lock().expect("no thread has panicked").get(&here) {
                break *known;
            }
            passed.push(here);
            if passed.len() > PATIENCE {
                break false;
            }
            let Some(next) = self.in_peace(&now) else { break self.is_settled(&now) };
            now = next;
        };
        let mut settles = self.settles.lock().expect("no thread has panicked");
        settles.extend(passed.into_iter().map(|state| (state, verdict)));
        verdict
    }

    /// The next thing that happens in peace; `None` at rest.
    pub(crate) fn in_peace(&self, state: &State) -> Option<State> {
        if let Some((item, awaited)) = state.flight.first().copied() {
            return Some(self.step(state, Action::Arrive { item, awaited }));
        }
        let next = |(home, peer): (usize, usize)| {
            let tells = self.copy(state, home).tells();
            let action = match state.senders[home][peer] {
                None if tells => Action::Start { home, peer },
                None => return None,
                Some(_) if !tells => Action::Stop { home, peer },
                Some(sender) if !self.senders.get(sender).connected => Action::Connect { home, peer },
                Some(_) => Action::Tell { home, peer },
            };
            Some(self.step(state, action)).filter(|next| physical(next) != physical(state))
        };
        self.links().find_map(next).or_else(|| self.beat_in_peace(state))
    }

    /// A home tells its head to whoever learns something by it, its lineage for example while the log is empty.
    fn beat_in_peace(&self, state: &State) -> Option<State> {
        let next = |(home, peer): (usize, usize)| {
            let life = self.senders.get(state.senders[home][peer]?);
            let _ = life.acknowledged.as_ref()?;
            let told = self.step(state, Action::Beat { home, peer });
            let (item, awaited) = told.flight.first().copied()?;
            Some(self.step(&told, Action::Arrive { item, awaited })).filter(|next| next.copies != state.copies)
        };
        self.links().find_map(next)
    }

    /// One home; every other copy equals its, its senders say so, and it has recorded so.
    pub(crate) fn is_settled(&self, state: &State) -> bool {
        let homes: Vec<usize> = self.sites().filter(|site| self.copy(state, *site).is_home()).collect();
        let [home] = homes[..] else { return false };
        let first = self.copy(state, home);
        let Some(view) = &first.view else { return false };
        self.sites().filter(|peer| *peer != home).all(|peer| {
            let copy = self.copy(state, peer);
            let equal = copy.view.as_ref().is_some_and(|other| {
                other.lineage == view.lineage && other.known == view.known && other.head == view.head
            });
            let told = state.senders[home][peer].is_some_and(|sender| self.senders.get(sender).caught_up);
            let recorded = first.cursors.iter().any(|(site, cursor)| *site == site_id(peer) && *cursor == view.head);
            equal && copy.history == first.history && told && recorded
        })
    }
}
