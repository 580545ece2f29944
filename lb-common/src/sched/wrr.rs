//! Weighted round robin: rounds of falling weight, so that heavy dests come again before light ones come once.
//!
//! A level goes down from the highest weight in steps of the greatest common divisor; at each level the list is walked
//! once, and dests at least that heavy are picked. Cursor: level in the upper half; in the lower the place of the last
//! pick plus 1, 0 = the head. A level survives changes of the list, see [`remember`].

use core::ops::ControlFlow;

use super::cursor::{Step, advance, around};
use super::{BuildDest, Memory, View, control};

/// Where the walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Place of the last pick plus 1.
    place: u32,
    level: u32,
}

impl Mark {
    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { place: word as u32, level: (word >> 32) as u32 }
    }
    #[inline(always)]
    const fn word(self) -> u64 {
        (self.level as u64) << 32 | self.place as u64
    }
}

struct Rest {
    start: u32,
    count: u32,
    level: u32,
    /// The highest weight of any dest that is not overloaded, when none was picked.
    highest: u32,
    /// Place of the pick, and its dest plus 1.
    at: u32,
    dest: u32,
}

struct Pass {
    level: u32,
    at: u32,
    dest: u32,
}

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    advance(view, |view, cursor| {
        let (count, gcd, max) = (view.service().dests, view.service().gcd, view.service().max_weight);
        if max == 0 {
            return Step { cursor, dest: 0 };
        }
        let mut mark = Mark::from_word(cursor);
        // Out of range: left by a pick that ran while the list was changed.
        if mark.place > count {
            mark.place = 0;
        }
        if mark.level == 0 || mark.level > max {
            mark.level = max;
        }

        // The rest of the list at this level; and around to its start, to know how far the level will have to fall.
        let mut rest = Rest { start: mark.place, count, level: mark.level, highest: 0, at: 0, dest: 0 };
        view.walk(count, &mut rest, |view, rest, i| {
            let (at, passed_end) = around(rest.start, i, rest.count);
            if let Some(c) = view.candidate(at)
                && !c.overloaded
            {
                if !passed_end && c.weight >= rest.level {
                    (rest.at, rest.dest) = (at, c.word());
                    return ControlFlow::Break(());
                }
                if c.weight > rest.highest {
                    rest.highest = c.weight;
                }
            }
            ControlFlow::Continue(())
        });
        if rest.dest != 0 {
            let mark = Mark { place: rest.at.wrapping_add(1), level: mark.level };
            return Step { cursor: mark.word(), dest: rest.dest };
        }

        // From the head, at the first lower level that anyone reaches.
        let mark = match lower(mark, gcd, max, rest.highest) {
            Ok(level) => Mark { place: 0, level },
            Err(mark) => return Step { cursor: mark.word(), dest: 0 },
        };
        let mut pass = Pass { level: mark.level, at: 0, dest: 0 };
        view.walk(count, &mut pass, |view, pass, at| match view.candidate(at) {
            Some(c) if !c.overloaded && c.weight >= pass.level => {
                (pass.at, pass.dest) = (at, c.word());
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        if pass.dest == 0 {
            // Only if that dest was overloaded or edited a moment ago.
            return Step { cursor, dest: 0 };
        }
        let mark = Mark { place: pass.at.wrapping_add(1), level: mark.level };
        Step { cursor: mark.word(), dest: pass.dest }
    })
}

/// The level at which the next pass from the head finds somebody, when nobody is heavier than `highest`. IPVS walks the
/// list at every level in between; the result is the same. `Err`: all are overloaded; where its walk would have ended.
#[inline(always)]
fn lower(mark: Mark, gcd: u32, max: u32, highest: u32) -> Result<u32, Mark> {
    // Below the lowest level comes the highest again. IPVS gives up there if every dest has by then been tried at the
    // lowest, which is not so when that pass began in the middle of the list.
    let fell = mark.level.saturating_sub(gcd);
    if fell == 0 && mark.place == 0 {
        return Err(Mark { place: 0, level: max });
    }
    let start = if fell == 0 { max } else { fell };
    let above = start.saturating_sub(highest) as u64;
    let skip = (above + (gcd as u64).saturating_sub(1)).checked_div(gcd as u64).unwrap_or(0) * gcd as u64;
    if skip < start as u64 {
        return Ok(start - skip as u32);
    }
    if fell == 0 {
        // It stops at the dest it started behind, at the lowest level.
        let lowest = start.wrapping_sub(1).checked_rem(gcd).unwrap_or(0) + 1;
        return Err(Mark { place: mark.place, level: lowest });
    }
    Err(Mark { place: 0, level: max })
}

/// What the service and its cursor are after a dest was added, deleted or edited: the walk starts at the head again,
/// at the level it was on, unless that is now too high. So the first round of a service that was built up dest by dest
/// is usually at level 1.
pub fn remember(dests: &[BuildDest], cursor: u64) -> Memory {
    let weights = || dests.iter().map(|d| d.weight);
    let gcd = weights().fold(0, control::gcd).max(1);
    let max = weights().max().unwrap_or(0).saturating_sub(gcd - 1);
    let level = match Mark::from_word(cursor).level {
        level if level == 0 || level > max => max,
        level if gcd > 1 => level / gcd * gcd + 1,
        level => level,
    };
    Memory { cursor: Mark { place: 0, level }.word(), gcd, max_weight: max }
}
