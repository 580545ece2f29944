//! Sysctls of the packet path, and what becomes of newcomers when the table is full.

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::settings::Settings;
use lb_tests::case::{
    Case, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, run_all_tiny, service,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, FIN, RST, SYN};
use lb_tests::packets::{Body, Frame, Packet};

lb_tests::tests!(
    sloppy_tcp,
    drop_packet,
    a_lower_rate_waits_for_the_running_count,
    only_newcomers_are_dropped,
    a_full_table,
    a_full_table_and_persistence,
    a_place_of_three_buckets,
    half_open_ones_make_way,
    standing_by_ends_for_good,
);

/// State numbers as IPVS's table has them.
const ES: u8 = 1;
const SR: u8 = 3;
const CL: u8 = 6;

fn one(title: &str, family: Family, proto: Proto, scheduler: Scheduler, method: Method) -> Case {
    let port = if method == Method::Nat { 8080 } else { 80 };
    let dests = [dest(Nic::Back, family, 11, port, method)];
    let title = format!("{title} {family:?} protocol {} {scheduler:?} {method:?}", proto.0);
    Case::new(title, service(family, proto, 80, scheduler), &dests)
}

fn segment(family: Family, sport: u16, flags: u8) -> Frame {
    from_client(Packet::tcp((client(family, 7), sport), (vip(family), 80), flags, b""))
}

fn datagram(family: Family, sport: u16) -> Frame {
    from_client(Packet::udp((client(family, 7), sport), (vip(family), 80), b"hello"))
}

fn arrives(case: Case, method: Method, frame: &Frame) -> Case {
    let inner = frame.packet.clone().with(|p| p.ttl -= 1);
    let family = if inner.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let to = Nic::Back.host(family, 11);
    let sent = match method {
        Method::Nat => inner.with(|p| {
            p.dst = to;
            if let Body::Udp(_, dport, ..) | Body::Tcp(_, dport, ..) = &mut p.body {
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
    case.forwards(Nic::Front, Way::Redirect, frame, to_host(Nic::Back, 11, sent))
}

fn sloppy(settings: &Settings) {
    settings.sloppy_tcp.store(1);
}

/// ipvs.md 4.2.
fn sloppy_tcp() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in [Method::Route, Method::Nat] {
            let begin = || one("sloppy", family, Proto::TCP, Scheduler::Rr, method).step(Step::Set(sloppy));
            for (flags, state) in [(ACK, ES), (FIN, CL), (FIN | ACK, CL), (0, CL), (SYN, SR), (SYN | ACK, SR)]
            {
                let active = u32::from(state != CL);
                let case = arrives(begin(), method, &segment(family, 1025, flags));
                let case = case.step(Step::State(state)).step(Step::Counts(0, active, 1 - active));
                cases.push(case.step(Step::Traffic(0, [1, 0, 1])));
            }
            for flags in [RST, RST | ACK, RST | SYN, RST | FIN] {
                let case = begin().passes(&segment(family, 1025, flags), Reason::NoConnection);
                cases.push(case.step(Step::Entries(0, 0)));
            }
        }
    }
    run_all(&cases)
}

/// The counter begins at nothing: the very first newcomer is dropped, then every third.
fn drop_packet() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP] {
            let method = Method::Route;
            let newcomer = |n: u16| match proto {
                Proto::TCP => segment(family, 1000 + n, SYN),
                _ => datagram(family, 1000 + n),
            };
            let every: fn(&Settings) = |settings| settings.drop_rate.store(3);
            let mut case = one("every third", family, proto, Scheduler::Rr, method).step(Step::Set(every));
            for n in 0..8_u16 {
                case = match n % 3 {
                    0 => case.drops(&newcomer(n), Reason::Limited),
                    _ => arrives(case, method, &newcomer(n)),
                };
            }
            cases.push(case.step(Step::Entries(5, 0)).step(Step::Traffic(0, [5, 0, 5])));
            let all: fn(&Settings) = |settings| settings.drop_rate.store(1);
            let off: fn(&Settings) = |settings| settings.drop_rate.store(0);
            let mut case = one("all", family, proto, Scheduler::Rr, method).step(Step::Set(all));
            for n in 0..4 {
                case = case.drops(&newcomer(n), Reason::Limited);
            }
            case = case.step(Step::Entries(0, 0)).step(Step::Set(off));
            for n in 0..4 {
                case = arrives(case, method, &newcomer(n));
            }
            cases.push(case);
        }
    }
    run_all(&cases)
}

fn a_lower_rate_waits_for_the_running_count() -> Result<()> {
    let high: fn(&Settings) = |settings| settings.drop_rate.store(5);
    let low: fn(&Settings) = |settings| settings.drop_rate.store(2);
    run_all(&FAMILIES.map(|family| {
        let mut case = one("lower", family, Proto::UDP, Scheduler::Rr, Method::Route).step(Step::Set(high));
        case = case.drops(&datagram(family, 1), Reason::Limited);
        case = arrives(case, Method::Route, &datagram(family, 2)).step(Step::Set(low));
        for (n, dropped) in [(3, false), (4, false), (5, false), (6, true), (7, false), (8, true), (9, false)]
        {
            case = match dropped {
                true => case.drops(&datagram(family, n), Reason::Limited),
                false => arrives(case, Method::Route, &datagram(family, n)),
            };
        }
        case
    }))
}

fn only_newcomers_are_dropped() -> Result<()> {
    let all: fn(&Settings) = |settings| settings.drop_rate.store(1);
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in [Method::Route, Method::Nat] {
            let case = one("old ones", family, Proto::TCP, Scheduler::Rr, method);
            let case = arrives(case, method, &segment(family, 1, SYN)).step(Step::Set(all));
            let case = arrives(case, method, &segment(family, 1, ACK));
            let case = case.drops(&segment(family, 2, SYN), Reason::Limited);
            // Nor what would not begin a connection, or is for no service.
            let case = case.passes(&segment(family, 2, ACK), Reason::NoConnection);
            let elsewhere = Packet::tcp((client(family, 7), 3), (vip(family), 81), SYN, b"");
            cases.push(case.passes(&from_client(elsewhere), Reason::NoService));
        }
    }
    run_all(&cases)
}

/// Connections the smallest table has room for: a bucket and a further one.
fn room(family: Family) -> u16 {
    2 * ways(family)
}

/// Connections of a bucket.
fn ways(family: Family) -> u16 {
    if family == Family::V4 { 8 } else { 4 }
}

/// Fills the table with connections that do not make way.
fn filled(case: Case, family: Family, proto: Proto, method: Method) -> Case {
    with_firm(case, family, proto, method, room(family))
}

/// So many connections that do not make way.
fn with_firm(mut case: Case, family: Family, proto: Proto, method: Method, count: u16) -> Case {
    for n in 0..count {
        let packets = match proto {
            Proto::TCP => [SYN, ACK].map(|flags| segment(family, 1000 + n, flags)),
            _ => [(); 2].map(|()| datagram(family, 1000 + n)),
        };
        for packet in packets {
            case = arrives(case, method, &packet);
        }
    }
    case.step(Step::Entries(count.into(), 0))
}

/// Schedulers that decide by the packet alone send newcomers on, as long as the next packet can follow: not TCP's, which
/// would not be scheduled without a SYN. Nobody else's newcomer gets in.
fn a_full_table() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for proto in [Proto::TCP, Proto::UDP] {
            for method in [Method::Route, Method::Tunnel, Method::Nat] {
                for scheduler in [Scheduler::Rr, Scheduler::Sh, Scheduler::Dh, Scheduler::Mh, Scheduler::Wlc]
                {
                    for lax in [false, true] {
                        let hashed = matches!(scheduler, Scheduler::Sh | Scheduler::Dh | Scheduler::Mh);
                        let goes = hashed && method != Method::Nat && (lax || proto == Proto::UDP);
                        let case = one(&format!("full {lax}"), family, proto, scheduler, method);
                        let case = if lax { case.step(Step::Set(sloppy)) } else { case };
                        let case = filled(case, family, proto, method);
                        let newcomers = match proto {
                            Proto::TCP if lax => [SYN, ACK].map(|flags| segment(family, 5000, flags)),
                            Proto::TCP => [(); 2].map(|()| segment(family, 5000, SYN)),
                            _ => [(); 2].map(|()| datagram(family, 5000)),
                        };
                        let case = newcomers.iter().fold(case, |case, packet| match goes {
                            true => arrives(case, method, packet),
                            false => case.drops(packet, Reason::TableFull),
                        });
                        let (conns, strays) = (u64::from(room(family)), if goes { 2 } else { 0 });
                        cases.push(
                            case.step(Step::Entries(room(family).into(), 0))
                                .step(Step::Traffic(0, [2 * conns + strays, 0, conns])),
                        );
                    }
                }
            }
        }
    }
    run_all_tiny(1, &cases)
}

/// The template takes a place, and nobody goes without.
fn a_full_table_and_persistence() -> Result<()> {
    run_all_tiny(
        1,
        &FAMILIES.map(|family| {
            let method = Method::Route;
            let rules = service(family, Proto::UDP, 80, Scheduler::Sh).persistent(100);
            let dests = [dest(Nic::Back, family, 11, 80, method)];
            let mut case = Case::new(format!("full, persistent {family:?}"), rules, &dests);
            for n in 0..room(family) - 1 {
                case = arrives(case, method, &datagram(family, 1000 + n));
                case = arrives(case, method, &datagram(family, 1000 + n));
            }
            let case = case.step(Step::Entries(usize::from(room(family)) - 1, 1));
            case.drops(&datagram(family, 5000), Reason::TableFull)
        }),
    )
}

/// The server of [`one`] under NAT answers a datagram of this port's.
fn is_answered(case: Case, family: Family, sport: u16) -> Case {
    let from = |server| Packet::udp(server, (client(family, 7), sport), b"hello");
    let sent = from_host(Nic::Back, 11, from((Nic::Back.host(family, 11), 8080)));
    case.replies(Nic::Back, Way::Redirect, &sent, to_client(from((vip(family), 80)).with(|p| p.ttl -= 1)))
}

/// A bucket runs over into a second one and that into a third. All are found there, from both sides, and when they are gone
/// there is room again.
fn a_place_of_three_buckets() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let most = 3 * ways(family);
        let count = u32::from(most);
        let tcp =
            (Proto::TCP, Method::Route, segment(family, 1000 + most - 1, ACK), segment(family, 5000, SYN));
        let udp = (Proto::UDP, Method::Nat, datagram(family, 1000 + most - 1), datagram(family, 5000));
        for ((proto, method, last, newcomer), (active, inactive)) in [(tcp, (count, 0)), (udp, (0, count))] {
            let mut case = one("three buckets", family, proto, Scheduler::Rr, method);
            for _ in 0..3 {
                case = with_firm(case, family, proto, method, most).drops(&newcomer, Reason::TableFull);
                case = arrives(case, method, &last).step(Step::Counts(0, active, inactive));
                if method == Method::Nat {
                    case = (0..most).fold(case, |case, n| is_answered(case, family, 1000 + n));
                }
                case = case.step(Step::Wait(1000)).step(Step::Sweep);
                case = case.step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0));
            }
            cases.push(case);
        }
    }
    run_all_tiny(2, &cases)
}

fn half_open_ones_make_way() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in [Method::Route, Method::Nat] {
            let mut case = one("half-open", family, Proto::TCP, Scheduler::Rr, method);
            for n in 0..3 * room(family) {
                case = arrives(case, method, &segment(family, 1000 + n, SYN));
            }
            // Nobody needs the second bucket for that.
            let (stay, came) = (room(family) / 2, 3 * u64::from(room(family)));
            case = case.step(Step::Counts(0, stay.into(), 0)).step(Step::Entries(stay.into(), 0));
            cases.push(case.step(Step::Traffic(0, [came, 0, came])));
        }
    }
    run_all_tiny(1, &cases)
}

/// backup_only: clients' packets are left alone for as long as somebody says so. The clock wraps: half a round later what
/// was said, and never taken back, would be to come again.
fn standing_by_ends_for_good() -> Result<()> {
    /// Seconds of half a round, at a thousand ticks.
    const HALF_A_ROUND: u32 = (1 << 31) / 1000;
    let mut cases = Vec::new();
    for family in FAMILIES {
        let case = one("stands by", family, Proto::UDP, Scheduler::Rr, Method::Route);
        let case = arrives(case, Method::Route, &datagram(family, 1000));
        let case = case.step(Step::StandBy(3)).passes(&datagram(family, 1000), Reason::BackupOnly);
        let case = arrives(case.step(Step::Wait(4)), Method::Route, &datagram(family, 1000));
        let case = case.step(Step::Wait(1000)).step(Step::Sweep).step(Step::Wait(HALF_A_ROUND));
        let case = arrives(case, Method::Route, &datagram(family, 1001));
        // While it holds, the sweep takes nothing back.
        let case = case.step(Step::StandBy(1000)).step(Step::Sweep);
        cases.push(case.passes(&datagram(family, 1001), Reason::BackupOnly));
    }
    run_all(&cases)
}
