//! ICMP errors about our own tunnels' outer packets: what the client hears of them, and the path MTU they leave behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lb_common::addr::{Family, Port, Proto};
use lb_common::dest::{Method, TunType};
use lb_common::host::rules::NewDest;
use lb_common::outer::EXPIRES;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Expect, FAMILIES, MTU, Nic, Step, Way, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::{Body, Frame, Packet};

lb_tests::tests!(
    a_path_mtu_is_told_and_remembered,
    it_ends_after_ten_minutes,
    the_least_that_is_believed,
    a_longer_one_changes_nothing,
    the_other_dest_keeps_its_own,
    without_df_nobody_is_told,
    other_errors_are_told_as_they_are,
    what_is_not_about_our_tunnel_passes,
    a_wrong_checksum,
);

/// Tunnel type, flags and the bytes its header takes between the IP headers.
const SHELLS: [(TunType, u8, u32); 5] = [
    (TunType::Ipip, 0, 0),
    (TunType::Gue, 0, 12),
    (TunType::Gue, 1, 12),
    (TunType::Gre, 0, 4),
    (TunType::Gre, 1, 8),
];

type Shell = (TunType, u8, u32);

fn each() -> impl Iterator<Item = (Family, Shell)> {
    FAMILIES.into_iter().flat_map(|family| SHELLS.map(|shell| (family, shell)))
}

fn header(family: Family) -> u32 {
    if family == Family::V4 { 20 } else { 40 }
}

/// Type and code of "too big".
fn too_big(family: Family) -> (u8, u8) {
    if family == Family::V4 { (3, 4) } else { (2, 0) }
}

/// A router nobody has told the balancer of.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 5).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 5).into(),
    }
}

fn tunnel(family: Family, (kind, flags, _): Shell) -> NewDest {
    let mut to = dest(Nic::Back, family, 11, 80, Method::Tunnel);
    to.tunnel = (kind, flags, Port::new(6080));
    to
}

fn case(title: &str, family: Family, shell: Shell) -> Case {
    let title = format!("{title} {family:?} {:?} {}", shell.0, shell.1);
    Case::new(title, service(family, Proto::UDP, 80, Scheduler::Rr), &[tunnel(family, shell)])
}

/// A client's datagram whose IP packet has this length.
fn datagram(family: Family, length: u32, df: bool) -> Packet {
    let data = vec![0x5a; (length - header(family) - 8) as usize];
    Packet::udp((client(family, 7), 1025), (vip(family), 80), &data)
        .with(|p| p.df = df && family == Family::V4)
}

fn onward(packet: &Packet) -> Packet {
    packet.clone().with(|p| p.ttl -= 1)
}

/// What a dest gets for it. `sport`: of GUE.
fn wrapped(packet: &Packet, (kind, flags, _): Shell, sport: Option<u16>) -> Packet {
    let inner = onward(packet);
    let family = if inner.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let (ttl, df) = (inner.ttl, inner.df);
    let body = match kind {
        TunType::Ipip => Body::Ip(Box::new(inner)),
        TunType::Gue => Body::Gue(sport, 6080, flags != 0, Box::new(inner)),
        TunType::Gre => Body::Gre(flags != 0, Box::new(inner)),
    };
    Packet::new(Nic::Back.host(family, 1), Nic::Back.host(family, 11), body)
        .with(|p| (p.ttl, p.df, p.id) = (ttl, df, df.then_some(0)))
}

/// It goes to the dest.
fn arrives(case: Case, packet: &Packet, shell: Shell) -> Case {
    let sent = to_host(Nic::Back, 11, wrapped(packet, shell, None));
    case.forwards(Nic::Front, Way::Redirect, &from_client(packet.clone()), sent)
}

/// A router's error about an outer packet.
fn reported(outer: &Packet, kind: (u8, u8), word: u32, keep: usize) -> Packet {
    let family = if outer.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut quote = outer.bytes();
    quote.truncate(keep);
    Packet::new(router(family), outer.src, Body::Icmp(kind.0, kind.1, word, quote))
}

/// The error a client gets about a packet of its own.
fn told(about: &Packet, kind: (u8, u8), word: u32, quoted: usize) -> Frame {
    let mut quote = about.bytes();
    quote.truncate(quoted);
    let packet = Packet::new(about.dst, about.src, Body::Icmp(kind.0, kind.1, word, quote));
    let tos = if about.src.is_ipv4() { 0xc0 | about.tos & 0x1e } else { 0 };
    to_client(packet.with(|p| (p.id, p.tos) = (None, tos)))
}

/// The most an error of ours quotes.
fn most(family: Family) -> usize {
    if family == Family::V4 { 576 - 28 } else { 1280 - 48 }
}

/// A router's error comes in and the client is told.
fn relays(case: Case, error: Packet, told: Frame) -> Case {
    let expect = Expect::Leaves(Way::Redirect, Reason::IcmpSent, Box::new(told));
    case.step(Step::Send(Nic::Back, from_host(Nic::Back, 22, error).bytes(), expect))
}

fn drops(case: Case, error: Packet, reason: Reason) -> Case {
    case.step(Step::Send(Nic::Back, from_host(Nic::Back, 22, error).bytes(), Expect::Drops(reason)))
}

fn passes(case: Case, error: Packet, reason: Reason) -> Case {
    case.step(Step::Send(Nic::Back, from_host(Nic::Back, 22, error).bytes(), Expect::Passes(reason)))
}

/// A connection whose router says that it carries 1400 bytes; and how long a packet may be then.
fn narrowed(title: &str, family: Family, shell: Shell) -> (Case, u32) {
    let room = 1400 - header(family) - shell.2;
    let long = datagram(family, room + 1, true);
    let case = arrives(case(title, family, shell), &long, shell);
    let error = reported(&wrapped(&long, shell, Some(40_000)), too_big(family), 1400, usize::MAX);
    (relays(case, error, told(&onward(&long), too_big(family), room, most(family))), room)
}

/// A packet too long for the path, which is answered.
fn refused(case: Case, family: Family, room: u32) -> Case {
    let long = datagram(family, room + 1, true);
    case.answers(&from_client(long.clone()), to_us(&long, room))
}

fn to_us(packet: &Packet, room: u32) -> Frame {
    let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
    told(&onward(packet), too_big(family), room, most(family))
}

fn a_path_mtu_is_told_and_remembered() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let (case, room) = narrowed("told", family, shell);
        let case = arrives(refused(case, family, room), &datagram(family, room, true), shell);
        // What the kernel says of the route each second does not undo it.
        let case = refused(case.step(Step::Wait(5)), family, room);
        let case = arrives(case, &datagram(family, room, true), shell);
        // Three of ours, and what the router's quotes: they count as output, and the router's is no input.
        cases.push(case.step(Step::Traffic(0, [5, 4, 1])));
    }
    run_all(&cases)
}

fn it_ends_after_ten_minutes() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let (case, room) = narrowed("ends", family, shell);
        let case = refused(case.step(Step::Wait(EXPIRES - 1)), family, room).step(Step::Wait(2));
        let whole = MTU - header(family) - shell.2;
        let case = arrives(case, &datagram(family, whole, true), shell);
        cases.push(refused(case, family, whole));
    }
    run_all(&cases)
}

fn the_least_that_is_believed() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let least = if family == Family::V4 { 552 } else { 1280 };
        for word in [0, 68, least - 1, least] {
            let room = least - header(family) - shell.2;
            let long = datagram(family, room + 1, true);
            let case = arrives(case("least", family, shell), &long, shell);
            let error = reported(&wrapped(&long, shell, Some(40_000)), too_big(family), word, usize::MAX);
            let case = relays(case, error, told(&onward(&long), too_big(family), room, most(family)));
            cases.push(refused(case, family, room));
        }
    }
    run_all(&cases)
}

/// The client hears of the balancer's own, as from IPVS.
fn a_longer_one_changes_nothing() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let (case, room) = narrowed("longer", family, shell);
        let packet = datagram(family, room, true);
        let error = reported(&wrapped(&packet, shell, Some(40_000)), too_big(family), 1450, usize::MAX);
        let case = relays(case, error, told(&onward(&packet), too_big(family), room, most(family)));
        cases.push(refused(case, family, room));
    }
    run_all(&cases)
}

fn the_other_dest_keeps_its_own() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let (mut case, room) = narrowed("two", family, shell);
        let other = NewDest { addr: Nic::Back.host(family, 12).into(), ..tunnel(family, shell) };
        // First in the list is the one added last.
        case.rules[0].1.insert(0, other);
        let packet = datagram(family, MTU - header(family) - shell.2, true).with(|p| {
            if let Body::Udp(sport, ..) = &mut p.body {
                *sport = 1026;
            }
        });
        let sent = wrapped(&packet, shell, None).with(|p| p.dst = Nic::Back.host(family, 12));
        let sent = to_host(Nic::Back, 12, sent);
        let case = case.forwards(Nic::Front, Way::Redirect, &from_client(packet), sent);
        cases.push(refused(case, family, room));
    }
    run_all(&cases)
}

/// IPv4 without DF: nobody asked, but the path's MTU is known from then on.
fn without_df_nobody_is_told() -> Result<()> {
    let mut cases = Vec::new();
    for shell in SHELLS {
        let (family, room) = (Family::V4, 1400 - 20 - shell.2);
        let long = datagram(family, room + 1, false);
        let case = arrives(case("without df", family, shell), &long, shell);
        let outer = wrapped(&long, shell, Some(40_000)).with(|p| p.id = Some(7));
        let case = drops(case, reported(&outer, (3, 4), 1400, usize::MAX), Reason::TunnelError);
        let case = refused(case.step(Step::Traffic(0, [1, 0, 1])), family, room);
        cases.push(case.drops(&from_client(long), Reason::TooBig));
    }
    run_all(&cases)
}

fn other_errors_are_told_as_they_are() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let kinds: &[(u8, u8)] = match family {
            Family::V4 => &[(3, 0), (3, 1), (3, 13), (4, 0), (11, 0), (11, 1)],
            Family::V6 => &[(1, 0), (1, 3), (1, 6), (3, 0), (3, 1)],
        };
        for df in [true, false] {
            let packet = datagram(family, 200, df);
            let outer = wrapped(&packet, shell, Some(40_000)).with(|p| p.id = p.id.or(Some(9)));
            let mut case = arrives(case("others", family, shell), &packet, shell);
            for kind in kinds {
                // Everything, or an inner header and eight bytes.
                let least = header(family) as usize + 8;
                let front = (header(family) + shell.2) as usize;
                for quoted in [200, least] {
                    let error = reported(&outer, *kind, 0, front + quoted);
                    case = relays(case, error, told(&onward(&packet), *kind, 0, quoted));
                }
            }
            // Each counts twice: what is quoted, and what the client is sent.
            let sent = 4 * kinds.len() as u64;
            case = case.step(Step::Traffic(0, [1, sent, 1])).step(Step::Entries(1, 0));
            // It may end here: it is addressed to the balancer.
            let error = reported(&outer, kinds[0], 0, usize::MAX).with(|p| p.ttl = 1);
            cases.push(relays(case, error, told(&onward(&packet), kinds[0], 0, 200)));
        }
        if family == Family::V6 {
            let packet = datagram(family, 200, false);
            let case = arrives(case("parameter", family, shell), &packet, shell);
            let error = reported(&wrapped(&packet, shell, Some(40_000)), (4, 1), 6, usize::MAX);
            cases.push(drops(case, error, Reason::TunnelError));
        }
    }
    run_all(&cases)
}

fn what_is_not_about_our_tunnel_passes() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let packet = datagram(family, 200, true);
        let outer = wrapped(&packet, shell, Some(40_000));
        let kind = too_big(family);
        let front = (header(family) + shell.2) as usize;
        let mut case = arrives(case("strangers", family, shell), &packet, shell);
        // From another address of ours, to another host, and addressed to somebody else.
        let of = |change: &dyn Fn(&mut Packet)| outer.clone().with(|p| change(p));
        for other in
            [of(&|p| p.src = Nic::Front.host(family, 1)), of(&|p| p.dst = Nic::Back.host(family, 12))]
        {
            case = passes(case, reported(&other, kind, 1400, usize::MAX), Reason::OtherProtocol);
        }
        let astray = reported(&outer, kind, 1400, usize::MAX).with(|p| p.dst = client(family, 9));
        case = passes(case, astray, Reason::OtherProtocol);
        // Another tunnel than the dest's.
        for other in SHELLS.into_iter().filter(|other| (other.0, other.2) != (shell.0, shell.2)) {
            let error = reported(&wrapped(&packet, other, Some(40_000)), kind, 1400, usize::MAX);
            case = passes(case, error, Reason::OtherProtocol);
        }
        // A connection nobody knows.
        let unknown = packet.clone().with(|p| p.src = client(family, 8));
        let error = reported(&wrapped(&unknown, shell, Some(40_000)), kind, 1400, usize::MAX);
        case = passes(case, error, Reason::OtherProtocol);
        // Not enough of the inner packet.
        for missing in [1, 8, 20] {
            let keep = front + header(family) as usize + 4 - missing;
            case = passes(case, reported(&outer, kind, 1400, keep), Reason::OtherProtocol);
        }
        // Nothing was learnt from any of them.
        case = arrives(case, &datagram(family, MTU - header(family) - shell.2, true), shell);
        // A deleted dest's tunnel is none of ours.
        case = case.step(Step::Delete(0));
        cases.push(passes(case, reported(&outer, kind, 1400, usize::MAX), Reason::OtherProtocol));
    }
    run_all(&cases)
}

fn a_wrong_checksum() -> Result<()> {
    let mut cases = Vec::new();
    for (family, shell) in each() {
        let packet = datagram(family, 200, true);
        let case = arrives(case("checksum", family, shell), &packet, shell);
        let error = reported(&wrapped(&packet, shell, Some(40_000)), too_big(family), 1400, usize::MAX);
        let mut frame = from_host(Nic::Back, 22, error).bytes();
        frame[14 + header(family) as usize + 3] ^= 1;
        let case = case.step(Step::Send(Nic::Back, frame, Expect::Drops(Reason::BadChecksum)));
        cases.push(arrives(case, &datagram(family, MTU - header(family) - shell.2, true), shell));
    }
    run_all(&cases)
}
