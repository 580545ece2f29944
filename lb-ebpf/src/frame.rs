//! [`Packet`] over XDP memory. All of the program's bounds checks of packet bytes are here.

use core::ffi::c_void;
use core::mem::size_of;
use core::ops::ControlFlow;
use core::ptr::NonNull;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::XdpContext;
use lb_common::cell::masked;
use lb_common::checksum;
use lb_common::packet::{Bytes, Packet};
use lb_common::wire::Wire;

use crate::kernel::repeat;

/// Offsets the verifier has to believe in: no header starts further in.
pub const DEEPEST: u32 = 0x3fff;

/// The helper's answer: longer than the NIC carries.
const TOO_LONG: i64 = 1;

/// A frame under way.
pub struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    /// The program's packet.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// The packet of a raw context.
    #[inline(always)]
    pub fn of(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        edge(unsafe { &(*self.ctx).data })
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as in `data`.
        edge(unsafe { &(*self.ctx).data_end })
    }

    #[inline(always)]
    fn place<T>(&self, off: u32) -> Option<NonNull<T>> {
        place(self.data(), self.end(), off)
    }
}

/// An edge of the packet, as its context has it. Volatile, because helpers that change the packet move it.
#[inline(always)]
pub fn edge(word: &u32) -> usize {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(word) as usize }
}

/// Where a `T` lies at `off` in the packet between two edges, if it is all there.
#[inline(always)]
pub fn place<T>(data: usize, end: usize, off: u32) -> Option<NonNull<T>> {
    let start = data + bounded(off)?;
    if start + size_of::<T>() > end {
        return None;
    }
    // SAFETY: no packet begins at address 0.
    unsafe { core::hint::assert_unchecked(start != 0) };
    NonNull::new(start as *mut T)
}

/// An offset in bounds that the verifier sees too. It forgets a comparison while the value is in memory; a mask next to
/// the sum it does see.
#[inline(always)]
fn bounded(off: u32) -> Option<usize> {
    if off > DEEPEST {
        return None;
    }
    Some(if core::intrinsics::is_val_statically_known(off) { off as usize } else { masked::<DEEPEST>(off) })
}

impl Bytes for Frame {
    #[inline(always)]
    fn has(&self, len: u32) -> bool {
        if self.data() + len as usize <= self.end() {
            return true;
        }
        // The frame may go on beyond its linear part.
        // SAFETY: the helper only reads the context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) >= len as u64 }
    }

    #[inline(always)]
    fn at<T: Wire>(&self, off: u32) -> Option<&T> {
        // SAFETY: in bounds, and a `Wire` type may lie anywhere; the borrow ends before the packet is adjusted.
        self.place::<T>(off).map(|p| unsafe { p.as_ref() })
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn joined(&self, len: u32) -> bool {
        // In: the length to check. Out: the MTU.
        let mut word = len;
        // SAFETY: the word is the helper's to read and write; 0 is the NIC of the context.
        unsafe { bpf_check_mtu(self.ctx as *mut c_void, 0, &raw mut word, 0, 0) == TOO_LONG }
    }

    #[inline(always)]
    fn at_mut<T: Wire>(&mut self, off: u32) -> Option<&mut T> {
        // SAFETY: as in `at`; `&mut self` keeps other borrows out.
        self.place::<T>(off).map(|mut p| unsafe { p.as_mut() })
    }

    #[inline(always)]
    fn move_start(&mut self, by: i32) -> bool {
        // SAFETY: the helper checks the room; all packet pointers are made anew from the context.
        by == 0 || unsafe { bpf_xdp_adjust_head(self.ctx, -by) } == 0
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> bool {
        // SAFETY: the helper only reads the context.
        let now = unsafe { bpf_xdp_get_buff_len(self.ctx) } as u32;
        if len >= now {
            return len == now;
        }
        // SAFETY: as in `move_start`.
        unsafe { bpf_xdp_adjust_tail(self.ctx, len as i32 - now as i32) == 0 }
    }

    #[inline(always)]
    fn sum(&mut self, off: u32, len: u32) -> Option<u32> {
        let sum = lb_sum(self.ctx, off, len);
        (sum != FAILED).then_some(sum as u32)
    }
}

/// No sum of [`lb_sum`].
const FAILED: u64 = u64::MAX;

/// [`Packet::sum`]: a global function, verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_sum(ctx: *mut xdp_md, off: u32, len: u32) -> u64 {
    let mut acc = Sum { ctx, off, len, sum: 0, failed: 0 };
    repeat(len.div_ceil(CHUNK), &mut acc, |acc, i| {
        add_chunk(acc, i);
        if acc.failed != 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if acc.failed == 0 { acc.sum as u64 } else { FAILED }
}

/// Bytes summed at a time.
const CHUNK: u32 = 32;

#[repr(C, align(8))]
struct Sum {
    ctx: *mut xdp_md,
    off: u32,
    len: u32,
    sum: u32,
    failed: u32,
}

#[repr(C, align(8))]
struct Chunk([u64; 4]);

/// Adds the `i`th chunk. Copied out first: a frame may have several parts, and the last chunk is short.
#[inline(always)]
fn add_chunk(acc: &mut Sum, i: u32) {
    // Not a zero the compiler knows: it would call memset, whose frame is 32 of the 512 bytes that 6.1 allows.
    let zero = core::hint::black_box(0);
    let mut chunk = Chunk([zero, zero, zero, zero]);
    let at = i * CHUNK;
    let left = acc.len.wrapping_sub(at);
    let take = if left > CHUNK { CHUNK } else { left & (CHUNK * 2 - 1) };
    if take == 0 {
        return;
    }
    // The 6.1 verifier does not learn from a comparison with zero: bounds of 1 and CHUNK it can compute.
    let take = (core::hint::black_box(take - 1) & (CHUNK - 1)) + 1;
    let to = &raw mut chunk as *mut c_void;
    // SAFETY: `take` is at most the chunk's size; the helper checks the frame's.
    if unsafe { bpf_xdp_load_bytes(acc.ctx, acc.off.wrapping_add(at), to, take) } != 0 {
        acc.failed = 1;
        return;
    }
    let mut sum = acc.sum;
    let mut w = 0;
    while w < 4 {
        sum = checksum::add32(sum, chunk.0[w] as u32);
        sum = checksum::add32(sum, (chunk.0[w] >> 32) as u32);
        w += 1;
    }
    acc.sum = sum;
}
