//! IPv4 and IPv6 behind one trait, so that the pass exists once and is compiled twice.
//!
//! What differs is here: how long an address is, where the header's fields stand, how an entry of the connection
//! table is laid out. Everything else is generic over [`Ip`].

use core::fmt::Debug;

use crate::addr::{Addr, Family, Port, Proto};
use crate::checksum;
use crate::conn::{Bucket4, Bucket6, Entry, Entry4, Entry6, Ways};
use crate::keyed::TableKey;
use crate::parse::Fragment;
use crate::reason::Reason;
use crate::wire::{Ipv4Hdr, Ipv6Hdr, Wire};

/// An address in the shape its family has: IPv4 one word, IPv6 four, words in memory order.
pub trait Address: Copy + PartialEq + Eq + Debug + Default {
    /// From the wide form.
    fn narrow(wide: &Addr) -> Self;
    /// To the wide form.
    fn wide(&self) -> Addr;
    /// XOR of the words, in memory order.
    fn mixed(&self) -> u32;
    /// The part a persistence mask keeps: IPv4 mask in wire order, IPv6 prefix length.
    fn masked(&self, netmask: u32) -> Self;
    /// A mark written as an address, as templates of mark services have it: 1 is 0.0.0.1, or 0:1:: (its four bytes first).
    fn from_mark(mark: u32) -> Self;
    /// A hash in the shape of an address, for keys that are no address.
    fn from_hash(hash: u64) -> Self;
    /// What a checksum changes by when `self` becomes `new`.
    fn diff(&self, new: &Self, sum: u32) -> u32;
    /// The sum of the words, for a pseudo header.
    fn sum(&self) -> u32;
    /// 127.0.0.0/8 or ::1.
    fn is_loopback(&self) -> bool;
}

/// An IPv4 address, in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct A4(pub u32);

/// An IPv6 address, words in memory order. Aligned as [`Addr`] is.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct A6(pub [u32; 4]);

impl Address for A4 {
    #[inline(always)]
    fn narrow(wide: &Addr) -> Self {
        Self(wide.words()[0])
    }
    #[inline(always)]
    fn wide(&self) -> Addr {
        // No zeros the compiler knows: it would have a loop write them, byte by byte.
        use crate::cell::unknown_zero as zero;
        Addr::from_words([self.0, zero(), zero(), zero()])
    }
    #[inline(always)]
    fn mixed(&self) -> u32 {
        self.0
    }
    #[inline(always)]
    fn masked(&self, netmask: u32) -> Self {
        Self(self.0 & netmask)
    }
    #[inline(always)]
    fn from_mark(mark: u32) -> Self {
        Self(mark.to_be())
    }
    #[inline(always)]
    fn from_hash(hash: u64) -> Self {
        Self(hash as u32)
    }
    #[inline(always)]
    fn diff(&self, new: &Self, sum: u32) -> u32 {
        checksum::diff32(sum, self.0, new.0)
    }
    #[inline(always)]
    fn sum(&self) -> u32 {
        checksum::add32(0, self.0)
    }
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.0.to_ne_bytes()[0] == 127
    }
}

impl Address for A6 {
    #[inline(always)]
    fn narrow(wide: &Addr) -> Self {
        Self(wide.words())
    }
    #[inline(always)]
    fn wide(&self) -> Addr {
        Addr::from_words(self.0)
    }
    #[inline(always)]
    fn mixed(&self) -> u32 {
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
    #[inline(always)]
    fn masked(&self, netmask: u32) -> Self {
        let word = |w: u32, before: u32| {
            let bits = netmask.saturating_sub(before);
            if bits >= 32 { w } else { w & (!(u32::MAX.checked_shr(bits).unwrap_or(0))).to_be() }
        };
        Self([word(self.0[0], 0), word(self.0[1], 32), word(self.0[2], 64), word(self.0[3], 96)])
    }
    #[inline(always)]
    fn from_mark(mark: u32) -> Self {
        Self([mark.to_be(), 0, 0, 0])
    }
    #[inline(always)]
    fn from_hash(hash: u64) -> Self {
        // No zeros: the compiler would write two of them at once, at an odd place of the stack.
        let (low, high) = (hash as u32, (hash >> 32) as u32);
        Self([low, high, low, high])
    }
    #[inline(always)]
    fn diff(&self, new: &Self, sum: u32) -> u32 {
        let s = checksum::diff32(sum, self.0[0], new.0[0]);
        let s = checksum::diff32(s, self.0[1], new.0[1]);
        let s = checksum::diff32(s, self.0[2], new.0[2]);
        checksum::diff32(s, self.0[3], new.0[3])
    }
    #[inline(always)]
    fn sum(&self) -> u32 {
        let s = checksum::add32(self.0[0], self.0[1]);
        checksum::add32(checksum::add32(s, self.0[2]), self.0[3])
    }
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | (self.0[3] ^ 1_u32.to_be()) == 0
    }
}

/// One IP version.
pub trait Ip: 'static + Copy + Default + Debug {
    /// Which.
    const FAMILY: Family;
    /// Length of the fixed header.
    const HEADER: u32;
    /// Its protocol number inside a tunnel.
    const INSIDE: Proto;
    /// Its EtherType, host order.
    const ETHERTYPE: u16;
    /// Where the source address stands in the header.
    const SOURCE: u32;
    /// Does the header carry a checksum?
    const HEADER_SUM: bool;
    /// Addresses.
    type Addr: Address;
    /// The fixed header.
    type Header: Wire;
    /// An entry of the connection table.
    type Entry: Entry<Self::Addr>;
    /// A bucket of them.
    type Bucket: Ways<Self::Entry>;

    /// Source address.
    fn source(h: &Self::Header) -> Self::Addr;
    /// Destination address.
    fn destination(h: &Self::Header) -> Self::Addr;
    /// Writes the source address; the header's sum is the caller's matter ([`Ip::adjust`]).
    fn set_source(h: &mut Self::Header, a: &Self::Addr);
    /// Writes the destination address, likewise.
    fn set_destination(h: &mut Self::Header, a: &Self::Addr);
    /// Length of the whole IP packet as the header says; less than the header's own length is nonsense.
    fn total_len(h: &Self::Header) -> u32;
    /// What the fixed header says of what follows: bytes to skip, protocol, part of a datagram, and then its
    /// identification.
    fn payload(h: &Self::Header) -> Result<(u32, Proto, Fragment, u32), Reason>;
    /// TTL or hop limit.
    fn ttl(h: &Self::Header) -> u8;
    /// Takes one off the TTL, header sum included.
    fn decrement(h: &mut Self::Header);
    /// TOS or traffic class.
    fn tos(h: &Self::Header) -> u8;
    /// IPv4's "don't fragment"; false for IPv6, where nobody but the sender fragments anyway.
    fn dont_fragment(h: &Self::Header) -> bool;
    /// Applies a sum of differences to the header's checksum.
    fn adjust(h: &mut Self::Header, diff: u32);
    /// The table's hash of a client's address, port and protocol.
    fn hash(key: &TableKey, client: &Self::Addr, port: Port, proto: Proto) -> u32;
}

/// IPv4.
#[derive(Clone, Copy, Debug, Default)]
pub struct V4;
/// IPv6.
#[derive(Clone, Copy, Debug, Default)]
pub struct V6;

impl Ip for V4 {
    const FAMILY: Family = Family::V4;
    const HEADER: u32 = 20;
    const INSIDE: Proto = Proto::IPIP;
    const ETHERTYPE: u16 = crate::wire::ethertype::IPV4;
    const SOURCE: u32 = core::mem::offset_of!(Ipv4Hdr, src_addr) as u32;
    const HEADER_SUM: bool = true;
    type Addr = A4;
    type Header = Ipv4Hdr;
    type Entry = Entry4;
    type Bucket = Bucket4;

    #[inline(always)]
    fn source(h: &Ipv4Hdr) -> A4 {
        A4(u32::from_ne_bytes(h.src_addr))
    }
    #[inline(always)]
    fn destination(h: &Ipv4Hdr) -> A4 {
        A4(u32::from_ne_bytes(h.dst_addr))
    }
    #[inline(always)]
    fn set_source(h: &mut Ipv4Hdr, a: &A4) {
        h.src_addr = a.0.to_ne_bytes();
    }
    #[inline(always)]
    fn set_destination(h: &mut Ipv4Hdr, a: &A4) {
        h.dst_addr = a.0.to_ne_bytes();
    }
    #[inline(always)]
    fn total_len(h: &Ipv4Hdr) -> u32 {
        u16::from_be_bytes(h.tot_len) as u32
    }
    #[inline(always)]
    fn payload(h: &Ipv4Hdr) -> Result<(u32, Proto, Fragment, u32), Reason> {
        let header = (h.vihl as u32 & 0xf) * 4;
        if h.vihl >> 4 != 4 || header < Self::HEADER {
            return Err(Reason::Malformed.late());
        }
        let (proto, word) = (Proto(h.proto), u16::from_be_bytes(h.frags));
        if word & 0x3fff == 0 {
            return Ok((header, proto, Fragment::Whole, 0));
        }
        let fragment = if word & 0x1fff == 0 { Fragment::First } else { Fragment::Later };
        Ok((header, proto, fragment, u16::from_ne_bytes(h.id) as u32))
    }
    #[inline(always)]
    fn ttl(h: &Ipv4Hdr) -> u8 {
        h.ttl
    }
    #[inline(always)]
    fn decrement(h: &mut Ipv4Hdr) {
        // The word's upper byte falls by one, so the sum rises by 0x0100 (RFC 1141), both as they lie in memory.
        let sum = u16::from_ne_bytes(h.check) as u32 + u16::from_ne_bytes([1, 0]) as u32;
        h.check = ((sum + (sum >> 16)) as u16).to_ne_bytes();
        h.ttl = h.ttl.wrapping_sub(1);
    }
    #[inline(always)]
    fn tos(h: &Ipv4Hdr) -> u8 {
        h.tos
    }
    #[inline(always)]
    fn dont_fragment(h: &Ipv4Hdr) -> bool {
        h.frags[0] & 0x40 != 0
    }
    #[inline(always)]
    fn adjust(h: &mut Ipv4Hdr, diff: u32) {
        h.check = checksum::apply(u16::from_ne_bytes(h.check), diff).to_ne_bytes();
    }
    #[inline(always)]
    fn hash(key: &TableKey, client: &A4, port: Port, proto: Proto) -> u32 {
        key.spread(key.pair(0, client.0, port.wire() as u32 | (proto.0 as u32) << 16))
    }
}

impl Ip for V6 {
    const FAMILY: Family = Family::V6;
    const HEADER: u32 = 40;
    const INSIDE: Proto = Proto::IPV6;
    const ETHERTYPE: u16 = crate::wire::ethertype::IPV6;
    const SOURCE: u32 = core::mem::offset_of!(Ipv6Hdr, src_addr) as u32;
    const HEADER_SUM: bool = false;
    type Addr = A6;
    type Header = Ipv6Hdr;
    type Entry = Entry6;
    type Bucket = Bucket6;

    #[inline(always)]
    fn source(h: &Ipv6Hdr) -> A6 {
        A6(Addr(h.src_addr).words())
    }
    #[inline(always)]
    fn destination(h: &Ipv6Hdr) -> A6 {
        A6(Addr(h.dst_addr).words())
    }
    #[inline(always)]
    fn set_source(h: &mut Ipv6Hdr, a: &A6) {
        h.src_addr = Addr::from_words(a.0).0;
    }
    #[inline(always)]
    fn set_destination(h: &mut Ipv6Hdr, a: &A6) {
        h.dst_addr = Addr::from_words(a.0).0;
    }
    #[inline(always)]
    fn total_len(h: &Ipv6Hdr) -> u32 {
        u16::from_be_bytes(h.payload_len) as u32 + 40
    }
    #[inline(always)]
    fn payload(h: &Ipv6Hdr) -> Result<(u32, Proto, Fragment, u32), Reason> {
        if h.vcf[0] >> 4 != 6 {
            return Err(Reason::Malformed.late());
        }
        Ok((Self::HEADER, Proto(h.next_hdr), Fragment::Whole, 0))
    }
    #[inline(always)]
    fn ttl(h: &Ipv6Hdr) -> u8 {
        h.hop_limit
    }
    #[inline(always)]
    fn decrement(h: &mut Ipv6Hdr) {
        h.hop_limit = h.hop_limit.wrapping_sub(1);
    }
    #[inline(always)]
    fn tos(h: &Ipv6Hdr) -> u8 {
        h.vcf[0] << 4 | h.vcf[1] >> 4
    }
    #[inline(always)]
    fn dont_fragment(_: &Ipv6Hdr) -> bool {
        false
    }
    #[inline(always)]
    fn adjust(_: &mut Ipv6Hdr, _: u32) {}
    #[inline(always)]
    fn hash(key: &TableKey, client: &A6, port: Port, proto: Proto) -> u32 {
        let w = client.0;
        let last = key.pair(2, 0, port.wire() as u32 | (proto.0 as u32) << 16);
        key.spread(key.pair(0, w[0], w[1]).wrapping_add(key.pair(1, w[2], w[3])).wrapping_add(last))
    }
}

/// The bit of the address filter that stands for an address.
///
/// The filter only has to be cheap: a wrong "perhaps" costs a lookup, never a decision. So a multiplication does.
#[inline(always)]
pub fn filter_bit(family: Family, mixed: u32) -> u32 {
    (mixed ^ family as u32).wrapping_mul(0x9E37_79B1) >> (32 - crate::tables::FILTER_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let a = A6(Addr([0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).words());
        let masked = |n| a.masked(n).wide().0;
        assert_eq!(masked(128), a.wide().0);
        assert_eq!(masked(64), [0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(masked(44), [0x20, 1, 0xd, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let b = A4(u32::from_ne_bytes([192, 168, 77, 9]));
        assert_eq!(b.masked(u32::from_ne_bytes([255, 255, 255, 0])).wide(), Addr::v4([192, 168, 77, 0]));
    }

    #[test]
    fn ttl_keeps_the_header_sum_right() {
        for (ttl, fill) in [(64u8, 0u8), (1, 0xff), (255, 7), (2, 0xfe)] {
            let mut bytes = [fill; 20];
            bytes[0] = 0x45;
            bytes[8] = ttl;
            bytes[10..12].fill(0);
            let check = !checksum::fold(checksum::sum(&bytes));
            bytes[10..12].copy_from_slice(&check.to_ne_bytes());
            // SAFETY: a header is 20 bytes, any bit pattern will do.
            let mut h: Ipv4Hdr = unsafe { core::mem::transmute(bytes) };
            V4::decrement(&mut h);
            // SAFETY: the same, back.
            let bytes: [u8; 20] = unsafe { core::mem::transmute(h) };
            assert_eq!(bytes[8], ttl - 1);
            assert_eq!(checksum::fold(checksum::sum(&bytes)), 0xffff);
        }
    }
}
