//! Tunnels: a new IP header in front, and for gue and gre a small one behind it. Fields as in ipvs.md 6.4.

use crate::addr::{Addr, Family, Port, Proto};
use crate::checksum;
use crate::dest::{Dest, Hop, TunType};
use crate::forward::{link, nat};
use crate::ip::{Address, Ip, V4, V6};
use crate::packet::Packet;
use crate::parse::Seen;
use crate::reason::{Reason, Verdict};
use crate::tables::Tables;
use crate::wire::{Ipv4Hdr, Ipv6Hdr};

/// Tunnel flag: the shell carries a checksum.
const CSUM: u8 = 1;
/// Tunnel flag: remote checksum. Received packets carry complete sums, so it means the same as [`CSUM`] here.
const REMCSUM: u8 = 2;
/// Length of the GUE header and the UDP header under it.
const GUE: u32 = 12;

/// What stands between the outer IP header and the inner one.
#[derive(Clone, Copy)]
pub(crate) struct Shell {
    pub(crate) kind: u8,
    pub(crate) summed: bool,
    pub(crate) port: Port,
}

impl Shell {
    /// IP in IP.
    const NONE: Self = Self { kind: TunType::Ipip as u8, summed: false, port: Port::ZERO };

    #[inline(always)]
    fn of(dest: &Dest) -> Self {
        Self::new(dest.tunnel())
    }
    /// From type number, flags and port.
    #[inline(always)]
    pub(crate) fn new((kind, flags, port): (u8, u8, Port)) -> Self {
        Self { kind, summed: flags & (CSUM | REMCSUM) != 0, port }
    }
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        match (self.kind, self.summed) {
            (k, _) if k == TunType::Gue as u8 => GUE,
            (k, false) if k == TunType::Gre as u8 => 4,
            (k, true) if k == TunType::Gre as u8 => 8,
            _ => 0,
        }
    }
    #[inline(always)]
    pub(crate) fn proto(&self, inner: Proto) -> Proto {
        match self.kind {
            k if k == TunType::Gue as u8 => Proto::UDP,
            k if k == TunType::Gre as u8 => Proto::GRE,
            _ => inner,
        }
    }
}

/// What goes in front of a dest's packets, its words read once.
#[derive(Clone, Copy)]
pub struct Shape {
    shell: Shell,
    v4: bool,
}

impl Shape {
    /// Of a tunnel dest. (Of another it means nothing.)
    #[inline(always)]
    pub fn of(dest: &Dest) -> Self {
        Self { shell: Shell::of(dest), v4: dest.family() == Family::V4 as u8 }
    }
    /// The plainest: an outer header of the packet's own family, nothing behind it.
    #[inline(always)]
    pub fn plain<F: Ip>() -> Self {
        Self { shell: Shell::NONE, v4: F::FAMILY == Family::V4 }
    }
    /// Do both come to the same?
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        self.shell.kind == other.shell.kind && self.v4 == other.v4
    }
    #[inline(always)]
    const fn outer(self) -> u32 {
        if self.v4 { V4::HEADER } else { V6::HEADER }
    }
    /// What it takes in front of a packet, in bytes.
    #[inline(always)]
    pub fn added(self) -> u32 {
        self.outer() + self.shell.len()
    }
    /// The longest inner packet a way of this MTU carries; 0 = not known.
    #[inline(always)]
    pub fn room(self, mtu: u32) -> u32 {
        mtu.saturating_sub(self.added())
    }
}

/// Where the inner packet begins in an outer one of ours, if `outer` may be one: as an ICMP error quotes it.
#[inline(always)]
pub fn inside<F: Ip, P: Packet>(p: &P, outer: &Seen<F>) -> Option<u32> {
    let kind = F::ETHERTYPE.to_be_bytes();
    let shell = match outer.proto {
        proto if proto.0 == F::INSIDE.0 => 0,
        Proto::UDP => {
            let gue: &[u8; 4] = p.at(outer.l4 + 8)?;
            if *gue != [0, F::INSIDE.0, 0, 0] {
                return None;
            }
            GUE
        }
        Proto::GRE => {
            let gre: &[u8; 4] = p.at(outer.l4)?;
            if gre[0] & 0x7f != 0 || gre[1] != 0 || gre[2] != kind[0] || gre[3] != kind[1] {
                return None;
            }
            if gre[0] == 0 { 4 } else { 8 }
        }
        _ => return None,
    };
    Some(outer.l4 + shell)
}

/// Would a packet to this dest have such an outer header: between these protocols, with `shell` bytes behind it?
#[inline(always)]
pub fn wraps<F: Ip>(dest: &Dest, proto: Proto, shell: u32) -> bool {
    let own = Shell::of(dest);
    dest.family() == F::FAMILY as u8 && own.proto(F::INSIDE).0 == proto.0 && own.len() == shell
}

/// What the outer header takes from the inner one.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    /// Of all that is behind the outer IP header.
    pub(crate) len: u32,
}

impl Inner {
    /// Of an IP packet `len` bytes long.
    #[inline(always)]
    pub fn of<F: Ip, T: Tables>(t: &T, header: &F::Header, len: u32) -> Self {
        Self {
            tos: outer_tos(F::tos(header)),
            ttl: F::ttl(header),
            dont_fragment: F::dont_fragment(header) && t.settings().pmtu_disc.load() != 0,
            len,
        }
    }
    /// With a tunnel's own headers in front.
    #[inline(always)]
    pub(crate) fn behind(self, shell: &Shell) -> Self {
        Self { len: self.len + shell.len(), ..self }
    }
}

/// What goes in front of a packet, and what of the packet goes into that.
#[derive(Clone, Copy)]
pub struct Envelope {
    /// What goes in front.
    pub shape: Shape,
    /// What it takes from the packet.
    pub inner: Inner,
}

/// Wraps the packet and sends it to the dest.
#[inline(always)]
pub fn send<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    dest: &Dest,
    envelope: Envelope,
    hop: &Hop,
) -> Verdict {
    match wrap(p, t, seen, dest, envelope, hop) {
        Ok(()) => Verdict::sent(Reason::Forwarded, hop.ifindex, p.ingress()),
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
fn wrap<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    n: &Seen<F>,
    dest: &Dest,
    Envelope { shape, inner }: Envelope,
    hop: &Hop,
) -> Result<(), Reason> {
    let Shape { shell, v4 } = shape;
    let inner = inner.behind(&shell);
    let (outer, kind) = (shape.outer(), if v4 { V4::ETHERTYPE } else { V6::ETHERTYPE });
    let l3 = link::rebuild(p, n.l3, outer + shell.len(), kind, hop)?;
    let proto = shell.proto(F::INSIDE);
    if v4 {
        outer_v4(p, t, l3, &inner, proto, dest)?
    } else {
        outer_v6(p, l3, &inner, proto, dest)?
    }
    let at = l3 + outer;
    match shell.kind {
        k if k == TunType::Gue as u8 => gue(p, n, at, &shell, &inner, dest)?,
        k if k == TunType::Gre as u8 => gre::<F, P>(p, at, &shell, &inner)?,
        _ => {}
    }
    Ok(())
}

/// The inner DSCP; ECN is copied, but "congestion experienced" leaves as ECT(0).
#[inline(always)]
fn outer_tos(tos: u8) -> u8 {
    if tos & 3 == 3 { tos & !3 | 2 } else { tos }
}

#[inline(always)]
fn outer_v4<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    l3: u32,
    inner: &Inner,
    proto: Proto,
    dest: &Dest,
) -> Result<(), Reason> {
    let header = header_v4(t, inner, proto, dest.hop.source().words()[0], dest.addr[0].load());
    let place: &mut Ipv4Hdr = p.header_mut(l3)?;
    *place = header;
    Ok(())
}

/// An outer header of IPv4; addresses in memory order.
#[inline(always)]
pub(crate) fn header_v4<T: Tables>(t: &T, inner: &Inner, proto: Proto, src: u32, dst: u32) -> Ipv4Hdr {
    let df = if inner.dont_fragment { 0x40 } else { 0 };
    let id = if inner.dont_fragment { 0 } else { t.random() as u16 };
    let mut header = Ipv4Hdr {
        vihl: 0x45,
        tos: inner.tos,
        tot_len: ((inner.len + V4::HEADER) as u16).to_be_bytes(),
        id: id.to_ne_bytes(),
        frags: [df, 0],
        ttl: inner.ttl,
        proto: proto.0,
        check: [0; 2],
        src_addr: src.to_ne_bytes(),
        dst_addr: dst.to_ne_bytes(),
    };
    header.check = header_check(&header).to_ne_bytes();
    header
}

/// The checksum of an option-less IPv4 header whose own field is zero.
#[inline(always)]
pub fn header_check(h: &Ipv4Hdr) -> u16 {
    let half = |a: [u8; 2]| u16::from_ne_bytes(a) as u32;
    let word = |a: [u8; 4]| u32::from_ne_bytes(a);
    let halves =
        half([h.vihl, h.tos]) + half(h.tot_len) + half(h.id) + half(h.frags) + half([h.ttl, h.proto]);
    !checksum::fold64(halves as u64 + word(h.src_addr) as u64 + word(h.dst_addr) as u64)
}

#[inline(always)]
fn outer_v6<P: Packet>(p: &mut P, l3: u32, inner: &Inner, proto: Proto, dest: &Dest) -> Result<(), Reason> {
    let place: &mut Ipv6Hdr = p.header_mut(l3)?;
    *place = header_v6(inner, proto, dest.hop.source(), dest.address());
    Ok(())
}

/// An outer header of IPv6.
#[inline(always)]
pub(crate) fn header_v6(inner: &Inner, proto: Proto, src: Addr, dst: Addr) -> Ipv6Hdr {
    Ipv6Hdr {
        vcf: [0x60 | inner.tos >> 4, inner.tos << 4, 0, 0],
        payload_len: (inner.len as u16).to_be_bytes(),
        next_hdr: proto.0,
        hop_limit: inner.ttl,
        src_addr: src.0,
        dst_addr: dst.0,
    }
}

/// UDP and GUE version 0 headers.
#[inline(always)]
fn gue<F: Ip, P: Packet>(
    p: &mut P,
    n: &Seen<F>,
    at: u32,
    shell: &Shell,
    inner: &Inner,
    dest: &Dest,
) -> Result<(), Reason> {
    let head = gue_head::<F>(flow_hash(n), shell.port, inner.len);
    let place: &mut [u8; 12] = p.header_mut(at)?;
    *place = head;
    if !shell.summed {
        return Ok(());
    }
    let pseudo = gue_pseudo(&dest.hop.source(), &dest.address(), inner.len);
    // Where the checksum will be, so that it is part of what is summed: the stack has no room to keep it.
    let field: &mut [u8; 2] = p.header_mut(at + 6)?;
    *field = checksum::fold(pseudo).to_ne_bytes();
    let sum = p.sum(at, inner.len).ok_or(Reason::Truncated)?;
    let field: &mut [u8; 2] = p.header_mut(at + 6)?;
    *field = nat::nonzero(!checksum::fold(sum)).to_ne_bytes();
    Ok(())
}

/// Both headers, without a checksum. The source port spreads flows, within the kernel's default local range.
#[inline(always)]
pub(crate) fn gue_head<F: Ip>(hash: u32, port: Port, len: u32) -> [u8; 12] {
    const LOW: u32 = 32768;
    const SPAN: u32 = 60999 - LOW;
    let sport = LOW + ((hash as u64 * SPAN as u64) >> 32) as u32;
    let (s, d) = ((sport as u16).to_be_bytes(), port.wire().to_ne_bytes());
    let len = (len as u16).to_be_bytes();
    [s[0], s[1], d[0], d[1], len[0], len[1], 0, 0, 0, F::INSIDE.0, 0, 0]
}

/// What the pseudo header adds to the sum of `len` bytes of UDP.
#[inline(always)]
pub(crate) fn gue_pseudo(src: &Addr, dst: &Addr, len: u32) -> u32 {
    let words = |a: &Addr| a.words().iter().fold(0, |s, w| checksum::add32(s, *w));
    checksum::add32(checksum::add32(words(src), words(dst)), nat::pseudo(Proto::UDP, len))
}

/// A hash of the inner flow. It spreads flows over a server's queues and the paths there, no more, so it has no key: who
/// chooses his flows could as well choose outer ones of one queue.
#[inline(always)]
pub(crate) fn flow_hash<F: Ip>(n: &Seen<F>) -> u32 {
    let addresses = n.src.mixed() ^ n.dst.mixed().rotate_left(16);
    let ports = n.sport.wire() as u32 | (n.dport.wire() as u32) << 16;
    let word = (addresses as u64 | (ports as u64) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((word ^ word >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

/// GRE version 0, with a checksum if asked.
#[inline(always)]
fn gre<F: Ip, P: Packet>(p: &mut P, at: u32, shell: &Shell, inner: &Inner) -> Result<(), Reason> {
    let head: &mut [u8; 4] = p.header_mut(at)?;
    *head = gre_head::<F>(shell.summed);
    if !shell.summed {
        return Ok(());
    }
    let field: &mut [u8; 4] = p.header_mut(at + 4)?;
    *field = [0; 4];
    let sum = p.sum(at, inner.len).ok_or(Reason::Truncated)?;
    let check = (!checksum::fold(sum)).to_ne_bytes();
    let field: &mut [u8; 2] = p.header_mut(at + 4)?;
    *field = check;
    Ok(())
}

/// The header without its checksum.
#[inline(always)]
pub(crate) fn gre_head<F: Ip>(summed: bool) -> [u8; 4] {
    let kind = F::ETHERTYPE.to_be_bytes();
    [if summed { 0x80 } else { 0 }, 0, kind[0], kind[1]]
}
