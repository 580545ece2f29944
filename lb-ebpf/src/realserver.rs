//! Takes IPIP headers off, for real servers whose kernel has no tunnel device: what is inside then goes up the stack as
//! if it had come plainly.

use lb_common::addr::Proto;
use lb_common::ip::{Ip, V4, V6};
use lb_common::packet::{Bytes, Packet};
use lb_common::parse;
use lb_common::wire::{Eth, Ipv4Hdr, Ipv6Hdr, ethertype};

use crate::frame::Frame;

/// Takes one tunnel header off, if there is one.
#[inline(always)]
pub fn decapsulate(frame: &mut Frame) {
    let Ok(link) = parse::link(frame) else { return };
    let outer = match link.kind {
        ethertype::IPV4 => frame.at::<Ipv4Hdr>(link.l3).map(|h| ((h.vihl as u32 & 0xf) * 4, Proto(h.proto))),
        ethertype::IPV6 => frame.at::<Ipv6Hdr>(link.l3).map(|h| (V6::HEADER, Proto(h.next_hdr))),
        _ => None,
    };
    let Some((length, proto)) = outer else { return };
    let kind = match proto {
        Proto::IPIP => V4::ETHERTYPE,
        Proto::IPV6 => V6::ETHERTYPE,
        _ => return,
    };
    if link.l3 != 14 || length < V4::HEADER {
        return;
    }
    let Some(eth) = frame.at::<Eth>(0).copied() else { return };
    if !frame.move_start(-(length as i32)) {
        return;
    }
    if let Some(new) = frame.at_mut::<Eth>(0) {
        *new = Eth { kind: kind.to_be_bytes(), ..eth };
    }
}
