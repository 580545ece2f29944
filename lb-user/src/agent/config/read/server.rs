//! `real_server`, `sorry_server`, and `lvs_method`, which both have.

use std::net::{IpAddr, SocketAddr};

use super::Reader;
use super::service::{Raw, keeps_ports};
use super::timing::Timing;
use crate::agent::config::model::{Check, RealServer, Script, Sorry, VirtualServer, named};
use crate::agent::config::problem::Place;
use crate::agent::config::tree::Statement;
use crate::control::model::{DestConf, Method, Port, ServiceId, TunChecksum, TunType, TunnelConf};

/// How packets reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub method: Method,
    pub tunnel: TunnelConf,
}

impl Default for Way {
    fn default() -> Self {
        Self { method: Method::Nat, tunnel: TunnelConf::default() }
    }
}

impl Way {
    fn conf(self, weight: u32, upper: u32, lower: u32) -> DestConf {
        DestConf { method: self.method, weight, upper, lower, tunnel: self.tunnel }
    }
}

/// What a real_server's block said.
pub(super) struct RawServer {
    pub place: Place,
    pub addr: IpAddr,
    pub port: Option<Port>,
    way: Option<Way>,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    inhibit: Option<bool>,
    notify_up: Option<Script>,
    notify_down: Option<Script>,
    timing: Timing,
    checks: Vec<Statement>,
}

/// What was said of a sorry_server.
pub(super) struct RawSorry {
    addr: IpAddr,
    port: Option<Port>,
    inhibit: bool,
    way: Option<Way>,
}

impl RawSorry {
    pub(super) fn finish(&self, way: Way) -> Sorry {
        let conf = self.way.unwrap_or(way).conf(1, 0, 0);
        Sorry { addr: self.addr, port: self.port, conf, inhibit: self.inhibit }
    }
}

impl Reader<'_> {
    pub(super) fn real_server(&mut self, statement: &Statement, _service: &Raw) -> Option<RawServer> {
        let end = self.address(statement, 1).zip(self.port(statement, 2));
        let mut raw = RawServer {
            place: statement.place.clone(),
            addr: end.map_or(IpAddr::from([0; 4]), |(addr, _)| addr),
            port: end.and_then(|(_, port)| port),
            way: None,
            weight: None,
            upper: 0,
            lower: 0,
            inhibit: None,
            notify_up: None,
            notify_down: None,
            timing: Timing::default(),
            checks: Vec::new(),
        };
        // Without a block there are no checks: the server is always up.
        for line in statement.block.iter().flatten() {
            self.server_line(line, &mut raw);
        }
        if raw.lower > raw.upper {
            self.warn(statement, "lthreshold is above uthreshold; both are passed over");
            (raw.upper, raw.lower) = (0, 0);
        }
        end.is_some().then_some(raw)
    }

    fn server_line(&mut self, line: &Statement, raw: &mut RawServer) {
        let most = i32::MAX as u32;
        match line.keyword() {
            "weight" => raw.weight = self.number(line, 0..=most).or(raw.weight),
            "lvs_method" | "lb_kind" => raw.way = self.way(line).or(raw.way),
            "uthreshold" => raw.upper = self.number(line, 0..=most).unwrap_or(0),
            "lthreshold" => raw.lower = self.number(line, 0..=most).unwrap_or(0),
            "inhibit_on_failure" => raw.inhibit = self.flag(line).or(raw.inhibit),
            "notify_up" => raw.notify_up = self.first_script(line, raw.notify_up.take()),
            "notify_down" => raw.notify_down = self.first_script(line, raw.notify_down.take()),
            "smtp_alert" | "snmp_name" => {}
            _ if self.is_check(line) => raw.checks.push(line.clone()),
            _ if self.timing(line, &mut raw.timing, 1) => {}
            _ => self.unknown(line),
        }
    }

    /// With everything that comes from the virtual server.
    pub(super) fn finish_server(
        &mut self,
        raw: &RawServer,
        service: &Raw,
        way: Way,
        outer: &Timing,
        services: &[ServiceId],
    ) -> Option<RealServer> {
        let way = raw.way.unwrap_or(way);
        if services.iter().any(|service| !VirtualServer::takes(service, &raw.addr, way.method)) {
            self.problems.error(
                &raw.place,
                format!(
                    "real_server {}: another family than its virtual_server's goes only with TUN",
                    raw.addr
                ),
            );
            return None;
        }
        let first = services.first();
        let virtual_port = first.map_or(Port::ZERO, ServiceId::port);
        let moved = |port: Port| keeps_ports(way.method) && !virtual_port.is_zero() && port != virtual_port;
        if let Some(port) = raw.port.filter(|port| moved(*port)) {
            let (addr, port, wanted) = (raw.addr, port.host(), virtual_port.host());
            self.problems.warn(
                &raw.place,
                format!("real_server {addr} {port}: ports don't match - resetting to {wanted} (only NAT changes ports)"),
            );
        }
        // Where requests really arrive is where checks go.
        let port = match raw.port {
            Some(port) if !moved(port) => port,
            _ => virtual_port,
        };
        let proto = first.and_then(ServiceId::proto);
        let timing = raw.timing.within(outer);
        let mut checks: Vec<Check> =
            raw.checks.iter().filter_map(|check| self.check(check, raw.addr, port, &timing)).collect();
        if service.along_path {
            let own = SocketAddr::new(raw.addr, port.host());
            checks =
                checks.into_iter().flat_map(|check| self.along_path(check, &own, way, services)).collect();
        }
        Some(RealServer {
            place: raw.place.clone(),
            name: named(raw.addr, proto, port),
            addr: raw.addr,
            port: raw.port,
            conf: way.conf(raw.weight.or(service.weight).unwrap_or(1), raw.upper, raw.lower),
            inhibit: raw.inhibit.unwrap_or(service.inhibit),
            notify_up: raw.notify_up.clone(),
            notify_down: raw.notify_down.clone(),
            checks,
        })
    }

    pub(super) fn sorry(&mut self, line: &Statement) -> Option<RawSorry> {
        let (addr, port) = (self.address(line, 1)?, self.port(line, 2)?);
        Some(RawSorry { addr, port, inhibit: false, way: None })
    }

    pub(super) fn sorry_line(&mut self, line: &Statement, sorry: &mut Option<RawSorry>) {
        match sorry {
            None => self.warn(line, format!("{} has to follow sorry_server", line.keyword())),
            Some(sorry) if line.keyword() == "sorry_server_inhibit" => sorry.inhibit = true,
            Some(sorry) => sorry.way = self.way(line).or(sorry.way),
        }
    }

    /// `NAT`, `DR`, `TUN [type …] [csum …]`.
    pub(super) fn way(&mut self, line: &Statement) -> Option<Way> {
        let found = way(line.rest());
        match found {
            Ok(way) => Some(way),
            Err(why) => {
                self.error(line, format!("{}: {why}", line.keyword()));
                None
            }
        }
    }
}

fn way(words: &[String]) -> Result<Way, String> {
    let mut words = words.iter().map(String::as_str).peekable();
    let method = match words.next() {
        Some("NAT") => Method::Nat,
        Some("DR") => Method::Route,
        Some("TUN") => Method::Tunnel,
        other => return Err(format!("NAT, DR or TUN is wanted, not '{}'", other.unwrap_or_default())),
    };
    let mut tunnel = TunnelConf::default();
    while let Some(word) = words.next() {
        match word {
            _ if method != Method::Tunnel => return Err(format!("'{word}' goes only with TUN")),
            "type" => {
                tunnel.kind = match words.next() {
                    Some("ipip") => TunType::Ipip,
                    Some("gue") => TunType::Gue,
                    Some("gre") => TunType::Gre,
                    other => {
                        return Err(format!(
                            "type: ipip, gue or gre is wanted, not '{}'",
                            other.unwrap_or("")
                        ));
                    }
                }
            }
            "port" => {
                let port = words.next().and_then(|word| word.parse::<u16>().ok()).filter(|port| *port != 0);
                tunnel.port = Port::new(port.ok_or("port: 1 to 65535 is wanted")?);
            }
            "nocsum" => tunnel.checksum = TunChecksum::None,
            "csum" => tunnel.checksum = TunChecksum::Full,
            "remcsum" => tunnel.checksum = TunChecksum::Remote,
            other => return Err(format!("'{other}' is not understood")),
        }
    }
    match (tunnel.kind, tunnel.port.is_zero(), tunnel.checksum) {
        (TunType::Gue, true, _) => Err("type gue needs a port".to_owned()),
        (TunType::Ipip | TunType::Gre, false, _) => Err("only type gue has a port".to_owned()),
        (TunType::Ipip, _, TunChecksum::Full | TunChecksum::Remote) => {
            Err("type ipip has no checksum".to_owned())
        }
        (TunType::Gre, _, TunChecksum::Remote) => Err("type gre has no remcsum".to_owned()),
        _ => Ok(Way { method, tunnel }),
    }
}
