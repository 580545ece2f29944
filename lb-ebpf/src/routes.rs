//! Ways: asked of the kernel's routing and neighbour tables, remembered for clients, and taken.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::{bpf_fib_lookup, xdp_md};
use aya_ebpf::helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect};
use lb_common::addr::Addr;
use lb_common::dest::{Hop, Route, SharedHop};
use lb_common::ip::{Address, Ip};
use lb_common::reason::Reason;
use lb_common::tables::{RouteQuery, Tables};

use crate::maps::{CLIENT_HOP_SLOTS, CLIENT_HOPS, EGRESS, VLANS};

/// A way to a client, remembered by one CPU. 80 bytes.
#[repr(C, align(8))]
pub struct ClientHop {
    to: Addr,
    family: u32,
    spare: u32,
    hop: SharedHop,
}

/// The helper's argument, in words: the compiler joins writes of smaller neighbours into ones that the verifier finds
/// misaligned.
#[repr(C, align(8))]
struct Fib {
    /// Family, transport protocol and source port: only the family matters here.
    family: u32,
    /// Destination port (0); in: a length to check, out: the route's MTU.
    mtu: u32,
    ifindex: u32,
    flowinfo: u32,
    src: Addr,
    dst: Addr,
    /// VLAN; own MAC address, then the next hop's.
    link: [u32; 4],
}

/// Fill in the source address the route selects.
const FIB_SOURCE: u32 = 16;
/// What [`ask_route`] answers if there is a way.
pub const ANSWERED: u32 = 0;
/// The kernel is told not to forward.
pub const NOT_FORWARDING: u32 = 5;
/// Nobody knows the link address of the next hop yet.
pub const NO_NEIGHBOUR: u32 = 7;

/// Asks the kernel's routing and neighbour tables: the helper's answer, and the hop if that is 0.
///
/// A function of its own, so that the places that ask share one copy.
#[inline(never)]
pub fn ask_route(ctx: *mut xdp_md, query: &RouteQuery, into: &SharedHop) -> u32 {
    let mut fib = Fib {
        family: u32::from_ne_bytes([query.family as u8, 0, 0, 0]),
        // Any length that fits will do: the answer then says the MTU.
        mtu: u32::from_ne_bytes([0, 0, 1, 0]),
        ifindex: query.ingress,
        flowinfo: 0,
        src: query.from,
        dst: query.to,
        link: [0; 4],
    };
    let flags = if query.source { FIB_SOURCE } else { 0 };
    let place = &raw mut fib as *mut bpf_fib_lookup;
    // SAFETY: `Fib` has the layout and size of the helper's argument.
    let answer = unsafe { fib_lookup(ctx as *mut c_void, place, size_of::<Fib>() as i32, flags) };
    if answer != ANSWERED as i64 {
        // Negative: arguments refused; no number of the helper's own.
        return if answer < 0 { u32::MAX } else { answer as u32 };
    }
    let [_, a, b, c] = fib.link.map(u32::to_ne_bytes);
    let mtu = fib.mtu.to_ne_bytes();
    // An egress that is a VLAN device: its parent sends, with the tag in the frame.
    // SAFETY: two words, written before any dest that needs them.
    let (ifindex, vlan) = match unsafe { VLANS.get(fib.ifindex) } {
        Some([parent, vlan]) => (*parent, *vlan),
        None => (fib.ifindex, 0),
    };
    let hop = Hop {
        macs: Hop::pack([b[2], b[3], c[0], c[1], c[2], c[3]], [a[0], a[1], a[2], a[3], b[0], b[1]]),
        ifindex,
        mtu: u16::from_ne_bytes([mtu[2], mtu[3]]) as u32,
        vlan,
    };
    into.write(&Route { hop, source: fib.src });
    ANSWERED
}

/// The way to a client: what this CPU remembers for a second, or the kernel's answer.
#[inline(always)]
pub fn to_client<F: Ip>(
    kernel: &impl Tables,
    to: &F::Addr,
    from: &F::Addr,
    ingress: u32,
) -> Result<Hop, Reason> {
    let slot = to.mixed().wrapping_mul(0x9E37_79B1) >> (32 - CLIENT_HOP_SLOTS.trailing_zeros());
    let Some(place) = CLIENT_HOPS.get_ptr_mut(slot) else { return Err(Reason::Internal) };
    // SAFETY: this CPU's own copy.
    let known = unsafe { &mut *place };
    let fresh = known.family == F::FAMILY as u32
        && F::Addr::narrow(&known.to) == *to
        && kernel.now().wrapping_sub(known.hop.asked.load()) < kernel.settings().hz.load();
    if fresh && let Some(hop) = known.hop.read() {
        return Ok(hop);
    }
    match learn::<F>(kernel, known, to, from, ingress) {
        Ok(()) => known.hop.read().ok_or(Reason::Internal),
        Err(reason) => Err(reason),
    }
}

/// Asks for the way to a client and remembers it.
#[inline(never)]
fn learn<F: Ip>(
    kernel: &impl Tables,
    known: &mut ClientHop,
    to: &F::Addr,
    from: &F::Addr,
    ingress: u32,
) -> Result<(), Reason> {
    let query = RouteQuery { to: to.wide(), from: from.wide(), ingress, family: F::FAMILY, source: false };
    known.to = query.to;
    known.family = query.family as u32;
    known.hop.asked.store(kernel.now());
    let answer = kernel.route(&query, &known.hop);
    if answer.is_err() {
        known.hop.forget();
    }
    answer
}

/// Sends the packet out by another NIC.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    match EGRESS.redirect(ifindex, 0) {
        Ok(action) => action,
        // A NIC the control side has not put in the map yet.
        // SAFETY: no pointers.
        Err(_) => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}
