//! Persistence: a client's connections to a service keep one dest, through a template.
//!
//! A template is an entry of the connection table: masked client, port 0, virtual address, and the service's port
//! (or 0 where the service takes several). Connections made through it are its dependants; it does not go before
//! them. Overload and weight 0 do not stop it (IPVS: only expire_quiescent_template makes weight 0 do so).

use crate::addr::{Port, Proto};
use crate::admit::Question;
use crate::conn::{Entry, bound, ctl, tag};
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::parse::Seen;
use crate::pipeline::{Step, Work};
use crate::reason::Reason;
use crate::table::{self, Birth, Hit, Inserted, Insertion, Wanted};
use crate::tables::{Control, Tables};

/// What [`Work::template`] holds when the client has none.
pub const NO_TEMPLATE: u32 = u32::MAX;

/// Looks for the client's template. With a usable one the dest is known; else the scheduler is asked.
#[inline(always)]
pub fn lookup<F: Ip, T: Tables>(t: &T, work: &mut Work<F>, question: &Question) -> Step {
    work.template = NO_TEMPLATE;
    let wanted = wanted(&work.seen, question);
    let place = table::place::<F, T>(t, &wanted.flow.client, Port::ZERO, wanted.flow.proto);
    let Some(hit) = table::search::<F, T, false>(t, place, &wanted) else { return Step::pick() };
    if usable(t, &hit) {
        work.template = hit.slot;
        return Step::open(hit.dest());
    }
    table::orphan_template(&hit);
    Step::pick()
}

/// The key of the client's template.
#[inline(always)]
fn wanted<F: Ip>(seen: &Seen<F>, question: &Question) -> Wanted<F> {
    const FTP: Port = Port::new(21);
    // A mark's template stands for all protocols, addresses and ports: no protocol, the mark as address.
    let by_mark = question.mark != 0;
    let proto = if by_mark { Proto::IP } else { seen.proto };
    let flow = Flow {
        client: seen.src.masked(question.service.netmask),
        vaddr: if by_mark { F::Addr::from_mark(question.mark) } else { seen.dst },
        cport: Port::ZERO,
        vport: if question.port == FTP { Port::ZERO } else { question.port },
        proto,
    };
    Wanted { flow, tag: proto.0 as u32 | tag::TEMPLATE, now: seen.now }
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
        work.template = create(t, &work.seen, question, number).slot()?;
    }
    let wanted = wanted(&work.seen, question);
    // Found or made a moment ago; another CPU may have had to take its place since.
    let Some(template) = table::hit_at::<F, T>(t, work.template)
        .filter(|hit| hit.entry.matches(&wanted.flow, wanted.tag) && hit.current())
    else {
        return Err(Reason::BucketBusy as u32);
    };
    let control = Control { template: template.slot, identity: template.ctl & ctl::IDENTITY };
    table::renew_template(t, &template, work.seen.now);
    Ok((template.dest(), control))
}

#[inline(always)]
fn create<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, question: &Question, number: u32) -> Inserted {
    let Some(dest) = t.dest(number) else { return Inserted(Reason::Internal as u64) };
    let (tag, packets) = table::template_bits(question.service.timeout);
    let birth = Birth {
        dest: number | (dest.method() as u32) << bound::METHOD_SHIFT,
        tag,
        ctl: 0,
        last: seen.now.wrapping_add(t.settings().ticks(question.service.timeout)),
        packets,
    };
    let wanted = wanted(seen, question);
    let place = table::place::<F, T>(t, &wanted.flow.client, Port::ZERO, wanted.flow.proto);
    t.insert(Insertion::<F> { wanted, birth, place, control: Control::NONE })
}
