//! Locality-based least connections: a destination address stays with the dest that served it, as long as that is not
//! overrun. For clusters of caches, with marks.

use super::{View, cache, wlc};

/// The dest's number. Overload by thresholds does not stop a hit, as in IPVS.
#[inline(always)]
pub fn pick<V: View>(view: &V) -> Option<u32> {
    let entry = view.cached();
    if let Some(entry) = entry {
        entry.used.store(view.seconds());
        if let Some(number) = entry.set[0].load().checked_sub(1)
            && let Some(c) = view.dest(number)
            && c.available
            && c.weight > 0
            && !cache::loaded(view, &c)
        {
            return Some(number);
        }
    }
    let number = wlc::pick(view)?;
    match entry {
        Some(entry) => entry.set[0].store(number.wrapping_add(1)),
        None => view.remember(number.wrapping_add(1)),
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::{Ask, Scheduler, pick};

    #[test]
    fn stays_until_overrun() {
        let mut model = Model::with(Scheduler::Lblc, 0, &[4, 4]);
        // B until it has more active connections than weight while A is below half of its own; then A.
        assert_eq!(model.letters(6), "BBBBBA");
        // A stays, also above its weight: B is not half idle.
        assert_eq!(model.letters(6), "AAAAAA");
        model.dests[1].active = 1;
        assert_eq!(model.letters(1), "B");
        // The thresholds do not stop a hit, weight 0 and deletion do.
        model.dests[1].overloaded = true;
        assert_eq!(model.letters(1), "B");
        model.edit(1, 0);
        assert_eq!(model.letters(1), "A");
        model.delete(0);
        assert_eq!(model.letters(1), "-");
        model.add_again(0, 1);
        model.seconds = 77;
        assert_eq!(pick(&model, &Ask::default()), Some(0));
        assert_eq!(model.cache.get().map(|e| e.used.load()), Some(77));
    }
}
