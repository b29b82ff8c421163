//! Watches the sites while the world runs: what a site has shown once must stay true.

use super::world::World;
use farside::client::Client;
use farside_codec::delta::{Cursor, Generation};
use farside_codec::message::{LogInfo, Reply, Request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often each site is looked at.
const EVERY: Duration = Duration::from_millis(700);

/// What was seen of each log so far.
#[derive(Default)]
pub struct Watch {
    /// (log, generation, sequence) → hash, whoever showed it.
    hashes: BTreeMap<(String, Generation, u64), [u8; 32]>,
    /// (site, log) → the last head.
    heads: BTreeMap<(usize, String), (Cursor, Generation)>,
    /// (log, generation at its home) → the furthest that the home has said its peer to be.
    acknowledged: BTreeMap<(String, u64), u64>,
}

impl Watch {
    /// Looks at every site in turn until the workload is over.
    pub async fn run(mut self, world: World) -> Self {
        let mut clients: Vec<Option<Client>> = vec![None; world.sites().len()];
        while !world.shared().over.get() {
            tokio::time::sleep(EVERY).await;
            for (site, client) in clients.iter_mut().enumerate() {
                if !world.sites()[site].borrow().runs() {
                    continue;
                }
                if client.is_none() {
                    *client = tokio::time::timeout(EVERY, world.client(site)).await.ok().and_then(Result::ok);
                }
                let Some(client) = client else { continue };
                // A site that does not answer shows nothing.
                let looked = tokio::time::timeout(EVERY, self.look(&world, site, client)).await;
                drop(looked);
            }
        }
        self
    }

    /// Looks at one site.
    pub async fn look(&mut self, world: &World, site: usize, client: &Client) -> Option<()> {
        let logs = client.logs().await.ok()?;
        for log in &logs {
            self.saw(world, site, log);
        }
        let Reply::Status(document) = client.control(&Request::Status).await.ok()? else { return None };
        let document: Value = serde_json::from_slice(&document).ok()?;
        for log in document["logs"].as_array()? {
            let (name, generation) = (log["name"].as_str()?.to_owned(), log["generation"].as_u64()?);
            // (6) What a peer lacks is kept for it, so it never has to do without.
            let is_kept = !world.bounds_holds() && !world.peer_was_removed();
            world.violations().check(!is_kept || log["exact_up_to_seq"] == log["head_seq"], || {
                format!("the copy of {name} at site {site} lacks what was to be kept for it")
            });
            for peer in log["peers"].as_array()? {
                let cursor = peer["cursor_seq"].as_u64()?;
                let most = self.acknowledged.entry((name.clone(), generation)).or_default();
                *most = (*most).max(cursor);
                let caught_up = peer["caught_up"].as_bool()?;
                let behind = log["head_seq"].as_u64()?.saturating_sub(cursor);
                world.violations().check(!caught_up || behind == 0, || {
                    format!("site {site} says that its peer has all of {name}, which is {behind} deltas ahead")
                });
            }
        }
        Some(())
    }

    fn saw(&mut self, world: &World, site: usize, log: &LogInfo) {
        let name = format!("{}/{}", log.descriptor.tenant_name, log.descriptor.name);
        let head = &log.head;
        let place = (name.clone(), head.generation, head.sequence);
        let known = *self.hashes.entry(place).or_insert(head.hash.0);
        world.violations().check(known == head.hash.0, || {
            format!("two histories of {name} share {}/{}", head.generation, head.sequence)
        });
        let Some(generation) = log.lineage.last().map(|last| last.generation) else { return };
        let before = self.heads.insert((site, name.clone()), (head.clone(), generation));
        if let Some((before, then)) = before.filter(|(_, then)| *then == generation) {
            world.violations().check(head.sequence >= before.sequence, || {
                format!(
                    "{name} at site {site} went back from {} to {} in generation {then}",
                    before.sequence, head.sequence
                )
            });
        }
        let rising = log.lineage.windows(2).all(|pair| pair[0].generation < pair[1].generation);
        world.violations().check(rising, || format!("the lineage of {name} at site {site} does not rise"));
    }

    /// The furthest that a home in this generation (by its counter) said its peer to be.
    pub fn acknowledged(&self, log: &str, generation: u64) -> u64 {
        self.acknowledged.get(&(log.to_owned(), generation)).copied().unwrap_or(0)
    }
}
