//! A service over ordinary memory, changed as the control side changes it: what the schedulers' tests run on.

use core::cell::{Cell, OnceCell};
use core::ops::ControlFlow;
use std::vec::Vec;

use super::{Ask, BuildDest, Cached, Candidate, Scheduler, View, build, on_change, pick, table_len};
use crate::addr::{Addr, Port};
use crate::service::{SchedState, Service};

/// A service; dests are known by number, the first one added being 0.
pub struct Model {
    pub service: Service,
    pub state: SchedState,
    pub dests: Vec<Slot>,
    pub list: Vec<u32>,
    pub table: Vec<u32>,
    /// Called by the first view of the cursor in a pick: another CPU's work in between.
    pub intruder: Cell<Option<fn(&Model)>>,
    /// The cache's entry for the one destination address of these tests.
    pub cache: OnceCell<Cached>,
    pub seconds: u32,
    random: Cell<u32>,
    scheduler: Scheduler,
}

#[derive(Clone, Copy, Default)]
pub struct Slot {
    pub build: BuildDest,
    pub active: u32,
    pub total: u32,
    pub overloaded: bool,
    pub available: bool,
}

impl Model {
    pub fn new(scheduler: Scheduler, flags: u32) -> Self {
        let service = Service { scheduler: scheduler as u8, flags, gcd: 1, ..Service::default() };
        Self {
            service,
            state: SchedState::default(),
            dests: Vec::new(),
            list: Vec::new(),
            table: Vec::new(),
            intruder: Cell::new(None),
            cache: OnceCell::new(),
            seconds: 0,
            random: Cell::new(1),
            scheduler,
        }
    }

    /// With these dests, added in this order.
    pub fn with(scheduler: Scheduler, flags: u32, weights: &[u32]) -> Self {
        let mut model = Self::new(scheduler, flags);
        for weight in weights {
            model.add(*weight);
        }
        model
    }

    /// Adds 10.0.0.(number + 1):80 and returns its number.
    pub fn add(&mut self, weight: u32) -> u32 {
        let dest = self.dests.len() as u32;
        self.add_at(weight, [10, 0, 0, dest as u8 + 1], 80)
    }

    pub fn add_at(&mut self, weight: u32, addr: [u8; 4], port: u16) -> u32 {
        let dest = self.dests.len() as u32;
        let (addr, port) = (Addr::v4(addr), Port::new(port));
        let build = BuildDest { dest, addr, port, weight, last_weight: weight };
        self.dests.push(Slot { build, ..Slot::default() });
        self.add_again(dest, weight);
        dest
    }

    /// Puts a dest that is not in the list at its head.
    pub fn add_again(&mut self, dest: u32, weight: u32) {
        let slot = &mut self.dests[dest as usize];
        slot.available = true;
        (slot.build.weight, slot.build.last_weight) = (weight, weight);
        let old = self.list.clone();
        self.list.insert(0, dest);
        self.changed(&old);
    }

    pub fn delete(&mut self, dest: u32) {
        self.dests[dest as usize].available = false;
        let old = self.list.clone();
        self.list.retain(|d| *d != dest);
        self.changed(&old);
    }

    pub fn edit(&mut self, dest: u32, weight: u32) {
        let slot = &mut self.dests[dest as usize];
        slot.build.weight = weight;
        if weight != 0 {
            slot.build.last_weight = weight;
        }
        let old = self.list.clone();
        self.changed(&old);
    }

    fn changed(&mut self, old: &[u32]) {
        let list: Vec<BuildDest> = self.list.iter().map(|d| self.dests[*d as usize].build).collect();
        let memory = on_change(self.scheduler, old, &list, self.state.cursor.load());
        self.state.cursor.store(memory.cursor);
        (self.service.gcd, self.service.max_weight) = (memory.gcd, memory.max_weight);
        // No trees: a view without one walks.
        self.table.resize(table_len(self.scheduler, 0), 0);
        let _ = build(self.scheduler, &list, &mut self.table);
        self.service.dests = self.list.len() as u32;
        self.service.table_len = self.table.len() as u32;
    }

    /// A new connection from this client, which stays active.
    pub fn connect(&mut self, ask: &Ask) -> Option<u32> {
        let dest = pick(self, ask)?;
        self.dests[dest as usize].active += 1;
        self.dests[dest as usize].total += 1;
        Some(dest)
    }

    /// The dests of `count` new connections that stay active, as letters: A is the first dest added, - is none.
    pub fn letters(&mut self, count: usize) -> std::string::String {
        let letter = |d: Option<u32>| d.map_or('-', |d| (b'A' + d as u8) as char);
        (0..count).map(|_| letter(self.connect(&Ask::default()))).collect()
    }

    fn see(&self, dest: u32) -> Option<Candidate> {
        let slot = self.dests.get(dest as usize)?;
        Some(Candidate {
            dest,
            weight: slot.build.weight,
            active: slot.active,
            total: slot.total,
            overloaded: slot.overloaded,
            available: slot.available,
        })
    }
}

impl View for Model {
    fn service(&self) -> &Service {
        &self.service
    }
    fn state(&self) -> &SchedState {
        &self.state
    }
    fn candidate(&self, at: u32) -> Option<Candidate> {
        if let Some(intruder) = self.intruder.take() {
            intruder(self);
        }
        self.see(*self.list.get(at as usize)?)
    }
    fn table(&self, at: u32) -> Option<u32> {
        self.table.get(at as usize).copied()
    }
    fn dest(&self, dest: u32) -> Option<Candidate> {
        self.see(dest)
    }
    fn cached(&self) -> Option<&Cached> {
        self.cache.get()
    }
    fn remember(&self, word: u32) {
        self.cache.get_or_init(Cached::new).begin(word, self.seconds);
    }
    fn seconds(&self) -> u32 {
        self.seconds
    }
    fn random(&self) -> u32 {
        // Xorshift: the same numbers in every run.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.set(x);
        x
    }
    fn walk<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
        for i in 0..count {
            if step(self, acc, i).is_break() {
                return;
            }
        }
    }
}
