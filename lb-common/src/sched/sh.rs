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
    let mut probe = Probe { dest: 0, from: home.wrapping_mul(2) };
    view.walk(SLOTS as u32, &mut probe, |view, probe, k| {
        match at_table(view, probe.from.wrapping_add(k) & MASK) {
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
    from: u32,
}

/// Fills the table: in list order each dest gets as many slots in a row as its weight says (weight 0 still gets one),
/// over and over. A total above 256 leaves the last ones without any.
pub fn build(dests: &[BuildDest], table: &mut [u32]) {
    let mut around = dests.iter().cycle().flat_map(|d| core::iter::repeat_n(d, d.weight.max(1) as usize));
    for slot in table {
        *slot = around.next().map_or(0, BuildDest::word);
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use super::*;
    use crate::addr::Addr;
    use rstest::rstest;
    use std::string::String;
    use std::vec::Vec;

    fn ask(addr: [u8; 4], source_port: u32) -> Ask {
        Ask { source: Addr::v4(addr).fold(), source_port, ..Ask::default() }
    }

    fn table(model: &Model) -> String {
        model.table.iter().map(|w| w.checked_sub(1).map_or('-', |d| (b'A' + d as u8) as char)).collect()
    }

    #[test]
    fn tables() {
        let mut model = Model::with(Scheduler::Sh, 0, &[1, 2, 3]);
        assert_eq!(&table(&model)[..12], "CCCBBACCCBBA");
        let count = |model: &Model, letter| table(model).matches(letter).count();
        assert_eq!([count(&model, 'C'), count(&model, 'B'), count(&model, 'A')], [129, 85, 42]);
        // Weight 0 still has one slot.
        model.edit(1, 0);
        assert_eq!(&table(&model)[..10], "CCCBACCCBA");
        // The tail starves.
        model.edit(2, 1000);
        assert_eq!(count(&model, 'C'), 256);
        for dest in 0..3 {
            model.delete(dest);
        }
        assert_eq!(count(&model, '-'), 256);
        assert_eq!(pick(&model, &Ask::default()), None);
    }

    #[rstest]
    #[case([10, 0, 0, 1], 39, 203)]
    #[case([192, 168, 1, 100], 89, 253)]
    #[case([203, 0, 113, 7], 124, 32)]
    fn indices(#[case] client: [u8; 4], #[case] plain: u32, #[case] with_port: u32) {
        for (flags, index) in [(0, plain), (PORT, with_port)] {
            let mut model = Model::with(Scheduler::Sh, flags, &[1; 2]);
            // A table of a dest per slot shows the index.
            model.table.fill(1);
            model.table[index as usize] = 2;
            assert_eq!(pick(&model, &ask(client, 40_000)), Some(1));
        }
    }

    #[test]
    fn unavailable() {
        let client = ask([10, 0, 0, 1], 0);
        let home = 39;
        for (flags, expected) in [(0, None), (FALLBACK, Some(1))] {
            let mut model = Model::with(Scheduler::Sh, flags, &[1, 1, 1]);
            model.table.fill(1);
            // All offsets from 39 on: slots 78, 79, ...
            model.table[2 * home] = 1;
            model.table[2 * home + 1] = 2;
            model.table[home + 1] = 3;
            assert_eq!(pick(&model, &client), Some(0));
            model.dests[0].overloaded = true;
            assert_eq!(pick(&model, &client), expected);
            (model.dests[0].overloaded, model.dests[0].build.weight) = (false, 0);
            assert_eq!(pick(&model, &client), expected);
            // An empty slot ends the search.
            model.table[2 * home] = 0;
            assert_eq!(pick(&model, &client), None);
        }
    }

    #[test]
    fn fallback_comes_through_every_slot() {
        let mut model = Model::with(Scheduler::Sh, FALLBACK, &[1, 1]);
        model.dests[0].overloaded = true;
        let clients: Vec<Ask> = (0..200).map(|n| ask([10, 1, 2, n], 0)).collect();
        for slot in [0, 77, 78, 255] {
            model.table.fill(1);
            model.table[slot] = 2;
            for client in &clients {
                assert_eq!(pick(&model, client), Some(1), "slot {slot}");
            }
        }
        model.dests[1].overloaded = true;
        assert_eq!(pick(&model, &clients[0]), None);
    }
}
