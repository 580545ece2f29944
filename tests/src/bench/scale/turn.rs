//! A CPU's turn: some packets before, those that are measured, some after. Or it keeps quiet, and keeps others off, while the
//! other one has its turn: their work would slow that one by the memory it asks for, and look like the price of being alone.

use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
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
}

/// Where both CPUs' threads wait for each other.
pub struct Meeting {
    begun: Barrier,
    /// Has the one that is alone had its turn?
    over: AtomicBool,
}

impl Default for Meeting {
    /// Nobody is there yet.
    fn default() -> Self {
        Self { begun: Barrier::new(2), over: AtomicBool::new(false) }
    }
}

impl Meeting {
    /// Stays at work on nothing, in no need of memory, until the other one's turn is over.
    fn keep_quiet(&self) {
        self.begun.wait();
        while !self.over.swap(false, Ordering::AcqRel) {
            (0..64).for_each(|_| spin_loop());
        }
    }
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
    orders: Sender<Part>,
    turns: Receiver<Result<Option<Turn>>>,
}

/// A CPU's part in what both do.
pub enum Part {
    /// Has a turn while the other one has one.
    Together(Order),
    /// Has a turn while the other one keeps quiet.
    Alone(Order),
    /// Keeps quiet.
    Quiet,
}

impl Cpu {
    /// Starts the thread.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        nth: usize,
        mut driver: Driver,
        meeting: &'scope Meeting,
    ) -> Self {
        let ((orders, take), (give, turns)) = (channel::<Part>(), channel());
        // It ends with the last order, or when nobody asks any more.
        scope.spawn(move || {
            take.iter().map(|part| play(nth, &mut driver, part, meeting)).try_for_each(|turn| give.send(turn))
        });
        Self { orders, turns }
    }

    /// Has it begin, as soon as the other one does.
    pub fn begin(&self, part: Part) -> Result<()> {
        self.orders.send(part).ok().context("the CPU's thread is gone")
    }

    /// Waits for the turn, if it was told to have one.
    pub fn turn(&self) -> Result<Option<Turn>> {
        self.turns.recv().context("the CPU's thread is gone")?
    }
}

fn play(cpu: usize, driver: &mut Driver, part: Part, meeting: &Meeting) -> Result<Option<Turn>> {
    let settled = driver::pin_to(cpu).and_then(|()| driver::go_first());
    // Whatever happened: the other one waits.
    match part {
        Part::Quiet => {
            meeting.keep_quiet();
            settled.map(|()| None)
        }
        Part::Together(order) => {
            meeting.begun.wait();
            settled.and_then(|()| turn(driver, order)).map(Some)
        }
        Part::Alone(order) => {
            meeting.begun.wait();
            let turn = settled.and_then(|()| turn(driver, order));
            meeting.over.store(true, Ordering::Release);
            turn.map(Some)
        }
    }
}

fn turn(driver: &mut Driver, order: Order) -> Result<Turn> {
    let Order { target, mut plan, again } = order;
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
    fn who_keeps_quiet_does_so_until_the_turn_is_over() {
        let meeting = Meeting::default();
        std::thread::scope(|scope| {
            let quiet = scope.spawn(|| meeting.keep_quiet());
            meeting.begun.wait();
            assert!(!quiet.is_finished());
            meeting.over.store(true, Ordering::Release);
        });
        // The next turn is not over yet.
        assert!(!meeting.over.load(Ordering::Acquire));
    }

    #[test]
    fn whoever_did_something_else_was_disturbed() {
        let turn = turn(0, 60);
        assert!(turn.undisturbed());
        assert!(!Turn { cost: turn.cost * 0.96, ..turn }.undisturbed());
    }
}
