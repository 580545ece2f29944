//! The part outside the virtual machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::figure::Figure;
use crate::vm::{self, Vm};

/// All cases take a few minutes.
const LIMIT: Duration = Duration::from_secs(3600);

/// What a run has to tell.
#[derive(Debug)]
pub struct Counts {
    /// The kernel both ran on.
    pub kernel: String,
    /// What the check of the counter said.
    pub check: String,
    /// The cases'.
    pub figures: Vec<Figure>,
}

/// Boots, and measures the cases whose name contains `filter`. `guest` is the program `lb-guest`.
pub fn run(guest: &Path, filter: &str, quick: bool) -> Result<Counts> {
    let vm = Vm::new()?.counting();
    let guest = vm::stripped(guest)?;
    let quick = if quick { "quick" } else { "whole" };
    let script = format!("exec lb-guest instructions {quick} '{filter}'");
    ensure!(!filter.contains('\''), "no case's name contains {filter:?}");
    let outcome = vm.run(&script, &[("usr/bin/lb-guest", &guest)], LIMIT)?.ok()?;
    let (check, figures): (Vec<&str>, Vec<&str>) =
        outcome.stdout.lines().partition(|line| line.starts_with('#'));
    Ok(Counts {
        kernel: vm.kernel().to_owned(),
        check: check.concat().trim_start_matches(['#', ' ']).to_owned(),
        figures: figures.into_iter().map(Figure::parse).collect::<Result<_>>()?,
    })
}
