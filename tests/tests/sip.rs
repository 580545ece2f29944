//! Persistence engine sip: a call keeps its dest, whoever of the clients under the mask sends its messages.

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, NewService};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::service::{SIP, flags};
use lb_tests::case::{
    Case, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, run_all_tiny, service,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::SYN;
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

/// Where no entry can be had for a template there is none, and no note of it.
fn full() -> Result<()> {
    run_all_tiny(&FAMILIES.map(|family| {
        let ways = if family == Family::V4 { 8 } else { 4 };
        let rules = NewService { flags: flags::PERSISTENT | flags::OPS, ..sip(family) };
        let mut all = Case::new(format!("full {family:?}"), rules, &two(family, Method::Route));
        for n in 0..2 * ways {
            all = arrives(all, family, (1, 1000), &format!("call-{n}@h"), if n % 2 == 0 { 11 } else { 12 });
        }
        let one_more = datagram(family, 1, 1000, &message("one-more@h"));
        let all = all.drops(&one_more, Reason::TableFull).step(Step::Entries(0, 2 * ways));
        arrives(all, family, (1, 1000), "call-1@h", 12)
    }))
}
