//! Source hashing: the client's address decides (with `sh-port` its port too), weights by slots of the table.

use core::ops::ControlFlow;

use super::hash::hash32;
use super::{Ask, BuildDest, View, at_table};
use crate::service::flags;

/// Slots of the table, as a power of two: IPVS's default (it can be built with 4 to 20).
pub const BITS: u32 = 8;
/// Slots of the table.
pub const SLOTS: usize = 1 << BITS;

const MASK: u32 = SLOTS as u32 - 1;

/// `sh-fallback`.
const FALLBACK: u32 = flags::SCHED1;
/// `sh-port`.
const PORT: u32 = flags::SCHED2;

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V, ask: &Ask) -> Option<u32> {
    let flags = view.service().flags;
    let port = if flags & PORT != 0 { ask.source_port } else { 0 };
    let home = hash32(port.wrapping_add(ask.source), BITS);
    let c = at_table(view, home)?;
    if c.eligible() {
        return Some(c.dest);
    }
    if flags & FALLBACK == 0 {
        return None;
    }
    // IPVS tries all the offsets in turn, the first one being the home slot's own index: so from twice that index on.
    // Starting there, and not behind the home slot, spreads the clients of one failed dest over the others.
    let mut probe = Probe { from: home.wrapping_mul(2), dest: 0 };
    view.walk(SLOTS as u32, &mut probe, |view, probe, k| match at_table(view, probe.from.wrapping_add(k) & MASK) {
        Some(c) if c.eligible() => {
            probe.dest = c.word();
            ControlFlow::Break(())
        }
        Some(_) => ControlFlow::Continue(()),
        None => ControlFlow::Break(()),
    });
    probe.dest.checked_sub(1)
}

struct Probe {
    from: u32,
    /// The dest found plus 1.
    dest: u32,
}

/// Fills the table: in list order each dest gets as many slots in a row as its weight says (weight 0 still gets one),
/// over and over. A total above 256 leaves the last ones without any.
pub fn build(dests: &[BuildDest], table: &mut [u32]) {
    let mut around = dests.iter().cycle().flat_map(|d| core::iter::repeat_n(d, d.weight.max(1) as usize));
    for slot in table {
        *slot = around.next().map_or(0, BuildDest::word);
    }
}
