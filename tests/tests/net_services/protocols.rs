//! One-packet scheduling, SCTP.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::net::Netns;
use lb_tests::peer::Echo;
use lb_tests::peer::udp::Asker;
use lb_tests::topo::{self, Plan};
use lb_tests::{need, pace};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);
const SCTP: i32 = 132;

pub fn datagrams_are_scheduled_one_by_one() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new(PLAN.0, &PLAN.1)?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    for (family, vip) in set.vip(53).into_iter().enumerate() {
        let start = |server: &topo::Server| Echo::start(&server.netns, &server.name(), &[vip]);
        let _echoes = set.servers.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut rows = format!("{TITLE}UDP  {vip} rr ops\n");
        lab.quiet(&format!("ipvsadm -A -u {vip} -s rr -o"))?;
        for server in &set.servers {
            let at = server.address.with_port(53)[family];
            lab.quiet(&format!("ipvsadm -a -u {vip} -r {at}"))?;
            rows += &dest(at, "Route", 1, 0, 0);
        }
        let asker = Asker::new(&set.client.netns, vip)?;
        let answers = (0..6).map(|_| asker.ask()).collect::<Result<Vec<_>>>()?;
        ensure!(answers == ["10.211.55.70", "10.211.55.69"].repeat(3), "{answers:?}");
        lab.lists(&rows)?;
        let stats = lab.ok("ipvsadm -Ln --stats --exact")?;
        let row = stats.lines().find(|line| line.starts_with("UDP")).context("no service")?;
        let conns = row.split_whitespace().nth(2);
        ensure!(conns == Some("6"), "{stats}");
        lab.quiet("ipvsadm -C")?;
    }
    Ok(())
}

/// An INIT of an association, from port 1000 of the client's.
fn init(port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(1000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 4]);
    let mut chunk = vec![1, 0, 0, 20];
    chunk.extend(0x1234_5678u32.to_be_bytes());
    chunk.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    packet.extend([0; 4]);
    packet.extend(chunk);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Bit by bit, as RFC 9260 has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

fn raw(host: &Netns) -> Result<Socket> {
    let socket = host.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP))))??;
    socket.set_read_timeout(Some(pace::limit(Duration::from_secs(3))))?;
    Ok(socket)
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
    let mut there = raw(&server.netns)?;
    let client = raw(&set.client.netns)?;
    // A kernel that knows SCTP would abort the association at once.
    server.netns.ip(&format!("route add blackhole {}", set.client.address.v4))?;
    client.send_to(&init(9000), &SocketAddr::new(vip.ip(), 0).into())?;
    let mut packet = [0; 2048];
    let length = there.read(&mut packet).context("the server sees no packet")?;
    let sctp = &packet[20..length];
    ensure!(sctp[2..4] == 9001u16.to_be_bytes(), "{sctp:?}");
    ensure!(sctp == init(9001), "the checksum is not that of the packet: {sctp:?}");
    lab.lists(&format!("{TITLE}SCTP {vip} rr\n{}", dest(at, "Masq", 1, 0, 1)))?;
    let conns = lab.ok("ipvsadm -Lnc")?;
    ensure!(conns.contains("SCTP 00:") && conns.contains("INIT1"), "{conns}");
    Ok(())
}
