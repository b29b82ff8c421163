//! The groups' state machines: any commands in any order, which never stop a group, never half apply, and give two
//! copies the same answers.

use super::feed::Feed;
use super::sites::{Site, database, rows};
use super::wire::{control_commands, group_commands};
use super::{Seed, values};
use bytes::Bytes;
use farside::federation::receiver::{LocalCopy, OfferDecision, decide};
use farside::state::{ControlState, LogGroupState};
use farside_codec::Field;
use farside_codec::command::{
    AcceptDeltas, Acknowledge, ChangePolicy, CloseTime, ControlCommand, ControlOutcome, DiscardAside, Fence,
    GroupCommand, GroupOutcome, HandOverLog, HeldPeer, HoldPeers, PendingToken, PlaceDeltas, Promote, Prune,
    RedeemToken, TokenPurpose,
};
use farside_codec::delta::{
    Branch, ChunkRef, Cursor, Deduplication, Delta, DeltaKind, Extent, Generation, Lineage, LogDescriptor, LogPolicy,
    Proposal,
};
use farside_codec::ids::{BlindName, ChunkId, DeltaHash, EpochId, GroupId, Hlc, LogId, OperationId, TenantId};
use farside_codec::message::{ClosedLog, LogOffer, Moment, PeerAction, PeerRecord, Refusal, Tenant};
use farside_codec::peer::{DayWindow, PeerLimit};
use farside_raft::{Applied, StateMachine};

/// Steps of one run: enough for every two commands to meet, and a bound of its time.
const MOST_STEPS: usize = 40;
/// Times past which nothing rises any more; no clock that is in step comes near.
const LATE: u64 = u64::MAX - 3;

/// Two sites that replicate a log or two, and a third one that says what it likes to both.
struct World {
    sites: [Site; 2],
    /// Something came from the third one: what it tells of itself is its own affair.
    hostile: bool,
}

fn time(feed: &mut Feed<'_>) -> Hlc {
    match feed.byte() {
        255 => Hlc(LATE),
        byte => Hlc(u64::from(byte) << 4),
    }
}

fn proposal(feed: &mut Feed<'_>) -> Proposal {
    let kind = match feed.below(10) {
        0..=3 => DeltaKind::Put,
        4..=5 => DeltaKind::Remove,
        6 => DeltaKind::Epoch(values::epoch(feed.byte())),
        7 => DeltaKind::Extent,
        8 => DeltaKind::Config(Bytes::from_static(b"config")),
        _ => DeltaKind::Promoted(values::generation()),
    };
    let (operation, name, shape) = (feed.byte() & 15, feed.byte() & 3, feed.byte());
    let chunks: Vec<ChunkRef> = (0..shape & 3).map(|index| values::chunk(index ^ name)).collect();
    let index = || if shape >= 0xf8 { u32::MAX } else { u32::from(shape >> 5 & 3) };
    Proposal {
        operation: OperationId([operation; 16]),
        kind,
        name: BlindName([name; 32]),
        key_epoch: EpochId([1; 16]),
        gc_epoch: if chunks.is_empty() { u64::MAX } else { u64::from(feed.byte() & 7) },
        placement_epoch: 0,
        condition: (shape & 4 == 4).then(|| u64::from(feed.byte())),
        size_bytes: 9,
        chunks,
        extent: (shape & 8 == 8).then(|| Extent { object: OperationId([feed.byte() & 15; 16]), index: index() }),
        payload: Bytes::from_static(b"sealed"),
        inline: Bytes::new(),
    }
}

fn descriptor(log: LogId, feed: &mut Feed<'_>) -> LogDescriptor {
    let version = feed.byte();
    LogDescriptor {
        policy_version: if version == 255 { u64::MAX } else { u64::from(version) },
        created: Hlc(u64::from(version & 1)),
        log,
        ..values::descriptor(1)
    }
}

impl World {
    fn log(feed: &mut Feed<'_>) -> LogId {
        values::log(1 + (feed.byte() & 1))
    }

    fn apply(&mut self, here: usize, command: GroupCommand) -> GroupOutcome {
        self.sites[here].apply(command)
    }

    fn step(&mut self, feed: &mut Feed<'_>) {
        let which = feed.byte();
        let here = usize::from(which >> 7);
        let log = Self::log(feed);
        let site = self.sites[here].id;
        let known = self.sites[here].view(log).map_or(values::generation(), |view| view.known);
        let command = match which & 31 {
            0..=1 => {
                let generation = Generation { counter: 1 + u64::from(feed.byte() & 1), site, incarnation: 0 };
                GroupCommand::CreateLog((descriptor(log, feed), generation))
            }
            2..=9 => {
                let (time, count) = (time(feed), 1 + feed.below(3));
                let proposals = (0..count).map(|_| proposal(feed)).collect();
                GroupCommand::Place(PlaceDeltas { log, time, site, proposals })
            }
            10 => {
                let counter = known.counter.wrapping_add(u64::from(feed.byte() & 3));
                GroupCommand::Promote(Promote {
                    log,
                    generation: Generation { counter, site, incarnation: 0 },
                    time: time(feed),
                    weighed: (feed.byte() & 1 == 0).then(|| (known, u64::from(feed.byte()))),
                    cut: feed.is().then(|| time(feed)),
                })
            }
            11 => {
                let counter = known.counter.wrapping_add(u64::from(feed.byte() & 3));
                let to = match feed.byte() & 7 {
                    0 => values::site(3),
                    _ => self.sites[1 - here].id,
                };
                let to = Generation { counter, site: to, incarnation: 0 };
                GroupCommand::HandOver(HandOverLog { log, to, time: time(feed) })
            }
            12 => GroupCommand::Fence(Fence { log, lineage: self.lineage(1 - here, log, feed), time: time(feed) }),
            13 => GroupCommand::Acknowledge(Acknowledge {
                log,
                peer: values::site(feed.byte() & 3),
                cursor: self.cursor(1 - here, log, feed),
                time: time(feed),
                instead_of: feed.is().then(|| time(feed)),
            }),
            14 => {
                let head = self.cursor(1 - here, log, feed).hash;
                let copy = ClosedLog { log, generation: known, head, closed: time(feed) };
                let copies = if feed.is() { vec![copy] } else { Vec::new() };
                GroupCommand::Close(CloseTime { closed: time(feed), copies })
            }
            15 => GroupCommand::Barrier(u64::from(feed.byte() & 7)),
            16 => {
                let policy = LogPolicy {
                    deduplication: Deduplication::Off,
                    history_seconds: 1,
                    lag_bound_seconds: 2,
                    lag_stops_writers: true,
                    home_lease_seconds: 4,
                    quota_bytes: if feed.is() { 2000 } else { 0 },
                    ..LogPolicy::default()
                };
                GroupCommand::ChangePolicy(ChangePolicy { log, policy })
            }
            17..=18 => {
                let (below, limit) = (u64::from(feed.byte()), u32::from(feed.byte()));
                GroupCommand::Prune(Prune { log, horizon: time(feed), below, limit })
            }
            19 if feed.is() => {
                let held = |feed: &mut Feed<'_>| HeldPeer {
                    site: values::site(feed.byte() & 3),
                    most_ms: u64::from(feed.byte()),
                    most_bytes: if feed.is() { u64::MAX } else { u64::from(feed.byte()) },
                };
                GroupCommand::HoldPeers(HoldPeers {
                    peers: vec![held(feed), held(feed)],
                    passed_ms: u64::from(feed.byte()),
                })
            }
            19 => GroupCommand::ForgetPeer(values::site(feed.byte() & 3)),
            20..=26 => return self.replicate(here, log, feed),
            28 => {
                let (expected, limit) = (u64::from(feed.byte() & 15), u32::from(feed.byte() & 3));
                GroupCommand::DiscardAside(DiscardAside { log, expected, limit })
            }
            27 => {
                self.hostile = true;
                match self.foreign_delivery(here, log, feed) {
                    Some(accept) => GroupCommand::Accept(accept),
                    None => return,
                }
            }
            29 => return self.ask(here, log, feed),
            _ => {
                self.hostile = true;
                let length = usize::from(feed.short());
                match GroupCommand::from_bytes(Bytes::copy_from_slice(feed.take(length))) {
                    Ok(command) => command,
                    Err(_) => return,
                }
            }
        };
        self.apply(here, command);
    }

    /// A lineage as another site has it, or one that nobody has.
    fn lineage(&mut self, there: usize, log: LogId, feed: &mut Feed<'_>) -> Lineage {
        let mut lineage = self.sites[there].view(log).map_or_else(Vec::new, |view| view.lineage);
        if feed.below(4) == 1 {
            self.hostile = true;
            let generation = Generation { counter: u64::from(feed.byte() & 7), site: values::site(3), incarnation: 0 };
            lineage.truncate(feed.below(3));
            lineage.push(Branch { generation, first: u64::from(feed.byte()), previous: DeltaHash([feed.byte(); 32]) });
        }
        lineage
    }

    fn cursor(&self, there: usize, log: LogId, feed: &mut Feed<'_>) -> Cursor {
        let mut cursor = self.sites[there].view(log).map_or_else(values::cursor, |view| view.head);
        if feed.below(4) == 1 {
            cursor.sequence = if feed.is() { u64::MAX } else { u64::from(feed.byte()) };
        }
        cursor
    }

    /// One greeting and one delivery, as the drivers of two sites make them.
    fn replicate(&mut self, from: usize, log: LogId, feed: &mut Feed<'_>) {
        let to = 1 - from;
        let (limit, overlap, time) = (feed.below(5), u64::from(feed.byte() & 3), time(feed));
        let Some(view) = self.sites[from].view(log) else { return };
        let (descriptor, lineage) = (view.descriptor.clone(), view.lineage.clone());
        let offer = LogOffer { descriptor, lineage, head: view.head.clone(), head_time: view.head_time };
        for _ in 0..3 {
            let local = self.sites[to].view(log);
            let local = local.map(|view| LocalCopy { lineage: view.lineage, head: view.head });
            let command = match decide(&offer, self.sites[from].id, self.sites[to].id, local.as_ref()) {
                OfferDecision::Create => {
                    let Some(told) = view.lineage.last() else { return };
                    GroupCommand::CreateLog((view.descriptor.clone(), told.generation))
                }
                OfferDecision::Fence => GroupCommand::Fence(Fence { log, lineage: view.lineage.clone(), time }),
                OfferDecision::Ahead => {
                    let lineage = self.sites[to].view(log).map_or_else(Vec::new, |view| view.lineage);
                    return drop(self.apply(from, GroupCommand::Fence(Fence { log, lineage, time })));
                }
                OfferDecision::Refuse(_) => return,
                OfferDecision::Position => return self.deliver(from, log, limit, overlap),
            };
            if matches!(self.apply(to, command), GroupOutcome::Refused(_)) {
                return;
            }
        }
    }

    fn deliver(&mut self, from: usize, log: LogId, limit: usize, overlap: u64) {
        let to = 1 - from;
        let head = self.sites[to].view(log).map_or(0, |view| view.head.sequence);
        let first = head.saturating_add(1).saturating_sub(overlap).max(1);
        let Some(delivery) = self.sites[from].delivery(log, first, limit) else { return };
        let taken = matches!(self.apply(to, GroupCommand::Accept(delivery)), GroupOutcome::Head(_));
        if taken && !self.hostile {
            let (ours, theirs) = (self.sites[from].check_chain(log), self.sites[to].check_chain(log));
            let is_home = self.sites[to].view(log).is_some_and(|view| view.is_home(self.sites[to].id));
            let arrived = is_home && theirs.starts_with(&ours);
            assert!(arrived || ours.starts_with(&theirs), "a copy is a beginning of the home's history");
        }
    }

    /// Deltas that continue the copy's head, of a home that keeps no rule but the chain's; or the peer's own, changed.
    fn foreign_delivery(&self, here: usize, log: LogId, feed: &mut Feed<'_>) -> Option<AcceptDeltas> {
        let view = self.sites[here].view(log)?;
        if feed.is() {
            let mut delivery = self.sites[1 - here].delivery(log, u64::from(feed.byte()), 4)?;
            match feed.below(4) {
                0 => drop(delivery.deltas.pop()),
                1 => delivery.deltas.reverse(),
                2 => delivery.head_time = time(feed),
                _ => delivery.deltas.push(Bytes::copy_from_slice(feed.take(40))),
            }
            return Some(delivery);
        }
        let counter = view.known.counter.wrapping_add(u64::from(feed.byte() & 1));
        let generation = Generation { counter, site: values::site(3), incarnation: 0 };
        let (mut lineage, mut head) = (view.lineage.clone(), view.head.clone());
        if lineage.last().is_none_or(|last| last.generation != generation) {
            lineage.retain(|branch| branch.first <= head.sequence);
            lineage.push(Branch { generation, first: head.sequence + 1, previous: head.hash });
        }
        let (mut at, mut deltas) = (view.head_time, Vec::new());
        for _ in 0..1 + feed.below(3) {
            at = at.next();
            let (sequence, previous) = (head.sequence + 1, head.hash);
            let delta =
                Delta { log, generation, sequence, previous, time: at, closed: Hlc(0), proposal: proposal(feed) };
            let encoded = delta.to_bytes();
            head = Cursor { generation, sequence, hash: Delta::hash(&encoded) };
            deltas.push(encoded);
        }
        Some(AcceptDeltas {
            log,
            lineage,
            deltas,
            pruned: Vec::new(),
            floor: 0,
            head,
            head_time: at,
            closed: Hlc(0),
            policy: LogPolicy::default(),
            policy_version: 1,
            lease_ms: 0,
        })
    }

    /// Asks everything that can be asked. What a home that keeps no rule left behind may be unreadable, and is told.
    fn ask(&self, here: usize, log: LogId, feed: &mut Feed<'_>) {
        let state = &self.sites[here].state;
        let at = match feed.below(3) {
            0 => Moment::Latest,
            1 => Moment::Sequence(if feed.is() { u64::MAX } else { u64::from(feed.byte()) }),
            _ => Moment::Time(time(feed)),
        };
        let name = BlindName([feed.byte() & 3; 32]);
        let looked_up = state.lookup(log, name, &at);
        let listed = state.list(log, &at, feed.is().then_some(name), 1 + feed.below(4), 1000);
        assert!(self.hostile || looked_up.is_ok() && listed.is_ok(), "{looked_up:?} {listed:?}");
        if let (Ok(Some(version)), Moment::Latest) = (&looked_up, &at) {
            let delta = Delta::parse(version.delta.clone()).expect("a delta");
            assert_eq!((delta.proposal.name, delta.log), (name, log));
        }
        let before = if feed.is() { u64::MAX } else { u64::from(feed.byte()) };
        state.history(log, name, before, 3, 1000).expect("a history");
        for lag in state.peers(log).expect("peers") {
            assert!(lag.deltas > 0 || lag.oldest.is_none());
        }
        let aside = state.set_aside(log, None, 2, 999).expect("what was set aside").deltas;
        if let Some(last) = aside.last() {
            let more = state.set_aside(log, Some(&last.cursor), 2, 999).expect("more of it").deltas;
            assert!(more.iter().all(|next| next.cursor != last.cursor));
        }
        state.references(&[ChunkId([feed.byte() & 3; 32])]).expect("references");
        assert!(state.logs().expect("logs").len() <= MOST_STEPS);
    }
}

/// Log groups of two sites.
pub fn log_group(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let mut world = World { sites: [Site::new(values::site(1)), Site::new(values::site(2))], hostile: false };
    for _ in 0..MOST_STEPS {
        if feed.is_empty() {
            break;
        }
        world.step(&mut feed);
    }
    for site in &mut world.sites {
        for view in site.state.logs().expect("logs") {
            if !world.hostile {
                site.check_chain(view.descriptor.log);
            }
        }
        site.check_twin();
    }
}

/// Seeds of [`log_group`].
pub fn log_group_seeds() -> Vec<Seed> {
    let create = [0u8, 0, 0, 7];
    // A put under a name, with the chunks that the shape says and their GC epoch.
    let place =
        |name: u8, shape: u8| [&[2, 0, 9, 0, 0, name ^ 8, name, shape], &[3][..usize::from(shape & 3).min(1)]].concat();
    // From site 1 to site 2, everything.
    let replicate: [u8; 5] = [20, 0, 4, 1, 30];
    let promote_far: [u8; 4] = [0x80 | 10, 0, 1, 20];
    let begin = [&create[..], &place(1, 0), &place(2, 1), &replicate].concat();
    let failover = [&begin[..], &place(3, 0), &promote_far, &[0x80 | 20, 0, 4, 0, 40], &replicate].concat();
    let extents = [&create[..], &[2, 0, 9, 0, 7, 5, 1, 8, 5], &[2, 0, 9, 0, 0, 5, 1, 0x28, 5], &replicate].concat();
    let pruned = [&begin[..], &place(1, 2), &[4, 0, 9, 0, 4, 7, 1, 0], &[17, 0, 200, 9, 200], &[29, 0, 0, 1]].concat();
    let hostile =
        [&begin[..], &[0x80 | 27, 0, 0, 1, 2, 0, 5, 1, 0xf8, 1, 6, 9, 9, 9, 1], &[0x80 | 17, 0, 90, 9, 200]].concat();
    let late = [&create[..], &[14, 0, 255], &place(1, 0), &place(2, 0)].concat();
    let version = [&[0u8, 0, 0, 255][..], &[16, 0], &[16, 0]].concat();
    let raw = group_commands().into_iter().map(|(name, command)| {
        let command = command.to_bytes();
        let head = [&create[..], &[30, 1], &(command.len() as u16).to_le_bytes()].concat();
        (name, [&head[..], &command].concat())
    });
    let stories = [
        ("a-replicates", begin),
        ("a-failover", failover),
        ("a-extents", extents),
        ("a-pruned", pruned),
        ("a-hostile-home", hostile),
        ("a-end-of-time", late),
        ("a-highest-version", version),
    ];
    stories.into_iter().chain(raw).collect()
}

fn control_command(feed: &mut Feed<'_>) -> Option<ControlCommand> {
    let (which, id, name) = (feed.below(9), feed.byte() & 3, ["near", "far", "third"][feed.below(3)]);
    let name = values::label(name);
    let record = |site: u8| PeerRecord {
        site: values::site(site),
        name: name.clone(),
        certificate: Bytes::from_static(b"DER"),
        endpoints: vec!["127.0.0.1:1".into()],
        paused: false,
    };
    Some(match which {
        0 => control_commands().swap_remove(0).1,
        1..=2 => {
            let epochs = (0..feed.byte() & 3).map(values::epoch).collect();
            ControlCommand::PutTenant(Tenant { tenant: TenantId([id; 16]), name, epochs, created: Hlc(1) })
        }
        3 => {
            let tenant = TenantId([feed.byte() & 3; 16]);
            let descriptor = descriptor(values::log(id), feed);
            ControlCommand::PutLog(LogDescriptor { tenant, tenant_name: name, ..descriptor })
        }
        4 => ControlCommand::PutPeer(record(id)),
        5 => {
            let action = match feed.below(5) {
                0 => PeerAction::Pause,
                1 => PeerAction::Resume,
                2 => PeerAction::Unlimit,
                3 => {
                    let mut minute = || u16::from(feed.byte()) * 6;
                    let window = DayWindow { from: minute(), until: minute() };
                    PeerAction::Limit(PeerLimit {
                        rate: u64::from(feed.byte()),
                        window: (feed.byte() & 1 == 0).then_some(window),
                    })
                }
                _ => PeerAction::Remove,
            };
            ControlCommand::SetPeer((name, action))
        }
        6 => ControlCommand::PutToken(PendingToken {
            secret_hash: [id; 32],
            purpose: TokenPurpose::Peer,
            expires: time(feed),
        }),
        7 => ControlCommand::RedeemToken(RedeemToken {
            secret_hash: [id; 32],
            peer: record(feed.byte() & 3),
            time: time(feed),
        }),
        _ => {
            let length = usize::from(feed.short());
            ControlCommand::from_bytes(Bytes::copy_from_slice(feed.take(length))).ok()?
        }
    })
}

/// The control groups of two files, emptied at each run.
struct ControlFiles {
    databases: [farside::state::Database; 2],
}

thread_local! {
    static CONTROL: ControlFiles = ControlFiles { databases: [database(), database()] };
}

/// The control group: what is in memory is what is stored, and a twin comes to the same.
pub fn control_group(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let databases = CONTROL.with(|files| files.databases.clone());
    let mut states = databases.clone().map(|database| ControlState::new(database).expect("a state"));
    for state in &mut states {
        state.install_begin().expect("emptied");
        state.install_finish(&Applied::default()).expect("empty");
    }
    let [state, twin] = &mut states;
    let (mut commands, mut outcomes) = (Vec::new(), Vec::new());
    for _ in 0..MOST_STEPS {
        if feed.is_empty() {
            break;
        }
        let Some(command) = control_command(&mut feed) else { continue };
        let before = format!("{:?}", state.view());
        let encoded = command.to_bytes();
        let outcome = state.apply(std::slice::from_ref(&encoded), &Applied::default()).expect("applied").remove(0);
        if let Ok(ControlOutcome::Refused(Refusal { detail, .. })) = ControlOutcome::from_bytes(outcome.clone()) {
            assert_eq!(format!("{:?}", state.view()), before, "{detail}, and yet it did something");
        }
        commands.push(encoded);
        outcomes.push(outcome);
    }
    let read = ControlState::new(databases[0].clone()).expect("a state");
    assert_eq!(format!("{:?}", read.view()), format!("{:?}", state.view()), "memory is what is stored");
    assert_eq!(twin.apply(&commands, &Applied::default()).expect("applied"), outcomes);
    assert!(rows(state) == rows(twin), "equal commands give equal states");
}

/// Seeds of [`control_group`].
pub fn control_group_seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = vec![
        ("a-tenant-and-log", vec![0, 0, 0, 1, 1, 0, 2, 3, 1, 0, 1, 5, 3, 1, 0, 1, 9]),
        ("a-peer", vec![0, 0, 0, 4, 2, 1, 5, 0, 1, 0, 5, 0, 1, 1, 5, 0, 1, 2]),
        ("a-token", vec![6, 2, 0, 90, 7, 2, 1, 2, 30, 7, 2, 1, 2, 30]),
        ("a-name-taken", vec![1, 1, 0, 1, 1, 2, 0, 1, 4, 1, 0, 4, 2, 0]),
    ];
    for (name, command) in control_commands() {
        let command = command.to_bytes();
        seeds.push((name, [&[8, 0, 0], &(command.len() as u16).to_le_bytes()[..], &command].concat()));
    }
    seeds
}

/// A piece of a snapshot, of any bytes, some of them rows as they should be.
pub fn snapshot(bytes: &[u8]) {
    const GROUP: GroupId = GroupId(1);
    let mut feed = Feed::new(bytes);
    let mut piece = Vec::new();
    while !feed.is_empty() {
        let (table, length) = (feed.byte(), usize::from(feed.byte() & 63));
        if table == 255 {
            piece.extend_from_slice(feed.take(length));
            continue;
        }
        let key = [&GROUP.0.to_be_bytes()[..], feed.take(length)].concat();
        let length = usize::from(feed.byte());
        let value = feed.take(length);
        piece.push(1 + table % 12);
        (Bytes::from(key), Bytes::copy_from_slice(value)).encode(&mut piece);
    }
    let databases = CONTROL.with(|files| files.databases.clone());
    let mut states = databases.map(|database| LogGroupState::new(database, GROUP, values::site(1)));
    let [state, copy] = &mut states;
    state.install_begin().expect("emptied");
    // What is left is the mark that says so: one row without a value.
    assert_eq!(rows(state).len(), 1 + 4 + 4 + "installing".len() + 4, "a state that is replaced counts as empty");
    let _ = state.install_piece(piece.into()).is_ok();
    state.install_finish(&Applied::default()).expect("finished");
    assert_eq!(state.applied().expect("a row"), Applied::default(), "what was applied is what was said last");
    copy.install_begin().expect("emptied");
    let mut pieces = state.snapshot().expect("a view");
    while let Some(piece) = pieces.next_piece().expect("a piece") {
        copy.install_piece(piece).expect("its own piece");
    }
    copy.install_finish(&Applied::default()).expect("finished");
    assert!(rows(copy) == rows(state), "a snapshot gives back the state");
    // Rows of any bytes are told, and stop nothing but their group.
    let log = values::log(1);
    let _ = (state.logs().is_ok(), state.log(log).is_ok(), state.deltas(log, 0, 9, 999).is_ok());
    let _ = (state.list(log, &Moment::Latest, None, 9, 999).is_ok(), state.set_aside(log, None, 9, 999).is_ok());
    let _ = (state.peers(log).is_ok(), state.closed().is_ok(), state.barrier().is_ok());
}

/// Seeds of [`snapshot`].
pub fn snapshot_seeds() -> Vec<Seed> {
    let mut site = Site::new(values::site(1));
    let generation = Generation { counter: 1, site: values::site(1), incarnation: 0 };
    let log = values::log(1);
    site.apply(GroupCommand::CreateLog((values::descriptor(1), generation)));
    let proposals = vec![Proposal { extent: None, condition: None, ..values::proposal(DeltaKind::Put) }];
    site.apply(GroupCommand::Place(PlaceDeltas { log, time: Hlc(9), site: values::site(1), proposals }));
    // Rows of a real snapshot, said the way that this target takes them.
    let mut input = farside_codec::Reader::new(rows(&site.state).into());
    let mut whole = Vec::new();
    while input.remaining() > 0 {
        let (table, key) = (u8::decode(&mut input).expect("a table"), Bytes::decode(&mut input).expect("a key"));
        let value = Bytes::decode(&mut input).expect("a value");
        if key.len() - 4 < 64 && value.len() < 256 {
            whole.extend([&[table - 1, key.len() as u8 - 4], &key[4..], &[value.len() as u8], &value[..]].concat());
        }
    }
    vec![
        ("real", whole),
        ("raw", [&[255, 20][..], &[1, 4, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 7]].concat()),
        ("installing", [&[0, 10][..], b"installing", &[0]].concat()),
        ("applied", [&[0, 7][..], b"applied", &[3, 1, 2, 3]].concat()),
        ("unknown-table", vec![11, 1, 5, 1, 6]),
    ]
}
