//! SCTP: states by first chunk, and the checksum under translation.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::settings::Settings;
use lb_common::state::sctp::chunk::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, ERROR, INIT, INIT_ACK, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE,
};
use lb_tests::case::{
    Case, Expect, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::{Body, Frame, Packet};

lb_tests::tests!(
    associations_both_ways,
    the_client_alone,
    only_init_begins,
    sloppy_sctp,
    states_run_out,
    a_closed_association_starts_afresh,
    the_checksum_under_nat,
    an_unchanged_port_leaves_the_checksum,
);

/// State numbers as IPVS's table has them.
const INIT1: u8 = 1;
const AGAIN: u8 = 2;
const C_SENT: u8 = 3;
const C_REPLIED: u8 = 4;
const C_WAIT: u8 = 5;
const ES: u8 = 8;
const S_SENT: u8 = 9;
const S_RECEIVED: u8 = 10;
const S_ACK_SENT: u8 = 11;
const REJECTED: u8 = 12;
const CLOSED: u8 = 13;

const HEARTBEAT: u8 = 4;
const SACK: u8 = 3;

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}
use Side::{Client, Server};

/// A packet's chunks, and the state after it.
type Row<'a> = (Side, &'a [u8], u8);

type End = (IpAddr, u16);

fn us(family: Family) -> End {
    (client(family, 7), 1025)
}

fn service_end(family: Family) -> End {
    (vip(family), 80)
}

fn server(family: Family) -> End {
    (Nic::Back.host(family, 11), 8080)
}

fn onward(packet: Packet) -> Packet {
    packet.with(|p| p.ttl -= 1)
}

fn request(family: Family, chunks: &[u8]) -> Frame {
    from_client(Packet::sctp(us(family), service_end(family), chunks))
}

fn one(title: &str, family: Family, method: Method) -> Case {
    let port = if method == Method::Nat { 8080 } else { 80 };
    let dests = [dest(Nic::Back, family, 11, port, method)];
    Case::new(
        format!("{title} {family:?} {method:?}"),
        service(family, Proto::SCTP, 80, Scheduler::Rr),
        &dests,
    )
}

/// A client's packet that arrives.
fn asks(case: Case, family: Family, method: Method, chunks: &[u8]) -> Case {
    let to = if method == Method::Nat { server(family) } else { service_end(family) };
    let sent = to_host(Nic::Back, 11, onward(Packet::sctp(us(family), to, chunks)));
    case.forwards(Nic::Front, Way::Redirect, &request(family, chunks), sent)
}

/// A translated answer.
fn answers(case: Case, family: Family, chunks: &[u8]) -> Case {
    let answer = from_host(Nic::Back, 11, Packet::sctp(server(family), us(family), chunks));
    let sent = to_client(onward(Packet::sctp(service_end(family), us(family), chunks)));
    case.replies(Nic::Back, Way::Redirect, &answer, sent)
}

fn rows(mut case: Case, family: Family, method: Method, rows: &[Row<'_>]) -> Case {
    for (side, chunks, state) in rows {
        case = match side {
            Client => asks(case, family, method, chunks),
            Server => answers(case, family, chunks),
        };
        let active = u32::from(*state == ES);
        case = case.step(Step::State(*state)).step(Step::Counts(0, active, 1 - active));
    }
    case
}

fn associations_both_ways() -> Result<()> {
    let open: &[Row<'_>] = &[
        (Client, &[INIT], INIT1),
        (Server, &[INIT_ACK], C_SENT),
        (Client, &[COOKIE_ECHO, DATA], C_REPLIED),
        (Server, &[COOKIE_ACK, SACK], ES),
        (Client, &[DATA], ES),
        (Server, &[SACK, DATA], ES),
        (Server, &[HEARTBEAT], ES),
    ];
    let lives: [(&str, &[Row<'_>], &[Row<'_>]); 10] = [
        (
            "client shuts down",
            open,
            &[
                (Client, &[SHUTDOWN], S_RECEIVED),
                (Server, &[SHUTDOWN_ACK], S_ACK_SENT),
                (Client, &[SHUTDOWN_COMPLETE], CLOSED),
            ],
        ),
        (
            "server shuts down",
            open,
            &[
                (Server, &[SHUTDOWN], S_SENT),
                (Client, &[SHUTDOWN_ACK], CLOSED),
                (Server, &[SHUTDOWN_COMPLETE], CLOSED),
            ],
        ),
        ("client aborts", open, &[(Client, &[ABORT], CLOSED), (Server, &[DATA], CLOSED)]),
        ("server aborts", open, &[(Server, &[ABORT], CLOSED), (Client, &[DATA], CLOSED)]),
        ("an abort behind data is not seen", open, &[(Client, &[DATA, ABORT], ES)]),
        ("errors are no end", open, &[(Client, &[ERROR], ES), (Server, &[ERROR], ES)]),
        (
            "INIT again",
            &[(Client, &[INIT], INIT1), (Client, &[INIT], AGAIN)],
            &[(Server, &[INIT_ACK], C_SENT)],
        ),
        (
            "an abort behind the cookie",
            &[(Client, &[INIT], INIT1), (Server, &[INIT_ACK], C_SENT)],
            &[(Client, &[COOKIE_ECHO, ABORT], CLOSED)],
        ),
        (
            "an abort behind the cookie's answer",
            &[(Client, &[INIT], INIT1), (Server, &[INIT_ACK], C_SENT), (Client, &[COOKIE_ECHO], C_REPLIED)],
            &[(Server, &[COOKIE_ACK, ABORT], CLOSED)],
        ),
        (
            "both begin, one gives up",
            &[(Client, &[INIT], INIT1), (Server, &[INIT], C_WAIT)],
            &[(Client, &[ABORT], REJECTED)],
        ),
    ];
    let case = |family, (title, begin, end): (&str, &[Row<'_>], &[Row<'_>])| {
        rows(rows(one(title, family, Method::Nat), family, Method::Nat, begin), family, Method::Nat, end)
    };
    let cases: Vec<Case> =
        FAMILIES.into_iter().flat_map(|family| lives.map(|life| case(family, life))).collect();
    run_all(&cases)
}

fn the_client_alone() -> Result<()> {
    let lives: [(&str, &[Row<'_>]); 4] = [
        (
            "opens and shuts down",
            &[
                (Client, &[INIT], INIT1),
                (Client, &[COOKIE_ECHO], ES),
                (Client, &[DATA], ES),
                (Client, &[SHUTDOWN], S_RECEIVED),
                (Client, &[SHUTDOWN_COMPLETE], CLOSED),
            ],
        ),
        (
            "is shut down",
            &[(Client, &[INIT], INIT1), (Client, &[COOKIE_ECHO], ES), (Client, &[SHUTDOWN_ACK], CLOSED)],
        ),
        ("aborts", &[(Client, &[INIT], INIT1), (Client, &[COOKIE_ECHO], ES), (Client, &[ABORT], CLOSED)]),
        ("aborts at once", &[(Client, &[INIT], INIT1), (Client, &[COOKIE_ECHO, ABORT], CLOSED)]),
    ];
    let case = |family, (title, life): (&str, &[Row<'_>])| {
        rows(one(title, family, Method::Route), family, Method::Route, life)
    };
    let cases: Vec<Case> =
        FAMILIES.into_iter().flat_map(|family| lives.map(|life| case(family, life))).collect();
    run_all(&cases)
}

/// Chunk types that are not INIT.
const OTHERS: [u8; 12] = [
    DATA,
    INIT_ACK,
    SACK,
    HEARTBEAT,
    ABORT,
    SHUTDOWN,
    SHUTDOWN_ACK,
    ERROR,
    COOKIE_ECHO,
    COOKIE_ACK,
    SHUTDOWN_COMPLETE,
    0xc0,
];

fn only_init_begins() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for method in [Method::Route, Method::Nat] {
            let mut case = one("begins", family, method);
            for chunk in OTHERS {
                case = case.passes(&request(family, &[chunk]), Reason::NoConnection);
                case = case.passes(&request(family, &[chunk, INIT]), Reason::NoConnection);
            }
            case = case.step(Step::Entries(0, 0)).step(Step::Traffic(0, [0, 0, 0]));
            cases.push(asks(case, family, method, &[INIT]).step(Step::Traffic(0, [1, 0, 1])));
        }
        let bare = Packet::new(us(family).0, vip(family), Body::Sctp(1025, 80, Vec::new()));
        let case = one("no chunk", family, Method::Route);
        cases.push(case.passes(&from_client(bare), Reason::Truncated));
    }
    run_all(&cases)
}

fn sloppy_sctp() -> Result<()> {
    let sloppy: fn(&Settings) = |settings| settings.sloppy_sctp.store(1);
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (chunk, state) in
            [(DATA, ES), (HEARTBEAT, ES), (COOKIE_ECHO, ES), (SHUTDOWN, S_RECEIVED), (ERROR, CLOSED)]
        {
            let case = one("sloppy", family, Method::Route).step(Step::Set(sloppy));
            cases.push(rows(case, family, Method::Route, &[(Client, &[chunk], state)]));
        }
        let case = one("sloppy", family, Method::Route).step(Step::Set(sloppy));
        cases.push(case.passes(&request(family, &[ABORT]), Reason::NoConnection));
    }
    run_all(&cases)
}

fn states_run_out() -> Result<()> {
    let lives: [(&str, &[u8], u32); 4] = [
        ("INIT", &[INIT, INIT], 61),
        ("ESTABLISHED", &[INIT, COOKIE_ECHO], 900),
        ("S-RECEIVED", &[INIT, COOKIE_ECHO, SHUTDOWN], 61),
        ("CLOSED", &[INIT, COOKIE_ECHO, ABORT], 61),
    ];
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (title, chunks, timeout) in lives {
            let mut case = one(title, family, Method::Route);
            for chunk in chunks {
                case = asks(case, family, Method::Route, &[*chunk]);
            }
            case = case.step(Step::Wait(timeout - 3)).step(Step::Sweep).step(Step::Entries(1, 0));
            case = case.step(Step::Wait(3)).passes(&request(family, &[DATA]), Reason::NoConnection);
            cases.push(case.step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0)));
        }
    }
    run_all(&cases)
}

/// ipvs.md 4.7: an INIT on an association that is CLOSED is scheduled anew, unless conn_reuse_mode is 0.
fn a_closed_association_starts_afresh() -> Result<()> {
    let mut cases = Vec::new();
    let never: fn(&Settings) = |settings| settings.conn_reuse_mode.store(0);
    let expire: fn(&Settings) = |settings| settings.expire_nodest_conn.store(1);
    for family in FAMILIES {
        let two = [12, 11].map(|host| dest(Nic::Back, family, host, 80, Method::Route));
        let rules = service(family, Proto::SCTP, 80, Scheduler::Rr);
        let begin = |title: &str, chunks: &[u8]| {
            let mut case = Case::new(format!("{title} {family:?}"), rules, &two);
            for chunk in chunks {
                case = asks(case, family, Method::Route, &[*chunk]);
            }
            case
        };
        let elsewhere = |case: Case| {
            let frame = request(family, &[INIT]);
            let sent = to_host(Nic::Back, 12, onward(frame.packet.clone()));
            case.forwards(Nic::Front, Way::Redirect, &frame, sent).step(Step::Entries(1, 0))
        };
        let closed = || begin("closed", &[INIT, COOKIE_ECHO, ABORT]).step(Step::State(CLOSED));
        cases.push(elsewhere(closed()).step(Step::State(INIT1)).step(Step::Counts(0, 0, 1)));
        let kept = asks(closed().step(Step::Set(never)), family, Method::Route, &[INIT]);
        cases.push(kept.step(Step::State(AGAIN)).step(Step::Counts(1, 0, 1)));
        let open = begin("open", &[INIT, COOKIE_ECHO]);
        let open = asks(open, family, Method::Route, &[INIT]).step(Step::State(ES));
        // Without weight only with the sysctl.
        let open = asks(open.step(Step::Weight(1, 0)), family, Method::Route, &[INIT]);
        let open = asks(open.step(Step::Set(expire)), family, Method::Route, &[DATA]);
        cases.push(elsewhere(open).step(Step::State(INIT1)));
    }
    run_all(&cases)
}

/// Chunks of a packet whose parts have such lengths.
fn chunks(lengths: &[usize]) -> Vec<(u8, Vec<u8>)> {
    let kinds = [INIT].into_iter().chain([DATA].into_iter().cycle());
    kinds.zip(lengths).map(|(kind, length)| (kind, (0..*length).map(|i| i as u8).collect())).collect()
}

fn sctp(src: End, dst: End, lengths: &[usize]) -> Packet {
    Packet::new(src.0, dst.0, Body::Sctp(src.1, dst.1, chunks(lengths)))
}

fn the_checksum_under_nat() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let mut case = one("crc32c", family, Method::Nat);
        let lengths: [&[usize]; 12] = [
            &[0],
            &[1],
            &[2],
            &[3],
            &[4],
            &[15, 16],
            &[60],
            &[123],
            &[240, 1, 2, 3],
            &[508],
            &[1021],
            &[1400],
        ];
        for lengths in lengths {
            for tags in [&[][..], &[5]] {
                let asked = from_client(sctp(us(family), service_end(family), lengths)).tagged(tags);
                let sent = to_host(Nic::Back, 11, onward(sctp(us(family), server(family), lengths)));
                // What a cable adds is no part of the packet.
                let (padded, still_padded) = (asked.clone().padded(5), sent.clone().padded(5));
                let answer = from_host(Nic::Back, 11, sctp(server(family), us(family), lengths)).tagged(tags);
                let translated = to_client(onward(sctp(service_end(family), us(family), lengths)));
                case = case
                    .forwards(Nic::Front, Way::Redirect, &asked, sent)
                    .forwards(Nic::Front, Way::Redirect, &padded, still_padded)
                    .replies(Nic::Back, Way::Redirect, &answer, translated);
            }
        }
        cases.push(case);
    }
    run_all(&cases)
}

/// The sum covers no address. Where no port changes it stays, right or wrong.
fn an_unchanged_port_leaves_the_checksum() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for port in [80, 0] {
            let server = (Nic::Back.host(family, 11), 80);
            let dests = [dest(Nic::Back, family, 11, port, Method::Nat)];
            let rules = service(family, Proto::SCTP, 80, Scheduler::Rr);
            let mut case = Case::new(format!("same port {port} {family:?}"), rules, &dests);
            for wrong in [false, true] {
                let packet = |src: End, dst: End| {
                    let mut bytes = Packet::sctp(src, dst, &[INIT]).bytes();
                    let mut body = bytes.split_off(if family == Family::V4 { 20 } else { 40 });
                    body[8] ^= u8::from(wrong);
                    Packet::new(src.0, dst.0, Body::Other(Proto::SCTP.0, body))
                };
                let asked = from_client(packet(us(family), service_end(family)));
                let sent = to_host(Nic::Back, 11, onward(packet(us(family), server)));
                let answer = from_host(Nic::Back, 11, packet(server, us(family)));
                let translated = to_client(onward(packet(service_end(family), us(family))));
                case = case.forwards(Nic::Front, Way::Redirect, &asked, sent).replies(
                    Nic::Back,
                    Way::Redirect,
                    &answer,
                    translated,
                );
            }
            let stray = from_host(Nic::Back, 11, Packet::sctp((server.0, 81), us(family), &[DATA])).bytes();
            cases.push(case.step(Step::Send(Nic::Back, stray, Expect::Passes(Reason::ReplyUnknown))));
        }
    }
    run_all(&cases)
}
