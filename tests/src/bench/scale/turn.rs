//! A CPU's turn: some packets before, those that are measured, some after.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use anyhow::{Context as _, Result};

use crate::bench::driver::{self, Driver, Plan, Target};

/// Packets measured in a turn: a millisecond or less.
const PACKETS: u32 = 5_000;
/// Packets after them; ahead of them there are as many as are measured.
const MARGIN: u32 = PACKETS / 2;
/// Packets of a turn.
pub const TURN: u32 = 2 * PACKETS + MARGIN;
/// Share of a turn's time that its CPU has to have been at work on it.
const BUSY: f64 = 0.97;

/// What a CPU is told to do.
pub struct Order {
    /// Where packets go.
    pub target: Target,
    /// What they are made from.
    pub plan: Plan,
    /// Are the packets measured those that were sent ahead of them?
    pub again: bool,
    /// Together with the other one?
    pub company: bool,
}

/// A span of time, in nanoseconds of a watch.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    to: u64,
}

impl Span {
    fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && self.to >= other.to
    }
}

/// What became of an order.
pub struct Turn {
    /// Nanoseconds of the thread's own time for a packet.
    pub cost: f64,
    measured: Span,
    whole: Span,
}

impl Turn {
    /// Did its CPU do nothing else?
    pub fn undisturbed(&self) -> bool {
        let elapsed = self.measured.to - self.measured.from;
        self.cost * f64::from(PACKETS) >= elapsed as f64 * BUSY
    }

    /// Was the other one at work all the time that was measured?
    pub fn in_company_of(&self, other: &Self) -> bool {
        other.whole.covers(&self.measured)
    }
}

/// A thread that stays on a CPU.
pub struct Cpu {
    orders: Sender<Order>,
    turns: Receiver<Result<Turn>>,
}

impl Cpu {
    /// Starts the thread, which waits for the other CPU's at `begun` before they run together.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        nth: usize,
        mut driver: Driver,
        begun: &'scope Barrier,
    ) -> Self {
        let ((orders, take), (give, turns)) = (channel::<Order>(), channel());
        // It ends with the last order, or when nobody asks any more.
        scope.spawn(move || {
            take.iter().map(|order| turn(nth, &mut driver, order, begun)).try_for_each(|turn| give.send(turn))
        });
        Self { orders, turns }
    }

    /// Has it begin.
    pub fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the CPU's thread is gone")
    }

    /// Waits for what becomes of an order.
    pub fn turn(&self) -> Result<Turn> {
        self.turns.recv().context("the CPU's thread is gone")?
    }
}

fn turn(cpu: usize, driver: &mut Driver, order: Order, begun: &Barrier) -> Result<Turn> {
    let Order { target, mut plan, again, company } = order;
    let settled = driver::pin_to(cpu).and_then(|()| driver::go_first());
    // Whatever happened: the other one waits.
    if company {
        begun.wait();
    }
    settled?;
    let start = driver::wall_time();
    let same = plan;
    driver.run(target, &mut plan, PACKETS)?;
    if again {
        plan = same;
    }
    let from = driver::wall_time();
    let cost = driver.run(target, &mut plan, PACKETS)?.cost;
    let to = driver::wall_time();
    driver.run(target, &mut plan, MARGIN)?;
    let whole = Span { from: start, to: driver::wall_time() };
    Ok(Turn { cost, measured: Span { from, to }, whole })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A turn that begins then, whose packets cost so many nanoseconds.
    pub(in crate::bench::scale) fn turn(start: u64, cost: u64) -> Turn {
        let [margin, packets] = [MARGIN, PACKETS].map(|packets| u64::from(packets) * cost);
        let measured = Span { from: start + packets, to: start + 2 * packets };
        Turn { cost: cost as f64, measured, whole: Span { from: start, to: measured.to + margin } }
    }

    #[test]
    fn company_is_for_all_that_is_measured() {
        let lead = u64::from(PACKETS) * 60;
        let [one, later, too_late] = [0, lead, lead + 1].map(|start| turn(start, 60));
        assert!(one.in_company_of(&later));
        assert!(!one.in_company_of(&too_late) && !too_late.in_company_of(&one));
        // What comes after is shorter than what goes before.
        assert!(!later.in_company_of(&one));
    }

    #[test]
    fn whoever_did_something_else_was_disturbed() {
        let turn = turn(0, 60);
        assert!(turn.undisturbed());
        assert!(!Turn { cost: turn.cost * 0.96, ..turn }.undisturbed());
    }
}
