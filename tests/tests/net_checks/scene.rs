//! A set-up with a balancer on it, and configurations for its agent.

use anyhow::{Context, Result};
use lb_tests::lab::Lab;
use lb_tests::peer::Connection;
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How packets reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Direct routing.
    Dr,
    /// Address translation.
    Nat,
    /// Tunnels.
    Tun,
}

/// All three.
pub const KINDS: [Kind; 3] = [Kind::Dr, Kind::Nat, Kind::Tun];

/// A set-up, with the balancer attached.
pub struct Scene {
    /// Where commands are typed. It goes before the namespaces.
    pub lab: Lab,
    /// Who is there.
    pub set: Topology,
    kind: Kind,
}

impl Scene {
    /// With two servers.
    pub fn new(kind: Kind) -> Result<Self> {
        let plan = Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])?;
        let set = match kind {
            Kind::Dr => topo::dr(&plan)?,
            Kind::Nat => topo::nat(&plan)?,
            Kind::Tun => topo::tun(&plan)?,
        };
        let lab = Lab::at(&set.balancer.netns)?;
        lab.ok(if kind == Kind::Nat { "lb-user attach eth0 eth1" } else { "lb-user attach eth0" })?;
        Ok(Self { set, lab, kind })
    }

    /// A service on the VIP of each family, checked every second by one attempt of a second; `words` are the services'.
    pub fn config(&self, protocol: &str, port: u16, words: &str) -> String {
        let services = self.set.vip(port);
        let services = services.iter().map(|vip| self.service(*vip, protocol, words));
        services.collect()
    }

    fn service(&self, vip: SocketAddr, protocol: &str, words: &str) -> String {
        let kind = match self.kind {
            Kind::Dr => "DR",
            Kind::Nat => "NAT",
            Kind::Tun => "TUN",
        };
        let (ip, port) = (vip.ip(), vip.port());
        // IPv6 would choose the VIP, which is the servers' own as well.
        let from = match self.kind {
            Kind::Nat => String::new(),
            _ => format!("bindto {}", same_family(self.set.balancer.address, vip.ip())),
        };
        let servers: String = self.servers(vip.ip()).map(|server| real_server(server, port, &from)).collect();
        format!(
            "virtual_server {ip} {port} {{\n delay_loop 1\n lb_algo rr\n lb_kind {kind}\n protocol {protocol}\n\
             {words}\n{servers}}}\n"
        )
    }

    fn servers(&self, like: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.set.servers.iter().map(move |server| same_family(server.address, like))
    }

    /// Waits until each service has so many servers.
    pub fn has_servers(&self, count: usize) -> Result<()> {
        let there = || {
            let listing = self.lab.ok("ipvsadm -Ln").ok()?;
            let services: Vec<&str> =
                listing.lines().filter(|line| !line.starts_with("  ->")).skip(2).collect();
            let rows = listing.lines().filter(|line| line.starts_with("  -> ")).count() - 1;
            (!services.is_empty() && rows == count * services.len()).then_some(())
        };
        let waited = run::until(Duration::from_secs(20), "the servers", there);
        waited.with_context(|| self.lab.ok("ipvsadm -Ln").unwrap_or_default())
    }

    /// Waits until each service on this port has so many servers; 0: until there is none.
    pub fn lab_has(&self, port: u16, servers: usize) -> Result<()> {
        let there = || {
            let listing = self.lab.ok("ipvsadm -Ln").ok()?;
            let mut counts: Vec<usize> = Vec::new();
            let mut ours = false;
            for line in listing.lines().skip(3) {
                match line.starts_with("  -> ") {
                    true if ours => *counts.last_mut()? += 1,
                    true => {}
                    false => {
                        ours = line.contains(&format!(":{port} "));
                        counts.extend(ours.then_some(0));
                    }
                }
            }
            let wanted = if servers == 0 { vec![] } else { vec![servers; 2] };
            (counts == wanted).then_some(())
        };
        let waited = run::until(Duration::from_secs(20), "the servers", there);
        waited.with_context(|| {
            format!("port {port}, {servers}: {}", self.lab.ok("ipvsadm -Ln").unwrap_or_default())
        })
    }

    /// The servers' weights, in the order of the listing.
    pub fn weights(&self) -> Result<Vec<u32>> {
        let listing = self.lab.ok("ipvsadm -Ln")?;
        let rows = listing.lines().filter(|line| line.starts_with("  -> ")).skip(1);
        rows.map(|row| row.split_whitespace().nth(3).context("no weight")?.parse().context(row.to_owned()))
            .collect()
    }

    /// An open connection to the server at this place, by each family's VIP.
    pub fn connections_to(&self, server: usize) -> Result<Vec<Connection>> {
        self.set.vip(80).iter().map(|vip| self.connection_to(server, *vip)).collect()
    }

    fn connection_to(&self, server: usize, vip: SocketAddr) -> Result<Connection> {
        let wanted = self.set.servers[server].name();
        // Round robin: the second at the latest.
        for _ in 0..2 {
            let mut connection = Connection::open(&self.set.client.netns, vip)?;
            if connection.who()? == wanted {
                return Ok(connection);
            }
        }
        anyhow::bail!("no connection to {vip} gets to {wanted}")
    }

    /// A server's cable is pulled: nothing comes from it any more.
    pub fn cut_off(&self, server: usize) -> Result<()> {
        self.set.servers[server].netns.ip("link set eth0 down")
    }

    /// How many packets ended for this reason.
    pub fn counted(&self, reason: &str) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.lab.ok("lb-user status --json")?)?;
        let reasons = status["reasons"].as_array().context("a status without reasons")?;
        let found = reasons.iter().find(|found| found["label"] == reason).context("no such reason")?;
        found["count"].as_u64().context("a count")
    }
}

fn same_family(dual: topo::Dual, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { dual.v4.into() } else { dual.v6.into() }
}

fn real_server(addr: IpAddr, port: u16, from: &str) -> String {
    format!(
        "real_server {addr} {port} {{\n weight 1\n TCP_CHECK {{\n connect_port 80\n {from}\n connect_timeout 1\n retry 0\n }}\n}}\n"
    )
}
