//! Deltas: what a log is made of. Also the generations, cursors and lineages that order them across sites.
//!
//! A client makes a [`Proposal`]; the log group gives it its place (generation, sequence, previous hash, time) and it
//! becomes a [`Delta`]. A delta's hash covers everything in it, and the next delta carries that hash, so two copies of
//! a log that agree on one hash agree on everything before it.

use crate::field::{DecodeError, Field, Reader};
use crate::ids::{BlindName, ChunkId, DeltaHash, EpochId, Hlc, Label, LogId, OperationId, SiteId, TenantId};
use crate::{choice, limits, record};
use bytes::Bytes;

/// The fencing number of a log's home. Ordered by counter first; site and incarnation keep two sites apart that
/// promoted themselves out of the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Raised by one at each promotion, recovery or restore.
    pub counter: u64,
    /// The site that is home.
    pub site: SiteId,
    /// How often that site was recovered or restored.
    pub incarnation: u64,
}

impl Field for Generation {
    fn encode(&self, out: &mut Vec<u8>) {
        self.counter.encode(out);
        self.site.encode(out);
        self.incarnation.encode(out);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { counter: Field::decode(input)?, site: Field::decode(input)?, incarnation: Field::decode(input)? })
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.counter)
    }
}

record!(
    /// A position in one log that says which history it belongs to. Sequence 0 is the beginning, before any delta.
    Cursor {
        /// Generation of the delta at `sequence`.
        generation: Generation,
        /// Sequence of the last delta covered.
        sequence: u64,
        /// Its hash; [`DeltaHash::ZERO`] at sequence 0.
        hash: DeltaHash,
    }
);

record!(
    /// One generation of a log's history.
    Branch {
        /// The generation.
        generation: Generation,
        /// Sequence of its first delta.
        first: u64,
        /// Hash of the delta before that: where this history leaves the one before it.
        previous: DeltaHash,
    }
);

record!(
    /// What is left of a delta whose version was pruned: its place in the history, and nothing of what it said. Whoever takes it
    /// into a copy can't recompute its hash, but the next delta carries that.
    PrunedDelta {
        /// Its place and hash.
        cursor: Cursor,
        /// Its time.
        time: Hlc,
        /// Bytes of deltas and chunks up to and with it.
        total_bytes: u64,
        /// What else is left.
        left: Left,
    }
);

record!(
    /// What of a delta outlives its version.
    Left {
        /// Its operation: tried again, it is not applied again.
        operation: OperationId,
        /// The name that it removed: whoever has an older version of it has to know.
        removed: Option<BlindName>,
    }
);

/// A log's generations, oldest first.
pub type Lineage = Vec<Branch>;

record!(
    /// A sealed chunk that a delta names.
    ChunkRef {
        /// BLAKE3 of the sealed bytes.
        chunk: ChunkId,
        /// Its sealed length (ciphertext and tags).
        sealed_bytes: u32,
    }
);

record!(
    /// A key epoch's public record. Holds no key and nothing from which a key follows without the tenant's KMS.
    EpochRecord {
        /// Drawn at random.
        epoch: EpochId,
        /// Drawn at random; enters the KMS label.
        salt: [u8; 32],
        /// Name of the KMS key.
        key_name: String,
        /// Its version.
        key_version: u32,
        /// First 16 bytes of HKDF(tenant data key, "check"): tells a wrong KMS before it seals unreadable data.
        check: [u8; 16],
    }
);

record!(
    /// Which part of a larger object this delta carries.
    Extent {
        /// Operation id of the delta that will commit the object; the same in all of its extents.
        object: OperationId,
        /// Counted from 0. In the committing delta: how many extents precede it.
        index: u32,
    }
);

choice!(
    /// What a delta does.
    DeltaKind {
        /// Gives a name a new version.
        Put = 1,
        /// Removes a name.
        Remove = 2,
        /// Announces a key epoch that later deltas use.
        Epoch(EpochRecord) = 3,
        /// Part of an object with more chunks than one delta may name; visible when its last delta commits.
        Extent = 4,
        /// Last delta of a generation in a planned change of home: the new home and its generation.
        Switchover(Generation) = 5,
        /// A change of the tenant's configuration, sealed or not as its maker chose.
        Config(Bytes) = 6,
        /// First delta of a generation after a promotion, recovery or restore: proves that the home writes.
        Promoted(Generation) = 7,
    }
);

record!(
    /// What a client asks a log to append.
    Proposal {
        /// Makes a retry harmless.
        operation: OperationId,
        /// What it does.
        kind: DeltaKind,
        /// The object; all zero where there is none.
        name: BlindName,
        /// Epoch whose key seals the payload and the chunks.
        key_epoch: EpochId,
        /// Lowest GC epoch among the receipts of its chunks; `u64::MAX` without chunks.
        gc_epoch: u64,
        /// Highest placement epoch among the receipts of its chunks.
        placement_epoch: u64,
        /// Applies only if the name's newest delta has this sequence (0: the name does not exist).
        condition: Option<u64>,
        /// Plaintext bytes of the object.
        size_bytes: u64,
        /// Its chunks in order.
        chunks: Vec<ChunkRef>,
        /// Where this is part of a larger object, or the end of one.
        extent: Option<Extent>,
        /// Sealed name and attributes.
        payload: Bytes,
        /// Sealed contents of a small object; empty where there are none.
        inline: Bytes,
    }
);

impl Proposal {
    /// One that names no chunks and carries nothing: what is written without contents begins with this.
    pub fn without_chunks(operation: OperationId, kind: DeltaKind, name: BlindName, key_epoch: EpochId) -> Self {
        Self {
            operation,
            kind,
            name,
            key_epoch,
            gc_epoch: u64::MAX,
            placement_epoch: 0,
            condition: None,
            size_bytes: 0,
            chunks: Vec::new(),
            extent: None,
            payload: Bytes::new(),
            inline: Bytes::new(),
        }
    }

    /// Checks every bound that a log group relies on.
    pub fn check(&self) -> Result<(), DecodeError> {
        bounded("chunks of a delta", limits::MAX_CHUNKS_PER_DELTA, self.chunks.len())?;
        bounded("delta payload", limits::MAX_PAYLOAD_BYTES, self.payload.len())?;
        bounded("inline data", limits::MAX_INLINE_PLAIN_BYTES + limits::TAG_BYTES, self.inline.len())?;
        for chunk in &self.chunks {
            bounded("sealed chunk", limits::MAX_CHUNK_SEALED_BYTES, chunk.sealed_bytes as usize)?;
        }
        if self.chunks.is_empty() != (self.gc_epoch == u64::MAX) {
            return Err(DecodeError::Invalid { what: "GC epoch of a delta" });
        }
        Ok(())
    }
}

fn bounded(what: &'static str, limit: usize, got: usize) -> Result<(), DecodeError> {
    if got > limit { Err(DecodeError::TooLong { what, limit, got }) } else { Ok(()) }
}

record!(
    /// A proposal in its place. Encoded once, by the home; every copy of the log holds these very bytes.
    Delta {
        /// Log it belongs to.
        log: LogId,
        /// Generation of the home that placed it.
        generation: Generation,
        /// Its place, counted from 1 without gaps.
        sequence: u64,
        /// Hash of the delta before it.
        previous: DeltaHash,
        /// When the home placed it; rises strictly along the log.
        time: Hlc,
        /// The log group's closed time when it was placed: nothing earlier will ever be placed in the group.
        closed: Hlc,
        /// What was asked for.
        proposal: Proposal,
    }
);

impl Delta {
    /// Reads an encoded delta and checks its bounds.
    pub fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        bounded("delta", limits::MAX_DELTA_BYTES, bytes.len())?;
        let delta = Self::from_bytes(bytes)?;
        delta.proposal.check()?;
        match delta.sequence {
            0 => Err(DecodeError::Invalid { what: "delta sequence" }),
            _ => Ok(delta),
        }
    }

    /// The hash of an encoded delta.
    pub fn hash(encoded: &[u8]) -> DeltaHash {
        DeltaHash(*blake3::hash(encoded).as_bytes())
    }
}

choice!(
    /// Within which bounds equal plaintext becomes the same chunk.
    Deduplication {
        /// Never.
        Off = 0,
        /// Within the log.
        Log = 1,
        /// Within the tenant.
        Tenant = 2,
    }
);

record!(
    /// What a log's owner decided about it.
    LogPolicy {
        /// Within which bounds equal plaintext becomes the same chunk.
        deduplication: Deduplication,
        /// How long replaced and removed versions stay readable.
        history_seconds: u64,
        /// Lag beyond which status raises an alert.
        lag_bound_seconds: u64,
        /// Writers are slowed down from half of that bound on, and stopped at it.
        lag_stops_writers: bool,
        /// The home acknowledges nothing later than so long after a peer that follows it renewed its promise not to take over;
        /// 0: there are no promises.
        home_lease_seconds: u64,
        /// The sites that are to hold the log, its home among them; `None`: all that are peers.
        sites: Option<Vec<SiteId>>,
        /// The only sites that may hold it or learn of it, its home among them; `None`: any.
        residency: Option<Vec<SiteId>>,
        /// Bytes of versions and their chunks that it may have, old versions among them; 0: as many as there is room for.
        quota_bytes: u64,
    }
);

impl LogPolicy {
    /// Lag that raises an alert where nobody has said anything else.
    pub const DEFAULT_LAG_BOUND_SECONDS: u64 = 30;
    /// Sites that a policy can name: as many as a site can have peers, and itself.
    pub const MAX_SITES: usize = 65;

    /// Whether it names no more sites than there can be.
    pub fn is_bounded(&self) -> bool {
        self.sites.iter().chain(&self.residency).all(|sites| sites.len() <= Self::MAX_SITES)
    }

    /// The sites that it names, some of them perhaps twice.
    pub fn named_sites(&self) -> impl Iterator<Item = &SiteId> {
        self.sites.iter().chain(&self.residency).flatten()
    }

    /// Whether a site may hold the log, or learn of it.
    pub fn may_be_at(&self, site: SiteId) -> bool {
        self.residency.as_ref().is_none_or(|sites| sites.contains(&site))
    }

    /// Whether a peer is to be sent the log.
    pub fn goes_to(&self, site: SiteId) -> bool {
        self.may_be_at(site) && self.sites.as_ref().is_none_or(|sites| sites.contains(&site))
    }
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            deduplication: Deduplication::Log,
            history_seconds: 7 * 86_400,
            lag_bound_seconds: Self::DEFAULT_LAG_BOUND_SECONDS,
            lag_stops_writers: false,
            home_lease_seconds: 0,
            sites: None,
            residency: None,
            quota_bytes: 0,
        }
    }
}

record!(
    /// Everything a site must know to hold a copy of a log.
    LogDescriptor {
        /// The log.
        log: LogId,
        /// Who owns it.
        tenant: TenantId,
        /// The tenant's name.
        tenant_name: Label,
        /// The log's name within the tenant.
        name: Label,
        /// When it was created.
        created: Hlc,
        /// The epoch whose key derives the log's blind-name key, for ever.
        first_epoch: EpochRecord,
        /// Policy, and how often it was changed.
        policy: LogPolicy,
        /// Rises with each change of the policy; the higher one wins.
        policy_version: u64,
    }
);

record!(
    /// What a coordinator answers for a chunk that it holds.
    ChunkReceipt {
        /// Fragments on stable storage now.
        durable_fragments: u8,
        /// Data fragments of the geometry.
        data_fragments: u8,
        /// Parity fragments of the geometry.
        parity_fragments: u8,
        /// Placement epoch under which they were placed.
        placement_epoch: u64,
        /// GC epoch in which they were last touched.
        gc_epoch: u64,
        /// It was here already.
        deduplicated: bool,
    }
);

impl ChunkReceipt {
    /// Losses of failure domains that the chunk survives now.
    pub fn losses_survived(&self) -> u8 {
        self.durable_fragments.saturating_sub(self.data_fragments)
    }
}

record!(
    /// What a log group answers for a delta that it committed.
    DeltaReceipt {
        /// Where it stands.
        cursor: Cursor,
        /// Its time.
        time: Hlc,
        /// The operation it answers.
        operation: OperationId,
        /// It had been applied before; this is the first one's receipt.
        replayed: bool,
    }
);
