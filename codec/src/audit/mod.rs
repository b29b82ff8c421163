//! Audit logs: who had what done, when, upon what, and what came of it. One log for each tenant and one for the site itself,
//! kept by every site for what was done there, and copied to its peers.
//!
//! An entry carries the hash of the one before it and a number that rises by one, so that nothing can be altered, left out
//! or put in another order without showing ([`chain`]). A site begins a new chain in each of its incarnations, which
//! goes on where the last one ended as far as the site knows: what it wrote and then lost is told apart from what it writes
//! afterwards. Absent on purpose: plaintext, names of objects, secrets of tokens, keys.

mod action;
pub mod chain;

pub use action::*;

use crate::ids::{Hlc, Label, NodeId, SiteId, TenantId, hex};
use crate::refusal::{Refusal, RefusalCode};
use crate::{Field, choice, record};
use bytes::Bytes;

/// BLAKE3 of an encoded entry; the next one carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AuditHash(pub [u8; 32]);

impl AuditHash {
    /// What the first entry of a log carries as its previous hash.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of an encoded entry.
    pub fn of(encoded: &[u8]) -> Self {
        Self(*blake3::hash(encoded).as_bytes())
    }

    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = [0; 32];
        crate::ids::parse_hex(text, &mut out).then_some(Self(out))
    }
}

impl std::fmt::Display for AuditHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditHash({self})")
    }
}

impl Field for AuditHash {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut crate::Reader) -> Result<Self, crate::DecodeError> {
        Ok(Self(input.array()?))
    }
}

choice!(
    /// Whose audit log.
    AuditScope {
        /// The site's own.
        Site = 0,
        /// A tenant's.
        Tenant(TenantId) = 1,
    }
);
choice!(
    /// Who had something done.
    AuditActor {
        /// The site by itself, on this node.
        Site(NodeId) = 0,
        /// Whoever holds a certificate with this name: `farside://SITE/ROLE/SUBJECT`.
        Certificate(String) = 1,
        /// Somebody on the machine of this node, in its directory.
        Machine(AuditUser) = 2,
    }
);
record!(
    /// Somebody on a node's machine.
    AuditUser {
        /// The node.
        node: NodeId,
        /// The user's number there.
        user: u32,
    }
);
choice!(
    /// What came of it.
    AuditOutcome {
        /// It was ordered, and an entry of the same order says what came of it. Where none does, it was interrupted: it may
        /// have been done, in part or as a whole.
        Ordered = 0,
        /// Done.
        Done = 1,
        /// Refused or failed.
        Failed(AuditFailure) = 2,
    }
);
record!(
    /// Why something was not done.
    AuditFailure {
        /// Why.
        code: RefusalCode,
        /// In words, cut to a few hundred bytes.
        detail: String,
    }
);

/// Words of a failure that are kept: enough for a sentence and what it is about.
const MAX_DETAIL_BYTES: usize = 256;

impl AuditOutcome {
    /// What a refusal leaves behind.
    pub fn failed(refusal: &Refusal) -> Self {
        let mut detail = refusal.detail.clone();
        let end = (0..=MAX_DETAIL_BYTES.min(detail.len())).rev().find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or(0));
        Self::Failed(AuditFailure { code: refusal.code.clone(), detail })
    }
}

record!(
    /// One entry of an audit log.
    AuditEntry {
        /// Where it was written.
        site: SiteId,
        /// The site's incarnation then.
        incarnation: u64,
        /// Whose log it is in.
        scope: AuditScope,
        /// Its number: one more than the one before it.
        sequence: u64,
        /// The hash of the one before it.
        previous: AuditHash,
        /// When it was written, by the site's clock; it rises along the log.
        time: Hlc,
        /// When it was ordered or happened, by the clock of whoever says so.
        ordered: Hlc,
        /// The order that it is about: several entries may say of one how it went on.
        order: [u8; 16],
        /// Who ordered it.
        by: AuditActor,
        /// What.
        action: AuditAction,
        /// What came of it.
        outcome: AuditOutcome,
    }
);
record!(
    /// Something that happened outside of the control group, to be written into an audit log.
    AuditNote {
        /// Whose log.
        scope: AuditScope,
        /// What.
        action: AuditAction,
        /// What came of it.
        outcome: AuditOutcome,
    }
);
record!(
    /// A command of the control group that is written down as what it does, in the step in which it does it.
    AuditedCommand {
        /// The order, drawn at random: committed twice, it counts once.
        order: [u8; 16],
        /// Who ordered it.
        by: AuditActor,
        /// The clock of the node that took it in.
        ordered: Hlc,
        /// An encoded `ControlCommand`, and none of this kind.
        command: Bytes,
    }
);
record!(
    /// Notes to be written down.
    AuditNotes {
        /// A random number: committed twice, they are written once.
        id: [u8; 16],
        /// The order that they are about.
        order: [u8; 16],
        /// Who ordered it.
        by: AuditActor,
        /// When it was ordered or happened.
        ordered: Hlc,
        /// What is to be written.
        notes: Vec<AuditNote>,
    }
);
record!(
    /// Where a chain of an audit log ends.
    AuditHead {
        /// Where it was written.
        site: SiteId,
        /// Whose log.
        scope: AuditScope,
        /// The incarnation that wrote the chain.
        incarnation: u64,
        /// The number of its first entry.
        first: u64,
        /// What that one carries as the hash before it.
        before: AuditHash,
        /// The number of its last entry.
        sequence: u64,
        /// The last one's hash.
        hash: AuditHash,
        /// The last one's time.
        time: Hlc,
    }
);

choice!(
    /// What a client says that it has done, to be written down as its words.
    AuditReport {
        /// A drill is over.
        Drill(AuditedDrill) = 1,
        /// A tenant's keys were looked at.
        Shred((TenantId, AuditedShred)) = 2,
    }
);
record!(
    /// Asks for entries of an audit log in order.
    AuditQuestion {
        /// Where it was written; `None`: here.
        site: Option<SiteId>,
        /// Whose log.
        scope: AuditScope,
        /// The incarnation from which on; lower ones are done with.
        incarnation: u64,
        /// The sequence in that incarnation from which on.
        from: u64,
        /// At most this many.
        limit: u32,
    }
);
record!(
    /// Entries of an audit log.
    AuditEntries {
        /// Encoded, in order.
        entries: Vec<Bytes>,
        /// There are more.
        more: bool,
        /// Where its chains end here, as of the same moment.
        heads: Vec<AuditHead>,
    }
);
record!(
    /// Where one entry is.
    AuditPlace {
        /// The chain's incarnation.
        incarnation: u64,
        /// The entry's number.
        sequence: u64,
    }
);
record!(
    /// Asks a site what it has of audit logs.
    AuditStandingQuestion {
        /// Where they were written.
        site: SiteId,
        /// Whose log; `None`: of all of them.
        scope: Option<AuditScope>,
        /// Entries whose hashes are wanted; of one log only.
        places: Vec<AuditPlace>,
    }
);
record!(
    /// What a site has of audit logs.
    AuditStanding {
        /// Where its chains end.
        heads: Vec<AuditHead>,
        /// The hashes that were asked for, in their order; `None`: it has no such entry.
        hashes: Vec<Option<AuditHash>>,
    }
);
record!(
    /// What a peer says about one audit log.
    AuditComparison {
        /// The peer.
        peer: Label,
        /// What it has; a refusal where it can't be asked.
        standing: Result<AuditStanding, Refusal>,
    }
);
record!(
    /// Asks a site to ask its peers about an audit log.
    AuditComparisonQuestion {
        /// Where it was written; `None`: here, and all peers are asked. Otherwise only that one is.
        site: Option<SiteId>,
        /// Whose log.
        scope: AuditScope,
        /// Entries whose hashes are wanted.
        places: Vec<AuditPlace>,
    }
);
