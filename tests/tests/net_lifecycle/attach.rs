//! Attaching and detaching, with and without traffic.

use anyhow::{Context, Result, ensure};
use lb_tests::drive::{self, DR, NAT};
use lb_tests::lab::Lab;
use lb_tests::listing;
use lb_tests::peer::{Connection, curl};
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

pub fn rules_come_before_attaching() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    let services = drive::services(&set, DR);
    for service in &services {
        lab.quiet(&service.commands("rr"))?;
    }
    let before = lab.ok("ipvsadm -Ln")?;
    lab.ok("lb-user attach eth0")?;
    ensure!(lab.ok("ipvsadm -Ln")? == before);
    services.iter().try_for_each(|service| service.serves_in_turn(&set))
}

/// Packets that come meanwhile are lost, and no more than that: the balancer's stack has no such address, so it does
/// not answer them with a reset.
pub fn detaching_keeps_rules_and_connections() -> Result<()> {
    need::network()?;
    let set = dr_by_route(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    for service in drive::services(&set, DR) {
        lab.quiet(&service.commands("rr"))?;
        let mut idle = Connection::open(&set.client.netns, service.vip)?;
        let who = idle.who()?;
        while_downloading(&set, &lab, service.vip, || {
            let before = lab.ok("ipvsadm -Ln")?;
            lab.ok("lb-user detach eth0")?;
            ensure!(lab.ok("ipvsadm -Ln")? == before, "detaching changed the table");
            thread::sleep(Duration::from_millis(300));
            lab.ok("lb-user attach eth0")?;
            ensure!(lab.ok("ipvsadm -Ln")? == before, "attaching changed the table");
            Ok(())
        })?;
        ensure!(idle.who()? == who, "the connection went to another server");
        // Two connections were opened, so the round goes on with the third server.
        let mut round = service.round();
        round.rotate_left(2);
        drive::answers_in_turn(&set, service.vip, &round, 6)?;
    }
    Ok(())
}

pub fn attaching_again_disturbs_nobody() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    let round = service.round();
    thread::scope(|scope| {
        let requests = scope.spawn(|| drive::answers_in_turn(&set, service.vip, &round, 3000));
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(200));
            lab.ok("lb-user attach eth0")?;
        }
        requests.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    })?;
    let links = lab.ok("ip link show eth0")?;
    ensure!(links.matches("prog/xdp").count() == 1, "one program on the card, not: {links}");
    Ok(())
}

pub fn purging_leaves_nothing() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    lab.ok("lb-user detach --purge")?;
    let link = lab.ok("ip link show eth0")?;
    ensure!(!link.contains("xdp"), "a program is still on the card: {link}");
    lab.lists(listing::TITLE)?;
    lab.ok("lb-user detach --purge").context("a second time")?;
    lab.ok("lb-user attach eth0")?;
    lab.lists(listing::TITLE)?;
    lab.quiet(&service.commands("rr"))?;
    service.serves_in_turn(&set)
}

pub fn one_of_two_cards() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let [service, _] = drive::services(&set, NAT);
    lab.quiet(&service.commands("rr"))?;
    lab.ok("lb-user detach eth1")?;
    ensure!(lab.ok("ip link show eth0")?.contains("prog/xdp"));
    ensure!(!lab.ok("ip link show eth1")?.contains("prog/xdp"));
    lab.ok("lb-user attach eth1")?;
    service.serves_in_turn(&set)?;
    lab.ok("lb-user detach")?;
    ensure!(
        !lab.ok("ip link")?.contains("prog/xdp"),
        "detach without a name takes the program off everywhere"
    );
    Ok(())
}

pub fn generic_mode() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    let said = lab.ok("lb-user attach eth0 --mode generic")?;
    ensure!(said.contains("generic"), "attach should say which mode it got: {said}");
    ensure!(lab.ok("ip link show eth0")?.contains("xdpgeneric"));
    for service in drive::services(&set, DR) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

pub fn generic_mode_nat() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1 --mode generic")?;
    for service in drive::services(&set, NAT) {
        lab.quiet(&service.commands("rr"))?;
        service.serves_in_turn(&set)?;
    }
    Ok(())
}

pub fn what_is_not_for_a_service_is_left_alone() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for service in drive::services(&set, NAT) {
        lab.quiet(&service.commands("rr"))?;
    }
    for server in &set.servers {
        for address in server.address.with_port(80) {
            ensure!(curl::answers(&set.client.netns, address, 3)? == vec![server.name(); 3], "{address}");
        }
    }
    for vip in set.vip.both() {
        set.client.netns.ping(vip).context("ping of the VIP")?;
    }
    for closed in set.vip(8080) {
        let said = set.client.netns.run(&[
            "curl",
            "-sS",
            "--max-time",
            &pace::seconds(5),
            &curl::url(closed, "/"),
        ])?;
        // 7: refused, at once, by the balancer's own stack.
        ensure!(said.status == 7, "{closed}: {said:?}");
    }
    Ok(())
}

/// Direct routing where the balancer gets the VIP's packets by a route of the client's, and has no such address.
fn dr_by_route(plan: &Plan) -> Result<Topology> {
    let set = topo::dr_wiring(plan)?;
    set.vip_on_servers()?;
    set.client.route(Some(set.vip), set.balancer.address)?;
    Ok(set)
}

/// Runs `body` in the middle of a download of about four seconds, which has to come whole. It is the second open
/// connection, and has begun when it is listed as that.
fn while_downloading(
    set: &Topology,
    lab: &Lab,
    vip: SocketAddr,
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let download = scope.spawn(|| curl::download(&set.client.netns, vip, "/slow/big"));
        run::until(Duration::from_secs(10), "the download", || {
            let conns = lab.ok("ipvsadm -Lnc").ok()?;
            let open = |line: &&str| line.contains(&vip.to_string()) && line.contains(" ESTABLISHED ");
            (conns.lines().filter(open).count() == 2).then_some(())
        })?;
        body()?;
        let got = download.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(got == set.content.big(), "what came is not what the server has");
        Ok(())
    })
}
