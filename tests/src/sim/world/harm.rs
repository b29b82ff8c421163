//! Devices that are harmed, taken away and put back as they once were, and clocks that go wrong.

use super::super::faults::{Harm, Place, Whose, Wrong, harm_device};
use super::super::node::End;
use super::World;
use std::time::Duration;

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
