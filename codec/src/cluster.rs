//! What the nodes of one site say to one another, and what their control group keeps about them.
//!
//! A node that was removed or declared dead is not listened to any more: its number is never given out again.

use crate::erasure::Geometry;
use crate::ids::{ChunkId, DeviceId, GroupId, Label, NodeId, SiteId};
use crate::{choice, record};
use bytes::Bytes;

choice!(
    /// How the site counts on a node.
    NodeState {
        /// It was let in and has not started yet.
        Joining = 1,
        /// It works, as far as anybody knows.
        Up = 2,
        /// It was silent for too long: others stand in for it. It comes back by being heard.
        Dead = 3,
        /// It keeps what it has until others have it, and gets nothing new.
        Draining = 4,
        /// It is out for good.
        Removed = 5,
    }
);
record!(
    /// A device of a node, on the placement map.
    DeviceRecord {
        /// The device.
        device: DeviceId,
        /// Its capacity: larger devices get more.
        bytes: u64,
        /// Placement epoch in which it joined.
        joined: u64,
        /// Placement epoch from which on it takes nothing any more.
        left: Option<u64>,
    }
);
record!(
    /// A node, as its site's control group keeps it.
    NodeRecord {
        /// The node; numbers are given out once.
        node: NodeId,
        /// Its name.
        name: Label,
        /// `ip:port` of its shard 0; shard i listens on that port + i.
        endpoint: String,
        /// Its shards.
        shards: u16,
        /// The rack that it shares its fate with, if it was told one.
        rack: Option<Label>,
        /// How the site counts on it.
        state: NodeState,
        /// Its devices, also those that have left.
        devices: Vec<DeviceRecord>,
    }
);
impl NodeState {
    /// As it is shown to people and scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Dead => "dead",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

impl NodeRecord {
    /// Its devices that have not left.
    pub fn present(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.devices.iter().filter(|device| device.left.is_none())
    }

    /// The shard that has what it holds of a chunk.
    pub fn shard_of_chunk(&self, chunk: ChunkId) -> u16 {
        chunk.shard(self.shards.max(1))
    }

    /// The shard that runs its part in a group.
    pub fn shard_of_group(&self, group: GroupId) -> u16 {
        group.shard(self.shards.max(1))
    }
}

record!(
    /// A device is to go, or to stay after all.
    SetDevice {
        /// The node that it belongs to.
        node: Label,
        /// The device.
        device: DeviceId,
        /// Whether it is to go.
        leaves: bool,
    }
);

record!(
    /// Who orders and replicates a set of logs. Numbers are those of members (`NodeId::member`).
    GroupRecord {
        /// The group.
        group: GroupId,
        /// Who should vote in it.
        members: Vec<NodeId>,
        /// The one of them that should lead it.
        leader: NodeId,
        /// Who is no member any more, and has perhaps not left the group yet.
        leaving: Vec<NodeId>,
        /// How many stints were given out.
        stints: u32,
    }
);
record!(
    /// A node that asks to be let in, proving itself with a token's secret.
    NodeJoin {
        /// From the token; good once.
        secret: [u8; 32],
        /// Drawn by the node: asked again with it, the answer is the same.
        attempt: [u8; 16],
        /// Where it will listen.
        endpoint: String,
        /// Its shards.
        shards: u16,
        /// Its rack.
        rack: Option<Label>,
    }
);
record!(
    /// What a node that was let in needs to become one. Goes over a connection that both ends have proved themselves on.
    NodeJoined {
        /// Its number.
        node: NodeId,
        /// The site.
        site: SiteId,
        /// The site's name.
        site_name: Label,
        /// The site's incarnation.
        incarnation: u64,
        /// Log groups of the site.
        groups: u32,
        /// Geometry of new chunks.
        geometry: Geometry,
        /// The site CA's certificate (DER).
        certificate: Bytes,
        /// The site's system key.
        system_key: [u8; 32],
        /// The site CA's key (PKCS #8 DER).
        authority_key: Bytes,
    }
);
record!(
    /// A node says that it is there, and what it has.
    NodeBeat {
        /// Which one.
        node: NodeId,
        /// Where it listens now.
        endpoint: String,
        /// Its shards.
        shards: u16,
        /// Its devices that work, with their bytes.
        devices: Vec<(DeviceId, u64)>,
    }
);
record!(
    /// A caller's request, passed on by the node that it came to.
    Forwarded {
        /// The caller, as its certificate names it: `farside://SITE/ROLE/SUBJECT`.
        caller: String,
        /// The encoded request.
        request: Bytes,
    }
);
record!(
    /// A Raft message to a group of another node.
    RaftCall {
        /// The member that it is meant for: addresses change hands.
        member: NodeId,
        /// The group.
        group: GroupId,
        /// An encoded `Ask`.
        ask: Bytes,
    }
);
record!(
    /// A command to be committed by the leader of a group.
    GroupCall {
        /// The group.
        group: GroupId,
        /// An encoded `GroupCommand` or, for the control group, `ControlCommand`.
        command: Bytes,
    }
);
record!(
    /// A command was committed.
    Committed {
        /// Its place in the group's log, or a later one.
        index: u64,
        /// The encoded outcome.
        outcome: Bytes,
    }
);
record!(
    /// Fragments of a chunk follow as the body, one after the other.
    PutFragments {
        /// The chunk.
        chunk: ChunkId,
        /// How it is cut.
        geometry: Geometry,
        /// Length of the sealed chunk.
        sealed_bytes: u32,
        /// Which fragments.
        fragments: Vec<u8>,
    }
);
record!(
    /// Asks for part of a fragment; the bytes follow the reply as its body.
    GetFragment {
        /// The chunk.
        chunk: ChunkId,
        /// Of which of its stripes.
        geometry: Geometry,
        /// Which fragment.
        fragment: u8,
        /// First byte.
        offset: u32,
        /// How many.
        length: u32,
    }
);
record!(
    /// Drops fragments that others hold by now, or that nobody needs.
    DropFragments {
        /// The chunk.
        chunk: ChunkId,
        /// Of which of its stripes.
        geometry: Geometry,
        /// Which fragments.
        fragments: Vec<u8>,
    }
);
record!(
    /// Drops what a node has of stripes that were cut another way than the site's chunks are now, and whose chunks are
    /// whole without them. Only where the node and the control group both go by this placement epoch.
    DropStripes {
        /// The placement epoch.
        placement_epoch: u64,
        /// Chunks, each with how the stripe is cut.
        stripes: Vec<(ChunkId, Geometry)>,
    }
);
record!(
    /// Asks which fragments of chunks a node holds.
    FragmentQuestion {
        /// The chunks.
        chunks: Vec<ChunkId>,
        /// They are needed: they count as touched.
        touch: bool,
        /// Only a node that goes by this placement epoch is to answer; 0: any.
        placement_epoch: u64,
    }
);
record!(
    /// The fragments of a chunk that a node holds.
    HeldFragments {
        /// The chunk.
        chunk: ChunkId,
        /// How it is cut.
        geometry: Geometry,
        /// Length of the sealed chunk.
        sealed_bytes: u32,
        /// Which fragments.
        fragments: Vec<u8>,
        /// GC epoch by which they were touched last, if they were.
        gc_epoch: u64,
    }
);
record!(
    /// Asks a shard of a node for what it holds, in the order of its index.
    WalkFragments {
        /// Where to go on; 0 at first.
        cursor: u64,
        /// At most so many chunks.
        limit: u32,
    }
);
record!(
    /// Part of what a shard holds.
    WalkedFragments {
        /// Chunks.
        held: Vec<HeldFragments>,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
    }
);
record!(
    /// Asks which of these chunks a group refers to, as of a GC barrier.
    ReferencesQuestion {
        /// The group.
        group: GroupId,
        /// Whoever has not come to this barrier does not answer.
        barrier: u64,
        /// The chunks.
        chunks: Vec<ChunkId>,
    }
);
record!(
    /// How repair is doing on a node.
    RepairState {
        /// Fragments that nobody holds, as far as this node looks after them.
        owed_fragments: u64,
        /// Their bytes.
        owed_bytes: u64,
        /// Fragments that are to be moved to where they should be.
        misplaced_fragments: u64,
        /// Chunks of which there is something and not enough: lost, or never finished and soon collected.
        unreadable_chunks: u64,
        /// Bytes a second that were rebuilt or moved lately.
        rate_bytes_per_second: u64,
        /// Placement epoch as of which everything that this node looks after was looked at last; 0: never.
        swept_epoch: u64,
        /// Chunks that are cut another way than new ones are, and will be cut again.
        other_geometry_chunks: u64,
    }
);
