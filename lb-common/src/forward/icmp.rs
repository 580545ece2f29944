//! ICMP errors the balancer makes itself. Fields as in ipvs.md 4.9: source is the VIP the packet was sent to (towards
//! servers an address of the balancer's own), TTL 64, the packet quoted as it is at that moment.

use crate::account;
use crate::addr::{Family, Proto};
use crate::checksum;
use crate::conn::bound;
use crate::dest::Method;
use crate::forward::{link, nat, tunnel};
use crate::ip::{Address, Ip, V4, V6};
use crate::packet::Packet;
use crate::parse::{Fragment, Seen};
use crate::reason::{Reason, Verdict};
use crate::tables::{Direction, LOOPBACK, Tables};
use crate::wire::{Ipv4Hdr, Ipv6Hdr};

/// What is wrong, and whose output the answer is: MTU, or type and code, in the low 24 bits, kind in the next 8, a dest's number in the
/// next 20 with a bit above it that says there is one. A word, because an enum's unused payload would be an
/// uninitialised argument, which the verifier refuses.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(u64);

impl Error {
    /// No dest for the service.
    pub const PORT_UNREACHABLE: Self = Self(0);
    /// No route to the dest.
    pub const HOST_UNREACHABLE: Self = Self(1 << 24);
    /// TTL ended here.
    pub const TIME_EXCEEDED: Self = Self(2 << 24);

    const DEST_SHIFT: u32 = 32;
    const COUNTED: u64 = 1 << 52;

    /// Longer than this many bytes.
    #[inline(always)]
    pub const fn too_big(mtu: u32) -> Self {
        Self(3 << 24 | (mtu & 0xff_ffff) as u64)
    }
    /// The same error another router sent about the packet's outer header: type and code.
    #[inline(always)]
    pub const fn relayed(kind: u8, code: u8) -> Self {
        Self(4 << 24 | (kind as u64) << 8 | code as u64)
    }
    /// About a packet with this [`bound`] word. IPVS meets its own errors on their way out, and finds the connection they
    /// quote by its virtual address: as a reply, where replies come from there. Not under NAT, nor without an entry.
    #[inline(always)]
    pub const fn about(self, word: u32) -> Self {
        if bound::method(word) == Method::Nat as u32 || word & bound::NO_ENTRY != 0 {
            return self;
        }
        Self(self.0 | Self::COUNTED | ((word & bound::DEST) as u64) << Self::DEST_SHIFT)
    }
    /// As a word below 2^59, and back.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }
    /// From [`Error::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }
    /// The dest it counts for.
    #[inline(always)]
    const fn dest(self) -> Option<u32> {
        if self.0 & Self::COUNTED == 0 {
            None
        } else {
            Some((self.0 >> Self::DEST_SHIFT) as u32 & bound::DEST)
        }
    }
    #[inline(always)]
    const fn kind(self) -> u8 {
        (self.0 >> 24) as u8
    }
    #[inline(always)]
    const fn mtu(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }
    #[inline(always)]
    const fn type_code(self) -> (u8, u8) {
        ((self.0 >> 8) as u8, self.0 as u8)
    }
    /// The reason counted when no ICMP may be sent.
    #[inline(always)]
    const fn reason(self) -> Reason {
        match self.kind() {
            0 => Reason::NoDest,
            1 => Reason::NoRoute,
            2 => Reason::TtlExceeded,
            3 => Reason::TooBig,
            _ => Reason::TunnelError,
        }
    }
    /// Type, code and second word, IPv4.
    #[inline(always)]
    const fn v4(self) -> (u8, u8, u32) {
        match self.kind() {
            0 => (3, 3, 0),
            1 => (3, 1, 0),
            2 => (11, 0, 0),
            3 => (3, 4, self.mtu() & 0xffff),
            _ => (self.type_code().0, self.type_code().1, 0),
        }
    }
    /// Type, code and second word, IPv6.
    #[inline(always)]
    const fn v6(self) -> (u8, u8, u32) {
        match self.kind() {
            0 => (1, 4, 0),
            1 => (1, 3, 0),
            2 => (3, 0, 0),
            3 => (2, 0, self.mtu()),
            _ => (self.type_code().0, self.type_code().1, 0),
        }
    }
}

/// Length of the fixed ICMP header.
const ICMP: u32 = 8;

/// Turns the packet into an ICMP error about itself and sends it back, in the name of `from`. Never about a later fragment,
/// and never to a source that is no host.
#[inline(never)]
pub fn answer<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    from: &F::Addr,
    error: Error,
) -> Verdict {
    match build(p, t, seen, from, error) {
        Ok(egress) => Verdict::sent(Reason::IcmpSent, egress, p.ingress()),
        Err(()) => error.reason().into(),
    }
}

/// Returns the NIC to send by.
#[inline(always)]
fn build<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    from: &F::Addr,
    error: Error,
) -> Result<u32, ()> {
    if seen.fragment == Fragment::Later || seen.src == F::Addr::default() {
        return Err(());
    }
    let hop = t.route_to_client::<F>(&seen.src, from, LOOPBACK).map_err(drop)?;
    let most = if F::HEADER_SUM { 576 } else { 1280 } - F::HEADER - ICMP;
    let quoted = if seen.len < most { seen.len } else { most };
    let header: &F::Header = p.at(seen.l3).ok_or(())?;
    let tos = F::tos(header);
    if !p.truncate(seen.l3 + quoted) {
        return Err(());
    }
    let l3 = link::rebuild(p, seen.l3, F::HEADER + ICMP, F::ETHERTYPE, &hop).map_err(drop)?;
    let ends = Ends { src: from.wide().0, dst: seen.src.wide().0 };
    match F::FAMILY {
        Family::V4 => v4(p, t, l3, quoted + ICMP, &ends, tos, error),
        Family::V6 => v6(p, l3, quoted + ICMP, &ends, error),
    }
    .map_err(drop)?;
    if let Some(dest) = error.dest() {
        account::count(t, dest, Direction::Out, F::HEADER + ICMP + quoted);
    }
    Ok(hop.ifindex)
}

/// Source and destination of the error.
struct Ends {
    src: [u8; 16],
    dst: [u8; 16],
}

#[inline(always)]
fn v4<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    l3: u32,
    len: u32,
    ends: &Ends,
    tos: u8,
    error: Error,
) -> Result<(), Reason> {
    let mut header = Ipv4Hdr {
        vihl: 0x45,
        tos: 0xc0 | tos & 0x1e,
        tot_len: ((len + V4::HEADER) as u16).to_be_bytes(),
        id: (t.random() as u16 | 1).to_ne_bytes(),
        frags: [0; 2],
        ttl: 64,
        proto: Proto::ICMP.0,
        check: [0; 2],
        src_addr: [ends.src[0], ends.src[1], ends.src[2], ends.src[3]],
        dst_addr: [ends.dst[0], ends.dst[1], ends.dst[2], ends.dst[3]],
    };
    header.check = tunnel::header_check(&header).to_ne_bytes();
    let place: &mut Ipv4Hdr = p.at_mut(l3).ok_or(Reason::Truncated)?;
    *place = header;
    let (kind, code, rest) = error.v4();
    message(p, l3 + V4::HEADER, len, kind, code, rest, 0)
}

#[inline(always)]
fn v6<P: Packet>(p: &mut P, l3: u32, len: u32, ends: &Ends, error: Error) -> Result<(), Reason> {
    let place: &mut Ipv6Hdr = p.at_mut(l3).ok_or(Reason::Truncated)?;
    *place = Ipv6Hdr {
        vcf: [0x60, 0, 0, 0],
        payload_len: (len as u16).to_be_bytes(),
        next_hdr: Proto::ICMPV6.0,
        hop_limit: 64,
        src_addr: ends.src,
        dst_addr: ends.dst,
    };
    let addresses = checksum::add32(V6::source(place).sum(), V6::destination(place).sum());
    let (kind, code, rest) = error.v6();
    let pseudo = checksum::add32(addresses, nat::pseudo(Proto::ICMPV6, len));
    message(p, l3 + V6::HEADER, len, kind, code, rest, pseudo)
}

#[inline(always)]
fn message<P: Packet>(
    p: &mut P,
    at: u32,
    len: u32,
    kind: u8,
    code: u8,
    rest: u32,
    pseudo: u32,
) -> Result<(), Reason> {
    let r = rest.to_be_bytes();
    let head: &mut [u8; 8] = p.at_mut(at).ok_or(Reason::Truncated)?;
    *head = [kind, code, 0, 0, r[0], r[1], r[2], r[3]];
    let sum = p.sum(at, len).ok_or(Reason::Truncated)?;
    let check = !checksum::fold(checksum::add32(sum, pseudo));
    let field: &mut [u8; 2] = p.at_mut(at + 2).ok_or(Reason::Truncated)?;
    *field = check.to_ne_bytes();
    Ok(())
}
