//! Round robin: the next dest after the last one picked, newest first, weights ignored (but 0 is never picked).
//!
//! Cursor: the place in the list of the last pick plus 1; 0 = the head itself, from which the walk starts after a
//! service is made. IPVS points to the dest itself, so that the cursor moves with it; here the control side moves the
//! number when the list changes ([`carry`]).

use core::ops::ControlFlow;

use super::cursor::{Step, advance, around};
use super::{BuildDest, View};

struct Walk {
    start: u32,
    count: u32,
    /// Place of the pick, and its dest plus 1.
    at: u32,
    dest: u32,
}

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    advance(view, |view, cursor| {
        let count = view.service().dests;
        // Beyond the end: left by a pick that ran while the list was changed.
        let start = if cursor > count as u64 { 0 } else { cursor as u32 };
        let mut walk = Walk { start, count, at: 0, dest: 0 };
        // From the dest after the cursor once around, the cursor's own dest last.
        view.walk(count, &mut walk, |view, walk, i| {
            let (at, _) = around(walk.start, i, walk.count);
            match view.candidate(at) {
                Some(c) if c.eligible() => {
                    (walk.at, walk.dest) = (at, c.word());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        });
        let cursor = if walk.dest == 0 { cursor } else { walk.at as u64 + 1 };
        Step { cursor, dest: walk.dest }
    })
}

/// The cursor when dest list `old` becomes `new`: on the same dest; if that is gone, on its nearest predecessor that
/// is not; else on the head. An insertion at the head moves everything by one.
pub fn carry(old: &[u32], new: &[BuildDest], cursor: u64) -> u64 {
    let before = old.get(..cursor as usize).unwrap_or_default();
    let place = before.iter().rev().find_map(|dest| new.iter().position(|n| n.dest == *dest));
    place.map_or(0, |p| p as u64 + 1)
}
