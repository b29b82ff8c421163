//! Whether entries are an audit log: numbers that rise by one, hashes that lead from each to the next, times that rise. A pure
//! value that is given entries in order; a peer that takes them in, a client that verifies and whoever holds an export
//! offline come to the same by it.

use super::{AuditEntry, AuditHash, AuditHead, AuditScope};
use crate::field::{DecodeError, Field};
use crate::ids::{Hlc, SiteId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What is wrong with an audit log, at the first place where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainFault {
    /// What follows this entry is none.
    Unreadable {
        /// The last entry that is good; 0: there is none.
        after: u64,
        /// Why it can't be read.
        error: DecodeError,
    },
    /// An entry is of another log, or of an incarnation that is over.
    Foreign {
        /// Its number.
        sequence: u64,
    },
    /// Entries are missing.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// An entry is not where its number says.
    Misplaced {
        /// Its number.
        sequence: u64,
        /// The number of the one before it.
        after: u64,
    },
    /// An entry carries another hash than that of the one before it.
    Broken {
        /// Its number.
        sequence: u64,
    },
    /// An entry is older than the one before it.
    Backwards {
        /// Its number.
        sequence: u64,
    },
    /// The last entry is not the one that the log ended with.
    OtherEnd {
        /// Its number.
        sequence: u64,
    },
}

impl ChainFault {
    /// The number of the first entry that is bad, missing or out of its place.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Unreadable { after, .. } => after.saturating_add(1),
            Self::Missing { from, .. } => *from,
            Self::Foreign { sequence }
            | Self::Misplaced { sequence, .. }
            | Self::Broken { sequence }
            | Self::Backwards { sequence }
            | Self::OtherEnd { sequence } => *sequence,
        }
    }
}

impl std::fmt::Display for ChainFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { after, error } => write!(f, "entry {} can't be read: {error}", after.saturating_add(1)),
            Self::Foreign { sequence } => write!(f, "entry {sequence} is of another log or time"),
            Self::Missing { from, to } if from == to => write!(f, "entry {from} is missing"),
            Self::Missing { from, to } => write!(f, "entries {from} to {to} are missing"),
            Self::Misplaced { sequence, after } => write!(f, "entry {sequence} stands after entry {after}"),
            Self::Broken { sequence } => {
                let before = sequence.saturating_sub(1);
                write!(
                    f,
                    "entry {sequence} was not written after entry {before} as it stands: one of the two was altered"
                )
            }
            Self::Backwards { sequence } => write!(f, "entry {sequence} is older than the one before it"),
            Self::OtherEnd { sequence } => write!(f, "entry {sequence}, the last one, is not the one that was written"),
        }
    }
}

impl std::error::Error for ChainFault {}

impl AuditHead {
    /// A chain of this one entry.
    pub fn begin(entry: &AuditEntry, hash: AuditHash) -> Self {
        Self {
            site: entry.site,
            scope: entry.scope.clone(),
            incarnation: entry.incarnation,
            first: entry.sequence,
            before: entry.previous,
            sequence: entry.sequence,
            hash,
            time: entry.time,
        }
    }

    /// The chain with this entry at its end, if it is the next one.
    pub fn follow(&self, entry: &AuditEntry, hash: AuditHash) -> Result<Self, ChainFault> {
        let sequence = entry.sequence;
        if (entry.site, &entry.scope, entry.incarnation) != (self.site, &self.scope, self.incarnation) {
            return Err(ChainFault::Foreign { sequence });
        }
        if sequence <= self.sequence {
            return Err(ChainFault::Misplaced { sequence, after: self.sequence });
        }
        if sequence - self.sequence > 1 {
            return Err(ChainFault::Missing { from: self.sequence + 1, to: sequence - 1 });
        }
        if entry.previous != self.hash {
            return Err(ChainFault::Broken { sequence });
        }
        if entry.time <= self.time {
            return Err(ChainFault::Backwards { sequence });
        }
        Ok(Self { sequence, hash, time: entry.time, ..self.clone() })
    }
}

/// Entries that an incarnation of a site wrote and the next one did not know of any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The incarnation that wrote them.
    pub incarnation: u64,
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// Takes an audit log in, entry by entry, and says where it is none.
#[derive(Debug, Clone)]
pub struct Verifier {
    site: SiteId,
    scope: AuditScope,
    /// The log need not be there from its first entry on.
    partial: bool,
    chains: Vec<AuditHead>,
    /// Hashes of all entries by number: a later incarnation goes on from one of them.
    known: BTreeMap<u64, Vec<(u64, AuditHash)>>,
    entries: u64,
}

impl Verifier {
    /// Expects the log of `scope` that `site` wrote, from its first entry on.
    pub fn new(site: SiteId, scope: AuditScope) -> Self {
        Self { site, scope, partial: false, chains: Vec::new(), known: BTreeMap::new(), entries: 0 }
    }

    /// Expects a part of it, which begins anywhere.
    pub fn of_part(site: SiteId, scope: AuditScope) -> Self {
        Self { partial: true, ..Self::new(site, scope) }
    }

    /// How many entries were good.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The chains as far as they were taken in, by incarnation.
    pub fn heads(&self) -> &[AuditHead] {
        &self.chains
    }

    /// The hash of an entry that was taken in.
    pub fn hash(&self, incarnation: u64, sequence: u64) -> Option<AuditHash> {
        let found = self.known.get(&sequence)?.iter().find(|(written_in, _)| *written_in == incarnation);
        found.map(|(_, hash)| *hash)
    }

    /// Whether an entry of this hash was taken in.
    pub fn has(&self, hash: AuditHash) -> bool {
        self.known.values().flatten().any(|(_, known)| *known == hash)
    }

    fn last_sequence(&self) -> u64 {
        self.chains.last().map_or(0, |head| head.sequence)
    }

    /// Takes in the next entry.
    pub fn take(&mut self, encoded: &Bytes) -> Result<AuditEntry, ChainFault> {
        let after = self.last_sequence();
        let entry = AuditEntry::from_bytes(encoded.clone()).map_err(|error| ChainFault::Unreadable { after, error })?;
        let (sequence, hash) = (entry.sequence, AuditHash::of(encoded));
        if entry.site != self.site || entry.scope != self.scope || sequence == 0 {
            return Err(ChainFault::Foreign { sequence });
        }
        match self.chains.last_mut() {
            Some(head) if head.incarnation == entry.incarnation => *head = head.follow(&entry, hash)?,
            Some(head) if head.incarnation > entry.incarnation => return Err(ChainFault::Foreign { sequence }),
            _ => {
                self.begins(&entry)?;
                self.chains.push(AuditHead::begin(&entry, hash));
            }
        }
        self.known.entry(sequence).or_default().push((entry.incarnation, hash));
        self.entries += 1;
        Ok(entry)
    }

    /// Whether a chain may begin so: at the beginning, or where an earlier one has been.
    fn begins(&self, entry: &AuditEntry) -> Result<(), ChainFault> {
        let sequence = entry.sequence;
        if self.partial && self.chains.first().is_none_or(|head| sequence <= head.first) {
            return Ok(());
        }
        match (sequence, self.known.get(&(sequence - 1))) {
            (1, _) if entry.previous == AuditHash::ZERO => Ok(()),
            (1, _) => Err(ChainFault::Broken { sequence }),
            (_, Some(hashes)) if hashes.iter().any(|(_, hash)| *hash == entry.previous) => Ok(()),
            (_, Some(_)) => Err(ChainFault::Broken { sequence }),
            (_, None) => Err(ChainFault::Missing { from: self.last_sequence() + 1, to: sequence - 1 }),
        }
    }

    /// Checks that the log ends as `heads` say that it does. Chains that are not named are not expected.
    pub fn ends_as(&self, heads: &[AuditHead]) -> Result<(), ChainFault> {
        for expected in heads {
            let found = self.chains.iter().find(|head| head.incarnation == expected.incarnation);
            let last = found.map_or(expected.first.saturating_sub(1), |head| head.sequence);
            match found {
                Some(head) if head.sequence == expected.sequence && head.hash == expected.hash => {}
                Some(head) if head.sequence >= expected.sequence => {
                    return Err(ChainFault::OtherEnd { sequence: head.sequence });
                }
                _ => return Err(ChainFault::Missing { from: last + 1, to: expected.sequence }),
            }
        }
        let named = |head: &&AuditHead| heads.iter().any(|expected| expected.incarnation == head.incarnation);
        match self.chains.iter().find(|head| !named(head)) {
            Some(head) => Err(ChainFault::OtherEnd { sequence: head.sequence }),
            None => Ok(()),
        }
    }

    /// What incarnations wrote past the point where the next one went on.
    pub fn lost(&self) -> Vec<Lost> {
        let pairs = self.chains.iter().zip(self.chains.iter().skip(1));
        let gone = pairs.filter(|(chain, next)| chain.sequence >= next.first);
        gone.map(|(chain, next)| Lost {
            incarnation: chain.incarnation,
            from: next.first.max(chain.first),
            to: chain.sequence,
        })
        .collect()
    }
}

/// The next entry after a chain: its number, the hash before it, and its time, which rises whatever clocks say.
pub fn next_after(head: Option<&AuditHead>, ordered: Hlc) -> (u64, AuditHash, Hlc) {
    match head {
        None => (1, AuditHash::ZERO, ordered),
        Some(head) => (head.sequence + 1, head.hash, ordered.max(head.time.next())),
    }
}
