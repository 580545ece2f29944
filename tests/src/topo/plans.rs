//! The set-ups themselves: who is plugged in where, and who routes what.

use super::Topology;
use super::address::{Dual, Plan};
use super::host::{Host, Server};
use super::tunnel::TunnelEnd;
use crate::net::Switch;
use crate::peer::Content;
use anyhow::Result;

/// Segment numbers, for the IPv6 prefixes.
pub(super) const FRONT: u16 = 1;
pub(super) const BACK: u16 = 2;
const VIRTUAL: u16 = 3;

/// Host numbers that no lab uses.
pub(super) const BALANCER: u8 = 2;
const CLIENT: u8 = 200;
pub(super) const ROUTER: u8 = 254;

/// Direct routing: all on one segment, the VIP on the balancer's card and on the servers' loopback.
pub fn dr(plan: &Plan) -> Result<Topology> {
    let topology = dr_wiring(plan)?;
    topology.vip_on_servers()?;
    topology.vip_on_balancer()?;
    Ok(topology)
}

/// One segment with all on it.
pub fn dr_wiring(plan: &Plan) -> Result<Topology> {
    let segment = Switch::new("switch")?;
    let client = client(plan, &segment, |host| Dual::on(FRONT, plan.behind(host)))?;
    let balancer = Host::new("balancer", &segment, plan.nic, Dual::on(FRONT, plan.behind(BALANCER)))?;
    let content = Content::new()?;
    let servers = servers(plan, &segment, FRONT, &content)?;
    let vip = Dual::on(FRONT, plan.vip);
    Ok(Topology { client, balancer, servers, router: None, vip, content, switches: vec![segment] })
}

/// Address translation: the client on one side of the balancer, the servers on the other, the VIP on the balancer.
pub fn nat(plan: &Plan) -> Result<Topology> {
    let topology = nat_wiring(plan)?;
    topology.vip_on_balancer()?;
    topology.balancer.forward()?;
    Ok(topology)
}

/// Two segments and the balancer between them. It is everybody's default gateway, but forwards nothing yet.
pub fn nat_wiring(plan: &Plan) -> Result<Topology> {
    let (front, back) = (Switch::new("front")?, Switch::new("back")?);
    let (outside, inside) =
        (Dual::on(FRONT, Plan::in_front(BALANCER)), Dual::on(BACK, plan.behind(BALANCER)));
    let client = client(plan, &front, |host| Dual::on(FRONT, Plan::in_front(host)))?;
    let balancer = Host::new("balancer", &front, plan.nic, outside)?;
    balancer.plug(&back, "eth1", inside)?;
    client.route(None, outside)?;
    let content = Content::new()?;
    let servers = servers(plan, &back, BACK, &content)?;
    servers.iter().try_for_each(|server| server.route(None, inside))?;
    let vip = Dual::on(VIRTUAL, plan.vip);
    Ok(Topology { client, balancer, servers, router: None, vip, content, switches: vec![front, back] })
}

/// Tunnels: the servers are behind a router and take the VIP's packets out of IPIP.
pub fn tun(plan: &Plan) -> Result<Topology> {
    let topology = tun_wiring(plan)?;
    let end = TunnelEnd::here()?;
    topology.servers.iter().try_for_each(|server| end.open(server, topology.vip))?;
    topology.vip_on_balancer()?;
    Ok(topology)
}

/// Client, balancer and router on one segment, router and servers on the other. The client knows the balancer as the
/// way to the VIP, the router as the way to everything else.
pub fn tun_wiring(plan: &Plan) -> Result<Topology> {
    let (front, back) = (Switch::new("front")?, Switch::new("back")?);
    let router = Host::new("router", &front, "eth0", Dual::on(FRONT, Plan::in_front(ROUTER)))?;
    let behind = Dual::on(BACK, plan.behind(ROUTER));
    router.plug(&back, "eth1", behind)?;
    router.forward()?;
    let client = client(plan, &front, |host| Dual::on(FRONT, Plan::in_front(host)))?;
    let balancer = Host::new("balancer", &front, plan.nic, Dual::on(FRONT, Plan::in_front(BALANCER)))?;
    let vip = Dual::on(VIRTUAL, plan.vip);
    client.route(Some(vip), balancer.address)?;
    client.route(None, router.address)?;
    balancer.route(None, router.address)?;
    let content = Content::new()?;
    let servers = servers(plan, &back, BACK, &content)?;
    servers.iter().try_for_each(|server| server.route(None, behind))?;
    Ok(Topology {
        client,
        balancer,
        servers,
        router: Some(router),
        vip,
        content,
        switches: vec![front, back],
    })
}

/// Direct routing with a card of the balancer's on each segment: requests come in on one and leave by the other, while
/// answers go through the router.
pub fn two_nics(plan: &Plan) -> Result<Topology> {
    let topology = tun_wiring(plan)?;
    if let [_, back] = &topology.switches[..] {
        topology.balancer.plug(back, "eth1", Dual::on(BACK, plan.behind(BALANCER)))?;
    }
    topology.vip_on_servers()?;
    topology.vip_on_balancer()?;
    Ok(topology)
}

fn client(plan: &Plan, segment: &Switch, address: impl Fn(u8) -> Dual) -> Result<Host> {
    // A lab may have the first number for its virtual address.
    let first = if plan.vip.octets()[3] == CLIENT { CLIENT + 20 } else { CLIENT };
    let client = Host::new("client", segment, "eth0", address(first))?;
    (1..Plan::CLIENTS).try_for_each(|nth| client.add("eth0", address(first + nth)))?;
    Ok(client)
}

fn servers(plan: &Plan, segment: &Switch, number: u16, content: &Content) -> Result<Vec<Server>> {
    let start = |(index, &v4)| {
        let host = Host::new(&format!("rs{}", index + 1), segment, "eth0", Dual::on(number, v4))?;
        Server::start(host, &plan.ports, content)
    };
    plan.servers.iter().enumerate().map(start).collect()
}
