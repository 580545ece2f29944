//! Rates, as IPVS estimates them. Every two seconds each dest is looked at: what it has counted since the last time moves its
//! estimates, and goes to its service and to the total, whose estimates move after those of the dests. The sweep's timer does
//! it, so that nobody has to list anything, and no process to be alive.
//!
//! An estimate moves a quarter of the way towards the rate of the last two seconds. Connections and packets are kept times
//! 2^10, bytes times 2^5.

use core::ops::ControlFlow;

use crate::cell::{Cell32, Cell64};
use crate::tables::{Counters, Tables};

/// Seconds from one look to the next. IPVS takes them for granted, and so does this of a look that is not late by more than half a
/// second. Of one that is, the rate is true all the same.
const STEP: u32 = 2;
/// Places looked at in one go at the least: no more than that, and all look at the same moment.
const AT_ONCE: u32 = 512;
/// Of more, so many parts are made: with one each 4 ms, a second.
const PARTS: u32 = 256;

/// Dests of a group in the `rates` map, each with one service behind them: there is room for so many dests to a service.
const GROUP: u32 = 8;
/// Where the total's estimator stands.
pub const TOTAL: u32 = 0;

/// Where a dest's stands.
#[inline(always)]
pub const fn of_dest(number: u32) -> u32 {
    1 + number / GROUP * (GROUP + 1) + number % GROUP
}

/// Where a service's stands.
#[inline(always)]
pub const fn of_service(number: u32) -> u32 {
    1 + number * (GROUP + 1) + GROUP
}

/// How many places there are where there is room for so many dests, a multiple of eight.
pub const fn places(dests: u32) -> u32 {
    of_dest(dests)
}

/// How many services' estimators are among so many places.
pub const fn services(places: u32) -> u32 {
    places.saturating_sub(1) / (GROUP + 1)
}

/// Connections, packets in and out, bytes in and out.
type Words = [u64; 5];

/// An estimator: `rates` map. 88 bytes.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Rate {
    /// A dest's: its counters at the last look. A service's, or the total's: what its dests have counted since then.
    counted: [Cell64; 5],
    /// The estimates.
    estimate: [Cell64; 5],
    /// Not 0: to be taken for zero at the next look. What zeroes does not write what the timer writes.
    zeroed: Cell64,
}

const _: () = assert!(core::mem::size_of::<Rate>() == 88);

impl Rate {
    /// Per second: connections, packets in and out, bytes in and out.
    pub fn shown(&self) -> [u64; 5] {
        if self.zeroed.load() != 0 {
            return [0; 5];
        }
        let [conns, inpkts, outpkts, inbytes, outbytes] = self.estimate.each_ref().map(Cell64::load);
        let [conns, inpkts, outpkts] = [conns, inpkts, outpkts].map(|estimate| (estimate + 511) >> 10);
        let [inbytes, outbytes] = [inbytes, outbytes].map(|estimate| (estimate + 15) >> 5);
        [conns, inpkts, outpkts, inbytes, outbytes]
    }

    /// All estimates fall to zero; what has been counted since the last look moves them at the next.
    pub fn zero(&self) {
        self.zeroed.store(1);
    }

    /// As if nothing had ever been counted: of a place nobody uses.
    pub fn reset(&self) {
        self.counted.iter().for_each(|cell| cell.store(0));
        self.zero();
    }

    /// A dest's: what has been counted since the last look, which is now.
    #[inline(always)]
    pub fn look(&self, counters: &Counters) -> Words {
        let mut since = counters.words();
        let mut i = 0;
        while i < since.len() {
            let before = self.counted[i].load();
            self.counted[i].store(since[i]);
            // Of a slot that has begun anew since, what there is.
            since[i] = since[i].saturating_sub(before);
            i += 1;
        }
        since
    }

    /// A service's, or the total's: a dest has counted this.
    #[inline(always)]
    pub fn add(&self, words: &Words) {
        let mut i = 0;
        while i < words.len() {
            self.counted[i].add(words[i]);
            i += 1;
        }
    }

    #[inline(always)]
    fn take(&self) -> Words {
        let mut words = [0; 5];
        let mut i = 0;
        while i < words.len() {
            words[i] = self.counted[i].load();
            if words[i] != 0 {
                self.counted[i].add(words[i].wrapping_neg());
            }
            i += 1;
        }
        words
    }

    /// Moves the estimates by what was counted in so many seconds.
    #[inline(always)]
    fn step(&self, words: &Words, seconds: u32) {
        let zeroed = self.zeroed.load() != 0;
        let mut i = 0;
        while i < words.len() {
            let scale = if i < 3 { 10 } else { 5 };
            let rate = (words[i] << scale).checked_div(seconds as u64).unwrap_or(0);
            let old = if zeroed { 0 } else { self.estimate[i].load() };
            let new = old.wrapping_add((rate.wrapping_sub(old) as i64 >> 2) as u64);
            if new != old || zeroed {
                self.estimate[i].store(new);
            }
            i += 1;
        }
        if zeroed {
            self.zeroed.store(0);
        }
    }
}

/// The look that is under way. The timer's own, beside it.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Round {
    /// When it was due, in ticks; 0 = never yet.
    due: Cell32,
    /// Not 0 while it is under way.
    running: Cell32,
    /// Where it goes on: dests come first, then services, last the total.
    next: Cell32,
    /// How many dests there were when it began.
    dests: Cell32,
    /// How many services.
    services: Cell32,
    /// Seconds since the one before.
    seconds: Cell32,
}

/// Begins a look if it is time, and takes a part of it: all of it, where there is little to look at.
#[inline(always)]
pub fn tick<T: Tables>(t: &T, round: &Round) {
    if round.running.load() == 0 && !begin(t, round) {
        return;
    }
    let (dests, seconds, from) = (round.dests.load(), round.seconds.load(), round.next.load());
    let end = dests.wrapping_add(round.services.load()).wrapping_add(1);
    let part = end / PARTS + 1;
    let count = if part < AT_ONCE { AT_ONCE } else { part };
    let mut acc = Part { from, dests, end, seconds };
    t.repeat(count, &mut acc, |t, acc, i| {
        let at = acc.from.wrapping_add(i);
        if at >= acc.end {
            return ControlFlow::Break(());
        }
        if at < acc.dests {
            t.estimate_dest(at, acc.seconds);
        } else {
            let last = at == acc.end.wrapping_sub(1);
            let place = if last { TOTAL } else { of_service(at.wrapping_sub(acc.dests)) };
            sum(t, place, acc.seconds);
        }
        ControlFlow::Continue(())
    });
    let next = from.wrapping_add(count);
    round.next.store(next);
    if next >= end {
        round.running.store(0);
    }
}

struct Part {
    from: u32,
    dests: u32,
    end: u32,
    seconds: u32,
}

/// Is it time? Looks that are not late keep the beat; so do those that sysctl run_estimation leaves out, and what is counted
/// meanwhile is taken for that of the step it ends with, as IPVS does it.
#[inline(always)]
fn begin<T: Tables>(t: &T, round: &Round) -> bool {
    let settings = t.settings();
    let (now, hz, due) = (t.now(), settings.hz.load(), round.due.load());
    let (passed, period) = (now.wrapping_sub(due), STEP.wrapping_mul(hz));
    if due != 0 && passed < period || hz == 0 {
        return false;
    }
    let late = passed.wrapping_sub(period);
    let in_time = due != 0 && late <= hz / 2;
    let passed = if due == 0 || in_time { STEP } else { seconds(passed, hz) };
    round.seconds.store(passed);
    round.due.store(if in_time { due.wrapping_add(period) } else { now });
    if settings.run_estimation.load() == 0 {
        return false;
    }
    round.dests.store(settings.dests_end.load());
    round.services.store(settings.services_end.load());
    round.next.store(0);
    round.running.store(1);
    true
}

/// Ticks in whole seconds, of which there are some.
#[inline(always)]
fn seconds(ticks: u32, hz: u32) -> u32 {
    (ticks as u64 + hz as u64 / 2).checked_div(hz as u64).unwrap_or(0) as u32
}

/// Looks at a dest. One that is deleted is left alone: what it had counted by then, its service was given.
#[inline(always)]
pub fn dest<T: Tables>(t: &T, number: u32, seconds: u32) {
    let (Some(dest), Some(rate)) = (t.dest(number), t.rate(of_dest(number))) else { return };
    if !dest.listed() {
        return;
    }
    let words = rate.look(&t.counters(number));
    rate.step(&words, seconds);
    if words[0] | words[1] | words[2] == 0 {
        return;
    }
    for place in [of_service(dest.service.load()), TOTAL] {
        if let Some(rate) = t.rate(place) {
            rate.add(&words);
        }
    }
}

/// Moves a service's estimates, or the total's.
#[inline(always)]
fn sum<T: Tables>(t: &T, place: u32, seconds: u32) {
    if let Some(rate) = t.rate(place) {
        let words = rate.take();
        rate.step(&words, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Family, Proto};
    use crate::dest::Method;
    use crate::host::rules::{NewDest, NewService};
    use crate::host::{HostTables, Rules, Sizes};
    use crate::sched::Scheduler;
    use crate::tables::Direction;
    use std::vec::Vec;

    /// Two services, of two dests and of one.
    fn world() -> (HostTables, Rules) {
        let (tables, mut rules) = (HostTables::new(&Sizes::default()), Rules::new());
        for (port, hosts) in [(80, &[1, 2][..]), (81, &[3])] {
            let vip = Addr::v4([10, 9, 0, 1]);
            let new = NewService::new(Family::V4, Proto::TCP, vip, port, Scheduler::Rr);
            let service = rules.add_service(&tables, &new);
            for host in hosts {
                let address = Addr::v4([10, 1, 0, *host]);
                rules.add_dest(&tables, service, &NewDest::new(Family::V4, address, 80, Method::Route));
            }
        }
        (tables, rules)
    }

    /// What is shown of three dests, two services and the total: packets in a second.
    fn inpps(tables: &HostTables) -> [u64; 6] {
        [of_dest(0), of_dest(1), of_dest(2), of_service(0), of_service(1), TOTAL]
            .map(|place| tables.rate(place).map_or(u64::MAX, |rate| rate.shown()[1]))
    }

    fn send(tables: &HostTables, packets: [u32; 3]) {
        for (dest, packets) in (0..).zip(packets) {
            (0..packets).for_each(|_| tables.count(dest, Direction::In, 100));
        }
    }

    #[test]
    fn every_two_seconds_dests_services_and_the_total_move() {
        let ((tables, mut rules), round) = (world(), Round::default());
        tables.pass_time(5);
        tick(&tables, &round);
        send(&tables, [80, 160, 800]);
        tables.pass_time(1);
        tick(&tables, &round);
        assert_eq!(inpps(&tables), [0; 6], "not yet");
        tables.pass_time(1);
        tick(&tables, &round);
        tick(&tables, &round);
        assert_eq!(inpps(&tables), [10, 20, 100, 30, 100, 130]);
        // Nobody looks at a deleted dest any more.
        rules.delete_dest(&tables, 1);
        tables.pass_time(2);
        tick(&tables, &round);
        assert_eq!(inpps(&tables), [7, 20, 75, 22, 75, 97]);
        // Six seconds without a look: true rates all the same, 80 packets in each two seconds.
        send(&tables, [0, 0, 240]);
        tables.pass_time(6);
        tick(&tables, &round);
        assert_eq!(inpps(&tables)[2], (75 * 3 + 40) / 4);
        tables.settings().run_estimation.store(0);
        tables.pass_time(6);
        tick(&tables, &round);
        assert_eq!(inpps(&tables)[2], 66);
        send(&tables, [0, 0, 80]);
        tables.settings().run_estimation.store(1);
        tables.pass_time(2);
        tick(&tables, &round);
        // 66.25 has become 59.69.
        assert_eq!(inpps(&tables)[2], 60);
    }

    #[test]
    fn places_of_dests_and_services() {
        assert_eq!([0, 7, 8].map(of_dest), [1, 8, 10]);
        assert_eq!([0, 1].map(of_service), [9, 18]);
        for places in [1, 9, 10, 18, 19, 8192, 16_384] {
            let services = services(places);
            assert!(of_service(services) >= places, "{places} places hold more than {services} services");
            assert!(services == 0 || of_service(services - 1) < places, "{places} places");
        }
    }

    fn counters(n: u64) -> Counters {
        Counters { conns: n, inpkts: 2 * n, outpkts: 0, inbytes: 100 * n, outbytes: 0 }
    }

    /// ipvs.md 7.2, worked out by hand: 20 connections in two seconds are ten a second; an estimate moves by a quarter.
    #[test]
    fn the_arithmetic_is_the_kernels() {
        let rate = Rate::default();
        let mut shown = Vec::new();
        for step in 1..=6 {
            let words = rate.look(&counters(20 * step.min(3)));
            rate.step(&words, STEP);
            shown.push(rate.shown());
        }
        let conns: Vec<u64> = shown.iter().map(|shown| shown[0]).collect();
        // 2.5, 4.375, 5.78; then nothing more comes: 4.34, 3.25, 2.44.
        assert_eq!(conns, [2, 4, 6, 4, 3, 2]);
        let bytes: Vec<u64> = shown.iter().map(|shown| shown[3]).collect();
        assert_eq!(bytes, [250, 437, 578, 434, 325, 244]);
    }

    #[test]
    fn late_looks_give_true_rates() {
        let (in_time, late) = (Rate::default(), Rate::default());
        in_time.step(&[20, 0, 0, 2000, 0], 2);
        late.step(&[60, 0, 0, 6000, 0], 6);
        assert_eq!(in_time.shown(), late.shown());
        assert_eq!([seconds(500, 250), seconds(624, 250), seconds(1500, 250)], [2, 2, 6]);
    }

    #[test]
    fn zeroed_it_begins_again_with_what_came_since_the_last_look() {
        let rate = Rate::default();
        rate.step(&rate.look(&counters(400)), STEP);
        rate.zero();
        assert_eq!(rate.shown(), [0; 5]);
        rate.step(&rate.look(&counters(420)), STEP);
        assert_eq!(rate.shown()[0], 2);
    }
}
