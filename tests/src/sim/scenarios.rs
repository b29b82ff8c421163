//! Which faults a run draws from, by name: everything at once, or one kind of trouble with what makes it worse.
//!
//! A scenario decides how often each kind of fault is drawn, and what the world is like where that matters. Everything
//! else still follows from the seed.

use super::faults::Kind;
use super::work::Objects;

/// A named mix of faults.
#[derive(Debug)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// How often each kind is drawn, beside the others. Empty: nothing goes wrong.
    pub weights: &'static [(Kind, u64)],
    /// Which objects its worlds have, where that is not left to the seed.
    pub objects: Option<Objects>,
    /// Its sites have several nodes: the near one always, the far one often.
    pub several: bool,
    /// Sites of one node have more devices than fragments of a chunk, so that some may go.
    pub spares: bool,
    /// Logs have a home lease.
    pub leases: bool,
    /// What peers lack is kept for seconds only, and so are old versions.
    pub holds: bool,
    /// Sites have backups made.
    pub backups: Backups,
    /// Its worlds go through every order of a few steps, a seed each.
    pub orders: bool,
}

/// In which worlds sites have backups made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backups {
    /// In none.
    Never,
    /// In every other one.
    Often,
    /// In each, and all that lies there is waited for and judged.
    Always,
}

/// What scenarios have in common.
const PLAIN: Scenario = Scenario {
    name: "",
    about: "",
    weights: &[],
    objects: None,
    several: false,
    spares: false,
    leases: false,
    holds: false,
    backups: Backups::Never,
    orders: false,
};

use Kind::*;

/// Every kind there is for sites of one node.
const EVERYTHING: &[(Kind, u64)] = &[
    (Restart, 24),
    (Blackout, 4),
    (Cut, 12),
    (Clog, 4),
    (Storm, 8),
    (Device, 20),
    (Swap, 4),
    (Slow, 3),
    (Clock, 6),
    (Kms, 4),
    (Peer, 5),
    (Order, 5),
    (Failover, 9),
    (Switchover, 8),
    (Store, 5),
    (Backup, 7),
    (Rotate, 3),
];

/// Every kind there was before backups and keys came in. It stays as it is, so that seeds that found something in such worlds
/// draw the same faults still; when things happen changes with the engine.
const CORE: &[(Kind, u64)] = &[
    (Restart, 24),
    (Blackout, 4),
    (Cut, 12),
    (Clog, 4),
    (Storm, 8),
    (Device, 20),
    (Swap, 4),
    (Slow, 3),
    (Clock, 6),
    (Kms, 4),
    (Peer, 5),
    (Order, 5),
    (Failover, 9),
    (Switchover, 8),
];

/// Every kind there is for sites of several nodes.
const OF_SEVERAL: &[(Kind, u64)] = &[
    (Restart, 24),
    (Blackout, 3),
    (Outage, 3),
    (Cut, 12),
    (Isolate, 10),
    (Clog, 4),
    (Storm, 6),
    (Device, 10),
    (Swap, 3),
    (Slow, 4),
    (Clock, 6),
    (Drain, 6),
    (Loss, 5),
    (Grow, 3),
    (Kms, 2),
    (Store, 2),
    (Backup, 4),
    (Rotate, 2),
    (Peer, 4),
    (Order, 4),
    (Upkeep, 5),
    (Evict, 4),
    (Failover, 6),
    (Switchover, 6),
];

/// All scenarios; the first is the default.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "everything",
        about: "every fault there is",
        weights: EVERYTHING,
        backups: Backups::Often,
        ..PLAIN
    },
    Scenario { name: "core", about: "every fault there is, in worlds without backups", weights: CORE, ..PLAIN },
    Scenario { name: "calm", about: "nothing goes wrong: what the workload alone does", ..PLAIN },
    Scenario {
        name: "power",
        about: "nodes are killed and lose power, alone and together, while devices are slow",
        weights: &[(Restart, 6), (Blackout, 3), (Slow, 1)],
        ..PLAIN
    },
    Scenario {
        name: "network",
        about: "ways are cut, clogged and bad, in both directions or one",
        weights: &[(Cut, 4), (Clog, 2), (Storm, 3), (Restart, 1)],
        ..PLAIN
    },
    Scenario {
        name: "devices",
        about: "devices flip bits, fail, lose writes, go missing and come back as they once were",
        weights: &[(Device, 6), (Swap, 2), (Slow, 1), (Restart, 3)],
        ..PLAIN
    },
    Scenario {
        name: "full",
        about: "objects that fill the devices, while versions are pruned and collected",
        weights: &[(Restart, 3), (Cut, 2), (Slow, 1), (Device, 1), (Peer, 1), (Failover, 1)],
        objects: Some(Objects::Large),
        ..PLAIN
    },
    Scenario {
        name: "snapshots",
        about: "logs that fill up, so that snapshots are made, and nodes that begin from them",
        weights: &[(Restart, 5), (Blackout, 1), (Cut, 2), (Device, 2), (Peer, 1)],
        objects: Some(Objects::Bulky),
        ..PLAIN
    },
    Scenario {
        name: "clocks",
        about: "clocks of sites and clients jump, drift and stand still, while homes move",
        weights: &[(Clock, 6), (Restart, 2), (Failover, 2)],
        ..PLAIN
    },
    Scenario {
        name: "sides",
        about: "homes move again and again while sites die and come back: fencing and what is set aside",
        weights: &[(Failover, 4), (Switchover, 4), (Restart, 3), (Cut, 3), (Clog, 1)],
        ..PLAIN
    },
    Scenario {
        name: "splits",
        about: "the way is cut and heals, both sites take over by force, die and come back, in every order of four steps: a seed\n                each, 1296 of them",
        orders: true,
        ..PLAIN
    },
    Scenario {
        name: "switchover",
        about: "logs are handed over to and fro while ways are cut and nodes die: nothing may be lost by it",
        weights: &[(Switchover, 8), (Restart, 4), (Cut, 4), (Clog, 1), (Storm, 1), (Failover, 1)],
        ..PLAIN
    },
    Scenario {
        name: "keys",
        about: "the tenant's KMS is away, broken, or answers with another key",
        weights: &[(Kms, 5), (Restart, 1), (Failover, 1)],
        ..PLAIN
    },
    Scenario {
        name: "backups",
        about: "sites that make backups at stores that are away, slow, lossy and lie; prunes and verifications that are killed; a \
                site that is made anew of what is there",
        weights: &[
            (Store, 8),
            (Backup, 9),
            (Rotate, 2),
            (Restart, 5),
            (Cut, 2),
            (Device, 2),
            (Slow, 1),
            (Clock, 2),
            (Failover, 1),
        ],
        backups: Backups::Always,
        ..PLAIN
    },
    Scenario {
        name: "administration",
        about: "peers paused, removed and joined; logs, tenants, policies and tokens made; promotions asked for",
        weights: &[(Order, 5), (Peer, 3), (Failover, 1), (Switchover, 2), (Cut, 1), (Restart, 2)],
        ..PLAIN
    },
    Scenario {
        name: "cluster",
        about: "sites of several nodes, and every fault there is for them: nodes join, are drained, are lost for good",
        weights: OF_SEVERAL,
        objects: Some(Objects::Mixed),
        several: true,
        backups: Backups::Often,
        ..PLAIN
    },
    Scenario {
        name: "elections",
        about: "nodes of a site are cut off from one another, deaf, mute, slow and killed: who leads, who only thinks so",
        weights: &[(Isolate, 6), (Cut, 6), (Restart, 5), (Clog, 2), (Slow, 2), (Clock, 2), (Outage, 1), (Storm, 1)],
        objects: Some(Objects::Mixed),
        several: true,
        ..PLAIN
    },
    Scenario {
        name: "membership",
        about: "nodes join, are drained, taken out and lost for good, while others die and are cut off",
        weights: &[(Drain, 5), (Loss, 4), (Grow, 3), (Restart, 4), (Isolate, 2), (Outage, 1)],
        objects: Some(Objects::Mixed),
        several: true,
        ..PLAIN
    },
    Scenario {
        name: "upkeep",
        about: "devices are told to go, scrubbed and shared out anew while they flip bits, fail and come back as they once were",
        weights: &[(Upkeep, 6), (Evict, 6), (Device, 5), (Swap, 2), (Restart, 5), (Slow, 1), (Cut, 1)],
        objects: Some(Objects::Mixed),
        spares: true,
        ..PLAIN
    },
    Scenario {
        name: "geometry",
        about: "chunks are cut another way and back again, at sites of several nodes that die, are cut off, lost and replaced",
        weights: &[(Upkeep, 8), (Restart, 5), (Isolate, 3), (Cut, 3), (Loss, 1), (Drain, 1), (Device, 2), (Swap, 1)],
        objects: Some(Objects::Mixed),
        several: true,
        ..PLAIN
    },
    Scenario {
        name: "seeding",
        about: "what peers lack is kept for seconds only, and they are away for longer: they are given what is there, are new, and take \
                over in the middle",
        weights: &[
            (Peer, 8),
            (Cut, 6),
            (Failover, 6),
            (Restart, 4),
            (Switchover, 3),
            (Blackout, 2),
            (Clog, 1),
            (Device, 1),
            (Clock, 2),
            (Order, 1),
        ],
        objects: Some(Objects::Mixed),
        holds: true,
        ..PLAIN
    },
    Scenario {
        name: "leases",
        about: "logs with a home lease, and failovers that are not forced while homes are cut off, hang and come back: never two \
                homes that acknowledge",
        weights: &[
            (Failover, 6),
            (Switchover, 2),
            (Cut, 6),
            (Restart, 4),
            (Isolate, 2),
            (Clog, 2),
            (Order, 2),
            (Clock, 2),
        ],
        objects: Some(Objects::Mixed),
        several: true,
        leases: true,
        ..PLAIN
    },
    // What the simulator found in our own code, as the trouble that brings it out. Each has a planted bug that puts the
    // mistake back, so that it stays known how soon it would be found again.
    Scenario {
        name: "decayed-state-file",
        about: "found (planted 23): a state file whose bookkeeping had decayed was opened, and its groups stopped at the \
                first commit, or never caught up",
        weights: &[(Decay, 3), (Restart, 1)],
        ..PLAIN
    },
    Scenario {
        name: "promotion-overtaken",
        about: "found (planted 21): a failover gave the position at which it was weighed, not the one at which the \
                generation began",
        weights: &[(Failover, 1)],
        ..PLAIN
    },
    Scenario {
        name: "promoted-not-handed-over",
        about: "found: a switchover whose home was fenced under it told of the generation that a failover had begun as its own, \
                and could not say what was lost, though the log could",
        weights: &[(Failover, 3), (Switchover, 3)],
        ..PLAIN
    },
    Scenario {
        name: "dead-node-kept",
        about: "found (planted 52): a dead node kept its seat in groups for want of another node, and could never be taken out",
        weights: &[(Loss, 1)],
        objects: Some(Objects::Mixed),
        several: true,
        ..PLAIN
    },
    Scenario {
        name: "lost-chunk",
        about: "found (planted 61): a node was lost while another one was away, and with them too much of a chunk; nobody \
                asked the peer, which had it, and the node could never be taken out",
        weights: &[(Loss, 4), (Restart, 6), (Isolate, 3)],
        objects: Some(Objects::Mixed),
        several: true,
        ..PLAIN
    },
];

/// The one with this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// The default.
pub fn everything() -> &'static Scenario {
    &SCENARIOS[0]
}
