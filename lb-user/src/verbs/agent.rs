//! `lb-user agent`: the process that keeps the tables true to a keepalived.conf.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Pins;
use crate::agent::metrics::serve;
use crate::agent::metrics::view::Holdings;
use crate::agent::remember::Memory;
use crate::agent::run::{self, Metrics, Options};
use crate::agent::{config, log};
use crate::bpf::{bpffs, status};
use crate::control::store::Store as _;
use crate::privilege;
use anyhow::Result;

/// Check real servers and keep services as a keepalived.conf says; SIGHUP reads it again
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration
    #[arg(short, long, default_value = config::USUAL)]
    pub file: PathBuf,
    /// What `@id` lines are compared with [default: the first label of the host's name]
    #[arg(short, long, value_name = "ID")]
    pub id: Option<String>,
    /// Take the services away when stopped, as keepalived does; without it they stay and go on forwarding
    #[arg(long)]
    pub purge_on_exit: bool,
    /// Where to remember what is the agent's [default: /run/lb-user/agent-<netns cookie>.json]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Serve metrics to Prometheus, at /metrics; a port alone is reached from this machine only [default: do not]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = serve::address)]
    pub metrics: Option<SocketAddr>,
    /// How log lines are written; $LB_USER_LOG says which [default: info]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: log::Format,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it, until told to stop.
pub fn run(args: &Args) -> Result<()> {
    log::start(args.log_format);
    let root = bpffs::Root::of(args.pins.wanted().as_deref())?;
    let place = Pins { bpffs: Some(root.path().to_owned()) };
    let pins = bpffs::instance(place.wanted().as_deref())?;
    let memory = Memory::hold(&pins, args.state.as_deref())?;
    let id = args.id.clone().unwrap_or_else(config::host_id);
    let options =
        Options { file: args.file.clone(), id, purge_on_exit: args.purge_on_exit, pins: pins.clone() };
    let metrics = args.metrics.map(|at| metrics(at, &pins, &place)).transpose()?;
    // Before the configuration is read, so that a start finds what a reload will, and before there is another thread.
    privilege::keep_the_agents()?;
    run::run(super::open_store_at(&place)?, memory, &options, metrics)
}

fn metrics(at: SocketAddr, dir: &Path, pins: &Pins) -> Result<Metrics> {
    let (dir, pins) = (dir.to_owned(), pins.clone());
    let holdings = move || {
        let store = super::open_store_at(&pins)?;
        let (services, daemons) = (store.services()?, store.daemons()?);
        Ok(Holdings { services, daemons, status: status::read(&dir)? })
    };
    Ok(Metrics { listener: serve::bind(at)?, holdings: Arc::new(holdings) })
}
