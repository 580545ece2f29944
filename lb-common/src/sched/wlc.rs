//! Weighted least connections: the smallest load per weight.

use super::{Best, Candidate, View, by_tree};

/// The dest's number.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    by_tree(view, |view| {
        Best::of(view, |c: &Candidate| c.eligible().then(|| c.load()), Best::cheaper_per_weight)
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};
    use proptest::prelude::*;

    /// The smallest fraction cost / weight over the list; the first of equals.
    fn argmin(model: &Model, cost: impl Fn(u64, u64) -> u64, weighted: bool) -> Option<u32> {
        let eligible = model.list.iter().copied().filter(|d| {
            let slot = &model.dests[*d as usize];
            !slot.overloaded && slot.build.weight > 0
        });
        let fraction = |d: u32| {
            let slot = &model.dests[d as usize];
            let weight = if weighted { slot.build.weight as u128 } else { 1 };
            (cost(slot.active as u64, slot.total as u64) as u128, weight)
        };
        eligible.min_by(|a, b| {
            let ((x, v), (y, w)) = (fraction(*a), fraction(*b));
            (x * w).cmp(&(y * v))
        })
    }

    proptest! {
        #[test]
        fn equals_the_smallest_fraction(
            dests in prop::collection::vec((0..70_000u32, 0..5000u32, 0..50_000u32, any::<bool>()), 0..12),
            few in any::<bool>(),
        ) {
            for scheduler in [Scheduler::Wlc, Scheduler::Lc, Scheduler::Sed, Scheduler::Nq] {
                let mut model = Model::new(scheduler, 0);
                for (weight, active, inactive, overloaded) in &dests {
                    // Small numbers tie often.
                    let limit = if few { 3 } else { u32::MAX };
                    let dest = model.add(weight % limit);
                    let slot = &mut model.dests[dest as usize];
                    (slot.active, slot.overloaded) = (active % limit, *overloaded);
                    slot.total = slot.active + inactive % limit;
                }
                let load = |active, total| 256 * active + total;
                let delay = |active, _| active + 1;
                let expected = match scheduler {
                    Scheduler::Wlc => argmin(&model, load, true),
                    Scheduler::Lc => argmin(&model, load, false),
                    Scheduler::Sed => argmin(&model, delay, true),
                    _ => {
                        let idle = |d: &&u32| {
                            let slot = &model.dests[**d as usize];
                            slot.active == 0 && slot.build.weight > 0 && !slot.overloaded
                        };
                        model.list.iter().find(idle).copied().or_else(|| argmin(&model, delay, true))
                    }
                };
                prop_assert_eq!(pick(&model, &Ask::default()), expected, "{:?}", scheduler);
            }
        }
    }

    #[test]
    fn an_active_connection_weighs_257_inactive_ones() {
        let mut model = Model::with(Scheduler::Wlc, 0, &[1, 1]);
        (model.dests[0].active, model.dests[0].total) = (1, 1);
        model.dests[1].total = 256;
        assert_eq!(pick(&model, &Ask::default()), Some(1));
        model.dests[1].total = 258;
        assert_eq!(pick(&model, &Ask::default()), Some(0));
    }
}
