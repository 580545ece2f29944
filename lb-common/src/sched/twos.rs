//! Power of two choices: two dests drawn at random by weight; the less loaded of them.

use core::ops::ControlFlow;

use super::View;

/// A draw on its way through the list: whom it has hit (dest plus 1; 0 = nobody), and what is left of its number.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Draw {
    word: u32,
    weight: u32,
    load: u32,
    left: u32,
}

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    // 32 bits, as in IPVS. In 64 the verifier sees a larger range at every step and finds no end.
    let mut sum = 0u32;
    view.walk(view.service().dests, &mut sum, |view, sum, at| {
        if let Some(c) = view.candidate(at)
            && c.eligible()
        {
            *sum = sum.wrapping_add(c.weight);
        }
        ControlFlow::Continue(())
    });
    // A walk each: both in one have more branches than the verifier follows.
    let first = draw(view, number(view.random(), sum));
    let second = draw(view, number(view.random(), sum));
    // 32-bit signed products, as in IPVS: with weights in the ten thousands they wrap.
    let product = |weight: u32, load: u32| weight.wrapping_mul(load) as i32;
    let second_is_better = product(second.weight, first.load) > product(first.weight, second.load);
    if second_is_better { second } else { first }.word.checked_sub(1)
}

/// A number from 0 to `sum`, both included, as IPVS draws it. So 0 and 1 both mean a first dest of weight 1, which thus
/// gets a little more than its share.
#[inline(always)]
fn number(random: u32, sum: u32) -> u32 {
    ((random as u64 * sum.wrapping_add(1) as u64) >> 32) as u32
}

/// The dest at which the weights, summed up in list order, reach `number`.
#[inline(always)]
fn draw<V: View>(view: &V, number: u32) -> Draw {
    let mut draw = Draw { word: 0, weight: 0, load: 0, left: number };
    view.walk(view.service().dests, &mut draw, |view, draw, at| {
        if let Some(c) = view.candidate(at)
            && c.eligible()
        {
            if draw.left <= c.weight {
                (draw.weight, draw.load, draw.word) = (c.weight, c.load() as u32, c.word());
                return ControlFlow::Break(());
            }
            draw.left = draw.left.wrapping_sub(c.weight);
        }
        ControlFlow::Continue(())
    });
    draw
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
        // The newest, of weight 2, is first: 0, 1, 2 mean it; 3, 4, 5 the other.
        let model = Model::with(Scheduler::Twos, 0, &[3, 2]);
        for (expected, word) in [(0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (5, 1)] {
            let random = ((expected as u64 * (1 << 32) + (1 << 31)) / 6) as u32;
            assert_eq!(number(random, 5), expected);
            assert_eq!(draw(&model, expected).word, word, "{expected}");
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
