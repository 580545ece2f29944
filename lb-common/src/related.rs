//! ICMP errors about connections: found by the packet they quote, rewritten with it, sent where it came from.
//!
//! An error from the client's side quotes a reply (virtual address to client) and goes to the dest. One from the
//! server's side quotes a request as the dest saw it (client to dest) and, under NAT, goes to the client in the virtual
//! address's name, whoever sent it. What belongs to no connection passes to the stack, and so does everything that is
//! no error: echo to a VIP is the stack's to answer. An error about a tunnel's outer packet is [`outer`]'s.

use crate::account;
use crate::addr::{Port, Proto};
use crate::admit::Question;
use crate::checksum;
use crate::conn::{Entry, bound};
use crate::dest::{Dest, Method};
use crate::flow::Flow;
use crate::forward::{link, nat, to_dest, tunnel};
use crate::ip::{Address, Ip, filter_bit};
use crate::packet::Packet;
use crate::parse::{self, Fragment, Seen};
use crate::pipeline::{Step, Work};
use crate::reason::{Reason, Verdict};
use crate::recent::Recent;
use crate::state::Event;
use crate::table::{self, Hit, Wanted};
use crate::tables::{Direction, Tables};
use crate::wire::Ports;

/// Length of the ICMP header in front of the quote.
const HEADER: u32 = 8;

/// Is this the protocol of the family's ICMP?
#[inline(always)]
pub const fn is_icmp<F: Ip>(proto: Proto) -> bool {
    proto.0 == if F::HEADER_SUM { Proto::ICMP.0 } else { Proto::ICMPV6.0 }
}

/// Is it ICMP, or an extension header that ICMPv6 may stand behind?
#[inline(always)]
pub const fn may_be_icmp<F: Ip>(proto: Proto) -> bool {
    is_icmp::<F>(proto) || !F::HEADER_SUM && matches!(proto.0, 0 | 43 | 60)
}

/// Is it an error that IPVS follows? IPv4: unreachable, quench, time exceeded; IPv6: every error.
#[inline(always)]
const fn is_error<F: Ip>(kind: u8) -> bool {
    if F::HEADER_SUM { matches!(kind, 3 | 4 | 11) } else { kind < 128 }
}

/// Takes an ICMP packet whose IP header is [`Work::seen`] apart, its quote into [`Work::quote`] up to the transport header.
/// [`Step::related`]: it is an error.
#[inline(never)]
pub fn take_apart<F: Ip, P: Packet>(p: &P, work: &mut Work<F>) -> Step {
    error_quote(p, work).into()
}

#[inline(always)]
fn error_quote<F: Ip, P: Packet>(p: &P, work: &mut Work<F>) -> Result<Step, Reason> {
    let kind: &[u8; 2] = p.header(work.seen.l4)?;
    if !is_error::<F>(kind[0]) || work.seen.fragment != Fragment::Whole {
        return Err(Reason::OtherProtocol);
    }
    quoted(p, &work.seen, &mut work.quote)?;
    Ok(Step::related())
}

/// Takes an error to where the connection it is about leads.
#[inline(never)]
pub fn forward<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Step {
    follow(p, t, work).into()
}

#[inline(always)]
fn follow<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Result<Step, Reason> {
    quoted_ports(p, &work.seen, &mut work.quote)?;
    let (src, dst) = (work.quote.src, work.quote.dst);
    let (sport, dport) = (work.quote.sport, work.quote.dport);
    if t.known(filter_bit(F::FAMILY, src.mixed()))
        && let Some(hit) = find::<F, T, false>(t, work, dst, dport, src, sport)
    {
        return to_server(p, t, work, hit.dest);
    }
    if t.known(filter_bit(F::FAMILY, dst.mixed()))
        && let Some(hit) = find::<F, T, true>(t, work, src, sport, dst, dport)
        && hit.dest & bound::UNTRANSLATED == 0
    {
        return to_client(p, t, work, &hit);
    }
    if t.settings().schedule_icmp.load() != 0 && t.known(filter_bit(F::FAMILY, src.mixed())) {
        imagine(t, work);
        return Ok(Step::admit());
    }
    Err(Reason::OtherProtocol)
}

/// Puts the request that the quoted packet would be the answer to in the error's place: it may start a connection.
#[inline(never)]
fn imagine<F: Ip, T: Tables>(t: &T, work: &mut Work<F>) {
    work.error = work.seen;
    let (quote, seen) = (&work.quote, &mut work.seen);
    (seen.src, seen.sport) = (quote.dst, quote.dport);
    (seen.dst, seen.dport) = (quote.src, quote.sport);
    seen.proto = quote.proto;
    seen.event = Event::QUOTED;
    seen.opens = true;
    work.place = table::place::<F, T>(t, &seen.src, seen.sport, seen.proto);
    work.wanted = Wanted { flow: seen.flow(), tag: seen.proto.0 as u32, now: seen.now };
}

/// sysctl schedule_icmp: the error starts the connection it is about, as far as rules and scheduler allow it. Leads to
/// [`forward_new`].
#[inline(always)]
pub fn schedule<F: Ip, T: Tables>(
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
    recent: &mut Recent,
) -> Step {
    let mut step = t.lookup(work, question, recent);
    if step.is(Step::CALL) {
        return Reason::NoCallId.into();
    }
    if step.is(Step::PICK) {
        // Schedulers that go by the destination go by the quoted packet's here: IPVS turns only the source around.
        question.ask.destination = question.ask.source;
        question.destination = work.seen.src.wide();
        step = t.pick(question);
    }
    if step.is(Step::OPEN_TO) {
        step = t.open(work, question, step.word());
    }
    // An error is not answered by another.
    if step.is(Step::LEAVE) { question.left().unwrap_or(Reason::NoDest).into() } else { step }
}

/// The error that has started a connection goes the same way as every packet of it. `word` as in
/// [`crate::forward::request`].
#[inline(never)]
pub fn forward_new<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    word: u32,
    is_bound: bool,
) -> Step {
    work.seen = work.error;
    let bound = if is_bound {
        word
    } else {
        match table::hit_at::<F, T>(t, word) {
            Some(hit) => hit.dest,
            None => return Reason::BucketBusy.into(),
        }
    };
    to_server(p, t, work, bound).into()
}

/// Takes the quoted packet's header apart. Its length is not all there.
#[inline(always)]
fn quoted<F: Ip, P: Packet>(p: &P, error: &Seen<F>, quote: &mut Seen<F>) -> Result<(), Reason> {
    within(p, error, error.l4 + HEADER, quote)
}

/// Takes the header at `l3` of a packet apart that stands within an error.
#[inline(always)]
pub(crate) fn within<F: Ip, P: Packet>(
    p: &P,
    error: &Seen<F>,
    l3: u32,
    quote: &mut Seen<F>,
) -> Result<(), Reason> {
    let header: &F::Header = p.header(l3)?;
    let (skip, proto, fragment, _) = F::payload(header)?;
    quote.src = F::source(header);
    quote.dst = F::destination(header);
    quote.l3 = l3;
    quote.l4 = l3 + skip;
    // As far as the error itself goes.
    quote.len = error.len.saturating_sub(quote.l3 - error.l3);
    quote.proto = proto;
    quote.fragment = fragment;
    parse::extensions::<F, P>(p, quote)
}

/// And the first four bytes after it.
#[inline(always)]
pub(crate) fn quoted_ports<F: Ip, P: Packet>(
    p: &P,
    error: &Seen<F>,
    quote: &mut Seen<F>,
) -> Result<(), Reason> {
    if quote.fragment == Fragment::Later || !matches!(quote.proto, Proto::TCP | Proto::UDP | Proto::SCTP) {
        return Err(Reason::OtherProtocol);
    }
    let ports: &Ports = p.header(quote.l4)?;
    // What follows the error in the frame is no part of it.
    if quote.l4 + size_of::<Ports>() as u32 > error.l3 + error.len {
        return Err(Reason::Truncated);
    }
    quote.set_ports(ports);
    Ok(())
}

#[inline(always)]
fn find<'a, F: Ip, T: Tables, const REPLY: bool>(
    t: &'a T,
    work: &mut Work<F>,
    client: F::Addr,
    cport: Port,
    vaddr: F::Addr,
    vport: Port,
) -> Option<Hit<'a, F>> {
    let proto = work.quote.proto;
    let place = table::place::<F, T>(t, &client, cport, proto);
    work.wanted =
        Wanted { flow: Flow { client, vaddr, cport, vport, proto }, tag: proto.0 as u32, now: work.seen.now };
    table::search::<F, T, REPLY>(t, place, &work.wanted)
}

/// From the client's side: counted as input, translated like a request, its quote like a reply turned back.
#[inline(always)]
fn to_server<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &Work<F>,
    bound: u32,
) -> Result<Step, Reason> {
    let seen = &work.seen;
    // A connection that bypasses the dests: to the quoted packet's sender, which is where the error goes anyway.
    if bound & bound::NO_DEST != 0 {
        return Ok(Step::bypass());
    }
    let number = bound & bound::DEST;
    let dest = t.dest(number).ok_or(Reason::Internal)?;
    let method = bound::method(bound);
    let (tunnelled, translated) = (method == Method::Tunnel as u32, method == Method::Nat as u32);
    if translated && !intact(p, seen) {
        return Err(Reason::BadChecksum);
    }
    // Unlike data, it still reaches a deleted dest.
    account::count(t, number, Direction::In, seen.len);
    let hop = match to_dest(t, dest, tunnelled, seen.now) {
        Err(Reason::LocalDest) if translated => return to_local(p, work, bound, dest),
        hop => hop?,
    };
    decrement::<F, P>(p, seen)?;
    let shape = tunnel::Shape::of(dest);
    let limit = if tunnelled { shape.room(hop.mtu) } else { hop.mtu };
    if seen.len > limit && limit != 0 {
        return Err(Reason::TooBig);
    }
    if tunnelled {
        let inner = tunnel::Inner::of::<F, T>(t, p.header(seen.l3)?, seen.len);
        return Ok(tunnel::send(p, t, seen, dest, tunnel::Envelope { shape, inner }, &hop).into());
    }
    if translated {
        translate(p, work, bound, dest)?;
    }
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Forwarded, hop.ifindex, p.ingress()).into())
}

/// The dest is on this machine, and so is the socket the error is for.
#[inline(always)]
fn to_local<F: Ip, P: Packet>(p: &mut P, work: &Work<F>, bound: u32, dest: &Dest) -> Result<Step, Reason> {
    if F::Addr::narrow(&dest.address()).is_loopback() {
        return Err(Reason::LocalLoopback);
    }
    translate(p, work, bound, dest)?;
    Err(Reason::LocalDest)
}

/// Puts a NAT dest in the place of the service.
#[inline(always)]
fn translate<F: Ip, P: Packet>(p: &mut P, work: &Work<F>, bound: u32, dest: &Dest) -> Result<(), Reason> {
    let server = F::Addr::narrow(&dest.address());
    let port = dest.port_of(bound, work.quote.sport);
    rewrite(p, work, &server, port, Side::Request)
}

/// From the server's side under NAT: counted as output, sent in the virtual address's name.
#[inline(always)]
fn to_client<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &Work<F>,
    hit: &Hit<'_, F>,
) -> Result<Step, Reason> {
    let seen = &work.seen;
    if !intact(p, seen) {
        return Err(Reason::BadChecksum);
    }
    account::count(t, hit.dest(), Direction::Out, seen.len);
    let (vaddr, vport) = (hit.entry.vaddr(), hit.entry.vport());
    let hop = t.route_to_client::<F>(&seen.dst, &vaddr, p.ingress())?;
    decrement::<F, P>(p, seen)?;
    rewrite(p, work, &vaddr, vport, Side::Reply)?;
    link::send(p, seen.l3, F::ETHERTYPE, &hop)?;
    Ok(Verdict::sent(Reason::Replied, hop.ifindex, p.ingress()).into())
}

/// Is the error's checksum right? One that is not would still not be when translated.
#[inline(never)]
pub(crate) fn intact<F: Ip, P: Packet>(p: &mut P, seen: &Seen<F>) -> bool {
    let len = (seen.l3 + seen.len).saturating_sub(seen.l4);
    let pseudo = if F::HEADER_SUM {
        0
    } else {
        checksum::add32(checksum::add32(seen.src.sum(), seen.dst.sum()), nat::pseudo(Proto::ICMPV6, len))
    };
    p.sum(seen.l4, len).is_some_and(|sum| checksum::fold(checksum::add32(sum, pseudo)) == 0xffff)
}

/// An error that ends here is not answered by another.
#[inline(always)]
fn decrement<F: Ip, P: Packet>(p: &mut P, seen: &Seen<F>) -> Result<(), Reason> {
    let header: &mut F::Header = p.header_mut(seen.l3)?;
    if F::ttl(header) <= 1 {
        return Err(Reason::TtlExceeded);
    }
    F::decrement(header);
    Ok(())
}

/// Which way the error goes: a request's destination and its quote's source change, or a reply's source and its quote's
/// destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Reply,
}

/// Puts `addr` and `port` in place of what stands on the error's `side` and in its quote. The quoted transport checksum
/// stays as it is, as IPVS leaves it.
#[inline(always)]
fn rewrite<F: Ip, P: Packet>(
    p: &mut P,
    work: &Work<F>,
    addr: &F::Addr,
    port: Port,
    side: Side,
) -> Result<(), Reason> {
    let (seen, quote) = (&work.seen, &work.quote);
    let request = side == Side::Request;
    let outer = if request { seen.dst } else { seen.src }.diff(addr, 0);
    let (old, old_port) = if request { (quote.src, quote.sport) } else { (quote.dst, quote.dport) };
    let inner = old.diff(addr, 0);

    let header: &mut F::Header = p.header_mut(seen.l3)?;
    if request {
        F::set_destination(header, addr)
    } else {
        F::set_source(header, addr)
    }
    F::adjust(header, outer);

    let header: &mut F::Header = p.header_mut(quote.l3)?;
    if request {
        F::set_source(header, addr)
    } else {
        F::set_destination(header, addr)
    }
    F::adjust(header, inner);

    let field: &mut [u8; 2] = p.header_mut(quote.l4 + if request { 0 } else { 2 })?;
    *field = port.wire().to_ne_bytes();

    // IPv4: the quoted header's sum makes up for its address. IPv6: no such sum, and the pseudo header has the outer
    // addresses.
    let addresses = if F::HEADER_SUM { 0 } else { checksum::add32(outer, inner) };
    let diff = checksum::diff32(addresses, old_port.wire() as u32, port.wire() as u32);
    let check: &mut [u8; 2] = p.header_mut(seen.l4 + 2)?;
    *check = checksum::apply(u16::from_ne_bytes(*check), diff).to_ne_bytes();
    Ok(())
}
