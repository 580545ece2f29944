//! Least connections: the smallest load, weights ignored (but 0 is never picked).

use super::{Best, Candidate, View, by_tree};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    by_tree(view, |view| {
        Best::of(view, |c: &Candidate| c.eligible().then(|| c.load()), |new, old| new.cost < old.cost)
    })
}
