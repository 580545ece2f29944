//! Has clients of a dead server speak up. The packet path resets a connection in answer to its client's next packet, for
//! only that has the number a reset needs; but a client that waits for the server's answer sends none. So it gets a segment
//! from the service that lies outside of its window, and has to answer that with an acknowledgement (RFC 9293, 3.10.7.4).
//! A firewall may swallow such a segment: then the reset waits for the client's own next packet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use etherparse::PacketBuilder;
use lb_common::addr::Proto;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use crate::control::model::ConnRow;

/// Numbers half of all numbers apart: a window is smaller, so one of them is outside.
const SEQS: [u32; 2] = [0, 1 << 31];
/// Of a segment that is worth nothing.
const TTL: u8 = 64;

/// Pokes the clients of these connections, as far as they are TCP. On a thread of its own: there may be many.
pub fn start(conns: Vec<ConnRow>) {
    let spawned = thread::Builder::new().name("poke".to_owned()).spawn(move || {
        if let Err(error) = all(&conns) {
            warn!("clients of a dead server are reset only when they send something: {error}");
        }
    });
    if let Err(error) = spawned {
        warn!("clients of a dead server are reset only when they send something: {error}");
    }
}

fn all(conns: &[ConnRow]) -> io::Result<()> {
    let mut failed = Ok(());
    let sockets = [raw(Domain::IPV4), raw(Domain::IPV6)];
    for row in conns.iter().filter(|row| row.proto == Proto::TCP) {
        let socket = &sockets[usize::from(row.client.addr.is_ipv6())];
        for packet in SEQS.iter().filter_map(|seq| segment(row, *seq)) {
            // One client that cannot be reached is no reason to leave out the next.
            let sent = match socket {
                Ok(socket) => socket.send_to(&packet, &SocketAddr::new(row.client.addr, 0).into()).map(drop),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            failed = failed.and(sent);
        }
    }
    failed
}

/// A socket for whole IP packets.
fn raw(domain: Domain) -> io::Result<Socket> {
    const WHOLE: i32 = 255;
    Socket::new(domain, Type::RAW, Some(Protocol::from(WHOLE)))
}

/// An acknowledgement with this number, from the service to the client.
fn segment(row: &ConnRow, seq: u32) -> Option<Vec<u8>> {
    const WINDOW: u16 = 1024;
    let ip = match (row.virt.addr, row.client.addr) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => return None,
    };
    let builder = ip.tcp(row.virt.port.host(), row.client.port.host(), seq, WINDOW).ack(seq);
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).ok()?;
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::model::{End, Port};
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn a_segment_from_the_service_to_the_client() {
        for (client, virt) in [("192.0.2.7", "10.0.0.1"), ("2001:db8::7", "fd00::1")] {
            let end = |addr: &str, port| End { addr: addr.parse().unwrap(), port: Port::new(port) };
            let row = ConnRow {
                proto: Proto::TCP,
                expires: 1,
                state: "ESTABLISHED",
                client: end(client, 1025),
                virt: end(virt, 80),
                dest: end("10.0.1.1", 8080),
                engine: None,
            };
            let packet = segment(&row, 1 << 31).unwrap();
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 1025));
            assert!(tcp.ack() && !tcp.rst() && tcp.sequence_number() == 1 << 31);
        }
    }
}
