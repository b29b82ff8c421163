//! Commands about who may call a site: identities are issued, listed and revoked.
//!
//! The key of an identity is made here and leaves this machine by nobody's hand but the operator's: the site signs it.

use super::args::Common;
use super::client_commands::{Outcome, connect, context_path};
use super::output::CliError;
use super::sizes::show_time;
use crate::client::{Client, ClientError, Context, parse_label, unexpected};
use crate::interrupt::Undo;
use crate::machine::Machine;
use crate::terminal::line;
use clap::Subcommand;
use farside_codec::identity::{
    Identities, IdentityQuestion, IdentityRecord, IdentityRole, IssueIdentity, IssuedIdentity, RevokeOrder,
};
use farside_codec::ids::{Hlc, TenantId, hex};
use farside_codec::message::{Reply, Request, Tenant};
use farside_transport::{IdentityError, IdentityRequest, Rejection};
use serde_json::{Value, json};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Identities that are asked for at once.
const LISTED: u32 = 512;

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Makes an identity, as a context with which its holder finds the site: an operator's, or that of a tenant's client
    #[command(
        after_help = "Examples: farside identity issue --dir near anna --operator -o anna\n          farside identity issue --dir near web-1 --tenant acme --life 90d -o web-1"
    )]
    Issue {
        /// What it is called: nobody else may be called so whose identity is good
        name: String,
        /// An operator's, who may do everything
        #[arg(long, required_unless_present = "tenant", conflicts_with = "tenant")]
        operator: bool,
        /// That of a client of this tenant, who reaches its logs only
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// How long it is good: 30s, 12h, 90d
        #[arg(long, value_parser = super::sizes::parse_seconds, default_value = "365d")]
        life: u64,
        /// The directory for NAME.context, made if it is not there; nothing is overwritten
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Lists every identity that the site has issued
    #[command(after_help = "Example: farside identity list --dir near --json")]
    List,
    /// Refuses an identity at every node from now on, and closes what is open under it
    #[command(
        after_help = "Examples: farside identity revoke --dir near web-1\n          farside identity revoke --dir near 3f1c09a2b4d5e6f708192a3b4c5d6e7f"
    )]
    Revoke {
        /// Its serial, or its name
        #[arg(value_name = "SERIAL|NAME")]
        which: String,
        /// Also if no operator is left then whose identity is good
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(command: IdentityCommand, common: &Common) -> Outcome {
    match command {
        IdentityCommand::Issue { name, operator: _, tenant, life, output } => {
            issue(&name, tenant.as_deref(), life, &output, common).await
        }
        IdentityCommand::List => list(common).await,
        IdentityCommand::Revoke { which, force } => revoke(which, force, common).await,
    }
}

fn failed(error: IdentityError) -> CliError {
    CliError::failed(error)
}

async fn issue(name: &str, tenant: Option<&str>, life_seconds: u64, output: &Path, common: &Common) -> Outcome {
    let name = parse_label(name)?;
    let tenant = tenant.map(parse_label).transpose()?;
    let path = output.join(format!("{name}.context"));
    // Before anything is issued that nobody could keep.
    make_directory(output)?;
    refuse_existing(&path)?;
    let machine = Machine::real();
    let client = connect(common).await?;
    let request = IdentityRequest::new(machine.entropy.as_ref()).map_err(failed)?;
    let ask = IssueIdentity { name, tenant, life_seconds, public_key: request.public_key() };
    let issued = match client.control(&Request::IssueIdentity(ask)).await? {
        Reply::IssuedIdentity(issued) => issued,
        reply => return Err(unexpected(&reply).into()),
    };
    let IssuedIdentity { site_name, record, certificate, authority, endpoints } = issued;
    let identity = request.complete(certificate.to_vec()).map_err(failed)?;
    let site = identity.caller().site;
    let (certificate, key) = (identity.certificate().to_vec().into(), identity.key().to_vec().into());
    let context = Context { site, site_name, authority, endpoints, certificate, key };
    write_new(&path, &context.to_file_bytes())?;
    let tenants = client.tenants().await?;
    match common.json {
        true => {
            let mut told = told_json(&record, &tenants);
            told["context"] = json!(path.display().to_string());
            line(told);
        }
        false => {
            line(format!("wrote {}", path.display()));
            line(format!("serial {}, good until {}", hex(&record.serial), show_time(record.expires)));
        }
    }
    Ok(client.close().await?)
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> CliError + '_ {
    move |error| ClientError::File(path.to_owned(), error).into()
}

/// Makes the directory, for its owner only. One that is there stays as it is.
fn make_directory(path: &Path) -> Result<(), CliError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(file_error(path)),
    }
}

fn refuse_existing(path: &Path) -> Result<(), CliError> {
    match path.symlink_metadata() {
        Ok(_) => Err(ClientError::File(path.to_owned(), ErrorKind::AlreadyExists.into()).into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ClientError::File(path.to_owned(), error).into()),
    }
}

/// Writes a file that is not there yet, whole or not at all: it gets its name when it is durable, unless that was taken
/// meanwhile.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let directory = crate::whole_file::directory_of(path).to_owned();
    let hidden = directory.join(format!(".farside-{}-identity.part", std::process::id()));
    let remove = hidden.clone();
    let _undo = Undo::register(move || drop(std::fs::remove_file(remove)));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::hard_link(&hidden, path)?;
        File::open(&directory)?.sync_all()
    };
    let written = write();
    // A second name of what was written, or what could not be.
    let _ = std::fs::remove_file(&hidden);
    written.map_err(file_error(path))
}

/// Reads the whole list.
async fn all(client: &Client) -> Result<Vec<IdentityRecord>, CliError> {
    let mut found: Vec<IdentityRecord> = Vec::new();
    loop {
        let after = found.last().map(|record| record.serial);
        let question = IdentityQuestion { after, limit: LISTED };
        let Identities { identities, more } = match client.control(&Request::Identities(question)).await? {
            Reply::Identities(identities) => identities,
            reply => return Err(unexpected(&reply).into()),
        };
        let came = !identities.is_empty();
        found.extend(identities);
        if !more || !came {
            return Ok(found);
        }
    }
}

async fn list(common: &Common) -> Outcome {
    let client = connect(common).await?;
    let mut identities = all(&client).await?;
    let tenants = client.tenants().await?;
    client.close().await?;
    identities.sort_by_key(|record| (record.issued, record.serial));
    for record in &identities {
        match common.json {
            true => line(told_json(record, &tenants)),
            false => line(told(record, &tenants)),
        }
    }
    Ok(())
}

async fn revoke(which: String, force: bool, common: &Common) -> Outcome {
    let own = Context::load(&context_path(common)?)?.identity()?;
    let (serial, name) = (hex(&own.serial()), own.caller().subject.clone());
    let is_own = which == serial || which == name;
    let client = connect(common).await?;
    match client.control(&Request::RevokeIdentity(RevokeOrder { which, force })).await {
        Ok(Reply::RevokedIdentity(record)) => match common.json {
            true => line(told_json(&record, &[])),
            false => line(format!("{} ({}) is revoked: every node refuses it", record.name, hex(&record.serial))),
        },
        Ok(reply) => return Err(unexpected(&reply).into()),
        // Cut off before the answer came: by that it is known to be done.
        Err(ClientError::TurnedAway(_, Rejection::Revoked)) if is_own => match common.json {
            true => line(json!({ "serial": serial, "name": name, "state": "revoked" })),
            false => line(format!("{name} ({serial}) is revoked: every node refuses it")),
        },
        Err(error) => return Err(error.into()),
    }
    // Whoever has revoked what he shows himself is cut off before he could say goodbye.
    let _ = client.close().await;
    Ok(())
}

fn state(record: &IdentityRecord, now: Hlc) -> &'static str {
    match (&record.revoked, record.expires > now) {
        (Some(_), _) => "revoked",
        (None, false) => "expired",
        (None, true) => "good",
    }
}

fn now() -> Hlc {
    Hlc::from_ms(Machine::real().clock.wall_ms())
}

fn tenant_name(record: &IdentityRecord, tenants: &[Tenant]) -> Option<String> {
    let IdentityRole::Client(tenant) = record.role else { return None };
    let named = |id: TenantId| tenants.iter().find(|tenant| tenant.tenant == id).map(|tenant| tenant.name.to_string());
    Some(named(tenant).unwrap_or_else(|| tenant.to_string()))
}

fn told_json(record: &IdentityRecord, tenants: &[Tenant]) -> Value {
    json!({
        "serial": hex(&record.serial), "name": record.name.as_str(), "role": record.role.as_str(),
        "tenant": tenant_name(record, tenants), "state": state(record, now()), "issued": show_time(record.issued),
        "expires": show_time(record.expires),
        "revoked": record.revoked.as_ref().map(|revoked| show_time(revoked.at)),
        "revoked_by": record.revoked.as_ref().map(|revoked| revoked.by.as_str()),
    })
}

fn told(record: &IdentityRecord, tenants: &[Tenant]) -> String {
    let tenant = tenant_name(record, tenants).map(|tenant| format!(" of {tenant}")).unwrap_or_default();
    let until = match &record.revoked {
        Some(revoked) => format!("revoked {} by {}", show_time(revoked.at), revoked.by),
        None if record.expires <= now() => format!("expired {}", show_time(record.expires)),
        None => format!("good until {}", show_time(record.expires)),
    };
    let (serial, role, name) = (hex(&record.serial), record.role.as_str(), &record.name);
    format!("{serial}  {role}{tenant}  {name}  issued {}, {until}", show_time(record.issued))
}
