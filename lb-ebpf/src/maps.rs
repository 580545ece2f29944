//! The maps. Sizes that depend on the machine are given when the program is loaded; docs/maps.md says who writes
//! what.

use core::ffi::c_void;

use aya_ebpf::btf_maps::{Array as Piece, ArrayOfMaps, PerCpuArray as PerCpuPiece};
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, DevMap, DevMapHash, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::cell::Cell64;
use lb_common::conn::{Bucket4, Bucket6};
use lb_common::dest::Dest;
use lb_common::estimate::Rate;
use lb_common::fragments::{self, FragKey, HeldKey, Ports, Waiting};
use lb_common::local::{Desk, Other, Peer};
use lb_common::mark::{self, MarkRule};
use lb_common::pieces;
use lb_common::probe::{Probe, ProbeKey};
use lb_common::reason;
use lb_common::sched::{CacheKey, Cached};
use lb_common::service::{SchedState, Service, ServiceKey};
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::tables::{Control, Counters, FILTER_BITS};

use crate::adopt::Desk as Arrival;
use crate::fragments::Held;
use crate::routes::ClientHop;
use crate::scratch::Scratch;
use crate::sweep::Sweeper;

/// User space maps it into memory.
const MMAPABLE: u32 = 1 << 10;
/// Elements are allocated when they are put in, so that a replaced one is not reused under a reader.
const NO_PREALLOC: u32 = 1;
/// A map that grows by pieces of so many elements ([`pieces`]); how many there may be is said when it is made.
type Pieces<T, const LEN: usize> = ArrayOfMaps<Piece<T, LEN, { MMAPABLE as usize }>, 1>;

/// Instance-wide settings.
#[map(name = "settings")]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, MMAPABLE);
/// Addresses worth a look: one bit per hashed VIP or NAT server.
#[map(name = "filter")]
pub static FILTER: Array<[u8; 1 << (FILTER_BITS - 3)]> = Array::with_max_entries(1, MMAPABLE);
/// Services by key.
#[map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(16384, NO_PREALLOC);
/// Mark rules, two halves of which one is in force.
#[map(name = "marks")]
pub static MARKS: Array<MarkRule> = Array::with_max_entries(2 * mark::MOST, MMAPABLE);
/// What schedulers remember, by service number.
#[map(name = "sched")]
pub static SCHED: Array<SchedState> = Array::with_max_entries(16384, MMAPABLE);
/// Dest lists and scheduler tables, named by services.
#[btf_map(name = "lists")]
pub static LISTS: Pieces<Cell64, { pieces::LISTS.len as usize }> = Pieces::new();
/// The first piece of [`LISTS`].
#[btf_map(name = "lists_0")]
pub static FIRST_LISTS: Piece<Cell64, { pieces::LISTS.len as usize }, { MMAPABLE as usize }> = Piece::new();
/// Dest slots.
#[btf_map(name = "dests")]
pub static DESTS: Pieces<Dest, { pieces::DESTS.len as usize }> = Pieces::new();
/// The first piece of [`DESTS`]: few have more, so that a packet's way there is as short as if there were no others.
#[btf_map(name = "dests_0")]
pub static FIRST_DESTS: Piece<Dest, { pieces::DESTS.len as usize }, { MMAPABLE as usize }> = Piece::new();
/// What lblc and lblcr remember of addresses.
#[map(name = "caches")]
pub static CACHES: LruHashMap<CacheKey, Cached> = LruHashMap::with_max_entries(1, 0);
/// Counters by dest.
#[btf_map(name = "stats")]
pub static STATS: ArrayOfMaps<PerCpuPiece<Counters, { pieces::STATS.len as usize }>, 1> = ArrayOfMaps::new();
/// Their first piece.
#[btf_map(name = "stats_0")]
pub static FIRST_STATS: PerCpuPiece<Counters, { pieces::STATS.len as usize }> = PerCpuPiece::new();
/// Estimators of dests, services and the total.
#[btf_map(name = "rates")]
pub static RATES: Pieces<Rate, { pieces::RATES.len as usize }> = Pieces::new();
/// Counters by reason.
#[map(name = "reasons")]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);

/// IPv4 connections.
#[map(name = "conns4")]
pub static CONNS4: Array<Bucket4> = Array::with_max_entries(1, MMAPABLE);
/// IPv6 connections, in the one map there is once there is a service of IPv6. How long it is the loader says.
#[btf_map(name = "conns6")]
pub static CONNS6: ArrayOfMaps<Piece<Bucket6, 1, { MMAPABLE as usize }>, 1> = ArrayOfMaps::new();
/// Second buckets of IPv4.
#[map(name = "overflow4")]
pub static OVERFLOW4: HashMap<u32, Bucket4> = HashMap::with_max_entries(1, NO_PREALLOC);
/// Second buckets of IPv6.
#[map(name = "overflow6")]
pub static OVERFLOW6: HashMap<u32, Bucket6> = HashMap::with_max_entries(1, NO_PREALLOC);
/// Templates of connections made through one, by the connection's slot and generation.
#[map(name = "controls")]
pub static CONTROLS: HashMap<u64, Control> = HashMap::with_max_entries(1, NO_PREALLOC);
/// Whose calls templates of a persistence engine are for, as [`CONTROLS`] is keyed.
#[map(name = "calls")]
pub static CALLS: HashMap<u64, Call> = HashMap::with_max_entries(1, NO_PREALLOC);
/// Ports of datagrams whose first fragment was seen.
#[map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragKey, Ports> = LruHashMap::with_max_entries(8192, 0);
/// Datagrams of which fragments came before the first.
#[map(name = "waiting")]
pub static WAITING: LruHashMap<FragKey, Waiting> = LruHashMap::with_max_entries(1024, 0);
/// Those fragments.
#[map(name = "held")]
pub static HELD: LruHashMap<HeldKey, Held> = LruHashMap::with_max_entries(1024, 0);
/// Sockets of checks that take the way of clients' packets. One that is closed has more to send: it stays until others
/// need its place.
#[map(name = "probes")]
pub static PROBES: LruHashMap<ProbeKey, Probe> = LruHashMap::with_max_entries(8192, 0);
/// The way back around the loop, once for each copy.
#[map(name = "copies")]
pub static COPIES: DevMap = DevMap::with_max_entries(fragments::MOST + 1, 0);
/// Next hops to clients, per CPU, by hashed address.
#[map(name = "client_hops")]
pub static CLIENT_HOPS: PerCpuArray<ClientHop> = PerCpuArray::with_max_entries(CLIENT_HOP_SLOTS, 0);
/// Slots of [`CLIENT_HOPS`], a power of two.
pub const CLIENT_HOP_SLOTS: u32 = 4096;
/// VLAN devices: their parent and number, by ifindex.
#[map(name = "vlans")]
pub static VLANS: HashMap<u32, [u32; 2]> = HashMap::with_max_entries(1024, NO_PREALLOC);
/// Programs the balancer ends in, by [`Stage`](lb_common::reason::Stage).
#[map(name = "stages")]
pub static STAGES: ProgramArray = ProgramArray::with_max_entries(8, 0);
/// What is too big for the stack.
#[map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// NICs packets may leave by.
#[map(name = "egress")]
pub static EGRESS: DevMapHash = DevMapHash::with_max_entries(1024, 0);
/// Peers of sockets on the balancer itself.
#[map(name = "local_peers")]
pub static LOCAL_PEERS: LruHashMap<Peer, Other> = LruHashMap::with_max_entries(16384, 0);
/// Questions of sockets on the balancer itself.
#[map(name = "desks")]
pub static DESKS: Array<Desk> = Array::with_max_entries(DESK_COUNT, 0);
/// Length of [`DESKS`], a power of two.
pub const DESK_COUNT: u32 = 256;
/// A connection of another director, while it is taken in.
#[map(name = "arrival")]
pub static ARRIVAL: Array<Arrival> = Array::with_max_entries(1, 0);
/// The sweep's timer and place.
#[btf_map(name = "sweeper")]
pub static SWEEPER: Piece<Sweeper, 1, 0> = Piece::new();

/// An element of a map that grows. `None`: its piece has not been made.
#[inline(always)]
pub fn element<T, const LEN: usize>(map: &'static Pieces<T, LEN>, number: u32) -> Option<&'static T> {
    let (piece, at) = const { lb_common::pieces::Pieces::of(LEN as u32) }.place(number);
    map.get(piece)?.get(at)
}

/// A word of lists and tables: [`element`], where the stack has no room for a lookup's second key. `NEAR`: as in [`dest`].
#[inline(always)]
pub fn word<const NEAR: bool>(number: u32) -> Option<&'static Cell64> {
    if NEAR && let Some(near) = FIRST_LISTS.get(number) {
        return Some(near);
    }
    let (piece, at) = pieces::LISTS.place(number);
    let key = NUMBERS.get(piece as usize & (NUMBERS.len() - 1))?;
    let map = (&raw const LISTS).cast_mut().cast::<c_void>();
    // SAFETY: keys are words, and what is found are words, in arrays that live as long as the map does.
    unsafe {
        let piece = bpf_map_lookup_elem(map, core::ptr::from_ref(key).cast());
        if piece.is_null() {
            return None;
        }
        bpf_map_lookup_elem(piece, (&raw const at).cast()).cast::<Cell64>().as_ref()
    }
}

/// A dest. `NEAR`: most likely of the first piece, which is asked first then; the verifier follows both ways on.
#[inline(always)]
pub fn dest<const NEAR: bool>(number: u32) -> Option<&'static Dest> {
    let first = if NEAR { FIRST_DESTS.get(number) } else { None };
    first.or_else(|| element(&DESTS, number))
}

/// The counters of a dest, this CPU's own copy.
#[inline(always)]
pub fn counters(number: u32) -> Option<*mut Counters> {
    FIRST_STATS.get_ptr_mut(number).or_else(|| {
        let (piece, at) = pieces::STATS.place(number);
        STATS.get(piece)?.get_ptr_mut(at)
    })
}

/// A bucket of IPv6. `None`: no service of IPv6 has been there.
#[inline(always)]
pub fn bucket6(number: u32) -> Option<&'static Bucket6> {
    let map = (&raw const CONNS6).cast_mut().cast::<c_void>();
    // SAFETY: keys are words, and what is found are buckets, in an array that lives as long as the map does.
    unsafe {
        let table = bpf_map_lookup_elem(map, NUMBERS.as_ptr().cast());
        if table.is_null() {
            return None;
        }
        bpf_map_lookup_elem(table, (&raw const number).cast()).cast::<Bucket6>().as_ref()
    }
}

/// The numbers of pieces of [`LISTS`], to be read from here as keys: as many as there are dests for at the most.
static NUMBERS: [u32; 256] = {
    let mut numbers = [0; 256];
    let mut i = 0;
    while i < numbers.len() {
        numbers[i] = i as u32;
        i += 1;
    }
    numbers
};

/// Moves a reason's counter.
#[inline(always)]
pub fn count(reason: u32) {
    const { assert!(reason::COUNT <= 64) };
    if let Some(counter) = REASONS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own copy.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
