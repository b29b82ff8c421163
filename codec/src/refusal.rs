//! Why something was not done, and what to do about it.

use crate::ids::Label;
use crate::{choice, record};

choice!(
    /// Why a request was not done, sorted by who is to blame.
    RefusalCode {
        /// The request breaks a rule of the protocol or a limit.
        BadRequest = 1,
        /// The caller's identity does not allow it.
        Forbidden = 2,
        /// No such tenant, log, name, chunk or peer.
        NotFound = 3,
        /// It is there already and is different.
        Exists = 4,
        /// The log accepts writes at another site, which `home` names.
        NotHome = 5,
        /// Another node leads the group; ask it.
        NotLeader = 6,
        /// No space for writes; reads and GC go on.
        Full = 7,
        /// A bound was reached; the same request may succeed after `retry_after_ms`.
        Busy = 8,
        /// What is stored is damaged beyond its redundancy.
        Corrupt = 9,
        /// Not now: starting, stopping, or checking with the peers who is home.
        Unavailable = 10,
        /// The name's newest delta is not the one the condition expects.
        ConditionFailed = 11,
        /// The delta names chunks whose receipts are too old for GC; put them again.
        StaleReceipt = 12,
        /// The two sides speak no common version.
        Version = 13,
        /// A clock is too far ahead to be merged.
        ClockSkew = 14,
        /// Refused for safety; `detail` says what would be lost and how to insist.
        Unsafe = 15,
        /// The two copies of the log have no such point in common.
        Diverged = 16,
        /// A fault of ours.
        Internal = 17,
        /// Too few devices work for what is to be stored to survive a loss; only an operator changes that.
        TooFewDevices = 18,
        /// The log has what its policy allows it to have.
        Quota = 19,
        /// Not all that there was at that moment is kept: versions that were replaced since have been pruned.
        Pruned = 20,
    }
);

record!(
    /// A refusal and what to do about it.
    Refusal {
        /// Why.
        code: RefusalCode,
        /// One sentence: what happened, to which thing, and what to do.
        detail: String,
        /// Where the log's home is, for [`RefusalCode::NotHome`].
        home: Option<Label>,
        /// When to try again; 0: never the same way.
        retry_after_ms: u32,
    }
);

impl Refusal {
    /// A refusal without home or retry. Details are cut at the text limit.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if detail.len() > 1024 {
            let end = (0..=1024).rev().find(|end| detail.is_char_boundary(*end)).unwrap_or(0);
            detail.truncate(end);
        }
        Self { code, detail, home: None, retry_after_ms: 0 }
    }

    /// The same, worth repeating after `retry_after_ms`.
    pub fn retry(code: RefusalCode, retry_after_ms: u32, detail: impl Into<String>) -> Self {
        Self { retry_after_ms, ..Self::new(code, detail) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}
