//! Commands about what a site's nodes show: new certificates now, and the way to another certificate authority.

use super::args::Common;
use super::client_commands::{Outcome, connect};
use super::output::CliError;
use crate::client::{Client, unexpected};
use crate::terminal::line;
use clap::{Args, Subcommand};
use farside_codec::authority::{AuthorityOrder, AuthorityProgress, AuthorityStep};
use farside_codec::message::{Reply, Request};
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks at how far the site is.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Subcommand)]
pub(super) enum CertificateCommand {
    /// Has every node show a new certificate now; with --ca the site goes over to a new certificate authority
    #[command(
        after_help = "Examples: farside certificate rotate --dir near\n          farside certificate rotate --dir near --ca\n          farside certificate rotate --dir near --ca --drop"
    )]
    Rotate(Rotate),
    /// How far the site is on its way to another certificate authority
    #[command(after_help = "Example: farside certificate status --dir near --json")]
    Status,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Go over to a new certificate authority: everybody learns to trust it, then everything is issued anew. Given again it
    /// goes on
    #[arg(long)]
    ca: bool,
    /// Trust the authority before no more; exit 3 while somebody depends on it
    #[arg(long, requires = "ca")]
    drop: bool,
    /// Also if somebody still depends on it, who is cut off by that
    #[arg(long, requires = "drop")]
    force: bool,
    /// Wait so many seconds until everybody has come along; exit 4 if not, which loses nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

pub(super) async fn run(command: CertificateCommand, common: &Common) -> Outcome {
    let client = connect(common).await?;
    let done = match command {
        CertificateCommand::Status => show(&client, common).await,
        CertificateCommand::Rotate(Rotate { ca: false, .. }) => rotate(&client, common).await,
        CertificateCommand::Rotate(Rotate { drop: true, force, wait, .. }) => {
            let begun = ask(&client, AuthorityOrder::Drop(force)).await?;
            come_along(&client, begun, wait, common).await
        }
        CertificateCommand::Rotate(Rotate { wait, .. }) => {
            let begun = ask(&client, AuthorityOrder::Rotate).await?;
            come_along(&client, begun, wait, common).await
        }
    };
    client.close().await?;
    done
}

/// Has every node show a new certificate.
async fn rotate(client: &Client, common: &Common) -> Outcome {
    let silent = match client.control(&Request::RotateCertificates).await? {
        Reply::CertificatesRenewed(silent) => silent,
        reply => return Err(unexpected(&reply).into()),
    };
    match (common.json, silent.is_empty()) {
        (true, _) => line(json!({ "certificates": "renewed", "silent": silent })),
        (false, true) => line("every node shows a new certificate"),
        (false, false) => line(format!(
            "renewed, but not on {}, which do not answer and renew theirs when they start if it is time",
            silent.join(", ")
        )),
    }
    if silent.is_empty() { Ok(()) } else { Err(CliError::Told(4)) }
}

async fn ask(client: &Client, order: AuthorityOrder) -> Result<AuthorityProgress, CliError> {
    match client.control(&Request::Authority(order)).await? {
        Reply::Authority(progress) => Ok(progress),
        reply => Err(unexpected(&reply).into()),
    }
}

async fn show(client: &Client, common: &Common) -> Outcome {
    let progress = ask(client, AuthorityOrder::Show).await?;
    tell(&progress, common);
    Ok(())
}

fn tell(progress: &AuthorityProgress, common: &Common) {
    let AuthorityProgress { generation, step, waits, depends } = progress;
    if common.json {
        return line(json!({ "authority": generation, "step": step.as_str(), "waits": waits, "depends": depends }));
    }
    let about = match step {
        AuthorityStep::Settled => format!("authority {generation} issues, and no other one is trusted"),
        AuthorityStep::Introduced => {
            format!("authority {} is introduced; authority {generation} still issues", generation + 1)
        }
        AuthorityStep::Issuing => format!("authority {generation} issues; the one before is still trusted"),
    };
    line(about);
    if !waits.is_empty() {
        line(format!("  to come along: {}", waits.join(", ")));
    }
    if !depends.is_empty() {
        line(format!("  depend on the one before: {}", depends.join(", ")));
    }
}

/// Waits until everybody has come along with the step that the site is to come to.
async fn come_along(client: &Client, begun: AuthorityProgress, wait_seconds: u64, common: &Common) -> Outcome {
    let until = Instant::now() + Duration::from_secs(wait_seconds.min(86_400));
    let mut progress = begun;
    let mut told: Option<AuthorityProgress> = None;
    loop {
        let arrived = progress.step != AuthorityStep::Introduced && progress.waits.is_empty();
        // Progress is for people; a script gets one object, at the end.
        if !common.json
            && told.as_ref().is_none_or(|told| (&told.step, &told.waits) != (&progress.step, &progress.waits))
        {
            tell(&progress, common);
            told = Some(progress.clone());
        }
        if arrived || Instant::now() >= until {
            if common.json {
                tell(&progress, common);
            }
            if arrived && !common.json && progress.step == AuthorityStep::Issuing {
                line("when nobody depends on the one before any more: farside certificate rotate --ca --drop");
            }
            return if arrived { Ok(()) } else { Err(CliError::Told(4)) };
        }
        tokio::time::sleep(LOOK).await;
        progress = ask(client, AuthorityOrder::Show).await?;
    }
}
