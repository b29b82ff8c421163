//! Peers: joining, pausing, limiting and forgetting them.

use super::args::Common;
use super::client_commands::{Outcome, connect};
use super::output::CliError;
use super::sizes::{show_bytes, show_window};
use crate::client::{Client, parse_label, unexpected};
use crate::node;
use crate::terminal::line;
use crate::times::show_seconds;
use clap::Subcommand;
use farside_codec::message::{PeerAction, PeerRecord, Reply, Request, SetPeer};
use farside_codec::peer::{DayWindow, PeerHold, PeerLimit};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// Prints a token with which one site may join this one as its peer, once, within a day
    #[command(after_help = "Example: farside peer token --dir far")]
    Token,
    /// Joins the site that made a token
    #[command(after_help = "Example: farside peer add --dir near far \"$(farside peer token --dir far)\"")]
    Add {
        /// The peer's name
        site: String,
        /// Its token
        token: String,
    },
    /// Lists peers
    #[command(after_help = "Example: farside peer list --dir near")]
    List,
    /// Stops sending to a peer and taking from it
    #[command(after_help = "Example: farside peer pause --dir near far")]
    Pause {
        /// The peer's name
        site: String,
    },
    /// Goes on
    #[command(after_help = "Example: farside peer resume --dir near far")]
    Resume {
        /// The peer's name
        site: String,
    },
    /// Bounds how fast a peer is sent chunks by this site; deltas go ahead
    #[command(after_help = "Examples: farside peer limit --dir near far --rate 200Mbit\n          \
                            farside peer limit --dir near far --rate 0 --window 22:00-06:00\n          \
                            farside peer limit --dir near far --clear")]
    Limit {
        /// The peer's name
        site: String,
        /// All nodes of the site together, a second: 1Gbit, 200Mbit, 20MiB; 0: as fast as it goes
        #[arg(long, value_name = "RATE", value_parser = super::sizes::parse_rate, required_unless_present = "clear")]
        rate: Option<u64>,
        /// Every day at this time in UTC; otherwise whenever no window says something else
        #[arg(long, value_name = "HH:MM-HH:MM", value_parser = super::sizes::parse_window)]
        window: Option<DayWindow>,
        /// Takes away every limit of the peer
        #[arg(long, conflicts_with_all = ["rate", "window"])]
        clear: bool,
    },
    /// Bounds how long what a peer lacks is kept, in each log; past it the peer is given what is there when it comes back
    #[command(after_help = "Examples: farside peer hold --dir near far --for 14d\n          \
                            farside peer hold --dir near far --for none --up-to 2TiB\n          \
                            farside peer hold --dir near far --reset")]
    Hold {
        /// The peer's name
        site: String,
        /// Since it has lacked something: 12h, 14d; none: without end. A week, if nobody says anything
        #[arg(long = "for", value_name = "TIME", value_parser = super::sizes::parse_seconds_or_none,
              required_unless_present_any = ["up_to", "reset"])]
        seconds: Option<u64>,
        /// Bytes of one log that it lacks: 500GiB, 2TiB; none: without end. A quarter of what the site takes, if nobody says anything
        #[arg(long, value_name = "SIZE", value_parser = super::sizes::parse_bound)]
        up_to: Option<u64>,
        /// Takes back what was said
        #[arg(long, conflicts_with_all = ["seconds", "up_to"])]
        reset: bool,
    },
    /// Forgets a peer and what is held for it
    #[command(after_help = "Example: farside peer remove --dir near far")]
    Remove {
        /// The peer's name
        site: String,
    },
}

async fn set_peer(client: &Client, site: &str, action: PeerAction, common: &Common) -> Outcome {
    let name = parse_label(site)?;
    let (state, says) = match &action {
        PeerAction::Pause => ("paused", "is paused: nothing is sent to it or taken from it, and what it lacks is kept"),
        PeerAction::Resume => ("active", "is active again"),
        PeerAction::Remove => ("removed", "is a peer no more; what was kept for it is let go"),
        PeerAction::Limit(_) => ("limited", "is sent chunks at the new rate from now on"),
        PeerAction::Unlimit => ("unlimited", "is sent chunks as fast as it goes, at any time"),
        PeerAction::Hold(_) => ("held", "has what it lacks kept for it within the new bounds"),
        PeerAction::Unhold => ("unheld", "has what it lacks kept for it as if nobody had said anything"),
    };
    client.control(&Request::SetPeer(SetPeer { name, action })).await?;
    match common.json {
        true => line(json!({ "site": site, "state": state })),
        false => line(format!("{site} {says}")),
    }
    Ok(())
}

async fn list(client: &Client, common: &Common) -> Outcome {
    let peers = match client.control(&Request::PeerList).await? {
        Reply::Peers(peers) => peers,
        reply => return Err(unexpected(&reply).into()),
    };
    let limits = match client.control(&Request::PeerLimits).await? {
        Reply::PeerLimits(limits) => limits,
        reply => return Err(unexpected(&reply).into()),
    };
    for peer in &peers {
        let of_peer = limits.iter().find(|found| found.site == peer.site);
        let hold = of_peer.map_or(PeerHold::UNSAID, |found| found.hold.clone());
        print_peer(peer, of_peer.map_or(&[], |found| &found.limits[..]), &hold, common);
    }
    Ok(())
}

fn print_peer(peer: &PeerRecord, limits: &[PeerLimit], hold: &PeerHold, common: &Common) {
    let state = if peer.paused { "paused" } else { "active" };
    if common.json {
        let limit = |limit: &PeerLimit| json!({ "rate_bytes_per_second": limit.rate, "window": limit.window.as_ref().map(show_window) });
        let limits: Vec<_> = limits.iter().map(limit).collect();
        let name = peer.name.as_str();
        let hold = json!({ "seconds": hold.seconds, "bytes": hold.bytes });
        return line(
            json!({ "site": name, "state": state, "endpoints": peer.endpoints, "limits": limits, "hold": hold }),
        );
    }
    line(format!("{}  {state}  {}", peer.name, peer.endpoints.join(" ")));
    for limit in limits {
        let when = limit.window.as_ref().map_or("always else".into(), |window| format!("{} UTC", show_window(window)));
        match limit.rate {
            0 => line(format!("  {when}: as fast as it goes")),
            rate => line(format!("  {when}: at most {}/s", show_bytes(rate))),
        }
    }
    if *hold != PeerHold::UNSAID {
        let seconds = match hold.seconds {
            None => "a week".into(),
            Some(0) => "any time".into(),
            Some(seconds) => show_seconds(seconds as f64),
        };
        let bytes = match hold.bytes {
            None => "a quarter of the site".into(),
            Some(0) => "any size".into(),
            Some(bytes) => show_bytes(bytes),
        };
        line(format!("  what it lacks is kept for {seconds}, up to {bytes} of a log"));
    }
}

/// What of a command about peers can be seen to be wrong without asking anybody.
fn check_peer_command(command: &PeerCommand) -> Outcome {
    match command {
        PeerCommand::Token | PeerCommand::List => Ok(()),
        PeerCommand::Pause { site }
        | PeerCommand::Resume { site }
        | PeerCommand::Remove { site }
        | PeerCommand::Hold { site, .. }
        | PeerCommand::Limit { site, .. } => Ok(parse_label(site).map(drop)?),
        PeerCommand::Add { site, token } => {
            let maker = node::token_site(token);
            let maker = maker.ok_or_else(|| CliError::usage("this is no peer token, or part of it is missing"))?;
            match maker.as_str() == site {
                true => Ok(()),
                false => Err(CliError::usage(format!("the token was made by site {maker}, not {site}"))),
            }
        }
    }
}

pub(super) async fn peer(command: PeerCommand, common: &Common) -> Outcome {
    check_peer_command(&command)?;
    let client = connect(common).await?;
    match command {
        PeerCommand::Token => match client.control(&Request::PeerToken).await? {
            Reply::Token(token) if common.json => line(json!({ "token": token })),
            Reply::Token(token) => line(token),
            reply => return Err(unexpected(&reply).into()),
        },
        PeerCommand::Add { site, token } => {
            client.control(&Request::PeerAdd(token)).await?;
            match common.json {
                true => line(json!({ "site": site, "added": true })),
                false => line(format!("{site} is a peer now")),
            }
        }
        PeerCommand::List => list(&client, common).await?,
        PeerCommand::Pause { site } => set_peer(&client, &site, PeerAction::Pause, common).await?,
        PeerCommand::Resume { site } => set_peer(&client, &site, PeerAction::Resume, common).await?,
        PeerCommand::Remove { site } => set_peer(&client, &site, PeerAction::Remove, common).await?,
        PeerCommand::Limit { site, rate, window, .. } => {
            let limit = rate.map(|rate| PeerAction::Limit(PeerLimit { rate, window }));
            set_peer(&client, &site, limit.unwrap_or(PeerAction::Unlimit), common).await?;
        }
        PeerCommand::Hold { site, seconds, up_to, reset } => {
            let hold = PeerAction::Hold(PeerHold { seconds, bytes: up_to });
            set_peer(&client, &site, if reset { PeerAction::Unhold } else { hold }, common).await?;
        }
    }
    Ok(client.close().await?)
}
