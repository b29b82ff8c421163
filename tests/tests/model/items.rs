//! What is on its way: requests and answers between sites, and commands that a site has decided on and not yet committed.
//! Each is a value with a number, so that a state of the world is a short row of numbers.

use super::senders::Heard;
use farside_codec::Field;
use farside_codec::command::{AcceptDeltas, GroupCommand};
use farside_codec::delta::{Generation, Lineage};
use farside_codec::message::LogOffer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Something on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ItemId(u32);

/// What it is. `home` sends, `peer` holds the copy.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// The home's greeting.
    Offer { home: usize, peer: usize, offer: LogOffer },
    /// What the peer decided to do about an offer. It may decide so many times more.
    Decided { home: usize, peer: usize, offer: LogOffer, command: GroupCommand, decisions: u8 },
    /// A delivery; one that only tells the head has no deltas, and nobody waits for its answer.
    Deltas { home: usize, peer: usize, accept: AcceptDeltas },
    /// The peer's answer.
    Answer { home: usize, peer: usize, heard: Heard },
    /// A command of a site's own; a sender to `peer` may wait for it.
    Local { site: usize, peer: usize, command: GroupCommand },
}

impl Item {
    /// The sender that waits for what comes of it, if one does: home and peer.
    pub(crate) fn link(&self) -> (usize, usize) {
        match self {
            Self::Offer { home, peer, .. }
            | Self::Decided { home, peer, .. }
            | Self::Deltas { home, peer, .. }
            | Self::Answer { home, peer, .. } => (*home, *peer),
            Self::Local { site, peer, .. } => (*site, *peer),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (home, peer) = self.link();
        let mut out = vec![home as u8, peer as u8];
        match self {
            Self::Offer { offer, .. } => (1u8, offer.to_bytes()).encode(&mut out),
            Self::Decided { offer, command, decisions, .. } => {
                (2u8, *decisions).encode(&mut out);
                (offer.to_bytes(), command.to_bytes()).encode(&mut out);
            }
            Self::Deltas { accept, .. } => (3u8, accept.to_bytes()).encode(&mut out),
            Self::Answer { heard, .. } => {
                4u8.encode(&mut out);
                heard.encode(&mut out);
            }
            Self::Local { command, .. } => (5u8, command.to_bytes()).encode(&mut out),
        }
        out
    }
}

/// The last generation of a lineage.
pub(crate) fn last_of(lineage: &Lineage) -> Option<Generation> {
    lineage.last().map(|branch| branch.generation)
}

/// Generation as a reader wants it: its counter, and the site that writes it.
pub(crate) fn brief(generation: Generation) -> String {
    format!("{}@{}", generation.counter, generation.site.0[0] - 1)
}

pub(crate) fn brief_lineage(lineage: &Lineage) -> String {
    let branches = lineage.iter().map(|branch| format!("{} from {}", brief(branch.generation), branch.first));
    branches.collect::<Vec<_>>().join(", ")
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |command: &GroupCommand| match command {
            GroupCommand::CreateLog(_) => "the log's creation".to_owned(),
            GroupCommand::Promote(promote) => format!("promotion to {}", brief(promote.generation)),
            GroupCommand::HandOver(order) => format!("handing over to {}", brief(order.to)),
            GroupCommand::Fence(fence) => format!("fence by [{}]", brief_lineage(&fence.lineage)),
            GroupCommand::Acknowledge(at) => format!("record that the peer has {}", at.cursor.sequence),
            other => format!("{other:?}"),
        };
        match self {
            Self::Offer { home, peer, offer } => {
                write!(f, "offer {home}->{peer} of [{}] at {}", brief_lineage(&offer.lineage), offer.head.sequence)
            }
            Self::Decided { home, peer, command, .. } => write!(f, "{} at {peer}, for {home}'s offer", of(command)),
            Self::Deltas { home, peer, accept } => {
                let lineage = brief_lineage(&accept.lineage);
                write!(f, "{} deltas {home}->{peer} under [{lineage}]", accept.deltas.len())
            }
            Self::Answer { home, peer, heard: Heard::Positioned(position) } => {
                write!(
                    f,
                    "answer {peer}->{home}: [{}] at {}",
                    brief_lineage(&position.lineage),
                    position.head.sequence
                )?;
                position.refusal.as_ref().map_or(Ok(()), |refusal| write!(f, ", refused: {refusal}"))
            }
            Self::Answer { home, peer, heard } => write!(f, "answer {peer}->{home}: {heard:?}"),
            Self::Local { site, command, .. } => write!(f, "{} at {site}", of(command)),
        }
    }
}

/// All items that were ever on their way.
#[derive(Default)]
pub(crate) struct Items {
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    items: Vec<Arc<Item>>,
    by_bytes: HashMap<Vec<u8>, ItemId>,
}

impl Items {
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().expect("no thread has panicked")
    }

    pub(crate) fn get(&self, item: ItemId) -> Arc<Item> {
        self.met().items[item.0 as usize].clone()
    }

    pub(crate) fn name(&self, item: Item) -> ItemId {
        let bytes = item.encode();
        let mut met = self.met();
        let id = ItemId(met.items.len() as u32);
        let id = *met.by_bytes.entry(bytes).or_insert(id);
        if id.0 as usize == met.items.len() {
            met.items.push(Arc::new(item));
        }
        id
    }
}
