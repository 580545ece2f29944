//! SCTP by raw sockets: this machine's kernel may have no module for it. Real associations are the virtual machine's
//! (`vm_net`).

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::net::Netns;
use lb_tests::topo::{self, Plan};
use lb_tests::{need, pace};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);
const SCTP: i32 = 132;
const PATIENCE: Duration = Duration::from_secs(3);

/// The client's port.
const CLIENT: u16 = 1000;
/// Types of chunks.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A packet with one chunk of those that begin an association.
fn packet(from: u16, to: u16, chunk: u8) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes(), [0; 2], [0; 2], [0; 2], [0; 2]].concat();
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(0x1234_5678u32.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Bit by bit, as RFC 9260 has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

fn raw(host: &Netns, like: IpAddr) -> Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(like, 0));
    let socket = host.enter(|| Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP))))??;
    socket.set_read_timeout(Some(pace::limit(PATIENCE)))?;
    Ok(socket)
}

/// The next packet with such a chunk. Kernels that know SCTP may have said something of their own.
fn receive(mut socket: &Socket, v4: bool, chunk: u8) -> Result<Vec<u8>> {
    let end = Instant::now() + pace::limit(PATIENCE);
    while Instant::now() < end {
        let mut bytes = [0; 2048];
        let length = socket.read(&mut bytes)?;
        let packet = &bytes[if v4 { 20 } else { 0 }..length];
        if packet.get(12) == Some(&chunk) {
            return Ok(packet.to_vec());
        }
    }
    anyhow::bail!("there are other packets only")
}

pub fn sctp_is_balanced() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::new(PLAN.0, &PLAN.1)?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let [vip, _] = set.vip(9000);
    let server = &set.servers[0];
    let [at, _] = server.address.with_port(9001);
    lab.quiet(&format!("ipvsadm -A --sctp-service {vip} -s rr\nipvsadm -a --sctp-service {vip} -r {at} -m"))?;
    let there = raw(&server.netns, at.ip())?;
    let client = raw(&set.client.netns, vip.ip())?;
    // A kernel that knows SCTP would abort the association at once.
    server.netns.ip(&format!("route add blackhole {}", set.client.address.v4))?;
    client.send_to(&packet(CLIENT, 9000, INIT), &SocketAddr::new(vip.ip(), 0).into())?;
    let got = receive(&there, true, INIT).context("the server sees no packet")?;
    ensure!(got == packet(CLIENT, 9001, INIT), "ports or checksum are not the server's: {got:?}");
    // INIT1 lasts four seconds.
    let conns = lab.ok("ipvsadm -Lnc")?;
    ensure!(conns.contains("SCTP 00:") && conns.contains("INIT1"), "{conns}");
    lab.lists(&format!("{TITLE}SCTP {vip} rr\n{}", dest(at, "Masq", 1, 0, 1)))
}

/// A server on the balancer itself, on another port than the service's: both ways translated, checksums right, counted.
pub fn sctp_to_the_balancer_itself() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let clients = set.client.address.with_port(0);
    for ((vip, at), to) in set.vip(9000).into_iter().zip(set.balancer.address.with_port(9001)).zip(clients) {
        lab.quiet(&format!(
            "ipvsadm -A --sctp-service {vip} -s rr\nipvsadm -a --sctp-service {vip} -r {at} -m"
        ))?;
        let (here, client) = (raw(&set.balancer.netns, at.ip())?, raw(&set.client.netns, vip.ip())?);
        // Hosts have more than one address.
        here.bind(&SocketAddr::new(at.ip(), 0).into())?;
        client.bind(&to.into())?;
        client.send_to(&packet(CLIENT, 9000, INIT), &SocketAddr::new(vip.ip(), 0).into())?;
        let got = receive(&here, vip.is_ipv4(), INIT).with_context(|| format!("{vip}: no packet"))?;
        ensure!(got == packet(CLIENT, 9001, INIT), "ports or checksum are not the server's: {got:?}");
        here.send_to(&packet(9001, CLIENT, INIT_ACK), &to.into())?;
        let got = receive(&client, vip.is_ipv4(), INIT_ACK).with_context(|| format!("{vip}: no answer"))?;
        ensure!(got == packet(9000, CLIENT, INIT_ACK), "ports or checksum are not the service's: {got:?}");
        let stats = lab.ok("ipvsadm -Ln --stats --exact")?;
        let row = stats.lines().find(|line| line.contains(&at.to_string())).context("no row of the dest")?;
        let counts: Vec<&str> = row.split_whitespace().skip(2).take(3).collect();
        ensure!(counts[0] == "1" && counts[1] == "1" && counts[2] != "0", "{stats}");
        lab.quiet("ipvsadm -C")?;
    }
    Ok(())
}
