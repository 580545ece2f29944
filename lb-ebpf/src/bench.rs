//! What `cargo xtask bench` measures with: an object of its own, so that nothing of it is in the product's.
//!
//! A test run with `repeat` does not put the packet back as it was. So `driver` does, picks the packet's flow, and calls
//! the program under test, which is `lb` with its real maps, or that of another build with its own, or `floor`, the least a
//! program that sends can do, or `line`, the same with one line of memory to each flow, or `pass`, which gives the packet to
//! the kernel's own stack. `across` and `sink` are for whole cards: what a program that only sends does there, and where
//! frames end, counted.
#![no_std]
#![no_main]

use core::mem::size_of;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, xdp_action};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// Words of the packet's head that are put back each time.
const WORDS: usize = 12;

/// What the driver makes packets from. `tests/src/bench/driver.rs` writes it; 144 bytes, no padding.
#[repr(C, align(8))]
struct Plan {
    /// The packet's head.
    head: [u64; WORDS],
    /// The packet's length, at least that of `head`.
    len: u32,
    /// Flows to choose from at random; 0: each packet is of the next flow.
    flows: u32,
    /// The random numbers' state, or the next flow.
    cursor: u32,
    /// Where the last word of the client's address is.
    address_at: u32,
    /// Where the client's port is: of flow 0, it is `FIRST_PORT`.
    port_at: u32,
    /// Where the checksum over addresses alone is; 0: there is none.
    header_sum_at: u32,
    /// Where the checksum over addresses and ports is.
    sum_at: u32,
    /// The first flow's address word, host order.
    address: u32,
    /// A client has two to the power of this many flows.
    ports: u32,
    /// Which program is called.
    target: u32,
    /// The packet's flow.
    flow: u32,
    /// One less than the lines that flows have, which are a power of two.
    line_mask: u32,
}

/// A client's first port.
const FIRST_PORT: u16 = 1024;

#[map(name = "plan")]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map(name = "targets")]
static TARGETS: ProgramArray = ProgramArray::with_max_entries(5, 0);
/// A line of memory for each flow, as many as user space wants. Mapped, so that each begins where one of the processor's does.
#[map(name = "lines")]
static LINES: Array<[u64; 8]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Frames that have come to a sink.
#[map(name = "sunk")]
static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The card that `across` sends by.
#[unsafe(no_mangle)]
static OTHER_CARD: u32 = 0;

/// Puts the packet back, gives it a flow, and calls the program under test. Aborted: it could not.
#[xdp(frags)]
fn driver(ctx: XdpContext) -> u32 {
    let Some(place) = PLAN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one run at a time, and user space writes between runs only.
    let plan = unsafe { &mut *place };
    // In 64 bits and out of the optimiser's sight: the verifier wants pointers subtracted whole.
    let len = core::hint::black_box(ctx.data_end() - ctx.data());
    let grown = len as i32 - plan.len as i32;
    // Called always, so that it costs the floor as much as a program that makes packets longer.
    // SAFETY: the helper checks the room.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let flow = next(plan);
    plan.flow = flow;
    if !write(&ctx, plan, flow) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: it does not come back.
    unsafe { TARGETS.tail_call(&ctx, plan.target) };
    xdp_action::XDP_ABORTED
}

/// The next packet's flow.
#[inline(always)]
fn next(plan: &mut Plan) -> u32 {
    let mut x = plan.cursor;
    if plan.flows == 0 {
        plan.cursor = x.wrapping_add(1);
        return x;
    }
    // xorshift32
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    plan.cursor = x;
    ((x as u64 * plan.flows as u64) >> 32) as u32
}

#[inline(always)]
fn write(ctx: &XdpContext, plan: &Plan, flow: u32) -> bool {
    let start = volatile_data(ctx);
    if start + WORDS * 8 > ctx.data_end() {
        return false;
    }
    let mut word = 0;
    while word < WORDS {
        // SAFETY: within the length just checked.
        unsafe { *((start + word * 8) as *mut u64) = plan.head[word] };
        word += 1;
    }
    let address = plan.address.wrapping_add(flow >> (plan.ports & 31));
    let port = FIRST_PORT + (flow & ((1 << (plan.ports & 31)) - 1)) as u16;
    let addresses = halves(!plan.address) + halves(address);
    let ports = u32::from(!FIRST_PORT) + u32::from(port);
    put(ctx, plan.address_at, address.to_be())
        && put(ctx, plan.port_at, port.to_be())
        && (plan.header_sum_at == 0 || correct(ctx, plan.header_sum_at, addresses))
        && correct(ctx, plan.sum_at, addresses + ports)
}

/// The sum of a word's halves.
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// Corrects a checksum by what has been taken out (inverted) and put in.
#[inline(always)]
fn correct(ctx: &XdpContext, off: u32, changed: u32) -> bool {
    let Some(place) = place::<u16>(ctx, off) else { return false };
    // SAFETY: within the packet.
    unsafe {
        let sum = u32::from(!u16::from_be(place.read_unaligned())) + changed;
        place.write_unaligned((!halves(halves(sum)) as u16).to_be());
    }
    true
}

/// Writes a value at an offset.
#[inline(always)]
fn put<T>(ctx: &XdpContext, off: u32, value: T) -> bool {
    let Some(place) = place::<T>(ctx, off) else { return false };
    // SAFETY: within the packet.
    unsafe { place.write_unaligned(value) };
    true
}

/// A place at an offset below 128. The verifier wants a check for each: it does not know the offset.
#[inline(always)]
fn place<T>(ctx: &XdpContext, off: u32) -> Option<*mut T> {
    let place = volatile_data(ctx) + (off & 127) as usize;
    (place + size_of::<T>() <= ctx.data_end()).then_some(place as *mut T)
}

/// Read again: the packet's start has moved.
#[inline(always)]
fn volatile_data(ctx: &XdpContext) -> usize {
    // SAFETY: the context is valid while the program runs.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.ctx).data) as usize }
}

/// The least: the MAC addresses change places, and the packet goes back.
#[xdp(frags)]
fn floor(ctx: XdpContext) -> u32 {
    if swap(&ctx) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// The least, and one word of the flow's line counts up: what a line costs that is not in the cache.
#[xdp(frags)]
fn line(ctx: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the driver has written it for this packet.
    let (flow, mask) = unsafe { ((*plan).flow, (*plan).line_mask) };
    // By an odd number, so that as many flows as there are lines have one each.
    let Some(line) = LINES.get_ptr_mut(flow.wrapping_mul(0x9E37_79B1) & mask) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: one run at a time, and user space reads between runs only.
    unsafe { (*line)[0] += 1 };
    if swap(&ctx) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// The MAC addresses change places, and the packet leaves by another card.
#[xdp(frags)]
fn across(ctx: XdpContext) -> u32 {
    if !swap(&ctx) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: written before the program is loaded.
    let card = unsafe { core::ptr::read_volatile(&raw const OTHER_CARD) };
    // SAFETY: no pointers.
    unsafe { bpf_redirect(card, 0) as u32 }
}

/// Counts a frame that has arrived.
#[xdp(frags)]
fn sink(_ctx: XdpContext) -> u32 {
    if let Some(sunk) = SUNK.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        unsafe { *sunk += 1 };
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn swap(ctx: &XdpContext) -> bool {
    let start = ctx.data();
    if start + 12 > ctx.data_end() {
        return false;
    }
    let macs = start as *mut [[u8; 6]; 2];
    // SAFETY: within the length just checked.
    unsafe {
        let [to, from] = macs.read_unaligned();
        macs.write_unaligned([from, to]);
    }
    true
}

/// To the kernel's stack.
#[xdp(frags)]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the verifier reads: GPL-only helpers need a licence compatible with the kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
