//! FTP under NAT: what is said on control connections, and the data connections that follow from it.

use anyhow::Result;
use lb_common::addr::{Addr, Family, Proto};
use lb_common::dest::Method;
use lb_common::host::rules::NewService;
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_tests::case::{
    Case, Expect, FAMILIES, Live, Nic, Step, Way, client, dest, from_client, from_host, run_all, to_client,
    to_host, vip,
};
use lb_tests::packets::tcp::{ACK, FIN, RST, SYN};
use lb_tests::packets::{Frame, Packet};
use std::net::{IpAddr, Ipv4Addr};

lb_tests::tests!(
    passive,
    a_longer_address_takes_the_place_of_words,
    without_room_the_client_is_refused,
    replies_nobody_asked_for_stay,
    extended_passive,
    active,
    active_behind_another_port,
    commands_as_they_come,
    the_control_connection_outlives_its_time,
    data_connections_come_with_a_command_only,
);

const LISTEN: u8 = 9;
/// The client's port of control connections.
const PORT: u16 = 1025;

/// A service on port 21 with two servers, of which the second is asked first.
struct World {
    family: Family,
    vip: IpAddr,
    /// The servers' port.
    port: u16,
}

impl World {
    fn new(family: Family) -> Self {
        Self { family, vip: vip(family), port: 21 }
    }

    fn case(&self, title: &str) -> Case {
        let service = NewService::new(self.family, Proto::TCP, Addr::from(self.vip), 21, Scheduler::Rr);
        let dests = [12, 11].map(|host| dest(Nic::Back, self.family, host, self.port, Method::Nat));
        Case::new(format!("{title} {:?}", self.family), service, &dests)
    }

    fn client(&self) -> IpAddr {
        client(self.family, 7)
    }

    fn server(&self) -> IpAddr {
        Nic::Back.host(self.family, 11)
    }

    /// A client's segment from one of its ports, as it leaves the balancer.
    fn asks(&self, case: Case, (sport, dport): (u16, u16), to: u16, flags: u8, text: &str) -> Case {
        let data = text.as_bytes();
        let frame = from_client(Packet::tcp((self.client(), sport), (self.vip, dport), flags, data));
        let sent = Packet::tcp((self.client(), sport), (self.server(), to), flags, data).with(|p| p.ttl -= 1);
        case.forwards(Nic::Front, Way::Redirect, &frame, to_host(Nic::Back, 11, sent))
    }

    fn answer(&self, sport: u16, dport: u16, flags: u8, text: &str) -> Frame {
        let packet = Packet::tcp((self.server(), sport), (self.client(), dport), flags, text.as_bytes());
        from_host(Nic::Back, 11, packet)
    }

    /// A server's segment, as it leaves the balancer.
    fn answers(
        &self,
        case: Case,
        sport: u16,
        (vport, cport): (u16, u16),
        flags: u8,
        texts: [&str; 2],
    ) -> Case {
        let frame = self.answer(sport, cport, flags, texts[0]);
        let data = texts[1].as_bytes();
        let back = Packet::tcp((self.vip, vport), (self.client(), cport), flags, data).with(|p| p.ttl -= 1);
        case.replies(Nic::Back, Way::Redirect, &frame, to_client(back))
    }

    /// The control connection is there.
    fn logged_in(&self, title: &str) -> Case {
        let all = self.asks(self.case(title), (PORT, 21), self.port, SYN, "");
        let all = self.answers(all, self.port, (21, PORT), SYN | ACK, ["", ""]);
        self.asks(all, (PORT, 21), self.port, ACK, "")
    }

    fn says(&self, case: Case, text: &str) -> Case {
        self.asks(case, (PORT, 21), self.port, ACK, text)
    }

    fn hears(&self, case: Case, text: &str, heard: &str) -> Case {
        self.answers(case, self.port, (21, PORT), ACK, [text, heard])
    }

    fn entry(&self, cport: u16, vport: u16, state: u8, active: bool) -> Live {
        Live {
            client: (self.client(), cport),
            virtual_end: (self.vip, vport),
            proto: 6,
            dest: 1,
            state,
            active,
            template: false,
        }
    }

    fn control(&self) -> Live {
        self.entry(PORT, 21, 1, true)
    }

    /// The client begins the data connection that is waited for.
    fn passive_data(&self, case: Case, cport: u16, port: u16) -> Case {
        let case = case.step(Step::Table(vec![self.control(), self.entry(0, port, LISTEN, false)]));
        let case = self.asks(case, (cport, port), port, SYN, "");
        let case = case.step(Step::Table(vec![self.control(), self.entry(cport, port, 3, true)]));
        let case = self.answers(case, port, (port, cport), SYN | ACK, ["", ""]);
        let case = self.asks(case, (cport, port), port, ACK, "upload");
        let case = self.answers(case, port, (port, cport), ACK, ["227 (1,2,3,4,5,6)", "227 (1,2,3,4,5,6)"]);
        // Data connections are nobody's choice, and are not counted as such.
        case.step(Step::Table(vec![self.control(), self.entry(cport, port, 1, true)]))
            .step(Step::Counts(1, 2, 0))
    }

    /// The server begins the data connection that is waited for.
    fn active_data(&self, case: Case, cport: u16) -> Case {
        let port = self.port - 1;
        let case = case.step(Step::Table(vec![self.control(), self.entry(cport, 20, LISTEN, false)]));
        let case = self.answers(case, port, (20, cport), SYN, ["", ""]);
        let case = self.asks(case, (cport, 20), port, SYN | ACK, "");
        let case = self.answers(case, port, (20, cport), ACK, ["download", "download"]);
        case.step(Step::Table(vec![self.control(), self.entry(cport, 20, 1, true)]))
    }
}

fn passive() -> Result<()> {
    let world = World::new(Family::V4);
    let all = world.says(world.logged_in("passive"), "PASV\r\n");
    let all = world.hears(
        all,
        "227 Entering Passive Mode (10,2,0,11,195,80).\r\n",
        "227 Entering Passive Mode  (10,9,0,1,195,80).\r\n",
    );
    let all = world.passive_data(all, 4000, 50000).step(Step::Traffic(1, [5, 4, 1]));
    run_all(&[all])
}

fn a_longer_address_takes_the_place_of_words() -> Result<()> {
    let world = World { vip: Ipv4Addr::new(203, 0, 113, 200).into(), ..World::new(Family::V4) };
    let texts = [
        (
            "227 Entering Passive Mode (10,2,0,11,195,80).\r\n",
            "227 Entering Passive M(203,0,113,200,195,80).\r\n",
        ),
        ("227 PASV ok (10,2,0,11,195,80)\r\n", "227 PASV(203,0,113,200,195,80)\r\n"),
        // An odd place, and no parenthesis.
        ("227 Now 10,2,0,11,195,80\r\n", "227 203,0,113,200,195,80\r\n"),
    ];
    let cases = texts.map(|(said, heard)| {
        let all = world.hears(world.says(world.logged_in("longer"), "pasv\r\n"), said, heard);
        world.passive_data(all, 4000, 50000)
    });
    run_all(&cases)
}

fn without_room_the_client_is_refused() -> Result<()> {
    let world = World { vip: Ipv4Addr::new(203, 0, 113, 200).into(), ..World::new(Family::V4) };
    let all = world.says(world.logged_in("no room"), "PASV\r\n");
    let all = world.hears(all, "227 10,2,0,11,195,80\r\n", "425 10,2,0,11,195,80\r\n");
    run_all(&[all.step(Step::Table(vec![world.control()]))])
}

fn replies_nobody_asked_for_stay() -> Result<()> {
    let world = World::new(Family::V4);
    let same = |all, text: &str| world.hears(all, text, text);
    let all = same(world.logged_in("unasked"), "227 Entering Passive Mode (10,2,0,11,195,80).\r\n");
    let all = world.says(all, "PASV\r\n");
    let all = same(all, "220 (10,2,0,11,195,80)\r\n");
    let all = same(all, " 227 (10,2,0,11,195,80)\r\n");
    let all = same(all, "227 (10,2,0,11,195)\r\n");
    let all = same(all, "227 (10,2,0,11,195,80");
    let all = same(all, "227 (10,2,0,12,195,80)\r\n");
    let all = same(all, "229 (|||50000|)\r\n");
    run_all(&[all.step(Step::Table(vec![world.control()]))])
}

fn extended_passive() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let world = World::new(family);
        let command = if family == Family::V4 { "EPSV 1\r\n" } else { "EPSV\r\n" };
        let all = world.says(world.logged_in("extended"), command);
        let text = "229 Entering Extended Passive Mode (|||50000|)\r\n";
        world.passive_data(world.hears(all, text, text), 4000, 50000)
    }))
}

fn active() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let world = World::new(family);
        let command = match family {
            Family::V4 => "PORT 192,0,2,7,195,80\r\n".to_owned(),
            Family::V6 => format!("EPRT |2|{}|50000|\r\n", world.client()),
        };
        world.active_data(world.says(world.logged_in("active"), &command), 50000)
    }))
}

fn active_behind_another_port() -> Result<()> {
    let world = World { port: 2121, ..World::new(Family::V4) };
    let all = world.says(world.logged_in("another port"), "eprt |1|192.0.2.7|50000|\r\n");
    run_all(&[world.active_data(all, 50000)])
}

fn commands_as_they_come() -> Result<()> {
    let waits = |world: &World, text: &str, ports: (u16, u16)| {
        let all = world.says(world.logged_in(text), text);
        all.step(Step::Table(vec![world.control(), world.entry(ports.0, ports.1, LISTEN, false)]))
    };
    let nothing = |world: &World, text: &str| {
        world.says(world.logged_in(text), text).step(Step::Table(vec![world.control()]))
    };
    let (v4, v6) = (World::new(Family::V4), World::new(Family::V6));
    run_all(&[
        waits(&v4, "port  192,0,2,7,1,2\r\n", (258, 20)),
        waits(&v4, "EPRT !1!192.0.2.7!258!\r\n", (258, 20)),
        nothing(&v4, " PORT 192,0,2,7,1,2\r\n"),
        nothing(&v4, "PORT 192,0,2,7,1\r\n"),
        nothing(&v4, "PORT 192,0,2,7,1,2"),
        nothing(&v4, "EPRT |2|192.0.2.7|258|\r\n"),
        nothing(&v4, "EPRT |1|192.0.2.7|258\r\n"),
        nothing(&v4, "EPRT |1|192.0.2.7|0|\r\n"),
        nothing(&v4, "NOOP\r\n"),
        nothing(&v4, "P"),
        nothing(&v6, "PORT 192,0,2,7,1,2\r\n"),
        nothing(&v6, "EPRT |1|192.0.2.7|258|\r\n"),
        // The last choice counts: active.
        world_after(&v4, &["PASV\r\n", "PORT 192,0,2,7,1,2\r\n"]),
    ])
}

/// After these commands the server's 227 is not read.
fn world_after(world: &World, commands: &[&str]) -> Case {
    let all = commands.iter().fold(world.logged_in("last choice"), |all, text| world.says(all, text));
    let text = "227 Entering Passive Mode (10,2,0,11,195,80).\r\n";
    let all = world.hears(all, text, text);
    all.step(Step::Table(vec![world.control(), world.entry(258, 20, LISTEN, false)]))
}

/// A long transfer, during which nothing is said: ipvs.md 4.6.
fn the_control_connection_outlives_its_time() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let world = World::new(family);
        let all = world.says(world.logged_in("outlives"), "EPSV\r\n");
        let text = "229 Entering Extended Passive Mode (|||50000|)\r\n";
        let all = world.passive_data(world.hears(all, text, text), 4000, 50000);
        let all = all.step(Step::Wait(800));
        let all = world.asks(all, (4000, 50000), 50000, ACK, "more");
        // The control connection's 900 seconds are over; swept or not, it goes on.
        let all = all.step(Step::Wait(105)).step(Step::Sweep);
        let all = all.step(Step::Table(vec![world.control(), world.entry(4000, 50000, 1, true)]));
        let all = world.asks(all.step(Step::Wait(30)), (4000, 50000), 50000, RST, "");
        // The data connection ends after ten seconds, the control connection waits out its sixty.
        let all = all.step(Step::Wait(11)).step(Step::Sweep).step(Step::Table(vec![world.control()]));
        all.step(Step::Wait(30)).step(Step::Sweep).step(Step::Entries(0, 0)).step(Step::Counts(1, 0, 0))
    }))
}

fn data_connections_come_with_a_command_only() -> Result<()> {
    run_all(&FAMILIES.map(|family| {
        let world = World::new(family);
        let all = world.logged_in("none");
        let to = |port| from_client(Packet::tcp((world.client(), 4000), (world.vip, port), SYN, b""));
        let all = all.passes(&to(50000), Reason::NoConnection);
        let begun = world.answer(20, 50000, SYN, "");
        let all = all.step(Step::Send(Nic::Back, begun.bytes(), Expect::Passes(Reason::ReplyUnknown)));
        let all = world.says(all, "EPSV\r\n");
        let text = "229 Entering Extended Passive Mode (|||50000|)\r\n";
        let all = world.hears(all, text, text);
        // Another port is not waited for, and after two minutes none is.
        let all = all.passes(&to(50001), Reason::NoConnection).step(Step::Wait(121));
        let all = all.passes(&to(50000), Reason::NoConnection);
        let all = world.asks(all, (PORT, 21), 21, FIN | ACK, "");
        all.step(Step::Sweep).step(Step::Entries(1, 0))
    }))
}
