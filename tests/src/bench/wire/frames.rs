//! Frames a second through a card: a client, a balancer and a server in namespaces, cables between them.
//!
//! One processor does everything: it makes a frame ([`Driver::send`]), takes it through the balancer's card, and counts it
//! where it arrives. What making and counting cost alone is the first set-up, a sink on the balancer's card.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::PerCpuArray;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use serde_json::{Value, json};

use super::Effort;
use crate::bench::driver::{self, Driver, Fields, Plan};
use crate::bench::measure::median;
use crate::lab::Lab;
use crate::net::Netns;
use crate::packets::{Frame, Packet};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 2);
/// A server on the client's cable, and one on the other.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 2);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 90, 9, 9);
/// Where frames come from: beyond the client, and no address of anybody.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 0);
/// Locally administered addresses, of the client's and the server's card.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xc], [2, 0, 0, 0, 0, 0x5]];
const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
/// A frame's length, as a small datagram's or an acknowledgement's.
const LENGTH: usize = 98;
/// Different flows, taken at random; a client of [`SOURCE`] has 2 to the power of `PORTS`.
const FLOWS: u32 = 4096;
const PORTS: u32 = 6;

/// What is on the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// A sink on its card: frames end there.
    Nothing,
    /// A program that sends frames back by the card they came in by (`XDP_TX`).
    Back,
    /// A program that sends frames on by the other card.
    Across,
    /// The kernel's routing.
    Linux,
    /// Ours, the server on the client's cable.
    DrBack,
    /// Ours, by the other card.
    Dr,
    /// Ours, translated.
    Nat,
    /// Ours, IP in IP.
    Ipip,
}

impl Through {
    const ALL: [Self; 8] =
        [Self::Nothing, Self::Back, Self::DrBack, Self::Across, Self::Dr, Self::Nat, Self::Ipip, Self::Linux];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "made and counted",
            Self::Back => "XDP_TX",
            Self::Across => "XDP redirect",
            Self::Linux => "linux forwarding",
            Self::DrBack => "dr, same card",
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Ipip => "ipip",
        }
    }

    /// Is it the balancer?
    pub const fn is_ours(self) -> bool {
        self.server().is_some()
    }

    /// Its server and what `ipvsadm` is told of it, if it is ours.
    const fn server(self) -> Option<(Ipv4Addr, &'static str)> {
        match self {
            Self::DrBack => Some((NEAR, "-g")),
            Self::Dr => Some((FAR, "-g")),
            Self::Nat => Some((FAR, "-m")),
            Self::Ipip => Some((FAR, "-i")),
            _ => None,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Through what.
    pub through: Through,
    /// Frames that arrived, in a second; median of the rounds.
    pub frames: f64,
    /// Nanoseconds of a frame above that of [`Through::Nothing`].
    pub above_ns: f64,
    /// Share of the frames sent that arrived.
    pub arrived: f64,
}

impl Figure {
    /// A line of a table.
    pub fn line(&self) -> String {
        format!(
            "{:<18} {:>12.0} {:>10.0} {:>9.2}%",
            self.through.name(),
            self.frames,
            self.above_ns,
            self.arrived * 100.0
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "case": self.through.name(), "frames_per_second": self.frames.round(),
            "above_ns": self.above_ns.round(), "arrived": (self.arrived * 1e4).round() / 1e4,
        })
    }
}

/// The table's first line.
pub const HEADING: &str = "through                 frames/s   ns above    arrived";

/// Measures everything. Set-ups all stand at once and take turns.
pub fn all(effort: Effort) -> Result<Vec<Figure>> {
    let mut wires = Through::ALL.into_iter().map(Wire::new).collect::<Result<Vec<_>>>()?;
    // Connections are made, and every path is warm.
    wires.iter_mut().try_for_each(|wire| wire.turn(4 * FLOWS).map(drop))?;
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); wires.len()];
    for _ in 0..effort.rounds {
        for (wire, turns) in wires.iter_mut().zip(&mut turns) {
            turns.push(wire.turn(effort.frames)?);
        }
    }
    let ns: Vec<f64> = turns.iter().map(|turns| median(turns.iter().map(Turn::ns).collect())).collect();
    let figure = |((wire, turns), ns_each): ((&Wire, &Vec<Turn>), &f64)| Figure {
        through: wire.through,
        frames: 1e9 / ns_each,
        above_ns: ns_each - ns[0],
        arrived: median(turns.iter().map(Turn::arrived).collect()),
    };
    let figures: Vec<Figure> = wires.iter().zip(&turns).zip(&ns).map(figure).collect();
    let lossy = figures.iter().find(|figure| figure.arrived < 0.5);
    ensure!(lossy.is_none(), "most frames never arrived: {lossy:?}");
    Ok(figures)
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    sent: u32,
    sunk: u64,
    took: f64,
}

impl Turn {
    /// Nanoseconds of a frame that arrived.
    fn ns(&self) -> f64 {
        self.took / self.sunk.max(1) as f64
    }
    fn arrived(&self) -> f64 {
        self.sunk as f64 / f64::from(self.sent)
    }
}

/// A set-up.
struct Wire {
    through: Through,
    driver: Driver,
    plan: Plan,
    /// The programs stay on their cards for as long as this is there.
    programs: Vec<Ebpf>,
    /// Takes itself off the balancer's cards before these go.
    _lab: Option<Lab>,
    client: Netns,
    server: Netns,
    _balancer: Netns,
}

impl Wire {
    fn new(through: Through) -> Result<Self> {
        let [client, balancer, server] = ["client", "balancer", "server"].map(Netns::new);
        let (client, balancer, server) = (client?, balancer?, server?);
        cable(&client, &balancer, &server)?;
        let mut programs = Vec::new();
        let lab = match through {
            Through::Nothing => {
                programs.push(put_on(&balancer, "eth0", "sink", 0)?);
                None
            }
            Through::Back => {
                programs.push(put_on(&balancer, "eth0", "floor", 0)?);
                None
            }
            Through::Across => {
                let other = balancer.enter(|| index("eth1"))??;
                programs.push(put_on(&balancer, "eth0", "across", other)?);
                None
            }
            Through::Linux => {
                // Without a program on it, a veth card takes frames from XDP only if it does GRO.
                balancer.enter(|| crate::net::offload::gro_on("eth0"))??;
                None
            }
            _ => Some(ours(&balancer, through)?),
        };
        programs.push(put_on(&client, "eth0", "sink", 0)?);
        if through != Through::Linux {
            programs.push(put_on(&server, "eth0", "sink", 0)?);
        }
        let driver = client.enter(|| Driver::new(None, index("eth0")?, driver::wall_time))??;
        let plan = plan(if through.server().is_some() { VIP } else { FAR })?;
        Ok(Self { through, driver, plan, programs, _lab: lab, client, server, _balancer: balancer })
    }

    /// Sends frames and counts those that arrive.
    fn turn(&mut self, frames: u32) -> Result<Turn> {
        let before = self.sunk()?;
        let (client, driver, plan) = (&self.client, &mut self.driver, &mut self.plan);
        let ran = client.enter(|| {
            driver::pin()?;
            driver.send(plan, frames)
        })??;
        // The last ones may still be on their way; they are not what takes the time.
        thread::sleep(Duration::from_millis(20));
        let sunk = self.sunk()? - before;
        Ok(Turn { sent: frames, sunk, took: ran.cost * f64::from(frames) })
    }

    /// Frames that have arrived so far, wherever that is.
    fn sunk(&self) -> Result<u64> {
        if self.through == Through::Linux {
            let file = "/sys/class/net/eth0/statistics/rx_packets";
            let said = self.server.run(&["cat", file])?.ok()?;
            return said.trim().parse().with_context(|| format!("reading {file}"));
        }
        let counts = self.programs.iter().map(|ebpf| {
            let map = PerCpuArray::<_, u64>::try_from(ebpf.map("sunk").context("no map sunk")?)?;
            Ok(map.get(&0, 0)?.iter().sum::<u64>())
        });
        counts.sum()
    }
}

/// Client and balancer, balancer and server, with neighbours that need not be asked for: nobody answers.
fn cable(client: &Netns, balancer: &Netns, server: &Netns) -> Result<()> {
    for (near, far, mac) in [("eth0", client, MACS[0]), ("eth1", server, MACS[1])] {
        let far_name = far.name();
        balancer.ip(&format!(
            "link add {near} address {} type veth peer name eth0 address {} netns {far_name}",
            text(BALANCER_MAC),
            text(mac)
        ))?;
        far.ip("link set eth0 up")?;
    }
    balancer.ip(&format!(
        "link set eth0 up\nlink set eth1 up\naddr add 10.90.0.1/24 dev eth0\naddr add 10.90.1.1/24 dev eth1\n\
         addr add {VIP}/32 dev lo\n\
         neigh add {CLIENT} lladdr {client_mac} dev eth0 nud permanent\n\
         neigh add {NEAR} lladdr {client_mac} dev eth0 nud permanent\n\
         neigh add {FAR} lladdr {server_mac} dev eth1 nud permanent\n\
         route add 10.91.0.0/16 via {CLIENT}",
        client_mac = text(MACS[0]),
        server_mac = text(MACS[1]),
    ))?;
    balancer.sysctl("net.ipv4.ip_forward", "1")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The product on both cards, with one service and one server.
fn ours(balancer: &Netns, through: Through) -> Result<Lab> {
    let (server, how) = through.server().context("not one of ours")?;
    let lab = Lab::at(balancer)?;
    lab.ok("lb-user attach eth0 eth1")?;
    lab.quiet(&format!("ipvsadm -A -u {VIP}:80 -s rr\nipvsadm -a -u {VIP}:80 -r {server}:80 {how}"))?;
    Ok(lab)
}

/// Loads one of the benchmarks' programs and puts it on a card.
fn put_on(netns: &Netns, card: &str, name: &str, other_card: u32) -> Result<Ebpf> {
    netns.enter(|| {
        let mut loader = EbpfLoader::new();
        let mut ebpf =
            loader.override_global("OTHER_CARD", &other_card, true).load(lb_user::program::BENCH)?;
        let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load().with_context(|| format!("the kernel refuses {name}"))?;
        program.attach(card, XdpMode::Driver).with_context(|| format!("{name} on {card}"))?;
        Ok(ebpf)
    })?
}

fn index(card: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(card).with_context(|| format!("no card {card}"))
}

/// Datagrams for an address. The driver exchanges the MAC addresses as it sends.
fn plan(to: Ipv4Addr) -> Result<Plan> {
    let source = IpAddr::from(SOURCE);
    let packet = Packet::udp((source, 1024), (IpAddr::from(to), 80), &[0; LENGTH - 42]);
    let bytes = Frame::new(BALANCER_MAC, MACS[0], packet).bytes();
    ensure!(bytes.len() == LENGTH, "a frame of {} bytes", bytes.len());
    // Behind the Ethernet header: the source's last word and the sum of an IPv4 header, port and sum of UDP's.
    let fields = Fields { address_at: 14 + 12, port_at: 34, header_sum_at: 14 + 10, sum_at: 34 + 6 };
    Ok(Plan::new(&bytes, fields, PORTS)?.random(FLOWS))
}
