//! Clients on the balancer itself. Their packets never come in by a NIC, so they are balanced where they name their
//! peer: a socket that connects or sends to a NAT service is given a dest instead, and told the service's address when it
//! asks who its peer is. (IPVS does this in the output path.)
//!
//! The socket then talks to the dest directly, and nothing is translated. All else is as for other clients: its first packet
//! makes the connection's entry ([`begin`], where it leaves by a NIC), later ones move it ([`request`]), and so do the
//! server's, which come in by a NIC. But there is no template: a persistent service is scheduled like any other.

use crate::account;
use crate::addr::{Addr, Port, Proto};
use crate::admit::{self, Question};
use crate::cell::Cell32;
use crate::conn::bound;
use crate::dest::Method;
use crate::forward;
use crate::ip::{Address, Ip, filter_bit};
use crate::output::Outgoing;
use crate::parse::Fragment;
use crate::pipeline::{self, Step, Work};
use crate::reason::Reason;
use crate::sched::Ask;
use crate::service::ServiceKey;
use crate::state;
use crate::table::{self, Wanted};
use crate::tables::{Control, Direction, Tables};

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

/// A packet of such a socket's, perhaps: counted as one of its connection, which it moves. [`Step::admit`]: it has none.
#[inline(never)]
pub fn request<F: Ip, T: Tables>(t: &T, work: &mut Work<F>) -> Step {
    let seen = &work.seen;
    let place = table::place::<F, T>(t, &seen.src, seen.sport, seen.proto);
    // By the dest's address: what the socket takes it for, the packet does not say.
    let wanted = Wanted { flow: seen.flow(), tag: seen.proto.0 as u32, now: seen.now };
    if let Some(hit) = table::search_keeping::<F, T, true>(t, place, wanted, &mut work.wanted)
        && hit.dest & bound::OWN != 0
        && !pipeline::reusable(t, &hit, seen)
    {
        account::count(t, hit.dest(), Direction::In, seen.len);
        forward::count_packet(&hit);
        pipeline::step(t, seen, &hit, state::Direction::Input, 0);
        return Reason::LocalClient.into();
    }
    (work.place, work.wanted) = (place, wanted);
    Step::admit()
}

/// The first packet of a connection of a socket that was given this dest.
#[inline(always)]
pub fn begin<F: Ip, P: Outgoing, T: Tables>(p: &P, t: &T, work: &mut Work<F>) -> Step {
    let number = given(p, t, work);
    if number == NOBODY {
        return Reason::NotOurs.into();
    }
    enter(t, work, number)
}

/// No server was given.
const NOBODY: u32 = u32::MAX;

/// The number of the dest the socket was given; the connection's key is left in [`Work::wanted`].
#[inline(never)]
fn given<F: Ip, P: Outgoing, T: Tables>(p: &P, t: &T, work: &mut Work<F>) -> u32 {
    let seen = &work.seen;
    if !seen.opens || seen.fragment == Fragment::Later {
        return NOBODY;
    }
    let real =
        Peer { cookie: p.socket(), addr: seen.dst.wide(), port: seen.dport.wire() as u32, side: THEIRS };
    let Some(named) = t.local_peer(&real) else { return NOBODY };
    // The number may be another dest's by now.
    let Some(other) = answer(t, named.dest, Port::from_wire(named.port as u16)) else { return NOBODY };
    if other.addr != real.addr || other.port != real.port {
        return NOBODY;
    }
    work.wanted.flow.vaddr = F::Addr::narrow(&named.addr);
    work.wanted.flow.vport = Port::from_wire(named.port as u16);
    // The port may have been used for another dest, a moment ago.
    if let Some(old) = table::search::<F, T, false>(t, work.place, &work.wanted) {
        pipeline::end(t, &old, work.seen.now);
    }
    named.dest
}

/// Makes the entry.
#[inline(never)]
fn enter<F: Ip, T: Tables>(t: &T, work: &Work<F>, number: u32) -> Step {
    let Some(dest) = t.dest(number) else { return Reason::NotOurs.into() };
    let mut birth = admit::birth(t, &work.seen, number, dest, dest.port().is_zero());
    birth.dest = birth.dest & !bound::FTP | bound::OWN;
    if t.insert(&work.wanted, work.place, birth, Control::NONE).is_new() {
        t.count_conn(number);
        account::count(t, number, Direction::In, work.seen.len);
    }
    Reason::LocalClient.into()
}
