//! The backup: what masters tell is put into the tables.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::addr::{Port, Proto};
use lb_common::sip::Call;
use lb_common::sync::{NO_DEST, Outcome, Synced};
use serde_json::{Value, json};
use tracing::warn;

use super::servers::Servers;
use super::tables::Tables;
use super::wire::{self, Fault, Record};
use crate::bpf::syscall;

/// How long the services are believed to be what they were.
const FRESH: Duration = Duration::from_secs(2);
/// The same, when a server is missing.
const MISSING: Duration = Duration::from_millis(500);
/// Connections that wait for their servers, at the most.
const MOST_WAITING: usize = 65_536;
/// How long one waits that does not say how long it lasts.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a connection is handed over while others are at its bucket.
const TRIES: usize = 4;

/// What became of what was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that could be read.
    pub messages: u64,
    /// By outcome; the first is for those that no program took.
    outcomes: [u64; 7],
    /// By fault.
    faults: [u64; Fault::ALL.len()],
    /// Connections that had no place among those that wait.
    forgotten: u64,
}

impl Counts {
    fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// For the state file.
    pub fn to_json(&self, waiting: usize) -> Value {
        let outcome = |outcome: Outcome| self.outcomes[outcome as usize];
        let faults: serde_json::Map<String, Value> = Fault::ALL
            .iter()
            .map(|fault| (fault.label().to_owned(), self.faults[*fault as usize].into()))
            .collect();
        json!({
            "messages": self.messages,
            "made": outcome(Outcome::Made),
            "refreshed": outcome(Outcome::Refreshed),
            "stale": outcome(Outcome::Stale),
            "table_full": outcome(Outcome::Full),
            "bucket_busy": outcome(Outcome::Busy),
            "not_attached": self.outcomes[0],
            "waiting": waiting,
            "forgotten": self.forgotten,
            "faults": faults,
        })
    }
}

/// Which connection.
type Key = (Proto, (IpAddr, Port), (IpAddr, Port));

/// A backup's memory.
#[derive(Debug)]
pub struct Backup {
    syncid: u8,
    tables: Tables,
    servers: Servers,
    read_at: Option<Instant>,
    /// Connections whose server is not here (yet), until when.
    waiting: HashMap<Key, (Record, Instant)>,
    counts: Counts,
}

impl Backup {
    /// That listens to masters of this syncid; 0 = to all.
    pub fn new(syncid: u8, tables: Tables) -> Self {
        let (servers, counts) = (Servers::default(), Counts::default());
        Self { syncid, tables, servers, read_at: None, waiting: HashMap::new(), counts }
    }

    /// For the state file.
    pub fn to_json(&self) -> Value {
        self.counts.to_json(self.waiting.len())
    }

    /// A datagram, or what stands for one. False: not a message for us.
    pub fn hear(&mut self, bytes: &[u8]) -> bool {
        match wire::read(bytes, self.syncid) {
            Err(fault) => {
                self.counts.fault(fault);
                false
            }
            Ok(message) => {
                self.counts.messages += 1;
                message.faults.iter().for_each(|fault| self.counts.fault(*fault));
                // The tables changed hands, or something failed: it is said, and the daemon goes on.
                if let Err(why) = self.take(message.records) {
                    warn!("backup sync daemon: {why:#}");
                }
                true
            }
        }
    }

    /// How often the tables have been opened.
    pub fn openings(&self) -> u64 {
        self.tables.openings
    }

    /// What time alone changes. To be called every second.
    pub fn second(&mut self) -> Result<()> {
        self.tables.look()?;
        self.stand_by()?;
        let now = Instant::now();
        self.waiting.retain(|_, (_, until)| *until > now);
        if self.waiting.is_empty() {
            return Ok(());
        }
        let before = std::mem::take(&mut self.servers);
        self.read(Duration::ZERO)?;
        if self.servers != before {
            let waiting = std::mem::take(&mut self.waiting);
            self.take(waiting.into_values().map(|(record, _)| record).collect())?;
        }
        Ok(())
    }

    /// Under backup_only the packet path leaves clients' packets alone for as long as a backup runs: it is told until when,
    /// so that one that was killed does not count.
    fn stand_by(&self) -> Result<()> {
        /// Seconds one word holds.
        const TERM: u32 = 3;
        let Some(instance) = self.tables.get() else { return Ok(()) };
        let until = &instance.settings()?.standby_until;
        if instance.sysctls()?.get("backup_only") != 0 {
            until.hold(syscall::ticks()?, TERM * instance.hz());
        } else if until.is_set() {
            until.clear();
        }
        Ok(())
    }

    /// The last word of a backup that is stopped.
    pub fn rest(&self) {
        if let Some(Ok(settings)) = self.tables.get().map(|instance| instance.settings()) {
            settings.standby_until.clear();
        }
    }

    /// Reads the services again if what is known of them is older than this.
    fn read(&mut self, age: Duration) -> Result<()> {
        let fresh = self.read_at.is_some_and(|at| at.elapsed() < age);
        if !fresh && let Some(instance) = self.tables.get() {
            self.servers = Servers(instance.pools()?);
            self.read_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Puts connections into the tables.
    fn take(&mut self, records: Vec<Record>) -> Result<()> {
        if self.tables.get().is_none() {
            self.counts.outcomes[0] += records.len() as u64;
            return Ok(());
        }
        self.read(FRESH)?;
        let mut all = self.resolve(&records);
        if all.iter().any(is_missing) {
            self.read(MISSING)?;
            all = self.resolve(&records);
        }
        self.hand_over(&mut all, &records)?;
        for (synced, record) in all.iter().zip(records) {
            match Outcome::from_number(synced.outcome) {
                Some(Outcome::NoDest) => self.wait(record),
                Some(outcome) => {
                    self.counts.outcomes[outcome as usize] += 1;
                    if !self.waiting.is_empty() {
                        self.waiting.remove(&key(&record));
                    }
                }
                None => self.counts.outcomes[0] += 1,
            }
        }
        Ok(())
    }

    fn resolve(&self, records: &[Record]) -> Vec<Synced> {
        records.iter().map(|record| self.servers.resolve(record)).collect()
    }

    /// In the order of the message; calls one by one.
    fn hand_over(&self, all: &mut [Synced], records: &[Record]) -> Result<()> {
        let Some(instance) = self.tables.get() else { return Ok(()) };
        let is_busy = |synced: &Synced| synced.outcome == Outcome::Busy as u32;
        for (some, records) in
            all.chunk_by_mut(|a, b| a.engine == b.engine && a.engine == 0).scan(records, |rest, some| {
                let (these, others) = rest.split_at(some.len());
                *rest = others;
                Some((some, these))
            })
        {
            for _ in 0..TRIES {
                match (&mut *some, records) {
                    ([synced], [Record { call: Some(id), .. }]) => {
                        let Some(call) = Call::new(synced.client, id) else { continue };
                        instance.adopt_call(synced, &call)?;
                    }
                    (some, _) => instance.adopt(some)?,
                }
                if !some.iter().any(is_busy) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, record: Record) {
        if self.waiting.len() >= MOST_WAITING && !self.waiting.contains_key(&key(&record)) {
            self.counts.forgotten += 1;
            return;
        }
        let patience = match record.timeout {
            0 => PATIENCE,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.waiting.insert(key(&record), (record, Instant::now() + patience));
    }
}

fn key(record: &Record) -> Key {
    (record.proto, record.client, record.virt)
}

fn is_missing(synced: &Synced) -> bool {
    synced.dest == NO_DEST && !synced.bypasses()
}
