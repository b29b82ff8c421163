//! Whether this site may promote itself, and what would be lost. A verdict is a value; the driver carries it out.

use farside_codec::delta::Cursor;
use farside_codec::ids::{Hlc, Label};
use std::time::Duration;

/// What this site knows of one log that it holds a copy of.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Tenant and log name.
    pub name: (Label, Label),
    /// This copy's head.
    pub head: Cursor,
    /// Time of this copy's head.
    pub head_time: Hlc,
    /// Where it is no exact copy up to its head: up to where it is, and the time of that. Sequence 0: nowhere.
    pub whole: Option<(Cursor, Hlc)>,
    /// Up to this time this copy has everything that was placed; `None`: it is no exact copy of any time.
    pub complete_to: Option<Hlc>,
    /// All that was pruned here was replaced at or before this sequence.
    pub floor: u64,
    /// The last sequence up to the time of a cut, where it is promoted as it was then, and the time of that.
    pub cut: Option<(u64, Hlc)>,
    /// The log's home sends it here, as far as its policy is known.
    pub is_sent_here: bool,
    /// The home's head as it was last heard, and its time.
    pub heard: Option<(Cursor, Hlc)>,
    /// What this site has promised the home.
    pub promise: Promise,
}

/// A promise not to take over, which a home with a lease needs for everything that it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The log has no lease.
    None,
    /// It has one, and this home has never had a promise of this site: it goes on without.
    Missing,
    /// It is in force for so long.
    Runs(Duration),
    /// It is over, and so may be that of another peer, of which this site knows nothing.
    Shared,
    /// It is over: the home acknowledges nothing any more.
    Kept,
}

/// What the failover of one log costs, as far as this site can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Deltas that the home had placed and that never came here; `None` when the home's head was never heard.
    pub deltas: Option<u64>,
    /// Milliseconds of writes among them.
    pub ms: Option<u64>,
}

impl Loss {
    /// What is lost of a log that goes on from a point, where its home was heard to have come so far.
    pub fn since((sequence, time): (u64, Hlc), (home, home_time): &(Cursor, Hlc)) -> Self {
        let ms = if home.sequence > sequence { home_time.ms().saturating_sub(time.ms()) } else { 0 };
        Self { deltas: Some(home.sequence.saturating_sub(sequence)), ms: Some(ms) }
    }
}

impl Candidate {
    /// From where it would go on, and the time of that: from its head, or from the last point at which it is an exact copy, or
    /// from a cut before either.
    pub fn point(&self) -> (u64, Hlc) {
        let latest = match &self.whole {
            Some((whole, time)) if whole.sequence > 0 => (whole.sequence, *time),
            _ => (self.head.sequence, self.head_time),
        };
        self.cut.map_or(latest, |cut| cut.min(latest))
    }

    /// What promoting this copy loses.
    pub fn loss(&self) -> Loss {
        // What this copy has is not what there was at any time, so how much is missing can't be said.
        let is_exact = self.whole.as_ref().is_none_or(|(whole, _)| whole.sequence > 0);
        match &self.heard {
            Some(heard) if is_exact => Loss::since(self.point(), heard),
            _ => Loss { deltas: None, ms: None },
        }
    }
}

/// What was found out about the old home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldHome {
    /// It answers, so it may be acknowledging writes.
    Answers,
    /// It answers nothing.
    Silent,
}

/// Why a failover is refused without `--force`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// The old home is alive.
    HomeAnswers,
    /// This copy never heard where the home's head stands, so the loss is unknown.
    LossUnknown {
        /// The log.
        log: (Label, Label),
    },
    /// The copy is still being made, and there is no point at which it is an exact one.
    NotExact {
        /// The log.
        log: (Label, Label),
    },
    /// What it was at the cut is not all kept.
    CutPruned {
        /// The log.
        log: (Label, Label),
    },
    /// The log is not sent here any more, so that the copy is of a while ago, and others have newer ones.
    NotSentHere {
        /// The log.
        log: (Label, Label),
    },
    /// This site has promised the home not to take over.
    LeaseRuns {
        /// The log.
        log: (Label, Label),
        /// For so long.
        left: Duration,
    },
    /// Another site may take over as well.
    LeaseShared {
        /// The log.
        log: (Label, Label),
    },
    /// The log has a lease of which this site has no part: its home may be acknowledging writes.
    NoPromise {
        /// The log.
        log: (Label, Label),
    },
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HomeAnswers => f.write_str("the old home still answers and may be acknowledging writes"),
            Self::LossUnknown { log: (tenant, name) } => {
                write!(
                    f,
                    "how much of {tenant}/{name} would be lost is unknown: what its home has written was never heard here"
                )
            }
            Self::NotExact { log: (tenant, name) } => {
                write!(
                    f,
                    "the copy of {tenant}/{name} is still being made: objects are missing, or have older versions than they had at any one time"
                )
            }
            Self::CutPruned { log: (tenant, name) } => {
                write!(
                    f,
                    "versions that {tenant}/{name} had at the cut have been pruned: promote it to the latest, by itself"
                )
            }
            Self::NotSentHere { log: (tenant, name) } => {
                write!(f, "{tenant}/{name} is not sent here any more (farside log replicate): others have newer copies")
            }
            Self::LeaseRuns { log: (tenant, name), left } => {
                let seconds = left.as_secs_f64().ceil();
                write!(f, "{tenant}/{name} has a home lease that runs for {seconds} s more: try again after that")
            }
            Self::LeaseShared { log: (tenant, name) } => {
                write!(f, "{tenant}/{name} has a home lease, and with several peers another one may take over as well")
            }
            Self::NoPromise { log: (tenant, name) } => {
                write!(
                    f,
                    "{tenant}/{name} has a home lease of which this site has no part, so it says nothing of its home"
                )
            }
        }
    }
}

/// What speaks against promoting these copies. Empty: go.
pub fn preflight(home: OldHome, candidates: &[Candidate]) -> Vec<Objection> {
    let answers = (home == OldHome::Answers).then_some(Objection::HomeAnswers);
    let unknown = candidates.iter().filter(|candidate| candidate.heard.is_none());
    let unknown = unknown.map(|candidate| Objection::LossUnknown { log: candidate.name.clone() });
    let promised = candidates.iter().filter_map(|candidate| match candidate.promise {
        Promise::Runs(left) => Some(Objection::LeaseRuns { log: candidate.name.clone(), left }),
        Promise::Shared => Some(Objection::LeaseShared { log: candidate.name.clone() }),
        Promise::Missing => Some(Objection::NoPromise { log: candidate.name.clone() }),
        Promise::None | Promise::Kept => None,
    });
    let inexact =
        candidates.iter().filter(|candidate| candidate.whole.as_ref().is_some_and(|(whole, _)| whole.sequence == 0));
    let inexact = inexact.map(|candidate| Objection::NotExact { log: candidate.name.clone() });
    let pruned = |candidate: &&Candidate| candidate.cut.is_some() && candidate.point().0 < candidate.floor;
    let pruned = candidates.iter().filter(pruned);
    let pruned = pruned.map(|candidate| Objection::CutPruned { log: candidate.name.clone() });
    let elsewhere = candidates.iter().filter(|candidate| !candidate.is_sent_here);
    let elsewhere = elsewhere.map(|candidate| Objection::NotSentHere { log: candidate.name.clone() });
    answers.into_iter().chain(unknown).chain(inexact).chain(pruned).chain(elsewhere).chain(promised).collect()
}
