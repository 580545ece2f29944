//! Services by mark: which rule marks a packet, and what its service makes of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lb_common::addr::{Addr, Family, Proto};
use lb_common::dest::Method;
use lb_common::mark::MarkRule;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, FAMILIES, Live, Nic, Step, Way, by_mark, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, SYN};
use lb_tests::packets::{Body, Frame, Packet};

lb_tests::tests!(
    what_a_rule_looks_at,
    the_first_rule_counts,
    a_mark_beats_an_address,
    ports_and_addresses_under_one_mark,
    ports_under_nat,
    one_template_for_everything,
    templates_by_mark_and_by_address,
    connections_outlive_their_rule,
    many_rules,
);

/// Service by mark `MARK`.
const MARK: u32 = 0x0102_0304;

type End = (IpAddr, u16);

/// Another virtual address.
fn second_vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2).into(),
    }
}

/// A rule for everything of a family.
fn any(family: Family, mark: u32) -> MarkRule {
    MarkRule { mark, dport_to: u16::MAX, family: family as u8, ..MarkRule::default() }
}

/// An address and the mask of its first bits, the whole address if there are more than it has.
fn net(address: IpAddr, bits: usize) -> (Addr, Addr) {
    let length = if address.is_ipv4() { 4 } else { 16 };
    let mut mask = [0; 16];
    (0..bits.min(8 * length)).for_each(|bit| mask[bit / 8] |= 0x80 >> (bit % 8));
    let mut first = Addr::from(address);
    first.0.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
    (first, Addr(mask))
}

fn to(rule: MarkRule, address: IpAddr, bits: usize) -> MarkRule {
    let (dst, dst_mask) = net(address, bits);
    MarkRule { dst, dst_mask, ..rule }
}

fn from(rule: MarkRule, address: IpAddr, bits: usize) -> MarkRule {
    let (src, src_mask) = net(address, bits);
    MarkRule { src, src_mask, ..rule }
}

fn packet(src: End, dst: End, proto: Proto) -> Packet {
    match proto {
        Proto::TCP => Packet::tcp(src, dst, SYN, b""),
        Proto::UDP => Packet::udp(src, dst, b"hello"),
        _ => Packet::sctp(src, dst, &[1]),
    }
}

fn request(number: u8, dst: End, proto: Proto) -> Frame {
    let family = if dst.0.is_ipv4() { Family::V4 } else { Family::V6 };
    from_client(packet((client(family, number), 1025), dst, proto))
}

fn arrives(case: Case, frame: &Frame, host: u8) -> Case {
    let sent = to_host(Nic::Back, host, frame.packet.clone().with(|p| p.ttl -= 1));
    case.forwards(Nic::Front, Way::Redirect, frame, sent)
}

/// One service by mark, with one dest without a port.
fn marked(title: &str, family: Family, rules: Vec<MarkRule>) -> Case {
    let dests = [dest(Nic::Back, family, 11, 0, Method::Route)];
    let title = format!("{title} {family:?}");
    Case::new(title, by_mark(family, MARK, Scheduler::Rr), &dests).step(Step::Marks(rules))
}

fn what_a_rule_looks_at() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let rule = any(family, MARK);
        let (vip, other) = (vip(family), second_vip(family));
        let (tcp, udp, sctp) = (Proto::TCP, Proto::UDP, Proto::SCTP);
        // Rule; packets it marks; packets it does not.
        type Packets = Vec<(u8, End, Proto)>;
        let tried: Vec<(&str, MarkRule, Packets, Packets)> = vec![
            (
                "everything",
                rule,
                vec![(1, (vip, 0), tcp), (1, (other, 65535), udp), (2, (vip, 9), sctp)],
                vec![],
            ),
            (
                "one destination",
                to(rule, vip, 128),
                vec![(1, (vip, 80), tcp), (1, (vip, 53), udp)],
                vec![(1, (other, 80), tcp)],
            ),
            (
                // 10.9.0.0/31 and the like: one of the two is in it.
                "a network",
                to(rule, vip, if family == Family::V4 { 31 } else { 127 }),
                vec![(1, (vip, 80), tcp)],
                vec![(1, (other, 80), tcp)],
            ),
            (
                "a wider network",
                to(rule, vip, if family == Family::V4 { 30 } else { 126 }),
                vec![(1, (vip, 80), tcp), (1, (other, 80), tcp)],
                vec![],
            ),
            (
                "a protocol",
                MarkRule { proto: udp.0, ..rule },
                vec![(1, (vip, 80), udp)],
                vec![(1, (vip, 80), tcp), (1, (vip, 80), sctp)],
            ),
            (
                "ports",
                MarkRule { dport_from: 80, dport_to: 90, ..rule },
                vec![(1, (vip, 80), tcp), (1, (vip, 85), udp), (1, (other, 90), sctp)],
                vec![(1, (vip, 79), tcp), (1, (vip, 91), tcp), (1, (vip, 0x5000), tcp)],
            ),
            (
                "a source",
                from(rule, client(family, 2), 128),
                vec![(2, (vip, 80), tcp), (2, (other, 1), udp)],
                vec![(3, (vip, 80), tcp), (1, (vip, 80), tcp)],
            ),
            (
                "all of it",
                MarkRule {
                    proto: tcp.0,
                    dport_from: 443,
                    dport_to: 443,
                    ..from(to(rule, vip, 128), client(family, 0), if family == Family::V4 { 24 } else { 64 })
                },
                vec![(1, (vip, 443), tcp), (200, (vip, 443), tcp)],
                vec![(1, (vip, 443), udp), (1, (vip, 442), tcp), (1, (other, 443), tcp)],
            ),
        ];
        for (title, rule, marks, leaves) in tried {
            let mut case = marked(title, family, vec![rule]);
            for (number, dst, proto) in marks {
                case = arrives(case, &request(number, dst, proto), 11);
            }
            for (number, dst, proto) in leaves {
                case = case.passes(&request(number, dst, proto), Reason::NoService);
            }
            cases.push(case);
        }
        // A rule of the other family, and none at all.
        let elsewhere = if family == Family::V4 { Family::V6 } else { Family::V4 };
        for rules in [vec![any(elsewhere, MARK)], vec![]] {
            let case = marked("none", family, rules);
            cases.push(case.passes(&request(1, (vip, 80), tcp), Reason::NoService));
        }
    }
    run_all(&cases)
}

fn the_first_rule_counts() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let special = from(any(family, 7), client(family, 2), 128);
        let frame = |number| request(number, (vip(family), 80), Proto::TCP);
        let two = |title: &str, rules| {
            let dests = [dest(Nic::Back, family, 12, 0, Method::Route)];
            marked(title, family, rules).and(by_mark(family, 7, Scheduler::Rr), &dests)
        };
        let case = two("special first", vec![special, any(family, MARK)]);
        cases.push(arrives(arrives(case, &frame(1), 11), &frame(2), 12));
        let case = two("special last", vec![any(family, MARK), special]);
        cases.push(arrives(arrives(case, &frame(1), 11), &frame(2), 11));
        // Also where no service has its mark.
        let nobody = MarkRule { mark: 9, ..special };
        let case = two("nobody's first", vec![nobody, any(family, MARK)]);
        cases.push(arrives(case, &frame(1), 11).passes(&frame(2), Reason::NoService));
    }
    run_all(&cases)
}

/// ipvs.md 4.1. A mark without a service leaves the packet to the services by address.
fn a_mark_beats_an_address() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let by_address = [dest(Nic::Back, family, 12, 80, Method::Route)];
            let rule = MarkRule { dport_to: 80, ..from(any(family, MARK), client(family, 1), 128) };
            let unused = MarkRule { mark: 9, ..any(family, 9) };
            let case = marked(&format!("both {}", proto.0), family, vec![rule, unused])
                .and(service(family, proto, 80, Scheduler::Rr), &by_address);
            let case = arrives(case, &request(1, (vip(family), 80), proto), 11);
            let case = arrives(case, &request(2, (vip(family), 80), proto), 12);
            cases.push(case.passes(&request(2, (vip(family), 81), proto), Reason::NoService));
        }
        let late = from_client(Packet::tcp((client(family, 1), 1025), (vip(family), 80), ACK, b""));
        let case = marked("no SYN", family, vec![any(family, MARK)]);
        cases.push(case.passes(&late, Reason::NoConnection));
    }
    run_all(&cases)
}

fn ports_and_addresses_under_one_mark() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let two = [12, 11].map(|host| dest(Nic::Back, family, host, 0, Method::Route));
        let title = format!("one service {family:?}");
        let mut case = Case::new(title, by_mark(family, MARK, Scheduler::Rr), &two)
            .step(Step::Marks(vec![any(family, MARK)]));
        // One round robin for all of it.
        let ends =
            [(vip(family), 80), (second_vip(family), 80), (vip(family), 443), (second_vip(family), 53)];
        for ((dst, proto), host) in
            ends.into_iter().zip([Proto::TCP, Proto::TCP, Proto::SCTP, Proto::UDP]).zip([11, 12, 11, 12])
        {
            case = arrives(case, &request(1, dst, proto), host);
        }
        case.step(Step::Entries(4, 0)).step(Step::Traffic(1, [2, 0, 2])).step(Step::Traffic(0, [2, 0, 2]))
    }))
}

fn set_port(body: &mut Body, src: Option<u16>, dst: Option<u16>) {
    if let Body::Tcp(sport, dport, ..) | Body::Udp(sport, dport, ..) | Body::Sctp(sport, dport, ..) = body {
        *sport = src.unwrap_or(*sport);
        *dport = dst.unwrap_or(*dport);
    }
}

/// ipvs.md 5.3: a dest's port is used, but not under persistence, where the packet's own stays.
fn ports_under_nat() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (persistent, port) in [(false, 8080), (false, 0), (true, 8080), (true, 0)] {
            let rules = by_mark(family, MARK, Scheduler::Rr);
            let rules = if persistent { rules.persistent(100) } else { rules };
            let dests = [dest(Nic::Back, family, 11, port, Method::Nat)];
            let title = format!("nat {family:?} {persistent} {port}");
            let mut case = Case::new(title, rules, &dests).step(Step::Marks(vec![any(family, MARK)]));
            // From ports of their own: by their addresses alone the dest's answers could not be told apart.
            for (sport, dst, proto) in [
                (1, (vip(family), 80), Proto::TCP),
                (2, (second_vip(family), 443), Proto::TCP),
                (3, (vip(family), 53), Proto::UDP),
                (4, (second_vip(family), 9), Proto::SCTP),
            ] {
                let sees = if persistent || port == 0 { dst.1 } else { port };
                let (us, server) = ((client(family, 1), sport), (Nic::Back.host(family, 11), sees));
                let asked = packet(us, dst, proto);
                let sent = asked.clone().with(|p| {
                    (p.dst, p.ttl) = (server.0, p.ttl - 1);
                    set_port(&mut p.body, None, Some(sees));
                });
                let answer = packet(server, us, proto);
                let translated = answer.clone().with(|p| {
                    (p.src, p.ttl) = (dst.0, p.ttl - 1);
                    set_port(&mut p.body, Some(dst.1), None);
                });
                case = case
                    .forwards(Nic::Front, Way::Redirect, &from_client(asked), to_host(Nic::Back, 11, sent))
                    .replies(
                        Nic::Back,
                        Way::Redirect,
                        &from_host(Nic::Back, 11, answer),
                        to_client(translated),
                    );
            }
            cases.push(case.step(Step::Traffic(0, [4, 4, 4])));
        }
    }
    run_all(&cases)
}

/// The mark as a template has it (ipvs.md 5.1): 1.2.3.4, 102:304::.
fn as_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(1, 2, 3, 4).into(),
        Family::V6 => Ipv6Addr::new(0x102, 0x304, 0, 0, 0, 0, 0, 0).into(),
    }
}

fn one_template_for_everything() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let two = [12, 11].map(|host| dest(Nic::Back, family, host, 0, Method::Route));
        let rules = by_mark(family, MARK, Scheduler::Rr).persistent(100);
        let mut case =
            Case::new(format!("template {family:?}"), rules, &two).step(Step::Marks(vec![any(family, MARK)]));
        let ends = [
            ((vip(family), 80), Proto::TCP),
            ((second_vip(family), 80), Proto::TCP),
            ((vip(family), 443), Proto::SCTP),
            ((second_vip(family), 53), Proto::UDP),
        ];
        for (number, host) in [(1, 11), (2, 12)] {
            for (dst, proto) in ends {
                case = arrives(case, &request(number, dst, proto), host);
            }
        }
        case = case.step(Step::Entries(8, 2)).step(Step::Templates(1, 1)).step(Step::Templates(0, 1));
        let live = |number: u8, dest| {
            let client = client(family, number);
            let template = Live {
                client: (client, 0),
                virtual_end: (as_address(family), 0),
                proto: 0,
                dest,
                state: 0,
                active: false,
                template: true,
            };
            let conns = ends.map(|(virtual_end, proto)| {
                let state = match proto {
                    Proto::TCP => 3,
                    Proto::SCTP => 1,
                    _ => 0,
                };
                let active = proto == Proto::TCP;
                let client = (client, 1025);
                Live { client, virtual_end, proto: proto.0, dest, state, active, template: false }
            });
            [vec![template], conns.to_vec()].concat()
        };
        case.step(Step::Table([live(1, 1), live(2, 0)].concat()))
    }))
}

/// The same client, by mark and by address: two templates that know nothing of each other.
fn templates_by_mark_and_by_address() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let two = |hosts: [u8; 2]| hosts.map(|host| dest(Nic::Back, family, host, 0, Method::Route));
        let marked = by_mark(family, MARK, Scheduler::Rr).persistent(100);
        let plain = service(family, Proto::TCP, 0, Scheduler::Rr).persistent(100);
        let rule = MarkRule { dport_from: 80, dport_to: 80, ..any(family, MARK) };
        let mut case = Case::new(format!("two templates {family:?}"), marked, &two([12, 11]))
            .and(plain, &two([22, 21]))
            .step(Step::Marks(vec![rule]));
        for (port, host) in [(80, 11), (81, 21), (82, 21)] {
            case = arrives(case, &request(1, (vip(family), port), Proto::TCP), host);
        }
        case.step(Step::Entries(3, 2)).step(Step::Templates(1, 1)).step(Step::Templates(3, 1))
    }))
}

fn connections_outlive_their_rule() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let frame = |number| request(number, (vip(family), 80), Proto::TCP);
        let case = arrives(marked("outlives", family, vec![any(family, MARK)]), &frame(1), 11);
        let case = case.step(Step::Marks(vec![])).passes(&frame(2), Reason::NoService);
        let case = arrives(case, &frame(1), 11);
        let case = case.step(Step::Marks(vec![from(any(family, MARK), client(family, 3), 128)]));
        arrives(case, &frame(3), 11).passes(&frame(2), Reason::NoService).step(Step::Entries(2, 0))
    }))
}

/// As many rules as there may be: the last one is found.
fn many_rules() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let only = |port| MarkRule { dport_from: port, dport_to: port, ..any(family, MARK) };
        let rules: Vec<MarkRule> = (0..lb_common::mark::MOST as u16).map(|n| only(1000 + n)).collect();
        let case = marked("many", family, rules);
        let frame = |port| request(1, (vip(family), port), Proto::UDP);
        arrives(arrives(case, &frame(2023), 11), &frame(1000), 11).passes(&frame(2024), Reason::NoService)
    }))
}
