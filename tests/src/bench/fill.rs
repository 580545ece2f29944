//! Connections that are there before anything is measured.

use anyhow::{Context as _, Result, ensure};
use lb_common::reason::Reason;

use super::cases::Case;
use super::driver::{Driver, Plan, Target};
use crate::bpf::Program;

/// Share of connections that may find no room: of a table half full there should be none such in ten.
const CROWDED_OUT: f64 = 0.000_01;

/// Connections made at a time.
const BATCH: u32 = 1024;

/// Makes connections of a case and takes them to where packets flow both ways.
pub fn establish(case: &Case, flows: u32, program: &Program, driver: &mut Driver) -> Result<()> {
    let packets = case.beginning()?;
    let mut filling = Filling { packets: &packets, program, driver };
    let mut missing = 0;
    for from in (0..flows).step_by(BATCH as usize) {
        missing += filling.batch(from, BATCH.min(flows - from))?;
    }
    let share = f64::from(missing) / f64::from(flows);
    ensure!(share <= CROWDED_OUT, "{missing} of {flows} connections cannot be made");
    Ok(())
}

struct Filling<'a> {
    /// What each flow sends and gets, and what that has to be counted as.
    packets: &'a [(Plan, Reason)],
    program: &'a Program,
    driver: &'a mut Driver,
}

impl Filling<'_> {
    /// Some connections at a time. A full bucket gives up one that is only begun for another one: then it goes by halves.
    /// Returns how many found no room.
    fn batch(&mut self, from: u32, count: u32) -> Result<u32> {
        let mut whole = true;
        for (plan, expected) in self.packets {
            whole &= self.each(plan.starting(from), count, *expected)?;
        }
        if whole || count == 1 {
            return Ok(u32::from(!whole));
        }
        let half = count / 2;
        Ok(self.batch(from, half)? + self.batch(from + half, count - half)?)
    }

    /// One packet each of these flows. Were all counted as expected?
    fn each(&mut self, mut plan: Plan, flows: u32, expected: Reason) -> Result<bool> {
        let of = |reasons: Vec<u64>| reasons.get(expected as usize).copied().context("no such reason");
        let before = of(self.program.maps().reasons()?)?;
        self.driver.run(Target::Lb, &mut plan, flows)?;
        Ok(of(self.program.maps().reasons()?)? - before == u64::from(flows))
    }
}
