//! Services: what a virtual address, port and protocol (or a mark) is balanced by.

use crate::addr::{Addr, Family, Port, Proto};
use crate::cell::{Cell32, Cell64};

/// [`Service::engine`] of persistence engine `sip`.
pub const SIP: u8 = 1;

/// Flag bits of a service, IPVS's own numbers.
pub mod flags {
    /// Persistent: `-p`.
    pub const PERSISTENT: u32 = 1;
    /// One-packet scheduling: `-o`.
    pub const OPS: u32 = 4;
    /// Scheduler flag 1: `flag-1`, `sh-fallback`, `mh-fallback`.
    pub const SCHED1: u32 = 8;
    /// Scheduler flag 2: `flag-2`, `sh-port`, `mh-port`.
    pub const SCHED2: u32 = 16;
    /// Scheduler flag 3: `flag-3`.
    pub const SCHED3: u32 = 32;
}

/// What a service is found by: the key of the `services` map. 24 bytes, no padding.
///
/// An address service has `mark` 0. A mark service has its mark (host order), protocol, address and port zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Virtual address.
    pub addr: Addr,
    /// Firewall mark, host order; 0 for address services.
    pub mark: u32,
    /// Virtual port.
    pub port: Port,
    /// Transport protocol.
    pub proto: Proto,
    /// `AF_` number.
    pub family: u8,
}

impl ServiceKey {
    /// The key of an address service.
    #[inline(always)]
    pub const fn addr(family: Family, proto: Proto, addr: Addr, port: Port) -> Self {
        Self { mark: 0, addr, port, proto, family: family as u8 }
    }
    /// Its bits, mixed: the low ones tell many services' keys apart.
    #[inline(always)]
    pub const fn mix(&self) -> u32 {
        let mixed =
            (self.addr.fold() ^ self.mark ^ (self.port.wire() as u32) << 16).wrapping_mul(0x9E37_79B1);
        mixed >> 24
    }
    /// The key of a mark service.
    #[inline(always)]
    pub const fn mark(family: Family, mark: u32) -> Self {
        Self { mark, addr: Addr::ZERO, port: Port::ZERO, proto: Proto::IP, family: family as u8 }
    }
}

/// What the `services` map says of a service. Never edited in place: a change puts a new value, so that a packet
/// sees the old service or the new one, whole. 64 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The service's number: its place in `sched` and the owner named by its dests.
    pub slot: u32,
    /// [`flags`].
    pub flags: u32,
    /// First word of the dest list in `lists`: dest numbers, newest first.
    pub list: u32,
    /// Length of the dest list.
    pub dests: u32,
    /// First word of the scheduler's table in `lists` (sh, dh, mh), or of its tree (lc, wlc, sed, nq, lblc, lblcr of many
    /// dests), if it has one.
    pub table: u32,
    /// Length of the scheduler's table.
    pub table_len: u32,
    /// Persistence timeout in seconds.
    pub timeout: u32,
    /// Persistence mask: IPv4 mask in wire order, or IPv6 prefix length.
    pub netmask: u32,
    /// The scheduler's number ([`crate::sched::Scheduler`]).
    pub scheduler: u8,
    /// Persistence engine: 0 none, or [`SIP`].
    pub engine: u8,
    /// Does any dest have an upper threshold?
    pub thresholds: u8,
    /// Zero.
    pub spare: [u8; 5],
    /// wrr: greatest common divisor of the positive weights; at least 1.
    pub gcd: u32,
    /// wrr: highest weight less (`gcd` - 1); 0 when no dest has weight.
    pub max_weight: u32,
    /// lblc, lblcr: number of its cache; no other service, and no other scheduler of this one, ever has the same.
    pub cache: u32,
    /// When that was given, in seconds of the monotonic clock.
    pub cache_born: u32,
    /// The control side's.
    pub spare2: [u32; 2],
}

/// What a scheduler remembers between picks. One per service, in the `sched` map; written by the packet path.
/// 64 bytes: a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct SchedState {
    /// The cursor, in the scheduler's own packing (see `sched::rr`, `sched::wrr`).
    pub cursor: Cell64,
    /// Which list the cursor belongs to: [`Service::list`] plus 1; 0 = none yet.
    pub list: Cell32,
    /// New connections asked for, for drop_packet.
    pub asked: Cell32,
    /// Zero.
    pub spare: [Cell64; 6],
}

const _: () = assert!(core::mem::size_of::<ServiceKey>() == 24 && core::mem::size_of::<Service>() == 64);
const _: () = assert!(core::mem::size_of::<SchedState>() == 64);
