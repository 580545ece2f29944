//! `lvs_sync_daemon` with an instance: the role is the one VRRP gives, seen from where the address is.

use crate::sync_files::SyncFiles;
use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::peer::Flows;
use lb_tests::topo::{Host, Pair, Plan};
use lb_tests::{need, run};
use std::fs;
use std::time::Duration;

const COMMON: &str = include_str!("../../../dist/examples/failover-nat.conf");
const AGENT: &str = include_str!("../../../dist/examples/failover-nat-agent.conf");
/// For what an agent does within its second, and a daemon within its own.
const SOON: Duration = Duration::from_secs(15);
/// Connections of each family.
const COUNT: usize = 6;

/// A balancer with its agent.
struct Balancer<'l> {
    host: &'l Host,
    lab: &'l Lab,
    agent: Agent<'l>,
}

impl<'l> Balancer<'l> {
    fn start(host: &'l Host, lab: &'l Lab, config: &str) -> Result<Self> {
        lab.ok("lb-user attach eth0 eth1 --connections 4096")?;
        let agent = Agent::start_with(lab, &host.netns, config, &["--purge-on-exit"])?;
        Ok(Self { host, lab, agent })
    }

    /// The VIP and the servers' gateway come or go.
    fn addresses(&self, pair: &Pair, verb: &str) -> Result<()> {
        let gateway = pair.gateway.context("a set-up with a gateway")?;
        for (nic, address) in [("eth0", pair.set.vip), ("eth1", gateway)] {
            for (address, bits) in address.both().into_iter().zip([32, 128]) {
                self.host.netns.ip(&format!("address {verb} {address}/{bits} dev {nic}"))?;
            }
        }
        Ok(())
    }

    /// Waits until this daemon runs, and no other, as ipvsadm sees it.
    fn has_role(&self, role: &str) -> Result<()> {
        let wanted = format!(
            "{role} sync daemon (mcast=eth1, syncid=51, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"
        );
        let shown = || (self.lab.ok("ipvsadm -L --daemon").ok()? == wanted).then_some(());
        run::until(SOON, &wanted, shown)
            .with_context(|| format!("{:?} {}", self.lab.ok("ipvsadm -L --daemon"), self.agent.log()))
    }

    /// Waits until it lists so many connections.
    fn knows(&self, count: usize) -> Result<()> {
        let listed = || {
            let listing = self.lab.ok("ipvsadm -Lnc").ok()?;
            (listing.matches("ESTABLISHED").count() == count).then_some(())
        };
        run::until(SOON, &format!("{count} connections"), listed)
            .with_context(|| format!("{:?} {}", self.lab.ok("lb-user status"), self.agent.log()))
    }

    /// A number that `lb-user status` has of a daemon.
    fn of_daemon(&self, role: &str, place: &str) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.lab.ok("lb-user status --json")?)?;
        let number = status.pointer(&format!("/sync/{role}/{place}")).and_then(serde_json::Value::as_u64);
        number.with_context(|| format!("{role}: {place} in {status}"))
    }
}

/// Connections, half of them over IPv6.
fn open(pair: &Pair) -> Result<Vec<Flows>> {
    let flows = pair.set.vip(80).map(|vip| Flows::start(&pair.set.client.netns, vip, COUNT));
    flows.into_iter().collect()
}

/// The address comes, and with it the master's daemon, whose connections the other balancer gets; the address goes. A daemon
/// that is killed is started again, and nothing of it stays behind.
pub fn roles_follow_the_address() -> Result<()> {
    need::network()?;
    let pair = Pair::nat(&Plan::new("203.0.113.100", &["192.168.26.155", "192.168.26.156"])?)?;
    let files = SyncFiles::new(COMMON, "7")?;
    let config = files.agents(AGENT)?;
    let [first, second] = pair.balancers();
    let labs = [Lab::at(&first.netns)?, Lab::at(&second.netns)?];
    let (mut first, mut second) =
        (Balancer::start(first, &labs[0], &config)?, Balancer::start(second, &labs[1], &config)?);
    first.has_role("backup")?;
    second.has_role("backup")?;

    first.addresses(&pair, "add")?;
    first.has_role("master")?;
    let mut flows = open(&pair)?;
    second.knows(2 * COUNT)?;

    let killed = second.of_daemon("backup", "pid")?;
    second.lab.ok(&format!("kill -9 {killed}"))?;
    flows.extend(open(&pair)?);
    let another = || second.of_daemon("backup", "pid").is_ok_and(|pid| pid != killed).then_some(());
    run::until(SOON, "another process", another).with_context(|| second.agent.log())?;
    second.has_role("backup")?;
    ensure!(!fs::exists(format!("/proc/{killed}"))?, "the daemon that was killed is not reaped");
    // What was told while there was nobody to hear it, it asks for.
    second.knows(4 * COUNT)?;
    let whole = || (second.of_daemon("backup", "counts/resyncs").ok()? == 1).then_some(());
    run::until(SOON, "a whole table", whole)?;
    flows.iter().try_for_each(|flows| flows.check().map(drop))?;

    first.addresses(&pair, "del")?;
    second.addresses(&pair, "add")?;
    first.has_role("backup")?;
    second.has_role("master")?;
    drop(flows);
    // With the agent go the daemons it started.
    first.agent.stop()?;
    second.agent.stop()?;
    labs.iter().try_for_each(|lab| lab.shows("ipvsadm -L --daemon", ""))
}
