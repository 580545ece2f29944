//! Rates. Estimators step every two seconds, each balancer's at moments of its own, and this machine may take longer than that
//! for a few packets. So a case holds them (sysctl run_estimation=0) while it sends and lists, and lets them go step by step.

use super::case::Case;
use super::play::services;
use super::side::{Side, Which};
use crate::run::Said;
use anyhow::Result;
use lb_common::estimate::Rate;
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// A step comes within two seconds; estimators that stand at zero show none.
const PATIENCE: Duration = Duration::from_secs(8);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// The case's services as `--rate` lists them, after each of the next `count` steps.
pub fn watch(side: &mut Side, case: &Case, count: u32) -> Result<String> {
    let mut said = String::new();
    for _ in 0..count {
        match step(side)? {
            true => writeln!(said, "step\n{}", list(side, case)?)?,
            false => writeln!(said, "no step")?,
        }
    }
    Ok(said)
}

/// Lets them go until the rates have changed.
fn step(side: &mut Side) -> Result<bool> {
    side.estimate(false)?;
    let (before, start) = (pulse(side)?, Instant::now());
    side.estimate(true)?;
    while pulse(side)? == before {
        if start.elapsed() > PATIENCE {
            side.estimate(false)?;
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
    // The estimators may be stepping at this moment.
    side.estimate(false)?;
    thread::sleep(PAUSE);
    Ok(true)
}

/// What changes with every step. No command, as [`Side::estimate`].
fn pulse(side: &Side) -> Result<String> {
    match side.which {
        Which::Kernel => Ok(side.inside(|| fs::read_to_string("/proc/thread-self/net/ip_vs_stats"))??),
        Which::Ours => side.rules(|rules| Ok(format!("{:?}", rules.rate_of_all().map(Rate::shown)))),
    }
}

fn list(side: &Side, case: &Case) -> Result<String> {
    let words = ["ipvsadm", "-Ln", "--rate", "--exact"].map(str::to_owned);
    Ok(services(&side.ipvsadm(&words, "").and_then(Said::ok)?, case))
}
