//! Devices that are harmed, taken away and put back as they once were, and clocks that go wrong.

use super::super::faults::{Harm, Place, Whose, Wrong, below};
use super::super::node::End;
use super::World;
use farside_io::entropy::SeededEntropy;
use farside_io::sim::{Fault as DiskFault, Operation, SimDisk, SimFaults};
use std::time::Duration;

/// Harms a device on which chunks begin at these places.
fn harm_device(disk: &SimDisk, harm: Harm, random: &SeededEntropy, chunks_at: &[u64]) {
    let failing = DiskFault::Fail { errno: libc::EIO };
    let soon = below(random, 8);
    // What is far behind on a device was hardly ever written to; chunks fill it from the front.
    let place = || match below(random, 2) {
        0 => below(random, 48 << 20),
        _ => chunks_at[below(random, chunks_at.len() as u64) as usize] + below(random, 3 << 20),
    };
    match harm {
        Harm::Flip => {
            let from = place();
            disk.flip(from..from + (1 << 20), 1 + below(random, 64) as u32);
        }
        Harm::Rates => disk.set_faults(SimFaults {
            read_failures_ppm: below(random, 50_000) as u32,
            read_flips_ppm: below(random, 50_000) as u32,
            write_failures_ppm: below(random, 500) as u32,
            write_losses_ppm: below(random, 5_000) as u32,
            write_misdirects_ppm: below(random, 2_000) as u32,
            write_flips_ppm: below(random, 5_000) as u32,
            sync_failures_ppm: below(random, 500) as u32,
            max_extra_yields: 3,
        }),
        Harm::WriteFails => disk.inject(Operation::Write, soon, failing),
        Harm::WriteFull => (0..1 + below(random, 4)).for_each(|_| disk.inject(Operation::Write, soon, DiskFault::Full)),
        Harm::SyncFails => disk.inject(Operation::Sync, soon, failing),
        Harm::WriteLost => disk.inject(Operation::Write, soon, DiskFault::Lose),
        Harm::WriteMisdirected => {
            disk.inject(Operation::Write, soon, DiskFault::Misdirect { to: place() });
        }
        Harm::Stall => disk.stall(),
    }
}

impl World {
    pub(super) async fn harm(&self, place: Place, device: usize, harm: Harm, lasts: Duration) {
        let (disk, chunks_at) = {
            let there = self.sites()[place.site].borrow();
            let node = &there.nodes[place.node];
            // A node that is gone has none.
            let Some(disk) = node.disks.get(device) else { return };
            (disk.clone(), node.chunks_at.clone())
        };
        harm_device(&disk, harm, &self.0.random, &chunks_at);
        // A copy that may be put back later.
        self.0.old_copies.borrow_mut().push((place, device, disk.duplicate(self.0.random.next_u64())));
        let most = if matches!(harm, Harm::Stall) { Duration::from_secs(3) } else { Duration::MAX };
        tokio::time::sleep(lasts.min(most)).await;
        disk.set_faults(Default::default());
        disk.release();
    }

    /// Ends the node, takes a victim out or puts an old copy of it in, and starts the node.
    pub(super) async fn swap(&self, place: Place, device: usize, old_copy: bool, lasts: Duration) {
        let turn = self.turn(place);
        let _turn = turn.lock().await;
        self.end(place, End::Kill).await;
        {
            let mut there = self.sites()[place.site].borrow_mut();
            let node = &mut there.nodes[place.node];
            if node.gone {
                return;
            }
            let mut copies = self.0.old_copies.borrow_mut();
            let mine = copies.iter().position(|(of, which, _)| (*of, *which) == (place, device));
            match mine.filter(|_| old_copy) {
                Some(at) => node.disks[device] = copies.swap_remove(at).2,
                None => node.unplugged[device] = true,
            }
            node.start();
        }
        tokio::time::sleep(lasts).await;
        self.end(place, End::Kill).await;
        let mut there = self.sites()[place.site].borrow_mut();
        let node = &mut there.nodes[place.node];
        node.unplugged.fill(false);
        node.start();
    }

    pub(super) async fn misguide(&self, whose: Whose, wrong: Wrong, lasts: Duration) {
        let clock = match whose {
            Whose::Node(place) => self.sites()[place.site].borrow().nodes[place.node].host.clock.clone(),
            Whose::Client(client) => self.0.clients.borrow()[client].clock.clone(),
        };
        match wrong {
            Wrong::Jump(milliseconds) => clock.set_wrong_by(milliseconds),
            Wrong::Drift(pace_ppm) => clock.set_pace(pace_ppm),
            Wrong::Frozen => clock.set_pace(0),
        }
        tokio::time::sleep(lasts).await;
        clock.set_wrong_by(0);
    }
}
