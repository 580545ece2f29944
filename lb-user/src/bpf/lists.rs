//! Room: regions of the `lists` map, and slots of the other ones.
//!
//! Both are given out next-fit, from where the last command stopped, so that what has just been freed is used again
//! as late as possible: a packet that is still reading an old list finds it unchanged. Only when the search starts
//! over from the beginning does the caller have to wait for readers.

use std::collections::BTreeMap;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// First word or slot.
    pub start: u32,
    /// The search went past the end and started over.
    pub wrapped: bool,
}

/// Regions in use.
#[derive(Debug)]
pub struct Regions {
    used: BTreeMap<u32, u32>,
    size: u32,
    next: u32,
}

impl Regions {
    /// None, of `size` words; the search starts at `next`.
    pub fn new(size: u32, next: u32) -> Self {
        Self { used: BTreeMap::new(), size, next: if next < size { next } else { 0 } }
    }

    /// Where the next search starts.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// This one is in use.
    pub fn mark(&mut self, start: u32, len: u32) {
        if len > 0 {
            self.used.insert(start, len);
        }
    }

    /// No longer.
    pub fn free(&mut self, start: u32) {
        self.used.remove(&start);
    }

    /// Room for `len` words.
    pub fn alloc(&mut self, len: u32) -> Option<Room> {
        let found = self.gap(self.next, self.size, len).map(|start| Room { start, wrapped: false });
        let found =
            found.or_else(|| self.gap(0, self.size, len).map(|start| Room { start, wrapped: true }))?;
        self.mark(found.start, len);
        self.next = if found.start + len < self.size { found.start + len } else { 0 };
        Some(found)
    }

    /// Would [`Regions::alloc`] find room?
    pub fn has_room(&self, len: u32) -> bool {
        self.gap(self.next, self.size, len).or_else(|| self.gap(0, self.size, len)).is_some()
    }

    /// The first gap from `from` on.
    fn gap(&self, from: u32, to: u32, len: u32) -> Option<u32> {
        let mut at = match self.used.range(..=from).next_back() {
            Some((start, used)) => from.max(start + used),
            None => from,
        };
        for (start, used) in self.used.range(from..) {
            if *start >= at && start - at >= len {
                return Some(at);
            }
            at = at.max(start + used);
        }
        (at <= to && to - at >= len).then_some(at)
    }
}

/// Slots in use.
#[derive(Debug)]
pub struct Slots {
    used: Vec<bool>,
    free: usize,
    next: u32,
}

impl Slots {
    /// None, of `size`; the search starts at `next`.
    pub fn new(size: u32, next: u32) -> Self {
        Self {
            used: vec![false; size as usize],
            free: size as usize,
            next: if next < size { next } else { 0 },
        }
    }

    /// Where the next search starts.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Is it in use?
    pub fn set(&mut self, slot: u32, used: bool) {
        let Some(place) = self.used.get_mut(slot as usize) else { return };
        match (std::mem::replace(place, used), used) {
            (false, true) => self.free -= 1,
            (true, false) => self.free += 1,
            _ => (),
        }
    }

    /// How many are free one after the other from this one on, itself counted whatever it is: `most` at the most.
    pub fn run(&self, slot: u32, most: u32) -> u32 {
        let after = self.used.iter().skip(slot as usize + 1).take(most.saturating_sub(1) as usize);
        1 + after.take_while(|used| !**used).count() as u32
    }

    /// Is there a free one?
    pub fn is_free(&self) -> bool {
        self.free > 0
    }

    /// A free one.
    pub fn alloc(&mut self) -> Option<Room> {
        // Said at once: a restore may ask thousands of times more.
        if self.free == 0 {
            return None;
        }
        let next = self.next as usize;
        let free = |used: &bool| !used;
        let found = match self.used.iter().skip(next).position(free) {
            Some(at) => Room { start: (next + at) as u32, wrapped: false },
            None => Room { start: self.used.iter().position(free)? as u32, wrapped: true },
        };
        self.set(found.start, true);
        self.next = if (found.start as usize) + 1 < self.used.len() { found.start + 1 } else { 0 };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::{Regions, Room, Slots};
    use proptest::prelude::*;

    #[test]
    fn goes_on_where_it_stopped() {
        let mut regions = Regions::new(10, 0);
        let fresh = |start| Some(Room { start, wrapped: false });
        assert_eq!(regions.alloc(4), fresh(0));
        regions.free(0);
        assert_eq!(regions.alloc(4), fresh(4));
        assert_eq!(regions.alloc(3), Some(Room { start: 0, wrapped: true }));
        assert_eq!(regions.alloc(3), None);
        assert_eq!(regions.alloc(1), fresh(3));
        assert_eq!(regions.alloc(2), fresh(8));
        assert_eq!(regions.alloc(1), None);
    }

    #[test]
    fn slots_go_round() {
        let mut slots = Slots::new(3, 2);
        slots.set(0, true);
        assert_eq!(slots.alloc(), Some(Room { start: 2, wrapped: false }));
        assert_eq!(slots.alloc(), Some(Room { start: 1, wrapped: false }));
        assert_eq!(slots.alloc(), None);
        slots.set(0, false);
        slots.set(1, false);
        assert_eq!((slots.run(0, 9), slots.run(0, 1), slots.run(2, 9)), (2, 1, 1));
        slots.set(1, true);
        assert_eq!(slots.alloc(), Some(Room { start: 0, wrapped: true }));
    }

    proptest! {
        /// Regions never overlap, and a failure is never wrong while a gap is left.
        #[test]
        fn no_overlap(acts in prop::collection::vec((1u32..9, any::<bool>()), 1..80)) {
            let mut regions = Regions::new(64, 0);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (len, add) in acts {
                if add || held.is_empty() {
                    let free_gap = (0..=64 - len).any(|s| held.iter().all(|(a, l)| s + len <= *a || a + l <= s));
                    match regions.alloc(len) {
                        Some(room) => {
                            prop_assert!(room.start + len <= 64);
                            prop_assert!(held.iter().all(|(a, l)| room.start + len <= *a || a + l <= room.start));
                            held.push((room.start, len));
                        }
                        None => prop_assert!(!free_gap),
                    }
                } else {
                    let (start, _) = held.swap_remove(len as usize % held.len());
                    regions.free(start);
                }
            }
        }
    }
}
