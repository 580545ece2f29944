//! Full resync: a backup that comes late gets everything, if it knows the key.

use super::{SOON, agree, connections};
use anyhow::{Context, Result, ensure};
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::sync::{Outcome, Synced};
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::peer::{Echo, Flows, Pulse};
use lb_tests::topo::{Dual, Pair, Plan};
use lb_tests::{need, run};
use lb_user::bpf::bpffs;
use lb_user::bpf::sync::Instance;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A sync daemon in the foreground, ended when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab, netns: &Netns, role: &str, words: &[&str]) -> Result<Self> {
        let mut command = netns.command(lab.programs().join("lb-user"));
        command.args(["sync-daemon", role, "--interface", "eth0"]).args(words);
        let child = run::die_with_us(command.stderr(Stdio::null())).spawn().context("starting a daemon")?;
        let started = Self(child);
        let what = format!("the {role} daemon");
        run::until(SOON, &what, || lab.ok("ipvsadm -L --daemon").ok()?.contains(role).then_some(()))?;
        Ok(started)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn key(folder: &Path, name: &str, digit: &str) -> Result<String> {
    let file = folder.join(name);
    fs::write(&file, digit.repeat(64))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file.display().to_string())
}

/// A number of the backup's.
fn counted(lab: &Lab, name: &str) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(&lab.ok("lb-user status --json").ok()?).ok()?;
    status["sync"]["backup"]["counts"][name].as_u64()
}

pub fn a_late_backup_gets_everything() -> Result<()> {
    need::network()?;
    let pair = Pair::dr(&Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?)?;
    pair.set.vip_on_balancer()?;
    let folder = tempfile::tempdir()?;
    let (ours, other) = (key(folder.path(), "ours", "7")?, key(folder.path(), "other", "8")?);
    let [first, second] = pair.balancers();
    let labs = [Lab::at(&first.netns)?, Lab::at(&second.netns)?];
    for lab in &labs {
        lab.ok("lb-user attach eth0 --connections 4096\nipvsadm -A -t 192.168.26.200:80 -s rr")?;
        lab.ok("ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.155 -g\nipvsadm -a -t 192.168.26.200:80 -r 192.168.26.156 -g")?;
    }
    // What is told once is not told again for hours: a late backup cannot have it by multicast.
    labs[0].ok("ipvsadm --set 200000 0 0")?;
    let flows = Flows::start(&pair.set.client.netns, pair.set.vip(80)[0], 6)?;
    let _master = Daemon::start(&labs[0], &first.netns, "master", &["--syncid", "7", "--resync-key", &ours])?;
    // All that is due is told, while nobody listens.
    run::until(SOON, "a master that has told everything", || {
        labs[0].ok("lb-user status").ok()?.contains("records 6").then_some(())
    })?;
    {
        let words = ["--syncid", "7", "--resync-key", &other];
        let _backup = Daemon::start(&labs[1], &second.netns, "backup", &words)?;
        run::until(SOON, "another key to be refused", || {
            (counted(&labs[1], "resyncs_failed")? > 0).then_some(())
        })?;
        ensure!(connections(&labs[1])?.is_empty(), "a table for somebody with another key");
    }
    run::until(SOON, "the end of that backup", || {
        (!labs[1].ok("ipvsadm -L --daemon").ok()?.contains("backup")).then_some(())
    })?;
    let words = ["--syncid", "7", "--resync-key", &ours];
    let _backup = Daemon::start(&labs[1], &second.netns, "backup", &words)?;
    agree(&labs, 6)?;
    // Its figures are those of a second ago.
    run::until(SOON, "one transfer", || (counted(&labs[1], "resyncs") == Some(1)).then_some(()))?;
    flows.check().map(drop)
}

/// Half of them over IPv6. A million with `cargo xtask test --full`.
fn many() -> usize {
    let full = std::env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1");
    if full { 1_000_000 } else { 20_000 }
}

/// One million connections in less than this.
const LIMIT: Duration = Duration::from_secs(10);

/// Datagrams go through master and backup all the while: none of them is lost.
pub fn a_large_table_in_seconds() -> Result<()> {
    need::network()?;
    let pair = Pair::dr(&Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?)?;
    let (set, [first, second]) = (&pair.set, pair.balancers());
    let labs = [Lab::at(&first.netns)?, Lab::at(&second.netns)?];
    let traffic = Traffic::start(&pair, &labs)?;
    for lab in &labs {
        for (at, vip) in set.vip(80).into_iter().enumerate() {
            let server = set.servers[0].address.with_port(80)[at];
            lab.ok(&format!("ipvsadm -A -t {vip}\nipvsadm -a -t {vip} -r {server} -g"))?;
        }
    }
    first.netns.enter(|| fill(many(), set.vip, set.servers[0].address, Outcome::Made))??;
    let folder = tempfile::tempdir()?;
    let key = key(folder.path(), "key", "3")?;
    let _master = Daemon::start(&labs[0], &first.netns, "master", &["--resync-key", &key])?;
    traffic.look("before")?;
    thread::sleep(Duration::from_secs(3));
    traffic.look("without a resync")?;
    let start = Instant::now();
    let peer = first.address.v6.to_string();
    let words = ["--resync-key", &key, "--resync-peer", &peer];
    let backup = Daemon::start(&labs[1], &second.netns, "backup", &words)?;
    run::until(SOON * 4, "the whole table", || (counted(&labs[1], "resyncs")? > 0).then_some(()))?;
    run::until(SOON * 4, "all of them", || (counted(&labs[1], "made")? >= many() as u64).then_some(()))?;
    let took = start.elapsed();
    traffic.look("during the resync")?;
    println!(
        "{} connections, half of them IPv6, in {took:.1?}, the daemon's start and a second's lag of its figures included",
        many()
    );
    ensure!(took < LIMIT, "{took:?}");
    // Not one of them is new to the backup. One hands over at a time, so the daemon ends first.
    drop(backup);
    second.netns.enter(|| fill(many(), set.vip, set.servers[0].address, Outcome::Refreshed))?
}

/// Datagrams of both families to an address on each of the balancers.
struct Traffic {
    pulses: [Pulse; 4],
    _echoes: Vec<Echo>,
}

impl Traffic {
    const PORT: u16 = 7;

    /// Attaches both and makes their services: the VIP is on the first one, another address on the second.
    fn start(pair: &Pair, labs: &[Lab; 2]) -> Result<Self> {
        let set = &pair.set;
        let other = Dual::on(1, Ipv4Addr::new(192, 168, 26, 201));
        set.vip_on_balancer()?;
        pair.second.add_alone("eth0", other)?;
        set.servers.iter().try_for_each(|server| server.add_alone("lo", other))?;
        let mut echoes = Vec::new();
        for server in &set.servers {
            let listens = [set.vip(Self::PORT), other.with_port(Self::PORT)].concat();
            echoes.push(Echo::start(&server.netns, &server.name(), &listens)?);
        }
        for (lab, vip) in labs.iter().zip([set.vip, other]) {
            lab.ok(&format!("lb-user attach eth0 --connections {0} --connections-v6 {0}", 2 * many()))?;
            for (at, vip) in vip.with_port(Self::PORT).into_iter().enumerate() {
                lab.ok(&format!("ipvsadm -A -u {vip} -s rr"))?;
                for server in &set.servers {
                    let dest = server.address.with_port(Self::PORT)[at];
                    lab.ok(&format!("ipvsadm -a -u {vip} -r {dest} -g"))?;
                }
            }
        }
        let [one, two] = [set.vip, other].map(|vip| vip.with_port(Self::PORT));
        let pulse = |vip| Pulse::start(&set.client.netns, vip);
        let pulses = [pulse(one[0])?, pulse(one[1])?, pulse(two[0])?, pulse(two[1])?];
        Ok(Self { pulses, _echoes: echoes })
    }

    /// None was lost since the last look.
    fn look(&self, when: &str) -> Result<()> {
        let names = ["master, IPv4", "master, IPv6", "backup, IPv4", "backup, IPv6"];
        let beats = Pulse::look_at(&self.pulses);
        names.iter().zip(&beats).for_each(|(name, beat)| println!("{when}, {name}: {beat}"));
        let lost = beats.iter().any(|beat| beat.sent == 0 || beat.lost > 0);
        ensure!(!lost, "{when}: datagrams were lost, see above");
        Ok(())
    }
}

/// Puts connections into the table of the thread's namespace, and says if something else than this comes of one.
fn fill(count: usize, vip: Dual, server: Dual, outcome: Outcome) -> Result<()> {
    let instance = Instance::open(&bpffs::instance(None)?)?.context("nothing is attached")?;
    let pools = instance.pools()?;
    let both = vip.both().into_iter().zip(server.both());
    for (family, (vip, server)) in [Family::V4, Family::V6].into_iter().zip(both) {
        let (vip, server) = (Addr::from(vip), Addr::from(server));
        let pool = pools
            .iter()
            .find(|(key, _)| key.addr == vip && key.port == Port::new(80))
            .context("the service")?
            .1;
        let dest = pool.servers.get(&server).and_then(|servers| servers.first()).context("its server")?;
        let one = |n: u32| Synced {
            client: client(family, n),
            vaddr: vip,
            daddr: server,
            cport: Port::new(1024 + (n % 50_000) as u16),
            vport: Port::new(80),
            dport: Port::new(80),
            proto: Proto::TCP,
            family: family as u8,
            dest: dest.number,
            service: pool.service,
            state: 1,
            timeout: 900,
            ..Synced::default()
        };
        let mut all: Vec<Synced> = (0..count as u32 / 2).map(one).collect();
        instance.adopt(&mut all)?;
        let mut outcomes = BTreeMap::new();
        all.iter().for_each(|one| *outcomes.entry(one.outcome).or_insert(0) += 1);
        ensure!(
            outcomes.keys().all(|found| *found == outcome as u32),
            "{family:?}: {outcome:?} wanted, but outcomes are {outcomes:?}"
        );
    }
    Ok(())
}

fn client(family: Family, n: u32) -> Addr {
    match family {
        Family::V4 => IpAddr::from((0x0b00_0000 + n).to_be_bytes()).into(),
        Family::V6 => IpAddr::from(std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n))).into(),
    }
}
