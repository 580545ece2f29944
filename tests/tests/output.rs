//! NAT dests on the balancer itself: what their requests become, and what becomes of what the stack sends, by the program
//! behind it.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::conn::bound;
use lb_common::dest::Method;
use lb_common::host::{self, Rules, Sizes, SliceFrame};
use lb_common::local::{Other, Peer, THEIRS};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::sip::Call;
use lb_common::sync::{Outcome, Synced};
use lb_tests::case::{
    Case, Expect, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, service, set_up,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, SYN};
use lb_tests::packets::{Body, Frame, Packet, Part};

lb_tests::tests!(
    answers_are_translated,
    answers_in_fragments,
    a_checksum_left_out_stays_out,
    what_is_no_answer_stays_as_it_is,
    nobody_looks_without_such_a_dest,
    clients_here_are_counted,
    the_first_packet_of_a_client_here,
);

const PROTOS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];
/// State numbers as IPVS's table has them.
const ES: u8 = 1;

type End = (IpAddr, u16);

fn us(family: Family) -> End {
    (client(family, 7), 1025)
}

fn packet(src: End, dst: End, proto: Proto, flags: u8, chunk: u8) -> Packet {
    match proto {
        Proto::TCP => Packet::tcp(src, dst, flags, b"hello"),
        Proto::UDP => Packet::udp(src, dst, b"hello"),
        _ => Packet::sctp(src, dst, &[chunk]),
    }
}

/// A service whose only dest is the balancer, on its back card's address.
fn here(what: &str, family: Family, proto: Proto, port: u16) -> (Case, End) {
    let dests = [dest(Nic::Back, family, 1, port, Method::Nat)];
    let case = Case::new(
        format!("{what} {family:?} protocol {} port {port}", proto.0),
        service(family, proto, 80, Scheduler::Rr),
        &dests,
    );
    (case.step(Step::Local(0)), (Nic::Back.host(family, 1), port))
}

/// The request passes to the stack, translated: everything but the destination as it came.
fn received(case: Case, sent: Packet, to: End) -> Case {
    let frame = from_client(sent);
    let mut passed = frame.clone();
    passed.packet = passed.packet.with(|p| {
        p.dst = to.0;
        if let Body::Tcp(_, port, ..) | Body::Udp(_, port, ..) | Body::Sctp(_, port, ..) = &mut p.body {
            *port = to.1;
        }
    });
    let expect = Expect::Leaves(Way::Pass, Reason::LocalDest, Box::new(passed));
    case.step(Step::Send(Nic::Front, frame.bytes(), expect))
}

fn own(case: Case, sent: Packet, as_: Packet) -> Case {
    case.step(Step::Own(Nic::Front, to_client(sent).bytes(), Some(Box::new(to_client(as_)))))
}

fn untouched(case: Case, frame: &Frame) -> Case {
    case.step(Step::Own(Nic::Front, frame.bytes(), None))
}

/// From the dest's own port and address to the service's, TTL and all else as the stack made them; counted, and the state
/// machine moves.
fn answers_are_translated() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in PROTOS {
            for port in [80, 8080] {
                let (case, server) = here("answers", family, proto, port);
                let service = (vip(family), 80);
                let case = received(case, packet(us(family), service, proto, SYN, 1), server);
                let answer = |from| packet(from, us(family), proto, SYN | ACK, 2);
                let case = own(case, answer(server), answer(service));
                let case = received(case, packet(us(family), service, proto, ACK, 10), server);
                let case = case.step(Step::Traffic(0, [2, 1, 1])).step(Step::Entries(1, 0));
                cases.push(if proto == Proto::TCP { case.step(Step::State(ES)) } else { case });
            }
        }
    }
    run_all(&cases)
}

fn answers_in_fragments() -> Result<()> {
    let (first, later) = (Part { from: 0, to: Some(48) }, Part { from: 48, to: None });
    run_all(&FAMILIES.map(|family| {
        let (case, server) = here("fragments", family, Proto::UDP, 8080);
        let service = (vip(family), 80);
        let piece = |from, part, id| {
            let whole = Packet::udp(from, us(family), &[3; 100]);
            whole.with(|p| (p.part, p.id) = (Some(part), Some(id)))
        };
        let mut case = received(case, Packet::udp(us(family), service, b"hello"), server);
        for part in [first, later] {
            case = own(case, piece(server, part, 7), piece(service, part, 7));
        }
        // Whose it is nobody knows.
        untouched(case, &to_client(piece(server, later, 8))).step(Step::Traffic(0, [1, 2, 1]))
    }))
}

fn a_checksum_left_out_stays_out() -> Result<()> {
    let family = Family::V4;
    let (case, server) = here("no checksum", family, Proto::UDP, 8080);
    let service = (vip(family), 80);
    let answer = |from: End| {
        Packet::new(from.0, us(family).0, Body::Udp(from.1, us(family).1, b"hello".into(), false))
    };
    let case = received(case, Packet::udp(us(family), service, b"hello"), server);
    run_all(&[own(case, answer(server), answer(service))])
}

/// Other clients', other ports', errors, packets of other addresses: the stack's own affairs.
fn what_is_no_answer_stays_as_it_is() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in PROTOS {
            let (case, server) = here("others", family, proto, 8080);
            let mut case = received(case, packet(us(family), (vip(family), 80), proto, SYN, 1), server);
            let to = |from, to| to_client(packet(from, to, proto, ACK, 0));
            let other = Nic::Front.host(family, 1);
            for frame in [
                to(server, (client(family, 8), 1025)),
                to(server, (client(family, 7), 1026)),
                to((server.0, 8081), us(family)),
                to((other, 8080), us(family)),
            ] {
                case = untouched(case, &frame);
            }
            let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
            let quote = packet(us(family), server, proto, SYN, 1).bytes();
            case = untouched(case, &to_client(Packet::icmp_error(server.0, us(family).0, kind, quote)));
            cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
        }
    }
    run_all(&cases)
}

fn nobody_looks_without_such_a_dest() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let (case, server) = here("no such dest", family, Proto::UDP, 8080);
        let case = received(case, Packet::udp(us(family), (vip(family), 80), b"hello"), server);
        let case = case.step(Step::Set(|settings| settings.local_dests.store(0)));
        untouched(case, &to_client(Packet::udp(server, us(family), b"hello")))
            .step(Step::Traffic(0, [1, 0, 1]))
    }))
}

/// The balancer's own end of a connection it begins.
fn own_end(family: Family) -> End {
    (Nic::Back.host(family, 1), 40000)
}

/// A connection of a client on the balancer itself, to a server behind it: both directions stay as they are, and count.
fn clients_here_are_counted() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP] {
            let (own, server) = (own_end(family), (Nic::Back.host(family, 11), 8080));
            let rules = service(family, proto, 80, Scheduler::Rr);
            let case = Case::new(
                format!("clients here {family:?} protocol {}", proto.0),
                rules,
                &[dest(Nic::Back, family, 11, 8080, Method::Nat)],
            );
            let synced = Synced {
                client: Addr::from(own.0),
                vaddr: Addr::from(vip(family)),
                cport: Port::new(own.1),
                vport: Port::new(80),
                daddr: Addr::from(server.0),
                dport: Port::new(8080),
                proto,
                family: family as u8,
                state: if proto == Proto::TCP { ES.into() } else { 0 },
                dest: 0,
                how: bound::OWN,
                timeout: 60,
                ..Synced::default()
            };
            let case = case
                .step(Step::Set(|settings| settings.local_clients.store(1)))
                .step(Step::Adopt(Box::new((synced, Call::default())), Outcome::Made));
            let sent = to_host(Nic::Back, 11, packet(own, server, proto, ACK, 0));
            let case = untouched(case, &sent);
            let answer = from_host(Nic::Back, 11, packet(server, own, proto, ACK, 0));
            let passes = Expect::Passes(Reason::LocalClient);
            let case = case.step(Step::Send(Nic::Back, answer.bytes(), passes.clone()));
            // It is for us, however far it has come.
            let far = from_host(Nic::Back, 11, packet(server, own, proto, ACK, 0).with(|p| p.ttl = 1));
            let case = case.step(Step::Send(Nic::Back, far.bytes(), passes));
            let case = case.step(Step::Traffic(0, [1, 2, 0])).step(Step::Entries(1, 0));
            // Somebody else's, from another port.
            let other = to_host(Nic::Back, 11, packet((own.0, 40001), server, proto, ACK, 0));
            cases.push(untouched(case, &other).step(Step::Traffic(0, [1, 2, 0])));
        }
    }
    run_all(&cases)
}

/// Which server a socket was given only the kernel's hooks know: by the host engine alone.
fn the_first_packet_of_a_client_here() -> Result<()> {
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP] {
            let tables = lb_tests::host::world(&Sizes::default());
            let rules = service(family, proto, 80, Scheduler::Rr);
            let dests = [11, 12].map(|host| dest(Nic::Back, family, host, 8080, Method::Nat));
            set_up(&mut Rules::new(), &tables, &[(rules, dests.to_vec())]);
            let own = own_end(family);
            let send = |host: u8, flags| {
                let to = (Nic::Back.host(family, host), 8080);
                let bytes = to_host(Nic::Back, host, packet(own, to, proto, flags, 0)).bytes();
                let mut frame = SliceFrame::new(&bytes, 2).of_socket(7);
                let verdict = host::send(&tables, &mut frame);
                (frame.bytes() == bytes).then_some(verdict.reason()).flatten()
            };
            ensure!(send(11, SYN) == Some(Reason::NotOurs), "counted although nobody was given a server");
            for number in [0, 1] {
                let addr = Addr::from(Nic::Back.host(family, 11 + number as u8));
                let port = u32::from(Port::new(8080).wire());
                let real = Peer { cookie: 7, addr, port, side: THEIRS };
                let named = Other {
                    addr: Addr::from(vip(family)),
                    port: u32::from(Port::new(80).wire()),
                    dest: number,
                };
                tables.give(real, named);
            }
            ensure!(send(11, SYN) == Some(Reason::LocalClient), "the first packet");
            ensure!(send(11, ACK) == Some(Reason::LocalClient), "the second packet");
            let live = lb_tests::host::live_of(&tables);
            let [conn] = &live[..] else { bail!("{live:?}") };
            ensure!(
                conn.client == own && conn.virtual_end == (vip(family), 80) && conn.dest == 0,
                "{conn:?}"
            );
            let first = tables.counters(0);
            ensure!((first.conns, first.inpkts) == (1, 2), "{first:?}");
            // The socket's port, used again, for another server.
            ensure!(send(12, SYN) == Some(Reason::LocalClient), "another server");
            let live = lb_tests::host::live_of(&tables);
            ensure!(live.len() == 1 && live[0].dest == 1, "{live:?}");
        }
    }
    Ok(())
}
