//! `check_path forwarding`: what only a check that takes the way of clients' packets finds out.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::need;
use lb_tests::peer::udp::Echo;
use lb_tests::run;
use lb_tests::topo::{Server, TunnelEnd};

use crate::scene::{Kind, Scene};

const FORWARDING: &str = "check_path forwarding";
/// Long enough for a check that is to fail.
const A_WHILE: Duration = Duration::from_secs(4);

/// Under direct routing, both families. A straight check keeps it, and clients find nobody there.
pub fn a_server_without_the_vip_is_found_out() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Dr)?;
    let agent = agent(&scene, FORWARDING)?;
    lose_vip(&scene, &scene.set.servers[0])?;
    scene.has_servers(1)?;
    agent.reload(&scene.config("TCP", 80, "check_path direct"))?;
    scene.has_servers(2)?;
    thread::sleep(A_WHILE);
    scene.has_servers(2).context("a straight check sees no fault")?;
    agent.reload(&scene.config("TCP", 80, FORWARDING))?;
    scene.has_servers(1)?;
    scene.set.servers[0].add_alone("lo", scene.set.vip)?;
    scene.has_servers(2).with_context(|| agent.log())?;
    ensure!(scene.counted("probe-sent")? > 10 && scene.counted("probe-answered")? > 10);
    // Nothing was begun with a server that was not ended too, and none of it is a connection of the balancer's.
    for server in &scene.set.servers {
        run::until(Duration::from_secs(5), "the end of checks' connections", || {
            (left_open(server).ok()? < 3).then_some(())
        })
        .with_context(|| format!("{} connections", left_open(server).unwrap_or(0)))?;
    }
    ensure!(scene.lab.ok("ipvsadm -Lnc")?.lines().count() == 2, "{}", scene.lab.ok("ipvsadm -Lnc")?);
    // Clients are served all the while.
    scene.connections_to(0)?;
    scene.connections_to(1)?;
    Ok(())
}

/// One that forwards sends the check to where it thinks the VIP is: to the balancer, which must not give it to the other
/// server.
pub fn a_server_that_sends_them_back_is_found_out() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Dr)?;
    let agent = agent(&scene, FORWARDING)?;
    let server = &scene.set.servers[0];
    server.forward()?;
    lose_vip(&scene, server)?;
    scene.has_servers(1).with_context(|| agent.log())?;
    thread::sleep(A_WHILE);
    scene.has_servers(1)?;
    ensure!(scene.counted("probe-lost")? > 2, "{}", scene.lab.ok("lb-user status")?);
    server.add_alone("lo", scene.set.vip)?;
    scene.has_servers(2)
}

/// It answers straight checks as before.
pub fn a_server_without_a_tunnel_is_found_out() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Tun)?;
    let (end, server) = (TunnelEnd::here()?, &scene.set.servers[1]);
    let agent = agent(&scene, FORWARDING)?;
    end.shut(server)?;
    scene.has_servers(1)?;
    agent.reload(&scene.config("TCP", 80, ""))?;
    scene.has_servers(2)?;
    thread::sleep(A_WHILE);
    scene.has_servers(2).context("a straight check sees no fault")?;
    agent.reload(&scene.config("TCP", 80, FORWARDING))?;
    scene.has_servers(1)?;
    end.reopen(server)?;
    scene.has_servers(2).with_context(|| agent.log())?;
    // Without the VIP, too.
    lose_vip(&scene, server)?;
    scene.has_servers(1)?;
    server.add_alone("lo", scene.set.vip)?;
    scene.has_servers(2)?;
    ensure!(left_open(server)? < 3);
    Ok(())
}

/// Under NAT a check is what a client's packet becomes; from an address on the clients' side, its answer has to come the
/// way of answers to clients.
pub fn a_nat_server_that_answers_elsewhere_is_found_out() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Nat)?;
    let outside = scene.set.balancer.address;
    let words = format!("{FORWARDING}\n");
    let config = scene.config("TCP", 80, &words);
    let from = |config: &str| {
        let (mut out, mut v6) = (String::new(), false);
        for line in config.lines() {
            v6 = if line.contains("virtual_server") { line.contains("::") } else { v6 };
            out.push_str(line);
            out.push('\n');
            if line.contains("TCP_CHECK") {
                let from = if v6 { outside.v6.to_string() } else { outside.v4.to_string() };
                out.push_str(&format!(" bindto {from}\n"));
            }
        }
        out
    };
    let agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &from(&config))?;
    scene.has_servers(2)?;
    thread::sleep(A_WHILE);
    scene.has_servers(2).with_context(|| agent.log())?;
    let server = &scene.set.servers[0].netns;
    server.ip("route del 0.0.0.0/0\nroute del ::/0")?;
    scene.has_servers(1)?;
    agent.reload(&config)?;
    scene.has_servers(2).context("on the servers' own side there is no fault")?;
    Ok(())
}

/// UDP with an answer, HTTP, one that a server refuses, and UDP without an answer to a port that is closed.
pub fn every_kind_of_check_takes_the_path() -> Result<()> {
    const PORT: u16 = 5353;
    need::network()?;
    for kind in [Kind::Dr, Kind::Tun] {
        let scene = Scene::new(kind)?;
        let vips = scene.set.vip(PORT);
        let echo = |server: &Server| Echo::start(&server.netns, &server.name(), &vips);
        let _echoes = scene.set.servers.iter().map(echo).collect::<Result<Vec<_>>>()?;
        let tcp = |check: &str| scene.config("TCP", 80, FORWARDING).replace("TCP_CHECK {", check);
        let udp = scene.config("UDP", PORT, FORWARDING).replace(
            "TCP_CHECK {\n connect_port 80",
            &format!("UDP_CHECK {{\n connect_port {PORT}\n require_reply"),
        );
        let checks = [udp, tcp("HTTP_GET {\n url {\n path /\n status_code 200\n }")];
        let refused = scene.config("TCP", 80, FORWARDING).replace("connect_port 80", "connect_port 81");
        for config in &checks {
            let mut agent = Agent::start(&scene.lab, &scene.set.balancer.netns, config)?;
            scene.has_servers(2)?;
            thread::sleep(A_WHILE);
            scene.has_servers(2).with_context(|| agent.log())?;
            agent.says("success").or_else(|_| agent.says("succeed"))?;
            let server = &scene.set.servers[0];
            lose_vip(&scene, server)?;
            scene.has_servers(1).with_context(|| agent.log())?;
            server.add_alone("lo", scene.set.vip)?;
            scene.has_servers(2).with_context(|| agent.log())?;
            agent.stop()?;
            scene.lab.ok("ipvsadm -C")?;
        }
        let agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &refused)?;
        agent.says("Connection refused")?;
        drop(agent);
        scene.lab.ok("ipvsadm -C")?;
        // Only the servers' ICMP errors tell.
        let silent = |port: u16| {
            let config = scene.config("UDP", PORT, FORWARDING);
            config.replace("TCP_CHECK {\n connect_port 80", &format!("UDP_CHECK {{\n connect_port {port}"))
        };
        let agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &silent(PORT))?;
        thread::sleep(A_WHILE);
        scene.has_servers(2).with_context(|| agent.log())?;
        agent.reload(&silent(PORT + 1))?;
        scene.has_servers(0).with_context(|| agent.log())?;
    }
    Ok(())
}

fn agent<'s>(scene: &'s Scene, words: &str) -> Result<Agent<'s>> {
    let config = scene.config("TCP", 80, words);
    let agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &config)?;
    scene.has_servers(2)?;
    // All of them pass, the first attempt included.
    thread::sleep(A_WHILE);
    scene.has_servers(2).with_context(|| agent.log())?;
    ensure!(!agent.log().contains("failed") && !agent.log().contains("cannot"), "{}", agent.log());
    Ok(agent)
}

fn lose_vip(scene: &Scene, server: &Server) -> Result<()> {
    let vip = scene.set.vip;
    server.netns.ip(&format!("addr del {}/32 dev lo\naddr del {}/128 dev lo", vip.v4, vip.v6))
}

/// Connections that the server thinks go on.
fn left_open(server: &Server) -> Result<usize> {
    let said = server.netns.run(&["ss", "-Htn", "state", "connected", "exclude", "time-wait"])?.ok()?;
    Ok(said.lines().count())
}
