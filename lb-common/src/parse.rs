//! From a frame to what the pass needs to know of it. Nothing here looks at a table; every step checks that the bytes
//! are there and that lengths are possible.

use crate::addr::{Port, Proto};
use crate::ip::Ip;
use crate::packet::Bytes;
use crate::reason::Reason;
use crate::state::{self, Event};
use crate::wire::{Eth, Frag6, Ports, Tcp, UdpHdr, Vlan, ethertype, tcp_flags};

/// VLAN tags read at the most.
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers read at the most.
const MAX_EXTENSIONS: u32 = 6;

/// The link layer.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Where the IP header begins.
    pub l3: u32,
    /// EtherType after the tags, host order.
    pub kind: u16,
}

/// Ethernet and VLAN tags.
#[inline(always)]
pub fn link<P: Bytes>(p: &P) -> Result<Link, Reason> {
    let eth: &Eth = p.header(0)?;
    if eth.dst[0] & 1 != 0 {
        return Err(Reason::NotUnicast.late());
    }
    let mut link = Link { l3: 14, kind: u16::from_be_bytes(eth.kind) };
    let mut tags = 0;
    while tags < MAX_TAGS && matches!(link.kind, ethertype::VLAN | ethertype::QINQ) {
        let tag: &Vlan = p.header(link.l3)?;
        link = Link { l3: link.l3 + 4, kind: u16::from_be_bytes(tag.kind) };
        tags += 1;
    }
    Ok(link)
}

/// Which part of its datagram a packet is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The first part: it has the ports.
    First,
    /// A later part.
    Later,
}

/// A packet taken apart. The order of fields keeps double words aligned, see [`crate::addr::Addr`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<F: Ip> {
    /// Source.
    pub src: F::Addr,
    /// Destination.
    pub dst: F::Addr,
    /// Where the IP header begins.
    pub l3: u32,
    /// Where the transport header begins.
    pub l4: u32,
    /// When, in ticks.
    pub now: u32,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// What it means to the state machine.
    pub event: Event,
    /// Is it the kind of packet that begins a connection: a SYN, an INIT, any datagram? On an old connection it may begin
    /// a new one.
    pub opens: bool,
    /// Transport protocol.
    pub proto: Proto,
    /// Part of a datagram?
    pub fragment: Fragment,
    /// Length of the IP packet.
    pub len: u32,
    /// The datagram's identification, wire order, if this is a part of one. (Beside no word that every packet has: the
    /// compiler would join the two.)
    pub id: u32,
}

/// The IP header at `l3` of a packet that came at `now`, with nothing known of the transport yet.
///
/// `Malformed` if its lengths cannot be, among themselves or within the frame.
#[inline(always)]
pub fn network<F: Ip, P: Bytes>(p: &P, l3: u32, header: &F::Header, now: u32) -> Result<Seen<F>, Reason> {
    let len = F::total_len(header);
    let (skip, proto, fragment, id) = F::payload(header)?;
    if len < skip || !p.has(l3 + len) {
        return Err(Reason::Malformed.late());
    }
    Ok(Seen {
        src: F::source(header),
        dst: F::destination(header),
        l3,
        l4: l3 + skip,
        id,
        now,
        sport: Port::ZERO,
        dport: Port::ZERO,
        event: Event::NONE,
        opens: false,
        proto,
        fragment,
        len,
    })
}

/// Walks IPv6 extension headers up to the transport header. (IPv4 has none: a no-op there.)
#[inline(always)]
pub fn extensions<F: Ip, P: Bytes>(p: &P, seen: &mut Seen<F>) -> Result<(), Reason> {
    if F::HEADER_SUM {
        return Ok(());
    }
    let end = seen.l3 + seen.len;
    let mut count = 0;
    while count < MAX_EXTENSIONS {
        let length = match seen.proto.0 {
            // Hop-by-hop, routing, destination options; the length counts words of 8 after the first.
            0 | 43 | 60 => {
                let head: &[u8; 2] = p.header(seen.l4)?;
                seen.proto = Proto(head[0]);
                (head[1] as u32 + 1) * 8
            }
            44 => {
                let frag: &Frag6 = p.header(seen.l4)?;
                let word = u16::from_be_bytes(frag.offset);
                seen.proto = Proto(frag.next);
                seen.id = u32::from_ne_bytes(frag.id);
                seen.fragment = match (word & 0xfff8, word & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            _ => return Ok(()),
        };
        seen.l4 += length;
        if seen.l4 > end {
            return Err(Reason::Malformed.late());
        }
        if seen.fragment == Fragment::Later {
            return Ok(());
        }
        count += 1;
    }
    Err(Reason::Malformed.late())
}

/// The IP header with all that stands between it and the transport header.
#[inline(always)]
pub fn ip<F: Ip, P: Bytes>(p: &P, l3: u32, header: &F::Header, now: u32) -> Result<Seen<F>, Reason> {
    let mut seen = network::<F, P>(p, l3, header, now)?;
    extensions::<F, P>(p, &mut seen)?;
    Ok(seen)
}

/// The transport header, where the packet has one: a later fragment does not.
#[inline(always)]
pub fn transport<F: Ip, P: Bytes>(p: &P, seen: &mut Seen<F>) -> Result<(), Reason> {
    if seen.fragment == Fragment::Later { Ok(()) } else { ports::<F, P>(p, seen) }
}

/// Ports and event of TCP, UDP and SCTP.
#[inline(always)]
pub fn ports<F: Ip, P: Bytes>(p: &P, seen: &mut Seen<F>) -> Result<(), Reason> {
    // All headers before it were found to lie within the packet.
    let room = seen.l3 + seen.len - seen.l4;
    match seen.proto {
        Proto::TCP => {
            let tcp: &Tcp = p.header(seen.l4)?;
            if room < 20 {
                return Err(Reason::Truncated.late());
            }
            seen.set_ports(&tcp.ports);
            seen.event = state::tcp::event(tcp.flags);
            seen.opens = tcp.flags & tcp_flags::SYN != 0;
            Ok(())
        }
        Proto::UDP => {
            let udp: &UdpHdr = p.header(seen.l4)?;
            if room < 8 {
                return Err(Reason::Truncated.late());
            }
            seen.set_ports(&Ports { src: udp.src, dst: udp.dst });
            seen.opens = true;
            Ok(())
        }
        Proto::SCTP => sctp(p, seen, room),
        _ => Err(Reason::OtherProtocol.late()),
    }
}

/// Ports of SCTP, and the event of its first chunk. Only an INIT may start an association.
#[inline(always)]
fn sctp<F: Ip, P: Bytes>(p: &P, seen: &mut Seen<F>, room: u32) -> Result<(), Reason> {
    const HEADER: u32 = 12;
    const CHUNK: u32 = 4;
    if room < HEADER + CHUNK {
        return Err(Reason::Truncated.late());
    }
    let header: &Ports = p.header(seen.l4)?;
    seen.set_ports(header);
    let chunk: &[u8; 4] = p.header(seen.l4 + HEADER)?;
    let (first, length) = (chunk[0], u16::from_be_bytes([chunk[2], chunk[3]]) as u32);
    let next = HEADER + ((length + 3) & !3);
    let second = if state::sctp::may_hide_abort(first) && next + CHUNK <= room {
        p.at::<[u8; 2]>(seen.l4 + next).map(|chunk| chunk[0])
    } else {
        None
    };
    seen.event = state::sctp::event(first, second);
    seen.opens = first == state::sctp::chunk::INIT;
    Ok(())
}

impl<F: Ip> Seen<F> {
    /// Takes the ports from a transport header.
    #[inline(always)]
    pub fn set_ports(&mut self, ports: &Ports) {
        self.sport = Port::from_wire(u16::from_ne_bytes(ports.src));
        self.dport = Port::from_wire(u16::from_ne_bytes(ports.dst));
    }
    /// Takes the ports from a word: source in the lower half, both in wire order.
    #[inline(always)]
    pub fn take_ports(&mut self, word: u32) {
        self.sport = Port::from_wire(word as u16);
        self.dport = Port::from_wire((word >> 16) as u16);
    }
    /// The flow, if a client sent the packet.
    #[inline(always)]
    pub fn flow(&self) -> crate::flow::Flow<F::Addr> {
        crate::flow::Flow {
            client: self.src,
            vaddr: self.dst,
            cport: self.sport,
            vport: self.dport,
            proto: self.proto,
        }
    }
}
