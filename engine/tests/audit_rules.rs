//! Audit logs as the control group keeps them: each change has its entry and each entry its change, whatever is committed twice,
//! refused, carried over by a snapshot or sent by a peer; and an entry that is altered, removed or moved is found.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::federation::trail::{Contradiction, lacking};
use farside::state::{ControlState, Database};
use farside_codec::Field;
use farside_codec::audit::chain::{ChainFault, Lost, Verifier};
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntry, AuditHash, AuditHead, AuditNote, AuditNotes, AuditOutcome, AuditPlace,
    AuditScope, AuditedCommand,
};
use farside_codec::command::{AcceptAudit, ControlCommand, ControlOutcome, CutPlan, PlannedCut, SiteRecord};
use farside_codec::delta::Generation;
use farside_codec::ids::{DeltaHash, Hlc, Label, LogId, NodeId, SiteId, TenantId};
use farside_codec::message::{PeerAction, PeerRecord, RefusalCode, Tenant};
use farside_codec::recovery::Recovery;
use farside_raft::{Applied, StateMachine};
use proptest::prelude::*;
use tempfile::TempDir;

fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

fn certificate(role: &str) -> AuditActor {
    AuditActor::Certificate(format!("farside://{}/{role}/somebody", SiteId([1; 16])))
}

/// A site's control group, and how to order things of it.
struct Site {
    id: SiteId,
    state: ControlState,
    orders: u8,
    _directory: TempDir,
}

impl Site {
    fn new(number: u8, peers: &[u8]) -> Self {
        let directory = TempDir::new().unwrap();
        let (database, _) = Database::open(&directory.path().join("state")).unwrap();
        let id = SiteId([number; 16]);
        let state = ControlState::new(database).unwrap();
        let mut site = Self { id, state, orders: 0, _directory: directory };
        let name = label(&format!("site-{number}"));
        site.order(ControlCommand::Found(SiteRecord { site: id, name, incarnation: 0, groups: 4 }));
        for peer in peers {
            // As a site of an earlier version added them.
            site.apply(&ControlCommand::PutPeer(peer_record(*peer)));
        }
        site
    }

    fn apply(&mut self, command: &ControlCommand) -> ControlOutcome {
        let outcome = self.state.apply(&[command.to_bytes()], &Applied::default()).unwrap().remove(0);
        ControlOutcome::from_bytes(outcome).unwrap()
    }

    fn ordered(&mut self, by: AuditActor, command: &ControlCommand) -> ControlCommand {
        self.orders += 1;
        let command = command.to_bytes();
        ControlCommand::Audited(AuditedCommand { order: [self.orders; 16], by, ordered: Hlc(5), command })
    }

    fn order(&mut self, command: ControlCommand) -> ControlOutcome {
        let ordered = self.ordered(certificate("admin"), &command);
        self.apply(&ordered)
    }

    fn entries(&self, of: SiteId, scope: &AuditScope) -> Vec<Bytes> {
        let place = AuditPlace { incarnation: 0, sequence: 0 };
        let mut entries = self.state.audit_entries(of, scope, &place, 7, usize::MAX).unwrap();
        while entries.more {
            let last = AuditEntry::from_bytes(entries.entries.last().unwrap().clone()).unwrap();
            let place = AuditPlace { incarnation: last.incarnation, sequence: last.sequence + 1 };
            let next = self.state.audit_entries(of, scope, &place, 7, usize::MAX).unwrap();
            entries.entries.extend(next.entries);
            entries.more = next.more;
        }
        entries.entries
    }

    fn read(&self, scope: &AuditScope) -> Vec<AuditEntry> {
        self.entries(self.id, scope).into_iter().map(|entry| AuditEntry::from_bytes(entry).unwrap()).collect()
    }

    /// Verifies what this site has of a log of `of`.
    fn verify(&self, of: SiteId, scope: &AuditScope) -> Result<Verifier, ChainFault> {
        let mut verifier = Verifier::new(of, scope.clone());
        self.entries(of, scope).iter().try_for_each(|entry| verifier.take(entry).map(drop))?;
        verifier.ends_as(&self.state.audit_heads(of, Some(scope)).unwrap())?;
        Ok(verifier)
    }

    /// Sends what `to` lacks of this site's logs, in deliveries of `most` entries; `deliveries` of them arrive.
    fn cross(&self, to: &mut Self, most: usize, mut deliveries: usize) -> Vec<Contradiction> {
        let own = self.state.audit_heads(self.id, None).unwrap();
        let theirs = to.state.audit_heads(self.id, None).unwrap();
        let incarnation = self.state.view().site.as_ref().unwrap().incarnation;
        let (lacking, contradictions) = lacking(&own, &theirs, incarnation);
        for lacks in lacking {
            let all = self.entries(self.id, &lacks.scope);
            let is_meant = |entry: &&Bytes| {
                let entry = AuditEntry::from_bytes((*entry).clone()).unwrap();
                entry.incarnation == lacks.from.incarnation
                    && (lacks.from.sequence..=lacks.to).contains(&entry.sequence)
            };
            let all: Vec<Bytes> = all.iter().filter(is_meant).cloned().collect();
            for entries in all.chunks(most) {
                if deliveries == 0 {
                    return contradictions;
                }
                deliveries -= 1;
                let accept = ControlCommand::AcceptAudit(AcceptAudit { site: self.id, entries: entries.to_vec() });
                assert_eq!(to.apply(&accept), ControlOutcome::Done);
            }
        }
        contradictions
    }

    /// The same site out of a snapshot.
    fn through_snapshot(&self) -> Self {
        let directory = TempDir::new().unwrap();
        let (database, _) = Database::open(&directory.path().join("state")).unwrap();
        let mut state = ControlState::new(database).unwrap();
        state.install_begin().unwrap();
        let mut pieces = self.state.snapshot().unwrap();
        while let Some(piece) = pieces.next_piece().unwrap() {
            state.install_piece(piece).unwrap();
        }
        state.install_finish(&Applied::default()).unwrap();
        Self { id: self.id, state, orders: self.orders, _directory: directory }
    }
}

fn peer_record(number: u8) -> PeerRecord {
    PeerRecord {
        site: SiteId([number; 16]),
        name: label(&format!("site-{number}")),
        certificate: Bytes::from_static(b"DER"),
        endpoints: Vec::new(),
        paused: false,
    }
}

fn tenant(number: u8) -> ControlCommand {
    let (tenant, name) = (TenantId([number; 16]), label(&format!("tenant-{number}")));
    ControlCommand::PutTenant(Tenant { tenant, name, epochs: Vec::new(), created: Hlc(1) })
}

fn scope(number: u8) -> AuditScope {
    AuditScope::Tenant(TenantId([number; 16]))
}

fn pause(name: &str) -> ControlCommand {
    ControlCommand::SetPeer((label(name), PeerAction::Pause))
}

fn refused(outcome: ControlOutcome) -> RefusalCode {
    match outcome {
        ControlOutcome::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_has_one_entry_and_no_change_has_none() {
    let mut site = Site::new(1, &[2]);
    assert_eq!(site.read(&AuditScope::Site).len(), 1, "the site was founded");
    let ordered = site.ordered(certificate("admin"), &tenant(7));
    for _ in 0..3 {
        // Committed again because an answer was lost.
        assert_eq!(site.apply(&ordered), ControlOutcome::Done);
    }
    let read = site.read(&scope(7));
    assert_eq!((read.len(), read[0].sequence, &read[0].outcome), (1, 1, &AuditOutcome::Done));
    assert!(matches!(&read[0].action, AuditAction::Tenant(tenant) if tenant.created));
    assert_eq!(read[0].by, certificate("admin"));
    // Asked for again, by another order: everything is as it is to be.
    assert_eq!(site.order(tenant(7)), ControlOutcome::Done);
    assert_eq!(site.read(&scope(7)).len(), 1);
    assert_eq!(site.order(pause("site-2")), ControlOutcome::Done);
    assert_eq!(site.order(pause("site-2")), ControlOutcome::Done);
    assert_eq!(site.read(&AuditScope::Site).len(), 2);
    // What an operator tries in vain is there, and what a tenant does is not.
    assert_eq!(refused(site.order(pause("site-9"))), RefusalCode::NotFound);
    let read = site.read(&AuditScope::Site);
    assert!(matches!(&read[2].outcome, AuditOutcome::Failed(failure) if failure.code == RefusalCode::NotFound));
    let tried = site.ordered(certificate("client"), &pause("site-9"));
    assert_eq!(refused(site.apply(&tried)), RefusalCode::NotFound);
    assert_eq!(site.read(&AuditScope::Site).len(), 3);
    // No command of a command, and none that is not written down.
    let inner = site.ordered(certificate("admin"), &tenant(8));
    assert_eq!(refused(site.order(inner)), RefusalCode::BadRequest);
    assert!(site.verify(site.id, &AuditScope::Site).is_ok() && site.verify(site.id, &scope(7)).is_ok());
}

#[test]
fn notes_are_written_once_and_with_their_order() {
    let mut site = Site::new(1, &[]);
    let note = |outcome| AuditNote { scope: scope(7), action: AuditAction::Scrub(3), outcome };
    let notes = vec![note(AuditOutcome::Ordered), note(AuditOutcome::Done)];
    let by = AuditActor::Site(NodeId(4));
    let notes = AuditNotes { id: [0xa1; 16], order: [2; 16], by, ordered: Hlc(9), notes };
    let command = ControlCommand::NoteAudit(notes);
    assert_eq!(site.apply(&command), ControlOutcome::Done);
    assert_eq!(site.apply(&command), ControlOutcome::Done);
    let read = site.read(&scope(7));
    assert_eq!(read.len(), 2);
    assert!(read.iter().all(|entry| entry.order == [2; 16]) && read[1].time > read[0].time);
    // Many orders later it is a new one.
    for number in 0..300u16 {
        let mut id = [3; 16];
        id[..2].copy_from_slice(&number.to_le_bytes());
        let ControlCommand::NoteAudit(notes) = &command else { panic!() };
        site.apply(&ControlCommand::NoteAudit(AuditNotes { id, ..notes.clone() }));
    }
    assert_eq!(site.read(&scope(7)).len(), 602);
    assert!(site.verify(site.id, &scope(7)).is_ok());
}

#[test]
fn what_is_altered_removed_or_moved_is_found() {
    let mut site = Site::new(1, &[2]);
    (0..9).for_each(|number| drop(site.order(ControlCommand::LimitRepair(100 + number))));
    let entries = site.entries(site.id, &AuditScope::Site);
    let heads = site.state.audit_heads(site.id, None).unwrap();
    let check = |entries: &[Bytes]| {
        let mut verifier = Verifier::new(site.id, AuditScope::Site);
        entries.iter().try_for_each(|entry| verifier.take(entry).map(drop)).and_then(|()| verifier.ends_as(&heads))
    };
    assert_eq!((entries.len(), check(&entries)), (10, Ok(())));
    for at in 0..entries.len() {
        let sequence = at as u64 + 1;
        let mut removed = entries.clone();
        removed.remove(at);
        assert_eq!(check(&removed), Err(ChainFault::Missing { from: sequence, to: sequence }), "removed {sequence}");
        let mut cut = entries.clone();
        cut.truncate(at);
        assert_eq!(check(&cut), Err(ChainFault::Missing { from: sequence, to: 10 }), "cut at {sequence}");
        let mut doubled = entries.clone();
        doubled.insert(at, entries[at].clone());
        assert_eq!(check(&doubled), Err(ChainFault::Misplaced { sequence, after: sequence }));
        if at + 1 < entries.len() {
            let mut swapped = entries.clone();
            swapped.swap(at, at + 1);
            assert_eq!(check(&swapped), Err(ChainFault::Missing { from: sequence, to: sequence }));
        }
        let mut entry = AuditEntry::from_bytes(entries[at].clone()).unwrap();
        entry.by = certificate("node");
        let mut altered = entries.clone();
        altered[at] = entry.to_bytes();
        let fault = match at + 1 < entries.len() {
            true => ChainFault::Broken { sequence: sequence + 1 },
            false => ChainFault::OtherEnd { sequence },
        };
        assert_eq!(check(&altered), Err(fault), "altered {sequence}");
    }
}

/// Every byte of every entry is under some hash: none may change.
#[test]
fn no_bit_may_flip() {
    let mut site = Site::new(1, &[]);
    (0..3).for_each(|number| drop(site.order(tenant(number))));
    (0..3).for_each(|number| drop(site.order(ControlCommand::LimitRepair(number + 1))));
    let entries = site.entries(site.id, &AuditScope::Site);
    let heads = site.state.audit_heads(site.id, Some(&AuditScope::Site)).unwrap();
    for (at, entry) in entries.iter().enumerate() {
        for byte in 0..entry.len() {
            let mut flipped = entry.to_vec();
            flipped[byte] ^= 1 << (byte % 8);
            let mut altered = entries.clone();
            altered[at] = flipped.into();
            let mut verifier = Verifier::new(site.id, AuditScope::Site);
            let taken = altered.iter().try_for_each(|entry| verifier.take(entry).map(drop));
            assert!(taken.and_then(|()| verifier.ends_as(&heads)).is_err(), "byte {byte} of entry {at}");
        }
    }
}

#[test]
fn a_peer_takes_the_next_entry_and_nothing_else() {
    let (mut near, mut far) = (Site::new(1, &[2]), Site::new(2, &[1]));
    (0..5).for_each(|number| drop(near.order(ControlCommand::LimitRepair(100 + number))));
    let entries = near.entries(near.id, &AuditScope::Site);
    let accept =
        |site: SiteId, entries: &[Bytes]| ControlCommand::AcceptAudit(AcceptAudit { site, entries: entries.to_vec() });
    let id = near.id;
    assert_eq!(refused(far.apply(&accept(SiteId([9; 16]), &entries))), RefusalCode::Forbidden, "no peer");
    assert_eq!(refused(near.apply(&accept(id, &entries))), RefusalCode::Forbidden, "its own");
    assert_eq!(refused(far.apply(&accept(id, &entries[1..]))), RefusalCode::Diverged, "not from the beginning");
    let mixed = [entries[0].clone(), entries[2].clone()];
    assert_eq!(refused(far.apply(&accept(id, &mixed))), RefusalCode::BadRequest, "one is missing");
    assert!(far.state.audit_heads(id, None).unwrap().is_empty(), "all of a delivery counts or nothing");
    assert_eq!(far.apply(&accept(id, &entries[..3])), ControlOutcome::Done);
    assert_eq!(far.apply(&accept(id, &entries[1..5])), ControlOutcome::Done, "what is there is there");
    assert_eq!((far.entries(id, &AuditScope::Site), far.state.audit_count(id).unwrap()), (entries[..5].to_vec(), 5));
    let mut other = AuditEntry::from_bytes(entries[3].clone()).unwrap();
    other.by = certificate("node");
    assert_eq!(refused(far.apply(&accept(id, &[other.to_bytes()]))), RefusalCode::Diverged, "another one");
    other.sequence = 6;
    assert_eq!(refused(far.apply(&accept(id, &[other.to_bytes()]))), RefusalCode::Diverged, "not after this one");
    assert_eq!(refused(far.apply(&accept(id, &[Bytes::from_static(b"no entry")]))), RefusalCode::BadRequest);
    far.apply(&ControlCommand::SetPeer((label("site-1"), PeerAction::Remove)));
    assert_eq!(refused(far.apply(&accept(id, &entries))), RefusalCode::Forbidden, "no peer any more");
    assert!(far.verify(id, &AuditScope::Site).is_ok(), "what a removed peer wrote stays");
}

#[test]
fn a_new_incarnation_goes_on_where_the_site_was() {
    let (mut near, mut far) = (Site::new(1, &[2]), Site::new(2, &[1]));
    (0..3).for_each(|number| drop(near.order(ControlCommand::LimitRepair(100 + number))));
    let mut restored = near.through_snapshot();
    (0..4).for_each(|number| drop(near.order(ControlCommand::LimitRepair(200 + number))));
    assert!(near.cross(&mut far, 3, usize::MAX).is_empty());
    // Near goes on without what it did last.
    let recovery = Recovery { incarnation: 1, lost: Vec::new(), groups: Vec::new(), emptied: Vec::new() };
    let ordered = restored.ordered(AuditActor::Site(NodeId(1)), &ControlCommand::Recover(recovery));
    assert_eq!(restored.apply(&ordered), ControlOutcome::Done);
    restored.order(ControlCommand::LimitRepair(300));
    assert!(restored.cross(&mut far, 3, usize::MAX).is_empty(), "what an earlier incarnation wrote may be lost");
    let there = far.verify(near.id, &AuditScope::Site).unwrap();
    assert_eq!(there.lost(), [Lost { incarnation: 0, from: 5, to: 8 }]);
    let here = restored.verify(near.id, &AuditScope::Site).unwrap();
    assert_eq!((here.lost(), here.entries(), there.entries()), (Vec::new(), 6, 10));
    let first = restored.read(&AuditScope::Site).into_iter().find(|entry| entry.incarnation == 1).unwrap();
    assert!(matches!(first.action, AuditAction::Recover(_)) && first.sequence == 5, "{first:?}");
    // In one incarnation nothing may go.
    let gone = near.through_snapshot();
    drop(near.order(ControlCommand::LimitRepair(400)));
    near.cross(&mut far, 3, usize::MAX);
    let found = gone.cross(&mut far, 3, usize::MAX);
    let ahead = |here, there| Contradiction::Ahead { scope: AuditScope::Site, here, there };
    assert_eq!(found, [ahead(8, 9), ahead(0, 6)], "and it knows nothing of another incarnation");
}

#[test]
fn a_head_of_another_end_is_found() {
    let mut near = Site::new(1, &[]);
    drop(near.order(tenant(7)));
    let heads = near.state.audit_heads(near.id, None).unwrap();
    let theirs: Vec<AuditHead> =
        heads.iter().map(|head| AuditHead { hash: AuditHash([9; 32]), ..head.clone() }).collect();
    let (lacking, contradictions) = lacking(&heads, &theirs, 0);
    assert!(lacking.is_empty());
    assert_eq!(contradictions.len(), 2, "{contradictions:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Order(bool, u8),
    Again(bool),
    Cross(bool, usize, usize),
    Snapshot(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<bool>(), 0u8..6).prop_map(|(near, what)| Step::Order(near, what)),
        any::<bool>().prop_map(Step::Again),
        (any::<bool>(), 1usize..4, 0usize..4).prop_map(|(near, most, few)| Step::Cross(near, most, few)),
        any::<bool>().prop_map(Step::Snapshot),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Both sites do things, deliveries get lost, answers get lost, snapshots are installed: every copy is a beginning of
    /// its log at every moment, and all of it once everything was delivered.
    #[test]
    fn copies_converge(steps in steps()) {
        let mut sites = [Site::new(1, &[2]), Site::new(2, &[1])];
        let mut last: [Option<ControlCommand>; 2] = [None, None];
        for step in steps {
            match step {
                Step::Order(near, what) => {
                    let at = usize::from(near);
                    let command = match what {
                        0..=2 => tenant(what),
                        3 => pause(if near { "site-1" } else { "site-2" }),
                        _ => ControlCommand::LimitRepair(u64::from(what)),
                    };
                    let ordered = sites[at].ordered(certificate("admin"), &command);
                    sites[at].apply(&ordered);
                    last[at] = Some(ordered);
                }
                Step::Again(near) => {
                    let at = usize::from(near);
                    if let Some(command) = &last[at] {
                        let before = sites[at].state.audit_count(sites[at].id).unwrap();
                        sites[at].apply(command);
                        prop_assert_eq!(sites[at].state.audit_count(sites[at].id).unwrap(), before);
                    }
                }
                Step::Cross(near, most, few) => {
                    let [a, b] = &mut sites;
                    let (from, to) = if near { (a, b) } else { (b, a) };
                    prop_assert!(from.cross(to, most, few).is_empty());
                }
                Step::Snapshot(near) => {
                    let at = usize::from(near);
                    sites[at] = sites[at].through_snapshot();
                }
            }
            for (of, at) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let of = sites[of].id;
                for head in sites[at].state.audit_heads(of, None).unwrap() {
                    prop_assert!(sites[at].verify(of, &head.scope).is_ok());
                }
            }
        }
        let [near, far] = &mut sites;
        near.cross(far, 2, usize::MAX);
        far.cross(near, 2, usize::MAX);
        for (of, copy) in [(&*near, &*far), (&*far, &*near)] {
            prop_assert_eq!(of.state.audit_heads(of.id, None).unwrap(), copy.state.audit_heads(of.id, None).unwrap());
        }
    }
}

#[test]
fn one_cut_is_kept_at_a_time_and_is_nothing_that_is_written_down() {
    let mut site = Site::new(1, &[2]);
    let written = site.entries(site.id, &AuditScope::Site).len();
    let home = Generation { counter: 1, site: SiteId([2; 16]), incarnation: 0 };
    let planned = |log| PlannedCut { log: LogId([log; 16]), home, head: DeltaHash::ZERO };
    let plan = |made, log| CutPlan { made: Hlc(made), cut: Hlc(7), logs: vec![planned(log)] };
    let order = |plan: Option<CutPlan>, instead_of: &[u64]| {
        ControlCommand::PlanCut((plan, instead_of.iter().copied().map(Hlc).collect()))
    };
    let kept = |site: &Site| site.state.view().cut_plans.values().cloned().collect::<Vec<_>>();
    assert_eq!(site.apply(&order(Some(plan(10, 1)), &[])), ControlOutcome::Done);
    assert_eq!(site.apply(&order(Some(plan(10, 1)), &[])), ControlOutcome::Done, "committed twice it is the same one");
    // Two failovers at once of one log: the later one learns that there is a cut, and does not replace it.
    assert_eq!(refused(site.apply(&order(Some(plan(11, 1)), &[]))), RefusalCode::Busy);
    assert_eq!(refused(site.apply(&order(Some(plan(11, 1)), &[9]))), RefusalCode::Busy);
    assert_eq!(site.apply(&order(Some(plan(12, 2)), &[])), ControlOutcome::Done, "it has nothing to do with the other");
    assert_eq!(kept(&site), [plan(10, 1), plan(12, 2)]);
    let site = &mut site.through_snapshot();
    assert_eq!(kept(site), [plan(10, 1), plan(12, 2)], "whoever is given the state has them");
    assert_eq!(site.apply(&order(Some(plan(13, 1)), &[10])), ControlOutcome::Done);
    assert_eq!(site.apply(&order(None, &[12, 9])), ControlOutcome::Done);
    assert_eq!(kept(site), [plan(13, 1)]);
    assert_eq!(site.entries(site.id, &AuditScope::Site).len(), written);
}
