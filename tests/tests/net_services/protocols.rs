//! One-packet scheduling.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::need;
use lb_tests::peer::Echo;
use lb_tests::peer::udp::Asker;
use lb_tests::topo::{self, Plan};

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);

pub fn datagrams_are_scheduled_one_by_one() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new(PLAN.0, &PLAN.1)?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    for (family, vip) in set.vip(53).into_iter().enumerate() {
        let start = |server: &topo::Server| Echo::start(&server.netns, &server.name(), &[vip]);
        let _echoes = set.servers.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut rows = format!("{TITLE}UDP  {vip} rr ops\n");
        lab.quiet(&format!("ipvsadm -A -u {vip} -s rr -o"))?;
        for server in &set.servers {
            let at = server.address.with_port(53)[family];
            lab.quiet(&format!("ipvsadm -a -u {vip} -r {at}"))?;
            rows += &dest(at, "Route", 1, 0, 0);
        }
        let asker = Asker::new(&set.client.netns, vip)?;
        let answers = (0..6).map(|_| asker.ask()).collect::<Result<Vec<_>>>()?;
        ensure!(answers == ["10.211.55.70", "10.211.55.69"].repeat(3), "{answers:?}");
        lab.lists(&rows)?;
        let stats = lab.ok("ipvsadm -Ln --stats --exact")?;
        let row = stats.lines().find(|line| line.starts_with("UDP")).context("no service")?;
        let conns = row.split_whitespace().nth(2);
        ensure!(conns == Some("6"), "{stats}");
        lab.quiet("ipvsadm -C")?;
    }
    Ok(())
}
