//! What `lb-user status` and the metrics tell of the tables and NICs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use lb_common::reason::Reason;
use lb_common::tables::LAYOUT;
use serde_json::{Map, Value, json};

use super::attach::{LINK, STAGES, links};
use super::lock::{self, Hold};
use super::pins::{self, BOOKS, CONNS6, RULES, Rules, TRAFFIC, traffic};
use super::route::{Nic, Router};
use super::sizes::Sizes;
use super::table::{self, Row, Table};
use super::{bpffs, buckets, dests, pieces, route, syscall};
use crate::control::model::Rates;
use crate::sync::daemon::{self, Running};

/// The mode a NIC's program runs in.
pub fn mode_name(xdp: Option<(u8, u32)>) -> &'static str {
    match xdp {
        Some((1, _)) => "native mode",
        Some((2, _)) => "generic mode",
        Some((3, _)) => "offloaded",
        Some(_) => "several modes",
        None => "not running",
    }
}

/// A NIC the program is attached to.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name, or that of its pin if it is gone.
    pub name: String,
    /// Its number; 0 if it is gone.
    pub index: u32,
    /// `native`, `generic`, `offloaded`, `several modes` or `not running`.
    pub mode: &'static str,
    /// Switched on?
    pub up: bool,
    /// The kernel's number of the program.
    pub program_id: u32,
}

/// The program that runs.
#[derive(Clone, Debug)]
pub struct Program {
    /// The kernel's number of it.
    pub id: u32,
    /// The hash of its instructions, as bpftool shows it.
    pub tag: String,
}

/// Occupancy of one family's part of the connection table.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Room, without the overflow.
    pub slots: u64,
    /// Is it made? That of IPv6 is when there is a service of IPv6.
    pub made: bool,
    /// Entries that live, templates included.
    pub live: u32,
    /// Further buckets in use, second and third ones.
    pub second: u32,
}

/// The connection table.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// IPv4 connections it was made for.
    pub connections: u64,
    /// IPv6 connections it was made for.
    pub connections_v6: u64,
    /// Its IPv4 part.
    pub v4: Family,
    /// Its IPv6 part.
    pub v6: Family,
    /// Nanoseconds of one CPU that the expiry sweep has taken since the table was made.
    pub sweep_ns: u64,
}

/// How much of something is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// So much.
    pub used: usize,
    /// Of so much that there is memory for now.
    pub made: u32,
    /// There may be so much.
    pub room: u32,
}

/// The maps of the rules.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Services.
    pub services: Taken,
    /// Dest slots; deleted dests keep theirs for a while.
    pub dests: Taken,
    /// Words of dest lists and scheduler tables.
    pub lists: Taken,
}

/// Kernel memory, in bytes.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Of the maps of connections and traffic, made by `attach`.
    pub traffic: u64,
    /// Of the maps of services and dests, as far as they are made.
    pub rules: u64,
    /// Of each map.
    pub maps: BTreeMap<String, u64>,
}

/// A next hop of dests that does not answer.
#[derive(Clone, Debug)]
pub struct DeadNeighbour {
    /// Its address: a dest's, or a gateway's.
    pub address: IpAddr,
    /// The NIC it should be behind.
    pub interface: String,
    /// How many dests are reached by it.
    pub dests: usize,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The instance's directory, by its name outside of `ip netns exec`.
    pub pins: String,
    /// Attached NICs.
    pub interfaces: Vec<Interface>,
    /// Of the last attachment; none before the first.
    pub program: Option<Program>,
    /// How many services there are.
    pub services: usize,
    /// How many dests they have together.
    pub dests: usize,
    /// What passes, all services together; none before the first rule.
    pub rates: Option<Rates>,
    /// Next hops that do not answer.
    pub dead_neighbours: Vec<DeadNeighbour>,
    /// None before the first rule and the first attachment.
    pub room: Option<Room>,
    /// None before the first attachment.
    pub tables: Option<Tables>,
    /// Kernel memory that the maps take.
    pub memory: Memory,
    /// What became of how many packets; empty before the first attachment.
    pub reasons: Vec<(Reason, u64)>,
    /// Sync daemons that run.
    pub sync: Vec<Running>,
}

/// Reads everything.
pub fn read(dir: &Path) -> Result<Status> {
    let _lock = lock::take(dir, Hold::Shared)?;
    let rules = Rules::open(dir)?;
    let table = rules.as_ref().map(Table::read).transpose()?.unwrap_or_default();
    let nics = route::nics()?;
    Ok(Status {
        pins: bpffs::outside(dir).display().to_string(),
        interfaces: interfaces(dir, &nics)?,
        program: program(dir),
        services: table.rows.len(),
        dests: table.rows.values().map(|row| row.list.len()).sum(),
        rates: rules.as_ref().map(|rules| table::rates(rules.rate_of_all())),
        room: rules.as_ref().map(|rules| room(rules, &table)),
        dead_neighbours: rules
            .as_ref()
            .map_or(Ok(Vec::new()), |rules| dead_neighbours(rules, &table, &nics))?,
        tables: tables(dir)?,
        memory: memory(dir)?,
        reasons: reasons(dir)?,
        sync: daemon::all()?,
    })
}

fn interfaces(dir: &Path, nics: &[Nic]) -> Result<Vec<Interface>> {
    let mut all = Vec::new();
    for (name, link) in links(dir, LINK)? {
        let (id, index) = syscall::xdp_link(link.as_fd()).with_context(|| format!("asking about {name}"))?;
        let nic = nics.iter().find(|nic| nic.index == index && index != 0);
        let mode = mode_name(nic.and_then(|nic| nic.xdp));
        all.push(Interface {
            name: nic.map_or(name, |nic| nic.name.clone()),
            index,
            mode: mode.trim_end_matches(" mode"),
            up: nic.is_some_and(|nic| nic.up),
            program_id: id,
        });
    }
    Ok(all)
}

/// Ways are looked up only if somebody does not answer.
fn dead_neighbours(rules: &Rules, table: &Table, nics: &[Nic]) -> Result<Vec<DeadNeighbour>> {
    let mut router = Router::default();
    let silent = router.silent()?;
    if silent.is_empty() {
        return Ok(Vec::new());
    }
    let mut dead: BTreeMap<(IpAddr, u32), usize> = BTreeMap::new();
    for slot in table.rows.values().flat_map(|row| &row.list) {
        let Some(dest) = rules.dests.get(*slot) else { continue };
        let way = router.way(&dests::id(dest).addr)?;
        if silent.contains(&(way.egress, way.next)) {
            *dead.entry((way.next, way.egress)).or_default() += 1;
        }
    }
    let name = |index: u32| nics.iter().find(|nic| nic.index == index).map_or("", |nic| &nic.name).to_owned();
    let row = |((address, index), dests)| DeadNeighbour { address, interface: name(index), dests };
    Ok(dead.into_iter().map(row).collect())
}

/// The program that runs, if one was ever attached.
fn program(dir: &Path) -> Option<Program> {
    let info = ProgramInfo::from_pin(dir.join("lb")).ok()?;
    Some(Program { id: info.id(), tag: format!("{:016x}", info.tag().swap_bytes()) })
}

fn tables(dir: &Path) -> Result<Option<Tables>> {
    let Some(sizes) = Sizes::present(dir)? else { return Ok(None) };
    let sweeper = traffic("sweeper")?.require(dir)?;
    // A timer of 16 bytes; then next, counting, live and second, each for both families; the time it took; more.
    let words: [u32; 20] = syscall::lookup(pins::fd(&sweeper), &0u32)?.unwrap_or_default();
    let [live_v4, live_v6, second_v4, second_v6, low, high] = [8, 9, 10, 11, 12, 13].map(|at| words[at]);
    let made_v6 = buckets::open(dir, lb_common::addr::Family::V6)?.is_some();
    let family = |buckets: u32, ways: u32, live: u32, second: u32| Family {
        slots: u64::from(buckets) * u64::from(ways),
        made: ways == 8 || made_v6,
        live,
        second,
    };
    Ok(Some(Tables {
        connections: sizes.connections_v4(),
        connections_v6: sizes.connections_v6(),
        v4: family(sizes.buckets_v4, 8, live_v4, second_v4),
        v6: family(sizes.buckets_v6, 4, live_v6, second_v6),
        sweep_ns: u64::from(low) | u64::from(high) << 32,
    }))
}

fn room(rules: &Rules, table: &Table) -> Room {
    let words = |row: &Row| (row.value.dests.max(1) + row.value.table_len) as usize;
    let sizes = rules.sizes();
    let dests = rules.dests.iter().filter(|dest| dests::used(dest)).count();
    let words = table.rows.values().map(words).sum();
    Room {
        services: Taken { used: table.rows.len(), made: rules.services_made(), room: sizes.services() },
        dests: Taken { used: dests, made: rules.dests_made(), room: sizes.dests },
        lists: Taken { used: words, made: rules.words_made(), room: sizes.words() },
    }
}

/// What the kernel says that maps take: the pinned ones, and those that only programs hold, if it may be asked for them.
fn memory(dir: &Path) -> Result<Memory> {
    let mut maps = BTreeMap::new();
    for spec in RULES.iter().chain([&BOOKS]).chain(&TRAFFIC) {
        if let Some(map) = spec.open(dir)? {
            let bytes = syscall::map_memory(pins::fd(&map))
                .with_context(|| format!("asking how large {} is", spec.name))?;
            maps.insert(spec.name.to_owned(), bytes + pieces::memory(dir, spec.name)?);
        }
    }
    if let Some(outer) = maps.get_mut(CONNS6.name) {
        *outer += buckets::memory_v6(dir)?;
    }
    let rules = RULES.iter().chain([&BOOKS]).filter_map(|spec| maps.get(spec.name)).sum();
    for program in programs(dir) {
        for id in program.map_ids().ok().flatten().unwrap_or_default() {
            let Ok(info) = MapInfo::from_id(id) else { continue };
            let name = info.name_as_str().unwrap_or_default().to_owned();
            if let (false, Ok(map)) = (maps.contains_key(&name), info.fd()) {
                maps.insert(name, syscall::map_memory(map.as_fd())?);
            }
        }
    }
    Ok(Memory { traffic: maps.values().sum::<u64>() - rules, rules, maps })
}

/// The program of packets, those it ends in, and that of requests.
fn programs(dir: &Path) -> Vec<ProgramInfo> {
    let pinned = ["lb", "lb_control"].iter().filter_map(|name| ProgramInfo::from_pin(dir.join(name)).ok());
    let stages = syscall::open_pin(&dir.join(STAGES)).ok();
    let stage = |at: u32| syscall::lookup::<u32, u32>(stages.as_ref()?.as_fd(), &at).ok().flatten();
    let ids: Vec<u32> = (0..8).filter_map(stage).collect();
    let called = loaded_programs().filter_map(Result::ok).filter(|program| ids.contains(&program.id()));
    pinned.chain(called).collect()
}

fn reasons(dir: &Path) -> Result<Vec<(Reason, u64)>> {
    let Some(map) = traffic("reasons")?.open(dir)? else { return Ok(Vec::new()) };
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let mut per_cpu = vec![0u64; cpus];
    let mut all = Vec::new();
    for reason in Reason::ALL {
        all.push((*reason, sum(&map, *reason, &mut per_cpu)?));
    }
    Ok(all)
}

/// Packets counted under one reason; 0 before anything was attached.
pub fn counted(dir: &Path, reason: Reason) -> Result<u64> {
    let Some(map) = traffic("reasons")?.open(dir)? else { return Ok(0) };
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    Ok(sum(&map, reason, &mut vec![0; cpus])?)
}

fn sum(map: &aya::maps::MapData, reason: Reason, per_cpu: &mut [u64]) -> std::io::Result<u64> {
    syscall::lookup_per_cpu(map.fd().as_fd(), &(reason as u32), per_cpu)?;
    Ok(per_cpu.iter().fold(0, |sum, one| sum.wrapping_add(*one)))
}

/// Neighbours named one by one.
const SHOWN: usize = 10;

impl Status {
    /// For programs.
    pub fn json(&self) -> Value {
        let family = |family: Family| json!({ "slots": family.slots, "made": family.made, "live": family.live, "second": family.second });
        let tables = self.tables.map(|tables| {
            json!({
                "connections": tables.connections,
                "connections_v6": tables.connections_v6,
                "v4": family(tables.v4),
                "v6": family(tables.v6),
                "sweep_ns": tables.sweep_ns,
            })
        });
        let taken = |taken: Taken| json!({ "used": taken.used, "made": taken.made, "room": taken.room });
        let room = |room: Room| json!({ "services": taken(room.services), "dests": taken(room.dests), "lists": taken(room.lists) });
        let interface = |nic: &Interface| {
            json!({
                "name": nic.name,
                "ifindex": nic.index,
                "mode": nic.mode,
                "up": nic.up,
                "program_id": nic.program_id,
            })
        };
        let dead = |dead: &DeadNeighbour| json!({ "address": dead.address.to_string(), "interface": dead.interface, "dests": dead.dests });
        let program = |program: &Program| json!({ "name": "lb", "id": program.id, "tag": program.tag });
        let reason = |(reason, count): &(Reason, u64)| json!({ "label": reason.label(), "text": reason.text(), "count": count });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "layout": LAYOUT,
            "pins": self.pins,
            "interfaces": self.interfaces.iter().map(interface).collect::<Vec<_>>(),
            "program": self.program.as_ref().map(program),
            "services": self.services,
            "dests": self.dests,
            "rates": self.rates.map(|rates| {
                let Rates { cps, inpps, outpps, inbps, outbps } = rates;
                json!({ "cps": cps, "inpps": inpps, "outpps": outpps, "inbps": inbps, "outbps": outbps })
            }),
            "dead_neighbours": self.dead_neighbours.iter().map(dead).collect::<Vec<_>>(),
            "tables": tables,
            "room": self.room.map(room),
            "memory": { "traffic": self.memory.traffic, "rules": self.memory.rules, "maps": self.memory.maps },
            "reasons": self.reasons.iter().map(reason).collect::<Vec<_>>(),
            "sync": self.sync.iter().map(Running::json).collect::<Map<_, _>>(),
        })
    }

    /// For people.
    pub fn text(&self) -> Result<String> {
        let mut out = String::new();
        if self.interfaces.is_empty() {
            writeln!(out, "Not attached to any interface")?;
        }
        for nic in &self.interfaces {
            let down = if nic.up { "" } else { ", down" };
            writeln!(out, "{}: {} mode{down}, program {}", nic.name, nic.mode, nic.program_id)?;
        }
        writeln!(out, "Version {}, layout {LAYOUT}, pins in {}", env!("CARGO_PKG_VERSION"), self.pins)?;
        writeln!(out, "{} services, {} dests", self.services, self.dests)?;
        if let Some(Rates { cps, inpps, outpps, inbps, outbps }) = self.rates.filter(|_| self.services != 0) {
            writeln!(
                out,
                "A second: {cps} connections, {inpps} packets in and {outpps} out, {inbps} bytes in and {outbps} out"
            )?;
        }
        for DeadNeighbour { address, interface, dests } in self.dead_neighbours.iter().take(SHOWN) {
            writeln!(out, "Neighbour {address} on {interface} does not answer: {dests} dests behind it")?;
        }
        if let more @ 1.. = self.dead_neighbours.len().saturating_sub(SHOWN) {
            writeln!(out, "{more} more neighbours do not answer")?;
        }
        if let Some(Room { services, dests, lists }) = self.room {
            writeln!(
                out,
                "Rules: {} of {} services, {} of {} dests, {} of {} words of lists; {} MiB",
                services.used,
                services.room,
                dests.used,
                dests.room,
                lists.used,
                lists.room,
                self.memory.rules >> 20
            )?;
        }
        if let Some(Tables { v4, v6, connections_v6, .. }) = self.tables {
            let of_v6 = match v6.made {
                true => format!("{} in {}", v6.live, v6.slots),
                false => format!("none (room for {connections_v6} once there is a service)"),
            };
            writeln!(
                out,
                "Connections: IPv4 {} in {} slots, IPv6 {of_v6}; {} MiB",
                v4.live,
                v4.slots,
                self.memory.traffic >> 20
            )?;
        }
        for running in &self.sync {
            writeln!(out, "{}", running.text())?;
        }
        let seen: Vec<_> = self.reasons.iter().filter(|(_, count)| *count != 0).collect();
        if !seen.is_empty() {
            writeln!(out, "Packets:")?;
        }
        for (reason, count) in seen {
            writeln!(out, "  {count:>12}  {:<18} {}", reason.label(), reason.text())?;
        }
        Ok(out)
    }
}
