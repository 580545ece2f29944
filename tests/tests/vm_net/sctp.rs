//! SCTP of the kernel's own: real associations, which this machine's kernel may have no module for.

use anyhow::{Context, Result, ensure};
use lb_tests::harness::Case;
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::topo::{self, Dual, Plan, Topology};
use lb_tests::{need, pace};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub const CASES: [Case; 2] = [
    ("associations_through_nat", associations_through_nat),
    ("associations_with_the_balancer_itself", associations_with_the_balancer_itself),
];

const SCTP: i32 = 132;
const PATIENCE: Duration = Duration::from_secs(10);

/// To a server behind the balancer.
fn associations_through_nat() -> Result<()> {
    associations(|set| set.servers.first().map(|server| (&server.netns, server.address)))
}

/// To a server that is the balancer.
fn associations_with_the_balancer_itself() -> Result<()> {
    associations(|set| Some((&set.balancer.netns, set.balancer.address)))
}

/// Both families, another port at the server: set up, data both ways, listed as established.
fn associations(server: impl Fn(&Topology) -> Option<(&Netns, Dual)>) -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let (host, address) = server(&set).context("no server")?;
    let dests = address.with_port(9001);
    for ((vip, at), from) in set.vip(9000).into_iter().zip(dests).zip(set.client.address.both()) {
        lab.quiet(&format!(
            "ipvsadm -A --sctp-service {vip} -s rr\nipvsadm -a --sctp-service {vip} -r {at} -m"
        ))?;
        let listener = socket(host, at.ip(), at.port())?;
        listener.listen(1)?;
        let mut client = socket(&set.client.netns, from, 0)?;
        client.connect(&vip.into()).with_context(|| format!("{vip}: no association"))?;
        let (mut there, who) = listener.accept()?;
        ensure!(who.as_socket().map(|who| who.ip()) == Some(from), "an association from {who:?}");
        let mut bytes = [0; 16];
        client.write_all(b"ask")?;
        ensure!(there.read(&mut bytes)? == 3 && bytes.starts_with(b"ask"), "{bytes:?} at the server");
        there.write_all(b"answer")?;
        ensure!(client.read(&mut bytes)? == 6 && bytes.starts_with(b"answer"), "{bytes:?} at the client");
        let conns = lab.ok("ipvsadm -Lnc")?;
        let row = |line: &str| line.contains(&vip.to_string()) && line.contains(" ESTABLISHED ");
        ensure!(conns.lines().any(row), "{conns}");
    }
    Ok(())
}

/// Of one address alone, or the other end would be told of all its host has.
fn socket(host: &Netns, at: IpAddr, port: u16) -> Result<Socket> {
    let at = SocketAddr::new(at, port);
    let socket =
        host.enter(|| Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::from(SCTP))))??;
    socket.bind(&at.into())?;
    socket.set_read_timeout(Some(pace::limit(PATIENCE)))?;
    socket.set_write_timeout(Some(pace::limit(PATIENCE)))?;
    Ok(socket)
}
