//! Persistence: a client's connections to a service keep one dest, through a template.
//!
//! A template is an entry of the connection table: masked client, port 0, virtual address, and the service's port
//! (or 0 where the service takes several). Connections made through it are its dependants; it does not go before
//! them. Overload and weight 0 do not stop it (IPVS: only expire_quiescent_template makes weight 0 do so).
//!
//! Under a persistence engine the template is for a call of the client ([`crate::sip`]). Its key then has a hash of
//! both in place of the client, which the `calls` map confirms.

use crate::addr::{Port, Proto};
use crate::admit::Question;
use crate::conn::{Entry, bound, ctl, tag};
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::packet::Packet;
use crate::parse::Seen;
use crate::pipeline::{Step, Work};
use crate::reason::Reason;
use crate::sip::{self, Call};
use crate::table::{self, Birth, Hit, Inserted, Place, Wanted};
use crate::tables::{Control, Tables};

/// What [`Work::template`] holds when the client has none.
pub const NO_TEMPLATE: u32 = u32::MAX;

/// Looks for the client's template. With a usable one the dest is known; else the scheduler is asked.
#[inline(always)]
pub fn lookup<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &Question) -> Step {
    if question.by_call() { Step::call() } else { by_template(t, work, question) }
}

/// [`lookup`] of a service with a persistence engine. A packet that belongs to no call is dropped, as IPVS drops it.
#[inline(always)]
pub fn by_call<F: Ip, P: Packet, T: Tables>(
    p: &P,
    t: &T,
    work: &mut Work<F>,
    question: &mut Question,
) -> Step {
    if work.seen.proto != Proto::UDP || !sip::call_id(p, t, &work.seen, &mut work.call) {
        return Reason::NoCallId.into();
    }
    work.call.client = work.seen.src.masked(question.service.netmask).wide();
    question.call = work.call.hash(t);
    by_template(t, work, question)
}

#[inline(always)]
fn by_template<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &Question) -> Step {
    work.template = NO_TEMPLATE;
    work.group = wanted(&work.seen, question);
    let Some(hit) = table::search::<F, T, false>(t, place::<F, T>(t, &work.group), &work.group) else {
        return Step::pick();
    };
    if question.by_call() && !t.call_is(hit.key(), &work.call) {
        // Two calls of one hash: the second has no place.
        return Reason::TableFull.into();
    }
    if usable(t, &hit) {
        work.template = hit.slot;
        return Step::open(hit.dest());
    }
    table::orphan_template(&hit);
    Step::pick()
}

/// The key of the client's template. For a call: a hash of client and Call-ID in the client's place.
#[inline(always)]
fn wanted<F: Ip>(seen: &Seen<F>, question: &Question) -> Wanted<F> {
    const FTP: Port = Port::new(21);
    // A mark's template stands for all protocols, addresses and ports: no protocol, the mark as address.
    let by_mark = question.mark != 0;
    let proto = if by_mark { Proto::IP } else { seen.proto };
    let mut wanted = Wanted {
        flow: Flow {
            client: seen.src.masked(question.service.netmask),
            vaddr: if by_mark { F::Addr::from_mark(question.mark) } else { seen.dst },
            cport: Port::ZERO,
            vport: if question.port == FTP { Port::ZERO } else { question.port },
            proto,
        },
        tag: proto.0 as u32 | tag::TEMPLATE,
        now: seen.now,
    };
    if question.by_call() {
        wanted.flow.client = F::Addr::from_hash(question.call);
        wanted.flow.cport = Port::from_wire((question.call >> 32) as u16);
        wanted.tag |= tag::ENGINE;
    }
    wanted
}

#[inline(always)]
fn place<F: Ip, T: Tables>(t: &T, wanted: &Wanted<F>) -> Place {
    let flow = &wanted.flow;
    table::place::<F, T>(t, &flow.client, flow.cport, flow.proto)
}

/// May the template's dest still be used?
#[inline(always)]
fn usable<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>) -> bool {
    let Some(dest) = t.dest(hit.dest()) else { return false };
    let quiescent = t.settings().expire_quiescent_template.load() != 0 && dest.weight.load() == 0;
    dest.available() && !quiescent
}

/// The template a new connection depends on, made first if there is none, and its dest; or the number of the reason why
/// there is none. Its time starts again.
#[inline(always)]
pub fn tie<F: Ip, T: Tables>(
    t: &T,
    work: &mut Work<F>,
    question: &Question,
    number: u32,
) -> Result<(u32, Control), u32> {
    if work.template == NO_TEMPLATE {
        work.template = create(t, &work.group, question, number).slot()?;
        if question.by_call() && !note_call::<F, T>(t, work.template, &work.call, work.seen.now) {
            return Err(Reason::TableFull as u32);
        }
    }
    // Another CPU may have had to take its place since.
    let Some(template) = template(t, work) else { return Err(Reason::BucketBusy as u32) };
    let control = Control { template: template.slot, identity: template.ctl & ctl::IDENTITY };
    table::renew_template(t, &template, work.seen.now);
    Ok((template.dest(), control))
}

/// The client's template, found or made a moment ago.
#[inline(always)]
fn template<'a, F: Ip, T: Tables>(t: &'a T, work: &Work<F>) -> Option<Hit<'a, F>> {
    if work.template == NO_TEMPLATE {
        return None;
    }
    let wanted = &work.group;
    table::hit_at::<F, T>(t, work.template)
        .filter(|hit| hit.entry.matches(&wanted.flow, wanted.tag) && hit.current())
}

/// A template that was found serves no more if it is to another dest than this.
#[inline(never)]
pub fn insist<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, number: u32) -> u32 {
    if let Some(hit) = template(t, work)
        && hit.dest() != number
    {
        table::orphan_template(&hit);
        work.template = NO_TEMPLATE;
    }
    0
}

/// The template is ASSURED by a packet of a connection that has no entry.
#[inline(always)]
pub fn assure<F: Ip, T: Tables>(t: &T, work: &Work<F>) {
    if let Some(hit) = template(t, work)
        && hit.ctl & ctl::STATE == 0
    {
        hit.life().ctl.compare_exchange(hit.ctl, hit.ctl | 1);
    }
}

#[inline(always)]
fn create<F: Ip, T: Tables>(t: &T, wanted: &Wanted<F>, question: &Question, number: u32) -> Inserted {
    let Some(dest) = t.dest(number) else { return Inserted(Reason::Internal as u64) };
    let (bits, packets) = table::template_bits(question.service.timeout);
    let birth = Birth {
        dest: number | (dest.method() as u32) << bound::METHOD_SHIFT,
        tag: bits | wanted.tag & tag::ENGINE,
        ctl: 0,
        last: wanted.now.wrapping_add(t.settings().ticks(question.service.timeout)),
        packets,
    };
    t.insert(wanted, place::<F, T>(t, wanted), birth, Control::NONE)
}

/// Notes whose call a new template is for. False: there is no room for that, and the template is gone again.
///
/// A function of its own for the kernel program's stack.
#[inline(never)]
fn note_call<F: Ip, T: Tables>(t: &T, slot: u32, call: &Call, now: u32) -> bool {
    let Some(template) = table::hit_at::<F, T>(t, slot) else { return true };
    if !t.call_put(template.key(), call) {
        table::remove(t, &template, now);
        return false;
    }
    if !template.current() {
        t.call_drop(template.key());
    }
    true
}
