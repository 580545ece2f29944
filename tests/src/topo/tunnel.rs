//! How a real server takes packets out of a tunnel.

use super::address::Dual;
use super::host::Host;
use crate::lab;
use crate::net::Netns;
use anyhow::Result;

/// What this kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// A tunnel device of the kernel's, as in the labs.
    Device,
    /// No `ipip` in this kernel: a program of ours on the server's card, and the VIP on its loopback.
    Program,
}

impl TunnelEnd {
    /// Finds out by making a device in a namespace made for the question.
    pub fn here() -> Result<Self> {
        let scratch = Netns::new("scratch")?;
        Ok(match scratch.ip("link add probe type ipip") {
            Ok(()) => Self::Device,
            Err(_) => Self::Program,
        })
    }

    /// Makes `server` accept tunnelled packets for the VIP.
    pub fn open(self, server: &Host, vip: Dual) -> Result<()> {
        match self {
            Self::Device => devices(server, vip),
            Self::Program => program(server, vip),
        }
    }
}

/// `tunl0` for IPv4, `ip6tnl0` in any-protocol mode for IPv6; the reverse path filter would drop what comes out.
fn devices(server: &Host, vip: Dual) -> Result<()> {
    server.netns.ip("link add tunl0 type ipip\nlink add lbtnl6 type ip6tnl mode any\n")?;
    server.netns.ip("link set tunl0 up\nlink set lbtnl6 up")?;
    server.netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    server.netns.sysctl("net.ipv4.conf.tunl0.rp_filter", "0")?;
    server.hide_loopback_addresses()?;
    server.add_alone("tunl0", vip)
}

fn program(server: &Host, vip: Dual) -> Result<()> {
    server.hide_loopback_addresses()?;
    server.add_alone("lo", vip)?;
    let ours = lab::program()?;
    server.netns.run(&[&ours.to_string_lossy(), "realserver", "eth0"])?.ok().map(drop)
}
