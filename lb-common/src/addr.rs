//! Addresses, ports, protocols and families as types.

use core::fmt;
#[cfg(not(target_arch = "bpf"))]
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 (`AF_INET`).
    V4 = 2,
    /// IPv6 (`AF_INET6`).
    V6 = 10,
}

impl Family {
    /// The family with this `AF_` number.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }
}

/// An address of either family as IPVS stores it: 16 bytes in wire order; IPv4 in the first four, the rest zero.
/// Which family it is stands beside it. Aligned to 8, because the compiler copies it by double words and the kernel's
/// verifier refuses those at odd places of the stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// The unspecified address.
    pub const ZERO: Self = Self([0; 16]);

    /// An IPv4 address from its four bytes.
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([b[0], b[1], b[2], b[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The four words, each in memory order (that is, big-endian content in a native word).
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        let b = &self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// From four words in memory order.
    #[inline(always)]
    pub const fn from_words(w: [u32; 4]) -> Self {
        let (a, b, c, d) = (w[0].to_ne_bytes(), w[1].to_ne_bytes(), w[2].to_ne_bytes(), w[3].to_ne_bytes());
        Self([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
    }

    /// The host-order number IPVS's hashes start from: the XOR of the four words (for IPv4 the address itself).
    #[inline(always)]
    pub const fn fold(&self) -> u32 {
        let w = self.words();
        u32::from_be(w[0] ^ w[1] ^ w[2] ^ w[3])
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Addr {
    /// As the standard library's type.
    pub fn to_ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(self.0[0], self.0[1], self.0[2], self.0[3])),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => Self::v4(a.octets()),
            IpAddr::V6(a) => Self(a.octets()),
        }
    }
}

/// The family of a standard library address.
#[cfg(not(target_arch = "bpf"))]
pub fn family_of(ip: &IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// A port. Kept in wire order in memory; `host()` is the number people write.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Port(u16);

impl Port {
    /// Port 0: any port, or none.
    pub const ZERO: Self = Self(0);

    /// From the number people write.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }
    /// From a native word loaded from the wire.
    #[inline(always)]
    pub const fn from_wire(word: u16) -> Self {
        Self(word)
    }
    /// The number people write.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
    /// A native word whose bytes are in wire order.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }
    /// Is it 0?
    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.host())
    }
}

/// A transport protocol number, as in the IP header. Its own type, so that it is never compared with an EtherType.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proto(pub u8);

impl Proto {
    /// No protocol: what a template of a mark service carries.
    pub const IP: Self = Self(0);
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// IPv4 in something.
    pub const IPIP: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 in something.
    pub const IPV6: Self = Self(41);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}
