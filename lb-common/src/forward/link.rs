//! The link layer of a packet that leaves: MAC addresses, VLAN tags, and where the frame begins.

use crate::dest::Hop;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::{Eth, Vlan, ethertype};

/// Length of an Ethernet header.
pub const ETH: u32 = 14;
/// Length of a tag.
const TAG: u32 = 4;

/// Sends the frame whose IP header is at `l3` on by `hop`, the IP packet staying where it is.
///
/// Tags: those the frame came with stay when it leaves by the same NIC; on another NIC they mean nothing and go. A
/// hop with a tag of its own (its egress is a VLAN device) gets exactly that one.
#[inline(always)]
pub fn send<P: Packet>(p: &mut P, l3: u32, kind: u16, hop: &Hop) -> Result<(), Reason> {
    if hop.vlan == 0 && (l3 == ETH || hop.ifindex == p.ingress()) {
        let macs: &mut [u8; 12] = p.header_mut(0)?;
        *macs = hop.mac_bytes();
        return Ok(());
    }
    rebuild(p, l3, 0, kind, hop).map(|_| ())
}

/// Sends the frame on with `room` new bytes between the link header and the old IP packet. Returns where the room
/// begins.
#[inline(always)]
pub fn rebuild<P: Packet>(p: &mut P, l3: u32, room: u32, kind: u16, hop: &Hop) -> Result<u32, Reason> {
    let kept = if hop.vlan == 0 && hop.ifindex == p.ingress() { l3 - ETH } else { 0 };
    let l2 = ETH + if hop.vlan == 0 { kept } else { TAG };
    if !p.move_start((room + l2) as i32 - l3 as i32) {
        return Err(Reason::NoHeadroom);
    }
    if l2 == ETH {
        let header: &mut Eth = p.header_mut(0)?;
        header_of(header, hop, kind.to_be_bytes());
    } else {
        // A copy: the hop itself need not be in memory.
        tagged(p, room, kind, kept, &{ *hop })?;
    }
    Ok(l2)
}

#[inline(always)]
fn header_of(header: &mut Eth, hop: &Hop, kind: [u8; 2]) {
    let macs = hop.mac_bytes();
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = macs;
    *header = Eth { dst: [d0, d1, d2, d3, d4, d5], src: [s0, s1, s2, s3, s4, s5], kind };
}

/// Up to two tags: EtherType and control word of each, as on the wire.
#[repr(C, align(8))]
struct Tags {
    words: [[u8; 4]; 2],
    count: u32,
}

/// Writes a link header with tags: `kept` bytes of them that stood `room` bytes further on, or the hop's own.
#[inline(never)]
fn tagged<P: Packet>(p: &mut P, room: u32, kind: u16, kept: u32, hop: &Hop) -> Result<(), Reason> {
    let tags = if kept == 0 { own_tag(hop) } else { read_tags(p, room, kept)? };
    write(p, kind, hop, &tags)
}

#[inline(always)]
fn own_tag(hop: &Hop) -> Tags {
    let tci = (hop.vlan as u16).to_be_bytes();
    let kind = ethertype::VLAN.to_be_bytes();
    Tags { words: [[kind[0], kind[1], tci[0], tci[1]], [0; 4]], count: 1 }
}

#[inline(always)]
fn read_tags<P: Packet>(p: &P, room: u32, kept: u32) -> Result<Tags, Reason> {
    let mut tags = Tags { words: [*p.header(room + 12)?, [0; 4]], count: 1 };
    if kept >= 2 * TAG {
        tags.count = 2;
        tags.words[1] = *p.header(room + 16)?;
    }
    Ok(tags)
}

#[inline(always)]
fn write<P: Packet>(p: &mut P, kind: u16, hop: &Hop, tags: &Tags) -> Result<(), Reason> {
    let kind = kind.to_be_bytes();
    let first = |i: usize| [tags.words[i][0], tags.words[i][1]];
    let tci = |i: usize| [tags.words[i][2], tags.words[i][3]];
    let header: &mut Eth = p.header_mut(0)?;
    header_of(header, hop, first(0));
    let tag: &mut Vlan = p.header_mut(ETH)?;
    *tag = Vlan { tci: tci(0), kind: if tags.count == 1 { kind } else { first(1) } };
    if tags.count >= 2 {
        let tag: &mut Vlan = p.header_mut(ETH + TAG)?;
        *tag = Vlan { tci: tci(1), kind };
    }
    Ok(())
}
