//! Administrators that do what should disturb nobody, and peers that are paused, removed and joined again.

use super::super::faults::Order;
use super::World;
use farside_codec::delta::LogPolicy;
use farside_codec::ids::Label;
use farside_codec::message::{PeerAction, Request, SetPeer, SetPolicy};
use farside_codec::peer::{DAY_MINUTES, DayWindow, PeerHold, PeerLimit};
use std::time::Duration;

impl World {
    pub(super) async fn order(&self, site: usize, order: Order) {
        let Ok(client) = self.client(site).await else { return };
        let number = self.0.made.replace(self.0.made.get() + 1);
        let label = |what: &str| Label::parse(&format!("{what}-{number}"));
        // Any of them may be refused or go unanswered.
        match order {
            Order::Policy => {
                let logs = &self.0.shared.logs;
                let log = &logs[self.0.random.next_u64() as usize % logs.len()];
                let Ok(info) = client.resolve(log).await else { return };
                let lag_bound_seconds = 5 + self.0.random.next_u64() % 60;
                let lag_stops_writers = lag_bound_seconds.is_multiple_of(4);
                let policy = LogPolicy { lag_bound_seconds, lag_stops_writers, ..info.descriptor.policy };
                drop(client.control(&Request::SetPolicy(SetPolicy { log: info.descriptor.log, policy })).await);
            }
            // Whatever is wrong with the KMS: the tenant's epoch says which key is the right one.
            Order::Log => {
                if let Some(name) = label("spare") {
                    drop(client.create_log(&self.0.shared.tenant, &name).await);
                }
            }
            // A tenant that is made while its KMS lies is that other KMS's for ever: nothing says yet which key is right.
            Order::Tenant if self.0.kms_troubles.get() == 0 => {
                if let Some(name) = label("tenant") {
                    drop(client.create_tenant(&name, &format!("file:{}", self.0.shared.kms.display())).await);
                }
            }
            Order::Limit => {
                let name = self.sites()[(site + 1) % self.sites().len()].borrow().name.clone();
                let draw = |below: u64| self.0.random.next_u64() % below;
                let minute = draw(DAY_MINUTES.into()) as u16;
                let window = DayWindow { from: minute, until: (minute + 1 + draw(60) as u16) % DAY_MINUTES };
                let limits = [
                    PeerLimit { rate: 5_000 + draw(200_000), window: None },
                    PeerLimit { rate: 2_000 * draw(3), window: Some(window) },
                ];
                let rest = Duration::from_millis(1_000 + draw(8_000));
                for limit in limits {
                    let order = SetPeer { name: name.clone(), action: PeerAction::Limit(limit) };
                    drop(client.control(&Request::SetPeer(order)).await);
                }
                drop(client.control(&Request::PeerLimits).await);
                tokio::time::sleep(rest).await;
                // Where this goes unanswered the limit stays until there is peace.
                let order = SetPeer { name, action: PeerAction::Unlimit };
                drop(client.control(&Request::SetPeer(order)).await);
            }
            Order::Token => drop(client.control(&Request::PeerToken).await),
            Order::Lists | Order::Tenant => {
                for list in [Request::ListTenants, Request::ListLogs, Request::PeerList, Request::Status] {
                    drop(client.control(&list).await);
                }
            }
        }
    }

    pub(super) async fn unsettle_peer(&self, site: usize, removed: bool, lasts: Duration) {
        let name = self.sites()[(site + 1) % self.sites().len()].borrow().name.clone();
        let Ok(client) = self.client(site).await else { return };
        let tell = async |action| drop(client.control(&Request::SetPeer(SetPeer { name: name.clone(), action })).await);
        self.0.peer_was_removed.set(self.0.peer_was_removed.get() || removed);
        // Refused where the peer is gone already; unanswered where the node is.
        tell(if removed { PeerAction::Remove } else { PeerAction::Pause }).await;
        tokio::time::sleep(lasts).await;
        match removed {
            true => {
                drop(self.join().await);
                // The new peer has no bounds yet; where this goes unanswered it keeps none.
                drop(self.bound_holds().await);
            }
            false => tell(PeerAction::Resume).await,
        }
    }

    /// Says at both sites how long what peers lack is kept: for a short time, or without end.
    pub(super) async fn bound_holds(&self) -> Result<(), String> {
        let hold = match self.0.hold_seconds {
            Some(seconds) => PeerHold { seconds: Some(seconds), bytes: None },
            None => PeerHold { seconds: Some(0), bytes: Some(0) },
        };
        for site in 0..self.sites().len() {
            let name = self.sites()[(site + 1) % self.sites().len()].borrow().name.clone();
            let order = Request::SetPeer(SetPeer { name, action: PeerAction::Hold(hold.clone()) });
            self.client(site).await?.control(&order).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether what peers lack is kept for a short time only.
    pub fn bounds_holds(&self) -> bool {
        self.0.hold_seconds.is_some()
    }
}
