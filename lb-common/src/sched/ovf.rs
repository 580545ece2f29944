//! Weighted overflow: the heaviest dest until its active connections exceed its weight, then the next.
//!
//! When all are full there is none left: IPVS has no overflow of last resort.

use super::{Best, Candidate, View};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    Best::of(
        view,
        |c: &Candidate| (c.eligible() && c.active <= c.weight).then_some(0),
        |new, old| new.weight > old.weight,
    )
}
