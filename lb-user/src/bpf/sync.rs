//! The tables as the sync daemons use them: entries read where they lie, and connections of another director handed to the
//! program that makes entries.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lb_common::addr::{Addr, Family, Port, Proto};
use lb_common::conn::{Bucket4, Bucket6, Entry, Ways, bound, ctl, tag};
use lb_common::dest::Method;
use lb_common::ip::{Address as _, Ip, V4, V6};
use lb_common::request::{HEAD, MOST_SYNCED, Request, status, verb};
use lb_common::service::ServiceKey;
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::state::udp;
use lb_common::sync::{Synced, flags};
use lb_common::table::{self, SLOT_OVERFLOW};
use lb_common::tables::control_key;

use super::lock::{self, Hold};
use super::memory::{self, Access, Mapped, Shared};
use super::pins::{self, Rules, traffic};
use super::sizes::Sizes;
use super::table::Table;
use super::{buckets, clock, dests, syscall, sysctls};
use crate::control::sysctl::Sysctls;
use crate::sync::wire::Record;

/// The program that makes entries; where it is pinned, all tables are.
const PROGRAM: &str = "lb_control";

/// An instance's tables, open.
#[derive(Debug)]
pub struct Instance {
    dir: PathBuf,
    /// Which pin the program was opened by.
    pin: u64,
    program: OwnedFd,
    rules: Rules,
    conns4: Mapped<Bucket4>,
    /// Once they are made.
    conns6: OnceLock<Mapped<Bucket6>>,
    sizes: Sizes,
    hz: u32,
}

/// A dest as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number.
    pub number: u32,
    /// Its own port; 0 for one that keeps the packet's.
    pub port: Port,
    /// Is it reached by translation?
    pub nat: bool,
}

/// A service with its dests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The service's number.
    pub service: u32,
    /// Its dests by address.
    pub servers: HashMap<Addr, Vec<Server>>,
}

/// Who wants to see entries.
pub trait Visitor {
    /// An entry that was live a moment ago, and its slot.
    fn entry<F: Ip>(&mut self, entry: &F::Entry, slot: u32);
}

impl Instance {
    /// Opens them. `None`: nothing was attached yet.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let Some(_lock) = lock::take(dir, Hold::Shared)? else { return Ok(None) };
        let (Some(pin), Some(rules)) = (pin(dir), Rules::open(dir)?) else { return Ok(None) };
        let (Some(conns4), Some(sizes)) = (buckets::open(dir, Family::V4)?, Sizes::present(dir)?) else {
            return Ok(None);
        };
        let program = syscall::open_pin(&dir.join(PROGRAM)).context("opening the program for requests")?;
        Ok(Some(Self {
            dir: dir.to_owned(),
            pin,
            program,
            rules,
            conns4: mapped(&conns4)?,
            conns6: OnceLock::new(),
            sizes,
            hz: clock::hz(),
        }))
    }

    /// Are they still those that programs use? Another `attach` pins another program.
    pub fn is_current(&self) -> bool {
        pin(&self.dir) == Some(self.pin)
    }

    /// The settings.
    pub fn settings(&self) -> Result<&Settings> {
        self.rules.settings()
    }

    /// The sysctls.
    pub fn sysctls(&self) -> Result<Sysctls> {
        Ok(sysctls::read(self.settings()?))
    }

    /// Ticks of the packet path's clock in a second.
    pub fn hz(&self) -> u32 {
        self.hz.max(1)
    }

    /// All services with their dests.
    pub fn pools(&self) -> Result<HashMap<ServiceKey, Pool>> {
        let _lock = lock::take(&self.dir, Hold::Shared)?;
        let table = Table::read(&self.rules)?;
        let pools = table.rows.into_iter().map(|(key, row)| {
            let mut pool = Pool { service: row.value.slot, ..Pool::default() };
            for number in row.list {
                let Some(dest) = self.rules.dests.get(number) else { continue };
                let server = Server { number, port: dest.port(), nat: dest.method() == Method::Nat as u8 };
                pool.servers.entry(dest.address()).or_default().push(server);
            }
            (key, pool)
        });
        Ok(pools.collect())
    }

    /// Hands connections over; what became of each is in them afterwards. Those with a call: [`Instance::adopt_call`].
    pub fn adopt(&self, all: &mut [Synced]) -> Result<()> {
        all.chunks_mut(MOST_SYNCED as usize).try_for_each(|some| self.request(some, &[]))
    }

    /// Hands the template of a call over.
    pub fn adopt_call(&self, synced: &mut Synced, call: &Call) -> Result<()> {
        self.request(std::slice::from_mut(synced), &call.plain())
    }

    fn request(&self, some: &mut [Synced], rest: &[u8]) -> Result<()> {
        let mut packet = Request::bytes(verb::ADOPT, some.len() as u32, 0)[..HEAD].to_vec();
        some.iter().for_each(|synced| packet.extend(synced.bytes()));
        packet.extend(rest);
        let answer =
            syscall::test_run_back(self.program.as_fd(), &mut packet).context("handing connections over")?;
        ensure!(
            answer == status::DONE,
            "the program attached takes no connections over: `lb-user attach` puts in one that does"
        );
        let outcomes = packet[HEAD..].chunks(Synced::SIZE).filter_map(|one| one.get(Synced::OUTCOME..));
        for (synced, bytes) in some.iter_mut().zip(outcomes) {
            synced.outcome = bytes.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        }
        Ok(())
    }

    /// The buckets of IPv6, if they are made.
    fn conns6(&self) -> Result<Option<&Mapped<Bucket6>>> {
        if let (None, Some(map)) = (self.conns6.get(), buckets::open(&self.dir, Family::V6)?) {
            let _ = self.conns6.set(mapped(&map)?);
        }
        Ok(self.conns6.get())
    }

    /// Slots of each family's table, further buckets not counted.
    pub fn slots(&self) -> [usize; 2] {
        [self.sizes.buckets_v4 as usize * 8, self.sizes.buckets_v6 as usize * 4]
    }

    /// Shows all live entries.
    pub fn walk(&self, visitor: &mut impl Visitor) -> Result<()> {
        family::<V4, Bucket4>(&self.dir, &self.conns4, "overflow4", visitor)?;
        self.conns6()?
            .map_or(Ok(()), |buckets| family::<V6, Bucket6>(&self.dir, buckets, "overflow6", visitor))
    }

    /// What a message says of an entry. `None`: it is gone, or nothing for others.
    pub fn describe<F: Ip>(&self, entry: &F::Entry, slot: u32) -> Option<Record> {
        let life = entry.life();
        let before = life.ctl.load_acquire();
        let (flow, tag_word, word) = (entry.flow(), entry.tag().load(), life.dest.load());
        let packets = life.packets.load();
        if !ctl::is_live(before) || life.ctl.load_acquire() & ctl::IDENTITY != before & ctl::IDENTITY {
            return None;
        }
        let template = tag_word & tag::TEMPLATE != 0;
        let state = before & ctl::STATE;
        let one = !template && flow.proto == Proto::UDP;
        if tag_word & tag::ORPHAN != 0 || one && state == u32::from(udp::QUOTED) {
            return None;
        }
        let family = F::FAMILY;
        let virt = (flow.vaddr.wide().to_ip(family), flow.vport);
        let (dest, mark) = self.dest(word, virt)?;
        let call = if tag_word & tag::ENGINE != 0 {
            Some(self.call(control_key(slot, before & ctl::IDENTITY))?)
        } else {
            None
        };
        let client = call.map_or((flow.client.wide(), flow.cport), |call| (call.client, Port::ZERO));
        let ticks = self.settings().ok()?.timeout(flow.proto, state).load();
        Some(Record {
            proto: flow.proto,
            flags: flags_of(before, word, template),
            state: if one { 0 } else { state as u16 },
            client: (client.0.to_ip(family), client.1),
            virt,
            // A template for several ports has its virtual one at both ends.
            dest: if template && flow.vport.is_zero() { (dest.0, Port::ZERO) } else { dest },
            mark,
            timeout: if template { table::template_timeout(tag_word, packets) } else { ticks / self.hz() },
            call: call.map(|call| call.bytes().collect()),
        })
    }

    /// The server of a [`bound`] word, and the mark of its service.
    fn dest(&self, word: u32, virt: (std::net::IpAddr, Port)) -> Option<((std::net::IpAddr, Port), u32)> {
        if word & bound::NO_DEST != 0 {
            let nowhere = if virt.0.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
            return Some(((nowhere, Port::ZERO), 0));
        }
        let dest = self.rules.dests.get(word & bound::DEST)?;
        let addr = dests::id(dest).addr;
        // Messages have one family for all three ends.
        let same = addr.is_ipv4() == virt.0.is_ipv4();
        same.then(|| ((addr, dest.port_of(word, virt.1)), dests::owner(dest).key.mark))
    }

    fn call(&self, key: u64) -> Option<Call> {
        let map = traffic("calls").ok()?.open(&self.dir).ok()??;
        syscall::lookup(pins::fd(&map), &key).ok()?
    }
}

/// Buckets, to be read.
fn mapped<T: Shared>(map: &MapData) -> Result<Mapped<T>> {
    Mapped::new(pins::fd(map), pins::entries(map)? as usize, Access::Read).context("mapping the connections")
}

/// The number of the program's pin.
fn pin(dir: &Path) -> Option<u64> {
    std::fs::metadata(dir.join(PROGRAM)).ok().map(|found| found.ino())
}

/// IPVS's flags of a connection or template.
fn flags_of(ctl_word: u32, word: u32, template: bool) -> u32 {
    let method = bound::method(word);
    let direct = method != Method::Nat as u32;
    let unseen = if template { direct } else { ctl_word & ctl::NO_OUTPUT != 0 };
    let bits = [
        (unseen, flags::NO_OUTPUT),
        (template || ctl_word & ctl::ACTIVE == 0, flags::INACTIVE),
        (template, flags::TEMPLATE),
    ];
    bits.iter().filter(|(is, _)| *is).fold(method, |all, (_, bit)| all | bit)
}

fn family<F: Ip, B: Shared + Ways<F::Entry>>(
    dir: &Path,
    buckets: &Mapped<B>,
    overflow: &str,
    visitor: &mut impl Visitor,
) -> Result<()> {
    for (n, bucket) in (0..).zip(buckets.all()) {
        ways::<F>(bucket, table::base::<F>(n), visitor);
    }
    let Some(map) = traffic(overflow)?.open(dir)? else { return Ok(()) };
    let second: Vec<(u32, [u32; 64])> = syscall::all(pins::fd(&map)).context("reading the overflow")?;
    for (n, words) in &second {
        ways::<F>(&memory::bucket::<B>(words), table::base::<F>(*n) | SLOT_OVERFLOW, visitor);
    }
    Ok(())
}

fn ways<F: Ip>(bucket: &impl Ways<F::Entry>, base: u32, visitor: &mut impl Visitor) {
    for way in 0..F::Entry::WAYS {
        let entry = bucket.way(way);
        if ctl::is_live(entry.life().ctl.load_acquire()) {
            visitor.entry::<F>(entry, base + way);
        }
    }
}
