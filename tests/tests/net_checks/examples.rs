//! The configurations in dist/examples for one balancer, word for word. Those for two are net_failover's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::{self, Lab};
use lb_tests::need;
use lb_tests::peer::curl;
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use lb_user::agent::config::model::VirtualServer;
use lb_user::agent::config::{self, Loaded};
use lb_user::control::model::Method;
use std::time::Duration;

/// Each is without a fault, and its first service works in a network with its addresses: all servers pass their checks and
/// answer.
pub fn the_examples_work() -> Result<()> {
    need::network()?;
    let mut files = lab::examples()?;
    files.retain(|file| !is_for_two(file));
    ensure!(files.len() >= 3, "{files:?}");
    files.iter().try_for_each(|file| works(file).with_context(|| file.display().to_string()))
}

/// Is it one of a pair's, which [the failover suite](../net_failover) runs?
fn is_for_two(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    ["ecmp", "failover"].iter().any(|kind| name.starts_with(kind))
}

fn works(file: &Path) -> Result<()> {
    let Loaded { config, problems } = config::load(file, "director");
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    ensure!(problems.status() == 0, "{said:?}");
    let service = config.servers.first().context("it has no service")?;
    let set = network(service)?;
    let lab = Lab::at(&set.balancer.netns)?;
    let nat = method(service)? == Method::Nat;
    lab.ok(if nat { "lb-user attach eth0 eth1" } else { "lb-user attach eth0" })?;
    let mut agent = Agent::start(&lab, &set.balancer.netns, &fs::read_to_string(file)?)?;
    let vip = set.vip(80)[0];
    let all = || {
        let mut answers = curl::answers(&set.client.netns, vip, 2 * set.servers.len()).ok()?;
        answers.sort();
        answers.dedup();
        (answers.len() == set.servers.len()).then_some(())
    };
    run::until(Duration::from_secs(20), "answers of all servers", all).with_context(|| agent.log())?;
    // Checks have been made by now, and found nothing.
    agent.says("succe")?;
    ensure!(!agent.log().contains("failed"), "{}", agent.log());
    agent.stop()
}

/// The network the service is for.
fn network(service: &VirtualServer) -> Result<Topology> {
    let vip = service.addresses().next().context("a service without an address")?.to_string();
    let servers: Vec<String> = service.servers.iter().map(|server| server.addr.to_string()).collect();
    let plan = Plan::new(&vip, &servers.iter().map(String::as_str).collect::<Vec<_>>())?;
    match method(service)? {
        Method::Nat => topo::nat(&plan),
        Method::Tunnel => topo::tun(&plan),
        _ => topo::dr(&plan),
    }
}

fn method(service: &VirtualServer) -> Result<Method> {
    Ok(service.servers.first().context("a service without servers")?.conf.method)
}
