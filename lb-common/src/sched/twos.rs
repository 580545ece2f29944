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
