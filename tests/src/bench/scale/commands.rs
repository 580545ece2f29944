//! A table as large as they come: 10,000 services of 10 dests each, a million connections. How long commands take, what
//! the sweep costs, and how much memory there is to it.

use std::fmt::Write as _;
use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramInfo;
use lb_common::addr::{Family, Proto};
use lb_user::bpf::bpffs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::Value;

use super::Figure;
use crate::bench::cases::{Case, Kind, Path};
use crate::bench::driver::{self, Driver, Target};
use crate::lab::Lab;
use crate::net::Netns;
use crate::packets::tcp::{ACK, SYN};
use crate::run;

const SERVICES: u32 = 10_000;
const DESTS: u32 = 10;
/// Connections, and how many are made at a time.
const CONNECTIONS: u32 = 1_000_000;
const BATCH: u32 = 1000;

/// Runs of a command, the fastest of which counts.
const TIMES: u32 = 3;
/// Connections of IPv4 where those of IPv6 are measured.
const FEW: u32 = 1000;
/// Megabytes that a million connections may take, everything included.
const MOST: [(Family, f64); 2] = [(Family::V4, 110.0), (Family::V6, 200.0)];

/// Measures all of it.
pub fn all(show: &mut (dyn FnMut(Figure) + Send)) -> Result<()> {
    let netns = Netns::new("scale")?;
    netns.ip("link add v0 type veth peer name v1\nlink set v0 up\nlink set v1 up")?;
    netns.ip("addr add 10.99.0.1/16 dev v0\naddr add fd99::1/64 dev v0 nodad")?;
    netns.ip("neighbour replace 10.99.0.9 lladdr 02:00:00:00:00:09 dev v0 nud permanent")?;
    netns.ip("neighbour replace fd99::9 lladdr 02:00:00:00:00:09 dev v0 nud permanent")?;
    netns.sysctl("net.ipv4.ip_forward", "1")?;
    netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let lab = Lab::at(&netns)?;
    let desk = Desk { netns: &netns, lab: &lab };
    desk.many_services(show)?;
    for (family, most) in MOST {
        desk.many_connections(family, most, show)?;
    }
    Ok(())
}

fn figure(name: &str, value: f64, unit: &'static str, most: f64) -> Figure {
    Figure { name: name.to_owned(), size: None, value, unit, most: Some(most), detail: None }
}

fn rules() -> String {
    let mut text = String::new();
    for service in 0..SERVICES {
        let vip = format!("10.{}.{}.{}:80", 100 + service / 62_500, service / 250 % 250, service % 250 + 1);
        let _ = writeln!(text, "-A -t {vip} -s rr");
        for dest in 0..DESTS {
            let _ = writeln!(text, "-a -t {vip} -r 10.99.{}.{}:80 -g -w 1", dest + 1, service % 250 + 1);
        }
    }
    text
}

/// Makes the connections, through the attached program.
fn connect(family: Family) -> Result<()> {
    driver::pin()?;
    let pin = bpffs::instance(None)?.join("lb");
    let lb = ProgramInfo::from_pin(&pin).context("opening the attached program")?.fd()?;
    let mut driver = Driver::new(None, crate::bpf::number("v0"), driver::thread_time)?;
    driver.aim(Target::Lb, &lb)?;
    let case = Case { family, proto: Proto::TCP, kind: Kind::Established(Path::Dr, 1) };
    for from in (0..CONNECTIONS).step_by(BATCH as usize) {
        for flags in [SYN, ACK] {
            driver.run(Target::Lb, &mut case.request(flags)?.starting(from), BATCH)?;
        }
    }
    Ok(())
}

/// A run of a program.
struct Timed {
    seconds: f64,
    /// Of them, those a processor has worked for it.
    cpu: f64,
    /// Lines it has printed.
    lines: usize,
}

impl Timed {
    fn show(&self, name: &str, most: f64, show: &mut (dyn FnMut(Figure) + Send)) {
        show(figure(name, self.seconds, "s", most));
        show(Figure { most: None, ..figure(&format!("{name}, CPU"), self.cpu, "s", most) });
    }
}

/// Seconds of processor time that processes started from here have taken.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

struct Desk<'a> {
    netns: &'a Netns,
    lab: &'a Lab,
}

impl Desk<'_> {
    fn many_services(&self, show: &mut (dyn FnMut(Figure) + Send)) -> Result<()> {
        self.lab.ok("lb-user attach v0")?;
        let text = rules();
        self.timed(1, "ipvsadm-restore", &[], &text)?.show("restore of 10,000 x 10", 3.0, show);
        let list = self.timed(TIMES, "ipvsadm", &["-Ln"], "")?;
        ensure!(list.lines == (3 + SERVICES + SERVICES * DESTS) as usize, "{} lines are listed", list.lines);
        list.show("-Ln of it", 0.5, show);
        self.timed(TIMES, "ipvsadm-restore", &[], &text)?.show("restore over it", 3.0, show);
        self.lab.ok("lb-user detach --purge").map(drop)
    }

    fn many_connections(
        &self,
        family: Family,
        most: f64,
        show: &mut (dyn FnMut(Figure) + Send),
    ) -> Result<()> {
        let (name, room, vip, server) = match family {
            Family::V4 => ("IPv4", format!("--connections {CONNECTIONS}"), "10.9.0.1:80", "10.99.0.9:80"),
            Family::V6 => {
                let room = format!("--connections {FEW} --connections-v6 {CONNECTIONS}");
                ("IPv6", room, "[fd09::1]:80", "[fd99::9]:80")
            }
        };
        self.lab.ok(&format!(
            "lb-user attach v0 {room}\n\
             ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {server} -g"
        ))?;
        self.netns.enter(|| connect(family))??;
        let list = self.timed(TIMES, "ipvsadm", &["-Lnc"], "")?;
        // In a table half full one flow is without room in one run of ten.
        let enough = f64::from(CONNECTIONS) * 0.999_99;
        ensure!(list.lines as f64 > enough, "{} lines of connections are listed", list.lines);
        list.show(&format!("-Lnc of a million {name}"), 3.0, show);
        let before = self.status()?;
        let start = Instant::now();
        thread::sleep(Duration::from_secs(6));
        let after = self.status()?;
        let passed = start.elapsed().as_nanos() as f64;
        let spent = number(&after, "/tables/sweep_ns")? - number(&before, "/tables/sweep_ns")?;
        let live = number(&after, "/tables/v4/live")? + number(&after, "/tables/v6/live")?;
        ensure!(live > enough, "the sweep has lost connections: {live} are left");
        show(figure(&format!("sweep of a million {name}"), spent / passed * 100.0, "% of a CPU", 2.0));
        let bytes = number(&after, "/memory/traffic")? + number(&after, "/memory/rules")?;
        show(figure(&format!("memory for a million {name}"), bytes / 1e6, "MB", most));
        self.lab.ok("lb-user detach --purge").map(drop)
    }

    /// The fastest of so many runs of a program: what else the machine does can only slow it down.
    fn timed(&self, times: u32, tool: &str, words: &[&str], input: &str) -> Result<Timed> {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::write(&from, input)?;
        let mut best: Option<Timed> = None;
        for _ in 0..times {
            let mut command = Command::new(self.lab.programs().join(tool));
            command.args(words).stdin(File::open(&from)?).stdout(File::create(&to)?).stderr(Stdio::inherit());
            let (start, before) = (Instant::now(), children()?);
            let status = self.netns.enter(|| command.status())??;
            let (seconds, cpu) = (start.elapsed().as_secs_f64(), children()? - before);
            ensure!(status.success(), "{tool} {words:?}: {status}");
            if best.as_ref().is_none_or(|best| seconds < best.seconds) {
                let text = std::fs::read(&to)?;
                let lines = text.iter().filter(|byte| **byte == b'\n').count();
                best = Some(Timed { seconds, cpu, lines });
            }
        }
        best.context("not run at all")
    }

    fn status(&self) -> Result<Value> {
        let mut command = Command::new(self.lab.programs().join("lb-user"));
        let said = self.netns.enter(|| run::run(command.args(["status", "--json"])))??;
        serde_json::from_str(&said.stdout).with_context(|| format!("reading the status {:.200}", said.stdout))
    }
}

fn number(status: &Value, at: &str) -> Result<f64> {
    status.pointer(at).and_then(Value::as_f64).with_context(|| format!("no number {at} in the status"))
}
