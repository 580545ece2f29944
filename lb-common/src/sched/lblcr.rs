//! Locality-based least connections with replication: a destination address has a set of dests, which grows while its
//! traffic is too much for them and shrinks after a day.

use core::ops::ControlFlow;

use super::cache::{self, Cached, SET};
use super::{Best, View, wlc};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    let Some(entry) = view.cached() else {
        let number = wlc::pick(view)?;
        view.remember(number.wrapping_add(1));
        return Some(number);
    };
    let now = view.seconds();
    entry.used.store(now);
    let least = least(view, entry);
    if now.wrapping_sub(entry.changed.load()) as i32 > view.set_expiration() as i32
        && entry.set[1].load() != 0
    {
        shrink(view, entry, now);
    }
    if let Some(number) = least.checked_sub(1)
        && let Some(c) = view.dest(number)
        && !cache::loaded(view, &c)
    {
        return Some(number);
    }
    let number = wlc::pick(view)?;
    insert(view, entry, number.wrapping_add(1), now);
    Some(number)
}

#[repr(C)]
struct Scan<'a> {
    best: Best,
    entry: &'a Cached,
}

/// The member of smallest load per weight, newest first, as number plus 1.
#[inline(always)]
fn least<V: View>(view: &V, entry: &Cached) -> u32 {
    let mut scan = Scan { best: Best::none(), entry };
    view.walk(SET as u32, &mut scan, |view, scan, at| {
        let word = scan.entry.newest(at).load();
        if let Some(number) = word.checked_sub(1)
            && let Some(c) = view.dest(number)
            && c.eligible()
            && c.available
        {
            let new = Best { cost: c.load(), weight: c.weight, word };
            if scan.best.word == 0 || new.cheaper_per_weight(&scan.best) {
                scan.best = new;
            }
        }
        ControlFlow::Continue(())
    });
    scan.best.word
}

/// Takes the most loaded member out.
#[inline(always)]
fn shrink<V: View>(view: &V, entry: &Cached, now: u32) {
    let mut scan = Scan { best: Best::none(), entry };
    view.walk(SET as u32, &mut scan, |view, scan, at| {
        let word = scan.entry.newest(at).load();
        if let Some(number) = word.checked_sub(1)
            && let Some(c) = view.dest(number)
            && c.weight > 0
        {
            let new = Best { cost: c.load(), weight: c.weight, word };
            if scan.best.word == 0 || scan.best.cheaper_per_weight(&new) {
                scan.best = new;
            }
        }
        ControlFlow::Continue(())
    });
    // Two CPUs may come here at once: this word is changed by one of them only, and then not again for a day.
    let changed = entry.changed.load();
    if scan.best.word == 0 || changed == now || !entry.changed.compare_exchange(changed, now) {
        return;
    }
    // All newer ones move down by a place. A pick that reads meanwhile may miss one.
    let mut shift = Shift { carried: 0, word: scan.best.word, entry };
    view.walk(SET as u32, &mut shift, |_, shift, at| {
        let slot = shift.entry.newest(at);
        let there = slot.load();
        slot.store(shift.carried);
        shift.carried = there;
        if there == shift.word { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

#[repr(C, align(8))]
struct Shift<'a> {
    carried: u32,
    word: u32,
    entry: &'a Cached,
}

/// Adds a member, unless it is one.
#[inline(always)]
fn insert<V: View>(view: &V, entry: &Cached, word: u32, now: u32) {
    let mut place = Place { new: 0, word, entry };
    view.walk(SET as u32, &mut place, |_, place, at| {
        let slot = place.entry.oldest(at);
        let there = slot.load();
        if there == place.word {
            return ControlFlow::Break(());
        }
        // The first free place; if another CPU takes it, the next. The last is taken from whoever has it.
        if (there == 0 || at + 1 >= SET as u32) && slot.compare_exchange(there, place.word) {
            place.new = 1;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if place.new != 0 {
        entry.changed.store(now);
    }
}

#[repr(C, align(8))]
struct Place<'a> {
    new: u32,
    word: u32,
    entry: &'a Cached,
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use super::*;
    use std::vec::Vec;

    fn members(model: &Model) -> Vec<u32> {
        let words = model.cache.get().unwrap().set.iter().map(|w| w.load());
        words.take_while(|w| *w != 0).map(|w| w - 1).collect()
    }

    #[test]
    fn grows_and_shrinks() {
        let mut model = Model::with(Scheduler::Lblcr, 0, &[2, 2, 2]);
        // C until above its weight; then B joins and, less loaded, takes all until it is, too; then A.
        assert_eq!(model.letters(3), "CCC");
        assert_eq!(members(&model), [2]);
        model.seconds = 5;
        assert_eq!(model.letters(3), "BBB");
        assert_eq!(members(&model), [2, 1]);
        assert_eq!(model.letters(3), "AAA");
        assert_eq!(members(&model), [2, 1, 0]);
        // Nobody is half idle: the least loaded of the set, ties to its newest.
        assert_eq!(model.letters(4), "ABCA");
        // A day after the last change it loses its most loaded member.
        model.seconds = 5 + 86_400;
        assert_eq!(model.letters(1), "B");
        assert_eq!(members(&model).len(), 3);
        model.seconds += 1;
        assert_eq!(model.letters(1), "C");
        assert_eq!(members(&model), [2, 1]);
        assert_eq!(model.letters(1), "B");
        assert_eq!(members(&model), [2, 1]);
    }

    #[test]
    fn unavailable_members() {
        let mut model = Model::with(Scheduler::Lblcr, 0, &[9, 9]);
        assert_eq!(model.letters(1), "B");
        // Unlike with lblc, thresholds stop a member.
        model.dests[1].overloaded = true;
        assert_eq!(model.letters(1), "A");
        assert_eq!(members(&model), [1, 0]);
        model.edit(0, 0);
        assert_eq!(model.letters(1), "-");
        model.dests[1].overloaded = false;
        model.delete(1);
        assert_eq!(model.letters(1), "-");
        model.edit(0, 1);
        assert_eq!(model.letters(1), "A");
    }

    #[test]
    fn a_full_set_replaces_its_newest() {
        let mut model = Model::with(Scheduler::Lblcr, 0, &[1; SET + 2]);
        for dest in (0..SET as u32 + 2).rev() {
            assert_eq!(pick(&model, &Ask::default()), Some(dest));
            model.dests[dest as usize].overloaded = true;
        }
        let set = members(&model);
        assert_eq!(set.len(), SET);
        assert_eq!((set[0], set[SET - 2], set[SET - 1]), (SET as u32 + 1, 3, 0));
    }
}
