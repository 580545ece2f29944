//! Datagrams whose fragments come in another order than they were made in.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::need;
use lb_tests::net::Netns;
use lb_tests::pace;
use lb_tests::packets::Packet;
use lb_tests::peer::Echo;
use lb_tests::topo::{self, Plan, Topology};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);
const PATIENCE: Duration = Duration::from_secs(3);
/// As many fragments as may wait, and their first.
const PARTS: usize = 16;
const SIZE: usize = 104;

/// Of the fragments of a datagram, which comes when.
type Order = fn(usize) -> Vec<usize>;

/// The last before all others; all backwards; the first between the others.
const ORDERS: [Order; 3] = [
    |count| [vec![count - 1], (0..count - 1).collect()].concat(),
    |count| (0..count).rev().collect(),
    |count| [(1..count / 2).collect::<Vec<_>>(), vec![0], (count / 2..count).collect()].concat(),
];

pub fn fragments_wait_for_their_first() -> Result<()> {
    need::network()?;
    type Wiring = fn(&Plan) -> Result<Topology>;
    let methods: [(Wiring, &str, &str); 3] =
        [(topo::nat, "-m", "eth0 eth1"), (topo::dr, "-g", "eth0"), (topo::tun, "-i", "eth0")];
    for (wiring, method, nics) in methods {
        let set = wiring(&Plan::new(PLAN.0, &PLAN.1)?)?;
        let lab = Lab::at(&set.balancer.netns)?;
        lab.ok(&format!("lb-user attach {nics}"))?;
        if method == "-m" {
            // The loop there is is given to the new programs.
            lab.ok(&format!("lb-user attach {nics}"))?;
        }
        for family in [0, 1] {
            backwards(&set, &lab, method, family).with_context(|| format!("{method}, family {family}"))?;
        }
        lab.ok("lb-user detach")?;
        let left = lab.ok("ip -o link show")?;
        ensure!(!left.contains("lbfrag"), "the loop is still there: {left}");
    }
    Ok(())
}

/// Two sockets of one client's whose datagrams go to different servers: each is answered by its own, every time, and
/// nothing is lost.
fn backwards(set: &Topology, lab: &Lab, method: &str, family: usize) -> Result<()> {
    let vip = set.vip(53)[family];
    let mut echoes = Vec::new();
    lab.quiet(&format!("ipvsadm -A -u {vip} -s rr"))?;
    for server in &set.servers {
        let at = server.address.with_port(53)[family];
        lab.quiet(&format!("ipvsadm -a -u {vip} -r {at} {method}"))?;
        let listens = if method == "-m" { at } else { vip };
        echoes.push(Echo::start(&server.netns, &server.name(), &[listens])?);
    }
    let clients = [0, 1].map(|_| Client::new(&set.client.netns, vip));
    let [one, other] = clients;
    let (one, other) = (one?, other?);
    let servers =
        [one.ask(vip, 0, |count| (0..count).collect())?, other.ask(vip, 1, |count| (0..count).collect())?];
    ensure!(servers[0] != servers[1], "both are with {}", servers[0]);
    let before = counted(lab)?;
    for (id, order) in (2..).zip(ORDERS) {
        for (client, server) in [(&one, &servers[0]), (&other, &servers[1])] {
            let id = 100 * id + u16::from(server == &servers[1]);
            let who = client.ask(vip, id, order)?;
            ensure!(who == *server, "order {id}: {who} instead of {server}");
        }
    }
    // The first datagram of a client's, too: nobody knows where it will go.
    let new = Client::new(&set.client.netns, vip)?;
    new.ask(vip, 2, ORDERS[1])?;
    let after = counted(lab)?;
    let [held, released] = [0, 1].map(|i| after[i] - before[i]);
    let wanted = 2 * (1 + (PARTS - 1) + (PARTS / 2 - 1)) + PARTS - 1;
    ensure!(held == wanted as u64 && released == held, "{held} were put away, {released} came back");
    // Of no service: the balancer's own stack gets them all.
    let own = set.vip(54)[family];
    let _here = Echo::start(&set.balancer.netns, "here", &[own])?;
    let who = Client::new(&set.client.netns, own)?.ask(own, 3, ORDERS[1])?;
    ensure!(who == "here: ", "{who} answers");
    lab.quiet("ipvsadm -C")
}

/// How many fragments were put away, and how many of these went on.
fn counted(lab: &Lab) -> Result<[u64; 2]> {
    let status: Value = serde_json::from_str(&lab.ok("lb-user status --json")?)?;
    let reasons = status["reasons"].as_array().context("no reasons")?;
    let count = |label: &str| {
        let reason = reasons.iter().find(|reason| reason["label"] == label);
        reason.and_then(|reason| reason["count"].as_u64()).with_context(|| format!("no reason {label}"))
    };
    Ok([count("fragment-held")?, count("fragment-released")?])
}

/// A client that cuts its datagrams itself.
struct Client {
    /// Where answers come.
    socket: UdpSocket,
    /// Where the fragments leave.
    raw: Socket,
}

impl Client {
    fn new(at: &Netns, vip: SocketAddr) -> Result<Self> {
        at.enter(|| {
            // The address the client speaks from.
            let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(vip)?;
            socket.set_read_timeout(Some(pace::limit(PATIENCE)))?;
            // With this number a raw socket takes whole packets, header and all.
            let raw =
                Socket::new(Domain::for_address(vip), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            Ok(Self { socket, raw })
        })?
    }

    /// Sends a datagram in pieces; who answers it.
    fn ask(&self, vip: SocketAddr, id: u16, order: Order) -> Result<String> {
        let here = self.socket.local_addr()?;
        let words: Vec<u8> = (0..PARTS * SIZE - 8).map(|i| b'a' + (i % 26) as u8).collect();
        let whole = Packet::udp((here.ip(), here.port()), (vip.ip(), vip.port()), &words);
        let parts = whole.with(|packet| packet.id = Some(0x4000 + id)).fragments(SIZE);
        ensure!(parts.len() == PARTS, "{} parts", parts.len());
        for part in order(parts.len()) {
            self.raw.send_to(&parts[part].bytes(), &SockAddr::from(SocketAddr::new(vip.ip(), 0)))?;
        }
        let mut answer = [0; 4096];
        let got = self.socket.recv(&mut answer).with_context(|| format!("datagram {id} is not answered"))?;
        let answer = answer[..got].strip_suffix(&words[..]).context("another datagram is answered")?;
        Ok(String::from_utf8_lossy(answer).into_owned())
    }
}
