//! Address translation.

use anyhow::{Result, ensure};
use lb_tests::drive::{self, NAT};
use lb_tests::lab::Lab;
use lb_tests::listing::{self, exact};
use lb_tests::need;
use lb_tests::peer::curl;
use lb_tests::peer::iperf::{self, Direction};
use lb_tests::shell::Shell;
use lb_tests::topo::{self, Plan};

/// 搭建LVS负载均衡环境实验, NAT.
pub fn nat_first_lab() -> Result<()> {
    need::network()?;
    let set = topo::nat_wiring(&Plan::new("10.0.1.1", &["10.211.55.69", "10.211.55.70"])?)?;
    set.vip_on_balancer()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    lab.ok(r#"
        echo "net.ipv4.ip_forward = 1" >> /etc/sysctl.conf
        sysctl -p"#)?;
    lab.quiet(
        "ipvsadm -A -t 10.0.1.1:80 -s rr
         ipvsadm -a -t 10.0.1.1:80 -r 10.211.55.69:80 -m
         ipvsadm -a -t 10.0.1.1:80 -r 10.211.55.70:80 -m",
    )?;
    lab.lists(&exact(
        "TCP  10.0.1.1:80 rr
  -> 10.211.55.69:80              Masq    1      0          0·········
  -> 10.211.55.70:80              Masq    1      0          0·········
",
    ))?;
    // On the balancer itself, as the lab has it, and then from a client.
    for host in [Shell::at(&set.balancer.netns)?, Shell::at(&set.client.netns)?] {
        ensure!(host.ok("curl http://10.0.1.1")? == "10.211.55.70\n");
        ensure!(host.ok("curl http://10.0.1.1")? == "10.211.55.69\n");
    }
    drive::services(&set, NAT)[0].serves_in_turn(&set)
}

/// 前端负载均衡之VIP: weights of 2, which rr does not look at. The VIP is of the servers' network.
pub fn nat_ansible_lab() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::new("192.168.26.200", &["192.168.26.153", "192.168.26.154"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    lab.quiet(
        "ipvsadm -C
         ipvsadm -A -t 192.168.26.200:80 -s rr
         ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.153:80 -m -w 2
         ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.154:80 -m -w 2",
    )?;
    let client = Shell::at(&set.client.netns)?;
    for answer in ["192.168.26.154\n", "192.168.26.153\n", "192.168.26.154\n"] {
        ensure!(client.ok("curl 192.168.26.200:80")? == answer);
    }
    lab.lists(&exact(
        "TCP  192.168.26.200:80 rr
  -> 192.168.26.153:80            Masq    2      0          1·········
  -> 192.168.26.154:80            Masq    2      0          2·········
",
    ))?;
    lab.quiet("ipvsadm -C")?;
    lab.lists(listing::TITLE)
}

pub fn nat_both_families() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for service in drive::services(&set, NAT) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

/// A service on port 80 whose servers listen on 8080.
pub fn nat_with_another_port() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan { ports: vec![8080], ..Plan::example() })?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for mut service in drive::services(&set, NAT) {
        service.dests.iter_mut().for_each(|dest| dest.set_port(8080));
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
        // Without a service on it, the servers' port is closed at the VIP.
        let mut other = service.vip;
        other.set_port(8080);
        ensure!(curl::answers(&set.client.netns, other, 1).is_err(), "{other} should not answer");
    }
    Ok(())
}

pub fn nat_much_traffic() -> Result<()> {
    need::network()?;
    need::program("iperf3")?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let _servers =
        set.servers.iter().map(|rs| iperf::Server::start(&rs.netns)).collect::<Result<Vec<_>>>()?;
    for (family, vip) in set.vip(iperf::PORT).into_iter().enumerate() {
        let dest = set.servers[0].address.with_port(iperf::PORT)[family];
        lab.quiet(&format!("ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {dest} -m"))?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Upload)?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Download)?;
    }
    Ok(())
}
