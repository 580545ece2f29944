//! A case with our balancer: the loaded program, called by the driver, less the floor program, called by the same.

use anyhow::{Result, ensure};

use super::counter;
use super::figure::Cost;
use crate::bench::cases::{self, Case};
use crate::bench::driver::{Driver, Target};
use crate::bench::measure::{self, Effort, XDP_TX};
use crate::bpf::{self, Program, Sizes};
use crate::case::Nic;

/// Slots of the connection table, of each family.
const SLOTS: u32 = 1 << 17;

/// Does something with the loaded program and its driver.
pub fn with<T: Send>(body: impl FnOnce(&mut Program, &mut Driver) -> Result<T> + Send) -> Result<T> {
    let sizes = Sizes {
        buckets: [SLOTS / 8, SLOTS / 4],
        second: SLOTS / 64,
        dests: 512,
        services: 64,
        // Maglev tables for 256 dests are made anew with each dest.
        lists: 1 << 21,
    };
    bpf::with_sizes(&sizes, |program| {
        cases::world(Nic::Front.name())?;
        let mut driver = Driver::new(Some(program.lb()?), program.card(Nic::Front), counter::instructions)?;
        body(program, &mut driver)
    })
}

/// Measures a case. Every packet has to be counted under the case's reason.
pub fn measure(case: &Case, program: &mut Program, driver: &mut Driver, effort: Effort) -> Result<Cost> {
    let mut plan = case.set_up(program, driver, SLOTS)?;
    let mut floor_plan = plan;
    driver.run(Target::Floor, &mut floor_plan, effort.packets)?;
    driver.run(Target::Lb, &mut plan, effort.packets)?;
    let before = program.maps().reasons()?;
    let rounds = measure::take_turns(effort.rounds, || {
        let floor = driver.run(Target::Floor, &mut floor_plan, effort.packets)?;
        let raw = driver.run(Target::Lb, &mut plan, effort.packets)?;
        ensure!(floor.verdict == XDP_TX, "the floor program's verdict is {}", floor.verdict);
        Ok((floor.cost, raw.cost))
    })?;
    let counted = measure::moved(&before, &program.maps().reasons()?);
    let packets = u64::from(effort.rounds) * u64::from(effort.packets);
    let expected = case.expected().label();
    ensure!(
        counted.get(expected) == Some(&packets) && counted.len() == 1,
        "{packets} packets were not all {expected} but {counted:?}"
    );
    Ok(Cost::of(rounds))
}
