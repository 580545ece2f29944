//! In the guest.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::counts_away;
use lb_tests::harness::Case;
use lb_tests::lab::Lab;
use lb_tests::listing::{dest, exact};
use lb_tests::net::Netns;
use lb_tests::peer::Flows;
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

pub const CASES: [Case; 1] = [("the_unit", the_unit)];

/// The lab notes' configuration.
const LAB: &str = include_str!("../../../lb-user/tests/keepalived/lab.conf");
/// Where the agent looks for it when nothing is said.
const CONFIG: &str = "/etc/keepalived/keepalived.conf";
const UNIT: &str = "lb-user-agent";
/// The only thing that is not as shipped: this balancer is a namespace.
const DROP_IN: &str = "/run/systemd/system/lb-user-agent.service.d/netns.conf";

const CONNECTIONS: usize = 24;
const SOON: Duration = Duration::from_secs(10);

/// A balancer whose agent is systemd's, with connections through it.
struct Scene<'l> {
    lab: &'l Lab,
    flows: Flows,
    began: Instant,
}

fn the_unit() -> Result<()> {
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    let set = topo::dr(&plan)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    analyzed()?;
    started(&set.balancer.netns, &lab)?;
    let scene = Scene::begin(&set, &lab)?;
    scene.reloaded()?;
    scene.not_reloaded()?;
    scene.restarted()?;
    scene.killed()?;
    scene.started_by_nobody()?;
    if super::is_set(super::FULL) {
        scene.not_alive()?;
    }
    scene.stopped()
}

/// systemd's own reading of the unit, with everything it names in its place.
fn analyzed() -> Result<()> {
    let said =
        run::run(Command::new("systemd-analyze").args(["verify", "--man=no", &format!("{UNIT}.service")]))?;
    ensure!(said.status == 0 && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
    Ok(())
}

/// `systemctl start` is over when the services are there, and the sandbox is what the unit says.
fn started(balancer: &Netns, lab: &Lab) -> Result<()> {
    write(CONFIG, LAB)?;
    write(DROP_IN, &format!("[Service]\nNetworkNamespacePath={}\n", balancer.path().display()))?;
    systemctl("daemon-reload")?;
    systemctl("start lb-user-agent").with_context(journal)?;
    lists(lab, "rr", 3).with_context(journal)?;
    ensure!(show("ActiveState")? == "active" && show("NRestarts")? == "0", "{}", journal());
    let read_only = in_its_mounts("touch /usr/local/sbin/new")?;
    ensure!(read_only.status != 0 && read_only.stderr.contains("Read-only"), "{read_only:?}");
    let cgroups = in_its_mounts("mkdir /sys/fs/cgroup/new")?;
    ensure!(cgroups.status != 0 && cgroups.stderr.contains("Read-only"), "{cgroups:?}");
    Ok(())
}

impl<'l> Scene<'l> {
    fn begin(set: &Topology, lab: &'l Lab) -> Result<Self> {
        let flows = Flows::start(&set.client.netns, set.vip(80)[0], CONNECTIONS)?;
        let scene = Self { lab, flows, began: Instant::now() };
        scene.unbroken("start", "rr", 3)?;
        Ok(scene)
    }

    fn reloaded(&self) -> Result<()> {
        let pid = show("MainPID")?;
        write(CONFIG, &LAB.replace("lb_algo rr", "lb_algo wrr").replacen("weight 3", "weight 5", 1))?;
        systemctl("reload lb-user-agent")?;
        said("\nReloaded\n", 1)?;
        ensure!(show("MainPID")? == pid && show("ActiveState")? == "active", "{}", journal());
        self.unbroken("reload", "wrr", 5)
    }

    /// A broken file: told where, among the errors, and nothing changes.
    fn not_reloaded(&self) -> Result<()> {
        let good = fs::read_to_string(CONFIG)?;
        break_the_file(&good)?;
        systemctl("reload lb-user-agent")?;
        said("everything stays as it was", 1)?;
        let errors = journalctl("-p err")?;
        ensure!(errors.contains("keepalived.conf:31: '192.168.26.a' is no IP address"), "{errors}");
        ensure!(!errors.contains("Reloaded"), "not all of it is an error: {errors}");
        ensure!(show("ActiveState")? == "active", "{}", journal());
        self.unbroken("reload of a broken file", "wrr", 5)?;
        write(CONFIG, &good)
    }

    fn restarted(&self) -> Result<()> {
        let pid = show("MainPID")?;
        systemctl("restart lb-user-agent")?;
        ensure!(show("MainPID")? != pid && show("ActiveState")? == "active", "{}", journal());
        self.unbroken("restart", "wrr", 5)
    }

    fn killed(&self) -> Result<()> {
        let pid = show("MainPID")?;
        systemctl("kill -s KILL lb-user-agent")?;
        comes_back(&pid)?;
        ensure!(show("NRestarts")? == "1", "{}", journal());
        self.unbroken("kill -s KILL", "wrr", 5)
    }

    /// One that hangs is killed by the watchdog, and comes back.
    fn not_alive(&self) -> Result<()> {
        let pid = show("MainPID")?;
        systemctl("kill -s STOP lb-user-agent")?;
        comes_back(&pid)?;
        said("Watchdog timeout", 1)?;
        self.unbroken("hanging until the watchdog", "wrr", 5)
    }

    /// With a broken file it does not start, however often systemd tries; with a good one it does, and nobody has to ask.
    fn started_by_nobody(&self) -> Result<()> {
        let good = fs::read_to_string(CONFIG)?;
        let pid = show("MainPID")?;
        break_the_file(&good)?;
        systemctl("kill -s KILL lb-user-agent")?;
        said("cannot be used", MORE_THAN_SYSTEMD_TRIES)?;
        // A slow machine does not get to five starts in ten seconds.
        ensure!(show("StartLimitIntervalUSec")? == "0", "systemd gives up");
        self.unbroken("no agent for its file is broken", "wrr", 5)?;
        write(CONFIG, &good)?;
        comes_back(&pid)?;
        self.unbroken("the file in order again", "wrr", 5)
    }

    fn stopped(&self) -> Result<()> {
        systemctl("stop lb-user-agent")?;
        ensure!(show("ActiveState")? == "inactive" && show("Result")? == "success", "{}", journal());
        self.unbroken("stop", "wrr", 5)?;
        systemctl("start lb-user-agent")?;
        self.unbroken("start again", "wrr", 5)
    }

    /// Each connection is answered again by its server, the services are these, and no counter began anew: every
    /// connection is still counted, and nobody opened another.
    fn unbroken(&self, after: &str, scheduler: &str, weight: u32) -> Result<()> {
        let checked = self.flows.check().with_context(|| format!("after {after}\n{}", journal()))?;
        lists(self.lab, scheduler, weight).with_context(|| format!("after {after}\n{}", journal()))?;
        let stats = self.lab.ok("ipvsadm -Ln --stats --exact")?;
        let conns = stats.lines().find_map(|line| line.strip_prefix("TCP"));
        let conns = conns.and_then(|row| row.split_whitespace().nth(1)).context("no service")?;
        ensure!(conns == CONNECTIONS.to_string(), "after {after}\n{stats}{}", journal());
        println!("{:>4} s: {after}: {checked}", self.began.elapsed().as_secs());
        Ok(())
    }
}

/// systemd gives up after five starts in ten seconds unless told otherwise.
const MORE_THAN_SYSTEMD_TRIES: usize = 7;

fn break_the_file(good: &str) -> Result<()> {
    write(CONFIG, &good.replacen("real_server 192.168.26.155", "real_server 192.168.26.a", 1))
}

fn write(file: &str, text: &str) -> Result<()> {
    let folder = std::path::Path::new(file).parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(file, text).with_context(|| file.to_owned())
}

/// The servers, counts of connections aside.
fn lists(lab: &Lab, scheduler: &str, weight: u32) -> Result<()> {
    let row = |last: u8, weight| dest(format!("192.168.26.{last}:80"), "Route", weight, 0, 0);
    let rows = format!("TCP  192.168.26.200:80 {scheduler}\n{}{}", row(156, 3), row(155, weight));
    let is = lab.ok("ipvsadm -Ln")?;
    ensure!(counts_away(&is) == counts_away(&exact(&rows)), "should have\n{rows}but is\n{is}");
    Ok(())
}

fn systemctl(words: &str) -> Result<String> {
    let mut command = Command::new("systemctl");
    let limit = lb_tests::pace::limit(Duration::from_secs(10));
    run::run_with(command.args(words.split_whitespace()), b"", limit)?.ok().with_context(journal)
}

fn show(property: &str) -> Result<String> {
    Ok(systemctl(&format!("show --value -p {property} {UNIT}"))?.trim().to_owned())
}

/// What the unit's journal has, and systemd says of it.
fn journalctl(words: &str) -> Result<String> {
    let mut command = Command::new("journalctl");
    run::run(command.args(["-q", "-o", "cat", "-u", UNIT]).args(words.split_whitespace()))?.ok()
}

fn journal() -> String {
    journalctl("").unwrap_or_else(|error| format!("no journal: {error:#}"))
}

/// Waits until the journal has these words so many times.
fn said(words: &str, times: usize) -> Result<()> {
    run::until(SOON, words, || (journal().matches(words).count() >= times).then_some(()))
        .with_context(journal)
}

/// Waits until it runs, as another process.
fn comes_back(pid: &str) -> Result<()> {
    let back = || {
        let (now, state) = (show("MainPID").ok()?, show("ActiveState").ok()?);
        (state == "active" && now != pid).then_some(())
    };
    run::until(SOON, "another agent", back).with_context(journal)
}

/// A command that sees the files as the agent does.
fn in_its_mounts(words: &str) -> Result<run::Said> {
    let pid = show("MainPID")?;
    run::run(Command::new("nsenter").args(["--target", &pid, "--mount"]).args(words.split_whitespace()))
}
