//! From a decision to bytes: each method turns a packet and a connection into header edits and a way out.

pub mod icmp;
pub mod link;
pub mod nat;
pub mod own;
pub mod reset;
pub mod tunnel;

use crate::addr::{Addr, Family, Port};
use crate::conn::{Entry, bound, packets};
use crate::dest::{Dest, Hop, Method, status};
use crate::forward::tunnel::{Envelope, Inner};
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::Seen;
use crate::pipeline::Step;
use crate::reason::{Reason, Verdict};
use crate::table::{self, Hit};
use crate::tables::{Direction, LOOPBACK, RouteQuery, Tables};

/// A client's packet of a connection goes to its dest.
#[inline(always)]
pub fn request<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
    dest: &Dest,
) -> Result<Step, Reason> {
    count_packet(hit);
    to_server(p, t, seen, hit.dest, dest)
}

/// A newcomer's packet goes to the dest chosen. `word`: the [`bound`] word of the connection made for it, or of none; if not
/// `is_bound`, the slot of a connection that it is counted for here.
#[inline(always)]
pub fn newcomer<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    word: u32,
    is_bound: bool,
) -> Step {
    match if is_bound { Ok(word) } else { first_packet::<F, T>(t, seen, word) } {
        Ok(bound) => match t.dest(bound & bound::DEST) {
            Some(dest) => to_server(p, t, seen, bound, dest).into(),
            None => Reason::Internal.into(),
        },
        Err(reason) => reason.into(),
    }
}

/// The [`bound`] word of a new connection. It may have had to make way on another CPU since: then the packet is
/// not for what stands there now.
#[inline(always)]
fn first_packet<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, slot: u32) -> Result<u32, Reason> {
    let hit = table::hit_at::<F, T>(t, slot).ok_or(Reason::BucketBusy)?;
    if !hit.entry.matches(&seen.flow(), seen.proto.0 as u32) || !hit.current() {
        return Err(Reason::BucketBusy);
    }
    count_packet(&hit);
    Ok(hit.dest)
}

/// One more packet of a connection, by exchange and only from a connection's count: the entry may still make way, to a
/// template that counts its dependants here.
#[inline(always)]
pub(crate) fn count_packet<F: Ip>(hit: &Hit<'_, F>) {
    let cell = &hit.life().packets;
    let packets = cell.load();
    if packets & packets::NONE != 0 && packets < packets::ENOUGH {
        cell.compare_exchange(packets, packets.wrapping_add(1));
    }
}

#[inline(always)]
fn to_server<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    bound: u32,
    dest: &Dest,
) -> Result<Step, Reason> {
    t.count(bound & bound::DEST, Direction::In, seen.len);
    let method = bound::method(bound);
    let tunnelled = method == Method::Tunnel as u32;
    let hop = match to_dest(t, dest, tunnelled, seen.now) {
        Ok(hop) => hop,
        Err(Reason::NoRoute) => return Ok(Step::answer(icmp::Error::HOST_UNREACHABLE.about(bound))),
        Err(Reason::LocalDest) if method == Method::Nat as u32 => return Ok(Step::local(bound)),
        Err(reason) => return Err(reason),
    };
    // One look at the header for both: its TTL, and what a tunnel's outer header takes from it.
    let header: &mut F::Header = p.header_mut(seen.l3)?;
    if !pass_on::<F>(header) {
        return Ok(Step::answer(icmp::Error::TIME_EXCEEDED.about(bound)));
    }
    if tunnelled {
        let inner = Inner::of::<F, T>(t, header, seen.len);
        // Each its own way: what other kinds want to know of every packet costs the plainest a tenth of its instructions.
        let (shape, plain) = (tunnel::Shape::of(dest), tunnel::Shape::plain::<F>());
        return if shape.is(plain) {
            into_tunnel(p, t, seen, bound, dest, Envelope { shape: plain, inner }, &hop)
        } else {
            into_tunnel(p, t, seen, bound, dest, Envelope { shape, inner }, &hop)
        };
    }
    if let Some(answer) = refused(p, seen, bound, hop.mtu, 0)? {
        return Ok(answer);
    }
    if method == Method::Nat as u32 {
        translate(p, seen, bound, dest)?;
    }
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Forwarded, hop.ifindex, p.ingress()).into())
}

#[inline(always)]
fn into_tunnel<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    bound: u32,
    dest: &Dest,
    envelope: Envelope,
    hop: &Hop,
) -> Result<Step, Reason> {
    match refused(p, seen, bound, hop.mtu, envelope.shape.added())? {
        None => Ok(tunnel::send(p, t, seen, dest, envelope, hop).into()),
        Some(answer) => Ok(answer),
    }
}

/// What is to be answered to a packet that with `added` bytes in front is longer than `mtu`, if it is; 0 = not known.
#[inline(always)]
fn refused<F: Ip, P: Packet>(
    p: &P,
    seen: &Seen<F>,
    bound: u32,
    mtu: u32,
    added: u32,
) -> Result<Option<Step>, Reason> {
    if seen.len + added <= mtu || mtu <= added {
        return Ok(None);
    }
    refuses_fragments::<F, P>(p, seen)?;
    Ok(Some(Step::answer(icmp::Error::too_big(mtu - added).about(bound))))
}

/// Puts a NAT dest in the place of the service.
#[inline(always)]
fn translate<F: Ip, P: Packet>(p: &mut P, seen: &Seen<F>, bound: u32, dest: &Dest) -> Result<(), Reason> {
    let port = dest.port_of(bound, seen.dport);
    nat::rewrite(p, seen, nat::Side::Destination, &F::Addr::narrow(&dest.address()), port)
}

/// A client's packet is for a NAT dest on this machine: translated, it passes to the stack, TTL and all as they came.
/// [`crate::output`] translates what the dest answers.
#[inline(never)]
pub fn to_local<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>, bound: u32) -> Step {
    let Some(dest) = t.dest(bound & bound::DEST) else { return Reason::Internal.into() };
    if F::Addr::narrow(&dest.address()).is_loopback() {
        return Reason::LocalLoopback.into();
    }
    match translate(p, seen, bound, dest) {
        Ok(()) => Reason::LocalDest.into(),
        Err(reason) => reason.into(),
    }
}

/// A client's packet goes to its own destination: a connection that bypasses the dests, of which there was none.
#[inline(never)]
pub fn bypass<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Step {
    to_destination(p, t, seen).into()
}

#[inline(always)]
fn to_destination<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> Result<Step, Reason> {
    let hop = match t.route_to_client::<F>(&seen.dst, &F::Addr::default(), LOOPBACK) {
        Ok(hop) => hop,
        Err(reason) if reason as u32 == Reason::NoNeighbour as u32 => return Err(reason),
        Err(_) => return Ok(Step::answer(icmp::Error::HOST_UNREACHABLE)),
    };
    if !decrement::<F, P>(p, seen)? {
        return Ok(Step::answer(icmp::Error::TIME_EXCEEDED));
    }
    if seen.len > hop.mtu && hop.mtu != 0 {
        refuses_fragments::<F, P>(p, seen)?;
        return Ok(Step::answer(icmp::Error::too_big(hop.mtu)));
    }
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Bypassed, hop.ifindex, p.ingress()).into())
}

/// The way a server's packet takes to its connection's client.
#[inline(always)]
pub fn way_back<F: Ip, P: Packet, T: Tables>(
    p: &P,
    t: &T,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
) -> Result<Hop, Reason> {
    t.route_to_client::<F>(&seen.dst, &hit.entry.vaddr(), p.ingress())
}

/// Is a server's packet longer than this way carries? Several in one, as the kernel joins them, may be.
#[inline(always)]
pub fn too_long<F: Ip, P: Packet>(p: &P, seen: &Seen<F>, hop: &Hop) -> bool {
    seen.len > hop.mtu && hop.mtu != 0 && !p.joined(seen.len)
}

/// A server's packet is translated and goes to its connection's client.
#[inline(always)]
pub fn reply<F: Ip, P: Packet>(
    p: &mut P,
    seen: &Seen<F>,
    hit: &Hit<'_, F>,
    hop: &Hop,
) -> Result<Step, Reason> {
    let (vaddr, vport) = (hit.entry.vaddr(), hit.entry.vport());
    if !hit.current() {
        return Err(Reason::BucketBusy);
    }
    if !decrement::<F, P>(p, seen)? {
        return Err(Reason::TtlPassed);
    }
    in_the_name_of(p, seen, &vaddr, vport, hop)
}

/// [`reply`] where no entry says in whose name it goes.
#[inline(never)]
pub fn answer<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    vaddr: &F::Addr,
    vport: Port,
) -> Step {
    answered(p, t, seen, vaddr, vport).into()
}

#[inline(always)]
fn answered<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    vaddr: &F::Addr,
    vport: Port,
) -> Result<Step, Reason> {
    let hop = t.route_to_client::<F>(&seen.dst, vaddr, p.ingress())?;
    if too_long(p, seen, &hop) {
        return Err(Reason::TooBig);
    }
    if !decrement::<F, P>(p, seen)? {
        return Err(Reason::TtlPassed);
    }
    in_the_name_of(p, seen, vaddr, vport, &hop)
}

#[inline(always)]
fn in_the_name_of<F: Ip, P: Packet>(
    p: &mut P,
    seen: &Seen<F>,
    vaddr: &F::Addr,
    vport: Port,
    hop: &Hop,
) -> Result<Step, Reason> {
    nat::rewrite(p, seen, nat::Side::Source, vaddr, vport)?;
    link::send(p, seen.l3, F::ETHERTYPE, hop)?;
    Ok(Verdict::sent(Reason::Replied, hop.ifindex, p.ingress()).into())
}

/// Does the stack forward this packet as it is? Not one that ends here, for which there is no route, or whose sender is told
/// that it is too long.
#[inline(never)]
pub fn goes_on<F: Ip, P: Packet, T: Tables>(p: &P, t: &T, seen: &Seen<F>) -> bool {
    match t.route_to_client::<F>(&seen.dst, &seen.src, p.ingress()) {
        Ok(hop) => !too_long(p, seen, &hop) || refuses_fragments::<F, P>(p, seen).is_err(),
        Err(why) => why as u32 == Reason::NoNeighbour as u32,
    }
}

/// Does to such a packet what the stack does before IPVS sees it: one is taken off its TTL. False: it ends here, and the
/// stack says so.
#[inline(always)]
pub fn arrives<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, seen: &Seen<F>) -> bool {
    !goes_on(p, t, seen) || decrement::<F, P>(p, seen).unwrap_or(false)
}

/// Takes one off the TTL. False: it ends here, and the packet is as it was.
#[inline(always)]
fn decrement<F: Ip, P: Packet>(p: &mut P, seen: &Seen<F>) -> Result<bool, Reason> {
    Ok(pass_on::<F>(p.header_mut(seen.l3)?))
}

/// The same, of a header at hand.
#[inline(always)]
fn pass_on<F: Ip>(header: &mut F::Header) -> bool {
    let goes_on = F::ttl(header) > 1;
    if goes_on {
        F::decrement(header);
    }
    goes_on
}

/// A packet longer than the way carries is to be answered, IPv6 always, IPv4 with DF. Any other is to be cut, which XDP
/// cannot do: `TooBig`.
#[inline(always)]
pub fn refuses_fragments<F: Ip, P: Packet>(p: &P, seen: &Seen<F>) -> Result<(), Reason> {
    let header: &F::Header = p.header(seen.l3)?;
    if F::HEADER_SUM && !F::dont_fragment(header) { Err(Reason::TooBig) } else { Ok(()) }
}

/// The way to a dest: remembered in its slot for a second, then asked of the kernel again by one CPU. `source`: with the
/// source address of a tunnel's outer header.
#[inline(always)]
pub fn to_dest<T: Tables>(t: &T, dest: &Dest, source: bool, now: u32) -> Result<Hop, Reason> {
    let asked = dest.hop.asked.load();
    // A dest's method can be edited while the way is known: connections of both kinds then ask.
    let known = dest.hop.read().filter(|_| !source || dest.hop.source() != Addr::ZERO);
    if let Some(hop) = known
        && now.wrapping_sub(asked) < t.settings().hz.load()
    {
        return Ok(hop);
    }
    // One CPU asks; the others go on with what is known.
    let mine = dest.hop.asked.compare_exchange(asked, now);
    if let Some(hop) = known
        && !mine
    {
        return Ok(hop);
    }
    match ask(t, dest, source) {
        Ok(()) => dest.hop.read().ok_or(Reason::NoNeighbour),
        Err(reason) => Err(reason),
    }
}

/// Asks the kernel for the way to a dest and writes the answer into its slot.
#[inline(never)]
fn ask<T: Tables>(t: &T, dest: &Dest, source: bool) -> Result<(), Reason> {
    if dest.status.load() & status::LOCAL != 0 {
        return Err(Reason::LocalDest);
    }
    let query = RouteQuery {
        to: dest.address(),
        from: Addr::ZERO,
        ingress: LOOPBACK,
        family: if dest.family() == Family::V4 as u8 { Family::V4 } else { Family::V6 },
        source: source || dest.method() == Method::Tunnel as u8,
    };
    dest.hop.expire(t.seconds());
    let answer = t.route(&query, &dest.hop);
    if answer.is_err() {
        dest.hop.forget();
    }
    // Passed up, a client's packet would be answered by the local stack.
    match answer {
        Err(reason) if reason as u32 == Reason::ForwardingOff as u32 => Err(Reason::NoRoute),
        answer => answer,
    }
}
