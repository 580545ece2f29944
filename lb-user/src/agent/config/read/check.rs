//! The blocks of checks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Reader;
use super::timing::Timing;
use super::values::number;
use crate::agent::config::model::{
    Check, CheckSpec, Dns, FileCheck, Misc, Pace, Probe, Reply, Script, Smtp, Target, Udp,
};
use crate::agent::config::tree::Statement;
use crate::control::model::Port;

const CHECKS: [&str; 10] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
    "MISC_CHECK",
    "BFD_CHECK",
];
const DNS_TYPES: [&str; 9] = ["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"];
const SECOND: Duration = Duration::from_secs(1);

/// What is common to the checks.
pub(super) struct Common {
    pub timing: Timing,
    addr: IpAddr,
    port: Port,
    from: Option<IpAddr>,
    from_port: Option<Port>,
    interface: Option<String>,
    mark: u32,
    log_all: bool,
}

impl Reader<'_> {
    pub(super) fn is_check(&self, statement: &Statement) -> bool {
        CHECKS.contains(&statement.keyword())
    }

    /// A check of the server at this address and port.
    pub(super) fn check(
        &mut self,
        statement: &Statement,
        addr: IpAddr,
        port: Port,
        outer: &Timing,
    ) -> Option<Check> {
        let mut common = Common {
            timing: Timing::default(),
            addr,
            port,
            from: None,
            from_port: None,
            interface: None,
            mark: 0,
            log_all: self.globals.log_all_failures,
        };
        let (probe, pace) = match statement.keyword() {
            "TCP_CHECK" => self.simple(statement, &mut common, outer, Probe::Tcp),
            "PING_CHECK" => self.simple(statement, &mut common, outer, Probe::Ping),
            "HTTP_GET" => self.http(statement, &mut common, outer, false),
            "SSL_GET" => self.http(statement, &mut common, outer, true),
            "SMTP_CHECK" => self.smtp(statement, &mut common, outer),
            "DNS_CHECK" => self.dns(statement, &mut common, outer),
            "UDP_CHECK" => self.udp(statement, &mut common, outer),
            "FILE_CHECK" => self.file(statement),
            "MISC_CHECK" => self.misc(statement, &mut common, outer),
            _ => {
                self.bfd(statement);
                None
            }
        }?;
        let (spec, place) = (CheckSpec { probe, pace }, statement.place.clone());
        Some(Check { place, spec, log_all_failures: common.log_all })
    }

    /// Takes a statement that several checks have. False: it is none.
    pub(super) fn common(&mut self, line: &Statement, common: &mut Common) -> bool {
        match line.keyword() {
            "connect_ip" => common.addr = self.address(line, 1).unwrap_or(common.addr),
            "connect_port" => common.port = self.port(line, 1).flatten().unwrap_or(common.port),
            "bindto" => common.from = self.address(line, 1),
            "bind_port" => common.from_port = self.port(line, 1).flatten(),
            "bind_if" => common.interface = self.text(line),
            "fwmark" => common.mark = self.number(line, 0..=u32::MAX).unwrap_or(0),
            "log_all_failures" => common.log_all = self.flag(line).unwrap_or(true),
            _ => return self.timing(line, &mut common.timing, 0),
        }
        true
    }

    pub(super) fn target(
        &mut self,
        statement: &Statement,
        common: &Common,
        outer: &Timing,
    ) -> Option<Target> {
        let keyword = statement.keyword();
        if common.port.is_zero() && keyword != "PING_CHECK" {
            self.warn(statement, format!("{keyword}: the server has no port, so connect_port is needed"));
            return None;
        }
        let from = match (common.from, common.from_port) {
            (None, None) => None,
            (from, port) => {
                let any = if common.addr.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
                Some(SocketAddr::new(from.unwrap_or(any), port.map_or(0, Port::host)))
            }
        };
        if from.is_some_and(|from| from.is_ipv4() != common.addr.is_ipv4()) {
            self.error(statement, format!("{keyword}: bindto is of another family than the address checked"));
            return None;
        }
        Some(Target {
            to: SocketAddr::new(common.addr, common.port.host()),
            from,
            interface: common.interface.clone(),
            mark: common.mark,
            timeout: common.timing.within(outer).connect_timeout(),
            via: None,
        })
    }

    fn simple(
        &mut self,
        statement: &Statement,
        common: &mut Common,
        outer: &Timing,
        probe: fn(Target) -> Probe,
    ) -> Option<(Probe, Pace)> {
        for line in self.block(statement) {
            if !self.common(line, common) {
                self.unknown(line);
            }
        }
        let target = self.target(statement, common, outer)?;
        Some((probe(target), common.timing.within(outer).pace(1, SECOND)))
    }

    fn smtp(&mut self, statement: &Statement, common: &mut Common, outer: &Timing) -> Option<(Probe, Pace)> {
        let mut helo = "smtpchecker.keepalived.org".to_owned();
        for line in self.block(statement) {
            match line.keyword() {
                "helo_name" => helo = self.text(line).unwrap_or(helo),
                "host" => {
                    self.warn(line, "host: obsolete; its words are taken as the check's own");
                    for inner in line.block.iter().flatten() {
                        if !self.common(inner, common) {
                            self.unknown(inner);
                        }
                    }
                }
                _ if self.common(line, common) => {}
                _ => self.unknown(line),
            }
        }
        let target = self.target(statement, common, outer)?;
        Some((Probe::Smtp(Smtp { target, helo }), common.timing.within(outer).pace(1, SECOND)))
    }

    fn dns(&mut self, statement: &Statement, common: &mut Common, outer: &Timing) -> Option<(Probe, Pace)> {
        let (mut kind, mut name) = ("SOA".to_owned(), ".".to_owned());
        for line in self.block(statement) {
            match line.keyword() {
                "type" => {
                    let wanted = format!("one of {}", DNS_TYPES.join(" "));
                    let known = |word: &str| {
                        Some(word.to_ascii_uppercase()).filter(|word| DNS_TYPES.contains(&word.as_str()))
                    };
                    kind = self.value(line, &wanted, known).unwrap_or(kind);
                }
                "name" => name = self.text(line).unwrap_or(name),
                _ if self.common(line, common) => {}
                _ => self.unknown(line),
            }
        }
        let target = self.target(statement, common, outer)?;
        let timing = common.timing.within(outer);
        Some((Probe::Dns(Dns { target, kind, name }), timing.pace(3, timing.delay_loop())))
    }

    fn udp(&mut self, statement: &Statement, common: &mut Common, outer: &Timing) -> Option<(Probe, Pace)> {
        let mut payload: Vec<u8> = (0..32).map(|at| b'a' + at % 26).collect();
        let (mut pattern, mut length) = (None, (0, 255));
        for line in self.block(statement) {
            match line.keyword() {
                "payload" => {
                    payload = self.hex(line).map_or(payload, |bytes| bytes.iter().map(|b| b.0).collect())
                }
                "require_reply" => pattern = self.hex(line),
                "min_reply_length" => length.0 = self.number(line, 0..=65535).unwrap_or(0) as usize,
                "max_reply_length" => length.1 = self.number(line, 0..=65535).unwrap_or(255) as usize,
                _ if self.common(line, common) => {}
                _ => self.unknown(line),
            }
        }
        if pattern.is_none() {
            self.note(statement, "UDP_CHECK without require_reply: a server that is switched off passes too");
        }
        let target = self.target(statement, common, outer)?;
        let reply = pattern.map(|pattern| Reply { pattern, length });
        Some((Probe::Udp(Udp { target, payload, reply }), common.timing.within(outer).pace(1, SECOND)))
    }

    /// Hexadecimal digits, blanks between them; `x` for any. Values and masks.
    fn hex(&mut self, line: &Statement) -> Option<Vec<(u8, u8)>> {
        let digits: Vec<u8> = line.rest().concat().into_bytes();
        let nibble = |digit: u8| match digit {
            b'x' | b'X' => Some((0, 0)),
            digit => char::from(digit).to_digit(16).map(|value| (value as u8, 0xf)),
        };
        let pairs = digits.chunks(2).map(|pair| {
            let (high, low) = (nibble(*pair.first()?)?, nibble(*pair.get(1)?)?);
            Some((high.0 << 4 | low.0, high.1 << 4 | low.1))
        });
        let bytes = pairs.collect::<Option<Vec<_>>>();
        if bytes.is_none() {
            self.warn(line, format!("{}: pairs of hexadecimal digits are wanted", line.keyword()));
        }
        bytes
    }

    fn file(&mut self, statement: &Statement) -> Option<(Probe, Pace)> {
        let (mut found, mut weight, mut reverse) = (None, None, false);
        for line in self.block(statement) {
            match line.keyword() {
                "track_file" => {
                    let name = line.word(1).unwrap_or_default();
                    found = self.files.get(name).cloned();
                    if found.is_none() {
                        self.error(line, format!("there is no track_file '{name}'"));
                    }
                }
                "weight" => {
                    weight = self.value(line, "a number", |word| word.parse::<i32>().ok());
                    reverse = line.word(2) == Some("reverse");
                }
                _ => self.unknown(line),
            }
        }
        let Some(found) = found else {
            self.error(statement, "FILE_CHECK: track_file is missing");
            return None;
        };
        let weight = weight.unwrap_or(found.weight);
        let weight = if reverse { weight.saturating_neg() } else { weight };
        let pace = Pace {
            delay_loop: SECOND,
            retry: 0,
            delay_before_retry: SECOND,
            warmup: Duration::ZERO,
            alpha: false,
        };
        Some((Probe::File(FileCheck { file: found.file, weight }), pace))
    }

    fn misc(&mut self, statement: &Statement, common: &mut Common, outer: &Timing) -> Option<(Probe, Pace)> {
        let (mut script, mut timeout, mut dynamic) = (None::<Script>, None, false);
        let mut user = None;
        for line in self.block(statement) {
            match line.keyword() {
                "misc_path" => script = self.first_script(line, script),
                "misc_timeout" => timeout = self.value(line, "whole seconds", number).or(timeout),
                "misc_dynamic" => dynamic = true,
                "user" => user = Some(line.clone()),
                "connect_ip" | "connect_port" | "bindto" | "bind_port" | "bind_if" | "fwmark"
                | "connect_timeout" => self.unknown(line),
                _ if self.common(line, common) => {}
                _ => self.unknown(line),
            }
        }
        let mut script = script?;
        if let Some(line) = user {
            let before = self.users.chosen;
            self.script_user(&line);
            script.user = self.users.chosen;
            self.users.chosen = before;
        }
        let timing = common.timing.within(outer);
        let timeout = timeout.map_or(timing.delay_loop(), |seconds| Duration::from_secs(seconds.into()));
        // Only what the check itself says counts.
        let pace = Timing { retry: common.timing.retry, ..timing }.pace(0, SECOND);
        Some((Probe::Misc(Misc { script, timeout, dynamic }), pace))
    }

    fn bfd(&mut self, statement: &Statement) {
        for line in self.block(statement) {
            match line.keyword() {
                "name" if line.word(1).is_some_and(|name| self.bfd.iter().any(|known| known == name)) => {}
                "name" => self.error(line, "there is no bfd_instance of this name"),
                "alpha" => {}
                _ => self.unknown(line),
            }
        }
        let advice = "BFD_CHECK is not supported: the server is taken to be up as far as BFD goes";
        self.warn(statement, format!("{advice}; PING_CHECK is the nearest"));
    }
}

/// A path as a value.
pub(super) fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}
