//! The packet's bytes: one of the two things the pass asks of its surroundings.

use crate::reason::Reason;
use crate::wire::Wire;

/// A frame to read, from the Ethernet header on. Offsets count from its first byte.
pub trait Bytes {
    /// Does the whole frame, readable part or not, have at least `len` bytes?
    fn has(&self, len: u32) -> bool;
    /// The header at `off`, if it lies within the frame's directly readable part.
    fn at<T: Wire>(&self, off: u32) -> Option<&T>;
    /// As [`Bytes::at`]. `Truncated`: it does not lie there.
    #[inline(always)]
    fn header<T: Wire>(&self, off: u32) -> Result<&T, Reason> {
        self.at(off).ok_or_else(|| Reason::Truncated.late())
    }
}

/// A frame to change.
pub trait Packet: Bytes {
    /// The NIC it came in by.
    fn ingress(&self) -> u32;
    /// Is an IP packet of `len` bytes in fact several, which the kernel has joined (GSO) and takes apart again where they
    /// leave? In XDP only the length tells: one that is longer than the NIC it came in by carries did not come so.
    fn joined(&self, len: u32) -> bool;
    /// The header at `off`, to write.
    fn at_mut<T: Wire>(&mut self, off: u32) -> Option<&mut T>;
    /// As [`Packet::at_mut`]. `Truncated`: it does not lie there.
    #[inline(always)]
    fn header_mut<T: Wire>(&mut self, off: u32) -> Result<&mut T, Reason> {
        self.at_mut(off).ok_or_else(|| Reason::Truncated.late())
    }
    /// Moves the frame's start by `by` bytes: positive makes room in front (content undefined), negative cuts off.
    /// False: no room; nothing changed.
    fn move_start(&mut self, by: i32) -> bool;
    /// Cuts the frame to `len` bytes. False: nothing changed.
    fn truncate(&mut self, len: u32) -> bool;
    /// The ones' complement sum (not folded into 16 bits, not complemented) over `len` bytes from `off`. `None` if
    /// they are not all there.
    fn sum(&mut self, off: u32, len: u32) -> Option<u32>;
}
