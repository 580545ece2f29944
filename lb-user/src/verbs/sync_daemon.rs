//! `lb-user sync-daemon`: a sync daemon in the foreground. `ipvsadm --start-daemon` starts this very verb beside itself.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use super::Pins;
use crate::agent::log;
use crate::bpf::route;
use crate::control::model::{DaemonRow, Port, Resync, Role};
use crate::sync::daemon::{self, Options};

/// Tell other balancers of connections (master), or hear of theirs (backup), until stopped
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// master or backup
    #[arg(value_name = "ROLE", value_parser = role)]
    pub role: Role,
    /// The NIC of the multicast group; nothing is heard from any other
    #[arg(long, value_name = "NIC", default_value = "eth0")]
    pub interface: String,
    /// Number of the group of balancers; a backup with 0 hears all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub syncid: u8,
    /// Longest message in bytes [default: what a frame of 1500 bytes holds; of a backup, what one of the NIC holds]
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    pub maxlen: u16,
    /// Multicast group
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::new(224, 0, 0, 81).into(), value_parser = group)]
    pub group: IpAddr,
    /// UDP port
    #[arg(long, value_name = "PORT", default_value_t = 8848, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// TTL of messages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub ttl: u8,
    /// Full resync: the key both balancers have, a file of 64 hexadecimal digits. A master gives its whole table to who
    /// knows the key, a backup asks each master it hears
    #[arg(long, value_name = "FILE")]
    pub resync_key: Option<PathBuf>,
    /// TCP port of full resync
    #[arg(long, value_name = "PORT", default_value_t = Resync::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub resync_port: u16,
    /// A master for a backup to ask from the start, heard or not
    #[arg(long, value_name = "ADDRESS", requires = "resync_key")]
    pub resync_peer: Option<IpAddr>,
    /// Say `ready` on standard output when at work, and leave the session.
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

fn role(name: &str) -> Result<Role> {
    Role::from_name(name).ok_or_else(|| anyhow!("master or backup"))
}

fn group(text: &str) -> Result<IpAddr> {
    let addr: IpAddr = text.parse()?;
    if addr.is_multicast() { Ok(addr) } else { Err(anyhow!("not a multicast address")) }
}

/// Does it, until told to stop.
pub fn run(args: &Args) -> Result<()> {
    let done = work(args);
    if args.detached
        && let Err(why) = &done
    {
        // Whoever started it reads one line.
        println!("{why:#}");
    }
    done
}

fn work(args: &Args) -> Result<()> {
    if !args.detached {
        log::start(log::Format::Text);
    }
    let resync =
        args.resync_key.clone().map(|key| Resync { key, port: args.resync_port, peer: args.resync_peer });
    let daemon = DaemonRow {
        role: args.role,
        interface: args.interface.clone(),
        syncid: args.syncid,
        maxlen: args.maxlen,
        group: args.group,
        port: Port::new(args.port),
        ttl: args.ttl,
        resync,
    };
    let daemon = daemon.resolved(route::mtu(&args.interface)?);
    daemon::run(&Options { daemon, bpffs: args.pins.wanted() }, args.detached)
}
