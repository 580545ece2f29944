//! What the agent costs while it checks a thousand servers every second: `cargo xtask bench agent`.
//!
//! The servers are addresses of one namespace, behind one listening socket. The agent's processor time is what the kernel
//! has counted for its process; how many checks it made is counted by the servers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{self, Lab};
use crate::net::Netns;
use crate::run::die_with_us;

/// The port of all servers.
const PORT: u16 = 80;
/// What a check of a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection.
    Tcp,
    /// A page.
    Http,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figure {
    /// How servers are checked.
    pub check: Check,
    /// Different servers.
    pub servers: u32,
    /// Services that have all of them.
    pub services: u32,
    /// Checks made in a second.
    pub checks: f64,
    /// Of one core, in percent.
    pub core: f64,
    /// Resident memory, in MiB.
    pub memory: f64,
}

/// Measures one set-up for so many seconds.
pub fn measure(check: Check, servers: u32, services: u32, seconds: u64) -> Result<Figure> {
    let netns = Netns::new("bench")?;
    let lab = Lab::at(&netns)?;
    netns.ip(&addresses(servers))?;
    let hosts = Hosts::start(&netns)?;
    let files = tempfile::tempdir()?;
    let config = files.path().join("keepalived.conf");
    fs::write(&config, configuration(check, servers, services))?;
    let mut agent = start(&netns, &config)?;
    let measured = watch(&mut agent, &hosts, servers, seconds);
    // Before the tables go.
    agent.kill()?;
    agent.wait()?;
    let (checks, core, memory) = measured?;
    drop(lab);
    Ok(Figure { check, servers, services, checks, core, memory })
}

fn address(server: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 1)) + server)
}

fn addresses(servers: u32) -> String {
    (0..servers).map(|server| format!("addr add {}/32 dev lo\n", address(server))).collect()
}

fn configuration(check: Check, servers: u32, services: u32) -> String {
    let words = match check {
        Check::Tcp => "TCP_CHECK {\n connect_timeout 3\n }",
        Check::Http => "HTTP_GET {\n connect_timeout 3\n url {\n path /\n status_code 200\n }\n }",
    };
    let server = |server: u32| format!("real_server {} {PORT} {{\n {words}\n}}\n", address(server));
    let servers: String = (0..servers).map(server).collect();
    let service = |service: u32| {
        format!(
            "virtual_server 10.78.0.{} 80 {{\n delay_loop 1\n lb_algo rr\n lb_kind NAT\n protocol TCP\n{servers}}}\n",
            service + 1
        )
    };
    (0..services).map(service).collect()
}

fn start(netns: &Netns, config: &Path) -> Result<Child> {
    let mut command = netns.command(lab::program()?);
    command.arg("agent").arg("-f").arg(config).arg("--state").arg(config.with_extension("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_us(&mut command).spawn().context("starting the agent")
}

/// Checks and processor time of a while, once every server has been checked.
fn watch(agent: &mut Child, hosts: &Hosts, servers: u32, seconds: u64) -> Result<(f64, f64, f64)> {
    let patience = Instant::now() + Duration::from_secs(60);
    while hosts.asked.load(Ordering::Relaxed) < u64::from(servers) * 2 {
        ensure!(agent.try_wait()?.is_none(), "the agent has ended");
        ensure!(Instant::now() < patience, "only {:?} checks in a minute", hosts.asked);
        thread::sleep(Duration::from_millis(100));
    }
    let (began, asked, spent) = (Instant::now(), hosts.asked.load(Ordering::Relaxed), spent(agent)?);
    thread::sleep(Duration::from_secs(seconds));
    let passed = began.elapsed().as_secs_f64();
    let asked = hosts.asked.load(Ordering::Relaxed) - asked;
    let core = (self::spent(agent)? - spent) / passed * 100.0;
    Ok((asked as f64 / passed, core, memory(agent)?))
}

/// Seconds of processor time, in the program and in the kernel on its behalf.
fn spent(agent: &Child) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.id()))?;
    // Behind the name, which may have blanks in it.
    let (_, rest) = stat.rsplit_once(") ").context("no process's status")?;
    let ticks = |at: usize| -> Result<f64> { Ok(rest.split(' ').nth(at).context("too short")?.parse()?) };
    // SAFETY: it only reads a constant.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks(11)? + ticks(12)?) / hz as f64)
}

fn memory(agent: &Child) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// All servers at once: they take connections, and give a page to whoever asks for one.
struct Hosts {
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Hosts {
    fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        listener.set_nonblocking(true)?;
        let (asked, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stops) = (Arc::clone(&asked), Arc::clone(&stop));
        let serve = move || {
            while !stops.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                counter.fetch_add(1, Ordering::Relaxed);
                // Whoever only connects is gone by now: no error of ours.
                drop(stream.set_read_timeout(Some(Duration::from_secs(1))));
                if stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                    drop(stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n"));
                }
            }
        };
        Ok(Self { asked, stop, thread: Some(thread::spawn(serve)) })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

impl Figure {
    /// A line of the table under [`HEADING`].
    pub fn line(&self) -> String {
        let check = if self.check == Check::Tcp { "TCP_CHECK" } else { "HTTP_GET" };
        let Self { servers, services, checks, core, memory, .. } = self;
        format!("{check:<10} {servers:>8} {services:>9} {checks:>10.0} {core:>8.1} {memory:>8.1}")
    }

    /// For other programs.
    pub fn json(&self) -> Value {
        json!({
            "check": format!("{:?}", self.check).to_lowercase(),
            "servers": self.servers,
            "services": self.services,
            "checks_per_second": self.checks,
            "core_percent": self.core,
            "memory_mib": self.memory,
        })
    }
}

/// Above the lines.
pub const HEADING: &str = "check       servers  services   checks/s  % core      MiB";
