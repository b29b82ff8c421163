//! The world: sites that are peers, a KMS, clients; what can be done to it, and how it is made whole again.

mod backups;
mod harm;
mod kms;
mod lifecycle;
mod orders;
mod sides;
mod upkeep;

use super::faults::{Fault, Place, Planned, State, Targets};
use super::history::History;
use super::host::Host;
use super::network::{Network, Weather};
use super::node::End;
use super::scenarios::{Backups, Scenario};
use super::site::{Plan, SimSite};
use super::store::Trouble;
use super::trace::Trace;
use super::violation::Violations;
use super::work::{Objects, Shared, Worker};
use farside::client::Client;
use farside_codec::delta::LogPolicy;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{FailedOver, Failover, PeerAction, Reply, Request, SetPeer, SetPolicy};
use farside_io::entropy::SeededEntropy;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long an administrator tries.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an administrator joins two sites anew.
const JOIN_TRIES: u32 = 3;
/// How long everything may take to be caught up once nothing goes wrong any more.
pub const RECOVERY: Duration = Duration::from_secs(120);

type Turn = Arc<tokio::sync::Mutex<()>>;

struct Inner {
    shared: Rc<Shared>,
    network: Network,
    operator: Host,
    random: SeededEntropy,
    /// Devices of each site that may be harmed.
    victims: [u64; 2],
    /// Nodes of each site that may still be lost for good.
    losses: [Cell<u32>; 2],
    /// Machines that were made so far.
    hosts: Cell<u8>,
    /// For how long logs keep what was replaced, if not for longer than any run.
    history_seconds: Option<u64>,
    /// How long the home lease of the logs is, if they have one.
    lease_seconds: Option<u64>,
    hold_seconds: Option<u64>,
    /// Peace leaves nodes running that are well.
    spares_the_well: bool,
    /// Copies of victims as they once were, and whose.
    old_copies: RefCell<Vec<(Place, usize, farside_io::sim::SimDisk)>>,
    /// Whoever starts or ends a node has its turn.
    turns: RefCell<BTreeMap<(usize, usize), Turn>>,
    promotions: RefCell<Vec<Promotion>>,
    /// A site has forgotten its peer, if only for a while.
    peer_was_removed: Cell<bool>,
    promotions_ordered: Cell<u64>,
    cut_was_ordered: Cell<bool>,
    /// Deltas set aside that an administrator let go of, by site and log.
    discarded: RefCell<BTreeMap<(usize, String), u64>>,
    /// What is wrong with the KMS, one on top of the other.
    kms_troubles: Cell<u32>,
    /// The machines of the workload.
    clients: RefCell<Vec<Host>>,
    /// Logs and tenants that administrators made in passing.
    made: Cell<u32>,
    /// Administrators had something done to devices, or to what lies on them.
    upkept: Cell<bool>,
    /// Devices that were told to go, and whether they are to stay after all.
    evictions: RefCell<BTreeMap<upkeep::Eviction, bool>>,
    /// How backups are made, where they are.
    backing: Option<backups::Backing>,
    /// What is wrong with the stores, one on top of the other.
    store_troubles: Cell<u32>,
    /// Seconds between two rounds of GC, at the site that waits longest.
    gc_seconds: u64,
}

/// A promotion that was answered.
#[derive(Debug, Clone)]
pub struct Promotion {
    /// Where.
    pub site: usize,
    /// What it said.
    pub promoted: FailedOver,
    /// When, in milliseconds of simulated time.
    pub answered_ms: u64,
    /// The site that handed it over, if it was a switchover.
    pub from: Option<usize>,
    /// It was forced.
    pub forced: bool,
    /// The time to which all logs were cut, if they were.
    pub cut: Option<Hlc>,
}

/// A world. Clones are the same one.
#[derive(Clone)]
pub struct World(Rc<Inner>);

/// Geometries of small sites, each with the devices that it needs.
const GEOMETRIES: [&str; 5] = ["2+1", "4+2", "1+1", "3+2", "1+2"];
/// Geometries of sites of several nodes, with how many the near and the far one have: each fragment has its own node.
const SEVERAL: [(&str, usize, usize); 6] =
    [("2+1", 3, 1), ("2+1", 4, 1), ("2+1", 3, 3), ("1+2", 3, 1), ("3+2", 5, 1), ("2+1", 5, 3)];
/// Devices of each of several nodes: the second one may be harmed, and each node keeps its write-ahead log.
const DEVICES_OF_EACH: usize = 2;
/// Number of the first machine that joins a site.
const FIRST_JOINED: u8 = 10;
/// Several objects of the workload, so that segments fill up within a run.
const SMALL_SEGMENT_BYTES: u32 = 1 << 20;

/// The smallest segment that the engine chooses by itself: a piece of a snapshot fits. Small objects make small ones.
pub(super) fn smallest_segment_bytes(geometry: Geometry) -> u32 {
    let of_each = farside_raft::limits::PIECE_BYTES * 5 / 4 / geometry.data();
    (of_each as u32 + (64 << 10)).next_power_of_two()
}

impl World {
    /// Makes a world below `root`, running and at peace.
    pub async fn make(seed: u64, root: &Path, trace: Trace, scenario: &Scenario) -> Result<Self, String> {
        let random = SeededEntropy::new(seed);
        let network = Network::new(random.next_u64(), trace.clone());
        tokio::task::spawn_local(network.clone().run());
        let violations = Violations::new(trace.clone());
        let below = |bound: u64| random.next_u64() % bound;
        let (text, counts) = match scenario.several {
            false => (GEOMETRIES[below(GEOMETRIES.len() as u64) as usize], [1, 1]),
            true => {
                let (text, near, far) = SEVERAL[below(SEVERAL.len() as u64) as usize];
                (text, [near, far])
            }
        };
        let geometry = Geometry::parse(text).ok_or("no geometry")?;
        let drawn = match below(8) {
            0 => Objects::Bulky,
            1 => Objects::Large,
            _ => Objects::Mixed,
        };
        let objects = scenario.objects.unwrap_or(drawn);
        // One write-ahead log or one zone for everything, so that it fills up.
        let shards = if objects == Objects::Mixed { 1 + below(2) as usize } else { 1 };
        let small_segments = below(2) == 0;
        let segment_bytes = match objects {
            Objects::Large => Some(SMALL_SEGMENT_BYTES),
            Objects::Bulky => small_segments.then(|| smallest_segment_bytes(geometry)),
            Objects::Mixed => small_segments.then_some(SMALL_SEGMENT_BYTES),
        };
        // Devices that fill up are good for nothing any more where nothing is ever pruned.
        let prunes = below(2) == 0 || objects == Objects::Large;
        let history_seconds = match scenario.holds {
            true => Some(1 + below(8)),
            false => prunes.then(|| 12 + below(12)),
        };
        let spares_the_well = below(2) == 0;
        let lease_seconds = scenario.leases.then(|| 4 + below(6));
        let hold_seconds = scenario.holds.then(|| 2 + below(15));
        let (mut sites, mut longest_gc_seconds) = (Vec::new(), 0);
        let (mut victims, mut losses) = ([geometry.parity() as u64; 2], [0; 2]);
        for (number, name) in (1..).zip(["near", "far"]) {
            let nodes = counts[sites.len()];
            if nodes > 1 && below(2) == 0 {
                (victims[sites.len()], losses[sites.len()]) = (0, 1);
            }
            let devices = match (nodes, scenario.spares) {
                (1, true) => geometry.total() + 1 + below(2) as usize,
                (1, false) => geometry.total(),
                _ => DEVICES_OF_EACH,
            };
            let host = Host::new(number, random.next_u64(), &network);
            let (gc_seconds, cramped) = (3 + below(10), objects == Objects::Large);
            longest_gc_seconds = gc_seconds.max(longest_gc_seconds);
            let refetch = losses[sites.len()] > 0;
            let plan = Plan { name, geometry, nodes, devices, shards, gc_seconds, refetch, segment_bytes, cramped };
            let site = SimSite::make(root, plan, host, random.next_u64(), trace.clone()).await;
            sites.push(Rc::new(RefCell::new(site.map_err(|error| error.to_string())?)));
        }
        let has_backups = match scenario.backups {
            Backups::Never => false,
            Backups::Often => below(2) == 0,
            Backups::Always => true,
        };
        let backing = has_backups.then(|| backups::Backing {
            every_seconds: 5 + below(25) as u32,
            continuous: below(2) == 0,
            is_patient: scenario.backups == Backups::Always,
        });
        let operator = Host::new(100, random.next_u64(), &network);
        let tenant = Label::parse("acme").ok_or("no label")?;
        let logs = (0..1 + below(3)).map(|number| format!("acme/log-{number}")).collect();
        let shared = Rc::new(Shared {
            sites,
            kms: root.join("kms"),
            tenant,
            logs,
            objects,
            history: History::default(),
            violations,
            trace: trace.clone(),
            over: Cell::new(false),
        });
        trace.line(format!("world: {text}, {counts:?} nodes, {shards} shards, {} logs", shared.logs.len()));
        trace.line(format!("objects: {objects:?}, segments: {segment_bytes:?}, history: {history_seconds:?}"));
        let inner = Inner {
            turns: RefCell::default(),
            hosts: Cell::new(FIRST_JOINED),
            losses: losses.map(Cell::new),
            shared,
            network,
            operator,
            random,
            victims,
            history_seconds,
            lease_seconds,
            hold_seconds,
            spares_the_well,
            old_copies: RefCell::default(),
            promotions: RefCell::default(),
            peer_was_removed: Cell::new(false),
            promotions_ordered: Cell::new(0),
            cut_was_ordered: Cell::new(false),
            discarded: RefCell::default(),
            kms_troubles: Cell::new(0),
            clients: RefCell::default(),
            made: Cell::new(0),
            upkept: Cell::new(false),
            evictions: RefCell::default(),
            backing,
            store_troubles: Cell::new(0),
            gc_seconds: longest_gc_seconds,
        };
        let world = Self(Rc::new(inner));
        world.begin().await?;
        Ok(world)
    }

    /// Starts the sites, joins them, makes tenant and logs.
    async fn begin(&self) -> Result<(), String> {
        for site in self.sites() {
            site.borrow_mut().start();
        }
        for site in 0..self.sites().len() {
            self.grow_up(site).await?;
        }
        let near = self.client(0).await?;
        let failed = |error: farside::client::ClientError| error.to_string();
        let url = format!("file:{}", self.0.shared.kms.display());
        near.create_tenant(&self.0.shared.tenant, &url).await.map_err(failed)?;
        self.join().await?;
        self.bound_holds().await?;
        for log in &self.0.shared.logs {
            let (tenant, name) = farside::client::parse_log_name(log).map_err(failed)?;
            let made = near.create_log(&tenant, &name).await.map_err(failed)?;
            if self.0.history_seconds.is_some() || self.0.lease_seconds.is_some() {
                let drawn = made.descriptor.policy;
                let history_seconds = self.0.history_seconds.unwrap_or(drawn.history_seconds);
                let home_lease_seconds = self.0.lease_seconds.unwrap_or(0);
                let policy = LogPolicy { history_seconds, home_lease_seconds, ..drawn };
                let set = SetPolicy { log: made.descriptor.log, policy };
                // A lease begins once the peer follows.
                let deadline = tokio::time::Instant::now() + PATIENCE;
                while let Err(error) = near.control(&Request::SetPolicy(set.clone())).await {
                    if tokio::time::Instant::now() > deadline {
                        return Err(error.to_string());
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        // The far side hears of the logs by itself; the workload may ask it for them from the first moment on.
        self.begin_backups().await
    }

    /// What everybody shares.
    pub fn shared(&self) -> &Rc<Shared> {
        &self.0.shared
    }
    /// The sites.
    pub fn sites(&self) -> &[Rc<RefCell<SimSite>>] {
        &self.0.shared.sites
    }
    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.0.shared.trace
    }
    /// What must not have.
    pub fn violations(&self) -> &Violations {
        &self.0.shared.violations
    }
    /// What faults may be drawn for, with so many clients.
    pub fn targets(&self, clients: u8) -> Targets {
        let nodes = [0, 1].map(|site: usize| self.sites()[site].borrow().nodes.len() as u64);
        Targets { nodes, victims: self.0.victims, clients: u64::from(clients) }
    }
    /// Seconds between two rounds of GC, at the site that waits longest.
    pub fn gc_seconds(&self) -> u64 {
        self.0.gc_seconds
    }
    /// The world's own chance.
    pub fn random(&self) -> &SeededEntropy {
        &self.0.random
    }
    /// Promotions that were answered.
    pub fn promotions(&self) -> Vec<Promotion> {
        self.0.promotions.borrow().clone()
    }
    /// Whether a site has forgotten its peer, if only for a while.
    pub fn peer_was_removed(&self) -> bool {
        self.0.peer_was_removed.get()
    }
    /// Whether a site was told to go back to a cut, and so perhaps to before what it had acknowledged.
    pub fn cut_was_ordered(&self) -> bool {
        self.0.cut_was_ordered.get()
    }
    /// An administrator let go of so many deltas that were set aside.
    pub fn discarded(&self, site: usize, log: &str, deltas: u64) {
        *self.0.discarded.borrow_mut().entry((site, log.to_owned())).or_default() += deltas;
    }
    /// How many that were.
    pub fn discarded_of(&self, site: usize, log: &str) -> u64 {
        self.0.discarded.borrow().get(&(site, log.to_owned())).copied().unwrap_or(0)
    }
    /// Whether what was replaced goes within a run.
    pub fn prunes(&self) -> bool {
        self.0.history_seconds.is_some()
    }
    /// Whether logs have a home lease.
    pub fn has_leases(&self) -> bool {
        self.0.lease_seconds.is_some()
    }
    /// Promotions that were ordered, answered or not.
    pub fn promotions_ordered(&self) -> u64 {
        self.0.promotions_ordered.get()
    }

    /// Begins the workload with so many clients.
    pub fn work(&self, clients: u8, pace: Duration) -> Vec<tokio::task::JoinHandle<()>> {
        let logs = self.0.shared.logs.len();
        let begin = |number: u8| {
            let host = Host::new(101 + number, self.0.random.next_u64(), &self.0.network);
            self.0.clients.borrow_mut().push(host.clone());
            let seed = self.0.random.next_u64();
            let worker = Worker::new(&self.0.shared, host, seed, usize::from(number) % logs, pace);
            tokio::task::spawn_local(worker.run())
        };
        (0..clients).map(begin).collect()
    }

    /// An administrator's client of a site, as soon as it answers.
    pub async fn client(&self, site: usize) -> Result<Client, String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let connect = {
                let there = self.sites()[site].borrow();
                there.connect(&self.0.operator, &self.0.shared.kms, &[&self.0.shared.tenant])
            };
            match connect.await {
                Ok(client) => return Ok(client),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    let trouble = self.sites()[site].borrow().trouble();
                    return Err(trouble.unwrap_or_else(|| error.to_string()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Makes the two sites peers of one another, unless they are.
    pub async fn join(&self) -> Result<(), String> {
        let mut tries = 0;
        loop {
            match self.try_join().await {
                // Where the answer to a token was lost, its repetition is refused: an administrator asks for a new one.
                Err(error) if tries < JOIN_TRIES => {
                    tries += 1;
                    self.trace().line(format!("the sites could not be joined, try {tries}: {error}"));
                }
                joined => return joined,
            }
        }
    }

    async fn try_join(&self) -> Result<(), String> {
        let (near, far) = (self.client(0).await?, self.client(1).await?);
        let failed = |error: farside::client::ClientError| error.to_string();
        let knows =
            |reply: Result<Reply, _>| reply.map(|reply| matches!(reply, Reply::Peers(peers) if peers.len() == 1));
        let near_knows = knows(near.control(&Request::PeerList).await).map_err(failed)?;
        let far_knows = knows(far.control(&Request::PeerList).await).map_err(failed)?;
        if near_knows && far_knows {
            return Ok(());
        }
        // A half-forgotten peer is forgotten by both before they meet again.
        for (client, knows, other) in [(&near, near_knows, 1), (&far, far_knows, 0)] {
            let name = self.sites()[other].borrow().name.clone();
            if knows {
                client
                    .control(&Request::SetPeer(SetPeer { name, action: PeerAction::Remove }))
                    .await
                    .map_err(failed)?;
            }
        }
        let Reply::Token(token) = far.control(&Request::PeerToken).await.map_err(failed)? else {
            return Err("no token".into());
        };
        near.control(&Request::PeerAdd(token)).await.map_err(failed)?;
        Ok(())
    }

    /// Whoever starts or ends a node holds this meanwhile.
    fn turn(&self, Place { site, node }: Place) -> Turn {
        self.0.turns.borrow_mut().entry((site, node)).or_default().clone()
    }

    /// The nodes of a site that are not gone.
    fn places(&self, site: usize) -> Vec<Place> {
        self.sites()[site].borrow().present().map(|(node, _)| Place { site, node }).collect()
    }

    async fn restart(&self, place: Place, how: End, lasts: Duration, state: State) {
        let turn = self.turn(place);
        let _turn = turn.lock().await;
        self.end(place, how).await;
        tokio::time::sleep(lasts).await;
        let mut there = self.sites()[place.site].borrow_mut();
        let node = &mut there.nodes[place.node];
        match state {
            State::Kept => {}
            State::Lost => node.lose_state(),
            State::Flipped => node.flip_state(self.0.random.next_u64()),
        }
        node.start();
    }

    async fn restart_all(&self, places: Vec<Place>, how: End, lasts: Duration) {
        let all = places.into_iter().map(|place| self.restart(place, how, lasts, State::Kept));
        futures_util::future::join_all(all).await;
    }

    async fn end(&self, Place { site, node }: Place, how: End) {
        let ending = self.sites()[site].borrow_mut().nodes[node].take_running();
        if let Some(task) = ending {
            task.abort();
            // Aborted is all that it can say.
            let _ = task.await;
        }
        self.sites()[site].borrow_mut().nodes[node].settle(how);
    }

    fn address(&self, Place { site, node }: Place) -> std::net::IpAddr {
        self.sites()[site].borrow().nodes[node].host.ip
    }

    /// Cuts the ways from each of these to each of those.
    fn cut(&self, from: &[Place], to: &[Place]) {
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            self.0.network.cut(self.address(*from), self.address(*to));
        }
    }

    /// Does a fault, and undoes it when its time is over.
    pub async fn apply(&self, planned: Planned) {
        let Planned { lasts, fault, .. } = planned;
        match fault {
            Fault::Restart { place, how, state } => self.restart(place, how, lasts, state).await,
            Fault::Blackout => {
                let all = (0..self.sites().len()).flat_map(|site| self.places(site)).collect();
                self.restart_all(all, End::PowerCut, lasts).await;
            }
            Fault::Outage { site } => self.restart_all(self.places(site), End::PowerCut, lasts).await,
            Fault::Cut { from, to, both } => {
                self.cut(&[from], &[to]);
                if both {
                    self.cut(&[to], &[from]);
                }
                tokio::time::sleep(lasts).await;
                self.0.network.heal();
            }
            Fault::Isolate { place, deaf, mute } => {
                let all = (0..self.sites().len()).flat_map(|site| self.places(site));
                let others: Vec<Place> = all.filter(|other| *other != place).collect();
                if deaf {
                    self.cut(&others, &[place]);
                }
                if mute {
                    self.cut(&[place], &others);
                }
                tokio::time::sleep(lasts).await;
                self.0.network.heal();
            }
            Fault::Clog { from, to } => {
                self.0.network.clog(self.address(from), self.address(to));
                tokio::time::sleep(lasts).await;
                self.0.network.heal();
            }
            Fault::Storm(weather) => {
                self.0.network.set_weather(weather);
                tokio::time::sleep(lasts).await;
                self.0.network.set_weather(Weather::FAIR);
            }
            Fault::Device { place, device, harm } => self.harm(place, device, harm, lasts).await,
            Fault::Swap { place, device, old_copy } => self.swap(place, device, old_copy, lasts).await,
            Fault::Slow { place, longest } => {
                let disks = self.sites()[place.site].borrow().nodes[place.node].disks.clone();
                disks.iter().for_each(|disk| disk.slow_down(longest));
                tokio::time::sleep(lasts).await;
                disks.iter().for_each(|disk| disk.slow_down(Duration::ZERO));
            }
            Fault::Drain { place, out } => self.drain(place, out, lasts).await,
            Fault::Loss { place } => self.lose(place).await,
            Fault::Grow { site } => self.grow(site).await,
            Fault::Clock { whose, wrong } => self.misguide(whose, wrong, lasts).await,
            Fault::Kms(trouble) => {
                self.trouble_kms(trouble);
                tokio::time::sleep(lasts).await;
                self.mend_kms();
            }
            Fault::Store(trouble) => self.trouble_stores(trouble, lasts).await,
            Fault::Backup { site, order, killed } => self.back_up(site, order, killed, lasts).await,
            Fault::Rotate(site) => self.rotate(site).await,
            Fault::Order { site, order } => self.order(site, order).await,
            Fault::Upkeep { site, order } => self.upkeep(site, order, lasts).await,
            Fault::Evict { place, device, back } => self.evict(place, device, back, lasts).await,
            Fault::Peer { site, removed } => self.unsettle_peer(site, removed, lasts).await,
            Fault::Failover { site, after_death, force, cut } => {
                self.fail_over(site, after_death, Failover { from: None, log: None, force, cut }, lasts).await;
            }
            Fault::Switchover { site, back, cut } => self.switch_over(site, back, cut, lasts).await,
        }
    }

    /// Ends every fault and starts nodes anew, which takes failed devices back into use. Some worlds spare nodes that are
    /// well: they have to find back by themselves.
    pub async fn make_peace(&self) -> Result<(), String> {
        self.trace().line("peace");
        self.0.network.heal();
        self.0.network.set_weather(Weather::FAIR);
        self.0.kms_troubles.set(1);
        self.mend_kms();
        self.0.network.stores().set_trouble(Trouble::None);
        self.0.clients.borrow().iter().for_each(|client| client.clock.set_wrong_by(0));
        for site in 0..self.sites().len() {
            for (_, node) in self.sites()[site].borrow().present() {
                node.host.clock.set_wrong_by(0);
                for disk in &node.disks {
                    // What was planned and has not struck would strike in peace.
                    disk.clear_faults();
                    disk.release();
                    disk.slow_down(Duration::ZERO);
                }
            }
            if self.0.spares_the_well && self.is_well(site).await {
                continue;
            }
            for place in self.places(site) {
                self.end(place, End::Kill).await;
                let mut there = self.sites()[site].borrow_mut();
                let node = &mut there.nodes[place.node];
                node.unplugged.fill(false);
                if self.0.random.next_u64().is_multiple_of(4) {
                    node.lose_state();
                }
                node.start();
            }
        }
        for site in 0..self.sites().len() {
            self.settle_membership(site).await?;
        }
        self.end_upkeep().await?;
        self.join().await?;
        for site in 0..self.sites().len() {
            let client = self.client(site).await?;
            let other = self.sites()[(site + 1) % self.sites().len()].borrow().name.clone();
            for action in [PeerAction::Resume, PeerAction::Unlimit] {
                let order = Request::SetPeer(SetPeer { name: other.clone(), action });
                client.control(&order).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}
