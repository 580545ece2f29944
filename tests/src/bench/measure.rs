//! Rounds: the floor and the balancer take turns on one CPU, so that whatever else the machine does meets both. A figure
//! is the median of its rounds.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_common::reason::Reason;

use super::cases::{self, Case, Kind};
use super::driver::{self, Driver, Plan, Target};
use super::subjects::{Subject, Table};
use crate::bpf::{self, Program};
use crate::case::Nic;

/// Share of packets that may end as something else: the sweep may be at a newcomer's bucket.
pub const TOLERANCE: f64 = 0.001;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of a case.
    pub rounds: u32,
    /// Packets in a round.
    pub packets: u32,
}

impl Effort {
    /// For figures worth keeping.
    pub const WHOLE: Self = Self { rounds: 31, packets: 30_000 };
    /// For a first look.
    pub const QUICK: Self = Self { rounds: 5, packets: 20_000 };
}

/// What rounds came to, in steps of the driver's clock for a packet.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// The floor's median.
    pub floor: f64,
    /// The other's median.
    pub raw: f64,
    /// The best round of each: what an idle machine would show.
    pub best: f64,
    /// Half the distance between the quartiles of the rounds' differences.
    pub noise: f64,
}

/// The floor and what is measured take turns.
pub fn take_turns(rounds: u32, mut turn: impl FnMut() -> Result<(f64, f64)>) -> Result<Rounds> {
    let (mut floors, mut raws, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (floor, raw) = turn()?;
        floors.push(floor);
        raws.push(raw);
        deltas.push(raw - floor);
    }
    let [low, high] = quartiles(deltas);
    let noise = (high - low) / 2.0;
    let best = least(&raws) - least(&floors);
    Ok(Rounds { floor: median(floors), raw: median(raws), best, noise })
}

/// A case's figures.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub subject: Subject,
    /// Nanoseconds of the driver with the floor program.
    pub floor_ns: f64,
    /// Nanoseconds of the driver with the balancer.
    pub raw_ns: f64,
    /// The fastest round of each: what an idle machine would show.
    pub best_ns: f64,
    /// Half the distance between the quartiles of the rounds' differences.
    pub noise_ns: f64,
    /// What the floor program takes more if it changes a line of memory of the packet's flow, of as many as the table has:
    /// what no table can do without. Of cases that do not come to the table there is none.
    pub line_ns: Option<f64>,
    /// Packets measured.
    pub packets: u64,
    /// What they were counted as.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Were they all what the case expects? Those of the build beside, too.
    pub right: bool,
    /// What the same packets cost with the build beside.
    pub beside: Option<Beside>,
}

/// How this build compares with another one, in the same turns.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// By how many nanoseconds a packet is dearer with this one: the median of the rounds' differences.
    pub dearer_ns: f64,
    /// Half the distance between their quartiles.
    pub noise_ns: f64,
}

impl Beside {
    /// From what a packet cost in each round.
    fn of(ours: &[f64], others: &[f64]) -> Self {
        let differences: Vec<f64> = ours.iter().zip(others).map(|(ours, other)| ours - other).collect();
        let [low, high] = quartiles(differences.clone());
        Self { dearer_ns: median(differences), noise_ns: (high - low) / 2.0 }
    }
}

impl Figure {
    /// The balancer's own share.
    pub fn delta_ns(&self) -> f64 {
        self.raw_ns - self.floor_ns
    }
    /// By how much it is dearer than the floor.
    pub fn ratio(&self) -> f64 {
        self.raw_ns / self.floor_ns
    }
}

/// Measures everything whose name contains `filter`, and shows each figure as soon as it is there. `beside`: the object of
/// another build, of the same map layout, to be compared with.
pub fn all(
    effort: Effort,
    filter: &str,
    beside: Option<&[u8]>,
    mut show: impl FnMut(&Figure) + Send,
) -> Result<Vec<Figure>> {
    let subjects: Vec<Subject> =
        Subject::all().into_iter().filter(|subject| subject.name().contains(filter)).collect();
    ensure!(!subjects.is_empty(), "no case's name contains {filter:?}");
    let mut figures = Vec::new();
    for alike in subjects.chunk_by(|one, next| one.table() == next.table()) {
        figures.extend(in_one_table(alike, effort, beside, &mut show)?);
    }
    Ok(figures)
}

/// Measures what has one table. A program with such a table that is there already is used again.
fn in_one_table(
    subjects: &[Subject],
    effort: Effort,
    beside: Option<&[u8]>,
    show: &mut (impl FnMut(&Figure) + Send),
) -> Result<Vec<Figure>> {
    let Some(table) = subjects.first().map(Subject::table) else { return Ok(Vec::new()) };
    bpf::with_sizes(&table.sizes(), |program| {
        driver::pin()?;
        cases::world(Nic::Front.name())?;
        let card = program.card(Nic::Front);
        let mut driver = Driver::with_lines(table.lines(), Some(program.lb()?), card, driver::thread_time)?;
        let other = beside.map(|object| Program::of(object, &table.sizes()));
        let mut other = other.transpose().context("the build beside")?;
        let mut figures = Vec::new();
        for subject in subjects {
            let name = subject.name();
            let figure = one(*subject, program, other.as_mut(), &mut driver, effort)
                .with_context(|| format!("case {name}"))?;
            show(&figure);
            figures.push(figure);
        }
        Ok(figures)
    })
}

fn one(
    subject: Subject,
    program: &mut Program,
    beside: Option<&mut Program>,
    driver: &mut Driver,
    effort: Effort,
) -> Result<Figure> {
    let (case, table) = (subject.case, subject.table());
    let other = beside.map(|other| Side::set_up(Target::Beside, &case, table, other, driver)).transpose()?;
    let mut sides = vec![Side::set_up(Target::Lb, &case, table, program, driver)?];
    sides.extend(other);
    let mut floor_plan = sides[0].plan;
    let mut line_plan = floor_plan;
    let packets = share(&case, table, effort);
    // One round that does not count: caches, branch predictors, next hops.
    driver.run(Target::Floor, &mut floor_plan, packets)?;
    driver.run(Target::Line, &mut line_plan, packets)?;
    sides.iter_mut().try_for_each(|side| side.warm_up(driver, packets))?;
    let counted = driver.counted();
    let mut with_line = Vec::new();
    let rounds = take_turns(effort.rounds, || {
        let floor = driver.run(Target::Floor, &mut floor_plan, packets)?;
        ensure!(floor.verdict == XDP_TX, "the floor program's verdict is {}", floor.verdict);
        with_line.push(driver.run(Target::Line, &mut line_plan, packets)?.cost);
        // Neither build is always first.
        if with_line.len() % 2 == 1 {
            sides.iter_mut().try_for_each(|side| side.run(driver, packets))?;
        } else {
            sides.iter_mut().rev().try_for_each(|side| side.run(driver, packets))?;
        }
        Ok((floor.cost, sides[0].costs.last().copied().unwrap_or(0.0)))
    })?;
    let packets = u64::from(effort.rounds) * u64::from(packets);
    let counted = driver.counted() - counted;
    ensure!(counted == packets, "lines have counted {counted} of {packets} packets");
    let verdicts = sides.iter().map(Side::verdicts).collect::<Result<Vec<_>>>()?;
    let right = verdicts.iter().all(|verdicts| {
        let expected = verdicts.get(case.expected().label()).copied().unwrap_or(0);
        expected as f64 >= packets as f64 * (1.0 - TOLERANCE)
    });
    let beside = sides.get(1).map(|other| Beside::of(&sides[0].costs, &other.costs));
    let verdicts = verdicts.into_iter().next().unwrap_or_default();
    let Rounds { floor: floor_ns, raw: raw_ns, best: best_ns, noise: noise_ns } = rounds;
    let line_ns = (case.kind != Kind::Foreign).then(|| median(with_line) - floor_ns);
    Ok(Figure { subject, floor_ns, raw_ns, best_ns, noise_ns, line_ns, packets, verdicts, right, beside })
}

/// A build of the balancer in a case: its packets, what they cost, what they are counted as.
struct Side<'a> {
    target: Target,
    program: &'a Program,
    plan: Plan,
    /// Of each round, for a packet.
    costs: Vec<f64>,
    /// Packets by their reasons, when the rounds began.
    before: Vec<u64>,
}

impl<'a> Side<'a> {
    fn set_up(
        target: Target,
        case: &Case,
        table: Table,
        program: &'a mut Program,
        driver: &mut Driver,
    ) -> Result<Self> {
        // Whatever is measured: that is whom connections are made by.
        driver.aim(Target::Lb, program.lb()?.fd()?)?;
        let plan = case.set_up(program, driver, table.slots())?.over_lines(table.lines());
        driver.aim(target, program.lb()?.fd()?)?;
        Ok(Self { target, program, plan, costs: Vec::new(), before: Vec::new() })
    }

    fn run(&mut self, driver: &mut Driver, packets: u32) -> Result<()> {
        self.costs.push(driver.run(self.target, &mut self.plan, packets)?.cost);
        Ok(())
    }

    /// A round that does not count.
    fn warm_up(&mut self, driver: &mut Driver, packets: u32) -> Result<()> {
        driver.run(self.target, &mut self.plan, packets)?;
        self.before = self.program.maps().reasons()?;
        Ok(())
    }

    fn verdicts(&self) -> Result<BTreeMap<&'static str, u64>> {
        Ok(moved(&self.before, &self.program.maps().reasons()?))
    }
}

/// The floor program's verdict.
pub const XDP_TX: u32 = 3;

/// How much longer a round of established connections is. Between two rounds the caches forget: of 20,000 packets of 4,096
/// flows every fifth would be a flow's first since then, and dearer for that.
const STEADY: u32 = 10;

/// Packets in a round: new connections must not fill more than half of the table in all rounds together.
fn share(case: &Case, table: Table, effort: Effort) -> u32 {
    match case.kind {
        Kind::New(..) => effort.packets.min(table.slots() / 2 / (effort.rounds + 1)),
        Kind::Established(..) => effort.packets * STEADY,
        _ => effort.packets,
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Half of the values are between these.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    [values[quarter], values[values.len() - 1 - quarter]]
}

/// The reasons that were counted between two readings, and how often.
pub fn moved(before: &[u64], after: &[u64]) -> BTreeMap<&'static str, u64> {
    let counts = Reason::ALL.iter().zip(before.iter().zip(after));
    counts.filter(|(_, (b, a))| a != b).map(|(reason, (b, a))| (reason.label(), a.wrapping_sub(*b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn half_is_between_quartiles() {
        assert_eq!(quartiles(vec![5.0, 1.0, 4.0, 2.0, 3.0]).map(|value| value as u32), [2, 4]);
        assert_eq!(quartiles(vec![7.0]).map(|value| value as u32), [7, 7]);
    }
}
