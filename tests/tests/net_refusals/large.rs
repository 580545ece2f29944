//! Much at once: a large file, and many commands side by side.

use super::desk::Desk;
use anyhow::{Result, ensure};
use lb_tests::need;
use lb_tests::run::{self, Said};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const SERVICES: u32 = 10_000;
const DESTS: u32 = 10;

pub fn rules(services: u32, net: &str) -> String {
    let mut text = String::new();
    for service in 0..services {
        let vip = format!("10.{}.{}.{}:80", 100 + service / 62_500, service / 250 % 250, service % 250 + 1);
        let _ = writeln!(text, "-A -t {vip} -s rr");
        for dest in 0..DESTS {
            let _ = writeln!(text, "-a -t {vip} -r {net}.{dest}.{}:80 -g -w 1", service % 250 + 1);
        }
    }
    text
}

/// The times are only told: nobody knows what else the machine is doing.
pub fn ten_thousand_services() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0")?;
    let text = rules(SERVICES, "10.99");
    let timed = |what: &str, tool: &str, words: &[&str], input: &[u8]| -> Result<Said> {
        let started = Instant::now();
        let limit = Duration::from_secs(80);
        let said = desk.netns.enter(|| run::run_with(desk.tool(tool).args(words), input, limit))??;
        println!("{what}: {} ms", started.elapsed().as_millis());
        ensure!(
            said.status == 0 && said.stderr.is_empty(),
            "{what}: status {}: {:.300}",
            said.status,
            said.stderr
        );
        Ok(said)
    };
    timed("restore", "ipvsadm-restore", &[], text.as_bytes())?;
    let listed = timed("list", "ipvsadm", &["-Ln"], b"")?.stdout.lines().count();
    ensure!(listed == (3 + SERVICES + SERVICES * DESTS) as usize, "{listed} lines");
    ensure!(
        timed("save", "ipvsadm", &["-Sn"], b"")?.stdout == text,
        "what is saved is not what was restored"
    );
    timed("restore over it", "ipvsadm-restore", &[], text.as_bytes())?;
    ensure!(timed("save", "ipvsadm", &["-Sn"], b"")?.stdout == text, "the second time it is not");
    timed("one more service", "ipvsadm", &["-A", "-t", "10.99.0.1:443"], b"")?;
    timed("clear", "ipvsadm", &["-C"], b"")?;
    ensure!(desk.rules()?.is_empty());
    // There may be 131,072 dests: those that were just deleted make room for others.
    let other = rules(SERVICES, "10.98");
    timed("restore of another table", "ipvsadm-restore", &[], other.as_bytes())?;
    ensure!(
        timed("save", "ipvsadm", &["-Sn"], b"")?.stdout == other,
        "the other table is not what was restored"
    );
    // Room for both of them there is not.
    timed("restore of the first in its place", "ipvsadm-restore", &[], text.as_bytes())?;
    ensure!(timed("save", "ipvsadm", &["-Sn"], b"")?.stdout == text, "it is not what was restored");
    Ok(())
}

/// A table takes the place of another one even where there is no room for both: the old one's servers leave first. One server
/// too many is refused, and what there is stays.
pub fn another_table_in_its_place() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0 --dests 1024")?;
    let restore = |text: &str| {
        let limit = Duration::from_secs(30);
        desk.netns.enter(|| run::run_with(&mut desk.tool("ipvsadm-restore"), text.as_bytes(), limit))?
    };
    for net in ["10.99", "10.98", "10.97", "10.99"] {
        let text = rules(80, net);
        let said = restore(&text)?;
        ensure!(said.status == 0 && said.stderr.is_empty(), "{net}: {said:?}");
        ensure!(desk.rules()? == text, "{net}: not what was restored");
    }
    let said = restore(&rules(103, "10.98"))?;
    let refused = said.stderr.lines().filter(|line| *line == "Memory allocation problem").count();
    ensure!(
        said.status == 255 && refused == said.stderr.lines().count() && refused == 1030 - 1024,
        "{said:?}"
    );
    ensure!(desk.rules()?.lines().count() == 103 + 1024);
    Ok(())
}

pub fn many_commands_at_once() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    // No table yet: the first ones make it, all at the same time.
    let all = |count: u32, line: &(dyn Fn(u32) -> String + Sync)| -> Result<Vec<Said>> {
        thread::scope(|scope| {
            let typed: Vec<_> = (1..=count).map(|nth| scope.spawn(move || run_line(&line(nth)))).collect();
            typed.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a panic"))?).collect()
        })
    };
    let name = desk.netns.name().to_owned();
    let at = |words: String| format!("ip netns exec {name} {}/{words}", desk.programs().display());
    let quiet = |said: &Said| said.status == 0 && said.stderr.is_empty() && said.stdout.is_empty();
    let said = all(20, &|nth| at(format!("ipvsadm -A -t 10.0.0.{nth}:80 -s rr")))?;
    ensure!(said.iter().all(quiet), "{said:?}");
    let said = all(20, &|nth| at(format!("ipvsadm -a -t 10.0.0.1:80 -r 10.99.0.{} -g", nth + 100)))?;
    ensure!(said.iter().all(quiet), "{said:?}");
    let rules = desk.rules()?;
    let dests: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.strip_prefix("-a -t 10.0.0.1:80 -r ")).collect();
    ensure!(dests.len() == 20 && rules.lines().count() == 40, "{rules}");
    // The same one twenty times: one gets it.
    let said = all(20, &|_| at("ipvsadm -A -t 10.0.0.99:80".to_owned()))?;
    let refused =
        said.iter().filter(|said| said.stderr == "Service already exists\n" && said.status == 255).count();
    ensure!(said.iter().filter(|said| quiet(said)).count() == 1 && refused == 19, "{said:?}");
    let said =
        all(6, &|nth| at(if nth % 2 == 0 { "lb-user attach v0" } else { "lb-user detach" }.to_owned()))?;
    ensure!(said.iter().all(|said| said.status == 0), "{said:?}");
    ensure!(desk.rules()?.lines().count() == 41);
    Ok(())
}

fn run_line(line: &str) -> Result<Said> {
    let mut words = line.split(' ');
    run::run(Command::new(words.next().unwrap_or_default()).args(words))
}
