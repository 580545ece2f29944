//! Shortest expected delay: the smallest (active + 1) per weight, as if the new connection were already there.
//!
//! Inactive connections do not count, so UDP, which never has active ones, all goes to the heaviest dest.

use super::{Best, Candidate, View, by_tree};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    by_tree(view, |view| {
        Best::of(view, |c: &Candidate| c.eligible().then(|| delay(c)), Best::cheaper_per_weight)
    })
}

/// What the new connection would find, itself included.
#[inline(always)]
pub(super) fn delay(c: &Candidate) -> u64 {
    c.active as u64 + 1
}
