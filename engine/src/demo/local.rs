//! Sites on this machine, each a real node process of this very binary.

use crate::client::{Client, ClientError, ClientSettings, Context};
use crate::interrupt::Undo;
use crate::node::directory::NodeDirectory;
use crate::node::limits::DEFAULT_GROUPS;
use crate::node::{InitOptions, NodeOptions, init};
use farside_codec::erasure::Geometry;
use farside_codec::ids::Label;
use farside_codec::message::{Reply, Request};
use farside_io::process;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How a site is to be made.
pub(crate) struct SitePlan<'a> {
    pub(crate) root: &'a Path,
    pub(crate) name: &'a str,
    /// A shard on each.
    pub(crate) cores: Vec<usize>,
    pub(crate) device_bytes: u64,
    pub(crate) mtu: Option<u16>,
}

/// A site and its running node. Killed when dropped.
pub(crate) struct LocalSite {
    pub(crate) name: Label,
    pub(crate) directory: PathBuf,
    child: Child,
    _undo: Undo,
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A UDP port that nobody uses now.
fn free_port() -> Result<SocketAddr, String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    socket.local_addr().map_err(failed)
}

impl LocalSite {
    /// Makes a site and runs its node.
    pub(crate) fn start(plan: &SitePlan<'_>) -> Result<Self, String> {
        let directory = plan.root.join(plan.name);
        let name = Label::parse(plan.name).ok_or_else(|| format!("{} is no name", plan.name))?;
        let options = InitOptions {
            directory: directory.clone(),
            site: name.clone(),
            node: NodeOptions {
                listen: free_port()?,
                advertise: None,
                devices: Vec::new(),
                device_count: None,
                device_bytes: plan.device_bytes,
                cores: Some(plan.cores.clone()),
                mtu: plan.mtu,
            },
            geometry: Geometry::DEFAULT,
            groups: DEFAULT_GROUPS,
        };
        init(&options).map_err(failed)?;
        let (child, undo) = spawn(&directory)?;
        Ok(Self { name, directory, child, _undo: undo })
    }

    /// The node's process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills the node with SIGKILL: no goodbye, no last flush.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A client of the site, as its administrator.
    pub(crate) async fn client(&self) -> Result<Client, ClientError> {
        let path = NodeDirectory::new(&self.directory).admin_context();
        Client::connect(&Context::load(&path)?, ClientSettings::beside(&path)?).await
    }
}

impl Drop for LocalSite {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the node, which ends with this process at the latest.
fn spawn(directory: &Path) -> Result<(Child, Undo), String> {
    let binary = std::env::current_exe().map_err(failed)?;
    let log = directory.with_extension("log");
    let log = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let mut command = Command::new(binary);
    command.args(["node", "--dir"]).arg(directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    process::die_with_parent(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let node = child.id();
    let undo = Undo::register(move || process::kill(node));
    let mut ready = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut ready).map_err(failed)?;
    }
    if ready.starts_with("ready ") {
        return Ok((child, undo));
    }
    let _ = child.kill();
    let _ = child.wait();
    let said = std::fs::read_to_string(directory.with_extension("log")).unwrap_or_default();
    let why = said.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(said.trim());
    Err(format!("the node in {} did not come up: {why}", directory.display()))
}

/// Joins two sites.
pub(crate) async fn join(near: &Client, far: &Client) -> Result<(), ClientError> {
    let token = match far.control(&Request::PeerToken).await? {
        Reply::Token(token) => token,
        reply => return Err(crate::client::unexpected(&reply)),
    };
    near.control(&Request::PeerAdd(token)).await.map(drop)
}

/// Device files for `bytes` of data at 4+2 with room for its WAL, for GC, and for the segments that are open.
pub(crate) fn device_bytes(bytes: u64) -> u64 {
    (bytes / 4 * 5 / 4 + (384 << 20)).next_multiple_of(1 << 20)
}

/// Bytes that look random and follow from a seed, so that they need not be kept to be compared.
pub(crate) struct Generated {
    seed: u64,
    at: u64,
    end: u64,
}

impl Generated {
    pub(crate) fn new(seed: u64, bytes: u64) -> Self {
        Self { seed, at: 0, end: bytes }
    }

    /// Eight bytes, by their index (SplitMix64).
    fn word(&self, index: u64) -> [u8; 8] {
        let state = self.seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

impl std::io::Read for Generated {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = (out.len() as u64).min(self.end - self.at) as usize;
        let mut done = 0;
        while done < count {
            let within = (self.at % 8) as usize;
            let take = (8 - within).min(count - done);
            out[done..done + take].copy_from_slice(&self.word(self.at / 8)[within..within + take]);
            done += take;
            self.at += take as u64;
        }
        Ok(count)
    }
}
