//! What maps an instance has, and whether a pinned one is what it should be: the kernel opens whatever a file holds.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{MapData, MapError, MapType};
use lb_common::conn::{Bucket4, Bucket6};
use lb_common::dest::{Dest, SharedHop};
use lb_common::estimate::{self, Rate};
use lb_common::fragments::{FragKey, Ports};
use lb_common::local::{Other, Peer};
use lb_common::mark::{MOST, MarkRule};
use lb_common::probe::{Probe, ProbeKey};
use lb_common::sched::{CacheKey, Cached};
use lb_common::service::{SchedState, Service, ServiceKey};
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::tables::{Control, Counters, FILTER_BITS, LAYOUT};

use super::bpffs::outside;
use super::memory::{Access, Mapped};
use super::pieces::Pieces;
use super::sizes::RuleSizes;
use super::stats::{BOOK, Book};
use super::{syscall, types};

/// What a map has to be.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name in the object and in the pin directory.
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// How many elements; `None`: as [`super::sizes`] has it.
    pub(super) entries: Option<u32>,
    flags: u32,
}

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;
/// The kernel adds it to DEVMAPs by itself.
const RDONLY_PROG: u32 = 1 << 7;

const fn array(name: &'static str, value: usize, entries: Option<u32>) -> Spec {
    Spec { name, kind: MapType::Array, key: 4, value, entries, flags: MMAPABLE }
}
const fn hash(name: &'static str, key: usize, value: usize, entries: Option<u32>) -> Spec {
    Spec { name, kind: MapType::Hash, key, value, entries, flags: NO_PREALLOC }
}
const fn per_cpu(name: &'static str, value: usize, entries: Option<u32>) -> Spec {
    Spec { name, kind: MapType::PerCpuArray, key: 4, value, entries, flags: 0 }
}

/// A map of pieces, which [`PIECES`] describes.
const fn of_pieces(name: &'static str) -> Spec {
    Spec { name, kind: super::pieces::OUTER, key: 4, value: 4, entries: None, flags: 0 }
}

/// A client's hop: address, family, and the way there ([`SharedHop`]).
const CLIENT_HOP: usize = 16 + 8 + size_of::<SharedHop>();
/// Words of the address filter.
pub const FILTER_WORDS: usize = 1 << (FILTER_BITS - 5);

/// Maps of the rules: made by the first command that changes something. `settings` last: where it is, all are.
pub const RULES: [Spec; 9] = [
    array("filter", FILTER_WORDS * 4, Some(1)),
    hash("services", size_of::<ServiceKey>(), size_of::<Service>(), None),
    array("marks", size_of::<MarkRule>(), Some(2 * MOST)),
    array("sched", size_of::<SchedState>(), None),
    of_pieces("lists"),
    of_pieces("dests"),
    of_pieces("stats"),
    of_pieces("rates"),
    array("settings", size_of::<Settings>(), Some(1)),
];

/// Pieces of the maps that grow.
pub const PIECES: [Spec; 4] = [
    array("lists", 8, Some(lb_common::pieces::LISTS.len)),
    array("dests", size_of::<Dest>(), Some(lb_common::pieces::DESTS.len)),
    per_cpu("stats", size_of::<Counters>(), Some(lb_common::pieces::STATS.len)),
    array("rates", size_of::<Rate>(), Some(lb_common::pieces::RATES.len)),
];

/// The table in the map `conns6` ([`super::buckets`]).
pub const CONNS6: Spec = array("conns6", size_of::<Bucket6>(), None);

/// The control side's own map beside them.
pub const BOOKS: Spec = hash(BOOK, 4, size_of::<Book>(), None);

/// Maps of traffic: made by `attach`.
pub const TRAFFIC: [Spec; 15] = [
    array("conns4", size_of::<Bucket4>(), None),
    Spec { entries: Some(1), ..of_pieces("conns6") },
    hash("overflow4", 4, size_of::<Bucket4>(), None),
    hash("overflow6", 4, size_of::<Bucket6>(), None),
    hash("controls", 8, size_of::<Control>(), None),
    hash("calls", 8, size_of::<Call>(), None),
    Spec {
        name: "caches",
        kind: MapType::LruHash,
        key: size_of::<CacheKey>(),
        value: size_of::<Cached>(),
        entries: None,
        flags: 0,
    },
    Spec {
        name: "fragments",
        kind: MapType::LruHash,
        key: size_of::<FragKey>(),
        value: size_of::<Ports>(),
        entries: Some(8192),
        flags: 0,
    },
    Spec {
        name: "local_peers",
        kind: MapType::LruHash,
        key: size_of::<Peer>(),
        value: size_of::<Other>(),
        entries: Some(16384),
        flags: 0,
    },
    Spec {
        name: "probes",
        kind: MapType::LruHash,
        key: size_of::<ProbeKey>(),
        value: size_of::<Probe>(),
        entries: Some(8192),
        flags: 0,
    },
    per_cpu("client_hops", CLIENT_HOP, Some(4096)),
    hash("vlans", 4, 8, Some(1024)),
    Spec { name: "egress", kind: MapType::DevMapHash, key: 4, value: 8, entries: Some(1024), flags: 0 },
    per_cpu("reasons", 8, Some(64)),
    Spec { name: "sweeper", kind: MapType::Array, key: 4, value: 80, entries: Some(1), flags: 0 },
];

/// The spec of a map of the rules.
pub fn rules(name: &str) -> Result<&'static Spec> {
    RULES.iter().find(|spec| spec.name == name).with_context(|| format!("no map is called {name}"))
}

/// The spec of a map of traffic.
pub fn traffic(name: &str) -> Result<&'static Spec> {
    TRAFFIC.iter().find(|spec| spec.name == name).with_context(|| format!("no map is called {name}"))
}

impl Spec {
    /// Opens the pinned map, if there is one, and checks it.
    pub fn open(&self, dir: &Path) -> Result<Option<MapData>> {
        self.open_at(&dir.join(self.name))
    }

    /// The same, of a map pinned somewhere.
    pub fn open_at(&self, path: &Path) -> Result<Option<MapData>> {
        let map = match MapData::from_pin(path) {
            Ok(map) => map,
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(_) if !path.exists() => return Ok(None),
            Err(_) => bail!("{}: {}", outside(path).display(), self.foreign("no map at all")),
        };
        if !syscall::is_map(fd(&map)) {
            bail!("{}: {}", outside(path).display(), self.foreign("no map at all"));
        }
        let info = map.info().with_context(|| format!("asking about {}", path.display()))?;
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        let fits = info.map_type().is_ok_and(|kind| kind == self.kind)
            && found.0 == self.key
            && found.1 == self.value
            && self.entries.is_none_or(|entries| entries == found.2)
            && info.map_flags() & !RDONLY_PROG == self.flags;
        if !fits {
            let what = format!("a map of {} elements, {} bytes by {} bytes", found.2, found.1, found.0);
            bail!("{}: {}", outside(path).display(), self.foreign(&what));
        }
        Ok(Some(map))
    }

    /// The same with so many elements.
    pub const fn of(self, entries: u32) -> Self {
        Self { entries: Some(entries), ..self }
    }

    /// Makes such a map, of a size that is not left open.
    pub fn create(&self) -> io::Result<OwnedFd> {
        let entries = self.entries.ok_or(io::ErrorKind::InvalidInput)?;
        let value = self.value as u32;
        let types = syscall::load_types(&types::of_words(value))?;
        let sizes = [self.key as u32, value, entries, self.flags];
        syscall::create(self.kind as u32, self.name, sizes, Some(types.as_fd()))
    }

    /// As [`Spec::open`], where the map has to be there.
    pub fn require(&self, dir: &Path) -> Result<MapData> {
        self.open(dir)?.with_context(|| {
            format!(
                "{} is missing: `lb-user detach --purge` clears what is left",
                outside(&dir.join(self.name)).display()
            )
        })
    }

    fn foreign(&self, found: &str) -> String {
        format!(
            "not the balancer's {} but {found}; remove it, or clear all with `lb-user detach --purge`",
            self.name
        )
    }
}

/// How many elements a map has.
pub fn entries(map: &MapData) -> Result<u32> {
    Ok(map.info()?.max_entries())
}

/// A map's descriptor.
pub fn fd(map: &MapData) -> BorrowedFd<'_> {
    map.fd().as_fd()
}

/// The maps of the rules, open.
#[derive(Debug)]
pub struct Rules {
    /// Settings.
    pub settings: Mapped<Settings>,
    /// The address filter, in words.
    pub filter: Mapped<lb_common::cell::Cell32>,
    /// Services.
    pub services: MapData,
    /// Mark rules.
    pub marks: MapData,
    /// What schedulers remember.
    pub sched: Mapped<SchedState>,
    /// Lists and tables.
    pub lists: Pieces<Mapped<lb_common::cell::Cell64>>,
    /// Dests.
    pub dests: Pieces<Mapped<Dest>>,
    /// Counters.
    pub stats: Pieces<MapData>,
    /// Estimators: see [`Rules::rate`].
    pub rates: Pieces<Mapped<Rate>>,
    /// What counters are relative to.
    pub books: MapData,
}

impl Rules {
    /// Opens them. `None`: there are none.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let [filter, services, marks, sched, ..] = &RULES;
        let Some(settings) = settings(dir)? else { return Ok(None) };
        let [lists, dests, stats, rates] = &PIECES;
        Ok(Some(Self {
            settings,
            filter: map(&filter.require(dir)?, FILTER_WORDS)?,
            services: services.require(dir)?,
            marks: marks.require(dir)?,
            sched: map_whole(&sched.require(dir)?)?,
            lists: Pieces::open(dir, lists)?,
            dests: Pieces::open(dir, dests)?,
            stats: Pieces::open(dir, stats)?,
            rates: Pieces::open(dir, rates)?,
            books: BOOKS.require(dir)?,
        }))
    }

    /// Enters what a command that was killed has made. Only who changes the table does so.
    pub fn recover(&mut self) -> Result<()> {
        self.lists.recover()?;
        self.dests.recover()?;
        self.stats.recover()?;
        self.rates.recover()
    }

    /// Lets packets have the room that was made.
    pub fn enter(&mut self) -> Result<()> {
        self.lists.enter()?;
        self.dests.enter()?;
        self.stats.enter()?;
        self.rates.enter()
    }

    /// How many dests there may be, and services.
    pub fn sizes(&self) -> RuleSizes {
        RuleSizes::of_services(self.sched.all().len() as u32)
    }

    /// How many dests there is room for.
    pub fn dests_made(&self) -> u32 {
        self.dests.room().min(self.stats.room()).min(self.sizes().dests)
    }

    /// Makes room for so many dests.
    pub fn grow_dests(&mut self, dests: u32) -> Result<()> {
        self.dests.grow(dests)?;
        self.stats.grow(dests)
    }

    /// How many services there is room for.
    pub fn services_made(&self) -> u32 {
        estimate::services(self.rates.room()).min(self.sizes().services())
    }

    /// How many words of lists and tables there is room for.
    pub fn words_made(&self) -> u32 {
        self.lists.room().min(self.sizes().words())
    }

    /// A dest's estimator.
    pub fn rate(&self, dest: u32) -> Option<&Rate> {
        self.rates.get(estimate::of_dest(dest))
    }

    /// A service's.
    pub fn rate_of_service(&self, slot: u32) -> Option<&Rate> {
        self.rates.get(estimate::of_service(slot))
    }

    /// That of all together.
    pub fn rate_of_all(&self) -> Option<&Rate> {
        self.rates.get(estimate::TOTAL)
    }

    /// The settings.
    pub fn settings(&self) -> Result<&Settings> {
        self.settings.get(0).context("the settings map is empty")
    }
}

/// The settings, if there is a table and it has the layout this program knows.
pub fn settings(dir: &Path) -> Result<Option<Mapped<Settings>>> {
    let [.., settings] = &RULES;
    let Some(settings) = settings.open(dir)? else { return Ok(None) };
    let settings: Mapped<Settings> = map(&settings, 1)?;
    let layout = settings.get(0).map_or(0, |s| s.layout.load());
    ensure!(
        layout == LAYOUT,
        "the tables in {} have layout {layout}, this program knows {LAYOUT}: use the version that made them, or \
         start over with `lb-user detach --purge`",
        outside(dir).display()
    );
    Ok(Some(settings))
}

/// Maps an array of a size of its own.
pub fn map_whole<T: super::memory::Shared>(of: &MapData) -> Result<Mapped<T>> {
    map(of, entries(of)? as usize)
}

/// Maps an array for reading and writing.
pub fn map<T: super::memory::Shared>(map: &MapData, count: usize) -> Result<Mapped<T>> {
    Mapped::new(fd(map), count, Access::Write).context("mapping a table into memory")
}
