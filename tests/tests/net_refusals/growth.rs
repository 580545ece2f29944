//! Room for servers, services and their tables is made as they come.

use super::desk::Desk;
use super::kills::{kill_after, moments};
use super::large::rules;
use super::sizes::{number, status};
use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use lb_tests::{need, pace};
use lb_user::bpf::pins::PIECES;
use lb_user::bpf::syscall;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::time::Instant;

/// Services whose tables and trees take more than one piece, with more servers than one piece holds.
fn tables() -> String {
    let mut text = String::new();
    for service in 0..40 {
        let vip = format!("10.1.0.{}:80", service + 1);
        let _ = writeln!(text, "-A -t {vip} -s mh");
        for dest in 1..=3 {
            let _ = writeln!(text, "-a -t {vip} -r 10.99.0.{}:80 -g -w 1", dest + 8);
        }
    }
    for service in 0..150 {
        let vip = format!("10.2.0.{}:80", service + 1);
        let _ = writeln!(text, "-A -t {vip} -s wlc");
        for dest in 1..=60 {
            let _ = writeln!(text, "-a -t {vip} -r 10.99.0.{}:80 -g -w {}", dest + 8, dest % 4);
        }
    }
    text
}

/// Every piece that is pinned is one that packets have. How many there are, map by map.
fn entered(desk: &Desk) -> Result<Vec<u32>> {
    let dir = desk.pins()?;
    let count = |name: &str| -> Result<u32> {
        let outer = MapData::from_pin(dir.join(name))?;
        let mut number = 0;
        while dir.join(format!("{name}-{number}")).exists() {
            let id = syscall::lookup::<u32, u32>(outer.fd().as_fd(), &number)?;
            ensure!(id.is_some(), "{name}-{number} is not entered");
            number += 1;
        }
        Ok(number)
    };
    PIECES.iter().map(|spec| count(spec.name).context(spec.name)).collect()
}

pub fn growth_over_pieces() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.ok("lb-user attach v0")?;
    ensure!(entered(&desk)? == [1; 4], "{:?} pieces at first", entered(&desk)?);
    let text = tables();
    desk.restore(&text)?;
    ensure!(desk.rules()? == text, "not what was restored");
    let pieces = entered(&desk)?;
    ensure!(pieces.iter().all(|count| *count > 1), "{pieces:?} pieces of {} lines", text.lines().count());
    let now = status(&desk)?;
    for what in ["services", "dests", "lists"] {
        let at = |part: &str| number(&now, &format!("/room/{what}/{part}"));
        ensure!(at("used")? <= at("made")? && at("made")? <= at("room")?, "{what}: {}", now["room"]);
    }
    // The same again and again takes no more: what is free is used again.
    for _ in 0..5 {
        desk.quiet("ipvsadm -C")?;
        desk.restore(&text)?;
    }
    let more: u32 = entered(&desk)?.iter().sum();
    ensure!(more <= 3 * pieces.iter().sum::<u32>(), "{:?} pieces after {pieces:?}", entered(&desk)?);
    ensure!(desk.rules()? == text);
    // And is there for the next program.
    desk.ok("lb-user detach\nlb-user attach v0")?;
    ensure!(desk.rules()? == text);
    desk.ok("lb-user detach --purge")?;
    ensure!(!desk.pins()?.exists(), "left: {:?}", desk.pinned()?);
    Ok(())
}

/// Whoever is killed while the tables grow leaves what the next command can read, and go on from.
pub fn killed_growth() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    let text = rules(3000, "10.99");
    let file = desk.programs().join("rules");
    std::fs::write(&file, &text)?;
    let restore = format!("ipvsadm-restore <{}", file.display());
    let started = Instant::now();
    desk.quiet(&restore)?;
    let whole = started.elapsed();
    let program = desk.programs().join("ipvsadm-restore");
    for after in moments(whole, pace::times(8)) {
        desk.ok("lb-user detach --purge")?;
        desk.quiet("ipvsadm -A -t 10.0.0.1:80")?;
        desk.netns.enter(|| kill_after(&program, &[], &file, after))??;
        let what = || format!("killed after {after:?} of {whole:?}");
        desk.ok("ipvsadm -Ln\nlb-user status").with_context(what)?;
        desk.quiet("ipvsadm -A -t 10.0.0.2:80").with_context(what)?;
        entered(&desk).with_context(what)?;
        desk.quiet(&restore).with_context(what)?;
        entered(&desk).with_context(what)?;
        ensure!(desk.rules()? == text, "{}: not what was restored", what());
    }
    Ok(())
}
