//! The buckets of a place: its own, and further ones that it runs over into. [`super::insert()`] says when they are made.

use crate::conn::{Entry, Ways, tag};
use crate::ip::Ip;

/// Further buckets of a place at the most. In a table half full, as it is sized, one bucket of IPv6 in 4,200 holds more than
/// two buckets' eight, one in five millions more than three buckets' twelve (Poisson); of IPv4's sixteen and twenty-four
/// ways that is one in 900,000 and none.
pub const FURTHER: u32 = 2;
// They are a second and a third one where they are made and given back.
const _: () = assert!(FURTHER == 2);

/// Slot numbers of further buckets have this bit.
pub const SLOT_OVERFLOW: u32 = 1 << 30;

/// First buckets at the most: above their numbers there is room for which further one it is, and all of it, times the ways
/// of a bucket, in the 30 bits of a slot number.
pub const MOST_BUCKETS: u32 = 1 << 26;

/// The number of the `nth` further bucket, from 1 on, of first bucket `n`: its key in the overflow, and in slot numbers.
#[inline(always)]
pub const fn further(n: u32, nth: u32) -> u32 {
    n + (nth - 1) * MOST_BUCKETS
}

/// Does a bucket run over into the next one?
#[inline(always)]
pub fn runs_over<F: Ip>(bucket: &F::Bucket) -> bool {
    bucket.way(0).tag().load() & tag::OVERFLOW != 0
}
