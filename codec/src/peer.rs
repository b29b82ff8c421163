//! Sites that are one another's peers: what each keeps of the other.

use crate::ids::{Label, SiteId};
use crate::{choice, record};
use bytes::Bytes;

record!(
    /// A site that joins hands with this one, proving itself with the token's secret.
    PeerJoin {
        /// From the token; good once.
        secret: [u8; 32],
        /// Who joins.
        peer: PeerRecord,
    }
);
record!(
    /// A peer, as a site's control group keeps it.
    PeerRecord {
        /// The peer.
        site: SiteId,
        /// Its name.
        name: Label,
        /// Its site CA's certificate (DER).
        certificate: Bytes,
        /// Where its nodes listen: `ip:port` of the first shard of each.
        endpoints: Vec<String>,
        /// Neither sent to nor accepted from while paused.
        paused: bool,
    }
);
record!(
    /// Where the nodes of a site are found.
    PeerEndpoints {
        /// The site.
        site: SiteId,
        /// `ip:port` of the first shard of each.
        endpoints: Vec<String>,
    }
);
record!(
    /// A peer is to be paused, resumed or removed.
    SetPeer {
        /// Its name.
        name: Label,
        /// What to do.
        action: PeerAction,
    }
);
choice!(
    /// What to do with a peer.
    PeerAction {
        /// Stop sending; the hold stays.
        Pause = 1,
        /// Send again.
        Resume = 2,
        /// Forget it and its holds.
        Remove = 3,
    }
);
