//! Tunnels with a header of their own, which no program of ours takes off: real servers with the kernel's devices.

use anyhow::{Context, Result};
use lb_tests::drive::{self, Service, TUN};
use lb_tests::harness::Case;
use lb_tests::lab::Lab;
use lb_tests::need;
use lb_tests::topo::{self, Plan, Tunnel};

pub const CASES: [Case; 2] = [("gue_by_fou", gue_by_fou), ("gre_by_device", gre_by_device)];

const GUE_PORT: u16 = 6080;

/// What fou takes with any checksum.
fn gue_by_fou() -> Result<()> {
    let tunnel = Tunnel::Gue(GUE_PORT);
    serves(&[("nocsum", tunnel), ("csum", tunnel), ("remcsum", tunnel)])
}

fn gre_by_device() -> Result<()> {
    let gre = |checksum| Tunnel::Gre { checksum };
    serves(&[("nocsum", gre(false)), ("csum", gre(true)), ("nocsum", gre(false))])
}

/// A service of IPv4 and one of IPv6, whose servers have a tunnel each, with these checksums.
fn serves(tunnels: &[(&str, Tunnel)]) -> Result<()> {
    need::network()?;
    let set = topo::tun_wiring(&Plan::example())?;
    for (server, (_, tunnel)) in set.servers.iter().zip(tunnels) {
        tunnel.open(server, set.vip).with_context(|| format!("{tunnel:?}"))?;
    }
    set.vip_on_balancer()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 --connections 10000")?;
    for service in drive::services(&set, TUN) {
        lab.quiet(&commands(&service, tunnels))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

fn commands(service: &Service, tunnels: &[(&str, Tunnel)]) -> String {
    let vip = service.vip;
    let dests = service.dests.iter().zip(tunnels).map(|(dest, (sum, tunnel))| {
        let tunnel = match tunnel {
            Tunnel::Gue(port) => format!("gue --tun-port {port}"),
            Tunnel::Gre { .. } => "gre".to_owned(),
        };
        format!("ipvsadm -a -t {vip} -r {dest} -i --tun-type {tunnel} --tun-{sum}\n")
    });
    format!("ipvsadm -A -t {vip} -s rr\n{}", dests.collect::<String>())
}
