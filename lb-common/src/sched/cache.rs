//! What lblc and lblcr remember of a destination address: where its traffic went before.

use core::ops::ControlFlow;

use super::{Candidate, View};
use crate::cell::Cell32;

/// Members of a set. IPVS has no limit; here an insertion beyond it takes the newest member's place. A set grows by
/// one only when all its members have more connections than their weight while some other dest is half idle.
pub const SET: usize = 16;

/// One address's entry in a service's cache. 72 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Cached {
    /// When it was last used, in [`View::seconds`]: the sweep drops idle entries.
    pub used: Cell32,
    /// When the set last changed.
    pub changed: Cell32,
    /// The dests plus 1, oldest first, then zeros. lblc has one only.
    pub set: [Cell32; SET],
}

impl Cached {
    /// An entry for one dest (its number plus 1).
    pub fn new(word: u32, seconds: u32) -> Self {
        let entry = Self::default();
        entry.used.store(seconds);
        entry.changed.store(seconds);
        entry.set[0].store(word);
        entry
    }

    /// Place `at` of the set, counted from its last, so that a walk meets the newest first: IPVS inserts at the head of
    /// a list, and ties stay there.
    #[inline(always)]
    pub(super) fn newest(&self, at: u32) -> &Cell32 {
        self.oldest((SET as u32 - 1).wrapping_sub(at))
    }

    /// Place `at` of the set, counted from its first.
    #[inline(always)]
    pub(super) fn oldest(&self, at: u32) -> &Cell32 {
        &self.set[at as usize % SET]
    }
}

/// A cached dest that should not get more: above its weight while some dest of the service is below half of its own.
#[inline(always)]
pub fn loaded<V: View>(view: &V, c: &Candidate) -> bool {
    if c.active <= c.weight {
        return false;
    }
    let mut idle = 0u32;
    view.walk(view.service().dests, &mut idle, |view, idle, at| match view.candidate(at) {
        Some(c) if (c.active as u64) * 2 < c.weight as u64 => {
            *idle = 1;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    idle != 0
}
