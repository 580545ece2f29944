//! Two balancers with keepalived's VRRP and our agent on each, both with the same file.

use crate::gaps::Gaps;
use crate::sync_files::SyncFiles;
use crate::traffic::Traffic;
use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::peer::{Daemon, keepalived};
use lb_tests::topo::{Host, Pair, Plan};
use lb_tests::{need, run};
use std::time::Duration;

/// What the balancers are called, for the lines with an `@`.
const NAMES: [&str; 2] = ["lb1", "lb2"];
/// For what VRRP, a check or the agent does.
const SOON: Duration = Duration::from_secs(20);

pub fn vrrp_direct_routing() -> Result<()> {
    needs()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    same_file(
        "direct routing",
        "-g",
        &Pair::dr(&plan)?,
        include_str!("../../../dist/examples/failover-dr.conf"),
    )
}

pub fn vrrp_tunnel() -> Result<()> {
    needs()?;
    let plan = Plan::new("203.0.113.100", &["192.168.26.155", "192.168.26.156"])?;
    same_file(
        "tunnels",
        "-i",
        &Pair::tun(&plan)?,
        include_str!("../../../dist/examples/failover-tunnel.conf"),
    )
}

/// `use_vmac`: the VIP has a MAC address of its own, on a device above the card, and takes it along.
pub fn vrrp_virtual_mac() -> Result<()> {
    needs()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    let config = include_str!("../../../dist/examples/failover-dr.conf");
    let config = config.replace("advert_int 0.25", "advert_int 0.25\n    use_vmac\n    vmac_xmit_base");
    let pair = Pair::dr(&plan)?;
    same_file("virtual MAC", "-g", &pair, &config)?;
    let known = pair.set.client.netns.run(&["ip", "neighbour", "show", "192.168.26.200"])?.ok()?;
    ensure!(known.contains("00:00:5e:00:01:33"), "the client knows the VIP as {known}");
    Ok(())
}

/// Address translation, which takes connection sync: the balancer that takes over has been told of the connections, and the
/// one that comes back is given all that were made without it.
pub fn vrrp_nat() -> Result<()> {
    needs()?;
    let plan = Plan::new("203.0.113.100", &["192.168.26.155", "192.168.26.156"])?;
    let vrrp = include_str!("../../../dist/examples/failover-nat.conf");
    let files = SyncFiles::new(vrrp, "7")?;
    let agent = files.agents(include_str!("../../../dist/examples/failover-nat-agent.conf"))?;
    let pair = Pair::nat(&plan)?;
    survives(&Scene { method: "NAT", option: "-m", pair: &pair, vrrp, agent: &agent, synced: true })
}

fn needs() -> Result<()> {
    need::network()?;
    Ok(need::programs(&["keepalived"])?)
}

/// keepalived and the agent read the same file, and no connection is told.
fn same_file(method: &str, option: &str, pair: &Pair, config: &str) -> Result<()> {
    survives(&Scene { method, option, pair, vrrp: config, agent: config, synced: false })
}

/// What both balancers are given.
struct Scene<'c> {
    method: &'c str,
    /// ipvsadm's option for the method.
    option: &'c str,
    pair: &'c Pair,
    /// keepalived's file.
    vrrp: &'c str,
    /// The agent's.
    agent: &'c str,
    /// Connections are told; without that both balancers have to come to the same server by themselves.
    synced: bool,
}

/// Everything that can happen to the first balancer, and its return each time.
fn survives(scene: &Scene<'_>) -> Result<()> {
    let pair = scene.pair;
    let hosts = pair.balancers();
    let labs = [Lab::at(&hosts[0].netns)?, Lab::at(&hosts[1].netns)?];
    let agents =
        [balances(scene, &labs[0], hosts[0], NAMES[0])?, balances(scene, &labs[1], hosts[1], NAMES[1])?];
    let mut vrrp = keepalived::start(&hosts[0].netns, scene.vrrp, NAMES[0])?;
    holds(pair, hosts[0], true)?;
    let _standby = keepalived::start(&hosts[1].netns, scene.vrrp, NAMES[1])?;
    let mut traffic = Traffic::start(scene.method, &pair.set)?;
    let gaps = Gaps::start(scene.method, scene.option, &pair.set, &labs)?;
    let flows = |traffic: &Traffic<'_>, when: &str| {
        let fine = traffic.flows(when);
        gaps.print(when);
        fine
    };
    flows(&traffic, "before")?;
    if scene.synced {
        told(&labs, traffic.count()).with_context(|| agents[1].log())?;
    }

    vrrp.kill();
    holds(pair, hosts[1], true)?;
    flows(&traffic, "kill -9")?;
    // These the first balancer has never seen when it comes back.
    traffic.more(&pair.set)?;
    vrrp = keepalived::start(&hosts[0].netns, scene.vrrp, NAMES[0])?;
    came_back(pair, &vrrp)?;
    flows(&traffic, "back after kill -9").with_context(|| agents[0].log())?;

    let switch = pair.set.switches().first().context("a segment")?;
    switch.cable(&hosts[0].netns, "eth0", false)?;
    holds(pair, hosts[1], true)?;
    flows(&traffic, "link down").with_context(|| agents[1].log())?;
    switch.cable(&hosts[0].netns, "eth0", true)?;
    came_back(pair, &vrrp)?;
    flows(&traffic, "back after link down")
}

/// Has a balancer do its work, whoever has the address.
fn balances<'l>(scene: &Scene<'_>, lab: &'l Lab, host: &'l Host, name: &str) -> Result<Agent<'l>> {
    let nics = ["eth0", "eth1"][..scene.pair.nics()].join(" ");
    let sloppy = u8::from(!scene.synced);
    lab.ok(&format!("lb-user attach {nics}\nlb-user sysctl sloppy_tcp={sloppy}"))?;
    let agent = Agent::start_with(lab, &host.netns, scene.agent, &["--id", name])?;
    let checked = "TCP connection to [192.168.26.156]:tcp:80 success.";
    run::until(SOON, checked, || agent.log().contains(checked).then_some(()))?;
    Ok(agent)
}

/// Waits until the second balancer knows of all connections.
fn told(labs: &[Lab; 2], count: usize) -> Result<()> {
    let mut known = 0;
    let all = run::until(SOON, "connections on the standby", || {
        let listing = labs[1].ok("ipvsadm -Lnc").ok()?;
        known = listing.lines().filter(|line| line.contains("ESTABLISHED")).count();
        (known >= count).then_some(())
    });
    all.with_context(|| format!("{known} of {count}"))
}

/// Waits until the VIP is where it belongs, and only there.
fn came_back(pair: &Pair, vrrp: &Daemon) -> Result<()> {
    let [first, second] = pair.balancers();
    holds(pair, first, true).with_context(|| vrrp.log())?;
    holds(pair, second, false).with_context(|| vrrp.log())
}

/// Waits until a balancer has the VIP, or has it no more.
fn holds(pair: &Pair, host: &Host, wanted: bool) -> Result<()> {
    let vip = pair.set.vip.v4.into();
    let what = format!("the VIP {} {}", if wanted { "on" } else { "off" }, host.netns.name());
    run::until(SOON, &what, || host.has(vip).is_ok_and(|has| has == wanted).then_some(()))
}
