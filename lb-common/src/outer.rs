//! ICMP errors about our own tunnels' outer packets: a router between the balancer and a dest has something to say that
//! the client is to hear. ipvs.md 6.7.
//!
//! The error is addressed to the balancer and quotes an outer header of ours. Behind that stands the client's packet: its
//! connection says whether the dest is one that such a packet goes to. A path MTU told is remembered for the dest, and the
//! client gets the same error about its own packet, in the virtual address's name.

use crate::account;
use crate::conn::bound;
use crate::dest::{Dest, Method};
use crate::flow::Flow;
use crate::forward::{icmp, tunnel};
use crate::ip::{Address, Ip, filter_bit};
use crate::packet::Packet;
use crate::parse::Seen;
use crate::pipeline::{Step, Work};
use crate::reason::Reason;
use crate::related;
use crate::table::{self, Wanted};
use crate::tables::{Direction, Tables};

/// Seconds that a path MTU is believed: the kernel's net.ipv4.route.mtu_expires.
pub const EXPIRES: u32 = 600;

/// The least path MTU believed: the kernel's net.ipv4.route.min_pmtu, and what every IPv6 link carries.
#[inline(always)]
const fn least<F: Ip>() -> u32 {
    if F::HEADER_SUM { 552 } else { 1280 }
}

/// Takes an error that quotes [`Work::quote`], taken apart up to its transport header, to the client it concerns.
/// [`Step::related`]: it is not about a tunnel of ours.
#[inline(never)]
pub fn forward<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Step {
    follow(p, t, work).unwrap_or(Step::related())
}

#[inline(always)]
fn follow<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Option<Step> {
    let (seen, quote) = (&work.seen, &work.quote);
    if seen.dst != quote.src {
        return None;
    }
    let l3 = tunnel::inside(p, quote)?;
    related::within(p, seen, l3, &mut work.error).ok()?;
    related::quoted_ports(p, seen, &mut work.error).ok()?;
    let bound = connection(t, work)?;
    let dest = t.dest(bound & bound::DEST)?;
    if !sent_to(dest, bound, &work.quote, l3) {
        return None;
    }
    Some(tell(p, t, work, bound, dest).unwrap_or_else(Step::from))
}

/// The [`bound`] word of the inner packet's connection.
#[inline(always)]
fn connection<F: Ip, T: Tables>(t: &T, work: &mut Work<F>) -> Option<u32> {
    let inner = &work.error;
    if !t.known(filter_bit(F::FAMILY, inner.dst.mixed())) {
        return None;
    }
    let place = table::place::<F, T>(t, &inner.src, inner.sport, inner.proto);
    let flow = Flow {
        client: inner.src,
        vaddr: inner.dst,
        cport: inner.sport,
        vport: inner.dport,
        proto: inner.proto,
    };
    work.wanted = Wanted { flow, tag: inner.proto.0 as u32, now: work.seen.now };
    let hit = table::search::<F, T, false>(t, place, &work.wanted)?;
    if hit.dest & bound::NO_DEST == 0 { Some(hit.dest) } else { None }
}

/// Is `outer`, with the inner packet at `l3`, what a packet of such a connection gets?
#[inline(always)]
fn sent_to<F: Ip>(dest: &Dest, bound: u32, outer: &Seen<F>, l3: u32) -> bool {
    bound::method(bound) == Method::Tunnel as u32
        && dest.available()
        && dest.address() == outer.dst.wide()
        && dest.hop.source() == outer.src.wide()
        && tunnel::wraps::<F>(dest, outer.proto, l3 - outer.l4)
}

#[inline(always)]
fn tell<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    bound: u32,
    dest: &Dest,
) -> Result<Step, Reason> {
    if !related::intact(p, &work.seen) {
        return Err(Reason::BadChecksum);
    }
    let head: &[u8; 8] = p.header(work.seen.l4)?;
    let (kind, code) = (head[0], head[1]);
    let told = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let error = match (F::HEADER_SUM, kind, code) {
        (true, 3, 4) => {
            let path = learn::<F, T>(t, dest, told & 0xffff, work.seen.now);
            let outer: &F::Header = p.header(work.quote.l3)?;
            // The client does not look for its path's MTU: its packets may be cut.
            if !F::dont_fragment(outer) {
                return Err(Reason::TunnelError);
            }
            icmp::Error::too_big(tunnel::Shape::of(dest).room(path))
        }
        (false, 2, _) => {
            icmp::Error::too_big(tunnel::Shape::of(dest).room(learn::<F, T>(t, dest, told, work.seen.now)))
        }
        // It points at a field of the outer header.
        (false, 4.., _) => return Err(Reason::TunnelError),
        _ => icmp::Error::relayed(kind, code),
    };
    // IPVS counts what it quotes from, and then its own error on the way out, see `about`.
    let quoted = (work.seen.l3 + work.seen.len).saturating_sub(work.error.l3);
    account::count(t, bound & bound::DEST, Direction::Out, quoted);
    work.seen = work.error;
    Ok(Step::answer(error.about(bound)))
}

/// Remembers what the path carries, if that is less than was known, and returns what it carries now.
#[inline(always)]
fn learn<F: Ip, T: Tables>(t: &T, dest: &Dest, told: u32, now: u32) -> u32 {
    let path = if told < least::<F>() { least::<F>() } else { told };
    let (hop, seconds) = (&dest.hop, t.seconds());
    hop.expire(seconds);
    let known = hop.carries();
    if known != 0 && known < path {
        return known;
    }
    hop.learn(path, seconds.wrapping_add(EXPIRES), now.wrapping_sub(t.settings().hz.load()));
    path
}
