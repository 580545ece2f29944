//! Servers found dead: what becomes of their connections (`on_down`).

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::{Method, status};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::state::tcp::TcpState;
use lb_tests::case::{
    Case, FAMILIES, Nic, Step, Way, client, dest, from_client, run_all, service, to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, FIN, RST, SYN};
use lb_tests::packets::{Body, Frame, Packet, Part};

lb_tests::tests!(
    clients_are_reset,
    segments_without_a_number_to_go_by,
    associations_are_aborted,
    what_cannot_be_reset,
    connections_move,
    datagrams_move,
    left_alone,
    a_new_attempt_goes_elsewhere,
    a_template_of_a_dead_server,
    a_server_that_comes_back,
    reset_under_expire_nodest_conn,
);

const METHODS: [Method; 3] = [Method::Route, Method::Nat, Method::Tunnel];
/// Found dead under `on_down leave`, `move` and `reset`.
const LEFT: u32 = status::DEAD;
const MOVED: u32 = status::DEAD | status::MOVE;
const RESET: u32 = status::DEAD | status::RESET;

type End = (IpAddr, u16);

fn us(family: Family) -> End {
    (client(family, 7), 1025)
}

fn it(family: Family) -> End {
    (vip(family), 80)
}

fn segment(family: Family, flags: u8, data: &[u8]) -> Packet {
    Packet::tcp(us(family), it(family), flags, data)
}

fn each() -> impl Iterator<Item = (Family, Method)> {
    FAMILIES.into_iter().flat_map(|family| METHODS.map(|method| (family, method)))
}

/// What a server gets: dests listen on the service's port.
fn sent(host: u8, method: Method, packet: &Packet) -> Frame {
    let onward = packet.clone().with(|p| p.ttl -= 1);
    let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
    let server = Nic::Back.host(family, host);
    let packet = match method {
        Method::Nat => onward.with(|p| p.dst = server),
        Method::Tunnel => {
            let ttl = onward.ttl;
            let outer = Packet::new(Nic::Back.host(family, 1), server, Body::Ip(Box::new(onward)));
            outer.with(|p| (p.ttl, p.id) = (ttl, None))
        }
        _ => onward,
    };
    to_host(Nic::Back, host, packet)
}

/// A connection to host 11, then the server's death; host 12 is there for later.
fn begun(title: &str, family: Family, proto: Proto, method: Method, first: &Packet, fate: u32) -> Case {
    let dests = [dest(Nic::Back, family, 11, 80, method), dest(Nic::Back, family, 12, 80, method)];
    let rules = service(family, proto, 80, Scheduler::Rr);
    Case::new(format!("{title} {family:?} {method:?}"), rules, &dests)
        // Newest first: host 12 gets the first one of round robin, unless its weight is 0.
        .step(Step::Weight(1, 0))
        .forwards(Nic::Front, Way::Redirect, &from_client(first.clone()), sent(11, method, first))
        .step(Step::Weight(1, 1))
        .step(Step::Dead(0, fate))
}

fn open(title: &str, family: Family, method: Method, fate: u32) -> Case {
    let ack = segment(family, ACK, b"");
    begun(title, family, Proto::TCP, method, &segment(family, SYN, b""), 0)
        .forwards(Nic::Front, Way::Redirect, &from_client(ack.clone()), sent(11, method, &ack))
        .step(Step::Dead(0, fate))
}

/// The number is the one the client has acknowledged; the connection is closed, and answers as long as it is there. It makes
/// no difference whether the server is deleted or stays with weight 0 (`inhibit_on_failure`).
fn clients_are_reset() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        for deleted in [true, false] {
            let told = to_client(Packet::reset(it(family), us(family), 2, 0, RST));
            let gone = if deleted { Step::Delete(0) } else { Step::Weight(0, 0) };
            cases.push(
                open(&format!("reset, deleted {deleted}"), family, method, RESET)
                    .step(gone)
                    .resets(&from_client(segment(family, ACK, b"GET / HTTP/1.1")), told.clone())
                    .step(Step::State(TcpState::Close as u8))
                    .step(Step::Counts(0, 0, 1))
                    .resets(&from_client(segment(family, ACK | FIN, b"")), told.clone())
                    // Tags, options and padding do not disturb.
                    .resets(&from_client(segment(family, ACK, b"x")).padded(9), told)
                    .step(Step::Wait(11))
                    .step(Step::Sweep)
                    .step(Step::Entries(0, 0)),
            );
        }
    }
    run_all(&cases)
}

/// What acknowledges nothing is answered by its own number.
fn segments_without_a_number_to_go_by() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let told = |next| to_client(Packet::reset(it(family), us(family), 0, next, RST | ACK));
        cases.push(
            open("no number", family, Method::Route, RESET)
                .resets(&from_client(segment(family, FIN, b"")), told(2))
                .resets(&from_client(segment(family, 0, b"four")), told(5)),
        );
        let options = segment(family, ACK, b"").with(|p| match family {
            Family::V4 => p.options = vec![1; 8],
            Family::V6 => p.extensions = vec![(60, vec![0; 6])],
        });
        let told = Packet::reset(it(family), us(family), 2, 0, RST);
        cases.push(
            open("options", family, Method::Route, RESET).resets(&from_client(options), to_client(told)),
        );
        let told = to_client(Packet::reset(it(family), us(family), 2, 0, RST)).tagged(&[5]);
        let tagged = from_client(segment(family, ACK, b"")).tagged(&[5]);
        cases.push(open("tagged", family, Method::Route, RESET).resets(&tagged, told));
    }
    run_all(&cases)
}

fn associations_are_aborted() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        let packet = |chunk: u8| Packet::sctp(us(family), it(family), &[chunk]);
        let told = to_client(Packet::abort(it(family), us(family)));
        cases.push(
            begun("abort", family, Proto::SCTP, method, &packet(1), RESET)
                // COOKIE ECHO, DATA.
                .resets(&from_client(packet(10)), told.clone())
                .resets(&from_client(packet(0)), told)
                .drops(&from_client(packet(6)), Reason::DestGone),
        );
    }
    run_all(&cases)
}

/// Resets, and parts of datagrams.
fn what_cannot_be_reset() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let part = segment(family, ACK, &[7; 64]).with(|p| p.part = Some(Part { from: 0, to: Some(48) }));
        cases.push(
            open("not reset", family, Method::Route, RESET)
                .drops(&from_client(segment(family, RST, b"")), Reason::DestGone)
                .drops(&from_client(segment(family, RST | ACK, b"")), Reason::DestGone)
                .drops(&from_client(part), Reason::DestGone),
        );
    }
    run_all(&cases)
}

/// Another server gets the segment, and resets the client if it does not know what to do with it.
fn connections_move() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        let data = segment(family, ACK, b"more");
        cases.push(
            open("move", family, method, MOVED)
                .step(Step::Delete(0))
                .forwards(Nic::Front, Way::Redirect, &from_client(data.clone()), sent(12, method, &data))
                .step(Step::Counts(0, 0, 0))
                .step(Step::Counts(1, 1, 0))
                .forwards(Nic::Front, Way::Redirect, &from_client(data.clone()), sent(12, method, &data))
                .step(Step::Entries(1, 0)),
        );
    }
    run_all(&cases)
}

fn datagrams_move() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        for fate in [MOVED, RESET] {
            let data = Packet::udp(us(family), it(family), b"hello");
            cases.push(
                begun(&format!("datagram {fate}"), family, Proto::UDP, method, &data, fate)
                    .step(Step::Delete(0))
                    .forwards(Nic::Front, Way::Redirect, &from_client(data.clone()), sent(12, method, &data))
                    .step(Step::Counts(0, 0, 0))
                    .step(Step::Counts(1, 0, 1)),
            );
        }
    }
    run_all(&cases)
}

/// IPVS's way: a deleted server's connections lose their packets, a weightless one's go on.
fn left_alone() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        let data = segment(family, ACK, b"more");
        cases.push(
            open("left, deleted", family, method, LEFT)
                .step(Step::Delete(0))
                .drops(&from_client(data.clone()), Reason::DestGone)
                .step(Step::State(TcpState::Established as u8)),
        );
        cases.push(open("left, weightless", family, method, LEFT).step(Step::Weight(0, 0)).forwards(
            Nic::Front,
            Way::Redirect,
            &from_client(data.clone()),
            sent(11, method, &data),
        ));
    }
    run_all(&cases)
}

/// A SYN that is sent again, or a new one on the old port, needs no reset.
fn a_new_attempt_goes_elsewhere() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        let syn = segment(family, SYN, b"");
        cases.push(
            begun("again", family, Proto::TCP, method, &syn, RESET)
                .step(Step::Delete(0))
                .forwards(Nic::Front, Way::Redirect, &from_client(syn.clone()), sent(12, method, &syn))
                .step(Step::Counts(0, 0, 0)),
        );
    }
    run_all(&cases)
}

/// A persistent client is not sent back to a dead server that is still in the list.
fn a_template_of_a_dead_server() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let dests =
            [dest(Nic::Back, family, 11, 80, Method::Route), dest(Nic::Back, family, 12, 80, Method::Route)];
        let rules = service(family, Proto::TCP, 80, Scheduler::Rr).persistent(300);
        let (syn, ack) = (segment(family, SYN, b""), segment(family, ACK, b""));
        let next = Packet::tcp((client(family, 7), 1026), it(family), SYN, b"");
        let told = to_client(Packet::reset(it(family), us(family), 2, 0, RST));
        cases.push(
            Case::new(format!("template {family:?}"), rules, &dests)
                .step(Step::Weight(1, 0))
                .forwards(Nic::Front, Way::Redirect, &from_client(syn.clone()), sent(11, Method::Route, &syn))
                .step(Step::Weight(1, 1))
                .step(Step::Weight(0, 0))
                .step(Step::Dead(0, RESET))
                .resets(&from_client(ack), told)
                .forwards(
                    Nic::Front,
                    Way::Redirect,
                    &from_client(next.clone()),
                    sent(12, Method::Route, &next),
                ),
        );
    }
    run_all(&cases)
}

/// Added again, it has its connections back.
fn a_server_that_comes_back() -> Result<()> {
    let mut cases = Vec::new();
    for (family, method) in each() {
        let data = segment(family, ACK, b"more");
        cases.push(
            open("back", family, method, RESET)
                .step(Step::Delete(0))
                .step(Step::Add(0, dest(Nic::Back, family, 11, 80, method), 0))
                .forwards(Nic::Front, Way::Redirect, &from_client(data.clone()), sent(11, method, &data)),
        );
    }
    run_all(&cases)
}

/// A sysctl that ends connections of deleted servers does not keep clients from being told.
fn reset_under_expire_nodest_conn() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let told = to_client(Packet::reset(it(family), us(family), 2, 0, RST));
        cases.push(
            open("expire_nodest_conn", family, Method::Route, RESET)
                .step(Step::Set(|settings| settings.expire_nodest_conn.store(1)))
                .step(Step::Delete(0))
                .resets(&from_client(segment(family, ACK, b"")), told),
        );
    }
    run_all(&cases)
}
