//! What each forwarding method makes of a packet, to the byte.

use anyhow::Result;
use lb_common::addr::{Family, Port, Proto};
use lb_common::dest::{Method, TunType};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Expect, FAMILIES, MTU, NARROW_MTU, Nic, Step, Way, client, dest, from_client, from_host,
    narrow_client, run_all, service, to_client, to_host, vip,
};
use lb_tests::packets::{Body, Frame, Packet, Part, checksum, tcp};

lb_tests::tests!(
    direct_routing,
    direct_routing_keeps_tags_and_padding,
    a_virtual_mac,
    nat_both_ways,
    nat_of_every_length,
    nat_fills_in_a_missing_udp_checksum,
    nat_checksums_at_the_edge,
    nat_keeps_the_port_of_a_dest_without_one,
    tunnels,
    tunnels_with_a_header_between,
    options_and_extension_headers,
    fragments,
    ttl_ends_here,
    longer_than_the_way_carries,
    replies_longer_than_the_way_carries,
    no_dest,
    not_for_us,
);

const PROTOS: [Proto; 2] = [Proto::TCP, Proto::UDP];

/// A client's packet to the service, to be changed by `change`.
fn request(family: Family, proto: Proto, data: &[u8]) -> Packet {
    between((client(family, 7), 1025), (vip(family), 80), proto, data)
}

type End = (std::net::IpAddr, u16);
type Shape = fn(&mut Packet);

fn between(src: End, dst: End, proto: Proto, data: &[u8]) -> Packet {
    match proto {
        Proto::TCP => Packet::tcp(src, dst, tcp::SYN, data),
        _ => Packet::udp(src, dst, data),
    }
}

/// The same packet one hop on.
fn onward(packet: Packet) -> Packet {
    packet.with(|p| p.ttl -= 1)
}

fn name(method: &str, family: Family, proto: Proto, more: impl std::fmt::Display) -> String {
    format!("{method} {family:?} protocol {} {more}", proto.0)
}

fn each() -> impl Iterator<Item = (Family, Proto)> {
    FAMILIES.into_iter().flat_map(|family| PROTOS.map(|proto| (family, proto)))
}

/// Frames for a virtual router's MAC address, which is no card's own, are taken like others; what is sent on is from the
/// card, in both directions, and the virtual address stays where it is.
fn a_virtual_mac() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let last = if family == Family::V4 { [0x01, 51] } else { [0x02, 51] };
        let mac = [0x00, 0x00, 0x5e, 0x00, last[0], last[1]];
        let for_router = |mut frame: Frame| {
            frame.to = mac;
            frame
        };
        let packet = request(family, proto, b"odd");
        let rules = service(family, proto, 80, Scheduler::Rr);
        let sent = to_host(Nic::Front, 21, onward(packet.clone()));
        let direct = [dest(Nic::Front, family, 21, 80, Method::Route)];
        cases.push(Case::new(name("virtual MAC, dr", family, proto, ""), rules, &direct).forwards(
            Nic::Front,
            Way::Transmit,
            &for_router(from_client(packet.clone())),
            sent,
        ));

        let server = (Nic::Back.host(family, 11), 80);
        let rules = service(family, proto, 80, Scheduler::Rr);
        let translated = [dest(Nic::Back, family, 11, 80, Method::Nat)];
        let inside = onward(between((client(family, 7), 1025), server, proto, b"odd"));
        let reply = between(server, (client(family, 7), 1025), proto, b"even");
        let outside = onward(between((vip(family), 80), (client(family, 7), 1025), proto, b"even"));
        cases.push(
            Case::new(name("virtual MAC, nat", family, proto, ""), rules, &translated)
                .forwards(
                    Nic::Front,
                    Way::Redirect,
                    &for_router(from_client(packet)),
                    to_host(Nic::Back, 11, inside),
                )
                .replies(
                    Nic::Back,
                    Way::Redirect,
                    &for_router(from_host(Nic::Back, 11, reply)),
                    to_client(outside),
                ),
        );
    }
    run_all(&cases)
}

fn direct_routing() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for (nic, way, host) in [(Nic::Back, Way::Redirect, 11), (Nic::Front, Way::Transmit, 21)] {
            let packet = request(family, proto, b"odd");
            let sent = to_host(nic, host, onward(packet.clone()));
            let rules = service(family, proto, 80, Scheduler::Rr);
            let dests = [dest(nic, family, host, 80, Method::Route)];
            let case = Case::new(name("dr", family, proto, nic.name()), rules, &dests);
            let again = from_client(packet);
            cases.push(
                case.forwards(Nic::Front, way, &again, sent.clone())
                    .forwards(Nic::Front, way, &again, sent)
                    .step(Step::Traffic(0, [2, 0, 1]))
                    .step(Step::Entries(1, 0)),
            );
        }
    }
    run_all(&cases)
}

fn direct_routing_keeps_tags_and_padding() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for tags in [&[][..], &[5], &[0x6007, 9]] {
            let packet = request(family, proto, b"");
            let frame = from_client(packet.clone()).tagged(tags).padded(6);
            let rules = service(family, proto, 80, Scheduler::Rr);
            // The same card: the tags stay. Another one: they mean nothing there.
            let one_armed = to_host(Nic::Front, 21, onward(packet.clone())).tagged(tags).padded(6);
            let dests = [dest(Nic::Front, family, 21, 80, Method::Route)];
            let case = Case::new(name("dr one-armed", family, proto, tags.len()), rules, &dests);
            cases.push(case.forwards(Nic::Front, Way::Transmit, &frame, one_armed));
            let two_armed = to_host(Nic::Back, 11, onward(packet)).padded(6);
            let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
            let case = Case::new(name("dr two-armed", family, proto, tags.len()), rules, &dests);
            cases.push(case.forwards(Nic::Front, Way::Redirect, &frame, two_armed));
        }
    }
    run_all(&cases)
}

/// A service under NAT with one dest behind the back card, on another port.
fn nat(title: String, family: Family, proto: Proto) -> Case {
    let dests = [dest(Nic::Back, family, 11, 8080, Method::Nat)];
    Case::new(title, service(family, proto, 80, Scheduler::Rr), &dests)
}

fn server(family: Family) -> End {
    (Nic::Back.host(family, 11), 8080)
}

/// A packet there and one back, with what has to leave.
fn there_and_back(case: Case, family: Family, proto: Proto, data: &[u8], tags: &[u16]) -> Case {
    let (us, them) = ((client(family, 7), 1025), server(family));
    let asked = from_client(request(family, proto, data)).tagged(tags);
    let passed_on = to_host(Nic::Back, 11, onward(between(us, them, proto, data)));
    let answered = from_host(Nic::Back, 11, between(them, us, proto, data)).tagged(tags);
    let translated = to_client(onward(between((vip(family), 80), us, proto, data)));
    case.forwards(Nic::Front, Way::Redirect, &asked, passed_on).replies(
        Nic::Back,
        Way::Redirect,
        &answered,
        translated,
    )
}

fn nat_both_ways() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for tags in [&[][..], &[5], &[5, 6]] {
            let case = nat(name("nat", family, proto, tags.len()), family, proto);
            let case = there_and_back(case, family, proto, b"data", tags);
            cases.push(case.step(Step::Traffic(0, [1, 1, 1])));
        }
    }
    run_all(&cases)
}

fn nat_of_every_length() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let mut case = nat(name("nat", family, proto, "lengths"), family, proto);
        for length in [0, 1, 2, 3, 63, 64, 65, 127, 1001, 1200] {
            case = there_and_back(case, family, proto, &vec![0xa5; length], &[]);
        }
        cases.push(case);
    }
    run_all(&cases)
}

fn nat_fills_in_a_missing_udp_checksum() -> Result<()> {
    let mut cases = Vec::new();
    let bare = |p: &mut Packet| {
        if let Body::Udp(_, _, _, summed) = &mut p.body {
            *summed = false;
        }
    };
    for family in FAMILIES {
        let (us, them) = ((client(family, 7), 1025), server(family));
        let mut case = nat(name("no checksum", family, Proto::UDP, ""), family, Proto::UDP);
        for length in [0, 1, 2, 63, 64, 65, 130, 1200] {
            let data = vec![0x5a; length];
            let asked = from_client(request(family, Proto::UDP, &data).with(bare));
            let passed_on = to_host(Nic::Back, 11, onward(between(us, them, Proto::UDP, &data)));
            let answered = from_host(Nic::Back, 11, between(them, us, Proto::UDP, &data).with(bare));
            let translated = to_client(onward(between((vip(family), 80), us, Proto::UDP, &data)));
            // What a cable adds is no part of the datagram.
            let (padded, still_padded) = (asked.clone().padded(5), passed_on.clone().padded(5));
            case = case
                .forwards(Nic::Front, Way::Redirect, &asked, passed_on)
                .forwards(Nic::Front, Way::Redirect, &padded, still_padded)
                .replies(Nic::Back, Way::Redirect, &answered, translated);
        }
        cases.push(case);
        let packet = request(family, Proto::UDP, b"x").with(bare);
        let sent = to_host(Nic::Back, 11, onward(packet.clone()));
        let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
        let rules = service(family, Proto::UDP, 80, Scheduler::Rr);
        let case = Case::new(name("dr leaves none", family, Proto::UDP, ""), rules, &dests);
        cases.push(case.forwards(Nic::Front, Way::Redirect, &from_client(packet), sent));
    }
    run_all(&cases)
}

/// Data that makes the checksum of the packet it is put into `wanted`, all but for the field's other form of zero.
fn steer(make: impl Fn(&[u8]) -> Packet, wanted: u16) -> Vec<u8> {
    let with_zero = match make(&[0, 0]).body {
        Body::Tcp(..) => 16,
        _ => 6,
    };
    let plain = make(&[0, 0]);
    let header = if plain.src.is_ipv4() { 20 } else { 40 };
    let bytes = plain.bytes();
    let at = header + with_zero;
    let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // The sum of everything is !check; a word w makes it !check + w, which has to be !wanted.
    let word = checksum(&[&(!check).to_be_bytes(), &wanted.to_be_bytes()]);
    word.to_be_bytes().to_vec()
}

fn nat_checksums_at_the_edge() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let (us, them) = ((client(family, 7), 1025), server(family));
        let mut case = nat(name("edges", family, proto, ""), family, proto);
        for wanted in [0, 1, 2, 0xfffd, 0xfffe, 0x7fff, 0x8000] {
            let before = steer(|data| between(us, (vip(family), 80), proto, data), wanted);
            let after = steer(|data| between(us, them, proto, data), wanted);
            let answer = steer(|data| between((vip(family), 80), us, proto, data), wanted);
            for data in [before, after, answer] {
                case = there_and_back(case, family, proto, &data, &[]);
            }
        }
        cases.push(case);
    }
    run_all(&cases)
}

fn nat_keeps_the_port_of_a_dest_without_one() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let (us, them) = ((client(family, 7), 1025), (Nic::Back.host(family, 11), 80));
        let dests = [dest(Nic::Back, family, 11, 0, Method::Nat)];
        let rules = service(family, proto, 80, Scheduler::Rr);
        let passed_on = to_host(Nic::Back, 11, onward(between(us, them, proto, b"")));
        let translated = to_client(onward(between((vip(family), 80), us, proto, b"")));
        cases.push(
            Case::new(name("port 0", family, proto, ""), rules, &dests)
                .forwards(Nic::Front, Way::Redirect, &from_client(request(family, proto, b"")), passed_on)
                .replies(
                    Nic::Back,
                    Way::Redirect,
                    &from_host(Nic::Back, 11, between(them, us, proto, b"")),
                    translated,
                ),
        );
    }
    run_all(&cases)
}

/// The packet around a tunnelled one.
fn outer(nic: Nic, family: Family, inner: &Packet, body: Body) -> Packet {
    let df = inner.df && family == Family::V4;
    Packet::new(nic.host(family, 1), nic.host(family, if nic == Nic::Back { 11 } else { 21 }), body)
        .with(|p| (p.ttl, p.tos, p.df, p.id) = (inner.ttl, inner.tos, df, df.then_some(0)))
}

fn tunnels() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for around in FAMILIES {
            for (nic, host, way) in [(Nic::Back, 11, Way::Redirect), (Nic::Front, 21, Way::Transmit)] {
                let dests = [dest(nic, around, host, 80, Method::Tunnel)];
                let rules = service(family, proto, 80, Scheduler::Rr);
                let mut case =
                    Case::new(name("ipip", family, proto, format!("in {around:?}")), rules, &dests);
                for (df, tos, length) in [(false, 0, 0), (true, 0, 5), (true, 0xb9, 64), (false, 0x2a, 333)] {
                    let df = df && family == Family::V4;
                    let change = |p: &mut Packet| (p.df, p.tos) = (df, tos);
                    let packet = request(family, proto, &vec![7; length]).with(change);
                    let inner = onward(packet.clone());
                    let body = Body::Ip(Box::new(inner.clone()));
                    let sent = to_host(nic, host, outer(nic, around, &inner, body));
                    case = case.forwards(Nic::Front, way, &from_client(packet.clone()), sent.clone());
                    // Tags: kept on the same card only.
                    let tagged = from_client(packet).tagged(&[5, 6]);
                    let sent = if way == Way::Transmit { sent.tagged(&[5, 6]) } else { sent };
                    case = case.forwards(Nic::Front, way, &tagged, sent);
                }
                cases.push(case);
            }
        }
    }
    run_all(&cases)
}

fn tunnels_with_a_header_between() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for around in FAMILIES {
            for (kind, flags) in [(TunType::Gue, 0), (TunType::Gue, 1), (TunType::Gre, 0), (TunType::Gre, 1)]
            {
                let mut to = dest(Nic::Back, around, 11, 80, Method::Tunnel);
                to.tunnel = (kind, flags, Port::new(6080));
                let rules = service(family, proto, 80, Scheduler::Rr);
                let title = name("tunnel", family, proto, format!("{kind:?} {flags} in {around:?}"));
                let mut case = Case::new(title, rules, &[to]);
                for length in [0, 1, 2, 64, 333] {
                    let packet =
                        request(family, proto, &vec![9; length]).with(|p| p.df = family == Family::V4);
                    let inner = onward(packet.clone());
                    let body = match kind {
                        TunType::Gue => Body::Gue(None, 6080, flags != 0, Box::new(inner.clone())),
                        _ => Body::Gre(flags != 0, Box::new(inner.clone())),
                    };
                    let sent = to_host(Nic::Back, 11, outer(Nic::Back, around, &inner, body));
                    case = case.forwards(Nic::Front, Way::Redirect, &from_client(packet), sent);
                }
                cases.push(case);
            }
        }
    }
    run_all(&cases)
}

fn options_and_extension_headers() -> Result<()> {
    let mut cases = Vec::new();
    let shapes: [(&str, Shape); 5] = [
        ("router alert", |p| p.options = vec![0x94, 4, 0, 0]),
        ("forty bytes of options", |p| p.options = vec![1; 40]),
        ("hop by hop", |p| p.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0])]),
        ("destination options, long", |p| p.extensions = vec![(60, [vec![1, 20], vec![0; 20]].concat())]),
        ("three of them", |p| {
            p.extensions = vec![
                (0, vec![1, 4, 0, 0, 0, 0]),
                (43, vec![0; 6]),
                (60, vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ];
        }),
    ];
    for (number, (title, shape)) in shapes.into_iter().enumerate() {
        let family = if number < 2 { Family::V4 } else { Family::V6 };
        for proto in PROTOS {
            let (us, them) = ((client(family, 7), 1025), server(family));
            let packet = request(family, proto, b"odd").with(shape);
            let inner = onward(packet.clone());
            let passed_on = onward(between(us, them, proto, b"odd").with(shape));
            let answered = between(them, us, proto, b"odd").with(shape);
            let translated = onward(between((vip(family), 80), us, proto, b"odd").with(shape));
            let case = nat(name("nat", family, proto, title), family, proto);
            cases.push(
                case.forwards(
                    Nic::Front,
                    Way::Redirect,
                    &from_client(packet.clone()),
                    to_host(Nic::Back, 11, passed_on),
                )
                .replies(
                    Nic::Back,
                    Way::Redirect,
                    &from_host(Nic::Back, 11, answered),
                    to_client(translated),
                ),
            );
            let rules = service(family, proto, 80, Scheduler::Rr);
            let dests = [dest(Nic::Back, family, 11, 80, Method::Tunnel)];
            let body = Body::Ip(Box::new(inner.clone()));
            let sent = to_host(Nic::Back, 11, outer(Nic::Back, family, &inner, body));
            let case = Case::new(name("ipip", family, proto, title), rules, &dests);
            cases.push(case.forwards(Nic::Front, Way::Redirect, &from_client(packet), sent));
        }
    }
    run_all(&cases)
}

fn fragments() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (method, port) in [(Method::Nat, 8080), (Method::Route, 80)] {
            let data = vec![3; 100];
            let us = (client(family, 7), 1025);
            let to = match method {
                Method::Nat => (Nic::Back.host(family, 11), port),
                _ => (vip(family), 80),
            };
            let piece = |packet: Packet, part| packet.with(|p| (p.part, p.id) = (Some(part), Some(0x4321)));
            let (first, later) = (Part { from: 0, to: Some(48) }, Part { from: 48, to: None });
            let dests = [dest(Nic::Back, family, 11, port, method)];
            let rules = service(family, Proto::UDP, 80, Scheduler::Rr);
            let asked = |part| from_client(piece(request(family, Proto::UDP, &data), part));
            let sent = |part| to_host(Nic::Back, 11, onward(piece(between(us, to, Proto::UDP, &data), part)));
            cases.push(
                Case::new(name("fragments", family, Proto::UDP, format!("{method:?}")), rules, &dests)
                    .drops(&asked(later), Reason::FragmentUnknown)
                    .forwards(Nic::Front, Way::Redirect, &asked(first), sent(first))
                    .forwards(Nic::Front, Way::Redirect, &asked(later), sent(later))
                    .step(Step::Traffic(0, [2, 0, 1])),
            );
        }
    }
    run_all(&cases)
}

/// An ICMP error from the virtual address about a packet that is quoted as it is.
fn error(family: Family, about: &Packet, kind: [(u8, u8); 2], word: u32) -> Frame {
    let most = if family == Family::V4 { 576 - 28 } else { 1280 - 48 };
    let mut quote = about.bytes();
    quote.truncate(most);
    let (kind, code) = kind[usize::from(family == Family::V6)];
    let packet = Packet::new(vip(family), client(family, 7), Body::Icmp(kind, code, word, quote));
    let tos = if family == Family::V4 { 0xc0 | about.tos & 0x1e } else { 0 };
    to_client(packet.with(|p| (p.id, p.tos) = (None, tos)))
}

fn ttl_ends_here() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for (method, port) in [(Method::Route, 80), (Method::Nat, 8080), (Method::Tunnel, 80)] {
            let dests = [dest(Nic::Back, family, 11, port, method)];
            let rules = service(family, proto, 80, Scheduler::Rr);
            let mut case = Case::new(name("ttl", family, proto, format!("{method:?}")), rules, &dests);
            for (ttl, length, tos) in [(1, 0, 0), (0, 3, 0xff), (1, 1100, 0), (1, 1400, 0x2e)] {
                let packet = request(family, proto, &vec![1; length]).with(|p| (p.ttl, p.tos) = (ttl, tos));
                let answer = error(family, &packet, [(11, 0), (3, 0)], 0);
                case = case.answers(&from_client(packet.clone()).padded(4), answer.clone());
                case = case.answers(&from_client(packet).tagged(&[5]), answer.tagged(&[5]));
            }
            // An answer from the address where replies come from counts as one.
            let answers = if method == Method::Nat { 0 } else { 8 };
            cases.push(case.step(Step::Traffic(0, [8, answers, 1])));
        }
    }
    // A reply's end of life is the stack's matter.
    for (family, proto) in each() {
        let (us, them) = ((client(family, 7), 1025), server(family));
        let case =
            there_and_back(nat(name("reply ttl", family, proto, ""), family, proto), family, proto, b"", &[]);
        let reply = from_host(Nic::Back, 11, between(them, us, proto, b"").with(|p| p.ttl = 1));
        let passes = Step::Send(Nic::Back, reply.bytes(), Expect::Passes(Reason::TtlPassed));
        cases.push(case.step(passes).step(Step::Traffic(0, [1, 1, 1])));
    }
    run_all(&cases)
}

fn longer_than_the_way_carries() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for (method, around, limit) in [
            (Method::Route, family, MTU),
            (Method::Nat, family, MTU),
            (Method::Tunnel, Family::V4, MTU - 20),
            (Method::Tunnel, Family::V6, MTU - 40),
        ] {
            let port = if method == Method::Nat { 8080 } else { 80 };
            let dests = [dest(Nic::Back, around, 11, port, method)];
            let rules = service(family, proto, 80, Scheduler::Rr);
            let headers =
                if family == Family::V4 { 20 } else { 40 } + if proto == Proto::TCP { 20 } else { 8 };
            let long = vec![0xee; limit as usize + 1 - headers];
            let packet = request(family, proto, &long).with(|p| p.df = family == Family::V4);
            let answer = error(family, &onward(packet.clone()), [(3, 4), (2, 0)], limit);
            let mut case =
                Case::new(name("long", family, proto, format!("{method:?} {around:?}")), rules, &dests)
                    .answers(&from_client(packet.clone()), answer)
                    .step(Step::Traffic(0, [1, u64::from(method != Method::Nat), 1]));
            if family == Family::V4 {
                let free = packet.with(|p| p.df = false);
                case = case.drops(&from_client(free), Reason::TooBig);
            }
            if method == Method::Route {
                let fits = request(family, proto, &long[1..]).with(|p| p.df = family == Family::V4);
                let sent = to_host(Nic::Back, 11, onward(fits.clone()));
                case = case.forwards(Nic::Front, Way::Redirect, &from_client(fits), sent);
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

/// The server is told by the balancer, as a router on the way would do it: of its own packet, as it came, which does not
/// count. What is longer than any packet the NIC receives is several in one, and goes on.
fn replies_longer_than_the_way_carries() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let (us, them) = ((narrow_client(family, 7), 1025), server(family));
        let headers = if family == Family::V4 { 20 } else { 40 } + if proto == Proto::TCP { 20 } else { 8 };
        let answer_of = |src: End, length: u32| {
            let data = vec![0xee; length as usize - headers];
            between(src, us, proto, &data).with(|p| (p.df, p.tos) = (family == Family::V4, 0x10))
        };
        let answer = |length| answer_of(them, length);
        let from = |packet: &Packet| from_host(Nic::Back, 11, packet.clone());
        let replied = |length| to_client(onward(answer_of((vip(family), 80), length)));
        let long = answer(NARROW_MTU + 1);
        let mut told = error(family, &long, [(3, 4), (2, 0)], NARROW_MTU);
        told.packet = told.packet.with(|p| (p.src, p.dst) = (Nic::Back.host(family, 1), them.0));
        let told = to_host(Nic::Back, 11, told.packet);
        let begin = from_client(between(us, (vip(family), 80), proto, b""));
        let begun = to_host(Nic::Back, 11, onward(between(us, them, proto, b"")));
        let mut case = nat(name("long reply", family, proto, ""), family, proto)
            .forwards(Nic::Front, Way::Redirect, &begin, begun)
            .replies(Nic::Back, Way::Redirect, &from(&answer(NARROW_MTU)), replied(NARROW_MTU))
            .step(Step::Send(
                Nic::Back,
                from(&long).bytes(),
                Expect::Leaves(Way::Transmit, Reason::IcmpSent, Box::new(told)),
            ))
            .step(Step::Traffic(0, [1, 1, 1]));
        if family == Family::V4 {
            let free = from(&long.with(|p| p.df = false)).bytes();
            case = case.step(Step::Send(Nic::Back, free, Expect::Drops(Reason::TooBig)));
        }
        let joined = from(&answer(2 * MTU));
        case = case.replies(Nic::Back, Way::Redirect, &joined, replied(2 * MTU));
        cases.push(case.step(Step::Traffic(0, [1, 2, 1])));
    }
    run_all(&cases)
}

fn no_dest() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let rules = service(family, proto, 80, Scheduler::Wlc);
        let packet = request(family, proto, b"hello").with(|p| p.tos = 0x10);
        let answer = error(family, &packet, [(3, 3), (1, 4)], 0);
        let frame = from_client(packet);
        cases.push(Case::new(name("no dest", family, proto, ""), rules, &[]).answers(&frame, answer.clone()));
        let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
        cases.push(
            Case::new(name("weight 0", family, proto, ""), rules, &dests)
                .step(Step::Weight(0, 0))
                .answers(&frame, answer.clone())
                .step(Step::Entries(0, 0))
                .step(Step::Traffic(0, [0, 0, 0])),
        );
        cases.push(
            Case::new(name("deleted before", family, proto, ""), rules, &dests)
                .step(Step::Delete(0))
                .answers(&frame, answer),
        );
    }
    run_all(&cases)
}

fn not_for_us() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let rules = service(family, proto, 80, Scheduler::Rr);
        let dests = [dest(Nic::Back, family, 11, 8080, Method::Nat)];
        let other = client(family, 77);
        let us = (client(family, 7), 1025);
        let to = |to, port| from_client(between(us, (to, port), proto, b"x"));
        let broadcast = Frame { to: [0xff; 6], ..to(vip(family), 80) };
        let third = Packet::new(us.0, vip(family), Body::Other(47, vec![0; 30]));
        let third_tag = from_client(request(family, proto, b"")).tagged(&[1, 2, 3]);
        let stray = from_host(Nic::Back, 11, between(server(family), us, proto, b""));
        let mut case = Case::new(name("not ours", family, proto, ""), rules, &dests)
            .passes(&to(other, 80), Reason::NotOurs)
            .passes(&to(vip(family), 81), Reason::NoService)
            .passes(&broadcast, Reason::NotUnicast)
            .passes(&from_client(third), Reason::OtherProtocol)
            .passes(&third_tag, Reason::NotIp)
            .step(Step::Send(Nic::Back, stray.bytes(), Expect::Passes(Reason::ReplyUnknown)));
        if proto == Proto::TCP {
            let late = Packet::tcp(us, (vip(family), 80), tcp::ACK, b"");
            case = case.passes(&from_client(late), Reason::NoConnection);
        }
        let elsewhere = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let idle = from_client(between((client(elsewhere, 7), 1), (vip(elsewhere), 80), proto, b""));
        // That family's virtual address is not known either.
        cases.push(case.passes(&idle, Reason::NotOurs));
    }
    run_all(&cases)
}
