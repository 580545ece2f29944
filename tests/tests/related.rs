//! ICMP errors about connections: where they go, what becomes of their quotes, and that nothing else changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Expect, FAMILIES, MTU, Nic, Step, Way, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::{Body, Frame, Packet, Part, checksum, tcp};

lb_tests::tests!(
    from_the_clients_side,
    from_the_servers_side,
    quotes_with_more_in_front,
    short_quotes,
    what_is_no_error_passes,
    about_nothing_we_know,
    strangers_with_extension_headers,
    ttl_ends_here,
    longer_than_the_way_carries,
    a_wrong_checksum,
    checksums_at_the_edge,
    the_connection_stays_as_it_is,
    a_deleted_dest_still_hears,
);

const PROTOS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];

type End = (IpAddr, u16);

/// A dest's method and port, and the port that it then sees.
const WAYS: [(Method, u16, u16); 4] = [
    (Method::Route, 80, 80),
    (Method::Tunnel, 80, 80),
    (Method::Nat, 8080, 8080),
    // Without a port of its own.
    (Method::Nat, 0, 80),
];

fn each() -> impl Iterator<Item = (Family, Proto)> {
    FAMILIES.into_iter().flat_map(|family| PROTOS.map(|proto| (family, proto)))
}

/// Types that are followed.
fn errors(family: Family) -> &'static [(u8, u8)] {
    match family {
        Family::V4 => &[(3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (11, 1)],
        Family::V6 => &[(1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 2), (100, 0), (127, 0)],
    }
}

/// A router nobody has told the balancer of.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 5).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 5).into(),
    }
}

fn us(family: Family) -> End {
    (client(family, 7), 1025)
}

fn service_end(family: Family) -> End {
    (vip(family), 80)
}

fn server(family: Family, port: u16) -> End {
    (Nic::Back.host(family, 11), port)
}

fn between(src: End, dst: End, proto: Proto, data: &[u8]) -> Packet {
    match proto {
        Proto::TCP => Packet::tcp(src, dst, tcp::SYN, data),
        Proto::UDP => Packet::udp(src, dst, data),
        _ => Packet::sctp(src, dst, &[1]),
    }
}

/// The same packet one hop on.
fn onward(packet: Packet) -> Packet {
    packet.with(|p| p.ttl -= 1)
}

/// What `packet` looks like around a tunnelled one.
fn wrapped(packet: Packet) -> Packet {
    let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let ends = (Nic::Back.host(family, 1), Nic::Back.host(family, 11));
    let (ttl, tos) = (packet.ttl, packet.tos);
    Packet::new(ends.0, ends.1, Body::Ip(Box::new(packet))).with(|p| (p.ttl, p.tos, p.id) = (ttl, tos, None))
}

/// A service with one dest behind the back card, and a connection to it.
fn connected(title: &str, family: Family, proto: Proto, (method, port, sees): (Method, u16, u16)) -> Case {
    let title = format!("{title} {family:?} protocol {} {method:?} {port}", proto.0);
    let dests = [dest(Nic::Back, family, 11, port, method)];
    let asked = between(us(family), service_end(family), proto, b"");
    let sent = match method {
        Method::Nat => onward(between(us(family), server(family, sees), proto, b"")),
        Method::Tunnel => wrapped(onward(asked.clone())),
        _ => onward(asked.clone()),
    };
    Case::new(title, service(family, proto, 80, Scheduler::Rr), &dests).forwards(
        Nic::Front,
        Way::Redirect,
        &from_client(asked),
        to_host(Nic::Back, 11, sent),
    )
}

/// The quote `after`, but with the transport checksum of `before`: IPVS leaves that one alone. Up to `keep` bytes of it.
fn requoted(before: &Packet, after: &Packet, keep: usize) -> Vec<u8> {
    let (mut bytes, old) = (after.bytes(), before.bytes());
    let transport = old.len() - payload(before);
    let (at, length) = match before.body {
        Body::Tcp(..) => (16, 2),
        Body::Udp(..) => (6, 2),
        _ => (8, 4),
    };
    let sum = transport + at..transport + at + length;
    bytes[sum.clone()].copy_from_slice(&old[sum]);
    bytes.truncate(keep);
    bytes
}

/// Length of what the IP header and everything that belongs to it carry.
fn payload(packet: &Packet) -> usize {
    match &packet.body {
        Body::Tcp(_, _, _, data) => 20 + data.len(),
        Body::Udp(_, _, data, _) => 8 + data.len(),
        Body::Sctp(_, _, chunks) => {
            12 + chunks.iter().map(|(_, content)| (4 + content.len()).next_multiple_of(4)).sum::<usize>()
        }
        other => unreachable!("{other:?} is never quoted"),
    }
}

/// The same, cut.
fn quote(packet: &Packet, keep: usize) -> Vec<u8> {
    let mut bytes = packet.bytes();
    bytes.truncate(keep);
    bytes
}

/// IP header and eight bytes.
fn least(family: Family) -> usize {
    if family == Family::V4 { 28 } else { 48 }
}

const ALL: usize = usize::MAX;

/// What a method makes of an error about `reply`, a server's packet as the client's side sees it.
fn to_server(
    family: Family,
    (method, _, sees): (Method, u16, u16),
    error: &Packet,
    reply: &Packet,
    keep: usize,
) -> Frame {
    let sent = match method {
        Method::Nat => {
            let inner = reply.clone().with(|p| {
                p.src = server(family, sees).0;
                set_ports(&mut p.body, Some(sees), None);
            });
            translated(error, error.src, server(family, sees).0, requoted(reply, &inner, keep))
        }
        Method::Tunnel => wrapped(onward(error.clone())),
        _ => onward(error.clone()),
    };
    to_host(Nic::Back, 11, sent)
}

/// The error between other ends, with another quote, one hop on.
fn translated(error: &Packet, src: IpAddr, dst: IpAddr, quote: Vec<u8>) -> Packet {
    onward(error.clone().with(|p| {
        (p.src, p.dst) = (src, dst);
        if let Body::Icmp(_, _, _, rest) = &mut p.body {
            *rest = quote;
        }
    }))
}

fn set_ports(body: &mut Body, src: Option<u16>, dst: Option<u16>) {
    match body {
        Body::Tcp(sport, dport, ..) | Body::Udp(sport, dport, ..) | Body::Sctp(sport, dport, ..) => {
            *sport = src.unwrap_or(*sport);
            *dport = dst.unwrap_or(*dport);
        }
        _ => {}
    }
}

/// An error from the client's side about a reply.
fn about_reply(family: Family, from: IpAddr, kind: (u8, u8), reply: &Packet, keep: usize) -> Packet {
    Packet::icmp_error(from, vip(family), kind, quote(reply, keep))
}

/// What leaves to the client when a server's side sends an error about `request`, a packet as the dest sees it.
fn to_us(family: Family, error: &Packet, request: &Packet, keep: usize) -> Frame {
    let inner = request.clone().with(|p| {
        p.dst = vip(family);
        set_ports(&mut p.body, None, Some(80));
    });
    to_client(translated(error, vip(family), error.dst, requoted(request, &inner, keep)))
}

fn from_the_clients_side() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in WAYS {
            let mut case = connected("client's side", family, proto, way);
            let reply = between(service_end(family), us(family), proto, b"an answer").with(|p| p.ttl = 1);
            let mut sent = 1;
            for kind in errors(family) {
                for (from, keep) in [(us(family).0, ALL), (router(family), least(family))] {
                    let error = about_reply(family, from, *kind, &reply, keep);
                    let expected = to_server(family, way, &error, &reply, keep);
                    case = case.forwards(Nic::Front, Way::Redirect, &from_client(error), expected);
                    sent += 1;
                }
            }
            cases.push(case.step(Step::Traffic(0, [sent, 0, 1])).step(Step::Entries(1, 0)));
        }
    }
    run_all(&cases)
}

fn from_the_servers_side() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in &WAYS[2..] {
            let server = server(family, way.2);
            let mut case = connected("server's side", family, proto, *way);
            let request = between(us(family), server, proto, b"a question").with(|p| p.ttl = 1);
            let mut sent = 0;
            for kind in errors(family) {
                for (from, host, keep) in
                    [(server.0, 11, ALL), (router(family), 22, least(family)), (router(family), 23, ALL)]
                {
                    let error = Packet::icmp_error(from, us(family).0, *kind, quote(&request, keep));
                    let expected = to_us(family, &error, &request, keep);
                    let frame = from_host(Nic::Back, host, error);
                    case = case.replies(Nic::Back, Way::Redirect, &frame, expected);
                    sent += 1;
                }
            }
            cases.push(case.step(Step::Traffic(0, [1, sent, 1])).step(Step::Entries(1, 0)));
        }
    }
    // Nothing is translated where the dest answers by itself.
    for (family, proto) in each() {
        for way in &WAYS[..2] {
            let request = between(us(family), service_end(family), proto, b"");
            let error = Packet::icmp_error(router(family), us(family).0, errors(family)[0], request.bytes());
            let frame = from_host(Nic::Back, 22, error).bytes();
            let passes = Step::Send(Nic::Back, frame, Expect::Passes(Reason::OtherProtocol));
            cases.push(connected("server's side", family, proto, *way).step(passes));
        }
    }
    run_all(&cases)
}

/// IPv4 options and IPv6 extension headers in the quote, and in front of the error itself.
fn quotes_with_more_in_front() -> Result<()> {
    type Shape = fn(&mut Packet);
    let shapes: [(&str, Family, Shape); 4] = [
        ("router alert", Family::V4, |p| p.options = vec![0x94, 4, 0, 0]),
        ("forty bytes of options", Family::V4, |p| p.options = vec![1; 40]),
        ("hop by hop", Family::V6, |p| p.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0])]),
        ("two headers", Family::V6, |p| {
            p.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, [vec![1, 12], vec![0; 12]].concat())];
        }),
    ];
    let mut cases = Vec::new();
    for (title, family, shape) in shapes {
        for (proto, way) in PROTOS.into_iter().flat_map(|proto| WAYS.map(|way| (proto, way))) {
            let mut case = connected(title, family, proto, way);
            let reply = between(service_end(family), us(family), proto, b"odd").with(shape);
            let request = between(us(family), server(family, way.2), proto, b"odd").with(shape);
            for around in [shape, |_: &mut Packet| {}] {
                let kind = errors(family)[0];
                let error = about_reply(family, router(family), kind, &reply, ALL).with(around);
                let expected = to_server(family, way, &error, &reply, ALL);
                case = case.forwards(Nic::Front, Way::Redirect, &from_client(error), expected);
                if way.0 == Method::Nat {
                    let error = Packet::icmp_error(router(family), us(family).0, kind, request.bytes());
                    let error = error.with(around);
                    let expected = to_us(family, &error, &request, ALL);
                    case = case.replies(Nic::Back, Way::Redirect, &from_host(Nic::Back, 22, error), expected);
                }
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

fn short_quotes() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let way = WAYS[2];
        let header = least(family) - 8;
        let mut case = connected("short quotes", family, proto, way);
        let reply = between(service_end(family), us(family), proto, b"an answer");
        // The ports are enough, as they are for IPVS.
        for keep in [header + 4, header + 7, header + 13, header + 17] {
            let error = about_reply(family, router(family), errors(family)[0], &reply, keep);
            let expected = to_server(family, way, &error, &reply, keep);
            case = case.forwards(Nic::Front, Way::Redirect, &from_client(error), expected);
        }
        for keep in [0, 3, header - 1, header, header + 3] {
            // The rest stands behind the packet: it is no part of it.
            let error = about_reply(family, router(family), errors(family)[0], &reply, keep);
            let frame = from_client(error);
            case = case.passes(&frame, Reason::Truncated);
            let rest = reply.bytes()[keep..].to_vec();
            case = case.passes(&Frame { padding: rest, ..frame }, Reason::Truncated);
        }
        cases.push(case.step(Step::Traffic(0, [5, 0, 1])));
    }
    run_all(&cases)
}

fn what_is_no_error_passes() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in WAYS {
            let others: &[(u8, u8)] = match family {
                Family::V4 => &[(8, 0), (0, 0), (5, 1), (12, 0), (13, 0), (17, 0), (255, 0)],
                Family::V6 => &[(128, 0), (129, 0), (133, 0), (135, 0), (136, 0), (137, 0), (255, 0)],
            };
            let mut case = connected("no error", family, proto, way);
            let reply = between(service_end(family), us(family), proto, b"");
            let request = between(us(family), server(family, way.2), proto, b"");
            for kind in others {
                let packet = about_reply(family, us(family).0, *kind, &reply, ALL);
                case = case.passes(&from_client(packet), Reason::OtherProtocol);
                let packet = Packet::icmp_error(server(family, 0).0, us(family).0, *kind, request.bytes());
                let frame = from_host(Nic::Back, 11, packet).bytes();
                case = case.step(Step::Send(Nic::Back, frame, Expect::Passes(Reason::OtherProtocol)));
            }
            // Nor is a part of one followed, here.
            let error = about_reply(family, us(family).0, errors(family)[0], &reply, ALL);
            let part = error.with(|p| p.part = Some(Part { from: 0, to: Some(32) }));
            case = case.passes(&from_client(part), Reason::OtherProtocol);
            cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
        }
    }
    run_all(&cases)
}

fn about_nothing_we_know() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in WAYS {
            let mut case = connected("unknown", family, proto, way);
            let kind = errors(family)[0];
            let (us, service, server) = (us(family), service_end(family), server(family, way.2));
            let other_proto = if proto == Proto::UDP { Proto::TCP } else { Proto::UDP };
            let replies = [
                between((service.0, 81), us, proto, b""),
                between(service, (us.0, 1026), proto, b""),
                between(service, (client(family, 8), us.1), proto, b""),
                between((router(family), 80), us, proto, b""),
                between(service, us, other_proto, b""),
                // A request that comes back to the client, quoted as it was sent.
                between(us, service, proto, b""),
                Packet::new(service.0, us.0, Body::Other(47, vec![0; 30])),
                between(service, us, proto, &[0; 64]).with(|p| p.part = Some(Part { from: 8, to: Some(24) })),
            ];
            for reply in replies {
                // A connection of direct routing and tunnels has such a request, but nobody to be told.
                let error = about_reply(family, router(family), kind, &reply, ALL);
                case = case.passes(&from_client(error), Reason::OtherProtocol);
            }
            let requests = [
                between(us, (server.0, 81), proto, b""),
                between((us.0, 1026), server, proto, b""),
                between((client(family, 8), us.1), server, proto, b""),
                between(us, (router(family), server.1), proto, b""),
            ];
            for request in requests {
                let error = Packet::icmp_error(server.0, us.0, kind, request.bytes());
                let frame = from_host(Nic::Back, 11, error).bytes();
                case = case.step(Step::Send(Nic::Back, frame, Expect::Passes(Reason::OtherProtocol)));
            }
            cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
        }
    }
    run_all(&cases)
}

/// An extension header may hide an ICMP error, so it is looked behind. What is there instead is none of our business.
fn strangers_with_extension_headers() -> Result<()> {
    let family = Family::V6;
    let ends = ((router(family), 1025), (client(family, 7), 80));
    let headers =
        |p: &mut Packet| p.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, vec![1, 4, 0, 0, 0, 0])];
    let mut case = connected("strangers", family, Proto::TCP, WAYS[2]);
    for proto in PROTOS {
        let packet = between(ends.0, ends.1, proto, &[5; 100]).with(headers);
        case = case.passes(&from_client(packet.clone()), Reason::NotOurs);
        for part in [Part { from: 0, to: Some(24) }, Part { from: 24, to: None }] {
            let piece = packet.clone().with(|p| p.part = Some(part));
            case = case.passes(&from_client(piece), Reason::NotOurs);
        }
    }
    let other = Packet::new(ends.0.0, ends.1.0, Body::Other(47, vec![0; 30])).with(headers);
    let echo = Packet::new(ends.0.0, ends.1.0, Body::Icmp(128, 0, 1, vec![0; 8])).with(headers);
    let case = case.passes(&from_client(other), Reason::NotOurs);
    run_all(&[case.passes(&from_client(echo), Reason::OtherProtocol)])
}

/// An error is never answered by an error.
fn ttl_ends_here() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in WAYS {
            let mut case = connected("ttl", family, proto, way);
            let kind = errors(family)[0];
            for ttl in [0, 1] {
                let reply = between(service_end(family), us(family), proto, b"");
                let error = about_reply(family, us(family).0, kind, &reply, ALL).with(|p| p.ttl = ttl);
                case = case.drops(&from_client(error), Reason::TtlExceeded);
                if way.0 == Method::Nat {
                    let server = server(family, way.2);
                    let request = between(us(family), server, proto, b"");
                    let error = Packet::icmp_error(server.0, us(family).0, kind, request.bytes());
                    let frame = from_host(Nic::Back, 11, error.with(|p| p.ttl = ttl)).bytes();
                    case = case.step(Step::Send(Nic::Back, frame, Expect::Drops(Reason::TtlExceeded)));
                }
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

fn longer_than_the_way_carries() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let header = if family == Family::V4 { 20 } else { 40 };
        for (way, limit) in WAYS.into_iter().zip([MTU, MTU - header, MTU, MTU]) {
            let mut case = connected("long", family, Proto::UDP, way);
            let most = (limit - header - 8) as usize;
            let reply = between(service_end(family), us(family), Proto::UDP, &[7; 1500]);
            for df in [false, true] {
                let error = |keep| {
                    let error = about_reply(family, router(family), errors(family)[0], &reply, keep);
                    error.with(|p| p.df = df && family == Family::V4)
                };
                let expected = to_server(family, way, &error(most), &reply, most);
                let expected = match way.0 {
                    // The outer header takes the bit from the inner one.
                    Method::Tunnel if df && family == Family::V4 => {
                        Frame { packet: expected.packet.with(|p| (p.df, p.id) = (true, Some(0))), ..expected }
                    }
                    _ => expected,
                };
                case = case.forwards(Nic::Front, Way::Redirect, &from_client(error(most)), expected);
                case = case.drops(&from_client(error(most + 1)), Reason::TooBig);
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

/// With the ICMP checksum off by one.
fn spoilt(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[if frame.packet.src.is_ipv4() { 14 + 20 + 3 } else { 14 + 40 + 3 }] ^= 1;
    bytes
}

fn a_wrong_checksum() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let way = WAYS[2];
        let kind = errors(family)[0];
        let mut case = connected("wrong checksum", family, proto, way);
        let wrong = Expect::Drops(Reason::BadChecksum);
        for data in [0, 1, 2, 30, 31, 300] {
            let reply = between(service_end(family), us(family), proto, &vec![3; data]);
            let error = from_client(about_reply(family, router(family), kind, &reply, ALL));
            case = case.step(Step::Send(Nic::Front, spoilt(&error), wrong.clone()));
            let request = between(us(family), server(family, way.2), proto, &vec![3; data]);
            let error = Packet::icmp_error(router(family), us(family).0, kind, request.bytes());
            let error = from_host(Nic::Back, 22, error);
            case = case.step(Step::Send(Nic::Back, spoilt(&error), wrong.clone()));
        }
        cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
    }
    run_all(&cases)
}

/// A quote's data that makes the error's checksum `wanted`.
fn steer(make: impl Fn(&[u8]) -> Packet, wanted: u16) -> Vec<u8> {
    let plain = make(&[0, 0]);
    let at = if plain.src.is_ipv4() { 20 } else { 40 };
    let bytes = plain.bytes();
    let check = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);
    checksum(&[&(!check).to_be_bytes(), &wanted.to_be_bytes()]).to_be_bytes().to_vec()
}

fn checksums_at_the_edge() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let way = WAYS[2];
        let kind = errors(family)[0];
        let server = server(family, way.2);
        // A quoted SCTP packet without its sum: data at its end moves nothing else.
        let tail =
            |packet: Packet, data: &[u8]| [packet.bytes()[..least(family)].to_vec(), data.to_vec()].concat();
        let reply = || between(service_end(family), us(family), Proto::SCTP, b"");
        let request = || between(us(family), server, Proto::SCTP, b"");
        let mut case = connected("edges", family, Proto::SCTP, way);
        for wanted in [0, 1, 2, 0xfffd, 0xfffe, 0x7fff, 0x8000] {
            let error =
                |data: &[u8]| Packet::icmp_error(router(family), vip(family), kind, tail(reply(), data));
            let inner = reply().with(|p| {
                p.src = server.0;
                set_ports(&mut p.body, Some(way.2), None);
            });
            let after =
                |data: &[u8]| translated(&error(data), router(family), server.0, tail(inner.clone(), data));
            for data in [steer(error, wanted), steer(after, wanted)] {
                let expected = to_host(Nic::Back, 11, after(&data));
                case = case.forwards(Nic::Front, Way::Redirect, &from_client(error(&data)), expected);
            }
            let error =
                |data: &[u8]| Packet::icmp_error(router(family), us(family).0, kind, tail(request(), data));
            let inner = between(us(family), service_end(family), Proto::SCTP, b"");
            let after =
                |data: &[u8]| translated(&error(data), vip(family), us(family).0, tail(inner.clone(), data));
            for data in [steer(error, wanted), steer(after, wanted)] {
                let frame = from_host(Nic::Back, 22, error(&data));
                case = case.replies(Nic::Back, Way::Redirect, &frame, to_client(after(&data)));
            }
        }
        cases.push(case);
    }
    run_all(&cases)
}

/// State, counts and time are those of its own packets. ipvs.md 4.6: related ICMP does not restart the timer.
fn the_connection_stays_as_it_is() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (proto, timeout, active) in [(Proto::TCP, 60, 1), (Proto::UDP, 300, 0)] {
            for way in WAYS {
                let kind = errors(family)[0];
                let reply = between(service_end(family), us(family), proto, b"");
                let error = about_reply(family, us(family).0, kind, &reply, ALL);
                let expected = to_server(family, way, &error, &reply, ALL);
                let mut case = connected("stays", family, proto, way).step(Step::Wait(timeout - 10));
                case = case.forwards(Nic::Front, Way::Redirect, &from_client(error.clone()), expected);
                case = case.step(Step::Counts(0, active, 1 - active)).step(Step::Traffic(0, [2, 0, 1]));
                if way.0 == Method::Nat {
                    let server = server(family, way.2);
                    let request = between(us(family), server, proto, b"");
                    let error = Packet::icmp_error(server.0, us(family).0, kind, request.bytes());
                    let expected = to_us(family, &error, &request, ALL);
                    let frame = from_host(Nic::Back, 11, error);
                    case = case.replies(Nic::Back, Way::Redirect, &frame, expected);
                    case = case.step(Step::Counts(0, active, 1 - active)).step(Step::Traffic(0, [2, 1, 1]));
                }
                // What has run out is not found, swept or not.
                case = case.step(Step::Wait(10)).passes(&from_client(error), Reason::OtherProtocol);
                cases.push(case.step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0)));
            }
        }
    }
    run_all(&cases)
}

fn a_deleted_dest_still_hears() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for way in WAYS {
            let reply = between(service_end(family), us(family), proto, b"");
            let error = about_reply(family, router(family), errors(family)[0], &reply, ALL);
            let expected = to_server(family, way, &error, &reply, ALL);
            let case = connected("deleted", family, proto, way).step(Step::Delete(0));
            let case = case.forwards(Nic::Front, Way::Redirect, &from_client(error), expected);
            cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
        }
    }
    run_all(&cases)
}
