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

#[repr(C, align(8))]
struct Rest {
    /// Place of the pick, and its dest plus 1.
    at: u32,
    dest: u32,
    /// The highest weight of any dest that is not overloaded, when none was picked.
    highest: u32,
    level: u32,
    start: u32,
    count: u32,
}

#[repr(C, align(8))]
struct Pass {
    at: u32,
    dest: u32,
    level: u32,
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
        let mut rest = Rest { at: 0, dest: 0, highest: 0, level: mark.level, start: mark.place, count };
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
        let mut pass = Pass { at: 0, dest: 0, level: mark.level };
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

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use super::Mark;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// IPVS's own walk, dest by dest and level by level. `at`: place of the cursor plus 1, 0 = head.
    #[derive(Debug, Default)]
    struct Walk {
        at: usize,
        level: i64,
        max: i64,
        step: i64,
    }

    impl Walk {
        fn changed(&mut self, model: &Model) {
            let weights = model.list.iter().map(|d| model.dests[*d as usize].build.weight as i64);
            let positive: Vec<i64> = weights.filter(|w| *w > 0).collect();
            self.step = (1..=positive.iter().copied().min().unwrap_or(1))
                .rev()
                .find(|g| positive.iter().all(|w| w % g == 0))
                .unwrap_or(1);
            self.max = positive.iter().max().unwrap_or(&0) - (self.step - 1);
            self.at = 0;
            if self.level > self.max || self.level == 0 {
                self.level = self.max;
            } else if self.step > 1 {
                self.level = self.level / self.step * self.step + 1;
            }
        }

        fn pick(&mut self, model: &Model) -> Option<u32> {
            if self.max == 0 {
                return None;
            }
            let (last, mut last_pass, mut restarted, mut stop) = (self.at, false, false, None);
            loop {
                while self.at < model.list.len() {
                    self.at += 1;
                    let dest = model.list[self.at - 1];
                    let slot = &model.dests[dest as usize];
                    if !slot.overloaded && slot.build.weight as i64 >= self.level {
                        return Some(dest);
                    }
                    if Some(self.at) == stop {
                        return None;
                    }
                }
                self.at = 0;
                self.level -= self.step;
                if self.level <= 0 {
                    self.level = self.max;
                    if last_pass || last == 0 {
                        return None;
                    }
                    restarted = true;
                }
                last_pass = self.level <= self.step;
                if last_pass && restarted && last != 0 {
                    stop = Some(last);
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Add(u32),
        Delete(usize),
        Edit(usize, u32),
        Overload(usize),
        Pick(usize),
    }

    fn weight() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), 1..10u32, (1..6u32).prop_map(|w| 12 * w)]
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            2 => weight().prop_map(Act::Add),
            1 => (0..8usize).prop_map(Act::Delete),
            1 => (0..8usize, weight()).prop_map(|(d, w)| Act::Edit(d, w)),
            3 => (0..8usize).prop_map(Act::Overload),
            4 => (1..12usize).prop_map(Act::Pick),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn equals_the_long_walk(acts in prop::collection::vec(act(), 0..40)) {
            let mut model = Model::new(Scheduler::Wrr, 0);
            let mut walk = Walk::default();
            for act in acts {
                let listed = |i: usize, model: &Model| model.list.get(i).copied();
                match act {
                    Act::Add(weight) => {
                        model.add(weight);
                        walk.changed(&model);
                    }
                    Act::Delete(i) => if let Some(dest) = listed(i, &model) {
                        model.delete(dest);
                        walk.changed(&model);
                    },
                    Act::Edit(i, weight) => if let Some(dest) = listed(i, &model) {
                        model.edit(dest, weight);
                        walk.changed(&model);
                    },
                    Act::Overload(i) => if let Some(dest) = listed(i, &model) {
                        let slot = &mut model.dests[dest as usize];
                        slot.overloaded = !slot.overloaded;
                    },
                    Act::Pick(n) => for _ in 0..n {
                        prop_assert_eq!(pick(&model, &Ask::default()), walk.pick(&model));
                        let mark = Mark::from_word(model.state.cursor.load());
                        prop_assert_eq!((mark.place as usize, mark.level as i64), (walk.at, walk.level));
                    },
                }
            }
        }

        #[test]
        fn a_round_is_proportional(weights in prop::collection::vec(0..9u32, 1..8)) {
            let mut model = Model::with(Scheduler::Wrr, 0, &weights);
            let gcd = model.service.gcd;
            let round = weights.iter().sum::<u32>() / gcd;
            // To the start of a round: the head, at the highest level.
            let start = Mark { place: 0, level: model.service.max_weight };
            model.state.cursor.store(start.word());
            for _ in 0..2 {
                let mut counts = std::vec![0; weights.len()];
                for _ in 0..round {
                    counts[model.connect(&Ask::default()).unwrap() as usize] += gcd;
                }
                prop_assert_eq!(&counts, &weights);
            }
        }
    }

    #[test]
    fn huge_weights_take_no_more_steps() {
        let mut model = Model::with(Scheduler::Wrr, 0, &[i32::MAX as u32, 1]);
        // A alone was at level 1, which is a round of both; then A down from the top.
        assert_eq!(model.letters(5), "BAAAA");
        model.dests[0].overloaded = true;
        assert_eq!(model.letters(3), "BBB");
        model.dests[1].overloaded = true;
        assert_eq!(model.letters(1), "-");
    }

    #[test]
    fn another_cpu_takes_the_step() {
        let model = Model::with(Scheduler::Wrr, 0, &[1, 2, 3]);
        model.intruder.set(Some(|model| {
            for expected in [2, 1, 0, 2] {
                assert_eq!(pick(model, &Ask::default()), Some(expected));
            }
        }));
        // C B A C, then C: as the reference sequence, with this pick the fifth.
        assert_eq!(pick(&model, &Ask::default()), Some(2));
        assert_eq!(pick(&model, &Ask::default()), Some(1));
    }
}
