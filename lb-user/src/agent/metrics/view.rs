//! Everything a scrape shows, as it is at one moment: the agent's part is its own, the rest is read from the tables.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::check::tally::{Durations, Tally};
use crate::bpf::status::Status;
use crate::control::model::{DaemonRow, Service};

/// What the agent alone knows.
#[derive(Clone, Debug)]
pub struct View {
    /// As configured, each name once.
    pub virtual_servers: Vec<VirtualServer>,
    /// How long attempts of all checks took, by keyword.
    pub durations: Durations,
    /// What the last reading of the configuration came to.
    pub loading: Loading,
}

/// A virtual server of the configuration.
#[derive(Clone, Debug)]
pub struct VirtualServer {
    /// As log lines name it.
    pub name: String,
    /// Enough weight is alive.
    pub quorum_up: bool,
    /// The least sum of weights.
    pub quorum: u32,
    /// The sum of the weights of live servers.
    pub alive_weight: u64,
    /// Its servers, each name once.
    pub servers: Vec<RealServer>,
}

/// A real server of one.
#[derive(Clone, Debug)]
pub struct RealServer {
    /// As log lines name it.
    pub name: String,
    /// All its checks pass.
    pub up: bool,
    /// As its checks have it.
    pub weight: u32,
    /// In the order of the file.
    pub checks: Vec<Check>,
}

/// A check of a server; one made once for several servers is shown with each.
#[derive(Clone, Debug)]
pub struct Check {
    /// The keyword.
    pub keyword: &'static str,
    /// Does it pass?
    pub up: bool,
    /// How its attempts went.
    pub tally: Arc<Tally>,
}

/// Reading the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// The last attempt succeeded.
    pub good: bool,
    /// When one last did.
    pub since: SystemTime,
}

impl Default for Loading {
    /// Just read: an agent whose configuration cannot be does not start.
    fn default() -> Self {
        Self { good: true, since: SystemTime::now() }
    }
}

/// What the tables hold.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// In the order of listings.
    pub services: Vec<Service>,
    /// Running sync daemons.
    pub daemons: Vec<DaemonRow>,
    /// NICs, occupancy, reasons.
    pub status: Status,
}

/// A series may be there only once: of what has the same name, the first.
pub fn once<T>(all: impl Iterator<Item = T>, name: impl Fn(&T) -> String) -> Vec<T> {
    let mut seen = HashSet::new();
    all.filter(|one| seen.insert(name(one))).collect()
}
