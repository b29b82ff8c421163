//! What all requests to a target pass: the rates that an operator allows, and the counters.

use super::TargetError;
use super::backoff::Backoff;
use super::rate::TokenBucket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How much of a line and of a store a target may take. None of it unless somebody says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetLimits {
    /// Bytes of objects a second, both ways together; those of a second may pass at once.
    pub bytes_per_second: Option<u64>,
    /// Requests a second; those of a second may be made at once.
    pub requests_per_second: Option<u32>,
    /// For how long failures are tried again, where it is not to be two minutes.
    pub patience: Option<Duration>,
}

/// What has passed since a target was opened, by all its clones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetCounters {
    /// Requests that were made, those that failed among them.
    pub requests: u64,
    /// Those of them that were made again because one before had failed.
    pub retries: u64,
    /// Answers that asked for fewer requests.
    pub throttled: u64,
    /// Bytes of objects that were sent, also in vain.
    pub bytes_out: u64,
    /// Bytes of objects that were received, also in vain.
    pub bytes_in: u64,
}

/// Rates and counters of one target.
#[derive(Debug)]
pub(super) struct Gate {
    origin: Instant,
    bytes: Option<Mutex<TokenBucket>>,
    requests: Option<Mutex<TokenBucket>>,
    patience: Option<Duration>,
    requests_made: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
}

impl Gate {
    pub(super) fn new(limits: TargetLimits) -> Result<Self, TargetError> {
        let nothing = |name| TargetError::Setting { name, why: "of 0 would let nothing through, ever" };
        let bucket = |rate: Option<u64>, name| match rate {
            Some(0) => Err(nothing(name)),
            rate => Ok(rate.map(|rate| Mutex::new(TokenBucket::new(rate, rate)))),
        };
        Ok(Self {
            origin: Instant::now(),
            bytes: bucket(limits.bytes_per_second, "a rate of bytes")?,
            requests: bucket(limits.requests_per_second.map(u64::from), "a rate of requests")?,
            patience: limits.patience,
            requests_made: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
        })
    }

    /// How long since the target was opened.
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The attempts at one thing, which begin now.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.now(), self.patience)
    }

    async fn pass(&self, bucket: Option<&Mutex<TokenBucket>>, amount: u64) {
        let Some(bucket) = bucket else { return };
        let now = self.now();
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(amount, now);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Before a request is made.
    pub(super) async fn request(&self) {
        self.pass(self.requests.as_ref(), 1).await;
        self.requests_made.fetch_add(1, Ordering::Relaxed);
    }

    /// Before bytes of an object are sent.
    pub(super) async fn sending(&self, bytes: usize) {
        self.pass(self.bytes.as_ref(), bytes as u64).await;
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// After bytes of an object were received, and before more of them are.
    pub(super) async fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        self.pass(self.bytes.as_ref(), bytes as u64).await;
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn was_throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> TargetCounters {
        TargetCounters {
            requests: self.requests_made.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
        }
    }
}
