//! A command line into [`Said`]: what was said, each value judged as it is met.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::complaint::{Complaint, Context, check_slots};
use super::names::Names;
use super::options::{Command, SLOTS, Slot, Tag};
use super::popt::{Met, Words};
use super::values::{self, BadFlag, HostPort};
use crate::control::model::{
    End, Family, Method, Netmask, Port, Proto, Role, ServiceId, Timeouts, TunType, family_of,
};

type Result<T> = std::result::Result<T, Complaint>;

/// Longest persistence and connection timeout: 31 days.
const MAX_TIMEOUT: i64 = 31 * 86_400;
/// `-p` without a value.
const DEFAULT_PERSISTENCE: u32 = 360;
/// The scheduler when none, or an empty one, is named.
const DEFAULT_SCHEDULER: &str = "wlc";
/// Bytes the kernel keeps of a scheduler's, an engine's and a NIC's name.
const SCHEDULER_BYTES: usize = 15;
const ENGINE_BYTES: usize = 16;
const NIC_BYTES: usize = 15;

/// Where the words come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Arguments,
    /// A line read by `-R`, which may not be another `-R`.
    Restore,
}

/// A service as named so far. Options that come later see what earlier ones have set: `-M` reads a prefix length once
/// the family is IPv6, `-r` takes over a port that is already known.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// TCP for marks, as a place-holder.
    pub proto: Proto,
    /// The address; unspecified until one is given.
    pub addr: IpAddr,
    /// The port.
    pub port: Port,
    /// The mark; 0 for address services.
    pub mark: u32,
    /// The family.
    pub family: Family,
    /// The mask, whatever set it last.
    pub netmask: Netmask,
}

/// Options of the sync daemons.
#[derive(Clone, Debug, Default)]
pub struct DaemonSaid {
    /// Master or backup.
    pub role: Option<Role>,
    /// `--mcast-interface`; empty = the default.
    pub interface: String,
    /// `--syncid`
    pub syncid: u8,
    /// `--sync-maxlen`
    pub maxlen: Option<u16>,
    /// `--mcast-group`
    pub group: Option<IpAddr>,
    /// `--mcast-port`
    pub port: Option<Port>,
    /// `--mcast-ttl`
    pub ttl: Option<u8>,
}

/// What was said.
#[derive(Clone, Debug)]
pub struct Said {
    /// What is to be done.
    pub command: Command,
    given: HashSet<Slot>,
    /// The service.
    pub service: Named,
    /// `-r`
    pub dest: Option<End>,
    /// `-s`, cut; empty = the default.
    pub scheduler: String,
    /// `-b`
    pub sched_flags: u32,
    sched_flag_text: Option<String>,
    /// `-p`
    pub persistence: Option<u32>,
    /// `--pe`, cut.
    pub engine: Option<String>,
    /// `-g`, `-i`, `-m`
    pub method: Method,
    /// `-w`
    pub weight: u32,
    /// `-x`
    pub upper: u32,
    /// `-y`
    pub lower: u32,
    /// `--tun-type`
    pub tun_type: TunType,
    /// `--tun-port`
    pub tun_port: Port,
    /// `--set`
    pub timeouts: Timeouts,
    /// Options of the sync daemons.
    pub daemon: DaemonSaid,
}

impl Said {
    /// Was an option of this slot given?
    pub fn has(&self, slot: Slot) -> bool {
        self.given.contains(&slot)
    }

    /// The scheduler, the default one filled in.
    pub fn scheduler_or_default(&self) -> &str {
        if self.scheduler.is_empty() { DEFAULT_SCHEDULER } else { &self.scheduler }
    }

    /// The service that was named.
    pub fn service_id(&self) -> ServiceId {
        let Named { proto, addr, port, mark, family, .. } = self.service;
        match mark {
            0 => ServiceId::Addr { proto, addr, port },
            mark => ServiceId::Mark { mark, family },
        }
    }

    fn new(command: Command) -> Self {
        Self {
            command,
            given: HashSet::new(),
            service: Named {
                proto: Proto::IP,
                addr: Ipv4Addr::UNSPECIFIED.into(),
                port: Port::ZERO,
                mark: 0,
                family: Family::V4,
                netmask: Netmask::full(Family::V4),
            },
            dest: None,
            scheduler: String::new(),
            sched_flags: 0,
            sched_flag_text: None,
            persistence: None,
            engine: None,
            method: Method::Route,
            weight: 1,
            upper: 0,
            lower: 0,
            tun_type: TunType::Ipip,
            tun_port: Port::ZERO,
            timeouts: Timeouts { tcp: 0, tcp_fin: 0, udp: 0 },
            daemon: DaemonSaid::default(),
        }
    }
}

/// Reads a command line (without the program's name). No words at all mean `-L`.
pub fn parse(words: &[String], source: Source, names: &dyn Names) -> Result<Said> {
    if words.is_empty() {
        return Ok(Said::new(Command::List));
    }
    let mut words = Words::new(words);
    let mut said = begin(&mut words, source)?;
    if matches!(said.command, Command::Help | Command::Version) {
        return Ok(said);
    }
    for met in words.by_ref() {
        said.take(&met?, names)?;
    }
    said.end(&mut words)?;
    Ok(said)
}

/// The command must come first. Anything else there, wrong words included, gets the pointer to the help.
fn begin(words: &mut Words<'_>, source: Source) -> Result<Said> {
    let Some(Ok(met)) = words.next() else { return Err(Complaint::TryHelp) };
    let Tag::Do(command) = met.opt.tag else { return Err(Complaint::TryHelp) };
    if command == Command::Restore && source == Source::Restore {
        return Err(Complaint::TryHelp);
    }
    let mut said = Said::new(command);
    said.daemon.role = daemon_role(command, met.value)?;
    Ok(said)
}

fn daemon_role(command: Command, value: Option<&str>) -> Result<Option<Role>> {
    let complaint = match command {
        Command::StartDaemon => "illegal start-daemon parameter specified",
        Command::StopDaemon => "illegal start_daemon specified",
        _ => return Ok(None),
    };
    Role::from_name(value.unwrap_or_default()).map(Some).ok_or_else(|| Complaint::Bad(complaint.to_owned()))
}

impl Said {
    fn take(&mut self, met: &Met<'_>, names: &dyn Names) -> Result<()> {
        let tag = met.opt.tag;
        if let Tag::Do(_) = tag {
            return Complaint::bad(format!("invalid option `{}'", met.word));
        }
        if let Some(slot) = tag.slot()
            && !self.given.insert(slot)
        {
            return Complaint::bad(format!("multiple '{}' options specified", slot.name()));
        }
        let value = met.value.unwrap_or_default();
        match tag {
            Tag::TcpService => self.take_service(Proto::TCP, value, names),
            Tag::UdpService => self.take_service(Proto::UDP, value, names),
            Tag::SctpService => self.take_service(Proto::SCTP, value, names),
            Tag::FwmarkService => self.take_mark(value),
            Tag::Ipv6 => self.take_ipv6(),
            Tag::Gatewaying => self.take_method(Method::Route),
            Tag::Ipip => self.take_method(Method::Tunnel),
            Tag::Masquerading => self.take_method(Method::Nat),
            Tag::Is(slot) => self.take_slot(slot, met.value, names),
            Tag::Sort | Tag::Do(_) => Ok(()),
        }
    }

    fn take_slot(&mut self, slot: Slot, given: Option<&str>, names: &dyn Names) -> Result<()> {
        let value = given.unwrap_or_default();
        let max = i64::from(i32::MAX);
        match slot {
            Slot::SchedulerName => self.scheduler = values::cut(value, SCHEDULER_BYTES).to_owned(),
            Slot::SchedFlags => self.sched_flag_text = Some(value.to_owned()),
            Slot::Pe => self.engine = Some(values::cut(value, ENGINE_BYTES).to_owned()),
            Slot::Persistent => self.persistence = Some(persistence(given)?),
            Slot::Mask => self.service.netmask = self.netmask(value, names)?,
            Slot::RealServer => self.dest = Some(self.real_server(value, names)?),
            Slot::Weight => self.weight = legal(value, 0..=max, "weight")?,
            Slot::UThreshold => self.upper = legal(value, 0..=max, "u_threshold")?,
            Slot::LThreshold => self.lower = legal(value, 0..=max, "l_threshold")?,
            Slot::TunKind => self.tun_type = tun_type(value)?,
            Slot::TunPort => self.tun_port = Port::new(legal(value, 1..=65535, "tunnel port")?),
            Slot::McastInterface => self.daemon.interface = values::cut(value, NIC_BYTES).to_owned(),
            Slot::McastGroup => self.daemon.group = Some(mcast_group(value)?),
            Slot::McastPort => self.daemon.port = Some(Port::new(legal(value, 1..=65535, "mcast-port")?)),
            Slot::McastTtl => self.daemon.ttl = Some(legal(value, 1..=255, "mcast-ttl")?),
            Slot::SyncMaxlen => self.daemon.maxlen = Some(legal(value, 1..=65507, "sync-maxlen")?),
            Slot::Syncid => self.daemon.syncid = legal(value, 0..=255, "syncid")?,
            _ => {}
        }
        Ok(())
    }

    fn take_service(&mut self, proto: Proto, value: &str, names: &dyn Names) -> Result<()> {
        let Some(HostPort { addr, port }) = values::host_port(value, proto, names) else {
            return Complaint::bad("illegal virtual server address[:port] specified");
        };
        let family = family_of(&addr);
        // An IPv4 mask given before an IPv6 address is forgotten.
        if family == Family::V6 {
            self.service.netmask = Netmask::full(family);
        }
        self.service = Named { proto, addr, family, port: port.unwrap_or_default(), ..self.service };
        Ok(())
    }

    fn take_mark(&mut self, value: &str) -> Result<()> {
        let Some(mark) = values::number_as(value, 1..=i64::from(u32::MAX)) else {
            return Complaint::bad(format!("invalid fwmark value `{value}' specified"));
        };
        self.service = Named { proto: Proto::TCP, family: Family::V4, mark, ..self.service };
        Ok(())
    }

    fn take_ipv6(&mut self) -> Result<()> {
        if self.service.mark == 0 {
            // The empty line after it is ipvsadm's.
            return Complaint::bad("-6 used before -f\n");
        }
        self.service.family = Family::V6;
        self.service.netmask = Netmask::full(Family::V6);
        Ok(())
    }

    fn take_method(&mut self, method: Method) -> Result<()> {
        self.method = method;
        Ok(())
    }

    fn netmask(&self, value: &str, names: &dyn Names) -> Result<Netmask> {
        match self.service.family {
            Family::V4 => match values::netmask(value, names) {
                Some(mask) => Ok(Netmask::V4(mask)),
                None => Complaint::bad("illegal virtual server persistent mask specified"),
            },
            Family::V6 => match values::leading_number(value) {
                prefix @ 1..=128 => Ok(Netmask::V6(prefix as u8)),
                _ => Complaint::bad("illegal ipv6 netmask specified"),
            },
        }
    }

    /// Without a port of its own it takes the service's, as known so far.
    fn real_server(&self, value: &str, names: &dyn Names) -> Result<End> {
        match values::host_port(value, self.service.proto, names) {
            Some(HostPort { addr, port }) => Ok(End { addr, port: port.unwrap_or(self.service.port) }),
            None => Complaint::bad("illegal real server address[:port] specified"),
        }
    }

    /// What can be judged only when all words have been read.
    fn end(&mut self, words: &mut Words<'_>) -> Result<()> {
        if self.command == Command::Set {
            self.timeouts = set_values(words)?;
        }
        if let Some(word) = words.leftover() {
            return Complaint::bad(format!("unexpected argument {word}"));
        }
        if let Some(text) = &self.sched_flag_text {
            self.sched_flags = sched_flags(text, self.scheduler_or_default())?;
        }
        let slots = SLOTS.iter().map(|(slot, _)| *slot);
        check_slots(slots, |slot| self.has(slot), &self.command.rule(), Context::Command(self.command))
    }
}

fn legal<T: TryFrom<i64>>(value: &str, range: std::ops::RangeInclusive<i64>, what: &str) -> Result<T> {
    values::number_as(value, range).ok_or_else(|| Complaint::Bad(format!("illegal {what} specified")))
}

fn persistence(given: Option<&str>) -> Result<u32> {
    given.map_or(Ok(DEFAULT_PERSISTENCE), |value| timeout(value, 1))
}

fn timeout(value: &str, least: i64) -> Result<u32> {
    values::number_as(value, least..=MAX_TIMEOUT)
        .ok_or_else(|| Complaint::Bad(format!("invalid timeout value `{value}' specified")))
}

fn set_values(words: &mut Words<'_>) -> Result<Timeouts> {
    let (Some(tcp), Some(tcp_fin), Some(udp)) = (words.leftover(), words.leftover(), words.leftover()) else {
        return Complaint::bad("--set option requires 3 timeout values");
    };
    Ok(Timeouts { tcp: timeout(tcp, 0)?, tcp_fin: timeout(tcp_fin, 0)?, udp: timeout(udp, 0)? })
}

fn tun_type(value: &str) -> Result<TunType> {
    match value {
        "ipip" => Ok(TunType::Ipip),
        "gue" => Ok(TunType::Gue),
        "gre" => Ok(TunType::Gre),
        _ => Complaint::bad("illegal tunnel type specified"),
    }
}

fn mcast_group(value: &str) -> Result<IpAddr> {
    let family = if value.contains(':') { "IPv6" } else { "IPv4" };
    match value.parse::<IpAddr>() {
        Ok(group) if group.is_multicast() => Ok(group),
        _ => Complaint::bad(format!("invalid {family} mcast-group `{value}'")),
    }
}

fn sched_flags(text: &str, scheduler: &str) -> Result<u32> {
    values::sched_flags(text, scheduler).map_err(|bad| {
        Complaint::Bad(match bad {
            BadFlag::Invalid(name) => format!("invalid scheduler flag `{name}'"),
            BadFlag::Incompatible(name) => format!("incompatible scheduler flag `{name}'"),
        })
    })
}
