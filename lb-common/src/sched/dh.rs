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

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use crate::addr::Addr;

    #[test]
    fn by_destination() {
        let mut model = Model::with(Scheduler::Dh, 0, &[1, 0, 5]);
        let to = |addr| Ask { destination: Addr::v4(addr).fold(), source: 7, ..Ask::default() };
        // Slots C B A C B A …, weights ignored; 39 is C's, 89 A's, 124 B's.
        assert_eq!(model.table[..4], [3, 2, 1, 3]);
        assert_eq!(model.table.len(), 256);
        assert_eq!(pick(&model, &to([10, 0, 0, 1])), Some(2));
        assert_eq!(pick(&model, &to([192, 168, 1, 100])), Some(0));
        // B has weight 0, and there is no fallback.
        assert_eq!(pick(&model, &to([203, 0, 113, 7])), None);
        model.edit(1, 1);
        assert_eq!(pick(&model, &to([203, 0, 113, 7])), Some(1));
        model.dests[1].overloaded = true;
        assert_eq!(pick(&model, &to([203, 0, 113, 7])), None);
        model.dests[1].overloaded = false;
        model.dests[1].available = false;
        assert_eq!(pick(&model, &to([203, 0, 113, 7])), None);
        // C B A without B: C A C A …, 124 is C's.
        model.delete(1);
        assert_eq!(pick(&model, &to([203, 0, 113, 7])), Some(2));
    }
}
