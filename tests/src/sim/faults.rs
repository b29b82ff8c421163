//! What goes wrong, when, drawn from the seed; and how each thing is done and undone.
//!
//! Damage to devices stays within what the world may ask of the engine: at each site only `m` chosen devices, the
//! victims, are ever harmed, at a site of several nodes one of each of `m` nodes. A site of which a node may be lost for good
//! has no victims.

use super::network::Weather;
use super::node::End;
use super::scenarios::Scenario;
use super::store::Trouble;
use super::world::World;
use farside_io::entropy::SeededEntropy;
use farside_io::sim::{Fault as DiskFault, Operation};
use std::time::Duration;

/// How a device is harmed.
#[derive(Debug, Clone, Copy)]
pub enum Harm {
    /// Bits flip where it lies still.
    Flip,
    /// Operations go wrong at a rate.
    Rates,
    /// One write fails.
    WriteFails,
    /// A few writes find no space, as on a file system that is full.
    WriteFull,
    /// One flush fails, after which the device is out of use.
    SyncFails,
    /// A write is answered and never stored.
    WriteLost,
    /// A write goes elsewhere.
    WriteMisdirected,
    /// Nothing is answered for a while.
    Stall,
}

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its site.
    pub site: usize,
    /// Which of the site's nodes.
    pub node: usize,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A node ends and comes back.
    Restart {
        /// The node.
        place: Place,
        /// How it ends.
        how: End,
        /// Its state files are gone, or damaged, when it comes back.
        state: State,
    },
    /// Every node loses power at once.
    Blackout,
    /// Every node of a site does.
    Outage {
        /// The site.
        site: usize,
    },
    /// Nothing passes between two nodes, or only one way.
    Cut {
        /// From this one.
        from: Place,
        /// To this one.
        to: Place,
        /// Nor back.
        both: bool,
    },
    /// Nothing passes between a node and all others, or only one way.
    Isolate {
        /// The node.
        place: Place,
        /// Nothing comes in.
        deaf: bool,
        /// Nothing gets out.
        mute: bool,
    },
    /// What a node sends is held back and arrives later in any order.
    Clog {
        /// The node.
        from: Place,
        /// To this one.
        to: Place,
    },
    /// The network gets worse.
    Storm(Weather),
    /// A victim is harmed.
    Device {
        /// The node.
        place: Place,
        /// Which of its devices.
        device: usize,
        /// How.
        harm: Harm,
    },
    /// A victim is not there at the next start, or an old copy of it is.
    Swap {
        /// The node.
        place: Place,
        /// Which of its devices.
        device: usize,
        /// An old copy, instead of nothing.
        old_copy: bool,
    },
    /// Every device of a node takes its time.
    Slow {
        /// The node.
        place: Place,
        /// Up to so much for each operation.
        longest: Duration,
    },
    /// A node is drained. It is taken back later, or out for good once it is empty, and another one joins.
    Drain {
        /// The node.
        place: Place,
        /// It is taken out, if it is empty in time.
        out: bool,
    },
    /// A node is lost for good, with everything that it had, and another one joins in its place.
    Loss {
        /// The node.
        place: Place,
    },
    /// Another node joins.
    Grow {
        /// The site.
        site: usize,
    },
    /// A wall clock goes wrong.
    Clock {
        /// Whose.
        whose: Whose,
        /// How.
        wrong: Wrong,
    },
    /// The tenants' KMS does not do what it should for a while.
    Kms(Kms),
    /// The stores of backups do not do what they should for a while.
    Store(Trouble),
    /// An administrator makes, prunes or verifies backups.
    Backup {
        /// Of this site.
        site: usize,
        /// What is done.
        order: Backup,
        /// The command is killed when its time is over.
        killed: bool,
    },
    /// The tenant's key is replaced by another one, as is ordered at this site.
    Rotate(usize),
    /// A peer is paused, or removed, and is back later.
    Peer {
        /// At this site.
        site: usize,
        /// Removed and joined again, instead of paused and resumed.
        removed: bool,
    },
    /// An administrator does something that should disturb nobody.
    Order {
        /// At this site.
        site: usize,
        /// What.
        order: Order,
    },
    /// An administrator has something done to what lies on devices.
    Upkeep {
        /// At this site.
        site: usize,
        /// What.
        order: Upkeep,
    },
    /// A device is told to go.
    Evict {
        /// The node.
        place: Place,
        /// Which of its devices, counted on from the first again behind the last.
        device: usize,
        /// It is taken back later.
        back: bool,
    },
    /// A site is told to take over.
    Failover {
        /// The site.
        site: usize,
        /// Its peer has died just before.
        after_death: bool,
        /// Even if it does not know what that loses.
        force: bool,
        /// To what all logs were at one time.
        cut: bool,
    },
    /// A site is told to hand its logs over to the other one.
    Switchover {
        /// The site.
        site: usize,
        /// Only where that one was home before.
        back: bool,
        /// The way between them is cut so soon after the order.
        cut: Option<Duration>,
    },
}

/// The kinds of faults, as scenarios weigh them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the fault of the same name")]
pub enum Kind {
    Restart,
    /// [`Fault::Restart`], with a state file that was damaged or lost meanwhile.
    Decay,
    Blackout,
    Outage,
    Cut,
    Isolate,
    Clog,
    Storm,
    Device,
    Swap,
    Slow,
    Drain,
    Loss,
    Grow,
    Clock,
    Kms,
    Store,
    Backup,
    Rotate,
    Peer,
    Order,
    Upkeep,
    Evict,
    Failover,
    Switchover,
}

/// Whose clock.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// A node's.
    Node(Place),
    /// A client's.
    Client(usize),
}

/// What a clock does.
#[derive(Debug, Clone, Copy)]
pub enum Wrong {
    /// It jumps, by so many milliseconds.
    Jump(i64),
    /// It goes at another pace, in millionths.
    Drift(u64),
    /// It stands still.
    Frozen,
}

/// What a KMS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kms {
    /// It can't be reached.
    Away,
    /// It answers with another key.
    Lies,
    /// What it has is damaged.
    Damaged,
}

/// What an administrator does.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Another lag bound for a log.
    Policy,
    /// A log that nobody writes to.
    Log,
    /// A tenant without logs.
    Tenant,
    /// A token that nobody joins with.
    Token,
    /// The peer is sent little for some time, whatever the hour.
    Limit,
    /// Everything that can be listed.
    Lists,
}

/// What an administrator has done to what lies on devices.
#[derive(Debug, Clone, Copy)]
pub enum Upkeep {
    /// Everything is read again, in this part of a shard's time in percent.
    Scrub(u8),
    /// What lies elsewhere than it should is moved.
    Rebalance {
        /// It stays where it is, later on.
        cancel: bool,
    },
    /// Repair may read and write so many bytes a second for a while.
    Limit(u64),
    /// Chunks are cut another way, with as many parity fragments.
    Geometry {
        /// Which of the ways there are, counted on from the first again behind the last.
        number: usize,
        /// As they were again, later on.
        back: bool,
    },
}

/// What an administrator does about backups.
#[derive(Debug, Clone, Copy)]
pub enum Backup {
    /// Makes one.
    Now,
    /// Takes away all but the newest ones.
    Prune {
        /// So many stay.
        keep: usize,
        /// What nothing needs stays for so long.
        grace: Duration,
    },
    /// Reads all of them again.
    Verify,
}

/// What becomes of a node's state files, which are a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They stay.
    Kept,
    /// They are gone.
    Lost,
    /// A byte flips.
    Flipped,
}

/// A fault, when it begins and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    /// Since the beginning.
    pub at: Duration,
    /// Until it is undone.
    pub lasts: Duration,
    /// The fault.
    pub fault: Fault,
}

pub(super) fn below(random: &SeededEntropy, bound: u64) -> u64 {
    random.next_u64() % bound.max(1)
}

/// What faults are drawn for.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// Nodes of each site, when it begins.
    pub nodes: [u64; 2],
    /// Devices of each site that may be harmed.
    pub victims: [u64; 2],
    /// Clients.
    pub clients: u64,
}

/// Draws `count` faults within `span`, in order.
pub fn plan(random: &SeededEntropy, scenario: &Scenario, count: u64, span: Duration, targets: Targets) -> Vec<Planned> {
    let mut plan: Vec<Planned> = (0..count)
        .filter_map(|_| {
            let at = span.mul_f64(below(random, 1000) as f64 / 1000.0);
            let lasts = Duration::from_millis(50 + below(random, 1 << (8 + below(random, 6))));
            let fault = draw(random, draw_kind(random, scenario)?, targets);
            Some(Planned { at, lasts, fault })
        })
        .collect();
    plan.sort_by_key(|planned| planned.at);
    plan
}

/// Of several nodes each has the write-ahead log on another device as well, so this one may be harmed.
pub const VICTIM_OF_SEVERAL: usize = 1;

fn draw_kind(random: &SeededEntropy, scenario: &Scenario) -> Option<Kind> {
    let mut left = below(random, scenario.weights.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in scenario.weights {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return Some(*kind),
        }
    }
    None
}

fn draw(random: &SeededEntropy, kind: Kind, Targets { nodes, victims, clients }: Targets) -> Fault {
    let pick = |count: u64| below(random, count);
    let site = pick(nodes.len() as u64) as usize;
    let other = (site + 1) % nodes.len();
    let victim = pick(victims[site]) as usize;
    let how = if pick(2) == 0 { End::Kill } else { End::PowerCut };
    // Nothing is drawn where there is one node only.
    let node_of = |site: usize| if nodes[site] > 1 { pick(nodes[site]) as usize } else { 0 };
    let place = Place { site, node: node_of(site) };
    let (struck, device) = match nodes[site] > 1 {
        true => (Place { site, node: victim }, VICTIM_OF_SEVERAL),
        false => (place, victim),
    };
    let elsewhere = || match nodes[site] > 1 && pick(2) == 0 {
        // Another one of the same site.
        true => Place { site, node: (place.node + 1 + pick(nodes[site] - 1) as usize) % nodes[site] as usize },
        false => Place { site: other, node: node_of(other) },
    };
    match kind {
        // Where nothing may be harmed.
        Kind::Device | Kind::Swap if victims[site] == 0 => Fault::Restart { place, how, state: State::Kept },
        Kind::Restart => {
            let state = match pick(6) {
                0 => State::Lost,
                1 => State::Flipped,
                _ => State::Kept,
            };
            Fault::Restart { place, how, state }
        }
        Kind::Decay => Fault::Restart { place, how, state: if pick(4) == 0 { State::Lost } else { State::Flipped } },
        Kind::Blackout => Fault::Blackout,
        Kind::Outage => Fault::Outage { site },
        Kind::Cut => Fault::Cut { from: place, to: elsewhere(), both: pick(2) == 0 },
        Kind::Isolate => {
            let (deaf, mute) = [(true, true), (true, true), (true, false), (false, true)][pick(4) as usize];
            Fault::Isolate { place, deaf, mute }
        }
        Kind::Clog => Fault::Clog { from: place, to: elsewhere() },
        Kind::Storm => Fault::Storm(storm(random)),
        Kind::Device => Fault::Device { place: struck, device, harm: harm(random) },
        Kind::Swap => Fault::Swap { place: struck, device, old_copy: pick(2) == 0 },
        Kind::Slow => Fault::Slow { place, longest: Duration::from_millis(1 + pick(40)) },
        Kind::Drain => Fault::Drain { place, out: pick(2) == 0 },
        Kind::Loss => Fault::Loss { place },
        Kind::Grow => Fault::Grow { site },
        Kind::Clock => {
            let whose = match pick(3) {
                0 => Whose::Client(pick(clients) as usize),
                _ => Whose::Node(place),
            };
            // Forward only as far as other machines still believe; a clock that lags may lag by hours.
            let wrong = match pick(6) {
                0 | 1 => Wrong::Jump(pick(50_000) as i64),
                2 | 3 => Wrong::Jump(-(pick(7_200_000) as i64)),
                4 => Wrong::Drift(500_000 + pick(1_000_000)),
                _ => Wrong::Frozen,
            };
            Fault::Clock { whose, wrong }
        }
        Kind::Kms => Fault::Kms(match pick(3) {
            0 => Kms::Away,
            1 => Kms::Lies,
            _ => Kms::Damaged,
        }),
        Kind::Store => Fault::Store(trouble(random)),
        Kind::Backup => {
            let order = match pick(5) {
                0 | 1 => Backup::Now,
                2 | 3 => Backup::Prune { keep: 1 + pick(3) as usize, grace: Duration::from_secs(15 + pick(15)) },
                _ => Backup::Verify,
            };
            Fault::Backup { site, order, killed: pick(3) == 0 }
        }
        Kind::Rotate => Fault::Rotate(site),
        Kind::Peer => Fault::Peer { site, removed: pick(3) == 0 },
        Kind::Order => {
            let order = match pick(6) {
                0 => Order::Policy,
                1 => Order::Log,
                2 => Order::Tenant,
                3 => Order::Token,
                4 => Order::Limit,
                _ => Order::Lists,
            };
            Fault::Order { site, order }
        }
        Kind::Upkeep => {
            let order = match pick(5) {
                0 => Upkeep::Scrub(1 + pick(100) as u8),
                1 => Upkeep::Rebalance { cancel: pick(2) == 0 },
                2 | 3 => Upkeep::Geometry { number: pick(64) as usize, back: pick(3) == 0 },
                _ => Upkeep::Limit(10_000 << pick(10)),
            };
            Fault::Upkeep { site, order }
        }
        Kind::Evict => Fault::Evict { place, device: pick(64) as usize, back: pick(3) == 0 },
        Kind::Switchover => Fault::Switchover {
            site,
            back: pick(4) == 0,
            // With a round trip of some milliseconds, most of them while something is under way.
            cut: (pick(3) == 0).then(|| Duration::from_micros(pick(60_000))),
        },
        Kind::Failover => {
            // Drawn out of what was drawn before there were cuts, so that seeds that found something draw the same faults still.
            let forced = pick(4);
            Fault::Failover { site, after_death: pick(3) > 0, force: forced > 0, cut: forced == 2 }
        }
    }
}

fn storm(random: &SeededEntropy) -> Weather {
    let delay_min = Duration::from_micros(100 + below(random, 40_000));
    Weather {
        delay_min,
        delay_max: delay_min + Duration::from_micros(below(random, 30_000)),
        loss_ppm: below(random, 60_000),
        double_ppm: below(random, 20_000),
        damage_ppm: below(random, 20_000),
    }
}

fn trouble(random: &SeededEntropy) -> Trouble {
    let percent = |most: u64| 1 + below(random, most) as u8;
    match below(random, 5) {
        0 => Trouble::Away,
        1 => Trouble::Refusing(percent(40)),
        2 => Trouble::Lossy(percent(30)),
        3 => Trouble::Slow(Duration::from_millis(50 + below(random, 500))),
        _ => Trouble::Lying(percent(10)),
    }
}

fn harm(random: &SeededEntropy) -> Harm {
    match below(random, 9) {
        0 | 1 => Harm::Flip,
        7 => Harm::WriteFull,
        2 => Harm::Rates,
        3 => Harm::WriteFails,
        4 => Harm::SyncFails,
        5 => Harm::WriteLost,
        6 => Harm::WriteMisdirected,
        _ => Harm::Stall,
    }
}

/// Makes flushes take time, on any device, as long as the workload goes on: without this none would ever be under way when
/// a node ends, and whoever answers before a flush would never be found out.
pub async fn slow_flushes(world: World) {
    let random = world.random();
    while !world.shared().over.get() {
        tokio::time::sleep(Duration::from_millis(20 + below(random, 200))).await;
        let site = &world.sites()[below(random, world.sites().len() as u64) as usize];
        let disk = {
            // Those that carry the write-ahead log are flushed all the time; on others delays would pile up.
            let site = site.borrow();
            let node = match site.nodes.len() {
                1 => &site.nodes[0],
                several => &site.nodes[below(random, several as u64) as usize],
            };
            let carry = node.disks.len().min(1 + site.plan.geometry.parity());
            if carry == 0 {
                continue;
            }
            node.disks[below(random, carry as u64) as usize].clone()
        };
        let delay = Duration::from_millis(1 + below(random, 1 << (4 + below(random, 6))));
        disk.inject(Operation::Sync, below(random, 2), DiskFault::Delay(delay));
    }
}

/// Does what is planned, when it is due, and undoes it.
pub async fn run(world: &World, plan: Vec<Planned>) {
    let begun = tokio::time::Instant::now();
    let mut under_way = Vec::new();
    for planned in plan {
        tokio::time::sleep_until(begun + planned.at).await;
        let world = world.clone();
        under_way.push(tokio::task::spawn_local(async move {
            world.trace().line(format!("fault: {:?}, for {} ms", planned.fault, planned.lasts.as_millis()));
            world.apply(planned).await;
        }));
    }
    for one in under_way {
        if let Err(error) = one.await {
            world.violations().add(format!("a fault could not be carried out: {error}"));
        }
    }
}
