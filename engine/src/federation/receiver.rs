//! What a copy of a log answers to its sender. Decisions only; the log group's own machine checks them again when the
//! command is applied, because between deciding and applying the log may have moved.

use farside_codec::delta::{Branch, Cursor, Generation, Lineage};
use farside_codec::ids::SiteId;
use farside_codec::message::{LogOffer, Refusal, RefusalCode};
use std::cmp::Ordering;

/// What the receiver's site knows of a log.
#[derive(Debug, Clone)]
pub struct LocalCopy {
    /// Its lineage here.
    pub lineage: Lineage,
    /// Its head here.
    pub head: Cursor,
}

/// What to do about an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferDecision {
    /// The log is new here: create it, empty, as a copy, then answer its position.
    Create,
    /// This site was home under an older generation, or holds what the sender's history does not: fence first.
    Fence,
    /// This copy continues the sender's history: answer its position.
    Position,
    /// This site knows a higher generation: answer its lineage, so that the sender steps down.
    Ahead,
    /// No.
    Refuse(Refusal),
}

/// The generation at the end of a lineage.
pub fn generation_of(lineage: &Lineage) -> Option<Generation> {
    lineage.last().map(|branch| branch.generation)
}

/// Decides what an offer from `sender` leads to at `here`.
pub fn decide(offer: &LogOffer, sender: SiteId, here: SiteId, local: Option<&LocalCopy>) -> OfferDecision {
    let Some(theirs) = generation_of(&offer.lineage) else {
        return OfferDecision::Refuse(Refusal::new(RefusalCode::BadRequest, "the offer has no lineage"));
    };
    let rising = |pair: &[Branch]| pair[0].generation < pair[1].generation && pair[0].first <= pair[1].first;
    if !offer.lineage.windows(2).all(rising) || theirs.site != sender {
        return OfferDecision::Refuse(Refusal::new(
            RefusalCode::BadRequest,
            "the offer's lineage does not rise, or does not end at the site that offers it",
        ));
    }
    let Some(local) = local else { return OfferDecision::Create };
    match generation_of(&local.lineage) {
        None => OfferDecision::Position,
        Some(ours) if ours > theirs => OfferDecision::Ahead,
        Some(ours) if ours == theirs => OfferDecision::Position,
        // A copy that lags behind the fork simply continues: its lineage grows as deltas arrive.
        Some(ours) if ours.site != here && shares_history(&offer.lineage, local) => OfferDecision::Position,
        Some(_) => OfferDecision::Fence,
    }
}

/// Whether this copy's head lies on the sender's history.
fn shares_history(theirs: &Lineage, local: &LocalCopy) -> bool {
    let agrees = |branch: &Branch| match branch.first.cmp(&local.head.sequence.saturating_add(1)) {
        Ordering::Less => local.lineage.contains(branch),
        Ordering::Equal => branch.previous == local.head.hash,
        Ordering::Greater => true,
    };
    theirs.iter().all(agrees) && local.lineage.iter().all(|branch| theirs.contains(branch))
}
