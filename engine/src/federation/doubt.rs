//! Whether a peer takes what it is sent. One that has no room, or too few devices, says so after everything has crossed, and
//! will say so again: until it takes something it is sent one thing at a time, ever more seldom.

use std::time::Duration;

/// Rest after the first refusal; each further one doubles it.
const FIRST_REST: Duration = Duration::from_millis(200);
/// The longest rest: so soon a peer that has room again is found out.
pub const LONGEST_REST: Duration = Duration::from_secs(5);

/// A peer that has refused something and has taken nothing since.
#[derive(Debug, Default, Clone)]
pub struct Doubt {
    refusals: u32,
    next: Duration,
    why: String,
}

impl Doubt {
    /// There is none: whatever is to go may go, all at once.
    pub fn is_over(&self) -> bool {
        self.refusals == 0
    }

    /// The peer took something.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// The peer refused something at `now`. What was under way together counts once: `alone` says that nothing else was.
    pub fn refused(&mut self, now: Duration, alone: bool, why: String) {
        if self.is_over() || alone {
            let rest = FIRST_REST.saturating_mul(1 << self.refusals.min(16)).min(LONGEST_REST);
            self.refusals = self.refusals.saturating_add(1);
            self.next = now + rest;
        }
        self.why = why;
    }

    /// When the next thing may be sent, by the clock of [`Doubt::refused`].
    pub fn next(&self) -> Duration {
        self.next
    }

    /// What the peer said last.
    pub fn why(&self) -> &str {
        &self.why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_asked_ever_more_seldom_until_it_takes_something() {
        let mut doubt = Doubt::default();
        let mut now = Duration::from_secs(10);
        let mut rests = Vec::new();
        for _ in 0..40 {
            doubt.refused(now, true, "full".into());
            rests.push(doubt.next() - now);
            now = doubt.next();
        }
        assert_eq!(rests[..6], [200, 400, 800, 1600, 3200, 5000].map(Duration::from_millis));
        assert!(rests[6..].iter().all(|rest| *rest == LONGEST_REST));
        assert_eq!((doubt.is_over(), doubt.why()), (false, "full"));
        doubt.end();
        assert!(doubt.is_over());
        doubt.refused(now, true, String::new());
        assert_eq!(doubt.next() - now, FIRST_REST);
    }

    #[test]
    fn what_was_under_way_together_counts_once() {
        let mut doubt = Doubt::default();
        for late in 0..30 {
            doubt.refused(Duration::from_millis(late), false, String::new());
        }
        assert_eq!(doubt.next(), FIRST_REST);
        doubt.refused(FIRST_REST, true, String::new());
        doubt.refused(FIRST_REST, false, String::new());
        assert_eq!(doubt.next(), FIRST_REST * 3);
    }
}
