//! From a line of a case to a frame: what a client or a server sends.

use super::case::Shot;
use super::world::{BACK_MAC, CLIENTS_MAC, FRONT_MAC, server_card};
use crate::packets::{Body, Frame, Mac, Packet, tcp};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port of every GUE tunnel in the cases.
pub const GUE_PORT: u16 = 6080;

/// Protocol and ends of a connection.
type Key = (u8, SocketAddr, SocketAddr);

/// What came out last of each connection, IP packets with their card's address in front.
#[derive(Debug, Default)]
pub struct Memory {
    /// At the server.
    delivered: BTreeMap<Key, Vec<u8>>,
    /// At the client.
    answered: BTreeMap<Key, Vec<u8>>,
}

impl Memory {
    /// Keeps a frame that a shot led to: at the servers' end, or at the clients'.
    pub fn keep(&mut self, shot: &Shot, at_server: bool, frame: Vec<u8>) {
        let known = if at_server { &mut self.delivered } else { &mut self.answered };
        known.insert(key(shot), frame);
    }

    /// The frames to be sent: more than one if the packet comes in fragments, none if it would answer something that
    /// never came.
    pub fn frames(&self, shot: &Shot) -> Result<Vec<Vec<u8>>> {
        let (client, service) = (shot.client, shot.service);
        let (from, to, mac, card) = match (shot.answer, shot.number::<SocketAddr>("from")?) {
            (false, _) => (client, service, CLIENTS_MAC, FRONT_MAC),
            (true, Some(server)) => (server, client, server_card(server.ip()), BACK_MAC),
            // A router on the tunnel's way, to the balancer.
            (true, None) if shot.has("outer") => {
                match self.delivered.get(&key(shot)).and_then(|frame| outer(frame)) {
                    Some((balancer, server, mac)) => {
                        (SocketAddr::new(server, 0), SocketAddr::new(balancer, 0), mac, BACK_MAC)
                    }
                    None => return Ok(Vec::new()),
                }
            }
            (true, None) => match self.delivered.get(&key(shot)).map(|frame| ends(frame)) {
                // Through a tunnel or routed: the server answers by itself, past the balancer, unless that is its router.
                Some((to, port, mac)) if to != service.ip() || shot.has("through") => {
                    (SocketAddr::new(to, port), client, mac, BACK_MAC)
                }
                _ => return Ok(Vec::new()),
            },
        };
        let last = if shot.answer { &self.delivered } else { &self.answered };
        let quoted = last.get(&key(shot)).map(|frame| &frame[14..]);
        let Some(body) = body(shot, from, to, quoted)? else { return Ok(Vec::new()) };
        let mut packet = Packet::new(from.ip(), to.ip(), body);
        packet.df = shot.has("df");
        if let Some(ttl) = shot.number("ttl")? {
            packet.ttl = ttl;
        }
        if let Some(tos) = shot.number("tos")? {
            packet.tos = tos;
        }
        let mut packets = match shot.number("frag")? {
            Some(size) => packet.fragments(size),
            None => vec![packet],
        };
        if shot.has("backwards") {
            packets.reverse();
        }
        Ok(packets.into_iter().map(|packet| Frame::new(mac, card, packet).bytes()).collect())
    }
}

fn key(shot: &Shot) -> Key {
    (protocol(&shot.kind), shot.client, shot.service)
}

/// An ICMP error belongs to the protocol it is named by.
fn protocol(kind: &str) -> u8 {
    match kind.split('-').next() {
        Some("udp" | "udp0") => 17,
        Some("sctp") => 132,
        _ => 6,
    }
}

/// Source and destination of a delivered IPv4 packet, and the card it went to.
fn outer(frame: &[u8]) -> Option<(IpAddr, IpAddr, Mac)> {
    let address = |at: usize| Some(IpAddr::from(*frame.get(at..at + 4)?.first_chunk::<4>()?));
    let v4 = frame.get(14)? >> 4 == 4;
    if v4 { Some((address(26)?, address(30)?, *frame.first_chunk()?)) } else { None }
}

/// Where a delivered packet went: address, port, card. A tunnel's packet is for its server: then the virtual address.
fn ends(frame: &[u8]) -> (IpAddr, u16, Mac) {
    let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
    let mac = [0, 1, 2, 3, 4, 5].map(byte);
    let port = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    match byte(14) >> 4 {
        4 => {
            let header = 14 + usize::from(byte(14) & 15) * 4;
            let tunnel = matches!(byte(23), 4 | 41 | 47);
            let at = if tunnel { header + 16 } else { 30 };
            (Ipv4Addr::new(byte(at), byte(at + 1), byte(at + 2), byte(at + 3)).into(), port(header + 2), mac)
        }
        _ => {
            let at = if matches!(byte(20), 4 | 41 | 47) { 54 + 24 } else { 14 + 24 };
            let bits = (0..16).fold(0, |bits, nth| bits << 8 | u128::from(byte(at + nth)));
            (Ipv6Addr::from_bits(bits).into(), port(54 + 2), mac)
        }
    }
}

fn body(shot: &Shot, from: SocketAddr, to: SocketAddr, quoted: Option<&[u8]>) -> Result<Option<Body>> {
    let length: Option<usize> = shot.number("len")?;
    let given = given(shot)?;
    let data = |default: &[u8]| given.clone().unwrap_or_else(|| default.to_vec());
    let tcp = |flags, default: &[u8]| Some(Body::Tcp(from.port(), to.port(), flags, data(default)));
    let v4 = from.is_ipv4();
    let error = |v4_kind: (u8, u8), v6_kind: (u8, u8), word| {
        let (kind, code) = if v4 { v4_kind } else { v6_kind };
        quoted.map(|packet| Body::Icmp(kind, code, word, packet[..packet.len().min(548)].to_vec()))
    };
    Ok(match shot.kind.as_str() {
        "syn" => tcp(tcp::SYN, b""),
        "synack" => tcp(tcp::SYN | tcp::ACK, b""),
        "synfin" => tcp(tcp::SYN | tcp::FIN, b""),
        "synrst" => tcp(tcp::SYN | tcp::RST, b""),
        "ack" => tcp(tcp::ACK, b""),
        "data" => tcp(tcp::ACK, b"hello"),
        "fin" => tcp(tcp::FIN | tcp::ACK, b""),
        "rst" => tcp(tcp::RST, b""),
        "noflags" => tcp(0, b""),
        "udp" => Some(Body::Udp(from.port(), to.port(), data(b"hello"), true)),
        "udp0" => Some(Body::Udp(from.port(), to.port(), data(b"hello"), !v4)),
        "ping" => Some(Body::Icmp(if v4 { 8 } else { 128 }, 0, 1, data(b"hello"))),
        kind => match kind.split_once('-') {
            Some(("sctp", chunks)) if !chunks.is_empty() && !ERRORS.contains(&chunks) => {
                Some(Body::Sctp(from.port(), to.port(), sctp(chunks, length.unwrap_or(13))?))
            }
            _ => match kind.rsplit('-').next() {
                Some("unreach") => error((3, 3), (1, 4), 0),
                Some("expired") => error((11, 0), (3, 0), 0),
                Some("toobig") => error((3, 4), (2, 0), 1400),
                _ => bail!("no packet is called {kind}"),
            },
        },
    })
}

/// What a datagram of a socket on the balancer itself says.
pub fn said_here(shot: &Shot) -> Result<Vec<u8>> {
    Ok(given(shot)?.unwrap_or_else(|| b"hello".to_vec()))
}

/// The data, if the shot says what.
fn given(shot: &Shot) -> Result<Option<Vec<u8>>> {
    let filled = shot.number("len")?.map(|length| vec![0x55; length]);
    Ok(shot.value("text").map(unescaped).or(filled))
}

/// A text as packets have it: `_` is a blank, `\r`, `\n` and `\t` are what they usually are.
fn unescaped(text: &str) -> Vec<u8> {
    let pairs = [("_", " "), ("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into_bytes()
}

const ERRORS: [&str; 3] = ["unreach", "expired", "toobig"];

/// Chunks by their short names, joined by `+`.
fn sctp(names: &str, length: usize) -> Result<Vec<(u8, Vec<u8>)>> {
    const CHUNKS: [(&str, u8); 12] = [
        ("data", 0),
        ("init", 1),
        ("initack", 2),
        ("sack", 3),
        ("heartbeat", 4),
        ("abort", 6),
        ("shutdown", 7),
        ("shutdownack", 8),
        ("error", 9),
        ("cookieecho", 10),
        ("cookieack", 11),
        ("complete", 14),
    ];
    let chunk = |name: &str| {
        let found = CHUNKS.iter().find(|chunk| chunk.0 == name);
        found
            .map(|chunk| (chunk.1, vec![0x51; length]))
            .with_context(|| format!("no SCTP chunk is called {name}"))
    };
    names.split('+').map(chunk).collect()
}
