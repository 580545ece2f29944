//! Maglev hashing: as sh by the client's address, over a table that moves few clients when a dest comes or goes.

use core::ops::ControlFlow;

use super::hash::siphash13;
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
    let mut probe = Probe { key, home, dest: 0 };
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

struct Probe {
    key: u32,
    home: u32,
    /// The dest found plus 1.
    dest: u32,
}

#[inline(always)]
fn slot(value: u32) -> u32 {
    siphash13(KEY1, value) % M
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
    let turns = |d: &BuildDest| (d.last_weight / gcd >> shift).max((d.last_weight != 0) as u32);

    let mut ways = [Way::default(); SLOTS];
    for (way, dest) in ways.iter_mut().zip(dests) {
        let value = (dest.port.host() as u32).wrapping_add(dest.addr.fold());
        way.at = slot(value) as u16;
        way.stride = (siphash13(KEY2, value) % (M - 1) + 1) as u16;
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
