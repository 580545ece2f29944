//! Two balancers with keepalived's VRRP and our agent on each, both with the same file.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::peer::{Daemon, Flows, keepalived};
use lb_tests::topo::{Host, Pair, Plan};
use lb_tests::{need, run};
use std::env;
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

fn needs() -> Result<()> {
    need::network()?;
    Ok(need::programs(&["keepalived"])?)
}

/// 500 with `cargo xtask test --full`.
fn connections() -> usize {
    let full = env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1");
    if full { 500 } else { 64 }
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
    let traffic = Traffic::start(method, pair)?;
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

/// The client's connections, half of them over IPv6.
struct Traffic<'p> {
    method: &'p str,
    flows: [Flows; 2],
}

impl<'p> Traffic<'p> {
    fn start(method: &'p str, pair: &Pair) -> Result<Self> {
        let open = |vip| Flows::start(&pair.set.client.netns, vip, connections() / 2);
        let [v4, v6] = pair.set.vip(80);
        let flows = [open(v4)?, open(v6)?];
        for flows in &flows {
            ensure!(flows.servers().len() == 2, "all on one server: {:?}", flows.servers());
        }
        Ok(Self { method, flows })
    }

    /// Each of them is answered, by the server it always had.
    fn flows(&self, when: &str) -> Result<()> {
        for (flows, family) in self.flows.iter().zip(["IPv4", "IPv6"]) {
            let what = format!("{}, {family}, {when}", self.method);
            let checked = flows.check().with_context(|| what.clone())?;
            println!("{what}: {checked}");
        }
        Ok(())
    }
}
