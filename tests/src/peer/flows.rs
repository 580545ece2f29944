//! Many connections that are never silent for long, to see whether something that happens to the balancer breaks one.

use super::http::Connection;
use crate::net::Netns;
use crate::{pace, run};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Each has its share of the connections and asks on one after the other.
const THREADS: usize = 8;
/// Between two rounds of a thread.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections with HTTP requests on each, over and over.
#[derive(Debug)]
pub struct Flows {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    count: usize,
    servers: BTreeMap<String, usize>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    rounds: Vec<AtomicU64>,
    answers: AtomicU64,
    longest: Mutex<Duration>,
    broken: Mutex<Vec<String>>,
}

/// What became of them since the last [`Flows::check`].
#[derive(Debug)]
pub struct Checked {
    /// How many connections there are.
    pub count: usize,
    /// Answers in all.
    pub answers: u64,
    /// The longest time an answer took.
    pub gap: Duration,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, answers, gap } = self;
        write!(f, "{count} connections, none broken; {answers} answers; longest wait {} ms", gap.as_millis())
    }
}

impl Flows {
    /// Opens `count` connections from `client` and keeps asking.
    pub fn start(client: &Netns, server: SocketAddr, count: usize) -> Result<Self> {
        let mut open = (0..count)
            .map(|_| {
                let mut connection = Connection::open(client, server)?;
                let who = connection.who()?;
                Ok((connection, who))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut servers = BTreeMap::new();
        open.iter().for_each(|(_, who)| *servers.entry(who.clone()).or_default() += 1);
        let share = count.div_ceil(THREADS).max(1);
        let threads = count.div_ceil(share);
        let rounds = (0..threads).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { rounds, ..Shared::default() });
        let start = |thread: usize| {
            let own = open.split_off(open.len().saturating_sub(share));
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.ask(thread, own))
        };
        let threads = (0..threads).map(start).collect();
        Ok(Self { shared, threads, count, servers })
    }

    /// Which servers have how many of them.
    pub fn servers(&self) -> &BTreeMap<String, usize> {
        &self.servers
    }

    /// Waits until each connection has been asked again from now on, and none is broken.
    pub fn check(&self) -> Result<Checked> {
        let now = |at: usize| self.shared.rounds[at].load(Ordering::Relaxed);
        let before: Vec<u64> = (0..self.threads.len()).map(now).collect();
        let all = || {
            // The round a thread is in does not count: it may be past most of its connections.
            let asked = before.iter().enumerate().all(|(at, before)| now(at) >= before + 2);
            (asked || !self.broken().is_empty()).then_some(())
        };
        let waited = run::until(Duration::from_secs(40), "an answer on each connection", all);
        let broken = self.broken();
        ensure!(
            broken.is_empty(),
            "{} of {} connections broke: {:?}",
            broken.len(),
            self.count,
            &broken[..1]
        );
        waited?;
        let gap = std::mem::take(&mut *self.shared.longest.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Checked { count: self.count, answers: self.shared.answers.swap(0, Ordering::Relaxed), gap })
    }

    fn broken(&self) -> Vec<String> {
        self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    fn ask(&self, thread: usize, mut own: Vec<(Connection, String)>) {
        while !self.stop.load(Ordering::Relaxed) {
            own.retain_mut(|(connection, who)| {
                let asked = Instant::now();
                let fine = same(connection, who);
                let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
                *longest = (*longest).max(asked.elapsed());
                self.answers.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = &fine {
                    let said = format!("{:?} to {who}: {error:#}", connection.local());
                    self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(said);
                }
                fine.is_ok()
            });
            self.rounds[thread].fetch_add(1, Ordering::Relaxed);
            thread::sleep(pace::limit(PAUSE));
        }
    }
}

fn same(connection: &mut Connection, who: &str) -> Result<()> {
    let answer = connection.who().context("after it had been open for a while")?;
    ensure!(answer == who, "now {answer} answers");
    Ok(())
}
