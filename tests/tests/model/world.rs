//! The world that is explored: sites with a copy of one log each, senders between them, and what is on its way.
//!
//! Log groups, senders, the receiver's decision and the failover's weighing are the engine's own. What is written here
//! again is the drivers' part (`engine/src/node`: `sending`, `receiving`, `failing_over`, `switching`), cut into its steps, so that
//! everything else can happen between any two of them: a request is sent, it is decided about, the decision is
//! committed, the answer arrives, it is acted on.
//!
//! Wider than the drivers on purpose, never narrower: whatever is on its way may arrive at any later time, however often
//! links and processes died in between, or never; a home that was away writes at once, without asking its peers first.
//! Deliberately absent: chunks (the sender's property tests have them), pruning, the loss of a site's disks, and time.

use super::copies::{Copies, Copy, CopyId, DeltaId, site_id};
use super::items::{Item, ItemId, Items, last_of};
use super::senders::{Asked, Heard, SenderId, Senders};
use farside::federation::failover::{Candidate, Promise};
use farside::federation::receiver::{LocalCopy, OfferDecision, decide, generation_of};
use farside_codec::command::{
    AcceptDeltas, Acknowledge, Fence, GroupCommand, GroupOutcome, HandOverLog, PlaceDeltas, Promote,
};
use farside_codec::delta::{Cursor, DeltaKind, EpochRecord, Generation, LogDescriptor, LogPolicy, Proposal};
use farside_codec::ids::{BlindName, EpochId, Hlc, Label, LogId, OperationId, TenantId};
use farside_codec::message::{LogOffer, LogPosition, Refusal, RefusalCode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Sites at most.
pub(crate) const SITES: usize = 3;
/// What one offer may be decided on, as in `node/receiving.rs`.
const DECISIONS: u8 = 3;

/// How far the exploration goes. Within it, everything is visited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Sites; the log begins at the first.
    pub(crate) sites: usize,
    /// Different writes that clients try, each at any home, as often as they like.
    pub(crate) writes: u8,
    /// Promotions ordered, each at any site that is not home.
    pub(crate) orders: u8,
    /// Links lost and processes killed.
    pub(crate) breaks: u8,
    /// Switchovers ordered, each at any home to any other site.
    pub(crate) moves: u8,
    /// Requests, answers and commands on their way at once.
    pub(crate) flight: usize,
    /// Homes tell their head although there is nothing to deliver.
    pub(crate) beats: bool,
}

/// The world at one moment. Everything below `flight` is not state of any machine but what the judges remember.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) copies: [CopyId; SITES],
    /// By home and peer.
    pub(crate) senders: [[Option<SenderId>; SITES]; SITES],
    /// In order; with each, whether a sender waits for it.
    pub(crate) flight: Vec<(ItemId, bool)>,
    /// Writes tried, promotions ordered, links and processes broken, switchovers ordered.
    pub(crate) spent: [u8; 4],
    /// Writes that a client was or could have been told to be placed, and where.
    pub(crate) placed: Vec<(DeltaId, usize)>,
    /// The furthest deltas that a peer said to be durable.
    pub(crate) acknowledged: Vec<(DeltaId, usize)>,
    /// First deltas of generations that a promotion or a switchover began.
    pub(crate) promoted: Vec<DeltaId>,
    /// What a step showed that must not be.
    pub(crate) flaw: Option<&'static str>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write { site: usize, write: u8 },
    Order { site: usize },
    Move { home: usize, peer: usize },
    Start { home: usize, peer: usize },
    Stop { home: usize, peer: usize },
    Connect { home: usize, peer: usize },
    Lose { home: usize, peer: usize },
    Kill { site: usize },
    Tell { home: usize, peer: usize },
    Beat { home: usize, peer: usize },
    Arrive { item: ItemId, awaited: bool },
    Vanish { item: ItemId },
}

/// The world's laws, and everything that was found out about it.
pub(crate) struct World {
    log: LogId,
    pub(crate) bounds: Bounds,
    pub(crate) copies: Copies,
    pub(crate) senders: Senders,
    pub(crate) items: Items,
    /// Whether a state comes to rest as it must.
    pub(crate) settles: Mutex<HashMap<super::settling::Physical, bool>>,
}

fn insert<T: Ord>(into: &mut Vec<T>, item: T) {
    if let Err(at) = into.binary_search(&item) {
        into.insert(at, item);
    }
}

fn descriptor(log: LogId) -> LogDescriptor {
    let label = |text: &str| Label::parse(text).expect("a label");
    let first_epoch =
        EpochRecord { epoch: EpochId([1; 16]), salt: [1; 32], key_name: "key".into(), key_version: 1, check: [1; 16] };
    LogDescriptor {
        log,
        tenant: TenantId([7; 16]),
        tenant_name: label("acme"),
        name: label("log"),
        created: Hlc(1),
        first_epoch,
        policy: LogPolicy::default(),
        policy_version: 0,
    }
}

fn proposal(write: u8) -> Proposal {
    Proposal::without_chunks(OperationId([write; 16]), DeltaKind::Put, BlindName([1; 32]), EpochId([1; 16]))
}

impl World {
    pub(crate) fn new(log: LogId, bounds: Bounds) -> Self {
        assert!(bounds.sites <= SITES && bounds.sites > 1, "two or three sites");
        Self {
            log,
            bounds,
            copies: Copies::new(log),
            senders: Senders::default(),
            items: Items::default(),
            settles: Mutex::default(),
        }
    }

    /// The log exists at its first home, and nobody else has heard of it.
    pub(crate) fn begin(&self) -> State {
        let generation = Generation { counter: 1, site: site_id(0), incarnation: 0 };
        let mut copies = [CopyId::default(); SITES];
        for (site, copy) in copies.iter_mut().enumerate().take(self.bounds.sites) {
            *copy = self.copies.absent(site);
        }
        copies[0] = self.copies.apply(copies[0], &GroupCommand::CreateLog((descriptor(self.log), generation))).0;
        State {
            copies,
            senders: Default::default(),
            flight: Vec::new(),
            spent: [0; 4],
            placed: Vec::new(),
            acknowledged: Vec::new(),
            promoted: Vec::new(),
            flaw: None,
        }
    }

    pub(crate) fn copy(&self, state: &State, site: usize) -> Arc<Copy> {
        self.copies.get(state.copies[site])
    }

    pub(crate) fn sites(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.bounds.sites
    }

    /// Every ordered pair of sites.
    pub(crate) fn links(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let sites = self.bounds.sites;
        (0..sites).flat_map(move |home| (0..sites).filter(move |peer| *peer != home).map(move |peer| (home, peer)))
    }

    /// Everything that could happen next. What changes nothing is sorted out by whoever asks.
    pub(crate) fn possible(&self, state: &State, out: &mut Vec<Action>) {
        let [tried, orders, breaks, moves] = state.spent;
        let may_break = breaks < self.bounds.breaks;
        for site in self.sites() {
            let copy = self.copy(state, site);
            // Clients ask everybody: who is not home must refuse.
            out.extend((1..=self.bounds.writes.min(tried + 1)).map(|write| Action::Write { site, write }));
            if !copy.is_home() && copy.view.is_some() && orders < self.bounds.orders {
                out.push(Action::Order { site });
            }
            if may_break && state.senders[site].iter().any(Option::is_some) {
                out.push(Action::Kill { site });
            }
        }
        for (home, peer) in self.links() {
            let copy = self.copy(state, home);
            out.extend((copy.is_home() && moves < self.bounds.moves).then_some(Action::Move { home, peer }));
            let Some(sender) = state.senders[home][peer] else {
                out.extend(copy.tells().then_some(Action::Start { home, peer }));
                continue;
            };
            let life = self.senders.get(sender);
            out.extend((!copy.tells()).then_some(Action::Stop { home, peer }));
            match life.connected {
                false => out.push(Action::Connect { home, peer }),
                true => {
                    out.push(Action::Tell { home, peer });
                    out.extend(may_break.then_some(Action::Lose { home, peer }));
                    let beats = self.bounds.beats && life.acknowledged.is_some();
                    out.extend(beats.then_some(Action::Beat { home, peer }));
                }
            }
        }
        for (at, (item, awaited)) in state.flight.iter().copied().enumerate() {
            if at > 0 && state.flight[at - 1] == (item, awaited) {
                continue;
            }
            out.push(Action::Arrive { item, awaited });
            out.extend((!awaited).then_some(Action::Vanish { item }));
        }
    }

    /// What comes of it.
    pub(crate) fn step(&self, before: &State, action: Action) -> State {
        let mut state = before.clone();
        match action {
            Action::Write { site, write } => self.write(&mut state, site, write),
            Action::Order { site } => self.order(&mut state, site),
            Action::Move { home, peer } => self.order_move(&mut state, home, peer),
            Action::Start { home, peer } => {
                if let Some(view) = &self.copy(&state, home).view {
                    state.senders[home][peer] = Some(self.senders.begin(view.head.clone()));
                    self.tell(&mut state, home, peer, vec![Heard::Connected]);
                }
            }
            Action::Stop { home, peer } => self.end(&mut state, home, peer),
            Action::Connect { home, peer } => self.tell(&mut state, home, peer, vec![Heard::Connected]),
            Action::Lose { home, peer } => {
                state.spent[2] += 1;
                self.lose(&mut state, home, peer);
            }
            Action::Kill { site } => {
                state.spent[2] += 1;
                self.sites().for_each(|peer| self.end(&mut state, site, peer));
            }
            Action::Tell { home, peer } => {
                if let Some(view) = &self.copy(&state, home).view {
                    self.tell(&mut state, home, peer, vec![Heard::Head(view.head.clone())]);
                }
            }
            Action::Beat { home, peer } => {
                if let Some(accept) = self.delivery(&state, home, Vec::new()) {
                    self.send(&mut state, Item::Deltas { home, peer, accept }, false);
                }
            }
            Action::Arrive { item, awaited } => {
                self.take(&mut state, item, awaited);
                self.arrive(&mut state, &self.items.get(item), awaited);
            }
            Action::Vanish { item } => self.take(&mut state, item, false),
        }
        state
    }

    fn send(&self, state: &mut State, item: Item, awaited: bool) {
        let entry = (self.items.name(item), awaited);
        let at = state.flight.partition_point(|other| *other < entry);
        state.flight.insert(at, entry);
    }

    fn take(&self, state: &mut State, item: ItemId, awaited: bool) {
        if let Ok(at) = state.flight.binary_search(&(item, awaited)) {
            state.flight.remove(at);
        }
    }

    fn write(&self, state: &mut State, site: usize, write: u8) {
        let known = self.copy(state, site).known();
        let command =
            PlaceDeltas { log: self.log, time: Hlc(0), site: site_id(site), proposals: vec![proposal(write)] };
        let (after, outcome) = self.copies.apply(state.copies[site], &GroupCommand::Place(command));
        let GroupOutcome::Placed(outcomes) = outcome else { return };
        let Some(Ok(receipt)) = outcomes.first() else { return };
        state.copies[site] = after;
        state.spent[0] = state.spent[0].max(write);
        if receipt.replayed {
            return;
        }
        if Some(receipt.cursor.generation) != known {
            state.flaw = Some("a write was acknowledged under another generation than the highest known there");
        }
        match self.copies.find(&receipt.cursor.hash) {
            Some(delta) => insert(&mut state.placed, (delta, site)),
            None => state.flaw = Some("a write was acknowledged and is not there"),
        }
        // The server wakes the senders of a log that moved.
        let head = receipt.cursor.clone();
        for peer in self.sites().filter(|peer| *peer != site) {
            if state.senders[site][peer].is_some_and(|sender| self.senders.get(sender).connected) {
                self.tell(state, site, peer, vec![Heard::Head(head.clone())]);
            }
        }
    }

    /// An order is weighed now and carried out whenever its command is committed.
    fn order(&self, state: &mut State, site: usize) {
        let Some(known) = self.copy(state, site).known() else { return };
        state.spent[1] += 1;
        let generation = Generation { counter: known.counter + 1, site: site_id(site), incarnation: 0 };
        let command =
            GroupCommand::Promote(Promote { log: self.log, generation, time: Hlc(0), weighed: None, cut: None });
        self.send(state, Item::Local { site, peer: site, command }, false);
    }

    /// A switchover is committed whenever, if at all. That it waits until the peer is near is for the writers' sake only.
    fn order_move(&self, state: &mut State, home: usize, peer: usize) {
        let Some(known) = self.copy(state, home).known() else { return };
        state.spent[3] += 1;
        let to = Generation { counter: known.counter + 1, site: site_id(peer), incarnation: 0 };
        let command = GroupCommand::HandOver(HandOverLog { log: self.log, to, time: Hlc(0) });
        self.send(state, Item::Local { site: home, peer, command }, false);
    }

    /// A sender's task ends, and everything that it waited for goes on without it.
    fn end(&self, state: &mut State, home: usize, peer: usize) {
        state.senders[home][peer] = None;
        self.abandon(state, home, peer);
    }

    /// The link is lost; the sender stays, and hears of it.
    fn lose(&self, state: &mut State, home: usize, peer: usize) {
        self.abandon(state, home, peer);
        self.tell(state, home, peer, vec![Heard::Lost]);
    }

    fn abandon(&self, state: &mut State, home: usize, peer: usize) {
        for (item, awaited) in std::mem::take(&mut state.flight) {
            let found = self.items.get(item);
            let mine = awaited && found.link() == (home, peer);
            match &*found {
                Item::Answer { .. } if mine => {}
                _ => state.flight.push((item, awaited && !mine)),
            }
        }
        state.flight.sort_unstable();
    }

    /// Tells a sender what happened and does what it asks for, as `node/sending.rs` does.
    fn tell(&self, state: &mut State, home: usize, peer: usize, events: Vec<Heard>) {
        let mut next = Some(events);
        while let Some(mut events) = next.take() {
            let Some(sender) = state.senders[home][peer] else { return };
            let copy = self.copy(state, home);
            // After each event the driver looks at the head once more.
            if !matches!(events.last(), Some(Heard::Head(_) | Heard::Lost | Heard::Connected))
                && let Some(view) = &copy.view
            {
                events.push(Heard::Head(view.head.clone()));
            }
            let (after, asks) = self.senders.tell(sender, events);
            state.senders[home][peer] = Some(after);
            for ask in asks.iter() {
                match ask {
                    Asked::Greet => {
                        if let Some(offer) = offer_of(&copy) {
                            self.send(state, Item::Offer { home, peer, offer }, true);
                        }
                    }
                    Asked::Load { from, limit } => {
                        let from = (*from as usize).saturating_sub(1);
                        let loaded = copy.deltas.iter().skip(from).take(*limit).cloned().collect();
                        next = Some(vec![Heard::Loaded(loaded)]);
                    }
                    Asked::Deliver(deltas) => {
                        if let Some(accept) = self.delivery(state, home, deltas.clone()) {
                            self.send(state, Item::Deltas { home, peer, accept }, true);
                        }
                    }
                    Asked::Record { cursor, greeted } => {
                        // No two cursors of a peer are recorded at one time.
                        let at = |cursor: &Cursor| Hlc(cursor.sequence + 1);
                        let recorded = copy.cursors.iter().find(|(site, _)| *site == site_id(peer));
                        let instead_of = recorded.filter(|_| *greeted).map(|(_, cursor)| at(cursor));
                        let (cursor, time) = (cursor.clone(), at(cursor));
                        let command = Acknowledge { log: self.log, peer: site_id(peer), cursor, time, instead_of };
                        let command = GroupCommand::Acknowledge(command);
                        self.send(state, Item::Local { site: home, peer, command }, true);
                    }
                    Asked::StepDown(lineage) => {
                        let fence = Fence { log: self.log, lineage: lineage.clone(), time: Hlc(0) };
                        self.end(state, home, peer);
                        let command = GroupCommand::Fence(fence);
                        return self.send(state, Item::Local { site: home, peer, command }, false);
                    }
                    // After its rest the driver begins anew.
                    Asked::Wait => return self.lose(state, home, peer),
                }
            }
        }
    }

    fn delivery(&self, state: &State, home: usize, deltas: Vec<bytes::Bytes>) -> Option<AcceptDeltas> {
        let copy = self.copy(state, home);
        let view = copy.view.as_ref()?;
        let (lineage, head, head_time) = (view.lineage.clone(), view.head.clone(), view.head_time);
        let (policy, policy_version) = (view.descriptor.policy.clone(), view.descriptor.policy_version);
        Some(AcceptDeltas {
            log: self.log,
            lineage,
            deltas,
            pruned: Vec::new(),
            floor: 0,
            head,
            head_time,
            closed: Hlc(0),
            policy,
            policy_version,
            lease_ms: 0,
        })
    }

    fn arrive(&self, state: &mut State, item: &Item, awaited: bool) {
        match item {
            Item::Offer { home, peer, offer } => {
                self.consider(state, (*home, *peer), offer, DECISIONS, awaited);
            }
            Item::Decided { home, peer, offer, command, decisions } => match self.commit(state, *peer, command) {
                Ok(()) => self.consider(state, (*home, *peer), offer, *decisions, awaited),
                Err(refusal) => self.answer(state, (*home, *peer), self.refused(*home, refusal), awaited),
            },
            Item::Deltas { home, peer, accept } => self.deliver(state, *home, *peer, accept, awaited),
            Item::Answer { home, peer, heard } => self.tell(state, *home, *peer, vec![heard.clone()]),
            Item::Local { site, peer, command } => {
                if let GroupCommand::Promote(promote) = command {
                    return self.promote(state, *site, promote);
                }
                // A refusal is only written to the log.
                let _ = self.commit(state, *site, command);
                if awaited {
                    self.tell(state, *site, *peer, vec![Heard::Recorded]);
                }
            }
        }
    }

    fn commit(&self, state: &mut State, site: usize, command: &GroupCommand) -> Result<(), Refusal> {
        let (after, outcome) = self.copies.apply(state.copies[site], command);
        state.copies[site] = after;
        match outcome {
            GroupOutcome::Refused(refusal) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// The receiver's part, as in `node/receiving.rs`.
    fn consider(&self, state: &mut State, link: (usize, usize), offer: &LogOffer, decisions: u8, awaited: bool) {
        let (home, peer) = link;
        if decisions == 0 {
            let detail = "this copy and the sender's have no such point in common";
            return self.answer(state, link, self.refused(home, Refusal::new(RefusalCode::Diverged, detail)), awaited);
        }
        let copy = self.copy(state, peer);
        let local = copy.view.as_ref().map(|view| LocalCopy { lineage: view.lineage.clone(), head: view.head.clone() });
        let command = match decide(offer, site_id(home), site_id(peer), local.as_ref()) {
            OfferDecision::Create => {
                let generation = generation_of(&offer.lineage).expect("an offer without a lineage is refused");
                GroupCommand::CreateLog((offer.descriptor.clone(), generation))
            }
            OfferDecision::Fence => {
                GroupCommand::Fence(Fence { log: self.log, lineage: offer.lineage.clone(), time: Hlc(0) })
            }
            OfferDecision::Position | OfferDecision::Ahead => {
                return self.answer(state, link, self.positioned(&copy), awaited);
            }
            OfferDecision::Refuse(refusal) => return self.answer(state, link, self.refused(home, refusal), awaited),
        };
        let decided = Item::Decided { home, peer, offer: offer.clone(), command, decisions: decisions - 1 };
        self.send(state, decided, awaited);
    }

    fn deliver(&self, state: &mut State, home: usize, peer: usize, accept: &AcceptDeltas, awaited: bool) {
        if last_of(&accept.lineage).is_none_or(|generation| generation.site != site_id(home)) {
            let refusal = Refusal::new(RefusalCode::Forbidden, "the lineage does not end at the site that sends");
            return self.answer(state, (home, peer), Heard::Refused(refusal), awaited);
        }
        let before = self.copy(state, peer);
        let committed = self.commit(state, peer, &GroupCommand::Accept(accept.clone()));
        let after = self.copy(state, peer);
        if after.is_home() && !before.is_home() {
            self.judge_arrival(state, home, &after);
        }
        let heard = match committed {
            Err(refusal) if refusal.code != RefusalCode::NotHome || !self.is_ahead(state, peer, accept) => {
                Heard::Refused(refusal)
            }
            _ => self.positioned(&self.copy(state, peer)),
        };
        self.answer(state, (home, peer), heard, awaited);
    }

    /// A switchover has arrived: the new home begins with everything that the old one ever acknowledged in its last
    /// generation, and says so by the delta that hands the log over.
    fn judge_arrival(&self, state: &mut State, from: usize, new: &Copy) {
        let [.., last, first] = new.history[..] else {
            state.flaw = Some("a site became home of nothing");
            return;
        };
        let ended = self.copies.delta(last);
        if ended.hands_over_to != new.known() {
            state.flaw = Some("a site became home without having been named");
        }
        insert(&mut state.promoted, first);
        let lost = state.placed.iter().any(|(delta, site)| {
            *site == from
                && self.copies.delta(*delta).cursor.generation == ended.cursor.generation
                && !new.history.contains(delta)
        });
        if lost {
            state.flaw = Some("a switchover lost what the old home had acknowledged");
        }
    }

    /// Whether a copy's lineage tells the sender that it is no longer home.
    fn is_ahead(&self, state: &State, peer: usize, accept: &AcceptDeltas) -> bool {
        let copy = self.copy(state, peer);
        copy.view.as_ref().is_some_and(|view| last_of(&view.lineage) > last_of(&accept.lineage))
    }

    /// Sends an answer, if there is somebody who waits for it. What it acknowledges is remembered.
    fn answer(&self, state: &mut State, (home, peer): (usize, usize), heard: Heard, awaited: bool) {
        if !awaited {
            return;
        }
        // A peer that is home itself says so; that acknowledges nothing.
        if let Heard::Positioned(position) = &heard
            && last_of(&position.lineage).is_some_and(|generation| generation.site == site_id(home))
            && let Some(delta) = self.copies.find(&position.head.hash)
        {
            self.remember_acknowledged(state, peer, delta);
        }
        self.send(state, Item::Answer { home, peer, heard }, true);
    }

    /// An acknowledged delta stands for everything before it.
    fn remember_acknowledged(&self, state: &mut State, peer: usize, delta: DeltaId) {
        let history = self.copy(state, peer).history.clone();
        let covered = |at: &(DeltaId, usize)| at.1 == peer && at.0 != delta && history.contains(&at.0);
        state.acknowledged.retain(|at| !covered(at));
        insert(&mut state.acknowledged, (delta, peer));
    }

    fn promote(&self, state: &mut State, site: usize, promote: &Promote) {
        let (before, old) = (self.copy(state, site), state.copies[site]);
        let Some(view) = &before.view else { return };
        let _ = self.commit(state, site, &GroupCommand::Promote(promote.clone()));
        if state.copies[site] == old {
            return;
        }
        let after = self.copy(state, site);
        match after.history.split_last() {
            Some((first, rest)) if rest == before.history => insert(&mut state.promoted, *first),
            _ => state.flaw = Some("a promotion changed what was there"),
        }
        // What the order reports as lost is no more than what is.
        let candidate = Candidate {
            name: (view.descriptor.tenant_name.clone(), view.descriptor.name.clone()),
            head: view.head.clone(),
            head_time: view.head_time,
            is_sent_here: true,
            complete_to: None,
            floor: view.floor,
            cut: None,
            whole: view.seeding.as_ref().map(|seeding| (seeding.whole.clone(), seeding.whole_time)),
            heard: view.heard.clone(),
            promise: Promise::None,
        };
        let home = self
            .sites()
            .map(|site| self.copy(state, site))
            .find(|copy| copy.is_home() && copy.known() == Some(view.known));
        if let (Some(home), Some(lost)) = (home.and_then(|home| home.view.clone()), candidate.loss().deltas)
            && lost > home.head.sequence - view.head.sequence
        {
            state.flaw = Some("a failover reported more deltas lost than the home had");
        }
    }

    /// Where a site stands.
    fn positioned(&self, copy: &Copy) -> Heard {
        match &copy.view {
            Some(view) => Heard::Positioned(LogPosition {
                log: self.log,
                head: view.goes_on_from().clone(),
                whole: view.whole().0.clone(),
                lineage: view.lineage.clone(),
                refusal: None,
            }),
            None => Heard::Refused(Refusal::new(RefusalCode::NotFound, "there is no such log here")),
        }
    }

    fn refused(&self, home: usize, refusal: Refusal) -> Heard {
        let generation = Generation { counter: 0, site: site_id(home), incarnation: 0 };
        let head = Cursor { generation, sequence: 0, hash: Default::default() };
        let whole = head.clone();
        Heard::Positioned(LogPosition { log: self.log, head, whole, lineage: Vec::new(), refusal: Some(refusal) })
    }
}

fn offer_of(copy: &Copy) -> Option<LogOffer> {
    let view = copy.view.as_ref()?;
    Some(LogOffer {
        descriptor: view.descriptor.clone(),
        lineage: view.lineage.clone(),
        head: view.head.clone(),
        head_time: view.head_time,
    })
}
