//! Network address translation: one address and one port of a packet change, and every checksum that covers them.

use crate::addr::{Port, Proto};
use crate::checksum;
use crate::crc32c;
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::{Fragment, Seen};
use crate::reason::Reason;
use crate::wire::{Tcp, UdpHdr};

/// Which end changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Source: replies.
    Source,
    /// Destination: requests.
    Destination,
}

/// Puts `addr` and `port` in place of what stands on `side`.
///
/// Sums change incrementally. A UDP checksum of zero ("none") becomes a real one, as IPVS does it.
#[inline(always)]
pub fn rewrite<F: Ip, P: Packet>(
    p: &mut P,
    n: &Seen<F>,
    side: Side,
    addr: &F::Addr,
    port: Port,
) -> Result<(), Reason> {
    let (old, old_port) = if side == Side::Source { (n.src, n.sport) } else { (n.dst, n.dport) };
    let diff = old.diff(addr, 0);
    let header: &mut F::Header = p.header_mut(n.l3)?;
    match side {
        Side::Source => F::set_source(header, addr),
        Side::Destination => F::set_destination(header, addr),
    }
    F::adjust(header, diff);
    if n.fragment == Fragment::Later {
        return Ok(());
    }
    let diff = checksum::diff32(diff, old_port.wire() as u32, port.wire() as u32);
    match n.proto {
        Proto::TCP => tcp(p, n.l4, side, port, diff),
        Proto::UDP => udp(p, n, side, port, diff),
        Proto::SCTP => sctp(p, n, side, old_port, port),
        _ => Err(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn tcp<P: Packet>(p: &mut P, l4: u32, side: Side, port: Port, diff: u32) -> Result<(), Reason> {
    let tcp: &mut Tcp = p.header_mut(l4)?;
    let field = if side == Side::Source { &mut tcp.ports.src } else { &mut tcp.ports.dst };
    *field = port.wire().to_ne_bytes();
    tcp.check = checksum::apply(u16::from_ne_bytes(tcp.check), diff).to_ne_bytes();
    Ok(())
}

#[inline(always)]
fn udp<F: Ip, P: Packet>(p: &mut P, n: &Seen<F>, side: Side, port: Port, diff: u32) -> Result<(), Reason> {
    let udp: &mut UdpHdr = p.header_mut(n.l4)?;
    let field = if side == Side::Source { &mut udp.src } else { &mut udp.dst };
    *field = port.wire().to_ne_bytes();
    let check = match u16::from_ne_bytes(udp.check) {
        // A first fragment's sum covers bytes that are not here.
        0 if n.fragment != Fragment::Whole => 0,
        0 => nonzero(whole_sum::<F, P>(p, n.l3, n.l4, n.l3 + n.len, n.proto)),
        check => nonzero(checksum::apply(check, diff)),
    };
    let udp: &mut UdpHdr = p.header_mut(n.l4)?;
    udp.check = check.to_ne_bytes();
    Ok(())
}

/// SCTP's sum covers the ports but no addresses: with the port unchanged there is nothing to do.
#[inline(always)]
fn sctp<F: Ip, P: Packet>(p: &mut P, n: &Seen<F>, side: Side, old: Port, port: Port) -> Result<(), Reason> {
    if old == port {
        return Ok(());
    }
    let ports: &mut [u8; 12] = p.header_mut(n.l4)?;
    let at = if side == Side::Source { 0 } else { 2 };
    let before = u32::from_le_bytes([ports[0], ports[1], ports[2], ports[3]]);
    let [high, low] = port.wire().to_ne_bytes();
    ports[at] = high;
    ports[at + 1] = low;
    let after = u32::from_le_bytes([ports[0], ports[1], ports[2], ports[3]]);
    let len = (n.l3 + n.len).saturating_sub(n.l4);
    let change = crc32c::lb_crc32c_change(before ^ after, len);
    let check: &mut [u8; 4] = p.header_mut(n.l4 + 8)?;
    *check = (u32::from_le_bytes(*check) ^ change).to_le_bytes();
    Ok(())
}

/// The checksum of a UDP datagram whose field is zero, over the headers as they stand now; 0 if the bytes are not all
/// there, which [`crate::parse::network`] has ruled out.
#[inline(never)]
fn whole_sum<F: Ip, P: Packet>(p: &mut P, l3: u32, l4: u32, end: u32, proto: Proto) -> u16 {
    let Some(header) = p.at::<F::Header>(l3) else { return 0 };
    let addresses = checksum::add32(F::source(header).sum(), F::destination(header).sum());
    let len = end.saturating_sub(l4);
    let Some(data) = p.sum(l4, len) else { return 0 };
    !checksum::fold(checksum::add32(checksum::add32(addresses, pseudo(proto, len)), data))
}

/// The pseudo header's share of a sum, addresses left out: protocol and length.
#[inline(always)]
pub fn pseudo(proto: Proto, len: u32) -> u32 {
    (proto.0 as u16).to_be() as u32 + (len as u16).to_be() as u32
}

/// Zero means "none" in a UDP header, so a sum of zero is sent as its other form.
#[inline(always)]
pub fn nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}
