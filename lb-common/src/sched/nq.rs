//! Never queue: the first idle dest (no active connection), however light; when all are busy, as sed.

use core::ops::ControlFlow;

use super::{Best, View, by_tree, sed};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    by_tree(view, walk)
}

#[inline(always)]
fn walk<V: View>(view: &V) -> Option<u32> {
    let mut best = Best::none();
    view.walk(view.service().dests, &mut best, |view, best, at| {
        if let Some(c) = view.candidate(at)
            && c.eligible()
        {
            let new = Best { cost: sed::delay(&c), weight: c.weight, word: c.word() };
            if c.active == 0 || best.word == 0 || new.cheaper_per_weight(best) {
                *best = new;
            }
            if c.active == 0 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    best.word.checked_sub(1)
}
