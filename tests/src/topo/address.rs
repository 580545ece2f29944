//! Which host has which address.

use anyhow::{Context, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IPv4 address and its IPv6 twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dual {
    /// As the plan has it.
    pub v4: Ipv4Addr,
    /// A segment's prefix and the IPv4 address: `fd00:SEGMENT::a.b.c.d`.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// The address of a host on the segment of that number.
    pub fn on(segment: u16, v4: Ipv4Addr) -> Self {
        let [a, b, c, d] = v4.octets();
        let low = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        Self { v4, v6: Ipv6Addr::new(0xfd00, segment, 0, 0, 0, 0, low[0], low[1]) }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both with a port, IPv4 first.
    pub fn with_port(self, port: u16) -> [SocketAddr; 2] {
        self.both().map(|address| SocketAddr::new(address, port))
    }
}

impl fmt::Display for Dual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.v4, self.v6)
    }
}

/// The addresses a set-up is made from. The others follow from them; every segment is a /24 and a /64.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The virtual address.
    pub vip: Ipv4Addr,
    /// The real servers.
    pub servers: Vec<Ipv4Addr>,
    /// The ports nginx listens on.
    pub ports: Vec<u16>,
    /// The balancer's card towards the client.
    pub nic: &'static str,
}

impl Plan {
    /// The client's addresses: this many, from .200 on.
    pub const CLIENTS: u8 = 2;

    /// Addresses as a lab writes them; nginx on port 80; the balancer's card is eth0.
    pub fn new(vip: &str, servers: &[&str]) -> Result<Self> {
        let parse = |text: &str| text.parse().with_context(|| format!("`{text}` is no IPv4 address"));
        let servers = servers.iter().map(|server| parse(server)).collect::<Result<_>>()?;
        Ok(Self { vip: parse(vip)?, servers, ports: vec![80], nic: "eth0" })
    }

    /// The addresses of the first lab's direct routing, with three servers.
    pub fn example() -> Self {
        let net = |last| Ipv4Addr::new(10, 211, 55, last);
        Self { vip: net(8), servers: vec![net(69), net(70), net(71)], ports: vec![80, 8080], nic: "eth0" }
    }

    /// The servers' network with another host number.
    pub fn behind(&self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.servers.first().unwrap_or(&self.vip).octets();
        Ipv4Addr::new(a, b, c, host)
    }

    /// A host in the clients' network, where that is not the servers'.
    pub fn in_front(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_twin_reads_like_its_ipv4_address() -> Result<()> {
        let dual = Dual::on(1, "10.211.55.8".parse()?);
        assert_eq!(dual.v6, "fd00:1::10.211.55.8".parse::<Ipv6Addr>()?);
        Ok(())
    }
}
