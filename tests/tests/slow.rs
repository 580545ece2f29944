//! Rare packets: ICMP errors that start a connection, servers that answer where there is none, and packets that go on to
//! where they were sent because there is no server.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::fragments;
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
    fragments_that_cannot_wait,
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
            // Its first datagram: what was quoted was none.
            Proto::UDP => 0,
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
        let told = Packet::icmp_error(own, answer.src, kind, answer.clone().with(|p| p.ttl -= 1).bytes());
        let ends = from_host(Nic::Back, 11, answer.clone().with(|p| p.ttl = 1)).bytes();
        let told = if family == Family::V4 { told.with(|p| (p.tos, p.id) = (0xd0, None)) } else { told };
        let expect = Expect::Leaves(Way::Transmit, Reason::IcmpSent, Box::new(to_host(Nic::Back, 11, told)));
        let frame = from_host(Nic::Back, 11, answer).bytes();
        let rules = service(family, proto, 80, Scheduler::Rr);
        cases.push(
            Case::new(format!("told {family:?} protocol {}", proto.0), rules, &others)
                .step(Step::Send(Nic::Back, frame.clone(), Expect::Passes(Reason::ReplyUnknown)))
                .step(Step::Set(tell))
                .step(Step::Send(Nic::Back, frame.clone(), expect))
                .step(Step::Send(Nic::Back, ends, Expect::Passes(Reason::TtlPassed)))
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
const LATER_SHORT: Part = Part { from: 48, to: Some(96) };

/// The loop's near and far end, of a card each that is not the one packets come in by.
fn with_a_loop(case: Case) -> Case {
    case.step(Step::Set(|settings| {
        settings.loop_ends.iter().zip([1003, 1004]).for_each(|(cell, end)| cell.store(end))
    }))
}

/// As the loop wants it.
fn to_the_loop(frame: Frame) -> Expect {
    let mut around = frame;
    around.to = fragments::NEAR_END;
    Expect::Leaves(Way::Redirect, Reason::FragmentAwaited, Box::new(around))
}

/// A fragment that comes before its first waits, whatever datagrams came before, and the first goes around the loop to
/// fetch it: in both directions, whatever the method.
fn fragments_out_of_order() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (method, port) in [(Method::Nat, 8080), (Method::Route, 80), (Method::Tunnel, 80)] {
            let data = vec![3; 100];
            let asked =
                |id, part| from_client(piece(Packet::udp(us(family), (vip(family), 80), &data), part, id));
            let server = (Nic::Back.host(family, 11), port);
            let answer =
                |id, part| from_host(Nic::Back, 11, piece(Packet::udp(server, us(family), &data), part, id));
            let dests = [dest(Nic::Back, family, 11, port, method)];
            let rules = service(family, Proto::UDP, 80, Scheduler::Rr);
            let case = with_a_loop(Case::new(format!("fragments {family:?} {method:?}"), rules, &dests));
            let send = |nic, frame: Frame, expect| Step::Send(nic, frame.bytes(), expect);
            let waits = || Expect::Drops(Reason::FragmentHeld);
            let mut case = case
                .step(send(Nic::Front, asked(0x71, LATER), waits()))
                .step(send(Nic::Front, asked(0x71, LATER), waits()))
                .step(send(Nic::Front, asked(0x71, FIRST), to_the_loop(asked(0x71, FIRST))))
                // What was before says nothing of what comes now.
                .step(send(Nic::Front, asked(0x72, LATER), waits()));
            if method == Method::Nat {
                case = case.step(send(Nic::Back, answer(0x71, LATER), waits())).step(send(
                    Nic::Back,
                    answer(0x71, FIRST),
                    to_the_loop(answer(0x71, FIRST)),
                ));
            }
            // Nothing is counted on the way to the loop.
            cases.push(case.step(Step::Entries(0, 0)).step(Step::Traffic(0, [0, 0, 0])));
        }
    }
    run_all(&cases)
}

/// What cannot wait is dropped, by name: without a loop, of a tagged frame, of more than there is room for, in a frame that
/// is too long.
fn fragments_that_cannot_wait() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let data = vec![3; 3000];
        let packet = Packet::udp(us(family), (vip(family), 80), &data);
        let later = |from, to| Part { from, to: Some(to) };
        let of = |id, part| from_client(piece(packet.clone(), part, id));
        let new = |what: &str| {
            let dests = [dest(Nic::Back, family, 11, 80, Method::Route)];
            Case::new(format!("{what} {family:?}"), service(family, Proto::UDP, 80, Scheduler::Rr), &dests)
        };
        let unknown = Reason::FragmentUnknown;
        cases.push(new("no loop").drops(&of(1, LATER_SHORT), unknown));
        cases.push(with_a_loop(new("tagged")).drops(&of(1, LATER_SHORT).tagged(&[5]), unknown));
        let headers = if family == Family::V4 { 14 + 20 } else { 14 + 40 + 8 };
        let most = fragments::LONGEST as usize - headers;
        cases.push(
            with_a_loop(new("long"))
                .drops(&of(1, later(48, 48 + most)), Reason::FragmentHeld)
                .drops(&of(1, later(48, 48 + most + 1)), unknown),
        );
        let many = (0..fragments::MOST)
            .fold(with_a_loop(new("many")), |case, _| case.drops(&of(1, LATER_SHORT), Reason::FragmentHeld));
        cases.push(many.drops(&of(1, LATER_SHORT), unknown).drops(&of(2, LATER_SHORT), Reason::FragmentHeld));
    }
    run_all(&cases)
}
