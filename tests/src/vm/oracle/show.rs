//! A frame in words and bytes. What a sender may choose freely, and the two balancers choose differently, is blanked: the
//! identification of IPv4 packets that the balancer itself makes, the flow label of such an IPv6 error, and the source
//! port of GUE with the checksum that covers it.

use super::shot::GUE_PORT;
use crate::packets::checksum;
use std::fmt::Write;

/// A line for a frame that came to `place`.
pub fn line(place: &str, frame: &[u8]) -> String {
    let mut frame = frame.to_vec();
    let note = blank(&mut frame);
    let mac = |at: usize| hex(frame.get(at..at + 6).unwrap_or_default());
    let packet = frame.get(14..).unwrap_or_default();
    format!("  {place} {}>{} {}{note} | {}", mac(6), mac(0), words(packet), hex(packet))
}

/// True for what stacks say of their own accord: ARP, neighbour discovery, multicast reports.
pub fn chatter(frame: &[u8]) -> bool {
    match (frame.get(12), frame.get(13)) {
        (Some(8), Some(0)) => frame.get(14 + 9) == Some(&2),
        (Some(0x86), Some(0xdd)) => match frame.get(14 + 6) {
            Some(58) => frame.get(14 + 40).is_some_and(|kind| (130..=137).contains(kind) || *kind == 143),
            Some(0) => frame.get(14 + 40) == Some(&58),
            _ => false,
        },
        _ => true,
    }
}

fn blank(frame: &mut [u8]) -> String {
    blank_identification(frame).to_owned() + blank_gue(frame)
}

/// Of GUE, and says whether port and checksum are what they may be.
fn blank_gue(frame: &mut [u8]) -> &'static str {
    let v4 = frame.get(12..14) == Some(&[8, 0]);
    let (proto, at) = if v4 { (23, 34) } else { (20, 54) };
    let word = |at: usize| frame.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
    if frame.get(proto) != Some(&17) || word(at + 2) != GUE_PORT || frame.len() < at + 8 {
        return "";
    }
    let addresses = if v4 { 26..34 } else { 22..54 };
    let pseudo = [&frame[addresses], &[0, 17], &frame[at + 4..at + 6]].concat();
    let sound = checksum(&[&pseudo, &frame[at..]]) == 0;
    let note = match (word(at), word(at + 6)) {
        (port, _) if !(32_768..61_000).contains(&port) => " SOURCE PORT OUT OF RANGE",
        (_, 0) => " sum=none",
        _ if sound => " sum=right",
        _ => " SUM WRONG",
    };
    frame[at..at + 2].fill(0);
    frame[at + 6..at + 8].fill(0);
    note
}

fn blank_identification(frame: &mut [u8]) -> &'static str {
    if frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&58) {
        // The flow label of an error is the stack's own choice.
        frame[15] &= 0xf0;
        frame[16..18].fill(0);
        return "";
    }
    let v4 = frame.get(12..14) == Some(&[8, 0]) && frame.len() >= 34;
    // Tunnelled and ICMP; a packet with DF has no use for an identification, and none is made.
    let gue = frame.get(36..38) == Some(&GUE_PORT.to_be_bytes()) && frame.get(23) == Some(&17);
    let made = v4 && (gue || matches!(frame[14 + 9], 1 | 4 | 41 | 47)) && frame[14 + 6] & 0x40 == 0;
    if !made {
        return "";
    }
    let length = usize::from(frame[14] & 15) * 4;
    let sound = frame.get(14..14 + length).is_some_and(|header| checksum(&[header]) == 0);
    frame[18..20].fill(0);
    frame[24..26].fill(0);
    if sound { " id=any" } else { " id=any HEADER CHECKSUM WRONG" }
}

/// Addresses, ports, flags.
fn words(packet: &[u8]) -> String {
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    let word = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    let mut text = String::new();
    let (proto, header) = match byte(0) >> 4 {
        4 => {
            let ip = |at: usize| format!("{}.{}.{}.{}", byte(at), byte(at + 1), byte(at + 2), byte(at + 3));
            _ = write!(text, "{} > {} ttl={} len={}", ip(12), ip(16), byte(8), word(2));
            (byte(9), usize::from(byte(0) & 15) * 4)
        }
        6 => {
            let ip = |at: usize| {
                std::net::Ipv6Addr::from_bits(
                    (0..16).fold(0, |bits, nth| bits << 8 | u128::from(byte(at + nth))),
                )
            };
            _ = write!(text, "{} > {} hops={} len={}", ip(8), ip(24), byte(7), word(4));
            (byte(6), 40)
        }
        _ => return "?".to_owned(),
    };
    let inner = || words(packet.get(header..).unwrap_or_default());
    let more = match proto {
        6 => format!(" tcp {}>{} {}", word(header), word(header + 2), flags(byte(header + 13))),
        17 => format!(" udp {}>{} sum={:04x}", word(header), word(header + 2), word(header + 6)),
        132 => format!(" sctp {}>{} chunk {}", word(header), word(header + 2), byte(header + 12)),
        4 | 41 => format!(" carries [{}]", inner()),
        1 | 58 => format!(" icmp {}/{}", byte(header), byte(header + 1)),
        other => format!(" protocol {other}"),
    };
    text + &more
}

fn flags(bits: u8) -> String {
    "FSRPAU".chars().enumerate().filter(|(nth, _)| bits >> nth & 1 == 1).map(|(_, letter)| letter).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::{Body, Frame, Packet, tcp};
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_frame_reads_as_what_it_is() {
        let packet = Packet::tcp((ip("192.0.2.1"), 5), (ip("10.0.0.1"), 80), tcp::SYN, b"");
        let shown = line("back", &Frame::new([1; 6], [2; 6], packet).bytes());
        assert!(
            shown.starts_with(
                "  back 010101010101>020202020202 192.0.2.1 > 10.0.0.1 ttl=64 len=40 tcp 5>80 S |"
            )
        );
    }

    #[test]
    fn identifications_made_on_the_way_do_not_count() {
        let shown = |id| {
            let inner = Packet::udp((ip("192.0.2.1"), 5), (ip("10.0.0.1"), 80), b"");
            let outer = Packet::new(ip("10.9.0.1"), ip("10.9.0.2"), Body::Ip(Box::new(inner)));
            line("back", &Frame::new([1; 6], [2; 6], outer.with(|p| p.id = Some(id))).bytes())
        };
        assert_eq!(shown(1), shown(2));
        assert!(!shown(1).contains("WRONG"));
    }
}
