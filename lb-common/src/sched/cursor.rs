//! The word by which rr and wrr remember where they are, and how CPUs share it.
//!
//! IPVS holds a lock over the whole pick. Here a pick is computed from the word it read and published by
//! compare-and-exchange: of two CPUs that start from the same word one wins, the other starts again from the
//! winner's. So no two picks share a step and none is lost, and the sequence of picks is the kernel's in some order
//! of the packets.

use core::ops::ControlFlow;

use super::View;

/// How often a pick starts again before it stores its result over whatever is there. To lose a turn takes another
/// CPU's pick in the same few nanoseconds, so this bound is for the verifier; the price of reaching it is that two
/// picks may have shared a step.
const RETRIES: u32 = 8;

/// The outcome of a pick from one word.
#[derive(Clone, Copy)]
pub struct Step {
    /// The word to leave.
    pub cursor: u64,
    /// The dest picked plus 1; 0 = none.
    pub dest: u32,
}

/// Takes a step no other CPU takes.
#[inline(always)]
pub fn advance<V: View>(view: &V, step: impl Fn(&V, u64) -> Step + Copy) -> Option<u32> {
    let cursor = &view.state().cursor;
    let old = cursor.load();
    let taken = step(view, old);
    if taken.cursor == old || cursor.compare_exchange(old, taken.cursor) {
        return taken.dest.checked_sub(1);
    }
    let mut dest = 0;
    view.walk(RETRIES, &mut dest, move |view, dest, at| {
        let cursor = &view.state().cursor;
        let old = cursor.load();
        let taken = step(view, old);
        *dest = taken.dest;
        if taken.cursor == old || cursor.compare_exchange(old, taken.cursor) {
            return ControlFlow::Break(());
        }
        if at + 1 >= RETRIES {
            cursor.store(taken.cursor);
        }
        ControlFlow::Continue(())
    });
    dest.checked_sub(1)
}

/// Place `i` of a walk once around a list that starts at place `start`, with whether the end has been passed.
#[inline(always)]
pub fn around(start: u32, i: u32, count: u32) -> (u32, bool) {
    let at = start.wrapping_add(i);
    if at >= count { (at.wrapping_sub(count), true) } else { (at, false) }
}
