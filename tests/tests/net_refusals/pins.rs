//! What is in the pin directory is not what it should be.

use super::desk::Desk;
use anyhow::{Result, ensure};
use lb_tests::need;
use lb_user::bpf::pins::Rules;
use lb_user::bpf::syscall;
use std::fs;
use std::os::fd::AsFd as _;

/// Commands with the status they refuse a foreign table with.
const COMMANDS: [(&str, i32); 8] = [
    ("ipvsadm -Ln", 1),
    ("ipvsadm -Sn", 1),
    ("ipvsadm -A -t 10.0.0.2:80", 255),
    ("ipvsadm -C", 255),
    ("ipvsadm -Z", 255),
    ("ipvsadm-restore </dev/null", 255),
    ("lb-user attach v0", 1),
    ("lb-user status", 1),
];

pub fn foreign_maps() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    let rules = desk.rules()?;
    let dir = desk.pins()?;
    for name in ["settings", "services", "dests", "dests-0", "stats-0", "books"] {
        let (place, aside) = (dir.join(name), dir.join("aside"));
        fs::rename(&place, &aside)?;
        let foreign = syscall::create_hash("foreign", 4, 12, 77)?;
        syscall::pin(foreign.as_fd(), &place)?;
        let words = [name, "a map of 77 elements", "lb-user detach --purge"];
        for (line, status) in COMMANDS {
            desk.fails(line, status, &words)?;
        }
        ensure!(!desk.has_program("v0")?);
        fs::remove_file(&place)?;
        fs::rename(&aside, &place)?;
        ensure!(desk.rules()? == rules, "{name}: the rules have changed");
    }
    missing_map(&desk, &rules)?;
    foreign_traffic_map(&desk, &rules)
}

fn missing_map(desk: &Desk, rules: &str) -> Result<()> {
    let dir = desk.pins()?;
    for name in ["lists", "lists-0"] {
        fs::rename(dir.join(name), dir.join("aside"))?;
        for (line, status) in COMMANDS {
            desk.fails(line, status, &[&format!("{name} is missing"), "lb-user detach --purge"])?;
        }
        fs::rename(dir.join("aside"), dir.join(name))?;
    }
    ensure!(desk.rules()? == rules);
    Ok(())
}

/// Rules can be read and changed, but nothing can be attached.
fn foreign_traffic_map(desk: &Desk, rules: &str) -> Result<()> {
    let place = desk.pins()?.join("conns4");
    let foreign = syscall::create_hash("conns4", 4, 12, 77)?;
    syscall::pin(foreign.as_fd(), &place)?;
    desk.fails("lb-user attach v0", 1, &["conns4", "a map of 77 elements"])?;
    desk.fails("lb-user status", 1, &["conns4", "a map of 77 elements"])?;
    ensure!(!desk.has_program("v0")? && desk.rules()? == rules && place.exists());
    desk.ok("lb-user detach --purge")?;
    ensure!(!place.exists());
    Ok(())
}

pub fn foreign_program() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    desk.ok("lb-user attach v0")?;
    let (rules, dir) = (desk.rules()?, desk.pins()?);
    let program = syscall::open_pin(&dir.join("lb"))?;
    for name in ["settings", "services"] {
        let (place, aside) = (dir.join(name), dir.join("aside"));
        fs::rename(&place, &aside)?;
        syscall::pin(program.as_fd(), &place)?;
        for (line, status) in COMMANDS {
            desk.fails(line, status, &[name, "no map at all", "lb-user detach --purge"])?;
        }
        fs::remove_file(&place)?;
        fs::rename(&aside, &place)?;
        ensure!(desk.rules()? == rules, "{name}: the rules have changed");
    }
    // A directory under a link's name.
    fs::create_dir(dir.join("link-v1"))?;
    desk.fails("lb-user status", 1, &["link-v1", "is not a link"])?;
    desk.fails("lb-user attach v1", 1, &["link-v1", "is not a link"])?;
    ensure!(!desk.has_program("v1")?);
    fs::remove_dir(dir.join("link-v1"))?;
    ensure!(desk.ok("lb-user attach v0")?.contains("attached already"));
    Ok(())
}

pub fn another_layout() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    let rules = desk.rules()?;
    {
        let open = Rules::open(&desk.pins()?)?.ok_or_else(|| anyhow::anyhow!("no rules"))?;
        let layout = open.settings()?.layout.load();
        open.settings()?.layout.store(4711);
        for (line, status) in COMMANDS {
            let words = ["layout 4711", "start over with `lb-user detach --purge`"];
            desk.fails(line, status, &words)?;
        }
        ensure!(!desk.has_program("v0")?);
        open.settings()?.layout.store(layout);
    }
    ensure!(desk.rules()? == rules);
    // The way out that the message names.
    let open = Rules::open(&desk.pins()?)?.ok_or_else(|| anyhow::anyhow!("no rules"))?;
    open.settings()?.layout.store(4711);
    desk.ok("lb-user detach --purge")?;
    ensure!(desk.rules()?.is_empty());
    desk.quiet("ipvsadm -A -t 10.0.0.1:80 -s rr")
}
