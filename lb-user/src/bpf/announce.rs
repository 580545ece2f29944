//! Virtual addresses on a NIC of this machine's, usually `lo`, for a routing daemon to tell its neighbours about: which
//! of those there are were put there by us, and whether they are to stay away.
//!
//! The kernel remembers both. Our addresses carry a protocol number of their own (`ip -details address` shows it as
//! `proto 108`), so that they are found whoever put them there; and a directory beside the pinned maps says that the
//! balancer is being taken out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;

use super::attach;
use super::create;
use super::netlink::Netlink;

/// The mark of our addresses; `ip` takes and shows it as a number. No daemon is known to use it.
const PROTOCOL: AddressProtocol = AddressProtocol::Other(108);
/// The directory that says that addresses stay away.
const WITHDRAWN: &str = "withdrawn";

/// An address on a NIC, with no net around it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// The address.
    pub addr: IpAddr,
    /// The NIC.
    pub nic: String,
}

/// The way to them.
#[derive(Debug)]
pub struct Announcements {
    netlink: Netlink,
}

impl Announcements {
    /// In the network namespace of this thread.
    pub fn open() -> Result<Self> {
        Ok(Self { netlink: Netlink::open().context("asking the kernel about addresses")? })
    }

    /// Those there are with our mark, by the index of their NIC.
    fn marked(&mut self) -> Result<Vec<AddressMessage>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.netlink.ask(question, NLM_F_DUMP).context("listing addresses")?;
        let ours = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(found) => {
                found.attributes.contains(&AddressAttribute::Protocol(PROTOCOL)).then_some(found)
            }
            _ => None,
        });
        Ok(ours.collect())
    }

    /// Makes these the ones there are; one with `false` may stay but is not added. What was done, a line each; an address
    /// that somebody else has put there stays his.
    pub fn set(&mut self, wanted: &BTreeMap<Announcement, bool>) -> Result<Vec<String>> {
        let place = |(one, add): (&Announcement, &bool)| Ok(((index(&one.nic)?, one.addr), *add));
        let mut wanted: BTreeMap<(u32, IpAddr), bool> = wanted.iter().map(place).collect::<Result<_>>()?;
        let mut said = Vec::new();
        for found in self.marked()? {
            let Some(addr) = address(&found) else { continue };
            if wanted.remove(&(found.header.index, addr)).is_none() {
                self.netlink
                    .ask(RouteNetlinkMessage::DelAddress(found), NLM_F_ACK)
                    .with_context(|| format!("withdrawing {addr}"))?;
                said.push(format!("Withdrawing {addr}"));
            }
        }
        for ((index, addr), _) in wanted.into_iter().filter(|(_, add)| *add) {
            let message = RouteNetlinkMessage::NewAddress(message(index, addr));
            match self.netlink.ask(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
                Ok(_) => said.push(format!("Announcing {addr}")),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("announcing {addr}")),
            }
        }
        Ok(said)
    }
}

/// Do addresses stay away: because the balancer is being taken out, or takes no packets at all?
pub fn is_withdrawn(pins: &Path) -> bool {
    pins.join(WITHDRAWN).exists() || !attach::is_attached(pins)
}

/// Takes all away, and has them stay away until [`restore`]; the agent need not run. What was done, a line each.
pub fn withdraw(pins: &Path) -> Result<Vec<String>> {
    let mark = pins.join(WITHDRAWN);
    match fs::create_dir(&mark) {
        // Without maps there is nobody to take out.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making {}", mark.display()));
        }
        _ => {}
    }
    Announcements::open()?.set(&BTreeMap::new())
}

/// Lets the agent announce again.
pub fn restore(pins: &Path) -> Result<()> {
    create::remove(&pins.join(WITHDRAWN))
}

fn index(nic: &str) -> Result<u32> {
    if_nametoindex(nic).with_context(|| format!("{nic}: no such interface"))
}

fn address(found: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| found.attributes.iter().find_map(wanted);
    let local = of(|one| if let AddressAttribute::Local(addr) = one { Some(*addr) } else { None });
    local.or_else(|| of(|one| if let AddressAttribute::Address(addr) = one { Some(*addr) } else { None }))
}

fn message(index: u32, addr: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = match addr {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    // The same address is on the other balancers too: nobody is to be asked whether it is free.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(addr),
        AddressAttribute::Address(addr),
        AddressAttribute::Protocol(PROTOCOL),
    ];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for addr in ["192.0.2.1", "2001:db8::1"] {
            let addr: IpAddr = addr.parse().unwrap_or(IpAddr::from([0; 4]));
            let message = message(1, addr);
            assert_eq!(address(&message), Some(addr));
            assert_eq!(message.header.prefix_len, if addr.is_ipv4() { 32 } else { 128 });
        }
    }
}
