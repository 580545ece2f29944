//! Clients on the balancer itself. Their packets never come in by a NIC, so they are balanced where they name their
//! peer: a socket that connects or sends to a NAT service is given a dest instead, and told the service's address when it
//! asks who its peer is. (IPVS does this in the output path.)
//!
//! The socket then talks to the dest directly: the connection counts as scheduled, but no packet of it is seen, so it is
//! never active, and there is no template: a persistent service is scheduled like any other.

use crate::addr::{Addr, Port, Proto};
use crate::admit::Question;
use crate::cell::Cell32;
use crate::dest::Method;
use crate::ip::filter_bit;
use crate::sched::Ask;
use crate::service::ServiceKey;
use crate::tables::Tables;

/// Whom a socket talks to: the key of the `local_peers` map. 32 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its peer's address.
    pub addr: Addr,
    /// Its peer's port, wire order, low half.
    pub port: u32,
    /// [`OURS`] or [`THEIRS`].
    pub side: u32,
}

/// A [`Peer`] as the socket names it: the service. Its value is the dest.
pub const OURS: u32 = 0;
/// A [`Peer`] as the network knows it: the dest. Its value is the service.
pub const THEIRS: u32 = 1;

/// Whom it really talks to, or thinks it does. 24 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Address.
    pub addr: Addr,
    /// Port, wire order, low half.
    pub port: u32,
    /// The dest's number.
    pub dest: u32,
}

/// Room for one question. A thread can be interrupted between asking and reading the answer, so it claims its room.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct Desk {
    /// 1 while somebody sits here.
    pub busy: Cell32,
    /// Zero.
    pub spare: u32,
    /// What is asked.
    pub question: Question,
    /// Whom the socket named.
    pub named: Peer,
    /// Whom it got.
    pub real: Peer,
}

/// Is this a service's address and port? If so the question is written.
#[inline(always)]
pub fn ask<T: Tables>(t: &T, key: &ServiceKey, question: &mut Question) -> bool {
    let words = key.addr.words();
    let mixed = words[0] ^ words[1] ^ words[2] ^ words[3];
    let Some(family) = crate::addr::Family::from_number(key.family) else { return false };
    if !matches!(key.proto, Proto::TCP | Proto::UDP) || !t.known(filter_bit(family, mixed)) {
        return false;
    }
    let service = match t.service(key) {
        Some(service) => service,
        None if t.settings().port0.load() != 0 => {
            let Some(service) = t.service(&ServiceKey { port: Port::ZERO, ..*key }) else { return false };
            service
        }
        None => return false,
    };
    question.service = *service;
    question.destination = key.addr;
    question.ask = Ask { source: 0, destination: key.addr.fold(), source_port: 0 };
    true
}

/// The dest's address and port, if it is one that translation reaches.
#[inline(always)]
pub fn answer<T: Tables>(t: &T, number: u32, asked: Port) -> Option<Other> {
    let dest = t.dest(number)?;
    if dest.method() != Method::Nat as u8 || !dest.available() {
        return None;
    }
    let port = if dest.port().is_zero() { asked } else { dest.port() };
    Some(Other { addr: dest.address(), port: port.wire() as u32, dest: number })
}
