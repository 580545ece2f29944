//! The loaded program in the cases' world: a network namespace of its own with both cards, fixed neighbours and routes,
//! so that the program's route lookups are answered by the kernel. Packets go in by BPF_PROG_TEST_RUN. The maps that
//! user space may map are mapped: cells there are the cells the program works on.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, ptr, slice, thread};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::cell::{Cell32, Cell64};
use lb_common::conn::{Bucket4, Bucket6, Entry, Ways, ctl};
use lb_common::dest::Dest;
use lb_common::estimate::{self, Rate};
use lb_common::fragments::FragKey;
use lb_common::host::Memory;
use lb_common::ip::{Ip, V4, V6};
use lb_common::mark::{self, MarkRule};
use lb_common::pieces::{DESTS, LISTS, RATES, STATS};
use lb_common::probe::{Probe, ProbeKey};
use lb_common::reason::{COUNT, Reason};
use lb_common::request::{self, Request, verb};
use lb_common::sched::{CacheKey, Cached};
use lb_common::service::{SchedState, Service, ServiceKey};
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::sync::{self, Synced};
use lb_common::tables::Counters;
use lb_user::bpf::buckets;
use lb_user::bpf::memory;
use lb_user::bpf::pieces::{self, Pieces};
use lb_user::bpf::pins::{self, CONNS6, PIECES};
use lb_user::bpf::syscall;
use nix::sched::{CloneFlags, setns, unshare};

use crate::case::{Engine, FAMILIES, HOSTS, Live, NARROW_MTU, Nic, Outcome, ROUTER, Way};
use crate::need::{self, Missing};
use crate::net::xdp_pass;
use crate::own_bpffs::OwnBpffs;
use crate::run;

/// Buckets of each family in packet cases: few, so that a sweep is soon round.
pub const BUCKETS: u32 = 16;

/// How much of everything a loaded program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of the IPv4 and the IPv6 table: powers of two.
    pub buckets: [u32; 2],
    /// Second buckets of each.
    pub second: u32,
    /// Dest slots.
    pub dests: u32,
    /// Service slots.
    pub services: u32,
    /// Words of dest lists and scheduler tables.
    pub lists: u32,
}

impl Sizes {
    /// Enough for a packet case.
    pub const CASE: Self =
        Self { buckets: [BUCKETS; 2], second: 4, dests: 256, services: 64, lists: 1 << 17 };
}

/// Not what the kernel has: no kernel's clock is faster, so that in real time nothing runs out too early.
const HZ: u32 = 1000;

/// A loaded program and the namespace its world is in.
struct Loaded {
    sizes: Sizes,
    namespace: File,
    program: Program,
}

/// Programs no test uses at the moment. Loading one takes the verifier two seconds; emptying its maps, which every case
/// does first, takes none.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

impl Loaded {
    /// Loads the program in a new namespace of the calling thread.
    fn new(sizes: &Sizes) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        world()?;
        let namespace = File::open("/proc/thread-self/ns/net").context("the namespace")?;
        Ok(Self { sizes: *sizes, namespace, program: Program::of(lb_user::program::PROGRAM, sizes)? })
    }

    /// An idle one of these sizes, the calling thread in its namespace; or a new one.
    fn take(sizes: &Sizes) -> Result<Self> {
        let idle = {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.iter().position(|loaded| loaded.sizes == *sizes).map(|at| idle.swap_remove(at))
        };
        let Some(loaded) = idle else { return Self::new(sizes) };
        setns(&loaded.namespace, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
        Ok(loaded)
    }

    /// The next test may have it, unless its sweep goes on.
    fn give_back(self) {
        if !self.program.sweeps.load(Ordering::Relaxed) {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
    }
}

/// Runs `body` with the program loaded for packet cases, in a namespace of its own.
pub fn with<T: Send>(body: impl FnOnce(&mut Program) -> Result<T> + Send) -> Result<T> {
    with_sizes(&Sizes::CASE, body)
}

/// The same with tables of other sizes.
pub fn with_sizes<T: Send>(sizes: &Sizes, body: impl FnOnce(&mut Program) -> Result<T> + Send) -> Result<T> {
    need::root()?;
    need::programs(&["ip"])?;
    if lb_user::program::PROGRAM.is_empty() {
        return Err(Missing::new("the kernel program: build without LB_SKIP_BPF").into());
    }
    let inside = || -> Result<T> {
        let mut loaded = Loaded::take(sizes)?;
        // A program that failed is not used again.
        let result = body(&mut loaded.program)?;
        loaded.give_back();
        Ok(result)
    };
    match thread::scope(|scope| scope.spawn(inside).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The cards and the neighbours of the cases' world, in the thread's namespace.
fn world() -> Result<()> {
    let mut lines = String::from("link set lo up\n");
    for nic in Nic::ALL {
        cable(&mut lines, nic)?;
    }
    run::run_with(Command::new("ip").args(["-batch", "-"]), lines.as_bytes(), run::LIMIT)?.ok()?;
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{file}"), "1").with_context(|| format!("setting {file}"))?;
    }
    let mut lines = String::new();
    for nic in Nic::ALL {
        neighbours(&mut lines, nic)?;
    }
    run::run_with(Command::new("ip").args(["-batch", "-"]), lines.as_bytes(), run::LIMIT)?.ok()?;
    Nic::ALL.iter().try_for_each(|nic| xdp_pass::attach(nic.name()))
}

fn cable(lines: &mut String, nic: Nic) -> Result<()> {
    let (name, net) = (nic.name(), nic.net());
    let mac = mac(nic.mac());
    writeln!(lines, "link add {name} address {mac} type veth peer name {name}-peer")?;
    writeln!(lines, "link set {name}-peer up\nlink set {name} up")?;
    writeln!(lines, "address add 10.{net}.0.1/16 dev {name}")?;
    writeln!(lines, "address add fd0{net}::1/64 dev {name} nodad")?;
    Ok(())
}

fn neighbours(lines: &mut String, nic: Nic) -> Result<()> {
    let name = nic.name();
    for family in FAMILIES {
        for host in HOSTS {
            let (address, mac) = (nic.host(family, host), mac(nic.host_mac(host)));
            writeln!(lines, "neighbour replace {address} lladdr {mac} dev {name} nud permanent")?;
        }
    }
    if nic == Nic::Front {
        for (family, net) in FAMILIES.iter().zip(["192.0.2.0/24", "2001:db8::/64"]) {
            writeln!(lines, "route add {net} via {} dev {name}", nic.host(*family, ROUTER))?;
        }
        for (family, net) in FAMILIES.iter().zip(["198.18.0.0/24", "2001:db8:1::/64"]) {
            let router = nic.host(*family, ROUTER);
            writeln!(lines, "route add {net} via {router} dev {name} mtu lock {NARROW_MTU}")?;
        }
    }
    Ok(())
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A value of ours in a map, as bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);
// SAFETY: used with types of lb-common that are integers throughout, without padding.
unsafe impl<T: Copy + 'static> aya::Pod for Plain<T> {}

/// A map's memory.
pub(crate) struct Mapped {
    start: *mut u8,
    len: usize,
}

// SAFETY: it is reached through cells only.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// The first `len` bytes of an object's map.
    pub(crate) fn of(ebpf: &Ebpf, name: &str, len: usize) -> Result<Self> {
        Self::new(&data(ebpf, name)?, len)
    }

    fn new(map: &MapData, len: usize) -> Result<Self> {
        // SAFETY: a fresh mapping of a descriptor that is open.
        let start = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), len, prot, libc::MAP_SHARED, map.fd().as_fd().as_raw_fd(), 0)
        };
        ensure!(start != libc::MAP_FAILED, "mapping a map: {}", io::Error::last_os_error());
        Ok(Self { start: start.cast(), len })
    }

    /// As values one after the other.
    pub(crate) fn all<T>(&self) -> &[T] {
        // SAFETY: the callers name the map's own value type, whose shared words are cells; a mapping is page-aligned
        // and as long as it says.
        unsafe { slice::from_raw_parts(self.start.cast(), self.len / size_of::<T>()) }
    }

    fn clear(&self) {
        self.all::<Cell32>().iter().for_each(|cell| cell.store(0));
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

type Services = HashMap<MapData, Plain<ServiceKey>, Plain<Service>>;

/// The maps of a loaded program.
pub struct Maps {
    settings: Mapped,
    filter: Mapped,
    sched: Mapped,
    lists: Pieces<memory::Mapped<Cell64>>,
    dests: Pieces<memory::Mapped<Dest>>,
    stats: Pieces<MapData>,
    _rates: Pieces<memory::Mapped<Rate>>,
    /// Dests used of those there are.
    used: u32,
    conns4: Mapped,
    conns6: Mapped,
    services: Mutex<Services>,
    others: BTreeMap<&'static str, MapData>,
}

const FILTER: usize = 8192;
/// Maps that are reached by system calls only, emptied before each case.
const HASHES: [&str; 8] =
    ["overflow4", "overflow6", "controls", "calls", "fragments", "waiting", "caches", "probes"];
/// A [`Cached`] in words: when it was used, when it changed, dests.
type CachedWords = [u32; size_of::<Cached>() / 4];
/// A [`Probe`] in double words.
type ProbeWords = [u64; Probe::WORDS];

impl Maps {
    fn take(ebpf: &mut Ebpf, sizes: &Sizes) -> Result<Self> {
        let mapped = |name, len| Mapped::of(ebpf, name, len);
        let maps = Self {
            settings: mapped("settings", size_of::<Settings>())?,
            filter: mapped("filter", FILTER)?,
            sched: mapped("sched", size_of::<SchedState>() * sizes.services as usize)?,
            lists: grown(ebpf, "lists", sizes.lists)?,
            dests: grown(ebpf, "dests", sizes.dests)?,
            stats: grown(ebpf, "stats", sizes.dests)?,
            _rates: grown(ebpf, "rates", estimate::places(sizes.dests))?,
            used: sizes.dests,
            conns4: mapped("conns4", size_of::<Bucket4>() * sizes.buckets[0] as usize)?,
            conns6: Mapped::new(
                &first_inner(&data(ebpf, "conns6")?)?,
                size_of::<Bucket6>() * sizes.buckets[1] as usize,
            )?,
            services: Mutex::new(HashMap::try_from(Map::HashMap(data(ebpf, "services")?))?),
            others: BTreeMap::new(),
        };
        let names = HASHES.into_iter().chain(["marks", "reasons", "sweeper"]);
        let others = names.map(|name| Ok((name, data(ebpf, name)?))).collect::<Result<_>>()?;
        Ok(Self { others, ..maps })
    }

    fn dests(&self) -> impl Iterator<Item = &Dest> {
        self.dests.range(0, self.used)
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn other(&self, name: &str) -> Result<&MapData> {
        self.others.get(name).with_context(|| format!("no map {name}"))
    }

    /// Packets per reason.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        let map = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(again(self.other("reasons")?)?))?;
        (0..COUNT as u32).map(|reason| Ok(map.get(&reason, 0)?.iter().sum())).collect()
    }

    /// Entries the sweep has found live in its last whole round, IPv4 and IPv6: what `status` shows.
    pub fn found_live(&self) -> Result<[u32; 2]> {
        let map = Array::<_, [u32; 20]>::try_from(Map::Array(again(self.other("sweeper")?)?))?;
        let words = map.get(&0, 0)?;
        // Behind a timer of 16 bytes, and place and count of the round that goes on.
        Ok([words[8], words[9]])
    }

    /// Second buckets, copied.
    fn second<B>(&self, name: &str) -> Result<Vec<[u64; 32]>> {
        const { assert!(size_of::<B>() == 256) };
        let map = HashMap::<_, u32, [u64; 32]>::try_from(Map::HashMap(again(self.other(name)?)?))?;
        map.iter().map(|item| Ok(item?.1)).collect()
    }

    /// What lblc and lblcr remember becomes older.
    fn age_caches(&self, seconds: u32) -> Result<()> {
        let map = Map::LruHashMap(again(self.other("caches")?)?);
        let mut map = HashMap::<_, Plain<CacheKey>, CachedWords>::try_from(map)?;
        for entry in map.iter().collect::<Result<Vec<_>, _>>()? {
            let (key, mut words) = entry;
            words[..2].iter_mut().for_each(|when| *when = when.wrapping_sub(seconds));
            map.insert(key, words, 0)?;
        }
        Ok(())
    }

    /// What is in further buckets becomes older.
    fn age_second(&self, ticks: u32) -> Result<()> {
        for name in ["overflow4", "overflow6"] {
            let mut map = HashMap::<_, u32, [u64; 32]>::try_from(Map::HashMap(again(self.other(name)?)?))?;
            for entry in map.iter().collect::<Result<Vec<_>, _>>()? {
                let (key, words) = entry;
                // SAFETY: a bucket is 256 bytes of cells, which any words are, and the other way round.
                let words = unsafe {
                    if name == "overflow4" {
                        let bucket = std::mem::transmute::<[u64; 32], Bucket4>(words);
                        age::<V4>(&bucket, ticks);
                        std::mem::transmute::<Bucket4, [u64; 32]>(bucket)
                    } else {
                        let bucket = std::mem::transmute::<[u64; 32], Bucket6>(words);
                        age::<V6>(&bucket, ticks);
                        std::mem::transmute::<Bucket6, [u64; 32]>(bucket)
                    }
                };
                map.insert(key, words, 0)?;
            }
        }
        Ok(())
    }

    /// Everything in the connection table.
    pub fn live(&self) -> Result<Vec<Live>> {
        let mut live = Vec::new();
        self.conns4.all::<Bucket4>().iter().for_each(|b| live.extend(crate::host::live_in::<V4>(b)));
        self.conns6.all::<Bucket6>().iter().for_each(|b| live.extend(crate::host::live_in::<V6>(b)));
        for words in self.second::<Bucket4>("overflow4")? {
            // SAFETY: a bucket is 256 bytes of cells, which any words are.
            live.extend(crate::host::live_in::<V4>(&unsafe {
                std::mem::transmute::<[u64; 32], Bucket4>(words)
            }));
        }
        for words in self.second::<Bucket6>("overflow6")? {
            // SAFETY: as above.
            live.extend(crate::host::live_in::<V6>(&unsafe {
                std::mem::transmute::<[u64; 32], Bucket6>(words)
            }));
        }
        Ok(live)
    }
}

/// A map of the object by name, a descriptor of our own.
fn data(ebpf: &Ebpf, name: &str) -> Result<MapData> {
    let map = ebpf.map(name).with_context(|| format!("no map {name}"))?;
    match map {
        Map::Array(d) | Map::HashMap(d) | Map::LruHashMap(d) | Map::PerCpuArray(d) | Map::ArrayOfMaps(d) => {
            again(d)
        }
        other => bail!("map {name} is of another kind: {other:?}"),
    }
}

/// Makes a dest's slot as it was at first.
fn forget(dest: &Dest) {
    // SAFETY: a dest is cells throughout, and any words are one.
    let words = unsafe {
        slice::from_raw_parts(ptr::from_ref(dest).cast::<Cell32>(), size_of::<Dest>() / size_of::<Cell32>())
    };
    words.iter().for_each(|cell| cell.store(0));
}

/// A map of pieces with room for so many elements.
fn grown<P: pieces::Piece>(ebpf: &Ebpf, name: &str, elements: u32) -> Result<Pieces<P>> {
    let spec = PIECES.iter().find(|spec| spec.name == name).context("a map that does not grow")?;
    let outer = data(ebpf, name)?;
    let mut map = match pieces::first_of(name) {
        Some(first) => Pieces::over(spec, outer, data(ebpf, first)?)?,
        None => Pieces::make(None, spec, outer)?,
    };
    map.grow(elements)?;
    map.enter()?;
    Ok(map)
}

/// The map for the table of IPv6, with the table.
fn table_v6(buckets: u32) -> Result<MapData> {
    let outer =
        MapData::from_fd(buckets::outer(buckets).context("creating the map for connections of IPv6")?)?;
    let table = CONNS6.of(buckets).create().context("creating the table of IPv6")?;
    syscall::update(pins::fd(&outer), &0u32, &(table.as_raw_fd() as u32))
        .context("entering the table of IPv6")?;
    Ok(outer)
}

/// The first map in a map of maps.
fn first_inner(outer: &MapData) -> Result<MapData> {
    let id: Option<u32> = syscall::lookup(pins::fd(outer), &0u32)?;
    Ok(MapData::from_id(id.context("there is no map in it")?)?)
}

fn again(map: &MapData) -> Result<MapData> {
    Ok(MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?)
}

impl Memory for Maps {
    fn settings(&self) -> &Settings {
        &self.settings.all()[0]
    }
    fn filter(&self, word: u32) -> Option<&Cell32> {
        self.filter.all().get(word as usize)
    }
    fn sched(&self, service: u32) -> Option<&SchedState> {
        self.sched.all().get(service as usize)
    }
    fn list(&self, at: u32) -> Option<&Cell64> {
        self.lists.get(at)
    }
    fn dest(&self, dest: u32) -> Option<&Dest> {
        self.dests.get(dest)
    }
    fn put_service(&self, key: &ServiceKey, service: Option<&Service>) {
        let mut services = self.services();
        let done = match service {
            Some(service) => services.insert(Plain(*key), Plain(*service), 0),
            None => services.remove(&Plain(*key)),
        };
        assert!(done.is_ok(), "the services map does not take it: {done:?}");
    }
}

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
    maps: Maps,
    cards: [u32; 2],
    /// Of each dest, when the case began.
    counters: BTreeMap<u32, Counters>,
    /// Was the sweep started?
    sweeps: AtomicBool,
    /// Open as long as programs are called through it.
    _stages: ProgramArray<MapData>,
}

impl Program {
    /// The program of this object, loaded for the calling thread's namespace.
    pub fn of(object: &[u8], sizes: &Sizes) -> Result<Self> {
        let Sizes { buckets: [v4, v6], second, dests, services, lists } = *sizes;
        let mut loader = EbpfLoader::new();
        for (map, size) in [("conns4", v4), ("overflow4", second), ("overflow6", second)] {
            loader.map_max_entries(map, size);
        }
        let (place, conns6) = (OwnBpffs::new()?, table_v6(v6)?);
        conns6.pin(place.path("conns6")).context("pinning the map for connections of IPv6")?;
        loader.map_pin_path("conns6", place.path("conns6"));
        for (map, size) in [("sched", services), ("services", services)] {
            loader.map_max_entries(map, size);
        }
        for (map, size) in [
            ("dests", DESTS.count(dests)),
            ("stats", STATS.count(dests)),
            ("rates", RATES.count(estimate::places(dests))),
            ("lists", LISTS.count(lists)),
        ] {
            loader.map_max_entries(map, size);
        }
        loader.map_max_entries("caches", 8192).map_max_entries("controls", 512).map_max_entries("calls", 512);
        let masks = [v4 - 1, v6 - 1];
        loader.override_global("BUCKET_MASK_V4", &masks[0], true);
        loader.override_global("BUCKET_MASK_V6", &masks[1], true);
        let mut ebpf = loader.load(object).context("loading the object")?;
        let stages = lb_user::program::load_stages(&mut ebpf, &["lb_output", "lb_control"])?;
        let maps = Maps::take(&mut ebpf, sizes)?;
        let cards = Nic::ALL.map(|nic| number(nic.name()));
        let sweeps = AtomicBool::new(false);
        Ok(Self { ebpf, maps, cards, counters: BTreeMap::new(), sweeps, _stages: stages })
    }

    /// The program, to be run by several threads at a time.
    pub fn lb(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("lb").context("no program lb")?.try_into()?)
    }

    /// Its maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// A card's number.
    pub fn card(&self, nic: Nic) -> u32 {
        self.cards[nic as usize]
    }

    /// Starts the expiry sweep.
    pub fn start_sweep(&self) -> Result<()> {
        self.sweeps.store(true, Ordering::Relaxed);
        let control: &Xdp = self.ebpf.program("lb_control").context("no program lb_control")?.try_into()?;
        let request = Request::bytes(verb::START_SWEEP, 0, 0);
        let answer = control.test_run(TestRunOptions { data_in: Some(&request), ..TestRunOptions::new() })?;
        ensure!(
            answer.return_value == request::status::DONE,
            "the sweep does not start: {}",
            answer.return_value
        );
        Ok(())
    }

    fn raw_counters(&self, dest: u32) -> Result<Counters> {
        let (piece, at) = self.maps.stats.place(dest).context("no counters")?;
        let map = PerCpuArray::<_, Plain<Counters>>::try_from(Map::PerCpuArray(again(piece)?))?;
        Ok(map.get(&at, 0)?.iter().fold(Counters::default(), |sum, one| sum.plus(one.0)))
    }
}

/// The number of a card of the thread's namespace; 0 if there is none.
pub fn number(card: &str) -> u32 {
    let name = CString::new(card).unwrap_or_default();
    // SAFETY: a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Runs a frame through a program: verdict and frame.
pub fn test_run(program: &Xdp, card: u32, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, card, 0, 0].map(u32::to_ne_bytes).concat();
    let mut out = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::new()
    };
    let answer = program.test_run(options).with_context(|| format!("running {} bytes", frame.len()))?;
    out.truncate(answer.data_size_out as usize);
    Ok((answer.return_value, out))
}

impl Engine for Program {
    type Memory = Maps;
    const NAME: &'static str = "loaded program";

    fn memory(&self) -> &Maps {
        &self.maps
    }

    fn reset(&mut self) -> Result<()> {
        let maps = &self.maps;
        let change = maps.settings().services_change.load();
        for map in [&maps.filter, &maps.sched, &maps.conns4, &maps.conns6, &maps.settings] {
            map.clear();
        }
        maps.dests().for_each(forget);
        let mut services = maps.services();
        for key in services.keys().collect::<Result<Vec<_>, _>>()? {
            services.remove(&key)?;
        }
        HASHES.iter().try_for_each(|name| empty(maps.other(name)?))?;
        maps.settings().set_defaults(HZ);
        maps.settings().table_key.set(&lb_common::host::TABLE_KEY);
        // What the program remembers of services outlives them.
        maps.settings().services_change.store(change);
        maps.settings().services_changed();
        drop(services);
        for dest in 0..16 {
            let now = self.raw_counters(dest)?;
            self.counters.insert(dest, now);
        }
        Ok(())
    }

    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<Outcome> {
        let before = self.maps.reasons()?;
        let (verdict, frame) = test_run(self.lb()?, self.card(nic), frame)?;
        let after = self.maps.reasons()?;
        let moved: Vec<usize> = (0..COUNT).filter(|reason| after[*reason] != before[*reason]).collect();
        let [reason] = moved[..] else { bail!("{} reasons were counted for one packet", moved.len()) };
        ensure!(after[reason] == before[reason] + 1, "one packet was counted more than once");
        let way = match verdict {
            1 => Way::Drop,
            2 => Way::Pass,
            3 => Way::Transmit,
            4 => Way::Redirect,
            other => bail!("verdict {other}"),
        };
        Ok(Outcome { way, reason: Reason::ALL[reason], frame })
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        const UNSPEC: u32 = u32::MAX;
        let changed = |maps: &Maps| {
            let reasons = maps.reasons()?;
            Ok::<_, anyhow::Error>(reasons[Reason::Replied as usize] + reasons[Reason::ProbeSent as usize])
        };
        let before = changed(&self.maps)?;
        let program: &SchedClassifier =
            self.ebpf.program("lb_output").context("no program lb_output")?.try_into()?;
        let mut out = vec![0; frame.len() + 128];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let answer = program.test_run(options).with_context(|| format!("sending by {}", nic.name()))?;
        ensure!(answer.return_value == UNSPEC, "the classifier says {}", answer.return_value);
        out.truncate(answer.data_size_out as usize);
        match changed(&self.maps)? - before {
            0 => ensure!(out == frame, "changed, but not counted"),
            _ => return Ok(Some(out)),
        }
        Ok(None)
    }

    fn now(&self) -> Result<u32> {
        Ok(syscall::ticks()?)
    }

    fn pass_time(&mut self, seconds: u32) {
        // The kernel's clock is not ours to set: everything becomes older instead.
        let ticks = seconds * HZ;
        self.maps.conns4.all::<Bucket4>().iter().for_each(|bucket| age::<V4>(bucket, ticks));
        self.maps.conns6.all::<Bucket6>().iter().for_each(|bucket| age::<V6>(bucket, ticks));
        self.maps.dests().for_each(|dest| dest.hop.age(seconds, ticks));
        self.maps.settings().age(ticks);
        let aged = self.maps.age_caches(seconds).and_then(|()| self.maps.age_second(ticks));
        assert!(aged.is_ok(), "what is reached by system calls cannot be made older: {aged:?}");
    }

    fn set_marks(&mut self, rules: &[MarkRule]) -> Result<()> {
        let cell = &self.maps.settings().mark_rules;
        // Where nobody reads, as the control side does it.
        let half = 1 - (cell.load() >> 31);
        let map = again(self.maps.other("marks")?)?;
        let mut map = Array::<_, Plain<MarkRule>>::try_from(Map::Array(map))?;
        for (rule, at) in rules.iter().zip(half * mark::MOST..) {
            map.set(at, Plain(*rule), 0)?;
        }
        cell.store(mark::word(half, rules.len() as u32));
        Ok(())
    }

    fn set_probe(&mut self, key: ProbeKey, probe: Probe) -> Result<()> {
        let map = Map::LruHashMap(again(self.maps.other("probes")?)?);
        HashMap::<_, Plain<ProbeKey>, ProbeWords>::try_from(map)?.insert(Plain(key), probe.words(), 0)?;
        Ok(())
    }

    fn sweep(&mut self) -> Result<()> {
        self.start_sweep()?;
        // A bucket in four milliseconds, and the timer may be late.
        let until = Instant::now() + Duration::from_millis(4) * (BUCKETS * 2 + 10);
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn adopt(&mut self, synced: &Synced, call: &Call) -> Result<sync::Outcome> {
        let control: &Xdp = self.ebpf.program("lb_control").context("no program lb_control")?.try_into()?;
        // Behind the only one: what becomes of others must not depend on it.
        let mut request = Request::bytes(verb::ADOPT, 1, 0)[..request::HEAD].to_vec();
        request.extend(synced.bytes());
        request.extend(call.plain());
        let (answer, out) = test_run(control, self.cards[0], &request)?;
        ensure!(answer == request::status::DONE, "the request is answered by {answer}");
        let at = request::HEAD + Synced::OUTCOME;
        let word = out.get(at..at + 4).and_then(|word| word.try_into().ok()).context("a short answer")?;
        sync::Outcome::from_number(u32::from_ne_bytes(word)).context("an outcome nobody knows")
    }

    fn counters(&self, dest: u32) -> Result<Counters> {
        let before = self.counters.get(&dest).copied().unwrap_or_default();
        Ok(self.raw_counters(dest)?.since(before))
    }

    fn live(&self) -> Result<Vec<Live>> {
        self.maps.live()
    }
}

fn age<F: Ip>(bucket: &F::Bucket, ticks: u32) {
    for way in 0..F::Entry::WAYS {
        let life = bucket.way(way).life();
        if ctl::is_live(life.ctl.load()) {
            life.last.store(life.last.load().wrapping_sub(ticks));
        }
    }
}

/// Takes everything out of a hash map, whatever its key.
fn empty(map: &MapData) -> Result<()> {
    let info = map.info()?;
    match (info.key_size(), info.value_size()) {
        (4, 256) => empty_map::<u32, [u64; 32]>(map),
        (8, 8) => empty_map::<u64, u64>(map),
        (24, 64) => empty_map::<Plain<ProbeKey>, ProbeWords>(map),
        (24, 72) => empty_map::<Plain<CacheKey>, CachedWords>(map),
        (8, 280) => empty_map::<u64, [u64; 35]>(map),
        (40, 8) => empty_map::<Plain<FragKey>, u64>(map),
        (40, 16) => empty_map::<Plain<FragKey>, [u64; 2]>(map),
        sizes => bail!("a map of sizes nobody knows: {sizes:?}"),
    }
}

fn empty_map<K: aya::Pod, V: aya::Pod>(map: &MapData) -> Result<()> {
    let kind = map.info()?.map_type()?;
    let map = again(map)?;
    let map =
        if matches!(kind, aya::maps::MapType::LruHash) { Map::LruHashMap(map) } else { Map::HashMap(map) };
    let mut map = HashMap::<_, K, V>::try_from(map)?;
    for key in map.keys().collect::<Result<Vec<_>, _>>()? {
        map.remove(&key)?;
    }
    Ok(())
}
