//! What else is told: templates, datagrams, connections whose server comes later.

use super::{SOON, agree, connections, synced};
use anyhow::{Result, ensure};
use lb_tests::peer::udp::Asker;
use lb_tests::peer::{Connection, Echo, Flows};
use lb_tests::topo::{Pair, Plan};
use lb_tests::{need, run};
use std::net::SocketAddr;

fn pair() -> Result<Pair> {
    need::network()?;
    let pair = Pair::dr(&Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?)?;
    pair.set.vip_on_balancer()?;
    Ok(pair)
}

/// A service of each family and its dests; `how` are words of the service.
fn rules(pair: &Pair, word: &str, port: u16, how: &str) -> String {
    let service = |(at, vip): (usize, &SocketAddr)| {
        let dests = pair.set.servers.iter().map(|server| server.address.with_port(port)[at]);
        let dests = dests.map(|dest| format!("ipvsadm -a {word} {vip} -r {dest} -g\n"));
        format!("ipvsadm -A {word} {vip} -s rr {how}\n{}", dests.collect::<String>())
    };
    pair.set.vip(port).iter().enumerate().map(service).collect()
}

pub fn templates_and_datagrams() -> Result<()> {
    let pair = pair()?;
    let marks = "lb-user mark add --mark 5 --dst 192.168.26.200 --proto tcp --dport 81
        ipvsadm -A -f 5 -s rr -p 90\nipvsadm -a -f 5 -r 192.168.26.155 -g\n";
    let all = rules(&pair, "-t", 80, "-p 300") + &rules(&pair, "-u", 53, "") + marks;
    let labs = synced(&pair, &all)?;
    let client = &pair.set.client.netns;
    let mut udp = Vec::new();
    for server in &pair.set.servers {
        udp.push(Echo::start(&server.netns, "server", &pair.set.vip(53))?);
    }
    let flows = pair.set.vip(80).map(|vip| Flows::start(client, vip, 2));
    let flows = flows.into_iter().collect::<Result<Vec<_>>>()?;
    for vip in pair.set.vip(53) {
        let asker = Asker::new(client, vip)?;
        for _ in 0..4 {
            asker.ask()?;
        }
    }
    // Two connections, a template and a dialogue of each family.
    let rows = agree(&labs, 8)?;
    let of = |text: &str| rows.iter().filter(|row| row.contains(text)).count();
    ensure!((of("ASSURED"), of("ESTABLISHED"), of("UDP")) == (2, 4, 2), "{rows:#?}");
    flows.iter().try_for_each(|flows| flows.check().map(drop))
}

pub fn a_server_may_come_later() -> Result<()> {
    let pair = pair()?;
    let labs = synced(&pair, "")?;
    labs[0].ok(&rules(&pair, "-t", 80, ""))?;
    let flows = pair.set.vip(80).map(|vip| Flows::start(&pair.set.client.netns, vip, 2));
    let flows = flows.into_iter().collect::<Result<Vec<_>>>()?;
    run::until(SOON, "connections that wait", || {
        labs[1].ok("lb-user status").ok()?.contains("waiting 4").then_some(())
    })?;
    ensure!(connections(&labs[1])?.is_empty(), "there are no services yet");
    labs[1].ok(&rules(&pair, "-t", 80, ""))?;
    agree(&labs, 4)?;
    flows.iter().try_for_each(|flows| flows.check().map(drop))
}

pub fn a_backup_leaves_clients_alone() -> Result<()> {
    let pair = pair()?;
    let labs = synced(&pair, &rules(&pair, "-t", 80, ""))?;
    // The master has no backup running: nothing changes for it.
    labs.iter().try_for_each(|lab| lab.ok("lb-user sysctl backup_only=1").map(drop))?;
    let opens =
        || Connection::open(&pair.set.client.netns, pair.set.vip(80)[0]).and_then(|mut open| open.who());
    opens()?;
    labs[0].ok("ipvsadm --stop-daemon master\nipvsadm --start-daemon backup --mcast-interface eth0")?;
    // Its own stack, which has the VIP and no server on it, refuses them.
    run::until(SOON, "packets that pass", || opens().is_err().then_some(()))?;
    ensure!(labs[0].ok("lb-user status")?.contains("backup-only"), "the reason is not counted");
    labs[0].ok("ipvsadm --stop-daemon backup")?;
    opens().map(drop)
}
