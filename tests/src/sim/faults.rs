//! What goes wrong, when, drawn from the seed; and how each thing is done and undone.
//!
//! Damage to devices stays within what the world may ask of the engine: at each site only `m` chosen devices, the
//! victims, are ever harmed, since nothing repairs a site of one node yet.

use super::network::Weather;
use super::scenarios::Scenario;
use super::site::End;
use super::world::World;
use farside_io::entropy::SeededEntropy;
use farside_io::sim::{Fault as DiskFault, Operation, SimDisk, SimFaults};
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

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A node ends and comes back.
    Restart {
        /// The site.
        site: usize,
        /// How it ends.
        how: End,
        /// Its state files are gone, or damaged, when it comes back.
        state: State,
    },
    /// Every node loses power at once.
    Blackout,
    /// Nothing passes between two hosts, or only one way.
    Cut {
        /// From this site.
        from: usize,
        /// To this one.
        to: usize,
        /// Nor back.
        both: bool,
    },
    /// What a site sends is held back and arrives later in any order.
    Clog {
        /// The site.
        from: usize,
        /// To this one.
        to: usize,
    },
    /// The network gets worse.
    Storm(Weather),
    /// A victim is harmed.
    Device {
        /// The site.
        site: usize,
        /// Which of its victims.
        victim: usize,
        /// How.
        harm: Harm,
    },
    /// A victim is not there at the next start, or an old copy of it is.
    Swap {
        /// The site.
        site: usize,
        /// Which of its victims.
        victim: usize,
        /// An old copy, instead of nothing.
        old_copy: bool,
    },
    /// Every device of a site takes its time.
    Slow {
        /// The site.
        site: usize,
        /// Up to so much for each operation.
        longest: Duration,
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
    /// A site is told to take over.
    Failover {
        /// The site.
        site: usize,
        /// Its peer has died just before.
        after_death: bool,
        /// Even if it does not know what that loses.
        force: bool,
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
    Cut,
    Clog,
    Storm,
    Device,
    Swap,
    Slow,
    Clock,
    Kms,
    Peer,
    Order,
    Failover,
    Switchover,
}

/// Whose clock.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// A site's.
    Site(usize),
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
    /// Everything that can be listed.
    Lists,
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

fn below(random: &SeededEntropy, bound: u64) -> u64 {
    random.next_u64() % bound.max(1)
}

/// What faults are drawn for.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// Sites.
    pub sites: u64,
    /// Devices of each that may be harmed.
    pub victims: u64,
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

fn draw(random: &SeededEntropy, kind: Kind, Targets { sites, victims, clients }: Targets) -> Fault {
    let pick = |count: u64| below(random, count);
    let site = pick(sites) as usize;
    let other = (site + 1) % sites as usize;
    let victim = pick(victims) as usize;
    let how = if pick(2) == 0 { End::Kill } else { End::PowerCut };
    match kind {
        Kind::Restart => {
            let state = match pick(6) {
                0 => State::Lost,
                1 => State::Flipped,
                _ => State::Kept,
            };
            Fault::Restart { site, how, state }
        }
        Kind::Decay => Fault::Restart { site, how, state: if pick(4) == 0 { State::Lost } else { State::Flipped } },
        Kind::Blackout => Fault::Blackout,
        Kind::Cut => Fault::Cut { from: site, to: other, both: pick(2) == 0 },
        Kind::Clog => Fault::Clog { from: site, to: other },
        Kind::Storm => Fault::Storm(storm(random)),
        Kind::Device => Fault::Device { site, victim, harm: harm(random) },
        Kind::Swap => Fault::Swap { site, victim, old_copy: pick(2) == 0 },
        Kind::Slow => Fault::Slow { site, longest: Duration::from_millis(1 + pick(40)) },
        Kind::Clock => {
            let whose = match pick(3) {
                0 => Whose::Client(pick(clients) as usize),
                _ => Whose::Site(site),
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
        Kind::Peer => Fault::Peer { site, removed: pick(3) == 0 },
        Kind::Order => {
            let order = match pick(5) {
                0 => Order::Policy,
                1 => Order::Log,
                2 => Order::Tenant,
                3 => Order::Token,
                _ => Order::Lists,
            };
            Fault::Order { site, order }
        }
        Kind::Switchover => Fault::Switchover {
            site,
            back: pick(4) == 0,
            // With a round trip of some milliseconds, most of them while something is under way.
            cut: (pick(3) == 0).then(|| Duration::from_micros(pick(60_000))),
        },
        Kind::Failover => Fault::Failover { site, after_death: pick(3) > 0, force: pick(4) > 0 },
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

/// Harms a device on which chunks begin at these places.
pub fn harm_device(disk: &SimDisk, harm: Harm, random: &SeededEntropy, chunks_at: &[u64]) {
    let failing = DiskFault::Fail { errno: libc::EIO };
    let soon = below(random, 8);
    // What is far behind on a device was hardly ever written to; chunks fill it from the front.
    let place = || match below(random, 2) {
        0 => below(random, 48 << 20),
        _ => chunks_at[below(random, chunks_at.len() as u64) as usize] + below(random, 3 << 20),
    };
    match harm {
        Harm::Flip => {
            let from = place();
            disk.flip(from..from + (1 << 20), 1 + below(random, 64) as u32);
        }
        Harm::Rates => disk.set_faults(SimFaults {
            read_failures_ppm: below(random, 50_000) as u32,
            read_flips_ppm: below(random, 50_000) as u32,
            write_failures_ppm: below(random, 500) as u32,
            write_losses_ppm: below(random, 5_000) as u32,
            write_misdirects_ppm: below(random, 2_000) as u32,
            write_flips_ppm: below(random, 5_000) as u32,
            sync_failures_ppm: below(random, 500) as u32,
            max_extra_yields: 3,
        }),
        Harm::WriteFails => disk.inject(Operation::Write, soon, failing),
        Harm::WriteFull => (0..1 + below(random, 4)).for_each(|_| disk.inject(Operation::Write, soon, DiskFault::Full)),
        Harm::SyncFails => disk.inject(Operation::Sync, soon, failing),
        Harm::WriteLost => disk.inject(Operation::Write, soon, DiskFault::Lose),
        Harm::WriteMisdirected => {
            disk.inject(Operation::Write, soon, DiskFault::Misdirect { to: place() });
        }
        Harm::Stall => disk.stall(),
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
            site.disks[below(random, 1 + site.geometry.parity() as u64) as usize].clone()
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
