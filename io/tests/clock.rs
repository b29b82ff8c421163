//! The hybrid logical clock rises with every reading, whatever the wall clock does and whatever others say; it follows
//! the wall clock when that moves on, and refuses times that no honest clock can show.

use farside_codec::ids::Hlc;
use farside_codec::limits::MAX_CLOCK_SKEW_MS;
use farside_io::clock::{Clock, ClockSkew, HlcClock, SimClock, SystemClock};
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A wall clock that goes wherever it is set, as under a careless operator.
#[derive(Default)]
struct Wall(Cell<u64>);

impl Clock for Wall {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn wall_ms(&self) -> u64 {
        self.0.get()
    }
}

fn clock_at(ms: u64) -> (Rc<Wall>, HlcClock) {
    let wall = Rc::new(Wall(Cell::new(ms)));
    (wall.clone(), HlcClock::new(wall))
}

const NOON_MS: u64 = 1_800_000_000_000;

#[test]
fn it_follows_the_wall_clock_and_rises_within_a_millisecond() {
    let (wall, clock) = clock_at(NOON_MS);
    assert_eq!(clock.now(), Hlc::from_ms(NOON_MS));
    assert_eq!(clock.now(), Hlc::from_ms(NOON_MS).next());
    wall.0.set(NOON_MS + 5);
    assert_eq!(clock.now(), Hlc::from_ms(NOON_MS + 5));
}

#[test]
fn it_never_goes_back_when_the_wall_clock_does() {
    let (wall, clock) = clock_at(NOON_MS);
    let before = clock.now();
    wall.0.set(NOON_MS - 3_600_000);
    assert_eq!(clock.now(), before.next());
    wall.0.set(0);
    assert_eq!(clock.now(), before.next().next());
}

#[test]
fn more_readings_than_fit_a_millisecond_go_on_rising() {
    let (_, clock) = clock_at(NOON_MS);
    let mut last = clock.now();
    for _ in 0..70_000 {
        let next = clock.now();
        assert!(next > last, "{next:?} does not follow {last:?}");
        last = next;
    }
    assert_eq!(last.ms(), NOON_MS + 1, "the counter carries into the milliseconds");
}

#[test]
fn a_time_too_far_ahead_is_refused_and_leaves_no_trace() {
    let (_, clock) = clock_at(NOON_MS);
    let limit = Hlc::from_ms(NOON_MS + MAX_CLOCK_SKEW_MS + 1);
    assert_eq!(clock.observe(limit), Err(ClockSkew { ahead_ms: MAX_CLOCK_SKEW_MS + 1 }));
    assert_eq!(clock.observe(Hlc(u64::MAX)).map_err(|skew| skew.ahead_ms > MAX_CLOCK_SKEW_MS), Err(true));
    assert_eq!(clock.now(), Hlc::from_ms(NOON_MS));
    let last_allowed = Hlc(limit.0 - 1);
    assert_eq!(clock.observe(last_allowed), Ok(()));
    assert_eq!(clock.now(), last_allowed.next());
}

#[test]
fn how_far_ahead_a_time_is_goes_by_the_wall_clock_and_not_by_what_was_merged() {
    let (_, clock) = clock_at(NOON_MS);
    // Each one that is merged would let the next one be further ahead still.
    assert_eq!(clock.observe(Hlc::from_ms(NOON_MS + MAX_CLOCK_SKEW_MS)), Ok(()));
    clock.now();
    assert!(clock.observe(Hlc::from_ms(NOON_MS + 2 * MAX_CLOCK_SKEW_MS)).is_err());
}

#[test]
fn a_simulated_clock_moves_only_when_it_is_moved_and_all_handles_agree() {
    let clock = SimClock::new(NOON_MS);
    let other = clock.clone();
    assert_eq!((clock.monotonic(), clock.wall_ms()), (Duration::ZERO, NOON_MS));
    other.advance(Duration::from_micros(1_999));
    assert_eq!((clock.monotonic(), clock.wall_ms()), (Duration::from_micros(1_999), NOON_MS + 1));
}

#[test]
fn the_machine_s_clocks_move_on() {
    let clock = SystemClock::default();
    let before = clock.monotonic();
    std::thread::sleep(Duration::from_millis(2));
    assert!(clock.monotonic() > before);
    assert!(clock.wall_ms() > NOON_MS - 10 * 365 * 86_400_000, "this machine knows the decade");
}

#[derive(Debug, Clone)]
enum Step {
    /// The wall clock is set.
    Set(u64),
    Read,
    /// A time from elsewhere.
    Observe(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let near = NOON_MS - 2 * MAX_CLOCK_SKEW_MS..NOON_MS + 2 * MAX_CLOCK_SKEW_MS;
    let seen = near.clone().prop_flat_map(|ms| (Just(ms), 0..=u64::from(u16::MAX)));
    prop_oneof![
        2 => near.prop_map(Step::Set),
        1 => any::<u32>().prop_map(|ms| Step::Set(ms.into())),
        4 => Just(Step::Read),
        3 => seen.prop_map(|(ms, counter)| Step::Observe(Hlc::from_ms(ms).0 + counter)),
        1 => any::<u64>().prop_map(Step::Observe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_reading_is_above_all_that_was_read_or_merged(steps in prop::collection::vec(step(), 1..100)) {
        let (wall, clock) = clock_at(NOON_MS);
        let mut highest = Hlc::default();
        for step in steps {
            match step {
                Step::Set(ms) => wall.0.set(ms),
                Step::Read => {
                    let now = clock.now();
                    prop_assert!(now > highest, "{:?} is not above {:?}", now, highest);
                    prop_assert!(now.ms() >= wall.wall_ms());
                    // No further ahead than the wall clock or what was seen before it.
                    prop_assert!(now == Hlc::from_ms(wall.wall_ms()) || now == highest.next());
                    highest = now;
                }
                Step::Observe(seen) => {
                    let ahead = Hlc(seen).ms().saturating_sub(wall.wall_ms());
                    prop_assert_eq!(clock.observe(Hlc(seen)).is_ok(), ahead <= MAX_CLOCK_SKEW_MS);
                    if ahead <= MAX_CLOCK_SKEW_MS {
                        highest = highest.max(Hlc(seen));
                    }
                }
            }
        }
    }
}
