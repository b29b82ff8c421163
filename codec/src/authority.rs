//! How a site goes from one certificate authority to the next while everything goes on: what its control group keeps of that, and
//! what peers are told.
//!
//! In three steps. *Introduced*: the next authority is there, and everybody learns to trust it; the one before issues. *Issuing*:
//! everything is issued anew under the next one; the one before is still trusted. *Settled*: it is not any more.

use crate::ids::{Hlc, NodeId, SiteId};
use crate::{choice, record};
use bytes::Bytes;

record!(
    /// A certificate authority of the site.
    SiteAuthority {
        /// Which one: the first is 0.
        generation: u32,
        /// Its certificate (DER), which others trust.
        certificate: Bytes,
        /// Its key, certified by the authority before it (DER): whoever trusts that one only finds the way. Empty for the first.
        endorsement: Bytes,
        /// Its key (PKCS #8 DER), sealed under the site's system key.
        sealed_key: Bytes,
        /// When it was made.
        made: Hlc,
    }
);
choice!(
    /// How far the site is on its way to the next authority.
    AuthorityStep {
        /// There is one, and everybody trusts it.
        Settled = 1,
        /// The next one is to be trusted, and issues nothing yet.
        Introduced = 2,
        /// The next one issues, and the one before is trusted still.
        Issuing = 3,
    }
);
record!(
    /// The authorities of a site.
    Authorities {
        /// Counts steps; whoever says that it has come along says to where.
        change: u64,
        /// How far it is.
        step: AuthorityStep,
        /// The one that issues.
        current: SiteAuthority,
        /// The other one that is trusted: the next, or the one before.
        other: Option<SiteAuthority>,
    }
);
record!(
    /// A next authority is to be trusted.
    IntroduceAuthority {
        /// The one that issues now, as the node knows it that gave the order.
        current: SiteAuthority,
        /// The next one.
        next: SiteAuthority,
    }
);
record!(
    /// The one before is to be trusted no more.
    DropAuthority {
        /// The step that is ended.
        change: u64,
        /// Also if somebody still depends on it.
        force: bool,
        /// The proposer's clock.
        time: Hlc,
    }
);
record!(
    /// How far a node has come along.
    NodeStanding {
        /// The node.
        node: NodeId,
        /// It trusts, and will after a restart, what was agreed with this step.
        change: u64,
        /// It shows identities that this authority has issued.
        generation: u32,
    }
);
record!(
    /// A peer trusts what was agreed with a step, as it has said itself.
    PeerTold {
        /// The peer.
        peer: SiteId,
        /// The step.
        change: u64,
    }
);
record!(
    /// Whom a peer is to trust about a site. Said over a connection for which one of them, or one before, has vouched.
    PeerAuthorities {
        /// The site.
        site: SiteId,
        /// Its step.
        change: u64,
        /// Its authorities' certificates (DER): one, or two while it goes from one to the next.
        certificates: Vec<Bytes>,
    }
);
choice!(
    /// What is asked about the site's authority.
    AuthorityOrder {
        /// How far is it?
        Show = 1,
        /// Go over to a next one; if the site is on the way already, go on.
        Rotate = 2,
        /// Trust the one before no more; `true`: also if somebody still depends on it.
        Drop(bool) = 3,
    }
);
record!(
    /// How far the site is on its way to the next authority.
    AuthorityProgress {
        /// The authority that issues.
        generation: u32,
        /// The step.
        step: AuthorityStep,
        /// Who has to come along before the next step.
        waits: Vec<String>,
        /// Who would be cut off by the last one.
        depends: Vec<String>,
    }
);

impl AuthorityStep {
    /// As it is shown to people and scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Introduced => "introduced",
            Self::Issuing => "issuing",
        }
    }
}

impl Authorities {
    /// Those that are trusted, the one that issues first.
    pub fn trusted(&self) -> impl Iterator<Item = &SiteAuthority> {
        std::iter::once(&self.current).chain(&self.other)
    }
}
