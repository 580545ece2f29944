//! Checks that take the way of clients' packets: what the balancer's own packets become, and what becomes of the answers.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Family, Port, Proto};
use lb_common::dest::{Method, TunType};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Check, Expect, FAMILIES, Nic, Step, Way, client, dest, from_host, run_all, service, to_host, vip,
};
use lb_tests::packets::tcp::SYN;
use lb_tests::packets::{Body, Frame, Packet, Part};

lb_tests::tests!(
    checks_are_sent_to_the_virtual_address,
    checks_are_tunnelled,
    answers_come_from_the_server,
    answers_to_an_address_with_services,
    answers_in_fragments,
    errors_about_checks_reach_their_socket,
    checks_that_come_back_are_dropped,
    what_is_no_check_stays_as_it_is,
    a_client_at_another_address_is_a_client,
);

const PROTOS: [Proto; 2] = [Proto::TCP, Proto::UDP];
const PORT: u16 = 40_000;

type End = (IpAddr, u16);

fn us(family: Family) -> End {
    (Nic::Back.host(family, 1), PORT)
}

fn server(family: Family) -> End {
    (Nic::Back.host(family, 11), 80)
}

fn virtual_end(family: Family) -> End {
    (vip(family), 80)
}

fn each() -> impl Iterator<Item = (Family, Proto)> {
    FAMILIES.into_iter().flat_map(|family| PROTOS.map(|proto| (family, proto)))
}

fn packet(proto: Proto, from: End, to: End, data: &[u8]) -> Packet {
    if proto == Proto::TCP { Packet::tcp(from, to, SYN, data) } else { Packet::udp(from, to, data) }
}

/// A service with one dest, which a check's socket is connected to.
fn checked(what: &str, family: Family, proto: Proto, tunnel: Option<(TunType, u8, Port)>) -> Case {
    let method = if tunnel.is_some() { Method::Tunnel } else { Method::Route };
    let dests = [dest(Nic::Back, family, 11, 80, method)];
    let case = Case::new(
        format!("{what} {family:?} protocol {} {tunnel:?}", proto.0),
        service(family, proto, 80, Scheduler::Rr),
        &dests,
    );
    let check = Check { from: us(family), proto, server: server(family).0, vip: vip(family), tunnel };
    case.step(Step::Check(Box::new(check)))
}

fn own(case: Case, sent: Packet, as_: Packet) -> Case {
    let frame = |packet| to_host(Nic::Back, 11, packet);
    case.step(Step::Own(Nic::Back, frame(sent).bytes(), Some(Box::new(frame(as_)))))
}

fn untouched(case: Case, frame: &Frame) -> Case {
    case.step(Step::Own(Nic::Back, frame.bytes(), None))
}

fn from_server(packet: Packet) -> Frame {
    from_host(Nic::Back, 11, packet)
}

/// It passes to the stack as if the server had sent it from its own address.
fn received(case: Case, answer: Packet, as_: Packet) -> Case {
    let expect = Expect::Leaves(Way::Pass, Reason::ProbeAnswered, Box::new(from_server(as_)));
    case.step(Step::Send(Nic::Back, from_server(answer).bytes(), expect))
}

fn checks_are_sent_to_the_virtual_address() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let mut case = checked("sent", family, proto, None);
        for length in [0, 1, 300] {
            let probe = |to| packet(proto, us(family), to, &vec![5; length]);
            case = own(case, probe(server(family)), probe(virtual_end(family)));
        }
        // No connection comes of it, and no dest has had a packet.
        case.step(Step::Entries(0, 0)).step(Step::Traffic(0, [0, 0, 0]))
    });
    run_all(&cases.collect::<Vec<_>>())
}

fn checks_are_tunnelled() -> Result<()> {
    let kinds =
        [(TunType::Ipip, 0), (TunType::Gue, 0), (TunType::Gue, 1), (TunType::Gre, 0), (TunType::Gre, 1)];
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for (kind, flags) in kinds {
            let mut case = checked("tunnelled", family, proto, Some((kind, flags, Port::new(6080))));
            for (length, tos) in [(0, 0), (1, 0xb8), (301, 0x2a)] {
                let df = family == Family::V4;
                let probe =
                    |to| packet(proto, us(family), to, &vec![5; length]).with(|p| (p.df, p.tos) = (df, tos));
                let inner = Box::new(probe(virtual_end(family)));
                let body = match kind {
                    TunType::Ipip => Body::Ip(inner),
                    TunType::Gue => Body::Gue(None, 6080, flags != 0, inner),
                    TunType::Gre => Body::Gre(flags != 0, inner),
                };
                let outer = Packet::new(us(family).0, server(family).0, body)
                    .with(|p| (p.df, p.tos, p.id) = (df, tos, df.then_some(0)));
                case = own(case, probe(server(family)), outer);
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

fn answers_come_from_the_server() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let answer = |from| packet(proto, from, us(family), b"here");
        received(
            checked("answered", family, proto, None),
            answer(virtual_end(family)),
            answer(server(family)),
        )
        .step(Step::Entries(0, 0))
    });
    run_all(&cases.collect::<Vec<_>>())
}

/// The address checks come from may be a virtual one too.
fn answers_to_an_address_with_services() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let mut other = service(family, proto, 81, Scheduler::Rr);
        other.key.addr = us(family).0.into();
        let case = checked("answered", family, proto, None)
            .and(other, &[dest(Nic::Back, family, 12, 81, Method::Route)]);
        let answer = |from| packet(proto, from, us(family), b"here");
        received(case, answer(virtual_end(family)), answer(server(family))).step(Step::Entries(0, 0))
    });
    run_all(&cases.collect::<Vec<_>>())
}

fn answers_in_fragments() -> Result<()> {
    let parts = [Part { from: 0, to: Some(48) }, Part { from: 48, to: None }];
    run_all(&FAMILIES.map(|family| {
        let piece = |from, part| {
            let whole = Packet::udp(from, us(family), &[3; 100]);
            whole.with(|p| (p.part, p.id) = (Some(part), Some(7)))
        };
        let case = checked("fragments", family, Proto::UDP, None);
        parts.into_iter().fold(case, |case, part| {
            received(case, piece(virtual_end(family), part), piece(server(family), part))
        })
    }))
}

/// From the server as the virtual address, or from a router, and of no other packets.
fn errors_about_checks_reach_their_socket() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let quote = |from, to| packet(proto, from, to, b"who").bytes();
        let (us, server) = (us(family), server(family));
        let mut case = checked("errors", family, proto, None);
        // The transport's own checksum stays the virtual address's.
        let (told, header) = (quote(us, virtual_end(family)), if family == Family::V4 { 20 } else { 40 });
        let heard = [&quote(us, server)[..header], &told[header..]].concat();
        let router = Nic::Back.host(family, 12);
        for (from, as_) in [(vip(family), server.0), (router, router)] {
            let error = |from, quote: &[u8]| Packet::icmp_error(from, us.0, kind, quote.to_vec());
            case = received(case, error(from, &told), error(as_, &heard));
        }
        for (from, to) in [(us, server), ((us.0, PORT + 1), virtual_end(family))] {
            let error = from_server(Packet::icmp_error(vip(family), us.0, kind, quote(from, to)));
            let passes = Expect::Passes(Reason::OtherProtocol);
            case = case.step(Step::Send(Nic::Back, error.bytes(), passes));
        }
        case
    });
    run_all(&cases.collect::<Vec<_>>())
}

/// A server without the virtual address may send them on to where it thinks that is.
fn checks_that_come_back_are_dropped() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let lost = from_server(packet(proto, us(family), virtual_end(family), b"who"));
        let dropped = Step::Send(Nic::Back, lost.bytes(), Expect::Drops(Reason::ProbeLost));
        checked("lost", family, proto, None).step(dropped).step(Step::Entries(0, 0))
    });
    run_all(&cases.collect::<Vec<_>>())
}

fn what_is_no_check_stays_as_it_is() -> Result<()> {
    let cases = each().map(|(family, proto)| {
        let mut case = checked("others", family, proto, None);
        let other = if proto == Proto::TCP { Proto::UDP } else { Proto::TCP };
        let (us, server) = (us(family), server(family));
        for (proto, from, to) in [
            (proto, (us.0, PORT + 1), server),
            (proto, us, (Nic::Back.host(family, 12), 80)),
            (proto, (Nic::Front.host(family, 1), PORT), server),
            (other, us, server),
        ] {
            case = untouched(case, &to_host(Nic::Back, 11, packet(proto, from, to, b"hello")));
        }
        for (from, to) in [
            (virtual_end(family), (us.0, PORT + 1)),
            (virtual_end(family), (Nic::Front.host(family, 1), PORT)),
        ] {
            let stranger = from_server(packet(proto, from, to, b"hello"));
            let passes = Expect::Passes(Reason::ReplyUnknown);
            case = case.step(Step::Send(Nic::Back, stranger.bytes(), passes));
        }
        case
    });
    run_all(&cases.collect::<Vec<_>>())
}

/// Whatever its port, and though its address may share its bit with the balancer's.
fn a_client_at_another_address_is_a_client() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let mut case = checked("clients", family, proto, None);
        for number in 1..65 {
            let request = packet(proto, (client(family, number), PORT), virtual_end(family), b"hello");
            let sent = to_host(Nic::Back, 11, request.clone().with(|p| p.ttl -= 1));
            case = case.forwards(Nic::Front, Way::Redirect, &lb_tests::case::from_client(request), sent);
        }
        cases.push(case.step(Step::Traffic(0, [64, 0, 64])));
    }
    run_all(&cases)
}
