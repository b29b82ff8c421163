//! What a log group does when a log is handed over: to whom, when it arrives, and what a home that takes it back does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use farside_codec::Field;
use farside_codec::command::{GroupCommand, GroupOutcome, HandOverLog};
use farside_codec::delta::{Delta, DeltaKind, Generation};
use farside_codec::ids::{Hlc, LogId};
use farside_codec::message::RefusalCode;
use state_support::*;

const LOG: LogId = LogId([9; 16]);

/// Two sites, the second with a copy of the first's three deltas.
fn pair() -> (Site, Site) {
    let (mut near, mut far) = (Site::new(1), Site::new(2));
    near.create(LOG);
    for number in 1..=3 {
        near.put(LOG, number * TICK, proposal(number, DeltaKind::Put, number as u8));
    }
    assert_eq!(replicate(&mut near, &mut far, LOG, usize::MAX, 0, 1), Sent::Taken);
    (near, far)
}

fn generation(counter: u64, site: u8) -> Generation {
    Generation { counter, site: site_id(site), incarnation: 0 }
}

fn hand_over(site: &mut Site, to: Generation) -> GroupOutcome {
    site.apply(GroupCommand::HandOver(HandOverLog { log: LOG, to, time: Hlc(100) }))
}

fn try_write(site: &mut Site, operation: u64) -> Result<u64, RefusalCode> {
    let placed = site.try_put(LOG, 200, proposal(operation, DeltaKind::Put, 1));
    placed.map(|receipt| receipt.cursor.sequence).map_err(|refusal| refusal.code)
}

#[test]
fn a_log_is_home_at_one_site_at_most_and_where_it_arrives() {
    let (mut near, mut far) = pair();
    assert!(matches!(hand_over(&mut near, generation(2, 2)), GroupOutcome::Head(head) if head.sequence == 4));
    let rows = near.rows();
    // An order whose answer was lost is given again.
    assert!(matches!(hand_over(&mut near, generation(2, 2)), GroupOutcome::Head(head) if head.sequence == 4));
    assert_eq!(rows.len(), near.rows().len());
    assert!(near.view(LOG).is_in_transit(site_id(1)) && near.view(LOG).is_told_by(site_id(1)));
    assert_eq!(try_write(&mut near, 10), Err(RefusalCode::NotHome));
    assert_eq!(try_write(&mut far, 10), Err(RefusalCode::NotHome));
    let near = &mut near.reopen();
    assert!(near.view(LOG).is_in_transit(site_id(1)));

    assert_eq!(replicate(near, &mut far, LOG, 9, 0, 300), Sent::Taken);
    assert_eq!(replicate(near, &mut far, LOG, 9, 0, 300), Sent::SteppedDown);
    assert!(far.view(LOG).is_home(site_id(2)) && !near.view(LOG).is_in_transit(site_id(1)));
    let kinds: Vec<DeltaKind> = far.history(LOG)[3..].iter().map(|(_, delta)| parse(delta).proposal.kind).collect();
    assert_eq!(kinds, [DeltaKind::Switchover(generation(2, 2)), DeltaKind::Promoted(generation(2, 2))]);
    assert_eq!(far.view(LOG).lineage[1].first, 5);
    // A write that was acknowledged at near is placed once, wherever it is tried again.
    assert_eq!(try_write(&mut far, 2), Ok(2));
    assert_eq!(try_write(&mut far, 10), Ok(6));
    assert_eq!(replicate(&mut far, near, LOG, 9, 0, 400), Sent::Taken);
    assert_eq!((near.history(LOG), near.view(LOG).aside), (far.history(LOG), 0));
    assert_eq!(near.view(LOG).lineage, far.view(LOG).lineage);
}

#[test]
fn nothing_else_is_handed_over() {
    let (mut near, mut far) = pair();
    assert_eq!(refused(hand_over(&mut near, generation(2, 1))), RefusalCode::BadRequest);
    assert_eq!(refused(hand_over(&mut near, generation(1, 2))), RefusalCode::BadRequest, "no generation is used twice");
    assert_eq!(refused(hand_over(&mut far, generation(2, 1))), RefusalCode::NotHome);
    let unknown = HandOverLog { log: LogId([1; 16]), to: generation(2, 2), time: Hlc(1) };
    assert_eq!(refused(near.apply(GroupCommand::HandOver(unknown))), RefusalCode::NotFound);
    assert_eq!(try_write(&mut near, 10), Ok(4));
    // One that is on its way goes nowhere else.
    assert!(matches!(hand_over(&mut near, generation(2, 2)), GroupOutcome::Head(_)));
    assert_eq!(refused(hand_over(&mut near, generation(3, 3))), RefusalCode::NotHome);
    // Clients don't hand logs over.
    let proposal = proposal(11, DeltaKind::Switchover(generation(2, 1)), 0);
    far.promote(LOG, 500);
    assert_eq!(far.try_put(LOG, 600, proposal).unwrap_err().code, RefusalCode::BadRequest);
}

#[test]
fn a_third_site_takes_the_last_delta_in_and_stays_a_copy() {
    let (mut near, _) = pair();
    let mut third = Site::new(3);
    hand_over(&mut near, generation(2, 2));
    assert_eq!(replicate(&mut near, &mut third, LOG, 9, 0, 300), Sent::Taken);
    let view = third.view(LOG);
    assert_eq!((view.head.sequence, view.known, view.lineage.len()), (4, generation(1, 1), 1));
    assert!(!view.is_home(site_id(3)) && !view.is_told_by(site_id(3)));
}

#[test]
fn a_home_takes_back_what_has_not_arrived() {
    let (mut near, mut far) = pair();
    hand_over(&mut near, generation(2, 2));
    // What was on its way before arrives later than what undid it.
    let late = near.delivery(LOG, 4, 9);
    assert!(matches!(near.promote(LOG, 200), GroupOutcome::Head(head) if head.sequence == 5));
    assert_eq!(near.view(LOG).known, generation(3, 1));
    // A delivery that ends with the last delta of a generation after which the home went on hands nothing over.
    let mut first = near.delivery(LOG, 4, 1);
    assert_eq!(parse(&first.deltas[0]).proposal.kind, DeltaKind::Switchover(generation(2, 2)));
    assert!(matches!(far.apply(GroupCommand::Accept(first.clone())), GroupOutcome::Head(head) if head.sequence == 4));
    assert_eq!(far.view(LOG).known, generation(3, 1));
    assert_eq!(refused(far.apply(GroupCommand::Accept(late.clone()))), RefusalCode::NotHome);
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 300), Sent::Taken);
    assert_eq!(far.history(LOG), near.history(LOG));

    // The other way round: it arrives first, and what the next home wrote is set aside.
    let mut other = Site::new(2);
    first = near.delivery(LOG, 1, 3);
    first.lineage = late.lineage.clone();
    (first.head, first.head_time) = (late.head.clone(), late.head_time);
    other.apply(GroupCommand::CreateLog((near.view(LOG).descriptor, generation(1, 1))));
    assert!(matches!(other.apply(GroupCommand::Accept(first)), GroupOutcome::Head(head) if head.sequence == 3));
    assert!(matches!(other.apply(GroupCommand::Accept(late)), GroupOutcome::Head(head) if head.sequence == 5));
    assert_eq!(try_write(&mut other, 20), Ok(6));
    assert_eq!(replicate(&mut near, &mut other, LOG, 9, 0, 400), Sent::Taken);
    assert_eq!((other.history(LOG), other.view(LOG).aside), (near.history(LOG), 2));
}

#[test]
fn a_next_home_that_was_promoted_meanwhile_keeps_its_own_beginning() {
    let (mut near, mut far) = pair();
    near.put(LOG, 50, proposal(7, DeltaKind::Put, 7));
    // Both orders give the same generation, which one site alone writes.
    hand_over(&mut near, generation(2, 2));
    assert!(matches!(far.promote(LOG, 100), GroupOutcome::Head(head) if head.sequence == 4));
    let late = near.delivery(LOG, 4, 9);
    assert_eq!(refused(far.apply(GroupCommand::Accept(late))), RefusalCode::NotHome);
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 300), Sent::SteppedDown);
    assert_eq!((near.view(LOG).head.sequence, near.view(LOG).aside), (3, 2));
    assert_eq!(replicate(&mut far, &mut near, LOG, 9, 0, 400), Sent::Taken);
    assert_eq!(near.history(LOG), far.history(LOG));
}

#[test]
fn a_last_delta_below_its_own_generation_begins_nothing() {
    let (mut near, far) = pair();
    hand_over(&mut near, generation(2, 2));
    let spoiled = |change: &dyn Fn(&mut Delta)| {
        let mut delivery = near.delivery(LOG, 4, 9);
        let mut delta = parse(&delivery.deltas[0]);
        change(&mut delta);
        delivery.deltas[0] = delta.to_bytes();
        delivery.head.hash = Delta::hash(&delivery.deltas[0]);
        delivery
    };
    // A generation that is not above the old home's begins nothing.
    for counter in [0, 1] {
        let mut site = far.through_snapshot();
        let low = spoiled(&|delta| delta.proposal.kind = DeltaKind::Switchover(generation(counter, 2)));
        assert!(matches!(site.apply(GroupCommand::Accept(low)), GroupOutcome::Head(head) if head.sequence == 4));
        assert_eq!(site.view(LOG).known, generation(1, 1));
    }
}

#[test]
fn a_log_in_transit_follows_whoever_was_promoted_meanwhile() {
    // The next home never began; the third site's number is below its own.
    let mut near = Site::new(1);
    near.create(LOG);
    near.put(LOG, 10, proposal(1, DeltaKind::Put, 1));
    let mut third = Site::new(2);
    assert_eq!(replicate(&mut near, &mut third, LOG, 9, 0, 1), Sent::Taken);
    hand_over(&mut near, generation(2, 3));
    third.promote(LOG, 100);
    assert_eq!(replicate(&mut near, &mut third, LOG, 9, 0, 200), Sent::SteppedDown);
    assert_eq!((near.view(LOG).known, near.view(LOG).aside), (generation(2, 2), 1));
    assert_eq!(replicate(&mut third, &mut near, LOG, 9, 0, 300), Sent::Taken);
    assert_eq!(near.history(LOG), third.history(LOG));
}
