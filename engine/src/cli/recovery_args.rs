//! The command line of a site that has lost a quorum.

use super::keys::Unsealing;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct RecoverQuorum {
    /// Writes what this node has to a file: the first step, on every node that is left
    #[arg(long, value_name = "FILE", conflicts_with = "reports", required_unless_present = "reports")]
    pub(super) report: Option<PathBuf>,
    /// The reports of all nodes that are left, comma separated: shows what would be done and what may be lost, and exits
    /// with 3. Nodes without a report count as lost
    #[arg(long, value_name = "FILE,..", value_delimiter = ',')]
    pub(super) reports: Vec<PathBuf>,
    /// Does it, on this node; repeats the site's name
    #[arg(long, value_name = "SITE", requires = "reports")]
    pub(super) confirm: Option<String>,
    /// Gives up groups of which no node that is left has anything, with their logs
    #[arg(long, requires = "reports")]
    pub(super) begin_empty: bool,
    #[command(flatten)]
    pub(super) unsealing: Unsealing,
}
