//! Administrators that change sides, by force and by plan, and what they were told.

use super::super::node::End;
use super::{Promotion, World};
use farside::client::ClientError;
use farside_codec::message::{Failover, Reply, Request, SwitchedOver, Switchover};
use std::time::Duration;

impl World {
    pub(super) async fn fail_over(&self, site: usize, after_death: bool, order: Failover, lasts: Duration) {
        let other = (site + 1) % self.sites().len();
        // Who forces it has two writers, whatever was promised.
        let force = order.force && !self.has_leases();
        let mut turns = Vec::new();
        if after_death {
            for place in self.places(other) {
                turns.push((place, self.turn(place).lock_owned().await));
                self.end(place, End::PowerCut).await;
            }
        }
        if let Ok(client) = self.client(site).await {
            self.0.promotions_ordered.set(self.0.promotions_ordered.get() + self.0.shared.logs.len() as u64);
            self.0.cut_was_ordered.set(self.0.cut_was_ordered.get() || order.cut);
            match client.control(&Request::Failover(Failover { force, ..order })).await {
                Ok(Reply::FailedOver(report)) => {
                    for log in report.logs {
                        let text = format!("{} promoted at site {site}: generation {}", log.name, log.generation);
                        self.trace().line(format!("{text}, position {}", log.position));
                        let answered_ms = self.trace().now_ms();
                        self.0.promotions.borrow_mut().push(Promotion {
                            site,
                            promoted: log,
                            answered_ms,
                            from: None,
                            forced: force,
                            cut: report.cut,
                        });
                    }
                    for log in report.refused {
                        self.trace().line(format!("{} is not promoted at site {site}: {}", log.name, log.refusal));
                    }
                }
                Ok(_) => self.violations().add("a failover was answered with something else"),
                Err(error) => self.trace().line(format!("failover at site {site}: {error}")),
            }
        }
        if turns.is_empty() {
            return;
        }
        tokio::time::sleep(lasts).await;
        for (place, _turn) in turns {
            self.sites()[other].borrow_mut().nodes[place.node].start();
        }
    }

    /// Ordered at one site, and at the other one where the first has nothing to hand over. If the way between them is cut
    /// at a bad moment, what was handed over is in transit, and arrives later.
    pub(super) async fn switch_over(&self, site: usize, back: bool, cut: Option<Duration>, lasts: Duration) {
        let other = (site + 1) % self.sites().len();
        let trouble = async {
            let Some(after) = cut else { return };
            tokio::time::sleep(after).await;
            let (from, to) = (self.places(site), self.places(other));
            self.cut(&from, &to);
            self.cut(&to, &from);
            tokio::time::sleep(lasts).await;
            self.0.network.heal();
        };
        let order = async {
            if !self.order_switchover(site, other, back).await {
                self.order_switchover(other, site, back).await;
            }
        };
        tokio::join!(order, trouble);
    }

    /// Answers whether the site had anything to do.
    async fn order_switchover(&self, from: usize, to: usize, back: bool) -> bool {
        let name = self.sites()[to].borrow().name.clone();
        let Ok(client) = self.client(from).await else { return false };
        self.0.promotions_ordered.set(self.0.promotions_ordered.get() + self.0.shared.logs.len() as u64);
        match client.control(&Request::Switchover(Switchover { to: name, log: None, back })).await {
            Ok(Reply::SwitchedOver(report)) => self.switched_over(from, to, report),
            Ok(_) => self.violations().add("a switchover was answered with something else"),
            Err(ClientError::NotFound(_)) => return false,
            Err(error) => self.trace().line(format!("switchover at site {from}: {error}")),
        }
        true
    }

    fn switched_over(&self, from: usize, to: usize, report: SwitchedOver) {
        for log in report.left {
            let how = if log.in_transit.is_some() { "in transit" } else { "left" };
            self.trace().line(format!("{} is {how}: site {to} lacks {} deltas", log.name, log.deltas));
        }
        for log in report.refused {
            self.trace().line(format!("{} stays at site {from}: {}", log.name, log.refusal));
        }
        for log in report.moved {
            let text = format!("{} handed over to site {to}: generation {}", log.name, log.generation);
            self.trace().line(format!("{text}, position {}", log.position));
            let answered_ms = self.trace().now_ms();
            self.0.promotions.borrow_mut().push(Promotion {
                site: to,
                promoted: log,
                answered_ms,
                from: Some(from),
                forced: false,
                cut: None,
            });
        }
    }
}
