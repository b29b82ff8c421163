//! Backups: where they go, making, listing and verifying them, and making a site of one.

use super::args::Common;
use super::backup_args::{
    BackupCommand, Chunks, Every, PlaceArguments, RateArguments, Restore, RetentionArguments, TargetCommand,
};
use super::client_commands::connect;
use super::keys::Unsealing;
use super::output::CliError;
use super::sizes::{parse_time, show_bytes, show_time};
use crate::backup::prune::{PruneOptions, Pruned, prune};
use crate::backup::restore::{RestoreOptions, restore};
use crate::backup::retention::Retention;
use crate::backup::target::{Target, TargetError, TargetLimits, TargetUrl};
use crate::backup::verify::{Depth, Report, Verified, verify};
use crate::backup::{BackupError, Completed, Found, Repository, SiteFacts, run_and_tell};
use crate::client::{Client, ClientError, parse_label, parse_log_name, unexpected};
use crate::node::LocalOrder;
use crate::node::directory::{NodeDirectory, SiteFile};
use crate::node::keys::{SystemKey, key_of_shares, system_key};
use crate::state::Part;
use crate::terminal::{Progress, line};
use farside_codec::audit::{AuditAction, AuditedPrune};
use farside_codec::backup::Manifest;
use farside_codec::dump::{BackupSchedule, BackupTarget, NewestBackup, ScheduleBackup};
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label, SiteId};
use farside_codec::message::{Reply, Request};
use farside_io::entropy::SystemEntropy;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

type Outcome = Result<(), CliError>;

pub(super) async fn backup(command: BackupCommand, common: &Common) -> Outcome {
    match command {
        BackupCommand::Target(TargetCommand::Add { name, url, endpoint, unsealing }) => {
            add(&name, &url, endpoint.as_deref(), &unsealing, common).await
        }
        BackupCommand::Target(TargetCommand::List) => list_targets(common).await,
        BackupCommand::Target(TargetCommand::Remove { name }) => {
            let name = parse_label(&name)?;
            said_done(common, &Request::ForgetBackupTarget(name.clone())).await?;
            match common.json {
                true => line(json!({ "removed": name.as_str() })),
                false => line(format!("target {name} is forgotten; what lies there stays")),
            }
            Ok(())
        }
        BackupCommand::Schedule { target, control, chunks } => schedule(&target, control, chunks, common).await,
        BackupCommand::Now { target, rate, unsealing } => now(&target, &rate, &unsealing, common).await,
        BackupCommand::List(place) => list(&place, common).await,
        BackupCommand::Show { place, number } => show(&place, number, common).await,
        BackupCommand::Prune { place, retention, grace, dry_run } => {
            prune_target(&place, &retention, grace, dry_run, common).await
        }
        BackupCommand::Verify { place, read_all, sample, rate } => {
            let depth = if read_all { Depth::All } else { Depth::Sample(sample) };
            verify_all(&place, depth, &rate, common).await
        }
    }
}

async fn said_done(common: &Common, request: &Request) -> Outcome {
    let client = connect(common).await?;
    let reply = client.control(request).await;
    client.close().await?;
    match reply? {
        Reply::Done => Ok(()),
        reply => Err(unexpected(&reply).into()),
    }
}

fn parse_url(url: &str, endpoint: Option<&str>) -> Result<TargetUrl, CliError> {
    TargetUrl::parse(url, endpoint).map_err(|error| CliError::usage(format!("the target: {error}")))
}

fn limits(rate: &RateArguments) -> TargetLimits {
    TargetLimits { bytes_per_second: rate.rate, requests_per_second: rate.requests, ..TargetLimits::default() }
}

/// A site's id and system key: a node's directory has both, and so have its shares.
struct SiteKey {
    site: SiteId,
    key: Zeroizing<[u8; 32]>,
    /// Where indexes are kept between two commands.
    cache: Option<PathBuf>,
}

impl SiteKey {
    fn of_directory(path: &Path, unsealing: &Unsealing) -> Result<(Self, SiteFile, SystemKey), CliError> {
        let directory = NodeDirectory::new(path);
        let site = directory.load_site()?;
        let key = system_key(&directory, &unsealing.source())?;
        let own = Self { site: site.site, key: Zeroizing::new(*key.bytes()), cache: Some(directory.indexes()) };
        Ok((own, site, key))
    }

    fn of_shares(files: &[PathBuf]) -> Result<Self, CliError> {
        let (site, key) = key_of_shares(files)?;
        Ok(Self { site, key: Zeroizing::new(*key.bytes()), cache: None })
    }

    fn open(&self, url: &TargetUrl, limits: TargetLimits) -> Result<Repository, CliError> {
        let target = Target::open(url, limits).map_err(BackupError::from)?;
        let repository = Repository::new(target, &self.key, self.site, Rc::new(SystemEntropy));
        Ok(match &self.cache {
            Some(directory) => repository.cached_in(directory.clone()),
            None => repository,
        })
    }
}

fn directory(common: &Common) -> Result<&Path, CliError> {
    let missing = || CliError::usage("backups are sealed with the system key: name a node's directory with --dir DIR");
    common.dir.as_deref().ok_or_else(missing)
}

async fn targets(client: &Client) -> Result<Vec<BackupTarget>, CliError> {
    match client.control(&Request::BackupTargets).await? {
        Reply::BackupTargets(targets) => Ok(targets),
        reply => Err(unexpected(&reply).into()),
    }
}

async fn find_target(client: &Client, name: &Label) -> Result<BackupTarget, CliError> {
    let found = targets(client).await?.into_iter().find(|target| target.name == *name);
    found.ok_or_else(|| {
        CliError::not_found(format!("there is no backup target {name}: `farside backup target list` names them"))
    })
}

async fn add(name: &str, url: &str, endpoint: Option<&str>, unsealing: &Unsealing, common: &Common) -> Outcome {
    let (name, url) = (parse_label(name)?, parse_url(url, endpoint)?);
    let (key, site, _) = SiteKey::of_directory(directory(common)?, unsealing)?;
    let repository = key.open(&url, TargetLimits::default())?;
    let able = repository.target().probe().await.map_err(BackupError::from)?;
    let objections = able.objections();
    if !objections.is_empty() {
        return Err(BackupError::from(TargetError::Unfit { target: url.to_string(), objections }).into());
    }
    // Another site's backups, or another key's, are found now and not at the first backup.
    let mark = repository.mark().await?;
    if mark.is_some() {
        crate::node::refuse_part(directory(common)?).map_err(ClientError::Refused)?;
    }
    let target = BackupTarget {
        name: name.clone(),
        url: url.to_string(),
        endpoint: endpoint.map(str::to_owned),
        created: Hlc::default(),
        newest: None,
        schedule: None,
    };
    said_done(common, &Request::SetBackupTarget(target)).await?;
    match common.json {
        true => line(json!({ "target": name.as_str(), "url": url.to_string(), "has_backups": mark.is_some() })),
        false => {
            line(format!("backups of site {} can go to {name}, {url}", site.name));
            line(format!("make one: farside backup now --dir {} {name}", directory(common)?.display()));
        }
    }
    Ok(())
}

async fn schedule(name: &str, control: Every, chunks: Chunks, common: &Common) -> Outcome {
    let name = parse_label(name)?;
    let every_seconds = match control {
        Every::Hourly => Some(3600),
        Every::Daily => Some(86_400),
        Every::Off => None,
    };
    let continuous = chunks == Chunks::Continuous;
    let schedule = every_seconds.map(|every_seconds| BackupSchedule { every_seconds, continuous });
    said_done(common, &Request::ScheduleBackup(ScheduleBackup { name: name.clone(), schedule })).await?;
    match (common.json, every_seconds) {
        (true, _) => line(json!({ "target": name.as_str(), "every_seconds": every_seconds, "continuous": continuous })),
        (false, None) => line(format!("the site makes no backups at {name} by itself")),
        (false, Some(seconds)) => line(format!(
            "the node that leads the site makes a backup at {name} every {} h, with the credentials of its own environment",
            seconds / 3600
        )),
    }
    Ok(())
}

fn newest_json(newest: &NewestBackup) -> Value {
    json!({
        "backup": newest.number,
        "cut": show_time(newest.cut),
        "finished": show_time(newest.finished),
        "chunks": newest.chunks,
        "chunk_bytes": newest.chunk_bytes,
    })
}

async fn list_targets(common: &Common) -> Outcome {
    let client = connect(common).await?;
    let listed = targets(&client).await;
    client.close().await?;
    for target in listed? {
        match (common.json, &target.newest) {
            (true, newest) => line(json!({
                "target": target.name.as_str(), "url": target.url, "endpoint": target.endpoint,
                "every_seconds": target.schedule.as_ref().map(|schedule| schedule.every_seconds),
                "created": show_time(target.created), "newest": newest.as_ref().map(newest_json),
            })),
            (false, None) => line(format!("{}  {}  no backup yet", target.name, target.url)),
            (false, Some(newest)) => line(format!(
                "{}  {}  backup {} of {}, {} chunks, {}",
                target.name,
                target.url,
                newest.number,
                show_time(newest.cut),
                newest.chunks,
                show_bytes(newest.chunk_bytes)
            )),
        }
    }
    Ok(())
}

async fn now(name: &str, rate: &RateArguments, unsealing: &Unsealing, common: &Common) -> Outcome {
    let name = parse_label(name)?;
    let root = directory(common)?;
    let (key, site, system_key) = SiteKey::of_directory(root, unsealing)?;
    let authority = crate::node::issuing_parts(&NodeDirectory::new(root), &system_key, &site)?;
    let mut facts = SiteFacts::new(&site, site.geometry, authority);
    let begun = Instant::now();
    let client = connect(common).await?;
    let made = async {
        let target = find_target(&client, &name).await?;
        let repository = key.open(&parse_url(&target.url, target.endpoint.as_deref())?, limits(rate))?;
        // The site may have gone over to another one since this node was made.
        let document = super::status_document(&client).await?;
        facts.geometry = document["geometry"].as_str().and_then(Geometry::parse).unwrap_or(facts.geometry);
        let mut progress = Progress::new();
        let mut tell = |done, all| progress.show(|| format!("{done} of {all} chunks are at the target"));
        let made = run_and_tell(&client, &repository, &facts, target, &mut tell).await?;
        Ok::<_, CliError>((made, repository.target().counters()))
    };
    let made = made.await;
    client.close().await?;
    let (Completed { manifest, stored, known_chunks }, counters) = made?;
    let seconds = begun.elapsed().as_secs_f64();
    match common.json {
        true => line(json!({
            "target": name.as_str(), "backup": manifest.number, "cut": show_time(manifest.cut),
            "finished": show_time(manifest.finished), "chunks": manifest.chunks, "chunk_bytes": manifest.chunk_bytes,
            "known_chunks": known_chunks, "stored_entries": stored.entries, "stored_packs": stored.packs,
            "stored_bytes": stored.bytes, "requests": counters.requests, "retries": counters.retries,
            "sent_bytes": counters.bytes_out, "received_bytes": counters.bytes_in, "seconds": seconds,
        })),
        false => {
            line(format!(
                "backup {} of site {} at {name}: {} chunks, {}; {} of them were there already",
                manifest.number,
                manifest.name,
                manifest.chunks,
                show_bytes(manifest.chunk_bytes),
                known_chunks
            ));
            line(format!(
                "stored {} in {} packs, {} requests, {seconds:.1} s; everything acknowledged before {} is in it",
                show_bytes(stored.bytes),
                stored.packs,
                counters.requests,
                show_time(manifest.cut)
            ));
        }
    }
    Ok(())
}

/// Opens what a command names: a target of a running site, or a URL with shares.
async fn place(place: &PlaceArguments, limits: TargetLimits, common: &Common) -> Result<Repository, CliError> {
    if !place.shares.is_empty() {
        let url = parse_url(&place.target, place.endpoint.as_deref())?;
        return SiteKey::of_shares(&place.shares)?.open(&url, limits);
    }
    let (key, ..) = SiteKey::of_directory(directory(common)?, &place.unsealing)?;
    // A name has no slash and no colon.
    if place.target.contains(['/', ':']) {
        return key.open(&parse_url(&place.target, place.endpoint.as_deref())?, limits);
    }
    let name = parse_label(&place.target)?;
    let client = connect(common).await?;
    let target = find_target(&client, &name).await;
    client.close().await?;
    let target = target?;
    key.open(&parse_url(&target.url, target.endpoint.as_deref())?, limits)
}

fn manifest_json(manifest: &Manifest) -> Value {
    json!({
        "backup": manifest.number, "site": manifest.name.as_str(), "incarnation": manifest.incarnation,
        "geometry": manifest.geometry.to_string(), "cut": show_time(manifest.cut),
        "finished": show_time(manifest.finished), "chunks": manifest.chunks, "chunk_bytes": manifest.chunk_bytes,
    })
}

fn manifest_line(manifest: &Manifest) -> String {
    format!(
        "backup {}  {}  {} chunks, {}",
        manifest.number,
        show_time(manifest.cut),
        manifest.chunks,
        show_bytes(manifest.chunk_bytes)
    )
}

async fn list(arguments: &PlaceArguments, common: &Common) -> Outcome {
    let repository = place(arguments, TargetLimits::default(), common).await?;
    repository.require_mark().await?;
    for number in repository.numbers().await? {
        let Found { manifest, .. } = repository.manifest(number).await?;
        match common.json {
            true => line(manifest_json(&manifest)),
            false => line(manifest_line(&manifest)),
        }
    }
    Ok(())
}

async fn show(arguments: &PlaceArguments, number: Option<u64>, common: &Common) -> Outcome {
    let repository = place(arguments, TargetLimits::default(), common).await?;
    repository.require_mark().await?;
    let found = match number {
        Some(number) => repository.manifest(number).await?,
        None => repository.newest().await?.ok_or(BackupError::NoBackup)?,
    };
    let manifest = found.manifest;
    let index = repository.index(&manifest.indexes).await?;
    let pieces: Vec<&[u8; 32]> = manifest.dumps.iter().flat_map(|dump| &dump.pieces).collect();
    let known = pieces.iter().filter(|piece| index.has(piece)).count();
    let (packs, bytes) = index.packs().fold((0u64, 0u64), |(packs, sum), (_, bytes)| (packs + 1, sum + bytes));
    match common.json {
        true => {
            let mut shown = manifest_json(&manifest);
            shown["groups"] = json!(manifest.dumps.len());
            shown["state_pieces"] = json!(pieces.len());
            shown["state_pieces_indexed"] = json!(known);
            shown["indexes"] = json!(manifest.indexes.len());
            shown["packs"] = json!(packs);
            shown["pack_bytes"] = json!(bytes);
            line(shown);
        }
        false => {
            line(manifest_line(&manifest));
            line(format!(
                "site {}, incarnation {}, {}; {} groups in {} pieces, {known} of them indexed",
                manifest.name,
                manifest.incarnation,
                manifest.geometry,
                manifest.dumps.len(),
                pieces.len()
            ));
            let indexes = manifest.indexes.len();
            line(format!("{indexes} indexes name {packs} packs, {}, shared with other backups", show_bytes(bytes)));
        }
    }
    Ok(())
}

fn verified_line(verified: &Verified, json: bool) {
    let cut = verified.manifest.as_ref().map(|manifest| show_time(manifest.cut));
    match json {
        true => line(json!({
            "backup": verified.number, "cut": cut, "chunks": verified.chunks, "faults": verified.faults,
        })),
        false => {
            let (number, cut) = (verified.number, cut.unwrap_or_else(|| "unreadable".into()));
            let state = if verified.faults.is_empty() { "whole" } else { "DAMAGED" };
            line(format!("backup {number}  {cut}  {} chunks  {state}", verified.chunks));
            verified.faults.iter().for_each(|fault| line(format!("  {fault}")));
        }
    }
}

async fn verify_all(arguments: &PlaceArguments, depth: Depth, rate: &RateArguments, common: &Common) -> Outcome {
    let repository = place(arguments, limits(rate), common).await?;
    let mut progress = Progress::new();
    let mut tell = |done, all| progress.show(|| format!("{done} of {all} packs are read"));
    let report = verify(&repository, depth, &mut tell).await?;
    drop(progress);
    report.backups.iter().for_each(|verified| verified_line(verified, common.json));
    let Report { packs_read, bytes_read, packs, .. } = &report;
    let damaged = report.backups.iter().filter(|backup| !backup.faults.is_empty()).count();
    match common.json {
        true => line(json!({
            "backups": report.backups.len(), "damaged_backups": damaged, "packs": packs, "packs_read": packs_read,
            "bytes_read": bytes_read, "damaged_objects": report.damaged,
        })),
        false => line(format!(
            "{} backups, {damaged} of them damaged; {packs_read} of {packs} packs were read, {}",
            report.backups.len(),
            show_bytes(*bytes_read)
        )),
    }
    if report.is_clean() { Ok(()) } else { Err(CliError::Told(6)) }
}

async fn prune_target(
    arguments: &PlaceArguments,
    rules: &RetentionArguments,
    grace: u64,
    only_say: bool,
    common: &Common,
) -> Outcome {
    let retention = Retention {
        last: rules.keep_last,
        hourly: rules.keep_hourly,
        daily: rules.keep_daily,
        weekly: rules.keep_weekly,
        monthly: rules.keep_monthly,
    };
    if retention.is_empty() {
        return Err(CliError::usage(
            "prune needs a rule, such as --keep-last 10: without one it would keep one backup",
        ));
    }
    let repository = place(arguments, TargetLimits::default(), common).await?;
    let now = Hlc::from_ms(crate::machine::Machine::real().clock.wall_ms());
    let options = PruneOptions { retention, grace: Duration::from_secs(grace), only_say, now };
    // Whoever prunes with shares alone has no site to write it down.
    let local = common.dir.as_deref().filter(|_| !only_say);
    let noted = |pruned: Option<&Pruned>| {
        AuditAction::Prune(AuditedPrune {
            url: repository.target().to_string().chars().take(2048).collect(),
            kept: pruned.map(|pruned| pruned.kept.len() as u32),
            removed: pruned.map(|pruned| pruned.removed.len() as u32),
            removed_packs: pruned.map(|pruned| pruned.removed_packs as u32),
        })
    };
    let local = local.map(|dir| LocalOrder::begin(dir, noted(None))).transpose()?;
    let pruned = prune(&repository, &options).await;
    if let Some(local) = local {
        local.end(noted(pruned.as_ref().ok()), &pruned);
    }
    let pruned = pruned?;
    match common.json {
        true => line(json!({
            "dry_run": only_say, "kept": pruned.kept, "removed": pruned.removed, "doomed_packs": pruned.doomed_packs,
            "doomed_bytes": pruned.doomed_bytes, "removed_packs": pruned.removed_packs,
            "removed_bytes": pruned.removed_bytes,
        })),
        false => {
            let would = if only_say { "would go" } else { "went" };
            line(format!("{} backups stay, {} {would}", pruned.kept.len(), pruned.removed.len()));
            line(format!(
                "{} packs {would}, {}; {} more are needed by nothing, {}, and go once the grace is over",
                pruned.removed_packs,
                show_bytes(pruned.removed_bytes),
                pruned.doomed_packs,
                show_bytes(pruned.doomed_bytes)
            ));
        }
    }
    Ok(())
}

pub(super) async fn restore_site(options: Restore, common: &Common) -> Outcome {
    let directory = common.dir.clone().ok_or_else(|| CliError::usage("restore needs --dir DIR"))?;
    let geometry = options.geometry.as_deref().map(super::parse_geometry);
    let at = options.at.as_deref().map(|text| parse_time(text).map_err(CliError::usage)).transpose()?;
    let part = match (&options.tenant, &options.log) {
        (Some(tenant), _) => Some(Part { tenant: parse_label(tenant)?, log: None }),
        (None, Some(log)) => {
            let (tenant, log) = parse_log_name(log)?;
            Some(Part { tenant, log: Some(log) })
        }
        (None, None) => None,
    };
    let url = parse_url(&options.target, options.endpoint.as_deref())?;
    let key = SiteKey::of_shares(&options.shares)?;
    let repository = key.open(&url, limits(&options.rate))?;
    let order = RestoreOptions {
        directory: directory.clone(),
        node: super::node_options(&options.node),
        geometry: geometry.transpose()?,
        at,
        part: part.clone(),
    };
    let begun = Instant::now();
    let mut progress = Progress::new();
    let mut tell = |done, all| progress.show(|| format!("{done} of {all} chunks are restored"));
    let restored = restore(&order, &repository, &key.key, &mut tell).await?;
    drop(progress);
    let (seconds, manifest) = (begun.elapsed().as_secs_f64(), &restored.manifest);
    let now_ms = crate::machine::Machine::real().clock.wall_ms();
    // What was acknowledged since is not in the backup.
    let reached = at.map_or(manifest.cut, |at| at.min(manifest.cut));
    let lag = now_ms.saturating_sub(reached.ms()) as f64 / 1000.0;
    match common.json {
        true => line(json!({
            "site": manifest.name.as_str(), "backup": manifest.number, "cut": show_time(manifest.cut),
            "at": at.map(show_time), "part": part.map(|part| part.to_string()), "incarnation": restored.incarnation, "chunks": manifest.chunks,
            "chunk_bytes": manifest.chunk_bytes, "known_chunks": restored.known_chunks,
            "rpo_seconds": lag, "rto_seconds": seconds,
        })),
        false => {
            let what = part.map_or_else(String::new, |part| format!("{part} of "));
            line(format!(
                "{what}site {} restored in {} from backup {}, which has {} chunks, {}",
                manifest.name,
                directory.display(),
                manifest.number,
                manifest.chunks,
                show_bytes(manifest.chunk_bytes)
            ));
            line(format!(
                "backup lag (RPO) {lag:.1} s: what was acknowledged after {} is not here; took (RTO) {seconds:.1} s",
                show_time(reached)
            ));
            line(format!("run it: farside node --dir {}", directory.display()));
        }
    }
    Ok(())
}
