//! Whether what is stored would fit elsewhere: pure.

/// What a failure domain, a device or a node, has for fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of its segments.
    pub bytes: u64,
}

/// Tenths of a device that records which count may fill: compaction needs room to work in, and clients are refused before
/// the last segments are taken.
const FILLED_TENTHS: u128 = 9;

/// Whether `live_bytes` of fragments fit, where no domain holds more than `most` of the `fragments` of a stripe. However
/// large it is, a domain holds that part of everything at most.
pub fn fits(rooms: &[Room], live_bytes: u64, most: usize, fragments: usize) -> bool {
    let (live, most, fragments) = (u128::from(live_bytes), most as u128, fragments.max(1) as u128);
    // In fragments' parts of a byte, so that nothing is rounded.
    let room_of = |room: &Room| u128::from(room.bytes) * FILLED_TENTHS / 10 * fragments;
    let taken: u128 = rooms.iter().map(|room| room_of(room).min(live * most)).sum();
    taken >= live * fragments
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rooms(bytes: &[u64]) -> Vec<Room> {
        bytes.iter().map(|bytes| Room { bytes: *bytes }).collect()
    }

    #[test]
    fn a_small_device_bounds_what_six_can_hold() {
        let check =
            |bytes: &[u64], live, fits_in| assert_eq!(fits(&rooms(bytes), live, 1, 6), fits_in, "{live} in {bytes:?}");
        check(&[100; 6], 540, true);
        check(&[100; 6], 541, false);
        // The large one holds a sixth, the small one is full.
        check(&[10_000, 100, 100, 100, 100, 50], 270, true);
        check(&[10_000, 100, 100, 100, 100, 50], 280, false);
        check(&[100; 5], 60, false);
        check(&[100; 7], 600, true);
        check(&[], 0, true);
    }

    proptest! {
        #[test]
        fn more_room_and_less_to_hold_never_hurt(
            bytes in prop::collection::vec(0u64..1 << 40, 1..9),
            live in 0u64..1 << 42,
            more in 0u64..1 << 40,
        ) {
            let most = 6usize.div_ceil(bytes.len());
            let held = fits(&rooms(&bytes), live, most, 6);
            let mut larger = bytes.clone();
            larger[0] += more;
            prop_assert!(!held || fits(&rooms(&larger), live, most, 6));
            prop_assert!(!held || fits(&rooms(&bytes), live / 2, most, 6));
            let all: u64 = bytes.iter().sum();
            prop_assert!(!held || live <= all);
        }
    }
}
