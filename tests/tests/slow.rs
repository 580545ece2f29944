//! Rare packets: ICMP errors that start a connection, servers that answer where there is none, and packets that go on to
//! where they were sent because there is no server.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::mark::MarkRule;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::settings::Settings;
use lb_tests::case::{
    Case, Expect, FAMILIES, MTU, Nic, Step, Way, by_mark, client, dest, from_client, from_host, run_all,
    service, to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, FIN, RST, SYN};
use lb_tests::packets::{Body, Frame, Packet, Part};

lb_tests::tests!(
    an_error_starts_a_connection,
    what_such_a_connection_lives_to_see,
    errors_that_start_none,
    servers_are_told,
    servers_are_not_told,
    packets_go_to_their_own_destination,
    packets_that_cannot,
    fragments_out_of_order,
    fragments_of_answers_out_of_order,
);

const PROTOS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];

type End = (IpAddr, u16);

fn each() -> impl Iterator<Item = (Family, Proto)> {
    FAMILIES.into_iter().flat_map(|family| PROTOS.map(|proto| (family, proto)))
}

fn us(family: Family) -> End {
    (client(family, 7), 1025)
}

fn between(src: End, dst: End, proto: Proto) -> Packet {
    match proto {
        Proto::TCP => Packet::tcp(src, dst, SYN, b""),
        Proto::UDP => Packet::udp(src, dst, b"hello"),
        _ => Packet::sctp(src, dst, &[1]),
    }
}

fn onward(packet: &Packet) -> Packet {
    packet.clone().with(|p| p.ttl -= 1)
}

/// A client's error about an answer of the service's that no connection here has seen.
fn about_answer(family: Family, proto: Proto) -> (Packet, Packet) {
    let answer = between((vip(family), 80), us(family), proto);
    let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
    (Packet::icmp_error(us(family).0, vip(family), kind, answer.bytes()), answer)
}

fn schedule(settings: &Settings) {
    settings.schedule_icmp.store(1);
}

fn an_error_starts_a_connection() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        for method in [Method::Route, Method::Tunnel, Method::Nat] {
            let (error, answer) = about_answer(family, proto);
            let server = Nic::Back.host(family, 11);
            let sent = match method {
                Method::Tunnel => {
                    let inner = onward(&error);
                    let ttl = inner.ttl;
                    Packet::new(Nic::Back.host(family, 1), server, Body::Ip(Box::new(inner)))
                        .with(|p| (p.ttl, p.id) = (ttl, None))
                }
                Method::Nat => {
                    let inner = answer.clone().with(|p| {
                        p.src = server;
                        if let Body::Tcp(port, ..) | Body::Udp(port, ..) | Body::Sctp(port, ..) = &mut p.body
                        {
                            *port = 8080;
                        }
                    });
                    // The quoted transport checksum stays.
                    let mut quote = inner.bytes();
                    let old = answer.bytes();
                    let head = old.len() - payload(proto);
                    let (at, len) = match proto {
                        Proto::TCP => (16, 2),
                        Proto::UDP => (6, 2),
                        _ => (8, 4),
                    };
                    quote[head + at..head + at + len].copy_from_slice(&old[head + at..head + at + len]);
                    onward(&error).with(|p| {
                        p.dst = server;
                        if let Body::Icmp(.., rest) = &mut p.body {
                            *rest = quote;
                        }
                    })
                }
                _ => onward(&error),
            };
            let port = if method == Method::Nat { 8080 } else { 80 };
            let dests = [dest(Nic::Back, family, 11, port, method)];
            let rules = service(family, proto, 80, Scheduler::Rr);
            let name = format!("starts {family:?} protocol {} {method:?}", proto.0);
            cases.push(
                Case::new(name, rules, &dests)
                    .step(Step::Set(schedule))
                    .forwards(
                        Nic::Front,
                        Way::Redirect,
                        &from_client(error.clone()),
                        to_host(Nic::Back, 11, sent.clone()),
                    )
                    .step(Step::Entries(1, 0))
                    .step(Step::Counts(0, 0, 1))
                    .step(Step::State(if proto == Proto::UDP { 2 } else { 0 }))
                    .step(Step::Traffic(0, [1, 0, 1]))
                    // Another one finds it.
                    .forwards(Nic::Front, Way::Redirect, &from_client(error), to_host(Nic::Back, 11, sent))
                    .step(Step::Traffic(0, [2, 0, 1])),
            );
        }
    }
    run_all(&cases)
}

/// Transport header and what follows in [`between`]'s packets.
fn payload(proto: Proto) -> usize {
    match proto {
        Proto::TCP => 20,
        Proto::UDP => 13,
        _ => 12 + 20,
    }
}

/// IPVS's three seconds, unless the client says something itself.
fn what_such_a_connection_lives_to_see() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
        let begun = |title: &str| {
            let (error, _) = about_answer(family, proto);
            let sent = to_host(Nic::Back, 11, onward(&error));
            let rules = service(family, proto, 80, Scheduler::Rr);
            Case::new(format!("{title} {family:?} protocol {}", proto.0), rules, &dests)
                .step(Step::Set(schedule))
                .forwards(Nic::Front, Way::Redirect, &from_client(error), sent)
        };
        cases.push(begun("silent").step(Step::Wait(4)).step(Step::Sweep).step(Step::Entries(0, 0)));
        let request = between(us(family), (vip(family), 80), proto);
        let sent = to_host(Nic::Back, 11, onward(&request));
        let state = match proto {
            Proto::TCP => 3,
            _ => 1,
        };
        cases.push(
            begun("speaks")
                .forwards(Nic::Front, Way::Redirect, &from_client(request), sent)
                .step(Step::State(state))
                .step(Step::Traffic(0, [2, 0, 1])),
        );
    }
    run_all(&cases)
}

fn errors_that_start_none() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
        let rules = service(family, proto, 80, Scheduler::Rr);
        let case = |title: &str| Case::new(format!("{title} {family:?} protocol {}", proto.0), rules, &dests);
        let (error, _) = about_answer(family, proto);
        let error = from_client(error);
        let none = |case: Case| case.step(Step::Entries(0, 0)).step(Step::Traffic(0, [0, 0, 0]));
        cases.push(none(case("not asked for").passes(&error, Reason::OtherProtocol)));
        let asked = |title: &str| case(title).step(Step::Set(schedule));
        cases.push(none(asked("no dest").step(Step::Weight(0, 0)).drops(&error, Reason::NoDest)));
        let limit: fn(&Settings) = |settings| settings.drop_rate.store(1);
        cases.push(none(asked("limited").step(Step::Set(limit)).drops(&error, Reason::Limited)));
        let elsewhere = between((vip(family), 81), us(family), proto);
        let kind = if family == Family::V4 { (11, 0) } else { (3, 0) };
        let error = Packet::icmp_error(us(family).0, vip(family), kind, elsewhere.bytes());
        cases.push(none(asked("no service").passes(&from_client(error), Reason::NoService)));
    }
    run_all(&cases)
}

fn tell(settings: &Settings) {
    settings.nat_icmp_send.store(1);
}

fn servers_are_told() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let others =
            [dest(Nic::Back, family, 12, 8080, Method::Nat), dest(Nic::Back, family, 11, 8080, Method::Nat)];
        let answer = between((Nic::Back.host(family, 11), 8080), us(family), proto).with(|p| p.tos = 0x10);
        let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let own = Nic::Back.host(family, 1);
        let told = Packet::icmp_error(own, answer.src, kind, answer.bytes());
        let told = if family == Family::V4 { told.with(|p| (p.tos, p.id) = (0xd0, None)) } else { told };
        let expect = Expect::Leaves(Way::Transmit, Reason::IcmpSent, Box::new(to_host(Nic::Back, 11, told)));
        let frame = from_host(Nic::Back, 11, answer).bytes();
        let rules = service(family, proto, 80, Scheduler::Rr);
        cases.push(
            Case::new(format!("told {family:?} protocol {}", proto.0), rules, &others)
                .step(Step::Send(Nic::Back, frame.clone(), Expect::Passes(Reason::ReplyUnknown)))
                .step(Step::Set(tell))
                .step(Step::Send(Nic::Back, frame.clone(), expect))
                .step(Step::Traffic(1, [0, 0, 0]))
                .step(Step::Delete(1))
                .step(Step::Send(Nic::Back, frame, Expect::Passes(Reason::ReplyUnknown))),
        );
    }
    run_all(&cases)
}

fn servers_are_not_told() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let server = Nic::Back.host(family, 11);
        let dests = [dest(Nic::Back, family, 11, 8080, Method::Nat)];
        let mut case =
            Case::new(format!("not told {family:?}"), service(family, Proto::TCP, 80, Scheduler::Rr), &dests)
                .step(Step::Set(tell));
        for packet in [
            Packet::tcp((server, 8080), us(family), RST, b""),
            Packet::tcp((server, 8080), us(family), RST | ACK, b""),
            Packet::tcp((server, 8081), us(family), SYN, b""),
            Packet::udp((server, 8080), us(family), b""),
        ] {
            let frame = from_host(Nic::Back, 11, packet).bytes();
            case = case.step(Step::Send(Nic::Back, frame, Expect::Passes(Reason::ReplyUnknown)));
        }
        cases.push(case);
    }
    run_all(&cases)
}

fn let_past(settings: &Settings) {
    settings.cache_bypass.store(1);
}

fn everything(family: Family) -> Vec<MarkRule> {
    vec![MarkRule { mark: 7, dport_to: u16::MAX, family: family as u8, ..MarkRule::default() }]
}

fn marked(title: &str, family: Family, more: &str) -> Case {
    Case::new(format!("{title} {family:?} {more}"), by_mark(family, 7, Scheduler::Rr), &[])
        .step(Step::Marks(everything(family)))
        .step(Step::Set(let_past))
}

/// ipvs.md 4.9 and 6.8.
fn packets_go_to_their_own_destination() -> Result<()> {
    let mut cases = Vec::new();
    for (family, proto) in each() {
        let there = (Nic::Back.host(family, 21), 80);
        let begin = between(us(family), there, proto);
        let mut case = marked("bypass", family, &proto.0.to_string());
        case = case.step(Step::Send(
            Nic::Front,
            from_client(begin.clone()).bytes(),
            bypassed(to_host(Nic::Back, 21, onward(&begin))),
        ));
        let (first, then) = match proto {
            Proto::TCP => (3, 4),
            Proto::UDP => (0, 1),
            _ => (1, 2),
        };
        case = case.step(Step::Entries(1, 0)).step(Step::State(first));
        let more = match proto {
            // The server was never heard of, but the guess of its half is left to connections with a dest.
            Proto::TCP => Packet::tcp(us(family), there, FIN | ACK, b""),
            _ => begin.clone(),
        };
        let then = if proto == Proto::TCP { then + 1 } else { then };
        case = case
            .step(Step::Send(
                Nic::Front,
                from_client(more.clone()).bytes(),
                bypassed(to_host(Nic::Back, 21, onward(&more))),
            ))
            .step(Step::State(then));
        // Nor are its dests' counts anybody's.
        cases.push(case.step(Step::Traffic(0, [0, 0, 0])).step(Step::Counts(0, 0, 0)));
    }
    run_all(&cases)
}

fn bypassed(frame: Frame) -> Expect {
    Expect::Leaves(Way::Redirect, Reason::Bypassed, Box::new(frame))
}

fn packets_that_cannot() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let own = Nic::Back.host(family, 1);
        let told = |packet: &Packet, kinds: [(u8, u8); 2], rest: u32| {
            let kind = kinds[usize::from(family == Family::V6)];
            let mut quote = packet.bytes();
            quote.truncate(if family == Family::V4 { 548 } else { 1232 });
            let answer = Packet::new(packet.dst, packet.src, Body::Icmp(kind.0, kind.1, rest, quote));
            to_client(if family == Family::V4 {
                answer.with(|p| (p.tos, p.id) = (0xc0, None))
            } else {
                answer
            })
        };
        let unreachable = [(3, 3), (1, 4)];
        let to_us = Packet::udp(us(family), (own, 80), b"x");
        let case = marked("to ourselves", family, "");
        cases.push(
            case.answers(&from_client(to_us.clone()), told(&to_us, unreachable, 0)).step(Step::Entries(0, 0)),
        );
        let off: fn(&Settings) = |settings| settings.cache_bypass.store(0);
        let away = Packet::udp(us(family), (Nic::Back.host(family, 21), 80), b"x");
        let case = marked("off", family, "").step(Step::Set(off));
        cases.push(
            case.answers(&from_client(away.clone()), told(&away, unreachable, 0)).step(Step::Entries(0, 0)),
        );
        let last = away.with(|p| p.ttl = 1);
        let case = marked("ttl", family, "");
        cases.push(
            case.answers(&from_client(last.clone()), told(&last, [(11, 0), (3, 0)], 0))
                .step(Step::Entries(1, 0)),
        );
        let long =
            Packet::udp(us(family), (Nic::Back.host(family, 21), 80), &vec![7; 1600]).with(|p| p.df = true);
        let case = marked("too long", family, "");
        let (sent, quoted) = (from_client(long.clone()), onward(&long));
        cases.push(case.answers(&sent, told(&quoted, [(3, 4), (2, 0)], MTU)));
    }
    run_all(&cases)
}

fn piece(packet: Packet, part: Part, id: u32) -> Packet {
    packet.with(|p| (p.part, p.id) = (Some(part), Some(id as _)))
}

const FIRST: Part = Part { from: 0, to: Some(48) };
const LATER: Part = Part { from: 48, to: None };

/// A fragment that overtakes the first goes where the datagram before it went; without one it is dropped.
fn fragments_out_of_order() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (method, port) in [(Method::Nat, 8080), (Method::Route, 80), (Method::Tunnel, 80)] {
            let data = vec![3; 100];
            let asked = |id, part| piece(Packet::udp(us(family), (vip(family), 80), &data), part, id);
            let sent = |id, part| {
                let server = Nic::Back.host(family, 11);
                let whole = match method {
                    Method::Nat => Packet::udp(us(family), (server, port), &data),
                    _ => Packet::udp(us(family), (vip(family), 80), &data),
                };
                let inner = onward(&piece(whole, part, id));
                to_host(
                    Nic::Back,
                    11,
                    match method {
                        Method::Tunnel => {
                            let ttl = inner.ttl;
                            let outer =
                                Packet::new(Nic::Back.host(family, 1), server, Body::Ip(Box::new(inner)));
                            outer.with(|p| (p.ttl, p.id) = (ttl, None))
                        }
                        _ => inner,
                    },
                )
            };
            let dests = [dest(Nic::Back, family, 11, port, method)];
            let rules = service(family, Proto::UDP, 80, Scheduler::Rr);
            let overtaking = from_client(asked(0x77, LATER));
            let elsewhere =
                piece(Packet::udp((client(family, 8), 1025), (vip(family), 80), &data), LATER, 0x78);
            cases.push(
                Case::new(format!("fragments {family:?} {method:?}"), rules, &dests)
                    .drops(&from_client(asked(0x70, LATER)), Reason::FragmentUnknown)
                    .forwards(Nic::Front, Way::Redirect, &from_client(asked(0x71, FIRST)), sent(0x71, FIRST))
                    .forwards(Nic::Front, Way::Redirect, &from_client(asked(0x71, LATER)), sent(0x71, LATER))
                    .forwards(Nic::Front, Way::Redirect, &overtaking, sent(0x77, LATER))
                    .forwards(Nic::Front, Way::Redirect, &from_client(asked(0x77, FIRST)), sent(0x77, FIRST))
                    .step(Step::Traffic(0, [4, 0, 1]))
                    // Another client's is none of these.
                    .drops(&from_client(elsewhere), Reason::FragmentUnknown)
                    .step(Step::Delete(0))
                    .drops(&from_client(asked(0x79, LATER)), Reason::DestGone)
                    .step(Step::Wait(301))
                    .step(Step::Sweep)
                    .passes(&from_client(asked(0x7a, LATER)), Reason::NoConnection),
            );
        }
    }
    run_all(&cases)
}

fn fragments_of_answers_out_of_order() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let data = vec![3; 100];
        let server = (Nic::Back.host(family, 11), 8080);
        let dests = [dest(Nic::Back, family, 11, 8080, Method::Nat)];
        let asked = Packet::udp(us(family), (vip(family), 80), b"hello");
        let passed_on = onward(&Packet::udp(us(family), server, b"hello"));
        let answer =
            |id, part| from_host(Nic::Back, 11, piece(Packet::udp(server, us(family), &data), part, id));
        let sent =
            |id, part| to_client(onward(&piece(Packet::udp((vip(family), 80), us(family), &data), part, id)));
        let overtaking = answer(0x77, LATER);
        let alone =
            Step::Send(Nic::Back, answer(0x70, LATER).bytes(), Expect::Drops(Reason::FragmentUnknown));
        cases.push(
            Case::new(format!("answers {family:?}"), service(family, Proto::UDP, 80, Scheduler::Rr), &dests)
                .forwards(Nic::Front, Way::Redirect, &from_client(asked), to_host(Nic::Back, 11, passed_on))
                .step(alone)
                .replies(Nic::Back, Way::Redirect, &answer(0x71, FIRST), sent(0x71, FIRST))
                .replies(Nic::Back, Way::Redirect, &answer(0x71, LATER), sent(0x71, LATER))
                .replies(Nic::Back, Way::Redirect, &overtaking, sent(0x77, LATER))
                .replies(Nic::Back, Way::Redirect, &answer(0x77, FIRST), sent(0x77, FIRST))
                .step(Step::Traffic(0, [1, 4, 1])),
        );
    }
    run_all(&cases)
}
