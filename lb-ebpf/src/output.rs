//! Replies of dests on this machine, requests of clients on it, and checks, on their way out by a NIC: a classifier behind
//! the stack. What is to be done is `lb_common::output`'s; here are the packet, and the helpers that change it.
//!
//! A packet of the stack's may be one for several segments, and its checksum the hardware's to finish. Only the helpers
//! know which; they also see to it that nobody else's copy of the packet changes.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_GRE,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
    TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::addr::{Port, Proto};
use lb_common::crc32c;
use lb_common::ip::{Address, Ip};
use lb_common::output::{self, Outgoing};
use lb_common::packet::Bytes;
use lb_common::parse::{Fragment, Seen};
use lb_common::probe::Room;
use lb_common::reason::{Action, Reason};
use lb_common::wire::Wire;

use crate::frame::{edge, place};
use crate::kernel::Kernel;
use crate::maps;
use crate::scratch::scratch;

/// As much of a packet as headers take.
const HEADERS: u32 = 256;
/// Where checksums stand in their headers.
const TCP_CHECK: u32 = 16;
const UDP_CHECK: u32 = 6;

/// Translates replies, counts requests, makes checks clients' packets. Other filters of the NIC get their turn in any case.
#[classifier]
fn lb_output(ctx: TcContext) -> i32 {
    let Some(kernel) = Kernel::detached() else { return TC_ACT_UNSPEC };
    let mut packet = Skb { ctx: ctx.skb.skb };
    if output::wanted(&kernel) && packet.is_own() { translate(&mut packet, &kernel) } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn translate(packet: &mut Skb, kernel: &Kernel) -> i32 {
    let Some(scratch) = scratch() else { return TC_ACT_UNSPEC };
    packet.pull();
    let verdict = output::process(packet, kernel, &mut scratch.work);
    if output::counts(verdict) {
        maps::count(verdict.counter());
    }
    if verdict.action() == Action::Drop { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// A packet of the stack's.
struct Skb {
    ctx: *mut __sk_buff,
}

impl Skb {
    /// Did this machine make it, rather than forward it?
    #[inline(always)]
    fn is_own(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).ingress_ifindex == 0 }
    }

    /// Is it to become several?
    #[inline(always)]
    fn segments(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx).gso_size != 0 }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx).len }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: as above.
        edge(unsafe { &(*self.ctx).data })
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as above.
        edge(unsafe { &(*self.ctx).data_end })
    }

    /// Makes the headers readable. The stack nearly always puts them where they are.
    #[inline(always)]
    fn pull(&mut self) {
        let len = self.len();
        let wanted = if len > HEADERS { HEADERS } else { len };
        if self.data() + (wanted as usize) > self.end() {
            // SAFETY: packet pointers are made anew from the context. In vain: what is missing is found out when read.
            unsafe { bpf_skb_pull_data(self.ctx, wanted) };
        }
    }

    #[inline(always)]
    fn store<T>(&mut self, off: u32, value: &T) -> Result<(), Reason> {
        let from = &raw const *value as *const c_void;
        // SAFETY: as many bytes as the value has; the helper checks the packet's.
        done(unsafe { bpf_skb_store_bytes(self.ctx, off, from, size_of::<T>() as u32, 0) })
    }

    /// The transport checksum at `off`: an address changed by `diff`.
    #[inline(always)]
    fn adjust_address(&mut self, off: u32, flags: u64, diff: u32) -> Result<(), Reason> {
        let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
        // SAFETY: the helper checks the packet's bounds.
        done(unsafe { bpf_l4_csum_replace(self.ctx, off, 0, diff as u64, pseudo) })
    }

    /// The header's, likewise, if it has one.
    #[inline(always)]
    fn adjust_header<F: Ip>(&mut self, seen: &Seen<F>, diff: u32) -> Result<(), Reason> {
        const IPV4_CHECK: u32 = 10;
        if !F::HEADER_SUM {
            return Ok(());
        }
        // SAFETY: the helper checks the packet's bounds.
        done(unsafe { bpf_l3_csum_replace(self.ctx, seen.l3 + IPV4_CHECK, 0, diff as u64, 0) })
    }

    /// The transport checksum at `off`: the source address changed by `diff`, and the port.
    #[inline(always)]
    fn adjust(&mut self, off: u32, flags: u64, diff: u32, old: Port, new: Port) -> Result<(), Reason> {
        const TWO: u64 = size_of::<Port>() as u64;
        let (old, new) = (old.wire() as u64, new.wire() as u64);
        self.adjust_address(off, flags, diff)?;
        // SAFETY: the helper checks the packet's bounds.
        done(unsafe { bpf_l4_csum_replace(self.ctx, off, old, new, flags | TWO) })
    }

    /// SCTP's checksum is none yet if somebody behind us makes it.
    #[inline(always)]
    fn adjust_sctp<F: Ip>(&mut self, seen: &Seen<F>, port: Port) -> Result<(), Reason> {
        let check: &[u8; 4] = self.header(seen.l4 + 8)?;
        let check = u32::from_le_bytes(*check);
        if check == 0 || port == seen.sport {
            return Ok(());
        }
        let len = (seen.l3 + seen.len).saturating_sub(seen.l4);
        let changed = u16::from_le(port.wire() ^ seen.sport.wire()) as u32;
        self.store(seen.l4 + 8, &(check ^ crc32c::lb_crc32c_change(changed, len)).to_le())
    }
}

/// Of a helper that can fail only for want of memory: half of the packet may be translated by then.
#[inline(always)]
fn done(answer: i64) -> Result<(), Reason> {
    if answer == 0 { Ok(()) } else { Err(Reason::Internal) }
}

impl Bytes for Skb {
    #[inline(always)]
    fn has(&self, len: u32) -> bool {
        self.len() >= len
    }

    #[inline(always)]
    fn at<T: Wire>(&self, off: u32) -> Option<&T> {
        // SAFETY: in bounds, and a `Wire` type may lie anywhere; the borrow ends before a helper moves the packet.
        place::<T>(self.data(), self.end(), off).map(|p| unsafe { p.as_ref() })
    }
}

impl Outgoing for Skb {
    #[inline(always)]
    fn socket(&self) -> u64 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_get_socket_cookie(self.ctx as *mut c_void) }
    }
    #[inline(always)]
    fn set_source<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr, port: Port) -> Result<(), Reason> {
        let diff = seen.src.diff(addr, 0);
        if seen.fragment != Fragment::Later {
            match seen.proto {
                Proto::TCP => self.adjust(seen.l4 + TCP_CHECK, 0, diff, seen.sport, port)?,
                Proto::UDP => {
                    let flags = BPF_F_MARK_MANGLED_0 as u64;
                    self.adjust(seen.l4 + UDP_CHECK, flags, diff, seen.sport, port)?;
                }
                Proto::SCTP => self.adjust_sctp(seen, port)?,
                _ => return Err(Reason::OtherProtocol),
            }
            self.store(seen.l4, &port.wire())?;
        }
        self.adjust_header(seen, diff)?;
        self.store(seen.l3 + F::SOURCE, addr)
    }

    #[inline(always)]
    fn set_destination<F: Ip>(&mut self, seen: &Seen<F>, addr: &F::Addr) -> Result<(), Reason> {
        let diff = seen.dst.diff(addr, 0);
        match seen.proto {
            Proto::TCP => self.adjust_address(seen.l4 + TCP_CHECK, 0, diff)?,
            Proto::UDP => self.adjust_address(seen.l4 + UDP_CHECK, BPF_F_MARK_MANGLED_0 as u64, diff)?,
            _ => return Err(Reason::OtherProtocol),
        }
        self.adjust_header(seen, diff)?;
        self.store(seen.l3 + F::SOURCE + size_of::<F::Addr>() as u32, addr)
    }

    #[inline(always)]
    fn make_room<F: Ip>(&mut self, _: u32, room: &Room) -> Result<(), Reason> {
        let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO;
        flags |= if F::HEADER_SUM { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        flags |= if room.udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        flags |= if room.gre { BPF_F_ADJ_ROOM_ENCAP_L4_GRE } else { 0 };
        // One checksum would be left for several packets. TCP sends them again, one by one.
        if room.summed && self.segments() {
            return Err(Reason::TooBig);
        }
        let len = (F::HEADER + room.shell) as i32;
        // SAFETY: packet pointers are made anew from the context.
        done(unsafe { bpf_skb_adjust_room(self.ctx, len, BPF_ADJ_ROOM_MAC, flags as u64) })
    }

    #[inline(always)]
    fn put<T: Wire>(&mut self, off: u32, value: &T) -> Result<(), Reason> {
        self.store(off, value)
    }

    #[inline(always)]
    fn put_word(&mut self, off: u32, word: u32) -> Result<(), Reason> {
        self.store(off, &word)
    }
}
