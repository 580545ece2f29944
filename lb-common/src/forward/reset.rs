//! Resets the balancer sends itself, in the service's name: to clients of a server that was found dead.
//!
//! A TCP reset counts only if it has the number its receiver expects next; the client's own segment says it, in its
//! acknowledgement (RFC 9293, 3.10.7.1). An SCTP ABORT has to have the tag of the association, or with its T bit set that
//! of the packet it answers (RFC 9260, 8.4).

use crate::addr::Proto;
use crate::checksum;
use crate::crc32c;
use crate::forward::{link, own};
use crate::ip::Ip;
use crate::packet::Packet;
use crate::parse::{Fragment, Seen};
use crate::reason::{Reason, Verdict};
use crate::tables::{LOOPBACK, Tables};
use crate::wire::{Ports, Tcp, tcp_flags};

/// Length of a TCP header.
const TCP: u32 = 20;
/// Length of an SCTP header with an ABORT chunk.
const ABORT: u32 = 16;
/// The chunk: type, T bit, length.
const CHUNK: [u8; 4] = [6, 1, 0, 4];

/// Turns a client's packet into a reset and sends it back. Not one that is a reset itself, or a part of a datagram: those
/// are dropped.
#[inline(never)]
pub fn answer<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Verdict {
    if seen.fragment != Fragment::Whole {
        return Reason::DestGone.into();
    }
    let sent = match seen.proto {
        Proto::TCP => tcp(p, t, seen),
        Proto::SCTP => sctp(p, t, seen),
        _ => Err(Reason::DestGone),
    };
    match sent {
        Ok(ifindex) => Verdict::sent(Reason::ResetSent, ifindex, p.ingress()),
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
fn tcp<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Result<u32, Reason> {
    let old: &Tcp = p.header(seen.l4)?;
    if old.flags & tcp_flags::RST != 0 {
        return Err(Reason::DestGone);
    }
    let (seq, ack, flags) = if old.flags & tcp_flags::ACK != 0 {
        (u32::from_be_bytes(old.ack), 0, tcp_flags::RST)
    } else {
        let next = u32::from_be_bytes(old.seq).wrapping_add(length(seen, old));
        (0, next, tcp_flags::RST | tcp_flags::ACK)
    };
    let (l3, ifindex) = begin(p, t, seen, Proto::TCP, TCP)?;
    let place: &mut Tcp = p.header_mut(l3 + F::HEADER)?;
    *place = Tcp {
        ports: back(seen),
        seq: seq.to_be_bytes(),
        ack: ack.to_be_bytes(),
        offset: 5 << 4,
        flags,
        window: [0; 2],
        check: [0; 2],
        urgent: [0; 2],
    };
    // The kernel program's stack wants no constant here: it would be written together with its neighbour, unaligned.
    let len = core::hint::black_box(TCP);
    let sum = p.sum(l3 + F::HEADER, len).ok_or(Reason::Truncated)?;
    let pseudo = own::pseudo::<F>((Proto::TCP, TCP), (&seen.dst, &seen.src));
    let place: &mut Tcp = p.header_mut(l3 + F::HEADER)?;
    place.check = (!checksum::fold(checksum::add32(sum, pseudo))).to_ne_bytes();
    Ok(ifindex)
}

/// How many numbers a segment takes: its data, and one each for SYN and FIN.
#[inline(always)]
fn length<F: Ip>(seen: &Seen<F>, tcp: &Tcp) -> u32 {
    let header = (tcp.offset >> 4) as u32 * 4;
    let data = (seen.l3 + seen.len).saturating_sub(seen.l4 + header);
    let count = |flag: u8| (tcp.flags & flag != 0) as u32;
    data + count(tcp_flags::SYN) + count(tcp_flags::FIN)
}

#[inline(always)]
fn sctp<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Result<u32, Reason> {
    let old: &[u8; 16] = p.header(seen.l4)?;
    if old[12] == CHUNK[0] {
        return Err(Reason::DestGone);
    }
    let vtag = [old[4], old[5], old[6], old[7]];
    let (l3, ifindex) = begin(p, t, seen, Proto::SCTP, ABORT)?;
    let Ports { src: [a, b], dst: [c, d] } = back(seen);
    let ports = [a, b, c, d];
    let words = [ports, vtag, crc(ports, vtag).to_le_bytes(), CHUNK];
    for (word, at) in words.iter().zip([0, 4, 8, 12]) {
        let place: &mut [u8; 4] = p.header_mut(l3 + F::HEADER + at)?;
        *place = *word;
    }
    Ok(ifindex)
}

/// The checksum, word by word: each is the first that differs from zero of a packet that begins with it.
#[inline(always)]
fn crc(ports: [u8; 4], vtag: [u8; 4]) -> u32 {
    const REST: u32 = crc32c::of_zeros(ABORT as usize);
    REST ^ crc32c::lb_crc32c_change(u32::from_le_bytes(ports), ABORT)
        ^ crc32c::lb_crc32c_change(u32::from_le_bytes(vtag), ABORT - 4)
        ^ crc32c::lb_crc32c_change(u32::from_le_bytes(CHUNK), ABORT - 12)
}

/// The packet's ports the other way round.
#[inline(always)]
fn back<F: Ip>(seen: &Seen<F>) -> Ports {
    Ports { src: seen.dport.wire().to_ne_bytes(), dst: seen.sport.wire().to_ne_bytes() }
}

/// Link layer and IP header of an answer with `len` bytes of `proto`, which the packet it answers is at least as long as.
/// Returns where the IP header is, and the NIC to send by.
#[inline(always)]
fn begin<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    proto: Proto,
    len: u32,
) -> Result<(u32, u32), Reason> {
    let hop = t.route_to_client::<F>(&seen.src, &seen.dst, LOOPBACK)?;
    if !p.truncate(seen.l3 + F::HEADER + len) {
        return Err(Reason::Truncated);
    }
    let l3 = link::rebuild(p, seen.l3, 0, F::ETHERTYPE, &hop)?;
    own::header::<F, P, T>(p, t, l3, (proto, len), (&seen.dst, &seen.src), 0)?;
    Ok((l3, hop.ifindex))
}
