//! A balancer alone in its namespace, with two cards that lead to each other.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::run::{self, Said};
use lb_user::bpf::bpffs;
use std::fs;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Longer than any command takes here.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The desk. Its lab purges when dropped, before the namespace goes.
#[derive(Debug)]
pub struct Desk {
    lab: Lab,
    pub netns: Netns,
}

impl Desk {
    pub fn new() -> Result<Self> {
        let netns = Netns::new("desk")?;
        netns.ip("link add v0 type veth peer name v1\nlink set v0 up\nlink set v1 up")?;
        netns.ip("addr add 10.99.0.1/24 dev v0")?;
        Ok(Self { lab: Lab::at(&netns)?, netns })
    }

    /// A service with a dest, so that there is something to lose.
    pub fn with_rules() -> Result<Self> {
        let desk = Self::new()?;
        desk.quiet("ipvsadm -A -t 10.0.0.1:80 -s rr\nipvsadm -a -t 10.0.0.1:80 -r 10.99.0.9 -g -w 3")?;
        Ok(desk)
    }

    /// One of the program's names, called by that name alone, inside the namespace.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs().join(name));
        command.arg0(name).env("LC_ALL", "C");
        command
    }

    /// Runs a command on a thread inside.
    pub fn run(&self, command: &mut Command, input: &[u8]) -> Result<Said> {
        self.netns.enter(|| run::run_with(command, input, LIMIT))?
    }

    /// Restores a table, all of it.
    pub fn restore(&self, rules: &str) -> Result<()> {
        let said = self.run(&mut self.tool("ipvsadm-restore"), rules.as_bytes())?;
        ensure!(said.status == 0 && said.stderr.is_empty(), "restoring: {:.300}", said.stderr);
        Ok(())
    }

    /// Where the maps are pinned.
    pub fn pins(&self) -> Result<PathBuf> {
        self.netns.enter(|| bpffs::instance(None))?
    }

    /// The files there, sorted.
    pub fn pinned(&self) -> Result<Vec<String>> {
        let dir = self.pins()?;
        let mut names: Vec<String> = fs::read_dir(&dir)
            .with_context(|| dir.display().to_string())?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    /// The rules as command lines.
    pub fn rules(&self) -> Result<String> {
        self.ok("ipvsadm -Sn")
    }

    /// A line that fails with this status and one line on standard error that has all of `words` in it.
    pub fn fails(&self, line: &str, status: i32, words: &[&str]) -> Result<()> {
        let said = self.types(line)?;
        ensure!(said.status == status, "`{line}` should end with status {status}: {said:?}");
        one_line(&said, words)
    }

    pub fn has_program(&self, card: &str) -> Result<bool> {
        Ok(self.ok(&format!("ip link show {card}"))?.contains("prog/xdp"))
    }
}

/// Nothing on standard output, one line on standard error, these words in it.
pub fn one_line(said: &Said, words: &[&str]) -> Result<()> {
    let single = said.stderr.lines().count() == 1 && said.stdout.is_empty();
    ensure!(single, "`{}` should print one line of complaint: {said:?}", said.command);
    for word in words {
        ensure!(said.stderr.contains(word), "`{}` should speak of `{word}`: {said:?}", said.command);
    }
    Ok(())
}

impl Deref for Desk {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}
