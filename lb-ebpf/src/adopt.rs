//! Connections of another director, which the sync daemon hands over ([`lb_common::sync`]). One daemon at a time does:
//! what is too big for the stack lies in one place, which packets never use.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::addr::Family;
use lb_common::ip::{Ip, V4, V6};
use lb_common::reason::Reason;
use lb_common::request::{HEAD, MOST_SYNCED, status};
use lb_common::sip::Call;
use lb_common::sync::{self, Outcome, Synced};
use lb_common::table::{self, Inserted};

use crate::kernel::{At, REQUESTS};
use crate::maps::ARRIVAL;
use crate::scratch::AnyInsertion;

/// The tables as this program has them.
type Tables = At<REQUESTS>;

/// What is being taken in.
#[repr(C, align(8))]
pub struct Desk {
    synced: Synced,
    call: Call,
    insertion: AnyInsertion,
}

/// The desk, and the tables to work on.
#[inline(always)]
fn work() -> Option<(&'static mut Desk, Tables)> {
    desk().zip(Tables::detached())
}

#[inline(always)]
fn desk() -> Option<&'static mut Desk> {
    // SAFETY: nobody else runs this program meanwhile.
    ARRIVAL.get_ptr_mut(0).map(|desk| unsafe { &mut *desk })
}

/// Takes in the connections of a request.
#[inline(always)]
pub fn all(ctx: &XdpContext, count: u32) -> u32 {
    let mut i = 0;
    while i < MOST_SYNCED {
        if i >= count {
            return status::DONE;
        }
        if lb_adopt(ctx.ctx, HEAD as u32 + i * Synced::SIZE as u32) == 0 {
            return status::MALFORMED;
        }
        i += 1;
    }
    status::DONE
}

/// Takes in the connection at this place of the request, and writes its outcome there. 0: the request ends before that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_adopt(ctx: *mut xdp_md, offset: u32) -> u64 {
    let Some(desk) = desk() else { return 0 };
    if !load(ctx, offset, &mut desk.synced) {
        return 0;
    }
    if desk.synced.engine != 0 && !load(ctx, offset + Synced::SIZE as u32, &mut desk.call) {
        return 0;
    }
    let v6 = desk.synced.family == Family::V6 as u8;
    let outcome = match if v6 { lb_adopt6() } else { lb_adopt4() } {
        INSERT if v6 => lb_made6(lb_arrive6()),
        INSERT => lb_made4(lb_arrive4()),
        outcome => outcome,
    } as u32;
    let place = &raw const outcome as *mut c_void;
    // SAFETY: the helper checks the offset; four bytes are there to be read.
    (unsafe { bpf_xdp_store_bytes(ctx, offset + Synced::OUTCOME as u32, place, 4) } == 0) as u64
}

#[inline(always)]
fn load<T>(ctx: *mut xdp_md, offset: u32, to: &mut T) -> bool {
    // SAFETY: integers of any value, as many bytes as there is room for; the helper checks the offset.
    unsafe { bpf_xdp_load_bytes(ctx, offset, to as *mut T as *mut c_void, size_of::<T>() as u32) == 0 }
}

/// No [`Outcome`]: the desk has what is to be inserted.
const INSERT: u64 = 0;

/// [`sync::prepare`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_adopt4() -> u64 {
    prepare::<V4>()
}

/// [`sync::prepare`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_adopt6() -> u64 {
    prepare::<V6>()
}

#[inline(always)]
fn prepare<F: Ip>() -> u64 {
    let Some((desk, tables)) = work() else { return Outcome::Busy as u64 };
    match sync::prepare::<F, Tables>(&tables, &desk.synced, &desk.call) {
        Ok(new) => {
            desk.insertion.put(new);
            INSERT
        }
        Err(outcome) => outcome as u64,
    }
}

/// [`sync::made`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_made4(inserted: u64) -> u64 {
    made::<V4>(inserted)
}

/// [`sync::made`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_made6(inserted: u64) -> u64 {
    made::<V6>(inserted)
}

#[inline(always)]
fn made<F: Ip>(inserted: u64) -> u64 {
    let Some((desk, tables)) = work() else { return Outcome::Busy as u64 };
    sync::made::<F, Tables>(&tables, &desk.synced, &desk.call, Inserted(inserted)) as u64
}

/// [`table::claim`] for the insertion in the desk.
#[inline(always)]
pub fn claim<F: Ip>(nth: u32, least: u32) -> u64 {
    match F::FAMILY {
        Family::V4 => lb_settle4(nth, least),
        Family::V6 => lb_settle6(nth, least),
    }
}

/// [`table::insert`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_arrive4() -> u64 {
    // SAFETY: the caller has just written this member.
    work().map_or(Reason::Internal as u64, |(d, t)| unsafe {
        table::insert::<_, _, false>(&t, &d.insertion.v4).0
    })
}

/// [`table::insert`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_arrive6() -> u64 {
    // SAFETY: the caller has just written this member.
    work().map_or(Reason::Internal as u64, |(d, t)| unsafe {
        table::insert::<_, _, false>(&t, &d.insertion.v6).0
    })
}

/// [`table::claim`], IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_settle4(nth: u32, least: u32) -> u64 {
    let Some((desk, tables)) = work() else { return table::NO_SLOT };
    // SAFETY: `insert` is under way with this member.
    table::claim(&tables, unsafe { &desk.insertion.v4 }, nth, least)
}

/// [`table::claim`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_settle6(nth: u32, least: u32) -> u64 {
    let Some((desk, tables)) = work() else { return table::NO_SLOT };
    // SAFETY: `insert` is under way with this member.
    table::claim(&tables, unsafe { &desk.insertion.v6 }, nth, least)
}
