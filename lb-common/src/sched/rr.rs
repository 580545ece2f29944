//! Round robin: the next dest after the last one picked, newest first, weights ignored (but 0 is never picked).
//!
//! Cursor: the place in the list of the last pick plus 1; 0 = the head itself, from which the walk starts after a
//! service is made. IPVS points to the dest itself, so that the cursor moves with it; here the control side moves the
//! number when the list changes ([`carry`]).

use core::ops::ControlFlow;

use super::cursor::{Step, advance, around};
use super::{BuildDest, View};

#[repr(C, align(8))]
struct Walk {
    /// Place of the pick, and its dest plus 1.
    at: u32,
    dest: u32,
    start: u32,
    count: u32,
}

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    advance(view, |view, cursor| {
        let count = view.service().dests;
        // Beyond the end: left by a pick that ran while the list was changed.
        let start = if cursor > count as u64 { 0 } else { cursor as u32 };
        let mut walk = Walk { at: 0, dest: 0, start, count };
        // Nearly always it is the very next: no walk then.
        let (at, _) = around(start, 0, count);
        if let Some(next) = view.candidate(at)
            && next.eligible()
        {
            return Step { cursor: at as u64 + 1, dest: next.word() };
        }
        // From the dest after the cursor once around, the cursor's own dest last.
        view.walk(count, &mut walk, |view, walk, i| {
            let (at, _) = around(walk.start, i, walk.count);
            match view.candidate(at) {
                Some(c) if c.eligible() => {
                    (walk.at, walk.dest) = (at, c.word());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        });
        let cursor = if walk.dest == 0 { cursor } else { walk.at as u64 + 1 };
        Step { cursor, dest: walk.dest }
    })
}

/// The cursor when dest list `old` becomes `new`: on the same dest; if that is gone, on its nearest predecessor that
/// is not; else on the head. An insertion at the head moves everything by one.
pub fn carry(old: &[u32], new: &[BuildDest], cursor: u64) -> u64 {
    let before = old.get(..cursor as usize).unwrap_or_default();
    let place = before.iter().rev().find_map(|dest| new.iter().position(|n| n.dest == *dest));
    place.map_or(0, |p| p as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use proptest::prelude::*;
    use std::vec::Vec;

    /// IPVS's own way: the cursor is the dest itself, or the head.
    #[derive(Default)]
    struct Pointer {
        list: Vec<u32>,
        at: Option<u32>,
    }

    impl Pointer {
        fn pick(&mut self, model: &Model) -> Option<u32> {
            let after = self.at.map_or(0, |at| self.list.iter().position(|d| *d == at).unwrap() + 1);
            let around = self.list[after..].iter().chain(&self.list[..after]);
            let found = around.copied().find(|d| {
                let slot = &model.dests[*d as usize];
                !slot.overloaded && slot.build.weight > 0
            })?;
            self.at = Some(found);
            self.at
        }
        fn delete(&mut self, dest: u32) {
            let place = self.list.iter().position(|d| *d == dest).unwrap();
            if self.at == Some(dest) {
                self.at = place.checked_sub(1).map(|before| self.list[before]);
            }
            self.list.remove(place);
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Add(u32),
        Delete(usize),
        AddAgain(usize),
        Edit(usize, u32),
        Overload(usize),
        Pick(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            2 => (0..3u32).prop_map(Act::Add),
            1 => (0..8usize).prop_map(Act::Delete),
            1 => (0..8usize).prop_map(Act::AddAgain),
            1 => (0..8usize, 0..3u32).prop_map(|(d, w)| Act::Edit(d, w)),
            1 => (0..8usize).prop_map(Act::Overload),
            4 => (1..6usize).prop_map(Act::Pick),
        ]
    }

    proptest! {
        #[test]
        fn equals_the_pointer(acts in prop::collection::vec(act(), 0..40)) {
            let mut model = Model::new(Scheduler::Rr, 0);
            let mut pointer = Pointer::default();
            for act in acts {
                let listed = |i: usize, l: &[u32]| l.get(i).copied();
                match act {
                    Act::Add(weight) => {
                        let dest = model.add(weight);
                        pointer.list.insert(0, dest);
                    }
                    Act::Delete(i) => if let Some(dest) = listed(i, &pointer.list) {
                        model.delete(dest);
                        pointer.delete(dest);
                    },
                    Act::AddAgain(i) => if i < model.dests.len() && !model.dests[i].available {
                        model.add_again(i as u32, 1);
                        pointer.list.insert(0, i as u32);
                    },
                    Act::Edit(i, weight) => if let Some(dest) = listed(i, &pointer.list) {
                        model.edit(dest, weight);
                    },
                    Act::Overload(i) => if let Some(dest) = listed(i, &pointer.list) {
                        let slot = &mut model.dests[dest as usize];
                        slot.overloaded = !slot.overloaded;
                    },
                    Act::Pick(n) => for _ in 0..n {
                        prop_assert_eq!(pick(&model, &Ask::default()), pointer.pick(&model));
                    },
                }
            }
        }
    }

    #[test]
    fn changes_of_the_list() {
        let mut model = Model::with(Scheduler::Rr, 0, &[1, 1, 1]);
        assert_eq!(model.letters(2), "CB");
        // The cursor's dest goes: its predecessor C was before B, so A is next.
        model.delete(1);
        assert_eq!(model.letters(2), "AC");
        // D comes before the cursor (C) and so is last of this round.
        model.add(1);
        assert_eq!(model.letters(3), "ADC");
        // B again, at the head: the same.
        model.add_again(1, 1);
        assert_eq!(model.letters(4), "ABDC");
        for dest in 0..4 {
            model.delete(dest);
        }
        assert_eq!(model.letters(1), "-");
        model.add_again(2, 1);
        assert_eq!(model.letters(2), "CC");
    }

    #[test]
    fn another_cpu_takes_the_step() {
        let model = Model::with(Scheduler::Rr, 0, &[1, 1, 1]);
        model.intruder.set(Some(|model| assert_eq!(pick(model, &Ask::default()), Some(2))));
        assert_eq!(pick(&model, &Ask::default()), Some(1));
        assert_eq!(pick(&model, &Ask::default()), Some(0));
    }

    #[test]
    fn a_cursor_beyond_the_end_starts_over() {
        let model = Model::with(Scheduler::Rr, 0, &[1, 1]);
        model.state.cursor.store(u64::MAX);
        assert_eq!(pick(&model, &Ask::default()), Some(1));
    }
}
