//! The services as the maps have them, with their dest lists.

use std::collections::HashMap;
use std::io;

use anyhow::{Context as _, Result};
use lb_common::addr::Family;
use lb_common::estimate::Rate;
use lb_common::sched::Scheduler;
use lb_common::service::{Service, ServiceKey, flags};

use super::dests::{self, Owner};
use super::pins::{self, Rules};
use super::stats::{Books, Meter, OF_SERVICE};
use super::{clock, syscall};
use crate::control::model::{self, DestId, Engine, Netmask, Persistence, ServiceConf, ServiceId};

/// A service.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its key.
    pub key: ServiceKey,
    /// Its value, as the packet path reads it.
    pub value: Service,
    /// Its dests' slots, newest first.
    pub list: Vec<u32>,
    /// The scheduler's cursor, once a change has moved it.
    pub cursor: Option<u64>,
    /// The value has to be put.
    pub changed: bool,
    /// So have list and table.
    pub relist: bool,
}

/// The list of a service that has not been published yet.
pub const NO_LIST: u32 = u32::MAX;

/// Where a service's value keeps its serial number: the packet path does not look there.
const SERIAL: usize = 0;

impl Row {
    /// A new one, without dests.
    pub fn new(key: ServiceKey, slot: u32, serial: u32) -> Self {
        let mut value = Service { slot, gcd: 1, list: NO_LIST, ..Service::default() };
        value.spare2[SERIAL] = serial;
        let mut row = Self { key, value, list: Vec::new(), cursor: Some(0), changed: true, relist: true };
        row.new_cache(serial);
        row
    }

    /// Gives it an empty cache (lblc, lblcr) in the place of the one it had.
    pub fn new_cache(&mut self, number: u32) {
        self.value.cache = number;
        self.value.cache_born = clock::seconds();
    }

    /// Its number in the order of creation.
    pub fn serial(&self) -> u32 {
        self.value.spare2[SERIAL]
    }

    /// As its dests know it.
    pub fn owner(&self) -> Owner {
        Owner { key: self.key, slot: self.value.slot, serial: self.serial() }
    }

    /// Its scheduler.
    pub fn scheduler(&self) -> Scheduler {
        Scheduler::from_number(self.value.scheduler).unwrap_or(Scheduler::None)
    }

    /// Replaces its settings.
    pub fn set_conf(&mut self, conf: &ServiceConf) {
        let value = &mut self.value;
        value.flags = conf.flags();
        value.scheduler = conf.scheduler as u8;
        value.engine = u8::from(conf.engine.is_some());
        value.timeout = conf.persistence.map_or(0, |p| p.timeout);
        value.netmask = conf.persistence.map_or(0, |p| p.netmask.word());
        self.changed = true;
    }

    /// Its settings.
    pub fn conf(&self) -> ServiceConf {
        let value = &self.value;
        let family = Family::from_number(self.key.family).unwrap_or(Family::V4);
        ServiceConf {
            scheduler: self.scheduler(),
            sched_flags: value.flags & (flags::SCHED1 | flags::SCHED2 | flags::SCHED3),
            ops: value.flags & flags::OPS != 0,
            persistence: (value.flags & flags::PERSISTENT != 0).then(|| Persistence {
                timeout: value.timeout,
                netmask: Netmask::from_word(family, value.netmask),
            }),
            engine: (value.engine == 1).then_some(Engine::Sip),
        }
    }

    /// What it is found by.
    pub fn id(&self) -> ServiceId {
        let family = Family::from_number(self.key.family).unwrap_or(Family::V4);
        match self.key.mark {
            0 => ServiceId::Addr {
                proto: self.key.proto,
                addr: self.key.addr.to_ip(family),
                port: self.key.port,
            },
            mark => ServiceId::Mark { mark, family },
        }
    }

    /// The slot of one of its dests.
    pub fn dest(&self, rules: &Rules, id: &DestId) -> Option<u32> {
        self.list
            .iter()
            .copied()
            .find(|slot| rules.dests.get(*slot).is_some_and(|dest| dests::id(dest) == *id))
    }
}

/// All services.
#[derive(Debug, Default)]
pub struct Table {
    /// By key.
    pub rows: HashMap<ServiceKey, Row>,
}

impl Table {
    /// Reads them.
    pub fn read(rules: &Rules) -> Result<Self> {
        let services: Vec<(ServiceKey, Service)> =
            syscall::all(pins::fd(&rules.services)).context("reading the services")?;
        let rows = services.into_iter().map(|(key, value)| {
            let list = rules.lists.range(value.list, value.dests).map(|cell| cell.load() as u32).collect();
            (key, Row { key, value, list, cursor: None, changed: false, relist: false })
        });
        Ok(Self { rows: rows.collect() })
    }

    /// In the order in which they were made, mark services after the others.
    pub fn in_order(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by_key(|row| (row.key.mark != 0, row.serial()));
        rows
    }
}

/// From rows to what listings show.
#[derive(Debug)]
pub struct Reader<'a> {
    rules: &'a Rules,
    books: Books,
    meter: Meter,
}

impl<'a> Reader<'a> {
    /// Over these maps.
    pub fn new(rules: &'a Rules) -> io::Result<Self> {
        let books = Books::read(pins::fd(&rules.books))?;
        Ok(Self { rules, books, meter: Meter::new()? })
    }

    /// All of them, in the order of a listing.
    pub fn services(mut self, table: &Table) -> io::Result<Vec<model::Service>> {
        let end = self.rules.settings.get(0).map_or(0, |settings| settings.dests_end.load());
        let wanted = table.rows.values().map(|row| row.list.len()).sum();
        self.meter.read_ahead(&self.rules.stats, end, wanted)?;
        table.in_order().into_iter().map(|row| self.service(row)).collect()
    }

    /// One of them.
    pub fn only(mut self, row: &Row) -> io::Result<model::Service> {
        self.service(row)
    }

    /// A service with its dests.
    fn service(&mut self, row: &Row) -> io::Result<model::Service> {
        let mut sum = lb_common::tables::Counters::default();
        let mut list = Vec::with_capacity(row.list.len());
        for slot in &row.list {
            let Some(dest) = self.rules.dests.get(*slot) else { continue };
            let raw = self.meter.read(&self.rules.stats, *slot)?;
            sum = sum.plus(raw);
            let (active, total) = (dest.active.load(), dest.total.load());
            list.push(model::Dest {
                id: dests::id(dest),
                conf: dests::conf(dest),
                active: active.min(total),
                inactive: total.saturating_sub(active),
                persistent: dest.templates.load(),
                stats: self.books.shown(*slot, raw),
                rates: rates(self.rules.rate(*slot)),
                fate: dests::fate(dest),
            });
        }
        let slot = row.value.slot;
        let stats = self.books.shown(slot | OF_SERVICE, sum);
        let rates = rates(self.rules.rate_of_service(slot));
        Ok(model::Service { id: row.id(), conf: row.conf(), stats, rates, dests: list })
    }
}

/// What an estimator says.
pub fn rates(rate: Option<&Rate>) -> model::Rates {
    let [cps, inpps, outpps, inbps, outbps] = rate.map(Rate::shown).unwrap_or_default();
    model::Rates { cps, inpps, outpps, inbps, outbps }
}
