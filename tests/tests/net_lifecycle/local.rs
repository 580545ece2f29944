//! Clients on the balancer itself.

use anyhow::{Context, Result, bail, ensure};
use lb_tests::drive::{self, NAT};
use lb_tests::lab::Lab;
use lb_tests::peer::{Echo, curl};
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace, run};
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
        counted_both_ways(&lab, service.vip)?;
        listed(&set, &lab, service.vip)?;
    }
    lab.ok("lb-user detach")?;
    let vip = drive::services(&set, NAT)[0].vip;
    ensure!(set.balancer.netns.enter(|| TcpStream::connect(vip))?.is_err(), "balanced with nothing attached");
    Ok(())
}

/// Packets and bytes of both directions: of seven connections of its own and three others.
fn counted_both_ways(lab: &Lab, vip: SocketAddr) -> Result<()> {
    let listing = lab.ok(&format!("ipvsadm -Ln --stats --exact -t {vip}"))?;
    let row = listing.lines().find(|line| line.starts_with("TCP")).context("no row of the service")?;
    let [conns, packets_in, packets_out, bytes_in, bytes_out] = counts(row)[..] else { bail!("{listing}") };
    ensure!(conns == 10 && packets_in >= 10 * 4 && packets_out >= 10 * 3, "{listing}");
    // Nine requests and their answers, beside the headers of all packets.
    let headers = if vip.is_ipv4() { 40 } else { 60 };
    ensure!(
        bytes_in > packets_in * headers + 9 * 40 && bytes_out > packets_out * headers + 9 * 100,
        "{listing}"
    );
    Ok(())
}

/// The connection stands in the listing, by the socket's own address, and its server's counts say so.
fn listed(set: &Topology, lab: &Lab, vip: SocketAddr) -> Result<()> {
    let open = set.balancer.netns.enter(|| TcpStream::connect(vip))??;
    let own = open.local_addr()?;
    let row = |state: &str| {
        let shown = lab.ok("ipvsadm -Lnc")?;
        let row = |line: &&str| line.contains(&format!(" {own} ")) && line.contains(&format!(" {vip} "));
        Ok::<_, anyhow::Error>(shown.lines().find(row).is_some_and(|line| line.contains(state)))
    };
    ensure!(row("ESTABLISHED")?, "{own} is not listed: {}", lab.ok("ipvsadm -Lnc")?);
    let active = |listing: &str| {
        let dests = listing.lines().filter(|line| line.contains("Masq"));
        dests.filter_map(|line| line.split_whitespace().nth(4)?.parse::<u32>().ok()).sum::<u32>()
    };
    let listing = lab.ok(&format!("ipvsadm -Ln -t {vip}"))?;
    ensure!(active(&listing) == 1, "{listing}");
    drop(open);
    run::until(pace::limit(Duration::from_secs(3)), "the connection closed", || {
        row("ESTABLISHED").is_ok_and(|there| !there).then_some(())
    })
}

/// The numbers of a listing's row.
fn counts(row: &str) -> Vec<u64> {
    row.split_whitespace().skip(2).filter_map(|word| word.parse().ok()).collect()
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
    let listing = lab.ok(&format!("ipvsadm -Ln --stats --exact -u {vip}"))?;
    let row = listing.lines().find(|line| line.starts_with("UDP")).context("no row of the service")?;
    let (asked, answered) = (3 * (28 + 5), 3 * (28 + names[0].len() as u64));
    ensure!(counts(row) == [1, 3, 3, asked, answered], "{listing}");
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
