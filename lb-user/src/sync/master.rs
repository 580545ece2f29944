//! The master: looks through the table twice a second and tells others what [`super::due`] says is due.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::addr::Proto;
use lb_common::conn::{Entry, bound, ctl, tag};
use lb_common::ip::Ip;
use lb_common::settings::Settings;
use lb_common::table::{self, SLOT_OVERFLOW, SLOT_V6};
use serde_json::{Value, json};

use super::due::{Look, Rules, Told};
use super::tables::Tables;
use super::wire::Writer;
use crate::bpf::sync::{Instance, Visitor};
use crate::bpf::syscall;

/// From one look to the next, at least.
const PAUSE: Duration = Duration::from_millis(500);
/// The part of a processor that looking may take: one in so many.
const SHARE: u32 = 20;

/// A message, and which of the ports it goes to.
pub type Message = (usize, Vec<u8>);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages sent.
    pub messages: u64,
    /// Messages the network did not take.
    pub unsent: u64,
    /// Connections and templates told of.
    pub records: u64,
    /// How long the last look took, in microseconds.
    pub look: u64,
}

/// A master's memory.
#[derive(Debug)]
pub struct Master {
    syncid: u8,
    maxlen: u16,
    ports: usize,
    tables: Tables,
    told: Memory,
    opening: u64,
    /// What was done.
    pub counts: Counts,
}

/// What was told of each entry.
#[derive(Debug, Default)]
struct Memory {
    /// By slot: IPv4, IPv6.
    first: [Vec<Told>; 2],
    /// Of further buckets.
    second: HashMap<u32, Told>,
}

impl Memory {
    fn new([v4, v6]: [usize; 2]) -> Self {
        Self { first: [vec![Told::default(); v4], vec![Told::default(); v6]], second: HashMap::new() }
    }

    fn of(&mut self, slot: u32) -> &mut Told {
        let n = (slot & !(SLOT_V6 | SLOT_OVERFLOW)) as usize;
        let family = usize::from(slot & SLOT_V6 != 0);
        match self.first[family].get_mut(n) {
            Some(told) if slot & SLOT_OVERFLOW == 0 => told,
            _ => self.second.entry(slot).or_default(),
        }
    }
}

impl Master {
    /// That tells by `ports` ports, in messages of at most `maxlen` bytes.
    pub fn new(syncid: u8, maxlen: u16, ports: usize, tables: Tables) -> Self {
        let (told, counts) = (Memory::default(), Counts::default());
        Self { syncid, maxlen, ports: ports.max(1), tables, told, opening: 0, counts }
    }

    /// For the state file.
    pub fn to_json(&self) -> Value {
        let Counts { messages, unsent, records, look } = self.counts;
        json!({ "messages": messages, "unsent": unsent, "records": records, "look_microseconds": look })
    }

    /// Looks whether the tables are still the same. To be called every second.
    pub fn second(&mut self) -> Result<()> {
        self.tables.look()?;
        if self.opening != self.tables.openings {
            self.opening = self.tables.openings;
            self.told = self.tables.get().map_or_else(Memory::default, |open| Memory::new(open.slots()));
        }
        Ok(())
    }

    /// A message that tells nothing but that somebody is there.
    pub fn hello(&self) -> Vec<u8> {
        Writer::new(1, self.syncid, self.maxlen).empty()
    }

    /// Messages that are due, by port, and how long to wait until the next look.
    pub fn look(&mut self) -> Result<(Vec<Message>, Duration)> {
        let started = Instant::now();
        let Some(instance) = self.tables.get() else { return Ok((Vec::new(), PAUSE)) };
        let sysctls = instance.sysctls()?;
        let version = if sysctls.get("sync_version") == 0 { 0 } else { 1 };
        let mut visit = Visit {
            instance,
            settings: instance.settings()?,
            rules: Rules::new(&sysctls, instance.hz()),
            now: syscall::ticks()?,
            told: &mut self.told,
            writers: (0..self.ports).map(|_| Writer::new(version, self.syncid, self.maxlen)).collect(),
            out: Vec::new(),
            most: sysctls.get("sync_qlen_max").max(1) as usize,
            records: 0,
        };
        instance.walk(&mut visit)?;
        let Visit { writers, mut out, records, .. } = visit;
        out.extend((0..).zip(writers).filter_map(|(port, mut writer)| Some((port, writer.finish()?))));
        let took = started.elapsed();
        self.counts.records += records;
        self.counts.look = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Ok((out, PAUSE.max(took * SHARE)))
    }
}

struct Visit<'a> {
    instance: &'a Instance,
    settings: &'a Settings,
    rules: Rules,
    now: u32,
    told: &'a mut Memory,
    writers: Vec<Writer>,
    out: Vec<Message>,
    /// Messages of one look; what is due beyond them is so at the next.
    most: usize,
    records: u64,
}

impl Visitor for Visit<'_> {
    fn entry<F: Ip>(&mut self, entry: &F::Entry, slot: u32) {
        if self.out.len() >= self.most {
            return;
        }
        let life = entry.life();
        let (ctl, tag_word, packets) = (life.ctl.load_acquire(), entry.tag().load(), life.packets.load());
        let proto = Proto(tag_word as u8);
        let template = tag_word & tag::TEMPLATE != 0;
        let timeout = if template {
            self.settings.ticks(table::template_timeout(tag_word, packets))
        } else {
            self.settings.timeout(proto, ctl & ctl::STATE).load()
        };
        let controlled = life.dest.load() & bound::CONTROLLED != 0;
        let look = Look { ctl, last: life.last.load(), packets, proto, template, controlled, timeout };
        if !self.rules.due(&look, self.told.of(slot), self.now) {
            return;
        }
        let Some(record) = self.instance.describe::<F>(entry, slot) else { return };
        self.records += 1;
        let port = slot as usize % self.writers.len();
        if let Some(message) = self.writers[port].push(&record) {
            self.out.push((port, message));
        }
    }
}
