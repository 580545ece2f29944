//! The program in the kernel. For now it lets every packet pass.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

/// Packets seen.
#[map]
static SEEN: Array<u32> = Array::with_max_entries(1, 0);

/// The balancer's entry point.
#[xdp(frags)]
fn lb(_ctx: XdpContext) -> u32 {
    if let Some(seen) = SEEN.get_ptr_mut(0) {
        // SAFETY: the map owns the value for as long as the program runs.
        unsafe { *seen = (*seen).wrapping_add(1) };
    }
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
