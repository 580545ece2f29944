//! What kind of address a dest has: IPVS takes unicast and local ones only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kinds that matter when a dest is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// Somebody's.
    Unicast,
    /// This machine's own.
    Local,
    /// Everybody's on a net, `0.0.0.0/8` and `255.255.255.255` included.
    Broadcast,
    /// A group's.
    Multicast,
    /// IPv6 `fe80::/10`: means nothing without a NIC.
    LinkLocal,
    /// Nobody's: `::`, and IPv4-mapped IPv6.
    Unusable,
}

impl AddressKind {
    /// Can a dest have it?
    pub fn fits_dest(self) -> bool {
        matches!(self, Self::Unicast | Self::Local)
    }

    /// What the address alone tells. Addresses of this machine, and broadcast addresses of the nets it is connected
    /// to, only the kernel knows: [`super::store::Store::address_kind`] adds those.
    pub fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => Self::of_v4(a),
            IpAddr::V6(a) => Self::of_v6(a),
        }
    }

    fn of_v4(a: &Ipv4Addr) -> Self {
        match a {
            _ if a.octets()[0] == 0 || a.is_broadcast() => Self::Broadcast,
            _ if a.is_multicast() => Self::Multicast,
            _ if a.is_loopback() => Self::Local,
            _ => Self::Unicast,
        }
    }

    fn of_v6(a: &Ipv6Addr) -> Self {
        match a {
            _ if a.is_unspecified() || a.to_ipv4_mapped().is_some() => Self::Unusable,
            _ if a.is_multicast() => Self::Multicast,
            _ if a.is_unicast_link_local() => Self::LinkLocal,
            _ if a.is_loopback() => Self::Local,
            _ => Self::Unicast,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AddressKind::{self, Broadcast, LinkLocal, Local, Multicast, Unicast, Unusable};

    #[test]
    fn kinds() -> Result<(), std::net::AddrParseError> {
        for (text, kind) in [
            ("10.0.0.1", Unicast),
            ("240.0.0.1", Unicast),
            ("127.1.2.3", Local),
            ("0.0.0.0", Broadcast),
            ("0.1.2.3", Broadcast),
            ("255.255.255.255", Broadcast),
            ("224.0.0.1", Multicast),
            ("2001:db8::1", Unicast),
            ("fd00::1", Unicast),
            ("::1", Local),
            ("::", Unusable),
            ("::ffff:10.0.0.1", Unusable),
            ("fe80::1", LinkLocal),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(AddressKind::of(&text.parse()?), kind, "{text}");
        }
        Ok(())
    }
}
