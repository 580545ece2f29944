//! IP headers of packets the balancer makes itself.

use crate::addr::{Addr, Family, Proto};
use crate::checksum;
use crate::forward::{nat, tunnel};
use crate::ip::{Address, Ip, V4};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::wire::{Ipv4Hdr, Ipv6Hdr};

/// Writes an IP header at `l3`, for `len` bytes of `proto` behind it; `tos` counts in IPv4. The two addresses are source and
/// destination.
#[inline(always)]
pub fn header<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    l3: u32,
    (proto, len): (Proto, u32),
    (src, dst): (&F::Addr, &F::Addr),
    tos: u8,
) -> Result<(), Reason> {
    match F::FAMILY {
        Family::V4 => v4(p, t, l3, proto, len, &src.wide(), &dst.wide(), tos),
        Family::V6 => v6(p, l3, proto, len, &src.wide(), &dst.wide()),
    }
}

/// What a transport checksum of such a packet starts from: the pseudo header's sum.
#[inline(always)]
pub fn pseudo<F: Ip>((proto, len): (Proto, u32), (src, dst): (&F::Addr, &F::Addr)) -> u32 {
    checksum::add32(checksum::add32(src.sum(), dst.sum()), nat::pseudo(proto, len))
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one for each field that is not always the same")]
fn v4<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    l3: u32,
    proto: Proto,
    len: u32,
    src: &Addr,
    dst: &Addr,
    tos: u8,
) -> Result<(), Reason> {
    let mut header = Ipv4Hdr {
        vihl: 0x45,
        tos,
        tot_len: ((len + V4::HEADER) as u16).to_be_bytes(),
        id: (t.random() as u16 | 1).to_ne_bytes(),
        frags: [0; 2],
        ttl: 64,
        proto: proto.0,
        check: [0; 2],
        src_addr: [src.0[0], src.0[1], src.0[2], src.0[3]],
        dst_addr: [dst.0[0], dst.0[1], dst.0[2], dst.0[3]],
    };
    header.check = tunnel::header_check(&header).to_ne_bytes();
    let place: &mut Ipv4Hdr = p.header_mut(l3)?;
    *place = header;
    Ok(())
}

#[inline(always)]
fn v6<P: Packet>(p: &mut P, l3: u32, proto: Proto, len: u32, src: &Addr, dst: &Addr) -> Result<(), Reason> {
    let place: &mut Ipv6Hdr = p.header_mut(l3)?;
    *place = Ipv6Hdr {
        vcf: [0x60, 0, 0, 0],
        payload_len: (len as u16).to_be_bytes(),
        next_hdr: proto.0,
        hop_limit: 64,
        src_addr: src.0,
        dst_addr: dst.0,
    };
    Ok(())
}
