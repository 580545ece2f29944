//! What few packets need, apart from the pass that all go through: ICMP errors, what becomes of a
//! packet for which there is no dest, and the answers the balancer gives itself. In the kernel it is a program of its own, reached by a tail call:
//! with its own stack, and its own share of what the verifier is ready to look at.

use crate::addr::{Addr, Family, Proto};
use crate::admit::{self, Question};
use crate::conn_out;
use crate::dest::SharedHop;
use crate::forward::{self, icmp};
use crate::ip::{Address, Ip, V4, V6};
use crate::outer;
use crate::packet::Packet;
use crate::pipeline::{self, Step, Work, Workspace};
use crate::probe;
use crate::reason::{Reason, Verdict};
use crate::recent::Recent;
use crate::related;
use crate::servers;
use crate::state;
use crate::tables::{LOOPBACK, RouteQuery, Tables};
use crate::wire::tcp_flags;

/// [`crate::reason::Stage::Slow`]: does what the other stages left to do.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    if space.family == Family::V4 as u32 {
        finish::<V4, P, T>(p, t, &mut space.v4, &mut space.question, &mut space.recent, space.rest)
    } else {
        finish::<V6, P, T>(p, t, &mut space.v6, &mut space.question, &mut space.recent, space.rest)
    }
}

#[inline(always)]
fn finish<F: Ip, P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
    recent: &mut Recent,
    rest: Step,
) -> Verdict {
    let mut step = rest;
    if step.is(Step::RELATED) {
        step = error(p, t, work);
    }
    if step.is(Step::CALL) {
        step = t.call(p, work, question);
        step = pipeline::schedule(p, t, work, question, step);
    }
    if step.is(Step::ADMIT) {
        step = related::schedule(t, work, question, recent);
        if step.is(Step::REQUEST) || step.is(Step::BOUND) {
            step = related::forward_new(p, t, work, step.word(), step.is(Step::BOUND));
        }
    }
    if step.is(Step::UNEXPECTED) {
        step = conn_out::begin(p, t, work, question, step);
    }
    if step.is(Step::UNEXPECTED) {
        step = unexpected(p, t, work, step);
    }
    let own = step.is(Step::TO_SERVER);
    if own {
        step = to_server(t, work, step.error());
    }
    if step.is(Step::LEAVE) {
        step = leave(t, work, question);
    }
    if step.is(Step::BYPASS) {
        step = forward::bypass(p, t, &work.seen);
    }
    if step.is(Step::LOCAL) {
        step = forward::to_local(p, t, &work.seen, step.word());
    }
    if step.is(Step::ANSWER) {
        if !own {
            work.error.src = work.seen.dst;
        }
        return icmp::answer(p, t, &work.seen, &work.error.src, step.error());
    }
    Verdict::from_word(step.0)
}

/// An ICMP error, perhaps: about a tunnel of ours, about a connection, or about a check.
#[inline(always)]
fn error<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>) -> Step {
    let mut step = related::take_apart(p, work);
    if step.is(Step::RELATED) {
        step = outer::forward(p, t, work);
    }
    if step.is(Step::RELATED) {
        step = related::forward(p, t, work);
    }
    if step == Reason::OtherProtocol.into() {
        step = probe::ask(t, &work.seen).unwrap_or(step);
    }
    step
}

/// There is no dest. The client is told, unless sysctl cache_bypass lets the packet go on to where it was sent.
#[inline(never)]
fn leave<F: Ip, T: Tables>(t: &T, work: &Work<F>, question: &Question) -> Step {
    if t.settings().cache_bypass.load() != 0
        && question.mark != 0
        // No route, or one to this machine itself, which would be a loop.
        && t.route_to_client::<F>(&work.seen.dst, &F::Addr::default(), LOOPBACK)
            .map_or_else(|why| why as u32 == Reason::NoNeighbour as u32, |_| true)
    {
        return bypass(t, work, question);
    }
    match question.left() {
        Some(reason) => reason.into(),
        None => Step::answer(icmp::Error::PORT_UNREACHABLE),
    }
}

/// A connection without a dest. (Under `-o` each packet is one, and leaves no entry.)
#[inline(always)]
fn bypass<F: Ip, T: Tables>(t: &T, work: &Work<F>, question: &Question) -> Step {
    if question.one_packet(work.seen.proto) {
        return Step::bypass();
    }
    match admit::bypass(t, work).slot() {
        Ok(_) => Step::bypass(),
        Err(reason) => Step(reason as u64),
    }
}

/// sysctl nat_icmp_send: a NAT dest that answers where there is no connection is told so. Resets need no answer, and what
/// comes from another port is the server's own affair.
#[inline(never)]
fn unexpected<F: Ip, P: Packet, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, step: Step) -> Step {
    let seen = &work.seen;
    let told = t.settings().nat_icmp_send.load() != 0 && !is_reset(seen.proto, seen.event);
    if !told || servers::find::<F, T>(t, &seen.src, seen.sport, seen.proto).is_none() {
        return Step(step.word() as u64);
    }
    if forward::arrives(p, t, &work.seen) {
        Step::to_server(icmp::Error::PORT_UNREACHABLE)
    } else {
        Reason::TtlPassed.into()
    }
}

/// A server is told, in an address of the balancer's own, left in [`Work::error`]: its packet is too long for the way to the
/// client, or of no connection.
#[inline(never)]
fn to_server<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, error: icmp::Error) -> Step {
    if own_address(t, work) { Step::answer(error) } else { Reason::NoRoute.into() }
}

#[inline(always)]
fn is_reset(proto: Proto, event: state::Event) -> bool {
    match proto {
        Proto::TCP => event == state::tcp::event(tcp_flags::RST),
        Proto::SCTP => event == state::sctp::event(state::sctp::chunk::ABORT, None),
        _ => false,
    }
}

/// The balancer's own address towards the packet's sender, into the source of [`Work::error`].
#[inline(never)]
fn own_address<F: Ip, T: Tables>(t: &T, work: &mut Work<F>) -> bool {
    let hop = SharedHop::default();
    let to = work.seen.src.wide();
    let query = RouteQuery { to, from: Addr::ZERO, ingress: LOOPBACK, family: F::FAMILY, source: true };
    if t.route(&query, &hop).is_err() {
        return false;
    }
    work.error.src = F::Addr::narrow(&hop.source());
    true
}
