//! [`Tables`] over the maps and the kernel's helpers.

use core::ffi::c_void;
use core::ops::ControlFlow;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_loop, bpf_map_lookup_percpu_elem,
};
use lb_common::addr::Family;
use lb_common::admit::{self, Question};
use lb_common::cell::{Cell32, Cell64};
use lb_common::conn::{Bucket4, Bucket6};
use lb_common::dest::{Dest, Hop, SharedHop};
use lb_common::estimate::Rate;
use lb_common::forward;
use lb_common::fragments::{FragKey, HeldKey, Ports, Waiting};
use lb_common::ip::Ip;
use lb_common::local::{Other, Peer};
use lb_common::mark::MarkRule;
use lb_common::packet::Packet;
use lb_common::parse::Seen;
use lb_common::pieces;
use lb_common::pipeline::{Step, Work};
use lb_common::probe::{Probe, ProbeKey};
use lb_common::reason::Reason;
use lb_common::recent::Recent;
use lb_common::sched::{CacheKey, Cached};
use lb_common::service::{SchedState, Service, ServiceKey};
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::siphash::Key;
use lb_common::table::{self, Birth, Inserted, Insertion, Place, Wanted};
use lb_common::tables::{Control, Counters, Direction, Filter, RouteQuery, Tables};

use crate::adopt;
use crate::fragments;
use crate::functions::{
    lb_bury, lb_call4, lb_call6, lb_claim4, lb_claim6, lb_estimate, lb_insert4, lb_insert6, lb_lookup4,
    lb_lookup6, lb_open4, lb_open6, lb_pick, lb_retire4, lb_retire6, lb_thin_out4, lb_thin_out6,
    lb_tree_climb, lb_tree_play, lb_tree_touch, lb_tree_winner,
};
use crate::maps::{
    self, CACHES, CALLS, CONNS4, CONTROLS, FILTER, FRAGMENTS, HELD, LOCAL_PEERS, MARKS, OVERFLOW4, OVERFLOW6,
    PROBES, RATES, SCHED, SERVICES, SETTINGS, STATS, SWEEPER, WAITING, element,
};
use crate::routes::{self, ANSWERED, NO_NEIGHBOUR, NOT_FORWARDING, ask_route};
use crate::scratch::insertion;

/// The maps, clock and routes of this program. `DESK`: whose memory holds what is too big for the stack.
pub struct At<const DESK: u32> {
    ctx: *mut xdp_md,
    /// Looked up once: they are asked all along the way.
    settings: &'static Settings,
}

/// That of packets: this CPU's.
pub type Kernel = At<PACKETS>;
/// Programs that packets run.
pub const PACKETS: u32 = 0;
/// The program of IPv4 packets without a connection. It has the stack to itself: what others call is a part of it, where most
/// of these packets pass. A call costs as much as a dozen instructions.
pub const NEWCOMERS: u32 = 2;
/// The programs most packets are done with, and trees: dests are looked for where most are first ([`maps::dest`]).
pub const ESTABLISHED: u32 = 3;
/// The program that user space runs. A packet may interrupt it, on the same CPU: it has memory of its own, and inserts
/// nothing but by [`crate::adopt`].
pub const REQUESTS: u32 = 1;

impl<const DESK: u32> At<DESK> {
    /// With a packet's context, which the route lookup wants. There are always settings: the verifier does not know.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Option<Self> {
        // SAFETY: cells, in a map that outlives the program.
        SETTINGS.get_ptr(0).map(|settings| Self { ctx, settings: unsafe { &*settings } })
    }
    /// Where there is no packet, and no route is asked for.
    #[inline(always)]
    pub fn detached() -> Option<Self> {
        Self::new(core::ptr::null_mut())
    }
}

/// Buckets of the IPv4 table less one; set when the program is loaded.
#[unsafe(no_mangle)]
static BUCKET_MASK_V4: u32 = 0;
/// Buckets of the IPv6 table less one; set when the program is loaded.
#[unsafe(no_mangle)]
static BUCKET_MASK_V6: u32 = 0;

#[inline(always)]
fn constant(c: &'static u32) -> u32 {
    // SAFETY: a valid static; volatile, because the loader changes it after the compiler is done.
    unsafe { core::ptr::read_volatile(c) }
}

/// CPUs there may be: the kernel says where they end.
const MOST_CPUS: u32 = 1 << 13;

/// A dest's counters, while they are added up.
#[repr(C, align(8))]
struct OfDest {
    /// The piece they are in, and their number there.
    piece: u32,
    at: u32,
    sum: Counters,
}

/// The address filter, without the other tables.
pub struct AddressFilter;

impl Filter for AddressFilter {
    #[inline(always)]
    fn known_each<const N: usize>(&self, bits: [u32; N]) -> u32 {
        let Some(filter) = FILTER.get(0) else { return 0 };
        let (mut known, mut i) = (0, 0);
        while i < N {
            let byte = filter[(bits[i] >> 3) as usize & (filter.len() - 1)] as u32;
            known |= (byte >> (bits[i] & 7) & 1) << i;
            i += 1;
        }
        known
    }
}

impl<const DESK: u32> Filter for At<DESK> {
    #[inline(always)]
    fn known_each<const N: usize>(&self, bits: [u32; N]) -> u32 {
        AddressFilter.known_each(bits)
    }
}

impl<const DESK: u32> Tables for At<DESK> {
    const SHORT_CUTS: bool = DESK == ESTABLISHED;

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: no arguments. The verifier turns it into one load.
        unsafe { bpf_jiffies64() as u32 }
    }
    #[inline(always)]
    fn seconds(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { (bpf_ktime_get_coarse_ns() / 1_000_000_000) as u32 }
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn settings(&self) -> &Settings {
        self.settings
    }
    #[inline(always)]
    fn secret(&self) -> Key {
        let s = &self.settings().secret;
        let two = |low: u32, high: u32| low as u64 | (high as u64) << 32;
        Key(two(s[0].load(), s[1].load()), two(s[2].load(), s[3].load()))
    }
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: services are replaced, not edited.
        unsafe { SERVICES.get(key) }
    }
    #[inline(always)]
    fn mark_rule(&self, at: u32) -> Option<&MarkRule> {
        MARKS.get(at)
    }
    #[inline(always)]
    fn sched(&self, service: u32) -> Option<&SchedState> {
        SCHED.get(service)
    }
    #[inline(always)]
    fn list_cell(&self, at: u32) -> Option<&Cell64> {
        if DESK == NEWCOMERS { maps::word::<true>(at) } else { maps::word::<false>(at) }
    }
    #[inline(always)]
    fn dest(&self, dest: u32) -> Option<&Dest> {
        if DESK == ESTABLISHED || DESK == NEWCOMERS {
            maps::dest::<true>(dest)
        } else {
            maps::dest::<false>(dest)
        }
    }
    #[inline(always)]
    fn cached(&self, key: &CacheKey) -> Option<&Cached> {
        // SAFETY: cells; what they are worth when the map lends them to another key is the caller's to know.
        unsafe { CACHES.get(key) }
    }
    #[inline(always)]
    fn cache_make(&self, key: &CacheKey) -> Option<&Cached> {
        CACHES.insert(key, &EMPTY_CACHED, 0).ok()?;
        self.cached(key)
    }
    #[inline(always)]
    fn bucket_mask<F: Ip>(&self) -> u32 {
        match F::FAMILY {
            Family::V4 => constant(&BUCKET_MASK_V4),
            Family::V6 => constant(&BUCKET_MASK_V6),
        }
    }
    #[inline(always)]
    fn bucket<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        let place = match F::FAMILY {
            Family::V4 => CONNS4.get_ptr(n)? as *const F::Bucket,
            Family::V6 => core::ptr::from_ref(maps::bucket6(n)?).cast::<F::Bucket>(),
        };
        // SAFETY: the family's bucket type is the map's value type; array values never move.
        Some(unsafe { &*place })
    }
    #[inline(always)]
    fn overflow<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        let place = match F::FAMILY {
            Family::V4 => OVERFLOW4.get_ptr(n)? as *const F::Bucket,
            Family::V6 => OVERFLOW6.get_ptr(n)? as *const F::Bucket,
        };
        // SAFETY: as in `bucket`; a further bucket given back under a reader shows free entries or another bucket's
        // keys, neither of which matches.
        Some(unsafe { &*place })
    }
    #[inline(always)]
    fn overflow_make<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        const NOEXIST: u64 = 1;
        if let Some(found) = self.overflow::<F>(n) {
            return Some(found);
        }
        let _ = match F::FAMILY {
            Family::V4 => OVERFLOW4.insert(n, &EMPTY4, NOEXIST),
            Family::V6 => OVERFLOW6.insert(n, &EMPTY6, NOEXIST),
        };
        self.overflow::<F>(n)
    }
    #[inline(always)]
    fn overflow_drop<F: Ip>(&self, n: u32) {
        let _ = match F::FAMILY {
            Family::V4 => OVERFLOW4.remove(n),
            Family::V6 => OVERFLOW6.remove(n),
        };
    }
    #[inline(always)]
    fn overflow_used<F: Ip>(&self) -> Option<&Cell32> {
        let place = SWEEPER.get_ptr(0)?;
        // SAFETY: cells in an array's value, which never moves.
        let used = unsafe { &(*place).second };
        Some(match F::FAMILY {
            Family::V4 => &used[0],
            Family::V6 => &used[1],
        })
    }
    #[inline(always)]
    fn control_put(&self, key: u64, control: &Control) -> bool {
        CONTROLS.insert(key, control, 0).is_ok()
    }
    #[inline(always)]
    fn control_get(&self, key: u64) -> Option<Control> {
        // SAFETY: written once, before the connection is marked as having it.
        unsafe { CONTROLS.get(key) }.copied()
    }
    #[inline(always)]
    fn control_take(&self, key: u64) -> Option<Control> {
        let control = self.control_get(key)?;
        let _ = CONTROLS.remove(key);
        Some(control)
    }
    #[inline(always)]
    fn call_put(&self, key: u64, call: &Call) -> bool {
        CALLS.insert(key, call, 0).is_ok()
    }
    #[inline(always)]
    fn call_is(&self, key: u64, call: &Call) -> bool {
        // SAFETY: written whole, before anybody finds the template's row, or replaced by its equal.
        unsafe { CALLS.get(key) }.is_none_or(|noted| noted.same(self, call))
    }
    #[inline(always)]
    fn call_drop(&self, key: u64) {
        let _ = CALLS.remove(key);
    }
    #[inline(always)]
    fn local_peer(&self, peer: &Peer) -> Option<Other> {
        // SAFETY: a value of plain words.
        unsafe { LOCAL_PEERS.get(peer) }.copied()
    }
    #[inline(always)]
    fn fragment_put(&self, key: &FragKey, ports: &Ports) {
        let _ = FRAGMENTS.insert(key, ports, 0);
    }
    #[inline(always)]
    fn fragment_get(&self, key: &FragKey) -> Option<Ports> {
        // SAFETY: two words; replaced whole, and of one datagram.
        unsafe { FRAGMENTS.get(key) }.copied()
    }
    #[inline(always)]
    fn waiting<R>(&self, key: &FragKey, ask: impl FnOnce(&Waiting) -> R) -> Option<R> {
        // SAFETY: cells. Lent to another datagram meanwhile, they are off by one for that.
        unsafe { WAITING.get(key) }.map(ask)
    }
    #[inline(always)]
    fn waiting_make(&self, key: &FragKey) {
        const NOEXIST: u64 = 1;
        let _ = WAITING.insert(key, &EMPTY_WAITING, NOEXIST);
    }
    #[inline(always)]
    fn hold<P: Packet>(&self, _: &P, key: &HeldKey) -> bool {
        fragments::hold(self.ctx, key)
    }
    #[inline(always)]
    fn unhold(&self, key: &HeldKey) -> bool {
        HELD.remove(key).is_ok()
    }
    #[inline(always)]
    fn probe(&self, key: &ProbeKey) -> Option<&Probe> {
        // SAFETY: written whole before the socket sends, but for a cell. Lent to another socket meanwhile, it is as good as a
        // packet that comes late.
        unsafe { PROBES.get(key) }
    }
    #[inline(always)]
    fn count(&self, dest: u32, direction: Direction, bytes: u32) {
        let Some(c) = maps::counters(dest) else { return };
        // SAFETY: this CPU's own copy.
        let c: &mut Counters = unsafe { &mut *c };
        match direction {
            Direction::In => {
                c.inpkts = c.inpkts.wrapping_add(1);
                c.inbytes = c.inbytes.wrapping_add(bytes as u64);
            }
            Direction::Out => {
                c.outpkts = c.outpkts.wrapping_add(1);
                c.outbytes = c.outbytes.wrapping_add(bytes as u64);
            }
        }
    }
    #[inline(always)]
    fn count_conn(&self, dest: u32) {
        if let Some(c) = maps::counters(dest) {
            // SAFETY: this CPU's own copy.
            unsafe { (*c).conns = (*c).conns.wrapping_add(1) };
        }
    }
    #[inline(always)]
    fn counters(&self, dest: u32) -> Counters {
        let (piece, at) = pieces::STATS.place(dest);
        let mut acc = OfDest { piece, at, sum: Counters::default() };
        repeat(MOST_CPUS, &mut acc, |acc, cpu| {
            let Some(piece) = STATS.get(acc.piece) else { return ControlFlow::Break(()) };
            let map = core::ptr::from_ref(piece).cast_mut().cast::<c_void>();
            let key = &raw const acc.at as *const c_void;
            // SAFETY: the key is a word; nobody but that CPU writes its copy, and each counter is one word.
            let Some(own) =
                (unsafe { (bpf_map_lookup_percpu_elem(map, key, cpu) as *const Counters).as_ref() })
            else {
                return ControlFlow::Break(());
            };
            acc.sum = acc.sum.plus(*own);
            ControlFlow::Continue(())
        });
        acc.sum
    }
    #[inline(always)]
    fn rate(&self, place: u32) -> Option<&Rate> {
        element(&RATES, place)
    }
    #[inline(always)]
    fn estimate_dest(&self, number: u32, seconds: u32) {
        lb_estimate(number, seconds);
    }
    #[inline(always)]
    fn route(&self, query: &RouteQuery, into: &SharedHop) -> Result<(), Reason> {
        match ask_route(self.ctx, query, into) {
            ANSWERED => Ok(()),
            NO_NEIGHBOUR => Err(Reason::NoNeighbour),
            NOT_FORWARDING => Err(Reason::ForwardingOff),
            _ => Err(Reason::NoRoute),
        }
    }
    #[inline(always)]
    fn route_to_client<F: Ip>(&self, to: &F::Addr, from: &F::Addr, ingress: u32) -> Result<Hop, Reason> {
        routes::to_client::<F>(self, to, from, ingress)
    }
    // The work and the question are in this CPU's scratch memory; the functions find them there themselves.
    #[inline(always)]
    fn lookup<F: Ip>(&self, work: &mut Work<F>, question: &mut Question, recent: &mut Recent) -> Step {
        if DESK == NEWCOMERS {
            return admit::lookup(self, work, question, recent);
        }
        Step(match F::FAMILY {
            Family::V4 => lb_lookup4(),
            Family::V6 => lb_lookup6(),
        })
    }
    #[inline(always)]
    fn call<F: Ip, P: Packet>(&self, _: &P, _: &mut Work<F>, _: &mut Question) -> Step {
        Step(match F::FAMILY {
            Family::V4 => lb_call4(self.ctx),
            Family::V6 => lb_call6(self.ctx),
        })
    }
    #[inline(always)]
    fn pick(&self, question: &Question) -> Step {
        if DESK == NEWCOMERS {
            return admit::pick(self, question);
        }
        Step(lb_pick())
    }
    #[inline(always)]
    fn open<F: Ip>(&self, work: &mut Work<F>, question: &Question, dest: u32) -> Step {
        if DESK == NEWCOMERS {
            return admit::open(self, work, question, dest);
        }
        Step(match F::FAMILY {
            Family::V4 => lb_open4(dest),
            Family::V6 => lb_open6(dest),
        })
    }
    #[inline(always)]
    fn forward_newcomer<F: Ip, P: Packet>(
        &self,
        p: &mut P,
        seen: &Seen<F>,
        word: u32,
        is_bound: bool,
    ) -> Step {
        if DESK == NEWCOMERS {
            forward::newcomer(p, self, seen, word, is_bound)
        } else {
            forward_apart(self, p, seen, word, is_bound)
        }
    }
    #[inline(always)]
    fn bury(&self, tag: u32, ctl: u32, dest: u32, slot: u32, now: u32) -> u32 {
        lb_bury(tag, ctl, dest, slot, now) as u32
    }
    #[inline(always)]
    fn claim<F: Ip>(&self, _: &Insertion<F>, nth: u32, least: u32) -> u64 {
        if DESK == REQUESTS {
            return adopt::claim::<F>(nth, least);
        }
        match F::FAMILY {
            Family::V4 => lb_claim4(nth, least),
            Family::V6 => lb_claim6(nth, least),
        }
    }
    #[inline(always)]
    fn insert<F: Ip>(&self, wanted: &Wanted<F>, place: Place, birth: Birth, control: Control) -> Inserted {
        if insertion(wanted, place, birth, control).is_none() {
            return Inserted(Reason::Internal as u64);
        }
        Inserted(match F::FAMILY {
            Family::V4 => lb_insert4(),
            Family::V6 => lb_insert6(),
        })
    }
    // Without a call of its own.
    #[inline(always)]
    fn insert_newcomer<F: Ip>(
        &self,
        wanted: &Wanted<F>,
        place: Place,
        birth: Birth,
        control: Control,
    ) -> Inserted {
        match insertion(wanted, place, birth, control) {
            Some(new) => table::insert::<_, _, true>(self, new),
            None => Inserted(Reason::Internal as u64),
        }
    }
    #[inline(always)]
    fn retire<F: Ip>(&self, slot: u32, why: u32) -> u32 {
        match F::FAMILY {
            Family::V4 => lb_retire4(slot, why) as u32,
            Family::V6 => lb_retire6(slot, why) as u32,
        }
    }
    #[inline(always)]
    fn thin_out<F: Ip>(&self, bucket: u32) {
        match F::FAMILY {
            Family::V4 => lb_thin_out4(bucket),
            Family::V6 => lb_thin_out6(bucket),
        };
    }
    #[inline(always)]
    fn tree_winner(&self, base: u32) -> u32 {
        lb_tree_winner(base) as u32
    }
    #[inline(always)]
    fn tree_climb(&self, base: u32, leaf: u32) {
        lb_tree_climb(base, leaf);
    }
    #[inline(always)]
    fn tree_play(&self, record: u32) {
        lb_tree_play(record);
    }
    #[inline(always)]
    fn tree_touch(&self, record: u32) {
        lb_tree_touch(record);
    }
    #[inline(always)]
    fn repeat<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
        repeat(count, acc, |acc, i| step(self, acc, i));
    }
}

/// [`forward::newcomer`] with a stack frame of its own.
#[inline(never)]
fn forward_apart<F: Ip, P: Packet, T: Tables>(
    t: &T,
    p: &mut P,
    seen: &Seen<F>,
    word: u32,
    is_bound: bool,
) -> Step {
    forward::newcomer(p, t, seen, word, is_bound)
}

static EMPTY4: Bucket4 = Bucket4::new();
static EMPTY6: Bucket6 = Bucket6::new();
static EMPTY_WAITING: Waiting = Waiting::new();
static EMPTY_CACHED: Cached = Cached::new();

/// `step` for 0, 1, … `count - 1` until it breaks, as one `bpf_loop`.
#[inline(always)]
pub fn repeat<A, S: Fn(&mut A, u32) -> ControlFlow<()>>(count: u32, acc: &mut A, step: S) {
    #[repr(C, align(8))]
    struct Env<'a, A, S> {
        acc: &'a mut A,
        step: &'a S,
    }
    unsafe extern "C" fn call<A, S: Fn(&mut A, u32) -> ControlFlow<()>>(i: u64, env: *mut c_void) -> i64 {
        // SAFETY: `env` is the one below, alive throughout the loop.
        let env = unsafe { &mut *(env as *mut Env<'_, A, S>) };
        match (env.step)(env.acc, i as u32) {
            ControlFlow::Continue(()) => 0,
            ControlFlow::Break(()) => 1,
        }
    }
    let mut env = Env { acc, step: &step };
    // SAFETY: the callback has the signature the helper asks for.
    unsafe { bpf_loop(count, call::<A, S> as *mut c_void, &raw mut env as *mut c_void, 0) };
}
