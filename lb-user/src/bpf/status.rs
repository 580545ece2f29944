//! What `lb-user status` tells.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::ProgramInfo;
use lb_common::reason::Reason;
use lb_common::tables::LAYOUT;
use serde_json::{Value, json};

use super::attach::{LINK, count, links};
use super::create::Sizes;
use super::lock::{self, Hold};
use super::pins::{self, Rules, traffic};
use super::{bpffs, route, syscall};

/// The mode a NIC's program runs in.
pub fn mode_name(xdp: Option<(u8, u32)>) -> &'static str {
    match xdp {
        Some((1, _)) => "native mode",
        Some((2, _)) => "generic mode",
        Some((3, _)) => "offloaded",
        Some(_) => "several modes",
        None => "not running",
    }
}

/// Everything, as JSON.
pub fn read(dir: &Path) -> Result<Value> {
    let _lock = lock::take(dir, Hold::Shared)?;
    let rules = Rules::open(dir)?;
    let (services, dests) = rules.as_ref().map_or(Ok((0, 0)), count)?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "layout": LAYOUT,
        "pins": bpffs::outside(dir).display().to_string(),
        "interfaces": interfaces(dir)?,
        "program": program(dir),
        "services": services,
        "dests": dests,
        "tables": tables(dir)?,
        "reasons": reasons(dir)?,
    }))
}

fn interfaces(dir: &Path) -> Result<Vec<Value>> {
    let nics = route::nics()?;
    let mut all = Vec::new();
    for (name, link) in links(dir, LINK)? {
        let (id, index) = syscall::xdp_link(link.as_fd()).with_context(|| format!("asking about {name}"))?;
        let nic = nics.iter().find(|nic| nic.index == index && index != 0);
        let mode = mode_name(nic.and_then(|nic| nic.xdp));
        all.push(json!({
            "name": nic.map_or(name.as_str(), |nic| nic.name.as_str()),
            "ifindex": index,
            "mode": mode.trim_end_matches(" mode"),
            "up": nic.is_some_and(|nic| nic.up),
            "program_id": id,
        }));
    }
    Ok(all)
}

/// The program that runs, if one was ever attached.
fn program(dir: &Path) -> Value {
    ProgramInfo::from_pin(dir.join("lb")).map_or(
        Value::Null,
        |info| json!({ "name": "lb", "id": info.id(), "tag": format!("{:016x}", info.tag().swap_bytes()) }),
    )
}

fn tables(dir: &Path) -> Result<Value> {
    let Some(sizes) = Sizes::present(dir)? else { return Ok(Value::Null) };
    let sweeper = traffic("sweeper")?.require(dir)?;
    // A timer of 16 bytes, then next, counting and live, each for both families.
    let words: [u32; 10] = syscall::lookup(pins::fd(&sweeper), &0u32)?.unwrap_or_default();
    let family = |buckets: u32, ways: u32, live: u32| json!({ "slots": u64::from(buckets) * u64::from(ways), "live": live });
    Ok(json!({
        "connections": sizes.connections(),
        "v4": family(sizes.buckets_v4, 8, words[8]),
        "v6": family(sizes.buckets_v6, 4, words[9]),
    }))
}

fn reasons(dir: &Path) -> Result<Vec<Value>> {
    let Some(map) = traffic("reasons")?.open(dir)? else { return Ok(Vec::new()) };
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let mut per_cpu = vec![0u64; cpus];
    let mut all = Vec::new();
    for reason in Reason::ALL {
        syscall::lookup_per_cpu(map.fd().as_fd(), &(*reason as u32), &mut per_cpu)?;
        let sum = per_cpu.iter().fold(0u64, |sum, one| sum.wrapping_add(*one));
        all.push(json!({ "label": reason.label(), "text": reason.text(), "count": sum }));
    }
    Ok(all)
}

/// For people.
pub fn text(status: &Value) -> Result<String> {
    let mut out = String::new();
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let interfaces = list("interfaces");
    if interfaces.is_empty() {
        writeln!(out, "Not attached to any interface")?;
    }
    for nic in &interfaces {
        let down = if nic["up"] == true { "" } else { ", down" };
        writeln!(
            out,
            "{}: {} mode{down}, program {}",
            word(&nic["name"]),
            word(&nic["mode"]),
            nic["program_id"]
        )?;
    }
    writeln!(
        out,
        "Version {}, layout {}, pins in {}",
        word(&status["version"]),
        status["layout"],
        word(&status["pins"])
    )?;
    writeln!(out, "{} services, {} dests", status["services"], status["dests"])?;
    let tables = &status["tables"];
    if !tables.is_null() {
        let (v4, v6) = (&tables["v4"], &tables["v6"]);
        writeln!(
            out,
            "Connections: IPv4 {} in {} slots, IPv6 {} in {}",
            v4["live"], v4["slots"], v6["live"], v6["slots"]
        )?;
    }
    let seen: Vec<Value> = list("reasons").into_iter().filter(|reason| reason["count"] != 0).collect();
    if !seen.is_empty() {
        writeln!(out, "Packets:")?;
    }
    for reason in &seen {
        writeln!(
            out,
            "  {:>12}  {:<18} {}",
            reason["count"].to_string(),
            word(&reason["label"]),
            word(&reason["text"])
        )?;
    }
    Ok(out)
}
