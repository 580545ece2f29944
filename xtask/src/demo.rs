//! `cargo xtask demo`: real requests through the balancer, in namespaces.
//!
//! The namespaces come from `lb-tests`, which needs the kernel program compiled, which needs set-up: so the demo itself
//! has to be a program of that crate, started from here once set-up is done, and no dependency of this one.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{build, command, setup};

/// How to run the demo.
#[derive(clap::Args)]
pub struct Options {
    /// Leave the namespaces standing and say how to play with them
    #[arg(long)]
    keep: bool,
}

/// Set-up, build, show.
pub fn run(options: &Options) -> Result<()> {
    // Before minutes of building.
    ensure!(rustix::process::geteuid().is_root(), "the demo makes namespaces: run it as root");
    setup::run()?;
    let lb_user = build::lb_user(&build::Options { release: true })?;
    let demo = build::test_program("lb-demo")?;
    let mut command = Command::new(demo);
    command.env("LB_USER_BIN", lb_user).args(options.keep.then_some("--keep"));
    // Ctrl-C goes to the whole foreground group: the demo takes its namespaces down, and we wait for it.
    command::run_to_its_end(&mut command)
}
