//! How a real server takes packets out of a tunnel: by devices of the kernel's, or, where there are none, a program.

use super::address::Dual;
use super::host::Host;
use crate::lab;
use crate::net::Netns;
use anyhow::Result;

/// What this kernel offers for tunnels without an own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Tunnel devices of the kernel's, as in the labs.
    Device,
    /// No `ipip` in this kernel: a program of ours on the server's card, and the VIP on its loopback.
    Program,
}

/// What is between the outer and the inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// UDP to this port and GUE's header: received by `fou`, which hands on what is inside to the devices for `ipip`.
    Gue(u16),
    /// GRE's header, with a checksum in it or without: a device takes only the one kind.
    Gre {
        /// Whether the header has it.
        checksum: bool,
    },
}

impl TunnelEnd {
    /// Finds out by making a device in a namespace made for the question.
    pub fn here() -> Result<Self> {
        let scratch = Netns::new("scratch")?;
        // One without addresses there is already, where the kernel makes it by itself.
        Ok(match scratch.ip("link add probe type ipip local 127.0.0.1 remote 127.0.0.2") {
            Ok(()) => Self::Device,
            Err(_) => Self::Program,
        })
    }

    /// Makes `server` accept packets for the VIP that come in IPv4 or IPv6 directly.
    pub fn open(self, server: &Host, vip: Dual) -> Result<()> {
        match self {
            Self::Device => devices(server, vip),
            Self::Program => program(server, vip),
        }
    }
}

impl TunnelEnd {
    /// The tunnel ends nowhere any more, though the server still has the VIP.
    pub fn shut(self, server: &Host) -> Result<()> {
        match self {
            Self::Device => server.netns.ip("link set tunl0 down\nlink set sit0 down\nlink set tun6 down"),
            Self::Program => realserver(server, "--detach"),
        }
    }

    /// After [`TunnelEnd::shut`], as it was before.
    pub fn reopen(self, server: &Host) -> Result<()> {
        match self {
            Self::Device => server.netns.ip("link set tunl0 up\nlink set sit0 up\nlink set tun6 up"),
            Self::Program => realserver(server, "eth0"),
        }
    }
}

impl Tunnel {
    /// Makes `server` accept packets for the VIP that come this way, in IPv4 and IPv6.
    pub fn open(self, server: &Host, vip: Dual) -> Result<()> {
        match self {
            Self::Gue(port) => {
                server.netns.ip(&format!("fou add port {port} gue\nfou add port {port} gue -6"))?;
                devices(server, vip)
            }
            Self::Gre { checksum } => gre(server, vip, if checksum { "icsum" } else { "" }),
        }
    }
}

/// `tunl0` and `sit0`, which every namespace has, for what comes in IPv4. For what comes in IPv6 a device that allows the
/// VIP as the sender, though it is an address of the server's too: a balancer with several addresses sends from the one
/// that is most like the server's.
fn devices(server: &Host, vip: Dual) -> Result<()> {
    let v6 = server.address.v6;
    server.netns.ip(&format!(
        "link add tun6 type ip6tnl mode any local {v6} allow-localremote
         link set tunl0 up
         link set sit0 up
         link set tun6 up"
    ))?;
    receive(server, &["tunl0", "sit0", "tun6"], vip)
}

fn gre(server: &Host, vip: Dual, options: &str) -> Result<()> {
    let Dual { v4, v6 } = server.address;
    server.netns.ip(&format!(
        "link add tun4 type gre local {v4} {options}
         link add tun6 type ip6gre local {v6} {options}
         link set tun4 up
         link set tun6 up"
    ))?;
    receive(server, &["tun4", "tun6"], vip)
}

/// The VIP, which nobody may ask for; the reverse path filter would drop what comes out of the devices.
fn receive(server: &Host, devices: &[&str], vip: Dual) -> Result<()> {
    server.netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    for device in devices {
        server.netns.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
    }
    server.hide_loopback_addresses()?;
    server.add_alone("lo", vip)
}

fn program(server: &Host, vip: Dual) -> Result<()> {
    server.hide_loopback_addresses()?;
    server.add_alone("lo", vip)?;
    realserver(server, "eth0")
}

fn realserver(server: &Host, word: &str) -> Result<()> {
    let ours = lab::program()?;
    server.netns.run(&[&ours.to_string_lossy(), "realserver", word])?.ok().map(drop)
}
