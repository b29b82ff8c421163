//! The command line, as cli.md promises it.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Replicates sealed data between storage sites. When one dies, the far side already has everything and takes over.
#[derive(Debug, Parser)]
#[command(name = "farside", version, arg_required_else_help = true, after_help = "Example: farside demo")]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// A node's directory on this machine
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// A context file, as `context export` writes it (or $FARSIDE_CONTEXT)
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) context: Option<PathBuf>,
    /// One JSON object, or one a line
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Two sites on this machine: one is killed while it is written to, the other takes over
    #[command(after_help = "Example: farside demo ~/photos --size 1GiB")]
    Demo {
        /// A file or tree to put; generated data without it
        path: Option<PathBuf>,
        /// Keep both sites in this directory
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
        /// Bytes of generated data
        #[arg(long, default_value = "1GiB", value_parser = super::sizes::parse_bytes)]
        size: u64,
    },
    /// Makes a new site: its CA, system key and first node
    #[command(after_help = "Example: farside init --dir near --site near --listen 127.0.0.1:7400 --device-size 8GiB")]
    Init(Init),
    /// Runs the node of --dir; prints one line `ready ...`; SIGTERM stops it
    #[command(after_help = "Example: farside node --dir near")]
    Node,
    /// How clients find this site
    #[command(subcommand)]
    Context(ContextCommand),
    /// Tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Logs
    #[command(subcommand)]
    Log(LogCommand),
    /// Puts a file, standard input, or with -r a tree; answers once it is durable
    #[command(
        after_help = "Examples: farside put --dir near acme/photos cat.jpg ./cat.jpg\n          farside put --dir near -r acme/photos ./photos"
    )]
    Put {
        /// Put a whole tree
        #[arg(short, long)]
        recursive: bool,
        /// TENANT/LOG
        log: String,
        /// The object's name; with -r the tree
        name: PathBuf,
        /// The file, or - for standard input
        file: Option<PathBuf>,
    },
    /// Gets an object, or with -r a tree
    #[command(
        after_help = "Examples: farside get --dir far acme/photos cat.jpg -o cat.jpg\n          farside get --dir far -r acme/photos ./restored"
    )]
    Get {
        /// Get a whole tree
        #[arg(short, long)]
        recursive: bool,
        /// TENANT/LOG
        log: String,
        /// The object's name; with -r an empty directory
        name: PathBuf,
        /// Where to write it; - is standard output
        #[arg(short, long, default_value = "-")]
        output: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Lists objects
    #[command(after_help = "Example: farside ls --dir near acme/photos --at 2026-01-31T12:00:00Z")]
    Ls {
        /// TENANT/LOG
        log: String,
        #[command(flatten)]
        at: At,
    },
    /// Removes an object; its versions stay readable for the log's history
    #[command(after_help = "Example: farside rm --dir near acme/photos cat.jpg")]
    Rm {
        /// TENANT/LOG
        log: String,
        /// The object's name
        name: PathBuf,
    },
    /// Lists an object's versions
    #[command(after_help = "Example: farside history --dir near acme/photos cat.jpg")]
    History {
        /// TENANT/LOG
        log: String,
        /// The object's name
        name: PathBuf,
    },
    /// How the site is: devices, logs, lag of its peers, alerts
    #[command(after_help = "Example: farside status --dir near --wait-caught-up 60")]
    Status {
        /// Wait so many seconds until every peer has everything; exit 4 if not
        #[arg(long, value_name = "SECONDS")]
        wait_caught_up: Option<u64>,
    },
    /// Peer sites
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Makes this surviving site the home of another site's logs
    #[command(after_help = "Example: farside failover --dir far --from near")]
    Failover {
        /// Only logs whose home is this site
        #[arg(long, value_name = "SITE")]
        from: Option<String>,
        /// Only this log
        #[arg(long, value_name = "TENANT/LOG")]
        log: Option<String>,
        /// Go on although preflight refuses
        #[arg(long)]
        force: bool,
    },
    /// Figures that can be reproduced
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The site's name
    #[arg(long)]
    pub(super) site: String,
    /// Shard i listens on this port + i (UDP)
    #[arg(long, default_value = "127.0.0.1:7400")]
    pub(super) listen: SocketAddr,
    /// Files or block devices to use, comma separated; what they hold is lost
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["device_count", "device_size"])]
    pub(super) devices: Vec<PathBuf>,
    /// Device files to make in the directory; as many as the geometry has fragments unless given
    #[arg(long)]
    pub(super) device_count: Option<usize>,
    /// Size of each device file
    #[arg(long, default_value = "4GiB", value_parser = super::sizes::parse_bytes)]
    pub(super) device_size: u64,
    /// Data and parity fragments of a chunk
    #[arg(long, default_value = "4+2")]
    pub(super) geometry: String,
    /// One shard on each of these cores, comma separated; every core unless given
    #[arg(long, value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// Largest UDP payload that the network carries
    #[arg(long)]
    pub(super) mtu: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct At {
    /// As of this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "seq")]
    pub(super) at: Option<String>,
    /// As of this sequence
    #[arg(long, value_name = "N")]
    pub(super) seq: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ContextCommand {
    /// Writes a context: endpoints and a client identity, never tenant keys
    #[command(after_help = "Example: farside context export --dir near --tenant acme -o acme.context")]
    Export {
        /// The file to write
        #[arg(short, long)]
        output: PathBuf,
        /// Only for this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Makes a tenant and its key
    #[command(after_help = "Example: farside tenant create --dir near acme --kms file:/etc/acme-keys")]
    Create {
        /// Its name
        name: String,
        /// Its KMS: file:DIR
        #[arg(long, value_name = "URL")]
        kms: String,
    },
    /// Lists tenants
    List,
    /// Shows one
    Show {
        /// Its name
        name: String,
    },
    /// Tells this client where a tenant's KMS is (needed once at the far side)
    #[command(after_help = "Example: farside tenant kms --dir far acme file:/etc/acme-keys")]
    Kms {
        /// Its name
        name: String,
        /// Its KMS: file:DIR
        url: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Makes a log whose home is this site
    #[command(after_help = "Example: farside log create --dir near acme/photos")]
    Create {
        /// TENANT/LOG
        log: String,
    },
    /// Lists logs
    List,
    /// Shows a log's head, its hash and its lineage
    Show {
        /// TENANT/LOG
        log: String,
    },
    /// Changes a log's policy
    #[command(after_help = "Example: farside log policy --dir near acme/photos --history 7d --dedup tenant")]
    Policy {
        /// TENANT/LOG
        log: String,
        /// Within which bounds equal data is stored once: off, log, tenant
        #[arg(long)]
        dedup: Option<String>,
        /// How long replaced and removed versions stay: 30s, 12h, 7d
        #[arg(long, value_parser = super::sizes::parse_seconds)]
        history: Option<u64>,
        /// Lag beyond which status raises an alert
        #[arg(long, value_parser = super::sizes::parse_seconds)]
        lag_bound: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// Prints a token with which one site may join this one as its peer, once, within a day
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
    List,
    /// Stops sending to a peer and taking from it
    Pause {
        /// The peer's name
        site: String,
    },
    /// Goes on
    Resume {
        /// The peer's name
        site: String,
    },
    /// Forgets a peer and what is held for it
    Remove {
        /// The peer's name
        site: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Catch-up of a far site, beside the bare pipeline: QUIC, one copy, O_DIRECT, the same flushes
    #[command(after_help = "Example: farside bench replicate --size 4GiB --mtu 8952 --json")]
    Replicate {
        /// Bytes to catch up
        #[arg(long, default_value = "4GiB", value_parser = super::sizes::parse_bytes)]
        size: u64,
        /// Largest UDP payload
        #[arg(long, default_value_t = 1452)]
        mtu: u16,
        /// Where to make the two sites; the system's temporary directory unless given
        #[arg(long, value_name = "DIR")]
        work: Option<PathBuf>,
    },
}
