//! What two CPUs carry, both at work, as a multiple of what one carries: of the trivial program, of packets of connections,
//! of new ones. Lines of memory that both write to would show.
//!
//! - A round is three turns, soon over: each CPU alone, and both together. Its ratio is the share of its own speed that the
//!   first CPU keeps in company and that the second one keeps: 2 if neither is slowed. So it does not matter that one of them
//!   is faster than the other, and what slows the machine for longer than a round slows all three turns.
//! - Each CPU has a thread that stays on it, and flows of its own, as NICs spread them. Packets of connections that are there are
//!   sent once before they are measured, so that caches know as much of them in each turn.
//! - Together, both wait for each other and then send more than is measured, before and after it; only rounds in which all that
//!   was measured had company count.
//! - Costs are in the thread's own time. A watch would charge a CPU for whatever else it was given to do, alone or together as
//!   chance has it. But who comes back finds colder caches: so the threads go before all others (`SCHED_FIFO`), and rounds
//!   in which a CPU did something else all the same, or the host took it away, do not count. And while one is alone, the other's
//!   thread keeps others off that one too, and does nothing: their work would slow the one that is alone.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use lb_common::reason::Reason;
use serde_json::{Value, json};

use super::packets::{CONNECTIONS, SLOTS, USUAL, case, set_up};
use super::turn::{Cpu, Meeting, Order, Part, TURN, Turn};
use super::{Figure, line_way};
use crate::bench::driver::{self, Driver, Plan, Target};
use crate::bench::measure::{TOLERANCE, median, quartiles};
use crate::bpf::Program;
use crate::case::Nic;
use crate::packets::tcp::{ACK, SYN};

/// Rounds that are to count; there are twice as many if need be, and of new connections as many as the table has room for.
const ROUNDS: usize = 201;
/// Fewer are no figure.
const LEAST: usize = 9;

/// Behind a ratio.
#[derive(Debug, Clone)]
pub struct Detail {
    /// Half of the rounds' ratios are between these.
    quartiles: [f64; 2],
    /// Rounds that count, and all.
    rounds: [usize; 2],
    /// Nanoseconds of a packet, driver included, on each CPU alone.
    alone: [f64; 2],
    /// On each while the other is at work too.
    together: [f64; 2],
    /// Nanoseconds a line takes from one CPU to the other, before the rounds and after them.
    line_way: [f64; 2],
}

impl Detail {
    /// For people.
    pub fn text(&self) -> String {
        let Self { quartiles: [low, high], rounds: [count, all], alone, together, line_way } = self;
        let both = |[one, two]: &[f64; 2]| format!("{one:.0} and {two:.0}");
        format!(
            "  quartiles {low:.2} to {high:.2} of {count} rounds ({} left out); ns alone {}, together {}; a line's way {}",
            all - count,
            both(alone),
            both(together),
            both(line_way),
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Self { quartiles, rounds: [count, all], alone, together, line_way } = self;
        let hundredths = |values: &[f64; 2]| values.map(|value| (value * 100.0).round() / 100.0);
        json!({
            "quartiles": hundredths(quartiles), "rounds": count, "left_out": all - count,
            "alone_ns": hundredths(alone), "together_ns": hundredths(together),
            "line_way_ns": hundredths(line_way),
        })
    }
}

/// Measures them all.
pub fn all(program: &mut Program) -> Result<Vec<Figure>> {
    ensure!(driver::cpus()?.len() > 1, "there is one CPU only");
    driver::pin_to(0)?;
    let new = || Driver::new(Some(program.lb()?), program.card(Nic::Front), driver::thread_time);
    let mut drivers = [new()?, new()?];
    set_up(program, &mut drivers[0], USUAL)?;
    let of = case(CONNECTIONS);
    let (known, fresh) = (of.request(ACK)?, of.request(SYN)?);
    let meeting = Meeting::default();
    thread::scope(|scope| {
        let [first, second] = drivers;
        let mut pair = Pair {
            program,
            cpus: [Cpu::start(scope, 0, first, &meeting), Cpu::start(scope, 1, second, &meeting)],
            next: CONNECTIONS,
        };
        Ok(vec![
            pair.figure("two CPUs, floor", Target::Floor, Flows::Known(known))?,
            pair.figure("two CPUs, established", Target::Lb, Flows::Known(known))?,
            pair.figure("two CPUs, new", Target::Lb, Flows::New(fresh))?,
        ])
    })
}

/// What is sent.
#[derive(Clone, Copy)]
enum Flows {
    /// Packets of connections that are there, in each turn the same ones.
    Known(Plan),
    /// The first of connections that are not.
    New(Plan),
}

impl Flows {
    fn again(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

/// Both CPUs.
struct Pair<'a> {
    program: &'a Program,
    cpus: [Cpu; 2],
    /// The next flow that has no connection yet.
    next: u32,
}

/// A round's turns.
struct Round {
    alone: [Turn; 2],
    together: [Turn; 2],
}

impl Round {
    fn ratio(&self) -> f64 {
        let kept = self.alone.iter().zip(&self.together);
        kept.map(|(alone, together)| alone.cost / together.cost).sum()
    }

    /// Did each CPU do nothing else, and had it company when it should have?
    fn counts(&self) -> bool {
        let [one, two] = &self.together;
        self.alone.iter().chain(&self.together).all(Turn::undisturbed)
            && one.in_company_of(two)
            && two.in_company_of(one)
    }
}

impl Pair<'_> {
    fn figure(&mut self, name: &str, target: Target, flows: Flows) -> Result<Figure> {
        let program = self.program;
        let forwarded = || Ok::<u64, anyhow::Error>(program.maps().reasons()?[Reason::Forwarded as usize]);
        let before = forwarded()?;
        let way_before = line_way::measure()?;
        let (mut rounds, mut all) = (Vec::new(), 0);
        while rounds.len() < ROUNDS && all < 2 * ROUNDS && self.room(flows) {
            // What changes steadily favours the first turn one time, the last one the next.
            let round = if all % 2 == 0 { self.round(target, flows)? } else { self.backward(target, flows)? };
            all += 1;
            rounds.extend(Some(round).filter(Round::counts));
        }
        let sent = all as f64 * 4.0 * f64::from(TURN);
        let went = (forwarded()? - before) as f64;
        ensure!(
            target == Target::Floor || went >= sent * (1.0 - TOLERANCE),
            "{went} of {sent} packets went on"
        );
        ensure!(
            rounds.len() >= LEAST,
            "{name}: of {all} rounds only {} were undisturbed: the machine has other work",
            rounds.len()
        );
        let ratios: Vec<f64> = rounds.iter().map(Round::ratio).collect();
        let costs = |turn: &dyn Fn(&Round) -> f64| median(rounds.iter().map(turn).collect());
        let detail = Detail {
            quartiles: quartiles(ratios.clone()),
            rounds: [rounds.len(), all],
            alone: [0, 1].map(|cpu| costs(&|round| round.alone[cpu].cost)),
            together: [0, 1].map(|cpu| costs(&|round| round.together[cpu].cost)),
            line_way: [way_before, line_way::measure()?],
        };
        Ok(Figure {
            name: name.to_owned(),
            size: None,
            value: median(ratios),
            unit: "times one CPU",
            most: None,
            detail: Some(detail),
        })
    }

    /// Is the table at most half full after another round?
    fn room(&self, flows: Flows) -> bool {
        flows.again() || self.next + 4 * TURN <= SLOTS / 2
    }

    fn round(&mut self, target: Target, flows: Flows) -> Result<Round> {
        let alone = [self.alone(0, target, flows)?, self.alone(1, target, flows)?];
        Ok(Round { alone, together: self.together(target, flows)? })
    }

    fn backward(&mut self, target: Target, flows: Flows) -> Result<Round> {
        let together = self.together(target, flows)?;
        let second = self.alone(1, target, flows)?;
        Ok(Round { alone: [self.alone(0, target, flows)?, second], together })
    }

    fn alone(&mut self, cpu: usize, target: Target, flows: Flows) -> Result<Turn> {
        let order = self.order(cpu, target, flows);
        self.cpus[cpu].begin(Part::Alone(order))?;
        self.cpus[1 - cpu].begin(Part::Quiet)?;
        self.cpus[1 - cpu].turn()?;
        self.turn_of(cpu)
    }

    fn together(&mut self, target: Target, flows: Flows) -> Result<[Turn; 2]> {
        for cpu in 0..2 {
            let order = self.order(cpu, target, flows);
            self.cpus[cpu].begin(Part::Together(order))?;
        }
        Ok([self.turn_of(0)?, self.turn_of(1)?])
    }

    fn turn_of(&self, cpu: usize) -> Result<Turn> {
        self.cpus[cpu].turn()?.context("a CPU kept quiet that was to have a turn")
    }

    fn order(&mut self, cpu: usize, target: Target, flows: Flows) -> Order {
        Order { target, plan: self.plan(cpu, flows), again: flows.again() }
    }

    /// A CPU's flows for its next turn.
    fn plan(&mut self, cpu: usize, flows: Flows) -> Plan {
        match flows {
            Flows::Known(plan) => plan.starting(cpu as u32 * CONNECTIONS / 2),
            Flows::New(plan) => {
                let from = self.next;
                self.next += TURN;
                plan.starting(from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scale::turn::tests::turn;

    /// Alone and together the packets cost so much on each CPU; the second one begins together that much later.
    fn round(alone: [u64; 2], together: [u64; 2], later: u64) -> Round {
        let together = [turn(0, together[0]), turn(later, together[1])];
        Round { alone: alone.map(|cost| turn(0, cost)), together }
    }

    #[test]
    fn each_cpu_is_compared_with_itself() {
        assert!((round([50, 80], [50, 100], 0).ratio() - 1.8).abs() < 1e-9);
    }

    #[test]
    fn rounds_count_with_company_and_undisturbed() {
        let whole = || round([60, 60], [60, 60], 1000);
        assert!(whole().counts());
        assert!(!round([60, 60], [60, 60], 1_000_000).counts());
        let mut alone = whole();
        alone.alone[1].cost *= 0.96;
        assert!(!alone.counts());
        let mut together = whole();
        together.together[0].cost *= 0.96;
        assert!(!together.counts());
    }
}
