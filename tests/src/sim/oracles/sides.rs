//! What changes of home promise, whatever they meet: one writer of a generation, and cuts of one time.

use super::super::history::Event;
use super::super::world::{Promotion, World};
use super::Settled;
use farside_codec::delta::DeltaReceipt;
use farside_codec::ids::SiteId;
use std::collections::BTreeMap;

/// (4) Of the generation that a failover to a cut ended everything up to the cut is there, in every log, and nothing that came
/// after it is.
pub(super) fn are_of_one_time(world: &World, log: &str, settled: &Settled, events: &[&Event]) {
    // Where what a peer lacks is let go of, copies may be of no one time.
    if world.bounds_holds() {
        return;
    }
    let branches = &settled.info.lineage;
    for Promotion { promoted, cut, .. } in world.promotions() {
        let Some(cut) = cut.filter(|_| format!("{}/{}", promoted.tenant_name, promoted.name) == log) else { continue };
        // Only of what the log still is a history of is it known where it was.
        let Some(at) = branches.iter().position(|branch| branch.generation == promoted.generation) else { continue };
        let Some(ended) = at.checked_sub(1).map(|before| branches[before].generation) else { continue };
        for event in events {
            let Some(receipt) = event.receipt.as_ref().filter(|receipt| receipt.cursor.generation == ended) else {
                continue;
            };
            let (number, sequence, time) = (event.number, receipt.cursor.sequence, receipt.time);
            world.violations().check((time <= cut) == (sequence <= promoted.position), || {
                format!(
                    "{log}: operation {number}, placed at {sequence} at {time:?}, and a cut at {cut:?} that was promoted at {}",
                    promoted.position
                )
            });
        }
    }
}

/// (4) Under a generation only the site that it names acknowledges writes, and never two at one place.
pub(super) fn one_site_writes(world: &World, log: &str, sites: &[SiteId], events: &[&Event]) {
    let mut placed = BTreeMap::new();
    for event in events {
        let Some(DeltaReceipt { cursor, replayed, .. }) = &event.receipt else { continue };
        let (number, site, generation) = (event.number, event.site, cursor.generation);
        // A retry is answered by whoever is home now with what was placed before.
        world.violations().check(*replayed || sites.get(site) == Some(&generation.site), || {
            format!("{log}: site {site} acknowledged operation {number} under {generation}, which is another's")
        });
        let hash = placed.entry((generation, cursor.sequence)).or_insert(cursor.hash);
        world.violations().check(*hash == cursor.hash, || {
            format!("{log}: two deltas were acknowledged at {} under {generation}", cursor.sequence)
        });
    }
}
