//! What lblc and lblcr remember, read for one purpose: as in IPVS, a deleted dest stays in the trash while a cache names
//! it, so that it finds its addresses again when it comes back.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use lb_common::sched::{CacheKey, Cached, Scheduler};

use super::pins::{self, Rules, traffic};
use super::table::{Row, Table};
use super::{clock, syscall};

/// A [`Cached`] in words: when it was used and changed, then dests plus 1.
type Words = [u32; size_of::<Cached>() / 4];

/// The dests that caches of these services name.
pub fn named(dir: &Path, rules: &Rules, table: &Table) -> Result<HashSet<u32>> {
    let caching = |row: &&Row| matches!(row.scheduler(), Scheduler::Lblc | Scheduler::Lblcr);
    let rows: HashMap<u64, &Row> =
        table.rows.values().filter(caching).map(|row| (u64::from(row.value.cache), row)).collect();
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    // Nothing was ever attached: nobody has scheduled anything.
    let Some(map) = traffic("caches")?.open(dir)? else { return Ok(HashSet::new()) };
    let entries: Vec<(CacheKey, Words)> =
        syscall::all(pins::fd(&map)).context("reading what lblc and lblcr remember")?;
    let (now, settings) = (clock::seconds(), rules.settings()?);
    let alive = |(key, words): &(CacheKey, Words)| {
        let Some(row) = rows.get(&key.cache) else { return false };
        let expiration = match row.scheduler() {
            Scheduler::Lblc => settings.lblc_expiration.load(),
            _ => settings.lblcr_expiration.load(),
        };
        let entry = Cached::new();
        entry.used.store(words[0]);
        !entry.dropped(row.value.cache_born, now, expiration)
    };
    let dests = entries.iter().filter(|entry| alive(entry)).flat_map(|(_, words)| &words[2..]);
    Ok(dests.filter_map(|word| word.checked_sub(1)).collect())
}
