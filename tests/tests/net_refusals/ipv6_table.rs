//! The table of IPv6 connections takes memory once there is a service of IPv6.

use super::desk::Desk;
use super::sizes::{number, status};
use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use lb_tests::need;
use lb_user::bpf::syscall;
use std::os::fd::AsFd as _;

const V4: &str = "ipvsadm -A -t 10.0.0.1:80";
const V6: &str = "ipvsadm -A -t [fd00::1]:80";

fn outer(desk: &Desk) -> Result<MapData> {
    MapData::from_pin(desk.pins()?.join("conns6")).context("opening the map for the table")
}

/// How many buckets packets find. `None`: there is no table.
fn buckets(desk: &Desk) -> Result<Option<u32>> {
    let id: Option<u32> = syscall::lookup(outer(desk)?.fd().as_fd(), &0u32)?;
    id.map(|id| Ok(MapData::from_id(id)?.info()?.max_entries())).transpose()
}

fn memory(desk: &Desk) -> Result<u64> {
    number(&status(desk)?, "/memory/traffic")
}

pub fn ipv6_connections_when_needed() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0 --connections 1000 --connections-v6 200000")?;
    desk.quiet(V4)?;
    ensure!(buckets(&desk)?.is_none(), "a table of IPv6 for services of IPv4");
    ensure!(desk.ok("lb-user status")?.contains("IPv6 none (room for 262144 once there is a service)"));
    let before = memory(&desk)?;
    desk.quiet(V6)?;
    ensure!(buckets(&desk)? == Some(131_072), "{:?}", buckets(&desk)?);
    let taken = memory(&desk)? - before;
    ensure!((131_072 * 256..131_072 * 257).contains(&taken), "{taken} bytes");
    ensure!(desk.ok("lb-user status")?.contains("IPv6 0 in 524288"));
    // It stays, and is there for the next program.
    desk.quiet("ipvsadm -C")?;
    desk.ok("lb-user detach\nlb-user attach v0")?;
    ensure!(buckets(&desk)? == Some(131_072) && memory(&desk)? - before == taken);
    desk.ok("lb-user detach --purge")?;
    ensure!(!desk.pins()?.exists(), "left: {:?}", desk.pinned()?);
    Ok(())
}

/// Services first, then the table; and another table for another size.
pub fn ipv6_connections_at_attach() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.quiet(V6)?;
    desk.ok("lb-user attach v0 --connections 1000")?;
    ensure!(buckets(&desk)? == Some(256), "{:?}", buckets(&desk)?);
    desk.ok("lb-user detach\nlb-user attach v0 --connections-v6 1000")?;
    ensure!(buckets(&desk)? == Some(512), "{:?}", buckets(&desk)?);
    Ok(())
}

/// Whoever is killed between making the table and having packets find it leaves it to the next change.
pub fn ipv6_connections_after_a_kill() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0 --connections 1000")?;
    desk.quiet(V6)?;
    let table = desk.pins()?.join("conns6-0");
    let made = MapData::from_pin(&table)?.info()?.id();
    syscall::delete(outer(&desk)?.fd().as_fd(), &0u32)?;
    ensure!(buckets(&desk)?.is_none());
    desk.quiet("ipvsadm -A -t [fd00::2]:80")?;
    ensure!(buckets(&desk)? == Some(256) && MapData::from_pin(&table)?.info()?.id() == made);
    // A foreign map in its place is told, and left alone.
    syscall::delete(outer(&desk)?.fd().as_fd(), &0u32)?;
    std::fs::remove_file(&table)?;
    std::fs::hard_link(desk.pins()?.join("filter"), &table)?;
    let before = desk.rules()?;
    desk.fails("ipvsadm -A -t [fd00::3]:80", 255, &["conns6-0", "not the balancer's conns6"])?;
    ensure!(desk.rules()? == before);
    Ok(())
}
