//! A frame in a vector, with the limits XDP has: so much room in front, never shorter than an Ethernet header.

use std::vec;
use std::vec::Vec;

use crate::addr::{Port, Proto};
use crate::checksum;
use crate::forward::nat;
use crate::ip::Ip;
use crate::output::Outgoing;
use crate::packet::{Bytes, Packet};
use crate::parse::{Fragment, Seen};
use crate::probe::Room;
use crate::reason::Reason;
use crate::wire::{UdpHdr, Wire};

/// Room in front of a frame: what XDP gives less what the kernel keeps there.
pub const HEADROOM: usize = 256 - 40;
/// What every NIC carries.
pub const MTU: u32 = 1500;
/// XDP refuses to make a frame shorter.
const SHORTEST: usize = 14;

/// A frame with room in front.
#[derive(Clone, Debug)]
pub struct SliceFrame {
    buffer: Vec<u8>,
    start: usize,
    ingress: u32,
    socket: u64,
}

impl SliceFrame {
    /// A copy of `bytes` that came in by the NIC `ingress`.
    pub fn new(bytes: &[u8], ingress: u32) -> Self {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(bytes);
        Self { buffer, start: HEADROOM, ingress, socket: 0 }
    }

    /// Sent by the socket with this cookie.
    pub fn of_socket(self, socket: u64) -> Self {
        Self { socket, ..self }
    }

    /// The frame as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn part(&self, off: u32, len: usize) -> Option<&[u8]> {
        let off = off as usize;
        self.bytes().get(off..off.checked_add(len)?)
    }
}

impl Bytes for SliceFrame {
    fn has(&self, len: u32) -> bool {
        self.bytes().len() >= len as usize
    }

    fn at<T: Wire>(&self, off: u32) -> Option<&T> {
        let part = self.part(off, size_of::<T>())?;
        // SAFETY: the slice is as long as `T`, and a `Wire` type may lie over any bytes at any place.
        Some(unsafe { &*part.as_ptr().cast::<T>() })
    }
}

impl Packet for SliceFrame {
    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn joined(&self, len: u32) -> bool {
        len > MTU
    }

    fn at_mut<T: Wire>(&mut self, off: u32) -> Option<&mut T> {
        let from = self.start + off as usize;
        let part = self.buffer.get_mut(from..from.checked_add(size_of::<T>())?)?;
        // SAFETY: as in `at`; a `Wire` type has no padding, so that its bytes stay initialised.
        Some(unsafe { &mut *part.as_mut_ptr().cast::<T>() })
    }

    fn move_start(&mut self, by: i32) -> bool {
        // Positive makes room in front.
        let Some(start) = usize::try_from(self.start as i64 - i64::from(by)).ok() else { return false };
        if start + SHORTEST > self.buffer.len() {
            return false;
        }
        self.start = start;
        true
    }

    fn truncate(&mut self, len: u32) -> bool {
        let len = len as usize;
        if len > self.bytes().len() || len < SHORTEST {
            return false;
        }
        self.buffer.truncate(self.start + len);
        true
    }

    fn sum(&mut self, off: u32, len: u32) -> Option<u32> {
        self.part(off, len as usize).map(checksum::sum)
    }
}

impl Outgoing for SliceFrame {
    fn socket(&self) -> u64 {
        self.socket
    }
    fn set_source<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr, port: Port) -> Result<(), Reason> {
        // What the stack sends without a checksum stays without.
        let unsummed = seen.proto == Proto::UDP
            && seen.fragment != Fragment::Later
            && self.at::<UdpHdr>(seen.l4).is_some_and(|udp| udp.check == [0; 2]);
        nat::rewrite(self, seen, nat::Side::Source, addr, port)?;
        if unsummed && let Some(udp) = self.at_mut::<UdpHdr>(seen.l4) {
            udp.check = [0; 2];
        }
        Ok(())
    }

    fn set_destination<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr) -> Result<(), Reason> {
        nat::rewrite(self, seen, nat::Side::Destination, addr, seen.dport)
    }

    fn make_room<F: Ip>(&mut self, l3: u32, room: &Room) -> Result<(), Reason> {
        let link = self.bytes().get(..l3 as usize).ok_or(Reason::Truncated)?.to_vec();
        if !self.move_start((F::HEADER + room.shell) as i32) {
            return Err(Reason::NoHeadroom);
        }
        let start = self.start;
        self.buffer[start..start + link.len()].copy_from_slice(&link);
        Ok(())
    }

    fn put<T: Wire>(&mut self, off: u32, value: &T) -> Result<(), Reason> {
        *self.header_mut(off)? = *value;
        Ok(())
    }

    fn put_word(&mut self, off: u32, word: u32) -> Result<(), Reason> {
        self.put(off, &word.to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_end_is_lent() {
        let mut frame = SliceFrame::new(&[7; 20], 3);
        assert!(frame.at::<[u8; 4]>(16).is_some() && frame.at_mut::<[u8; 4]>(16).is_some());
        assert!(frame.at::<[u8; 4]>(17).is_none() && frame.at_mut::<[u8; 4]>(17).is_none());
        assert!(frame.at::<[u8; 4]>(u32::MAX).is_none() && frame.at_mut::<[u8; 4]>(u32::MAX).is_none());
        assert!(frame.sum(4, 17).is_none() && frame.sum(u32::MAX, u32::MAX).is_none());
        assert!(frame.has(20) && !frame.has(21));
    }

    #[test]
    fn the_start_moves_within_its_room() {
        let mut frame = SliceFrame::new(&[7; 20], 3);
        assert!(!frame.move_start(HEADROOM as i32 + 1) && !frame.move_start(-7));
        assert!(frame.move_start(-6) && frame.bytes().len() == 14);
        assert!(frame.move_start(6 + HEADROOM as i32) && frame.bytes().len() == 20 + HEADROOM);
        assert!(!frame.truncate(13) && frame.truncate(14) && frame.bytes().len() == 14);
    }
}
