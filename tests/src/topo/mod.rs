//! Whole set-ups: a client, a balancer and real servers, each in a namespace of its own, IPv4 and IPv6 in each.
//!
//! [`dr`] has all on one segment, [`nat`] has the balancer between two, [`tun`] has the servers behind a router, and
//! [`two_nics`] is [`tun`]'s wiring with a second card of the balancer's on the servers' segment; [`Pair`] has two
//! balancers. A [`Plan`] gives the
//! addresses that matter, so that a lab's own can be used. The functions named `*_wiring` stop before the VIP is put
//! on anything, for labs that type those commands themselves.

mod address;
mod host;
mod pair;
mod plans;
mod tunnel;

pub use address::{Dual, Plan};
pub use host::{Host, Server};
pub use pair::Pair;
pub use plans::{dr, dr_wiring, nat, nat_wiring, tun, tun_wiring, two_nics};
pub use tunnel::{Tunnel, TunnelEnd};

use crate::net::Switch;
use crate::peer::Content;
use anyhow::Result;
use std::net::SocketAddr;

/// A set-up. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    /// Has [`Plan::CLIENTS`] addresses.
    pub client: Host,
    /// Where the commands are typed. Its first card is towards the client.
    pub balancer: Host,
    /// In the plan's order. Each answers HTTP with its IPv4 address.
    pub servers: Vec<Server>,
    /// Between the two segments, where the balancer is not the router itself.
    pub router: Option<Host>,
    /// The virtual address.
    pub vip: Dual,
    /// What the servers serve.
    pub content: Content,
    switches: Vec<Switch>,
}

impl Topology {
    /// The virtual address with a port, IPv4 then IPv6.
    pub fn vip(&self, port: u16) -> [SocketAddr; 2] {
        self.vip.with_port(port)
    }

    /// The segments, the client's first.
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// Puts the VIP on the balancer's card towards the client.
    pub fn vip_on_balancer(&self) -> Result<()> {
        self.balancer.add_alone(&self.balancer.nic, self.vip)
    }

    /// Puts the VIP on every server's loopback and has them keep quiet about it.
    pub fn vip_on_servers(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| {
            server.hide_loopback_addresses()?;
            server.add_alone("lo", self.vip)
        })
    }
}
