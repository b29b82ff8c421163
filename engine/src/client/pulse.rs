//! When a node that was asked counts as silent, as a plain value that is told now and then what has moved.
//!
//! A client that is held up itself, by its own input for instance, hears nothing meanwhile, and that is nobody's silence.

use farside_codec::message::Request;
use farside_transport::{Class, Traffic};
use std::time::Duration;

/// How often a pulse is felt.
pub const TICK: Duration = Duration::from_millis(100);
/// Without a connection a node counts as silent so soon: it was sent a few hundred bytes, and nobody but it can say
/// anything. A command is a new client each time, which finds out anew who is dead; a writer waits for two of them one
/// after the other.
pub const ABSENT: Duration = Duration::from_millis(500);
/// A short request is answered sooner than this by a node that is well.
pub const LATE: Duration = Duration::from_millis(1500);
/// A connection on which nothing at all came for that long is as good as dead: what is sent gets acknowledged, and with
/// nothing to send it is kept alive more than twice as often as this. A writer that waits for a chunk when its node dies,
/// and then for its delta at another dead one, loses less than three seconds.
pub const QUIET: Duration = Duration::from_millis(1200);
/// A node that is there but lets nothing move for that long is stuck.
pub const STUCK: Duration = Duration::from_secs(4);
/// What counts as moving: more than keeping alive, and looking for a larger MTU, takes in [`STUCK`].
pub const MOVING_BYTES: u64 = 8 << 10;

/// What is expected of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// It is short and due at once.
    Answer,
    /// It takes as long as it takes, while there is life.
    Life,
    /// What was asked must not be asked twice at a time.
    Never,
}

impl Haste {
    /// What is expected of the answer to a request.
    pub fn of(request: &Request, class: Class) -> Self {
        match request {
            _ if class == Class::Bulk => Self::Life,
            // Waits for peers, and only reads.
            Request::Status => Self::Life,
            Request::Hello(_)
            | Request::HaveChunks(_)
            | Request::Propose(_)
            | Request::Lookup(_)
            | Request::List(_)
            | Request::History(_)
            | Request::ReadDeltas(_)
            | Request::ResolveLog(_)
            | Request::CreateTenant(_)
            | Request::ListTenants
            | Request::CreateLog(_)
            | Request::ListLogs
            | Request::Nodes
            | Request::PeerList
            | Request::PeerLimits => Self::Answer,
            // Tokens are good once, a promotion makes a generation: each is done twice only if the first is lost.
            _ => Self::Never,
        }
    }
}

/// One attempt at one node, since it was begun.
#[derive(Debug, Clone)]
pub struct Pulse {
    haste: Haste,
    begun: Duration,
    felt: Duration,
    heard: (Duration, u64),
    moved: (Duration, u64),
}

impl Pulse {
    /// Begins now.
    pub fn new(haste: Haste, now: Duration) -> Self {
        Self { haste, begun: now, felt: now, heard: (now, 0), moved: (now, 0) }
    }

    /// Whether the node is silent, after `traffic` on the connection that is used; nothing while there is none.
    pub fn is_silent(&mut self, now: Duration, traffic: Option<Traffic>) -> bool {
        let held_up = now.saturating_sub(self.felt + 2 * TICK);
        self.felt = now;
        for since in [&mut self.begun, &mut self.heard.0, &mut self.moved.0] {
            *since += held_up;
        }
        let for_long = |since: Duration, span: Duration| now.saturating_sub(since) >= span;
        let Some(traffic) = traffic else { return self.haste != Haste::Never && for_long(self.begun, ABSENT) };
        if traffic.datagrams_received != self.heard.1 {
            self.heard = (now, traffic.datagrams_received);
        }
        if traffic.bytes.saturating_sub(self.moved.1) >= MOVING_BYTES {
            self.moved = (now, traffic.bytes);
        }
        let is_quiet = for_long(self.heard.0, QUIET);
        match self.haste {
            Haste::Answer => is_quiet || for_long(self.begun, LATE),
            Haste::Life => is_quiet || for_long(self.moved.0, STUCK),
            Haste::Never => false,
        }
    }
}

const _: () = assert!(ABSENT.as_millis() < QUIET.as_millis() && QUIET.as_millis() < STUCK.as_millis());
