//! Destination hashing: the packet's destination address alone decides. Of use with marks, in front of caches.

use super::hash::hash32;
use super::{Ask, BuildDest, View, at_table};

/// Slots of the table, as a power of two.
pub const BITS: u32 = 8;
/// Slots of the table.
pub const SLOTS: usize = 1 << BITS;

/// The dest's number. A slot whose dest cannot take the connection has none: there is no fallback.
#[inline(always)]
pub fn pick<V: View>(view: &V, ask: &Ask) -> Option<u32> {
    let c = at_table(view, hash32(ask.destination, BITS))?;
    (c.available && c.eligible()).then_some(c.dest)
}

/// Fills the table: one slot each in list order, over and over, weights ignored.
pub fn build(dests: &[BuildDest], table: &mut [u32]) {
    let mut around = dests.iter().cycle();
    for slot in table {
        *slot = around.next().map_or(0, BuildDest::word);
    }
}
