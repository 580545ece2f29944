//! How long nothing comes through, beside the client's connections: those send again when their own clocks say so, and
//! what they wait is as much TCP's as the balancers'.

use anyhow::Result;
use lb_tests::lab::Lab;
use lb_tests::peer::{Echo, Pulse};
use lb_tests::topo::Topology;
use std::net::SocketAddr;

/// Where datagrams are answered.
const PORT: u16 = 7;

/// Datagrams to the VIP, of both families.
pub struct Gaps<'m> {
    method: &'m str,
    pulses: [Pulse; 2],
    _echoes: Vec<Echo>,
}

impl<'m> Gaps<'m> {
    /// Through services by hand beside the agent's, on both balancers: `option` is ipvsadm's for the method. Datagrams need
    /// nothing to be known of those before them.
    pub fn start(method: &'m str, option: &str, set: &Topology, labs: &[Lab; 2]) -> Result<Self> {
        let mut echoes = Vec::new();
        for server in &set.servers {
            let listens = if option == "-m" { server.address.with_port(PORT) } else { set.vip(PORT) };
            echoes.push(Echo::start(&server.netns, &server.name(), &listens)?);
        }
        for (family, vip) in set.vip(PORT).into_iter().enumerate() {
            let dests = set.servers.iter().map(|server| server.address.with_port(PORT)[family]);
            let lines = service(vip, dests, option);
            labs.iter().try_for_each(|lab| lab.quiet(&lines))?;
        }
        let [v4, v6] = set.vip(PORT).map(|vip| Pulse::start(&set.client.netns, vip));
        Ok(Self { method, pulses: [v4?, v6?], _echoes: echoes })
    }

    /// Prints what became of those sent since the last time.
    pub fn print(&self, when: &str) {
        for (beat, family) in Pulse::look_at(&self.pulses).iter().zip(["IPv4", "IPv6"]) {
            println!("{}, {family}, {when}: {beat}", self.method);
        }
    }
}

fn service(vip: SocketAddr, dests: impl Iterator<Item = SocketAddr>, option: &str) -> String {
    let dests = dests.map(|dest| format!("ipvsadm -a -u {vip} -r {dest} {option}\n"));
    format!("ipvsadm -A -u {vip} -s rr\n{}", dests.collect::<String>())
}
