//! Maglev hashing: as sh by the client's address, over a table that moves few clients when a dest comes or goes.

use core::ops::ControlFlow;

use super::hash::siphash32;
use super::{Ask, BuildDest, TooManyDests, View, at_table, control};
use crate::service::flags;

/// Slots of the table: IPVS's default, a prime (it can be built with nine others).
pub const SLOTS: usize = 4093;

const M: u32 = SLOTS as u32;

/// The largest weight is scaled down to this many bits: half of IPVS's size index, 12.
const TURN_BITS: u32 = 6;

/// Key of the hash for clients and for a dest's first slot.
const KEY1: u32 = 2_654_435_761;
/// Key of the hash for a dest's stride.
const KEY2: u32 = 2_654_446_892;

/// `mh-fallback`.
const FALLBACK: u32 = flags::SCHED1;
/// `mh-port`.
const PORT: u32 = flags::SCHED2;

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V, ask: &Ask) -> Option<u32> {
    let flags = view.service().flags;
    let port = if flags & PORT != 0 { ask.source_port } else { 0 };
    let key = port.wrapping_add(ask.source);
    let home = slot(key);
    let c = at_table(view, home)?;
    if c.eligible() {
        return Some(c.dest);
    }
    if flags & FALLBACK == 0 {
        return None;
    }
    let mut probe = Probe { dest: 0, key, home };
    view.walk(M, &mut probe, |view, probe, k| {
        let offset = probe.home.wrapping_add(k) % M;
        match at_table(view, slot(offset.wrapping_add(probe.key))) {
            Some(c) if c.eligible() => {
                probe.dest = c.word();
                ControlFlow::Break(())
            }
            Some(_) => ControlFlow::Continue(()),
            None => ControlFlow::Break(()),
        }
    });
    probe.dest.checked_sub(1)
}

#[repr(C, align(8))]
struct Probe {
    /// The dest found plus 1.
    dest: u32,
    key: u32,
    home: u32,
}

#[inline(always)]
fn slot(value: u32) -> u32 {
    siphash32(KEY1, value) % M
}

/// A dest's way through the table: its next slot and the stride from there.
#[derive(Clone, Copy, Default)]
struct Way {
    at: u16,
    stride: u16,
}

/// Fills the table: the dests claim slots in turn, each the next free one on its own way through the table, as many
/// per round as its weight says. Weights are the last that were not 0: a dest that is only taken out for a while
/// keeps its slots, so that its clients come back to it.
pub fn build(dests: &[BuildDest], table: &mut [u32]) -> Result<(), TooManyDests> {
    if dests.len() > SLOTS {
        return Err(TooManyDests);
    }
    let weights = || dests.iter().map(|d| d.last_weight);
    table.fill(0);
    let gcd = weights().fold(0, control::gcd);
    if gcd == 0 {
        return Ok(());
    }
    let most = weights().max().unwrap_or(0) / gcd;
    let shift = (u32::BITS - most.leading_zeros()).saturating_sub(TURN_BITS);
    let turns = |d: &BuildDest| ((d.last_weight / gcd) >> shift).max((d.last_weight != 0) as u32);

    let mut ways = [Way::default(); SLOTS];
    for (way, dest) in ways.iter_mut().zip(dests) {
        let value = (dest.port.host() as u32).wrapping_add(dest.addr.fold());
        way.at = slot(value) as u16;
        way.stride = (siphash32(KEY2, value) % (M - 1) + 1) as u16;
    }
    let mut free = table.len().min(SLOTS);
    loop {
        for (way, dest) in ways.iter_mut().zip(dests) {
            for _ in 0..turns(dest) {
                if free == 0 {
                    return Ok(());
                }
                // SLOTS is a prime, so the way comes through every slot.
                while table.get(way.at as usize).is_none_or(|taken| *taken != 0) {
                    way.at = (way.at + way.stride) % SLOTS as u16;
                }
                table[way.at as usize] = dest.word();
                free -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use super::*;
    use crate::addr::{Addr, Port};
    use rstest::rstest;
    use std::vec::Vec;

    fn fold(addr: [u8; 4]) -> u32 {
        Addr::v4(addr).fold()
    }

    fn counts(model: &Model) -> Vec<usize> {
        (0..model.dests.len() as u32).map(|d| model.table.iter().filter(|w| **w == d + 1).count()).collect()
    }

    #[rstest]
    #[case([10, 0, 0, 1], 80, 3167, 700)]
    #[case([10, 0, 0, 2], 80, 1231, 3544)]
    #[case([10, 0, 0, 1], 0, 3711, 966)]
    fn ways(#[case] addr: [u8; 4], #[case] port: u32, #[case] offset: u32, #[case] stride: u32) {
        let value = fold(addr) + port;
        assert_eq!((slot(value), siphash32(KEY2, value) % (M - 1) + 1), (offset, stride));
    }

    #[test]
    fn two_dests() {
        let model = Model::with(Scheduler::Mh, 0, &[1, 1]);
        // The newest, 10.0.0.2, is first of the list: the vector's 0.
        let first = model.table[..16].iter().map(|w| 2 - w).collect::<Vec<_>>();
        assert_eq!(first, [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0]);
        assert_eq!(counts(&model), [2046, 2047]);
    }

    #[test]
    fn three_dests_and_their_clients() {
        let mut model = Model::with(Scheduler::Mh, 0, &[1, 1, 2]);
        let first = model.table[..16].iter().map(|w| 3 - w).collect::<Vec<_>>();
        assert_eq!(first, [2, 1, 0, 0, 0, 0, 1, 0, 0, 2, 2, 1, 1, 2, 2, 0]);
        assert_eq!(counts(&model), [1023, 1023, 2047]);
        for (client, index) in [([192, 168, 1, 100], 1341), ([203, 0, 113, 7], 1705)] {
            assert_eq!(slot(fold(client)), index);
            let ask = Ask { source: fold(client), source_port: 5, ..Ask::default() };
            assert_eq!(pick(&model, &ask), Some(2));
        }
        // Weight 0 takes no slot away, and the clients find nobody.
        let before = model.table.clone();
        model.edit(2, 0);
        assert_eq!(model.table, before);
        assert_eq!(pick(&model, &Ask { source: fold([203, 0, 113, 7]), ..Ask::default() }), None);
        // One added with weight 0 gets none.
        model.add(0);
        assert_eq!(model.table, before);
        // Deleted and added again with weight 0, it has none either.
        model.delete(2);
        model.add_again(2, 0);
        assert_eq!(counts(&model)[2], 0);
    }

    #[test]
    fn weights_are_scaled_to_six_bits() {
        let model = Model::with(Scheduler::Mh, 0, &[1, 127, 64]);
        // Turns 1 (never less), 63, 32.
        let counts = counts(&model);
        assert_eq!(counts.iter().sum::<usize>(), SLOTS);
        assert!(counts[0].abs_diff(SLOTS / 96) <= 1, "{counts:?}");
        assert!(counts[1].abs_diff(SLOTS * 63 / 96) <= 63, "{counts:?}");
        let scaled = Model::with(Scheduler::Mh, 0, &[1, 63, 32]);
        assert_eq!(model.table, scaled.table);
        // A common divisor does not count.
        assert_eq!(Model::with(Scheduler::Mh, 0, &[1000, 63_000, 32_000]).table, scaled.table);
        let huge = Model::with(Scheduler::Mh, 0, &[i32::MAX as u32, 1]);
        assert_eq!(super::super::table_len(Scheduler::Mh, 0), huge.table.len());
    }

    #[test]
    fn port_and_fallback() {
        let client = |source_port| Ask { source: fold([10, 9, 8, 7]), source_port, ..Ask::default() };
        let plain = Model::with(Scheduler::Mh, 0, &[1, 1]);
        let by_port = Model::with(Scheduler::Mh, PORT, &[1, 1]);
        let reached = |m: &Model| (0..64).map(|p| pick(m, &client(p)).unwrap()).collect::<Vec<_>>();
        assert!(reached(&plain).iter().all(|d| *d == reached(&plain)[0]));
        assert!(reached(&by_port).contains(&0) && reached(&by_port).contains(&1));

        let mut model = Model::with(Scheduler::Mh, FALLBACK, &[1, 1]);
        let home = slot(client(0).source);
        model.table.fill(1);
        model.dests[0].overloaded = true;
        assert_eq!(pick(&model, &client(0)), None);
        // The third probe.
        model.table[slot(home + 2 + client(0).source) as usize] = 2;
        assert_eq!(pick(&model, &client(0)), Some(1));
        model.table[slot(home + 1 + client(0).source) as usize] = 0;
        assert_eq!(pick(&model, &client(0)), None);
    }

    #[test]
    fn empty_and_too_many() {
        let mut model = Model::with(Scheduler::Mh, 0, &[0, 0]);
        assert!(model.table.iter().all(|w| *w == 0));
        assert_eq!(pick(&model, &Ask::default()), None);
        model.edit(0, 1);
        assert!(model.table.iter().all(|w| *w == 1));

        let dest = |n: usize| BuildDest {
            dest: n as u32,
            addr: Addr::v4([10, 0, (n >> 8) as u8, n as u8]),
            port: Port::new(80),
            weight: 1,
            last_weight: 1,
        };
        let many: Vec<BuildDest> = (0..SLOTS + 1).map(dest).collect();
        let mut table = model.table;
        assert_eq!(build(&many, &mut table), Err(TooManyDests));
        assert!(table.iter().all(|w| *w == 1));
        assert_eq!(build(&many[..SLOTS], &mut table), Ok(()));
        table.sort();
        assert!(table.iter().zip(1..).all(|(word, dest)| *word == dest));
    }
}
