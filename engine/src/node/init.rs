//! Making a site: its CA, its system key, its first node, its devices.

use super::authority::of_directory;
use super::config::{NodeConfig, repeated};
use super::devices::{losses_survived, twins};
use super::directory::{NodeDirectory, SiteFile};
use super::error::{NodeError, failed};
use super::keys::{PassphraseSource, SystemKey, system_key};
use super::limits;
use crate::client::Context;
use crate::framed::{self, FileKind};
use crate::interrupt::Undo;
use crate::machine::Machine;
use crate::store::{FormatError, FormatOptions, format_devices};
use bytes::Bytes;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{Hlc, Label, NodeId, SiteId};
use farside_codec::record;
use farside_io::cores;
use farside_io::entropy::{SystemEntropy, random};
use farside_io::pool::Pool;
use farside_io::uring::{self, Ring, UringDisk};
use farside_transport::{Authority, Credentials, Identity, Role, Trust};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

record!(
    /// An identity as it is kept: certificate and key.
    IdentityFile {
        /// DER.
        certificate: Bytes,
        /// PKCS #8 DER.
        key: Bytes,
    }
);

/// What a node is to be made of.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Address of shard 0.
    pub listen: SocketAddr,
    /// Where peers and clients find it, if not there.
    pub advertise: Option<SocketAddr>,
    /// Existing files or block devices; empty: files are made.
    pub devices: Vec<PathBuf>,
    /// How many files to make; `None`: as many as the geometry has fragments.
    pub device_count: Option<usize>,
    /// Bytes of each.
    pub device_bytes: u64,
    /// One shard on each of these cores; `None`: every core.
    pub cores: Option<Vec<usize>>,
    /// Largest UDP payload; `None`: the default.
    pub mtu: Option<u16>,
}

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The directory to make.
    pub directory: PathBuf,
    /// The site's name.
    pub site: Label,
    /// Its first node.
    pub node: NodeOptions,
    /// How chunks are cut.
    pub geometry: Geometry,
    /// Log groups, fixed for ever: as many leaders as can share the work.
    pub groups: u32,
}

/// Buffers for formatting.
pub(super) const FORMAT_POOL_BYTES: usize = 16 << 20;

impl InitOptions {
    fn device_total(&self) -> usize {
        self.node.device_total(self.geometry)
    }

    /// Losses of whole devices that the site will survive.
    pub fn losses_survived(&self) -> usize {
        losses_survived(self.geometry, self.geometry.parity() + 1, self.device_total(), self.device_total())
            .unwrap_or(0)
    }

    /// What an operator should know before the site is used.
    pub fn notice(&self) -> Option<String> {
        let (devices, survived) = (self.device_total(), self.losses_survived());
        let (fragments, parity) = (self.geometry.total(), self.geometry.parity());
        (devices < fragments).then(|| {
            format!(
                "devices: {devices}, for {fragments} fragments of each chunk ({}); lost devices that are survived: \
                 {survived}, where {fragments} devices would survive {parity}",
                self.geometry
            )
        })
    }
}

impl NodeOptions {
    fn device_total(&self, geometry: Geometry) -> usize {
        match self.devices.len() {
            0 => self.device_count.unwrap_or(geometry.total()),
            given => given,
        }
    }

    /// Refuses what can't work, before anything is made. Answers the cores.
    pub(super) fn check(&self) -> Result<Vec<usize>, NodeError> {
        let usage = |what: String| Err(NodeError::Usage(what));
        if self.listen.port() == 0 {
            return usage("--listen needs a port: shard i listens on it + i".into());
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return usage(format!(
                "--listen {} is every address of this machine: say with --advertise IP:PORT which one peers and \
                 clients are to use",
                self.listen
            ));
        }
        if self.advertise.is_some_and(|address| address.ip().is_unspecified() || address.port() == 0) {
            return usage("--advertise names no address that anybody could reach".into());
        }
        let available = cores::available().map_err(failed)?;
        let cores = self.cores.clone().unwrap_or_else(|| available.clone());
        if let Some(core) = cores.iter().find(|core| !available.contains(core)) {
            return usage(format!("--cores: there is no core {core} for this process; there are {available:?}"));
        }
        if let Some(core) = repeated(&cores) {
            return usage(format!("--cores names core {core} twice"));
        }
        let ports = [self.listen, self.advertise.unwrap_or(self.listen)];
        if let Some(address) = ports.iter().find(|address| usize::from(address.port()) + cores.len() > 1 << 16) {
            let shards = cores.len();
            return usage(format!("{shards} shards need {shards} ports from {address} on, up to 65535"));
        }
        if let Some((one, other)) = twins(&self.devices) {
            return usage(format!("--devices names one device twice: {} and {}", one.display(), other.display()));
        }
        Ok(cores)
    }

    /// The node's settings.
    pub(super) fn config(
        &self,
        devices: &[PathBuf],
        cores: Vec<usize>,
        directory: &NodeDirectory,
    ) -> Result<NodeConfig, NodeError> {
        let root = std::path::absolute(directory.root()).map_err(failed)?;
        let relative = |path: &PathBuf| path.strip_prefix(&root).map(Path::to_owned).unwrap_or_else(|_| path.clone());
        let mut config = NodeConfig::new(self.listen, devices.iter().map(relative).collect(), cores);
        config.mtu = self.mtu.unwrap_or(config.mtu);
        config.advertise = self.advertise;
        Ok(config)
    }

    /// The node's devices; files are made here where none were named.
    pub(super) fn device_paths(
        &self,
        geometry: Geometry,
        directory: &NodeDirectory,
    ) -> Result<Vec<PathBuf>, NodeError> {
        if !self.devices.is_empty() {
            return self.devices.iter().map(|path| std::path::absolute(path).map_err(failed)).collect();
        }
        let paths: Vec<PathBuf> = (0..self.device_total(geometry)).map(|index| directory.device(index)).collect();
        paths.iter().try_for_each(|path| uring::create(path, self.device_bytes).map_err(failed))?;
        paths.iter().map(|path| std::path::absolute(path).map_err(failed)).collect()
    }
}

/// Makes the site. On failure, or interrupted, what it made is removed again.
pub fn init(options: &InitOptions) -> Result<SiteFile, NodeError> {
    let cores = options.node.check()?;
    uring::check_io_uring().map_err(failed)?;
    in_new_directory(&options.directory, |directory| make(options, cores, directory))
}

/// Makes a node's directory and what is in it; where that fails, or is interrupted, all of it is removed again.
pub(super) fn in_new_directory(
    path: &Path,
    make: impl FnOnce(&NodeDirectory) -> Result<SiteFile, NodeError>,
) -> Result<SiteFile, NodeError> {
    let directory = NodeDirectory::new(path);
    directory.create()?;
    // Only what this call made: the directory was empty before.
    let root = std::path::absolute(path).map_err(failed)?;
    let remove = move || drop(std::fs::remove_dir_all(&root));
    let _undo = Undo::register(remove.clone());
    make(&directory).inspect_err(|_| remove())
}

fn make(options: &InitOptions, cores: Vec<usize>, directory: &NodeDirectory) -> Result<SiteFile, NodeError> {
    let (node, geometry) = (&options.node, options.geometry);
    let devices = node.device_paths(geometry, directory)?;
    let config = node.config(&devices, cores, directory)?;
    let plan = SitePlan { name: options.site.clone(), geometry, groups: options.groups, config };
    let file = found(directory, &plan, &Machine::real())?;
    format(&file, &devices)?;
    announce(directory, &file)?;
    Ok(file)
}

/// What a site is to be.
#[derive(Debug, Clone)]
pub struct SitePlan {
    /// Its name.
    pub name: Label,
    /// How chunks are cut.
    pub geometry: Geometry,
    /// Log groups.
    pub groups: u32,
    /// The first node's settings.
    pub config: NodeConfig,
}

/// Fills a new node's directory: settings, keys, identities. Its devices are to be formatted next, with
/// [`format_options`]; it is a node once it was announced.
pub fn found(directory: &NodeDirectory, plan: &SitePlan, machine: &Machine) -> Result<SiteFile, NodeError> {
    plan.config.save(&directory.config())?;
    let config = NodeConfig::load(&directory.config())?;
    let entropy = machine.entropy.as_ref();
    let site = SiteId(random(entropy));
    let authority = Authority::create(site, &plan.name, entropy).map_err(failed)?;
    let now = Duration::from_millis(machine.clock.wall_ms());
    let file = SiteFile {
        site,
        name: plan.name.clone(),
        incarnation: 0,
        node: NodeId(1),
        shards: config.cores.len() as u16,
        groups: plan.groups,
        geometry: plan.geometry,
        certificate: Bytes::copy_from_slice(authority.certificate()),
        created: Hlc::from_ms(now.as_millis() as u64),
        secret: random(entropy),
    };
    fill(directory, &file, &config, &authority, &SystemKey::generate(entropy), machine)?;
    Ok(file)
}

/// Writes a node's keys and identities, and how the command line finds it.
pub(super) fn fill(
    directory: &NodeDirectory,
    file: &SiteFile,
    config: &NodeConfig,
    authority: &Authority,
    key: &SystemKey,
    machine: &Machine,
) -> Result<(), NodeError> {
    let (entropy, now) = (machine.entropy.as_ref(), Duration::from_millis(machine.clock.wall_ms()));
    key.save(directory, authority.key(), entropy)?;
    let issue = |role, subject: &str, life| authority.issue(role, subject, now, life, entropy).map_err(failed);
    let (node, of_node) = (file.node.to_string(), Duration::from_secs(config.certificate_seconds));
    save_identity(&directory.node_identity(), &issue(Role::Node, &node, of_node)?)?;
    save_identity(&directory.peer_identity(), &issue(Role::Peer, &node, of_node)?)?;
    let operator = issue(Role::Admin, "admin", limits::CERTIFICATE_LIFE)?;
    let found_by = context(file, &file.certificate, local_endpoint(config), &operator);
    found_by.save(&directory.admin_context()).map_err(failed)
}

/// How the devices of a node are formatted, of which the smallest has so many bytes.
pub fn format_options(file: &SiteFile, smallest_bytes: u64) -> FormatOptions {
    FormatOptions {
        site: file.site,
        node: file.node,
        shards: file.shards,
        geometry: file.geometry,
        wal_bytes: limits::wal_bytes(smallest_bytes / u64::from(file.shards)),
        segment_bytes: None,
    }
}

/// Makes a directory that was founded, and whose devices are formatted, a node's.
pub fn announce(directory: &NodeDirectory, file: &SiteFile) -> Result<(), NodeError> {
    framed::write_record(&directory.site(), FileKind::Site, file)?;
    // A site that was announced must be there after a power cut.
    Ok(directory.sync()?)
}

pub(super) fn format(file: &SiteFile, devices: &[PathBuf]) -> Result<(), NodeError> {
    uring::start(async {
        let pool = Pool::new(FORMAT_POOL_BYTES).map_err(failed)?;
        let ring = Ring::register(&pool).map_err(failed)?;
        let disks: Result<Vec<UringDisk>, _> = devices.iter().map(|path| UringDisk::open(path, &ring)).collect();
        let disks = disks.map_err(failed)?;
        let smallest = disks.iter().map(farside_io::disk::Disk::len_bytes).min().unwrap_or(0);
        let options = format_options(file, smallest);
        let formatted = format_devices(&pool, &disks, &options, &SystemEntropy).await;
        formatted.map(drop).map_err(|error| format_failed(&error, devices))
    })
    .map_err(failed)?
}

/// The store knows devices by their place; people know them by their path.
fn format_failed(error: &FormatError, devices: &[PathBuf]) -> NodeError {
    let path = |device: &usize| devices.get(*device).map_or_else(String::new, |path| path.display().to_string());
    failed(match error {
        FormatError::InUse(device) => format!(
            "device {} holds a Farside superblock already; overwrite its first 64 KiB with zeroes to give it up",
            path(device)
        ),
        FormatError::TooSmall { device, needed_bytes } => {
            format!("device {} is too small: at least {needed_bytes} bytes are needed", path(device))
        }
        FormatError::Disk(device, error) => format!("device {}: {error}", path(device)),
        FormatError::Count(_) | FormatError::SegmentBytes(_) | FormatError::Pool(_) => error.to_string(),
    })
}

/// Where this machine's own command line finds the node: an advertised address may lead here from elsewhere only.
fn local_endpoint(config: &NodeConfig) -> SocketAddr {
    let ip: IpAddr = match config.listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, config.listen.port())
}

pub(super) fn save_identity(path: &Path, identity: &Identity) -> Result<(), NodeError> {
    let file = IdentityFile {
        certificate: Bytes::copy_from_slice(identity.certificate()),
        key: Bytes::copy_from_slice(identity.key()),
    };
    Ok(framed::write_record(path, FileKind::Identity, &file)?)
}

/// Reads an identity.
pub(super) fn load_identity(path: &Path) -> Result<Identity, NodeError> {
    let file: IdentityFile = framed::read_record(path, FileKind::Identity)?;
    Identity::from_parts(file.certificate.to_vec(), Zeroizing::new(file.key.to_vec())).map_err(failed)
}

/// Reads an identity, to be shown to whoever trusts this site.
pub(super) fn load_credentials(path: &Path, trust: &Trust) -> Result<Credentials, NodeError> {
    Ok(Credentials { identity: load_identity(path)?.into(), trust: trust.clone() })
}

fn context(site: &SiteFile, authority: &Bytes, endpoint: SocketAddr, identity: &Identity) -> Context {
    Context {
        site: site.site,
        site_name: site.name.clone(),
        authority: authority.clone(),
        endpoints: vec![endpoint.to_string()],
        certificate: Bytes::copy_from_slice(identity.certificate()),
        key: Bytes::copy_from_slice(identity.key()),
    }
}

/// Issues a context from a node's directory: an administrator's, or that of one tenant's client. It takes the CA's key, and
/// so a passphrase where the system key is sealed.
pub fn export_context(
    root: &Path,
    tenant: Option<farside_codec::ids::TenantId>,
    source: &PassphraseSource,
) -> Result<Context, NodeError> {
    let directory = NodeDirectory::new(root);
    let site = directory.load_site()?;
    let config = NodeConfig::load(&directory.config())?;
    if config.advertised().ip().is_unspecified() {
        let address = config.advertised();
        return Err(NodeError::Usage(format!(
            "nobody can reach this site at {address}: set `advertise = \"IP:PORT\"` in {}",
            directory.config().display()
        )));
    }
    let authority = of_directory(&directory, &system_key(&directory, source)?, &site)?.issuing;
    let machine = Machine::real();
    let now = Duration::from_millis(machine.clock.wall_ms());
    let (role, subject) = match tenant {
        Some(tenant) => (Role::Client, tenant.to_string()),
        None => (Role::Admin, "admin".to_owned()),
    };
    let identity =
        authority.issue(role, &subject, now, limits::CERTIFICATE_LIFE, machine.entropy.as_ref()).map_err(failed)?;
    let trusted = Bytes::copy_from_slice(authority.certificate());
    Ok(context(&site, &trusted, config.advertised(), &identity))
}
