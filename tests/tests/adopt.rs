//! Connections another director tells of: what becomes of them, and that their packets then go where they went before.

use anyhow::Result;
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::{NewDest, NewService};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::service::SIP;
use lb_common::sip::Call;
use lb_common::sync::{NO_DEST, Outcome, Synced, flags};
use lb_tests::case::{
    Case, FAMILIES, Live, Nic, Step, Way, client, dest, from_client, run_all, run_all_tiny, service, to_host,
    vip,
};
use lb_tests::packets::Packet;
use lb_tests::packets::tcp::{ACK, FIN, SYN};

lb_tests::tests!(
    a_connection_goes_on,
    counts_follow_the_message,
    timeouts_are_the_messages,
    a_replaced_connection,
    a_server_that_is_not_there,
    a_slot_that_is_another_dest_now,
    one_without_a_server,
    a_template_decides,
    a_template_keeps_its_dest,
    a_call_decides,
    udp_is_confirmed,
    full,
);

/// Dest 0 is host 12, dest 1 is host 11; the scheduler would ask host 11 first.
fn two(family: Family, method: Method) -> [NewDest; 2] {
    [12, 11].map(|host| dest(Nic::Back, family, host, 80, method))
}

fn case(title: &str, family: Family, proto: Proto) -> Case {
    let service = service(family, proto, 80, Scheduler::Rr);
    Case::new(format!("{title} {family:?}"), service, &two(family, Method::Route))
}

/// An established connection of client 1, port 1000, to dest 0.
fn told(family: Family, proto: Proto) -> Synced {
    Synced {
        client: Addr::from(client(family, 1)),
        vaddr: Addr::from(vip(family)),
        daddr: Addr::from(Nic::Back.host(family, 12)),
        cport: Port::new(1000),
        vport: Port::new(80),
        dport: Port::new(80),
        proto,
        family: family as u8,
        dest: 0,
        service: 0,
        state: 1,
        timeout: 900,
        ..Synced::default()
    }
}

fn template(family: Family) -> Synced {
    let template = told(family, Proto::TCP);
    Synced { cport: Port::ZERO, flags: flags::TEMPLATE | flags::INACTIVE, timeout: 300, ..template }
}

fn adopts(case: Case, synced: Synced, outcome: Outcome) -> Case {
    case.step(Step::Adopt(Box::new((synced, Call::default())), outcome))
}

fn segment(family: Family, flags: u8) -> Packet {
    Packet::tcp((client(family, 1), 1000), (vip(family), 80), flags, b"")
}

/// A packet of a client arrives at a host.
fn arrives(case: Case, packet: Packet, host: u8) -> Case {
    let sent = to_host(Nic::Back, host, packet.clone().with(|p| p.ttl -= 1));
    case.forwards(Nic::Front, Way::Redirect, &from_client(packet), sent)
}

fn a_connection_goes_on() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        // A packet that begins nothing: without the entry it would pass.
        let case = case("goes on", family, Proto::TCP);
        let case = case.passes(&from_client(segment(family, ACK)), Reason::NoConnection);
        let case = adopts(case, told(family, Proto::TCP), Outcome::Made).step(Step::Counts(0, 1, 0));
        let case = arrives(case, segment(family, ACK), 12).step(Step::State(1));
        // Not a connection scheduled here.
        let case = case.step(Step::Traffic(0, [1, 0, 0]));
        arrives(case, segment(family, FIN | ACK), 12).step(Step::Counts(0, 0, 1)).step(Step::Entries(1, 0))
    }))
}

fn counts_follow_the_message() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let active = told(family, Proto::TCP);
        let inactive = Synced { flags: flags::INACTIVE, state: 4, timeout: 120, ..active };
        let case = adopts(case("counts", family, Proto::TCP), inactive, Outcome::Made);
        let case = case.step(Step::Counts(0, 0, 1)).step(Step::State(4));
        let case = adopts(case, active, Outcome::Refreshed).step(Step::Counts(0, 1, 0)).step(Step::State(1));
        let case = adopts(case, active, Outcome::Refreshed).step(Step::Counts(0, 1, 0));
        let case = adopts(case, inactive, Outcome::Refreshed).step(Step::Counts(0, 0, 1));
        case.step(Step::Entries(1, 0)).step(Step::Counts(1, 0, 0))
    }))
}

fn timeouts_are_the_messages() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let synced = Synced { timeout: 20, ..told(family, Proto::TCP) };
        let case = adopts(case("timeouts", family, Proto::TCP), synced, Outcome::Made);
        let case = case.step(Step::Wait(15)).step(Step::Sweep).step(Step::Entries(1, 0));
        // Told again, the twenty seconds begin again.
        let case = adopts(case, synced, Outcome::Refreshed).step(Step::Wait(15)).step(Step::Sweep);
        let case = case.step(Step::Entries(1, 0)).step(Step::Wait(6)).step(Step::Sweep);
        let case = case.step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0));
        // Longer than the state lasts here; without a time, as long as that.
        let case = adopts(case, Synced { timeout: 2000, ..synced }, Outcome::Made);
        let case = case.step(Step::Wait(1900)).step(Step::Sweep).step(Step::Entries(1, 0));
        let case = adopts(case, Synced { timeout: 0, ..synced }, Outcome::Refreshed).step(Step::Wait(890));
        let case = case.step(Step::Sweep).step(Step::Entries(1, 0)).step(Step::Wait(11)).step(Step::Sweep);
        // The longest there is does not wrap around.
        let case = adopts(case, Synced { timeout: u32::MAX, ..synced }, Outcome::Made);
        case.step(Step::Wait(100_000)).step(Step::Sweep).step(Step::Entries(1, 0))
    }))
}

fn a_replaced_connection() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let first = told(family, Proto::TCP);
        let daddr = Addr::from(Nic::Back.host(family, 11));
        let second = Synced { daddr, dest: 1, ..first };
        let case = adopts(case("replaced", family, Proto::TCP), first, Outcome::Made);
        let case =
            adopts(case, second, Outcome::Made).step(Step::Counts(0, 0, 0)).step(Step::Counts(1, 1, 0));
        // The end of the first one comes late.
        let case = adopts(case, Synced { flags: flags::INACTIVE, state: 6, ..first }, Outcome::Stale);
        arrives(case.step(Step::Counts(1, 1, 0)), segment(family, ACK), 11)
    }))
}

fn a_server_that_is_not_there() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let synced = told(family, Proto::TCP);
        let strange = Synced { dest: NO_DEST, daddr: Addr::from(Nic::Back.host(family, 99)), ..synced };
        let case = adopts(case("no server", family, Proto::TCP), strange, Outcome::NoDest);
        let case = case.step(Step::Entries(0, 0));
        // It takes the place of the one there was, which would lead elsewhere.
        let case = adopts(case, synced, Outcome::Made);
        adopts(case, strange, Outcome::NoDest).step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0))
    }))
}

fn a_slot_that_is_another_dest_now() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let synced = told(family, Proto::TCP);
        let case = case("slot", family, Proto::TCP);
        let case = adopts(case, Synced { dest: 1, ..synced }, Outcome::NoDest);
        let case = adopts(case, Synced { service: 7, ..synced }, Outcome::NoDest);
        let case = adopts(case, Synced { dest: 200, ..synced }, Outcome::NoDest).step(Step::Delete(0));
        adopts(case, synced, Outcome::NoDest).step(Step::Entries(0, 0))
    }))
}

/// One that bypasses the dests (cache_bypass) waits for a service of its family, as others do for theirs: until then nobody
/// asks for it, and there may be no table.
fn one_without_a_server() -> Result<()> {
    let cases = FAMILIES.map(|family| {
        let synced = told(family, Proto::TCP);
        let bypasses = Synced { dest: NO_DEST, flags: Method::Bypass as u32, ..synced };
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        [(family, Outcome::Made, 1), (other, Outcome::NoDest, 0)].map(|(services, outcome, entries)| {
            let case = case("bypass", services, Proto::TCP);
            adopts(case, bypasses, outcome).step(Step::Entries(entries, 0)).step(Step::Counts(0, 0, 0))
        })
    });
    run_all(cases.as_flattened())
}

fn persistent(title: &str, family: Family) -> Case {
    let service = service(family, Proto::TCP, 80, Scheduler::Rr).persistent(60);
    Case::new(format!("{title} {family:?}"), service, &two(family, Method::Route))
}

fn a_template_decides() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let case = adopts(persistent("template", family), template(family), Outcome::Made);
        let case = case.step(Step::Templates(0, 1)).step(Step::Counts(0, 0, 0)).step(Step::Entries(0, 1));
        // The scheduler would send it to host 11.
        let case = arrives(case, segment(family, SYN), 12).step(Step::Entries(1, 1));
        // Its time is the message's, which the new connection has started again.
        let case = case.step(Step::Wait(290)).step(Step::Sweep).step(Step::Entries(0, 1));
        case.step(Step::Wait(11)).step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Templates(0, 0))
    }))
}

fn a_template_keeps_its_dest() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let first = template(family);
        let daddr = Addr::from(Nic::Back.host(family, 11));
        let live = |state| Live {
            client: (client(family, 1), 0),
            virtual_end: (vip(family), 80),
            proto: Proto::TCP.0,
            dest: 0,
            state,
            active: false,
            template: true,
        };
        let case = adopts(persistent("kept", family), Synced { state: 0, ..first }, Outcome::Made);
        let case = case.step(Step::Table(vec![live(0)]));
        let again = Synced { daddr, dest: 1, timeout: 0, ..first };
        let case = adopts(case, again, Outcome::Refreshed).step(Step::Table(vec![live(1)]));
        // Not told how long: three minutes.
        let case = case.step(Step::Wait(170)).step(Step::Sweep).step(Step::Entries(0, 1));
        case.step(Step::Wait(11)).step(Step::Sweep).step(Step::Entries(0, 0))
    }))
}

fn a_call_decides() -> Result<()> {
    let cases = FAMILIES.map(|family| {
        let service = service(family, Proto::UDP, 5060, Scheduler::Rr).persistent(100);
        let dests = [12, 11].map(|host| dest(Nic::Back, family, host, 5060, Method::Route));
        let case = Case::new(format!("call {family:?}"), NewService { engine: SIP, ..service }, &dests);
        let port = Port::new(5060);
        let synced = Synced { proto: Proto::UDP, vport: port, dport: port, engine: 1, ..template(family) };
        let id = b"a84b4c76e66710@pc33.example.com";
        let call = |id: &[u8]| Call::new(synced.client, id).unwrap_or_default();
        let adopt =
            |case: Case, id: &[u8], outcome| case.step(Step::Adopt(Box::new((synced, call(id))), outcome));
        let case = adopt(case, id, Outcome::Made);
        let case = adopt(case, id, Outcome::Refreshed).step(Step::Entries(0, 1));
        let case =
            adopt(case, b"another", Outcome::Made).step(Step::Entries(0, 2)).step(Step::Templates(0, 2));
        let text =
            format!("OPTIONS sip:x SIP/2.0\r\nCall-ID: {}\r\nCSeq: 1\r\n\r\n", String::from_utf8_lossy(id));
        arrives(case, Packet::udp((client(family, 1), 1000), (vip(family), 5060), text.as_bytes()), 12)
    });
    run_all(&cases)
}

fn udp_is_confirmed() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let udp = Synced { flags: flags::INACTIVE, state: 0, timeout: 300, ..told(family, Proto::UDP) };
        let case = adopts(case("udp", family, Proto::UDP), udp, Outcome::Made).step(Step::Counts(0, 0, 1));
        let case = arrives(case, Packet::udp((client(family, 1), 1000), (vip(family), 80), b"x"), 12);
        case.step(Step::Entries(1, 0)).step(Step::State(1))
    }))
}

fn full() -> Result<()> {
    run_all_tiny(
        1,
        &FAMILIES.map(|family| {
            let ways = if family == Family::V4 { 8 } else { 4 };
            let numbered = |port: u16| Synced { cport: Port::new(port), ..told(family, Proto::TCP) };
            let mut case = case("full", family, Proto::TCP);
            for port in 0..2 * ways {
                case = adopts(case, numbered(1000 + port), Outcome::Made);
            }
            let case =
                adopts(case, numbered(5000), Outcome::Full).step(Step::Entries(2 * usize::from(ways), 0));
            // One that is there can still be told of.
            adopts(case, numbered(1000), Outcome::Refreshed).step(Step::Counts(0, 2 * u32::from(ways), 0))
        }),
    )
}
