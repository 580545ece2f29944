//! `lb-user sysctl`, and requests to the program in the kernel.

use anyhow::{Result, ensure};
use lb_common::request::{Request, status};
use lb_tests::drive::{self, DR};
use lb_tests::lab::Lab;
use lb_tests::need;
use lb_tests::net::Netns;
use lb_tests::peer::{Connection, curl};
use lb_tests::topo::{self, Plan};
use lb_user::bpf::{bpffs, said, syscall};
use std::os::fd::AsFd;

pub fn values_of_sysctls() -> Result<()> {
    need::root()?;
    let host = Netns::new("host")?;
    let lab = Lab::at(&host)?;
    let all = lab.ok("lb-user sysctl")?;
    ensure!(
        all.contains("net.ipv4.vs.conn_reuse_mode = 1\n")
            && all.contains("net.ipv4.vs.sync_threshold = 3\t50\n")
    );
    ensure!(lab.ok("lb-user sysctl conn_reuse_mode=2")? == "net.ipv4.vs.conn_reuse_mode = 2\n");
    ensure!(lab.ok("lb-user sysctl net.ipv4.vs.conn_reuse_mode")? == "net.ipv4.vs.conn_reuse_mode = 2\n");
    let refused = lab.types("lb-user sysctl sloppy_tcp=1 drop_packet=4")?;
    ensure!(refused.status == 1 && refused.stdout.is_empty(), "{refused:?}");
    ensure!(
        refused.stderr.starts_with("setting key \"net.ipv4.vs.drop_packet\": Invalid argument"),
        "{refused:?}"
    );
    ensure!(
        lab.ok("lb-user sysctl sloppy_tcp drop_packet")?
            == "net.ipv4.vs.sloppy_tcp = 0\nnet.ipv4.vs.drop_packet = 0\n"
    );
    let said = lab.types("lb-user sysctl conntrack=1 conntrack=1")?;
    ensure!(said.status == 0 && said.stderr.matches("accepted, has no effect").count() == 1, "{said:?}");
    let unknown = lab.types("lb-user sysctl conn_reuse=1")?;
    ensure!(unknown.status == 1 && unknown.stderr.starts_with("conn_reuse: no such sysctl"), "{unknown:?}");
    Ok(())
}

pub fn sysctls_work() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0\nlb-user sysctl expire_nodest_conn=1")?;
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    let (vip, gone) = (service.vip, service.dests[1]);
    let mut kept = Connection::open(&set.client.netns, vip)?;
    ensure!(kept.who()? == "10.211.55.70");
    // The value survives being taken off.
    lab.ok("lb-user detach\nlb-user attach eth0")?;
    lab.quiet(&format!("ipvsadm -d -t {vip} -r {gone}"))?;
    let conns = lab.ok("ipvsadm -Lnc")?;
    ensure!(!conns.contains("10.211.55.70:80"), "connections of a deleted server live on:\n{conns}");
    ensure!(kept.who().is_err(), "the connection of a deleted server lives on");
    drive::answers_in_turn(&set, vip, &["10.211.55.69".to_owned()], 4)?;
    // Every second new connection is dropped; the client asks again a second later.
    lab.ok("lb-user sysctl drop_packet=3 am_droprate=1")?;
    ensure!(curl::answers(&set.client.netns, vip, 1).is_err());
    lab.ok("lb-user sysctl drop_packet=0")?;
    drive::answers_in_turn(&set, vip, &["10.211.55.69".to_owned()], 4)
}

pub fn a_request_that_fails_says_why() -> Result<()> {
    need::network()?;
    let set = topo::dr_wiring(&Plan::new("10.211.55.8", &["10.211.55.69"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let program = set.balancer.netns.enter(|| bpffs::instance(None))??.join("lb_control");
    let control = syscall::open_pin(&program)?;
    ensure!(syscall::test_run(control.as_fd(), &Request::bytes(999, 0, 0))? == status::UNKNOWN);
    let words = said::by_pinned(&program);
    ensure!(words == "this program knows no request 999", "{words}");
    Ok(())
}
