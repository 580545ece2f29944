//! Link addresses of clients, or of gateways towards them, where servers' answers go back through the balancer (address
//! translation). Packets are sent on without the kernel's stack, so nothing ever asks for an address that the stack does not
//! know: usually the client has asked for ours and told its own by that, but a balancer that takes another's place, or a
//! full neighbour table, knows nothing of it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::conn::{Entry, bound, tag};
use lb_common::dest::Method;
use lb_common::ip::{Address as _, Ip};
use lb_common::reason::Reason;

use super::route::Router;
use super::status;
use super::sync::{Instance, Visitor};

/// Clients asked for at one look; the others are so at the next.
const MOST: usize = 1024;
/// Who did not answer is asked for again after this time.
const AGAIN: Duration = Duration::from_secs(3);
/// The part of a processor that looking may take: one in so many.
const SHARE: u32 = 20;
/// How long nobody looks after a look that found nobody: a server may be what does not answer.
const REST: Duration = Duration::from_secs(2);

/// Looks after the clients of one instance.
#[derive(Debug)]
pub struct Clients {
    dir: PathBuf,
    router: Router,
    /// Packets without a link address, at the last look.
    dropped: u64,
    asked: HashSet<IpAddr>,
    since: Instant,
    /// No look before then.
    rest: Instant,
}

impl Clients {
    /// For the instance with its pins in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        let now = Instant::now();
        Self { dir, router: Router::default(), dropped: 0, asked: HashSet::new(), since: now, rest: now }
    }

    /// If packets have been dropped since the last look because a link address was unknown: has the kernel ask for those of
    /// clients that connections say. Gives of how many. To be called several times a second.
    pub fn look(&mut self) -> Result<usize> {
        let started = Instant::now();
        if started < self.rest {
            return Ok(0);
        }
        let dropped = status::counted(&self.dir, Reason::NoNeighbour)?;
        if std::mem::replace(&mut self.dropped, dropped) == dropped {
            return Ok(0);
        }
        if self.since.elapsed() >= AGAIN {
            self.asked.clear();
            self.since = started;
        }
        let count = self.ask()?;
        let least = if count == 0 { REST } else { Duration::ZERO };
        self.rest = Instant::now() + least.max(started.elapsed() * SHARE);
        Ok(count)
    }

    fn ask(&mut self) -> Result<usize> {
        let Some(instance) = Instance::open(&self.dir)? else { return Ok(0) };
        let mut found = Found { asked: &mut self.asked, new: Vec::new() };
        instance.walk(&mut found)?;
        let new = found.new;
        self.router.forget();
        for client in &new {
            let way = self.router.way(client)?;
            // A gateway is wanted by many and for long.
            if way.next == *client {
                self.router.ask(&way);
            } else {
                self.router.resolve(&way);
            }
        }
        Ok(new.len())
    }
}

/// Clients whose answers come through here, that have not been asked for.
struct Found<'a> {
    asked: &'a mut HashSet<IpAddr>,
    new: Vec<IpAddr>,
}

impl Visitor for Found<'_> {
    fn entry<F: Ip>(&mut self, entry: &F::Entry, _slot: u32) {
        let translated = bound::method(entry.life().dest.load()) == Method::Nat as u32;
        if !translated || entry.tag().load() & tag::TEMPLATE != 0 || self.new.len() >= MOST {
            return;
        }
        let client = entry.flow().client.wide().to_ip(F::FAMILY);
        if self.asked.insert(client) {
            self.new.push(client);
        }
    }
}
