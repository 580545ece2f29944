//! Mark rules as people say them: `--mark N --dst ADDR[/LEN] [--proto P] [--dport A[-B]] [--src ADDR[/LEN]]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use lb_common::mark::MarkRule;
use serde_json::{Value, json};

use super::model::{Family, Proto, family_of};

/// A net, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Net {
    /// Its address, host bits zero.
    pub addr: IpAddr,
    /// Its prefix length.
    pub len: u8,
}

impl Net {
    /// With the host bits cleared. `None`: no such prefix length.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::from((u32::from(a) & mask).to_be_bytes())
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::from((u128::from(a) & mask).to_be_bytes())
            }
            _ => return None,
        };
        Some(Self { addr, len })
    }

    /// One address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: bits(family_of(&addr)) }
    }

    /// Every address.
    pub fn any(family: Family) -> Self {
        let addr = match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0u16; 8]),
        };
        Self { addr, len: 0 }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        family_of(&self.addr)
    }

    /// How many addresses, as a power of two.
    pub fn host_bits(&self) -> u8 {
        bits(self.family()) - self.len
    }

    fn mask(&self) -> IpAddr {
        let ones = match self.family() {
            Family::V4 => IpAddr::from([0xff; 4]),
            Family::V6 => IpAddr::from([0xffffu16; 8]),
        };
        Self::new(ones, self.len).map_or(ones, |net| net.addr)
    }

    fn read(addr: lb_common::addr::Addr, mask: lb_common::addr::Addr, family: Family) -> Self {
        let len = match mask.to_ip(family) {
            IpAddr::V4(mask) => u32::from(mask).count_ones(),
            IpAddr::V6(mask) => u128::from(mask).count_ones(),
        };
        Self { addr: addr.to_ip(family), len: len as u8 }
    }
}

fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_bits() {
            0 => write!(f, "{}", self.addr),
            _ => write!(f, "{}/{}", self.addr, self.len),
        }
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address or net (ADDR or ADDR/LEN)");
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let Some(len) = len else { return Ok(Self::host(addr)) };
        // A net mask in four numbers, as iptables takes it.
        if let (Ok(IpAddr::V4(mask)), IpAddr::V4(_)) = (len.parse::<IpAddr>(), addr) {
            let mask = u32::from(mask);
            let len = mask.leading_ones();
            return Self::new(addr, len as u8).filter(|_| mask.count_ones() == len).ok_or_else(wrong);
        }
        Self::new(addr, len.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

/// First and last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports(pub u16, pub u16);

impl Ports {
    /// All of them.
    pub const ANY: Self = Self(0, u16::MAX);
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |word: &str| word.parse::<u16>().ok();
        let ports = match text.split_once(['-', ':']) {
            Some((from, to)) => port(from).zip(port(to)),
            None => port(text).map(|port| (port, port)),
        };
        match ports {
            Some((from, to)) if from <= to => Ok(Self(from, to)),
            _ => Err(format!("`{text}` is no port or range of ports (A or A-B, 0 to 65535)")),
        }
    }
}

/// Packets to `dst` get this mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The mark, never 0.
    pub mark: u32,
    /// Destinations.
    pub dst: Net,
    /// Sources, of the same family.
    pub src: Net,
    /// TCP, UDP or SCTP; `None`: all three.
    pub proto: Option<Proto>,
    /// Destination ports.
    pub dports: Ports,
}

impl Rule {
    /// For all that goes there.
    pub fn to(mark: u32, dst: Net) -> Self {
        Self { mark, dst, src: Net::any(dst.family()), proto: None, dports: Ports::ANY }
    }

    /// Do both take the same packets?
    pub fn same_packets(&self, other: &Self) -> bool {
        Self { mark: other.mark, ..*self } == *other
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "mark": self.mark,
            "family": if self.dst.family() == Family::V4 { "ipv4" } else { "ipv6" },
            "dst": self.dst.to_string(),
            "proto": self.proto.map(proto_name),
            "dport": (self.dports != Ports::ANY).then_some([self.dports.0, self.dports.1]),
            "src": (self.src.len != 0).then(|| self.src.to_string()),
        })
    }

    /// As the packet path reads it.
    pub fn cell(&self) -> MarkRule {
        MarkRule {
            dst: self.dst.addr.into(),
            dst_mask: self.dst.mask().into(),
            src: self.src.addr.into(),
            src_mask: self.src.mask().into(),
            mark: self.mark,
            dport_from: self.dports.0,
            dport_to: self.dports.1,
            family: self.dst.family() as u8,
            proto: self.proto.map_or(0, |proto| proto.0),
            ..MarkRule::default()
        }
    }

    /// The reverse. `None`: there is no rule in it.
    pub fn from_cell(cell: &MarkRule) -> Option<Self> {
        let family = Family::from_number(cell.family)?;
        (cell.mark != 0).then(|| Self {
            mark: cell.mark,
            dst: Net::read(cell.dst, cell.dst_mask, family),
            src: Net::read(cell.src, cell.src_mask, family),
            proto: (cell.proto != 0).then_some(Proto(cell.proto)),
            dports: Ports(cell.dport_from, cell.dport_to),
        })
    }
}

/// As it is said.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--mark {} --dst {}", self.mark, self.dst)?;
        if let Some(proto) = self.proto {
            write!(f, " --proto {}", proto_name(proto))?;
        }
        if self.dports != Ports::ANY {
            write!(f, " --dport {}", self.dports)?;
        }
        if self.src.len != 0 {
            write!(f, " --src {}", self.src)?;
        }
        Ok(())
    }
}

fn proto_name(proto: Proto) -> &'static str {
    match proto {
        Proto::TCP => "tcp",
        Proto::UDP => "udp",
        _ => "sctp",
    }
}

/// A protocol by its name, or its number.
pub fn proto(text: &str) -> Result<Proto, String> {
    match text {
        "tcp" | "6" => Ok(Proto::TCP),
        "udp" | "17" => Ok(Proto::UDP),
        "sctp" | "132" => Ok(Proto::SCTP),
        _ => Err(format!("`{text}` is none of tcp, udp, sctp")),
    }
}

/// A mark: a number, also in hexadecimal.
pub fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(mark) if mark != 0 => Ok(mark),
        _ => Err(format!("`{text}` is no mark (1 to 4294967295, or hexadecimal with 0x)")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

    use super::*;

    #[test]
    fn nets() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/24", "10.1.2.0/24"),
            ("10.1.2.3/255.255.0.0", "10.1.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::1/64", "fd00::/64"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(text.parse::<Net>().unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.1/33", "10.0.0.1/255.0.255.0", "fd00::/129", "lo"] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn comes_back_as_it_went_in() {
        let plain = Rule::to(7, "10.0.0.0/24".parse().unwrap());
        let full = Rule {
            src: "fd01::/16".parse().unwrap(),
            proto: Some(Proto::SCTP),
            dports: "80-90".parse().unwrap(),
            ..Rule::to(u32::MAX, "fd00::1".parse().unwrap())
        };
        for rule in [plain, full] {
            assert_eq!(Rule::from_cell(&rule.cell()), Some(rule));
        }
        assert_eq!(
            full.to_string(),
            "--mark 4294967295 --dst fd00::1 --proto sctp --dport 80-90 --src fd01::/16"
        );
        assert_eq!(Rule::from_cell(&MarkRule::default()), None);
    }

    #[test]
    fn marks() {
        assert_eq!(mark("0x10"), Ok(16));
        assert_eq!(mark("4294967295"), Ok(u32::MAX));
        for text in ["0", "-1", "x", "4294967296"] {
            assert!(mark(text).is_err(), "{text}");
        }
    }
}
