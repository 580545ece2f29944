//! The loop for fragments that came before their first: [`lb_common::fragments`] says how it goes.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_BROADCAST, xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::fragments::{self, HeldKey, LONGEST, Turn};
use lb_common::parse;
use lb_common::reason::Reason;
use lb_common::wire::ethertype;

use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::maps::{self, COPIES, HELD};
use crate::scratch::scratch;

/// A frame that waits.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Held {
    len: u32,
    spare: u32,
    bytes: [u8; LONGEST as usize],
}

/// A fragment that has to wait, or one that others wait for: the scratch memory says which.
#[xdp(frags)]
fn lb_wait(ctx: XdpContext) -> u32 {
    crate::run::<{ crate::kernel::PACKETS }>(&ctx, fragments::process)
}

/// The loop's far end: what comes goes back, in as many copies as the map has places.
#[xdp(frags)]
fn lb_copies(_ctx: XdpContext) -> u32 {
    COPIES.redirect(0, BPF_F_BROADCAST as u64).unwrap_or(xdp_action::XDP_DROP)
}

/// Each of the copies, on its way.
#[xdp(frags, map = "devmap")]
fn lb_copy(ctx: XdpContext) -> u32 {
    match turn(&ctx) {
        Turn::Itself => xdp_action::XDP_PASS,
        Turn::Held(key) if turn_into(ctx.ctx, &key) => {
            maps::count(Reason::FragmentReleased as u32);
            xdp_action::XDP_PASS
        }
        _ => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn turn(ctx: &XdpContext) -> Turn {
    let frame = Frame::new(ctx);
    let (Ok(link), Some(kernel), Some(scratch)) = (parse::link(&frame), Kernel::detached(), scratch()) else {
        return Turn::Nothing;
    };
    match link.kind {
        ethertype::IPV4 => fragments::turn(&frame, &kernel, link.l3, &mut scratch.work.v4.seen),
        ethertype::IPV6 => fragments::turn(&frame, &kernel, link.l3, &mut scratch.work.v6.seen),
        _ => Turn::Nothing,
    }
}

/// Puts the frame away.
#[inline(always)]
pub fn hold(ctx: *mut xdp_md, key: &HeldKey) -> bool {
    let Some(scratch) = scratch() else { return false };
    let held = &mut scratch.held;
    // SAFETY: the helper only reads the context.
    let Some(len) = within(unsafe { bpf_xdp_get_buff_len(ctx) } as u32) else { return false };
    held.len = len;
    let to = held.bytes.as_mut_ptr().cast::<c_void>();
    // SAFETY: as many bytes as there is room for; the helper checks the frame's.
    let copied = unsafe { bpf_xdp_load_bytes(ctx, 0, to, len) } == 0;
    let held: &Held = held;
    copied && HELD.insert(key, held, 0).is_ok()
}

/// Makes the frame the one that was put away, which is then no longer.
#[inline(always)]
fn turn_into(ctx: *mut xdp_md, key: &HeldKey) -> bool {
    let Some(held) = HELD.get_ptr_mut(key) else { return false };
    // SAFETY: written before anybody finds it. Lent to another meanwhile, it is another whole frame.
    let Some(len) = within(unsafe { (*held).len }) else { return false };
    // SAFETY: the helper checks the room behind the frame.
    let fits = unsafe {
        let now = bpf_xdp_get_buff_len(ctx) as u32;
        bpf_xdp_adjust_tail(ctx, len.wrapping_sub(now) as i32) == 0
    };
    // SAFETY: as many bytes as are held; the helper checks the frame's.
    let done = fits && unsafe { bpf_xdp_store_bytes(ctx, 0, (*held).bytes.as_mut_ptr().cast(), len) == 0 };
    done && HELD.remove(key).is_ok()
}

/// A length the verifier believes to be from 1 to [`LONGEST`].
#[inline(always)]
fn within(len: u32) -> Option<u32> {
    if len == 0 || len > LONGEST {
        return None;
    }
    // A comparison with zero tells the 6.1 verifier nothing: bounds of 1 and a power of two it can compute.
    const { assert!(LONGEST.is_power_of_two()) };
    Some((core::hint::black_box(len - 1) & (LONGEST - 1)) + 1)
}
