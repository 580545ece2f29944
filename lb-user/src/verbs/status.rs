//! `lb-user status`: NICs and modes, versions, table occupancy, reasons counted.

use std::io::Write as _;

use anyhow::Result;

use super::Pins;
use crate::bpf::{bpffs, status};

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
pub fn run(args: &Args) -> Result<()> {
    let found = status::read(&bpffs::instance(args.pins.wanted().as_deref())?)?;
    let text = if args.json { format!("{:#}\n", found.json()) } else { found.text()? };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
