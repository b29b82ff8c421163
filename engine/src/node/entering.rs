//! Making a node of a site that is there already: it shows a token, is given its number and the site's keys, and formats
//! its devices.

use super::config::NodeConfig;
use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::init::{NodeOptions, announce, fill, format, in_new_directory};
use super::keys::SystemKey;
use super::limits;
use super::token::{Purpose, Token};
use crate::machine::Machine;
use farside_codec::cluster::{NodeJoin, NodeJoined};
use farside_codec::ids::{Hlc, Label};
use farside_codec::message::{Hello, Reply, Request};
use farside_io::entropy::random;
use farside_io::uring;
use farside_transport::{Authority, CallError, Class, Expect, Settings};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What `join` is told.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The directory to make.
    pub directory: PathBuf,
    /// What a node of the site printed.
    pub token: String,
    /// The rack that the node shares its fate with.
    pub rack: Option<Label>,
    /// The node.
    pub node: NodeOptions,
}

/// Makes a node of the site that made the token. On failure, or interrupted, what it made is removed again.
pub fn join(options: &JoinOptions) -> Result<SiteFile, NodeError> {
    let cores = options.node.check()?;
    // Before anything is made.
    read_token(&options.token)?;
    uring::check_io_uring().map_err(failed)?;
    in_new_directory(&options.directory, |directory| make(options, cores, directory))
}

fn read_token(text: &str) -> Result<Token, NodeError> {
    let no_token = || NodeError::Usage("this is no node token, or part of it is missing: copy the whole line".into());
    Token::parse(Purpose::Node, text).ok_or_else(no_token)
}

fn make(options: &JoinOptions, cores: Vec<usize>, directory: &NodeDirectory) -> Result<SiteFile, NodeError> {
    let machine = Machine::real();
    let address = options.node.advertise.unwrap_or(options.node.listen);
    let asking = ask_to_join(&options.token, address, cores.len() as u16, options.rack.clone(), &machine);
    let joined = crate::cli::on_runtime(asking).map_err(failed)??;
    let number = joined.node;
    let made = || {
        let devices = options.node.device_paths(joined.geometry, directory)?;
        let config = options.node.config(&devices, cores, directory)?;
        let file = enter(directory, &config, joined, &machine)?;
        format(&file, &devices)?;
        announce(directory, &file)?;
        Ok(file)
    };
    made().map_err(|error: NodeError| {
        failed(format_args!(
            "{error}; the site has let the node in as node-{number} already: `farside node remove node-{number}` there, \
             and invite anew"
        ))
    })
}

/// Fills the directory of a node that was let in: settings, keys, identities. Its devices are to be formatted next; it is a
/// node once it was announced.
pub fn enter(
    directory: &NodeDirectory,
    config: &NodeConfig,
    joined: NodeJoined,
    machine: &Machine,
) -> Result<SiteFile, NodeError> {
    config.save(&directory.config())?;
    let config = NodeConfig::load(&directory.config())?;
    let file = SiteFile {
        site: joined.site,
        name: joined.site_name,
        incarnation: joined.incarnation,
        node: joined.node,
        shards: config.cores.len() as u16,
        groups: joined.groups,
        geometry: joined.geometry,
        certificate: joined.certificate.clone(),
        created: Hlc::from_ms(machine.clock.wall_ms()),
        secret: random(machine.entropy.as_ref()),
    };
    let key = Zeroizing::new(joined.authority_key.to_vec());
    let authority = Authority::from_parts(joined.site, joined.certificate.to_vec(), key);
    fill(directory, &file, &config, &authority, &SystemKey::from_bytes(joined.system_key), machine)?;
    Ok(file)
}

/// Shows the token to the first node of the site that answers, for a node that others find at `address`.
pub async fn ask_to_join(
    token: &str,
    address: SocketAddr,
    shards: u16,
    rack: Option<Label>,
    machine: &Machine,
) -> Result<NodeJoined, NodeError> {
    let token = read_token(token)?;
    let attempt = random(machine.entropy.as_ref());
    let ask = NodeJoin { secret: token.secret, attempt, endpoint: address.to_string(), shards, rack };
    let credentials = token.credentials().map_err(|error| NodeError::Usage(error.to_string()))?;
    let mut last = NodeError::Unreachable(format!("the token names no node of site {}", token.name));
    for text in &token.endpoints {
        let Ok(address) = text.parse::<SocketAddr>() else { continue };
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = machine.endpoint(local, None, Settings::default()).map_err(failed)?;
        let expect = Expect { site: token.site };
        let connecting = endpoint.connect(address, &credentials, &expect, Class::Request);
        let Ok(Ok(connection)) = tokio::time::timeout(limits::INTRODUCTION, connecting).await else {
            last = NodeError::Unreachable(format!("site {} does not answer at {address}", token.name));
            continue;
        };
        // In the site's name, so that a clock that is far ahead is found out now.
        let now = Hlc::from_ms(machine.clock.wall_ms());
        let hello = Request::Hello(Hello { site: token.site, ..Hello::of_caller(token.name.clone(), now) });
        if let Err(error) = connection.call(&hello, None).await {
            last = NodeError::Unreachable(format!("site {} at {address}: {error}", token.name));
            continue;
        }
        let answered = connection.call(&Request::NodeJoin(ask.clone()), None).await;
        endpoint.close().await;
        match answered {
            Ok((Reply::NodeJoined(joined), _)) => return Ok(joined),
            Ok(_) => return Err(failed("the site answered something else than was asked")),
            Err(CallError::Refused(refusal)) if refusal.retry_after_ms > 0 => last = failed(refusal),
            Err(CallError::Refused(refusal)) => return Err(NodeError::Refused(refusal)),
            Err(error) => last = NodeError::Unreachable(format!("site {} at {address}: {error}", token.name)),
        }
    }
    Err(last)
}
