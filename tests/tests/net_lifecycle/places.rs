//! Cards and namespaces.

use anyhow::{Result, ensure};
use lb_tests::drive::{self, DR};
use lb_tests::lab::Lab;
use lb_tests::listing::{self, exact};
use lb_tests::need;
use lb_tests::topo::{self, Plan};

pub fn requests_and_servers_on_different_cards() -> Result<()> {
    need::network()?;
    let set = topo::two_nics(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for service in drive::services(&set, DR) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

/// The same addresses in both, other rules in each.
pub fn two_balancers_at_once() -> Result<()> {
    need::network()?;
    let plan = Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])?;
    let (one, other) = (topo::dr(&plan)?, topo::dr(&plan)?);
    let (lab, other_lab) = (Lab::at(&one.balancer.netns)?, Lab::at(&other.balancer.netns)?);
    lab.ok("lb-user attach eth0")?;
    other_lab.ok("lb-user attach eth0")?;
    let [service, _] = drive::services(&one, DR);
    let [mut smaller, _] = drive::services(&other, DR);
    smaller.keep(1);
    lab.quiet(&service.commands("rr"))?;
    other_lab.lists(listing::TITLE)?;
    other_lab.quiet(&smaller.commands("lc"))?;
    service.serves_in_turn(&one)?;
    smaller.serves_in_turn(&other)?;
    drop(other_lab);
    service.serves_in_turn(&one)
}

pub fn same_table_however_entered() -> Result<()> {
    need::network()?;
    need::program("nsenter")?;
    let set = topo::dr(&Plan::new("10.211.55.8", &["10.211.55.69"])?)?;
    let balancer = &set.balancer.netns;
    let lab = Lab::at(balancer)?;
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    let nsenter = |line| lab.through_nsenter(balancer, &words(line))?.ok();
    lab.ok("lb-user attach eth0")?;
    lab.quiet("ipvsadm -A -t 10.211.55.8:80 -s rr")?;
    ensure!(nsenter("ipvsadm -a -t 10.211.55.8:80 -r 10.211.55.69 -w 5")?.is_empty());
    let rows = exact(
        "TCP  10.211.55.8:80 rr
  -> 10.211.55.69:80              Route   5      0          0·········
",
    );
    lab.lists(&rows)?;
    ensure!(nsenter("ipvsadm -Ln")? == rows);
    ensure!(nsenter("lb-user ipvsadm -Ln")? == rows && nsenter("lb-user -Ln")? == rows);
    nsenter("lb-user detach eth0")?;
    ensure!(!lab.ok("ip link show eth0")?.contains("prog/xdp"));
    nsenter("lb-user attach eth0")?;
    drive::answers_in_turn(&set, set.vip(80)[0], &["10.211.55.69".to_owned()], 5)
}
