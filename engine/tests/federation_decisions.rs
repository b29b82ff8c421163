//! What a copy answers to an offer, and what a failover is weighed by, for histories of every shape.
//!
//! Histories are made as sites make them: writes, and promotions that leave another history behind at some point. What
//! the lineages and heads of two such histories lead to is compared with the histories themselves.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use farside::federation::failover::{Candidate, Loss, Objection, OldHome, Promise, preflight};
use farside::federation::receiver::{LocalCopy, OfferDecision, decide, generation_of};
use farside_codec::delta::{Branch, Cursor, EpochRecord, Generation, Lineage, LogDescriptor, LogPolicy};
use farside_codec::ids::{DeltaHash, EpochId, Hlc, Label, LogId, SiteId, TenantId};
use farside_codec::message::LogOffer;
use proptest::prelude::*;

const SITES: u8 = 3;
const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn site(number: u8) -> SiteId {
    SiteId([number % SITES + 1; 16])
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

/// A log's history: hashes that follow from everything before them, and the generations that wrote them.
#[derive(Debug, Clone)]
struct History {
    hashes: Vec<DeltaHash>,
    lineage: Lineage,
}

impl History {
    fn new() -> Self {
        let generation = Generation { counter: 1, site: site(0), incarnation: 0 };
        Self { hashes: Vec::new(), lineage: vec![Branch { generation, first: 1, previous: DeltaHash::ZERO }] }
    }

    fn last(&self) -> DeltaHash {
        self.hashes.last().copied().unwrap_or(DeltaHash::ZERO)
    }

    fn generation(&self) -> Generation {
        generation_of(&self.lineage).expect("a history has a generation")
    }

    fn write(&mut self) {
        let generation = self.generation();
        let text = format!("{generation:?} {:?} {}", self.last(), self.hashes.len());
        self.hashes.push(DeltaHash(*blake3::hash(text.as_bytes()).as_bytes()));
    }

    /// The history that `by` begins at this one's first `keep` deltas, above every generation in `known`.
    fn promoted(&self, by: SiteId, keep: usize, counter: u64) -> Self {
        let mut next = self.clone();
        next.hashes.truncate(keep);
        next.lineage.retain(|branch| branch.first <= keep as u64);
        let generation = Generation { counter, site: by, incarnation: 0 };
        next.lineage.push(Branch { generation, first: keep as u64 + 1, previous: next.last() });
        next.write();
        next
    }

    /// A copy that has `keep` deltas of it and knows its whole lineage, or only what it reached.
    fn copy(&self, keep: usize, knows_all: bool) -> LocalCopy {
        let keep = keep.min(self.hashes.len());
        let hash = keep.checked_sub(1).map_or(DeltaHash::ZERO, |at| self.hashes[at]);
        let mut lineage = self.lineage.clone();
        if !knows_all {
            lineage.retain(|branch| branch.first <= keep as u64);
        }
        let generation = generation_of(&lineage).unwrap_or_else(|| self.generation());
        LocalCopy { lineage, head: Cursor { generation, sequence: keep as u64, hash } }
    }

    fn offer(&self) -> LogOffer {
        let head = Cursor { generation: self.generation(), sequence: self.hashes.len() as u64, hash: self.last() };
        LogOffer { descriptor: descriptor(), lineage: self.lineage.clone(), head, head_time: Hlc(1) }
    }
}

fn descriptor() -> LogDescriptor {
    let first_epoch =
        EpochRecord { epoch: EpochId([1; 16]), salt: [1; 32], key_name: "key".into(), key_version: 1, check: [1; 16] };
    LogDescriptor {
        log: LogId([9; 16]),
        tenant: TenantId([7; 16]),
        tenant_name: label("acme"),
        name: label("log"),
        created: Hlc(1),
        first_epoch,
        policy: LogPolicy::default(),
        policy_version: 0,
    }
}

/// Every history that a few writes and promotions of one log make.
fn histories(steps: &[(u8, u8, u8, u8)]) -> Vec<History> {
    let mut all = vec![History::new()];
    for (number, (which, by, keep, writes)) in steps.iter().enumerate() {
        let from = all[usize::from(*which) % all.len()].clone();
        let keep = usize::from(*keep) % (from.hashes.len() + 1);
        // A site begins a generation once: the counter tells apart what one site begins.
        let mut next = from.promoted(site(*by), keep, number as u64 + 2);
        (0..*writes).for_each(|_| next.write());
        all.push(next);
        let at = usize::from(*which) % all.len();
        all[at].write();
    }
    all
}

fn step() -> impl Strategy<Value = (u8, u8, u8, u8)> {
    (any::<u8>(), any::<u8>(), any::<u8>(), 0u8..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn an_offer_is_answered_by_what_the_two_histories_share(
        steps in prop::collection::vec(step(), 0..6),
        (ours, theirs) in (any::<u8>(), any::<u8>()),
        keep in any::<u8>(),
        knows_all in any::<bool>(),
        here in 0..SITES,
    ) {
        let all = histories(&steps);
        let (ours, theirs) = (&all[usize::from(ours) % all.len()], &all[usize::from(theirs) % all.len()]);
        let copy = ours.copy(usize::from(keep) % (ours.hashes.len() + 1), knows_all);
        let decision = decide(&theirs.offer(), theirs.generation().site, site(here), Some(&copy));
        let known = generation_of(&copy.lineage);
        let held = copy.head.sequence as usize;
        let is_prefix = theirs.hashes.len() >= held && theirs.hashes[..held] == ours.hashes[..held];
        match known {
            None => prop_assert_eq!(decision, OfferDecision::Position),
            Some(known) if known > theirs.generation() => prop_assert_eq!(decision, OfferDecision::Ahead),
            Some(known) if known == theirs.generation() => prop_assert_eq!(decision, OfferDecision::Position),
            Some(known) if known.site == site(here) => prop_assert_eq!(decision, OfferDecision::Fence),
            Some(_) => {
                // A branch that the copy heard of and the sender's history does not have must go first.
                let known_there = copy.lineage.iter().all(|branch| theirs.lineage.contains(branch));
                let expected = if is_prefix && known_there { OfferDecision::Position } else { OfferDecision::Fence };
                prop_assert_eq!(decision, expected);
            }
        }
    }

    #[test]
    fn an_offer_that_no_home_makes_is_refused(
        steps in prop::collection::vec(step(), 0..6),
        which in any::<u8>(),
        spoil in 0u8..4,
        at in any::<u8>(),
        here in 0..SITES,
        known in any::<bool>(),
    ) {
        let all = histories(&steps);
        let history = &all[usize::from(which) % all.len()];
        let mut offer = history.offer();
        let sender = history.generation().site;
        let at = usize::from(at) % offer.lineage.len();
        let from = match spoil {
            0 => {
                offer.lineage.clear();
                sender
            }
            1 => SiteId([0xEE; 16]),
            2 => {
                let again = offer.lineage[at].clone();
                offer.lineage.insert(at, again);
                sender
            }
            _ => {
                // A generation that begins before the one below it.
                let generation = Generation { counter: 1000, site: sender, incarnation: 0 };
                let last = offer.lineage.last().expect("a lineage").first;
                offer.lineage.push(Branch { generation, first: last - 1, previous: DeltaHash::ZERO });
                sender
            }
        };
        let copy = known.then(|| history.copy(history.hashes.len(), true));
        let decision = decide(&offer, from, site(here), copy.as_ref());
        prop_assert!(matches!(decision, OfferDecision::Refuse(_)), "{:?}", decision);
    }

    #[test]
    fn a_log_that_is_new_here_is_created(steps in prop::collection::vec(step(), 0..6), here in 0..SITES) {
        let all = histories(&steps);
        let history = all.last().expect("a history");
        let decision = decide(&history.offer(), history.generation().site, site(here), None);
        prop_assert_eq!(decision, OfferDecision::Create);
    }

    #[test]
    fn a_failover_is_let_through_only_when_the_home_is_silent_and_the_loss_is_known(
        answers in any::<bool>(),
        copies in prop::collection::vec(
            (0u64..50, 0u64..5000, prop::option::of((0u64..60, 0u64..6000)), 0..5u8, prop::option::of((0u64..4, 0u64..900))),
            0..8,
        ),
        cuts in prop::collection::vec((prop::option::of((0u64..50, 0u64..5000)), 0u64..40), 8),
    ) {
        let generation = Generation { counter: 1, site: site(0), incarnation: 0 };
        let cursor = |sequence| Cursor { generation, sequence, hash: DeltaHash::ZERO };
        let candidates: Vec<Candidate> = copies.iter().enumerate().map(|(number, (head, ms, heard, promise, whole))| Candidate {
            name: (label("acme"), label(&format!("log-{number}"))),
            head: cursor(*head),
            head_time: Hlc::from_ms(*ms),
            heard: heard.map(|(sequence, ms)| (cursor(sequence), Hlc::from_ms(ms))),
            is_sent_here: number % 3 != 1,
            whole: whole.map(|(sequence, ms)| (cursor(sequence), Hlc::from_ms(ms))),
            complete_to: None,
            cut: cuts[number].0.map(|(sequence, ms)| (sequence, Hlc::from_ms(ms))),
            floor: cuts[number].1,
            promise: [Promise::None, Promise::Kept, Promise::Missing, Promise::Runs(MINUTE), Promise::Shared][usize::from(*promise)],
        }).collect();
        let home = if answers { OldHome::Answers } else { OldHome::Silent };
        let objections = preflight(home, &candidates);
        prop_assert_eq!(objections.contains(&Objection::HomeAnswers), answers);
        let unknown = copies.iter().filter(|(_, _, heard, ..)| heard.is_none()).count();
        let promised = copies.iter().filter(|(.., promise, _)| *promise >= 2).count();
        let nowhere = |whole: &Option<(u64, u64)>| matches!(whole, Some((0, _)));
        let inexact = copies.iter().filter(|(.., whole)| nowhere(whole)).count();
        let elsewhere = candidates.iter().filter(|candidate| !candidate.is_sent_here).count();
        let pruned = |candidate: &&Candidate| {
            objections.contains(&Objection::CutPruned { log: candidate.name.clone() })
        };
        let pruned = candidates.iter().filter(pruned).count();
        prop_assert_eq!(objections.len(), unknown + promised + inexact + pruned + elsewhere + usize::from(answers));
        for ((candidate, (head, ms, heard, promise, whole)), (cut, floor)) in candidates.iter().zip(&copies).zip(&cuts) {
            let inexact = objections.contains(&Objection::NotExact { log: candidate.name.clone() });
            prop_assert_eq!(inexact, nowhere(whole));
            let (head, ms) = whole.filter(|(sequence, _)| *sequence > 0).unwrap_or((*head, *ms));
            let (head, ms) = cut.map_or((head, ms), |(sequence, ms_of)| (sequence, ms_of).min((head, ms)));
            let pruned = objections.contains(&Objection::CutPruned { log: candidate.name.clone() });
            prop_assert_eq!(pruned, cut.is_some() && head < *floor);
            let named = objections.contains(&Objection::LossUnknown { log: candidate.name.clone() });
            prop_assert_eq!(named, heard.is_none());
            let log = candidate.name.clone();
            let runs = objections.contains(&Objection::LeaseRuns { log: log.clone(), left: MINUTE });
            let missing = objections.contains(&Objection::NoPromise { log: log.clone() });
            let shared = objections.contains(&Objection::LeaseShared { log });
            prop_assert_eq!((missing, runs, shared), (*promise == 2, *promise == 3, *promise == 4));
            let expected = match heard {
                _ if inexact => Loss { deltas: None, ms: None },
                None => Loss { deltas: None, ms: None },
                Some((sequence, _)) if *sequence <= head => Loss { deltas: Some(0), ms: Some(0) },
                Some((sequence, then)) => Loss { deltas: Some(sequence - head), ms: Some(then.saturating_sub(ms)) },
            };
            prop_assert_eq!(candidate.loss(), expected);
        }
    }
}
