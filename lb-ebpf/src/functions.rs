//! Global functions: the verifier looks at each once, whatever their arguments, and not again at every place that calls
//! them. They find their arguments in the scratch memory and return a word.

use aya_ebpf::bindings::xdp_md;
use lb_common::admit;
use lb_common::defence;
use lb_common::estimate;
use lb_common::ip::{V4, V6};
use lb_common::persist;
use lb_common::reason::Reason;
use lb_common::sched::tree;
use lb_common::table;

use crate::frame::Frame;
use crate::kernel::{At, ESTABLISHED, Kernel};
use crate::scratch::{Scratch, scratch};

/// The answer where the scratch memory is missing, which cannot be.
const INTERNAL: u64 = Reason::Internal as u64;

#[inline(always)]
fn with_tables(ask: impl FnOnce(&Kernel) -> u64) -> u64 {
    Kernel::detached().map_or(0, |kernel| ask(&kernel))
}

#[inline(always)]
fn with_scratch(ask: impl FnOnce(&Kernel, &mut Scratch) -> u64) -> u64 {
    match (Kernel::detached(), scratch()) {
        (Some(kernel), Some(scratch)) => ask(&kernel, scratch),
        _ => INTERNAL,
    }
}

/// [`admit::lookup`], and where it leads there, [`admit::pick`], without a call of its own; IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_lookup4() -> u64 {
    with_scratch(|t, s| {
        let step = admit::lookup(t, &mut s.work.v4, &mut s.work.question, &mut s.work.recent);
        if step.is_pick() { admit::pick(t, &s.work.question).0 } else { step.0 }
    })
}

/// [`admit::lookup`], IPv6. There is no stack left to go on in.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_lookup6() -> u64 {
    with_scratch(|t, s| admit::lookup(t, &mut s.work.v6, &mut s.work.question, &mut s.work.recent).0)
}

/// [`persist::by_call`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_call4(ctx: *mut xdp_md) -> u64 {
    with_scratch(|t, s| persist::by_call(&Frame::of(ctx), t, &mut s.work.v4, &mut s.work.question).0)
}

/// [`persist::by_call`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_call6(ctx: *mut xdp_md) -> u64 {
    with_scratch(|t, s| persist::by_call(&Frame::of(ctx), t, &mut s.work.v6, &mut s.work.question).0)
}

/// [`admit::pick`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_pick() -> u64 {
    with_scratch(|t, s| admit::pick(t, &s.work.question).0)
}

/// [`admit::open`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_open4(dest: u32) -> u64 {
    with_scratch(|t, s| admit::open(t, &mut s.work.v4, &s.work.question, dest).0)
}

/// [`admit::open`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_open6(dest: u32) -> u64 {
    with_scratch(|t, s| admit::open(t, &mut s.work.v6, &s.work.question, dest).0)
}

/// [`table::claim`] for the IPv4 entry in the scratch memory.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_claim4(nth: u32, least: u32) -> u64 {
    let (Some(kernel), Some(scratch)) = (Kernel::detached(), scratch()) else { return table::NO_SLOT };
    // SAFETY: `insert` is under way with this member.
    let new = unsafe { &scratch.insertion.v4 };
    table::claim(&kernel, new, nth, least)
}

/// [`table::claim`] for the IPv6 entry in the scratch memory.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_claim6(nth: u32, least: u32) -> u64 {
    let (Some(kernel), Some(scratch)) = (Kernel::detached(), scratch()) else { return table::NO_SLOT };
    // SAFETY: `insert` is under way with this member.
    let new = unsafe { &scratch.insertion.v6 };
    table::claim(&kernel, new, nth, least)
}

/// [`table::bury`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_bury(tag: u32, ctl: u32, dest: u32, slot: u32, now: u32) -> u64 {
    with_tables(|t| table::bury(t, tag, ctl, dest, slot, now) as u64)
}

/// [`table::retire`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_retire4(slot: u32, why: u32) -> u64 {
    with_tables(|t| table::retire::<V4, Kernel>(t, slot, why) as u64)
}

/// [`table::retire`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_retire6(slot: u32, why: u32) -> u64 {
    with_tables(|t| table::retire::<V6, Kernel>(t, slot, why) as u64)
}

/// [`defence::thin_out`], IPv4. Returns nothing of interest: such a function has to return a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_thin_out4(bucket: u32) -> u64 {
    with_tables(|t| {
        defence::thin_out::<V4, Kernel>(t, bucket);
        0
    })
}

/// [`defence::thin_out`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_thin_out6(bucket: u32) -> u64 {
    with_tables(|t| {
        defence::thin_out::<V6, Kernel>(t, bucket);
        0
    })
}

/// [`table::insert`] of the IPv4 entry in the scratch memory.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_insert4() -> u64 {
    // SAFETY: the caller has just written this member.
    with_scratch(|t, s| unsafe { table::insert::<_, _, false>(t, &s.insertion.v4).0 })
}

/// [`table::insert`] of the IPv6 entry in the scratch memory.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_insert6() -> u64 {
    // SAFETY: the caller has just written this member.
    with_scratch(|t, s| unsafe { table::insert::<_, _, false>(t, &s.insertion.v6).0 })
}

/// [`tree::winner`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tree_winner(base: u32) -> u64 {
    with_tables(|t| tree::winner(t, base) as u64)
}

/// [`tree::climb`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tree_climb(base: u32, leaf: u32) -> u64 {
    with_tables(|t| {
        tree::climb(t, base, leaf);
        0
    })
}

/// [`tree::play`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tree_play(record: u32) -> u64 {
    At::<ESTABLISHED>::detached().map_or(0, |t| {
        tree::play(&t, record);
        0
    })
}

/// [`tree::touch`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tree_touch(record: u32) -> u64 {
    with_tables(|t| {
        tree::touch(t, record);
        0
    })
}

/// [`estimate::dest`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_estimate(number: u32, seconds: u32) -> u64 {
    with_tables(|t| {
        estimate::dest(t, number, seconds);
        0
    })
}
