//! Two balancers side by side. Nobody has the VIP to begin with.

use super::plans::{BACK, BALANCER, FRONT, ROUTER, nat_wiring, tun_wiring};
use super::{Dual, Host, Plan, Topology, TunnelEnd, dr_wiring};
use crate::net::Switch;
use anyhow::{Context, Result};

/// The second balancer's host number.
const SECOND: u8 = 3;
/// The host number of the servers' gateway, under address translation.
const GATEWAY: u8 = 1;

/// A set-up with one balancer more. The VIP is an address of the clients' segment.
#[derive(Debug)]
pub struct Pair {
    /// Everything but the second balancer.
    pub set: Topology,
    /// The second balancer, with the same cards as the first.
    pub second: Host,
    /// The address by which servers reach their clients, that goes where the VIP goes: under address translation.
    pub gateway: Option<Dual>,
}

impl Pair {
    /// Direct routing.
    pub fn dr(plan: &Plan) -> Result<Self> {
        let set = dr_wiring(plan)?;
        let second =
            Host::new("balancer2", segment(&set, 0)?, plan.nic, Dual::on(FRONT, plan.behind(SECOND)))?;
        set.vip_on_servers()?;
        Self { set, second, gateway: None }.wired()
    }

    /// Tunnels: both balancers send by the router.
    pub fn tun(plan: &Plan) -> Result<Self> {
        let mut set = tun_wiring(plan)?;
        let second = in_front(&mut set, plan)?;
        let router = set.router.as_ref().context("a set-up with a router")?;
        second.route(None, router.address)?;
        let end = TunnelEnd::here()?;
        set.servers.iter().try_for_each(|server| end.open(server, set.vip))?;
        Self { set, second, gateway: None }.wired()
    }

    /// Address translation: both balancers are between the two segments.
    pub fn nat(plan: &Plan) -> Result<Self> {
        let mut set = nat_wiring(plan)?;
        let second = in_front(&mut set, plan)?;
        second.plug(segment(&set, 1)?, "eth1", Dual::on(BACK, plan.behind(SECOND)))?;
        second.forward()?;
        set.balancer.forward()?;
        let gateway = Dual::on(BACK, plan.behind(GATEWAY));
        for server in &set.servers {
            server.netns.ip(&format!(
                "route replace 0.0.0.0/0 via {}\nroute replace ::/0 via {}",
                gateway.v4, gateway.v6
            ))?;
        }
        Self { set, second, gateway: Some(gateway) }.wired()
    }

    /// The balancers' cards take what is for them, as real ones do.
    fn wired(self) -> Result<Self> {
        let nics = ["eth0", "eth1"];
        for (switch, nic) in self.set.switches.iter().zip(&nics[..self.nics()]) {
            self.balancers().iter().try_for_each(|host| switch.only_its_own(&host.netns, nic))?;
        }
        Ok(self)
    }

    /// How many cards each balancer has: eth0, and eth1 under address translation.
    pub fn nics(&self) -> usize {
        1 + usize::from(self.gateway.is_some())
    }

    /// Direct routing behind a router that knows no way to the VIP yet: both balancers and the servers are on one side of
    /// it, the client on the other.
    pub fn routed(plan: &Plan) -> Result<Self> {
        let mut set = tun_wiring(plan)?;
        let back = segment(&set, 1)?;
        let router = set.router.as_ref().context("a set-up with a router")?;
        let behind = Dual::on(BACK, plan.behind(ROUTER));
        let balancer = |role: &str, number: u8| {
            let host = Host::new(role, back, plan.nic, Dual::on(BACK, plan.behind(number)))?;
            host.route(None, behind)?;
            Ok::<_, anyhow::Error>(host)
        };
        let (first, second) = (balancer("balancer1", BALANCER)?, balancer("balancer2", SECOND)?);
        router.netns.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        router.netns.sysctl("net.ipv6.fib_multipath_hash_policy", "1")?;
        set.client.netns.ip(&format!("route del {}\nroute del {}", set.vip.v4, set.vip.v6))?;
        set.balancer = first;
        set.vip_on_servers()?;
        for host in [&set.balancer, &second] {
            segment(&set, 1)?.only_its_own(&host.netns, plan.nic)?;
        }
        Ok(Self { set, second, gateway: None })
    }

    /// Both balancers.
    pub fn balancers(&self) -> [&Host; 2] {
        [&self.set.balancer, &self.second]
    }
}

/// A second balancer on the clients' segment, and the VIP there.
fn in_front(set: &mut Topology, plan: &Plan) -> Result<Host> {
    set.vip = Dual::on(FRONT, plan.vip);
    let vip = set.vip;
    // Where the wiring has a route to the VIP, it leads through the first balancer.
    let client = &set.client.netns;
    drop(client.run(&["ip", "route", "del", &vip.v4.to_string()])?);
    Host::new("balancer2", segment(set, 0)?, plan.nic, Dual::on(FRONT, Plan::in_front(SECOND)))
}

fn segment(set: &Topology, at: usize) -> Result<&Switch> {
    set.switches.get(at).context("a set-up with fewer segments")
}
