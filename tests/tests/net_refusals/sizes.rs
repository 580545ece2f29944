//! How much memory there is to it, and sizes that cannot be changed any more.

use super::desk::Desk;
use super::large::rules;
use anyhow::{Context, Result, ensure};
use lb_tests::need;
use serde_json::Value;
use std::fs;

pub fn status(desk: &Desk) -> Result<Value> {
    Ok(serde_json::from_str(&desk.ok("lb-user status --json")?)?)
}

pub fn number(status: &Value, at: &str) -> Result<u64> {
    status.pointer(at).and_then(Value::as_u64).with_context(|| format!("no number {at} in {status:#}"))
}

/// Before 6.4 the kernel tells of a hash map what it could take at the most, not what it takes.
fn tells_memory() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(4)))
}

/// What each processor beyond two adds: counters of the first servers, and hops to clients.
fn more_processors() -> Result<u64> {
    let processors = aya::util::nr_cpus().map_err(|(_, error)| error)? as u64;
    Ok(processors.saturating_sub(2) * (8192 * 40 + 500_000))
}

/// A million connections take 110 MB, of IPv6 200, all maps of the instance included. Second buckets take memory when they
/// are made: of a million connections at random 2 % of the first ones run over, of IPv6 4 %. Room is left for them here;
/// `bench scale` makes them all.
pub fn memory_of_a_million() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    let cases = [
        ("--connections 1000000", "10.0.0.1:80", "/tables/connections", 110_000_000, 3),
        (
            "--connections 1000 --connections-v6 1000000",
            "[fd00::1]:80",
            "/tables/connections_v6",
            200_000_000,
            9,
        ),
    ];
    for (room, vip, made, most, second) in cases {
        desk.ok(&format!("lb-user attach v0 {room}\nipvsadm -A -t {vip}"))?;
        let status = status(&desk)?;
        let (traffic, rules) = (number(&status, "/memory/traffic")?, number(&status, "/memory/rules")?);
        let taken = traffic + rules + second * 1_000_000;
        ensure!(
            taken < most + more_processors()? || !tells_memory()?,
            "{taken} bytes are more than {most}: {:#}",
            status["memory"]
        );
        ensure!(number(&status, made)? >= 1_000_000);
        desk.ok("lb-user detach --purge")?;
    }
    Ok(())
}

/// Where nobody says more, a quarter of a million of IPv6 come with a million connections, once there is a service of IPv6,
/// and room for 131,072 servers, once they come: the first ones take none.
pub fn memory_where_nobody_says() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0 --connections 1000000")?;
    let first = status(&desk)?;
    let taken = number(&first, "/memory/traffic")? + number(&first, "/memory/rules")?;
    ensure!(
        taken < 105_000_000 + more_processors()? || !tells_memory()?,
        "{taken} bytes: {:#}",
        first["memory"]
    );
    ensure!(number(&first, "/tables/connections_v6")? >= 250_000);
    ensure!(number(&first, "/room/dests/room")? >= 100_000);
    desk.quiet("ipvsadm -A -t 10.0.0.1:80\nipvsadm -a -t 10.0.0.1:80 -r 10.99.0.9 -g")?;
    let few = number(&status(&desk)?, "/memory/rules")?;
    let before = number(&first, "/memory/rules")?;
    ensure!(few < before + 100_000 || !tells_memory()?, "one server: {few} bytes of rules after {before}");
    Ok(())
}

/// What a place for a server takes once it is made: itself and its rates, and its counters on every processor; and what its
/// service takes.
pub fn memory_of_servers() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    let before = {
        desk.ok("lb-user attach v0")?;
        number(&status(&desk)?, "/memory/rules")?
    };
    desk.restore(&rules(3000, "10.99"))?;
    let after = status(&desk)?;
    let (made, rules) = (number(&after, "/room/dests/made")?, number(&after, "/memory/rules")?);
    ensure!((30_000..45_000).contains(&made), "{made} places for 30,000 servers");
    let processors = aya::util::nr_cpus().map_err(|(_, error)| error)? as u64;
    let most = made * (340 + 40 * processors) + 3000 * 200;
    ensure!(rules - before < most || !tells_memory()?, "{rules} bytes after {before}: {:#}", after["memory"]);
    Ok(())
}

pub fn room_for_servers() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0 --dests 1000")?;
    let before = status(&desk)?;
    ensure!(number(&before, "/room/dests/room")? == 1024 && number(&before, "/room/services/room")? == 128);
    ensure!(number(&before, "/room/dests/made")? == 1024 && number(&before, "/room/services/made")? == 128);
    ensure!(number(&before, "/room/dests/used")? == 0);
    desk.quiet("ipvsadm -A -t 10.0.0.1:80\nipvsadm -a -t 10.0.0.1:80 -r 10.99.0.9 -g")?;
    let after = status(&desk)?;
    ensure!(number(&after, "/room/dests/used")? == 1 && number(&after, "/room/services/used")? == 1);
    ensure!(
        desk.ok("lb-user status")?.contains("Rules: 1 of 128 services, 1 of 1024 dests, 1 of 32768 words")
    );
    // What is there is told, and cannot be changed.
    desk.ok("lb-user attach v0 --dests 1024")?;
    desk.fails("lb-user attach v0 --dests 5000", 1, &["may be 1024 servers", "detach --purge"])?;
    // One service too many.
    let lines: String = (0..128).map(|n| format!("ipvsadm -A -t 10.0.1.{n}:80\n")).collect();
    let said = desk.types(&lines)?;
    ensure!(said.status == 255 && said.stderr == "Memory allocation problem\n", "{said:?}");
    ensure!(desk.rules()?.lines().count() == 129);
    Ok(())
}
