//! Connections: counted, expired, kept. No process of the balancer's is running in any of these.

use anyhow::{Result, anyhow, ensure};
use lb_tests::drive::{self, DR, NAT, Service};
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::need;
use lb_tests::peer::udp::Asker;
use lb_tests::peer::{Connection, Echo, curl};
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);

fn plan() -> Result<Plan> {
    Plan::new(PLAN.0, &PLAN.1)
}

/// A service's listing when all dests have weight 1, with each dest's active and inactive count.
fn counted(service: &Service, counts: &[(u32, u32)]) -> String {
    let row = |(address, &(active, inactive))| dest(address, service.method.1, 1, active, inactive);
    let rows: String = service.dests.iter().zip(counts).map(row).collect();
    format!("{TITLE}TCP  {} rr\n{rows}", service.vip)
}

pub fn counts_follow_connections() -> Result<()> {
    need::network()?;
    for (set, method, cards) in [(topo::dr(&plan()?)?, DR, "eth0"), (topo::nat(&plan()?)?, NAT, "eth0 eth1")]
    {
        let lab = Lab::at(&set.balancer.netns)?;
        lab.ok(&format!("lb-user attach {cards}"))?;
        for service in drive::services(&set, method) {
            lab.quiet(&service.commands("rr"))?;
            let open = || Connection::open(&set.client.netns, service.vip);
            let mut connections = [open()?, open()?, open()?];
            lab.lists(&counted(&service, &[(1, 0), (2, 0)]))?;
            ensure!(connections[0].who()? == "10.211.55.70" && connections[1].who()? == "10.211.55.69");
            lab.lists(&counted(&service, &[(1, 0), (2, 0)]))?;
            drop(connections);
            lab.lists(&counted(&service, &[(0, 1), (0, 2)]))?;
            drive::answers_in_turn(&set, service.vip, &["10.211.55.69".into(), "10.211.55.70".into()], 4)?;
            lab.lists(&counted(&service, &[(0, 3), (0, 4)]))?;
            lab.quiet("ipvsadm -C")?;
        }
    }
    Ok(())
}

pub fn idle_connections_expire_without_a_daemon() -> Result<()> {
    need::network()?;
    let set = topo::dr(&plan()?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    lab.quiet("ipvsadm --set 2 2 2")?;
    ensure!(lab.ok("ipvsadm -L --timeout")? == "Timeout (tcp tcpfin udp): 2 2 2\n");
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    let mut busy = Connection::open(&set.client.netns, service.vip)?;
    let _idle = Connection::open(&set.client.netns, service.vip)?;
    curl::answers(&set.client.netns, service.vip, 10)?;
    lab.lists(&counted(&service, &[(1, 5), (1, 5)]))?;
    // The busy one is kept by its packets: it outlives the others' two seconds, several times.
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(600));
        ensure!(busy.who()? == "10.211.55.70");
    }
    lab.lists(&counted(&service, &[(0, 0), (1, 0)]))?;
    udp_expires(&set, &lab)
}

fn udp_expires(set: &Topology, lab: &Lab) -> Result<()> {
    let [vip, _] = set.vip(53);
    let server = &set.servers[0];
    let _echo = Echo::start(&server.netns, "echo", &[vip])?;
    lab.quiet(&format!(
        "ipvsadm -C\nipvsadm -A -u {vip} -s rr\nipvsadm -a -u {vip} -r {}",
        server.address.v4
    ))?;
    ensure!(Asker::new(&set.client.netns, vip)?.ask()? == "echo");
    let listing = |inactive| {
        format!("{TITLE}UDP  {vip} rr\n{}", dest(server.address.with_port(53)[0], "Route", 1, 0, inactive))
    };
    lab.lists(&listing(1))?;
    run::until(Duration::from_secs(6), "the datagram's entry gone", || {
        lab.ok("ipvsadm -Ln").is_ok_and(|table| table == listing(0)).then_some(())
    })
}

pub fn weight_zero_keeps_connections() -> Result<()> {
    need::network()?;
    let set = topo::dr(&plan()?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    let mut kept = Connection::open(&set.client.netns, service.vip)?;
    ensure!(kept.who()? == "10.211.55.70");
    lab.quiet(&format!("ipvsadm -e -t {} -r {} -g -w 0", service.vip, service.dests[1]))?;
    drive::answers_in_turn(&set, service.vip, &["10.211.55.69".to_owned()], 6)?;
    ensure!(kept.who()? == "10.211.55.70");
    let table = lab.ok("ipvsadm -Ln")?;
    ensure!(table.contains(&dest(service.dests[1], "Route", 0, 1, 0)), "{table}");
    lab.quiet(&format!("ipvsadm -e -t {} -r {} -g -w 1", service.vip, service.dests[1]))?;
    drive::answers_in_turn(&set, service.vip, &service.round(), 6)
}

/// Packets for a deleted dest's connections are dropped; added again, it has its connections and their counts.
pub fn a_deleted_dest_comes_back_with_its_connections() -> Result<()> {
    need::network()?;
    let set = topo::dr(&plan()?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [service, _] = drive::services(&set, DR);
    lab.quiet(&service.commands("rr"))?;
    let mut kept = Connection::open(&set.client.netns, service.vip)?;
    ensure!(kept.who()? == "10.211.55.70");
    let (vip, gone) = (service.vip, service.dests[1]);
    lab.quiet(&format!("ipvsadm -d -t {vip} -r {gone}"))?;
    drive::answers_in_turn(&set, vip, &["10.211.55.69".to_owned()], 6)?;
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| kept.who());
        thread::sleep(Duration::from_millis(700));
        ensure!(!asked.is_finished(), "an answer, although the dest is deleted");
        lab.quiet(&format!("ipvsadm -a -t {vip} -r {gone} -g"))?;
        asked.join().map_err(|_| anyhow!("the client panicked"))?
    })?;
    ensure!(asked == "10.211.55.70");
    let table = lab.ok("ipvsadm -Ln")?;
    ensure!(table.contains(&dest(gone, "Route", 1, 1, 0)), "{table}");
    Ok(())
}

/// Eight clients ask at the same time. Their order is nobody's business, the shares are.
pub fn many_clients_at_once() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::example())?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for service in drive::services(&set, NAT) {
        lab.quiet(&service.commands("rr"))?;
        let shares = shares(&set, service.vip, 8, 150)?;
        let fair = service.round().into_iter().map(|name| (name, 400)).collect::<BTreeMap<_, _>>();
        ensure!(shares == fair, "{}: {shares:?}", service.vip);
        let counts = vec![(0, 400); 3];
        lab.shows(
            &format!("ipvsadm -Ln -t {}", service.vip),
            counted(&service, &counts).split_once('\n').map_or("", |(_, rows)| rows),
        )?;
    }
    Ok(())
}

fn shares(
    set: &Topology,
    vip: SocketAddr,
    clients: usize,
    requests: usize,
) -> Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    let answers = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..clients).map(|_| scope.spawn(|| curl::answers(&set.client.netns, vip, requests))).collect();
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    answers.into_iter().flatten().for_each(|name| *shares.entry(name).or_default() += 1);
    Ok(shares)
}
