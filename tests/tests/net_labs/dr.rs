//! Direct routing.

use anyhow::{Result, ensure};
use lb_tests::drive::{self, DR};
use lb_tests::lab::Lab;
use lb_tests::listing::exact;
use lb_tests::need;
use lb_tests::peer::curl;
use lb_tests::peer::iperf::{self, Direction};
use lb_tests::shell::Shell;
use lb_tests::topo::{self, Plan};

/// 搭建LVS负载均衡环境实验, Direct Routing: the VIP by hand on all three, the ARP settings, the client's ARP table
/// flushed.
pub fn dr_first_lab() -> Result<()> {
    need::network()?;
    let plan = Plan { nic: "ens33", ..Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])? };
    let set = topo::dr_wiring(&plan)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach ens33")?;
    lab.quiet(
        "ipvsadm -A -t 10.211.55.8:80 -s rr
         ipvsadm -a -t 10.211.55.8:80 -r 10.211.55.69:80 -g
         ipvsadm -a -t 10.211.55.8:80 -r 10.211.55.70:80 -g",
    )?;
    lab.lists(&exact(
        "TCP  10.211.55.8:80 rr
  -> 10.211.55.69:80              Route   1      0          0·········
  -> 10.211.55.70:80              Route   1      0          0·········
",
    ))?;
    lab.quiet("ip addr add 10.211.55.8/32 dev ens33")?;
    for server in &set.servers {
        Shell::at(&server.netns)?.ok(
            "ip addr add 10.211.55.8/32 dev lo
             printf 'net.ipv4.conf.eth0.arp_ignore=1\\nnet.ipv4.conf.eth0.arp_announce=2\\n' > /etc/sysctl.d/ipvs.conf
             sysctl -p /etc/sysctl.d/ipvs.conf",
        )?;
    }
    let client = Shell::at(&set.client.netns)?;
    client.ok("ip -s -s neigh flush all")?;
    ensure!(client.ok("curl http://10.211.55.8:80")? == "10.211.55.70\n");
    ensure!(client.ok("curl http://10.211.55.8:80")? == "10.211.55.69\n");
    drive::services(&set, DR)[0].serves_in_turn(&set)
}

/// Lvs+Keepalived高可用负载均衡, chapter 5: wrr, and a client stays with its server for 20 seconds.
pub fn dr_persistent_lab() -> Result<()> {
    need::network()?;
    need::programs(&["ifconfig"])?;
    let set = topo::dr_wiring(&Plan::new("192.168.241.11", &["192.168.241.15", "192.168.241.16"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    lab.quiet(
        "ifconfig eth0:12 192.168.241.11 netmask 255.255.255.0 up
         ipvsadm -A -t 192.168.241.11:80 -s wrr -p 20
         ipvsadm -a -t 192.168.241.11:80 -r 192.168.241.15:80 -g -w 1
         ipvsadm -a -t 192.168.241.11:80 -r 192.168.241.16:80 -g -w 1",
    )?;
    let listing = exact(
        "TCP  192.168.241.11:80 wrr persistent 20
  -> 192.168.241.15:80            Route   1      0          0·········
  -> 192.168.241.16:80            Route   1      0          0·········
",
    );
    lab.shows("ipvsadm -L -n", &listing)?;
    for server in &set.servers {
        Shell::at(&server.netns)?.quiet(
            r#"ifconfig lo:0 192.168.241.11 netmask 255.255.255.255 up
               echo "1" > /proc/sys/net/ipv4/conf/all/arp_ignore
               echo "1" > /proc/sys/net/ipv4/conf/lo/arp_ignore
               echo "2" > /proc/sys/net/ipv4/conf/lo/arp_announce
               echo "2" > /proc/sys/net/ipv4/conf/all/arp_announce"#,
        )?;
    }
    let [vip, _] = set.vip(80);
    let client = &set.client.netns;
    drive::answers_in_turn(&set, vip, &["192.168.241.16".to_owned()], 12)?;
    let other = "192.168.241.201".parse()?;
    ensure!(curl::answers_from(client, other, vip, 12)? == vec!["192.168.241.15"; 12]);
    drive::answers_in_turn(&set, vip, &["192.168.241.16".to_owned()], 6)?;
    lab.shows(
        "ipvsadm -L -n --persistent-conn",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn·
  -> RemoteAddress:Port
TCP  192.168.241.11:80 wrr persistent 20
  -> 192.168.241.15:80            1         1           0          12········
  -> 192.168.241.16:80            1         1           0          18········
"
        .replace('·', " ")
        .as_str(),
    )
}

pub fn dr_both_families() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    for service in drive::services(&set, DR) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

pub fn dr_much_traffic() -> Result<()> {
    need::network()?;
    need::program("iperf3")?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let _server = iperf::Server::start(&set.servers[0].netns)?;
    for (family, vip) in set.vip(iperf::PORT).into_iter().enumerate() {
        let dest = set.servers[0].address.with_port(iperf::PORT)[family];
        lab.quiet(&format!("ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {dest} -g"))?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Upload)?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Download)?;
    }
    Ok(())
}
