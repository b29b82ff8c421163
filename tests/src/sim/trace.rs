//! What happened, as a hash that two runs of one seed must share, and as lines that a person can read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// Lines kept for a failure's report.
const LINES: usize = 4000;

#[derive(Default)]
struct Inner {
    hash: u64,
    lines: VecDeque<String>,
    print: bool,
}

/// The trace of one run. Clones are the same one.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>, tokio::time::Instant);

impl Trace {
    /// An empty one; with `print`, lines go to standard error as they come.
    pub fn new(print: bool) -> Self {
        let inner = Inner { hash: 0xcbf2_9ce4_8422_2325, print, ..Inner::default() };
        Self(Arc::new(Mutex::new(inner)), tokio::time::Instant::now())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Milliseconds of simulated time so far.
    pub fn now_ms(&self) -> u64 {
        self.1.elapsed().as_millis() as u64
    }

    /// A datagram was sent. What it holds is encrypted under keys that differ from run to run; when, whence, whither
    /// and how long do not.
    pub fn packet(&self, now_ns: u64, from: SocketAddr, to: SocketAddr, length: usize) {
        let mut inner = self.inner();
        let ends = u64::from(from.port()) << 16 | u64::from(to.port());
        [now_ns, ends, length as u64].into_iter().for_each(|word| inner.absorb(&word.to_le_bytes()));
    }

    /// Something that a person should read.
    pub fn line(&self, text: impl AsRef<str>) {
        let text = format!("{:>9.3}  {}", self.1.elapsed().as_secs_f64(), text.as_ref());
        let mut inner = self.inner();
        inner.absorb(text.as_bytes());
        if inner.print {
            eprintln!("{text}");
        }
        if inner.lines.len() == LINES {
            inner.lines.pop_front();
        }
        inner.lines.push_back(text);
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.inner().hash
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.iter().cloned().collect()
    }
}

impl Inner {
    /// FNV-1a: enough to tell two runs apart.
    fn absorb(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
