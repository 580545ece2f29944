//! Services and dests, written the way the control side writes them: new lists and scheduler tables first, then the
//! service's value that names them. What it writes to is behind [`Memory`], so that one description of rules sets up
//! the host engine and a loaded program's maps alike.

use std::vec;
use std::vec::Vec;

use crate::addr::{Addr, Family, Port, Proto};
use crate::cell::{Cell32, Cell64};
use crate::dest::{Dest, Method, TunType, status};
use crate::ip::filter_bit;
use crate::sched::{BuildDest, Scheduler, build, on_change, table_len, tree};
use crate::service::{SchedState, Service, ServiceKey, flags};
use crate::settings::Settings;
use crate::tables::{FILTER_BITS, refresh};

/// The words the control side writes.
pub trait Memory {
    /// The settings.
    fn settings(&self) -> &Settings;
    /// A word of the address filter.
    fn filter(&self, word: u32) -> Option<&Cell32>;
    /// A service's scheduler memory.
    fn sched(&self, service: u32) -> Option<&SchedState>;
    /// A word of the lists.
    fn list(&self, at: u32) -> Option<&Cell64>;
    /// A dest slot.
    fn dest(&self, dest: u32) -> Option<&Dest>;
    /// Puts a service's value, or takes it out.
    fn put_service(&self, key: &ServiceKey, service: Option<&Service>);
}

/// A service to add.
#[derive(Clone, Copy, Debug)]
pub struct NewService {
    /// Family, protocol, address and port.
    pub key: ServiceKey,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// [`flags`].
    pub flags: u32,
    /// Persistence timeout in seconds.
    pub timeout: u32,
    /// Persistence mask, as [`Service::netmask`] has it.
    pub netmask: u32,
    /// Persistence engine, as [`Service::engine`] has it.
    pub engine: u8,
}

impl NewService {
    /// Of an address, without flags.
    pub fn new(family: Family, proto: Proto, addr: Addr, port: u16, scheduler: Scheduler) -> Self {
        let whole = if family == Family::V4 { u32::MAX } else { 128 };
        let key = ServiceKey::addr(family, proto, addr, Port::new(port));
        Self { key, scheduler, flags: 0, timeout: 0, netmask: whole, engine: 0 }
    }
    /// Of a mark, without flags.
    pub fn mark(family: Family, mark: u32, scheduler: Scheduler) -> Self {
        Self { key: ServiceKey::mark(family, mark), ..Self::new(family, Proto::IP, Addr::ZERO, 0, scheduler) }
    }
    /// With persistence of so many seconds.
    pub fn persistent(self, timeout: u32) -> Self {
        Self { flags: self.flags | flags::PERSISTENT, timeout, ..self }
    }
}

/// A dest to add.
#[derive(Clone, Copy, Debug)]
pub struct NewDest {
    /// Family of its address.
    pub family: Family,
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// How packets reach it.
    pub method: Method,
    /// Its weight.
    pub weight: u32,
    /// Thresholds, upper and lower; 0 = none, automatic.
    pub thresholds: (u32, u32),
    /// Tunnel type, flags (1 checksum, 2 remote checksum) and port.
    pub tunnel: (TunType, u8, Port),
}

impl NewDest {
    /// With weight 1, no thresholds, and ipip if it is a tunnel.
    pub fn new(family: Family, addr: Addr, port: u16, method: Method) -> Self {
        let tunnel = (TunType::Ipip, 0, Port::ZERO);
        Self { family, addr, port: Port::new(port), method, weight: 1, thresholds: (0, 0), tunnel }
    }
}

struct Row {
    key: ServiceKey,
    value: Service,
    scheduler: Scheduler,
    /// Newest first.
    list: Vec<u32>,
}

/// When caches were made: long enough ago for a check of theirs to have come by, whatever the clock shows.
const LONG_AGO: u32 = 0_u32.wrapping_sub(1_000_000);

/// The rules so far. Keeps what the control side would read back from the maps.
#[derive(Default)]
pub struct Rules {
    rows: Vec<Option<Row>>,
    dests: u32,
    lists: u32,
    births: u32,
}

impl Rules {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// None; what comes is put in from these words and dests on.
    pub fn beginning_at(lists: u32, dests: u32) -> Self {
        Self { lists, dests, ..Self::default() }
    }

    /// Adds a service and returns its number.
    pub fn add_service<M: Memory>(&mut self, m: &M, new: &NewService) -> u32 {
        let slot = self.rows.len() as u32;
        let value = Service {
            slot,
            flags: new.flags,
            timeout: new.timeout,
            netmask: new.netmask,
            engine: new.engine,
            scheduler: new.scheduler as u8,
            gcd: 1,
            cache: slot + 1,
            cache_born: LONG_AGO,
            ..Service::default()
        };
        m.settings().services_end.store(slot + 1);
        self.rows.push(Some(Row { key: new.key, value, scheduler: new.scheduler, list: Vec::new() }));
        if new.key.mark == 0 {
            know(m, new.key.family, &new.key.addr);
        }
        self.changed(m, slot, &[]);
        self.count_services(m);
        slot
    }

    /// Deletes a service with its dests.
    pub fn delete_service<M: Memory>(&mut self, m: &M, slot: u32) {
        let Some(row) = self.rows.get_mut(slot as usize).and_then(Option::take) else { return };
        row.list.iter().for_each(|number| mark_deleted(m, *number));
        replace(m, &row.key, None);
        self.count_services(m);
    }

    /// Adds a dest to a service and returns its number. One that was deleted before comes back with its connections.
    pub fn add_dest<M: Memory>(&mut self, m: &M, service: u32, new: &NewDest) -> u32 {
        let number = self.enlist(m, service, new);
        self.publish(m, service);
        number
    }

    /// Adds dests to a service, seen by packets all at once.
    pub fn add_dests<M: Memory>(&mut self, m: &M, service: u32, new: &[NewDest]) {
        new.iter().for_each(|new| {
            self.enlist(m, service, new);
        });
        self.publish(m, service);
    }

    fn enlist<M: Memory>(&mut self, m: &M, service: u32, new: &NewDest) -> u32 {
        let number = self.deleted_before(m, service, new).unwrap_or(self.dests);
        self.dests = self.dests.max(number + 1);
        let slot = dest(m, number);
        self.births += 1;
        slot.born.store(self.births);
        write(slot, service, new);
        m.settings().dests_end.store(self.dests);
        if new.method == Method::Nat {
            know(m, new.family as u8, &new.addr);
        }
        let Some(row) = self.row(service) else { return number };
        slot.set_owner(&row.key);
        let old = row.list.clone();
        row.list.insert(0, number);
        row.value.thresholds |= u8::from(new.thresholds.0 != 0);
        self.remember(m, service, &old);
        number
    }

    /// Deletes a dest. Its connections stay.
    pub fn delete_dest<M: Memory>(&mut self, m: &M, number: u32) {
        mark_deleted(m, number);
        let service = dest(m, number).service.load();
        let Some(row) = self.row(service) else { return };
        let old = row.list.clone();
        row.list.retain(|other| *other != number);
        self.changed(m, service, &old);
    }

    /// Gives a dest another weight.
    pub fn set_weight<M: Memory>(&mut self, m: &M, number: u32, weight: u32) {
        let slot = dest(m, number);
        slot.weight.store(weight);
        if weight != 0 {
            slot.last_weight.store(weight);
        }
        let service = slot.service.load();
        let old = self.row(service).map(|row| row.list.clone()).unwrap_or_default();
        self.changed(m, service, &old);
    }

    /// Numbers below this are dests, or were.
    pub fn dests(&self) -> u32 {
        self.dests
    }

    fn row(&mut self, service: u32) -> Option<&mut Row> {
        self.rows.get_mut(service as usize)?.as_mut()
    }

    fn deleted_before<M: Memory>(&self, m: &M, service: u32, new: &NewDest) -> Option<u32> {
        (0..self.dests).find(|number| {
            let d = dest(m, *number);
            let same = d.address() == new.addr && d.port() == new.port && d.service.load() == service;
            same && !d.listed() && d.status.load() & status::USED != 0
        })
    }

    fn changed<M: Memory>(&mut self, m: &M, service: u32, old: &[u32]) {
        self.remember(m, service, old);
        self.publish(m, service);
    }

    /// A single change of a list: the scheduler's memory follows every one.
    fn remember<M: Memory>(&mut self, m: &M, service: u32, old: &[u32]) {
        let (Some(row), Some(state)) = (self.row(service), m.sched(service)) else { return };
        let dests: Vec<BuildDest> = row.list.iter().map(|number| as_built(m, *number)).collect();
        let memory = on_change(row.scheduler, old, &dests, state.cursor.load());
        (row.value.gcd, row.value.max_weight) = (memory.gcd, memory.max_weight);
        state.cursor.store(memory.cursor);
    }

    /// Writes a service's list and table in fresh words, then the value that names them; last, the dests' places in its
    /// tree.
    fn publish<M: Memory>(&mut self, m: &M, service: u32) {
        let at = self.lists;
        let Some(row) = self.row(service) else { return };
        let dests: Vec<BuildDest> = row.list.iter().map(|number| as_built(m, *number)).collect();
        let mut table = vec![0; table_len(row.scheduler, dests.len())];
        // An mh table too small for its dests stays as it was, as in IPVS; no set-up here has that many.
        let built = build(row.scheduler, &dests, &mut table);
        assert!(built.is_ok(), "more dests than the scheduler's table has places");
        let words = row.list.iter().chain(&table);
        words.zip(at..).for_each(|(word, at)| word_of(m.list(at)).store(u64::from(*word)));
        let (row_dests, words) = (row.list.len() as u32, (row.list.len() + table.len()) as u32);
        row.value = Service {
            list: at,
            dests: row_dests,
            table: at + row_dests,
            table_len: table.len() as u32,
            ..row.value
        };
        replace(m, &row.key, Some(&row.value));
        plant(m, row);
        self.lists += words;
    }

    fn count_services<M: Memory>(&self, m: &M) {
        let count = |wanted: fn(&ServiceKey) -> bool| {
            self.rows.iter().flatten().filter(|row| wanted(&row.key)).count() as u32
        };
        let settings = m.settings();
        settings.services_v4.store(count(|key| key.family == Family::V4 as u8));
        settings.services_v6.store(count(|key| key.family == Family::V6 as u8));
        settings.port0.store(count(|key| key.mark == 0 && key.port.is_zero()));
        settings.ftp.store(count(|key| key.proto == Proto::TCP && key.port == Port::new(21)));
        settings.marks.store(count(|key| key.mark != 0));
        let engines = self.rows.iter().flatten().filter(|row| row.value.engine != 0).count();
        settings.engines.store(engines as u32);
    }
}

/// Puts a service in the place of what is there, and makes CPUs forget that.
fn replace<M: Memory>(m: &M, key: &ServiceKey, service: Option<&Service>) {
    m.settings().services_change();
    m.put_service(key, service);
    m.settings().services_changed();
}

fn dest<M: Memory>(m: &M, number: u32) -> &Dest {
    let Some(dest) = m.dest(number) else {
        unreachable!("no dest slot {number}: the memory is too small for these rules");
    };
    dest
}

fn word_of(word: Option<&Cell64>) -> &Cell64 {
    let Some(word) = word else { unreachable!("the lists are too small for these rules") };
    word
}

/// Tells the dests of a published service their records, and opens its tree.
fn plant<M: Memory>(m: &M, row: &Row) {
    let has_tree = tree::len(row.scheduler, row.list.len()) != 0;
    for (number, place) in row.list.iter().zip(0..) {
        let record = if has_tree { tree::record(row.value.table, row.value.dests, place) } else { 0 };
        dest(m, *number).record.store(record);
    }
    if has_tree {
        word_of(m.list(row.value.table)).swap(tree::OPEN);
    }
}

fn mark_deleted<M: Memory>(m: &M, number: u32) {
    let slot = dest(m, number);
    slot.record.store(0);
    slot.status.store(slot.status.load() & !status::AVAILABLE);
}

/// The counts belong to the packet path: they stay.
fn write(slot: &Dest, service: u32, new: &NewDest) {
    slot.addr.iter().zip(new.addr.words()).for_each(|(cell, word)| cell.store(word));
    slot.port_family_method.store(Dest::pack(new.port, new.family as u8, new.method as u8));
    slot.weight.store(new.weight);
    slot.last_weight.store(new.weight);
    slot.upper.store(new.thresholds.0);
    slot.lower.store(new.thresholds.1);
    let (kind, flags, port) = new.tunnel;
    let port = port.wire().to_ne_bytes();
    slot.tunnel.store(u32::from_ne_bytes([kind as u8, flags, port[0], port[1]]));
    slot.service.store(service);
    slot.status.store(status::USED | status::AVAILABLE);
}

fn as_built<M: Memory>(m: &M, number: u32) -> BuildDest {
    let d = dest(m, number);
    BuildDest {
        dest: number,
        addr: d.address(),
        port: d.port(),
        weight: d.weight.load(),
        last_weight: d.last_weight.load(),
    }
}

/// Makes every address worth a look, as mark rules for wide networks do.
pub fn know_all<M: Memory>(m: &M) {
    (0..1 << (FILTER_BITS - 5)).filter_map(|word| m.filter(word)).for_each(|word| word.store(u32::MAX));
}

/// Sets an address's bit in the filter.
fn know<M: Memory>(m: &M, family: u8, addr: &Addr) {
    let Some(family) = Family::from_number(family) else { return };
    let words = addr.words();
    let bit = filter_bit(family, words[0] ^ words[1] ^ words[2] ^ words[3]);
    if let Some(word) = m.filter(bit >> 5) {
        // A map of bytes, so the word's bits are in little-endian order.
        refresh(word, word.load() | (1_u32 << (bit & 31)).to_le());
    }
}
