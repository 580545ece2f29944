//! Until when something holds, as one word that packets read.

use crate::cell::Cell32;

/// A tick of the packet path's clock that something holds until; at first, and once it is over, none.
///
/// The clock wraps, so that a tick long past is one to come again half a round later: 25 days at 1,000 ticks a second. So
/// the sweep has to [`lapse`](Self::lapse) each, as it does about once a second. (None is no tick either: the kernel's clock
/// begins five minutes before it wraps for the first time.)
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Until(Cell32);

impl Until {
    const NONE: u32 = 0;

    /// Holds until nothing.
    pub const fn new() -> Self {
        Self(Cell32::new(Self::NONE))
    }
    /// Holds for so many ticks from now on.
    #[inline(always)]
    pub fn hold(&self, now: u32, ticks: u32) {
        let end = now.wrapping_add(ticks);
        self.0.store(if end == Self::NONE { 1 } else { end });
    }
    /// Holds no longer.
    #[inline(always)]
    pub fn clear(&self) {
        self.0.store(Self::NONE);
    }
    /// Does it hold?
    #[inline(always)]
    pub fn holds(&self, now: u32) -> bool {
        let end = self.0.load();
        end != Self::NONE && to_come(end, now)
    }
    /// Has somebody said that it does, be that over or not?
    pub fn is_set(&self) -> bool {
        self.0.load() != Self::NONE
    }
    /// Makes it older, for tests.
    #[cfg(any(test, feature = "host"))]
    pub fn age(&self, ticks: u32) {
        if self.is_set() {
            self.0.store(self.0.load().wrapping_sub(ticks));
        }
    }
    /// Takes out what is over, unless somebody has it hold anew meanwhile.
    #[inline(always)]
    pub fn lapse(&self, now: u32) {
        let end = self.0.load();
        if end != Self::NONE && !to_come(end, now) {
            self.0.compare_exchange(end, Self::NONE);
        }
    }
}

#[inline(always)]
const fn to_come(end: u32, now: u32) -> bool {
    end.wrapping_sub(now) as i32 > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = 1 << 31;

    #[test]
    fn none_holds_at_no_time() {
        for now in [0, 1, HALF - 1, HALF, HALF + 1, u32::MAX - 300, u32::MAX] {
            assert!(!Until::new().holds(now), "{now}");
        }
    }

    #[test]
    fn holds_for_as_long_as_said() {
        for now in [0, 7, HALF - 2, u32::MAX - 3, u32::MAX - 1, u32::MAX] {
            let until = Until::new();
            until.hold(now, 5);
            let at = |ticks: u32| until.holds(now.wrapping_add(ticks));
            assert!(until.is_set() && at(0) && at(4), "{now}");
            assert!(!at(6), "{now}");
        }
    }

    #[test]
    fn what_is_over_does_not_come_back() {
        let until = Until::new();
        until.hold(1000, 5);
        until.lapse(1004);
        assert!(until.holds(1004));
        until.lapse(1005);
        assert!(!until.is_set() && !until.holds(1004) && !until.holds(1000 + HALF + 100));
    }

    #[test]
    fn can_be_taken_back() {
        let until = Until::new();
        until.hold(u32::MAX, 1);
        assert!(until.is_set());
        until.clear();
        assert!(!until.is_set());
    }
}
