//! Maps that grow with what is put into them. The kernel makes an array for good; so such a map is an array of arrays,
//! its *pieces*, all of one length, which the control side makes one after the other as it needs them. Elements are
//! numbered through. What has been made stays.

/// How long the pieces of a map are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Elements of a piece: a power of two.
    pub len: u32,
}

/// `lists`, in words: 1 MB.
pub const LISTS: Pieces = Pieces::of(1 << 17);
/// `dests`: 1.5 MB.
pub const DESTS: Pieces = Pieces::of(1 << 13);
/// `stats`: 320 KB for each CPU, and 64 KB.
pub const STATS: Pieces = DESTS;
/// `rates`: 704 KB.
pub const RATES: Pieces = Pieces::of(1 << 13);

impl Pieces {
    /// Of so many elements each.
    pub const fn of(len: u32) -> Self {
        assert!(len.is_power_of_two());
        Self { len }
    }

    /// How many of them hold so many elements.
    pub const fn count(self, elements: u32) -> u32 {
        elements.div_ceil(self.len)
    }

    /// How many elements so many of them hold.
    pub const fn elements(self, pieces: u32) -> u32 {
        pieces.saturating_mul(self.len)
    }

    /// Where an element is: which piece, and its number in there.
    #[inline(always)]
    pub const fn place(self, number: u32) -> (u32, u32) {
        (number / self.len, number % self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::{DESTS, LISTS, Pieces, RATES, STATS};

    #[test]
    fn elements_are_numbered_through() {
        let pieces = Pieces::of(8);
        assert_eq!([0, 7, 8, 17].map(|number| pieces.place(number)), [(0, 0), (0, 7), (1, 0), (2, 1)]);
        assert_eq!([0, 1, 8, 9, 16, 17].map(|elements| pieces.count(elements)), [0, 1, 1, 2, 2, 3]);
        assert_eq!(pieces.elements(3), 24);
        assert_eq!(pieces.elements(u32::MAX), u32::MAX);
    }

    #[test]
    fn every_element_has_a_place_of_its_own() {
        for pieces in [LISTS, DESTS, STATS, RATES] {
            for edge in [0, pieces.len, 3 * pieces.len] {
                for number in edge.saturating_sub(2)..edge + 2 {
                    let (piece, at) = pieces.place(number);
                    assert!(at < pieces.len && piece < pieces.count(number + 1));
                    assert_eq!(piece * pieces.len + at, number);
                }
            }
        }
    }
}
