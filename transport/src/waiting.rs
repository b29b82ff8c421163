//! How long a stream waits until something of it moves.
//!
//! Who waits on a connection for bodies stands behind others of them, and behind the rest of its own: on a slow line that
//! takes longer than any time that one would give to an answer. So there a stream has not stalled while the connection
//! moves, unless so much passes it by that it can't be the line that holds it up. A line that is dead loses its
//! connection, which ends every wait.

use crate::limits::{MOVING_BYTES, PASSED_BYTES};
use crate::statistics::Counters;
use crate::stream::StreamError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a stream waits before it is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the first frame: a listener's request is there at once, a caller's reply takes the other end's work.
    pub(crate) first: Duration,
    /// For any movement afterwards, either way.
    pub(crate) stall: Duration,
}

/// What a stream waits by.
pub(crate) struct Waiting {
    pub(crate) patience: Patience,
    /// The connection that the stream is of, if that is one for bodies.
    pub(crate) line: Option<quinn::Connection>,
    pub(crate) counters: Arc<Counters>,
}

impl Waiting {
    /// Waits for `what`, for `span` and as long as the line moves; counts what is given up.
    pub(crate) async fn within<T>(&self, span: Duration, what: impl Future<Output = T>) -> Result<T, StreamError> {
        let mut what = pin!(what);
        let begun = self.moved();
        let mut before = begun;
        loop {
            if let Ok(done) = timeout(span, &mut what).await {
                return Ok(done);
            }
            let now = self.moved();
            if now - before < MOVING_BYTES || now - begun > PASSED_BYTES {
                self.counters.stalled();
                return Err(StreamError::Stalled);
            }
            before = now;
        }
    }

    /// Bytes that the line has carried so far, both ways.
    fn moved(&self) -> u64 {
        self.line.as_ref().map_or(0, |line| {
            let statistics = line.stats();
            statistics.udp_rx.bytes + statistics.udp_tx.bytes
        })
    }
}
