//! Clients on the balancer itself.

use anyhow::{Context, Result, ensure};
use lb_tests::drive::{self, NAT};
use lb_tests::lab::Lab;
use lb_tests::peer::{Echo, curl};
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// HTTP over both families: in turn, counted, and the socket believes that it talks to the VIP. Another namespace's
/// sockets are left alone, and once the program is off all are.
pub fn clients_on_the_balancer_itself() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for service in drive::services(&set, NAT) {
        lab.quiet(&service.commands("rr"))?;
        let answers = curl::answers(&set.balancer.netns, service.vip, 6)?;
        ensure!(answers == [service.round(), service.round()].concat(), "{answers:?}");
        let peer = set.balancer.netns.enter(|| TcpStream::connect(service.vip)?.peer_addr())??;
        ensure!(peer == service.vip, "the socket believes that it talks to {peer}");
        let conns = conns(&lab, service.vip)?;
        ensure!(conns == 7, "{conns} connections counted");
        // A client's own requests are balanced as before, and by the NIC's program alone.
        curl::answers(&set.client.netns, service.vip, 3)?;
        let all = self::conns(&lab, service.vip)?;
        ensure!(all == 10, "{all} connections counted");
    }
    lab.ok("lb-user detach")?;
    let vip = drive::services(&set, NAT)[0].vip;
    ensure!(set.balancer.netns.enter(|| TcpStream::connect(vip))?.is_err(), "balanced with nothing attached");
    Ok(())
}

/// UDP, connected and not: answers come from the VIP, and a socket stays with its server.
pub fn datagrams_of_the_balancer_itself() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let _echoes = echoes(&set)?;
    let vip = set.vip(7)[0];
    lab.quiet(&format!("ipvsadm -A -u {vip} -s rr"))?;
    for server in &set.servers {
        lab.quiet(&format!("ipvsadm -a -u {vip} -r {}:7000 -m", server.address.with_port(0)[0].ip()))?;
    }
    let socket = set.balancer.netns.enter(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    socket.set_read_timeout(Some(pace::limit(Duration::from_secs(3))))?;
    let mut names = Vec::new();
    for _ in 0..3 {
        socket.send_to(b"hello", vip)?;
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).context("no answer")?;
        ensure!(from == vip, "an answer from {from}");
        names.push(String::from_utf8_lossy(&answer[..length]).into_owned());
    }
    ensure!(names.iter().all(|name| *name == names[0]), "{names:?}");
    Ok(())
}

fn echoes(set: &Topology) -> Result<Vec<Echo>> {
    let at = |address: SocketAddr| [address];
    set.servers
        .iter()
        .map(|server| Echo::start(&server.netns, &server.name(), &at(server.address.with_port(7000)[0])))
        .collect()
}

/// What `--stats` says of a service's connections.
fn conns(lab: &Lab, vip: SocketAddr) -> Result<u64> {
    let listing = lab.ok(&format!("ipvsadm -Ln --stats -t {vip}"))?;
    let row = listing.lines().find(|line| line.starts_with("TCP")).context("no row of the service")?;
    row.split_whitespace().nth(2).context("no count")?.parse().context("not a count")
}
