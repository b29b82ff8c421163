//! What must hold of backups: what lies at the target is whole, and a site that is made of it is the site.

use super::super::work::{NAMES, name, read, read_at};
use super::super::world::{RECOVERY, World};
use super::{Settled, old_versions_are_readable, read_all, versions_of, wait_until_caught_up};
use farside::client::{Client, Log, Upload};
use farside_codec::erasure::Geometry;
use farside_codec::ids::Hlc;
use farside_codec::message::Moment;
use std::time::Duration;
use tokio::time::Instant;

/// Geometries that a site may come back with.
const GEOMETRIES: [&str; 4] = ["2+1", "1+1", "3+2", "4+2"];

/// A log, and what it should show once its site was restored.
struct Expected<'a> {
    log: &'a str,
    settled: &'a Settled,
    /// The site that is restored is its home.
    is_home: bool,
    /// The last delta of the time before.
    head: u64,
    /// For each name the put that made its version, and its sequence.
    versions: Vec<Option<(u64, u64)>>,
}

/// Every backup that is left is whole; in every second world, and in all that are about backups, one site is destroyed and comes back from them.
pub(super) async fn backups_are_whole(world: &World, logs: &[(&str, Settled)]) -> Result<(), String> {
    if !world.has_backups() {
        return Ok(());
    }
    for site in 0..world.sites().len() {
        let number = world.newest_backup(site).await?;
        let report = world.verify(site).await?;
        world.violations().check(report.is_clean(), || {
            let faults: Vec<String> = report.backups.iter().flat_map(|backup| backup.faults.clone()).collect();
            format!("backups of site {site} up to {number}: {faults:?}, {:?}", report.damaged)
        });
    }
    let is_drawn = world.random().next_u64().is_multiple_of(2);
    match is_drawn || world.is_about_backups() {
        true => a_site_comes_back(world, world.random().next_u64() as usize % world.sites().len(), logs).await,
        false => Ok(()),
    }
}

async fn a_site_comes_back(world: &World, site: usize, logs: &[(&str, Settled)]) -> Result<(), String> {
    let draw = |below: usize| world.random().next_u64() as usize % below.max(1);
    let before = world.client(site).await?;
    let here = world.sites()[site].borrow().name.clone();
    let is_home = |settled: &Settled| settled.info.home.as_ref() == Some(&here);
    let homes = || logs.iter().filter(|(_, settled)| is_home(settled));
    // Back to a moment only where all that was ever there still is, on one branch.
    let cuts = world.cuts(site).await?;
    let newest = cuts.last().map_or(Hlc::default(), |(cut, _)| *cut);
    let times = homes().flat_map(|(_, settled)| settled.kept().map(|delta| delta.time));
    let times: Vec<Hlc> = times.filter(|time| *time <= newest).collect();
    let is_plain = world.promotions_ordered() == 0 && !world.prunes();
    let at = (is_plain && !times.is_empty() && draw(4) > 0).then(|| {
        // Any moment, or the last one before a backup was complete: what came after its cut is in the next one only.
        let (_, finished) = cuts[draw(cuts.len())];
        let before = times.iter().copied().filter(|time| *time <= finished).max();
        before.filter(|_| draw(2) == 0).unwrap_or_else(|| times[draw(times.len())])
    });
    let mut expected = Vec::new();
    for (log, settled) in logs {
        let is_home = is_home(settled);
        let until = |at: Hlc| settled.kept().filter(|delta| delta.time <= at).count() as u64;
        let head = at.filter(|_| is_home).map_or(settled.info.head.sequence, until);
        let opened = before.open_log(log).await.map_err(|error| error.to_string())?;
        let mut versions = Vec::new();
        for number in 0..NAMES {
            let found = match head {
                0 => Ok(None),
                _ => read_at(&opened, &name(number), &Moment::Sequence(head), world.shared()).await,
            };
            versions.push(found.map_err(|error| format!("{log} at {head}: {error}"))?);
        }
        expected.push(Expected { log, settled, is_home, head, versions });
    }
    let geometry = Geometry::parse(GEOMETRIES[draw(GEOMETRIES.len())]).ok_or("no geometry")?;
    let incarnation = world.rebuild(site, geometry, at).await.map_err(|error| format!("no site {site}: {error}"))?;
    let client = world.client(site).await?;
    for expected in &expected {
        came_back(world, &client, expected, incarnation).await?;
    }
    // Its peer hears of it, and whatever one has that the other lacks crosses.
    wait_until_caught_up(world).await.map_err(|error| format!("after site {site} was restored: {error}"))
}

async fn came_back(world: &World, client: &Client, expected: &Expected<'_>, incarnation: u64) -> Result<(), String> {
    let Expected { log, settled, head, .. } = *expected;
    let deadline = Instant::now() + RECOVERY;
    let opened = loop {
        let opened = client.open_log(log).await;
        let is_new = |opened: &Log| {
            opened.info().lineage.last().is_some_and(|branch| branch.generation.incarnation == incarnation)
        };
        match opened {
            // Until its logs have begun a new generation nothing is placed in them.
            Ok(opened) if !expected.is_home || is_new(&opened) => break opened,
            _ if Instant::now() > deadline => {
                let said =
                    opened.map_or_else(|error| error.to_string(), |opened| format!("{:?}", opened.info().lineage));
                world.violations().add(format!("{log} does not begin anew after the restore: {said}"));
                return Ok(());
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let info = opened.info();
    // A home begins the new generation with a delta that says so.
    let is_there = if expected.is_home { info.head.sequence == head + 1 } else { info.head.sequence >= head };
    let shown = info.head.sequence;
    world.violations().check(is_there, || format!("{log} ends at {shown} after the restore, and not at {head}"));
    let deltas = read_all(client, info).await?;
    for (sequence, (theirs, mine)) in (1..=head).zip(deltas.iter().zip(&settled.encoded)) {
        let is_same = theirs.is_empty() || mine.is_empty() || theirs == mine;
        world.violations().check(is_same, || format!("{log}: delta {sequence} is another one after the restore"));
    }
    for (number, version) in (0..).zip(&expected.versions) {
        let found = read(&opened, &name(number), world.shared()).await;
        let is_same = found.as_ref().is_ok_and(|found| found == version);
        world.violations().check(is_same, || {
            let found = found.as_ref().map_err(ToString::to_string);
            format!("{log}: name {number} is {found:?} after the restore, and was {version:?}")
        });
    }
    let versions = versions_of(&opened).await.map_err(|error| format!("{log} after the restore: {error}"))?;
    old_versions_are_readable(world, &opened, client, &deltas, &versions).await?;
    if expected.is_home {
        takes_writes(world, &opened).await;
    }
    Ok(())
}

/// Whoever was restored goes on.
async fn takes_writes(world: &World, log: &Log) {
    let deadline = Instant::now() + RECOVERY;
    loop {
        match log.put(Upload::bytes(b"after the restore", b"here again".to_vec())).await {
            Ok(_) => return,
            Err(error) if Instant::now() > deadline => {
                return world.violations().add(format!("{} takes no writes after the restore: {error}", log.name()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
