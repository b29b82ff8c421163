//! The command line, as cli.md promises it.

use super::audit::AuditCommand;
use super::backup_args::{BackupCommand, Restore};
use super::certificates::CertificateCommand;
use super::device_args::{DeviceCommand, SiteCommand};
use super::divergence::DivergenceCommand;
use super::identities::IdentityCommand;
use super::keys::{KeyCommand, Unsealing};
use super::peers::PeerCommand;
use super::recovery_args::RecoverQuorum;
use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use farside_transport::limits::{MAX_MTU, MIN_MTU};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A UDP payload that the transport can do.
fn mtu_parser() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU))
}

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

/// Up to where a failover takes logs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FailoverAt {
    /// Each log to the latest that came here
    Latest,
    /// All logs to one time up to which everything of each came here; what came later is set aside
    Cut,
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
    /// Prints a token with which one node may join the site, once, within a day
    #[command(after_help = "Example: farside invite --dir near --node rack2-left")]
    Invite {
        /// The new node's name; node-N unless given
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Makes a node of a site that is there already
    #[command(after_help = "Example: farside join --dir near2 --token TOKEN --listen 127.0.0.1:7410")]
    Join(Join),
    /// Runs the node of --dir; prints one line `ready ...`; SIGTERM stops it. Or says something about the site's nodes
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples: farside node --dir near\n          farside node list --dir near"
    )]
    Node {
        #[command(subcommand)]
        command: Option<NodeCommand>,
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Goes on with the nodes that are left when a group has lost its majority for good; the node of --dir must not be running
    #[command(
        after_help = "Examples: farside recover-quorum --dir n2 --report n2.report\n          farside recover-quorum --dir n2 --reports n2.report,n4.report --confirm near"
    )]
    RecoverQuorum(RecoverQuorum),
    /// The site's system key: its shares, and what guards it at this node
    #[command(subcommand, after_help = "Example: farside key status --dir near")]
    Key(KeyCommand),
    /// What is being rebuilt and moved between nodes and devices
    #[command(subcommand, after_help = "Example: farside repair status --dir near")]
    Repair(RepairCommand),
    /// The devices of the site's nodes
    #[command(subcommand, after_help = "Example: farside device list --dir near")]
    Device(DeviceCommand),
    /// What concerns the site as a whole
    #[command(subcommand, after_help = "Example: farside site rebalance --dir near")]
    Site(SiteCommand),
    /// Reads everything again and checks it, so that what has rotted is found while the rest is good
    #[command(subcommand, after_help = "Example: farside scrub status --dir near")]
    Scrub(ScrubCommand),
    /// How clients find this site
    #[command(subcommand, after_help = "Example: farside context export --dir near -o near.context")]
    Context(ContextCommand),
    /// Who may call this site: identities of operators and of tenants' clients
    #[command(subcommand, after_help = "Example: farside identity list --dir near")]
    Identity(IdentityCommand),
    /// What the site's nodes prove themselves with
    #[command(subcommand, after_help = "Example: farside certificate rotate --dir near")]
    Certificate(CertificateCommand),
    /// Tenants
    #[command(subcommand, after_help = "Example: farside tenant list --dir near")]
    Tenant(TenantCommand),
    /// Logs
    #[command(subcommand, after_help = "Example: farside log list --dir near")]
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
        /// Where to write it; - is standard output. A file is written whole or not at all
        #[arg(short, long, default_value = "-", conflicts_with = "recursive")]
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
        /// Wait so many seconds until every peer has acknowledged everything; exit 4 if not, at once if all that is
        /// left is paused
        #[arg(long, value_name = "SECONDS")]
        wait_caught_up: Option<u64>,
    },
    /// Peer sites
    #[command(subcommand, after_help = "Example: farside peer list --dir near")]
    Peer(PeerCommand),
    /// Makes this surviving site the home of another site's logs
    #[command(
        after_help = "Example: farside failover --dir far --from near\nExample: farside failover --dir far --at cut"
    )]
    Failover {
        /// Only logs whose home is this site
        #[arg(long, value_name = "SITE")]
        from: Option<String>,
        /// Only this log
        #[arg(long, value_name = "TENANT/LOG")]
        log: Option<String>,
        /// Each log as far as it came here, or all of them as they were at one time
        #[arg(long, value_enum, default_value_t = FailoverAt::Latest)]
        at: FailoverAt,
        /// Go on although preflight refuses
        #[arg(long)]
        force: bool,
    },
    /// Makes another site the home of this site's logs, with nothing lost: ordered where the home is
    #[command(after_help = "Example: farside switchover --dir near --to far")]
    Switchover(Moving),
    /// The same, back to a site that was home before a failover or switchover
    #[command(after_help = "Example: farside failback --dir far --to near")]
    Failback(Moving),
    /// Proves at the far side that it could take over, while replication goes on; changes nothing
    #[command(after_help = "Example: farside drill --dir far --objects 100")]
    Drill {
        /// Only logs whose home is this site
        #[arg(long, value_name = "SITE")]
        from: Option<String>,
        /// Only this log
        #[arg(long, value_name = "TENANT/LOG")]
        log: Option<String>,
        /// Objects of each log to read and open, drawn at random
        #[arg(long, value_name = "N", default_value_t = 10)]
        objects: usize,
    },
    /// What a change of home undid here: what only this site held, and was set aside
    #[command(subcommand, after_help = "Example: farside divergence list --dir near acme/photos")]
    Divergence(DivergenceCommand),
    /// Audit logs: who had what done, one for each tenant and one for the site, here and as peers wrote theirs
    #[command(subcommand, after_help = "Example: farside audit show --dir near --site")]
    Audit(AuditCommand),
    /// Backups outside of both sites, for the day when both are gone
    #[command(subcommand, after_help = "Example: farside backup now --dir near vault1")]
    Backup(BackupCommand),
    /// Makes a site of a backup on bare devices, with shares of its system key; repeat it to go on after an interruption
    #[command(
        after_help = "Example: farside restore --target s3://backups/near --shares share-1.txt,share-3.txt,share-4.txt --dir near --listen 127.0.0.1:7400"
    )]
    Restore(Restore),
    /// Figures that can be reproduced
    #[command(subcommand, after_help = "Example: farside bench replicate --size 1GiB")]
    Bench(BenchCommand),
}

#[derive(Debug, Args)]
pub(super) struct Moving {
    /// The site that is to be home
    #[arg(long, value_name = "SITE")]
    pub(super) to: String,
    /// Only this log
    #[arg(long, value_name = "TENANT/LOG")]
    pub(super) log: Option<String>,
    /// Wait so many seconds until the site is near enough to take over without holding writers up; exit 3 if it is not
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) wait: u64,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The site's name
    #[arg(long)]
    pub(super) site: String,
    /// Data and parity fragments of a chunk
    #[arg(long, default_value = "4+2")]
    pub(super) geometry: String,
    /// Log groups, fixed for ever: how many leaders can share the work at most
    #[arg(long, default_value_t = crate::node::limits::DEFAULT_GROUPS, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) groups: u32,
    #[command(flatten)]
    pub(super) node: NodeArguments,
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// What `farside invite` printed at a node of the site
    #[arg(long)]
    pub(super) token: String,
    /// The rack that the node shares its fate with: fragments and voters are spread over racks
    #[arg(long)]
    pub(super) rack: Option<String>,
    #[command(flatten)]
    pub(super) node: NodeArguments,
}

#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    /// Shard i listens on this port + i (UDP)
    #[arg(long, default_value = "127.0.0.1:7400")]
    pub(super) listen: SocketAddr,
    /// Where peers and clients find it, if that is not where it listens (0.0.0.0, NAT)
    #[arg(long, value_name = "IP:PORT")]
    pub(super) advertise: Option<SocketAddr>,
    /// Files or block devices to use, comma separated; what they hold is lost
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["device_count", "device_size"])]
    pub(super) devices: Vec<PathBuf>,
    /// Device files to make in the directory; as many as the geometry has fragments unless given
    #[arg(long)]
    pub(super) device_count: Option<usize>,
    /// Size of each device file
    #[arg(long, default_value = "4GiB", value_parser = super::sizes::parse_bytes)]
    pub(super) device_size: u64,
    /// One shard on each of these cores, comma separated; every core unless given
    #[arg(long, value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// Largest UDP payload that the network carries
    #[arg(long, value_parser = mtu_parser())]
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
pub(super) enum NodeCommand {
    /// Lists the site's nodes
    #[command(after_help = "Example: farside node list --dir near --json")]
    List,
    /// Tells the node of --dir the passphrase of its system key, while it waits for that to start
    #[command(after_help = "Example: farside node unlock --dir near")]
    Unlock {
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Moves everything off a node; `node undo` stops that
    #[command(after_help = "Example: farside node drain --dir near node-3")]
    Drain {
        /// Its name
        name: String,
    },
    /// Counts on a node again that was being drained
    #[command(after_help = "Example: farside node undo --dir near node-3")]
    Undo {
        /// Its name
        name: String,
    },
    /// Takes a node out for good, once nothing depends on it; exit 3 until then
    #[command(after_help = "Example: farside node remove --dir near node-3")]
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RepairCommand {
    /// What is owed, where, and how fast it shrinks
    #[command(after_help = "Example: farside repair status --dir near")]
    Status,
    /// Limits what repair reads and writes on each node; 0 takes the limit off
    #[command(after_help = "Example: farside repair limit --dir near --rate 100MiB")]
    Limit {
        /// Bytes a second
        #[arg(long, value_parser = super::sizes::parse_bytes_or_none)]
        rate: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ScrubCommand {
    /// Has every node begin a pass now; it goes on by itself
    #[command(after_help = "Example: farside scrub start --dir near --percent 50")]
    Start {
        /// Part of a shard's time that the pass may take; `scrub_percent` of node.toml unless given
        #[arg(long, value_name = "1-100", value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: Option<u8>,
    },
    /// How far it is on each node, when the last pass was over, and what was found
    #[command(after_help = "Example: farside scrub status --dir near")]
    Status,
}

#[derive(Debug, Subcommand)]
pub(super) enum ContextCommand {
    /// Writes a context: endpoints and a client identity, never tenant keys
    #[command(after_help = "Example: farside context export --dir near --tenant acme -o acme.context")]
    Export {
        /// The file to write; - is standard output
        #[arg(short, long)]
        output: PathBuf,
        /// Only for this tenant
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        unsealing: Unsealing,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Makes a tenant and its key
    #[command(
        after_help = "Examples: farside tenant create --dir near acme --kms file:/etc/acme-keys\n          farside tenant create --dir near acme --kms 'vault:https://bao.acme.example:8200?mount=transit'\nA URL holds no secret; it names files that do. docs/kms.md lists its parameters."
    )]
    Create {
        /// Its name
        name: String,
        /// Its KMS: file:DIR, vault:https://HOST.., pkcs11:token=NAME.. or kmip://HOST... DIR is made if its parent is there
        #[arg(long, value_name = "URL")]
        kms: String,
    },
    /// Lists tenants
    #[command(after_help = "Example: farside tenant list --dir near --json")]
    List,
    /// Shows one
    #[command(after_help = "Example: farside tenant show --dir near acme")]
    Show {
        /// Its name
        name: String,
    },
    /// Tells this client where a tenant's KMS is (needed once at the far side)
    #[command(after_help = "Example: farside tenant kms --dir far acme file:/etc/acme-keys")]
    Kms {
        /// Its name
        name: String,
        /// Its KMS: file:DIR, vault:https://HOST.., pkcs11:token=NAME.. or kmip://HOST..
        url: String,
        /// How long this client uses a key before it asks the KMS again, 5s to 5m; 60s unless set
        #[arg(long, value_name = "TIME", value_parser = super::sizes::parse_key_cache)]
        key_cache: Option<u64>,
    },
    /// Checks that a tenant's keys were destroyed in its KMS, so that its data can be read nowhere
    #[command(
        after_help = "Example: farside tenant shred --dir near acme\nDestroys nothing: whoever runs the KMS does that. Exit code 0 only if every key is gone."
    )]
    Shred {
        /// Its name
        name: String,
    },
    /// Gives a tenant a new data key, under a new version of its key in the KMS
    #[command(
        after_help = "Example: farside tenant rotate --dir near acme\nReads and writes go on. What was sealed before stays readable while the KMS keeps the old version."
    )]
    Rotate {
        /// Its name
        name: String,
    },
    /// Writes a log anew as another log, under the tenant's newest key: for the day when the old one has become known
    #[command(
        after_help = "Examples: farside tenant rotate --dir near acme\n          farside tenant reseal --dir near acme/photos photos-2\nRepeat the second one after an interruption, or once nobody writes to the old log any more: what others wrote to the new one stays."
    )]
    Reseal {
        /// TENANT/LOG, at its home
        log: String,
        /// The log that it becomes, of the same tenant; it is made if it is not there
        new: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Makes a log whose home is this site
    #[command(after_help = "Examples: farside log create --dir near acme/photos\n          \
                            farside log create --dir near acme/patients --residency near,far")]
    Create {
        /// TENANT/LOG
        log: String,
        /// The only sites that may ever hold the log or learn of it, this one among them; none: any
        #[arg(long, value_name = "SITE,..", value_delimiter = ',')]
        residency: Option<Vec<String>>,
    },
    /// Says which peers hold a log; every peer does otherwise
    #[command(after_help = "Examples: farside log replicate --dir near acme/photos --to far\n          \
                            farside log replicate --dir near acme/photos --to all")]
    Replicate {
        /// TENANT/LOG
        log: String,
        /// Names of peers; all: every peer, those too that come later
        #[arg(long, value_name = "SITE,..", value_delimiter = ',', required = true)]
        to: Vec<String>,
    },
    /// Lists logs
    #[command(after_help = "Example: farside log list --dir near --json")]
    List,
    /// Shows a log's head, its hash and its lineage
    #[command(after_help = "Example: farside log show --dir near acme/photos")]
    Show {
        /// TENANT/LOG
        log: String,
    },
    /// Changes a log's policy
    #[command(
        after_help = "Example: farside log policy --dir near acme/photos --history 7d --dedup tenant --quota 10TiB"
    )]
    Policy {
        /// TENANT/LOG
        log: String,
        /// Within which bounds equal data is stored once: off, log, tenant
        #[arg(long)]
        dedup: Option<String>,
        /// How long replaced and removed versions stay: 30s, 12h, 7d
        #[arg(long, value_parser = super::sizes::parse_seconds)]
        history: Option<u64>,
        /// Lag at which writers are stopped, slowed down before: 30s, 5m; none: they never are, and 30 s raise an alert
        #[arg(long, value_parser = super::sizes::parse_seconds_or_none)]
        lag_bound: Option<u64>,
        /// The home acknowledges nothing later than so long after its peers renewed their promise not to take over: 4s to 1h;
        /// none: a failover may find a home that goes on
        #[arg(long, value_parser = super::sizes::parse_seconds_or_none)]
        home_lease: Option<u64>,
        /// The only sites that may hold the log or learn of it, this one among them; none: any. Refused where another peer may have it already
        #[arg(long, value_name = "SITE,..", value_delimiter = ',')]
        residency: Option<Vec<String>>,
        /// Bytes that it may have, old versions among them: 500GiB, 10TiB; none: as many as there is room for
        #[arg(long, value_name = "SIZE", value_parser = super::sizes::parse_bound)]
        quota: Option<u64>,
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
        #[arg(long, default_value_t = 1452, value_parser = mtu_parser())]
        mtu: u16,
        /// Where to make the two sites; the system's temporary directory unless given
        #[arg(long, value_name = "DIR")]
        work: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::{Command, CommandFactory};

    fn check(command: &Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Example") && help.contains("farside "), "{path} --help shows no example");
        assert!(command.get_about().is_some(), "{path} --help does not say what it does");
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            check(inner, &format!("{path} {}", inner.get_name()));
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        check(&command, "farside");
    }

    #[test]
    fn examples_are_understood() {
        fn examples(command: &Command, found: &mut Vec<String>) {
            found.extend(command.get_after_help().map(ToString::to_string).iter().flat_map(|help| {
                help.lines().filter_map(|line| line.split_once("farside ")).map(|(_, rest)| format!("farside {rest}"))
            }));
            command.get_subcommands().for_each(|inner| examples(inner, found));
        }
        let mut found = Vec::new();
        examples(&Arguments::command(), &mut found);
        assert!(found.len() > 25, "only {} examples", found.len());
        for example in found {
            let example = example.replace("\"$(farside peer token --dir far)\"", "TOKEN");
            let parsed = Arguments::command().try_get_matches_from(example.split_whitespace());
            assert!(parsed.is_ok(), "{example}");
        }
    }
}
