//! The switch: a bridge in a namespace of its own, whose ports are veth peers of the hosts' cards.

use super::{Netns, offload, xdp_pass};
use crate::run;
use anyhow::{Context, Result};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// An Ethernet segment.
#[derive(Debug)]
pub struct Switch {
    netns: Netns,
    ports: AtomicU32,
}

impl Switch {
    /// A switch without ports. It learns addresses but runs no protocol of its own.
    pub fn new(role: &str) -> Result<Self> {
        let netns = Netns::new(role)?;
        netns.ip("link add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 up")?;
        Ok(Self { netns, ports: AtomicU32::new(0) })
    }

    /// Gives `host` a network card called `nic` on this segment.
    ///
    /// Two things make the cable fit for a balancer at its end. Transmit checksums are whole, since a packet sent on
    /// from XDP would otherwise keep half of one. And the switch's end has an XDP program, since veth drops all that
    /// comes from XDP when the receiving end has none.
    pub fn plug(&self, host: &Netns, nic: &str) -> Result<()> {
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.netns.ip(&format!("link add {port} type veth peer name {nic} netns {}", host.name()))?;
        self.netns.enter(|| offload::tx_checksum_off(&port))??;
        host.enter(|| offload::tx_checksum_off(nic))??;
        host.ip(&format!("link set {nic} up"))?;
        self.netns.ip(&format!("link set {port} master br0\nlink set {port} up"))?;
        self.netns.enter(|| xdp_pass::attach(&port))?
    }

    /// Pulls the cable out of a host's card, or plugs it in again.
    pub fn cable(&self, host: &Netns, nic: &str, plugged: bool) -> Result<()> {
        let port = self.port_of(host, nic)?;
        self.netns.ip(&format!("link set {port} {}", if plugged { "up" } else { "down" }))
    }

    /// Gives a host's card no frames for addresses nobody is known to have: as a card that takes only those for itself.
    pub fn only_its_own(&self, host: &Netns, nic: &str) -> Result<()> {
        let port = self.port_of(host, nic)?;
        self.netns.ip(&format!("link set {port} type bridge_slave flood off"))
    }

    fn port_of(&self, host: &Netns, nic: &str) -> Result<String> {
        let card = run::run(Command::new("ip").args(["-n", host.name(), "-o", "link", "show", nic]))?.ok()?;
        let index = card.split_once("@if").and_then(|(_, rest)| rest.split_once(':'));
        let (index, _) = index.with_context(|| format!("{nic} is no veth: {card}"))?;
        let ports = run::run(Command::new("ip").args(["-n", self.netns.name(), "-o", "link"]))?.ok()?;
        let port = ports.lines().find_map(|line| line.strip_prefix(&format!("{index}: ")));
        let port = port.and_then(|line| line.split_once('@'));
        Ok(port.with_context(|| format!("{nic} is not plugged in here"))?.0.to_owned())
    }

    /// The namespace it lives in, for packet captures and `bridge fdb`.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}
