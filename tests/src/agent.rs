//! A running `lb-user agent`, and the files it works with.

use crate::lab::Lab;
use crate::net::Netns;
use crate::run::{self, die_with_us};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An agent. Dropping it kills it, which leaves its services as they are.
#[derive(Debug)]
pub struct Agent<'l> {
    lab: &'l Lab,
    netns: &'l Netns,
    child: Option<Child>,
    files: TempDir,
}

impl<'l> Agent<'l> {
    /// One that does not run yet, with its configuration.
    pub fn new(lab: &'l Lab, netns: &'l Netns, config: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        fs::write(files.path().join("keepalived.conf"), config)?;
        Ok(Self { lab, netns, child: None, files })
    }

    /// One that runs.
    pub fn start(lab: &'l Lab, netns: &'l Netns, config: &str) -> Result<Self> {
        Self::start_with(lab, netns, config, &[])
    }

    /// The same with more options.
    pub fn start_with(lab: &'l Lab, netns: &'l Netns, config: &str, options: &[&str]) -> Result<Self> {
        let mut agent = Self::new(lab, netns, config)?;
        agent.again(options)?;
        Ok(agent)
    }

    /// Starts it, when it is not running; its log goes on where the one before it ended.
    pub fn again(&mut self, options: &[&str]) -> Result<()> {
        self.again_in(options, &[])
    }

    /// The same with variables of its environment.
    pub fn again_in(&mut self, options: &[&str], environment: &[(&str, &str)]) -> Result<()> {
        self.spawn(self.netns.command(self.lab.programs().join("lb-user")), options, environment)
    }

    /// The same by another program, which becomes the agent: its words, to which the agent's are added.
    pub fn again_by(&mut self, words: &[&str], options: &[&str]) -> Result<()> {
        let (program, words) = words.split_first().context("a program is wanted")?;
        let mut command = self.netns.command(program);
        command.args(words).arg(self.lab.programs().join("lb-user"));
        self.spawn(command, options, &[])
    }

    fn spawn(&mut self, mut command: Command, options: &[&str], environment: &[(&str, &str)]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        command.arg("agent").arg("-f").arg(self.path("keepalived.conf"));
        command.arg("--state").arg(self.path("state.json")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("NOTIFY_SOCKET", self.path("notify"));
        command.envs(environment.iter().copied());
        self.child = Some(die_with_us(&mut command).spawn().context("starting the agent")?);
        Ok(())
    }

    /// One of its files: `keepalived.conf`, `state.json`, `log`, `notify`, or one of the test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the agent does not run")?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    /// Another configuration, and SIGHUP; back when the agent has said what came of it.
    pub fn reload(&self, config: &str) -> Result<()> {
        fs::write(self.path("keepalived.conf"), config)?;
        let count = |log: &str| log.matches("Reloaded").count() + log.matches("is not taken").count();
        let before = count(&self.log());
        kill(self.pid()?, Signal::SIGHUP)?;
        run::until(Duration::from_secs(10), "the reload", || (count(&self.log()) > before).then_some(()))
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGKILL)?;
        self.child.take().context("the agent does not run")?.wait()?;
        Ok(())
    }

    /// Its exit status, when it ends by itself.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the agent does not run")?;
        run::until(Duration::from_secs(10), "the end of the agent", || child.try_wait().ok().flatten())
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGTERM)?;
        let mut child = self.child.take().context("the agent does not run")?;
        let mut left = || child.try_wait().ok().flatten();
        let status = run::until(Duration::from_secs(10), "the end of the agent", &mut left)?;
        let log = self.log();
        ensure!(status.success() && !log.contains("panicked"), "the agent ended with {status}: {log}");
        Ok(())
    }

    /// Waits until the listing is this, counts of connections aside; gives how long it took.
    pub fn comes_to(&mut self, listing: &str, limit: u64) -> Result<Duration> {
        let started = Instant::now();
        let mut last = String::new();
        let shown = run::until(Duration::from_secs(limit), "the listing", || {
            thread::sleep(Duration::from_millis(100));
            last = self.lab.ok("ipvsadm -Ln").unwrap_or_else(|error| format!("{error:#}"));
            (counts_away(&last) == counts_away(listing)).then_some(())
        });
        match shown {
            Ok(()) => Ok(started.elapsed()),
            Err(error) => bail!("{error}: should be\n{listing}but is\n{last}the agent said\n{}", self.log()),
        }
    }

    /// Waits until it says this.
    pub fn says(&self, line: &str) -> Result<()> {
        let said = || self.log().contains(line).then_some(());
        run::until(Duration::from_secs(5), line, said).with_context(|| self.log())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A listing without counts, services and their dests in the order of their names.
pub fn counts_away(listing: &str) -> Vec<(String, Vec<String>)> {
    let mut services: Vec<(String, Vec<String>)> = Vec::new();
    for line in listing.lines().skip(3) {
        match services.last_mut() {
            Some((_, rows)) if line.starts_with("  -> ") => {
                rows.push(line.split_whitespace().take(4).collect::<Vec<_>>().join(" "));
            }
            _ => services.push((line.trim_end().to_owned(), Vec::new())),
        }
    }
    services.iter_mut().for_each(|(_, rows)| rows.sort());
    services.sort();
    services
}
