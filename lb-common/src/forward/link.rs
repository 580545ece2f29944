//! The link layer of a packet that leaves: MAC addresses, VLAN tags, and where the frame begins.

use crate::dest::Hop;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::{Vlan, ethertype};

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
        let macs: &mut [u8; 12] = p.at_mut(0).ok_or(Reason::Truncated)?;
        *macs = hop.mac_bytes();
        return Ok(());
    }
    // A copy: the hop itself need not be in memory.
    retag(p, l3, kind, &{ *hop })
}

/// The uncommon case of [`send`]: other tags than before.
#[inline(never)]
fn retag<P: Packet>(p: &mut P, l3: u32, kind: u16, hop: &Hop) -> Result<(), Reason> {
    rebuild(p, l3, 0, kind, hop).map(|_| ())
}

/// Sends the frame on with `room` new bytes between the link header and the old IP packet. Returns where the room
/// begins.
#[inline(always)]
pub fn rebuild<P: Packet>(p: &mut P, l3: u32, room: u32, kind: u16, hop: &Hop) -> Result<u32, Reason> {
    let keeps = hop.vlan == 0 && hop.ifindex == p.ingress();
    let tags = if keeps { read_tags(p, l3)? } else { own_tag(hop) };
    let l2 = ETH + TAG * tags.count;
    if !p.move_start((room + l2) as i32 - l3 as i32) {
        return Err(Reason::NoHeadroom);
    }
    write(p, kind, hop, &tags)?;
    Ok(l2)
}

/// Up to two tags: EtherType and control word of each, as on the wire.
#[repr(C, align(8))]
struct Tags {
    words: [[u8; 4]; 2],
    count: u32,
}

#[inline(always)]
fn own_tag(hop: &Hop) -> Tags {
    let tci = (hop.vlan as u16).to_be_bytes();
    let kind = ethertype::VLAN.to_be_bytes();
    Tags { words: [[kind[0], kind[1], tci[0], tci[1]], [0; 4]], count: (hop.vlan != 0) as u32 }
}

#[inline(always)]
fn read_tags<P: Packet>(p: &P, l3: u32) -> Result<Tags, Reason> {
    let mut tags = Tags { words: [[0; 4]; 2], count: 0 };
    if l3 >= ETH + TAG {
        tags.count = 1;
        tags.words[0] = *p.at(12).ok_or(Reason::Truncated)?;
    }
    if l3 >= ETH + 2 * TAG {
        tags.count = 2;
        tags.words[1] = *p.at(16).ok_or(Reason::Truncated)?;
    }
    Ok(tags)
}

#[inline(always)]
fn write<P: Packet>(p: &mut P, kind: u16, hop: &Hop, tags: &Tags) -> Result<(), Reason> {
    let kind = kind.to_be_bytes();
    let first = |i: usize| [tags.words[i][0], tags.words[i][1]];
    let tci = |i: usize| [tags.words[i][2], tags.words[i][3]];
    let macs: &mut [u8; 12] = p.at_mut(0).ok_or(Reason::Truncated)?;
    *macs = hop.mac_bytes();
    let place: &mut [u8; 2] = p.at_mut(12).ok_or(Reason::Truncated)?;
    *place = if tags.count == 0 { kind } else { first(0) };
    if tags.count >= 1 {
        let tag: &mut Vlan = p.at_mut(ETH).ok_or(Reason::Truncated)?;
        *tag = Vlan { tci: tci(0), kind: if tags.count == 1 { kind } else { first(1) } };
    }
    if tags.count >= 2 {
        let tag: &mut Vlan = p.at_mut(ETH + TAG).ok_or(Reason::Truncated)?;
        *tag = Vlan { tci: tci(1), kind };
    }
    Ok(())
}
