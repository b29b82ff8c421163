//! Whether this site may promote itself, and what would be lost. A verdict is a value; the driver carries it out.

use farside_codec::delta::Cursor;
use farside_codec::ids::{Hlc, Label};

/// What this site knows of one log that it holds a copy of.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Tenant and log name.
    pub name: (Label, Label),
    /// This copy's head.
    pub head: Cursor,
    /// Time of this copy's head.
    pub head_time: Hlc,
    /// The home's head as it was last heard, and its time.
    pub heard: Option<(Cursor, Hlc)>,
}

/// What the failover of one log costs, as far as this site can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Deltas that the home had placed and that never came here; `None` when the home's head was never heard.
    pub deltas: Option<u64>,
    /// Milliseconds of writes among them.
    pub ms: Option<u64>,
}

impl Candidate {
    /// What promoting this copy loses.
    pub fn loss(&self) -> Loss {
        match &self.heard {
            None => Loss { deltas: None, ms: None },
            Some((home, time)) => Loss {
                deltas: Some(home.sequence.saturating_sub(self.head.sequence)),
                ms: Some(match home.sequence > self.head.sequence {
                    true => time.ms().saturating_sub(self.head_time.ms()),
                    false => 0,
                }),
            },
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
        }
    }
}

/// What speaks against promoting these copies. Empty: go.
pub fn preflight(home: OldHome, candidates: &[Candidate]) -> Vec<Objection> {
    let answers = (home == OldHome::Answers).then_some(Objection::HomeAnswers);
    let unknown = candidates.iter().filter(|candidate| candidate.heard.is_none());
    answers.into_iter().chain(unknown.map(|candidate| Objection::LossUnknown { log: candidate.name.clone() })).collect()
}
