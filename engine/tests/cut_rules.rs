//! Cuts, and moments: closed time of quiet copies, promotions to what a log was at a time, and what of a time is not kept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use farside::state::Missing;
use farside_codec::command::{CloseTime, GroupCommand, GroupOutcome, Promote};
use farside_codec::delta::Generation;
use farside_codec::ids::{DeltaHash, Hlc};
use farside_codec::message::{ClosedLog, Moment, RefusalCode};
use state_support::*;

#[test]
fn a_quiet_log_has_its_time_closed_by_its_home_alone_and_where_nothing_is_missing() {
    let (mut near, mut far) = pair(3);
    let (head, known) = (near.view(LOG).head.hash, near.view(LOG).known);
    let said = |head, generation, closed| {
        let copies = vec![ClosedLog { log: LOG, generation, head, closed: Hlc(closed) }];
        GroupCommand::Close(CloseTime { closed: Hlc(10), copies })
    };
    far.apply(said(head, known, 5000));
    far.apply(said(head, known, 4000));
    assert_eq!((far.view(LOG).closed, far.state.closed().unwrap()), (Hlc(5000), Hlc(10)));
    let elsewhere = Generation { counter: 2, ..known };
    far.apply(said(head, elsewhere, 6000));
    far.apply(said(DeltaHash([1; 32]), known, 6000));
    assert_eq!(far.view(LOG).closed, Hlc(5000), "it was not said of this copy as it is");
    near.put(LOG, 7000, put(4, 4));
    replicate(&mut near, &mut far, LOG, 9, 0, 1);
    far.apply(said(head, known, 8000));
    assert_eq!(far.view(LOG).closed, Hlc(5000), "it was said of an earlier head");
}

#[test]
fn a_promotion_to_a_cut_goes_back_to_it_and_sets_aside_what_came_later() {
    let (near, mut far) = pair(3);
    let weighed = Some((near.view(LOG).known, 0));
    let generation = Generation { counter: 2, site: far.id, incarnation: 0 };
    let at =
        |cut: u64| GroupCommand::Promote(Promote { log: LOG, generation, time: Hlc(1), weighed, cut: Some(Hlc(cut)) });
    let (mut all, mut none, mut pruned) = (pair(3).1, pair(3).1, pair(3).1);
    assert!(matches!(far.apply(at(3 * TICK - 1)), GroupOutcome::Head(head) if head.sequence == 3));
    let view = far.view(LOG);
    assert_eq!((view.aside, view.lineage.last().unwrap().first, view.is_home(far.id)), (1, 3, true));
    assert!(far.state.lookup(LOG, name(3), &Moment::Latest).unwrap().is_none());
    assert!(far.state.lookup(LOG, name(2), &Moment::Latest).unwrap().is_some());
    assert!(matches!(far.apply(at(1)), GroupOutcome::Head(head) if head.sequence == 3), "ordered again it is done");
    all.apply(at(3 * TICK));
    assert_eq!((all.view(LOG).aside, all.view(LOG).lineage.last().unwrap().first), (0, 4));
    none.apply(at(TICK - 1));
    assert_eq!((none.view(LOG).aside, none.view(LOG).lineage.len(), none.view(LOG).head.sequence), (3, 1, 1));
    // What it was at the cut is not all there any more.
    let mut home = near;
    home.put(LOG, 4 * TICK, put(4, 1));
    replicate(&mut home, &mut pruned, LOG, 9, 0, 1);
    assert_eq!(pruned.apply(prune(5 * TICK, 5, 10)), GroupOutcome::Pruned(1));
    assert_eq!(refused(pruned.apply(at(3 * TICK))), RefusalCode::Unsafe);
    assert_eq!(pruned.view(LOG).head.sequence, 4);
    assert!(matches!(pruned.apply(at(4 * TICK)), GroupOutcome::Head(head) if head.sequence == 5));
}

#[test]
fn a_moment_below_the_floor_is_told_as_one() {
    let mut site = home();
    for number in 1..=4 {
        site.put(LOG, number * TICK, put(number, (number % 2) as u8));
    }
    let floor = |site: &Site, at| match site.state.missing_at(LOG, &at).unwrap() {
        Some(Missing::Pruned(floor, time)) => Some((floor, time.0)),
        other => other.map(|_| (0, 0)),
    };
    assert_eq!(floor(&site, Moment::Sequence(1)), None);
    assert_eq!(site.apply(prune(5 * TICK, 4, 10)), GroupOutcome::Pruned(1));
    assert_eq!(floor(&site, Moment::Sequence(2)), Some((3, 3 * TICK)));
    assert_eq!(floor(&site, Moment::Time(Hlc(3 * TICK - 1))), Some((3, 3 * TICK)));
    let whole = [Moment::Latest, Moment::Sequence(3), Moment::Time(Hlc(3 * TICK)), Moment::Sequence(0)];
    whole.into_iter().for_each(|at| assert_eq!(floor(&site, at), None));
    // What is found of a name is all of it where it was not replaced by the floor.
    let at = Moment::Sequence(2);
    let found = site.state.lookup(LOG, name(0), &at).unwrap();
    let missing = |site: &Site, found| site.state.missing_of(LOG, name(0), &at, found).unwrap();
    assert_eq!(missing(&site, found.as_ref()), None);
    assert!(missing(&site, None).is_some(), "it may have been there");
    assert_eq!(site.apply(prune(5 * TICK, 5, 10)), GroupOutcome::Pruned(1));
    assert!(missing(&site, found.as_ref()).is_some(), "another version may have come between");
}
