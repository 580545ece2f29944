//! From a changed table to the maps. In this order, so that a packet sees a service before the change or after it:
//! filter bits that are new; lists and scheduler tables in room nobody reads, and the pieces that were made for them; the
//! table of IPv6 connections, if this is the first service of IPv6; the services' values, each whole; what schedulers
//! remember; the dests' places in their services' trees; how many services there are; then what has left.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::dest::{Dest, status};
use lb_common::ip::{A4, A6, Address as _, filter_bit};
use lb_common::request::verb;
use lb_common::sched;
use lb_common::service::{Service, ServiceKey};
use lb_common::tables::refresh;

use super::buckets;
use super::change::{Change, seconds, spare};
use super::conns;
use super::dests;
use super::lists::Room;
use super::pins::{self, FILTER_WORDS, traffic};
use super::table::{NO_LIST, Row};
use super::{syscall, trees};
use crate::control::refusal::{Refusal, Result as Refused};

impl Change {
    /// Publishes everything. Returns with nothing left to do.
    pub fn publish(&mut self) -> Refused<()> {
        let dir = self.dir.clone();
        self.put_egress(&dir)?;
        self.forget_marks();
        let filter = self.filter();
        self.write_filter(&filter, true);
        let local_dests = self.local_dests();
        refresh(&self.rules.settings()?.local_dests, local_dests);
        let mut old = Vec::new();
        let mut changed: Vec<Row> = self.table.rows.values().filter(|row| row.changed).cloned().collect();
        self.place_all(&mut changed, &mut old)?;
        self.rules.enter()?;
        if self.table.rows.keys().any(|key| key.family == Family::V6 as u8) {
            buckets::make_v6(&dir)?;
        }
        self.rules.settings()?.services_change();
        self.remove_services()?;
        self.put_services(&changed)?;
        self.rules.settings()?.services_changed();
        changed.iter().filter(|row| row.relist).for_each(|row| trees::plant(&self.rules, row));
        self.count_services()?;
        self.put_marks()?;
        let some_left = !self.leaving.is_empty();
        self.retire_dests()?;
        if some_left && self.rules.settings()?.expire_nodest_conn.load() != 0 {
            conns::expire(&dir, verb::EXPIRE_GONE)?;
        }
        if std::mem::take(&mut self.some_died) {
            conns::expire(&dir, verb::EXPIRE_DEAD)?;
        }
        self.books.write(pins::fd(&self.rules.books))?;
        let filter = self.filter();
        self.write_filter(&filter, false);
        old.into_iter().for_each(|start| self.regions.free(start));
        for mut row in changed {
            (row.changed, row.relist, row.cursor) = (false, false, None);
            self.table.rows.insert(row.key, row);
        }
        let settings = self.rules.settings()?;
        settings.spare[spare::LISTS].store(self.regions.next());
        settings.spare[spare::DESTS].store(self.dest_slots.next());
        settings.spare[spare::SERVICES].store(self.service_slots.next());
        Ok(())
    }

    /// NICs that dests are reached by.
    fn put_egress(&mut self, dir: &Path) -> Result<()> {
        if self.egress.is_empty() {
            return Ok(());
        }
        // Without it nothing is attached yet: `attach` puts every NIC in.
        if let Some(map) = traffic("egress")?.open(dir)? {
            for index in self.egress.drain() {
                put_nic(&map, index)?;
            }
        }
        Ok(())
    }

    /// Writes lists and tables of all changed rows; collects the regions they had before.
    fn place_all(&mut self, changed: &mut [Row], old: &mut Vec<u32>) -> Refused<()> {
        for row in changed.iter_mut() {
            if !row.relist {
                continue;
            }
            if !is_new(row) {
                old.push(row.value.list);
                if row.value.table_len > 0 {
                    old.push(row.value.table);
                }
            } else {
                self.rules.rate_of_service(row.value.slot).inspect(|rate| rate.reset());
            }
            self.place(row)?;
        }
        Ok(())
    }

    fn place(&mut self, row: &mut Row) -> Refused<()> {
        let builds = self.builds(&row.list);
        let words: Vec<u32> = builds.iter().map(|build| build.dest).collect();
        row.value.list = self.write_words(&words, 1)?;
        row.value.dests = words.len() as u32;
        let mut table = vec![0; sched::table_len(row.scheduler(), builds.len())];
        sched::build(row.scheduler(), &builds, &mut table).map_err(|_| Refusal::Invalid)?;
        row.value.table_len = table.len() as u32;
        row.value.table = if table.is_empty() { 0 } else { self.write_words(&table, 0)? };
        Ok(())
    }

    /// Writes words where nobody reads.
    fn write_words(&mut self, words: &[u32], least: u32) -> Refused<u32> {
        let len = (words.len() as u32).max(least);
        if let Some(wanted) = self.regions.wants(len, self.rules.sizes().words()) {
            self.rules.lists.grow(wanted)?;
            self.regions.grow(self.rules.words_made());
        }
        let Room { start, wrapped } = self.regions.alloc(len).ok_or(Refusal::NoMemory)?;
        if wrapped || self.must_wait {
            syscall::wait_for_readers()?;
            self.must_wait = false;
        }
        let cells = self.rules.lists.range(start, words.len() as u32);
        cells.zip(words).for_each(|(cell, word)| cell.store(u64::from(*word)));
        Ok(start)
    }

    fn remove_services(&mut self) -> Result<()> {
        for row in std::mem::take(&mut self.removed) {
            if !self.table.rows.contains_key(&row.key) {
                syscall::delete(pins::fd(&self.rules.services), &row.key).context("deleting a service")?;
            }
            if !is_new(&row) {
                self.regions.free(row.value.list);
                if row.value.table_len > 0 {
                    self.regions.free(row.value.table);
                }
            }
        }
        for slot in std::mem::take(&mut self.left_slots) {
            self.service_slots.set(slot, false);
        }
        Ok(())
    }

    fn put_services(&mut self, changed: &[Row]) -> Result<()> {
        let keys: Vec<ServiceKey> = changed.iter().map(|row| row.key).collect();
        let values: Vec<Service> = changed.iter().map(|row| row.value).collect();
        syscall::update_many(pins::fd(&self.rules.services), &keys, &values)
            .context("writing the services")?;
        if std::mem::take(&mut self.inherits_slots) {
            // Nobody may still be moving the cursor of the service that had the slot before.
            syscall::wait_for_readers()?;
        }
        for row in changed {
            self.set_cursor(row);
        }
        Ok(())
    }

    fn set_cursor(&self, row: &Row) {
        if let (Some(cursor), Some(state)) = (row.cursor, self.rules.sched.get(row.value.slot)) {
            state.cursor.store(cursor);
            state.list.store(row.value.list + 1);
        }
    }

    fn count_services(&self) -> Result<()> {
        const FTP: Port = Port::new(21);
        let settings = self.rules.settings()?;
        let count = |wanted: &dyn Fn(&ServiceKey) -> bool| {
            self.table.rows.keys().filter(|key| wanted(key)).count() as u32
        };
        let by_addr = |key: &ServiceKey| key.mark == 0;
        settings.services_v4.store(count(&|key| key.family == Family::V4 as u8));
        settings.services_v6.store(count(&|key| key.family == Family::V6 as u8));
        settings.port0.store(count(&|key| by_addr(key) && key.port.is_zero()));
        settings.ftp.store(count(&|key| by_addr(key) && key.proto == Proto::TCP && key.port == FTP));
        settings.marks.store(count(&|key| key.mark != 0));
        settings.engines.store(self.table.rows.values().filter(|row| row.value.engine != 0).count() as u32);
        Ok(())
    }

    /// Dests that have left go to the trash; their services keep their counters.
    fn retire_dests(&mut self) -> Result<()> {
        let now = seconds();
        for slot in std::mem::take(&mut self.leaving).into_values() {
            let scans = self.scans_since(now);
            let Some(dest) = self.rules.dests.get(slot) else { continue };
            dests::retire(dest, now, scans);
            let owner = dests::owner(dest);
            self.trash.insert((owner.key, dests::id(dest)), slot);
            let raw = self.meter.read(&self.rules.stats, slot)?;
            // What the timer has not seen yet.
            let since = self.rules.rate(slot).map(|rate| rate.look(&raw)).unwrap_or_default();
            self.rules.rate_of_all().inspect(|rate| rate.add(&since));
            if self.table.rows.get(&owner.key).is_some_and(|row| row.serial() == owner.serial) {
                self.books.inherit(owner.slot, raw);
                self.rules.rate_of_service(owner.slot).inspect(|rate| rate.add(&since));
            }
        }
        Ok(())
    }

    /// Mark rules that were taken out matter as long as a connection by mark lives.
    fn forget_marks(&mut self) {
        let by_mark = |dest: &Dest| dests::used(dest) && dests::owner(dest).key.mark != 0;
        if !self.marks.gone.is_empty()
            && !self.rules.dests.iter().any(|dest| by_mark(dest) && dests::referenced(dest))
        {
            self.marks.gone.clear();
            self.remark = true;
        }
    }

    fn put_marks(&mut self) -> Result<()> {
        if std::mem::take(&mut self.remark) { self.marks.write(&self.rules) } else { Ok(()) }
    }

    /// Dests on this machine, listed or deleted: their answers have to be looked for among what it sends.
    fn local_dests(&self) -> u32 {
        let listed = self.table.rows.values().flat_map(|row| &row.list);
        let gone = self.trash.values().chain(self.leaving.values());
        let is_local = |slot: &&u32| {
            self.rules.dests.get(**slot).is_some_and(|dest| dest.status.load() & status::LOCAL != 0)
        };
        listed.chain(gone).filter(is_local).count() as u32
    }

    /// The bits of all addresses worth a look: of services, of their dests (replies come from there), and of both for
    /// deleted dests, whose connections may live on, while their family has a service at all. A mark service's addresses
    /// are those that rules give its mark.
    fn filter(&self) -> Vec<u32> {
        let mut bytes = vec![0u8; FILTER_WORDS * 4];
        let mut set = |family: u8, addr: &Addr| {
            let Some(family) = Family::from_number(family) else { return };
            let mixed = match family {
                Family::V4 => A4::narrow(addr).mixed(),
                Family::V6 => A6::narrow(addr).mixed(),
            };
            let bit = filter_bit(family, mixed);
            bytes[(bit >> 3) as usize] |= 1 << (bit & 7);
        };
        let live = |family: u8| self.table.rows.keys().any(|key| key.family == family);
        let lived = [Family::V4, Family::V6].map(|family| (family as u8, live(family as u8)));
        let is_live = |family: u8| lived.contains(&(family, true));
        for row in self.table.rows.values().filter(|row| row.key.mark == 0) {
            set(row.key.family, &row.key.addr);
        }
        let listed = self.table.rows.values().flat_map(|row| &row.list);
        for dest in listed.filter_map(|slot| self.rules.dests.get(*slot)) {
            set(dest.family(), &dest.address());
        }
        let mut marks: HashSet<(u8, u32)> =
            self.table.rows.keys().filter(|key| key.mark != 0).map(|key| (key.family, key.mark)).collect();
        let gone = self.trash.values().chain(self.leaving.values());
        for dest in gone.filter_map(|slot| self.rules.dests.get(*slot)) {
            let key = dests::owner(dest).key;
            if !is_live(key.family) {
                continue;
            }
            set(dest.family(), &dest.address());
            if key.mark == 0 {
                set(key.family, &key.addr);
            } else {
                marks.insert((key.family, key.mark));
            }
        }
        let wanted = |family: Family, mark: u32| marks.contains(&(family as u8, mark));
        if !self.marks.destinations(&wanted, &mut |family, addr| set(family as u8, &addr)) {
            bytes.fill(0xff);
        }
        bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
    }

    /// Writes the filter; `also`: on top of what is there.
    fn write_filter(&self, words: &[u32], also: bool) {
        for (cell, word) in self.rules.filter.all().iter().zip(words) {
            let old = cell.load();
            let new = if also { old | word } else { *word };
            if new != old {
                cell.store(new);
            }
        }
    }
}

/// Not yet published: it has no list.
fn is_new(row: &Row) -> bool {
    row.value.list == NO_LIST
}

/// Puts a NIC into the egress map: packets are then sent out by it in batches.
pub fn put_nic(map: &aya::maps::MapData, index: u32) -> Result<()> {
    // The NIC, and no program to run there.
    syscall::update(map.fd().as_fd(), &index, &[index, 0])
        .with_context(|| format!("making NIC {index} an egress"))
}
