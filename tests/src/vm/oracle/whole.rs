//! Fragments put together. Kernel IPVS takes datagrams whole and cuts them again as it sees fit, before a tunnel's header
//! or behind it; ours sends what came. Both have to lead to the same datagram.

use super::shot::GUE_PORT;
use crate::packets::checksum;

/// A frame, or a datagram in one, that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// At the far end.
    pub far: bool,
    /// A frame that a datagram would have if cables were long enough.
    pub frame: Vec<u8>,
    /// The tunnel it came by, in words.
    pub around: &'static str,
}

/// What frames come to when they are joined, taken out of their tunnels, and joined again.
pub fn datagrams(frames: Vec<(bool, Vec<u8>)>) -> Vec<Whole> {
    let as_come = frames.into_iter().map(|(far, frame)| Whole { far, frame, around: "" });
    join(join(as_come.collect()).into_iter().map(out_of_tunnel).collect())
}

/// One part of a datagram.
#[derive(Debug)]
struct Piece {
    /// What all its parts have in common.
    key: Vec<u8>,
    from: usize,
    more: bool,
    /// Up to the data, as it would be in front of the whole.
    head: Vec<u8>,
    data: Vec<u8>,
}

/// Where the IP header begins.
const L3: usize = 14;

impl Piece {
    fn of(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        match frame.get(L3)? >> 4 {
            4 => {
                let (place, start) = (word(L3 + 6)?, L3 + usize::from(frame[L3] & 15) * 4);
                let end = (L3 + usize::from(word(L3 + 2)?)).min(frame.len());
                let mut head = frame.get(..start)?.to_vec();
                head[L3 + 6..L3 + 8].fill(0);
                let key =
                    [&frame[L3 + 4..L3 + 6], &frame[L3 + 9..L3 + 10], &frame[L3 + 12..L3 + 20]].concat();
                let (from, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
                let data = frame.get(start..end)?.to_vec();
                (from != 0 || more).then_some(Self { key, from, more, head, data })
            }
            6 if *frame.get(L3 + 6)? == 44 => {
                let place = word(L3 + 42)?;
                let mut head = frame[..L3 + 40].to_vec();
                head[L3 + 6] = frame[L3 + 40];
                let key = [frame.get(L3 + 44..L3 + 48)?, &frame[L3 + 8..L3 + 40]].concat();
                let data = frame.get(L3 + 48..)?.to_vec();
                Some(Self { key, from: usize::from(place & 0xfff8), more: place & 1 != 0, head, data })
            }
            _ => None,
        }
    }

    /// The frame of all parts, if they are all.
    fn whole(mut parts: Vec<Self>) -> Option<Vec<u8>> {
        parts.sort_by_key(|part| part.from);
        let (mut data, mut more): (Vec<u8>, bool) = (Vec::new(), true);
        for part in &parts {
            if part.from != data.len() || !more {
                return None;
            }
            data.extend(&part.data);
            more = part.more;
        }
        let mut frame = parts.first().filter(|_| !more)?.head.clone();
        let v4 = frame[L3] >> 4 == 4;
        let length = (if v4 { frame.len() - L3 } else { 0 } + data.len()) as u16;
        let at = L3 + if v4 { 2 } else { 4 };
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
        if v4 {
            frame[L3 + 10..L3 + 12].fill(0);
            let sum = checksum(&[&frame[L3..]]).to_be_bytes();
            frame[L3 + 10..L3 + 12].copy_from_slice(&sum);
        }
        frame.extend(data);
        Some(frame)
    }
}

/// Datagrams stand where their first part came. Parts that do not make a whole stay as they are.
fn join(frames: Vec<Whole>) -> Vec<Whole> {
    let mut joined: Vec<Whole> = Vec::new();
    let mut done: Vec<Vec<u8>> = Vec::new();
    for one in &frames {
        let Some(piece) = Piece::of(&one.frame) else {
            joined.push(one.clone());
            continue;
        };
        if done.contains(&piece.key) {
            continue;
        }
        let same = |other: &Piece| other.key == piece.key;
        let parts = frames.iter().filter_map(|other| Piece::of(&other.frame)).filter(same).collect();
        match Piece::whole(parts) {
            Some(frame) => {
                done.push(piece.key);
                joined.push(Whole { frame, ..*one });
            }
            None => joined.push(one.clone()),
        }
    }
    joined
}

/// The packet inside, if it is in a tunnel, under the same link-layer addresses.
fn out_of_tunnel(one: Whole) -> Whole {
    let frame = &one.frame;
    let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
    let (proto, at) = match byte(L3) >> 4 {
        4 => (byte(L3 + 9), L3 + usize::from(byte(L3) & 15) * 4),
        _ => (byte(L3 + 6), L3 + 40),
    };
    let to_gue = u16::from_be_bytes([byte(at + 2), byte(at + 3)]) == GUE_PORT;
    let (around, inner) = match proto {
        4 | 41 => (" in ipip", at),
        47 => (" in gre", at + if byte(at) & 0x80 == 0 { 4 } else { 8 }),
        17 if to_gue => (" in gue", at + 12 + usize::from(byte(at + 8) & 31) * 4),
        _ => return one,
    };
    let kind: [u8; 2] = if byte(inner) >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let link = frame.get(..12).unwrap_or_default();
    Whole { frame: [link, &kind, frame.get(inner..).unwrap_or_default()].concat(), around, ..one }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::{Body, Frame, Packet};
    use std::net::IpAddr;

    fn udp(v6: bool) -> Packet {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let ends = if v6 { ("fd01::1", "fd20::1") } else { ("192.0.2.1", "10.0.0.1") };
        Packet::udp((ip(ends.0), 5), (ip(ends.1), 80), &[7; 2500])
    }

    fn framed(packet: &Packet) -> Vec<u8> {
        Frame::new([1; 6], [2; 6], packet.clone()).bytes()
    }

    #[test]
    fn fragments_become_their_datagram_in_whatever_order() {
        for v6 in [false, true] {
            let parts = udp(v6).fragments(1000);
            assert_eq!(parts.len(), 3);
            let mut frames: Vec<_> = parts.iter().map(|part| (true, framed(part))).collect();
            frames.rotate_left(1);
            let whole = datagrams(frames.clone());
            assert_eq!(whole.len(), 1);
            assert_eq!(whole[0].frame, framed(&udp(v6)));
            // One is missing: nothing is made up.
            assert_eq!(datagrams(frames[..2].to_vec()).len(), 2);
        }
    }

    #[test]
    fn cut_in_front_of_a_tunnel_or_behind_it_is_the_same() {
        let carry = |packet: &Packet| {
            let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
            Packet::new(ip("10.9.0.1"), ip("10.9.0.2"), Body::Ip(Box::new(packet.clone())))
        };
        for v6 in [false, true] {
            let inside: Vec<_> =
                udp(v6).fragments(1000).iter().map(|part| (true, framed(&carry(part)))).collect();
            let outside: Vec<_> =
                carry(&udp(v6)).fragments(1000).iter().map(|part| (true, framed(part))).collect();
            assert_eq!(datagrams(inside), datagrams(outside));
        }
    }
}
