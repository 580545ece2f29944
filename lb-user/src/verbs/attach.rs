//! `lb-user attach`: load the program, fill and pin its maps, attach it to NICs.

use anyhow::Result;

use super::{Pins, say};
use crate::bpf::sizes::{Asked, RuleSizes};
use crate::bpf::{announce, attach, bpffs};

/// How the program hooks into a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's common path: any NIC, slower.
    Generic,
}

/// Put the balancer on NICs
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The NICs traffic comes in on
    #[arg(required = true, value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// How to hook into them
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Room for this many connections, and for a quarter as many of IPv6 [default: as it is, or by the machine's memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,
    /// Room for this many connections of IPv6, made when there is a service of IPv6 [default: a quarter of the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_v6: Option<u32>,
    /// As many servers as there may be, and an eighth as many services: before the first rule is made. They take memory
    /// as they come [default: 131072]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=RuleSizes::MOST.into()))]
    pub dests: Option<u32>,
    /// Where the maps are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it, and says which mode each NIC got.
pub fn run(args: &Args) -> Result<()> {
    let dir = bpffs::instance(args.pins.wanted().as_deref())?;
    let asked =
        Asked { connections: args.connections, connections_v6: args.connections_v6, dests: args.dests };
    say(&attach::attach(&dir, &args.interfaces, args.mode, &asked)?)?;
    announce::restore(&dir)
}
