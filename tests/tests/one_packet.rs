//! One-packet scheduling (`-o`): each datagram for itself, nothing left behind.

use anyhow::Result;
use lb_common::addr::{Addr, Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, NewService};
use lb_common::mark::MarkRule;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::service::flags;
use lb_tests::case::{
    Case, Expect, FAMILIES, Nic, Step, Way, by_mark, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, SYN};
use lb_tests::packets::{Body, Frame, Packet, Part};

lb_tests::tests!(
    each_datagram_is_scheduled,
    replies_are_not_translated,
    a_template_keeps_the_dest,
    other_protocols_are_scheduled_as_ever,
    ends_like_any_other,
    later_fragments,
);

const METHODS: [Method; 3] = [Method::Route, Method::Tunnel, Method::Nat];

/// Dest 0 is host 12, dest 1 is host 11, which the scheduler asks first.
fn two(family: Family, method: Method) -> [NewDest; 2] {
    let port = if method == Method::Nat { 8080 } else { 80 };
    [12, 11].map(|host| dest(Nic::Back, family, host, port, method))
}

fn ops(service: NewService) -> NewService {
    NewService { flags: service.flags | flags::OPS, ..service }
}

fn datagram(family: Family, number: u8, sport: u16) -> Frame {
    from_client(Packet::udp((client(family, number), sport), (vip(family), 80), b"hello"))
}

/// The datagram as a host gets it.
fn arrives(case: Case, method: Method, frame: &Frame, host: u8) -> Case {
    let inner = frame.packet.clone().with(|p| p.ttl -= 1);
    let family = if inner.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let to = Nic::Back.host(family, host);
    let sent = match method {
        Method::Nat => inner.with(|p| {
            p.dst = to;
            if let Body::Udp(_, dport, ..) = &mut p.body {
                *dport = 8080;
            }
        }),
        Method::Tunnel => {
            let ttl = inner.ttl;
            let outer = Packet::new(Nic::Back.host(family, 1), to, Body::Ip(Box::new(inner)));
            outer.with(|p| (p.ttl, p.id) = (ttl, None))
        }
        _ => inner,
    };
    case.forwards(Nic::Front, Way::Redirect, frame, to_host(Nic::Back, host, sent))
}

fn each_datagram_is_scheduled() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in METHODS {
            let rules = ops(service(family, Proto::UDP, 80, Scheduler::Rr));
            let mut case = Case::new(format!("-o {family:?} {method:?}"), rules, &two(family, method));
            for host in [11, 12, 11, 12, 11] {
                case = arrives(case, method, &datagram(family, 7, 1025), host);
                case = case.step(Step::Entries(0, 0));
            }
            for dest in [0, 1] {
                case = case.step(Step::Counts(dest, 0, 0));
            }
            cases.push(case.step(Step::Traffic(1, [3, 0, 3])).step(Step::Traffic(0, [2, 0, 2])));
        }
    }
    run_all(&cases)
}

fn replies_are_not_translated() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let rules = ops(service(family, Proto::UDP, 80, Scheduler::Rr));
        let case = Case::new(format!("replies {family:?}"), rules, &two(family, Method::Nat));
        let case = arrives(case, Method::Nat, &datagram(family, 7, 1025), 11);
        let ends = ((Nic::Back.host(family, 11), 8080), (client(family, 7), 1025));
        let reply = from_host(Nic::Back, 11, Packet::udp(ends.0, ends.1, b"hello yourself")).bytes();
        case.step(Step::Send(Nic::Back, reply, Expect::Passes(Reason::ReplyUnknown)))
            .step(Step::Traffic(1, [1, 0, 1]))
    }))
}

fn a_template_keeps_the_dest() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in METHODS {
            let rules = ops(service(family, Proto::UDP, 80, Scheduler::Rr)).persistent(100);
            let title = format!("-o -p {family:?} {method:?}");
            let mut case = Case::new(title, rules, &two(family, method));
            for (number, sport, host) in
                [(1, 1000, 11), (1, 1000, 11), (1, 1001, 11), (2, 1000, 12), (1, 1002, 11), (2, 1000, 12)]
            {
                case = arrives(case, method, &datagram(family, number, sport), host);
            }
            case = case.step(Step::Entries(0, 2)).step(Step::Templates(1, 1)).step(Step::Counts(1, 0, 0));
            case = case.step(Step::Traffic(1, [4, 0, 4])).step(Step::Traffic(0, [2, 0, 2]));
            // Each datagram restarts its time; nothing else holds it.
            case = arrives(case.step(Step::Wait(60)), method, &datagram(family, 1, 1000), 11);
            case = case.step(Step::Wait(60)).step(Step::Sweep).step(Step::Entries(0, 1));
            cases.push(case.step(Step::Wait(40)).step(Step::Sweep).step(Step::Entries(0, 0)));
        }
    }
    run_all(&cases)
}

/// ipvs.md 4.10: allowed by mark, where TCP behaves normally.
fn other_protocols_are_scheduled_as_ever() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let method = Method::Route;
        let rules = ops(by_mark(family, 5, Scheduler::Rr));
        let any = MarkRule { mark: 5, dport_to: u16::MAX, family: family as u8, ..MarkRule::default() };
        let to_vip = MarkRule { dst: Addr::from(vip(family)), dst_mask: Addr([0xff; 16]), ..any };
        let to_vip = match family {
            Family::V4 => MarkRule { dst_mask: Addr::v4([0xff; 4]), ..to_vip },
            Family::V6 => to_vip,
        };
        let mut case = Case::new(format!("-o by mark {family:?}"), rules, &two(family, method));
        case = case.step(Step::Marks(vec![to_vip]));
        let segment =
            |flags| from_client(Packet::tcp((client(family, 7), 1025), (vip(family), 80), flags, b""));
        for (flags, host) in [(SYN, 11), (SYN, 11), (ACK, 11)] {
            case = arrives(case, method, &segment(flags), host);
        }
        case = case.step(Step::Entries(1, 0)).step(Step::Counts(1, 1, 0));
        for host in [12, 11, 12] {
            case = arrives(case, method, &datagram(family, 7, 1025), host);
        }
        let init = from_client(Packet::sctp((client(family, 7), 1025), (vip(family), 80), &[1]));
        case = arrives(arrives(case, method, &init, 11), method, &init, 11);
        case.step(Step::Entries(2, 0)).step(Step::Traffic(1, [6, 0, 3])).step(Step::Traffic(0, [2, 0, 2]))
    }))
}

/// TTL, and no dest.
fn ends_like_any_other() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in METHODS {
            let rules = ops(service(family, Proto::UDP, 80, Scheduler::Rr));
            let frame = datagram(family, 7, 1025);
            let frame = Frame { packet: frame.packet.with(|p| p.ttl = 1), ..frame };
            let error = |kinds: [(u8, u8); 2]| {
                let kind = kinds[usize::from(family == Family::V6)];
                let error = Packet::icmp_error(vip(family), client(family, 7), kind, frame.packet.bytes());
                let tos = if family == Family::V4 { 0xc0 } else { 0 };
                to_client(error.with(|p| (p.id, p.tos) = (None, tos)))
            };
            let case = Case::new(format!("ends {family:?} {method:?}"), rules, &two(family, method))
                .answers(&frame, error([(11, 0), (3, 0)]))
                .step(Step::Traffic(1, [1, 0, 1]))
                .step(Step::Delete(0))
                .step(Step::Delete(1))
                .answers(&frame, error([(3, 3), (1, 4)]));
            cases.push(case.step(Step::Entries(0, 0)).step(Step::Traffic(1, [1, 0, 1])));
        }
    }
    run_all(&cases)
}

/// IPVS puts datagrams together first. Here there is nothing that would tell a later fragment where the first one went.
fn later_fragments() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let method = Method::Route;
        let rules = ops(service(family, Proto::UDP, 80, Scheduler::Rr));
        let whole = Packet::udp((client(family, 7), 1025), (vip(family), 80), &[3; 100]);
        let part = |from, to| from_client(whole.clone().with(|p| p.part = Some(Part { from, to })));
        let case = Case::new(format!("fragments {family:?}"), rules, &two(family, method));
        let case = arrives(case, method, &part(0, Some(48)), 11);
        case.passes(&part(48, None), Reason::NoConnection)
    }))
}
