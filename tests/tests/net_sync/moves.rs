//! The VIP moves from one balancer to the other, in the middle of connections.

use super::{SOON, agree, synced};
use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::need;
use lb_tests::peer::Flows;
use lb_tests::run;
use lb_tests::topo::{Dual, Host, Pair, Plan};

/// Connections of each family.
const COUNT: usize = 12;

pub fn connections_survive_nat() -> Result<()> {
    need::network()?;
    let plan = Plan::new("203.0.113.100", &["192.168.26.155", "192.168.26.156"])?;
    survive(&Pair::nat(&plan)?, "-m")
}

pub fn connections_survive_direct_routing() -> Result<()> {
    need::network()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    survive(&Pair::dr(&plan)?, "-g")
}

fn survive(pair: &Pair, method: &str) -> Result<()> {
    let rules: String = pair.set.vip(80).iter().enumerate().fold(String::new(), |rules, (at, vip)| {
        let dests = pair.set.servers.iter().map(|server| {
            let server = server.address.with_port(80)[at];
            format!("ipvsadm -a -t {vip} -r {server} {method}\n")
        });
        rules + &format!("ipvsadm -A -t {vip} -s rr\n") + &dests.collect::<String>()
    });
    let labs = synced(pair, &rules)?;
    let [first, second] = pair.balancers();
    takes(pair, first)?;
    let [v4, v6] = pair.set.vip(80);
    let open = |vip| Flows::start(&pair.set.client.netns, vip, COUNT);
    let flows = [open(v4)?, open(v6)?];
    agree(&labs, 2 * COUNT)?;
    active(&labs[1], &pair.set.vip(80))?;

    leaves(pair, first)?;
    takes(pair, second)?;
    for (flows, family) in flows.iter().zip(["IPv4", "IPv6"]) {
        let checked = flows.check().with_context(|| {
            format!("{:?} {:?}", labs[1].ok("lb-user status"), second.netns.run(&["ip", "neighbour"]))
        })?;
        println!("{method} {family}, on the other balancer: {checked}");
    }
    // It was the other one: the first counts no more packets.
    let packets = |lab: &Lab| lab.ok("ipvsadm -Ln --stats --exact");
    let before = packets(&labs[0])?;
    run::until(SOON, "traffic", || flows.iter().all(|flows| flows.check().is_ok()).then_some(()))?;
    ensure!(packets(&labs[0])? == before, "packets still come to the first balancer");
    Ok(())
}

/// ActiveConn follows the messages, evenly on both servers.
fn active(lab: &Lab, vips: &[std::net::SocketAddr; 2]) -> Result<()> {
    for vip in vips {
        let listing = lab.ok(&format!("ipvsadm -Ln -t {vip}"))?;
        let counts: Vec<&str> = listing
            .lines()
            .filter(|line| line.starts_with("  ->") && !line.contains("RemoteAddress"))
            .filter_map(|line| line.split_whitespace().nth(4))
            .collect();
        let half = (COUNT / 2).to_string();
        ensure!(counts == [&*half, &*half], "{listing}");
    }
    Ok(())
}

/// A balancer takes the VIP and the servers' gateway; everybody asks who has them.
fn takes(pair: &Pair, host: &Host) -> Result<()> {
    all(pair, |nic, address| host.add_alone(nic, address))?;
    let hosts = [&pair.set.client].into_iter().chain(pair.set.servers.iter().map(|server| &**server));
    for host in hosts {
        for family in ["-4", "-6"] {
            host.netns.run(&["ip", family, "neighbour", "flush", "all"])?.ok()?;
        }
    }
    Ok(())
}

fn leaves(pair: &Pair, host: &Host) -> Result<()> {
    all(pair, |nic, Dual { v4, v6 }| {
        host.netns.ip(&format!("addr del {v4}/32 dev {nic}\naddr del {v6}/128 dev {nic}"))
    })
}

fn all(pair: &Pair, each: impl Fn(&str, Dual) -> Result<()>) -> Result<()> {
    each("eth0", pair.set.vip)?;
    pair.gateway.map_or(Ok(()), |gateway| each("eth1", gateway))
}
