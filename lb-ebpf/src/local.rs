//! Clients on the balancer itself: hooks of the cgroup they run in, where a socket names its peer. The rules are
//! `lb_common::local`'s; here are the sockets.
//!
//! A cgroup's hooks see sockets of every network namespace; those of others than ours are left alone.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_smp_processor_id, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::admit;
use lb_common::local::{self, Desk, OURS, Other, Peer, THEIRS};
use lb_common::service::ServiceKey;
use lb_common::tables::{Tables, refresh};

use crate::kernel::Kernel;
use crate::maps::{DESK_COUNT, DESKS, LOCAL_PEERS};

/// The verdict that lets the call go on.
const GO_ON: i32 = 1;

/// This instance's network namespace; set when the program is loaded.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

/// A TCP or connected UDP socket, IPv4.
#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    redirect(&Socket::v4(&ctx));
    GO_ON
}

/// A TCP or connected UDP socket, IPv6.
#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    redirect(&Socket::v6(&ctx));
    GO_ON
}

/// A datagram of a socket that is not connected, IPv4.
#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    redirect(&Socket::v4(&ctx));
    GO_ON
}

/// A datagram of a socket that is not connected, IPv6.
#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    redirect(&Socket::v6(&ctx));
    GO_ON
}

/// Where a datagram came from, IPv4.
#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&Socket::v4(&ctx));
    GO_ON
}

/// Where a datagram came from, IPv6.
#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(&Socket::v6(&ctx));
    GO_ON
}

/// Who the peer is, IPv4.
#[cgroup_sock_addr(getpeername4)]
fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    restore(&Socket::v4(&ctx));
    GO_ON
}

/// Who the peer is, IPv6.
#[cgroup_sock_addr(getpeername6)]
fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    restore(&Socket::v6(&ctx));
    GO_ON
}

/// The address a socket call is about.
struct Socket {
    ctx: *mut bpf_sock_addr,
    family: Family,
}

impl Socket {
    #[inline(always)]
    fn v4(ctx: &SockAddrContext) -> Self {
        Self { ctx: ctx.sock_addr, family: Family::V4 }
    }
    #[inline(always)]
    fn v6(ctx: &SockAddrContext) -> Self {
        Self { ctx: ctx.sock_addr, family: Family::V6 }
    }
    #[inline(always)]
    fn ours(&self) -> bool {
        // SAFETY: the context is the program's own; the static is valid, and volatile because the loader writes it.
        unsafe {
            bpf_get_netns_cookie(self.ctx as *mut c_void) == core::ptr::read_volatile(&raw const NETNS_COOKIE)
        }
    }
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.ctx as *mut c_void) }
    }
    #[inline(always)]
    fn proto(&self) -> Proto {
        // SAFETY: a readable field of the context.
        Proto(unsafe { core::ptr::read_volatile(&raw const (*self.ctx).protocol) } as u8)
    }
    #[inline(always)]
    fn addr(&self) -> Addr {
        // SAFETY: readable fields of the context; volatile, so that each is read as the word it is.
        unsafe {
            match self.family {
                Family::V4 => {
                    Addr::from_words([core::ptr::read_volatile(&raw const (*self.ctx).user_ip4), 0, 0, 0])
                }
                Family::V6 => Addr::from_words([
                    core::ptr::read_volatile(&raw const (*self.ctx).user_ip6[0]),
                    core::ptr::read_volatile(&raw const (*self.ctx).user_ip6[1]),
                    core::ptr::read_volatile(&raw const (*self.ctx).user_ip6[2]),
                    core::ptr::read_volatile(&raw const (*self.ctx).user_ip6[3]),
                ]),
            }
        }
    }
    #[inline(always)]
    fn port(&self) -> u32 {
        // SAFETY: a readable field of the context.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).user_port) & 0xffff }
    }
    #[inline(always)]
    fn set(&self, other: &Other) {
        let words = other.addr.words();
        // SAFETY: writable fields of the context; volatile as above.
        unsafe {
            match self.family {
                Family::V4 => core::ptr::write_volatile(&raw mut (*self.ctx).user_ip4, words[0]),
                Family::V6 => {
                    core::ptr::write_volatile(&raw mut (*self.ctx).user_ip6[0], words[0]);
                    core::ptr::write_volatile(&raw mut (*self.ctx).user_ip6[1], words[1]);
                    core::ptr::write_volatile(&raw mut (*self.ctx).user_ip6[2], words[2]);
                    core::ptr::write_volatile(&raw mut (*self.ctx).user_ip6[3], words[3]);
                }
            }
            core::ptr::write_volatile(&raw mut (*self.ctx).user_port, other.port);
        }
    }
}

/// A socket that names a service is given a dest.
#[inline(always)]
fn redirect(socket: &Socket) {
    if !socket.ours() {
        return;
    }
    // SAFETY: no arguments.
    let number = unsafe { bpf_get_smp_processor_id() } & (DESK_COUNT - 1);
    let Some(desk) = DESKS.get_ptr_mut(number) else { return };
    // SAFETY: the claim keeps others out; map values do not move.
    let desk = unsafe { &mut *desk };
    if desk.busy.compare_exchange(0, 1) {
        serve(socket, desk, number);
        desk.busy.swap(0);
    }
}

/// Serves a socket at a desk. What it needs lies there and not on the stack, which it shares with the scheduler.
#[inline(always)]
fn serve(socket: &Socket, desk: &mut Desk, number: u32) {
    desk.named = Peer { cookie: socket.cookie(), addr: socket.addr(), port: socket.port(), side: OURS };
    let asked = Port::from_wire(desk.named.port as u16);
    // A datagram socket stays with the dest of its last datagram, as a UDP connection would.
    // SAFETY: a value of plain words.
    let known = unsafe { LOCAL_PEERS.get(desk.named) }
        .and_then(|o| local::answer(&Kernel::detached()?, o.dest, asked));
    let other = match known {
        Some(other) if socket.proto() == Proto::UDP => other,
        _ => match choose(socket, desk, number, asked) {
            Some(other) => other,
            None => return,
        },
    };
    desk.real = Peer { cookie: desk.named.cookie, addr: other.addr, port: other.port, side: THEIRS };
    let _ = LOCAL_PEERS.insert(desk.named, other, 0);
    let named = Other { addr: desk.named.addr, port: desk.named.port, dest: other.dest };
    let _ = LOCAL_PEERS.insert(desk.real, named, 0);
    if let Some(kernel) = Kernel::detached() {
        refresh(&kernel.settings().local_clients, 1);
    }
    socket.set(&other);
}

/// A socket that asks who its peer is, or where a datagram came from, is told the service.
#[inline(always)]
fn restore(socket: &Socket) {
    if !socket.ours() {
        return;
    }
    let real = Peer { cookie: socket.cookie(), addr: socket.addr(), port: socket.port(), side: THEIRS };
    // SAFETY: a value of plain words.
    if let Some(other) = unsafe { LOCAL_PEERS.get(real) } {
        socket.set(other);
    }
}

/// The dest for a new peer.
#[inline(always)]
fn choose(socket: &Socket, desk: &mut Desk, number: u32, port: Port) -> Option<Other> {
    let kernel = Kernel::detached()?;
    let key = ServiceKey::addr(socket.family, socket.proto(), desk.named.addr, port);
    if !local::ask(&kernel, &key, &mut desk.question) {
        return None;
    }
    let answer = lb_local_pick(number);
    local::answer(&kernel, (answer >> 32 != 0).then_some(answer as u32)?, port)
}

/// The scheduler's answer to the question on a desk: the dest with bit 32 set, or 0. A global function, as the stages of
/// the pass are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_local_pick(desk: u32) -> u64 {
    let (Some(kernel), Some(desk)) = (Kernel::detached(), DESKS.get(desk)) else { return 0 };
    match admit::pick(&kernel, &desk.question).opened() {
        Some(dest) => dest as u64 | 1 << 32,
        None => 0,
    }
}
