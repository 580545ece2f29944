//! Listings: the table, connections, timeouts and daemons, byte for byte as ipvsadm prints them.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;

use super::names::Names;
use super::values::{cut, sched_flag_names};
use crate::control::model::{
    ConnRow, DaemonRow, Dest, DestId, Engine, Family, Method, Netmask, Port, Proto, Rates, Role, Service,
    ServiceId, Stats, Timeouts, TunChecksum, TunType, TunnelConf, family_of,
};

/// Width of a service's name where columns follow; longer IPv4 ones are cut.
const SERVICE_WIDTH: usize = 33;
/// Width of a dest's name; longer IPv4 ones are cut.
const DEST_WIDTH: usize = 28;
/// Longest `host:port`.
const NAME_BYTES: usize = 59;
/// Longest tunnel text.
const TUNNEL_BYTES: usize = 15;

/// Which columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Method, weight and connections.
    #[default]
    Default,
    /// Counters.
    Stats,
    /// Rates.
    Rate,
    /// Thresholds and connections.
    Thresholds,
    /// Weight, templates and connections.
    PersistentConn,
    /// The default ones and the tunnel.
    TunInfo,
}

/// How a listing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its columns.
    pub format: Format,
    /// Addresses and ports as numbers.
    pub numeric: bool,
    /// Large numbers in full.
    pub exact: bool,
    /// Sorted, or in dump order?
    pub sorted: bool,
}

/// The texts of a connection's line. Those of the last one make room for those of the next: there may be millions.
#[derive(Default)]
struct Line {
    expire: String,
    client: String,
    virt: String,
    dest: String,
    all: String,
}

/// Prints listings of one shape.
pub struct Lister<'a> {
    shape: Shape,
    names: &'a dyn Names,
    out: &'a mut dyn Write,
}

impl<'a> Lister<'a> {
    /// Into `out`.
    pub fn new(shape: Shape, names: &'a dyn Names, out: &'a mut dyn Write) -> Self {
        Self { shape, names, out }
    }

    /// The table. `size` is that of the connection table: the line that tells it comes first when the whole table is
    /// listed, not before a single service. The services are expected in the order they are to be printed in.
    pub fn services(&mut self, size: Option<u32>, services: &[Service]) -> io::Result<()> {
        if let Some(size) = size {
            writeln!(self.out, "IP Virtual Server version 1.2.1 (size={size})")?;
        }
        self.titles()?;
        for service in services {
            self.service(service)?;
            for dest in &service.dests {
                self.dest(service, dest)?;
            }
        }
        Ok(())
    }

    /// `--timeout`
    pub fn timeouts(&mut self, timeouts: &Timeouts) -> io::Result<()> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        writeln!(self.out, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}")
    }

    /// `--daemon`: the master first.
    pub fn daemons(&mut self, daemons: &[DaemonRow]) -> io::Result<()> {
        for role in [Role::Master, Role::Backup] {
            for daemon in daemons.iter().filter(|daemon| daemon.role == role) {
                self.daemon(daemon)?;
            }
        }
        Ok(())
    }

    /// `-c`
    pub fn conns(&mut self, conns: &[ConnRow]) -> io::Result<()> {
        writeln!(self.out, "IPVS connection entries")?;
        write!(self.out, "pro expire {:<11} {:<18} {:<18} ", "state", "source", "virtual")?;
        match self.shape.format {
            Format::PersistentConn => writeln!(self.out, "{:<18} {:<16} pe_data", "destination", "pe name")?,
            _ => writeln!(self.out, "destination")?,
        }
        let mut line = Line::default();
        conns.iter().try_for_each(|conn| self.conn(conn, &mut line))
    }

    fn titles(&mut self) -> io::Result<()> {
        let (local, remote) = ("Prot LocalAddress:Port", "  -> RemoteAddress:Port");
        let gap = " ".repeat(11);
        match self.shape.format {
            Format::Default => {
                writeln!(self.out, "{local} Scheduler Flags")?;
                writeln!(self.out, "{remote}{gap}Forward Weight ActiveConn InActConn")
            }
            Format::TunInfo => {
                writeln!(self.out, "{local} Scheduler Flags")?;
                writeln!(self.out, "{remote}{gap}Forward TunnelInfo    Weight ActiveConn InActConn")
            }
            Format::Stats => self.number_titles(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
            Format::Rate => self.number_titles(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
            Format::Thresholds => writeln!(
                self.out,
                "{local:<33} {:<10} {:<10} {:<10} {:<10}\n{remote}",
                "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
            ),
            Format::PersistentConn => writeln!(
                self.out,
                "{local:<33} {:<9} {:<11} {:<10} {:<10}\n{remote}",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            ),
        }
    }

    fn number_titles(&mut self, titles: [&str; 5]) -> io::Result<()> {
        write!(self.out, "{:<33}", "Prot LocalAddress:Port")?;
        for title in titles {
            write!(self.out, " {title:>8}")?;
        }
        writeln!(self.out, "\n  -> RemoteAddress:Port")
    }

    fn service(&mut self, service: &Service) -> io::Result<()> {
        let name = self.service_name(&service.id);
        match self.shape.format {
            Format::Stats => {
                write!(self.out, "{name:<SERVICE_WIDTH$}")?;
                self.numbers(&stats_columns(&service.stats))
            }
            Format::Rate => {
                write!(self.out, "{name:<SERVICE_WIDTH$}")?;
                self.numbers(&rate_columns(&service.rates))
            }
            _ => writeln!(self.out, "{name} {}", settings(service)),
        }
    }

    fn dest(&mut self, service: &Service, dest: &Dest) -> io::Result<()> {
        let name = self.dest_name(service, dest);
        let method = method_name(dest.conf.method);
        let Dest { conf, active, inactive, persistent, .. } = dest;
        write!(self.out, "  -> {name:<DEST_WIDTH$}")?;
        match self.shape.format {
            Format::Default => {
                writeln!(self.out, " {method:<7} {:<6} {active:<10} {inactive:<10}", conf.weight)
            }
            Format::TunInfo => {
                let tunnel = tunnel_text(conf.method, &conf.tunnel);
                writeln!(self.out, " {method:<7} {tunnel:<13} {:<6} {active:<10} {inactive:<10}", conf.weight)
            }
            Format::Thresholds => {
                writeln!(self.out, " {:<10} {:<10} {active:<10} {inactive:<10}", conf.upper, conf.lower)
            }
            Format::PersistentConn => {
                writeln!(self.out, " {:<9} {persistent:<11} {active:<10} {inactive:<10}", conf.weight)
            }
            Format::Stats => self.numbers(&stats_columns(&dest.stats)),
            Format::Rate => {
                let Rates { cps, inpps, outpps, inbps, outbps } = dest.rates;
                write!(self.out, " {cps:>8} {inpps:>8} {outpps:>8}")?;
                self.numbers(&[inbps, outbps])
            }
        }
    }

    /// Columns of large numbers, and the end of the line.
    fn numbers(&mut self, numbers: &[u64]) -> io::Result<()> {
        for number in numbers {
            write!(self.out, "{}", large(*number, self.shape.exact))?;
        }
        writeln!(self.out)
    }

    fn daemon(&mut self, daemon: &DaemonRow) -> io::Result<()> {
        let DaemonRow { role, interface, syncid, maxlen, group, port, ttl, resync: _ } = daemon;
        let (role, port) = (role.name(), port.host());
        writeln!(
            self.out,
            "{role} sync daemon (mcast={interface}, syncid={syncid}, maxlen={maxlen}, group={group}, port={port}, \
             ttl={ttl})"
        )
    }

    fn conn(&mut self, conn: &ConnRow, line: &mut Line) -> io::Result<()> {
        let names = (!self.shape.numeric).then_some(self.names);
        let Line { expire, client, virt, dest, all } = line;
        for (text, end) in [(&mut *client, &conn.client), (&mut *virt, &conn.virt), (&mut *dest, &conn.dest)]
        {
            write_name(text, &end.addr, end.port, Some(conn.proto), names);
        }
        let (proto, state) = (conn_proto(conn.proto), conn.state);
        expire.clear();
        all.clear();
        // A text takes everything.
        let _ = write!(expire, "{:02}:{:02}", conn.expires / 60, conn.expires % 60);
        let _ = write!(all, "{proto:<3} {expire:<6} {state:<11} {client:<18} {virt:<18} ");
        let _ = match &conn.engine {
            Some((engine, data)) if self.shape.format == Format::PersistentConn => {
                writeln!(all, "{dest:<16} {:<18} {data}", engine.name())
            }
            _ => writeln!(all, "{dest}"),
        };
        self.out.write_all(all.as_bytes())
    }

    fn service_name(&self, id: &ServiceId) -> String {
        let (proto, addr, port) = match id {
            // IPVS prints marks signed.
            ServiceId::Mark { mark, family: Family::V4 } => return format!("FWM  {}", *mark as i32),
            ServiceId::Mark { mark, family: Family::V6 } => return format!("FWM  {} IPv6", *mark as i32),
            ServiceId::Addr { proto, addr, port } => (proto, addr, port),
        };
        let name = any_name(addr, *port, Some(*proto), self.shape.numeric, self.names);
        fit(&format!("{:<4} {name}", service_proto(*proto)), addr, SERVICE_WIDTH)
    }

    fn dest_name(&self, service: &Service, dest: &Dest) -> String {
        let DestId { addr, port } = dest.id;
        fit(&any_name(&addr, port, service.id.proto(), self.shape.numeric, self.names), &addr, DEST_WIDTH)
    }
}

/// IPv4 names are cut at their column, IPv6 ones push the rest to the right.
fn fit(name: &str, addr: &IpAddr, width: usize) -> String {
    match family_of(addr) {
        Family::V4 => cut(name, width).to_owned(),
        Family::V6 => name.to_owned(),
    }
}

/// `host:port`, by name or number. Without a protocol, ports have no names.
pub fn any_name(addr: &IpAddr, port: Port, proto: Option<Proto>, numeric: bool, names: &dyn Names) -> String {
    let mut name = String::with_capacity(NAME_BYTES);
    write_name(&mut name, addr, port, proto, if numeric { None } else { Some(names) });
    name
}

/// The same in the place of a text that is no longer needed; numbers where nobody knows `names`.
fn write_name(name: &mut String, addr: &IpAddr, port: Port, proto: Option<Proto>, names: Option<&dyn Names>) {
    let host = names.and_then(|names| names.host_name(addr));
    let service = names.zip(proto).and_then(|(names, proto)| names.port_name(port.host(), proto));
    let (open, close) = if addr.is_ipv4() { ("", "") } else { ("[", "]") };
    name.clear();
    // A text takes everything.
    let _ = match host {
        Some(host) => write!(name, "{open}{host}{close}:"),
        None => write!(name, "{open}{addr}{close}:"),
    };
    let _ = match service {
        Some(service) => write!(name, "{service}"),
        None => write!(name, "{}", port.host()),
    };
    name.truncate(cut(name, NAME_BYTES).len());
}

fn service_proto(proto: Proto) -> &'static str {
    match proto {
        Proto::TCP => "TCP",
        Proto::UDP => "UDP",
        Proto::SCTP => "SCTP",
        _ => "?",
    }
}

fn conn_proto(proto: Proto) -> &'static str {
    match proto {
        Proto::IP => "IP",
        proto => service_proto(proto),
    }
}

/// Scheduler, flags, persistence, engine, one-packet scheduling.
fn settings(service: &Service) -> String {
    let conf = &service.conf;
    let mut text = conf.scheduler.name().to_owned();
    if conf.sched_flags != 0 {
        let _ = write!(text, " ({})", sched_flag_names(conf.sched_flags, conf.scheduler.name()));
    }
    if let Some(persistence) = conf.persistence {
        let _ = write!(text, " persistent {}", persistence.timeout);
        if let Some(mask) = mask_text(persistence.netmask) {
            let _ = write!(text, " mask {mask}");
        }
        if let Some(engine) = conf.engine.map(Engine::name) {
            let _ = write!(text, " pe {engine}");
        }
    }
    if conf.ops {
        text.push_str(" ops");
    }
    text
}

/// A mask, unless it is that of the whole address.
pub fn mask_text(mask: Netmask) -> Option<String> {
    match mask {
        Netmask::V4(mask) => (!mask.is_broadcast()).then(|| mask.to_string()),
        Netmask::V6(prefix) => (prefix != 128).then(|| prefix.to_string()),
    }
}

/// A forwarding method as listings name it.
pub fn method_name(method: Method) -> &'static str {
    match method {
        Method::Nat => "Masq",
        Method::Local => "Local",
        Method::Tunnel => "Tunnel",
        Method::Route => "Route",
        Method::Bypass => "Bypass",
    }
}

/// Type, port and checksum of a tunnel.
fn tunnel_text(method: Method, tunnel: &TunnelConf) -> String {
    let checksum = match tunnel.checksum {
        TunChecksum::None => "-c",
        TunChecksum::Full => "+c",
        TunChecksum::Remote => "r+c",
    };
    let text = match (method, tunnel.kind) {
        (Method::Tunnel, TunType::Ipip) => "ipip".to_owned(),
        (Method::Tunnel, TunType::Gue) => format!("gue:{}:{checksum}", tunnel.port.host()),
        (Method::Tunnel, TunType::Gre) => format!("gre:{checksum}"),
        _ => "n/a".to_owned(),
    };
    cut(&text, TUNNEL_BYTES).to_owned()
}

fn stats_columns(stats: &Stats) -> [u64; 5] {
    [stats.conns, stats.inpkts, stats.outpkts, stats.inbytes, stats.outbytes]
}

fn rate_columns(rates: &Rates) -> [u64; 5] {
    [rates.cps, rates.inpps, rates.outpps, rates.inbps, rates.outbps]
}

/// Nine wide; past eight digits in thousands, millions, … cut, not rounded. `exact`: in full, after a blank.
fn large(n: u64, exact: bool) -> String {
    match n {
        _ if exact => format!(" {n:>8}"),
        0..100_000_000 => format!("{n:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", n / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", n / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", n / 1_000_000_000),
        _ => format!("{:>8}T", n / 1_000_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::large;

    #[test]
    fn large_numbers() {
        for (n, text) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (99_999_999_999_999, "   99999G"),
            (100_000_000_000_000, "     100T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(large(n, false), text, "{n}");
        }
        assert_eq!(large(12, true), "       12");
        assert_eq!(large(12_345_678, true), " 12345678");
        assert_eq!(large(123_456_789, true), " 123456789");
    }
}
