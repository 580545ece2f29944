//! What the agent knows: virtual servers and their quorum, real servers, checks, and itself.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::labels::{self, Labels};
use super::page::{Figure, Page};
use super::view::{Check, Loading, RealServer, View, VirtualServer};

/// Of `lb_check_duration_seconds`, which the checks themselves fill.
pub const DURATION: &str = "How long attempts of checks took";

/// Writes all of it, less the durations.
pub fn write(page: &mut Page<'_>, view: &View) -> fmt::Result {
    virtual_servers(page, &view.virtual_servers)?;
    real_servers(page, &view.virtual_servers)?;
    checks(page, &view.virtual_servers)?;
    loading(page, view.loading)
}

fn virtual_servers(page: &mut Page<'_>, servers: &[VirtualServer]) -> fmt::Result {
    let figures: [Figure<VirtualServer, u64>; 3] = [
        ("lb_virtual_server_quorum_up", "1 while enough weight is alive", |vs| u64::from(vs.quorum_up)),
        ("lb_virtual_server_quorum", "The least sum of weights", |vs| u64::from(vs.quorum)),
        ("lb_virtual_server_alive_weight", "The sum of the weights of live servers", |vs| vs.alive_weight),
    ];
    for (name, help, figure) in figures {
        page.gauges(name, help, servers.iter().map(|vs| (labels::virtual_server(vs), figure(vs))))?;
    }
    Ok(())
}

fn real_servers(page: &mut Page<'_>, servers: &[VirtualServer]) -> fmt::Result {
    let figures: [Figure<RealServer, u32>; 2] = [
        ("lb_real_server_up", "1 while all checks of the server pass", |rs| u32::from(rs.up)),
        ("lb_real_server_weight", "Weight as the checks have it", |rs| rs.weight),
    ];
    for (name, help, figure) in figures {
        let rows = servers
            .iter()
            .flat_map(|vs| vs.servers.iter().map(move |rs| (labels::real_server(vs, rs), figure(rs))));
        page.gauges(name, help, rows)?;
    }
    Ok(())
}

fn checks(page: &mut Page<'_>, servers: &[VirtualServer]) -> fmt::Result {
    let servers = servers.iter().flat_map(|vs| vs.servers.iter().map(move |rs| (vs, rs)));
    let checks = servers.flat_map(|(vs, rs)| {
        rs.checks.iter().enumerate().map(move |(at, check)| (labels::check(vs, rs, at, check), check))
    });
    let checks: Vec<(Labels, &Check)> = checks.collect();
    let rows = || checks.iter().map(|(labels, check)| (labels.as_slice(), *check));
    page.gauges(
        "lb_check_up",
        "1 while the check passes, retries allowed for",
        rows().map(|(labels, check)| (labels, u32::from(check.up))),
    )?;
    page.counters(
        "lb_check_attempts",
        "Attempts by result; error = it could not be made",
        rows().flat_map(|(labels, check)| {
            check.tally.results().map(|(result, count)| ((labels, [("result", result)]), count))
        }),
    )?;
    let last = || rows().filter_map(|(labels, check)| Some((labels, check.tally.last()?)));
    page.seconds(
        "lb_check_last_duration",
        "How long the last attempt took",
        last().map(|(labels, (took, _))| (labels, took)),
    )?;
    page.seconds(
        "lb_check_last_attempt_timestamp",
        "When the last attempt ended, since 1970",
        last().map(|(labels, (_, at))| (labels, at)),
    )
}

fn loading(page: &mut Page<'_>, loading: Loading) -> fmt::Result {
    page.gauges(
        "lb_agent_config_last_reload_successful",
        "1 if the configuration could be read when it last was",
        std::iter::once((labels::NONE, u32::from(loading.good))),
    )?;
    page.seconds(
        "lb_agent_config_last_reload_success_timestamp",
        "When the configuration in force was read, since 1970",
        std::iter::once((labels::NONE, since_1970(loading.since))),
    )
}

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
