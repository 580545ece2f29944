//! One of the two balancers, with its namespaces. It has a card towards the clients and one towards the servers; all
//! neighbours are known for good. At the far ends of both cables is this program, which is every client and server.

use super::case::{Shot, server4, server6};
use super::show;
use super::wire::{self, Wire};
use crate::net::{Netns, offload, xdp_pass};
use crate::packets::{Body, Frame, Mac, Packet, tcp};
use crate::run::{self, Said};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Which balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// IPVS with ipvsadm.
    Kernel,
    /// Ours.
    Ours,
}

/// How many servers there are.
pub const SERVERS: u8 = 64;

const FRONT_MAC: Mac = [2, 0, 0, 0, 0, 1];
const BACK_MAC: Mac = [2, 0, 0, 0, 0, 2];
const CLIENTS_MAC: Mac = [2, 0, 0, 0, 1, 1];
const FENCE_CLIENT: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
const FENCE_SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 250);
const FENCE_PORT: u16 = 9;

fn server_mac(nth: u8) -> Mac {
    [2, 0, 0, 0, 9, nth]
}

/// Protocol and ends of a connection.
type Key = (u8, SocketAddr, SocketAddr);

/// A balancer and the world around it.
#[derive(Debug)]
pub struct Side {
    which: Which,
    balancer: Netns,
    front: Wire,
    back: Wire,
    /// What the server got last.
    delivered: BTreeMap<Key, Vec<u8>>,
    /// What the client got last.
    answered: BTreeMap<Key, Vec<u8>>,
    fences: u32,
    _outside: Netns,
}

impl Side {
    /// Sets everything up; ours is attached.
    pub fn new(which: Which) -> Result<Self> {
        let role = match which {
            Which::Kernel => "ipvs",
            Which::Ours => "ours",
        };
        let (balancer, outside) = (Netns::new(role)?, Netns::new(&format!("{role}-out"))?);
        outside.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        outside.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        for (card, mac, far) in [("eth0", FRONT_MAC, "front"), ("eth1", BACK_MAC, "back")] {
            let (mac, to) = (colons(mac), outside.name());
            balancer.ip(&format!("link add {card} address {mac} type veth peer name {far} netns {to}"))?;
            balancer.enter(|| offload::tx_checksum_off(card))??;
            outside.enter(|| offload::tx_checksum_off(far).and_then(|()| xdp_pass::attach(far)))??;
            balancer.ip(&format!("link set {card} up"))?;
            outside.ip(&format!("link set {far} up"))?;
        }
        balancer.ip(&addresses())?;
        for (name, value) in SYSCTLS {
            balancer.sysctl(name, value)?;
        }
        let (front, back) = (Wire::open(&outside, "front")?, Wire::open(&outside, "back")?);
        let (delivered, answered) = (BTreeMap::new(), BTreeMap::new());
        let side = Self { which, balancer, front, back, delivered, answered, fences: 0, _outside: outside };
        if which == Which::Ours {
            let mut attach = Command::new("/ours/lb-user");
            attach.args(["attach", "eth0", "eth1"]);
            side.inside(|| run::run_with(&mut attach, b"", Duration::from_secs(240)))??.ok()?;
        }
        Ok(side)
    }

    /// Puts the cases' virtual addresses on the card towards the clients.
    pub fn add_vips(&self, vips: impl Iterator<Item = IpAddr>) -> Result<()> {
        let line = |vip| match vip {
            IpAddr::V4(v4) => format!("addr add {v4}/32 dev eth0\n"),
            IpAddr::V6(v6) => format!("addr add {v6}/128 dev eth0 nodad\n"),
        };
        self.balancer.ip(&vips.map(line).collect::<String>())
    }

    /// Does something in the balancer's namespace.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(body)
    }

    /// Types a command, in a thread that is inside.
    pub fn command(&self, words: &[String], input: &str) -> Result<Said> {
        let (name, arguments) = words.split_first().context("a command has a word")?;
        let folder = match self.which {
            Which::Kernel => "/ipvs",
            Which::Ours => "/ours",
        };
        let mut command = Command::new(PathBuf::from(folder).join(name));
        command.arg0(name).args(arguments).env("LC_ALL", "C");
        self.inside(|| run::run_with(&mut command, input.as_bytes(), Duration::from_secs(30)))?
    }

    /// What our balancer counted, by reason; kernel IPVS keeps no such account.
    pub fn reasons(&self) -> Result<String> {
        match self.which {
            Which::Kernel => Ok(String::new()),
            Which::Ours => self.command(&["lb-user".to_owned(), "status".to_owned()], "")?.ok(),
        }
    }

    /// Sends a packet; gives a line for each that comes out.
    pub fn shoot(&mut self, shot: &Shot) -> Result<String> {
        let key = (protocol(&shot.kind), shot.client, shot.service);
        let Some(frame) = self.frame(shot, key)? else { return Ok("  nothing to answer\n".to_owned()) };
        let (near, far) = if shot.answer { (&self.back, &self.front) } else { (&self.front, &self.back) };
        near.send(&frame)?;
        self.fences += 1;
        let fence = fence(shot.answer, self.fences);
        near.send(&fence.bytes())?;
        let mut seen = collect(near, far, self.fences)?;
        // A late answer to a neighbour that was not there belongs to an earlier packet.
        seen.retain(|(_, frame)| mentions(frame, shot.client.ip()));
        let mut lines = String::new();
        for (is_far, frame) in seen {
            let back = is_far != shot.answer;
            writeln!(lines, "{}", show::line(if back { "server" } else { "client" }, &frame))?;
            let known = if back { &mut self.delivered } else { &mut self.answered };
            known.insert(key, frame);
        }
        if lines.is_empty() {
            lines.push_str("  nothing\n");
        }
        Ok(lines)
    }

    /// What has to be sent, unless it answers something that never came.
    fn frame(&self, shot: &Shot, key: Key) -> Result<Option<Vec<u8>>> {
        let (client, service) = (shot.client, shot.service);
        let (from, to, mac, card) = match shot.answer {
            false => (client, service, CLIENTS_MAC, FRONT_MAC),
            true => match self.delivered.get(&key).map(|frame| ends(frame)) {
                // Through a tunnel or routed: the server answers by itself, past the balancer.
                Some((to, port, mac)) if to != service.ip() => {
                    (SocketAddr::new(to, port), client, mac, BACK_MAC)
                }
                _ => return Ok(None),
            },
        };
        let quoted = if shot.answer { self.delivered.get(&key) } else { self.answered.get(&key) };
        let Some(body) = body(shot, from, to, quoted.map(|frame| &frame[14..]))? else { return Ok(None) };
        let mut packet = Packet::new(from.ip(), to.ip(), body);
        for option in &shot.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "ttl" => packet.ttl = value.parse()?,
                "tos" => packet.tos = value.parse()?,
                "df" => packet.df = true,
                "len" | "text" => {}
                _ => bail!("packets have no {name}"),
            }
        }
        Ok(Some(Frame::new(mac, card, packet).bytes()))
    }
}

const SYSCTLS: [(&str, &str); 10] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.eth0.rp_filter", "0"),
    ("net.ipv4.conf.eth1.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.eth0.send_redirects", "0"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv4.icmp_msgs_per_sec", "100000"),
    ("net.ipv6.icmp.ratelimit", "0"),
];

/// Addresses, routes and neighbours of a balancer.
fn addresses() -> String {
    let mut lines = "\
addr add 198.51.100.1/24 dev eth0
addr add fd00::1/64 dev eth0 nodad
addr add 10.9.0.1/24 dev eth1
addr add fd09::1/64 dev eth1 nodad
"
    .to_owned();
    let clients = colons(CLIENTS_MAC);
    for gateway in ["198.51.100.2", "fd00::2"] {
        lines += &format!("neigh add {gateway} lladdr {clients} dev eth0 nud permanent\n");
    }
    lines += "route add 172.16.0.0/12 via 198.51.100.2\nroute add fd01::/16 via fd00::2\n";
    for nth in 1..=SERVERS {
        let mac = colons(server_mac(nth));
        for address in [IpAddr::from(server4(nth)), server6(nth).into()] {
            lines += &format!("neigh add {address} lladdr {mac} dev eth1 nud permanent\n");
        }
    }
    lines
        + &format!(
            "neigh add {FENCE_SERVER} lladdr {} dev eth1 nud permanent\n",
            colons([2, 0, 0, 0, 9, 250])
        )
}

fn colons(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A packet that takes the plain way through the balancer: when it has come out, whatever was sent before it has too.
fn fence(answer: bool, number: u32) -> Frame {
    let (client, server) = ((FENCE_CLIENT.into(), FENCE_PORT), (FENCE_SERVER.into(), FENCE_PORT));
    let data = number.to_be_bytes();
    match answer {
        false => Frame::new(CLIENTS_MAC, FRONT_MAC, Packet::udp(client, server, &data)),
        true => Frame::new([2, 0, 0, 0, 9, 250], BACK_MAC, Packet::udp(server, client, &data)),
    }
}

fn fence_number(frame: &[u8]) -> Option<u32> {
    let is_fence = frame.get(14 + 9) == Some(&17)
        && frame.get(34..38) == Some(&[0, FENCE_PORT as u8, 0, FENCE_PORT as u8])
        && frame.get(12..14) == Some(&[8, 0]);
    let number = frame.get(42..46).filter(|_| is_fence)?;
    Some(u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

/// How long a fence may take; it is lost only when the balancer's host is.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that comes out until the fence does, and what straggles behind it; true for the far end.
fn collect(near: &Wire, far: &Wire, number: u32) -> Result<Vec<(bool, Vec<u8>)>> {
    let mut seen = Vec::new();
    let mut passed = false;
    let deadline = Instant::now() + PATIENCE;
    while !passed {
        ensure!(
            Instant::now() < deadline,
            "a packet that is for no service did not come through the balancer"
        );
        wire::wait([near, far], 500);
        drain(near, far, number, &mut seen, &mut passed);
    }
    wire::wait([near, far], 1);
    drain(near, far, number, &mut seen, &mut passed);
    Ok(seen)
}

fn drain(near: &Wire, far: &Wire, number: u32, seen: &mut Vec<(bool, Vec<u8>)>, passed: &mut bool) {
    for (is_far, wire) in [(false, near), (true, far)] {
        while let Some(frame) = wire.receive() {
            match fence_number(&frame) {
                Some(got) => *passed |= got == number,
                None if show::chatter(&frame) => {}
                None => seen.push((is_far, frame)),
            }
        }
    }
}

/// True if the address is anywhere in the frame.
fn mentions(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => frame.windows(4).any(|bytes| bytes == v4.octets()),
        IpAddr::V6(v6) => frame.windows(16).any(|bytes| bytes == v6.octets()),
    }
}

fn protocol(kind: &str) -> u8 {
    if kind.starts_with("udp") { 17 } else { 6 }
}

/// Where a delivered packet went: address, port, card.
fn ends(frame: &[u8]) -> (IpAddr, u16, Mac) {
    let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
    let mac = [0, 1, 2, 3, 4, 5].map(byte);
    let port = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    match byte(14) >> 4 {
        4 => {
            let header = 14 + usize::from(byte(14) & 15) * 4;
            // A tunnel's packet is for its server, which answers past the balancer.
            let tunnel = matches!(byte(23), 4 | 41 | 47);
            let at = if tunnel { header + 16 } else { 30 };
            (Ipv4Addr::new(byte(at), byte(at + 1), byte(at + 2), byte(at + 3)).into(), port(header + 2), mac)
        }
        _ => {
            let at = if matches!(byte(20), 4 | 41 | 47) { 54 + 24 } else { 14 + 24 };
            let bits = (0..16).fold(0, |bits, nth| bits << 8 | u128::from(byte(at + nth)));
            (std::net::Ipv6Addr::from_bits(bits).into(), port(54 + 2), mac)
        }
    }
}

/// A text as packets have it: `_` is a blank, `\r`, `\n` and `\t` are what they usually are.
fn unescaped(text: &str) -> Vec<u8> {
    let pairs = [("_", " "), ("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into_bytes()
}

fn body(shot: &Shot, from: SocketAddr, to: SocketAddr, quoted: Option<&[u8]>) -> Result<Option<Body>> {
    let length = shot.options.iter().find_map(|option| option.strip_prefix("len="));
    let length: Option<usize> = length.map(str::parse).transpose()?;
    let text = shot.options.iter().find_map(|option| option.strip_prefix("text=")).map(unescaped);
    let data = |default: &[u8]| match (&text, length) {
        (Some(text), _) => text.clone(),
        (None, Some(length)) => vec![0x55; length],
        (None, None) => default.to_vec(),
    };
    let tcp = |flags, default: &[u8]| Some(Body::Tcp(from.port(), to.port(), flags, data(default)));
    let v4 = from.is_ipv4();
    let error = |v4_kind: (u8, u8), v6_kind: (u8, u8), word| {
        let (kind, code) = if v4 { v4_kind } else { v6_kind };
        quoted.map(|packet| Body::Icmp(kind, code, word, packet[..packet.len().min(548)].to_vec()))
    };
    Ok(match shot.kind.as_str() {
        "syn" => tcp(tcp::SYN, b""),
        "synack" => tcp(tcp::SYN | tcp::ACK, b""),
        "ack" => tcp(tcp::ACK, b""),
        "data" => tcp(tcp::ACK, b"hello"),
        "fin" => tcp(tcp::FIN | tcp::ACK, b""),
        "rst" => tcp(tcp::RST, b""),
        "udp" => Some(Body::Udp(from.port(), to.port(), data(b"hello"), true)),
        "udp0" => Some(Body::Udp(from.port(), to.port(), data(b"hello"), !v4)),
        "ping" => Some(Body::Icmp(if v4 { 8 } else { 128 }, 0, 1, data(b"hello"))),
        "unreach" | "udp-unreach" => error((3, 3), (1, 4), 0),
        "expired" | "udp-expired" => error((11, 0), (3, 0), 0),
        "toobig" | "udp-toobig" => error((3, 4), (2, 0), 1400),
        other => bail!("no packet is called {other}"),
    })
}
