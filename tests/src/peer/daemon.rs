//! A program that goes on running in a namespace, and what it says meanwhile.

use crate::net::Netns;
use crate::{run, stale};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running program with a directory of its own and a log in it. Dropping it kills it with all it has started.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    name: String,
    directory: TempDir,
}

impl Daemon {
    /// Starts `program` in `host`; `prepare` adds its words and puts its files into the directory it is given.
    pub fn start(
        host: &Netns,
        program: impl AsRef<OsStr>,
        prepare: impl FnOnce(&mut Command, &Path) -> Result<()>,
    ) -> Result<Self> {
        let directory = stale::directory()?;
        let name = Path::new(program.as_ref()).display().to_string();
        let mut command = host.command(program);
        prepare(&mut command, directory.path())?;
        let log = File::create(directory.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = run::die_with_us(&mut command).spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child: Some(child), name, directory })
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Waits until it has said this.
    pub fn says(&self, words: &str, limit: Duration) -> Result<()> {
        let said = || self.log().contains(words).then_some(());
        let what = format!("{} saying `{words}`", self.name);
        run::until(limit, &what, said).with_context(|| self.log())
    }

    /// A signal to the program itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.as_ref().context("it runs no more")?.id();
        Ok(nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal)?)
    }

    /// `kill -9` for the program and all it has started.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        drop(child.wait());
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let mut child = self.child.take().context("it runs no more")?;
        let ended = run::until(Duration::from_secs(20), &format!("the end of {}", self.name), || {
            child.try_wait().ok().flatten()
        });
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let status = ended.with_context(|| self.log())?;
        ensure!(status.success(), "{} ended with {status}: {}", self.name, self.log());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
