//! The life of connections: states and counts packet by packet, time, and what becomes of connections when dests change.

use anyhow::Result;
use lb_common::addr::{Family, Proto};
use lb_common::dest::Method;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Expect, FAMILIES, Nic, Step, Way, client, dest, from_client, from_host, run_all, service,
    to_client, to_host, vip,
};
use lb_tests::packets::tcp::{ACK, FIN, RST, SYN};
use lb_tests::packets::{Frame, Packet};

lb_tests::tests!(
    nat_handshake_and_ends,
    client_alone,
    a_server_that_passes_by,
    states_run_out,
    udp_counts_and_runs_out,
    a_deleted_dest_drops_and_comes_back,
    a_dest_without_weight_keeps_what_it_has,
    a_finished_connection_starts_afresh,
    the_first_packet_that_opens,
    thresholds,
    replies_of_another_family_member_pass,
    last_service_gone,
);

/// State numbers as IPVS's table has them.
const ES: u8 = 1;
const SR: u8 = 3;
const FW: u8 = 4;
const TW: u8 = 5;
const CL: u8 = 6;
const CW: u8 = 7;

/// Which way a segment goes.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// One segment, and how things stand after it: state, active, inactive.
type Row = (Side, u8, u8, u32, u32);

fn segment(family: Family, flags: u8) -> Frame {
    from_client(Packet::tcp((client(family, 7), 1025), (vip(family), 80), flags, b""))
}

fn onward(frame: Frame) -> Packet {
    frame.packet.with(|p| p.ttl -= 1)
}

/// A segment to the dest with this method.
fn arrives(family: Family, method: Method, flags: u8) -> Frame {
    let to = if method == Method::Nat { (Nic::Back.host(family, 11), 8080) } else { (vip(family), 80) };
    let packet = Packet::tcp((client(family, 7), 1025), to, flags, b"");
    to_host(Nic::Back, 11, packet.with(|p| p.ttl -= 1))
}

fn answer(family: Family, flags: u8) -> Frame {
    from_host(
        Nic::Back,
        11,
        Packet::tcp((Nic::Back.host(family, 11), 8080), (client(family, 7), 1025), flags, b""),
    )
}

fn answered(family: Family, flags: u8) -> Frame {
    to_client(Packet::tcp((vip(family), 80), (client(family, 7), 1025), flags, b"").with(|p| p.ttl -= 1))
}

/// One dest behind the back card.
fn one(title: &str, family: Family, proto: Proto, method: Method) -> Case {
    let port = if method == Method::Nat { 8080 } else { 80 };
    let dests = [dest(Nic::Back, family, 11, port, method)];
    Case::new(format!("{title} {family:?}"), service(family, proto, 80, Scheduler::Rr), &dests)
}

/// A client's segment that arrives.
fn asks(case: Case, family: Family, method: Method, flags: u8) -> Case {
    case.forwards(Nic::Front, Way::Redirect, &segment(family, flags), arrives(family, method, flags))
}

fn rows(mut case: Case, family: Family, method: Method, rows: &[Row]) -> Case {
    for (from, flags, state, active, inactive) in rows {
        case = match from {
            Side::Client => asks(case, family, method, *flags),
            Side::Server => {
                case.replies(Nic::Back, Way::Redirect, &answer(family, *flags), answered(family, *flags))
            }
        };
        case = case.step(Step::State(*state)).step(Step::Counts(0, *active, *inactive));
    }
    case
}

fn nat_handshake_and_ends() -> Result<()> {
    use Side::{Client, Server};
    let begin: &[Row] = &[(Client, SYN, SR, 1, 0), (Server, SYN | ACK, SR, 1, 0), (Client, ACK, ES, 1, 0)];
    let ends: [(&str, &[Row]); 5] = [
        (
            "server ends",
            &[(Server, FIN | ACK, FW, 0, 1), (Client, ACK, FW, 0, 1), (Client, FIN | ACK, TW, 0, 1)],
        ),
        (
            "client ends",
            &[(Client, FIN | ACK, CW, 0, 1), (Server, ACK, CW, 0, 1), (Server, FIN | ACK, TW, 0, 1)],
        ),
        ("client resets", &[(Client, RST, CL, 0, 1), (Server, ACK, CL, 0, 1)]),
        ("server resets", &[(Server, RST, CL, 0, 1)]),
        ("data, then nothing", &[(Client, ACK, ES, 1, 0), (Server, ACK, ES, 1, 0)]),
    ];
    let case = |family, (title, end): (&str, &[Row])| {
        rows(
            rows(one(title, family, Proto::TCP, Method::Nat), family, Method::Nat, begin),
            family,
            Method::Nat,
            end,
        )
    };
    let cases: Vec<Case> =
        FAMILIES.into_iter().flat_map(|family| ends.map(|end| case(family, end))).collect();
    run_all(&cases)
}

fn client_alone() -> Result<()> {
    use Side::Client;
    let lives: [(&str, &[Row]); 3] = [
        (
            "fin",
            &[
                (Client, SYN, SR, 1, 0),
                (Client, ACK, ES, 1, 0),
                (Client, FIN | ACK, FW, 0, 1),
                (Client, ACK, FW, 0, 1),
            ],
        ),
        ("rst", &[(Client, SYN, SR, 1, 0), (Client, ACK, ES, 1, 0), (Client, RST | ACK, CL, 0, 1)]),
        ("rst at once", &[(Client, SYN, SR, 1, 0), (Client, RST, SR, 1, 0)]),
    ];
    let case = |family, (title, life): (&str, &[Row])| {
        rows(one(title, family, Proto::TCP, Method::Route), family, Method::Route, life)
    };
    let cases: Vec<Case> =
        FAMILIES.into_iter().flat_map(|family| lives.map(|life| case(family, life))).collect();
    run_all(&cases)
}

/// The first packet of the server's that comes by, be it one that moves no state, ends the guessing: from then on the client's
/// end alone does not end the connection.
fn a_server_that_passes_by() -> Result<()> {
    use Side::Client;
    let method = Method::Route;
    run_all(&FAMILIES.map(|family| {
        let open: &[Row] = &[(Client, SYN, SR, 1, 0), (Client, ACK, ES, 1, 0)];
        let case = rows(one("passes by", family, Proto::TCP, method), family, method, open);
        let direct = Packet::tcp((vip(family), 80), (client(family, 7), 1025), ACK, b"");
        let frame = from_host(Nic::Back, 11, direct).bytes();
        let case = case.step(Step::Send(Nic::Back, frame, Expect::Passes(Reason::ReplyDirect)));
        rows(case.step(Step::State(ES)), family, method, &[(Client, FIN | ACK, CW, 0, 1)])
    }))
}

fn states_run_out() -> Result<()> {
    let mut cases = Vec::new();
    let lives: [(&str, &[u8], u32); 4] = [
        ("SYN_RECV", &[SYN], 60),
        ("ESTABLISHED", &[SYN, ACK], 900),
        ("FIN_WAIT", &[SYN, ACK, FIN | ACK], 120),
        ("CLOSE", &[SYN, ACK, RST], 10),
    ];
    for family in FAMILIES {
        for (title, flags, timeout) in lives {
            let mut case = one(title, family, Proto::TCP, Method::Route);
            for flags in flags {
                case = asks(case, family, Method::Route, *flags);
            }
            // It is still there shortly before its time, swept or not, and then it is not.
            case = case.step(Step::Wait(timeout - 3)).step(Step::Sweep).step(Step::Entries(1, 0));
            case = case.step(Step::Wait(3)).passes(&segment(family, ACK), Reason::NoConnection);
            cases.push(case.step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Counts(0, 0, 0)));
        }
        let case = asks(one("--set", family, Proto::TCP, Method::Route), family, Method::Route, SYN);
        let case = asks(case, family, Method::Route, ACK)
            .step(Step::Set(|settings| settings.set_timeouts(50, 0, 0)));
        let case = case.step(Step::Wait(47)).step(Step::Sweep).step(Step::Counts(0, 1, 0));
        cases.push(case.step(Step::Wait(3)).step(Step::Sweep).step(Step::Counts(0, 0, 0)));
    }
    run_all(&cases)
}

fn udp_counts_and_runs_out() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let packet = Packet::udp((client(family, 7), 1025), (vip(family), 80), b"q");
        let frame = from_client(packet);
        let sent = to_host(Nic::Back, 11, onward(frame.clone()));
        let case = one("udp", family, Proto::UDP, Method::Route);
        cases.push(
            case.forwards(Nic::Front, Way::Redirect, &frame, sent.clone())
                .step(Step::Counts(0, 0, 1))
                .step(Step::Wait(297))
                .forwards(Nic::Front, Way::Redirect, &frame, sent)
                .step(Step::Wait(297))
                .step(Step::Sweep)
                .step(Step::Entries(1, 0))
                .step(Step::Wait(3))
                .step(Step::Sweep)
                .step(Step::Entries(0, 0))
                .step(Step::Counts(0, 0, 0))
                .step(Step::Traffic(0, [2, 0, 1])),
        );
    }
    run_all(&cases)
}

fn a_deleted_dest_drops_and_comes_back() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let method = Method::Nat;
        let again = dest(Nic::Back, family, 11, 8080, method);
        let case = asks(one("deleted", family, Proto::TCP, method), family, method, SYN);
        let case = asks(case, family, method, ACK)
            .step(Step::Delete(0))
            .drops(&segment(family, ACK), Reason::DestGone)
            .drops(&segment(family, SYN), Reason::DestGone)
            .step(Step::Counts(0, 1, 0))
            .step(Step::Traffic(0, [2, 0, 1]))
            // A reply still gets through, uncounted.
            .replies(Nic::Back, Way::Redirect, &answer(family, ACK), answered(family, ACK))
            .step(Step::Add(0, again, 0));
        cases.push(
            asks(case, family, method, ACK).step(Step::Traffic(0, [3, 0, 1])).step(Step::Counts(0, 1, 0)),
        );
        // expire_nodest_conn: what meets the connection ends it, and is a packet without one.
        let expire = Step::Set(|settings| settings.expire_nodest_conn.store(1));
        let case = asks(one("deleted, expiring", family, Proto::TCP, method), family, method, SYN);
        let case =
            case.step(Step::Delete(0)).step(expire).passes(&segment(family, ACK), Reason::NoConnection);
        cases.push(case.step(Step::Entries(0, 0)));
    }
    run_all(&cases)
}

fn a_dest_without_weight_keeps_what_it_has() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let method = Method::Route;
        let case =
            asks(one("weight 0", family, Proto::TCP, method), family, method, SYN).step(Step::Weight(0, 0));
        let case = asks(case, family, method, ACK).step(Step::State(ES)).step(Step::Counts(0, 1, 0));
        let newcomer = Packet::tcp((client(family, 8), 1026), (vip(family), 80), ACK, b"");
        let case = case.passes(&from_client(newcomer), Reason::NoConnection).step(Step::Entries(1, 0));
        // expire_nodest_conn: a SYN on such a connection is scheduled anew, its other packets are not.
        let expire = Step::Set(|settings| settings.expire_nodest_conn.store(1));
        let other = dest(Nic::Back, family, 12, 80, method);
        let case = asks(case.step(expire).step(Step::Add(0, other, 1)), family, method, ACK);
        let elsewhere = to_host(Nic::Back, 12, onward(segment(family, SYN)));
        let case = case.forwards(Nic::Front, Way::Redirect, &segment(family, SYN), elsewhere);
        cases.push(case.step(Step::Counts(0, 0, 0)).step(Step::Counts(1, 1, 0)).step(Step::Entries(1, 0)));
    }
    run_all(&cases)
}

fn a_finished_connection_starts_afresh() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let method = Method::Route;
        let two = [dest(Nic::Back, family, 12, 80, method), dest(Nic::Back, family, 11, 80, method)];
        let rules = service(family, Proto::TCP, 80, Scheduler::Rr);
        for (mode, moves) in [(1, true), (0, false), (2, true), (4, true)] {
            let set: fn(&lb_common::settings::Settings) = match mode {
                0 => |s| s.conn_reuse_mode.store(0),
                1 => |s| s.conn_reuse_mode.store(1),
                2 => |s| s.conn_reuse_mode.store(2),
                _ => |s| s.conn_reuse_mode.store(4),
            };
            let mut case =
                Case::new(format!("reuse mode {mode} {family:?}"), rules, &two).step(Step::Set(set));
            for flags in [SYN, ACK, RST] {
                case = asks(case, family, method, flags);
            }
            let (host, on) = if moves { (12, 0) } else { (11, 1) };
            let sent = to_host(Nic::Back, host, onward(segment(family, SYN)));
            case =
                case.step(Step::State(CL)).forwards(Nic::Front, Way::Redirect, &segment(family, SYN), sent);
            cases.push(case.step(Step::State(SR)).step(Step::Counts(on, 1, 0)).step(Step::Counts(
                1 - on,
                0,
                0,
            )));
        }
        // FIN_WAIT, the server never seen: only with bit 2.
        for (set, host) in [
            ((|s| s.conn_reuse_mode.store(1)) as fn(&lb_common::settings::Settings), 11),
            (|s| s.conn_reuse_mode.store(2), 12),
        ] {
            let mut case =
                Case::new(format!("reuse of FIN_WAIT {host} {family:?}"), rules, &two).step(Step::Set(set));
            for flags in [SYN, ACK, FIN] {
                case = asks(case, family, method, flags);
            }
            let sent = to_host(Nic::Back, host, onward(segment(family, SYN)));
            cases.push(
                case.forwards(Nic::Front, Way::Redirect, &segment(family, SYN), sent)
                    .step(Step::Entries(1, 0)),
            );
        }
    }
    run_all(&cases)
}

fn the_first_packet_that_opens() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for flags in [SYN, SYN | ACK, SYN | FIN] {
            let case = asks(one("opens", family, Proto::TCP, Method::Route), family, Method::Route, flags);
            cases.push(case.step(Step::State(SR)).step(Step::Traffic(0, [1, 0, 1])));
        }
        // With RST it still ends what went before, where a SYN would.
        let case = asks(one("syn rst", family, Proto::TCP, Method::Route), family, Method::Route, SYN);
        let case = asks(case, family, Method::Route, RST | ACK).step(Step::State(SR));
        let case = asks(case, family, Method::Route, ACK);
        let case = asks(case, family, Method::Route, RST).step(Step::State(CL));
        cases.push(case.passes(&segment(family, SYN | RST), Reason::NoConnection).step(Step::Entries(0, 0)));
        for flags in [SYN | RST, ACK, FIN, RST, 0] {
            let case = one("does not open", family, Proto::TCP, Method::Route);
            cases.push(case.passes(&segment(family, flags), Reason::NoConnection).step(Step::Entries(0, 0)));
        }
        let from_20 = from_client(Packet::tcp((client(family, 7), 20), (vip(family), 80), SYN, b""));
        let case = one("port 20", family, Proto::TCP, Method::Route);
        cases.push(case.passes(&from_20, Reason::NoConnection));
    }
    run_all(&cases)
}

fn sloppy(settings: &lb_common::settings::Settings) {
    settings.sloppy_tcp.store(1);
}

/// Upper 3, lower 2: overloaded with the third connection, until only one is left.
fn thresholds() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let method = Method::Route;
        let first = dest(Nic::Back, family, 12, 80, method);
        let mut limited = dest(Nic::Back, family, 11, 80, method);
        limited.thresholds = (3, 2);
        limited.weight = 100;
        let rules = service(family, Proto::TCP, 80, Scheduler::Fo);
        let syn = |n| from_client(Packet::tcp((client(family, n), 1025), (vip(family), 80), SYN, b""));
        let rst =
            |n, flags| from_client(Packet::tcp((client(family, n), 1025), (vip(family), 80), flags, b""));
        let mut case =
            Case::new(format!("thresholds {family:?}"), rules, &[first, limited]).step(Step::Set(sloppy));
        let to = |frame: &Frame, host| to_host(Nic::Back, host, onward(frame.clone()));
        for (n, host) in [(1, 11), (2, 11), (3, 11), (4, 12)] {
            case = case.forwards(Nic::Front, Way::Redirect, &syn(n), to(&syn(n), host));
        }
        // Two of the three end, one at a time.
        for (gone, next, host) in [(1, 5, 12), (2, 6, 11)] {
            for flags in [ACK, RST] {
                case = case.forwards(Nic::Front, Way::Redirect, &rst(gone, flags), to(&rst(gone, flags), 11));
            }
            case = case.step(Step::Wait(11)).step(Step::Sweep);
            case = case.forwards(Nic::Front, Way::Redirect, &syn(next), to(&syn(next), host));
        }
        cases.push(case.step(Step::Counts(1, 2, 0)).step(Step::Counts(0, 2, 0)));
    }
    run_all(&cases)
}

fn replies_of_another_family_member_pass() -> Result<()> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        let case = asks(one("foreign reply", family, Proto::TCP, Method::Nat), family, Method::Nat, SYN);
        // The right server from a wrong port, and to a client that never asked.
        let wrong = |sport, number, dport| {
            let ends = ((Nic::Back.host(family, 11), sport), (client(family, number), dport));
            from_host(Nic::Back, 11, Packet::tcp(ends.0, ends.1, SYN | ACK, b"")).bytes()
        };
        let passes = |bytes| Step::Send(Nic::Back, bytes, Expect::Passes(Reason::ReplyUnknown));
        cases.push(
            case.step(passes(wrong(8081, 7, 1025)))
                .step(passes(wrong(8080, 8, 1025)))
                .step(passes(wrong(8080, 7, 1026)))
                .step(Step::State(SR))
                .step(Step::Traffic(0, [1, 0, 1])),
        );
    }
    run_all(&cases)
}

fn last_service_gone() -> Result<()> {
    let idle: fn(&lb_common::settings::Settings) = |settings| {
        settings.services_v4.store(0);
        settings.services_v6.store(0);
    };
    let case = |family| {
        let case = asks(one("idle", family, Proto::TCP, Method::Route), family, Method::Route, SYN);
        case.step(Step::Set(idle)).passes(&segment(family, ACK), Reason::FamilyIdle).step(Step::Entries(1, 0))
    };
    run_all(&FAMILIES.map(case))
}
