//! UDP: one state in IPVS, shown as `UDP`, always inactive, 300 s after the last packet either way.
//!
//! Here it is three numbers, alike in everything that is shown. The connection table gives up connections of one
//! packet first when it runs full, as it does half-open TCP: that is what a flood from forged addresses looks like.

/// One packet so far.
pub const FIRST: u8 = 0;
/// More than one.
pub const CONFIRMED: u8 = 1;
/// None at all: an ICMP error about one has begun the connection.
pub const QUOTED: u8 = 2;
/// All are shown as this.
pub const NAME: &str = "UDP";
/// How long the first two last, in seconds.
pub const TIMEOUT: u32 = 300;
