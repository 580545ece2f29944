//! Rates. Estimators step every two seconds, each balancer's at moments of its own; so listings are compared step by step, not
//! by the clock. A case sends its packets right after a step: they belong to the next one, whole, with both balancers.

use super::case::Case;
use super::play::services;
use super::side::Side;
use crate::run::Said;
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

/// A step comes after two seconds; a case that changes nothing more never sees one.
const PATIENCE: Duration = Duration::from_secs(8);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(40);

/// The case's services as `--rate` lists them, after each of the next `count` steps; then how far these were apart.
pub fn watch(side: &Side, case: &Case, count: u32) -> Result<String> {
    let mut seen = list(side, case)?;
    let mut said = String::new();
    let mut moments = Vec::new();
    for _ in 0..count {
        seen = next(side, case, &seen)?;
        moments.push(Instant::now());
        writeln!(said, "step\n{seen}")?;
    }
    if let [first, .., last] = moments.as_slice() {
        let apart = last.duration_since(*first).as_secs_f64() / f64::from(count - 1);
        // Looking takes a while itself.
        match (1.7..2.3).contains(&apart) {
            true => writeln!(said, "two seconds apart")?,
            false => writeln!(said, "{apart:.2} seconds apart")?,
        }
    }
    Ok(said)
}

/// The next listing that is not this one. It may have been read while the estimators were stepping: so it is read again.
fn next(side: &Side, case: &Case, before: &str) -> Result<String> {
    let start = Instant::now();
    while list(side, case)? == before {
        ensure!(start.elapsed() < PATIENCE, "the rates do not change any more:\n{before}");
        thread::sleep(PAUSE);
    }
    thread::sleep(PAUSE);
    list(side, case)
}

fn list(side: &Side, case: &Case) -> Result<String> {
    let words = ["ipvsadm", "-Ln", "--rate", "--exact"].map(str::to_owned);
    Ok(services(&side.ipvsadm(&words, "").and_then(Said::ok)?, case))
}
