//! Backups of the sites: where they go, who makes, prunes and verifies them, and a site that is made anew of what is there.

use super::super::faults::{Backup, Place};
use super::super::node::{End, SimNode};
use super::super::store::Trouble;
use super::{RECOVERY, World};
use farside::backup::prune::{PruneOptions, prune};
use farside::backup::retention::Retention;
use farside::backup::target::{TargetLimits, TargetUrl};
use farside::backup::verify::{Depth, Report, verify};
use farside::backup::{Repository, SiteFacts, restore, run_and_tell};
use farside::client::Client;
use farside_codec::dump::{BackupSchedule, BackupTarget, ScheduleBackup};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{Reply, Request};
use farside_io::clock::Clock;
use std::time::Duration;
use tokio::time::Instant;

/// How long an administrator waits before trying again.
const AGAIN: Duration = Duration::from_secs(1);

/// How the sites have backups made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backing {
    /// Seconds from one backup that a site makes by itself to the next.
    pub(super) every_seconds: u32,
    /// Chunks go there in between as well.
    pub(super) continuous: bool,
    /// Those that the site makes by itself are waited for in the end.
    pub(super) is_patient: bool,
}

impl World {
    /// Gives each site a place for its backups, and a schedule.
    pub(super) async fn begin_backups(&self) -> Result<(), String> {
        let Some(Backing { every_seconds, continuous, .. }) = self.0.backing else { return Ok(()) };
        let name = Label::parse("vault").ok_or("no label")?;
        for site in 0..self.sites().len() {
            let client = self.client(site).await?;
            let target = BackupTarget {
                name: name.clone(),
                url: self.bucket(site),
                endpoint: None,
                created: Hlc::default(),
                newest: None,
                schedule: None,
            };
            let schedule = Some(BackupSchedule { every_seconds, continuous });
            let schedule = ScheduleBackup { name: name.clone(), schedule };
            for order in [Request::SetBackupTarget(target), Request::ScheduleBackup(schedule)] {
                client.control(&order).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn bucket(&self, site: usize) -> String {
        format!("s3://vault/{}", self.sites()[site].borrow().name)
    }

    /// What lies at a site's target, as somebody opens it who has the site's key; and what the site is.
    fn repository(&self, site: usize) -> Result<(Repository, SiteFacts, [u8; 32]), String> {
        let there = self.sites()[site].borrow();
        let (_, node) = there.present().next().ok_or("nothing is left of the site")?;
        let (facts, key) = node.custody().map_err(|error| error.to_string())?;
        let url = TargetUrl::parse(&self.bucket(site), None).map_err(|error| error.to_string())?;
        let machine = self.0.operator.machine();
        let target = machine.target(&url, TargetLimits::default()).map_err(|error| error.to_string())?;
        Ok((Repository::new(target, &key, facts.site, machine.entropy), facts, key))
    }

    /// Something is wrong with the stores until the last trouble is over.
    pub(super) async fn trouble_stores(&self, trouble: Trouble, lasts: Duration) {
        let (troubles, stores) = (&self.0.store_troubles, self.0.network.stores());
        troubles.set(troubles.get() + 1);
        stores.set_trouble(trouble);
        tokio::time::sleep(lasts).await;
        troubles.set(troubles.get() - 1);
        if troubles.get() == 0 {
            stores.set_trouble(Trouble::None);
        }
    }

    /// Does something about backups; some commands are killed.
    pub(super) async fn back_up(&self, site: usize, order: Backup, killed: bool, lasts: Duration) {
        if self.0.backing.is_none() {
            return;
        }
        let carried_out = async {
            match order {
                Backup::Now => self.backup_now(site).await.map(|number| format!("backup {number}")),
                Backup::Prune { keep, grace } => self.prune(site, keep, grace).await,
                // What is damaged on the way only is damaged no more in peace, which is when it is judged.
                Backup::Verify => self.verify(site).await.map(|report| format!("{} damaged", report.damaged.len())),
            }
        };
        let text = match killed {
            true => match tokio::time::timeout(lasts, carried_out).await {
                Ok(done) => format!("{done:?}"),
                Err(_) => "killed".into(),
            },
            false => format!("{:?}", carried_out.await),
        };
        self.trace().line(format!("site {site}: {order:?}: {text}"));
    }

    /// Makes a backup; answers its number.
    async fn backup_now(&self, site: usize) -> Result<u64, String> {
        let client = self.client(site).await?;
        let (repository, facts, _) = self.repository(site)?;
        let target = target_of(&client).await?;
        let made = run_and_tell(&client, &repository, &facts, target, &mut |_, _| ()).await;
        made.map(|made| made.manifest.number).map_err(|error| error.to_string())
    }

    /// Twice: what was found to be needed by nothing goes with the second one.
    async fn prune(&self, site: usize, keep: usize, grace: Duration) -> Result<String, String> {
        let first = self.prune_once(site, keep, grace).await?;
        tokio::time::sleep(grace).await;
        let second = self.prune_once(site, keep, grace).await?;
        Ok(format!("{first}; {second}"))
    }

    async fn prune_once(&self, site: usize, keep: usize, grace: Duration) -> Result<String, String> {
        let (repository, ..) = self.repository(site)?;
        let now = Hlc::from_ms(self.0.operator.clock.wall_ms());
        let retention = Retention { last: keep, ..Retention::default() };
        let options = PruneOptions { retention, grace, only_say: false, now };
        let pruned = prune(&repository, &options).await.map_err(|error| error.to_string())?;
        Ok(format!("{} stay, {} went, {} packs", pruned.kept.len(), pruned.removed.len(), pruned.removed_packs))
    }

    /// Reads every backup of a site again, to the last byte.
    pub async fn verify(&self, site: usize) -> Result<Report, String> {
        let (repository, ..) = self.repository(site)?;
        verify(&repository, Depth::All, &mut |_, _| ()).await.map_err(|error| error.to_string())
    }

    /// The tenant's key is replaced.
    pub(super) async fn rotate(&self, site: usize) {
        let Ok(client) = self.client(site).await else { return };
        // It may be refused, by whatever is in the KMS's place for instance.
        let text = match client.rotate_tenant(&self.0.shared.tenant).await {
            Ok(rotation) => format!("epoch {}", rotation.epoch.epoch),
            Err(error) => error.to_string(),
        };
        self.trace().line(format!("the tenant's key is rotated at site {site}: {text}"));
    }

    /// Whether what the sites do by themselves about backups is waited for, and each site may be destroyed.
    pub fn is_about_backups(&self) -> bool {
        self.0.backing.is_some_and(|backing| backing.is_patient)
    }

    /// When each of a site's backups was cut, and when it was complete.
    pub async fn cuts(&self, site: usize) -> Result<Vec<(Hlc, Hlc)>, String> {
        let (repository, ..) = self.repository(site)?;
        let mut cuts = Vec::new();
        for number in repository.numbers().await.map_err(|error| error.to_string())? {
            let manifest = repository.manifest(number).await.map_err(|error| error.to_string())?.manifest;
            cuts.push((manifest.cut, manifest.finished));
        }
        Ok(cuts)
    }

    /// Whether the sites have backups made.
    pub fn has_backups(&self) -> bool {
        self.0.backing.is_some()
    }

    /// At peace: the site makes backups again by itself, where that is waited for, and one is made when it is ordered.
    pub async fn newest_backup(&self, site: usize) -> Result<u64, String> {
        let deadline = Instant::now() + RECOVERY;
        if self.is_about_backups() {
            let client = self.client(site).await?;
            let number = async || target_of(&client).await.map(|target| target.newest.map(|newest| newest.number));
            let before = number().await?;
            while number().await? <= before {
                if Instant::now() > deadline {
                    return Err(format!("at peace, and site {site} makes no backups: the last one is {before:?}"));
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        loop {
            match self.backup_now(site).await {
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("at peace, and no backup of site {site} is made: {error}"));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
                made => return made,
            }
        }
    }

    /// Everything that a site has is destroyed, and it is made anew of its backups, with other numbers of fragments, as it was
    /// at a moment or when the last backup was made. Answers its incarnation.
    pub async fn rebuild(&self, site: usize, geometry: Geometry, at: Option<Hlc>) -> Result<u64, String> {
        let (repository, _, key) = self.repository(site)?;
        for node in self.places(site).into_iter().map(|place| place.node) {
            self.end(Place { site, node }, End::PowerCut).await;
        }
        let chosen = restore::choose(&repository, at).await.map_err(|error| error.to_string())?;
        let (plan, host, directory) = {
            let there = self.sites()[site].borrow();
            let (_, node) = there.present().next().ok_or("nothing is left of the site")?;
            (there.plan, node.host.clone(), there.directory(0))
        };
        let seed = self.0.random.next_u64();
        let order = (chosen.manifest, at);
        let made = SimNode::restore(&directory, plan, geometry, (&repository, &key), order, (host, seed), self.trace());
        let (mut node, incarnation) = made.await?;
        node.start();
        let mut there = self.sites()[site].borrow_mut();
        there.nodes.iter_mut().for_each(SimNode::lose);
        there.nodes.push(node);
        Ok(incarnation)
    }
}

async fn target_of(client: &Client) -> Result<BackupTarget, String> {
    match client.control(&Request::BackupTargets).await {
        Ok(Reply::BackupTargets(targets)) => targets.into_iter().next().ok_or_else(|| "it has no target".into()),
        Ok(_) => Err("no targets".into()),
        Err(error) => Err(error.to_string()),
    }
}
