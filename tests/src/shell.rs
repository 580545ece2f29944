//! A person at a host's prompt, typing lines.

use crate::net::Netns;
use crate::run::{self, Said};
use crate::stale;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A prompt. Its /etc is a copy of this machine's, so that a lab may write its sysctl files.
#[derive(Debug)]
pub struct Shell {
    netns: String,
    etc: TempDir,
    path: OsString,
}

impl Shell {
    /// At a host.
    pub fn at(netns: &Netns) -> Result<Self> {
        Self::with_programs(netns, None)
    }

    /// At a host that has a directory of programs more than this machine.
    pub fn with_programs(netns: &Netns, programs: Option<&Path>) -> Result<Self> {
        let etc = stale::directory()?;
        run::run(Command::new("cp").args(["-a", "/etc/."]).arg(etc.path()))?.ok()?;
        fs::create_dir_all(etc.path().join("sysconfig"))?;
        let mut path = OsString::new();
        if let Some(programs) = programs {
            path.push(programs);
            path.push(":");
        }
        path.push("/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(Self { netns: netns.name().to_owned(), etc, path })
    }

    /// Types a line and reads what comes back.
    pub fn types(&self, line: &str) -> Result<Said> {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.netns,
            "sh",
            "-c",
            "mount --bind \"$1\" /etc && eval \"$2\"",
            "sh",
        ]);
        command.arg(self.etc.path()).arg(line).env("PATH", &self.path).env("LC_ALL", "C");
        let said = run::run(&mut command).with_context(|| format!("typing `{line}`"))?;
        Ok(Said { command: line.to_owned(), ..said })
    }

    /// Types lines that each have to succeed; gives what the last one printed.
    pub fn ok(&self, lines: &str) -> Result<String> {
        let typed = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        typed.map(|line| self.types(line)?.ok()).try_fold(String::new(), |_, said| said)
    }

    /// Types a line that has to succeed in silence, as a change does.
    pub fn quiet(&self, lines: &str) -> Result<()> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let said = self.types(line)?;
            let silent = said.stdout.is_empty() && said.stderr.is_empty() && said.status == 0;
            ensure!(silent, "`{line}` should say nothing and succeed, but: {said:?}");
        }
        Ok(())
    }
}
