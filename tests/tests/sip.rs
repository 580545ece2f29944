//! Persistence engine sip: a call keeps its dest, whoever of the clients under the mask sends its messages.

use anyhow::Result;
use lb_common::addr::{Family, Port, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, NewService};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::service::{SIP, ServiceKey, flags};
use lb_tests::case::{
    Case, Expect, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, run_all_tiny,
    service, to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, SYN};
use lb_tests::packets::{Frame, Packet};

lb_tests::tests!(
    a_call_keeps_its_dest,
    clients_have_calls_of_their_own,
    a_mask_groups_clients,
    long_call_ids_differ_in_their_last_byte,
    without_a_call_id_it_is_dropped,
    without_persistence_it_has_no_effect,
    one_packet_scheduling,
    a_template_runs_out,
    nat_replies,
    full,
    a_server_begins,
    a_server_begins_without_persistence,
    a_server_begins_under_one_packet_scheduling,
    another_server_takes_a_call_over,
    the_later_server_has_the_clients_packets,
    servers_begin_nothing_without_a_call,
    only_servers_begin,
    the_service_joined_last_counts,
);

fn two(family: Family, method: Method) -> [NewDest; 2] {
    // The scheduler asks the one added last first.
    [12, 11].map(|host| dest(Nic::Back, family, host, 5060, method))
}

fn sip(family: Family) -> NewService {
    let service = service(family, Proto::UDP, 5060, Scheduler::Rr).persistent(100);
    NewService { engine: SIP, ..service }
}

fn case(title: &str, family: Family) -> Case {
    Case::new(format!("{title} {family:?}"), sip(family), &two(family, Method::Route))
}

fn message(id: &str) -> String {
    format!(
        "OPTIONS sip:x@example SIP/2.0\r\nVia: SIP/2.0/UDP pc\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\n\r\n"
    )
}

fn datagram(family: Family, number: u8, sport: u16, text: &str) -> Frame {
    from_client(Packet::udp((client(family, number), sport), (vip(family), 5060), text.as_bytes()))
}

/// A message of a client arrives at a host.
fn arrives(case: Case, family: Family, (number, sport): (u8, u16), id: &str, host: u8) -> Case {
    let frame = datagram(family, number, sport, &message(id));
    let sent = to_host(Nic::Back, host, frame.packet.clone().with(|p| p.ttl -= 1));
    case.forwards(Nic::Front, Way::Redirect, &frame, sent)
}

fn a_call_keeps_its_dest() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let mut all = case("keeps", family);
        for (sport, id, host) in
            [(1000, "a@h", 11), (1001, "a@h", 11), (1002, "b@h", 12), (1003, "a@h", 11), (1004, "b@h", 12)]
        {
            all = arrives(all, family, (1, sport), id, host);
        }
        // A known flow goes on whatever it says.
        let all = arrives(all, family, (1, 1002), "a@h", 12);
        all.step(Step::Entries(5, 2)).step(Step::Templates(1, 1)).step(Step::Templates(0, 1))
    }))
}

fn clients_have_calls_of_their_own() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = arrives(case("clients", family), family, (1, 1000), "a@h", 11);
        let all = arrives(all, family, (2, 1000), "a@h", 12);
        arrives(all, family, (1, 1001), "a@h", 11).step(Step::Entries(3, 2))
    }))
}

fn a_mask_groups_clients() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let netmask = if family == Family::V4 { 0 } else { 1 };
        let rules = NewService { netmask, ..sip(family) };
        let mut all = Case::new(format!("mask {family:?}"), rules, &two(family, Method::Route));
        for (number, id, host) in [(1, "a@h", 11), (2, "a@h", 11), (3, "b@h", 12), (4, "a@h", 11)] {
            all = arrives(all, family, (number, 1000), id, host);
        }
        all.step(Step::Entries(4, 2))
    }))
}

fn long_call_ids_differ_in_their_last_byte() -> Result<()> {
    let long = |last: char| format!("{}{last}", "x".repeat(254));
    run_all(&FAMILIES.map(|family| {
        let all = arrives(case("long", family), family, (1, 1000), &long('a'), 11);
        let all = arrives(all, family, (1, 1001), &long('b'), 12);
        let all = arrives(all, family, (1, 1002), &long('a'), 11);
        let longer = datagram(family, 1, 1003, &message(&"x".repeat(256)));
        all.drops(&longer, Reason::NoCallId).step(Step::Entries(3, 2))
    }))
}

fn without_a_call_id_it_is_dropped() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let tcp =
            NewService { engine: SIP, ..service(family, Proto::TCP, 5060, Scheduler::Rr).persistent(100) };
        let all = case("none", family).and(tcp, &two(family, Method::Route));
        let all = all.drops(&datagram(family, 1, 1000, "OPTIONS x\r\nFrom: y\r\n\r\n"), Reason::NoCallId);
        let all = all.drops(&datagram(family, 1, 1001, ""), Reason::NoCallId);
        let syn = from_client(Packet::tcp((client(family, 1), 1000), (vip(family), 5060), SYN, b""));
        all.drops(&syn, Reason::NoCallId).step(Step::Entries(0, 0))
    }))
}

fn without_persistence_it_has_no_effect() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let rules = NewService { engine: SIP, ..service(family, Proto::UDP, 5060, Scheduler::Rr) };
        let all = Case::new(format!("no effect {family:?}"), rules, &two(family, Method::Route));
        let all = arrives(all, family, (1, 1000), "a@h", 11);
        arrives(all, family, (1, 1001), "a@h", 12).step(Step::Entries(2, 0))
    }))
}

fn one_packet_scheduling() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let rules = NewService { flags: flags::PERSISTENT | flags::OPS, ..sip(family) };
        let all = Case::new(format!("ops {family:?}"), rules, &two(family, Method::Route));
        let all = arrives(all, family, (1, 1000), "a@h", 11);
        // From the same port, for there is no connection.
        let all = arrives(all, family, (1, 1000), "b@h", 12);
        arrives(all, family, (1, 1000), "a@h", 11).step(Step::Entries(0, 2))
    }))
}

fn a_template_runs_out() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let rules = NewService { flags: flags::PERSISTENT | flags::OPS, ..sip(family) };
        let all = Case::new(format!("runs out {family:?}"), rules, &two(family, Method::Route));
        let all = arrives(all, family, (1, 1000), "a@h", 11).step(Step::Wait(97));
        let all = arrives(all, family, (1, 1000), "a@h", 11).step(Step::Wait(97));
        let all = arrives(all, family, (1, 1000), "a@h", 11).step(Step::Wait(100)).step(Step::Sweep);
        let all = all.step(Step::Entries(0, 0)).step(Step::Templates(1, 0));
        arrives(all, family, (1, 1000), "a@h", 12).step(Step::Entries(0, 1))
    }))
}

fn nat_replies() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = Case::new(format!("nat {family:?}"), sip(family), &two(family, Method::Nat));
        let (client, vip, server) = (client(family, 1), vip(family), Nic::Back.host(family, 11));
        let text = message("a@h");
        let frame = datagram(family, 1, 1000, &text);
        let sent = Packet::udp((client, 1000), (server, 5060), text.as_bytes()).with(|p| p.ttl -= 1);
        let all = all.forwards(Nic::Front, Way::Redirect, &frame, to_host(Nic::Back, 11, sent));
        let answer =
            from_host(Nic::Back, 11, Packet::udp((server, 5060), (client, 1000), b"SIP/2.0 200 OK\r\n"));
        let back = Packet::udp((vip, 5060), (client, 1000), b"SIP/2.0 200 OK\r\n").with(|p| p.ttl -= 1);
        all.replies(Nic::Back, Way::Redirect, &answer, to_client(back))
    }))
}

/// A service whose two servers answer from other ports than its own.
fn nat(title: &str, family: Family, service: NewService) -> Case {
    let dests = [12, 11].map(|host| dest(Nic::Back, family, host, server_port(host), Method::Nat));
    Case::new(format!("{title} {family:?}"), service, &dests)
}

fn on_port(port: u16, service: NewService) -> NewService {
    NewService { key: ServiceKey { port: Port::new(port), ..service.key }, ..service }
}

fn server_port(host: u8) -> u16 {
    5000 + u16::from(host)
}

/// What server `host` sends to a client.
fn said(family: Family, host: u8, to: (u8, u16), text: &str) -> Frame {
    let from = (Nic::Back.host(family, host), server_port(host));
    from_host(Nic::Back, host, Packet::udp(from, (client(family, to.0), to.1), text.as_bytes()))
}

/// It leaves in the service's name.
fn begins(case: Case, family: Family, host: u8, to: (u8, u16), text: &str) -> Case {
    let back = Packet::udp((vip(family), 5060), (client(family, to.0), to.1), text.as_bytes());
    case.replies(
        Nic::Back,
        Way::Redirect,
        &said(family, host, to, text),
        to_client(back.with(|p| p.ttl -= 1)),
    )
}

/// It is the stack's, as it is.
fn is_no_call(case: Case, frame: &Frame) -> Case {
    case.step(Step::Send(Nic::Back, frame.bytes(), Expect::Passes(Reason::ReplyUnknown)))
}

/// What a client sends to the service arrives at server `host`.
fn reaches(case: Case, family: Family, from: (u8, u16), text: &str, host: u8) -> Case {
    let frame = datagram(family, from.0, from.1, text);
    let to = (Nic::Back.host(family, host), server_port(host));
    let sent = Packet::udp((client(family, from.0), from.1), to, text.as_bytes()).with(|p| p.ttl -= 1);
    case.forwards(Nic::Front, Way::Redirect, &frame, to_host(Nic::Back, host, sent))
}

/// In the service's name; the answer comes back, whatever it says; the call stays, and counts.
fn a_server_begins() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = nat("begins", family, sip(family));
        let all = begins(all, family, 12, (1, 5060), &message("a@h"));
        let all = all.step(Step::Entries(1, 1)).step(Step::Templates(0, 1)).step(Step::Counts(0, 0, 1));
        let all = reaches(all, family, (1, 5060), "SIP/2.0 200 OK", 12);
        let all = begins(all, family, 12, (1, 5060), "ACK");
        let all = reaches(all, family, (1, 1000), &message("a@h"), 12);
        // Another call of the server's to the same client has its connection already.
        let all = begins(all, family, 12, (1, 5060), &message("b@h"));
        let all = begins(all, family, 12, (2, 5060), &message("b@h"));
        let all = reaches(all, family, (2, 1000), &message("b@h"), 12);
        all.step(Step::Entries(4, 2)).step(Step::Traffic(0, [3, 4, 4])).step(Step::Traffic(1, [0, 0, 0]))
    }))
}

fn a_server_begins_without_persistence() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let service = NewService { engine: SIP, ..service(family, Proto::UDP, 5060, Scheduler::Rr) };
        let all = begins(nat("no persistence", family, service), family, 12, (1, 5060), "hello");
        let all = reaches(all, family, (1, 5060), "hello", 12);
        all.step(Step::Entries(1, 0)).step(Step::Traffic(0, [1, 1, 1]))
    }))
}

/// Each datagram is a connection, answers too, and none stays.
fn a_server_begins_under_one_packet_scheduling() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let service = NewService { flags: flags::PERSISTENT | flags::OPS, ..sip(family) };
        let all = begins(nat("ops", family, service), family, 12, (1, 5060), &message("a@h"));
        let all = reaches(all, family, (1, 5060), &message("a@h"), 12);
        let all = begins(all, family, 12, (1, 5060), &message("a@h"));
        all.step(Step::Entries(0, 1)).step(Step::Traffic(0, [1, 2, 3])).step(Step::Counts(0, 0, 0))
    }))
}

fn another_server_takes_a_call_over() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = reaches(nat("over", family, sip(family)), family, (1, 1000), &message("a@h"), 11);
        let all = begins(all, family, 12, (1, 5060), &message("a@h"));
        let all = reaches(all, family, (1, 1001), &message("a@h"), 12);
        let all = all.step(Step::Templates(0, 1)).step(Step::Templates(1, 1));
        reaches(all, family, (1, 1000), "of the first one", 11).step(Step::Entries(3, 2))
    }))
}

fn the_later_server_has_the_clients_packets() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = reaches(nat("later", family, sip(family)), family, (1, 5060), &message("a@h"), 11);
        let all = begins(all, family, 12, (1, 5060), &message("b@h"));
        let all = reaches(all, family, (1, 5060), "SIP/2.0 200 OK", 12);
        // The earlier one's still leave in the service's name, and change nothing of that.
        let all = begins(all, family, 11, (1, 5060), "SIP/2.0 200 OK");
        let all = reaches(all, family, (1, 5060), "ACK", 12);
        all.step(Step::Counts(1, 0, 1)).step(Step::Counts(0, 0, 1)).step(Step::Entries(2, 2))
    }))
}

fn servers_begin_nothing_without_a_call() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = nat("no call", family, sip(family));
        let all = is_no_call(all, &said(family, 12, (1, 5060), "no message"));
        let all = is_no_call(all, &said(family, 12, (1, 5060), ""));
        // It ends here: the stack says so.
        let Frame { packet, .. } = said(family, 12, (1, 5060), &message("a@h"));
        let all = is_no_call(all, &from_host(Nic::Back, 12, packet.with(|p| p.ttl = 1)));
        all.step(Step::Entries(0, 0)).step(Step::Traffic(0, [0, 0, 0]))
    }))
}

/// Not from another port, not by TCP, not to the balancer itself, not of a service without an engine, not by another method
/// than NAT.
fn only_servers_begin() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let plain = on_port(5070, NewService { engine: 0, ..sip(family) });
        // Every address looks like one that is known.
        let mut all = nat("others", family, sip(family))
            .and(plain, &[dest(Nic::Back, family, 13, 5013, Method::Nat)])
            .and(on_port(5080, sip(family)), &[dest(Nic::Back, family, 21, 5021, Method::Route)])
            .step(Step::Marks(Vec::new()));
        let to = (client(family, 1), 5060);
        let text = message("a@h");
        let at = |host, port| (Nic::Back.host(family, host), port);
        for packet in [
            Packet::udp(at(12, 5013), to, text.as_bytes()),
            Packet::tcp(at(12, 5012), to, ACK, text.as_bytes()),
            Packet::udp(at(13, 5013), to, text.as_bytes()),
            Packet::udp(at(21, 5021), to, text.as_bytes()),
            Packet::udp(at(12, 5012), (Nic::Back.host(family, 1), 5060), text.as_bytes()),
        ] {
            let expect = Expect::Passes(Reason::NoService);
            all = all.step(Step::Send(Nic::Back, from_host(Nic::Back, 12, packet).bytes(), expect));
        }
        begins(all, family, 12, (1, 5060), &text).step(Step::Entries(1, 1))
    }))
}

/// Of two services that have the same server.
fn the_service_joined_last_counts() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let other = on_port(5070, sip(family));
        let shared = dest(Nic::Back, family, 12, server_port(12), Method::Nat);
        let all = Case::new(format!("two {family:?}"), other, &[shared]).and(sip(family), &[shared]);
        let all = begins(all, family, 12, (1, 5060), &message("a@h"));
        // Back in the first one.
        let all = all.step(Step::Delete(0)).step(Step::Add(0, shared, 0));
        let back = Packet::udp((vip(family), 5070), (client(family, 2), 5060), message("b@h").as_bytes());
        all.replies(
            Nic::Back,
            Way::Redirect,
            &said(family, 12, (2, 5060), &message("b@h")),
            to_client(back.with(|p| p.ttl -= 1)),
        )
    }))
}

/// Where no entry can be had for a template there is none, and no note of it.
fn full() -> Result<()> {
    run_all_tiny(
        1,
        &FAMILIES.map(|family| {
            let ways = if family == Family::V4 { 8 } else { 4 };
            let rules = NewService { flags: flags::PERSISTENT | flags::OPS, ..sip(family) };
            let mut all = Case::new(format!("full {family:?}"), rules, &two(family, Method::Route));
            for n in 0..2 * ways {
                all =
                    arrives(all, family, (1, 1000), &format!("call-{n}@h"), if n % 2 == 0 { 11 } else { 12 });
            }
            let one_more = datagram(family, 1, 1000, &message("one-more@h"));
            let all = all.drops(&one_more, Reason::TableFull).step(Step::Entries(0, 2 * ways));
            arrives(all, family, (1, 1000), "call-1@h", 12)
        }),
    )
}
