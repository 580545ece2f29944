//! The client's connections, half of them over IPv6.

use anyhow::{Context, Result, ensure};
use lb_tests::peer::Flows;
use lb_tests::topo::Topology;
use std::env;

/// Open connections with something on them all the time.
pub struct Traffic<'m> {
    method: &'m str,
    flows: [Flows; 2],
    /// Opened later.
    more: Vec<Flows>,
}

impl<'m> Traffic<'m> {
    /// To the VIP's port 80; `method` is for what is printed.
    pub fn start(method: &'m str, set: &Topology) -> Result<Self> {
        let open = |vip| Flows::start(&set.client.netns, vip, connections() / 2);
        let [v4, v6] = set.vip(80);
        let flows = [open(v4)?, open(v6)?];
        for flows in &flows {
            ensure!(flows.servers().len() > 1, "all on one server: {:?}", flows.servers());
        }
        Ok(Self { method, flows, more: Vec::new() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        2 * (connections() / 2)
    }

    /// Opens further ones, a few of each family.
    pub fn more(&mut self, set: &Topology) -> Result<()> {
        for vip in set.vip(80) {
            self.more.push(Flows::start(&set.client.netns, vip, 8)?);
        }
        Ok(())
    }

    /// Each of them is answered from now on, by the server it always had.
    pub fn flows(&self, when: &str) -> Result<()> {
        for (flows, family) in self.flows.iter().zip(["IPv4", "IPv6"]) {
            let what = format!("{}, {family}, {when}", self.method);
            let checked = flows.check().with_context(|| what.clone())?;
            println!("{what}: {checked}");
        }
        let more = self.more.iter().try_for_each(|flows| flows.check().map(drop));
        more.with_context(|| format!("{}, opened later, {when}", self.method))
    }
}

/// 500 with `cargo xtask test --full`.
fn connections() -> usize {
    let full = env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1");
    if full { 500 } else { 64 }
}
