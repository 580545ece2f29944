//! `lb-user status`: NICs and modes, versions, table occupancy, reasons counted.

use anyhow::{Result, bail};

use super::Pins;

/// Show NICs, table sizes and what became of packets
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where the maps are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it.
pub fn run(_args: &Args) -> Result<()> {
    bail!("this build has no packet path, so there is no status")
}
