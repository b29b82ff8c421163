//! Arguments of the commands about devices, and about where on them fragments lie.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Lists them, with how each is and what it holds
    #[command(after_help = "Example: farside device list --dir near --json")]
    List,
    /// Gives a node one device more; the node of --dir must not be running. Its share of what is stored comes by itself
    #[command(
        after_help = "Examples: farside device add --dir near /dev/nvme8n1\n          farside device add --dir near devices/more --size 8GiB"
    )]
    Add {
        /// The new device; what it holds is lost
        new: PathBuf,
        /// Make a file of this size for it
        #[arg(long, value_parser = super::sizes::parse_bytes)]
        size: Option<u64>,
    },
    /// Moves everything off a device while its node runs, and takes it out of use; exit 3 where less would be survived
    #[command(
        after_help = "Examples: farside device evict --dir near /dev/nvme3n1\n          farside device evict --dir near /dev/nvme3n1 --node node-2 --cancel"
    )]
    Evict {
        /// The device: its path or its id, as `device list` shows them
        device: String,
        /// The node that it belongs to, where several have one of that path
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Counts on the device again, if it has not gone yet
        #[arg(long)]
        cancel: bool,
    },
    /// Puts a new device in the place of one that is gone; the node of --dir must not be running
    #[command(after_help = "Example: farside device replace --dir near /dev/nvme3n1 /dev/nvme7n1")]
    Replace {
        /// The device that is gone, as node.toml names it
        old: PathBuf,
        /// The new one; what it holds is lost
        new: PathBuf,
        /// Make a file of this size for it
        #[arg(long, value_parser = super::sizes::parse_bytes)]
        size: Option<u64>,
        /// Replace a device that works
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Moves what lies elsewhere than it would if it was written now, at the pace of `repair limit`; says what is left
    #[command(
        after_help = "Examples: farside site rebalance --dir near\n          farside site rebalance --dir near --cancel"
    )]
    Rebalance {
        /// Leaves everything where it is, until it is ordered again
        #[arg(long)]
        cancel: bool,
    },
    /// Says how chunks are cut, or has them cut another way: new ones at once, those that are there at the pace of `repair
    /// limit`. Giving the old geometry again takes it back
    #[command(
        after_help = "Examples: farside site geometry --dir near\n          farside site geometry --dir near 8+3"
    )]
    Geometry {
        /// Data and parity fragments of a chunk
        #[arg(value_name = "K+M")]
        geometry: Option<String>,
    },
}
