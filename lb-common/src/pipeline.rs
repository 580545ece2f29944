//! The pass over a packet, top to bottom. Read this first.
//!
//! ```text
//! process ── link layer ── ip ── address filter ── headers ─┬─ reply ──── search ── advance ── forward::reply
//!                                                           └─ request ── find ──── advance ── forward::request
//!                                                                          └ admit ┘
//! ```

use crate::addr::Proto;
use crate::admit::{self, Admitted, Newcomer};
use crate::conn::{Entry, bound, ctl};
use crate::dest::Method;
use crate::forward::{self, icmp};
use crate::ip::{Address, Ip, V4, V6, filter_bit};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Seen};
use crate::reason::{Reason, Verdict};
use crate::state::{self, tcp::TcpState};
use crate::table::{self, Hit};
use crate::tables::{Direction, FragKey, Tables};
use crate::wire::{Ports, ethertype};

/// Takes a frame through the balancer.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T) -> Verdict {
    let link = match parse::link(p) {
        Ok(link) => link,
        Err(reason) => return reason.into(),
    };
    match link.kind {
        ethertype::IPV4 => ip::<V4, P, T>(p, t, link.l3),
        ethertype::IPV6 => ip::<V6, P, T>(p, t, link.l3),
        _ => Reason::NotIp.into(),
    }
}

/// One IP packet: is it for us, from whom, and on which side of a connection?
#[inline(never)]
fn ip<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, l3: u32) -> Verdict {
    match sides::<F, P, T>(p, t, l3) {
        Ok(verdict) => verdict,
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
fn sides<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, l3: u32) -> Result<Verdict, Reason> {
    let header: &F::Header = p.at(l3).ok_or(Reason::Truncated)?;
    let to_us = t.known(filter_bit(F::FAMILY, F::destination(header).mixed()));
    let from_us = t.known(filter_bit(F::FAMILY, F::source(header).mixed()));
    if !to_us && !from_us {
        return Err(Reason::NotOurs);
    }
    if t.settings().services(F::FAMILY) == 0 {
        return Err(Reason::FamilyIdle);
    }
    let mut seen = parse::network::<F, P>(p, l3)?;
    parse::extensions::<F, P>(p, &mut seen)?;
    if seen.fragment != Fragment::Later {
        parse::transport::<F, P>(p, &mut seen)?;
    }
    if seen.fragment != Fragment::Whole && !join_fragment(t, &mut seen) {
        return Err(Reason::FragmentUnknown);
    }
    seen.now = t.now();
    if from_us && let Some(hit) = find_reply(t, &seen) {
        return reply(p, t, &seen, &hit);
    }
    if to_us { request(p, t, &seen) } else { Err(Reason::ReplyUnknown) }
}

/// A first fragment leaves its ports for the later ones; a later one takes them. False: the first was not seen.
#[inline(never)]
fn join_fragment<F: Ip, T: Tables>(t: &T, seen: &mut Seen<F>) -> bool {
    let key = FragKey {
        src: seen.src.wide(),
        dst: seen.dst.wide(),
        id: seen.id,
        proto: seen.proto.0 as u16,
        family: F::FAMILY as u16,
    };
    if seen.fragment == Fragment::First {
        t.fragment_put(&key, seen.sport.wire() as u32 | (seen.dport.wire() as u32) << 16);
        return true;
    }
    let Some(word) = t.fragment_get(&key) else { return false };
    seen.set_ports(&Ports { src: (word as u16).to_ne_bytes(), dst: ((word >> 16) as u16).to_ne_bytes() });
    true
}

/// A packet from a client.
#[inline(always)]
fn request<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Result<Verdict, Reason> {
    let flow = seen.flow();
    let place = table::place::<F, T>(t, &flow.client, flow.cport, flow.proto);
    let known = table::find::<F, T>(t, place, &flow, 0, seen.now).filter(|hit| !reusable(t, hit, seen));
    let conn = match known {
        Some(hit) => {
            follow(t, seen, &hit)?;
            hit
        }
        None => {
            let admitted = admit::admit(t, &Newcomer { seen, place });
            let Some(slot) = admitted.slot() else {
                return Ok(refuse(p, t, seen, admitted));
            };
            table::hit_at::<F, T>(t, slot).ok_or(Reason::Internal)?
        }
    };
    t.count(conn.dest(), Direction::In, seen.len);
    let packets = &conn.life().packets;
    packets.store(packets.load().wrapping_add(1));
    forward::request(p, t, seen, &conn)
}

/// A packet that got no connection. Where no dest is available the client is told, as IPVS tells it.
#[inline(always)]
fn refuse<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>, why: Admitted) -> Verdict {
    if why.is(Reason::NoDest) {
        return icmp::answer(p, t, seen, icmp::Error::PORT_UNREACHABLE);
    }
    why.verdict()
}

/// A packet of a known connection: its dest must still be there; the state machine moves.
#[inline(always)]
fn follow<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, hit: &Hit<'_, F>) -> Result<(), Reason> {
    let dest = t.dest(hit.dest()).ok_or(Reason::Internal)?;
    if !dest.available() {
        return Err(Reason::DestGone);
    }
    let no_output = hit.ctl & ctl::NO_OUTPUT;
    let direction = if no_output != 0 { state::Direction::InputOnly } else { state::Direction::Input };
    step(t, seen, hit, direction, no_output);
    Ok(())
}

/// Moves the state machine, and with it the connection's clock and its dest's counts.
#[inline(always)]
fn step<F: Ip, T: Tables>(
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
    direction: state::Direction,
    no_output: u32,
) {
    // A later fragment has no flags to go by.
    let next = if seen.fragment == Fragment::Later {
        hit.state()
    } else {
        state::next(seen.proto, t.settings().secure_tcp.load() != 0, hit.state(), direction, seen.event)
    };
    table::advance(t, hit, seen.proto, next, no_output, seen.now);
    if hit.dest & bound::CONTROLLED != 0 && assures(seen.proto, hit.state(), next, direction) {
        table::assure_template(t, hit);
    }
}

/// Does this step make the connection's template ASSURED? Reaching ESTABLISHED does, for UDP the first answer.
#[inline(always)]
fn assures(proto: Proto, from: u8, to: u8, direction: state::Direction) -> bool {
    match proto {
        Proto::TCP => from != to && to == TcpState::Established as u8,
        Proto::SCTP => from != to && to == state::sctp::SctpState::Established as u8,
        _ => direction == state::Direction::Output,
    }
}

/// A new-connection packet on an old connection: may it start afresh? (IPVS's conn_reuse_mode and
/// expire_nodest_conn.) If so the old entry goes.
#[inline(always)]
fn reusable<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, seen: &Seen<F>) -> bool {
    seen.opens && seen.proto == Proto::TCP && start_afresh(t, hit, seen.now)
}

#[inline(never)]
fn start_afresh<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, now: u32) -> bool {
    const FIN_WAIT: u8 = TcpState::FinWait as u8;
    const TIME_WAIT: u8 = TcpState::TimeWait as u8;
    const CLOSE: u8 = TcpState::Close as u8;
    let settings = t.settings();
    let mode = settings.conn_reuse_mode.load();
    let weightless = settings.expire_nodest_conn.load() != 0
        && t.dest(hit.dest()).is_some_and(|d| d.weight.load() == 0 || !d.available());
    let finished = match hit.state() {
        TIME_WAIT | CLOSE => mode != 0,
        FIN_WAIT => mode & 2 != 0 && hit.ctl & ctl::NO_OUTPUT != 0,
        _ => false,
    };
    let fresh = weightless || finished && hit.dest & bound::CONTROLLED == 0;
    fresh && table::remove(t, hit, now)
}

/// The connection a packet from a known address is a reply of.
#[inline(always)]
fn find_reply<'a, F: Ip, T: Tables>(t: &'a T, seen: &Seen<F>) -> Option<Hit<'a, F>> {
    let place = table::place::<F, T>(t, &seen.dst, seen.dport, seen.proto);
    table::search::<F, T>(t, place, seen.now, |entry, dest| {
        entry.is_client(&seen.dst, seen.dport, seen.proto) && is_source(t, entry, dest, seen)
    })
}

/// Does the packet come from where this connection's replies do: the dest under NAT, else the virtual address?
#[inline(always)]
fn is_source<F: Ip, T: Tables>(t: &T, entry: &F::Entry, dest_word: u32, seen: &Seen<F>) -> bool {
    if bound::method(dest_word) != Method::Nat as u32 {
        return entry.is_service(&seen.src, seen.sport);
    }
    let Some(dest) = t.dest(dest_word & bound::DEST) else { return false };
    let port = if dest_word & bound::KEEP_PORT != 0 { entry.vport() } else { dest.port() };
    port == seen.sport && F::Addr::narrow(&dest.address()) == seen.src
}

/// A packet from a server.
#[inline(always)]
fn reply<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
) -> Result<Verdict, Reason> {
    t.count(hit.dest(), Direction::Out, seen.len);
    step(t, seen, hit, state::Direction::Output, 0);
    if bound::method(hit.dest) != Method::Nat as u32 {
        return Err(Reason::ReplyDirect);
    }
    forward::reply(p, t, seen, hit)
}
