//! openraft's types, made of ours. Nothing outside this crate names openraft.

use bytes::Bytes;
use farside_codec::ids::NodeId;
use farside_codec::record::wal;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use openraft::vote::leader_id_adv::LeaderId;
use std::collections::{BTreeMap, BTreeSet};

/// A state machine's command; openraft never looks inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = Bytes,
        Node = openraft::EmptyNode,
        AsyncRuntime = crate::runtime::ShardRuntime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
type Membership = openraft::Membership<u64, openraft::EmptyNode>;

pub(crate) fn log_id(position: wal::LogPosition) -> LogId {
    LogId::new(LeaderId::new(position.term, position.leader.0).to_committed(), position.index)
}

pub(crate) fn position(log_id: &LogId) -> wal::LogPosition {
    wal::LogPosition { term: log_id.leader_id.term, leader: NodeId(log_id.leader_id.node_id), index: log_id.index }
}

pub(crate) fn vote(vote: wal::Vote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, vote.leader.0), committed: vote.committed }
}

pub(crate) fn wal_vote(vote: &Vote) -> wal::Vote {
    wal::Vote { term: vote.leader_id.term, leader: NodeId(vote.leader_id.node_id), committed: vote.committed }
}

pub(crate) fn membership(membership: &wal::Membership) -> Membership {
    let sets = membership.configurations.iter().map(|set| set.iter().map(|node| node.0).collect::<BTreeSet<_>>());
    let nodes: BTreeMap<u64, openraft::EmptyNode> =
        membership.nodes.iter().map(|node| (node.0, openraft::EmptyNode {})).collect();
    Membership::new_with_defaults(sets.collect(), nodes.keys().copied())
}

pub(crate) fn wal_membership(membership: &Membership) -> wal::Membership {
    wal::Membership {
        configurations: membership
            .get_joint_config()
            .iter()
            .map(|set| set.iter().copied().map(NodeId).collect())
            .collect(),
        nodes: membership.nodes().map(|(node, _)| NodeId(*node)).collect(),
    }
}

pub(crate) fn stored_membership(stored: &wal::StoredMembership) -> StoredMembership {
    StoredMembership::new(stored.position.map(log_id), membership(&stored.membership))
}

pub(crate) fn wal_stored_membership(stored: &StoredMembership) -> wal::StoredMembership {
    wal::StoredMembership {
        position: stored.log_id().as_ref().map(position),
        membership: wal_membership(stored.membership()),
    }
}

pub(crate) fn entry(entry: &wal::Entry) -> Entry {
    let payload = match &entry.payload {
        wal::EntryPayload::Blank => openraft::EntryPayload::Blank,
        wal::EntryPayload::Command(command) => openraft::EntryPayload::Normal(Command(command.clone())),
        wal::EntryPayload::Membership(voters) => openraft::EntryPayload::Membership(membership(voters)),
    };
    Entry::new(log_id(entry.position), payload)
}

pub(crate) fn wal_entry(entry: &Entry) -> wal::Entry {
    let payload = match &entry.payload {
        openraft::EntryPayload::Blank => wal::EntryPayload::Blank,
        openraft::EntryPayload::Normal(command) => wal::EntryPayload::Command(command.0.clone()),
        openraft::EntryPayload::Membership(membership) => wal::EntryPayload::Membership(wal_membership(membership)),
    };
    wal::Entry { position: position(&entry.log_id()), payload }
}
