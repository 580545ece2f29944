//! The tables over vectors. Shared words are the same cells as in the maps and never move, so that a reference into
//! them stays good while other threads change them; what has a changing number of elements is behind a lock.

use core::ops::ControlFlow;
use std::boxed::Box;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::vec::Vec;

use super::TABLE_KEY;
use super::caches::Caches;
use super::rules::Memory;
use crate::addr::{Addr, Family};
use crate::cell::{Cell32, Cell64};
use crate::conn::{Bucket4, Bucket6};
use crate::dest::{self, Dest, Hop, SharedHop};
use crate::estimate::{self, Rate};
use crate::fragments::{FragKey, HeldKey, Ports, Waiting};
use crate::ip::{Address, Ip};
use crate::local::{Other, Peer};
use crate::mark::{self, MarkRule};
use crate::packet::Packet;
use crate::pipeline::Workspace;
use crate::probe::{Probe, ProbeKey};
use crate::reason::{self, Reason};
use crate::sched::{CacheKey, Cached};
use crate::service::{SchedState, Service, ServiceKey};
use crate::settings::Settings;
use crate::sip::Call;
use crate::siphash::Key;
use crate::tables::{Control, Counters, Direction, FILTER_BITS, Filter, RouteQuery, Tables};

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Buckets of each family: a power of two.
    pub buckets: u32,
    /// Second buckets of each family.
    pub second: u32,
    /// Dest slots.
    pub dests: u32,
    /// Services.
    pub services: u32,
    /// Words of dest lists and scheduler tables.
    pub lists: u32,
    /// Connections with a template.
    pub controls: u32,
    /// Addresses that lblc and lblcr remember.
    pub caches: u32,
}

impl Default for Sizes {
    /// Enough for a test.
    fn default() -> Self {
        Self { buckets: 64, second: 4, dests: 256, services: 64, lists: 1 << 17, controls: 512, caches: 16 }
    }
}

/// Second buckets: all of them made beforehand, lent by number of the bucket that ran over.
#[derive(Debug)]
struct Second<B> {
    pool: Box<[B]>,
    lent: Mutex<Lent>,
    used: Cell32,
}

#[derive(Debug, Default)]
struct Lent {
    by_bucket: HashMap<u32, usize>,
    free: Vec<usize>,
}

impl<B: Default> Second<B> {
    fn new(count: u32) -> Self {
        let free = (0..count as usize).rev().collect();
        let lent = Mutex::new(Lent { by_bucket: HashMap::new(), free });
        Self { pool: many(count), lent, used: Cell32::new(0) }
    }
    fn get(&self, n: u32) -> Option<&B> {
        let at = *lock(&self.lent).by_bucket.get(&n)?;
        self.pool.get(at)
    }
    fn make(&self, n: u32) -> Option<&B> {
        let mut lent = lock(&self.lent);
        if let Some(at) = lent.by_bucket.get(&n) {
            return self.pool.get(*at);
        }
        let at = lent.free.pop()?;
        lent.by_bucket.insert(n, at);
        self.pool.get(at)
    }
    fn put_back(&self, n: u32) {
        let mut lent = lock(&self.lent);
        if let Some(at) = lent.by_bucket.remove(&n) {
            lent.free.push(at);
        }
    }
    fn each(&self) -> impl Iterator<Item = &B> {
        let lent: Vec<usize> = lock(&self.lent).by_bucket.values().copied().collect();
        lent.into_iter().filter_map(|at| self.pool.get(at))
    }
}

/// The services' values. One is never edited in place, so each change takes a new place, and a reader keeps the old.
#[derive(Debug)]
struct Services {
    values: Box<[OnceLock<Service>]>,
    by_key: RwLock<HashMap<ServiceKey, usize>>,
    used: Cell32,
}

/// Changes of services a [`HostTables`] outlives.
const SERVICE_CHANGES: u32 = 1 << 14;

/// A network and the answer to whoever asks for the way there.
#[derive(Debug)]
struct Route {
    family: Family,
    to: Addr,
    prefix: u32,
    answer: Result<dest::Route, Reason>,
}

impl Route {
    fn leads_to(&self, query: &RouteQuery) -> bool {
        let number = |addr: &Addr| u128::from_be_bytes(addr.0);
        let differ = number(&self.to) ^ number(&query.to);
        self.family == query.family && differ.leading_zeros() >= self.prefix
    }
}

/// Counters of a dest.
#[derive(Debug, Default)]
struct SharedCounters {
    conns: Cell64,
    packets: [Cell64; 2],
    bytes: [Cell64; 2],
}

/// Everything [`Tables`] asks for, in ordinary memory.
#[derive(Debug)]
pub struct HostTables {
    settings: Box<Settings>,
    filter: Box<[Cell32]>,
    services: Services,
    sched: Box<[SchedState]>,
    marks: Vec<MarkRule>,
    lists: Box<[Cell64]>,
    dests: Box<[Dest]>,
    caches: Caches,
    stats: Box<[SharedCounters]>,
    /// Of dests, services and the total.
    rates: Box<[Rate]>,
    reasons: Box<[Cell64]>,
    conns4: Box<[Bucket4]>,
    conns6: Box<[Bucket6]>,
    second4: Second<Bucket4>,
    second6: Second<Bucket6>,
    controls: Mutex<HashMap<u64, Control>>,
    calls: Mutex<HashMap<u64, Call>>,
    most_controls: usize,
    peers: Mutex<HashMap<Peer, Other>>,
    fragments: Mutex<HashMap<FragKey, Ports>>,
    waiting: Mutex<HashMap<FragKey, Waiting>>,
    held: Mutex<HashSet<HeldKey>>,
    probes: HashMap<ProbeKey, Probe>,
    /// What threads work on, of those that are not at work: as left, like a CPU's in the kernel.
    spaces: Mutex<Vec<Workspace>>,
    routes: RwLock<Vec<Route>>,
    clock: Cell32,
    dice: Cell32,
    /// Numbers to be drawn before the dice are thrown.
    script: Mutex<Vec<u32>>,
}

fn many<T: Default>(count: u32) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

/// A thread that panicked while it held a lock has left a whole map behind all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostTables {
    /// Lends a thread what it works on.
    pub(super) fn working<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let mut space = lock(&self.spaces).pop().unwrap_or_default();
        let result = work(&mut space);
        lock(&self.spaces).push(space);
        result
    }

    /// Gives a socket a dest, as a hook of its system calls would.
    pub fn give(&self, real: Peer, named: Other) {
        lock(&self.peers).insert(real, named);
        self.settings.local_clients.store(1);
    }

    /// Empty tables with IPVS's default settings; the clock stands at 1,000,000 and goes 250 ticks a second.
    pub fn new(sizes: &Sizes) -> Self {
        assert!(sizes.buckets.is_power_of_two(), "the number of buckets has to be a power of two");
        let settings = Box::new(Settings::new());
        settings.set_defaults(250);
        settings.table_key.set(&TABLE_KEY);
        Self {
            settings,
            filter: many(1 << (FILTER_BITS - 5)),
            services: Services {
                values: many(SERVICE_CHANGES),
                by_key: RwLock::new(HashMap::new()),
                used: Cell32::new(0),
            },
            sched: many(sizes.services),
            marks: Vec::new(),
            lists: many(sizes.lists),
            dests: many(sizes.dests),
            caches: Caches::new(sizes.caches),
            stats: many(sizes.dests),
            rates: many(estimate::places(sizes.dests.max(sizes.services * 8))),
            reasons: many(reason::COUNT as u32),
            conns4: many(sizes.buckets),
            conns6: many(sizes.buckets),
            second4: Second::new(sizes.second),
            second6: Second::new(sizes.second),
            controls: Mutex::new(HashMap::new()),
            calls: Mutex::new(HashMap::new()),
            most_controls: sizes.controls as usize,
            peers: Mutex::new(HashMap::new()),
            fragments: Mutex::new(HashMap::new()),
            waiting: Mutex::new(HashMap::new()),
            held: Mutex::new(HashSet::new()),
            probes: HashMap::new(),
            spaces: Mutex::new(Vec::new()),
            routes: RwLock::new(Vec::new()),
            clock: Cell32::new(1_000_000),
            dice: Cell32::new(1),
            script: Mutex::new(Vec::new()),
        }
    }

    /// Lets `seconds` pass.
    pub fn pass_time(&self, seconds: u32) {
        self.clock.store(self.clock.load().wrapping_add(self.settings.ticks(seconds)));
    }

    /// Sets the clock, in ticks.
    pub fn set_clock(&self, ticks: u32) {
        self.clock.store(ticks);
    }

    /// What the kernel will answer when asked for the way to an address of this network. The longest prefix counts, of
    /// equal ones the last; without any, there is no route.
    pub fn set_route(&self, family: Family, to: Addr, prefix: u32, answer: Result<dest::Route, Reason>) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.push(Route { family, to, prefix, answer });
        routes.sort_by_key(|route| route.prefix);
    }

    /// The next random numbers, in this order.
    pub fn set_random(&self, numbers: &[u32]) {
        *lock(&self.script) = numbers.iter().rev().copied().collect();
    }

    /// Moves a reason's counter.
    pub fn count_reason(&self, number: u32) {
        if let Some(counter) = self.reasons.get(number as usize) {
            counter.add(1);
        }
    }

    /// A reason's counter.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason as usize).map_or(0, Cell64::load)
    }

    /// All reasons' counters together: every packet is in one of them.
    pub fn packets(&self) -> u64 {
        self.reasons.iter().map(Cell64::load).sum()
    }

    /// A dest's counters.
    pub fn counters(&self, dest: u32) -> Counters {
        let Some(c) = self.stats.get(dest as usize) else { return Counters::default() };
        Counters {
            conns: c.conns.load(),
            inpkts: c.packets[Direction::In as usize].load(),
            outpkts: c.packets[Direction::Out as usize].load(),
            inbytes: c.bytes[Direction::In as usize].load(),
            outbytes: c.bytes[Direction::Out as usize].load(),
        }
    }

    /// Every IPv4 bucket, further ones too.
    pub fn buckets4(&self) -> impl Iterator<Item = &Bucket4> {
        self.conns4.iter().chain(self.second4.each())
    }

    /// Every IPv6 bucket, further ones too.
    pub fn buckets6(&self) -> impl Iterator<Item = &Bucket6> {
        self.conns6.iter().chain(self.second6.each())
    }

    /// Notes of connections made through a template.
    pub fn controls(&self) -> usize {
        lock(&self.controls).len()
    }

    /// Notes of templates made for calls.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).values().copied().collect()
    }

    /// Puts mark rules in force.
    pub fn set_marks(&mut self, rules: &[MarkRule]) {
        self.marks = rules.to_vec();
        self.settings.mark_rules.store(mark::word(0, rules.len() as u32));
    }

    /// Notes a check's socket.
    pub fn set_probe(&mut self, key: ProbeKey, probe: Probe) {
        self.probes.insert(key, probe);
    }

    fn route_of(&self, query: &RouteQuery) -> Result<dest::Route, Reason> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let found = routes.iter().rev().find(|route| route.leads_to(query));
        let answer = found.map_or(Err(Reason::NoRoute), |route| route.answer)?;
        // As the kernel: a source is selected only where one is asked for.
        Ok(dest::Route { source: if query.source { answer.source } else { query.from }, ..answer })
    }
}

/// A bucket of the table of family `F`, out of the two families' own.
fn of_family<'a, F: Ip>(v4: Option<&'a Bucket4>, v6: Option<&'a Bucket6>) -> Option<&'a F::Bucket> {
    let place = match F::FAMILY {
        Family::V4 => core::ptr::from_ref(v4?).cast::<F::Bucket>(),
        Family::V6 => core::ptr::from_ref(v6?).cast::<F::Bucket>(),
    };
    // SAFETY: `F::Bucket` is Bucket4 for the one family and Bucket6 for the other, as matched here.
    Some(unsafe { &*place })
}

impl Filter for HostTables {
    fn known_each<const N: usize>(&self, bits: [u32; N]) -> u32 {
        let known = |word: &Cell32, bit: u32| u32::from_le(word.load()) >> (bit & 31) & 1;
        let each = bits.map(|bit| self.filter.get((bit >> 5) as usize).map_or(0, |word| known(word, bit)));
        each.iter().rev().fold(0, |all, bit| all << 1 | bit)
    }
}

impl Tables for HostTables {
    fn now(&self) -> u32 {
        self.clock.load()
    }
    fn seconds(&self) -> u32 {
        self.clock.load().checked_div(self.settings.hz.load()).unwrap_or(0)
    }
    fn random(&self) -> u32 {
        if let Some(number) = lock(&self.script).pop() {
            return number;
        }
        // Weyl sequence and a finalizer: the same numbers in every run of one thread.
        let x = self.dice.fetch_add(0x9E37_79B9);
        let x = (x ^ x >> 16).wrapping_mul(0x85EB_CA6B);
        x ^ x >> 13
    }
    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn secret(&self) -> Key {
        let s = self.settings.secret.each_ref().map(|cell| u64::from(cell.load()));
        Key(s[0] | s[1] << 32, s[2] | s[3] << 32)
    }
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        let at = *self.services.by_key.read().unwrap_or_else(PoisonError::into_inner).get(key)?;
        self.services.values.get(at)?.get()
    }
    fn mark_rule(&self, at: u32) -> Option<&MarkRule> {
        self.marks.get(at as usize)
    }
    fn sched(&self, service: u32) -> Option<&SchedState> {
        self.sched.get(service as usize)
    }
    fn list_cell(&self, at: u32) -> Option<&Cell64> {
        self.lists.get(at as usize)
    }
    fn dest(&self, dest: u32) -> Option<&Dest> {
        self.dests.get(dest as usize)
    }
    fn cached(&self, key: &CacheKey) -> Option<&Cached> {
        self.caches.get(key)
    }
    fn cache_make(&self, key: &CacheKey) -> Option<&Cached> {
        self.caches.make(key)
    }
    fn bucket_mask<F: Ip>(&self) -> u32 {
        self.conns4.len() as u32 - 1
    }
    fn bucket<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        of_family::<F>(self.conns4.get(n as usize), self.conns6.get(n as usize))
    }
    fn overflow<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        match F::FAMILY {
            Family::V4 => of_family::<F>(self.second4.get(n), None),
            Family::V6 => of_family::<F>(None, self.second6.get(n)),
        }
    }
    fn overflow_make<F: Ip>(&self, n: u32) -> Option<&F::Bucket> {
        match F::FAMILY {
            Family::V4 => of_family::<F>(self.second4.make(n), None),
            Family::V6 => of_family::<F>(None, self.second6.make(n)),
        }
    }
    fn overflow_drop<F: Ip>(&self, n: u32) {
        match F::FAMILY {
            Family::V4 => self.second4.put_back(n),
            Family::V6 => self.second6.put_back(n),
        }
    }
    fn overflow_used<F: Ip>(&self) -> Option<&Cell32> {
        Some(match F::FAMILY {
            Family::V4 => &self.second4.used,
            Family::V6 => &self.second6.used,
        })
    }
    fn control_put(&self, key: u64, control: &Control) -> bool {
        let mut controls = lock(&self.controls);
        let room = controls.len() < self.most_controls || controls.contains_key(&key);
        if room {
            controls.insert(key, *control);
        }
        room
    }
    fn control_get(&self, key: u64) -> Option<Control> {
        lock(&self.controls).get(&key).copied()
    }
    fn control_take(&self, key: u64) -> Option<Control> {
        lock(&self.controls).remove(&key)
    }
    fn call_put(&self, key: u64, call: &Call) -> bool {
        let mut calls = lock(&self.calls);
        let room = calls.len() < self.most_controls || calls.contains_key(&key);
        if room {
            calls.insert(key, *call);
        }
        room
    }
    fn call_is(&self, key: u64, call: &Call) -> bool {
        let noted = lock(&self.calls).get(&key).copied();
        noted.is_none_or(|noted| noted.same(self, call))
    }
    fn call_drop(&self, key: u64) {
        lock(&self.calls).remove(&key);
    }
    fn local_peer(&self, peer: &Peer) -> Option<Other> {
        lock(&self.peers).get(peer).copied()
    }
    fn fragment_put(&self, key: &FragKey, ports: &Ports) {
        lock(&self.fragments).insert(*key, *ports);
    }
    fn fragment_get(&self, key: &FragKey) -> Option<Ports> {
        lock(&self.fragments).get(key).copied()
    }
    fn probe(&self, key: &ProbeKey) -> Option<&Probe> {
        self.probes.get(key)
    }
    fn waiting<R>(&self, key: &FragKey, ask: impl FnOnce(&Waiting) -> R) -> Option<R> {
        lock(&self.waiting).get(key).map(ask)
    }
    fn waiting_make(&self, key: &FragKey) {
        lock(&self.waiting).entry(*key).or_default();
    }
    // Nobody asks for the copy: there is no loop here.
    fn hold<P: Packet>(&self, _: &P, key: &HeldKey) -> bool {
        lock(&self.held).insert(*key)
    }
    fn unhold(&self, key: &HeldKey) -> bool {
        lock(&self.held).remove(key)
    }
    fn count(&self, dest: u32, direction: Direction, bytes: u32) {
        if let Some(c) = self.stats.get(dest as usize) {
            c.packets[direction as usize].add(1);
            c.bytes[direction as usize].add(u64::from(bytes));
        }
    }
    fn count_conn(&self, dest: u32) {
        if let Some(c) = self.stats.get(dest as usize) {
            c.conns.add(1);
        }
    }
    fn counters(&self, dest: u32) -> Counters {
        Self::counters(self, dest)
    }
    fn rate(&self, place: u32) -> Option<&Rate> {
        self.rates.get(place as usize)
    }
    fn route(&self, query: &RouteQuery, into: &SharedHop) -> Result<(), Reason> {
        into.write(&self.route_of(query)?);
        Ok(())
    }
    fn route_to_client<F: Ip>(&self, to: &F::Addr, from: &F::Addr, ingress: u32) -> Result<Hop, Reason> {
        let (to, from, family) = (to.wide(), from.wide(), F::FAMILY);
        Ok(self.route_of(&RouteQuery { to, from, ingress, family, source: false })?.hop)
    }
    fn repeat<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
        for i in 0..count {
            if step(self, acc, i).is_break() {
                return;
            }
        }
    }
}

impl Memory for HostTables {
    fn settings(&self) -> &Settings {
        &self.settings
    }
    fn filter(&self, word: u32) -> Option<&Cell32> {
        self.filter.get(word as usize)
    }
    fn sched(&self, service: u32) -> Option<&SchedState> {
        self.sched.get(service as usize)
    }
    fn list(&self, at: u32) -> Option<&Cell64> {
        self.lists.get(at as usize)
    }
    fn dest(&self, dest: u32) -> Option<&Dest> {
        self.dests.get(dest as usize)
    }
    fn put_service(&self, key: &ServiceKey, service: Option<&Service>) {
        let mut by_key = self.services.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let Some(service) = service else {
            by_key.remove(key);
            return;
        };
        let at = self.services.used.fetch_add(1) as usize;
        let place = self.services.values.get(at);
        assert!(
            place.is_some_and(|place| place.set(*service).is_ok()),
            "more changes of services than are kept"
        );
        by_key.insert(*key, at);
    }
}
