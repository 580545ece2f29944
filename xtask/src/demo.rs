//! `cargo xtask demo`: real requests through the balancer, in namespaces.
//!
//! The namespaces come from `lb-tests`, which needs the kernel program compiled, which needs set-up: so the demo itself
//! has to be a program of that crate, started from here once set-up is done, and no dependency of this one.

use anyhow::{Result, bail};

use crate::{build, setup};

/// How to run the demo.
#[derive(clap::Args)]
pub struct Options {
    /// Leave the namespaces standing and say how to play with them
    #[arg(long)]
    keep: bool,
}

/// Set-up, build, show.
pub fn run(options: &Options) -> Result<()> {
    setup::run()?;
    build::lb_user(&build::Options { release: true })?;
    let keep = if options.keep { " --keep" } else { "" };
    bail!(
        "`cargo xtask demo{keep}` is in progress: the program is built, the namespaces are not wired up yet"
    )
}
