//! The set-ups by themselves, without a balancer: everybody reaches whom it should, and nothing is left afterwards.

use anyhow::{Result, bail, ensure};
use lb_tests::net::{Netns, Switch, offload};
use lb_tests::peer::iperf::{self, Direction};
use lb_tests::peer::{Connection, Echo, Pulse, curl, udp};
use lb_tests::shell::Shell;
use lb_tests::topo::{self, Plan, Server, Topology};
use lb_tests::{need, tests};
use std::fs;
use std::net::SocketAddr;
use std::panic;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    one_segment,
    balancer_in_between,
    behind_a_router,
    both_cards,
    cables_are_fit_for_xdp,
    udp_and_iperf3,
    a_gap_is_as_long_as_it_is,
    a_shell_has_its_own_etc,
    a_hidden_vip_is_answered_by_the_balancer_alone,
    nothing_is_left_after_a_panic,
}

fn one_segment() -> Result<()> {
    need::network()?;
    let set = topo::dr_wiring(&Plan::example())?;
    clients_reach_servers(&set)?;
    set.client.netns.ping(set.balancer.address.v4.into())?;
    all_gone(set)
}

fn balancer_in_between() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::new("10.0.1.1", &["10.211.55.69", "10.211.55.70"])?)?;
    clients_reach_servers(&set)?;
    set.client.netns.ping(set.vip.v6.into())?;
    all_gone(set)
}

fn behind_a_router() -> Result<()> {
    need::network()?;
    let set = topo::tun_wiring(&Plan::new("192.168.1.100", &["192.168.1.23", "192.168.1.24"])?)?;
    clients_reach_servers(&set)?;
    set.balancer.netns.ping(set.servers[1].address.v4.into())?;
    all_gone(set)
}

fn both_cards() -> Result<()> {
    need::network()?;
    let set = topo::two_nics(&Plan::example())?;
    clients_reach_servers(&set)?;
    all_gone(set)
}

fn cables_are_fit_for_xdp() -> Result<()> {
    need::root()?;
    let (switch, host) = (Switch::new("switch")?, Netns::new("host")?);
    switch.plug(&host, "eth0")?;
    ensure!(!host.enter(|| offload::tx_checksum("eth0"))??, "eth0 sends half checksums");
    let port = switch.netns().run(&["ip", "link", "show", "port0"])?.ok()?;
    ensure!(
        port.contains("prog/xdp") && !port.contains("xdpgeneric"),
        "no native program on the switch's end: {port}"
    );
    Ok(())
}

fn udp_and_iperf3() -> Result<()> {
    need::network()?;
    need::program("iperf3")?;
    let set = topo::dr_wiring(&Plan::example())?;
    let server = &set.servers[0];
    let echo = Echo::start(&server.netns, "echo", &server.address.with_port(7))?;
    for address in server.address.with_port(7) {
        ensure!(udp::ask(&set.client.netns, address)? == "echo");
    }
    let _iperf = iperf::Server::start(&server.netns)?;
    for (address, direction) in
        server.address.both().into_iter().zip([Direction::Upload, Direction::Download])
    {
        iperf::transfer(&set.client.netns, address, direction)?;
    }
    drop(echo);
    Ok(())
}

fn a_gap_is_as_long_as_it_is() -> Result<()> {
    need::network()?;
    let set = topo::dr_wiring(&Plan::example())?;
    let server = &set.servers[0].netns;
    let [address, _] = set.servers[0].address.with_port(7);
    let _echo = Echo::start(server, "echo", &[address])?;
    let pulse = Pulse::start(&set.client.netns, address)?;
    let second = || thread::sleep(Duration::from_secs(1));
    second();
    let quiet = pulse.look();
    ensure!(quiet.lost == 0 && quiet.sent > 0, "{quiet}");
    let cable = &set.switches()[0];
    cable.cable(server, "eth0", false)?;
    let pulled = Instant::now();
    second();
    let least = pulled.elapsed();
    cable.cable(server, "eth0", true)?;
    second();
    let beat = pulse.look();
    ensure!(beat.lost > 0 && beat.lost < beat.sent, "{beat}");
    let most = pulled.elapsed();
    ensure!(beat.silence >= least && beat.silence < most, "{least:?} to {most:?}, but {beat}");
    Ok(())
}

fn a_shell_has_its_own_etc() -> Result<()> {
    need::root()?;
    need::program("sysctl")?;
    let host = Netns::new("host")?;
    let shell = Shell::at(&host)?;
    shell.ok("echo net.ipv4.ip_forward = 1 > /etc/sysctl.d/lb-tests-own.conf
         sysctl -p /etc/sysctl.d/lb-tests-own.conf")?;
    ensure!(shell.ok("cat /proc/sys/net/ipv4/ip_forward")? == "1\n");
    ensure!(!fs::exists("/etc/sysctl.d/lb-tests-own.conf")?, "the shell wrote to this machine's /etc");
    Ok(())
}

/// Design trap: a real server that answers ARP for the VIP takes the clients away from the balancer.
fn a_hidden_vip_is_answered_by_the_balancer_alone() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let balancer = set.balancer.netns.run(&["cat", "/sys/class/net/eth0/address"])?.ok()?;
    for vip in set.vip.both() {
        for _ in 0..5 {
            set.client.netns.ip("neigh flush dev eth0")?;
            set.client.netns.ping(vip)?;
            let neighbour = set.client.netns.run(&["ip", "neigh", "show", "to", &vip.to_string()])?.ok()?;
            ensure!(
                neighbour.contains(balancer.trim()),
                "{vip} is at {neighbour}, the balancer at {balancer}"
            );
        }
    }
    Ok(())
}

fn nothing_is_left_after_a_panic() -> Result<()> {
    need::network()?;
    let mut names = Vec::new();
    let caught = panic::catch_unwind(panic::AssertUnwindSafe(|| -> Result<()> {
        let set = topo::dr_wiring(&Plan::example())?;
        names = namespaces(&set);
        panic::resume_unwind(Box::new("as a failed assertion does"));
    }));
    ensure!(caught.is_err() && !names.is_empty());
    ensure_gone(&names)
}

fn clients_reach_servers(set: &Topology) -> Result<()> {
    for server in &set.servers {
        for address in server.address.with_port(80) {
            client_reaches(set, server, address)?;
        }
    }
    Ok(())
}

fn client_reaches(set: &Topology, server: &Server, address: SocketAddr) -> Result<()> {
    let client = &set.client.netns;
    let answers = curl::answers(client, address, 3)?;
    ensure!(answers == vec![server.name(); 3], "{address} answers {answers:?}");
    ensure!(curl::download(client, address, "/big")? == set.content.big(), "{address}: a damaged download");
    let mut connection = Connection::open(client, address)?;
    ensure!(connection.who()? == server.name() && connection.who()? == server.name());
    Ok(())
}

fn namespaces(set: &Topology) -> Vec<String> {
    let hosts = [&set.client, &set.balancer].into_iter().chain(&set.router).map(|host| &host.netns);
    let servers = set.servers.iter().map(|server| &server.netns);
    let switches = set.switches().iter().map(|switch| switch.netns());
    hosts.chain(servers).chain(switches).map(|netns| netns.name().to_owned()).collect()
}

fn all_gone(set: Topology) -> Result<()> {
    let names = namespaces(&set);
    let started = Instant::now();
    drop(set);
    ensure!(started.elapsed().as_secs() < 10, "taking down took {:?}", started.elapsed());
    ensure_gone(&names)
}

fn ensure_gone(names: &[String]) -> Result<()> {
    for name in names {
        if fs::exists(format!("/run/netns/{name}"))? {
            bail!("the namespace {name} is still there");
        }
    }
    Ok(())
}
