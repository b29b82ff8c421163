//! Backups that the site makes by itself: the node that leads the control group makes those that are due, on a thread of its own
//! beside the shards, as the command line would.
//!
//! Where the lead changes in the middle, the old leader ends what it is at; two that end at once are told apart at the
//! target, where each manifest has its own number. A shard never waits for a store.

use super::authority::issuing_parts;
use super::directory::NodeDirectory;
use super::limits::{BACKUP_LOOK, BACKUP_REST, CHUNK_PASS};
use super::shard::Shard;
use crate::backup::target::{TargetLimits, TargetUrl};
use crate::backup::{Repository, SiteFacts, run_and_tell, run_chunks};
use crate::cli::on_runtime;
use crate::client::{Client, ClientSettings, Context};
use crate::machine::Machine;
use farside_codec::dump::{BackupSchedule, BackupTarget};
use farside_codec::ids::{Hlc, Label};
use farside_io::disk::Disk;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// How it stands with one target.
#[derive(Debug, Clone, Default)]
struct Standing {
    running: bool,
    /// When the last pass ended, by the monotonic clock, and how long it took.
    ended: Option<(Duration, Duration)>,
    /// Why the last one failed.
    trouble: Option<String>,
}

/// What this node knows of the backups that it makes.
#[derive(Default)]
pub(crate) struct Backups(RefCell<BTreeMap<Label, Standing>>);

/// What is to be done at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Backup,
    Chunks,
}

/// What is due now. A failure is followed by a rest, and passes over chunks take a tenth of the time at most.
fn due(
    target: &BackupTarget,
    schedule: &BackupSchedule,
    standing: &Standing,
    now: Hlc,
    monotonic: Duration,
) -> Option<Due> {
    let since = standing.ended.map(|(ended, _)| monotonic.saturating_sub(ended));
    if standing.running || standing.trouble.is_some() && since.is_some_and(|since| since < BACKUP_REST) {
        return None;
    }
    let age_ms = target.newest.as_ref().map(|newest| now.ms().saturating_sub(newest.cut.ms()));
    if age_ms.is_none_or(|age| age >= u64::from(schedule.every_seconds) * 1000) {
        return Some(Due::Backup);
    }
    let took = standing.ended.map_or(Duration::ZERO, |(_, took)| took);
    let rested = since.is_none_or(|since| since >= CHUNK_PASS.max(10 * took));
    (schedule.continuous && rested).then_some(Due::Chunks)
}

/// While this node leads the control group, makes the backups that are due.
pub(super) async fn keep_backups<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        tokio::time::sleep(BACKUP_LOOK).await;
        if !shard.leads_site() {
            continue;
        }
        let view = shard.view();
        let (now, monotonic) = (shard.clock.now(), shard.clock.clock().monotonic());
        for target in view.backup_targets.values() {
            let Some(schedule) = &target.schedule else { continue };
            let standing = shard.backups.0.borrow().get(&target.name).cloned().unwrap_or_default();
            if let Some(due) = due(target, schedule, &standing, now, monotonic) {
                begin(&shard, target.clone(), due);
            }
        }
    }
}

fn begin<D: Disk>(shard: &Rc<Shard<D>>, target: BackupTarget, due: Due) {
    let name = target.name.clone();
    shard.backups.0.borrow_mut().entry(name.clone()).or_default().running = true;
    let begun = shard.clock.clock().monotonic();
    let job = job(shard, target, due);
    let shard = shard.clone();
    tokio::task::spawn_local(async move {
        let made = match job {
            Err(error) => Err(error),
            Ok(job) if shard.machine.courier.is_some() => {
                job.make(shard.machine.clone()).await.map_err(|error| error.to_string())
            }
            Ok(job) => job.on_a_thread().await,
        };
        if let Err(reason) = &made {
            tracing::error!(target = %name, reason, "a backup was not made");
        }
        let now = shard.clock.clock().monotonic();
        let standing = Standing { running: false, ended: Some((now, now.saturating_sub(begun))), trouble: made.err() };
        shard.backups.0.borrow_mut().insert(name, standing);
    });
}

/// Everything that the thread needs.
struct Job {
    root: PathBuf,
    facts: SiteFacts,
    key: Zeroizing<[u8; 32]>,
    target: BackupTarget,
    due: Due,
}

fn job<D: Disk>(shard: &Shard<D>, target: BackupTarget, due: Due) -> Result<Job, String> {
    let directory = NodeDirectory::new(&shard.root);
    let key = shard.key.key();
    let authority = issuing_parts(&directory, &key, &shard.site).map_err(|error| error.to_string())?;
    let facts = SiteFacts::new(&shard.site, shard.geometry(), authority);
    Ok(Job { root: directory.root().to_owned(), facts, key: Zeroizing::new(*key.bytes()), target, due })
}

impl Job {
    async fn on_a_thread(self) -> Result<(), String> {
        let (told, waits) = oneshot::channel();
        let begun = std::thread::Builder::new().name("backup".into()).spawn(move || {
            let made = on_runtime(async { self.make(Machine::real()).await.map_err(|error| error.to_string()) });
            // The node has ended; so has whoever would want to know.
            let _ = told.send(made.map_err(|error| error.to_string()).flatten());
        });
        match begun {
            Ok(_) => waits.await.unwrap_or_else(|_| Err("the thread that made it has failed".into())),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn make(self, machine: Machine) -> Result<(), Box<dyn std::error::Error>> {
        let directory = NodeDirectory::new(&self.root);
        let url = TargetUrl::parse(&self.target.url, self.target.endpoint.as_deref())?;
        let target = machine.target(&url, TargetLimits::default())?;
        let repository = Repository::new(target, &self.key, self.facts.site, machine.entropy.clone());
        let repository = repository.cached_in(directory.indexes());
        let path = directory.admin_context();
        let client = Client::connect_from(machine, &Context::load(&path)?, ClientSettings::beside(&path)?).await?;
        let made = match self.due {
            Due::Chunks => run_chunks(&client, &repository, &self.facts).await.map(drop),
            Due::Backup => run_and_tell(&client, &repository, &self.facts, self.target, &mut |_, _| ()).await.map(drop),
        };
        client.link.close().await;
        Ok(made?)
    }
}

/// What is wrong with the backups that the site should make by itself, as the node says that should make them.
pub(super) fn alerts<D: Disk>(shard: &Shard<D>) -> Vec<String> {
    if !shard.leads_site() {
        return Vec::new();
    }
    let (view, now) = (shard.view(), shard.clock.now());
    let overdue = |target: &BackupTarget| {
        let schedule = target.schedule.as_ref()?;
        let since = target.newest.as_ref().map_or(target.created, |newest| newest.cut);
        let age_seconds = now.ms().saturating_sub(since.ms()) / 1000;
        let trouble = shard.backups.0.borrow().get(&target.name).and_then(|standing| standing.trouble.clone());
        // One that is being made is not late yet.
        let is_late = age_seconds > 2 * u64::from(schedule.every_seconds);
        match (is_late, trouble) {
            (false, None) => None,
            (_, Some(trouble)) => Some(format!("backups to {} fail: {trouble}", target.name)),
            (true, None) => Some(format!("the newest backup at {} is {} h old", target.name, age_seconds / 3600)),
        }
    };
    view.backup_targets.values().filter_map(overdue).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_codec::dump::NewestBackup;

    fn check(newest_s: Option<u64>, continuous: bool, standing: Standing, at_s: u64, expected: Option<Due>) {
        let cut = |seconds: u64| Hlc::from_ms(seconds * 1000);
        let newest =
            |seconds| NewestBackup { number: 1, cut: cut(seconds), finished: cut(seconds), chunks: 0, chunk_bytes: 0 };
        let schedule = BackupSchedule { every_seconds: 3600, continuous };
        let target = BackupTarget {
            name: Label::parse("vault").expect("a label"),
            url: "file:///vault".into(),
            endpoint: None,
            created: Hlc::default(),
            newest: newest_s.map(newest),
            schedule: Some(schedule.clone()),
        };
        let found = due(&target, &schedule, &standing, cut(at_s), Duration::from_secs(at_s));
        assert_eq!(found, expected, "{target:?} {standing:?} at {at_s}");
    }

    #[test]
    fn what_is_due() {
        let none = Standing::default();
        let ended = |at: u64, took: u64| Some((Duration::from_secs(at), Duration::from_secs(took)));
        check(None, false, none.clone(), 10, Some(Due::Backup));
        check(Some(0), false, none.clone(), 3599, None);
        check(Some(0), false, none.clone(), 3600, Some(Due::Backup));
        check(None, false, Standing { running: true, ..none.clone() }, 10, None);
        let failed = Standing { trouble: Some("away".into()), ended: ended(100, 1), ..none.clone() };
        check(None, false, failed.clone(), 110, None);
        check(None, false, failed, 100 + BACKUP_REST.as_secs(), Some(Due::Backup));
        check(Some(0), true, Standing { ended: ended(100, 1), ..none.clone() }, 159, None);
        check(Some(0), true, Standing { ended: ended(100, 1), ..none.clone() }, 160, Some(Due::Chunks));
        check(Some(0), true, Standing { ended: ended(100, 30), ..none }, 390, None);
    }
}
