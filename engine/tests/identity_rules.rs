//! What the control group agrees on about identities and authorities, rule by rule and in random histories.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::state::{ControlState, Database, authority_depends, authority_waits};
use farside_codec::Field;
use farside_codec::authority::{
    AuthorityStep, DropAuthority, IntroduceAuthority, NodeStanding, PeerAuthorities, PeerTold, SiteAuthority,
};
use farside_codec::cluster::{NodeBeat, NodeState};
use farside_codec::command::{ControlCommand, ControlOutcome, SiteRecord};
use farside_codec::identity::{IdentityRecord, IdentityRole, PutIdentity, Revocation, RevokeIdentity};
use farside_codec::ids::{DeviceId, Hlc, Label, NodeId, SiteId, TenantId};
use farside_codec::message::{PeerAction, PeerRecord, RefusalCode};
use farside_raft::{Applied, StateMachine};
use proptest::prelude::*;
use std::collections::BTreeSet;
use tempfile::TempDir;

const DAY_MS: u64 = 86_400_000;

struct Group {
    state: ControlState,
    database: Database,
    _directory: TempDir,
}

fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

impl Group {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (database, _) = Database::open(&directory.path().join("state")).unwrap();
        let mut group = Self { state: ControlState::new(database.clone()).unwrap(), database, _directory: directory };
        let site = SiteRecord { site: SiteId([1; 16]), name: label("near"), incarnation: 0, groups: 2 };
        group.done(ControlCommand::Found(site));
        let devices = vec![(DeviceId([1; 16]), 1 << 30)];
        let beat = NodeBeat { node: NodeId(1), endpoint: "127.0.0.1:1".into(), shards: 1, devices };
        group.done(ControlCommand::RegisterNode(beat));
        group
    }

    fn apply(&mut self, command: ControlCommand) -> Result<(), RefusalCode> {
        let outcome = self.state.apply(&[command.to_bytes()], &Applied::default()).unwrap().remove(0);
        match ControlOutcome::from_bytes(outcome).unwrap() {
            ControlOutcome::Refused(refusal) => Err(refusal.code),
            _ => Ok(()),
        }
    }

    fn done(&mut self, command: ControlCommand) {
        assert_eq!(self.apply(command.clone()), Ok(()), "{command:?}");
    }

    /// What is in memory is what is stored.
    fn check_stored(&self) {
        let read = ControlState::new(self.database.clone()).unwrap();
        assert_eq!(format!("{:?}", read.view()), format!("{:?}", self.state.view()));
    }

    fn step(&self) -> Option<AuthorityStep> {
        self.state.view().authorities.as_ref().map(|known| known.step.clone())
    }
}

fn record(number: u8, name: &str, role: IdentityRole, expires_day: u64) -> IdentityRecord {
    let (issued, expires) = (Hlc::from_ms(u64::from(number)), Hlc::from_ms(expires_day * DAY_MS));
    IdentityRecord { serial: [number; 16], name: label(name), role, authority: 0, issued, expires, revoked: None }
}

fn put(record: IdentityRecord, named: bool, day: u64) -> ControlCommand {
    ControlCommand::PutIdentity(PutIdentity { record, named, time: Hlc::from_ms(day * DAY_MS) })
}

fn revoke(number: u8, day: u64, force: bool) -> ControlCommand {
    let revocation = Revocation { at: Hlc::from_ms(day * DAY_MS), by: label("anna") };
    ControlCommand::RevokeIdentity(RevokeIdentity { serial: [number; 16], revocation, force })
}

#[test]
fn the_last_operator_stays_and_a_name_is_one_persons() {
    let mut group = Group::new();
    group.done(put(record(1, "admin", IdentityRole::Operator, 100), false, 1));
    assert_eq!(
        group.apply(put(record(2, "admin", IdentityRole::Client(TenantId([2; 16])), 100), true, 1)),
        Err(RefusalCode::Exists)
    );
    assert_eq!(group.apply(revoke(1, 2, false)), Err(RefusalCode::Unsafe));
    group.done(put(record(3, "brief", IdentityRole::Operator, 3), true, 1));
    assert_eq!(group.apply(revoke(1, 4, false)), Err(RefusalCode::Unsafe), "one that has expired is nobody");
    group.done(revoke(1, 2, false));
    group.done(revoke(1, 9, false));
    assert_eq!(group.state.view().identities[&[1; 16]].revoked.as_ref().unwrap().at, Hlc::from_ms(2 * DAY_MS));
    group.done(put(record(1, "admin", IdentityRole::Operator, 100), false, 5));
    assert!(group.state.view().revoked.contains(&[1; 16]), "nobody comes back by being listed again");
    assert_eq!(group.apply(revoke(3, 2, false)), Err(RefusalCode::Unsafe));
    group.done(revoke(3, 2, true));
    assert_eq!(group.apply(revoke(77, 2, true)), Err(RefusalCode::NotFound));
    // A node holds the authority's key; what it does not show any more may go.
    group.done(put(record(10, "1", IdentityRole::Node, 100), false, 5));
    assert_eq!(group.apply(revoke(10, 6, true)), Err(RefusalCode::Unsafe));
    group.done(put(record(11, "1", IdentityRole::Node, 100), false, 5));
    group.done(revoke(10, 6, false));
    group.check_stored();
}

#[test]
fn the_list_is_bounded_and_forgets_no_revocation_that_counts() {
    let mut group = Group::new();
    let many = |number: u16, day: u64| {
        let mut one = record(0, "many", IdentityRole::Client(TenantId([2; 16])), day);
        one.serial = [&number.to_be_bytes()[..], &[9; 14]].concat().try_into().unwrap();
        one
    };
    group.done(put(record(1, "gone", IdentityRole::Client(TenantId([2; 16])), 2), false, 1));
    group.done(revoke(1, 1, false));
    for number in 0..4095 {
        group.done(put(many(number, 1000), false, 1));
    }
    assert_eq!(group.apply(put(many(5000, 1000), false, 31)), Err(RefusalCode::Full));
    assert!(group.state.view().revoked.contains(&[1; 16]), "it has expired, and not long ago");
    // Long after it has expired it gives way, and what was not revoked goes by itself.
    group.done(put(many(5000, 1000), false, 40));
    assert!(!group.state.view().identities.contains_key(&[1; 16]) && group.state.view().revoked.is_empty());
    group.done(put(many(5001, 3000), false, 2000));
    assert_eq!(group.state.view().identities.len(), 1);
    group.check_stored();
}

fn authority(generation: u32) -> SiteAuthority {
    let bytes = |kind: u8| Bytes::from(vec![kind, generation as u8]);
    SiteAuthority { generation, certificate: bytes(1), endorsement: bytes(2), sealed_key: bytes(3), made: Hlc(1) }
}

fn introduce(generation: u32) -> ControlCommand {
    let (current, next) = (authority(generation), authority(generation + 1));
    ControlCommand::IntroduceAuthority(IntroduceAuthority { current, next })
}

fn stand(change: u64, generation: u32) -> ControlCommand {
    ControlCommand::StandNode(NodeStanding { node: NodeId(1), change, generation })
}

fn drop_old(change: u64, force: bool) -> ControlCommand {
    ControlCommand::DropAuthority(DropAuthority { change, force, time: Hlc::from_ms(5 * DAY_MS) })
}

fn peer(certificate: &'static [u8]) -> ControlCommand {
    let certificate = Bytes::from_static(certificate);
    let endpoints = vec!["127.0.0.1:2".into()];
    ControlCommand::PutPeer(PeerRecord {
        site: SiteId([2; 16]),
        name: label("far"),
        certificate,
        endpoints,
        paused: false,
    })
}

#[test]
fn no_step_is_taken_before_everybody_has_come_along() {
    let mut group = Group::new();
    group.done(peer(b"one"));
    group.done(put(record(1, "anna", IdentityRole::Operator, 100), true, 1));
    assert_eq!(group.apply(drop_old(0, true)), Err(RefusalCode::Unsafe), "there is none before");
    group.done(introduce(0));
    group.done(introduce(0));
    assert_eq!(group.step(), Some(AuthorityStep::Introduced));
    assert_eq!(authority_waits(&group.state.view()), ["node-1", "peer far"]);
    assert_eq!(group.apply(ControlCommand::StepAuthority(1)), Err(RefusalCode::Unsafe));
    group.done(stand(1, 0));
    assert_eq!(group.apply(ControlCommand::StepAuthority(1)), Err(RefusalCode::Unsafe));
    group.done(ControlCommand::TellPeer(PeerTold { peer: SiteId([2; 16]), change: 1 }));
    assert_eq!(group.apply(drop_old(1, true)), Err(RefusalCode::Unsafe), "nothing issues yet but the one before");
    group.done(ControlCommand::StepAuthority(1));
    group.done(ControlCommand::StepAuthority(1));
    assert_eq!(group.step(), Some(AuthorityStep::Issuing));
    group.done(stand(1, 0));
    assert_eq!(group.apply(drop_old(2, false)), Err(RefusalCode::Unsafe));
    group.done(stand(2, 1));
    assert_eq!(authority_depends(&group.state.view(), Hlc::from_ms(5 * DAY_MS)), ["operator anna"]);
    assert_eq!(group.apply(drop_old(2, false)), Err(RefusalCode::Unsafe));
    let mut renewed = record(2, "anna", IdentityRole::Operator, 100);
    renewed.authority = 1;
    group.done(put(renewed, true, 5));
    group.done(drop_old(2, false));
    group.done(drop_old(2, false));
    assert_eq!(group.step(), Some(AuthorityStep::Settled));
    assert_eq!(group.apply(introduce(0)), Err(RefusalCode::ConditionFailed), "it is not the current one any more");
    group.done(introduce(1));
    // A peer that is another one, or comes back as one, has to be told anew.
    group.done(ControlCommand::TellPeer(PeerTold { peer: SiteId([2; 16]), change: 4 }));
    group.done(peer(b"two"));
    assert!(authority_waits(&group.state.view()).contains(&"peer far".to_owned()));
    group.done(ControlCommand::SetPeer((label("far"), PeerAction::Remove)));
    assert!(!authority_waits(&group.state.view()).contains(&"peer far".to_owned()));
    // A dead node holds nothing up but the end.
    group.done(ControlCommand::SetNodeState((NodeId(1), NodeState::Dead)));
    group.done(ControlCommand::StepAuthority(4));
    assert_eq!(group.apply(drop_old(5, false)), Err(RefusalCode::Unsafe));
    group.done(drop_old(5, true));
    group.check_stored();
}

#[test]
fn a_peer_speaks_for_itself_and_never_goes_back() {
    let mut group = Group::new();
    let said = |change: u64, names: &[&'static [u8]]| {
        let certificates = names.iter().map(|name| Bytes::from_static(name)).collect();
        ControlCommand::PutPeerAuthorities(PeerAuthorities { site: SiteId([2; 16]), change, certificates })
    };
    assert_eq!(group.apply(said(1, &[b"one"])), Err(RefusalCode::Forbidden));
    group.done(peer(b"one"));
    assert_eq!(group.apply(said(1, &[])), Err(RefusalCode::BadRequest));
    assert_eq!(group.apply(said(1, &[b"one", b"two", b"three"])), Err(RefusalCode::BadRequest));
    group.done(said(2, &[b"two"]));
    group.done(said(1, &[b"one", b"two"]));
    assert_eq!(group.state.view().peer_authorities[&SiteId([2; 16])].certificates, [Bytes::from_static(b"two")]);
    group.done(peer(b"one"));
    assert!(group.state.view().peer_authorities.contains_key(&SiteId([2; 16])), "it is the same one");
    group.done(peer(b"new"));
    assert!(group.state.view().peer_authorities.is_empty());
    group.check_stored();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whoever was revoked stays so, whatever is said in what order; and steps come one after the other.
    #[test]
    fn nobody_comes_back_and_no_step_is_skipped(story in prop::collection::vec((0..9u8, 1..6u8, 0..90u64), 1..60)) {
        let mut group = Group::new();
        group.done(put(record(9, "anna", IdentityRole::Operator, 1000), true, 1));
        let mut revoked = BTreeSet::new();
        let mut steps = vec![AuthorityStep::Settled];
        for (what, number, day) in story {
            let change = group.state.view().authorities.as_ref().map_or(0, |known| known.change);
            let generation = group.state.view().authorities.as_ref().map_or(0, |known| known.current.generation);
            let role = if number % 2 == 0 { IdentityRole::Operator } else { IdentityRole::Client(TenantId([3; 16])) };
            let command = match what {
                0 | 1 => put(record(number, "name", role, day + 1), number == 1, day),
                2 | 3 => revoke(number, day, day % 2 == 0),
                4 => introduce(generation),
                5 => ControlCommand::StepAuthority(change.saturating_sub(day % 2)),
                6 => drop_old(change.saturating_sub(day % 2), day % 3 == 0),
                7 => stand(day % 5, generation),
                _ => stand(change, generation),
            };
            let is_revoke = matches!(command, ControlCommand::RevokeIdentity(_));
            let outcome = group.apply(command);
            let view = group.state.view();
            if is_revoke && outcome.is_ok() {
                revoked.insert([number; 16]);
            }
            prop_assert!(*view.revoked == revoked);
            prop_assert!(view.identities.values().any(|one| one.role == IdentityRole::Operator));
            let step = group.step().unwrap_or(AuthorityStep::Settled);
            if steps.last() != Some(&step) {
                steps.push(step);
            }
        }
        let order = [AuthorityStep::Settled, AuthorityStep::Introduced, AuthorityStep::Issuing];
        for (at, step) in steps.iter().enumerate() {
            prop_assert_eq!(step, &order[at % 3]);
        }
        group.check_stored();
    }
}
