//! Persistence: templates, the connections that depend on them, and time.

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, NewService};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::state::udp;
use lb_tests::case::{
    Case, FAMILIES, Live, Nic, Step, Way, client, dest, from_client, from_host, run_all, service, to_client,
    to_host, vip,
};
use lb_tests::packets::tcp::{ACK, RST, SYN};
use lb_tests::packets::{Frame, Packet};

lb_tests::tests!(
    a_client_keeps_its_dest,
    a_mask_groups_clients,
    port_zero_takes_all_ports,
    weight_zero_and_templates,
    a_deleted_dest_gets_no_more,
    a_template_runs_out,
    a_template_waits_for_its_connections,
    restarts_with_each_new_connection,
    the_first_answer_assures,
);

fn two(family: Family) -> [NewDest; 2] {
    // The scheduler asks the one added last first.
    [12, 11].map(|host| dest(Nic::Back, family, host, 80, Method::Route))
}

fn persistent(family: Family, port: u16, timeout: u32) -> NewService {
    service(family, Proto::TCP, port, Scheduler::Rr).persistent(timeout)
}

/// Dest numbers: 0 is host 12, 1 is host 11.
fn case(title: &str, family: Family, timeout: u32) -> Case {
    Case::new(format!("{title} {family:?}"), persistent(family, 80, timeout), &two(family))
}

fn frame(family: Family, number: u8, sport: u16, dport: u16, flags: u8) -> Frame {
    from_client(Packet::tcp((client(family, number), sport), (vip(family), dport), flags, b""))
}

/// A segment of a client arrives at a host.
fn arrives(case: Case, frame: Frame, host: u8) -> Case {
    let sent = to_host(Nic::Back, host, frame.packet.clone().with(|p| p.ttl -= 1));
    case.forwards(Nic::Front, Way::Redirect, &frame, sent)
}

fn syn(case: Case, family: Family, number: u8, sport: u16, host: u8) -> Case {
    arrives(case, frame(family, number, sport, 80, SYN), host)
}

fn a_client_keeps_its_dest() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let mut all = case("keeps", family, 300);
        for (number, sport, host) in
            [(1, 1000, 11), (1, 1001, 11), (2, 1000, 12), (1, 1002, 11), (2, 1001, 12)]
        {
            all = syn(all, family, number, sport, host);
        }
        all.step(Step::Entries(5, 2))
            .step(Step::Templates(1, 1))
            .step(Step::Counts(1, 3, 0))
            .step(Step::Counts(0, 2, 0))
    }))
}

fn a_mask_groups_clients() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let netmask = if family == Family::V4 { u32::from_ne_bytes([255, 255, 255, 0]) } else { 64 };
        let rules = NewService { netmask, ..persistent(family, 80, 300) };
        let mut all = Case::new(format!("mask {family:?}"), rules, &two(family));
        for number in [1, 2, 3, 200] {
            all = syn(all, family, number, 1000, 11);
        }
        all.step(Step::Entries(4, 1))
    }))
}

fn port_zero_takes_all_ports() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let mut all = Case::new(
            format!("port 0 {family:?}"),
            persistent(family, 0, 300),
            &[dest(Nic::Back, family, 12, 0, Method::Route), dest(Nic::Back, family, 11, 0, Method::Route)],
        );
        for (number, dport, host) in [(1, 80, 11), (1, 443, 11), (1, 8080, 11), (2, 443, 12), (2, 80, 12)] {
            all = arrives(all, frame(family, number, 1000, dport, SYN), host);
        }
        all.step(Step::Entries(5, 2))
    }))
}

fn weight_zero_and_templates() -> Result<()> {
    let quiescent: fn(&lb_common::settings::Settings) =
        |settings| settings.expire_quiescent_template.store(1);
    run_all(&FAMILIES.map(|family| {
        let all = syn(case("weight 0", family, 300), family, 1, 1000, 11).step(Step::Weight(1, 0));
        let all = syn(all, family, 1, 1001, 11);
        let all = syn(all.step(Step::Set(quiescent)), family, 1, 1002, 12);
        syn(all, family, 1, 1003, 12).step(Step::Templates(0, 1))
    }))
}

fn a_deleted_dest_gets_no_more() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = syn(case("deleted", family, 300), family, 1, 1000, 11).step(Step::Delete(1));
        let all = all.drops(&frame(family, 1, 1000, 80, ACK), Reason::DestGone);
        syn(syn(all, family, 1, 1001, 12), family, 1, 1002, 12)
    }))
}

/// Ends a connection: ten seconds are left to it.
fn reset(all: Case, family: Family, sport: u16, host: u8) -> Case {
    let all = arrives(all, frame(family, 1, sport, 80, ACK), host);
    arrives(all, frame(family, 1, sport, 80, RST), host)
}

fn a_template_runs_out() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = syn(case("runs out", family, 100), family, 1, 1000, 11);
        let all =
            reset(all, family, 1000, 11).step(Step::Wait(10)).step(Step::Sweep).step(Step::Entries(0, 1));
        let all = all.step(Step::Wait(87)).step(Step::Sweep).step(Step::Entries(0, 1));
        let all =
            all.step(Step::Wait(3)).step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Templates(1, 0));
        // Round robin goes on: the client may well get another dest.
        syn(all, family, 1, 1001, 12)
    }))
}

/// ipvs.md 4.6: a template whose time is up while connections depend on it gets 60 seconds, and from then on always.
fn a_template_waits_for_its_connections() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = syn(case("waits", family, 20), family, 1, 1000, 11);
        let all = arrives(all, frame(family, 1, 1000, 80, ACK), 11);
        // Still the same dest, though 20 seconds are over, swept or not.
        let all = syn(all.step(Step::Wait(25)), family, 1, 1001, 11).step(Step::Entries(2, 1));
        let all = all.step(Step::Wait(50)).step(Step::Sweep).step(Step::Entries(2, 1));
        let all = arrives(all, frame(family, 1, 1001, 80, ACK), 11);
        let all = all.step(Step::Wait(20)).step(Step::Sweep).step(Step::Entries(2, 1));
        let all = syn(all.step(Step::Wait(40)), family, 1, 1002, 11);
        let all = reset(all, family, 1002, 11);
        // Its two connections go; it waits out the running 60 seconds.
        let all = reset(reset(all, family, 1000, 11), family, 1001, 11);
        let all = all.step(Step::Wait(10)).step(Step::Sweep).step(Step::Entries(0, 1));
        let all = all.step(Step::Wait(47)).step(Step::Sweep).step(Step::Entries(0, 1));
        all.step(Step::Wait(3)).step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Templates(1, 0))
    }))
}

fn restarts_with_each_new_connection() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let all = syn(case("restarts", family, 100), family, 1, 1000, 11).step(Step::Wait(50));
        // Packets of the connection do not restart its template, a new connection does.
        let all = arrives(all, frame(family, 1, 1000, 80, ACK), 11).step(Step::Wait(47));
        let all = syn(all, family, 1, 1001, 11).step(Step::Wait(97));
        syn(all.step(Step::Sweep), family, 1, 1002, 11).step(Step::Templates(1, 1))
    }))
}

/// A template is ASSURED by the first answer to a datagram, however many of the client's there were before.
fn the_first_answer_assures() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let (here, there) = ((client(family, 1), 1000), (Nic::Back.host(family, 11), 8080));
        let rules = service(family, Proto::UDP, 80, Scheduler::Rr).persistent(300);
        let dests = [dest(Nic::Back, family, 11, 8080, Method::Nat)];
        let mut all = Case::new(format!("assures {family:?}"), rules, &dests);
        let table = |state| {
            let template = Live {
                client: (here.0, 0),
                virtual_end: (vip(family), 80),
                proto: Proto::UDP.0,
                dest: 0,
                state,
                active: false,
                template: true,
            };
            let connection =
                Live { client: here, state: udp::CONFIRMED, template: false, ..template.clone() };
            Step::Table(vec![connection, template])
        };
        let asked = Packet::udp(here, (vip(family), 80), b"q");
        for _ in 0..2 {
            let sent = Packet::udp(here, there, b"q").with(|p| p.ttl -= 1);
            let sent = to_host(Nic::Back, 11, sent);
            all = all.forwards(Nic::Front, Way::Redirect, &from_client(asked.clone()), sent);
        }
        let answer = from_host(Nic::Back, 11, Packet::udp(there, here, b"a"));
        let answered = Packet::udp((vip(family), 80), here, b"a").with(|p| p.ttl -= 1);
        all.step(table(0)).replies(Nic::Back, Way::Redirect, &answer, to_client(answered)).step(table(1))
    }))
}
