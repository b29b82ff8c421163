//! The command line of backups and restores.

use super::args::NodeArguments;
use super::keys::Unsealing;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// How much of the line and of the store a command may take.
#[derive(Debug, Clone, Args)]
pub(super) struct RateArguments {
    /// Bytes a second to and from the target, together
    #[arg(long, value_name = "RATE", value_parser = super::sizes::parse_bytes)]
    pub(super) rate: Option<u64>,
    /// Requests a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) requests: Option<u32>,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Every {
    Hourly,
    Daily,
    Off,
}

/// When chunks go to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Chunks {
    WithBackups,
    Continuous,
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Where backups go
    #[command(subcommand, after_help = "Example: farside backup target list --dir near")]
    Target(TargetCommand),
    /// Has the site make backups by itself: the node that leads it does, with the credentials of its own environment
    #[command(after_help = "Example: farside backup schedule --dir near vault1 --control hourly --chunks continuous")]
    Schedule {
        /// A target's name
        target: String,
        /// How often a backup is made
        #[arg(long, value_enum)]
        control: Every,
        /// When chunks go to the target: with each backup, or as they come, so that a backup has little left to do
        #[arg(long, value_enum, default_value = "with-backups")]
        chunks: Chunks,
    },
    /// Makes a backup of everything that the site holds; what is at the target already is not stored again
    #[command(after_help = "Example: farside backup now --dir near vault1 --rate 100MiB")]
    Now {
        /// A target's name
        target: String,
        #[command(flatten)]
        rate: RateArguments,
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Lists the backups at a target
    #[command(after_help = "Example: farside backup list --dir near vault1")]
    List(PlaceArguments),
    /// Shows one backup, and whether what it names is in the indexes
    #[command(after_help = "Example: farside backup show --dir near vault1 --number 3")]
    Show {
        #[command(flatten)]
        place: PlaceArguments,
        /// Its number; the newest one unless given
        #[arg(long, value_name = "N")]
        number: Option<u64>,
    },
    /// Takes away backups that no rule keeps; what nothing needs any more goes with a later prune, once the grace is over
    #[command(
        after_help = "Example: farside backup prune --dir near vault1 --keep-last 24 --keep-daily 14 --keep-monthly 12"
    )]
    Prune {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        retention: RetentionArguments,
        /// How long what nothing needs stays for backups that are under way: longer than any of them takes
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = super::sizes::parse_seconds)]
        grace: u64,
        /// Say what would go, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Reads backups again: exit 6 if something is damaged or missing, and which backups need it
    #[command(after_help = "Example: farside backup verify --dir near vault1 --read-all")]
    Verify {
        #[command(flatten)]
        place: PlaceArguments,
        /// Read every pack
        #[arg(long, conflicts_with = "sample")]
        read_all: bool,
        /// Packs to read, drawn at random
        #[arg(long, value_name = "N", default_value_t = 16)]
        sample: usize,
        #[command(flatten)]
        rate: RateArguments,
    },
}

/// Which backups a prune keeps. One that any rule keeps stays, and the newest one always does.
#[derive(Debug, Args)]
pub(super) struct RetentionArguments {
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keep_last: usize,
    /// The newest of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keep_hourly: usize,
    /// Of the last N days (UTC)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keep_daily: usize,
    /// Of the last N weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keep_weekly: usize,
    /// Of the last N months of 30 days
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keep_monthly: usize,
}

#[derive(Debug, Subcommand)]
pub(super) enum TargetCommand {
    /// Adds a target, once it was found to keep what it is given. Credentials are the environment's (AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY), of each command's
    #[command(
        after_help = "Examples: farside backup target add --dir near vault1 s3://backups/near --endpoint https://s3.example\n          farside backup target add --dir near disk2 file:///mnt/backups/near"
    )]
    Add {
        /// What it is to be called
        name: String,
        /// s3://BUCKET/PREFIX or file:///DIR
        url: String,
        /// The store's address, where it is not AWS
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        #[command(flatten)]
        unsealing: Unsealing,
    },
    /// Lists targets, with the newest backup that this site knows of
    #[command(after_help = "Example: farside backup target list --dir near --json")]
    List,
    /// Forgets a target; the backups that lie there stay
    #[command(after_help = "Example: farside backup target remove --dir near vault1")]
    Remove {
        /// Its name
        name: String,
    },
}

/// A target, and the key that opens it.
#[derive(Debug, Args)]
pub(super) struct PlaceArguments {
    /// A target's name; or, with --shares, its URL
    pub(super) target: String,
    /// The store's address, where the target is a URL and not at AWS
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// Shares of the system key, comma separated, where there is no node's directory
    #[arg(long, value_name = "FILE,..", value_delimiter = ',')]
    pub(super) shares: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) unsealing: Unsealing,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Where the backups are: s3://BUCKET/PREFIX or file:///DIR
    #[arg(long, value_name = "URL")]
    pub(super) target: String,
    /// The store's address, where it is not AWS
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// Shares of the system key, comma separated: as many as its threshold says
    #[arg(long, value_name = "FILE,..", value_delimiter = ',', required = true)]
    pub(super) shares: Vec<PathBuf>,
    /// Go back to this moment (RFC 3339); what came after it is set aside. The newest backup, whole, unless given
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// Only this tenant, in a site that knows no peers and no targets: the one that was backed up may go on beside it
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
    /// Only this log, in the same way
    #[arg(long, value_name = "TENANT/LOG", conflicts_with = "tenant")]
    pub(super) log: Option<String>,
    /// Data and parity fragments of a chunk from now on; as before unless given
    #[arg(long)]
    pub(super) geometry: Option<String>,
    #[command(flatten)]
    pub(super) rate: RateArguments,
    #[command(flatten)]
    pub(super) node: NodeArguments,
}
