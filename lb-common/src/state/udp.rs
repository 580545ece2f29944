//! UDP: one state in IPVS, shown as `UDP`, always inactive, 300 s after the last packet either way.
//!
//! Here it is three numbers, alike in everything that is shown. The connection table gives up connections of one
//! packet first when it runs full, as it does half-open TCP: that is what a flood from forged addresses looks like.

use super::Direction;

/// One packet of the client's so far.
pub const FIRST: u8 = 0;
/// More than one.
pub const CONFIRMED: u8 = 1;
/// None at all: an ICMP error about one has begun the connection.
pub const QUOTED: u8 = 2;
/// All are shown as this.
pub const NAME: &str = "UDP";
/// How long the first two last, in seconds.
pub const TIMEOUT: u32 = 300;

/// The state after a packet. Servers answer forged addresses too, so an answer confirms nothing.
#[inline(always)]
pub fn next(state: u8, direction: Direction) -> u8 {
    match (direction, state) {
        (_, QUOTED) | (Direction::Output, FIRST) => FIRST,
        _ => CONFIRMED,
    }
}

/// See [`super::rests`].
#[inline(always)]
pub const fn rests(state: u8) -> bool {
    state == CONFIRMED
}
