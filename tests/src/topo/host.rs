//! A host: a namespace, its cards and its addresses.

use super::address::Dual;
use crate::net::{Netns, Switch};
use crate::peer::{Content, Nginx};
use anyhow::Result;
use std::net::IpAddr;
use std::ops::Deref;

/// A namespace with its first network card.
#[derive(Debug)]
pub struct Host {
    /// The namespace.
    pub netns: Netns,
    /// The first card.
    pub nic: String,
    /// The first address on it.
    pub address: Dual,
}

impl Host {
    /// A host with one card and one address.
    pub fn new(role: &str, switch: &Switch, nic: &str, address: Dual) -> Result<Self> {
        let host = Self { netns: Netns::new(role)?, nic: nic.to_owned(), address };
        host.plug(switch, nic, address)?;
        Ok(host)
    }

    /// Another card.
    pub fn plug(&self, switch: &Switch, nic: &str, address: Dual) -> Result<()> {
        switch.plug(&self.netns, nic)?;
        self.add(nic, address)
    }

    /// An address of the card's segment.
    pub fn add(&self, nic: &str, address: Dual) -> Result<()> {
        self.add_prefix(nic, address, 24, 64)
    }

    /// An address without a segment.
    pub fn add_alone(&self, nic: &str, address: Dual) -> Result<()> {
        self.add_prefix(nic, address, 32, 128)
    }

    fn add_prefix(&self, nic: &str, Dual { v4, v6 }: Dual, v4_bits: u8, v6_bits: u8) -> Result<()> {
        self.netns.ip(&format!("addr add {v4}/{v4_bits} dev {nic}\naddr add {v6}/{v6_bits} dev {nic} nodad"))
    }

    /// Routes to one address, or everywhere, through a neighbour.
    pub fn route(&self, to: Option<Dual>, via: Dual) -> Result<()> {
        let (v4, v6) = match to {
            Some(to) => (to.v4.to_string(), to.v6.to_string()),
            None => ("0.0.0.0/0".to_owned(), "::/0".to_owned()),
        };
        self.netns.ip(&format!("route add {v4} via {}\nroute add {v6} via {}", via.v4, via.v6))
    }

    /// Whether it has this address, on whatever card.
    pub fn has(&self, address: IpAddr) -> Result<bool> {
        let said = self.netns.run(&["ip", "-o", "address", "show", "to", &address.to_string()])?;
        Ok(!said.ok()?.is_empty())
    }

    /// Lets it pass on packets that are not its own.
    pub fn forward(&self) -> Result<()> {
        self.netns.sysctl("net.ipv4.ip_forward", "1")?;
        self.netns.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// The ARP settings of direct routing: no answer to questions about addresses of the loopback, and no question in
    /// their name. IPv6 behaves so by itself.
    pub fn hide_loopback_addresses(&self) -> Result<()> {
        self.netns.sysctl(&format!("net.ipv4.conf.{}.arp_ignore", self.nic), "1")?;
        self.netns.sysctl(&format!("net.ipv4.conf.{}.arp_announce", self.nic), "2")
    }
}

/// A host with nginx on it.
#[derive(Debug)]
pub struct Server {
    // The server goes before its namespace.
    nginx: Option<Nginx>,
    host: Host,
}

impl Server {
    /// Starts nginx; it answers its IPv4 address at `/`.
    pub fn start(host: Host, ports: &[u16], content: &Content) -> Result<Self> {
        let mut server = Self { nginx: None, host };
        server.restart(ports, content)?;
        Ok(server)
    }

    /// Kills nginx: its ports are closed.
    pub fn stop(&mut self) {
        self.nginx = None;
    }

    /// Starts nginx again.
    pub fn restart(&mut self, ports: &[u16], content: &Content) -> Result<()> {
        self.stop();
        self.nginx = Some(Nginx::start(&self.host.netns, &self.name(), ports, content)?);
        Ok(())
    }

    /// What it answers at `/`.
    pub fn name(&self) -> String {
        self.host.address.v4.to_string()
    }
}

impl Deref for Server {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
