//! Two balancers at once behind a router that spreads connections over both, by BGP between real routing daemons.

use crate::traffic::Traffic;
use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::peer::bird;
use lb_tests::topo::{Host, Pair, Plan};
use lb_tests::{need, run};
use std::time::Duration;

const AGENT: &str = include_str!("../../../dist/examples/ecmp.conf");
const BIRD: &str = include_str!("../../../dist/examples/ecmp-bird.conf");
const ROUTER: &str = include_str!("../../../dist/examples/ecmp-router-bird.conf");

/// For what BGP, a check or the agent does.
const SOON: Duration = Duration::from_secs(30);

/// A balancer is taken out and put back, is lost and found again, and in the end there is nobody to serve.
pub fn ecmp_by_bird() -> Result<()> {
    need::network()?;
    need::programs(&["bird"])?;
    let plan = Plan::new("198.51.100.10", &["192.168.26.155", "192.168.26.156", "192.168.26.157"])?;
    let pair = Pair::routed(&plan)?;
    let [first, second] = pair.balancers();
    let labs = [Lab::at(&first.netns)?, Lab::at(&second.netns)?];
    for lab in &labs {
        lab.ok("lb-user attach eth0\nlb-user sysctl sloppy_tcp=1")?;
    }
    let agents =
        [Agent::start(&labs[0], &first.netns, AGENT)?, Agent::start(&labs[1], &second.netns, AGENT)?];
    let router = pair.set.router.as_ref().context("a set-up with a router")?;
    let _bgp = bird::start(&router.netns, ROUTER)?;
    let _bird1 = bird::start(&first.netns, BIRD)?;
    let _bird2 = bird::start(&second.netns, BIRD)?;
    ways(&pair, 2).with_context(|| agents[0].log())?;

    let traffic = Traffic::start("ECMP", &pair.set)?;
    traffic.flows("before")?;
    for (lab, name) in labs.iter().zip(["first", "second"]) {
        ensure!(connections(lab)? > 0, "the {name} balancer has no connections: nothing is spread");
    }

    // Taken out for work: the addresses go first, then the program.
    let said = labs[0].ok("lb-user detach")?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        lines == ["Withdrawing 198.51.100.10", "Withdrawing fd00:3::c633:640a", "eth0: detached"],
        "{said}"
    );
    ways(&pair, 1)?;
    traffic.flows("one taken out")?;
    labs[0].ok("lb-user attach eth0")?;
    ways(&pair, 2)?;
    traffic.flows("put back")?;

    // It is gone from one moment to the next: the router finds out when the BGP session is silent for too long.
    let switch = pair.set.switches().get(1).context("the balancers' segment")?;
    switch.cable(&first.netns, "eth0", false)?;
    ways(&pair, 1)?;
    traffic.flows("one lost")?;
    switch.cable(&first.netns, "eth0", true)?;
    ways(&pair, 2)?;
    traffic.flows("found again")?;
    drop(traffic);

    // Nobody to serve: nobody tells of the address.
    let plugged =
        |plugged| pair.set.servers.iter().try_for_each(|server| switch.cable(&server.netns, "eth0", plugged));
    plugged(false)?;
    ways(&pair, 0).with_context(|| agents[0].log())?;
    plugged(true)?;
    ways(&pair, 2).with_context(|| agents[0].log())
}

/// Connections a balancer has at the moment.
fn connections(lab: &Lab) -> Result<usize> {
    Ok(lab.ok("ipvsadm -Lnc")?.lines().filter(|line| line.starts_with("TCP ")).count())
}

/// Waits until the router has this many ways to both addresses.
fn ways(pair: &Pair, wanted: usize) -> Result<()> {
    let router = pair.set.router.as_ref().context("a set-up with a router")?;
    for (family, vip) in [("-4", pair.set.vip.v4.to_string()), ("-6", pair.set.vip.v6.to_string())] {
        let now = || count(router, family, &vip).is_ok_and(|count| count == wanted).then_some(());
        run::until(SOON, &format!("{wanted} way(s) to {vip}"), now)?;
    }
    Ok(())
}

fn count(router: &Host, family: &str, vip: &str) -> Result<usize> {
    let said = router.netns.run(&["ip", family, "route", "show", vip])?.ok()?;
    Ok(said.matches(" via ").count())
}
