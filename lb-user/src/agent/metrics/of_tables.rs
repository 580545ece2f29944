//! What the tables hold: services and dests as `--stats` and `--rate` show them, and what `lb-user status` tells.

use std::fmt;

use lb_common::reason::{Action, Reason};
use lb_common::tables::LAYOUT;

use super::labels::{self, Labels};
use super::page::{Figure, Page};
use super::view::Holdings;
use crate::bpf::status::{Interface, Status};
use crate::control::model::{DaemonRow, Dest, Rates, Service, Stats};

/// Writes all of it.
pub fn write(page: &mut Page<'_>, holdings: &Holdings) -> fmt::Result {
    status(page, &holdings.status)?;
    services(page, &holdings.services)?;
    dests(page, &holdings.services)?;
    daemons(page, &holdings.daemons)
}

fn status(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let mut build = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("layout", LAYOUT.to_string())];
    build.extend(status.program.iter().map(|program| ("program_tag", program.tag.clone())));
    page.gauges("lb_build_info", "Version, layout of the maps, and hash of the program", one((build, 1u32)))?;
    page.gauges("lb_services", "Services", one((labels::NONE, status.services)))?;
    page.gauges("lb_dests", "Dests of all services", one((labels::NONE, status.dests)))?;
    let nics = || status.interfaces.iter();
    let mode = |nic: &Interface| ([("interface", nic.name.clone()), ("mode", nic.mode.to_owned())], 1u32);
    page.gauges("lb_interface_info", "A NIC the program is attached to, and its mode", nics().map(mode))?;
    let up = |nic: &Interface| ([("interface", nic.name.clone())], u32::from(nic.up));
    page.gauges("lb_interface_up", "1 while the NIC is switched on", nics().map(up))?;
    let dead = status.dead_neighbours.iter().map(|dead| {
        ([("address", dead.address.to_string()), ("interface", dead.interface.clone())], dead.dests)
    });
    page.gauges("lb_dead_neighbour_dests", "Dests behind a next hop that does not answer", dead)?;
    let families = || {
        let both = status.tables.map(|tables| [("ipv4", tables.v4), ("ipv6", tables.v6)]);
        both.into_iter().flatten().map(|(family, table)| ([("family", family)], table))
    };
    page.gauges(
        "lb_connection_slots",
        "Room in the connection table",
        families().map(|(labels, table)| (labels, table.slots)),
    )?;
    page.gauges(
        "lb_connections",
        "Live connections and templates in the table",
        families().map(|(labels, table)| (labels, table.live)),
    )?;
    let reasons = status
        .reasons
        .iter()
        .map(|(reason, count)| ([("reason", reason.label()), ("action", action(*reason))], *count));
    page.counters("lb_packets", "What became of packets", reasons)
}

fn action(reason: Reason) -> &'static str {
    match reason.action() {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Transmit | Action::Redirect(_) => "send",
    }
}

fn one<T>(row: T) -> impl Iterator<Item = T> {
    std::iter::once(row)
}

fn services(page: &mut Page<'_>, services: &[Service]) -> fmt::Result {
    let rows: Vec<(Labels, &Service)> =
        services.iter().map(|service| (labels::service(&service.id), service)).collect();
    let info = rows
        .iter()
        .map(|(labels, service)| ((labels.as_slice(), [("scheduler", service.conf.scheduler.name())]), 1u32));
    page.gauges("lb_service_info", "A service and its scheduler", info)?;
    let rows: Vec<Row<'_>> =
        rows.iter().map(|(labels, service)| (labels.as_slice(), &service.stats, &service.rates)).collect();
    traffic(page, &SERVICE, &rows)
}

fn dests(page: &mut Page<'_>, services: &[Service]) -> fmt::Result {
    let dests = services.iter().flat_map(|service| service.dests.iter().map(|dest| (&service.id, dest)));
    let rows: Vec<(Labels, &Dest)> = dests.map(|(id, dest)| (labels::dest(id, dest), dest)).collect();
    let figures: [Figure<Dest, u32>; 6] = [
        ("lb_dest_weight", "Weight in force", |dest| dest.conf.weight),
        ("lb_dest_active_connections", "ActiveConn: connections in an active state", |dest| dest.active),
        ("lb_dest_inactive_connections", "InActConn: the other connections", |dest| dest.inactive),
        ("lb_dest_templates", "PersistConn: persistence templates", |dest| dest.persistent),
        ("lb_dest_upper_threshold", "Connections at which it is overloaded; 0 = never", |dest| {
            dest.conf.upper
        }),
        ("lb_dest_lower_threshold", "Connections below which it is so no longer", |dest| dest.conf.lower),
    ];
    for (name, help, figure) in figures {
        page.gauges(name, help, rows.iter().map(|(labels, dest)| (labels.as_slice(), figure(dest))))?;
    }
    let rows: Vec<Row<'_>> =
        rows.iter().map(|(labels, dest)| (labels.as_slice(), &dest.stats, &dest.rates)).collect();
    traffic(page, &DEST, &rows)
}

type Row<'a> = (&'a [(&'static str, String)], &'a Stats, &'a Rates);

/// Names of the columns of `--stats` and `--rate`.
struct Names {
    conns: &'static str,
    packets: &'static str,
    bytes: &'static str,
    conn_rate: &'static str,
    packet_rate: &'static str,
    byte_rate: &'static str,
}

const SERVICE: Names = Names {
    conns: "lb_service_connections",
    packets: "lb_service_packets",
    bytes: "lb_service_bytes",
    conn_rate: "lb_service_connections_per_second",
    packet_rate: "lb_service_packets_per_second",
    byte_rate: "lb_service_bytes_per_second",
};

const DEST: Names = Names {
    conns: "lb_dest_connections",
    packets: "lb_dest_packets",
    bytes: "lb_dest_bytes",
    conn_rate: "lb_dest_connections_per_second",
    packet_rate: "lb_dest_packets_per_second",
    byte_rate: "lb_dest_bytes_per_second",
};

fn traffic(page: &mut Page<'_>, names: &Names, rows: &[Row<'_>]) -> fmt::Result {
    let both = |pick: fn(&Row<'_>) -> [u64; 2]| {
        rows.iter().flat_map(move |row| {
            let [inward, outward] = pick(row);
            [("in", inward), ("out", outward)].map(|(way, count)| ((row.0, [("direction", way)]), count))
        })
    };
    page.counters(
        names.conns,
        "Connections scheduled",
        rows.iter().map(|(labels, stats, _)| (*labels, stats.conns)),
    )?;
    page.counters(
        names.packets,
        "Packets from clients (in) and, under NAT, to them (out)",
        both(|(_, stats, _)| [stats.inpkts, stats.outpkts]),
    )?;
    page.counters(
        names.bytes,
        "Bytes from clients (in) and, under NAT, to them (out)",
        both(|(_, stats, _)| [stats.inbytes, stats.outbytes]),
    )?;
    page.gauges(
        names.conn_rate,
        "CPS: connections a second, as IPVS estimates",
        rows.iter().map(|(labels, _, rates)| (*labels, rates.cps)),
    )?;
    page.gauges(
        names.packet_rate,
        "InPPS, OutPPS: packets a second, as IPVS estimates",
        both(|(_, _, rates)| [rates.inpps, rates.outpps]),
    )?;
    page.gauges(
        names.byte_rate,
        "InBPS, OutBPS: bytes a second, as IPVS estimates",
        both(|(_, _, rates)| [rates.inbps, rates.outbps]),
    )
}

fn daemons(page: &mut Page<'_>, daemons: &[DaemonRow]) -> fmt::Result {
    let row = |daemon: &DaemonRow| {
        let labels = [
            ("role", daemon.role.name().to_owned()),
            ("interface", daemon.interface.clone()),
            ("syncid", daemon.syncid.to_string()),
        ];
        (labels, 1u32)
    };
    page.gauges("lb_sync_daemon_info", "A sync daemon that runs", daemons.iter().map(row))
}
