//! Room: regions of the `lists` map, and slots of the other ones.
//!
//! Both are given out next-fit, from where the last command stopped, so that what has just been freed is used again
//! as late as possible: a packet that is still reading an old list finds it unchanged. Only when the search starts
//! over from the beginning does the caller have to wait for readers.
//!
//! Where there may be more, starting over is not worth it while most is in use: more is made then ([`is_tight`]).

use std::collections::BTreeMap;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// First word or slot.
    pub start: u32,
    /// The search went past the end and started over.
    pub wrapped: bool,
}

/// Is more than three quarters in use? A search that started over would soon do so again.
fn is_tight(used: u32, size: u32) -> bool {
    used > size / 4 * 3
}

/// Regions in use.
#[derive(Debug)]
pub struct Regions {
    used: BTreeMap<u32, u32>,
    /// Words in use.
    taken: u32,
    size: u32,
    next: u32,
}

impl Regions {
    /// None, of `size` words; the search starts at `next`.
    pub fn new(size: u32, next: u32) -> Self {
        Self { used: BTreeMap::new(), taken: 0, size, next: next.min(size) }
    }

    /// Where the next search starts.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// This one is in use.
    pub fn mark(&mut self, start: u32, len: u32) {
        if len > 0 {
            let before = self.used.insert(start, len);
            self.taken = self.taken + len - before.unwrap_or(0);
        }
    }

    /// No longer.
    pub fn free(&mut self, start: u32) {
        self.taken -= self.used.remove(&start).unwrap_or(0);
    }

    /// There are so many words now.
    pub fn grow(&mut self, size: u32) {
        self.size = self.size.max(size);
    }

    /// How many words there should be for `len` more, if there may be `most`. `None`: those there are will do.
    pub fn wants(&self, len: u32, most: u32) -> Option<u32> {
        if self.size >= most || self.gap(self.next, self.size, len).is_some() {
            return None;
        }
        let tight = is_tight(self.taken.saturating_add(len), self.size);
        if !tight && self.gap(0, self.size, len).is_some() {
            return None;
        }
        let end = self.end().saturating_add(len);
        // No gap up to the very end: what can be used is used.
        (end <= most).then_some(end.max(self.size + 1))
    }

    /// Where the last region ends.
    fn end(&self) -> u32 {
        self.used.last_key_value().map_or(0, |(start, len)| start + len)
    }

    /// Room for `len` words.
    pub fn alloc(&mut self, len: u32) -> Option<Room> {
        let found = self.gap(self.next, self.size, len).map(|start| Room { start, wrapped: false });
        let found =
            found.or_else(|| self.gap(0, self.size, len).map(|start| Room { start, wrapped: true }))?;
        self.mark(found.start, len);
        self.next = found.start + len;
        Some(found)
    }

    /// Would [`Regions::alloc`] find room, if there were `most` words?
    pub fn has_room(&self, len: u32, most: u32) -> bool {
        self.gap(self.next, most, len).or_else(|| self.gap(0, most, len)).is_some()
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
        Self { used: vec![false; size as usize], free: size as usize, next: next.min(size) }
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

    /// There are so many now.
    pub fn grow(&mut self, size: u32) {
        let more = (size as usize).saturating_sub(self.used.len());
        self.used.resize(self.used.len() + more, false);
        self.free += more;
    }

    /// How many there should be for one more, if there may be `most`. `None`: those there are will do.
    pub fn wants(&self, most: u32) -> Option<u32> {
        let size = self.used.len() as u32;
        let tight = self.free == 0 || is_tight(size - self.free as u32, size);
        let wants = size < most && tight && self.used.iter().skip(self.next as usize).all(|used| *used);
        wants.then_some(size + 1)
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
        self.next = found.start + 1;
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
        assert_eq!(slots.alloc(), Some(Room { start: 1, wrapped: true }));
        assert_eq!(slots.alloc(), None);
        slots.set(0, false);
        slots.set(1, false);
        assert_eq!((slots.run(0, 9), slots.run(0, 1), slots.run(2, 9)), (2, 1, 1));
        slots.set(1, true);
        assert_eq!(slots.alloc(), Some(Room { start: 0, wrapped: true }));
    }

    #[test]
    fn whoever_comes_to_the_end_starts_over() {
        let mut regions = Regions::new(8, 0);
        assert_eq!(regions.alloc(8), Some(Room { start: 0, wrapped: false }));
        assert_eq!(regions.next(), 8);
        regions.free(0);
        // Kept over commands.
        let mut regions = Regions::new(8, regions.next());
        assert_eq!(regions.alloc(4), Some(Room { start: 0, wrapped: true }));
        let mut slots = Slots::new(1, 0);
        slots.alloc();
        slots.set(0, false);
        let mut slots = Slots::new(1, slots.next());
        assert_eq!(slots.alloc(), Some(Room { start: 0, wrapped: true }));
    }

    #[test]
    fn more_is_wanted_while_most_is_in_use() {
        let mut regions = Regions::new(16, 0);
        assert_eq!(regions.wants(16, 64), None);
        // Larger than all there is.
        assert_eq!(regions.wants(17, 64), Some(17));
        assert_eq!(regions.wants(65, 64), None);
        assert!((0..4).all(|_| regions.alloc(4).is_some()));
        assert_eq!(regions.wants(1, 16), None, "there is no more");
        assert_eq!(regions.wants(1, 64), Some(17));
        // Half is free again, behind the search.
        regions.free(0);
        regions.free(4);
        assert_eq!(regions.wants(4, 64), None);
        assert_eq!(regions.wants(5, 64), Some(21));
        assert!(regions.has_room(48, 64) && !regions.has_room(49, 64));
        regions.grow(32);
        assert_eq!(regions.alloc(9), Some(Room { start: 16, wrapped: false }));

        let mut slots = Slots::new(8, 0);
        assert!((0..8).all(|_| slots.alloc().is_some()));
        assert_eq!((slots.wants(8), slots.wants(64)), (None, Some(9)));
        slots.set(3, false);
        assert_eq!(slots.wants(64), Some(9), "it would start over with every one");
        slots.set(4, false);
        assert_eq!(slots.wants(64), None);
        slots.grow(16);
        assert_eq!(slots.alloc(), Some(Room { start: 8, wrapped: false }));
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
