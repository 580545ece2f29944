//! Tunnels. Where the kernel has `ipip`, the servers' side is typed as in the labs; else our program takes its place.

use anyhow::{Result, ensure};
use lb_tests::drive::{self, TUN};
use lb_tests::lab::Lab;
use lb_tests::listing::exact;
use lb_tests::need;
use lb_tests::peer::iperf::{self, Direction};
use lb_tests::peer::{Echo, udp};
use lb_tests::shell::Shell;
use lb_tests::topo::{self, Plan, Topology, TunnelEnd};

/// 搭建LVS负载均衡环境实验, IP Tunneling. Its listing has .79 for .70.
pub fn tun_first_lab() -> Result<()> {
    need::network()?;
    let set = topo::tun_wiring(&Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    lab.quiet(
        "ipvsadm -A -t 10.211.55.8:80 -s rr
         ipvsadm -a -t 10.211.55.8:80 -r 10.211.55.69:80 -i
         ipvsadm -a -t 10.211.55.8:80 -r 10.211.55.70:80 -i",
    )?;
    lab.lists(&exact(
        "TCP  10.211.55.8:80 rr
  -> 10.211.55.69:80              Tunnel  1      0          0·········
  -> 10.211.55.70:80              Tunnel  1      0          0·········
",
    ))?;
    open_tunnels(
        &set,
        "modprobe ipip
         ip link set tunl0 up
         ip addr add 10.211.55.8/32 dev tunl0
         printf 'net.ipv4.conf.eth0.arp_ignore=1\\nnet.ipv4.conf.eth0.arp_announce=2\\n' > /etc/sysctl.d/ipvs.conf
         sysctl -p /etc/sysctl.d/ipvs.conf
         sysctl net.ipv4.conf.all.rp_filter=0
         sysctl net.ipv4.conf.tunl0.rp_filter=0",
    )?;
    lab.quiet("ip addr add 10.211.55.8/32 dev eth0")?;
    drive::services(&set, TUN)[0].serves_in_turn(&set)
}

/// centos7之LVS-TUNNEL模式: HTTP on two servers, UDP port 30005 on two others, saved to a file and restored from it.
pub fn tun_tcp_and_udp_lab() -> Result<()> {
    need::network()?;
    let servers = ["192.168.1.23", "192.168.1.24", "192.168.1.11", "192.168.1.12"];
    let set = topo::tun_wiring(&Plan::new("192.168.1.100", &servers)?)?;
    set.vip_on_balancer()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    lab.quiet(
        "ipvsadm -A -t 192.168.1.100:80 -s rr # 创建虚拟服务器并添加vip
         ipvsadm -a -t 192.168.1.100:80 -r 192.168.1.23:80 -i -w 1 # 为虚拟服务器添加后端realserver
         ipvsadm -a -t 192.168.1.100:80 -r 192.168.1.24:80 -i -w 1
         ipvsadm -A -u 192.168.1.100:30005 -s rr
         ipvsadm -a -u 192.168.1.100:30005 -r 192.168.1.11:30005 -i -w 1
         ipvsadm -a -u 192.168.1.100:30005 -r 192.168.1.12:30005 -i -w 1
         ipvsadm -Sn > /etc/sysconfig/ipvsadm # 保存规则
         ipvsadm-restore < /etc/sysconfig/ipvsadm # 导入规则",
    )?;
    open_tunnels(
        &set,
        r#"modprobe ipip
           ip addr add 192.168.1.100/32 dev tunl0
           ip link set up tunl0 # 激活虚拟网卡
           echo "1" > /proc/sys/net/ipv4/conf/tunl0/arp_ignore
           echo "2" > /proc/sys/net/ipv4/conf/tunl0/arp_announce
           echo "1" > /proc/sys/net/ipv4/conf/all/arp_ignore
           echo "2" > /proc/sys/net/ipv4/conf/all/arp_announce
           echo "0" > /proc/sys/net/ipv4/conf/tunl0/rp_filter
           echo "0" > /proc/sys/net/ipv4/conf/all/rp_filter"#,
    )?;
    udp_lab_traffic(&set, &lab)?;
    http_lab_traffic(&set)
}

/// Twelve datagrams, each from a port of its own, give the lab's 6 and 6.
fn udp_lab_traffic(set: &Topology, lab: &Lab) -> Result<()> {
    let [vip, _] = set.vip(30005);
    let echo = |rs: &topo::Server| Echo::start(&rs.netns, &rs.name(), &[vip]);
    let _echoes = set.servers[2..].iter().map(echo).collect::<Result<Vec<_>>>()?;
    for round in 0..6 {
        for name in ["192.168.1.12", "192.168.1.11"] {
            let who = udp::ask(&set.client.netns, vip)?;
            ensure!(who == name, "round {round}: {who} instead of {name}");
        }
    }
    lab.shows(
        "ipvsadm -ln",
        &exact(
            "TCP  192.168.1.100:80 rr
  -> 192.168.1.23:80              Tunnel  1      0          0·········
  -> 192.168.1.24:80              Tunnel  1      0          0·········
UDP  192.168.1.100:30005 rr
  -> 192.168.1.11:30005           Tunnel  1      0          6·········
  -> 192.168.1.12:30005           Tunnel  1      0          6·········
",
        ),
    )?;
    // Each datagram is 20 + 8 + 12 bytes; answers do not come by.
    lab.shows(
        "ipvsadm -ln --stats",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.168.1.100:80                    0        0        0        0        0
  -> 192.168.1.23:80                     0        0        0        0        0
  -> 192.168.1.24:80                     0        0        0        0        0
UDP  192.168.1.100:30005                12       12        0      480        0
  -> 192.168.1.11:30005                  6        6        0      240        0
  -> 192.168.1.12:30005                  6        6        0      240        0
",
    )
}

fn http_lab_traffic(set: &Topology) -> Result<()> {
    let [mut service, _] = drive::services(set, TUN);
    service.keep(2);
    service.serves_in_turn(set)
}

pub fn tun_both_families() -> Result<()> {
    need::network()?;
    let set = topo::tun(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    for service in drive::services(&set, TUN) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

/// IPv4 inside IPv6 and the reverse, which only tunnels can.
pub fn tun_mixed_families() -> Result<()> {
    need::network()?;
    let set = topo::tun(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [mut v4, mut v6] = drive::services(&set, TUN);
    std::mem::swap(&mut v4.dests, &mut v6.dests);
    for service in [v4, v6] {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

/// Full-sized segments do not fit the tunnel: the client has to be told so.
pub fn tun_much_traffic() -> Result<()> {
    need::network()?;
    need::program("iperf3")?;
    let set = topo::tun(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let _server = iperf::Server::start(&set.servers[0].netns)?;
    for (family, vip) in set.vip(iperf::PORT).into_iter().enumerate() {
        let dest = set.servers[0].address.with_port(iperf::PORT)[family];
        lab.quiet(&format!("ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {dest} -i"))?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Upload)?;
        iperf::transfer(&set.client.netns, vip.ip(), Direction::Download)?;
    }
    Ok(())
}

/// The lab's own lines on every server, where they can work.
fn open_tunnels(set: &Topology, lines: &str) -> Result<()> {
    let end = TunnelEnd::here()?;
    set.servers.iter().try_for_each(|server| match end {
        TunnelEnd::Device => Shell::at(&server.netns)?.ok(lines).map(drop),
        TunnelEnd::Program => end.open(server, set.vip),
    })
}
