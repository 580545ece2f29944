//! `lb-user detach`: take the program off NICs. Rules and connections stay, unless they are purged.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Pins, say};
use crate::agent::announce;
use crate::bpf::{announce as announced, attach, bpffs};
use crate::sync::daemon;

/// Take the balancer off NICs; rules and connections stay
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The NICs [default: all that have it]
    #[arg(value_name = "IFACE")]
    pub interfaces: Vec<String>,
    /// How long routers have to send clients elsewhere, when addresses were announced
    #[arg(long, value_name = "SECONDS", default_value_t = announce::GRACE.as_secs())]
    pub grace: u64,
    /// Forget rules and connections too, and stop the sync daemons
    #[arg(long)]
    pub purge: bool,
    /// Where the maps are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let dir = bpffs::instance(args.pins.wanted().as_deref())?;
    leave(&dir, &args.interfaces, Duration::from_secs(args.grace))?;
    if args.purge {
        daemon::stop_all()?;
    }
    say(&attach::detach(&dir, &args.interfaces, args.purge)?)
}

/// Off the last NIC: what the agent announces goes first, while packets are still forwarded.
fn leave(dir: &Path, names: &[String], grace: Duration) -> Result<()> {
    let attached = attach::links(dir, attach::LINK)?;
    let named: BTreeSet<&String> = names.iter().collect();
    let some_stay = !names.is_empty() && attached.keys().any(|nic| !named.contains(nic));
    if attached.is_empty() || some_stay {
        return Ok(());
    }
    let withdrawn = announced::withdraw(dir)?;
    say(&withdrawn)?;
    if !withdrawn.is_empty() {
        thread::sleep(grace);
    }
    Ok(())
}
