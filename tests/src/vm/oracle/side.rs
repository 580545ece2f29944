//! One of the two balancers, with its namespaces. It has a card towards the clients and one towards the servers; all
//! neighbours are known for good. At the far ends of both cables is this program, which is every client and server.

use super::case::Shot;
use super::shot::{self, Memory};
use super::whole::{self, Whole};
use super::wire::Wire;
use super::world::{BACK_MAC, FRONT_MAC, NARROW_MTU, SYSCTLS, addresses, colons};
use super::{fence, show};
use crate::net::{Netns, offload, xdp_pass};
use crate::pace;
use crate::run::{self, Said};
use anyhow::{Context, Result, bail};
use lb_user::bpf::bpffs;
use lb_user::bpf::pins::Rules;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Which balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// IPVS with ipvsadm.
    Kernel,
    /// Ours.
    Ours,
}

/// A balancer and the world around it.
#[derive(Debug)]
pub struct Side {
    /// Whose.
    pub which: Which,
    balancer: Netns,
    front: Wire,
    back: Wire,
    memory: Memory,
    fences: u32,
    /// Sockets of clients on the balancer itself.
    here: BTreeMap<SocketAddr, UdpSocket>,
    /// Sysctls the case has set.
    set: BTreeSet<String>,
    /// The far end of the card a master tells others by.
    pub(super) ear: Option<Wire>,
    outside: Netns,
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
        let (memory, set) = (Memory::default(), BTreeSet::new());
        let side = Self {
            which,
            balancer,
            front,
            back,
            memory,
            fences: 0,
            here: BTreeMap::new(),
            set,
            ear: None,
            outside,
        };
        match which {
            Which::Kernel => drop(side.tool("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?.ok()?),
            Which::Ours => {
                drop(side.tool("/ours/lb-user", &["attach", "eth0", "eth1", "--connections", "8192"])?.ok()?)
            }
        }
        Ok(side)
    }

    /// Makes a card for a master to tell others by, with somebody at its far end.
    pub(super) fn open_ear(&mut self) -> Result<()> {
        if self.ear.is_none() {
            let to = self.outside.name();
            self.balancer.ip(&format!(
                "link add tell type veth peer name told netns {to}\naddr add 10.89.0.1/24 dev tell\nlink set tell up"
            ))?;
            self.outside.ip("link set told up")?;
            self.ear = Some(Wire::open(&self.outside, "told")?);
        }
        Ok(())
    }

    /// Puts the cases' virtual addresses on the card towards the clients.
    pub fn add_vips(&self, vips: impl Iterator<Item = IpAddr>) -> Result<()> {
        let line = |vip| match vip {
            IpAddr::V4(v4) => format!("addr add {v4}/32 dev eth0\n"),
            IpAddr::V6(v6) => format!("addr add {v6}/128 dev eth0 nodad\n"),
        };
        self.balancer.ip(&vips.map(line).collect::<String>())
    }

    /// A cable from balancer to balancer, the card `sync0` at both ends.
    pub fn cable(&self, other: &Self) -> Result<()> {
        let to = other.balancer.name();
        self.balancer.ip(&format!("link add sync0 type veth peer name sync0 netns {to}"))?;
        for (side, host) in [(self, 1), (other, 2)] {
            side.balancer.ip(&format!(
                "addr add 10.88.0.{host}/24 dev sync0\naddr add fd88::{host}/64 dev sync0 nodad\nlink set sync0 up"
            ))?;
        }
        Ok(())
    }

    /// Does something in the balancer's namespace.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(body)
    }

    /// Types a command: one of ipvsadm's, or `sysctl`, `mark`, `master` or `narrow`, which each side has its own words for and which
    /// have to succeed.
    pub fn command(&mut self, words: &[String], input: &str) -> Result<Option<Said>> {
        let (name, arguments) = words.split_first().context("a command has a word")?;
        match name.as_str() {
            "sysctl" => self.sysctl(&arguments.join(" ")).map(|()| None),
            "master" => self.master(arguments.first().context("master on|off")?).map(|()| None),
            "mark" => self.mark(arguments).map(|()| None),
            "narrow" => self.narrow(arguments.first().context("narrow ADDRESS")?).map(|()| None),
            _ => self.ipvsadm(words, input).map(Some),
        }
    }

    /// Types one of ipvsadm's commands.
    pub fn ipvsadm(&self, words: &[String], input: &str) -> Result<Said> {
        let (name, arguments) = words.split_first().context("a command has a word")?;
        let folder = match self.which {
            Which::Kernel => "/ipvs",
            Which::Ours => "/ours",
        };
        let mut command = Command::new(PathBuf::from(folder).join(name));
        command.arg0(name).args(arguments).env("LC_ALL", "C");
        self.inside(|| run::run_with(&mut command, input.as_bytes(), Duration::from_secs(60)))?
    }

    fn tool(&self, program: &str, words: &[&str]) -> Result<Said> {
        let mut command = Command::new(program);
        command.args(words);
        self.inside(|| run::run_with(&mut command, b"", Duration::from_secs(240)))?
    }

    /// `NAME=VALUE`, of net.ipv4.vs.
    fn sysctl(&mut self, word: &str) -> Result<()> {
        let (name, value) = word.split_once('=').context("sysctl NAME=VALUE")?;
        self.set.insert(name.to_owned());
        match self.which {
            Which::Kernel => self.balancer.sysctl(&format!("net.ipv4.vs.{name}"), value),
            Which::Ours => self.tool("/ours/lb-user", &["sysctl", word])?.ok().map(drop),
        }
    }

    /// Lets the estimators step, or holds them. Not by a command: an emulated processor takes longer for one than for a step.
    pub(super) fn estimate(&mut self, on: bool) -> Result<()> {
        self.set.insert("run_estimation".to_owned());
        match self.which {
            Which::Kernel => self.balancer.sysctl("net.ipv4.vs.run_estimation", if on { "1" } else { "0" }),
            Which::Ours => self.rules(|rules| {
                rules.settings()?.run_estimation.store(u32::from(on));
                Ok(())
            }),
        }
    }

    /// Looks at our balancer's tables.
    pub(super) fn rules<T: Send>(&self, look: impl FnOnce(&Rules) -> Result<T> + Send) -> Result<T> {
        self.inside(|| look(&Rules::open(&bpffs::instance(None)?)?.context("there are no rules")?))?
    }

    /// Every sysctl a case has set gets its default back.
    pub fn reset(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.set) {
            let default = match name.as_str() {
                "conn_reuse_mode" | "pmtu_disc" | "run_estimation" => "1",
                "am_droprate" => "10",
                "sync_threshold" => "3 50",
                _ => "0",
            };
            self.sysctl(&format!("{name}={default}"))?;
        }
        self.set.clear();
        Ok(())
    }

    /// `MARK ADDRESS [PROTOCOL [PORT[-PORT]]]`: packets to there get the mark. For kernel IPVS the classifier at the card
    /// gives it, in place of a packet filter.
    fn mark(&self, words: &[String]) -> Result<()> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let [mark, to, of @ ..] = words.as_slice() else { bail!("mark MARK ADDRESS [PROTOCOL [PORT]]") };
        let pairs = |names: [&'static str; 2]| {
            names
                .into_iter()
                .zip(of.iter().copied())
                .flat_map(|(name, value)| [name, value])
                .collect::<Vec<_>>()
        };
        match self.which {
            Which::Kernel => {
                let family = if to.contains(':') { "ipv6" } else { "ip" };
                let mut line = vec!["filter", "add", "dev", "eth0", "ingress", "protocol", family, "flower"];
                line.extend(["dst_ip", to]);
                line.extend(pairs(["ip_proto", "dst_port"]));
                line.extend(["action", "skbedit", "mark", mark]);
                self.tool("tc", &line)?.ok().map(drop)
            }
            Which::Ours => {
                let mut line = vec!["mark", "add", "--mark", mark, "--dst", to];
                line.extend(pairs(["--proto", "--dport"]));
                self.tool("/ours/lb-user", &line)?.ok().map(drop)
            }
        }
    }

    /// The way to a client gets the MTU of the narrow servers.
    fn narrow(&self, client: &str) -> Result<()> {
        let gateway = if client.contains(':') { "fd00::2" } else { "198.51.100.2" };
        self.balancer.ip(&format!("route add {client} via {gateway} dev eth0 mtu lock {NARROW_MTU}"))
    }

    /// What our balancer counted, by reason; kernel IPVS keeps no such account.
    pub fn reasons(&self) -> Result<String> {
        match self.which {
            Which::Kernel => Ok(String::new()),
            Which::Ours => self.tool("/ours/lb-user", &["status"])?.ok(),
        }
    }

    /// Sends a packet; gives a line for each that comes out. Fragments are put together first: kernel IPVS forwards them
    /// only so.
    pub fn shoot(&mut self, shot: &Shot) -> Result<String> {
        let frames = self.memory.frames(shot)?;
        if frames.is_empty() {
            return Ok("  nothing to answer\n".to_owned());
        }
        let (near, far) = if shot.answer { (&self.back, &self.front) } else { (&self.front, &self.back) };
        if shot.has("here") {
            let socket = match self.here.entry(shot.client) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(here(&self.balancer, shot.client)?),
            };
            socket.send_to(&shot::said_here(shot)?, shot.service)?;
        } else {
            frames.iter().try_for_each(|frame| near.send(frame))?;
        }
        if shot.has("backwards") {
            // They wait for each other, which the fence behind them does not.
            thread::sleep(pace::limit(Duration::from_millis(20)));
        }
        self.fences += 1;
        near.send(&fence::packet(shot.answer, self.fences).bytes())?;
        let mut seen = fence::collect(near, far, self.fences)?;
        // A late answer to a neighbour that was not there belongs to an earlier packet.
        seen.retain(|(_, frame)| mentions(frame, shot.client.ip()) || frames.len() > 1);
        let seen = match frames.len() {
            1 => seen.into_iter().map(|(far, frame)| Whole { far, frame, around: "" }).collect(),
            _ => whole::datagrams(seen),
        };
        let mut lines = String::new();
        for Whole { far, frame, around } in seen {
            let at_server = far != shot.answer;
            let line = show::line(if at_server { "server" } else { "client" }, &frame);
            writeln!(lines, "{}{around}", if shot.has("here") { without_journey(&line) } else { line })?;
            self.memory.keep(shot, at_server, frame);
        }
        if shot.answer
            && let Some(socket) = self.here.get(&shot.client)
        {
            let mut data = [0; 2048];
            match socket.recv_from(&mut data) {
                Ok((length, from)) => writeln!(lines, "  here: {length} bytes from {from}")?,
                Err(error) => writeln!(lines, "  here: {error}")?,
            }
        }
        if lines.is_empty() {
            lines.push_str("  nothing\n");
        }
        Ok(lines)
    }
}

/// A socket on the balancer itself. It waits for answers, which come late at the worst.
fn here(balancer: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = balancer.enter(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(pace::limit(Duration::from_secs(1))))?;
    Ok(socket)
}

/// A packet's line without what tells how it was made and how far it has come: kernel IPVS takes one off the TTL of what the
/// machine itself sends, and flow labels are the socket's.
fn without_journey(line: &str) -> String {
    let (words, _bytes) = line.split_once(" | ").unwrap_or((line, ""));
    let journey = |word: &&str| word.starts_with("ttl=") || word.starts_with("hops=");
    words.split(' ').filter(|word| !journey(word)).collect::<Vec<_>>().join(" ")
}

/// True if the address is anywhere in the frame.
fn mentions(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => frame.windows(4).any(|bytes| bytes == v4.octets()),
        IpAddr::V6(v6) => frame.windows(16).any(|bytes| bytes == v6.octets()),
    }
}
