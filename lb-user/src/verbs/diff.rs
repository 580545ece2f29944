//! `lb-user diff`: what the agent would change for a configuration, as ipvsadm's commands.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use super::{Pins, check_config};
use crate::agent::apply::{self, Owned};
use crate::agent::check::watch;
use crate::agent::config::Loaded;
use crate::agent::config::problem::Severity;
use crate::agent::drains::{DrainFile, Drains};
use crate::agent::keeper::{timeouts, wanted};
use crate::agent::remember::{Memory, Saved};
use crate::agent::verdict::{State, Verdict, Weight};
use crate::bpf::bpffs;
use crate::cli::save::request_line;
use crate::control::request::Request;
use crate::control::store::Store;

/// Show what the agent would change for a keepalived.conf, as ipvsadm's commands
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[command(flatten)]
    pub config: check_config::Args,
    /// Where the agent remembers what is its own [default: /run/lb-user/agent-<netns cookie>.json]
    #[arg(long, value_name = "FILE")]
    pub state: Option<std::path::PathBuf>,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it. A configuration that the agent would not take has no difference to show: status 5.
pub fn run(args: &Args) -> Result<ExitCode> {
    let loaded = args.config.load();
    for problem in loaded.problems.iter().filter(|problem| problem.severity != Severity::Note) {
        eprintln!("{problem}");
    }
    if loaded.problems.worst() == Some(Severity::Error) {
        return Ok(ExitCode::from(loaded.problems.status()));
    }
    let pins = bpffs::instance(args.pins.wanted().as_deref())?;
    let memory = Memory::of(&pins, args.state.as_deref());
    let (saved, drains) = (memory.load()?, DrainFile::beside(&memory).load()?);
    let store = super::open_store_at(&args.pins)?;
    let changes = changes(&loaded, &saved, &drains, &store)?;
    let lines: String = changes.iter().map(|request| request_line(request) + "\n").collect();
    std::io::stdout().write_all(lines.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// As the agent plans them, with drains and checks as it last remembered them.
pub fn changes(loaded: &Loaded, saved: &Saved, drains: &Drains, store: &impl Store) -> Result<Vec<Request>> {
    let config = &loaded.config;
    let mut states: Vec<State> = Vec::new();
    for server in &config.servers {
        let verdict = |rs: usize, check: usize| {
            let spec = &server.servers[rs].checks[check].spec;
            let up = saved.checks.get(&watch::fingerprint(&spec.probe)).copied();
            Verdict { up: up.unwrap_or(!spec.pace.alpha), weight: Weight::Configured }
        };
        states.push(State::new(server, None, verdict).0);
    }
    let now = store.services()?;
    let owned = saved.owned.clone().with(&Owned::of(config));
    let mut requests = Vec::from_iter(timeouts(config, store.timeouts()?));
    requests.extend(apply::plan(&wanted(config, &mut states, drains, Instant::now()), &owned, &now));
    Ok(requests)
}
