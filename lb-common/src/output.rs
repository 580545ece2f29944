//! What this machine itself sends: replies of NAT dests that are on it, requests of clients on it ([`crate::local`]), and
//! checks ([`crate::probe`]). They come in by no NIC, so they are changed, or counted, where they leave by one, as packets of
//! the stack: checksums perhaps left to the hardware, several segments perhaps in one. What belongs to them came the usual
//! way, see [`crate::forward::to_local`].

use crate::addr::Port;
use crate::conn::{Entry, bound};
use crate::fragments;
use crate::ip::{Ip, V4, V6};
use crate::local;
use crate::packet::Bytes;
use crate::parse::{self, Fragment, Seen};
use crate::pipeline::{self, Step, Work, Workspace};
use crate::probe::{self, Room};
use crate::reason::{Action, Reason, Verdict};
use crate::related;
use crate::tables::Tables;
use crate::wire::{Wire, ethertype};

/// A packet on its way out of the stack.
pub trait Outgoing: Bytes {
    /// The cookie of the socket it is of; 0 = of none that is known.
    fn socket(&self) -> u64;
    /// Puts `addr` and `port` in place of the source, in every checksum too, done already or still to do.
    fn set_source<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr, port: Port) -> Result<(), Reason>;
    /// Puts `addr` in place of the destination, likewise.
    fn set_destination<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr) -> Result<(), Reason>;
    /// Makes room for an outer header of the same family, and what is to follow it, between the link layer and the IP header
    /// at `l3`.
    fn make_room<F: Ip>(&mut self, l3: u32, room: &Room) -> Result<(), Reason>;
    /// Writes to it.
    fn put<T: Wire>(&mut self, off: u32, value: &T) -> Result<(), Reason>;
    /// Writes a word in memory order: on the stack as one, which an array of bytes may not be.
    fn put_word(&mut self, off: u32, word: u32) -> Result<(), Reason>;
}

/// May there be anything to do? Asked of every packet the machine sends.
#[inline(always)]
pub fn wanted<T: Tables>(t: &T) -> bool {
    serves(t) || t.settings().probers.load() != 0
}

/// Is, or was, a server or a client of services on this machine?
#[inline(always)]
fn serves<T: Tables>(t: &T) -> bool {
    let settings = t.settings();
    settings.local_dests.load() != 0 || settings.local_clients.load() != 0
}

/// Is a verdict on such a packet counted? What is none of the balancer's business is not.
#[inline(always)]
pub fn counts(verdict: Verdict) -> bool {
    const OURS: [u32; 3] = [Reason::Replied as u32, Reason::LocalClient as u32, Reason::ProbeSent as u32];
    verdict.action() == Action::Drop || OURS.contains(&verdict.counter())
}

/// Takes a packet of the stack's through the balancer. [`Reason::Replied`]: translated; [`Reason::ProbeSent`]: a check's,
/// made a client's; otherwise it goes as it is, or has to be dropped because half of it is changed.
#[inline(always)]
pub fn process<P: Outgoing, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let link = match parse::link(p) {
        Ok(link) => link,
        Err(reason) => return reason.into(),
    };
    let step = match link.kind {
        ethertype::IPV4 => send::<V4, P, T>(p, t, &mut space.v4, link.l3),
        ethertype::IPV6 => send::<V6, P, T>(p, t, &mut space.v6, link.l3),
        _ => Reason::NotIp.into(),
    };
    Verdict::from_word(step.0)
}

#[inline(always)]
fn send<F: Ip, P: Outgoing, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, l3: u32) -> Step {
    if t.settings().probers.load() != 0 {
        let step = probe::send(p, t, work, l3);
        if counts(Verdict::from_word(step.0)) {
            return step;
        }
    }
    if !serves(t) {
        return Reason::NotOurs.into();
    }
    let mut step = look(p, t, work, l3);
    if step.is(Step::ADMIT) {
        // To a server's address: of which client?
        step = local::request(t, work);
    }
    if step.is(Step::ADMIT) {
        step = local::begin(p, t, work);
    }
    step
}

/// A reply is translated; a packet to a known address may be a request: [`Step::admit`].
#[inline(never)]
fn look<F: Ip, P: Outgoing, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, l3: u32) -> Step {
    match translate(p, t, work, l3) {
        Ok(step) => step,
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
fn translate<F: Ip, P: Outgoing, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    l3: u32,
) -> Result<Step, Reason> {
    let header: &F::Header = p.header(l3)?;
    let settings = t.settings();
    let ends = t.known_ends::<F>(header);
    let to = ends.to() && settings.local_clients.load() != 0;
    let from = ends.from() && settings.local_dests.load() != 0;
    if !to && !from {
        return Err(Reason::NotOurs);
    }
    // Without a service of the family IPVS is not hooked in.
    if settings.services(F::FAMILY) == 0 {
        return Err(Reason::FamilyIdle);
    }
    let seen = &mut work.seen;
    *seen = parse::ip::<F, P>(p, l3, header, t.now())?;
    if related::is_icmp::<F>(seen.proto) {
        return Err(Reason::OtherProtocol);
    }
    parse::transport::<F, P>(p, seen)?;
    // One without a first is some other socket's.
    if seen.fragment != Fragment::Whole && !fragments::ported(t, seen) {
        return Err(Reason::ReplyUnknown);
    }
    if from && let Some(hit) = pipeline::find_reply(t, &work.seen, &mut work.wanted) {
        pipeline::account(t, &work.seen, &hit);
        if hit.dest & bound::UNTRANSLATED != 0 {
            return Err(Reason::ReplyDirect);
        }
        let (vaddr, vport) = (hit.entry.vaddr(), hit.entry.vport());
        if !hit.current() {
            return Err(Reason::BucketBusy);
        }
        p.set_source(&work.seen, &vaddr, vport)?;
        return Ok(Reason::Replied.into());
    }
    if to { Ok(Step::admit()) } else { Err(Reason::ReplyUnknown) }
}
