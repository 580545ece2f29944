//! Persistence: a client's connections to a service keep one dest, through a template.
//!
//! A template is an entry of the connection table: masked client, port 0, virtual address, and the service's port
//! (or 0 where the service takes several). Connections made through it are its dependants; it does not go before
//! them. Overload and weight 0 do not stop it (IPVS: only expire_quiescent_template makes weight 0 do so).

use crate::addr::Port;
use crate::admit::{Found, Newcomer, choose, open};
use crate::conn::{bound, tag};
use crate::flow::Flow;
use crate::ip::{Address, Ip};
use crate::reason::Reason;
use crate::table::{self, Birth, Hit, Inserted};
use crate::tables::Tables;

/// Makes a connection through the client's template, the template first if there is none.
#[inline(always)]
pub fn admit<F: Ip, T: Tables>(t: &T, new: &Newcomer<'_, F>, found: &Found<'_>) -> Result<u32, Reason> {
    let slot = template(t, new, found)?;
    let template = table::hit_at::<F, T>(t, slot).ok_or(Reason::Internal)?;
    // The packet's own port, but for a packet to the service's port and a dest with one of its own.
    let conn = open(t, new, template.dest(), new.seen.dport != found.port)?;
    if let Inserted::New(slot) = conn
        && let Some(hit) = table::hit_at::<F, T>(t, slot)
        && table::depend(t, &hit, &template)
    {
        hit.life().dest.store(hit.dest | bound::CONTROLLED);
    }
    table::renew_template(t, &template, new.seen.now);
    Ok(conn.slot())
}

/// The slot of the client's template.
#[inline(always)]
fn template<F: Ip, T: Tables>(t: &T, new: &Newcomer<'_, F>, found: &Found<'_>) -> Result<u32, Reason> {
    let key = key(new, found);
    let place = table::place::<F, T>(t, &key.client, key.cport, key.proto);
    if let Some(hit) = table::find::<F, T>(t, place, &key, tag::TEMPLATE, new.seen.now) {
        if usable(t, &hit) {
            return Ok(hit.slot);
        }
        table::orphan_template(&hit);
    }
    let number = choose(t, found.service, new.seen).ok_or(Reason::NoDest)?;
    let method = t.dest(number).ok_or(Reason::Internal)?.method() as u32;
    let (tag, packets) = table::template_bits(found.service.timeout);
    let birth = Birth {
        dest: number | method << bound::METHOD_SHIFT,
        tag,
        ctl: 0,
        last: new.seen.now.wrapping_add(t.settings().ticks(found.service.timeout)),
        packets,
    };
    table::insert::<F, T>(t, place, &key, &birth, new.seen.now).map(Inserted::slot)
}

/// May the template's dest still be used? Weight 0 and overload do not stop it.
#[inline(always)]
fn usable<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>) -> bool {
    let Some(dest) = t.dest(hit.dest()) else { return false };
    let quiescent = t.settings().expire_quiescent_template.load() != 0 && dest.weight.load() == 0;
    dest.available() && !quiescent
}

/// The key of the client's template.
#[inline(always)]
fn key<F: Ip>(new: &Newcomer<'_, F>, found: &Found<'_>) -> Flow<F::Addr> {
    const FTP: Port = Port::new(21);
    let port = if found.port == FTP { Port::ZERO } else { found.port };
    Flow {
        client: new.seen.src.masked(found.service.netmask),
        vaddr: new.seen.dst,
        cport: Port::ZERO,
        vport: port,
        proto: new.seen.proto,
    }
}
