//! Weighted failover: the heaviest dest that is up; the others are spares.

use super::{Best, Candidate, View};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    Best::of(view, |c: &Candidate| c.eligible().then_some(0), |new, old| new.weight > old.weight)
}
