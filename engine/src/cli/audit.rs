//! Commands about audit logs: showing one, and verifying one at a node or in an export that an auditor has.

use super::args::Common;
use super::audit_text::{bytes_of, entry_json, entry_text, head_json, scope_name, shows};
use super::client_commands::{Outcome, connect};
use super::output::CliError;
use super::sizes::parse_time;
use crate::client::{Client, ClientError, parse_label, unexpected};
use crate::terminal::{line, note};
use bytes::Bytes;
use clap::{Args, Subcommand};
use farside_codec::Field;
use farside_codec::audit::chain::{ChainFault, Verifier};
use farside_codec::audit::{
    AuditComparison, AuditComparisonQuestion, AuditEntries, AuditEntry, AuditHash, AuditHead, AuditPlace,
    AuditQuestion, AuditReport, AuditScope, AuditStanding,
};
use farside_codec::ids::{Hlc, SiteId, TenantId};
use farside_codec::message::{Reply, Request};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Entries that are asked for at once.
const PAGE: u32 = 256;
/// The longest line of an export: an entry of 16 KiB in digits, what is shown of it, and room to spare.
const MAX_LINE_BYTES: u64 = 256 << 10;

/// Which log.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The tenant, by its name or id
    #[arg(value_name = "TENANT")]
    tenant: Option<String>,
    /// The site's own log
    #[arg(long, conflicts_with = "tenant")]
    site: bool,
    /// The one that this peer wrote, as it is kept here; its name, or a site's id
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Shows a log, an entry a line. With --json it is an export, which `audit verify --from` checks anywhere
    #[command(
        after_help = "Examples: farside audit show --dir near acme\n          farside audit show --dir far --site --peer near --json"
    )]
    Show {
        #[command(flatten)]
        which: Which,
        /// Only what was written at or after this time (RFC 3339)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// Checks that nothing was altered, removed or put in another order, and that peers have the same; exit 6 otherwise
    #[command(
        after_help = "Examples: farside audit verify --dir near --site\n          farside audit verify --from near.audit"
    )]
    Verify {
        #[command(flatten)]
        which: Which,
        /// Checks an export instead, for which no node is needed
        #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "site", "peer"])]
        from: Option<PathBuf>,
        /// The hash of an entry that was noted down before, and has to be there still
        #[arg(long, value_name = "HASH")]
        has: Option<String>,
    },
}

/// Has the site write down what this command did. It did it either way: that it can't be written down is said.
pub(super) async fn report(client: &Client, report: AuditReport) {
    if let Err(error) = client.control(&Request::ReportAudit(report)).await {
        note(format_args!("notice: this is not in the site's audit log: {error}"));
    }
}

pub(super) async fn run(command: AuditCommand, common: &Common) -> Outcome {
    match command {
        AuditCommand::Show { which, since } => show(&which, since.as_deref(), common).await,
        AuditCommand::Verify { which, from, has } => {
            let wrong = |text: &String| CliError::usage(format!("--has {text}: a hash is of 64 digits"));
            let has = has.as_ref().map(|text| AuditHash::parse(text).ok_or_else(|| wrong(text))).transpose()?;
            match from {
                Some(path) => verify_export(&path, has, common),
                None => verify(&which, has, common).await,
            }
        }
    }
}

/// A log, found.
struct Found {
    site: Option<SiteId>,
    scope: AuditScope,
}

impl Which {
    fn check(&self) -> Result<(), CliError> {
        match (&self.tenant, self.site) {
            (None, false) => Err(CliError::usage("which audit log? name a TENANT, or say --site")),
            _ => Ok(()),
        }
    }

    async fn find(&self, client: &Client) -> Result<Found, CliError> {
        let scope = match self.tenant.as_deref() {
            None => AuditScope::Site,
            Some(text) => match TenantId::parse(text) {
                Some(tenant) => AuditScope::Tenant(tenant),
                None => AuditScope::Tenant(client.tenant(&parse_label(text)?).await?.tenant),
            },
        };
        let site = match self.peer.as_deref() {
            None => None,
            Some(text) => Some(match SiteId::parse(text) {
                Some(site) => site,
                None => peer(client, text).await?,
            }),
        };
        Ok(Found { site, scope })
    }
}

async fn peer(client: &Client, text: &str) -> Result<SiteId, CliError> {
    let name = parse_label(text)?;
    match client.control(&Request::PeerList).await? {
        Reply::Peers(peers) => {
            let found = peers.into_iter().find(|peer| peer.name == name).map(|peer| peer.site);
            found.ok_or_else(|| {
                CliError::not_found(format!("there is no peer {name}: give its site's id, if it was one once"))
            })
        }
        reply => Err(unexpected(&reply).into()),
    }
}

/// Reads a log from its first entry on, and answers where it ends.
async fn read(
    client: &Client,
    found: &Found,
    mut each: impl FnMut(Bytes) -> Result<(), CliError>,
) -> Result<Vec<AuditHead>, CliError> {
    let mut place = AuditPlace { incarnation: 0, sequence: 0 };
    loop {
        let AuditPlace { incarnation, sequence: from } = place;
        let (site, scope) = (found.site, found.scope.clone());
        let question = AuditQuestion { site, scope, incarnation, from, limit: PAGE };
        let AuditEntries { entries, more, heads } = match client.control(&Request::ReadAudit(question)).await? {
            Reply::AuditEntries(entries) => entries,
            reply => return Err(unexpected(&reply).into()),
        };
        // One that can't be read is found by whoever looks at it; what follows is behind it.
        let last = entries.last().and_then(|last| AuditEntry::from_bytes(last.clone()).ok());
        for entry in entries {
            each(entry)?;
        }
        match last.filter(|_| more) {
            None => return Ok(heads),
            Some(last) => {
                place = AuditPlace { incarnation: last.incarnation, sequence: last.sequence.saturating_add(1) };
            }
        }
    }
}

fn damaged(what: impl std::fmt::Display) -> CliError {
    note(format_args!("error: {what}"));
    CliError::Told(6)
}

async fn show(which: &Which, since: Option<&str>, common: &Common) -> Outcome {
    which.check()?;
    let from = since.map(parse_time).transpose().map_err(CliError::usage)?.map(Hlc::ms);
    let client = connect(common).await?;
    let found = which.find(&client).await?;
    let heads = read(&client, &found, |encoded| {
        let entry = AuditEntry::from_bytes(encoded.clone())
            .map_err(|error| damaged(format_args!("an entry can't be read: {error}")))?;
        if from.is_some_and(|from| entry.time.ms() < from) {
            return Ok(());
        }
        match common.json {
            true => line(entry_json(&entry, &encoded)),
            false => line(entry_text(&entry)),
        }
        Ok(())
    });
    let heads = heads.await?;
    if common.json {
        heads.iter().for_each(|head| line(head_json(head, since)));
    }
    Ok(client.close().await?)
}

/// What a peer's word means for a log that was found to be good here.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    /// It can't be asked, and why.
    Silent(String),
    /// It has the same, but for this many entries at the end.
    Agrees(u64),
    /// It has something else, from this entry on at the latest.
    Contradicts(u64),
}

/// Compares this site's log with the copy at a peer.
fn compare_copy(own: &Verifier, standing: &AuditStanding) -> Compared {
    let newest = own.heads().last();
    let mut last_there = 0;
    for head in &standing.heads {
        let known = own.hash(head.incarnation, head.sequence);
        // What an earlier incarnation wrote may be lost here, and that is no contradiction.
        let is_old = newest.is_none_or(|newest| head.incarnation < newest.incarnation);
        match known {
            Some(hash) if hash != head.hash => return Compared::Contradicts(head.sequence),
            None if !is_old => return Compared::Contradicts(head.sequence),
            _ => {}
        }
        if !is_old {
            last_there = head.sequence;
        }
    }
    Compared::Agrees(newest.map_or(0, |newest| newest.sequence.saturating_sub(last_there)))
}

/// Compares the copy of a peer's log here with the log itself.
fn compare_original(copy: &[AuditHead], standing: &AuditStanding) -> Compared {
    let newest_there = standing.heads.last();
    for (head, hash) in copy.iter().zip(&standing.hashes) {
        match hash {
            Some(hash) if *hash != head.hash => return Compared::Contradicts(head.sequence),
            None if newest_there.is_none_or(|newest| newest.incarnation <= head.incarnation) => {
                return Compared::Contradicts(head.sequence);
            }
            _ => {}
        }
    }
    let last_here = copy.last().map_or(0, |head| head.sequence);
    Compared::Agrees(newest_there.map_or(0, |head| head.sequence.saturating_sub(last_here)))
}

async fn compare(client: &Client, found: &Found, verifier: &Verifier) -> Result<Vec<(String, Compared)>, CliError> {
    let place = |head: &AuditHead| AuditPlace { incarnation: head.incarnation, sequence: head.sequence };
    let places = match found.site {
        Some(_) => verifier.heads().iter().map(place).collect(),
        None => Vec::new(),
    };
    let question = AuditComparisonQuestion { site: found.site, scope: found.scope.clone(), places };
    let answers = match client.control(&Request::CompareAudit(question)).await? {
        Reply::AuditCompared(answers) => answers,
        reply => return Err(unexpected(&reply).into()),
    };
    let compared = answers.into_iter().map(|AuditComparison { peer, standing }| {
        let came = match (standing, found.site) {
            (Err(refusal), _) => Compared::Silent(refusal.detail),
            (Ok(standing), None) => compare_copy(verifier, &standing),
            (Ok(standing), Some(_)) => compare_original(verifier.heads(), &standing),
        };
        (peer.to_string(), came)
    });
    Ok(compared.collect())
}

async fn verify(which: &Which, has: Option<AuditHash>, common: &Common) -> Outcome {
    which.check()?;
    let client = connect(common).await?;
    let found = which.find(&client).await?;
    let site = found.site.unwrap_or_else(|| client.link.site());
    let mut verifier = Verifier::new(site, found.scope.clone());
    let mut fault = None;
    let heads = read(&client, &found, |encoded| {
        if fault.is_none() {
            fault = verifier.take(&encoded).err();
        }
        Ok(())
    });
    let heads = heads.await?;
    let fault = fault.or_else(|| verifier.ends_as(&heads).err());
    let compared = match &fault {
        None => compare(&client, &found, &verifier).await?,
        Some(_) => Vec::new(),
    };
    client.close().await?;
    tell(&Verdict { verifier: &verifier, fault, has, compared, incomplete: None }, common)
}

/// What a verification came to.
struct Verdict<'a> {
    verifier: &'a Verifier,
    fault: Option<ChainFault>,
    has: Option<AuditHash>,
    compared: Vec<(String, Compared)>,
    /// What an export does not have from its beginning on.
    incomplete: Option<u64>,
}

fn tell(verdict: &Verdict<'_>, common: &Common) -> Outcome {
    let Verdict { verifier, fault, has, compared, incomplete } = verdict;
    let missing = has.filter(|hash| !verifier.has(*hash));
    let contradicted = compared.iter().find_map(|(peer, came)| match came {
        Compared::Contradicts(sequence) => Some((peer, *sequence)),
        _ => None,
    });
    let good = fault.is_none() && missing.is_none() && contradicted.is_none();
    let lost = verifier.lost();
    if common.json {
        let head = |head: &AuditHead| {
            json!({
                "incarnation": head.incarnation, "first_seq": head.first, "seq": head.sequence,
                "hash": head.hash.to_string(),
            })
        };
        let compared = |(peer, came): &(String, Compared)| match came {
            Compared::Silent(why) => json!({ "peer": peer, "agrees": null, "error": why }),
            Compared::Agrees(behind) => json!({ "peer": peer, "agrees": true, "behind_entries": behind }),
            Compared::Contradicts(sequence) => json!({ "peer": peer, "agrees": false, "bad_seq": sequence }),
        };
        let lost = lost
            .iter()
            .map(|lost| json!({ "incarnation": lost.incarnation, "from_seq": lost.from, "to_seq": lost.to }));
        line(json!({
            "good": good, "entries": verifier.entries(), "fault": fault.as_ref().map(ToString::to_string),
            "bad_seq": fault.as_ref().map(ChainFault::sequence).or(contradicted.map(|(_, sequence)| sequence)),
            "heads": verifier.heads().iter().map(head).collect::<Vec<_>>(), "lost": lost.collect::<Vec<_>>(),
            "peers": verdict.compared.iter().map(compared).collect::<Vec<_>>(),
            "begins_with_seq": incomplete.unwrap_or(1),
        }));
    } else {
        if let (None, Some(last)) = (fault, verifier.heads().last()) {
            let (entries, sequence, hash) = (verifier.entries(), last.sequence, last.hash);
            line(format!("{entries} entries are whole and in order, up to entry {sequence}, {hash}"));
        }
        for lost in &lost {
            line(format!(
                "entries {} to {} were written in incarnation {}, and lost by the site before it went on",
                lost.from, lost.to, lost.incarnation
            ));
        }
        for (peer, came) in compared {
            match came {
                Compared::Agrees(0) => line(format!("{peer} has the same")),
                Compared::Agrees(behind) => {
                    line(format!("{peer} has the same; one of the two lacks {behind} entries yet"))
                }
                Compared::Silent(why) => line(format!("{peer} was not asked: {why}")),
                Compared::Contradicts(_) => {}
            }
        }
    }
    if let Some(first) = incomplete.filter(|first| *first > 1) {
        note(format!("notice: the export begins with entry {first}: what came before was not checked"));
    }
    if let Some(fault) = fault {
        return Err(damaged(fault));
    }
    if let Some((peer, sequence)) = contradicted {
        return Err(damaged(format_args!(
            "{peer} has another log than this one, from entry {sequence} on at the latest: one of the two was altered, or \
             entries were removed"
        )));
    }
    match missing {
        Some(hash) => Err(damaged(format_args!("no entry has the hash {hash} that was noted down"))),
        None => Ok(()),
    }
}

/// One line of an export.
enum ExportLine {
    Entry(Bytes),
    Head(Box<AuditHead>, bool),
}

fn export_line(text: &str, number: u64) -> Result<ExportLine, CliError> {
    let bad = |what: &str| damaged(format_args!("line {number} of the export {what}"));
    let value: Value = serde_json::from_str(text).map_err(|_| bad("is no JSON"))?;
    if let Some(entry) = value["entry"].as_str() {
        let encoded = bytes_of(entry).ok_or_else(|| bad("holds no entry"))?;
        if !shows(&value, &encoded) {
            let sequence = &value["seq"];
            return Err(bad(&format!(
                "shows something else of entry {sequence} than what was written: it was altered"
            )));
        }
        return Ok(ExportLine::Entry(encoded));
    }
    head_of(&value).ok_or_else(|| bad("is neither an entry nor the end of a log"))
}

fn head_of(value: &Value) -> Option<ExportLine> {
    let number = |key: &str| value[key].as_u64();
    let scope = match &value["tenant_id"] {
        Value::Null => AuditScope::Site,
        id => AuditScope::Tenant(TenantId::parse(id.as_str()?)?),
    };
    let head = AuditHead {
        site: SiteId::parse(value["site_id"].as_str()?)?,
        scope,
        incarnation: number("incarnation")?,
        first: number("first_seq")?,
        before: AuditHash::ZERO,
        sequence: number("seq")?,
        hash: AuditHash::parse(value["hash"].as_str()?)?,
        time: Hlc::default(),
    };
    (value["head"] == true).then(|| ExportLine::Head(Box::new(head), !value["since"].is_null()))
}

/// Verifies an export. What is checked is that it is whole as far as it says: whoever can write another end of it can cut it
/// off, which only a hash that was noted down elsewhere shows.
fn verify_export(path: &Path, has: Option<AuditHash>, common: &Common) -> Outcome {
    let fail = |error| CliError::from(ClientError::File(path.to_owned(), error));
    let mut input = BufReader::new(File::open(path).map_err(fail)?);
    let (mut entries, mut heads, mut partial) = (Vec::new(), Vec::<AuditHead>::new(), false);
    let mut number = 0;
    loop {
        let mut text = String::new();
        number += 1;
        if std::io::Read::take(&mut input, MAX_LINE_BYTES).read_line(&mut text).map_err(fail)? == 0 {
            break;
        }
        match export_line(text.trim_end(), number)? {
            ExportLine::Entry(_) if !heads.is_empty() => {
                return Err(damaged(format_args!("line {number} of the export comes after its end")));
            }
            ExportLine::Entry(encoded) => entries.push(encoded),
            ExportLine::Head(head, since) => {
                partial |= since;
                heads.push(*head);
            }
        }
    }
    let Some(head) = heads.first().cloned() else {
        return Err(damaged("the export has no end: it was cut off, or `audit show --json` did not come to its end"));
    };
    let mut verifier = match partial {
        true => Verifier::of_part(head.site, head.scope.clone()),
        false => Verifier::new(head.site, head.scope.clone()),
    };
    let mut fault = None;
    for encoded in &entries {
        fault = verifier.take(encoded).err();
        if fault.is_some() {
            break;
        }
    }
    // A part has only those ends that it comes to.
    if partial {
        let begins = verifier.heads().first().map_or(u64::MAX, |first| first.incarnation);
        heads.retain(|head| head.incarnation >= begins);
    }
    let fault = fault.or_else(|| verifier.ends_as(&heads).err());
    let incomplete = verifier.heads().first().map(|head| head.first);
    if !common.json && fault.is_none() {
        line(format!("audit log of {} written by site {}", scope_name(&head.scope), head.site));
    }
    tell(&Verdict { verifier: &verifier, fault, has, compared: Vec::new(), incomplete }, common)
}
