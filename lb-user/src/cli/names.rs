//! Names of hosts and services, through the system's databases.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};

use lb_common::addr::Proto;

/// Who knows names.
pub trait Names {
    /// The first IPv4 address of a host.
    fn host(&self, name: &str) -> Option<Ipv4Addr>;
    /// The port of a service.
    fn port(&self, name: &str, proto: Proto) -> Option<u16>;
    /// The name of an address.
    fn host_name(&self, addr: &IpAddr) -> Option<String>;
    /// The name of a port.
    fn port_name(&self, port: u16, proto: Proto) -> Option<String>;
}

/// The system's resolver and service database. Answers are remembered: a listing asks for the same ones again and
/// again.
#[derive(Debug, Default)]
pub struct SystemNames {
    host_names: Mutex<HashMap<IpAddr, Option<String>>>,
    port_names: Mutex<HashMap<(u16, Proto), Option<String>>>,
}

impl Names for SystemNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        // The empty name would resolve to this machine.
        if name.is_empty() {
            return None;
        }
        (name, 0).to_socket_addrs().ok()?.find_map(|found| match found {
            SocketAddr::V4(found) => Some(*found.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn port(&self, name: &str, proto: Proto) -> Option<u16> {
        services::port(&CString::new(name).ok()?, proto_name(proto)?)
    }

    fn host_name(&self, addr: &IpAddr) -> Option<String> {
        let mut known = self.host_names.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(*addr).or_insert_with(|| reverse(addr)).clone()
    }

    fn port_name(&self, port: u16, proto: Proto) -> Option<String> {
        let proto_name = proto_name(proto)?;
        let mut known = self.port_names.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry((port, proto)).or_insert_with(|| services::name(port, proto_name)).clone()
    }
}

fn proto_name(proto: Proto) -> Option<&'static CStr> {
    match proto {
        Proto::TCP => Some(c"tcp"),
        Proto::UDP => Some(c"udp"),
        Proto::SCTP => Some(c"sctp"),
        _ => None,
    }
}

fn reverse(addr: &IpAddr) -> Option<String> {
    dns_lookup::getnameinfo(&SocketAddr::new(*addr, 0), libc::NI_NAMEREQD).ok().map(|(host, _service)| host)
}

/// The C library's service database: no crate covers SCTP.
mod services {
    use std::ffi::CStr;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    static TURN: Mutex<()> = Mutex::new(());

    /// Both calls answer in one static buffer.
    fn turn() -> MutexGuard<'static, ()> {
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn port(name: &CStr, proto: &CStr) -> Option<u16> {
        let _turn = turn();
        // SAFETY: both strings end in NUL; the answer is null or valid until the next call, which waits for its turn.
        let entry = unsafe { libc::getservbyname(name.as_ptr(), proto.as_ptr()).as_ref() }?;
        u16::try_from(entry.s_port).ok().map(u16::from_be)
    }

    pub(super) fn name(port: u16, proto: &CStr) -> Option<String> {
        let _turn = turn();
        // SAFETY: as above.
        let entry = unsafe { libc::getservbyport(port.to_be().into(), proto.as_ptr()).as_ref() }?;
        // SAFETY: the entry's name is a string in the same buffer.
        let name = unsafe { CStr::from_ptr(entry.s_name) };
        Some(name.to_string_lossy().into_owned())
    }
}

/// Nobody's: all is numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn host(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }
    fn port(&self, _: &str, _: Proto) -> Option<u16> {
        None
    }
    fn host_name(&self, _: &IpAddr) -> Option<String> {
        None
    }
    fn port_name(&self, _: u16, _: Proto) -> Option<String> {
        None
    }
}

/// A few fixed names, for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedNames;

const HOSTS: [(&str, Ipv4Addr); 2] = [
    ("web", Ipv4Addr::new(192, 0, 2, 80)),
    ("a-name-longer-than-the-column.example", Ipv4Addr::new(192, 0, 2, 81)),
];
const SERVICES: [(&str, u16); 3] = [("http", 80), ("https", 443), ("sip", 5060)];

impl Names for FixedNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        HOSTS.iter().find(|(known, _)| *known == name).map(|(_, addr)| *addr)
    }

    fn port(&self, name: &str, proto: Proto) -> Option<u16> {
        proto_name(proto)?;
        SERVICES.iter().find(|(known, _)| *known == name).map(|(_, port)| *port)
    }

    fn host_name(&self, addr: &IpAddr) -> Option<String> {
        if *addr == IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80]) {
            return Some("six.example".to_owned());
        }
        HOSTS.iter().find(|(_, known)| IpAddr::V4(*known) == *addr).map(|(name, _)| (*name).to_owned())
    }

    fn port_name(&self, port: u16, proto: Proto) -> Option<String> {
        proto_name(proto)?;
        SERVICES.iter().find(|(_, known)| *known == port).map(|(name, _)| (*name).to_owned())
    }
}
