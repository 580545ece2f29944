//! ICMP errors the balancer makes itself. Fields as in ipvs.md 4.9: source is the VIP the packet was sent to (towards
//! servers an address of the balancer's own), TTL 64, the packet quoted as it is at that moment.

use crate::account;
use crate::addr::Proto;
use crate::checksum;
use crate::conn::bound;
use crate::dest::Method;
use crate::forward::link;
use crate::forward::own;
use crate::ip::Ip;
use crate::packet::Packet;
use crate::parse::{Fragment, Seen};
use crate::reason::{Reason, Verdict};
use crate::tables::{Direction, LOOPBACK, Tables};

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
    /// As a word below 2^58, and back.
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
    let proto = if F::HEADER_SUM { Proto::ICMP } else { Proto::ICMPV6 };
    let (len, ends) = (quoted + ICMP, (from, &seen.src));
    own::header::<F, P, T>(p, t, l3, (proto, len), ends, 0xc0 | tos & 0x1e).map_err(drop)?;
    // Only ICMPv6 sums the addresses.
    let pseudo = if F::HEADER_SUM { 0 } else { own::pseudo::<F>((proto, len), ends) };
    let (kind, code, rest) = if F::HEADER_SUM { error.v4() } else { error.v6() };
    message(p, l3 + F::HEADER, len, kind, code, rest, pseudo).map_err(drop)?;
    if let Some(dest) = error.dest() {
        account::count(t, dest, Direction::Out, F::HEADER + ICMP + quoted);
    }
    Ok(hop.ifindex)
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
    let head: &mut [u8; 8] = p.header_mut(at)?;
    *head = [kind, code, 0, 0, r[0], r[1], r[2], r[3]];
    let sum = p.sum(at, len).ok_or(Reason::Truncated)?;
    let check = !checksum::fold(checksum::add32(sum, pseudo));
    let field: &mut [u8; 2] = p.header_mut(at + 2)?;
    *field = check.to_ne_bytes();
    Ok(())
}
