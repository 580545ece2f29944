//! Servers on the balancer itself, under NAT.

use anyhow::{Context, Result, ensure};
use lb_tests::drive;
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::net::offload;
use lb_tests::peer::nginx::Nginx;
use lb_tests::peer::{Echo, curl, http::Connection};
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const HERE: &str = "here";
const PATIENCE: Duration = Duration::from_secs(3);

fn wired() -> Result<(Topology, Lab)> {
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    Ok((set, lab))
}

/// Beside a remote one, on the service's port and on another, whoever computes the checksums: answers in turn, whole
/// files, and everything listed as of any server.
pub fn a_server_on_the_balancer_itself() -> Result<()> {
    need::network()?;
    let (set, lab) = wired()?;
    let _nginx = Nginx::start(&set.balancer.netns, HERE, &[80, 8080], &set.content)?;
    let there = &set.servers[0];
    for family in [0, 1] {
        let remote = there.address.with_port(80)[family];
        for (service, port, offloaded) in [(80, 80, false), (81, 8080, false), (82, 8080, true)] {
            let vip = set.vip(service)[family];
            set.balancer.netns.enter(|| offload::set_tx_checksum(&set.balancer.nic, offloaded))??;
            let local = set.balancer.address.with_port(port)[family];
            lab.quiet(&format!(
                "ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {remote} -m\nipvsadm -a -t {vip} -r {local} -m"
            ))?;
            drive::answers_in_turn(&set, vip, &[HERE.to_owned(), there.name()], 20)?;
            for server in [HERE, "the remote one"] {
                let got = curl::download(&set.client.netns, vip, "/big")?;
                ensure!(got == set.content.big(), "{vip}: what came from {server} is not what it has");
            }
            lab.lists(&format!(
                "{TITLE}TCP  {vip} rr\n{}{}",
                dest(local, "Masq", 1, 0, 11),
                dest(remote, "Masq", 1, 0, 11)
            ))?;
            counted_both_ways(&lab, local)?;
            states(&set, &lab, vip, local)?;
            lab.quiet("ipvsadm -C")?;
        }
    }
    Ok(())
}

/// Packets and bytes of both directions, and as many of them as eleven connections with a large file have.
fn counted_both_ways(lab: &Lab, local: SocketAddr) -> Result<()> {
    let listing = lab.ok("ipvsadm -Ln --stats --exact")?;
    let row = listing.lines().find(|line| line.contains(&local.to_string())).context("no row of the dest")?;
    let counts: Vec<u64> = row.split_whitespace().skip(2).filter_map(|word| word.parse().ok()).collect();
    let [conns, inpkts, outpkts, inbytes, outbytes] = counts[..] else { anyhow::bail!("{listing}") };
    ensure!(conns == 11 && inpkts >= 55 && outpkts >= 44, "{listing}");
    ensure!(inbytes > 11 * 100 && outbytes > 100_000, "{listing}");
    Ok(())
}

/// A connection is established while it is open, and closed from both sides afterwards.
fn states(set: &Topology, lab: &Lab, vip: SocketAddr, local: SocketAddr) -> Result<()> {
    let mut open = Connection::open(&set.client.netns, vip)?;
    let who = open.who()?;
    ensure!(who == HERE, "{who} answers");
    let client = open.local()?;
    let state = |wanted: &str| {
        let mut last = String::new();
        let row = |listing: &str| {
            listing.lines().any(|line| {
                line.contains(&client.to_string())
                    && line.contains(&local.to_string())
                    && line.contains(wanted)
            })
        };
        lb_tests::run::until(PATIENCE, wanted, || {
            last = lab.ok("ipvsadm -Lnc").unwrap_or_default();
            row(&last).then_some(())
        })
        .with_context(|| format!("{client} is not {wanted}:\n{last}"))
    };
    state("ESTABLISHED")?;
    drop(open);
    state("TIME_WAIT")
}

/// Datagrams, short ones and ones in fragments: the answer comes from the service.
pub fn datagrams_to_the_balancer_itself() -> Result<()> {
    need::network()?;
    let (set, lab) = wired()?;
    let at = set.balancer.address.with_port(7000);
    let _echo = Echo::start(&set.balancer.netns, HERE, &at)?;
    for (vip, at) in set.vip(7).into_iter().zip(at) {
        lab.quiet(&format!("ipvsadm -A -u {vip} -s rr\nipvsadm -a -u {vip} -r {at} -m"))?;
        for length in [5, 2000] {
            let socket = set.client.netns.enter(|| UdpSocket::bind(SocketAddr::new(any(vip), 0)))??;
            socket.set_read_timeout(Some(pace::limit(PATIENCE)))?;
            let asked = vec![b'x'; length];
            socket.send_to(&asked, vip)?;
            let mut answer = [0; 4096];
            let (got, from) = socket
                .recv_from(&mut answer)
                .with_context(|| format!("{vip}: no answer to {length} bytes"))?;
            ensure!(from == vip, "an answer from {from}");
            ensure!(answer[..got] == [b"here: ", &asked[..]].concat(), "not what was sent to {vip}");
        }
        let listing = lab.ok("ipvsadm -Ln --stats --exact")?;
        let row =
            listing.lines().find(|line| line.contains(&at.to_string())).context("no row of the dest")?;
        // One packet each way, and two fragments each way.
        let counts: Vec<&str> = row.split_whitespace().skip(2).take(3).collect();
        ensure!(counts == ["2", "3", "3"], "{listing}");
        lab.quiet("ipvsadm -C")?;
    }
    Ok(())
}

fn any(like: SocketAddr) -> std::net::IpAddr {
    if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

/// A loopback address takes the connection and answers nothing: packets from outside may not go there.
pub fn the_loopback_address_is_out_of_reach() -> Result<()> {
    need::network()?;
    let (set, lab) = wired()?;
    let loopback = ["127.0.0.1:7000", "[::1]:7000"].map(|at| at.parse::<SocketAddr>());
    for (vip, at) in set.vip(7).into_iter().zip(loopback) {
        let at = at?;
        let _echo = Echo::start(&set.balancer.netns, HERE, &[at])?;
        lab.quiet(&format!("ipvsadm -A -u {vip} -s rr\nipvsadm -a -u {vip} -r {at} -m"))?;
        let socket = set.client.netns.enter(|| UdpSocket::bind(SocketAddr::new(any(vip), 0)))??;
        socket.set_read_timeout(Some(pace::limit(Duration::from_millis(500))))?;
        socket.send_to(b"hello", vip)?;
        ensure!(socket.recv_from(&mut [0; 64]).is_err(), "{at} answers");
        lab.lists(&format!("{TITLE}UDP  {vip} rr\n{}", dest(at, "Masq", 1, 0, 1)))?;
        lab.quiet("ipvsadm -C")?;
    }
    let status = lab.ok("lb-user status")?;
    let counted = status
        .lines()
        .any(|line| line.contains("local-loopback") && line.split_whitespace().any(|word| word == "2"));
    ensure!(counted, "{status}");
    Ok(())
}

/// The hook comes with `attach`, stays one when that is repeated, and goes with `detach`; a qdisc of somebody else's stays.
pub fn the_hook_for_replies_comes_and_goes() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    let hooks = |nic: &str| -> Result<usize> {
        let shown = lab.ok(&format!("tc filter show dev {nic} egress"))?;
        Ok(shown.lines().filter(|line| line.contains("lb_output")).count())
    };
    let qdisc = |nic: &str| lab.ok(&format!("tc qdisc show dev {nic}")).map(|shown| shown.contains("clsact"));
    lab.quiet("tc qdisc add dev eth1 clsact")?;
    for _ in 0..2 {
        lab.ok("lb-user attach eth0 eth1")?;
        ensure!(
            hooks("eth0")? == 1 && hooks("eth1")? == 1,
            "{} and {} hooks",
            hooks("eth0")?,
            hooks("eth1")?
        );
    }
    lab.ok("lb-user detach eth0")?;
    ensure!(hooks("eth0")? == 0 && hooks("eth1")? == 1, "{} and {} hooks", hooks("eth0")?, hooks("eth1")?);
    ensure!(!qdisc("eth0")?, "the qdisc made for the hook is still there");
    // Taken off by somebody else: nothing to complain about.
    lab.quiet("tc filter del dev eth1 egress")?;
    lab.ok("lb-user detach")?;
    ensure!(hooks("eth1")? == 0 && qdisc("eth1")?, "somebody else's qdisc has gone");
    Ok(())
}
