//! `lb-user detach`: take the program off NICs. Rules and connections stay, unless they are purged.

use anyhow::Result;

use super::{Pins, say};
use crate::bpf::{attach, bpffs};

/// Take the balancer off NICs; rules and connections stay
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The NICs [default: all that have it]
    #[arg(value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// Forget rules and connections too
    #[arg(long)]
    pub purge: bool,
    /// Where the maps are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let dir = bpffs::instance(args.pins.wanted().as_deref())?;
    say(&attach::detach(&dir, &args.interfaces, args.purge)?)
}
