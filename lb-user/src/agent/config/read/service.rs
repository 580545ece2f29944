//! `virtual_server`.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Reader;
use super::group::Entry;
use super::server::{RawServer, RawSorry, Way};
use super::timing::Timing;
use super::values::number;
use crate::agent::config::model::{OnDown, RealServer, Script, VirtualServer, named};
use crate::agent::config::tree::Statement;
use crate::control::model::{
    Engine, Family, Method, Netmask, Persistence, Port, Proto, Scheduler, ServiceId, family_of,
};
use crate::control::request::ServiceAsk;
use lb_common::service::flags;

/// Persistence without a time.
const USUAL_PERSISTENCE: u32 = 360;
const LONGEST_PERSISTENCE: u32 = 31 * 86400;

/// What the words after `virtual_server` name.
enum Head {
    Entries(Vec<Entry>),
    Group(String, Vec<Entry>, u32),
}

/// What its block said.
#[derive(Default)]
pub(super) struct Raw {
    timing: Timing,
    scheduler: Option<String>,
    sched_flags: u32,
    way: Option<Way>,
    proto: Option<Proto>,
    family: Option<Family>,
    ops: bool,
    persistence: Option<u32>,
    granularity: Option<Netmask>,
    engine: Option<String>,
    pub(super) weight: Option<u32>,
    pub(super) inhibit: bool,
    omega: bool,
    ha_suspend: bool,
    quorum: Option<u32>,
    hysteresis: u32,
    quorum_up: Option<Script>,
    quorum_down: Option<Script>,
    sorry: Option<RawSorry>,
    slow_start: Duration,
    on_down: OnDown,
    announce: Option<String>,
    pub(super) along_path: bool,
    servers: Vec<RawServer>,
}

impl Reader<'_> {
    pub(super) fn virtual_server(&mut self, statement: &Statement) -> Option<VirtualServer> {
        let head = self.head(statement);
        let mut raw = Raw::default();
        for line in self.block(statement) {
            self.service_line(line, &mut raw);
        }
        let head = head?;
        let (Head::Entries(entries) | Head::Group(_, entries, _)) = &head;
        if raw.servers.is_empty() && raw.sorry.is_none() {
            self.warn(statement, "virtual_server without a real_server: passed over");
            return None;
        }
        let proto = self.proto(statement, &raw, entries);
        let services = services(entries, proto, &raw);
        let name = name(&head, &services);
        let way = raw.way.unwrap_or_else(|| {
            self.warn(statement, format!("{name}: no forwarding method set, setting default NAT"));
            Way::default()
        });
        let ask = self.ask(statement, &name, &raw, &services);
        let servers = self.servers(&raw, way, &services);
        let total: u64 = servers.iter().map(|server| u64::from(server.conf.weight)).sum();
        let quorum = self.quorum(statement, &raw, total);
        let ha_suspend = self.ha_suspend(statement, &raw, &services);
        Some(VirtualServer {
            place: statement.place.clone(),
            ask,
            sorry: raw.sorry.as_ref().map(|sorry| sorry.finish(way)),
            servers,
            quorum,
            hysteresis: raw.hysteresis.min(quorum.saturating_sub(1)),
            quorum_up: raw.quorum_up,
            quorum_down: raw.quorum_down,
            omega: raw.omega,
            ha_suspend,
            slow_start: raw.slow_start,
            on_down: raw.on_down,
            announce: self.announce(statement, raw.announce.take(), &services),
            services,
            name,
        })
    }

    fn head(&mut self, statement: &Statement) -> Option<Head> {
        match statement.word(1) {
            Some("group") => {
                let name = statement.word(2).unwrap_or_default().to_owned();
                let Some(group) = self.groups.get_mut(&name) else {
                    self.error(statement, format!("there is no virtual_server_group '{name}'"));
                    return None;
                };
                let ordinal = group.users;
                group.users += 1;
                Some(Head::Group(name, group.entries.clone(), ordinal))
            }
            Some("fwmark") => match statement.word(2).and_then(number).filter(|mark| *mark != 0) {
                Some(mark) => Some(Head::Entries(vec![Entry::Mark(mark, None)])),
                None => {
                    self.error(statement, "fwmark: a mark from 1 to 4294967295 is wanted");
                    None
                }
            },
            _ => {
                let addr = self.address(statement, 1)?;
                let port = self.port(statement, 2)?.unwrap_or(Port::ZERO);
                Some(Head::Entries(vec![Entry::Addr(addr, port)]))
            }
        }
    }

    fn service_line(&mut self, line: &Statement, raw: &mut Raw) {
        match line.keyword() {
            "real_server" => {
                let server = self.real_server(line, raw);
                raw.servers.extend(server);
            }
            // Here it has no argument, and one is not looked at.
            "alpha" => raw.timing.alpha = Some(true),
            "omega" => raw.omega = true,
            "ops" => raw.ops = true,
            "ha_suspend" => raw.ha_suspend = true,
            "inhibit_on_failure" => raw.inhibit = true,
            "lvs_sched" | "lb_algo" => raw.scheduler = self.scheduler(line),
            "lvs_method" | "lb_kind" => raw.way = self.way(line).or(raw.way),
            "flag-1" => raw.sched_flags |= flags::SCHED1,
            "flag-2" => raw.sched_flags |= flags::SCHED2,
            "flag-3" => raw.sched_flags |= flags::SCHED3,
            "sh-fallback" | "sh-port" | "mh-fallback" | "mh-port" => self.named_flag(line, raw),
            // Never had an effect.
            "hashed" | "smtp_alert" | "snmp_name" => {}
            "protocol" => raw.proto = self.value(line, "TCP, UDP or SCTP", proto).or(raw.proto),
            "ip_family" => raw.family = self.value(line, "inet or inet6", family).or(raw.family),
            "persistence_timeout" => raw.persistence = self.persistence(line),
            "persistence_granularity" => {
                raw.granularity = self.value(line, "a net mask or a prefix length", granularity);
            }
            "persistence_engine" => raw.engine = self.engine(line),
            "weight" => raw.weight = self.number(line, 1..=i32::MAX as u32).or(raw.weight),
            "quorum" => raw.quorum = self.number(line, 1..=u32::MAX).or(raw.quorum),
            "hysteresis" => raw.hysteresis = self.number(line, 0..=u32::MAX).unwrap_or(0),
            "quorum_up" => raw.quorum_up = self.first_script(line, raw.quorum_up.take()),
            "quorum_down" => raw.quorum_down = self.first_script(line, raw.quorum_down.take()),
            "sorry_server" => raw.sorry = self.sorry(line).or(raw.sorry.take()),
            "sorry_server_inhibit" | "sorry_server_lvs_method" => self.sorry_line(line, &mut raw.sorry),
            "slow_start" => raw.slow_start = self.timer(line, Duration::ZERO).unwrap_or_default(),
            "on_down" => raw.on_down = self.on_down(line),
            "announce" => raw.announce = self.text(line),
            "check_path" => raw.along_path = self.check_path(line),
            _ if self.timing(line, &mut raw.timing, 1) => {}
            _ => self.unknown(line),
        }
    }

    /// Of several, the first counts.
    pub(super) fn first_script(&mut self, line: &Statement, first: Option<Script>) -> Option<Script> {
        if first.is_some() {
            self.warn(line, format!("{} is there already; this one is passed over", line.keyword()));
            return first;
        }
        self.script(line)
    }

    fn scheduler(&mut self, line: &Statement) -> Option<String> {
        self.value(line, "a scheduler (rr wrr lc wlc lblc lblcr sh mh dh fo ovf sed nq twos)", |word| {
            Scheduler::from_name(word).map(|found| found.name().to_owned())
        })
    }

    fn named_flag(&mut self, line: &Statement, raw: &mut Raw) {
        let (own, flag) = match line.keyword() {
            "sh-fallback" => ("sh", flags::SCHED1),
            "sh-port" => ("sh", flags::SCHED2),
            "mh-fallback" => ("mh", flags::SCHED1),
            _ => ("mh", flags::SCHED2),
        };
        match raw.scheduler.as_deref() {
            Some(scheduler) if scheduler == own => raw.sched_flags |= flag,
            Some("sh" | "mh") => {}
            _ => self.warn(line, format!("{} has to follow `lvs_sched {own}`", line.keyword())),
        }
    }

    fn persistence(&mut self, line: &Statement) -> Option<u32> {
        match line.word(1) {
            None => Some(USUAL_PERSISTENCE),
            Some("0") => {
                self.warn(line, "persistence_timeout 0: no persistence; leave the line out");
                None
            }
            Some(_) => self.number(line, 1..=LONGEST_PERSISTENCE),
        }
    }

    fn engine(&mut self, line: &Statement) -> Option<String> {
        self.value(line, "sip", |word| Engine::from_name(word).map(|engine| engine.name().to_owned()))
    }

    fn on_down(&mut self, line: &Statement) -> OnDown {
        self.value(line, "reset, move or leave", OnDown::from_name).unwrap_or_default()
    }

    fn proto(&mut self, statement: &Statement, raw: &Raw, entries: &[Entry]) -> Proto {
        let has_address = entries.iter().any(|entry| matches!(entry, Entry::Addr(..)));
        raw.proto.unwrap_or_else(|| {
            if has_address {
                self.warn(statement, "virtual_server: no protocol set - defaulting to UDP");
            }
            Proto::UDP
        })
    }

    fn ask(&mut self, statement: &Statement, name: &str, raw: &Raw, services: &[ServiceId]) -> ServiceAsk {
        let scheduler = raw.scheduler.clone().unwrap_or_else(|| {
            self.warn(statement, format!("{name}: no scheduler set, setting default 'wlc'"));
            "wlc".to_owned()
        });
        let portless =
            services.iter().any(|service| matches!(service, ServiceId::Addr { port, .. } if port.is_zero()));
        let mut timeout = raw.persistence.or(raw.granularity.map(|_| USUAL_PERSISTENCE));
        if portless && timeout.is_none() {
            self.warn(statement, format!("{name}: without a port it has to be persistent; setting 360 s"));
            timeout = Some(USUAL_PERSISTENCE);
        }
        let family = services.first().map_or(Family::V4, ServiceId::family);
        let netmask = raw.granularity.filter(|mask| fits(*mask, family));
        if netmask.is_none() && raw.granularity.is_some() {
            self.warn(statement, format!("{name}: persistence_granularity is of another family"));
        }
        let datagrams = services.iter().all(|service| matches!(service.proto(), None | Some(Proto::UDP)));
        if raw.ops && !datagrams {
            self.warn(statement, format!("{name}: ops is for UDP and fwmark only"));
        }
        ServiceAsk {
            scheduler,
            sched_flags: raw.sched_flags,
            ops: raw.ops && datagrams,
            persistence: timeout
                .map(|timeout| Persistence { timeout, netmask: netmask.unwrap_or(Netmask::full(family)) }),
            engine: raw.engine.clone(),
        }
    }

    fn servers(&mut self, raw: &Raw, way: Way, services: &[ServiceId]) -> Vec<RealServer> {
        let mut found: Vec<RealServer> = Vec::new();
        for server in &raw.servers {
            if found.iter().any(|other| (other.addr, other.port) == (server.addr, server.port)) {
                self.problems.warn(&server.place, "the same real_server again: passed over");
                continue;
            }
            found.extend(self.finish_server(server, raw, way, &raw.timing, services));
        }
        found
    }

    fn quorum(&mut self, statement: &Statement, raw: &Raw, total: u64) -> u32 {
        let wanted = raw.quorum.unwrap_or(1);
        let most = u32::try_from(total).unwrap_or(u32::MAX);
        if wanted > most && most > 0 {
            self.warn(
                statement,
                format!("quorum {wanted} is more than all weights together; {most} is used"),
            );
            return most;
        }
        if raw.hysteresis >= wanted && raw.hysteresis > 0 {
            self.warn(statement, format!("hysteresis has to be below the quorum; {} is used", wanted - 1));
        }
        wanted
    }

    fn ha_suspend(&mut self, statement: &Statement, raw: &Raw, services: &[ServiceId]) -> bool {
        let marked = services.iter().any(|service| service.mark() != 0);
        let other = if marked { "fwmark" } else { "announce" };
        let possible = !marked && raw.announce.is_none();
        if raw.ha_suspend && !possible {
            self.warn(statement, format!("ha_suspend does not go with {other}; passed over"));
        }
        raw.ha_suspend && possible
    }

    fn announce(
        &mut self,
        statement: &Statement,
        wanted: Option<String>,
        services: &[ServiceId],
    ) -> Option<String> {
        if wanted.is_some() && services.iter().all(|service| service.mark() != 0) {
            self.warn(statement, "announce does not go with fwmark: a mark has no address; passed over");
            return None;
        }
        wanted
    }

    /// Two virtual servers must not quarrel over one service.
    pub(super) fn same_services(&mut self, servers: &[VirtualServer]) {
        let mut seen = HashMap::new();
        for server in servers {
            for service in &server.services {
                let Some(first) = seen.insert(*service, server) else { continue };
                let text = if std::ptr::eq(first, server) {
                    format!("{}: an address twice in its group", server.name)
                } else {
                    format!("{}: virtual_server at {} has the same address", server.name, first.place)
                };
                self.problems.error(&server.place, text);
            }
        }
    }
}

fn fits(mask: Netmask, family: Family) -> bool {
    matches!((mask, family), (Netmask::V4(_), Family::V4) | (Netmask::V6(_), Family::V6))
}

fn services(entries: &[Entry], proto: Proto, raw: &Raw) -> Vec<ServiceId> {
    let direct = raw.servers.first().map(|server| family_of(&server.addr));
    let usual = raw.family.or(direct).unwrap_or(Family::V4);
    let service = |entry: &Entry| match *entry {
        Entry::Addr(addr, port) => ServiceId::Addr { proto, addr, port },
        Entry::Mark(mark, family) => ServiceId::Mark { mark, family: family.unwrap_or(usual) },
    };
    entries.iter().map(service).collect()
}

fn name(head: &Head, services: &[ServiceId]) -> String {
    match (head, services.first()) {
        (Head::Group(name, _, ordinal), _) => format!("[{name}]:{ordinal}"),
        (_, Some(ServiceId::Addr { proto, addr, port })) => named(*addr, Some(*proto), *port),
        (_, Some(ServiceId::Mark { mark, .. })) => format!("FWM {mark}"),
        (_, None) => named(Ipv4Addr::UNSPECIFIED.into(), None, Port::ZERO),
    }
}

fn proto(word: &str) -> Option<Proto> {
    match word.to_ascii_uppercase().as_str() {
        "TCP" => Some(Proto::TCP),
        "UDP" => Some(Proto::UDP),
        "SCTP" => Some(Proto::SCTP),
        _ => None,
    }
}

fn family(word: &str) -> Option<Family> {
    match word {
        "inet" => Some(Family::V4),
        "inet6" => Some(Family::V6),
        _ => None,
    }
}

fn granularity(word: &str) -> Option<Netmask> {
    let prefix = || word.parse::<u8>().ok().filter(|prefix| (1..=128).contains(prefix)).map(Netmask::V6);
    let mask = word.parse::<Ipv4Addr>().ok().filter(|mask| !mask.is_unspecified());
    mask.map(Netmask::V4).or_else(prefix)
}

/// Do ports stay as they are with this method?
pub(super) fn keeps_ports(method: Method) -> bool {
    method != Method::Nat
}
