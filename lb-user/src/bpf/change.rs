//! Changes, held in memory until they are published: all commands of a restore, or the one of a command line.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_common::estimate;
use lb_common::mark::MOST;
use lb_common::sched::{self, BuildDest};
use lb_common::service::ServiceKey;
use lb_common::tables::refresh;

use super::clock::Now;
use super::dests::{self, Place};
use super::lists::{Regions, Room, Slots};
use super::marks::Marks;
use super::pins::{self, Rules};
use super::route::{Router, Way};
use super::stats::{Books, Meter, OF_SERVICE};
use super::table::{Row, Table};
use super::{caches, clock, syscall, trash, trees};
use crate::control::address::AddressKind;
use crate::control::mark::Rule;
use crate::control::model::{DestConf, DestId, OnDown, Proto, ServiceConf, ServiceId};
use crate::control::refusal::{Refusal, Result as Refused};

/// The settings' spare cells, which are the control side's: where the searches for room go on, and the next serial.
pub(super) mod spare {
    pub const LISTS: usize = 0;
    pub const DESTS: usize = 1;
    pub const SERVICES: usize = 2;
    pub const SERIAL: usize = 3;
    pub const BIRTHS: usize = 4;
    /// Up to 39.
    pub const SYSCTLS: usize = 8;
}

/// The tables with changes not yet published.
#[derive(Debug)]
pub struct Change {
    pub(super) dir: PathBuf,
    pub(super) rules: Rules,
    pub(super) table: Table,
    pub(super) regions: Regions,
    pub(super) dest_slots: Slots,
    pub(super) service_slots: Slots,
    pub(super) books: Books,
    pub(super) meter: Meter,
    pub(super) marks: Marks,
    /// The mark rules have to be written.
    pub(super) remark: bool,
    /// Slots that are free, and whose counters are zero.
    zeroed: Range<u32>,
    /// How many slots have been given to dests.
    made: u32,
    /// Slots have run out, and nothing has left since.
    full: bool,
    /// Deleted dests, by service and address.
    pub(super) trash: HashMap<(ServiceKey, DestId), u32>,
    /// Dests that leave with the next publication, by service and address.
    pub(super) leaving: HashMap<(ServiceKey, DestId), u32>,
    /// Services that leave with it.
    pub(super) removed: Vec<Row>,
    /// Their slots, until one of them is given to a new service.
    pub(super) left_slots: Vec<u32>,
    /// One was.
    pub(super) inherits_slots: bool,
    /// NICs that packets leave by, not yet in the egress map.
    pub(super) egress: HashSet<u32>,
    /// Dests of datagrams were found dead.
    pub(super) some_died: bool,
    /// Room has been taken that may still be read by packets of before.
    pub(super) must_wait: bool,
}

impl Change {
    /// Reads everything, and throws away what the trash has held long enough. The lock is held alone.
    pub fn open(mut rules: Rules, dir: &Path) -> Result<Self> {
        rules.recover()?;
        let settings = rules.settings()?;
        let next = |at: usize| settings.spare[at].load();
        let mut change = Self {
            dir: dir.to_owned(),
            table: Table::read(&rules)?,
            regions: Regions::new(rules.words_made(), next(spare::LISTS)),
            dest_slots: Slots::new(rules.dests_made(), next(spare::DESTS)),
            service_slots: Slots::new(rules.services_made(), next(spare::SERVICES)),
            books: Books::read(pins::fd(&rules.books)).context("reading the counters")?,
            meter: Meter::new().context("counting CPUs")?,
            marks: Marks::read(&rules)?,
            remark: false,
            zeroed: 0..0,
            made: 0,
            full: false,
            trash: HashMap::new(),
            leaving: HashMap::new(),
            removed: Vec::new(),
            left_slots: Vec::new(),
            inherits_slots: false,
            egress: HashSet::new(),
            some_died: false,
            must_wait: false,
            rules,
        };
        change.mark_room();
        change.sort_trash(dir)?;
        Ok(change)
    }

    fn mark_room(&mut self) {
        for row in self.table.rows.values() {
            self.regions.mark(row.value.list, row.value.dests.max(1));
            self.regions.mark(row.value.table, row.value.table_len);
            self.service_slots.set(row.value.slot, true);
            // A command that was killed may have come no further than the service.
            trees::plant(&self.rules, row);
        }
    }

    /// Finds deleted dests; those whose time is over become free slots.
    fn sort_trash(&mut self, dir: &Path) -> Result<()> {
        let listed: HashSet<u32> =
            self.table.rows.values().flat_map(|row| row.list.iter().copied()).collect();
        let remembered = caches::named(dir, &self.rules, &self.table)?;
        let mut now = None;
        for (slot, dest) in (0u32..).zip(self.rules.dests.iter()) {
            if !dests::used(dest) {
                continue;
            }
            self.dest_slots.set(slot, true);
            if listed.contains(&slot) {
                continue;
            }
            refresh(&dest.record, 0);
            let now = match now {
                Some(now) => now,
                None => *now.insert(Now::read().context("reading the packet path's clock")?),
            };
            if dest.listed() {
                // Made by a command that was killed before it put the dest into its service's list.
                dests::retire(dest, now.seconds, now.seconds);
            }
            let idle = now.seconds.saturating_sub(now.since(dest.idle_since.load())).max(dest.deleted.load());
            let named = dests::referenced(dest) || remembered.contains(&slot);
            if !named && trash::thrown_at(dests::scans(dest), idle) <= now.seconds {
                dest.status.swap(0);
                self.dest_slots.set(slot, false);
                self.books.drop_book(slot);
            } else {
                self.trash.insert((dests::owner(dest).key, dests::id(dest)), slot);
            }
        }
        Ok(())
    }

    /// A service.
    pub fn row(&self, id: &ServiceId) -> Option<&Row> {
        self.table.rows.get(&ServiceKey::from(*id))
    }

    /// Has the service this dest?
    pub fn has_dest(&self, service: &ServiceId, dest: &DestId) -> bool {
        self.row(service).is_some_and(|row| row.dest(&self.rules, dest).is_some())
    }

    /// The maps.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The mark rules.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// All services.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Changes the mark rules.
    pub fn change_marks(&mut self, change: &mut dyn FnMut(&mut Vec<Rule>) -> Refused<()>) -> Refused<()> {
        let mut rules = self.marks.rules.clone();
        change(&mut rules)?;
        if rules.len() > MOST as usize {
            return Err(Refusal::Failed(format!(
                "there is room for {MOST} mark rules, {} are too many",
                rules.len()
            )));
        }
        self.marks.replace(rules);
        self.remark = true;
        Ok(())
    }

    /// Adds a service.
    pub fn add_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Refused<()> {
        let key = ServiceKey::from(*id);
        if self.table.rows.contains_key(&key) {
            return Err(Refusal::ServiceExists);
        }
        self.fits(1 + sched::table_len(conf.scheduler, 0))?;
        let slot = self.service_slot()?;
        let serial = self.serial()?;
        let end = &self.rules.settings()?.services_end;
        end.store(end.load().max(slot + 1));
        let mut row = Row::new(key, slot, serial);
        row.set_conf(conf);
        self.table.rows.insert(key, row);
        Ok(())
    }

    /// A number nobody has: of services, in the order of their creation, and of caches.
    fn serial(&self) -> Result<u32> {
        Ok(self.rules.settings()?.spare[spare::SERIAL].fetch_add(1).wrapping_add(1))
    }

    /// One for each dest added, in their order.
    fn birth(&self) -> Result<u32> {
        Ok(self.rules.settings()?.spare[spare::BIRTHS].fetch_add(1).wrapping_add(1))
    }

    /// A free slot, else that of a service which leaves: a whole table can be replaced by another one at once.
    fn service_slot(&mut self) -> Refused<u32> {
        if self.service_slots.wants(self.rules.sizes().services()).is_some() {
            self.rules.rates.grow(self.rules.rates.room() + 1)?;
            self.service_slots.grow(self.rules.services_made());
        }
        if let Some(room) = self.service_slots.alloc() {
            self.must_wait |= room.wrapped;
            return Ok(room.start);
        }
        self.inherits_slots = true;
        self.left_slots.pop().ok_or(Refusal::NoMemory)
    }

    /// Replaces a service's settings.
    pub fn edit_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Refused<()> {
        let row = self.row(id).ok_or(Refusal::NoSuchService)?;
        let other = row.scheduler() != conf.scheduler;
        if other {
            self.fits(row.list.len() + sched::table_len(conf.scheduler, row.list.len()))?;
        }
        let builds = self.builds(&row.list);
        let cache = if other { self.serial()? } else { row.value.cache };
        let row = self.row_mut(id)?;
        row.set_conf(conf);
        if other {
            row.new_cache(cache);
            let memory = sched::on_change(conf.scheduler, &[], &builds, 0);
            remember(row, &memory);
        }
        Ok(())
    }

    /// Deletes a service and its dests.
    pub fn delete_service(&mut self, id: &ServiceId) -> Refused<()> {
        let row = self.table.rows.remove(&ServiceKey::from(*id)).ok_or(Refusal::NoSuchService)?;
        self.full = false;
        for slot in &row.list {
            if let Some(dest) = self.rules.dests.get(*slot) {
                self.leaving.insert((row.key, dests::id(dest)), *slot);
            }
        }
        self.books.drop_book(row.value.slot | OF_SERVICE);
        self.left_slots.push(row.value.slot);
        self.removed.push(row);
        Ok(())
    }

    /// Deletes all services.
    pub fn clear(&mut self) -> Refused<()> {
        let ids: Vec<ServiceId> = self.table.rows.values().map(Row::id).collect();
        ids.iter().try_for_each(|id| self.delete_service(id))
    }

    /// Adds a dest at the head of the list.
    pub fn add_dest(&mut self, service: &ServiceId, id: &DestId, conf: &DestConf, way: &Way) -> Refused<()> {
        let row = self.row(service).ok_or(Refusal::ServiceNotDefined)?;
        if row.dest(&self.rules, id).is_some() {
            return Err(Refusal::DestExists);
        }
        let (owner, scheduler) = (row.owner(), row.scheduler());
        let count = row.list.len() + 1;
        self.fits(count + sched::table_len(scheduler, count))?;
        let local = way.kind == AddressKind::Local;
        let place = Place { local, egress: if local { 0 } else { way.egress } };
        if place.egress != 0 {
            self.egress.insert(place.egress);
        }
        let slot = self.fill_slot(&owner, id, conf, &place)?;
        self.relist(service, |list| list.insert(0, slot))
    }

    /// The slot of a deleted dest that comes back, or a new one.
    fn fill_slot(
        &mut self,
        owner: &dests::Owner,
        id: &DestId,
        conf: &DestConf,
        place: &Place,
    ) -> Refused<u32> {
        let left = self.leaving.get(&(owner.key, *id)).copied();
        let back = left.or_else(|| self.trash.get(&(owner.key, *id)).copied());
        let Some(slot) = back else { return self.new_slot(owner, id, conf, place) };
        let dest = self.rules.dests.get(slot).context("a dest's slot is out of range")?;
        let raw = self.meter.read(&self.rules.stats, slot)?;
        let same = dests::owner(dest).serial == owner.serial;
        if !same {
            self.books.zero(slot, raw);
            self.rules.rate(slot).inspect(|rate| rate.zero());
        }
        if !same || left.is_none() {
            self.books.disinherit(owner.slot, raw);
        }
        self.leaving.remove(&(owner.key, *id));
        self.trash.remove(&(owner.key, *id));
        dest.born.store(self.birth()?);
        dests::revive(dest, owner, id, conf, place);
        Ok(slot)
    }

    fn new_slot(
        &mut self,
        owner: &dests::Owner,
        id: &DestId,
        conf: &DestConf,
        place: &Place,
    ) -> Refused<u32> {
        if let Some(wanted) = self.dest_slots.wants(self.rules.sizes().dests) {
            self.rules.grow_dests(wanted)?;
            self.dest_slots.grow(self.rules.dests_made());
        }
        let room = match self.dest_slots.alloc() {
            Some(room) => room,
            None => self.make_room()?,
        };
        if room.wrapped {
            // Packets may still be reading what the slot was before.
            syscall::wait_for_readers()?;
        }
        self.rules.rates.grow(estimate::of_dest(room.start) + 1)?;
        self.books.drop_book(room.start);
        self.rules.rate(room.start).inspect(|rate| rate.reset());
        self.clear_counters(room.start)?;
        let end = &self.rules.settings()?.dests_end;
        end.store(end.load().max(room.start + 1));
        let dest = self.rules.dests.get(room.start).context("a dest's slot is out of range")?;
        dest.born.store(self.birth()?);
        dests::write(dest, owner, id, conf, place);
        Ok(room.start)
    }

    /// Zeroes the counters of a slot just taken; the more it has been, the more of those that come next with it: a restore
    /// takes them by thousands.
    fn clear_counters(&mut self, slot: u32) -> Result<()> {
        const MOST: u32 = 1024;
        if !self.zeroed.contains(&slot) {
            let run = self.dest_slots.run(slot, self.made.clamp(1, MOST)).min(self.rules.stats.rest(slot));
            self.zeroed = slot..slot + run;
            self.meter.clear(&self.rules.stats, self.zeroed.clone()).context("zeroing counters")?;
        }
        self.zeroed.start = slot + 1;
        self.made += 1;
        Ok(())
    }

    /// A slot where none is free: of a dest in the trash, else of one that leaves with this change. For that, what has been changed
    /// so far is published: packets see a table half restored, as they do under IPVS, which takes line by line.
    fn make_room(&mut self) -> Refused<Room> {
        // Said at once: a restore may ask thousands of times more.
        if self.full {
            return Err(Refusal::NoMemory);
        }
        self.empty_trash()?;
        if !self.dest_slots.is_free() && !self.leaving.is_empty() {
            self.publish()?;
            self.empty_trash()?;
        }
        let room = self.dest_slots.alloc();
        self.full = room.is_none();
        room.ok_or(Refusal::NoMemory)
    }

    /// Throws away before its time what no connection names: where slots have run out, they are needed more.
    fn empty_trash(&mut self) -> Result<()> {
        let idle = |slot: &u32| self.rules.dests.get(*slot).is_some_and(|dest| !dests::referenced(dest));
        if !self.trash.values().any(idle) {
            return Ok(());
        }
        // A packet that has just chosen one of them may be about to name it.
        syscall::wait_for_readers()?;
        for slot in self.trash.values() {
            let Some(dest) = self.rules.dests.get(*slot) else { continue };
            if !dests::referenced(dest) {
                dest.status.swap(0);
                self.dest_slots.set(*slot, false);
                self.books.drop_book(*slot);
            }
        }
        self.trash.retain(|_, slot| self.rules.dests.get(*slot).is_some_and(dests::used));
        Ok(())
    }

    /// Replaces a dest's settings.
    pub fn edit_dest(&mut self, service: &ServiceId, id: &DestId, conf: &DestConf) -> Refused<()> {
        let row = self.row(service).ok_or(Refusal::ServiceNotDefined)?;
        let slot = row.dest(&self.rules, id).ok_or(Refusal::NoSuchDest)?;
        self.fits(row.list.len() + sched::table_len(row.scheduler(), row.list.len()))?;
        let dest = self.rules.dests.get(slot).context("a dest's slot is out of range")?;
        dests::edit(dest, id, conf);
        self.relist(service, |_| ())
    }

    /// Notes that a dest was found dead, or that it is so no longer.
    pub fn set_fate(&mut self, service: &ServiceId, id: &DestId, fate: Option<OnDown>) -> Refused<()> {
        let row = self.row(service).ok_or(Refusal::ServiceNotDefined)?;
        let slot = row.dest(&self.rules, id).ok_or(Refusal::NoSuchDest)?;
        let dest = self.rules.dests.get(slot).context("a dest's slot is out of range")?;
        dests::set_fate(dest, fate);
        self.some_died |= fate.is_some() && dest.serves(Proto::UDP);
        Ok(())
    }

    /// Deletes a dest.
    pub fn delete_dest(&mut self, service: &ServiceId, id: &DestId) -> Refused<()> {
        let row = self.row(service).ok_or(Refusal::ServiceNotDefined)?;
        let slot = row.dest(&self.rules, id).ok_or(Refusal::NoSuchDest)?;
        let key = ServiceKey::from(*service);
        self.leaving.insert((key, *id), slot);
        self.full = false;
        self.relist(service, |list| list.retain(|other| *other != slot))
    }

    /// A single change of a service's list, or of a dest in it: the scheduler's memory follows every one.
    fn relist(&mut self, service: &ServiceId, change: impl FnOnce(&mut Vec<u32>)) -> Refused<()> {
        let row = self.row(service).ok_or(Refusal::ServiceNotDefined)?;
        let old = row.list.clone();
        let mut new = old.clone();
        change(&mut new);
        let cursor = match row.cursor {
            Some(cursor) => cursor,
            None => self.rules.sched.get(row.value.slot).map_or(0, |state| state.cursor.load()),
        };
        let memory = sched::on_change(row.scheduler(), &old, &self.builds(&new), cursor);
        let thresholds =
            new.iter().any(|slot| self.rules.dests.get(*slot).is_some_and(|d| d.upper.load() != 0));
        let row = self.row_mut(service)?;
        row.list = new;
        row.value.thresholds = u8::from(thresholds);
        remember(row, &memory);
        Ok(())
    }

    /// The list as tables are built from it.
    pub(super) fn builds(&self, list: &[u32]) -> Vec<BuildDest> {
        list.iter().filter_map(|slot| Some(dests::build(*slot, self.rules.dests.get(*slot)?))).collect()
    }

    fn row_mut(&mut self, id: &ServiceId) -> Refused<&mut Row> {
        self.table.rows.get_mut(&ServiceKey::from(*id)).ok_or(Refusal::NoSuchService)
    }

    /// Is there room for so many words? Asked before anything is touched.
    fn fits(&self, words: usize) -> Refused<()> {
        if self.regions.has_room(words as u32, self.rules.sizes().words()) {
            Ok(())
        } else {
            Err(Refusal::NoMemory)
        }
    }

    /// Zeroes counters.
    pub fn zero(&mut self, service: Option<&ServiceId>) -> Refused<()> {
        let rows: Vec<Row> = match service {
            Some(id) => vec![self.row(id).ok_or(Refusal::NoSuchService)?.clone()],
            None => self.table.rows.values().cloned().collect(),
        };
        for row in rows {
            let mut sum = lb_common::tables::Counters::default();
            for slot in &row.list {
                let raw = self.meter.read(&self.rules.stats, *slot)?;
                self.books.zero(*slot, raw);
                self.rules.rate(*slot).inspect(|rate| rate.zero());
                sum = sum.plus(raw);
            }
            self.books.zero(row.value.slot | OF_SERVICE, sum);
            self.rules.rate_of_service(row.value.slot).inspect(|rate| rate.zero());
        }
        if service.is_none() {
            self.rules.rate_of_all().inspect(|rate| rate.zero());
        }
        Ok(())
    }

    /// When the scans of the trash started: now, if it is empty.
    pub(super) fn scans_since(&self, now: u32) -> u32 {
        let dest = self.trash.values().next().and_then(|slot| self.rules.dests.get(*slot));
        dest.map_or(now, dests::scans)
    }
}

fn remember(row: &mut Row, memory: &sched::Memory) {
    row.cursor = Some(memory.cursor);
    row.value.gcd = memory.gcd;
    row.value.max_weight = memory.max_weight;
    (row.changed, row.relist) = (true, true);
}

/// Starts the neighbour of a dest's way; `patient`: waits for its answer.
pub fn prepare(router: &mut Router, addr: &IpAddr, patient: bool) -> Result<Way> {
    let way = router.way(addr)?;
    router.resolve(&way);
    if patient {
        router.wait(&way);
    }
    Ok(way)
}

/// Seconds now, as slots note them.
pub(super) fn seconds() -> u32 {
    clock::seconds()
}
