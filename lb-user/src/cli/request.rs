//! [`Said`] into [`Asked`]: the rules between options, and the defaults.

use std::net::{IpAddr, Ipv4Addr};

use super::complaint::{Complaint, Context, check_slots};
use super::list::{Format, Shape};
use super::options::{Command, Rule, Slot};
use super::parse::Said;
use crate::control::model::{
    DaemonRow, DestConf, DestId, End, Method, Persistence, Port, Proto, Role, ServiceId, TunChecksum,
    TunType, TunnelConf, family_of,
};
use crate::control::request::{Request, ServiceAsk};

type Result<T> = std::result::Result<T, Complaint>;

/// Defaults of the sync daemons.
const MCAST_INTERFACE: &str = "eth0";
const MCAST_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);
const MCAST_PORT: Port = Port::new(8848);
const MCAST_TTL: u8 = 1;

/// What is to be done, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Change something.
    Change(Request),
    /// Print something.
    List(What, Shape),
    /// Print the table as command lines.
    Save {
        /// Addresses and ports as numbers.
        numeric: bool,
    },
    /// Run the command lines on stdin.
    Restore,
    /// Print help.
    Help,
    /// Print the version.
    Version,
}

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The whole table.
    Services,
    /// One service.
    Service(ServiceId),
    /// Connections.
    Conns,
    /// Timeouts.
    Timeouts,
    /// Sync daemons.
    Daemons,
}

/// What the words ask for.
pub fn asked(said: &Said) -> Result<Asked> {
    let id = said.service_id();
    let change = match said.command {
        Command::Help => return Ok(Asked::Help),
        Command::Version => return Ok(Asked::Version),
        Command::Restore => return Ok(Asked::Restore),
        Command::Save => return Ok(Asked::Save { numeric: said.has(Slot::Numeric) }),
        Command::List => return list(said),
        Command::AddService => Request::AddService { id, ask: service_ask(said)? },
        Command::EditService => Request::EditService { id, ask: service_ask(said)? },
        Command::DeleteService => Request::DeleteService { id },
        Command::Flush => Request::Clear,
        Command::AddServer => {
            let (dest, conf) = dest(said)?;
            Request::AddDest { service: id, dest, conf }
        }
        Command::EditServer => {
            let (dest, conf) = dest(said)?;
            Request::EditDest { service: id, dest, conf }
        }
        Command::DeleteServer => Request::DeleteDest { service: id, dest: dest_id(named_dest(said)) },
        Command::Zero => Request::Zero { service: said.has(Slot::ServiceAddress).then_some(id) },
        Command::Set => Request::SetTimeouts(said.timeouts),
        Command::StartDaemon => Request::StartDaemon(daemon(said)),
        Command::StopDaemon => Request::StopDaemon { role: role(said), syncid: said.daemon.syncid },
    };
    Ok(Asked::Change(change))
}

fn list(said: &Said) -> Result<Asked> {
    let any = |slots: &[Slot]| slots.iter().any(|slot| said.has(*slot));
    let other_list = any(&[Slot::Connection, Slot::Timeout, Slot::Daemon]);
    let numbers = any(&[Slot::Stats, Slot::Rate, Slot::Thresholds]);
    let persistent = any(&[Slot::Timeout, Slot::Daemon]) && said.has(Slot::PersistentConn);
    if other_list && numbers || persistent {
        return Complaint::bad("options conflicts in the list command");
    }
    let what = match () {
        () if said.has(Slot::Connection) => What::Conns,
        () if said.has(Slot::Timeout) => What::Timeouts,
        () if said.has(Slot::Daemon) => What::Daemons,
        () if said.has(Slot::ServiceAddress) => What::Service(said.service_id()),
        () => What::Services,
    };
    Ok(Asked::List(what, shape(said)))
}

fn shape(said: &Said) -> Shape {
    let format = match () {
        () if said.has(Slot::Stats) => Format::Stats,
        () if said.has(Slot::Rate) => Format::Rate,
        () if said.has(Slot::Thresholds) => Format::Thresholds,
        () if said.has(Slot::PersistentConn) => Format::PersistentConn,
        () if said.has(Slot::TunInfo) => Format::TunInfo,
        () => Format::Default,
    };
    Shape {
        format,
        numeric: said.has(Slot::Numeric),
        exact: said.has(Slot::Exact),
        sorted: !said.has(Slot::Nosort),
    }
}

fn service_ask(said: &Said) -> Result<ServiceAsk> {
    let service = &said.service;
    if service.mark == 0 && service.port.is_zero() && said.persistence.is_none() {
        return Complaint::bad("Zero port specified for non-persistent service");
    }
    let ops = said.has(Slot::Ops);
    if ops && service.mark == 0 && service.proto != Proto::UDP {
        return Complaint::bad("One-Packet Scheduling is only for UDP virtual services");
    }
    Ok(ServiceAsk {
        scheduler: said.scheduler_or_default().to_owned(),
        sched_flags: said.sched_flags,
        ops,
        persistence: said.persistence.map(|timeout| Persistence { timeout, netmask: service.netmask }),
        engine: said.engine.clone().filter(|name| !name.is_empty()),
    })
}

/// `-r` is required wherever this is called; without it the unspecified address stands in.
fn named_dest(said: &Said) -> End {
    said.dest.unwrap_or(End { addr: Ipv4Addr::UNSPECIFIED.into(), port: Port::ZERO })
}

fn dest_id(end: End) -> DestId {
    DestId { addr: end.addr, port: end.port }
}

fn dest(said: &Said) -> Result<(DestId, DestConf)> {
    let mut end = named_dest(said);
    // These methods leave the packet's port alone, so a dest cannot have one of its own.
    if said.service.mark == 0 && matches!(said.method, Method::Route | Method::Tunnel) {
        end.port = said.service.port;
    }
    if family_of(&end.addr) != said.service.family && said.method != Method::Tunnel {
        return Complaint::bad("Different address family is allowed only for tunneling servers");
    }
    let conf = DestConf {
        method: said.method,
        weight: said.weight,
        upper: said.upper,
        lower: said.lower,
        tunnel: tunnel(said)?,
    };
    Ok((dest_id(end), conf))
}

/// Options of tunnels, and below them those that only some types take.
const TUNNEL_OPTIONS: [Slot; 5] =
    [Slot::TunKind, Slot::TunPort, Slot::TunNocsum, Slot::TunCsum, Slot::TunRemcsum];
const CHECKSUMS: [Slot; 3] = [Slot::TunNocsum, Slot::TunCsum, Slot::TunRemcsum];

fn tunnel(said: &Said) -> Result<TunnelConf> {
    if said.method != Method::Tunnel {
        if TUNNEL_OPTIONS.iter().any(|slot| said.has(*slot)) {
            return Complaint::bad("Tunnel options conflict with forward method");
        }
        return Ok(TunnelConf::default());
    }
    let (name, needs, one_of): (_, &[Slot], &[Slot]) = match said.tun_type {
        TunType::Ipip => ("ipip", &[], &[]),
        TunType::Gue => ("gue", &[Slot::TunPort], &CHECKSUMS),
        TunType::Gre => ("gre", &[], &CHECKSUMS[..2]),
    };
    let rule = Rule { needs, takes: &[], one_of };
    let slots = TUNNEL_OPTIONS[1..].iter().copied();
    check_slots(slots, |slot| said.has(slot), &rule, Context::Tunnel(name))?;
    let checksum = match () {
        () if said.has(Slot::TunCsum) => TunChecksum::Full,
        () if said.has(Slot::TunRemcsum) => TunChecksum::Remote,
        () => TunChecksum::None,
    };
    Ok(TunnelConf { kind: said.tun_type, port: said.tun_port, checksum })
}

fn role(said: &Said) -> Role {
    said.daemon.role.unwrap_or(Role::Master)
}

fn daemon(said: &Said) -> DaemonRow {
    let daemon = &said.daemon;
    let group = daemon.group.unwrap_or(IpAddr::V4(MCAST_GROUP));
    DaemonRow {
        role: role(said),
        interface: if daemon.interface.is_empty() { MCAST_INTERFACE } else { &daemon.interface }.to_owned(),
        syncid: daemon.syncid,
        maxlen: daemon.maxlen.unwrap_or(0),
        group,
        port: daemon.port.unwrap_or(MCAST_PORT),
        ttl: daemon.ttl.unwrap_or(MCAST_TTL),
        resync: None,
    }
}
