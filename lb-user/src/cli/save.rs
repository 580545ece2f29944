//! The table as command lines (`-S`), and command lines into words (`-R`).
//!
//! Thresholds, timeouts and daemons are not saved, as with ipvsadm; nor is the third flag of sh and mh, for which
//! there is no name (the line then ends in an empty `-b`, which cannot be read back: ipvsadm's own).

use std::fmt::Write as _;
use std::io::{self, Write};

use super::list::{any_name, mask_text};
use super::names::{Names, NoNames};
use super::values::sched_flag_names;
use crate::control::model::{
    Dest, DestConf, DestId, Family, Method, Proto, Service, ServiceId, TunChecksum, TunType, TunnelConf,
};
use crate::control::request::{Request, ServiceAsk};

/// Prints each service and its dests, in the order given.
pub fn write(services: &[Service], numeric: bool, names: &dyn Names, out: &mut dyn Write) -> io::Result<()> {
    lines(services, numeric, names, &|dest| saved_options(&dest.conf), out)
}

/// As [`write`], with the thresholds.
pub fn write_all(
    services: &[Service],
    numeric: bool,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    lines(services, numeric, names, &|dest| conf_options(&dest.conf), out)
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
pub fn service_option(id: &ServiceId, numeric: bool, names: &dyn Names) -> String {
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
    ask_options(&ServiceAsk {
        scheduler: conf.scheduler.name().to_owned(),
        sched_flags: conf.sched_flags,
        ops: conf.ops,
        persistence: conf.persistence,
        engine: conf.engine.map(|engine| engine.name().to_owned()),
    })
}

fn ask_options(ask: &ServiceAsk) -> String {
    let scheduler = &ask.scheduler;
    let mut text = format!(" -s {scheduler}");
    if let Some(persistence) = ask.persistence {
        let _ = write!(text, " -p {}", persistence.timeout);
        if let Some(mask) = mask_text(persistence.netmask) {
            let _ = write!(text, " -M {mask}");
        }
    }
    if let Some(engine) = &ask.engine {
        let _ = write!(text, " --pe {engine}");
    }
    if ask.ops {
        text.push_str(" -o");
    }
    if ask.sched_flags != 0 {
        let _ = write!(text, " -b {}", sched_flag_names(ask.sched_flags, scheduler));
    }
    text
}

/// All that can be set of a dest.
fn conf_options(conf: &DestConf) -> String {
    let mut text = saved_options(conf);
    for (option, value) in [("-x", conf.upper), ("-y", conf.lower)] {
        if value != 0 {
            let _ = write!(text, " {option} {value}");
        }
    }
    text
}

/// What ipvsadm saves of it.
fn saved_options(conf: &DestConf) -> String {
    let method = match conf.method {
        Method::Nat => "-m",
        Method::Tunnel => "-i",
        Method::Local | Method::Route | Method::Bypass => "-g",
    };
    let mut text = format!(" {method} -w {}", conf.weight);
    if conf.method == Method::Tunnel {
        text.push_str(&tunnel_options(&conf.tunnel));
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

/// A change as the command that makes it, everything in numbers.
pub fn request_line(request: &Request) -> String {
    let names = &NoNames;
    let named = |id: &ServiceId| service_option(id, true, names);
    let server = |dest: &DestId| any_name(&dest.addr, dest.port, None, true, names);
    let line = match request {
        Request::AddService { id, ask } => format!("-A {}{}", named(id), ask_options(ask)),
        Request::EditService { id, ask } => format!("-E {}{}", named(id), ask_options(ask)),
        Request::DeleteService { id } => format!("-D {}", named(id)),
        Request::Clear => "-C".to_owned(),
        Request::AddDest { service, dest, conf } => {
            format!("-a {} -r {}{}", named(service), server(dest), conf_options(conf))
        }
        Request::EditDest { service, dest, conf } => {
            format!("-e {} -r {}{}", named(service), server(dest), conf_options(conf))
        }
        Request::DeleteDest { service, dest } => format!("-d {} -r {}", named(service), server(dest)),
        Request::SetFate { service, dest, fate } => {
            let fate = fate.map_or("the server lives".to_owned(), |fate| format!("on_down {}", fate.name()));
            return format!("# {} -r {}: {fate}", named(service), server(dest));
        }
        Request::Zero { service: None } => "-Z".to_owned(),
        Request::Zero { service: Some(id) } => format!("-Z {}", named(id)),
        Request::SetTimeouts(times) => format!("--set {} {} {}", times.tcp, times.tcp_fin, times.udp),
        Request::StartDaemon(daemon) => {
            format!("--start-daemon {} --mcast-interface {}", daemon.role.name(), daemon.interface)
        }
        Request::StopDaemon { role, .. } => format!("--stop-daemon {}", role.name()),
    };
    format!("ipvsadm {line}")
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
