//! `lb-user check-config`: what is wrong with a keepalived.conf, and what of it is left to keepalived.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::agent::config::problem::Severity;
use crate::agent::config::{self, Loaded};

/// Say what is wrong with a keepalived.conf; the exit status is that of `keepalived -t`
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The configuration
    #[arg(default_value = config::USUAL)]
    pub file: PathBuf,
    /// What `@id` lines are compared with [default: the first label of the host's name]
    #[arg(short, long, value_name = "ID")]
    pub id: Option<String>,
}

impl Args {
    /// Reads it.
    pub fn load(&self) -> Loaded {
        config::load(&self.file, &self.id.clone().unwrap_or_else(config::host_id))
    }
}

/// Does it: problems to standard error, a summary to standard output.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Loaded { config, problems } = args.load();
    let mut err = std::io::stderr().lock();
    for problem in problems.iter() {
        writeln!(err, "{problem}")?;
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let servers: usize = config.servers.iter().map(|server| server.servers.len()).sum();
    let summary = format!(
        "{} virtual servers, {servers} real servers; {} errors, {} warnings, {} notes\n",
        config.servers.len(),
        count(Severity::Error),
        count(Severity::Warning) + count(Severity::Security),
        count(Severity::Note),
    );
    std::io::stdout().write_all(summary.as_bytes())?;
    Ok(ExitCode::from(problems.status()))
}
