//! Power of two choices: two dests drawn at random by weight; the less loaded of them.

use core::ops::ControlFlow;

use super::{Candidate, View};

/// A draw on its way through the list: what is left of its number, and whom it has hit (dest plus 1; 0 = nobody).
#[derive(Clone, Copy)]
struct Draw {
    left: u64,
    weight: u32,
    load: u32,
    word: u32,
}

impl Draw {
    /// A number from 0 to `sum`, both included, as IPVS draws it. So 0 and 1 both mean the first dest, which thus gets
    /// a little more than its share.
    #[inline(always)]
    fn new(random: u32, sum: u64) -> Self {
        let sum = if sum >= u32::MAX as u64 { u32::MAX as u64 } else { sum + 1 };
        Self { left: (random as u64 * sum) >> 32, weight: 0, load: 0, word: 0 }
    }

    #[inline(always)]
    fn pass(&mut self, c: &Candidate) {
        if self.word == 0 {
            self.left = self.left.saturating_sub(c.weight as u64);
            if self.left == 0 {
                (self.weight, self.load, self.word) = (c.weight, c.load() as u32, c.word());
            }
        }
    }
}

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    let mut sum = 0u64;
    view.walk(view.service().dests, &mut sum, |view, sum, at| {
        if let Some(c) = view.candidate(at)
            && c.eligible()
        {
            *sum = sum.wrapping_add(c.weight as u64);
        }
        ControlFlow::Continue(())
    });
    let mut draws = (Draw::new(view.random(), sum), Draw::new(view.random(), sum));
    view.walk(view.service().dests, &mut draws, |view, draws, at| {
        if let Some(c) = view.candidate(at)
            && c.eligible()
        {
            draws.0.pass(&c);
            draws.1.pass(&c);
            if draws.0.word != 0 && draws.1.word != 0 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    let (first, second) = draws;
    // 32-bit signed products, as in IPVS: with weights in the ten thousands they wrap.
    let product = |weight: u32, load: u32| weight.wrapping_mul(load) as i32;
    let second_is_better = product(second.weight, first.load) > product(first.weight, second.load);
    if second_is_better { second } else { first }.word.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use super::*;

    fn counts(model: &Model, picks: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..picks {
            counts[pick(model, &Ask::default()).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws() {
        let c = |dest, weight| Candidate {
            dest,
            weight,
            active: 0,
            total: 0,
            overloaded: false,
            available: true,
        };
        // Over weights 2 and 3: 0, 1, 2 mean the first, 3, 4, 5 the second.
        for (number, expected) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)] {
            let random = ((number as u64 * (1 << 32) + (1 << 31)) / 6) as u32;
            let mut draw = Draw::new(random, 5);
            assert_eq!(draw.left, number as u64);
            draw.pass(&c(0, 2));
            draw.pass(&c(1, 3));
            assert_eq!(draw.word, expected, "{number}");
        }
    }

    #[test]
    fn by_weight_and_load() {
        let mut model = Model::with(Scheduler::Twos, 0, &[10, 20, 70]);
        // No load: the first draw decides, by weight.
        for (count, share) in counts(&model, 10_000).iter().zip([1000, 2000, 7000usize]) {
            assert!(count.abs_diff(share) < 400, "{count} of {share}");
        }
        // A loaded dest gets only what draws it twice.
        model.dests[2].total = 1000;
        let loaded = counts(&model, 10_000)[2];
        assert!(loaded.abs_diff(4900) < 400, "{loaded}");
        model.dests[2].overloaded = true;
        assert_eq!(counts(&model, 1000)[2], 0);
        model.edit(1, 0);
        assert_eq!(counts(&model, 100), [100, 0, 0]);
        model.edit(0, 0);
        assert_eq!(pick(&model, &Ask::default()), None);
    }
}
