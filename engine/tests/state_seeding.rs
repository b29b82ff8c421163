//! Copies that are given what their home has pruned, and copies that are filled up again: whatever is placed, pruned, delivered
//! and promoted in which order, a copy that calls itself exact is one, and in the end all of them are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod state_support;

use farside::federation::sender::Given;
use farside_codec::command::{
    Acknowledge, GroupCommand, GroupOutcome, HandOverLog, HeldPeer, HoldPeers, Promote, Prune,
};
use farside_codec::delta::{Cursor, DeltaKind, Extent, Generation, Proposal};
use farside_codec::ids::{DeltaHash, Hlc, LogId};
use farside_codec::message::{Moment, RefusalCode};
use proptest::prelude::*;
use state_support::*;
use std::collections::{BTreeMap, HashMap};

const LOG: LogId = LogId([9; 16]);
const SITES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Put {
        site: usize,
        name: u8,
        removes: bool,
    },
    /// Prunes what was replaced so many deltas before the head, for whom it was not kept.
    Prune {
        site: usize,
        behind: u64,
        limit: u32,
    },
    Send {
        from: usize,
        to: usize,
        limit: usize,
        overlap: u64,
    },
    /// What comes after a copy's head is delivered, wherever it is to be sent from.
    SendAhead {
        from: usize,
        to: usize,
        limit: usize,
    },
    HandOver {
        from: usize,
        to: usize,
    },
    /// An operation is tried again, wherever the home is by now.
    Retry {
        site: usize,
        number: u64,
    },
    Promote {
        site: usize,
        is_forced: bool,
    },
    /// Goes on with what a snapshot gives.
    Snapshot {
        site: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let site = || 0..SITES;
    prop_oneof![
        8 => (site(), 0u8..5, prop::bool::weighted(0.2)).prop_map(|(site, name, removes)| Step::Put { site, name, removes }),
        3 => (site(), 0u64..6, 1u32..9).prop_map(|(site, behind, limit)| Step::Prune { site, behind, limit }),
        8 => (site(), site(), 1usize..6, 0u64..3)
            .prop_map(|(from, to, limit, overlap)| Step::Send { from, to, limit, overlap }),
        1 => (site(), site(), 1usize..6).prop_map(|(from, to, limit)| Step::SendAhead { from, to, limit }),
        1 => (site(), any::<bool>()).prop_map(|(site, is_forced)| Step::Promote { site, is_forced }),
        1 => (site(), site()).prop_map(|(from, to)| Step::HandOver { from, to }),
        2 => (site(), 1u64..40).prop_map(|(site, number)| Step::Retry { site, number }),
        1 => site().prop_map(|site| Step::Snapshot { site }),
    ]
}

/// What a delta did: by which operation, to which name, and whether it took it away.
type About = Option<(u64, u8, bool)>;
/// Every delta that was ever placed: what it follows, its sequence, and what it did.
type Placed = HashMap<DeltaHash, (DeltaHash, u64, About)>;

struct World {
    sites: Vec<Site>,
    placed: Placed,
    time: u64,
    operations: u64,
    /// What each operation proposed.
    made: Vec<Proposal>,
}

impl World {
    fn new() -> Self {
        let mut sites: Vec<Site> = (1..=SITES as u8).map(Site::new).collect();
        sites[0].create(LOG);
        Self { sites, placed: HashMap::new(), time: 100, operations: 0, made: Vec::new() }
    }

    fn knows(&self, site: usize) -> bool {
        self.sites[site].state.log(LOG).unwrap().is_some()
    }

    fn is_home(&self, site: usize) -> bool {
        self.knows(site) && self.sites[site].view(LOG).is_home(self.sites[site].id)
    }

    /// What exists at a place in a history: for each name the sequence of its version.
    fn expected(&self, at: DeltaHash) -> BTreeMap<u8, u64> {
        let (mut newest, mut at) = (BTreeMap::new(), at);
        while let Some((previous, sequence, about)) = self.placed.get(&at) {
            if let Some((_, name, removed)) = about {
                newest.entry(*name).or_insert((!removed).then_some(*sequence));
            }
            at = *previous;
        }
        newest.into_iter().filter_map(|(name, sequence)| Some((name, sequence?))).collect()
    }

    fn listed(&self, site: usize) -> BTreeMap<u8, u64> {
        let listed = self.sites[site].state.list(LOG, &Moment::Latest, None, 1000, usize::MAX).unwrap();
        let mut found = BTreeMap::new();
        for version in listed.versions {
            let delta = parse(&version.delta);
            let chunks: Vec<_> = delta.proposal.chunks.iter().map(|chunk| chunk.chunk).collect();
            let referenced = self.sites[site].state.references(&chunks).unwrap();
            assert!(referenced.iter().all(|referenced| *referenced), "a version's chunk is not kept at site {site}");
            found.insert(delta.proposal.name.0[0], delta.sequence);
        }
        found
    }

    fn check(&self) {
        for site in (0..SITES).filter(|site| self.knows(*site)) {
            let view = self.sites[site].view(LOG);
            if view.seeding.is_none() {
                assert_eq!(self.listed(site), self.expected(view.head.hash), "site {site} calls itself exact");
            }
            assert!(view.whole().0.sequence <= view.head.sequence);
            let places = self.sites[site].state.given(LOG, 1, usize::MAX, usize::MAX).unwrap();
            let bytes = |given: &Given| match given {
                Given::Whole(encoded) => {
                    let chunks = parse(encoded).proposal.chunks;
                    encoded.len() as u64 + chunks.iter().map(|chunk| u64::from(chunk.sealed_bytes)).sum::<u64>()
                }
                Given::Pruned(_) => 0,
            };
            assert_eq!(view.live_bytes, places.iter().map(|(_, given)| bytes(given)).sum::<u64>(), "at site {site}");
            let gone = places.iter().filter(|(_, given)| matches!(given, Given::Pruned(_)));
            let last = gone.map(|(cursor, _)| cursor.sequence).max().unwrap_or(0);
            let is_filled = view.seeding.is_some_and(|seeding| seeding.filled.is_some());
            assert!(is_filled || last <= view.floor, "site {site} has pruned {last} above its floor {}", view.floor);
        }
    }

    /// Where an operation stands on the history that a site has.
    fn place_of(&self, site: usize, operation: u64) -> Option<u64> {
        let mut at = self.sites[site].view(LOG).head.hash;
        while let Some((previous, sequence, about)) = self.placed.get(&at) {
            if about.is_some_and(|(number, ..)| number == operation) {
                return Some(*sequence);
            }
            at = *previous;
        }
        None
    }

    fn head_before(&self, site: usize) -> DeltaHash {
        let history = self.sites[site].history(LOG);
        history.len().checked_sub(2).map_or(DeltaHash::ZERO, |at| history[at].0.hash)
    }

    fn note(&mut self, site: usize, head: &Cursor, about: About) {
        let previous = self.head_before(site);
        self.placed.insert(head.hash, (previous, head.sequence, about));
    }

    fn run(&mut self, step: &Step) {
        self.time += TICK;
        match *step {
            Step::Put { site, name: number, removes } if self.is_home(site) => {
                self.operations += 1;
                let kind = if removes { DeltaKind::Remove } else { DeltaKind::Put };
                let chunks = if removes { vec![] } else { vec![(self.operations % 250) as u8] };
                let proposal = with_chunks(proposal(self.operations, kind, number), &chunks, 0);
                self.made.push(proposal.clone());
                let receipt = self.sites[site].put(LOG, self.time, proposal);
                self.note(site, &receipt.cursor, Some((self.operations, number, removes)));
            }
            Step::Prune { site, behind, limit } if self.knows(site) => {
                let view = self.sites[site].view(LOG);
                // A home whose peers are kept nothing for, or a copy as its node has it.
                let below = match view.is_told_by(self.sites[site].id) {
                    true => (view.head.sequence + 1).saturating_sub(behind),
                    false => view.head.sequence.saturating_sub(behind),
                };
                let prune = Prune { log: LOG, horizon: Hlc(u64::MAX), below, limit };
                let outcome = self.sites[site].apply(GroupCommand::Prune(prune));
                assert!(matches!(outcome, GroupOutcome::Pruned(_)), "{outcome:?}");
            }
            Step::Send { from, to, limit, overlap } if from != to && self.knows(from) => {
                self.send(from, to, limit, overlap);
            }
            Step::SendAhead { from, to, limit } if from != to && self.knows(from) && self.knows(to) => {
                self.send_ahead(from, to, limit);
            }
            Step::HandOver { from, to } if from != to && self.is_home(from) => self.hand_over(from, to),
            Step::Retry { site, number } if self.is_home(site) && number <= self.operations => self.retry(site, number),
            Step::Promote { site, is_forced } if self.knows(site) && !self.is_home(site) => {
                self.promote(site, is_forced);
            }
            Step::Snapshot { site } if self.knows(site) => self.sites[site] = self.sites[site].through_snapshot(),
            _ => {}
        }
        self.check();
    }

    fn send(&mut self, from: usize, to: usize, limit: usize, overlap: u64) -> Option<Sent> {
        if !self.sites[from].view(LOG).is_told_by(self.sites[from].id) {
            return None;
        }
        let (first, second) = self.sites.split_at_mut(from.max(to));
        let (low, high) = (&mut first[from.min(to)], &mut second[0]);
        let (from, to) = if from < to { (low, high) } else { (high, low) };
        let sent = replicate(from, to, LOG, limit, overlap, self.time);
        self.note_homes();
        Some(sent)
    }

    /// A site that was handed a log has begun a generation with the delta before.
    fn note_homes(&mut self) {
        for site in (0..SITES).filter(|site| self.is_home(*site)).collect::<Vec<_>>() {
            let head = self.sites[site].view(LOG).head;
            if head.sequence > 0 && !self.placed.contains_key(&head.hash) {
                assert!(self.sites[site].view(LOG).seeding.is_none(), "a log was handed over to no exact copy");
                self.note(site, &head, None);
            }
        }
    }

    fn send_ahead(&mut self, from: usize, to: usize, limit: usize) {
        if self.sites[from].view(LOG).is_told_by(self.sites[from].id) {
            let next = self.sites[to].view(LOG).head.sequence + 1;
            let delivery = self.sites[from].delivery(LOG, next, limit);
            let outcome = self.sites[to].apply(GroupCommand::Accept(delivery));
            assert!(matches!(outcome, GroupOutcome::Head(_) | GroupOutcome::Refused(_)), "{outcome:?}");
            self.note_homes();
        }
    }

    fn hand_over(&mut self, from: usize, to: usize) {
        let counter = self.sites[from].view(LOG).known.counter + 1;
        let to = Generation { counter, site: self.sites[to].id, incarnation: 0 };
        let order = HandOverLog { log: LOG, to, time: Hlc(self.time) };
        let outcome = self.sites[from].apply(GroupCommand::HandOver(order));
        let GroupOutcome::Head(head) = outcome else { panic!("{outcome:?}") };
        self.note(from, &head, None);
    }

    fn retry(&mut self, site: usize, number: u64) {
        let (stands, made) = (self.place_of(site, number), self.made[number as usize - 1].clone());
        let (kind, about) = (made.kind.clone(), (number, made.name.0[0], made.kind == DeltaKind::Remove));
        assert!(matches!(kind, DeltaKind::Put | DeltaKind::Remove));
        let receipt = self.sites[site].put(LOG, self.time, made);
        assert_eq!(receipt.replayed.then_some(receipt.cursor.sequence), stands, "operation {number} at site {site}");
        if !receipt.replayed {
            self.note(site, &receipt.cursor, Some(about));
        }
    }

    fn promote(&mut self, site: usize, is_forced: bool) {
        let view = self.sites[site].view(LOG);
        let whole = view.whole().0.clone();
        let generation = Generation { counter: view.known.counter + 1, site: self.sites[site].id, incarnation: 0 };
        let promises = view.lease.map_or(0, |lease| lease.promises);
        let weighed = (!is_forced).then_some((view.known, promises));
        if view.seeding.is_some() && whole.sequence == 0 {
            // Nobody forces this here: what is missing afterwards would be missing for good.
            let command = Promote {
                log: LOG,
                generation,
                time: Hlc(self.time),
                weighed: Some((view.known, promises)),
                cut: None,
            };
            assert_eq!(refused(self.sites[site].apply(GroupCommand::Promote(command))), RefusalCode::Unsafe);
            return;
        }
        let command = Promote { log: LOG, generation, time: Hlc(self.time), weighed, cut: None };
        let outcome = self.sites[site].apply(GroupCommand::Promote(command));
        let GroupOutcome::Head(head) = outcome else { panic!("{outcome:?}") };
        assert_eq!(head.sequence, whole.sequence + 1, "an exact copy goes on");
        assert!(self.sites[site].view(LOG).seeding.is_none());
        self.note(site, &head, None);
    }

    /// Sends everything to another site. Answers whether that follows; it may be home by then.
    fn send_all(&mut self, from: usize, to: usize) -> bool {
        for _ in 0..2000 {
            let sent = self.send(from, to, 3, 0);
            if sent != Some(Sent::Taken) {
                assert!(matches!(sent, None | Some(Sent::SteppedDown)), "{sent:?}");
                return false;
            }
            let (ours, theirs) = (self.sites[from].view(LOG), self.sites[to].view(LOG));
            if theirs.seeding.is_none() && theirs.head.hash == ours.head.hash {
                return true;
            }
        }
        panic!("site {to} never gets there");
    }

    /// Whoever tells the log sends the others everything, until one home has been heard of everywhere.
    fn settle(&mut self) {
        let mut home = None;
        for _ in 0..3 * SITES {
            let tells =
                |site: &usize| self.knows(*site) && self.sites[*site].view(LOG).is_told_by(self.sites[*site].id);
            let last = |site: &usize| self.sites[*site].view(LOG).lineage.last().map(|branch| branch.generation);
            let Some(teller) = (0..SITES).filter(tells).max_by_key(last) else { return };
            let others: Vec<usize> = (0..SITES).filter(|to| *to != teller).collect();
            if others.iter().all(|to| self.send_all(teller, *to)) && self.is_home(teller) {
                home = Some(teller);
                break;
            }
        }
        let home = home.expect("a home that all others follow");
        self.check();
        // Whoever is new gets all of it too.
        let mut fresh = Site::new(SITES as u8 + 1);
        for _ in 0..2000 {
            assert_eq!(replicate(&mut self.sites[home], &mut fresh, LOG, 3, 0, self.time), Sent::Taken);
            if fresh.view(LOG).head.hash == self.sites[home].view(LOG).head.hash {
                break;
            }
        }
        let listed = |site: &Site| site.state.list(LOG, &Moment::Latest, None, 1000, usize::MAX).unwrap();
        assert_eq!(listed(&fresh), listed(&self.sites[home]));
        assert!(fresh.view(LOG).seeding.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_copy_that_calls_itself_exact_is_one(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.run(step));
        world.settle();
    }
}

#[test]
fn extents_go_with_an_object_that_was_pruned_before_it_came() {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    let extent = |index, number: u64, kind| Proposal {
        extent: Some(Extent { object: operation(3), index }),
        ..with_chunks(proposal(number, kind, 1), &[number as u8], 0)
    };
    near.put(LOG, 10, extent(0, 1, DeltaKind::Extent));
    near.put(LOG, 20, extent(1, 2, DeltaKind::Extent));
    // The extents come as they are, and their object once it is pruned.
    assert_eq!(replicate(&mut near, &mut far, LOG, 2, 0, 1), Sent::Taken);
    near.put(LOG, 30, extent(2, 3, DeltaKind::Put));
    near.put(LOG, 40, with_chunks(proposal(4, DeltaKind::Put, 1), &[4], 0));
    prune(&mut near, 100);
    let mut fresh = Site::new(3);
    let before = near.delivery(LOG, 3, 9);
    assert_eq!(before.pruned.len(), 1);
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 1), Sent::Taken);
    assert_eq!(replicate(&mut near, &mut fresh, LOG, 9, 0, 1), Sent::Taken);
    let chunks = [1, 2, 3, 4].map(chunk);
    assert_eq!(fresh.state.references(&chunks).unwrap(), [false, false, false, true]);
    // Up to where a copy was exact they stay: another home may still have the object, and sends only what comes after that.
    assert_eq!(far.state.references(&chunks).unwrap(), [true, true, false, true]);
    assert!(far.view(LOG).seeding.is_none());
}

fn put_all(site: &mut Site, from: u64, names: &[u8]) {
    for (number, name) in (from..).zip(names) {
        site.put(LOG, number * TICK, with_chunks(proposal(number, DeltaKind::Put, *name), &[number as u8], 0));
    }
}

fn prune(site: &mut Site, below: u64) -> GroupOutcome {
    site.apply(GroupCommand::Prune(Prune { log: LOG, horizon: Hlc(u64::MAX), below, limit: 100 }))
}

#[test]
fn a_new_copy_is_given_what_is_there_and_the_places_of_what_is_not() {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    put_all(&mut near, 1, &[1, 1, 2, 1, 2, 3]);
    assert!(matches!(prune(&mut near, 100), GroupOutcome::Pruned(3)));
    assert_eq!(replicate(&mut near, &mut far, LOG, 4, 0, 1), Sent::Taken);
    let view = far.view(LOG);
    assert_eq!((view.head.sequence, view.whole().0.sequence, view.floor), (4, 0, 5), "it has one name of two");
    let order = Promote {
        log: LOG,
        generation: Generation { counter: 2, site: far.id, incarnation: 0 },
        time: Hlc(1),
        weighed: Some((view.known, 0)),
        cut: None,
    };
    assert_eq!(refused(far.apply(GroupCommand::Promote(order))), RefusalCode::Unsafe);
    assert_eq!(replicate(&mut near, &mut far, LOG, 4, 0, 1), Sent::Taken);
    let (ours, theirs) = (near.view(LOG), far.view(LOG));
    assert!(theirs.seeding.is_none());
    assert_eq!((theirs.head, theirs.total_bytes), (ours.head, ours.total_bytes));
    let listed = |site: &Site| site.state.list(LOG, &Moment::Latest, None, 10, 1 << 20).unwrap();
    assert_eq!(listed(&far), listed(&near));
}

#[test]
fn a_copy_that_was_exact_once_takes_over_from_there() {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    put_all(&mut near, 1, &[1, 2]);
    replicate(&mut near, &mut far, LOG, 10, 0, 1);
    put_all(&mut near, 3, &[1, 3, 1]);
    prune(&mut near, 100);
    replicate(&mut near, &mut far, LOG, 2, 0, 1);
    let view = far.view(LOG);
    assert_eq!((view.head.sequence, view.whole().0.sequence, view.whole().1), (4, 2, Hlc(20)));
    assert_eq!(prune(&mut far, 4), GroupOutcome::Pruned(0), "what it may go back to stays");
    let order = Promote {
        log: LOG,
        generation: Generation { counter: 2, site: far.id, incarnation: 0 },
        time: Hlc(60),
        weighed: Some((view.known, 0)),
        cut: None,
    };
    assert!(matches!(far.apply(GroupCommand::Promote(order)), GroupOutcome::Head(head) if head.sequence == 3));
    assert_eq!(far.view(LOG).aside, 1, "what came since is set aside, but for what was never there");
    let version = far.state.lookup(LOG, name(1), &Moment::Latest).unwrap().unwrap();
    assert_eq!(parse(&version.delta).sequence, 1);
    // The old home has pruned what its new one still has, and is filled up again.
    assert_eq!(replicate(&mut far, &mut near, LOG, 1, 0, 70), Sent::Taken);
    assert!(near.view(LOG).seeding.is_some());
    assert_eq!(replicate(&mut far, &mut near, LOG, 9, 0, 70), Sent::Taken);
    let version = near.state.lookup(LOG, name(1), &Moment::Latest).unwrap().unwrap();
    assert_eq!(parse(&version.delta).sequence, 1);
    assert!(near.view(LOG).seeding.is_none());
    assert_eq!(near.view(LOG).head, far.view(LOG).head);
}

#[test]
fn what_an_undone_delta_replaced_is_not_pruned_for_it() {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    put_all(&mut near, 1, &[1]);
    replicate(&mut near, &mut far, LOG, 10, 0, 1);
    // The removal goes as such; that it was replaced besides is written down for the delta after it, which is undone.
    near.put(LOG, 20, proposal(2, DeltaKind::Remove, 2));
    put_all(&mut near, 3, &[2]);
    let one = near.apply(GroupCommand::Prune(Prune { log: LOG, horizon: Hlc(u64::MAX), below: 100, limit: 1 }));
    assert_eq!(one, GroupOutcome::Pruned(1));
    far.promote(LOG, 100);
    put_all(&mut far, 11, &[3, 3, 3]);
    assert_eq!(replicate(&mut far, &mut near, LOG, 10, 0, 200), Sent::Taken);
    prune(&mut near, 100);
    let listed = |site: &Site| site.state.list(LOG, &Moment::Latest, None, 10, 1 << 20).unwrap();
    assert_eq!(listed(&near), listed(&far));
    let kept = |site: &Site| site.history(LOG).iter().map(|(_, encoded)| !encoded.is_empty()).collect::<Vec<_>>();
    assert_eq!(kept(&near), [true, true, false, false, true]);
}

#[test]
fn what_can_not_be_pruned_is_refused() {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    put_all(&mut near, 1, &[1, 1, 2]);
    prune(&mut near, 100);
    let generation = near.view(LOG).known;
    assert!(matches!(far.apply(GroupCommand::CreateLog((descriptor(LOG), generation))), GroupOutcome::Head(_)));
    let good = near.delivery(LOG, 1, 10);
    let rows = far.rows();
    let refuses = |far: &mut Site, change: &dyn Fn(&mut farside_codec::command::AcceptDeltas)| {
        let mut bad = good.clone();
        change(&mut bad);
        let code = refused(far.apply(GroupCommand::Accept(bad)));
        assert_eq!(far.view(LOG).head.sequence, 0);
        code
    };
    assert_eq!(refuses(&mut far, &|bad| bad.floor = 0), RefusalCode::BadRequest, "nothing was pruned there");
    assert_eq!(refuses(&mut far, &|bad| bad.floor = 9), RefusalCode::BadRequest, "past the head");
    assert_eq!(refuses(&mut far, &|bad| bad.pruned[0].cursor.sequence = 2), RefusalCode::Diverged, "twice");
    assert_eq!(refuses(&mut far, &|bad| bad.pruned.clear()), RefusalCode::Diverged, "a gap");
    assert_eq!(refuses(&mut far, &|bad| bad.pruned[0].cursor.hash = DeltaHash([7; 32])), RefusalCode::Diverged);
    assert_eq!(refuses(&mut far, &|bad| bad.pruned[0].time = Hlc(u64::MAX)), RefusalCode::BadRequest);
    assert_eq!(refuses(&mut far, &|bad| bad.pruned[0].cursor.generation.counter = 9), RefusalCode::BadRequest);
    assert_eq!(rows.len(), far.rows().len(), "what is refused changes nothing");
    assert!(matches!(far.apply(GroupCommand::Accept(good)), GroupOutcome::Head(_)));
}

#[test]
fn what_a_peer_lacks_is_kept_for_so_long_and_up_to_so_much() {
    let (mut near, far) = (Site::new(1), site_id(2));
    near.create(LOG);
    put_all(&mut near, 1, &[1, 2, 3]);
    let count = |near: &mut Site, passed_ms, most_ms, most_bytes| {
        let peers = vec![HeldPeer { site: far, most_ms, most_bytes }];
        assert_eq!(near.apply(GroupCommand::HoldPeers(HoldPeers { peers, passed_ms })), GroupOutcome::Done);
        near.state.holds(LOG).unwrap().first().map(|held| (held.behind_ms, held.expired))
    };
    let says = |near: &mut Site, sequence: usize, ms| {
        let cursor = near.history(LOG)[sequence - 1].0.clone();
        let order = Acknowledge { log: LOG, peer: far, cursor, time: Hlc::from_ms(ms), instead_of: None };
        assert_eq!(near.apply(GroupCommand::Acknowledge(order)), GroupOutcome::Done);
        near.state.holds(LOG).unwrap().first().map(|held| (held.behind_ms, held.expired))
    };
    assert_eq!(count(&mut near, 400, 1000, u64::MAX), Some((400, false)));
    assert_eq!(count(&mut near, 599, 1000, u64::MAX), Some((999, false)));
    assert_eq!(says(&mut near, 1, 300), Some((300, false)), "what it lacks now was placed 300 ms ago");
    assert_eq!(count(&mut near, 700, 1000, u64::MAX), Some((1000, true)));
    assert_eq!(count(&mut near, 0, 5000, u64::MAX), Some((1000, true)), "what is let go is gone");
    assert_eq!(says(&mut near, 1, 400), Some((0, false)), "it is there: what is left is kept from now on");
    assert_eq!(count(&mut near, 0, 5000, 10), Some((0, true)), "it lacks more than ten bytes");
    assert_eq!(says(&mut near, 3, 500), None);
    assert_eq!(count(&mut near, 9000, 1000, 10), None, "it lacks nothing");
    assert_eq!(near.state.log(LOG).unwrap().unwrap().head.sequence, 3);
}
