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
        /// Send it chunks at this rate at most.
        Limit(PeerLimit) = 4,
        /// Send it chunks as fast as it goes, at any time.
        Unlimit = 5,
        /// Keep what it lacks for so long and up to so much; a bound that is not named stays as it is.
        Hold(PeerHold) = 6,
        /// Keep what it lacks as sites do of which nobody says anything.
        Unhold = 7,
    }
);
record!(
    /// How long what a peer has not made durable is kept from pruning, in each log.
    PeerHold {
        /// Seconds for which it has lacked something; 0: without end, `None`: nobody has said.
        seconds: Option<u64>,
        /// Bytes of deltas and chunks that it lacks; 0: without end, `None`: nobody has said.
        bytes: Option<u64>,
    }
);
record!(
    /// How fast a peer is sent chunks.
    PeerLimit {
        /// Bytes a second that all nodes of the site together send it; 0: as fast as it goes.
        rate: u64,
        /// Every day at this time; `None`: whenever no window says otherwise.
        window: Option<DayWindow>,
    }
);
record!(
    /// A part of every day, in UTC. One that ends before it begins goes on past midnight.
    DayWindow {
        /// Minutes since midnight at which it begins, below 1440.
        from: u16,
        /// Minutes since midnight at which it is over.
        until: u16,
    }
);
record!(
    /// The bounds of a peer.
    PeerLimits {
        /// The peer.
        site: SiteId,
        /// Each for another window, in order.
        limits: Vec<PeerLimit>,
        /// How long what it lacks is kept.
        hold: PeerHold,
    }
);

impl PeerHold {
    /// Nobody has said anything.
    pub const UNSAID: Self = Self { seconds: None, bytes: None };
}

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;

impl DayWindow {
    /// Whether it is a part of a day at all.
    pub fn is_sound(&self) -> bool {
        self.from < DAY_MINUTES && self.until < DAY_MINUTES && self.from != self.until
    }

    /// Whether a minute of the day is in it.
    pub fn contains(&self, minute: u16) -> bool {
        match self.from < self.until {
            true => (self.from..self.until).contains(&minute),
            false => minute >= self.from || minute < self.until,
        }
    }
}
