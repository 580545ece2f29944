//! A network namespace as a value: made by [`Netns::new`], gone when dropped.

use crate::run::{self, Said};
use crate::{pace, stale};
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

const DIRECTORY: &str = "/run/netns";

/// A network namespace with a name under /run/netns, its loopback up and duplicate address detection off.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace; `role` is the readable end of its name. The first call also removes what killed runs left.
    pub fn new(role: &str) -> Result<Self> {
        stale::sweep();
        let name = stale::fresh_name(role);
        run::run(Command::new("ip").args(["netns", "add", &name]))?.ok()?;
        let file = File::open(Path::new(DIRECTORY).join(&name)).context("a namespace just made")?;
        let netns = Self { name, file };
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as `nsenter --net=` wants it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `body` on a thread inside the namespace. Sockets it makes stay in the namespace, whoever uses them later.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("setns")?;
            Ok(body())
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result.with_context(|| format!("cannot enter the namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs lines of `ip` inside, one command a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        let said = run::run_with(&mut command, lines.as_bytes(), run::LIMIT)?;
        said.ok().with_context(|| format!("in {}:\n{lines}", self.name)).map(drop)
    }

    /// Sets a kernel parameter, by its name as `sysctl` writes it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let written = self.enter(|| fs::write(&file, value))?;
        written.with_context(|| format!("cannot set {name} to {value} in {}", self.name))
    }

    /// A command that will run inside, as a person would start it there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Asks an address whether it is there; no answer within two seconds is an error.
    pub fn ping(&self, address: IpAddr) -> Result<()> {
        self.run(&["ping", "-c1", "-W", &pace::seconds(2), &address.to_string()])?.ok().map(drop)
    }

    /// Runs a command inside to its end.
    pub fn run(&self, words: &[&str]) -> Result<Said> {
        let (program, arguments) = words.split_first().context("a command has at least one word")?;
        run::run(self.command(program).args(arguments))
    }
}

impl Drop for Netns {
    /// It runs on the way out of a failed test as well, so a failure here is only said.
    fn drop(&mut self) {
        if let Err(error) = run::run(Command::new("ip").args(["netns", "del", &self.name])).and_then(Said::ok)
        {
            eprintln!("cannot remove the namespace {}: {error}", self.name);
        }
    }
}
