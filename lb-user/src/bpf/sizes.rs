//! How large the maps are made, and how large those may grow that do ([`super::pieces`]). That is for good.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lb_common::conn::bound;
use lb_common::estimate;
use lb_common::ip::{V4, V6};
use lb_common::pieces;
use lb_common::table::{MOST_BUCKETS, most_further};

use super::bpffs::outside;
use super::pins::{self, BOOKS, RULES, Spec, TRAFFIC};

/// How much room somebody asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// For IPv4 connections.
    pub connections: Option<u32>,
    /// For IPv6 connections.
    pub connections_v6: Option<u32>,
    /// For dests.
    pub dests: Option<u32>,
}

/// Dests to a service.
const PER_SERVICE: u32 = 8;
/// Words of lists and scheduler tables for each dest that there may be.
const WORDS: u32 = 32;
/// Bytes that every dest that there may be takes before there is one: its and its service's places in hash tables, an eighth of
/// a service's cursors.
const BEFORE: u64 = 48;

/// Of the maps of services and dests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSizes {
    /// As many dests as there may be: a power of two.
    pub dests: u32,
}

impl RuleSizes {
    /// If nobody says how many.
    const USUAL: u32 = 1 << 17;
    /// As few as can be asked for.
    const LEAST: u32 = 1 << 10;
    /// As many: what names a dest has no more bits.
    pub const MOST: u32 = bound::DEST + 1;

    /// For so many dests at least.
    pub fn of(dests: u32) -> Self {
        Self { dests: dests.clamp(Self::LEAST, Self::MOST).next_power_of_two() }
    }

    /// Of a table with room for so many services.
    pub fn of_services(services: u32) -> Self {
        Self { dests: services.saturating_mul(PER_SERVICE) }
    }

    /// Services: one for eight dests.
    pub fn services(&self) -> u32 {
        self.dests / PER_SERVICE
    }

    /// Words for dest lists and scheduler tables.
    pub fn words(&self) -> u32 {
        self.dests * WORDS
    }

    /// Elements of a map, if they depend on this.
    pub fn of_map(&self, name: &str) -> Option<u32> {
        Some(match name {
            "services" | "sched" => self.services(),
            "dests" => pieces::DESTS.count(self.dests),
            "stats" => pieces::STATS.count(self.dests),
            "lists" => pieces::LISTS.count(self.words()),
            "rates" => pieces::RATES.count(estimate::places(self.dests)),
            name if name == BOOKS.name => self.dests + self.services(),
            _ => return None,
        })
    }

    /// As asked, where nothing contradicts; as they are; else as usual.
    pub fn choose(dir: &Path, asked: Option<u32>) -> Result<Self> {
        match (Self::present(dir)?, asked.map(Self::of)) {
            (Some(present), asked) => {
                ensure!(
                    asked.is_none_or(|asked| asked == present),
                    "there may be {} servers since the first rule was made; to change that, start over with \
                     `lb-user detach --purge`",
                    present.dests
                );
                Ok(present)
            }
            (None, Some(asked)) => asked.fit_memory().map(|()| asked),
            (None, None) => Ok(Self { dests: Self::USUAL }),
        }
    }

    /// Is there memory for what is made beforehand?
    fn fit_memory(&self) -> Result<()> {
        let wanted = u64::from(self.dests) * BEFORE;
        fits(wanted, || format!("{} servers", self.dests))
    }

    /// Of the maps that are there. `None`: there are none.
    pub fn present(dir: &Path) -> Result<Option<Self>> {
        if pins::settings(dir)?.is_none() {
            return Ok(None);
        }
        let found = found(dir, RULES.iter().chain([&BOOKS]))?;
        let sizes = Self::of_services(found.get("services").copied().unwrap_or_default());
        let whole = found.iter().all(|(name, size)| sizes.of_map(name).is_none_or(|of| of == *size));
        ensure!(
            whole && sizes.dests.is_power_of_two() && sizes.dests <= Self::MOST,
            "the tables of services in {} do not fit each other: `lb-user detach --purge` clears them",
            outside(dir).display()
        );
        Ok(Some(sizes))
    }
}

/// Of the maps of connections and traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Buckets of the IPv4 table.
    pub buckets_v4: u32,
    /// Buckets of the IPv6 table.
    pub buckets_v6: u32,
}

/// Slots per connection wanted: an eight-way table is comfortable up to half full.
const SPARE: u64 = 2;
/// The IPv6 table's part of the connections.
const V6_SHARE: u32 = 4;
/// IPv6 buckets to a further one ([`most_further`]): by those it is known how many first ones there are to be.
const V6_FURTHER: u32 = 4;
/// As few IPv6 buckets as that holds for.
const LEAST_V6: u32 = 256;
const _: () = assert!(most_further::<V6>(LEAST_V6) * V6_FURTHER == LEAST_V6);

impl Sizes {
    /// For so many IPv4 connections, and so many in IPv6: a quarter, if nobody says how many.
    pub fn of(v4: u32, v6: Option<u32>) -> Self {
        let buckets = |connections: u32, ways: u64| {
            let slots = u64::from(connections) * SPARE;
            slots.div_ceil(ways).next_power_of_two().clamp(64, u64::from(MOST_BUCKETS)) as u32
        };
        let buckets_v6 = buckets(v6.unwrap_or(v4 / V6_SHARE), 4).max(LEAST_V6);
        Self { buckets_v4: buckets(v4, 8), buckets_v6 }
    }

    /// IPv4 connections where nobody says how many: one per 32 KiB of memory, a million at the most.
    pub fn usual() -> u32 {
        (memory() >> 15).clamp(16_384, 1 << 20) as u32
    }

    /// IPv4 connections the table is made for.
    pub fn connections_v4(&self) -> u64 {
        u64::from(self.buckets_v4) * 8 / SPARE
    }

    /// IPv6 connections the table is made for.
    pub fn connections_v6(&self) -> u64 {
        u64::from(self.buckets_v6) * 4 / SPARE
    }

    /// Is there memory for the buckets?
    pub fn fit_memory(&self) -> Result<()> {
        let wanted = (u64::from(self.buckets_v4) + u64::from(self.buckets_v6)) * 256;
        fits(wanted, || format!("{} connections", self.connections_v4() + self.connections_v6()))
    }

    /// Is there memory for those of IPv6?
    pub fn fit_v6(&self) -> Result<()> {
        fits(u64::from(self.buckets_v6) * 256, || format!("{} connections of IPv6", self.connections_v6()))
    }

    /// Elements of a map, if they depend on this.
    pub fn of_map(&self, name: &str) -> Option<u32> {
        let connections = self.connections_v4().max(self.connections_v6());
        Some(match name {
            "conns4" => self.buckets_v4,
            "overflow4" => most_further::<V4>(self.buckets_v4),
            "overflow6" => most_further::<V6>(self.buckets_v6),
            "caches" => (connections / 64).clamp(8192, 32_768) as u32,
            "controls" => (connections / 4).max(64) as u32,
            "calls" => (connections / 16).max(64) as u32,
            _ => return None,
        })
    }

    /// Of the tables that are there. `None`: there are none, or not all.
    pub fn present(dir: &Path) -> Result<Option<Self>> {
        let found = found(dir, TRAFFIC.iter())?;
        if found.len() < TRAFFIC.len() {
            return Ok(None);
        }
        let of = |name: &str| found.get(name).copied().unwrap_or_default();
        let sizes = Self { buckets_v4: of("conns4"), buckets_v6: of("overflow6").saturating_mul(V6_FURTHER) };
        let whole = sizes.buckets_v4.is_power_of_two()
            && sizes.buckets_v6.is_power_of_two()
            && found.iter().all(|(name, size)| sizes.of_map(name).is_none_or(|of| of == *size));
        ensure!(
            whole,
            "the connection tables in {} do not fit each other: `lb-user detach --purge` clears them",
            outside(dir).display()
        );
        Ok(Some(sizes))
    }
}

/// Elements of those maps that are there.
fn found<'a>(dir: &Path, specs: impl Iterator<Item = &'a Spec>) -> Result<BTreeMap<&'static str, u32>> {
    let mut found = BTreeMap::new();
    for spec in specs {
        if let Some(map) = spec.open(dir)? {
            found.insert(spec.name, pins::entries(&map)?);
        }
    }
    Ok(found)
}

/// The machine's memory, in bytes.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as usize as u64) * u64::from(info.mem_unit)
}

/// Tables that take all memory would have the kernel kill processes.
fn fits(wanted: u64, what: impl FnOnce() -> String) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    ensure!(
        kib.is_none_or(|kib| wanted < kib << 10),
        "room for {} takes {} MiB of memory, of which {} are available: ask for fewer",
        what(),
        wanted / MIB,
        kib.unwrap_or_default() >> 10
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RuleSizes, Sizes};

    #[test]
    fn rules_as_asked() {
        assert_eq!(RuleSizes::of(100_000).dests, 131_072);
        assert_eq!(RuleSizes::of(1).dests, 1024);
        assert_eq!(RuleSizes::of(u32::MAX).dests, 1 << 20);
        let sizes = RuleSizes::of(1 << 17);
        assert_eq!(sizes.of_map("services"), Some(16_384));
        assert_eq!(sizes, RuleSizes::of_services(16_384));
        assert_eq!(sizes.words(), 1 << 22);
        for (map, pieces) in [("lists", 32), ("dests", 16), ("stats", 16), ("rates", 19)] {
            assert_eq!(sizes.of_map(map), Some(pieces), "{map}");
        }
        assert_eq!(RuleSizes::of(1).of_map("lists"), Some(1));
        assert_eq!(sizes.of_map("books"), Some(131_072 + 16_384));
        assert_eq!(sizes.of_map("marks"), None);
    }

    #[test]
    fn connections() {
        let sizes = Sizes::of(1 << 20, None);
        assert_eq!(sizes, Sizes { buckets_v4: 1 << 18, buckets_v6: 1 << 17 });
        assert_eq!((sizes.connections_v4(), sizes.connections_v6()), (1 << 20, 1 << 18));
        assert_eq!(Sizes::of(1, None), Sizes { buckets_v4: 64, buckets_v6: 256 });
        assert_eq!(Sizes::of(100_000, None).buckets_v4, 32_768);
        assert_eq!(Sizes::of(1, Some(1 << 20)), Sizes { buckets_v4: 64, buckets_v6: 1 << 19 });
        assert_eq!(sizes.of_map("overflow4"), Some(1 << 15));
        assert_eq!(sizes.of_map("overflow6"), Some(1 << 15));
        assert_eq!(sizes.of_map("caches"), Some(1 << 14));
        assert_eq!(Sizes::of(1, None).of_map("caches"), Some(8192));
    }
}
