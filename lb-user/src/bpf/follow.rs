//! Keeping the ways to dests true when the network changes: whom packets are handed to, by which NIC, and that the kernel
//! knows its link address. The packet path asks the kernel itself about once a second; this is for what it cannot do (find
//! a new gateway's link address) and for not waiting that second.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use lb_common::dest::{Dest, status};

use super::lock::{self, Hold};
use super::pins::{Rules, traffic};
use super::publish::put_nic;
use super::route::{Router, Way};
use super::table::Table;
use super::{clock, dests};

/// A neighbour: NIC and address.
pub type Neighbour = (u32, IpAddr);

/// What has changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Routes, addresses or NICs: any way may be another.
    pub ways: bool,
    /// Neighbours whose link address is another, or who are gone.
    pub neighbours: HashSet<Neighbour>,
}

impl News {
    /// Everything may have.
    pub fn everything() -> Self {
        Self { ways: true, ..Self::default() }
    }

    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        !self.ways && self.neighbours.is_empty()
    }
}

/// Follows the network for one instance.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    router: Router,
    ways: HashMap<IpAddr, Way>,
}

impl Follower {
    /// For the instance with its pins in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, router: Router::default(), ways: HashMap::new() }
    }

    /// Brings the dests up to date. Gives how many dests' ways are asked for anew.
    pub fn follow(&mut self, news: &News) -> Result<usize> {
        let Some(_lock) = lock::take(&self.dir, Hold::Alone)? else { return Ok(0) };
        let Some(rules) = Rules::open(&self.dir)? else { return Ok(0) };
        self.router.forget();
        if news.ways {
            self.ways.clear();
        }
        let now = clock::Now::read()?;
        let (long_ago, mut count) = (now.ticks.wrapping_sub(now.hz), 0);
        let table = Table::read(&rules)?;
        let listed = table.rows.values().flat_map(|row| &row.list);
        for dest in listed.filter_map(|slot| rules.dests.get(*slot)) {
            if dest.status.load() & status::LOCAL != 0 {
                continue;
            }
            let way = self.way(dests::id(dest).addr)?;
            if news.ways || news.neighbours.contains(&(way.egress, way.next)) {
                self.renew(dest, &way)?;
                dest.hop.asked.store(long_ago);
                count += 1;
            }
        }
        Ok(count)
    }

    fn way(&mut self, to: IpAddr) -> Result<Way> {
        if let Some(way) = self.ways.get(&to) {
            return Ok(*way);
        }
        let way = self.router.way(&to)?;
        self.ways.insert(to, way);
        Ok(way)
    }

    fn renew(&mut self, dest: &Dest, way: &Way) -> Result<()> {
        self.router.resolve(way);
        if way.egress == 0 || dest.egress.load() == way.egress {
            return Ok(());
        }
        // The NIC first: packets go out by it from the next line on.
        if let Some(map) = traffic("egress")?.open(&self.dir)? {
            put_nic(&map, way.egress)?;
        }
        dest.egress.store(way.egress);
        Ok(())
    }
}
