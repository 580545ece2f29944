//! `lb-user realserver`: a real server of tunnel services without a tunnel device.

use anyhow::Result;

use super::attach::Mode;
use super::{Pins, say};
use crate::bpf::{attach, bpffs};

/// Take tunnel headers off on a real server's NICs
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The NICs tunnelled packets come in on [with --detach, default: all that have it]
    #[arg(value_name = "IFACE", required_unless_present = "detach")]
    pub interfaces: Vec<String>,
    /// Stop doing so
    #[arg(long)]
    pub detach: bool,
    /// How to hook into them
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Where the program is pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let dir = bpffs::instance(args.pins.wanted().as_deref())?;
    let said = if args.detach {
        attach::detach_realserver(&dir, &args.interfaces)?
    } else {
        attach::attach_realserver(&dir, &args.interfaces, args.mode)?
    };
    say(&said)
}
