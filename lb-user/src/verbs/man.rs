//! `lb-user man`: the manual page of ipvsadm's grammar, made from the table the grammar itself is made from.

use std::io::Write as _;

use anyhow::Result;

use crate::cli::help;

/// Print the manual page ipvsadm(8), for `man -l -`
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {}

/// Does it.
pub fn run(_args: &Args) -> Result<()> {
    std::io::stdout().write_all(help::manual().as_bytes())?;
    Ok(())
}
