//! Frames as values: fields to set, bytes to get. Lengths and checksums follow from the fields, computed in the plainest
//! way there is, so that they owe nothing to the code under test. A tunnelled packet is a packet in a packet, an ICMP
//! error a packet that quotes one: what a test expects is written with the same words as what it sends.

use std::net::IpAddr;

/// A MAC address.
pub type Mac = [u8; 6];

/// TCP flags, as bits.
pub mod tcp {
    /// The client is done.
    pub const FIN: u8 = 1;
    /// A beginning.
    pub const SYN: u8 = 2;
    /// An end.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// To which card.
    pub to: Mac,
    /// From which card.
    pub from: Mac,
    /// VLAN tags, outermost first: EtherType and control word.
    pub tags: Vec<(u16, u16)>,
    /// What it carries.
    pub packet: Packet,
    /// What follows the packet, to make a frame long enough for a cable.
    pub padding: Vec<u8>,
}

/// An IP packet of either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same version.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4 identification. Nothing: in what is sent 0, in what is expected any.
    pub id: Option<u16>,
    /// IPv4 "don't fragment".
    pub df: bool,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and what follows the two first bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Part of a datagram: which bytes of it.
    pub part: Option<Part>,
    /// What it carries.
    pub body: Body,
}

/// Which bytes of the datagram a fragment has. Offsets are multiples of eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub from: usize,
    /// One past the last, or the datagram's end.
    pub to: Option<usize>,
}

/// What an IP packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// TCP: ports, flags, data.
    Tcp(u16, u16, u8, Vec<u8>),
    /// UDP: ports, data, checksum or zero in its place.
    Udp(u16, u16, Vec<u8>, bool),
    /// SCTP: ports, chunks by type and content.
    Sctp(u16, u16, Vec<(u8, Vec<u8>)>),
    /// IP in IP.
    Ip(Box<Packet>),
    /// GRE, with a checksum or without.
    Gre(bool, Box<Packet>),
    /// GUE to a port, with an outer checksum or without. Its source port is the sender's choice: nothing means any.
    Gue(Option<u16>, u16, bool, Box<Packet>),
    /// ICMP: type, code, second word, the rest.
    Icmp(u8, u8, u32, Vec<u8>),
    /// Anything, by its protocol number.
    Other(u8, Vec<u8>),
}

/// The Internet checksum of bytes in a row, in the order of the wire: the sum of big-endian words, carries added, inverted.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Packet {
    /// With TTL 64 and nothing special.
    pub fn new(src: IpAddr, dst: IpAddr, body: Body) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "both addresses of one version");
        let (options, extensions) = (Vec::new(), Vec::new());
        Self { src, dst, ttl: 64, tos: 0, id: Some(0x1234), df: false, options, extensions, part: None, body }
    }

    /// A TCP segment.
    pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8, data: &[u8]) -> Self {
        Self::new(src.0, dst.0, Body::Tcp(src.1, dst.1, flags, data.to_vec()))
    }

    /// A TCP reset with these numbers: window and all else are zero. With any identification.
    pub fn reset(src: (IpAddr, u16), dst: (IpAddr, u16), seq: u32, ack: u32, flags: u8) -> Self {
        let mut bytes = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
        bytes.extend(seq.to_be_bytes());
        bytes.extend(ack.to_be_bytes());
        bytes.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        let mut packet = Self::new(src.0, dst.0, Body::Other(6, bytes.clone()));
        let check = checksum(&[&packet.pseudo(6, bytes.len()), &bytes]).to_be_bytes();
        bytes[16..18].copy_from_slice(&check);
        (packet.body, packet.id) = (Body::Other(6, bytes), None);
        packet
    }

    /// An SCTP ABORT that answers a packet of [`Packet::sctp`]. With any identification.
    pub fn abort(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        let mut bytes = sctp(src.1, dst.1, &[(6, Vec::new())]);
        // The tag is the other side's.
        bytes[13] = 1;
        bytes[8..12].fill(0);
        let check = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&check);
        Self::new(src.0, dst.0, Body::Other(132, bytes)).with(|packet| packet.id = None)
    }

    /// A UDP datagram.
    pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16), data: &[u8]) -> Self {
        Self::new(src.0, dst.0, Body::Udp(src.1, dst.1, data.to_vec(), true))
    }

    /// An SCTP packet with a chunk of each of these types.
    pub fn sctp(src: (IpAddr, u16), dst: (IpAddr, u16), chunks: &[u8]) -> Self {
        // Not a multiple of four: the next chunk begins after some padding.
        let chunks = chunks.iter().map(|kind| (*kind, vec![0x51; 13])).collect();
        Self::new(src.0, dst.0, Body::Sctp(src.1, dst.1, chunks))
    }

    /// An ICMP error from `src` to `dst` of this type and code that quotes some bytes.
    pub fn icmp_error(src: IpAddr, dst: IpAddr, kind: (u8, u8), quote: Vec<u8>) -> Self {
        Self::new(src, dst, Body::Icmp(kind.0, kind.1, 0, quote))
    }

    /// Changed by `change`.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Cut into fragments with this many bytes of payload each, a multiple of eight.
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        assert_eq!(size % 8, 0, "fragments begin at multiples of eight");
        let length = self.body_bytes().1.len();
        let part = |from| {
            let to = (from + size < length).then_some(from + size);
            self.clone().with(|packet| packet.part = Some(Part { from, to }))
        };
        (0..length).step_by(size).map(part).collect()
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let (proto, mut body) = self.body_bytes();
        if let Some(part) = self.part {
            body = body[part.from..part.to.unwrap_or(body.len())].to_vec();
        }
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(src.octets(), dst.octets(), proto, &body),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.v6(src.octets(), dst.octets(), proto, &body),
            _ => unreachable!("both addresses of one version"),
        }
    }

    fn v4(&self, src: [u8; 4], dst: [u8; 4], proto: u8, body: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let (from, more) = self.part.map_or((0, false), |part| (part.from, part.to.is_some()));
        let flags = (from / 8) as u16 | if more { 0x2000 } else { 0 } | if self.df { 0x4000 } else { 0 };
        let mut head = vec![0x40 | words as u8, self.tos];
        head.extend(((words * 4 + body.len()) as u16).to_be_bytes());
        head.extend(self.id.unwrap_or(0).to_be_bytes());
        head.extend(flags.to_be_bytes());
        head.extend([self.ttl, proto, 0, 0]);
        head.extend(src);
        head.extend(dst);
        head.extend(&self.options);
        let check = checksum(&[&head]).to_be_bytes();
        head[10..12].copy_from_slice(&check);
        [&head, body].concat()
    }

    fn v6(&self, src: [u8; 16], dst: [u8; 16], proto: u8, body: &[u8]) -> Vec<u8> {
        let (first, extensions) = self.chain(proto);
        let mut head = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        head.extend(((extensions.len() + body.len()) as u16).to_be_bytes());
        head.extend([first, self.ttl]);
        head.extend(src);
        head.extend(dst);
        [&head, extensions.as_slice(), body].concat()
    }

    /// The extension headers, built from the last one on: each names the next. A fragment header stands last.
    fn chain(&self, proto: u8) -> (u8, Vec<u8>) {
        let (mut next, mut bytes) = (proto, Vec::new());
        if let Some(part) = self.part {
            let word = part.from as u16 | u16::from(part.to.is_some());
            let (id, word) = (u32::from(self.id.unwrap_or(0)).to_be_bytes(), word.to_be_bytes());
            bytes = [&[next, 0], &word[..], &id[..]].concat();
            next = 44;
        }
        for (kind, content) in self.extensions.iter().rev() {
            assert_eq!((content.len() + 2) % 8, 0, "an extension header is a multiple of eight bytes");
            let length = ((content.len() + 2) / 8 - 1) as u8;
            bytes = [&[next, length], content.as_slice(), &bytes].concat();
            next = *kind;
        }
        (next, bytes)
    }

    /// Addresses, length and protocol as checksums cover them.
    fn pseudo(&self, proto: u8, len: usize) -> Vec<u8> {
        let tail = [(len as u32).to_be_bytes(), u32::from(proto).to_be_bytes()].concat();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [&src.octets()[..], &dst.octets(), &tail].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [&src.octets()[..], &dst.octets(), &tail].concat(),
            _ => unreachable!("both addresses of one version"),
        }
    }

    /// Protocol number and payload.
    fn body_bytes(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp(sport, dport, flags, data) => (6, self.tcp_bytes(*sport, *dport, *flags, data)),
            Body::Udp(sport, dport, data, summed) => (17, self.udp_bytes(*sport, *dport, data, *summed)),
            Body::Sctp(sport, dport, chunks) => (132, sctp(*sport, *dport, chunks)),
            Body::Ip(inner) => (inner.number(), inner.bytes()),
            Body::Gre(summed, inner) => (47, gre(*summed, inner)),
            Body::Gue(sport, dport, summed, inner) => {
                let data = [&[0, inner.number(), 0, 0], inner.bytes().as_slice()].concat();
                (17, self.udp_bytes(sport.unwrap_or(0), *dport, &data, *summed))
            }
            Body::Icmp(kind, code, word, rest) => self.icmp(*kind, *code, *word, rest),
            Body::Other(proto, bytes) => (*proto, bytes.clone()),
        }
    }

    /// Its protocol number inside another packet.
    fn number(&self) -> u8 {
        if self.src.is_ipv4() { 4 } else { 41 }
    }

    fn tcp_bytes(&self, sport: u16, dport: u16, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(data);
        let check = checksum(&[&self.pseudo(6, bytes.len()), &bytes]).to_be_bytes();
        bytes[16..18].copy_from_slice(&check);
        bytes
    }

    fn udp_bytes(&self, sport: u16, dport: u16, data: &[u8], summed: bool) -> Vec<u8> {
        let length = (data.len() + 8) as u16;
        let mut bytes = [sport, dport, length, 0].map(u16::to_be_bytes).concat();
        bytes.extend(data);
        if summed {
            // Zero would mean "none".
            let check = match checksum(&[&self.pseudo(17, bytes.len()), &bytes]) {
                0 => 0xffff,
                check => check,
            };
            bytes[6..8].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    fn icmp(&self, kind: u8, code: u8, word: u32, rest: &[u8]) -> (u8, Vec<u8>) {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(word.to_be_bytes());
        bytes.extend(rest);
        let v4 = self.src.is_ipv4();
        let pseudo = if v4 { Vec::new() } else { self.pseudo(58, bytes.len()) };
        let check = checksum(&[&pseudo, &bytes]).to_be_bytes();
        bytes[2..4].copy_from_slice(&check);
        (if v4 { 1 } else { 58 }, bytes)
    }

    /// The fields that are the sender's choice, taken from what was really sent.
    fn fit(&self, actual: &[u8]) -> Self {
        let word = |at: usize| actual.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let mut fitted = self.clone();
        let header = if self.src.is_ipv4() { 20 } else { 40 };
        if self.id.is_none() {
            fitted.id = Some(word(4));
        }
        if let Body::Gue(sport @ None, ..) = &mut fitted.body {
            // The kernel's default range of local ports.
            *sport = Some(word(header).clamp(32768, 60998));
        }
        fitted
    }
}

fn sctp(sport: u16, dport: u16, chunks: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend([0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0]);
    for (kind, content) in chunks {
        bytes.extend([*kind, 0]);
        bytes.extend((content.len() as u16 + 4).to_be_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let check = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&check);
    bytes
}

fn gre(summed: bool, inner: &Packet) -> Vec<u8> {
    let kind: u16 = if inner.src.is_ipv4() { 0x0800 } else { 0x86dd };
    let mut bytes = vec![if summed { 0x80 } else { 0 }, 0];
    bytes.extend(kind.to_be_bytes());
    if summed {
        bytes.extend([0; 4]);
    }
    bytes.extend(inner.bytes());
    if summed {
        let check = checksum(&[&bytes]).to_be_bytes();
        bytes[4..6].copy_from_slice(&check);
    }
    bytes
}

impl Frame {
    /// Without tags.
    pub fn new(from: Mac, to: Mac, packet: Packet) -> Self {
        Self { to, from, tags: Vec::new(), packet, padding: Vec::new() }
    }

    /// With these tags of a customer VLAN.
    pub fn tagged(mut self, vlans: &[u16]) -> Self {
        self.tags = vlans.iter().map(|vlan| (0x8100, *vlan)).collect();
        self
    }

    /// With zeros behind the packet.
    pub fn padded(mut self, zeros: usize) -> Self {
        self.padding = vec![0; zeros];
        self
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.packet.bytes(), self.padding.clone()].concat()
    }

    fn head(&self) -> Vec<u8> {
        let kind: u16 = if self.packet.src.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut bytes = [self.to, self.from].concat();
        for (kind, tci) in &self.tags {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(kind.to_be_bytes());
        bytes
    }

    /// Its bytes, with what is the sender's choice as in `actual`.
    pub fn fitted(&self, actual: &[u8]) -> Vec<u8> {
        let head = self.head();
        let packet = self.packet.fit(actual.get(head.len()..).unwrap_or(&[]));
        [head, packet.bytes(), self.padding.clone()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn ends(v6: bool) -> (IpAddr, IpAddr) {
        let parse = |text: &str| text.parse().expect("an address");
        if v6 { (parse("fd01::7"), parse("fd09::1")) } else { (parse("192.0.2.7"), parse("10.9.0.1")) }
    }

    /// What somebody else's parser makes of a frame: are all checksums what it computes?
    fn sound(bytes: &[u8]) -> bool {
        let packet = SlicedPacket::from_ethernet(bytes).expect("it parses");
        match (&packet.net, &packet.transport) {
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
                let (header, ip) = (tcp.to_header(), ip.header().to_header());
                header.calc_checksum_ipv4(&ip, tcp.payload()).expect("short") == header.checksum
                    && ip.calc_header_checksum() == ip.header_checksum
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
                let (header, ip) = (tcp.to_header(), ip.header().to_header());
                header.calc_checksum_ipv6(&ip, tcp.payload()).expect("short") == header.checksum
            }
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
                let (header, ip) = (udp.to_header(), ip.header().to_header());
                header.calc_checksum_ipv4(&ip, udp.payload()).expect("short") == header.checksum
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                let (header, ip) = (udp.to_header(), ip.header().to_header());
                header.calc_checksum_ipv6(&ip, udp.payload()).expect("short") == header.checksum
            }
            other => panic!("neither TCP nor UDP: {other:?}"),
        }
    }

    #[test]
    fn another_parser_finds_every_checksum_right() {
        for v6 in [false, true] {
            let (src, dst) = ends(v6);
            for data in [&b""[..], b"o", b"even"] {
                let tcp = Packet::tcp((src, 1025), (dst, 80), tcp::SYN, data);
                let udp = Packet::udp((src, 1025), (dst, 53), data);
                for packet in [tcp, udp] {
                    let packet = packet.with(|p| p.options = if v6 { Vec::new() } else { vec![1; 8] });
                    assert!(sound(&Frame::new([2; 6], [4; 6], packet.clone()).bytes()));
                    assert!(sound(&Frame::new([2; 6], [4; 6], packet).tagged(&[5, 7]).bytes()));
                }
            }
        }
    }

    #[test]
    fn the_sctp_sum_is_crc32c() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let bytes = sctp(7, 9, &[(1, vec![0; 16]), (6, vec![1])]);
        assert_eq!((bytes.len(), &bytes[32..]), (40, &[6, 0, 0, 5, 1, 0, 0, 0][..]));
    }

    /// ipvs.md 6.4, captured from the kernel.
    #[test]
    fn a_tunnelled_packet_is_the_captured_one() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let inner = Packet::new(ip("192.168.1.10"), ip("10.0.0.1"), Body::Udp(1, 80, vec![0; 2], true));
        let inner = inner.with(|p| (p.df, p.ttl) = (true, 63));
        let outer = |body| {
            let packet = Packet::new(ip("10.2.255.1"), ip("10.2.0.1"), body);
            packet.with(|p| (p.df, p.ttl, p.id) = (true, 63, Some(0))).bytes()
        };
        let ipip = outer(Body::Ip(Box::new(inner.clone())));
        assert_eq!(ipip[..12], [0x45, 0, 0, 0x32, 0, 0, 0x40, 0, 0x3f, 4, 0x28, 0xc2]);
        let gue = outer(Body::Gue(Some(0xc1bc), 6080, false, Box::new(inner.clone())));
        assert_eq!(gue[20..32], [0xc1, 0xbc, 0x17, 0xc0, 0, 0x2a, 0, 0, 0, 4, 0, 0]);
        let gre = outer(Body::Gre(false, Box::new(inner)));
        assert_eq!(gre[..12], [0x45, 0, 0, 0x36, 0, 0, 0x40, 0, 0x3f, 0x2f, 0x28, 0x93]);
    }
}
