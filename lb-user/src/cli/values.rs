//! Values of options: numbers, addresses, masks and flags, read as the C library and ipvsadm read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use lb_common::service::flags;

use super::names::Names;
use crate::control::model::{Port, Proto};

/// A decimal number the way `strtol` reads a whole word: leading blanks and a sign are fine.
pub fn number(text: &str, range: RangeInclusive<i64>) -> Option<i64> {
    let trimmed = text.trim_start_matches(is_c_space);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    trimmed.parse().ok().filter(|n| range.contains(n))
}

/// [`number`], of a type that holds the whole range.
pub fn number_as<T: TryFrom<i64>>(text: &str, range: RangeInclusive<i64>) -> Option<T> {
    number(text, range).and_then(|n| T::try_from(n).ok())
}

/// The number a word begins with (`atoi`); 0 if it begins with none.
pub fn leading_number(text: &str) -> i64 {
    let trimmed = text.trim_start_matches(is_c_space);
    let sign = usize::from(trimmed.starts_with(['+', '-']));
    let digits = trimmed[sign..].bytes().take_while(u8::is_ascii_digit).count();
    trimmed[..sign + digits].parse().unwrap_or(0)
}

/// IPv4 in any form `inet_aton` takes: one to four parts, each decimal, octal (`010`) or hexadecimal (`0x0a`); the last
/// fills what is left. Anything may follow after a blank.
pub fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let text = text.split(is_c_space).next()?;
    let parts = text.split('.').map(c_number).collect::<Option<Vec<u32>>>()?;
    let (last, bytes) = parts.split_last()?;
    if bytes.len() > 3 || bytes.iter().any(|b| *b > 0xff) {
        return None;
    }
    let room = 32 - 8 * bytes.len();
    if u64::from(*last) >> room != 0 {
        return None;
    }
    let high = bytes.iter().zip([24, 16, 8]).map(|(byte, shift)| byte << shift).sum::<u32>();
    Some(Ipv4Addr::from(high | last))
}

fn c_number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix('0') {
        Some("") => return Some(0),
        Some(rest) => match rest.strip_prefix(['x', 'X']) {
            Some(hex) => (hex, 16),
            None => (rest, 8),
        },
        None => (text, 10),
    };
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// A service's or real server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address.
    pub addr: IpAddr,
    /// The port, if one was given.
    pub port: Option<Port>,
}

/// `host[:port]`. `None` for what ipvsadm calls illegal.
///
/// A bare word of digits is refused, `[v6]` must have a port and unbracketed IPv6 cannot. `[10.0.0.1]:80` is taken,
/// but its port is not: the brackets' end hides it. Host names lead to IPv4 only.
pub fn host_port(text: &str, proto: Proto, names: &dyn Names) -> Option<HostPort> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (host, bracketed_port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, Some(after.strip_prefix(':')?))
        }
        None => (text, None),
    };
    if let Ok(addr) = host.parse::<Ipv6Addr>() {
        return with_port(addr.into(), bracketed_port, proto, names);
    }
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let addr = ipv4(host).or_else(|| names.host(host))?;
    with_port(addr.into(), port, proto, names)
}

fn with_port(addr: IpAddr, port: Option<&str>, proto: Proto, names: &dyn Names) -> Option<HostPort> {
    let port = match port {
        Some(text) => Some(number_as(text, 0..=65535).or_else(|| names.port(text, proto)).map(Port::new)?),
        None => None,
    };
    Some(HostPort { addr, port })
}

/// An IPv4 mask. Any bits will do; a resolvable name is one too.
pub fn netmask(text: &str, names: &dyn Names) -> Option<Ipv4Addr> {
    ipv4(text).or_else(|| names.host(text))
}

/// Why `-b` was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFlag {
    /// No such flag.
    Invalid(String),
    /// A flag of another scheduler.
    Incompatible(String),
}

/// Flags that any scheduler takes, and those that only one does.
const SCHED_FLAGS: [(&str, u32, Option<&str>); 7] = [
    ("flag-1", flags::SCHED1, None),
    ("flag-2", flags::SCHED2, None),
    ("flag-3", flags::SCHED3, None),
    ("sh-fallback", flags::SCHED1, Some("sh")),
    ("sh-port", flags::SCHED2, Some("sh")),
    ("mh-fallback", flags::SCHED1, Some("mh")),
    ("mh-port", flags::SCHED2, Some("mh")),
];

/// `-b`: names separated by commas. Commas without a name between them (which crash ipvsadm) are no flag.
pub fn sched_flags(text: &str, scheduler: &str) -> Result<u32, BadFlag> {
    if !text.is_empty() && text.bytes().all(|b| b == b',') {
        return Err(BadFlag::Invalid(text.to_owned()));
    }
    text.split(',').filter(|name| !name.is_empty()).try_fold(0, |all, name| {
        match SCHED_FLAGS.iter().find(|(known, ..)| *known == name) {
            None => Err(BadFlag::Invalid(name.to_owned())),
            Some((_, _, Some(of))) if *of != scheduler => Err(BadFlag::Incompatible(name.to_owned())),
            Some((_, bit, _)) => Ok(all | bit),
        }
    })
}

/// The names of these flags, in ipvsadm's order and separated by commas. sh and mh have no name for the third.
pub fn sched_flag_names(bits: u32, scheduler: &str) -> String {
    let own: Vec<_> = SCHED_FLAGS.iter().filter(|(.., of)| *of == Some(scheduler)).collect();
    let names =
        if own.is_empty() { SCHED_FLAGS.iter().filter(|(.., of)| of.is_none()).collect() } else { own };
    names.iter().filter(|(_, bit, _)| bits & bit != 0).map(|(name, ..)| *name).collect::<Vec<_>>().join(",")
}

/// At most `limit` bytes of a word, for what the kernel keeps in a fixed field.
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::names::FixedNames;

    #[test]
    fn numbers_as_strtol() {
        for (text, value) in [
            ("80", Some(80)),
            (" \t+80", Some(80)),
            ("0080", Some(80)),
            ("-0", Some(0)),
            ("-1", None),
            ("", None),
            ("+", None),
            ("8x", None),
            ("80 ", None),
            ("0x50", None),
            ("65536", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text, 0..=65535), value, "{text:?}");
        }
    }

    #[test]
    fn leading_numbers_as_atoi() {
        for (text, value) in [("64", 64), ("64x", 64), (" +7 ", 7), ("-3", -3), ("x", 0), ("", 0), ("-", 0)] {
            assert_eq!(leading_number(text), value, "{text:?}");
        }
    }

    #[test]
    fn addresses_as_inet_aton() {
        for (text, value) in [
            ("10.0.0.1", Some([10, 0, 0, 1])),
            ("10.1", Some([10, 0, 0, 1])),
            ("10.1.258", Some([10, 1, 1, 2])),
            ("0x0a000001", Some([10, 0, 0, 1])),
            ("012.0.0.1", Some([10, 0, 0, 1])),
            ("255.255.255", Some([255, 255, 0, 255])),
            ("4294967295", Some([255, 255, 255, 255])),
            ("10.0.0.1 rest", Some([10, 0, 0, 1])),
            ("4294967296", None),
            ("256.0.0.1", None),
            ("10.16777216", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            ("08.0.0.1", None),
            ("0x", None),
            ("+1.2.3.4", None),
            ("", None),
        ] {
            assert_eq!(ipv4(text), value.map(Ipv4Addr::from), "{text:?}");
        }
    }

    #[test]
    fn host_and_port() {
        let names = FixedNames;
        for (text, value) in [
            ("10.0.0.1:80", Some(("10.0.0.1", Some(80)))),
            ("10.0.0.1", Some(("10.0.0.1", None))),
            ("10.1:http", Some(("10.0.0.1", Some(80)))),
            ("web:80", Some(("192.0.2.80", Some(80)))),
            ("[2001:db8::1]:80", Some(("2001:db8::1", Some(80)))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("2001:db8::1:80", Some(("2001:db8::1:80", None))),
            ("[10.0.0.1]:80", Some(("10.0.0.1", None))),
            ("[2001:db8::1]", None),
            ("[2001:db8::1]80", None),
            ("[2001:db8::1]:", None),
            ("[2001:db8::1", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:nosuch", None),
            ("10.0.0.1:65536", None),
            ("nosuch:80", None),
            ("80", None),
            ("", None),
            (":80", None),
        ] {
            let value =
                value.map(|(addr, port)| HostPort { addr: addr.parse().unwrap(), port: port.map(Port::new) });
            assert_eq!(host_port(text, Proto::TCP, &names), value, "{text:?}");
        }
    }

    #[test]
    fn flags_of_schedulers() {
        assert_eq!(sched_flags("sh-port,sh-fallback", "sh"), Ok(flags::SCHED1 | flags::SCHED2));
        assert_eq!(sched_flags("flag-3,,flag-1", "wlc"), Ok(flags::SCHED1 | flags::SCHED3));
        assert_eq!(sched_flags("", "wlc"), Ok(0));
        assert_eq!(sched_flags(",", "wlc"), Err(BadFlag::Invalid(",".into())));
        assert_eq!(sched_flags("x", "wlc"), Err(BadFlag::Invalid("x".into())));
        assert_eq!(sched_flags("mh-port", "sh"), Err(BadFlag::Incompatible("mh-port".into())));
        assert_eq!(sched_flag_names(flags::SCHED1 | flags::SCHED2, "sh"), "sh-fallback,sh-port");
        assert_eq!(sched_flag_names(flags::SCHED3, "mh"), "");
        assert_eq!(sched_flag_names(flags::SCHED1 | flags::SCHED3, "rr"), "flag-1,flag-3");
    }
}
