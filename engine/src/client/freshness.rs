//! When the chunks of an object that is being put are touched, as a plain value that is told which GC epochs are seen.
//!
//! Nothing names them before all of them are there, which may take hours, and a round of GC that finds a chunk touched two
//! barriers ago collects it. How often there is a round is the site's own business, so it is learned from receipts: an epoch
//! that has lasted for so long is looked after half as long later. All were touched in one round then, whatever its length.

use std::time::Duration;
use tokio::time::Instant;

/// How soon the chunks are touched again after an epoch has begun of which nothing else is known: twice in the shortest
/// round that a site can be set to.
const SOONEST: Duration = Duration::from_millis(500);
/// How long they go untouched at most, whatever lasts: several times in a round by default.
const LATEST: Duration = Duration::from_secs(30);

/// Up to when all chunks that are stored are known to be touched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness {
    /// The newest epoch in which all of them were.
    epoch: u64,
    /// When that was seen first,
    begun: Instant,
    /// and when it was last.
    seen: Instant,
    /// There is a newer one.
    is_outrun: bool,
}

impl Freshness {
    /// The first chunk is stored.
    pub(super) fn new(epoch: u64, now: Instant) -> Self {
        Self { epoch, begun: now, seen: now, is_outrun: false }
    }

    /// Another chunk was stored, in `epoch`.
    pub(super) fn stored(&mut self, epoch: u64, now: Instant) {
        self.is_outrun |= epoch > self.epoch;
        // A node that lags behind says nothing of now.
        if epoch == self.epoch && !self.is_outrun {
            self.seen = now;
        }
    }

    /// All of them were touched, and `epoch` is the newest that was answered to what was asked at `asked`.
    pub(super) fn touched(&mut self, epoch: u64, asked: Instant) {
        if epoch > self.epoch {
            (self.epoch, self.begun) = (epoch, asked);
        }
        (self.seen, self.is_outrun) = (self.seen.max(asked), false);
    }

    /// Some of what was asked for at `asked` could not be told of: it is asked for again soon.
    pub(super) fn missed(&mut self, asked: Instant) {
        (self.begun, self.seen, self.is_outrun) = (asked, asked, false);
    }

    /// When they are to be touched next.
    pub(super) fn due(&self) -> Instant {
        match self.is_outrun {
            true => self.seen,
            false => self.seen + ((self.seen - self.begun) / 2).clamp(SOONEST, LATEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Touches what is due at a site with a round every `round`, each touch taking `late` to be answered. Answers the longest time
    /// in rounds that went by between two touches, and how many there were.
    fn check(round: Duration, late: Duration, begun: Duration, whole: Duration) -> (f64, usize) {
        let zero = Instant::now();
        let epoch = |now: Instant| 7 + ((now - zero).as_secs_f64() / round.as_secs_f64()) as u64;
        let mut now = zero + begun;
        let mut fresh = Freshness::new(epoch(now), now);
        let (mut longest, mut touches) = (Duration::ZERO, 0);
        while now - zero < whole {
            let next = fresh.due().max(now) + late;
            longest = longest.max(next - now);
            fresh.touched(epoch(next), next - late);
            (now, touches) = (next, touches + 1);
        }
        (longest.as_secs_f64() / round.as_secs_f64(), touches)
    }

    #[test]
    fn every_round_finds_them_touched() {
        for round in [1, 2, 3, 10, 60, 300, 3600] {
            for begun in 0..20 {
                let round = Duration::from_secs(round);
                let whole = round * 8;
                let (rounds, touches) = check(round, Duration::from_millis(100), round * begun / 20, whole);
                assert!(rounds < 0.9, "{rounds} rounds of {round:?} between two touches, begun at {begun}/20");
                let most = 8 * 16 + whole.as_secs() as usize / 30;
                assert!(touches <= most, "{touches} touches in 8 rounds of {round:?}");
            }
        }
    }

    #[test]
    fn a_chunk_of_the_same_epoch_is_as_good_as_a_touch() {
        let zero = Instant::now();
        let at = |seconds: u64| zero + Duration::from_secs(seconds);
        let mut fresh = Freshness::new(5, zero);
        fresh.stored(5, at(100));
        assert_eq!(fresh.due(), at(130));
        fresh.stored(4, at(120));
        assert_eq!(fresh.due(), at(130), "an older epoch says nothing");
        fresh.stored(6, at(125));
        assert!(fresh.due() <= at(125), "a newer one has all touched");
        fresh.stored(5, at(126));
        fresh.touched(6, at(127));
        assert_eq!(fresh.due(), at(127) + SOONEST);
        fresh.stored(6, at(140));
        fresh.missed(at(141));
        assert_eq!(fresh.due(), at(141) + SOONEST);
    }
}
