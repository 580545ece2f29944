//! Expiry: one timer walks the connection table a slice at a time, with no process alive. Every two seconds it moves the rates
//! too.
//!
//! Every tick takes a 256th of the buckets of each family, so a round is about a second; tables above 196,608 buckets
//! (786,432 IPv4 connections, half as many of IPv6) take longer, because one tick never takes more than 768 buckets: they
//! cost no more of a processor's time. The timer lives as long as the pinned map
//! does. A new program of the same maps sets its own callback and starts it again.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use lb_common::cell::{Cell32, Cell64};
use lb_common::defence;
use lb_common::estimate::{self, Round};
use lb_common::ip::{Ip, V4, V6};
use lb_common::table;
use lb_common::tables::Tables;

use crate::kernel::Kernel;
use crate::maps::SWEEPER;

/// Nanoseconds between ticks.
const TICK: u64 = 4_000_000;
/// Ticks in a round, as a shift.
const ROUND: u32 = 8;
/// Buckets of a tick at the most.
const MOST: u32 = 768;
const CLOCK_MONOTONIC: u64 = 1;

/// The sweep's timer and how far it has come.
#[repr(C)]
pub struct Sweeper {
    timer: bpf_timer,
    /// Next bucket, IPv4 and IPv6.
    next: [Cell32; 2],
    /// Entries found live so far in this round.
    counting: [Cell32; 2],
    /// Entries found live in the last whole round: what `status` shows.
    pub live: [Cell32; 2],
    /// Second buckets in use.
    pub second: [Cell32; 2],
    /// Nanoseconds that all ticks have taken.
    pub spent: Cell64,
    /// The look at the counters, for their rates.
    round: Round,
}

/// Starts the timer, or lets this program's callback take it over. 0 or a negative error.
#[inline(always)]
pub fn start() -> i64 {
    let Some(place) = SWEEPER.get_ptr_mut(0) else { return -1 };
    let map = &raw const SWEEPER as *mut c_void;
    // SAFETY: the timer is the map's own; the callback has the signature the helper asks for.
    unsafe {
        let timer = &raw mut (*place).timer;
        // Busy: an earlier program made it already.
        bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        let set = bpf_timer_set_callback(timer, tick as *mut c_void);
        if set != 0 {
            return set;
        }
        bpf_timer_start(timer, TICK, 0)
    }
}

unsafe extern "C" fn tick(_map: *mut c_void, _key: *mut u32, sweeper: *mut Sweeper) -> i64 {
    // SAFETY: the kernel passes the map's value.
    let sweeper = unsafe { &mut *sweeper };
    let start = clock();
    if let Some(kernel) = Kernel::detached() {
        slice::<V4>(&kernel, sweeper, 0);
        slice::<V6>(&kernel, sweeper, 1);
        estimate::tick(&kernel, &sweeper.round);
        // The end of a round of the IPv4 table: about a second.
        if sweeper.next[0].load() == 0 {
            defence::judge(&kernel, [sweeper.live[0].load(), sweeper.live[1].load()]);
            kernel.settings().lapse(kernel.now());
        }
    }
    sweeper.spent.add(clock().wrapping_sub(start));
    // SAFETY: as in `start`.
    unsafe { bpf_timer_start(&raw mut sweeper.timer, TICK, 0) };
    0
}

#[inline(always)]
fn clock() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn slice<F: Ip>(kernel: &Kernel, sweeper: &Sweeper, family: usize) {
    let mask = kernel.bucket_mask::<F>();
    let share = (mask >> ROUND) + 1;
    let most = if share > MOST { MOST } else { share };
    let ticks = mask.checked_div(most).unwrap_or(0) + 1;
    let from = sweeper.next[family].load();
    // The last slice of a round ends where the table does: what is counted twice would show in `live`.
    let rest = mask.wrapping_sub(from).wrapping_add(1);
    let count = if rest < most { rest } else { most };
    let live =
        table::sweep_range::<F, Kernel>(kernel, from, count, kernel.now(), defence::odds(kernel, ticks));
    let so_far = sweeper.counting[family].load().wrapping_add(live);
    let next = from.wrapping_add(count);
    if next > mask {
        sweeper.live[family].store(so_far);
        sweeper.counting[family].store(0);
        sweeper.next[family].store(0);
    } else {
        sweeper.counting[family].store(so_far);
        sweeper.next[family].store(next);
    }
}
