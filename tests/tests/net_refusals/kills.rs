//! kill -9 in the middle of commands.

use super::desk::{Desk, LIMIT};
use anyhow::{Context, Result, ensure};
use lb_tests::drive::{self, DR};
use lb_tests::lab::Lab;
use lb_tests::peer::curl;
use lb_tests::run::{self, Said};
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace};
use lb_user::bpf::pins::Rules;
use lb_user::bpf::{bpffs, dests};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Times between 0 and a given one, spread evenly: the same in every run.
pub fn moments(longest: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (0..count).map(move |nth| longest * (nth * 61 % count) / count)
}

/// Starts a program and kills it after a while.
pub fn kill_after(program: &Path, words: &[&str], input: &Path, after: Duration) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let mut command = Command::new(program);
    command.arg0(name).args(words).stdin(File::open(input)?).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = run::die_with_us(&mut command).spawn()?;
    thread::sleep(after);
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// A restore's file: a service that is in use, and many more.
fn rules(set: &Topology, services: u32, dests: u32) -> String {
    let [used, _] = drive::services(set, DR);
    let mut text = format!("-A -t {} -s rr\n", used.vip);
    for dest in &used.dests {
        let _ = writeln!(text, "-a -t {} -r {dest} -g -w 1", used.vip);
    }
    for service in 0..services {
        let vip = format!("10.240.{}.{}:80", service / 250, service % 250 + 1);
        let _ = writeln!(text, "-A -t {vip} -s wlc");
        for dest in 0..dests {
            let _ = writeln!(text, "-a -t {vip} -r 10.211.{}.{}:80 -m -w 2", 100 + dest, service % 250 + 1);
        }
    }
    text
}

/// Slots in use, those of dests that are in no list included.
fn slots(set: &Topology) -> Result<usize> {
    set.balancer.netns.enter(|| {
        let rules = Rules::open(&bpffs::instance(None)?)?.context("no rules")?;
        Ok(rules.dests.iter().filter(|dest| dests::used(dest)).count())
    })?
}

/// While restores are killed, requests go on without a failure; and the next restore that lives gives the whole table.
pub fn killed_restores() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new("10.211.55.8", &["10.211.55.69", "10.211.55.70"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    let text = rules(&set, 500, 4);
    let file = lab.programs().join("rules");
    std::fs::write(&file, &text)?;
    lab.ok("lb-user attach eth0")?;
    let restore = format!("ipvsadm-restore <{}", file.display());
    let started = Instant::now();
    lab.quiet(&restore)?;
    let whole = started.elapsed();
    let saved = lab.ok("ipvsadm -Sn")?;
    ensure!(sorted(&saved) == sorted(&text), "the restore differs from the file");
    let (over, kills) = (AtomicBool::new(false), pace::times(80));
    thread::scope(|scope| {
        let client = scope.spawn(|| keep_asking(&set, &over));
        let program = lab.programs().join("ipvsadm-restore");
        let killed = set
            .balancer
            .netns
            .enter(|| moments(whole, kills).try_for_each(|after| kill_after(&program, &[], &file, after)));
        over.store(true, Ordering::Relaxed);
        let answered = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        killed??;
        println!("{answered} requests answered while {kills} restores of {whole:?} were killed");
        anyhow::Ok(())
    })?;
    // Whatever the last one left can be read, and nobody holds the lock.
    lab.ok("ipvsadm -Ln\nlb-user status")?;
    lab.quiet(&restore)?;
    ensure!(lab.ok("ipvsadm -Sn")? == saved, "the table is not the file's");
    let status = lab.ok("lb-user status")?;
    ensure!(status.contains("501 services, 2002 dests"), "{status}");
    ensure!(slots(&set)? == 2002, "{} slots for 2002 dests", slots(&set)?);
    Ok(())
}

fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines
}

fn keep_asking(set: &Topology, over: &AtomicBool) -> Result<usize> {
    let mut answered = 0;
    while !over.load(Ordering::Relaxed) {
        answered += curl::answers(&set.client.netns, set.vip(80)[0], 25)?.len();
    }
    Ok(answered)
}

/// Whatever is left of a killed attach, detach or purge, the next one works.
pub fn killed_attaches() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    let rules = desk.rules()?;
    let program = desk.programs().join("lb-user");
    let timed = |line: &str| -> Result<Duration> {
        let started = Instant::now();
        desk.ok(line)?;
        Ok(started.elapsed())
    };
    let attaching = timed("lb-user attach v0")?;
    let detaching = timed("lb-user detach")?;
    for (words, longest, count) in [
        (&["attach", "v0", "v1"][..], attaching, 6),
        (&["detach"], detaching, 3),
        (&["attach", "v0", "--mode", "generic"], attaching, 4),
    ] {
        for after in moments(longest, pace::times(count)) {
            if words[0] == "detach" {
                desk.ok("lb-user attach v0 v1")?;
            }
            desk.netns.enter(|| kill_after(&program, words, Path::new("/dev/null"), after))??;
            let what = || format!("after `{words:?}` was killed at {after:?}");
            desk.ok("lb-user status").with_context(what)?;
            ensure!(desk.rules().with_context(what)? == rules, "{}: the rules have changed", what());
        }
        desk.ok("lb-user attach v0 v1")?;
        ensure!(desk.has_program("v0")? && desk.has_program("v1")?);
        let left: Vec<String> = desk.pinned()?.into_iter().filter(|name| name.starts_with("new:")).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        desk.ok("lb-user detach")?;
        ensure!(!desk.has_program("v0")? && !desk.has_program("v1")?);
    }
    killed_purges(&desk, detaching)
}

fn killed_purges(desk: &Desk, longest: Duration) -> Result<()> {
    let program = desk.programs().join("lb-user");
    for after in moments(longest, 3) {
        desk.ok("lb-user attach v0")?;
        desk.netns
            .enter(|| kill_after(&program, &["detach", "--purge"], Path::new("/dev/null"), after))??;
        desk.ok("ipvsadm -Ln").with_context(|| format!("after a purge was killed at {after:?}"))?;
    }
    let said: Said = run::run_with(desk.netns.command(&program).args(["attach", "v0"]), b"", LIMIT)?;
    said.ok()?;
    desk.ok("lb-user detach --purge")?;
    ensure!(!desk.pins()?.exists(), "left: {:?}", desk.pinned()?);
    Ok(())
}
