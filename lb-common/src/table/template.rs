//! Persistence templates, and connections that depend on another entry.

use super::{Hit, SLOT_V6, entry_at, run_out};
use crate::addr::Proto;
use crate::cell::Cell32;
use crate::conn::{Entry, Life, ctl, packets, tag};
use crate::ip::Ip;
use crate::tables::{Control, Tables, control_key};

/// How often a dependant is taken off by exchange before it is done by subtraction.
const DEPENDANT_TRIES: u32 = 8;
/// Dependants of a template: the low bits of its `packets` word.
pub const DEPENDANTS: u32 = (1 << 26) - 1;
/// What a template waits after its time, while connections depend on it.
const TEMPLATE_LINGER: u32 = 60;

/// Do connections depend on this template or FTP control connection? Its time does not end before theirs.
#[inline(always)]
pub(super) fn held(tag_word: u32, life: &Life) -> bool {
    life.packets.load() & dependants(tag_word).1 != 0
}

/// One dependant and all of them, in the `packets` word of a template or a connection.
#[inline(always)]
const fn dependants(tag_word: u32) -> (u32, u32) {
    if tag_word & tag::TEMPLATE != 0 { (1, DEPENDANTS) } else { (packets::DEPENDANT, packets::DEPENDANTS) }
}

/// Makes a new connection depend on its template, if that is still there.
#[inline(always)]
pub(super) fn depend<F: Ip, T: Tables>(t: &T, key: u64, control: &Control) -> bool {
    let Some(template) = entry_at::<F, T>(t, control.template) else { return false };
    let life = template.life();
    life.packets.fetch_add(dependants(template.tag().load()).0);
    if life.ctl.load_acquire() & ctl::IDENTITY == control.identity && t.control_put(key, control) {
        return true;
    }
    take_dependant(template.tag().load(), life);
    false
}

/// One dependant less, but never below none: a count that was added to as the template went may be gone with it.
#[inline(always)]
fn take_dependant(tag_word: u32, life: &Life) {
    let (one, all) = dependants(tag_word);
    let mut tries = 0;
    while tries < DEPENDANT_TRIES {
        let word = life.packets.load();
        if word & all == 0 || life.packets.compare_exchange(word, word.wrapping_sub(one)) {
            return;
        }
        tries += 1;
    }
    life.packets.fetch_sub(one);
}

/// A connection came to life (or, for UDP, was answered): its template is ASSURED from now on.
#[inline(always)]
pub fn assure_template<F: Ip, T: Tables>(t: &T, conn: &Hit<'_, F>) {
    let Some(control) = t.control_get(conn.key()) else { return };
    if let Some(entry) = entry_at::<F, T>(t, control.template) {
        let word = entry.life().ctl.load_acquire();
        let template = entry.tag().load() & tag::TEMPLATE != 0;
        if template && word & ctl::IDENTITY == control.identity && word & ctl::STATE == 0 {
            entry.life().ctl.compare_exchange(word, word | 1);
        }
    }
}

/// A template whose dest is gone serves no new connection; it stays while old ones depend on it.
#[inline(always)]
pub fn orphan_template<F: Ip>(template: &Hit<'_, F>) {
    let cell = template.entry.tag();
    let word = cell.load();
    cell.compare_exchange(word, word | tag::ORPHAN);
}

/// The template a connection was made through.
#[inline(always)]
pub(super) fn release_template<T: Tables>(t: &T, slot: u32, owner_ctl: u32) {
    let Some(control) = t.control_take(control_key(slot, owner_ctl & ctl::IDENTITY)) else { return };
    if control.template & SLOT_V6 == 0 {
        drop_dependant::<crate::ip::V4, T>(t, &control);
    } else {
        drop_dependant::<crate::ip::V6, T>(t, &control);
    }
}

#[inline(always)]
fn drop_dependant<F: Ip, T: Tables>(t: &T, control: &Control) {
    if let Some(entry) = entry_at::<F, T>(t, control.template)
        && entry.life().ctl.load_acquire() & ctl::IDENTITY == control.identity
    {
        take_dependant(entry.tag().load(), entry.life());
    }
}

/// A template's timeout in seconds.
#[inline(always)]
pub fn template_timeout(tag_word: u32, packets: u32) -> u32 {
    tag_word >> tag::TIMEOUT_SHIFT | packets >> 26 << 16
}

/// Tag and `packets` bits that hold a template's timeout (at most 31 days: 22 bits of seconds).
#[inline(always)]
pub fn template_bits(seconds: u32) -> (u32, u32) {
    (tag::TEMPLATE | seconds << tag::TIMEOUT_SHIFT, seconds >> 16 << 26)
}

/// A template is used by a new connection: its time starts again.
#[inline(always)]
pub fn renew_template<F: Ip, T: Tables>(t: &T, hit: &Hit<'_, F>, now: u32) {
    let life = hit.life();
    let seconds = template_timeout(hit.entry.tag().load(), life.packets.load());
    if !hit.current() {
        return;
    }
    if run_out(life.last.load(), now) {
        // Its time was up, and the sweep has not been by yet.
        return linger(t, hit.entry.tag(), hit.ctl, life, now);
    }
    life.last.store(now.wrapping_add(t.settings().ticks(seconds)));
}

/// A template or FTP control connection whose time is up while connections depend on it: 60 seconds more, and for the
/// template from now on always 60.
#[inline(always)]
pub(super) fn linger<T: Tables>(t: &T, tag_cell: &Cell32, ctl_word: u32, life: &Life, now: u32) {
    let word = tag_cell.load();
    if word & tag::TEMPLATE == 0 {
        let more = now.wrapping_add(t.settings().ticks(TEMPLATE_LINGER));
        let timeout = t.settings().timeout(Proto(word as u8), ctl_word & ctl::STATE).load();
        return life.last.store(more.wrapping_sub(timeout));
    }
    set_template_timeout(t, tag_cell, life, TEMPLATE_LINGER, now);
}

/// Gives a template another timeout, which begins now.
#[inline(always)]
pub fn set_template_timeout<T: Tables>(t: &T, tag_cell: &Cell32, life: &Life, seconds: u32, now: u32) {
    let (tag_bits, high) = template_bits(seconds);
    let word = tag_cell.load();
    let low = (1 << tag::TIMEOUT_SHIFT) - 1;
    // What stands here may have made way to a connection, whose words are none of ours.
    if word & tag::TEMPLATE == 0 || !tag_cell.compare_exchange(word, word & low | tag_bits) {
        return;
    }
    let packets = life.packets.load();
    if packets & packets::NONE == 0 {
        life.packets.compare_exchange(packets, packets & DEPENDANTS | high);
    }
    life.last.store(now.wrapping_add(t.settings().ticks(seconds)));
}
