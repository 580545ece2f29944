//! Weighted least connections: the smallest load per weight.

use super::{Best, Candidate, View};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    Best::of(view, |c: &Candidate| c.eligible().then(|| c.load()), Best::cheaper_per_weight)
}
