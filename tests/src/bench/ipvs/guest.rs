//! The part inside the virtual machine: every case with both balancers.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::figure::Figure;
use super::{cases, counter, kernel, ours};
use crate::bench::cases::Case;
use crate::bench::measure::Effort;

/// Rounds for figures worth keeping: with a timer's interrupt every four million instructions, the median is of rounds
/// alike.
const WHOLE: Effort = Effort { rounds: 9, packets: 1024 };
/// For a first look.
const QUICK: Effort = Effort { rounds: 3, packets: 256 };

/// Measures the cases whose name contains `filter`. What the counter's check said, then a line for each figure.
pub fn run(filter: &str, quick: bool) -> Result<String> {
    let mut lines = format!("# a loop of 3 instructions counts {:.4} a turn\n", counter::check()?);
    let effort = if quick { QUICK } else { WHOLE };
    let cases = named(filter)?;
    let ours = ours::with(|program, driver| {
        let measure = |case: &Case| ours::measure(case, program, driver, effort).context(case.name());
        cases.iter().map(measure).collect::<Result<Vec<_>>>()
    })
    .context("our balancer")?;
    for (case, ours) in cases.iter().zip(ours) {
        let ipvs = kernel::measure(case, effort).with_context(|| format!("kernel IPVS: {}", case.name()))?;
        let packets = u64::from(effort.rounds) * u64::from(effort.packets);
        let figure =
            Figure { case: case.name(), aim: cases::aim(case), most: cases::most(case), ours, ipvs, packets };
        writeln!(lines, "{}", figure.line())?;
    }
    Ok(lines)
}

/// Kernel IPVS's cost alone, twice, of each case whose name contains `filter`.
pub fn kernel_twice(filter: &str) -> Result<String> {
    counter::check()?;
    let mut costs = String::new();
    for case in named(filter)? {
        for _ in 0..2 {
            writeln!(costs, "{:.1}", kernel::measure(&case, QUICK).context(case.name())?.own())?;
        }
    }
    Ok(costs)
}

fn named(filter: &str) -> Result<Vec<Case>> {
    let cases: Vec<Case> = cases::all().into_iter().filter(|case| case.name().contains(filter)).collect();
    ensure!(!cases.is_empty(), "no case's name contains {filter:?}");
    Ok(cases)
}
