//! The table as command lines (`-S`), and command lines into words (`-R`).
//!
//! Thresholds, timeouts and daemons are not saved, as with ipvsadm; nor is the third flag of sh and mh, for which
//! there is no name (the line then ends in an empty `-b`, which cannot be read back: ipvsadm's own).

use std::fmt::Write as _;
use std::io::{self, Write};

use super::list::{any_name, mask_text};
use super::names::Names;
use super::values::sched_flag_names;
use crate::control::model::{
    Dest, Engine, Family, Method, Proto, Service, ServiceId, TunChecksum, TunType, TunnelConf,
};

/// Prints each service and its dests, in the order given.
pub fn write(services: &[Service], numeric: bool, names: &dyn Names, out: &mut dyn Write) -> io::Result<()> {
    lines(services, numeric, names, &dest_options, out)
}

/// As [`write`], with the thresholds.
pub fn write_all(
    services: &[Service],
    numeric: bool,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let with_thresholds = |dest: &Dest| {
        let mut text = dest_options(dest);
        for (option, value) in [("-x", dest.conf.upper), ("-y", dest.conf.lower)] {
            if value != 0 {
                let _ = write!(text, " {option} {value}");
            }
        }
        text
    };
    lines(services, numeric, names, &with_thresholds, out)
}

fn lines(
    services: &[Service],
    numeric: bool,
    names: &dyn Names,
    options: &dyn Fn(&Dest) -> String,
    out: &mut dyn Write,
) -> io::Result<()> {
    for service in services {
        let named = service_option(&service.id, numeric, names);
        writeln!(out, "-A {named}{}", service_options(service))?;
        for dest in &service.dests {
            let server = any_name(&dest.id.addr, dest.id.port, service.id.proto(), numeric, names);
            writeln!(out, "-a {named} -r {server}{}", options(dest))?;
        }
    }
    Ok(())
}

/// How a service is named on a command line.
fn service_option(id: &ServiceId, numeric: bool, names: &dyn Names) -> String {
    match id {
        // Signed, as in listings; what exceeds 2^31 cannot be read back: ipvsadm's own.
        ServiceId::Mark { mark, family: Family::V4 } => format!("-f {}", *mark as i32),
        ServiceId::Mark { mark, family: Family::V6 } => format!("-f {} -6", *mark as i32),
        ServiceId::Addr { proto, addr, port } => {
            let option = match *proto {
                Proto::TCP => "-t",
                Proto::UDP => "-u",
                _ => "--sctp-service",
            };
            format!("{option} {}", any_name(addr, *port, Some(*proto), numeric, names))
        }
    }
}

fn service_options(service: &Service) -> String {
    let conf = &service.conf;
    let scheduler = conf.scheduler.name();
    let mut text = format!(" -s {scheduler}");
    if let Some(persistence) = conf.persistence {
        let _ = write!(text, " -p {}", persistence.timeout);
        if let Some(mask) = mask_text(persistence.netmask) {
            let _ = write!(text, " -M {mask}");
        }
    }
    if let Some(engine) = conf.engine.map(Engine::name) {
        let _ = write!(text, " --pe {engine}");
    }
    if conf.ops {
        text.push_str(" -o");
    }
    if conf.sched_flags != 0 {
        let _ = write!(text, " -b {}", sched_flag_names(conf.sched_flags, scheduler));
    }
    text
}

fn dest_options(dest: &Dest) -> String {
    let method = match dest.conf.method {
        Method::Nat => "-m",
        Method::Tunnel => "-i",
        Method::Local | Method::Route | Method::Bypass => "-g",
    };
    let mut text = format!(" {method} -w {}", dest.conf.weight);
    if dest.conf.method == Method::Tunnel {
        text.push_str(&tunnel_options(&dest.conf.tunnel));
    }
    text
}

fn tunnel_options(tunnel: &TunnelConf) -> String {
    let checksum = match tunnel.checksum {
        TunChecksum::None => "--tun-nocsum",
        TunChecksum::Full => "--tun-csum",
        TunChecksum::Remote => "--tun-remcsum",
    };
    match tunnel.kind {
        TunType::Ipip => " --tun-type ipip".to_owned(),
        TunType::Gue => format!(" --tun-type gue --tun-port {} {checksum}", tunnel.port.host()),
        TunType::Gre => format!(" --tun-type gre {checksum}"),
    }
}

/// The words of a line: split at blanks, without quoting. A word `ipvsadm` is dropped wherever it stands, so that
/// lines of a shell script can be read; nothing left means nothing to do.
pub fn words(line: &str) -> Vec<String> {
    line.split([' ', '\t', '\r', '\n'])
        .filter(|word| !word.is_empty() && *word != "ipvsadm")
        .map(str::to_owned)
        .collect()
}

/// Is it a comment? Only the restore script knows them, and only at the very start of a line.
pub fn is_comment(line: &str) -> bool {
    line.starts_with('#')
}
