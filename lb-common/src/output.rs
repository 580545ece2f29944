//! What this machine itself sends: replies of NAT dests that are on it. They come in by no NIC, so they are translated
//! where they leave by one, as packets of the stack: checksums perhaps left to the hardware, several segments perhaps in
//! one. Requests came the usual way, see [`crate::forward::to_local`].

use crate::addr::Port;
use crate::conn::{Entry, bound};
use crate::dest::Method;
use crate::fragments;
use crate::ip::{Address, Ip, V4, V6, filter_bit};
use crate::packet::Bytes;
use crate::parse::{self, Fragment, Seen};
use crate::pipeline::{self, Step, Work, Workspace};
use crate::reason::{Reason, Verdict};
use crate::related;
use crate::tables::Tables;
use crate::wire::ethertype;

/// A packet on its way out of the stack.
pub trait Outgoing: Bytes {
    /// Puts `addr` and `port` in place of the source, in every checksum too, done already or still to do.
    fn set_source<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr, port: Port) -> Result<(), Reason>;
}

/// May there be anything to translate? Asked of every packet the machine sends.
#[inline(always)]
pub fn wanted<T: Tables>(t: &T) -> bool {
    t.settings().local_dests.load() != 0
}

/// Takes a packet of the stack's through the balancer. [`Reason::Replied`]: translated; otherwise it goes as it is, or has
/// to be dropped because half of it is translated.
#[inline(always)]
pub fn process<P: Outgoing, T: Tables>(p: &mut P, t: &T, space: &mut Workspace) -> Verdict {
    let link = match parse::link(p) {
        Ok(link) => link,
        Err(reason) => return reason.into(),
    };
    let step = match link.kind {
        ethertype::IPV4 => reply::<V4, P, T>(p, t, &mut space.v4, link.l3),
        ethertype::IPV6 => reply::<V6, P, T>(p, t, &mut space.v6, link.l3),
        _ => Reason::NotIp.into(),
    };
    Verdict::from_word(step.0)
}

#[inline(never)]
fn reply<F: Ip, P: Outgoing, T: Tables>(p: &mut P, t: &T, work: &mut Work<F>, l3: u32) -> Step {
    match translate(p, t, work, l3) {
        Ok(()) => Reason::Replied.into(),
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
fn translate<F: Ip, P: Outgoing, T: Tables>(
    p: &mut P,
    t: &T,
    work: &mut Work<F>,
    l3: u32,
) -> Result<(), Reason> {
    let header: &F::Header = p.at(l3).ok_or(Reason::Truncated)?;
    if !t.known(filter_bit(F::FAMILY, F::source(header).mixed())) {
        return Err(Reason::NotOurs);
    }
    // Without a service of the family IPVS is not hooked in.
    if t.settings().services(F::FAMILY) == 0 {
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
    let Some(hit) = pipeline::find_reply(t, &work.seen, &mut work.wanted) else {
        return Err(Reason::ReplyUnknown);
    };
    pipeline::account(t, &work.seen, &hit);
    if bound::method(hit.dest) != Method::Nat as u32 {
        return Err(Reason::ReplyDirect);
    }
    let (vaddr, vport) = (hit.entry.vaddr(), hit.entry.vport());
    if !hit.current() {
        return Err(Reason::BucketBusy);
    }
    p.set_source(&work.seen, &vaddr, vport)
}
