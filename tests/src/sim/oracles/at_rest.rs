//! What must hold of sites that are left alone: redundancy is back, nothing is damaged, memory is given back.

use super::super::divergence;
use super::super::world::World;
use super::status;
use farside::client::Client;
use std::time::Duration;

/// How long redundancy may take to be back.
const REDUNDANT: Duration = Duration::from_secs(60);
/// Bytes of buffers that a site may hold when nothing happens: batches of its write-ahead logs, headers, indexes.
const HELD_AT_REST: usize = 4 << 20;

/// Liveness: once all devices are there and well, nothing is owed any more, but where there is no room for it.
pub(super) async fn redundancy_is_back(world: &World, site: usize, client: &Client) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + REDUNDANT;
    loop {
        let document = status(client).await?;
        let nodes = document["nodes"].as_array().cloned().unwrap_or_default();
        let mut devices = nodes.iter().flat_map(|node| node["devices"].as_array().cloned().unwrap_or_default());
        let well = devices.all(|device| device["state"] == "ok");
        // Of several nodes each has what it should have.
        let misplaced = document["repair"]["misplaced_fragments"].as_u64().unwrap_or(0);
        // A site of one node always knows what it owes.
        let is_certain = document["repair"]["looked_at_all"] != false;
        let is_cut = document["repair"]["other_geometry_chunks"].as_u64().unwrap_or(0) == 0;
        let is_whole = document["repair"]["owed_fragments"] == 0 && misplaced == 0 && is_certain && is_cut;
        if is_whole || divergence::is_full(&document) || !well {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            let (repair, alerts) = (&document["repair"], &document["alerts"]);
            world.violations().add(format!("site {site} does not get its redundancy back: {repair}, {alerts}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Scrubbing finds what is damaged and has it made good: a second pass finds nothing any more.
pub(super) async fn nothing_is_damaged(world: &World, site: usize) -> Result<(), String> {
    if !world.was_upkept() {
        return Ok(());
    }
    let found = world.scrub(site).await?;
    let client = world.client(site).await?;
    redundancy_is_back(world, site, &client).await?;
    let left = world.scrub(site).await?;
    let is_whole = left == 0 || divergence::is_full(&status(&client).await?);
    world.violations().check(is_whole, || {
        format!("a scrub of site {site} found {found} fragments that are bad, and the next one {left}")
    });
    Ok(())
}

/// Memory is bounded, and given back: at rest nobody holds more of the arenas than what is always held.
pub(super) async fn buffers_come_back(world: &World) {
    for (number, site) in world.sites().iter().enumerate() {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let most = HELD_AT_REST * site.borrow().nodes.len();
        while site.borrow().held_bytes() > most {
            if tokio::time::Instant::now() > deadline {
                let held = site.borrow().held_bytes();
                world.violations().add(format!("site {number} holds {held} bytes of buffers at rest"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
