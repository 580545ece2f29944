//! Two balancers with keepalived's VRRP and our agent on each, both with the same file.

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
    survives("direct routing", &Pair::dr(&plan)?, include_str!("../../../dist/examples/failover-dr.conf"))
}

pub fn vrrp_tunnel() -> Result<()> {
    needs()?;
    let plan = Plan::new("203.0.113.100", &["192.168.26.155", "192.168.26.156"])?;
    survives("tunnels", &Pair::tun(&plan)?, include_str!("../../../dist/examples/failover-tunnel.conf"))
}

/// `use_vmac`: the VIP has a MAC address of its own, on a device above the card, and takes it along.
pub fn vrrp_virtual_mac() -> Result<()> {
    needs()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    let config = include_str!("../../../dist/examples/failover-dr.conf");
    let config = config.replace("advert_int 0.25", "advert_int 0.25\n    use_vmac\n    vmac_xmit_base");
    let pair = Pair::dr(&plan)?;
    survives("virtual MAC", &pair, &config)?;
    let known = pair.set.client.netns.run(&["ip", "neighbour", "show", "192.168.26.200"])?.ok()?;
    ensure!(known.contains("00:00:5e:00:01:33"), "the client knows the VIP as {known}");
    Ok(())
}

/// `lvs_sync_daemon` with an instance: the role is the one VRRP gives, seen from where the address is.
pub fn roles_follow_the_address() -> Result<()> {
    need::network()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    let pair = Pair::dr(&plan)?;
    let host = pair.balancers()[0];
    let lab = Lab::at(&host.netns)?;
    lab.ok("lb-user attach eth0")?;
    let common = include_str!("../../../dist/examples/failover-dr.conf");
    let config = format!("global_defs {{\n lvs_sync_daemon eth0 VI_1\n}}\n{common}");
    let mut agent = Agent::start_with(&lab, &host.netns, &config, &["--id", NAMES[0], "--purge-on-exit"])?;
    let roles = |wanted: &[&str]| {
        let said = || {
            let log = agent.log();
            let roles = log.lines().filter_map(|line| line.split_once("Sync daemons: "));
            (roles.map(|(_, role)| role.to_owned()).collect::<Vec<_>>() == wanted).then_some(())
        };
        run::until(Duration::from_secs(5), &format!("{wanted:?}"), said).with_context(|| agent.log())
    };
    roles(&["backup"])?;
    lab.ok("ip address add 192.168.26.200/32 dev eth0")?;
    roles(&["backup", "master"])?;
    lab.ok("ip address del 192.168.26.200/32 dev eth0")?;
    roles(&["backup", "master", "backup"])?;
    agent.stop()
}

fn needs() -> Result<()> {
    need::network()?;
    Ok(need::programs(&["keepalived"])?)
}

/// Everything that can happen to the first balancer, and its return each time.
fn survives(method: &str, pair: &Pair, config: &str) -> Result<()> {
    let hosts = pair.balancers();
    let labs = [Lab::at(&hosts[0].netns)?, Lab::at(&hosts[1].netns)?];
    let _agents = [
        balances(pair, &labs[0], hosts[0], config, NAMES[0])?,
        balances(pair, &labs[1], hosts[1], config, NAMES[1])?,
    ];
    let mut vrrp = keepalived::start(&hosts[0].netns, config, NAMES[0])?;
    holds(pair, hosts[0], true)?;
    let _standby = keepalived::start(&hosts[1].netns, config, NAMES[1])?;
    let traffic = Traffic::start(method, &pair.set)?;
    traffic.flows("before")?;

    vrrp.kill();
    holds(pair, hosts[1], true)?;
    traffic.flows("kill -9")?;
    vrrp = keepalived::start(&hosts[0].netns, config, NAMES[0])?;
    came_back(pair, &vrrp)?;
    traffic.flows("back after kill -9")?;

    let switch = pair.set.switches().first().context("a segment")?;
    switch.cable(&hosts[0].netns, "eth0", false)?;
    holds(pair, hosts[1], true)?;
    traffic.flows("link down")?;
    switch.cable(&hosts[0].netns, "eth0", true)?;
    came_back(pair, &vrrp)?;
    traffic.flows("back after link down")
}

/// Has a balancer do its work, whoever has the address.
fn balances<'l>(pair: &Pair, lab: &'l Lab, host: &'l Host, config: &str, name: &str) -> Result<Agent<'l>> {
    let nics = ["eth0", "eth1"][..pair.nics()].join(" ");
    lab.ok(&format!("lb-user attach {nics}\nlb-user sysctl sloppy_tcp=1"))?;
    let agent = Agent::start_with(lab, &host.netns, config, &["--id", name])?;
    let checked = "TCP connection to [192.168.26.156]:tcp:80 success.";
    run::until(SOON, checked, || agent.log().contains(checked).then_some(()))?;
    Ok(agent)
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
