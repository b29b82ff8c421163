//! What is said about changing sides: failover, switchover, how a log stands.

use crate::delta::{Cursor, Generation, Lineage, LogDescriptor};
use crate::ids::{Hlc, Label, LogId, SiteId};
use crate::record;
use crate::refusal::Refusal;

record!(
    /// Orders a failover at the surviving site.
    Failover {
        /// Only logs whose home is this site.
        from: Option<Label>,
        /// Only this log.
        log: Option<LogId>,
        /// Go on although preflight says no.
        force: bool,
        /// To a consistent cut across the logs: each is promoted as it was at one time, and what came later is set aside.
        /// Otherwise each to the latest that is here.
        cut: bool,
    }
);
record!(
    /// Asks what a failover would do now, and does nothing.
    Weigh {
        /// Only logs whose home is this site.
        from: Option<Label>,
        /// Only this log.
        log: Option<LogId>,
    }
);
record!(
    /// What a failover would find.
    Weighed {
        /// Log by log: where it stands here, and what promoting it now would lose. No generation is new.
        logs: Vec<FailedOver>,
        /// The old home answers.
        home_answers: bool,
        /// What speaks against it beside that.
        objections: Vec<String>,
        /// Milliseconds that its commits took just now, each of them once for each log.
        commits_ms: u64,
        /// Where a failover to a cut would cut: what the logs had up to then is here of each of them.
        cut: Option<Hlc>,
    }
);
record!(
    /// Orders that logs whose home is here get another home, with nothing lost.
    Switchover {
        /// The next home.
        to: Label,
        /// Only this log.
        log: Option<LogId>,
        /// Only where that site was home before.
        back: bool,
    }
);
record!(
    /// How far behind the next home is with a log.
    LogBehind {
        /// The tenant's name.
        tenant_name: Label,
        /// The log's name.
        name: Label,
        /// Deltas that it has not made durable.
        deltas: u64,
        /// Their bytes and their chunks'.
        bytes: u64,
        /// The last delta of the old generation, once that is committed: until it has arrived no site takes writes.
        in_transit: Option<Cursor>,
    }
);
record!(
    /// Why a log was not moved.
    LogRefused {
        /// The tenant's name.
        tenant_name: Label,
        /// The log's name.
        name: Label,
        /// Why.
        refusal: Refusal,
    }
);
record!(
    /// What a switchover did. Ordered again it goes on with what is left.
    SwitchedOver {
        /// Logs that have the new home.
        moved: Vec<FailedOver>,
        /// Logs that it was too far behind with, which are home here still, and logs that are in transit.
        left: Vec<LogBehind>,
        /// Logs that were not moved for another reason, and which.
        refused: Vec<LogRefused>,
        /// Milliseconds in which a log took no writes, at most.
        stalled_ms: u64,
    }
);
record!(
    /// What a change of home did to one log.
    FailedOver {
        /// The tenant's name.
        tenant_name: Label,
        /// The log's name.
        name: Label,
        /// Its new generation.
        generation: Generation,
        /// Last sequence that survived from the old home.
        position: u64,
        /// Deltas known to be lost; `None`: the old home's head was never heard.
        lost_deltas: Option<u64>,
        /// Seconds of writes known to be lost, in milliseconds.
        lost_ms: Option<u64>,
        /// Deltas among those that are here, set aside, because they came after the point from which the log goes on.
        set_aside: u64,
    }
);
record!(
    /// What a failover did.
    FailoverReport {
        /// Log by log.
        logs: Vec<FailedOver>,
        /// Logs that an earlier order had promoted.
        before: Vec<FailedOver>,
        /// Logs that were not promoted, and why.
        refused: Vec<LogRefused>,
        /// The cut, where one was asked for.
        cut: Option<Hlc>,
        /// Milliseconds from the order to the last log accepting writes.
        rto_ms: u64,
        /// The old home answered that it is fenced, so that the losses are final; otherwise they may grow.
        fenced: bool,
    }
);
record!(
    /// How a log stands at a site, as the leader of its group knows.
    LogStanding {
        /// What it is.
        descriptor: LogDescriptor,
        /// Its lineage here.
        lineage: Lineage,
        /// The highest generation known here.
        known: Generation,
        /// Its head here.
        head: Cursor,
        /// Time of the head.
        head_time: Hlc,
        /// The home's head and its time, as they were heard last.
        heard: Option<(Cursor, Hlc)>,
        /// Peers that have said how far they are.
        peers: Vec<PeerStanding>,
        /// For so many milliseconds this site has promised not to take over, and how often it has; `None`: it has promised the
        /// log's home nothing.
        lease: Option<(u64, u64)>,
        /// While this copy takes in what its home has pruned: up to where it is an exact one, and the time of that.
        whole: Option<(Cursor, Hlc)>,
        /// This copy has everything that was placed up to this time.
        closed: Hlc,
        /// All that was pruned here was replaced at or before this sequence.
        floor: u64,
        /// The last sequence placed at or before the time that was asked for, and its own time.
        at: Option<(u64, Hlc)>,
        /// The last sequence before its newest generation, and its time.
        begun: Option<(u64, Hlc)>,
    }
);
record!(
    /// Asks how a log stands at a site.
    StandingQuestion {
        /// The log.
        log: LogId,
        /// And where it stood at a time.
        at: Option<Hlc>,
    }
);
record!(
    /// How far a peer is with a log that is sent to it.
    PeerStanding {
        /// The peer.
        site: SiteId,
        /// It has acknowledged the head.
        caught_up: bool,
        /// Deltas that it has not made durable.
        deltas: u64,
        /// Their bytes and their chunks'.
        bytes: u64,
    }
);
