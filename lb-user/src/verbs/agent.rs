//! `lb-user agent`: the process that keeps the tables true to a keepalived.conf.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use super::Pins;
use crate::agent::config;
use crate::agent::metrics::serve;
use crate::agent::metrics::view::Holdings;
use crate::agent::remember::Memory;
use crate::agent::run::{self, Metrics, Options};
use crate::bpf::{bpffs, status};
use crate::control::store::Store as _;

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
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it, until told to stop.
pub fn run(args: &Args) -> Result<()> {
    log_to_stderr();
    let pins = bpffs::instance(args.pins.wanted().as_deref())?;
    let memory = Memory::hold(&pins, args.state.as_deref())?;
    let id = args.id.clone().unwrap_or_else(config::host_id);
    let options = Options { file: args.file.clone(), id, purge_on_exit: args.purge_on_exit };
    let metrics = args.metrics.map(|at| metrics(at, &pins, &args.pins)).transpose()?;
    run::run(super::open_store_at(&args.pins)?, memory, &options, metrics)
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

/// One line an event. Under systemd the journal adds the time.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("LB_USER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let lines = lines.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A second logger in one process would be refused; there is none.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().try_init()
    } else {
        lines.try_init()
    };
}
