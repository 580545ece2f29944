//! From a decision to bytes: each method turns a packet and a connection into header edits and a way out.

pub mod icmp;
pub mod link;
pub mod nat;
pub mod tunnel;

use crate::addr::{Addr, Family};
use crate::conn::{Entry, bound};
use crate::dest::{Dest, Hop, Method, status};
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::Seen;
use crate::reason::{Reason, Verdict};
use crate::table::Hit;
use crate::tables::{RouteQuery, Tables};

/// A client's packet goes to the connection's dest.
#[inline(always)]
pub fn request<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    conn: &Hit<'_, F>,
) -> Result<Verdict, Reason> {
    let dest = t.dest(conn.dest()).ok_or(Reason::Internal)?;
    let method = bound::method(conn.dest);
    let tunnelled = method == Method::Tunnel as u32;
    let hop = match to_dest(t, dest, p.ingress(), tunnelled, seen.now) {
        Ok(hop) => hop,
        Err(Reason::NoRoute) => return Ok(icmp::answer(p, t, seen, icmp::Error::HOST_UNREACHABLE)),
        Err(reason) => return Err(reason),
    };
    if !decrement::<F, P>(p, seen)? {
        return Ok(icmp::answer(p, t, seen, icmp::Error::TIME_EXCEEDED));
    }
    let limit = if tunnelled { tunnel::room(dest, &hop) } else { hop.mtu };
    if seen.len > limit && limit != 0 {
        return if refuses_fragments::<F, P>(p, seen)? {
            Ok(icmp::answer(p, t, seen, icmp::Error::too_big(limit)))
        } else {
            // XDP cannot make two packets of one.
            Err(Reason::TooBig)
        };
    }
    if tunnelled {
        return Ok(tunnel::send(p, t, seen, dest, &hop));
    }
    if method == Method::Nat as u32 {
        let port = if conn.dest & bound::KEEP_PORT != 0 { seen.dport } else { dest.port() };
        nat::rewrite(p, seen, nat::Side::Destination, &F::Addr::narrow(&dest.address()), port)?;
    }
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Forwarded, hop.ifindex, p.ingress()))
}

/// A translated server's packet goes to the client.
#[inline(always)]
pub fn reply<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    seen: &Seen<F>,
    conn: &Hit<'_, F>,
) -> Result<Verdict, Reason> {
    let flow = conn.entry.flow();
    let hop = client(t, seen.dst.wide(), flow.vaddr.wide(), F::FAMILY, p.ingress(), seen.now)?;
    let header: &F::Header = p.at(seen.l3).ok_or(Reason::Truncated)?;
    if F::ttl(header) <= 1 {
        return Err(Reason::TtlPassed);
    }
    decrement::<F, P>(p, seen)?;
    nat::rewrite(p, seen, nat::Side::Source, &flow.vaddr, flow.vport)?;
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Replied, hop.ifindex, p.ingress()))
}

/// The way to a client, on behalf of a virtual address.
#[inline(always)]
fn client<T: Tables>(t: &T, to: Addr, from: Addr, family: Family, ingress: u32, now: u32) -> Result<Hop, Reason> {
    let query = RouteQuery { family, to, from, ingress, egress: 0, source: false };
    t.route_to_client(&query, now)
}

/// Takes one off the TTL. False: it ends here, and the packet is as it was.
#[inline(always)]
fn decrement<F: Ip, P: Packet>(p: &mut P, seen: &Seen<F>) -> Result<bool, Reason> {
    let header: &mut F::Header = p.at_mut(seen.l3).ok_or(Reason::Truncated)?;
    if F::ttl(header) <= 1 {
        return Ok(false);
    }
    F::decrement(header);
    Ok(true)
}

/// Must a packet that is too long be answered rather than cut? IPv6 always, IPv4 with DF.
#[inline(always)]
fn refuses_fragments<F: Ip, P: Packet>(p: &P, seen: &Seen<F>) -> Result<bool, Reason> {
    let header: &F::Header = p.at(seen.l3).ok_or(Reason::Truncated)?;
    Ok(!F::HEADER_SUM || F::dont_fragment(header))
}

/// The way to a dest: remembered in its slot for a second, then asked of the kernel again by one CPU.
#[inline(always)]
pub fn to_dest<T: Tables>(t: &T, dest: &Dest, ingress: u32, source: bool, now: u32) -> Result<Hop, Reason> {
    let asked = dest.hop.asked.load();
    let known = dest.hop.read();
    if let Some(hop) = known
        && now.wrapping_sub(asked) < t.settings().hz.load()
    {
        return Ok(hop);
    }
    // One CPU asks; the others go on with what is known.
    let mine = dest.hop.asked.compare_exchange(asked, now);
    match known {
        Some(hop) if !mine => Ok(hop),
        _ => ask(t, dest, ingress, source),
    }
}

#[inline(never)]
fn ask<T: Tables>(t: &T, dest: &Dest, ingress: u32, source: bool) -> Result<Hop, Reason> {
    if dest.status.load() & status::LOCAL != 0 {
        return Err(Reason::LocalDest);
    }
    let family = if dest.family() == Family::V4 as u8 { Family::V4 } else { Family::V6 };
    let query = RouteQuery {
        family,
        to: dest.address(),
        from: Addr::ZERO,
        ingress,
        egress: dest.egress.load(),
        source: source || dest.method() == Method::Tunnel as u8,
    };
    match t.route(&query) {
        Ok(hop) => {
            if dest.hop.read() != Some(hop) {
                dest.hop.write(&hop);
            }
            Ok(hop)
        }
        Err(reason) => {
            dest.hop.forget();
            Err(reason)
        }
    }
}
