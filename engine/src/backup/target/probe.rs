//! What a target can do, found out by doing it: stores answer 200 to what they have not understood.

use super::limits::PROBE_RACES;
use super::{Listed, Target, TargetError};
use bytes::Bytes;
use farside_io::entropy::{SystemEntropy, random};
use std::fmt;
use std::time::Duration;

/// How long a new object may be missing from a listing before listings count as wrong.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// Before it is looked for again.
const LIST_PAUSE: Duration = Duration::from_millis(250);
/// More than one piece of a body, and no round number.
const PROBE_BYTES: usize = 100_003;

/// What a target does as a backup needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What was put is read back as it was.
    pub reads_back: bool,
    /// A part of it is read as that part.
    pub reads_ranges: bool,
    /// A new object is in a listing, with its length, after a while at most.
    pub lists: bool,
    /// It is there at once.
    pub lists_at_once: bool,
    /// What is deleted is gone. Where these credentials may not delete, nothing can be pruned, and a thief of them
    /// destroys nothing.
    pub deletes: bool,
    /// A second put of a name is refused and changes nothing.
    pub put_if_absent: bool,
    /// So it is where two puts race: exactly one wins.
    pub put_if_absent_racing: bool,
    /// A put whose bytes don't fit their SHA-256 is refused.
    pub refuses_wrong_checksums: bool,
    /// The bucket locks objects against deletion.
    pub object_lock: bool,
    /// Nobody on the way reads along.
    pub encrypted: bool,
}

/// Why a target can't hold a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// Reading gives something else than what was written.
    ReadsBack,
    /// Reading a part gives something else.
    ReadsRanges,
    /// What was written is not listed.
    Lists,
    /// It takes a second object of one name, so that two writers overwrite one another.
    PutIfAbsent,
}

impl Capabilities {
    /// What makes the target unusable; nothing, as a rule.
    pub fn objections(&self) -> Vec<Objection> {
        let needs = [
            (self.reads_back, Objection::ReadsBack),
            (self.reads_ranges, Objection::ReadsRanges),
            (self.lists, Objection::Lists),
            (self.put_if_absent && self.put_if_absent_racing, Objection::PutIfAbsent),
        ];
        needs.into_iter().filter_map(|(is_met, objection)| (!is_met).then_some(objection)).collect()
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadsBack => "it gives back something else than what was put",
            Self::ReadsRanges => "it gives back something else than the part that was asked for",
            Self::Lists => "it does not list what was put",
            Self::PutIfAbsent => {
                "it ignores If-None-Match and takes a second object of one name, so two writers would overwrite one another"
            }
        })
    }
}

/// Probes, and removes what it made, also where it failed.
pub(super) async fn probe(target: &Target) -> Result<Capabilities, TargetError> {
    let number = u64::from_le_bytes(random(&SystemEntropy));
    let mut probe = Probe { target, stem: format!("probe-{number:016x}"), made: Vec::new() };
    let found = probe.run().await;
    for name in std::mem::take(&mut probe.made) {
        // Tried for what it is worth: where deleting is forbidden the probe has found that out already.
        let _ = target.delete(&name).await;
    }
    found
}

struct Probe<'a> {
    target: &'a Target,
    stem: String,
    made: Vec<String>,
}

impl Probe<'_> {
    async fn run(&mut self) -> Result<Capabilities, TargetError> {
        let mut found = Capabilities { encrypted: self.target.is_encrypted(), ..Capabilities::default() };
        let (name, bytes) = (self.name("first"), contents(PROBE_BYTES));
        self.target.put_new(&name, vec![bytes.slice(..1000), bytes.slice(1000..)]).await?;
        (found.lists_at_once, found.lists) = self.look_for(&name).await?;
        found.reads_back = self.reads(&name, &bytes).await?;
        found.reads_ranges = match self.target.get_range(&name, 1001, 70_000).await {
            Ok(part) => part == bytes.slice(1001..71_001),
            Err(error) => is_wrong_content(error)?,
        };
        found.put_if_absent = self.refuses_a_second(&name, &bytes).await?;
        found.put_if_absent_racing = self.lets_one_win().await?;
        let wrong = self.name("wrong");
        found.refuses_wrong_checksums = self.target.refuses_wrong_checksums(&wrong).await?;
        found.object_lock = self.target.has_object_lock().await?;
        found.deletes = self.deletes(&name).await?;
        Ok(found)
    }

    /// A name that will be cleaned up.
    fn name(&mut self, end: &str) -> String {
        let name = format!("{}-{end}", self.stem);
        self.made.push(name.clone());
        name
    }

    /// Whether a new object is listed at once, and whether it is at all.
    async fn look_for(&self, name: &str) -> Result<(bool, bool), TargetError> {
        let wanted = [Listed { name: name.to_owned(), bytes: PROBE_BYTES as u64 }];
        let begun = tokio::time::Instant::now();
        let mut is_at_once = true;
        loop {
            if self.target.list(&self.stem).await? == wanted {
                return Ok((is_at_once, true));
            }
            if begun.elapsed() >= LIST_PATIENCE {
                return Ok((false, false));
            }
            is_at_once = false;
            tokio::time::sleep(LIST_PAUSE).await;
        }
    }

    async fn reads(&self, name: &str, bytes: &Bytes) -> Result<bool, TargetError> {
        match self.target.get(name, bytes.len() as u64).await {
            Ok(read) => Ok(read == bytes),
            Err(error) => is_wrong_content(error),
        }
    }

    async fn refuses_a_second(&self, name: &str, bytes: &Bytes) -> Result<bool, TargetError> {
        match self.target.put_new(name, vec![contents(PROBE_BYTES)]).await {
            Ok(()) => Ok(false),
            Err(TargetError::Exists { .. }) => self.reads(name, bytes).await,
            Err(error) => Err(error),
        }
    }

    async fn lets_one_win(&mut self) -> Result<bool, TargetError> {
        for round in 0..PROBE_RACES {
            let name = self.name(&format!("race-{round}"));
            let (one, other) = (contents(PROBE_BYTES), contents(PROBE_BYTES));
            let put = |bytes: &Bytes| self.target.put_new(&name, vec![bytes.clone()]);
            let winner = match futures_util::future::join(put(&one), put(&other)).await {
                (Ok(()), Ok(())) => return Ok(false),
                (Ok(()), Err(TargetError::Exists { .. })) => one,
                (Err(TargetError::Exists { .. }), Ok(())) => other,
                (Err(TargetError::Exists { .. }), Err(TargetError::Exists { .. })) => return Ok(false),
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            if !self.reads(&name, &winner).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn deletes(&self, name: &str) -> Result<bool, TargetError> {
        match self.target.delete(name).await {
            Ok(()) => {}
            Err(TargetError::Denied { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.target.get(name, PROBE_BYTES as u64).await {
            Err(TargetError::NotFound { .. }) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An answer that is wrong is something that was found out; one that did not come is not.
fn is_wrong_content(error: TargetError) -> Result<bool, TargetError> {
    match error {
        TargetError::NotFound { .. } | TargetError::Short { .. } | TargetError::TooLarge { .. } => Ok(false),
        error => Err(error),
    }
}

/// Random bytes, other ones each time.
fn contents(length: usize) -> Bytes {
    let seed: [u8; 32] = random(&SystemEntropy);
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
    bytes.into()
}
