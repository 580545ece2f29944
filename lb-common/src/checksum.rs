//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums here are over 16-bit words **as they lie in memory**: the ones' complement sum does not care about byte
//! order as long as words go in and come out the same way, so nothing is ever swapped.

/// Folds a sum to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Folds a sum of a few words of 16 and 32 bits to 16 bits.
#[inline(always)]
pub const fn fold64(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// Adds a 32-bit word, carry included.
#[inline(always)]
pub const fn add32(sum: u32, word: u32) -> u32 {
    // In 64 bits: a carry out of 32 would be a branch, which no processor can predict.
    let sum = sum as u64 + word as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The checksum field after the 16-bit word `old` became `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update16(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u32 + !old as u32 + new as u32)
}

/// What replacing `old` by `new` adds to a sum, as a 32-bit partial sum.
#[inline(always)]
pub const fn diff32(sum: u32, old: u32, new: u32) -> u32 {
    add32(add32(sum, !old), new)
}

/// Applies a partial sum of differences to a checksum field.
#[inline(always)]
pub const fn apply(check: u16, diff: u32) -> u16 {
    !fold(add32(!check as u32, diff))
}

/// The sum over bytes; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut s = 0;
    let (words, rest) = bytes.as_chunks::<2>();
    for w in words {
        s = add32(s, u16::from_ne_bytes(*w) as u32);
    }
    match rest {
        [b] => add32(s, u16::from_ne_bytes([*b, 0]) as u32),
        _ => s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn full(bytes: &[u8]) -> u16 {
        !fold(sum(bytes))
    }

    #[test]
    fn rfc1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), u16::from_ne_bytes([0xdd, 0xf2]));
    }

    /// Two fields that both mean zero are the same checksum.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut data in proptest::collection::vec(any::<u8>(), 8..64), new: [u8; 4]) {
            let before = full(&data);
            let old: [u8; 4] = [data[4], data[5], data[6], data[7]];
            data[4..8].copy_from_slice(&new);
            let after = full(&data);
            let diff = diff32(0, u32::from_ne_bytes(old), u32::from_ne_bytes(new));
            prop_assert!(same(apply(before, diff), after));
            let halves = update16(before, u16::from_ne_bytes([old[0], old[1]]), u16::from_ne_bytes([new[0], new[1]]));
            let halves = update16(halves, u16::from_ne_bytes([old[2], old[3]]), u16::from_ne_bytes([new[2], new[3]]));
            prop_assert!(same(halves, after));
        }

        #[test]
        fn words_fold_as_bytes_do(words: [u32; 2], halves: [u16; 5]) {
            let bytes: Vec<u8> =
                words.iter().flat_map(|w| w.to_ne_bytes()).chain(halves.iter().flat_map(|h| h.to_ne_bytes())).collect();
            let all = words.iter().map(|w| u64::from(*w)).chain(halves.iter().map(|h| u64::from(*h)));
            prop_assert_eq!(fold64(all.sum()), fold(sum(&bytes)));
        }

        #[test]
        fn sum_of_parts(data in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..40) {
            let cut = (cut * 2).min(data.len() & !1);
            let parts: Vec<u32> = [&data[..cut], &data[cut..]].iter().map(|p| sum(p)).collect();
            prop_assert_eq!(fold(add32(parts[0], parts[1])), fold(sum(&data)));
        }
    }
}
