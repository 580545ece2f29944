//! `virtual_server_group`: one entry a line, addresses with ports or marks.

use std::net::IpAddr;

use super::Reader;
use super::values::number;
use crate::agent::config::tree::Statement;
use crate::control::mark::{Net, Ports};
use crate::control::model::{Family, Port};

/// More addresses, or ports, are a mistake.
const MOST: u128 = 16_384;

/// What a service of the group is found by, but for its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Addr(IpAddr, Port),
    Mark(u32, Option<Family>),
}

/// A group.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub entries: Vec<Entry>,
    /// How many virtual servers use it.
    pub users: u32,
}

impl Reader<'_> {
    pub(super) fn group(&mut self, statement: &Statement) {
        let Some(name) = self.text(statement) else { return };
        let mut group = Group::default();
        for line in self.block(statement) {
            match entries(line) {
                Ok(entries) => group.entries.extend(entries),
                Err(why) => self.error(line, format!("virtual_server_group {name}: {why}")),
            }
        }
        if group.entries.is_empty() {
            self.warn(statement, format!("virtual_server_group {name} is empty"));
        }
        if self.groups.insert(name.clone(), group).is_some() {
            self.error(statement, format!("there is a virtual_server_group {name} already"));
        }
    }
}

fn entries(line: &Statement) -> Result<Vec<Entry>, String> {
    if line.keyword() == "fwmark" {
        let family = match line.word(2) {
            None => None,
            Some("inet") => Some(Family::V4),
            Some("inet6") => Some(Family::V6),
            Some(other) => return Err(format!("'{other}' is neither inet nor inet6")),
        };
        let mark = line.word(1).and_then(number).filter(|mark| *mark != 0);
        let mark = mark.ok_or("fwmark: a mark from 1 to 4294967295 is wanted")?;
        return Ok(vec![Entry::Mark(mark, family)]);
    }
    let addresses = addresses(line.keyword())?;
    let ports = match line.word(1) {
        None => Ports(0, 0),
        Some(word) => word.parse::<Ports>()?,
    };
    let pair = |addr: &IpAddr| (ports.0..=ports.1).map(|port| Entry::Addr(*addr, Port::new(port))).collect();
    let all: Vec<Vec<Entry>> = addresses.iter().map(pair).collect();
    let all = all.concat();
    if all.len() as u128 > MOST { Err(format!("more than {MOST} services")) } else { Ok(all) }
}

/// One address, a range, or a net.
fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let wrong = || format!("'{text}' is no address, range (A-B) or net (ADDR/LEN)");
    let (from, to) = if text.contains('/') {
        let net: Net = text.parse().map_err(|_| wrong())?;
        let bits: Option<IpAddr> = text.split_once('/').and_then(|(addr, _)| addr.parse().ok());
        if bits != Some(net.addr) {
            return Err(format!("'{text}' has host bits; the net is {net}"));
        }
        (net.addr, last(net))
    } else if let Some((from, to)) = text.split_once('-') {
        let from: IpAddr = from.parse().map_err(|_| wrong())?;
        (from, range_end(from, to).ok_or_else(wrong)?)
    } else {
        let addr = text.parse().map_err(|_| wrong())?;
        (addr, addr)
    };
    let (low, high) = (word(from), word(to));
    match high.checked_sub(low) {
        None => Err(format!("'{text}' ends before it begins")),
        Some(span) if span >= MOST => Err(format!("'{text}' has more than {MOST} addresses")),
        Some(_) => Ok((low..=high).map(|word| address(word, from.is_ipv4())).collect()),
    }
}

/// `20` after 192.0.2.10, `ff` after fd00::1, or a whole address.
fn range_end(from: IpAddr, to: &str) -> Option<IpAddr> {
    if let Ok(whole) = to.parse::<IpAddr>() {
        return (whole.is_ipv4() == from.is_ipv4()).then_some(whole);
    }
    match from {
        IpAddr::V4(from) => {
            let [a, b, c, _] = from.octets();
            Some(IpAddr::from([a, b, c, to.parse().ok()?]))
        }
        IpAddr::V6(from) => {
            let mut parts = from.segments();
            parts[7] = u16::from_str_radix(to, 16).ok()?;
            Some(IpAddr::from(parts))
        }
    }
}

fn last(net: Net) -> IpAddr {
    let hosts = 1u128.checked_shl(net.host_bits().into()).map_or(u128::MAX, |size| size - 1);
    address(word(net.addr) | hosts, net.addr.is_ipv4())
}

fn word(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

fn address(word: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::from((word as u32).to_be_bytes()) } else { IpAddr::from(word.to_be_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let ends = |text: &str| {
            let all = addresses(text).unwrap();
            format!("{} {} {}", all[0], all[all.len() - 1], all.len())
        };
        assert_eq!(ends("192.0.2.10-20"), "192.0.2.10 192.0.2.20 11");
        assert_eq!(ends("192.0.2.250-192.0.3.10"), "192.0.2.250 192.0.3.10 17");
        assert_eq!(ends("192.0.2.8/29"), "192.0.2.8 192.0.2.15 8");
        assert_eq!(ends("fd00::1-ff"), "fd00::1 fd00::ff 255");
        assert_eq!(ends("fd00::1"), "fd00::1 fd00::1 1");
        for wrong in
            ["192.0.2.9/29", "192.0.2.9-8", "192.0.2.1-fd00::1", "10.0.0.0/8", "fd00::/64", "x", "1-2"]
        {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }
}
