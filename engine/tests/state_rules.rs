//! What a log group places, accepts, fences and prunes, rule by rule, and what it refuses with which code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::{
    Acknowledge, ChangePolicy, DiscardAside, Fence, GroupCommand, GroupOutcome, Promote, Prune,
};
use farside_codec::delta::{Branch, Cursor, Delta, DeltaKind, Extent, Generation, LogPolicy};
use farside_codec::ids::{DeltaHash, Hlc};
use farside_codec::message::{Moment, RefusalCode};
use state_support::*;

fn remove(operation: u64, name: u8) -> farside_codec::delta::Proposal {
    proposal(operation, DeltaKind::Remove, name)
}

fn code(result: Result<farside_codec::delta::DeltaReceipt, farside_codec::message::Refusal>) -> RefusalCode {
    result.unwrap_err().code
}

#[test]
fn deltas_are_chained_and_time_rises() {
    let mut site = home();
    let first = site.put(LOG, 100, put(1, 1));
    site.apply(close(500));
    site.apply(close(400));
    assert_eq!(site.state.closed().unwrap(), Hlc(500), "closed time never falls back");
    let second = site.put(LOG, 50, put(2, 1));
    let third = site.put(LOG, 50, put(3, 1));
    assert!(first.time == Hlc(100) && second.time == Hlc(501) && third.time == Hlc(502));
    let deltas: Vec<Delta> = site.history(LOG).iter().map(|(_, encoded)| parse(encoded)).collect();
    assert_eq!(deltas[0].previous, DeltaHash::ZERO);
    assert_eq!(deltas[1].previous, first.cursor.hash);
    assert_eq!(deltas[2].previous, second.cursor.hash);
    assert_eq!(deltas[2].closed, Hlc(500));
}

#[test]
fn an_operation_is_applied_once() {
    let mut site = home();
    let first = site.put(LOG, 10, put(1, 1));
    let again = site.put(LOG, 90, put(1, 1));
    assert!(!first.replayed && again.replayed);
    assert_eq!((&first.cursor, first.time), (&again.cursor, again.time));
    assert_eq!(site.view(LOG).head.sequence, 1);
}

#[test]
fn an_operation_is_applied_once_across_a_failover() {
    let (near, mut far) = pair(3);
    far.promote(LOG, 100);
    let again = far.put(LOG, 200, put(2, 2));
    assert!(again.replayed);
    assert_eq!(again.cursor, near.history(LOG)[1].0);
}

#[test]
fn a_condition_sees_the_newest_version() {
    let mut site = home();
    let conditional = |operation, condition| {
        let mut proposal = put(operation, 1);
        proposal.condition = Some(condition);
        proposal
    };
    assert_eq!(code(site.try_put(LOG, 10, conditional(1, 5))), RefusalCode::ConditionFailed);
    site.put(LOG, 10, conditional(2, 0));
    assert_eq!(code(site.try_put(LOG, 10, conditional(3, 0))), RefusalCode::ConditionFailed);
    site.put(LOG, 10, conditional(4, 1));
    site.put(LOG, 10, remove(5, 1));
    assert_eq!(code(site.try_put(LOG, 10, conditional(6, 3))), RefusalCode::ConditionFailed);
    site.put(LOG, 10, conditional(7, 0));
    assert_eq!(site.view(LOG).head.sequence, 4);
}

#[test]
fn stale_receipts_are_refused_past_a_barrier() {
    let mut site = home();
    site.apply(GroupCommand::Barrier(7));
    site.apply(GroupCommand::Barrier(3));
    assert_eq!(site.state.barrier().unwrap(), 7, "a barrier never falls back");
    assert_eq!(code(site.try_put(LOG, 10, with_chunks(put(1, 1), &[1], 5))), RefusalCode::StaleReceipt);
    site.put(LOG, 10, with_chunks(put(2, 1), &[1], 6));
    site.put(LOG, 10, put(3, 1));
}

#[test]
fn proposals_beyond_their_bounds_are_refused() {
    let mut site = home();
    let bad = [
        proposal(1, DeltaKind::Promoted(Generation { counter: 9, site: site_id(1), incarnation: 0 }), 0),
        proposal(2, DeltaKind::Config(Bytes::from(vec![0; farside_codec::limits::MAX_DELTA_BYTES])), 0),
        with_chunks(put(3, 1), &[], 0),
        {
            let mut chunks = put(4, 1);
            chunks.gc_epoch = 3;
            chunks
        },
        {
            let mut inline = put(5, 1);
            inline.inline = vec![0; 17 << 10].into();
            inline
        },
        {
            let mut payload = put(6, 1);
            payload.payload = vec![0; 200 << 10].into();
            payload
        },
        {
            let mut removal = remove(7, 1);
            removal.extent = Some(Extent { object: operation(7), index: 0 });
            removal
        },
        proposal(8, DeltaKind::Extent, 1),
    ];
    let mut codes = Vec::new();
    for proposal in bad {
        codes.push(site.try_put(LOG, 10, proposal).map_err(|refusal| refusal.code));
    }
    let placed: Vec<usize> = (0..codes.len()).filter(|index| codes[*index].is_ok()).collect();
    // Chunks and gc epoch both absent is what a small object looks like.
    assert_eq!(placed, [2]);
    assert!(codes.iter().flat_map(|code| code.as_ref().err()).all(|code| *code == RefusalCode::BadRequest));
}

#[test]
fn key_epochs_are_listed_once_and_bounded() {
    let mut site = home();
    site.put(LOG, 1, proposal(1, DeltaKind::Epoch(epoch(2)), 0));
    site.put(LOG, 1, proposal(2, DeltaKind::Epoch(epoch(2)), 0));
    assert_eq!(site.view(LOG).epochs, [epoch(1), epoch(2)]);
    let refused = (3..200).find_map(|number: u64| {
        let mut large = epoch(number as u8);
        large.key_name = "k".repeat(4000);
        site.try_put(LOG, 1, proposal(number, DeltaKind::Epoch(large), 0)).err()
    });
    assert_eq!(refused.unwrap().code, RefusalCode::BadRequest);
}

fn extent(number: u64, object: u64, index: u32, chunks: &[u8]) -> farside_codec::delta::Proposal {
    let mut extent = with_chunks(proposal(number, DeltaKind::Extent, 1), chunks, 9);
    extent.extent = Some(Extent { object: operation(object), index });
    extent
}

fn commit(object: u64, extents: u32) -> farside_codec::delta::Proposal {
    let mut last = with_chunks(put(object, 1), &[99], 9);
    last.extent = Some(Extent { object: operation(object), index: extents });
    last
}

#[test]
fn extents_are_seen_when_the_last_delta_commits() {
    let (mut near, mut far) = (home(), Site::new(2));
    near.put(LOG, 1, extent(1, 50, 0, &[1, 2]));
    assert!(near.state.lookup(LOG, name(1), &Moment::Latest).unwrap().is_none());
    assert_eq!(code(near.try_put(LOG, 1, commit(50, 2))), RefusalCode::BadRequest, "an extent is missing");
    near.put(LOG, 1, extent(2, 50, 1, &[3]));
    assert_eq!(code(near.try_put(LOG, 1, extent(3, 50, 1, &[4]))), RefusalCode::BadRequest, "placed before");
    let mut stolen = commit(50, 2);
    stolen.operation = operation(51);
    assert_eq!(code(near.try_put(LOG, 1, stolen)), RefusalCode::BadRequest, "extents of another object");
    near.put(LOG, 1, commit(50, 2));
    assert_eq!(code(near.try_put(LOG, 1, extent(4, 50, 2, &[5]))), RefusalCode::BadRequest, "committed before");
    replicate(&mut near, &mut far, LOG, usize::MAX, 0, 1);
    for site in [&near, &far] {
        let version = site.state.lookup(LOG, name(1), &Moment::Latest).unwrap().unwrap();
        let parts: Vec<_> = version.extents.iter().map(|part| parse(part).proposal.operation).collect();
        assert_eq!(parts, [operation(1), operation(2)]);
        assert_eq!(parse(&version.delta).proposal.operation, operation(50));
    }
}

#[test]
fn an_object_is_refused_when_one_reply_could_not_carry_it() {
    let mut site = home();
    let large = |number: u64, index| {
        let mut large = extent(number, 500, index, &[1]);
        large.payload = vec![7; 180 << 10].into();
        large
    };
    for index in 0..20 {
        site.put(LOG, 1, large(u64::from(index) + 1, index));
    }
    assert_eq!(code(site.try_put(LOG, 1, commit(500, 20))), RefusalCode::BadRequest);
    site.put(LOG, 1, commit(500, 15));
}

#[test]
fn a_copy_places_nothing_and_a_home_accepts_nothing() {
    let (mut near, mut far) = pair(3);
    assert_eq!(code(far.try_put(LOG, 100, put(9, 9))), RefusalCode::NotHome);
    let delivery = near.delivery(LOG, 1, usize::MAX);
    assert_eq!(refused(near.apply(GroupCommand::Accept(delivery))), RefusalCode::Diverged);
}

#[test]
fn a_repeated_delivery_is_harmless() {
    let (near, mut far) = pair(5);
    let before = far.rows();
    let outcome = far.apply(GroupCommand::Accept(near.delivery(LOG, 2, 3)));
    assert!(matches!(outcome, GroupOutcome::Head(ref head) if head.sequence == 5), "{outcome:?}");
    assert_eq!(before.len(), far.rows().len());
    assert_eq!(far.history(LOG), near.history(LOG));
}

#[test]
fn a_copy_takes_only_what_continues_it() {
    let (mut near, mut far) = pair(3);
    for number in 4..=6 {
        near.put(LOG, 1000 + number, put(number, 1));
    }
    let good = || near.delivery(LOG, 4, usize::MAX);
    let check = |far: &mut Site, spoil: &dyn Fn(&mut farside_codec::command::AcceptDeltas), code: RefusalCode| {
        let (mut delivery, before) = (good(), far.rows());
        spoil(&mut delivery);
        assert_eq!(refused(far.apply(GroupCommand::Accept(delivery))), code);
        assert_eq!(before.len(), far.rows().len(), "a refused delivery changes nothing");
        assert_eq!(far.view(LOG).head.sequence, 3);
    };
    let rewritten = |delivery: &mut farside_codec::command::AcceptDeltas, change: &dyn Fn(&mut Delta)| {
        let mut delta = parse(&delivery.deltas[1]);
        change(&mut delta);
        delivery.deltas[1] = delta.to_bytes();
    };
    check(&mut far, &|it| drop(it.deltas.remove(0)), RefusalCode::Diverged);
    check(&mut far, &|it| drop(it.deltas.remove(1)), RefusalCode::Diverged);
    check(&mut far, &|it| it.deltas[1] = Bytes::from_static(b"nonsense"), RefusalCode::BadRequest);
    check(&mut far, &|it| rewritten(it, &|delta| delta.previous = DeltaHash([3; 32])), RefusalCode::Diverged);
    check(&mut far, &|it| rewritten(it, &|delta| delta.log = log_id(3)), RefusalCode::BadRequest);
    check(&mut far, &|it| rewritten(it, &|delta| delta.time = Hlc(1)), RefusalCode::BadRequest);
    check(&mut far, &|it| rewritten(it, &|delta| delta.time = Hlc(u64::MAX)), RefusalCode::BadRequest);
    check(&mut far, &|it| rewritten(it, &|delta| delta.generation.counter = 2), RefusalCode::BadRequest);
    check(&mut far, &|it| it.lineage.clear(), RefusalCode::BadRequest);
    check(&mut far, &|it| it.lineage[0].first = 0, RefusalCode::BadRequest);
    check(&mut far, &|it| it.lineage[0].generation.counter = 0, RefusalCode::NotHome);
    check(&mut far, &|it| it.lineage[0].generation.site = site_id(2), RefusalCode::Diverged);
    assert!(matches!(far.apply(GroupCommand::Accept(good())), GroupOutcome::Head(head) if head.sequence == 6));
}

#[test]
fn promotion_begins_a_generation_and_an_old_home_is_rewound() {
    let (mut near, mut far) = pair(4);
    for number in 5..=7 {
        near.put(LOG, 1000 + number, with_chunks(put(number, 1), &[number as u8], 1));
    }
    near.put(LOG, 2000, remove(8, 2));
    assert!(matches!(far.promote(LOG, 3000), GroupOutcome::Head(head) if head.sequence == 5));
    let promoted = parse(&far.history(LOG)[4].1);
    assert!(matches!(promoted.proposal.kind, DeltaKind::Promoted(generation) if generation.counter == 2));
    far.put(LOG, 3001, put(5, 3));
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 4000), Sent::SteppedDown);
    assert_eq!(code(near.try_put(LOG, 5000, put(20, 1))), RefusalCode::NotHome);
    assert_eq!(near.view(LOG).head, far.history(LOG)[3].0);
    assert_eq!(near.view(LOG).aside, 4);
    let aside = near.state.set_aside(LOG, None, 100, 1 << 20).unwrap();
    assert!(!aside.more);
    let aside = aside.deltas;
    let undone: Vec<u64> = aside.iter().map(|delta| delta.cursor.sequence).collect();
    assert_eq!(undone, [5, 6, 7, 8]);
    assert!(aside.iter().all(|delta| delta.time == Hlc(4000) && delta.by.site == site_id(2)));
    let rest = near.state.set_aside(LOG, Some(&aside[1].cursor), 1, 1 << 20).unwrap();
    assert!(rest.more);
    assert_eq!(rest.deltas[0].cursor.sequence, 7);
    // What was removed in the undone tail is back; its chunks are still referenced.
    assert!(near.state.lookup(LOG, name(2), &Moment::Latest).unwrap().is_some());
    assert_eq!(near.state.references(&[chunk(5), chunk(6), chunk(8)]).unwrap(), [true, true, false]);
    assert_eq!(replicate(&mut far, &mut near, LOG, 99, 0, 5000), Sent::Taken);
    assert_eq!(near.history(LOG), far.history(LOG));
    assert_eq!(near.view(LOG).lineage, far.view(LOG).lineage);
    // It goes by order only, in steps, by who knows how much it is.
    let discard = |expected, limit| GroupCommand::DiscardAside(DiscardAside { log: LOG, expected, limit });
    assert_eq!(refused(near.apply(discard(3, 9))), RefusalCode::Unsafe);
    assert_eq!(refused(near.apply(discard(5, 9))), RefusalCode::Unsafe);
    assert_eq!(near.view(LOG).aside, 4);
    assert!(matches!(near.apply(discard(4, 1)), GroupOutcome::Pruned(1)));
    assert_eq!(near.state.references(&[chunk(5), chunk(6)]).unwrap(), [false, true]);
    assert!(matches!(near.apply(discard(3, 9)), GroupOutcome::Pruned(3)));
    assert_eq!(near.view(LOG).aside, 0);
    assert!(near.state.set_aside(LOG, None, 9, 1 << 20).unwrap().deltas.is_empty());
    assert_eq!(near.state.references(&[chunk(5), chunk(6)]).unwrap(), [false, false]);
    assert_eq!(near.history(LOG), far.history(LOG), "the log itself keeps what it has");
}

#[test]
fn a_generation_that_never_came_here_is_not_in_this_copys_history() {
    let (mut near, mut far) = pair(4);
    far.promote(LOG, 100);
    // The old home is fenced, then the new one is lost before a single delta of its generation came over.
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 200), Sent::SteppedDown);
    assert!(matches!(near.promote(LOG, 300), GroupOutcome::Head(_)));
    let counters: Vec<u64> = near.view(LOG).lineage.iter().map(|branch| branch.generation.counter).collect();
    assert_eq!(counters, [1, 3]);
    // And it comes back.
    assert_eq!(replicate(&mut near, &mut far, LOG, 9, 0, 400), Sent::Taken);
    assert_eq!(far.history(LOG), near.history(LOG));
    assert_eq!(far.view(LOG).lineage, near.view(LOG).lineage);
    assert_eq!(far.view(LOG).aside, 1);
}

#[test]
fn deltas_set_aside_by_two_homes_of_one_counter_are_both_kept() {
    let (mut near, mut far) = pair(2);
    let mut third = Site::new(3);
    replicate(&mut near, &mut third, LOG, 99, 0, 1);
    // Two forced failovers at once: generation 2 at site 2 and at site 3. Site 3's is the higher one.
    far.promote(LOG, 100);
    far.put(LOG, 101, with_chunks(put(10, 1), &[10], 0));
    third.promote(LOG, 100);
    third.put(LOG, 101, with_chunks(put(11, 1), &[10], 0));
    assert_eq!(replicate(&mut third, &mut far, LOG, 99, 0, 200), Sent::Taken);
    assert_eq!(far.view(LOG).aside, 2);
    // Then site 1 becomes home of generation 3 from where it was.
    near.promote(LOG, 300);
    let generation = Generation { counter: 3, site: site_id(1), incarnation: 0 };
    let promote = Promote { log: LOG, generation, time: Hlc(301), weighed: None, cut: None };
    near.apply(GroupCommand::Promote(promote));
    assert_eq!(replicate(&mut near, &mut far, LOG, 99, 0, 400), Sent::Taken);
    assert_eq!(far.view(LOG).aside, 4);
    assert_eq!(far.state.set_aside(LOG, None, 99, 1 << 20).unwrap().deltas.len(), 4);
    // Both put one chunk at one place: each has a reference of its own.
    let discard = |expected| GroupCommand::DiscardAside(DiscardAside { log: LOG, expected, limit: 2 });
    assert!(matches!(far.apply(discard(4)), GroupOutcome::Pruned(2)));
    assert_eq!(far.state.references(&[chunk(10)]).unwrap(), [true]);
    assert!(matches!(far.apply(discard(2)), GroupOutcome::Pruned(2)));
    assert_eq!(far.state.references(&[chunk(10)]).unwrap(), [false]);
}

#[test]
fn a_fence_is_refused_where_histories_share_no_point_or_the_generation_is_ours() {
    let (mut near, far) = pair(4);
    let fence = |lineage: Vec<Branch>| GroupCommand::Fence(Fence { log: LOG, lineage, time: Hlc(1) });
    let theirs = Generation { counter: 2, site: site_id(2), incarnation: 0 };
    let mut foreign = near.view(LOG).lineage;
    foreign.push(Branch { generation: theirs, first: 4, previous: DeltaHash([5; 32]) });
    assert_eq!(refused(near.apply(fence(foreign.clone()))), RefusalCode::Diverged);
    foreign[1].generation.site = site_id(1);
    foreign[1].previous = near.history(LOG)[2].0.hash;
    assert_eq!(refused(near.apply(fence(foreign.clone()))), RefusalCode::Diverged, "a generation it forgot");
    foreign[1].first = 1;
    assert_eq!(refused(near.apply(fence(foreign))), RefusalCode::BadRequest);
    assert_eq!(refused(near.apply(fence(Vec::new()))), RefusalCode::BadRequest);
    // Its own lineage is no news.
    let same = near.view(LOG).lineage;
    assert!(matches!(near.apply(fence(same)), GroupOutcome::Head(head) if head.sequence == 4));
    assert_eq!(near.history(LOG), far.history(LOG));
}

#[test]
fn cursors_rise_and_go_with_the_history_they_are_of() {
    let (mut near, mut far) = pair(3);
    let says = |time, peer, cursor: &Cursor, instead_of: Option<u64>| {
        let (cursor, time, instead_of) = (cursor.clone(), Hlc(time), instead_of.map(Hlc));
        GroupCommand::Acknowledge(Acknowledge { log: LOG, peer, cursor, time, instead_of })
    };
    let acknowledge = |peer, cursor: &Cursor| says(1, peer, cursor, None);
    let history: Vec<Cursor> = near.history(LOG).into_iter().map(|(cursor, _)| cursor).collect();
    near.apply(acknowledge(site_id(2), &history[1]));
    near.apply(acknowledge(site_id(2), &history[0]));
    let lag = near.state.peers(LOG).unwrap().remove(0);
    assert!(lag.cursor == history[1] && lag.deltas == 1 && lag.oldest == Some(Hlc(3 * TICK)));
    assert_eq!(lag.bytes, near.history(LOG)[2].1.len() as u64);
    // It was restored from a backup and says so. One that was on its way since before another one was recorded says nothing.
    near.apply(says(2, site_id(2), &history[1], None));
    near.apply(says(3, site_id(2), &history[0], Some(1)));
    assert_eq!(near.state.peers(LOG).unwrap().remove(0).cursor, history[1]);
    let falls = says(4, site_id(2), &history[0], Some(2));
    near.apply(falls.clone());
    let lag = near.state.peers(LOG).unwrap().remove(0);
    assert!(lag.cursor == history[0] && lag.deltas == 2 && lag.oldest == Some(Hlc(2 * TICK)));
    let nothing = Cursor { sequence: 0, hash: DeltaHash::ZERO, ..history[0].clone() };
    near.apply(says(5, site_id(2), &nothing, Some(4)));
    assert_eq!(near.state.peers(LOG).unwrap().remove(0).deltas, 3);
    near.apply(says(6, site_id(2), &history[1], None));
    // What is committed twice takes nothing back the second time.
    near.apply(falls);
    assert_eq!(near.state.peers(LOG).unwrap().remove(0).cursor, history[1]);
    let elsewhere = Cursor { hash: DeltaHash([1; 32]), ..history[2].clone() };
    assert_eq!(refused(near.apply(acknowledge(site_id(2), &elsewhere))), RefusalCode::Diverged);
    let beyond = Cursor { sequence: 9, ..history[2].clone() };
    assert_eq!(refused(near.apply(acknowledge(site_id(2), &beyond))), RefusalCode::Diverged);
    // A third site had more than the second, which becomes home.
    near.put(LOG, 500, put(4, 4));
    near.apply(acknowledge(site_id(3), &near.view(LOG).head.clone()));
    far.promote(LOG, 600);
    replicate(&mut near, &mut far, LOG, 9, 0, 700);
    let peers: Vec<_> = near.state.peers(LOG).unwrap().into_iter().map(|lag| lag.peer).collect();
    assert_eq!(peers, [site_id(2)]);
    near.apply(GroupCommand::ForgetPeer(site_id(2)));
    assert!(near.state.peers(LOG).unwrap().is_empty());
}

#[test]
fn pruning_keeps_the_chain_and_what_a_rewind_could_bring_back() {
    let mut site = home();
    for number in 1..=4 {
        site.put(LOG, number * TICK, with_chunks(put(number, 1), &[number as u8], 9));
    }
    site.put(LOG, 50, remove(5, 1));
    // The delta that replaced the third is not below the floor.
    assert_eq!(site.apply(prune(1000, 4, 99)), GroupOutcome::Pruned(2));
    assert_eq!(site.state.references(&[1, 2, 3, 4].map(chunk)).unwrap(), [false, false, true, true]);
    let at = |site: &Site, sequence| site.state.lookup(LOG, name(1), &Moment::Sequence(sequence)).unwrap().is_some();
    assert!(!at(&site, 2) && at(&site, 3) && at(&site, 4) && !at(&site, 5));
    // The horizon keeps what was replaced later; the removal goes last.
    assert_eq!(site.apply(prune(41, 99, 99)), GroupOutcome::Pruned(1));
    assert_eq!(site.apply(prune(1000, 99, 1)), GroupOutcome::Pruned(1));
    assert_eq!(site.apply(prune(1000, 99, 9)), GroupOutcome::Pruned(1));
    assert_eq!(site.apply(prune(1000, 99, 9)), GroupOutcome::Pruned(0));
    assert!(site.state.history(LOG, name(1), u64::MAX, 99, 1 << 20).unwrap().versions.is_empty());
    let history = site.history(LOG);
    assert_eq!(history.len(), 5, "the chain is whole");
    assert!(history.iter().all(|(_, encoded)| encoded.is_empty()));
    assert!(site.put(LOG, 99, put(3, 1)).replayed, "an operation whose version was pruned is still known");
    // A history that leaves before what was pruned still has those versions.
    let mut lineage = site.view(LOG).lineage;
    let generation = Generation { counter: 2, site: site_id(2), incarnation: 0 };
    lineage.push(Branch { generation, first: 4, previous: history[2].0.hash });
    let fence = GroupCommand::Fence(Fence { log: LOG, lineage, time: Hlc(1) });
    assert!(matches!(site.apply(fence), GroupOutcome::Head(head) if head.sequence == 3));
    let seeding = site.view(LOG).seeding.unwrap();
    assert_eq!((seeding.whole.sequence, seeding.filled.unwrap().sequence), (0, 0), "it is sent all of it again");
}

#[test]
fn a_lagging_peer_bounds_how_many_rows_a_prune_looks_at() {
    let mut site = home();
    for number in 1..=100 {
        site.put(LOG, number, put(number, 1));
    }
    assert_eq!(site.apply(prune(1000, 1, 2)), GroupOutcome::Pruned(0));
    assert_eq!(site.apply(prune(1000, 101, 100)), GroupOutcome::Pruned(99));
}

#[test]
fn pruned_objects_take_their_extents_along() {
    let mut site = home();
    site.put(LOG, 1, extent(1, 50, 0, &[1, 2]));
    site.put(LOG, 2, commit(50, 1));
    site.put(LOG, 3, put(2, 1));
    assert_eq!(site.apply(prune(1000, 99, 9)), GroupOutcome::Pruned(1));
    assert_eq!(site.state.references(&[chunk(1), chunk(2), chunk(99)]).unwrap(), [false; 3]);
}

#[test]
fn a_copy_says_what_a_failover_would_lose() {
    let (mut near, mut far) = pair(3);
    let (first, second) = (near.delivery(LOG, 4, 0), {
        near.put(LOG, 900, put(4, 4));
        near.delivery(LOG, 5, 0)
    });
    far.apply(GroupCommand::Accept(second));
    far.apply(GroupCommand::Accept(first));
    let heard = far.view(LOG).heard.unwrap();
    assert_eq!((heard.0.sequence, heard.1), (4, Hlc(900)), "an older word does not take the newer one's place");
    assert_eq!(far.view(LOG).closed, Hlc(0), "a promise about time counts only with everything it covers");
    near.apply(close(2000));
    replicate(&mut near, &mut far, LOG, 9, 0, 1);
    assert_eq!(far.view(LOG).closed, Hlc(2000));
    far.promote(LOG, 10);
    assert!(far.view(LOG).head_time > Hlc(2000), "a new home keeps the old one's promise");
}

#[test]
fn a_log_is_created_once_and_its_policy_only_rises() {
    let mut site = home();
    let generation = site.view(LOG).known;
    let create = |change: &dyn Fn(&mut farside_codec::delta::LogDescriptor)| {
        let mut descriptor = descriptor(LOG);
        change(&mut descriptor);
        GroupCommand::CreateLog((descriptor, generation))
    };
    site.put(LOG, 1, put(1, 1));
    assert!(matches!(site.apply(create(&|it| it.created = Hlc(77))), GroupOutcome::Head(head) if head.sequence == 1));
    assert_eq!(refused(site.apply(create(&|it| it.name = label("other")))), RefusalCode::Exists);
    let policy = LogPolicy { history_seconds: 5, ..LogPolicy::default() };
    site.apply(GroupCommand::ChangePolicy(ChangePolicy { log: LOG, policy: policy.clone() }));
    assert_eq!(site.view(LOG).descriptor.policy_version, 1);
    site.apply(create(&|_| {}));
    assert_eq!(site.view(LOG).descriptor.policy, policy);
    site.apply(create(&|it| it.policy_version = 2));
    assert_eq!(site.view(LOG).descriptor.policy, LogPolicy::default());
}

#[test]
fn a_log_that_is_not_here_is_not_found() {
    let mut site = home();
    let other = log_id(77);
    assert_eq!(refused(site.place(other, 1, vec![put(1, 1)])), RefusalCode::NotFound);
    let prune = GroupCommand::Prune(Prune { log: other, horizon: Hlc(1), below: 1, limit: 1 });
    assert_eq!(refused(site.apply(prune)), RefusalCode::NotFound);
    assert!(site.state.log(other).unwrap().is_none());
    assert!(site.state.lookup(other, name(1), &Moment::Time(Hlc(5))).unwrap().is_none());
}

#[test]
fn a_quota_counts_what_is_there_and_lets_removals_through() {
    let mut site = home();
    let sized = |number: u64, name: u8| with_chunks(put(number, name), &[number as u8], 9);
    site.put(LOG, 10, sized(1, 1));
    let one = site.view(LOG).live_bytes;
    assert!(one > 100, "a chunk of a hundred bytes, and the delta that names it");
    let quota = |site: &mut Site, quota_bytes| {
        let policy = LogPolicy { quota_bytes, ..LogPolicy::default() };
        site.apply(GroupCommand::ChangePolicy(ChangePolicy { log: LOG, policy }));
    };
    quota(&mut site, 2 * one);
    site.put(LOG, 20, sized(2, 1));
    assert_eq!(code(site.try_put(LOG, 30, sized(3, 2))), RefusalCode::Quota);
    assert_eq!(site.view(LOG).live_bytes, 2 * one, "what is refused counts for nothing");
    site.put(LOG, 40, remove(4, 1));
    assert!(site.view(LOG).live_bytes > 2 * one, "removals are the way back");
    assert_eq!(code(site.try_put(LOG, 50, sized(5, 2))), RefusalCode::Quota, "old versions count");
    assert!(site.put(LOG, 60, sized(2, 1)).replayed, "what was done is done");
    site.apply(prune(1000, 99, 99));
    assert_eq!(site.view(LOG).live_bytes, 0);
    site.put(LOG, 70, sized(5, 2));
    assert_eq!(site.view(LOG).live_bytes, one);
    quota(&mut site, 0);
    site.put(LOG, 80, sized(6, 2));
    site.put(LOG, 90, sized(7, 2));
}
