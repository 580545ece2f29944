//! What is measured. The rules are those of packet cases, in the same small world ([`crate::case`]); one card, so that a
//! packet leaves by the one it came in by. Tunnels end behind the router.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Result;
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::dest::{Method, TunType};
use lb_common::host::rules::{Memory as _, NewDest, NewService, Rules};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;

use super::driver::{Driver, Fields, Plan, Target};
use super::fill;
use crate::bpf::Program;
use crate::case::{self, Engine as _, FAMILIES, HOSTS, Nic, ROUTER};
use crate::packets::{Packet, tcp};
use crate::run;

/// Every packet's length, but IPv6's are as long as their headers need.
const LENGTH: usize = 98;
/// A client has this many flows, as a power of two.
const FLOWS_OF_A_CLIENT: u32 = 4;
/// Flows of established connections.
const FLOWS: [u32; 4] = [1, 4096, 65_536, 1_000_000];
/// Services' port, and their dests'.
const PORTS: (u16, u16) = (80, 8080);
/// Hosts of the front segment that are dests.
const SERVERS: [u8; 4] = [11, 12, 13, 21];

/// How packets go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Direct routing.
    Dr,
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Translated, to the server.
    NatIn,
    /// Translated, to the client.
    NatReply,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dr, Self::Ipip, Self::Gue, Self::NatIn, Self::NatReply];

    /// Its name in a case's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::NatIn => "nat-in",
            Self::NatReply => "nat-reply",
        }
    }
    const fn method(self) -> Method {
        match self {
            Self::Dr => Method::Route,
            Self::Ipip | Self::Gue => Method::Tunnel,
            Self::NatIn | Self::NatReply => Method::Nat,
        }
    }
}

/// What kind of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of so many connections that are there, at random.
    Established(Path, u32),
    /// Each of a new connection, scheduled to one of so many dests.
    New(Path, Scheduler, u32),
    /// The same, while the table is full of connections that never got further.
    Flood,
    /// For no address of ours.
    Foreign,
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// IP version.
    pub family: Family,
    /// TCP or UDP.
    pub proto: Proto,
    /// What kind of packets.
    pub kind: Kind,
}

impl Case {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        let new = [
            (Scheduler::Rr, 4),
            (Scheduler::Wlc, 4),
            (Scheduler::Wlc, 64),
            (Scheduler::Wlc, 256),
            (Scheduler::Wlc, 1024),
            (Scheduler::Sh, 4),
            (Scheduler::Mh, 4),
        ];
        for family in FAMILIES {
            all.push(Self { family, proto: Proto::TCP, kind: Kind::Foreign });
            for proto in [Proto::TCP, Proto::UDP] {
                let of = |kind| Self { family, proto, kind };
                for path in Path::ALL {
                    all.extend(FLOWS.map(|flows| of(Kind::Established(path, flows))));
                }
                all.extend(new.map(|(scheduler, dests)| of(Kind::New(Path::Ipip, scheduler, dests))));
                all.push(of(Kind::Flood));
            }
        }
        all
    }

    /// `v4 tcp ipip 4096`, `v6 udp new wlc 64`, …
    pub fn name(&self) -> String {
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        let proto = if self.proto == Proto::TCP { "tcp" } else { "udp" };
        match self.kind {
            Kind::Established(path, flows) => format!("{family} {proto} {} {flows}", path.name()),
            Kind::New(_, scheduler, dests) => format!("{family} {proto} new {} {dests}", scheduler.name()),
            Kind::Flood => format!("{family} {proto} flood"),
            Kind::Foreign => format!("{family} pass"),
        }
    }

    /// What every packet has to be counted as.
    pub fn expected(&self) -> Reason {
        match self.kind {
            Kind::Established(Path::NatReply, _) => Reason::Replied,
            Kind::Foreign => Reason::NotOurs,
            _ => Reason::Forwarded,
        }
    }

    /// Rules, connections, and the packets to measure with.
    pub fn set_up(&self, program: &mut Program, driver: &mut Driver, slots: u32) -> Result<Plan> {
        program.reset()?;
        let maps = program.maps();
        let settings = maps.settings();
        settings.set_defaults(lb_user::bpf::clock::hz());
        settings.secret.iter().zip([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]).for_each(
            |(cell, word)| {
                cell.store(word);
            },
        );
        settings.table_key.set(&lb_common::host::TABLE_KEY);
        let mut rules = Rules::new();
        let service = rules.add_service(maps, &self.service());
        rules.add_dests(maps, service, &self.dests());
        let mut plan = self.measured()?;
        match self.kind {
            Kind::Established(_, flows) => fill::establish(self, flows, program, driver)?,
            // Connections that never get further, and the next ones.
            Kind::Flood => drop(driver.run(Target::Lb, &mut plan, slots * 3)?),
            Kind::New(..) | Kind::Foreign => {}
        }
        Ok(plan)
    }

    /// The service.
    pub fn service(&self) -> NewService {
        let scheduler = if let Kind::New(_, scheduler, _) = self.kind { scheduler } else { Scheduler::Rr };
        NewService::new(self.family, self.proto, Addr::from(case::vip(self.family)), PORTS.0, scheduler)
    }

    /// What each flow sends and gets before it is established, and what that has to be counted as.
    pub fn beginning(&self) -> Result<Vec<(Plan, Reason)>> {
        let begins = (self.request(tcp::SYN)?, Reason::Forwarded);
        let goes_on = (self.request(tcp::ACK)?, Reason::Forwarded);
        Ok(match self.kind {
            // Where replies are measured, there is one server, whose answers are seen.
            Kind::Established(Path::NatReply, _) => {
                vec![begins, (self.answer(tcp::SYN | tcp::ACK)?, Reason::Replied), goes_on]
            }
            Kind::Established(..) => vec![begins, goes_on],
            _ => Vec::new(),
        })
    }

    /// The packets to measure with.
    pub fn measured(&self) -> Result<Plan> {
        match self.kind {
            Kind::Established(Path::NatReply, flows) => Ok(self.answer(tcp::ACK)?.random(flows)),
            Kind::Established(_, flows) => Ok(self.request(tcp::ACK)?.random(flows)),
            Kind::New(..) | Kind::Flood => self.request(tcp::SYN),
            Kind::Foreign => self.foreign(),
        }
    }

    /// The service's dests.
    pub fn dests(&self) -> Vec<NewDest> {
        let family = self.family;
        let segment = |host: u8, method| NewDest::new(family, on_front(family, host), PORTS.1, method);
        let behind = |number: u32, tunnel| {
            let dest = NewDest::new(family, Addr::from(tunnel_end(family, number)), PORTS.1, Method::Tunnel);
            NewDest { tunnel, ..dest }
        };
        let ipip = |number: u32| behind(number, (TunType::Ipip, 0, Port::ZERO));
        match self.kind {
            // Its replies come from one server.
            Kind::Established(Path::NatReply, _) => vec![segment(SERVERS[0], Method::Nat)],
            Kind::Established(path @ (Path::Dr | Path::NatIn), _) => {
                SERVERS.iter().map(|host| segment(*host, path.method())).collect()
            }
            Kind::Established(Path::Gue, _) => {
                (1..=4).map(|number| behind(number, (TunType::Gue, 0, Port::new(6080)))).collect()
            }
            Kind::New(Path::Ipip, _, dests) => (1..=dests).map(ipip).collect(),
            Kind::New(path, scheduler, dests) => {
                let dest = |number| NewDest::new(family, server(family, number), PORTS.1, path.method());
                // One that has its fill would send newcomers on to nobody.
                let weight = if scheduler == Scheduler::Ovf { 65_535 } else { 1 };
                (1..=dests).map(|number| NewDest { weight, ..dest(number) }).collect()
            }
            _ => (1..=4).map(ipip).collect(),
        }
    }

    /// A client's packets, flow by flow.
    pub fn request(&self, flags: u8) -> Result<Plan> {
        let (client, vip) = (self.client(), case::vip(self.family));
        let frame = case::from_client(self.packet((client, 1024), (vip, PORTS.0), flags));
        Plan::new(&frame.bytes(), self.sender(), FLOWS_OF_A_CLIENT)
    }

    /// The first server's packets, flow by flow.
    pub fn answer(&self, flags: u8) -> Result<Plan> {
        let server = Nic::Front.host(self.family, SERVERS[0]);
        let packet = self.packet((server, PORTS.1), (self.client(), 1024), flags);
        let frame = case::from_host(Nic::Front, SERVERS[0], packet);
        let Fields { address_at, port_at, .. } = self.sender();
        let address_at = address_at + if self.family == Family::V4 { 4 } else { 16 };
        Plan::new(
            &frame.bytes(),
            Fields { address_at, port_at: port_at + 2, ..self.sender() },
            FLOWS_OF_A_CLIENT,
        )
    }

    /// Where things are if the client is the sender.
    fn sender(&self) -> Fields {
        let (address_at, transport, header_sum_at) = match self.family {
            Family::V4 => (14 + 12, 14 + 20, 14 + 10),
            Family::V6 => (14 + 8 + 12, 14 + 40, 0),
        };
        let sum_at = transport + if self.proto == Proto::TCP { 16 } else { 6 };
        Fields { address_at, port_at: transport, header_sum_at, sum_at }
    }

    fn foreign(&self) -> Result<Plan> {
        let ends = ((self.client(), 1024), (Nic::Front.host(self.family, ROUTER), PORTS.0));
        let frame = case::from_client(self.packet(ends.0, ends.1, tcp::ACK));
        Ok(Plan::new(&frame.bytes(), self.sender(), FLOWS_OF_A_CLIENT)?.random(65_536))
    }

    fn packet(&self, from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Packet {
        let headers = if self.family == Family::V4 { 14 + 20 } else { 14 + 40 };
        let data = |transport: usize| vec![0x5a; LENGTH - headers - transport];
        let packet = match self.proto {
            Proto::TCP => Packet::tcp(from, to, flags, &data(20)),
            _ => Packet::udp(from, to, &data(8)),
        };
        // As nearly every sender has it.
        packet.with(|packet| packet.df = true)
    }

    /// The first client; flows count up from it.
    fn client(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(100, 64, 0, 0).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x100, 0).into(),
        }
    }
}

fn on_front(family: Family, host: u8) -> Addr {
    Addr::from(Nic::Front.host(family, host))
}

/// Servers of the front segment beside the cases' own hosts.
pub fn server(family: Family, number: u32) -> Addr {
    Addr::from(match family {
        Family::V4 => IpAddr::from(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 1, 4, 0)) + number)),
        Family::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 4, number as u16).into(),
    })
}

/// How many of them are known.
const NUMBERED: u32 = 1024;

fn tunnel_end(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + number).into(),
        Family::V6 => Ipv6Addr::new(0xfd0c, 0, 0, 0, 0, 0, 0, number as u16).into(),
    }
}

/// What the cases' world lacks: the way by `card` to these clients, servers and tunnel ends. For the thread's namespace.
pub fn world(card: &str) -> Result<()> {
    let mut lines = String::new();
    for (family, net) in [
        (Family::V4, "100.64.0.0/10"),
        (Family::V4, "10.200.0.0/16"),
        (Family::V6, "2001:db8::/64"),
        (Family::V6, "fd0c::/64"),
    ] {
        let router = Nic::Front.host(family, ROUTER);
        writeln!(lines, "route replace {net} via {router} dev {card}")?;
    }
    for family in FAMILIES {
        let hosts = HOSTS.map(|host| on_front(family, host));
        for address in hosts.into_iter().chain((1..=NUMBERED).map(|number| server(family, number))) {
            let address = address.to_ip(family);
            writeln!(lines, "neighbour replace {address} lladdr {SERVERS_MAC} dev {card} nud permanent")?;
        }
    }
    run::run_with(Command::new("ip").args(["-batch", "-"]), lines.as_bytes(), run::LIMIT)?.ok()?;
    Ok(())
}

/// Nobody looks whose it is.
const SERVERS_MAC: &str = "02:00:00:00:01:0b";
